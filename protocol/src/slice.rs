//! Lets a frame borrow what it carries: a `&[T]` field is archived exactly like a `Vec<T>`, without building the `Vec`.
//! Never copies on the reading side: the archived form is rkyv's own `ArchivedVec`.

use rkyv::rancor::Fallible;
use rkyv::ser::{Allocator, Writer};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::with::{ArchiveWith, SerializeWith};
use rkyv::{Archive, Place, Serialize};

/// Field wrapper: `#[rkyv(with = Slice)] field: &'a [T]`.
#[derive(Debug, Clone, Copy)]
pub struct Slice;

impl<T: Archive> ArchiveWith<&[T]> for Slice {
    type Archived = ArchivedVec<T::Archived>;
    type Resolver = VecResolver;

    fn resolve_with(field: &&[T], resolver: Self::Resolver, out: Place<Self::Archived>) {
        ArchivedVec::resolve_from_slice(field, resolver, out);
    }
}

impl<T, S> SerializeWith<&[T], S> for Slice
where
    T: Serialize<S>,
    S: Fallible + Allocator + Writer + ?Sized,
{
    fn serialize_with(field: &&[T], serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        ArchivedVec::serialize_from_slice(field, serializer)
    }
}
