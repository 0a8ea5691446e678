//! The envelope of everything on the wire and in the log: `[u32 length][u8 version][u8 kind][rkyv archive, root at the end]`.
//! Never trusts a byte: length before reading, bytecheck before access, and one canonical form per content.

use std::fmt;

use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Strategy};
use rkyv::ser::Serializer;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::ser::sharing::Share;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::vec::ArchivedVec;
use rkyv::{Archive, Portable, Serialize};

use crate::limit::{FRAME_HEADER_SIZE, FRAME_SIZE_MAX, FRAME_VERSION};

/// What rkyv serialises frames with.
pub type FrameSerializer<'a> = Strategy<Serializer<Vec<u8>, ArenaHandle<'a>, Share>, Failure>;
/// What rkyv validates frames with.
pub type FrameValidator<'a> = Strategy<Validator<ArchiveValidator<'a>, SharedValidator>, Failure>;

/// The number that says what a frame is. 0x01-0x3f client, 0x40-0x7f log only, 0x80-0xff server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u8);

impl Kind {
    /// Whether a client may send it.
    #[must_use]
    pub const fn is_client(self) -> bool {
        self.0 >= 0x01 && self.0 <= 0x3f
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kind_{:#04x}", self.0)
    }
}

/// Why bytes are not a frame. Always the peer's fault (or the disk's): close, retrying cannot help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// Over [`FRAME_SIZE_MAX`], or under the header's own size.
    Length(u64),
    /// Not [`FRAME_VERSION`].
    Version(u8),
    /// Not the kind that was asked for, or none that this build knows.
    Kind(u8),
    /// The archive does not validate, or says the same thing in a second way.
    Archive,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => write!(f, "frame of {length} bytes"),
            Self::Version(version) => write!(f, "frame version {version}"),
            Self::Kind(kind) => write!(f, "frame kind {kind:#04x}"),
            Self::Archive => f.write_str("frame content does not validate"),
        }
    }
}

impl std::error::Error for FrameError {}

/// A frame type: its number, and the parts that lie outside its fixed root.
pub trait Frame: Archive {
    /// The number on the wire.
    const KIND: Kind;

    /// Visits the out-of-line parts in the order in which they are written. See [`Walk`].
    fn walk(archived: &Self::Archived, walk: &mut Walk);
}

/// A frame type that can be written. Every [`Frame`] of this crate is one.
pub trait Encode: Frame + for<'a> Serialize<FrameSerializer<'a>> {}

impl<F: Frame + for<'a> Serialize<FrameSerializer<'a>>> Encode for F {}

/// Checks that an archive is the canonical one for its content: its out-of-line parts lie end to end, in field order, and end at the root.
///
/// Validation is memory safety only: a pointer into another field passes it. With this, every content has exactly one encoding.
#[derive(Debug)]
pub struct Walk {
    /// Address where the next part must begin.
    next: usize,
    canonical: bool,
}

impl Walk {
    /// The next part is this vector.
    pub fn part<T>(&mut self, vec: &ArchivedVec<T>) {
        let slice = vec.as_slice();
        self.canonical &= slice.as_ptr().addr() == self.next;
        self.next = self.next.wrapping_add(size_of_val(slice));
    }
}

/// Appends a whole frame to `out`.
///
/// # Panics
/// When the frame is larger than [`FRAME_SIZE_MAX`]: the caller bounds what it puts in.
pub fn encode<F: Encode>(frame: &F, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, FRAME_VERSION, F::KIND.0]);
    *out =
        rkyv::api::high::to_bytes_in::<_, Failure>(frame, std::mem::take(out)).expect("writing to a Vec cannot fail");
    let size = out.len() - start;
    assert!(size <= FRAME_SIZE_MAX, "{:?} of {size} bytes is over FRAME_SIZE_MAX", F::KIND);
    let length = u32::try_from(size - 4).expect("FRAME_SIZE_MAX fits u32");
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&length.to_le_bytes());
    }
}

/// A whole frame in its own buffer.
///
/// # Panics
/// As [`encode`].
#[must_use]
pub fn to_vec<F: Encode>(frame: &F) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    encode(frame, &mut out);
    out
}

/// Size of the frame that begins here, header included; `None` while fewer than four bytes are there.
///
/// # Errors
/// [`FrameError::Length`] before a byte of the content is read or buffered.
pub fn size(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some(field) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = u64::from(u32::from_le_bytes(*field));
    let size = usize::try_from(length + 4).map_err(|_| FrameError::Length(length))?;
    if (FRAME_HEADER_SIZE..=FRAME_SIZE_MAX).contains(&size) { Ok(Some(size)) } else { Err(FrameError::Length(length)) }
}

/// Splits one whole frame into its kind and archive.
///
/// # Errors
/// The length field must equal what is there, and the version must be ours.
pub fn open(frame: &[u8]) -> Result<(Kind, &[u8]), FrameError> {
    let length = frame.len() as u64;
    match size(frame)? {
        Some(size) if size == frame.len() => {}
        Some(_) | None => return Err(FrameError::Length(length)),
    }
    match frame {
        [_, _, _, _, FRAME_VERSION, kind, archive @ ..] => Ok((Kind(*kind), archive)),
        [_, _, _, _, version, ..] => Err(FrameError::Version(*version)),
        _ => Err(FrameError::Length(length)),
    }
}

/// Reads one whole frame of a known type, in place.
///
/// # Errors
/// Anything but the canonical encoding of an `F`.
pub fn decode<F>(frame: &[u8]) -> Result<&F::Archived, FrameError>
where
    F: Frame,
    F::Archived: Portable + for<'a> CheckBytes<FrameValidator<'a>>,
{
    let (kind, archive) = open(frame)?;
    if kind != F::KIND {
        return Err(FrameError::Kind(kind.0));
    }
    decode_archive::<F>(archive)
}

/// Reads the archive of a frame whose header was read with [`open`].
///
/// # Errors
/// As [`decode`].
pub fn decode_archive<F>(archive: &[u8]) -> Result<&F::Archived, FrameError>
where
    F: Frame,
    F::Archived: Portable + for<'a> CheckBytes<FrameValidator<'a>>,
{
    let root = rkyv::access::<F::Archived, Failure>(archive).map_err(|_| FrameError::Archive)?;
    let mut walk = Walk { next: archive.as_ptr().addr(), canonical: true };
    F::walk(root, &mut walk);
    if walk.canonical && walk.next == std::ptr::from_ref(root).addr() { Ok(root) } else { Err(FrameError::Archive) }
}

/// Declares [`Frame`] for frame types: `frame!(Kind, Type, [parts in order])`.
macro_rules! frame {
    ($kind:literal, $name:ident $(<$life:lifetime>)?, [$($part:ident),*]) => {
        impl $(<$life>)? $crate::frame::Frame for $name $(<$life>)? {
            const KIND: $crate::frame::Kind = $crate::frame::Kind($kind);
            #[allow(unused_variables, reason = "frames without parts visit nothing")]
            fn walk(archived: &Self::Archived, walk: &mut $crate::frame::Walk) {
                $(walk.part(&archived.$part);)*
            }
        }
    };
}
pub(crate) use frame;
