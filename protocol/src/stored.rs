//! What the view keeps: the rows of entities, and the keys of all rows. Events are kept as their own frames ([`crate::server::Event`]).
//! A row is one version byte and an archive; keys are big-endian, so that a scan is in order. Never read unvalidated.

use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::{Archive, Deserialize, Portable, Serialize};

use crate::frame::{FrameError, FrameSerializer, FrameValidator};
use crate::id::{ConversationId, PartitionId, Position, Seq, UserId};

/// A row type. Its version is the first byte of every row of it; types count apart. A change of a layout is a new version with a pure step
/// from the one before, so that a row of any earlier version becomes today's by a chain of steps, and is written anew when it next changes.
pub trait StoredRow: Sized {
    /// What this build writes.
    const VERSION: u8;

    /// Reads the archive of a row of an earlier version.
    ///
    /// # Errors
    /// A version from which no step leads here, or an archive that does not validate.
    fn from_older(version: u8, archive: &[u8]) -> Result<Self, FrameError>;
}

/// Declares [`StoredRow`]: `row!(Type, 1)` for a first version, `row!(Type, 2, step, Before)` for one that `step` makes of the one before.
macro_rules! row {
    ($name:ident, $version:literal) => {
        impl StoredRow for $name {
            const VERSION: u8 = $version;
            fn from_older(version: u8, _archive: &[u8]) -> Result<Self, FrameError> {
                Err(FrameError::Version(version))
            }
        }
    };
    ($name:ident, $version:literal, $step:path, $before:ident) => {
        const _: () = assert!($version == <$before as StoredRow>::VERSION + 1, "one step at a time");
        impl StoredRow for $name {
            const VERSION: u8 = $version;
            fn from_older(version: u8, archive: &[u8]) -> Result<Self, FrameError> {
                decode_version::<$before>(version, archive).map($step)
            }
        }
    };
}

/// A conversation's own state. Key: [`entity_key`] + `b'm'`.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
pub struct ConversationRow {
    /// Last command applied, in the conversation's partition.
    pub position: u64,
    /// Last event.
    pub head: u64,
    /// Messages up to the head.
    pub visible: u64,
    /// Time of the last event.
    pub head_time: u64,
    /// When it was made. Unit: microseconds since 1970.
    pub created: u64,
    /// Who made it; 0 for the world room.
    pub creator: u64,
    /// Number of members.
    pub members: u32,
    /// See [`crate::client::group`].
    pub flags: u8,
    /// Group title.
    pub title: Vec<u8>,
}
row!(ConversationRow, 1);

/// One member of a conversation, or one who was. Key: [`entity_key`] + `b'u'` + user. Kept after leaving.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemberRow {
    /// The event with which they came in.
    pub join: u64,
    /// Messages up to `join`.
    pub join_visible: u64,
    /// Read cursor.
    pub read: u64,
    /// Messages up to `read`.
    pub read_visible: u64,
    /// See [`crate::server::role`].
    pub role: u8,
    /// See [`standing`].
    pub standing: u8,
}
row!(MemberRow, 1);

/// Values of [`MemberRow::standing`].
pub mod standing {
    /// A member.
    pub const IN: u8 = 0;
    /// Was one, and left.
    pub const LEFT: u8 = 1;
    /// Was one, and was removed: comes back only by being invited.
    pub const BARRED: u8 = 2;
}

/// A user. Key: [`entity_key`] + `b'p'`.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
pub struct UserRow {
    /// Last command applied, in the user's partition.
    pub position: u64,
    /// Number of the last user event.
    pub user_seq: u64,
    /// Account name.
    pub name: Vec<u8>,
    /// Display name.
    pub display: Vec<u8>,
}
row!(UserRow, 1);

/// A place for a logged-in device. Key: [`entity_key`] + `b'd'` + slot. A closed device's slot is free and is used again: a user never has
/// more of these rows than devices that were logged in at once.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceRow {
    /// Which device; 0: the slot is free.
    pub device: u64,
    /// When it logged in. Unit: microseconds since 1970.
    pub created: u64,
    /// When its refresh token was last exchanged.
    pub used: u64,
    /// Generation of the current refresh token, from 1.
    pub generation: u32,
    /// SHA-256 of the current secret.
    pub secret: [u8; 32],
    /// SHA-256 of the secret before.
    pub before: [u8; 32],
    /// The attempt that made the current one.
    pub attempt: u128,
    /// What the person calls it.
    pub name: Vec<u8>,
}
row!(DeviceRow, 1);

/// One conversation of a user. Key: [`entity_key`] + `b'c'` + conversation. Kept after leaving, so that late news of joining is recognised.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DirectoryRow {
    /// Position of the newest command that decided it, in the conversation's partition.
    pub version: u64,
    /// 1 in, 0 out.
    pub joined: u8,
}
row!(DirectoryRow, 1);

/// An account name and who has it. Key: [`entity_key`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
pub struct AccountRow {
    /// The command that took the name.
    pub position: u64,
    /// Whose it is.
    pub user: u64,
    /// PHC string.
    pub password: Vec<u8>,
}
row!(AccountRow, 1);

/// Rules of a partition from one place of its log on. Key: [`entity_key`] + `b'r'` + position of the command that set them. Rows of
/// earlier rules stay: a command between two of them is applied under the first one also when it is applied again.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RulesRow {
    /// See [`crate::command::SetRules`].
    pub level: u16,
    /// Most members of a group. Unit: users.
    pub members_max: u32,
    /// Whether new users enter the world room: 1 yes, 0 no.
    pub world: u8,
}
row!(RulesRow, 1);

/// A command for an entity that could not be read when it was its turn. Key: [`entity_key`] + `b'k'` + position, so that whoever reads the
/// entity finds what is still to be applied to it, in order.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
pub struct KeptRow {
    /// When the log took it. Unit: microseconds since 1970.
    pub time: u64,
    /// The record: the frame followed by its [`crate::command::CommandHead`].
    pub record: Vec<u8>,
}
row!(KeptRow, 1);

/// Whom a kept command is for: among the rows of the partition, so that a start finds the entities for which commands are kept. Key:
/// [`entity_key`] of the partition + `b'k'` + position. Comes and goes with its [`KeptRow`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
pub struct AwaitedRow {
    /// The entity's [`entity_key`].
    pub entity: Vec<u8>,
}
row!(AwaitedRow, 1);

/// An entity: what a partition's state is divided into, and what is loaded and dropped as one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entity {
    /// A conversation, with its members.
    Conversation(ConversationId),
    /// A user, with devices and directory.
    User(UserId),
    /// An account name.
    Account(Box<str>),
    /// A partition itself: the rules that its log has set.
    Partition(PartitionId),
}

/// First bytes of every key of an entity. No entity's key is the beginning of another's.
#[must_use]
pub fn entity_key(entity: &Entity) -> Vec<u8> {
    match entity {
        Entity::Conversation(id) => [&b"c"[..], &id.raw().to_be_bytes()].concat(),
        Entity::User(id) => [&b"u"[..], &id.raw().to_be_bytes()].concat(),
        Entity::Account(name) => [&b"a"[..], name.as_bytes(), &[0]].concat(),
        Entity::Partition(id) => [&b"p"[..], &id.raw().to_be_bytes()].concat(),
    }
}

/// The entity whose [`entity_key`] this is; `None` for bytes that no entity has.
#[must_use]
pub fn entity_of_key(key: &[u8]) -> Option<Entity> {
    match key {
        [b'c', id @ ..] => {
            Some(Entity::Conversation(ConversationId::from_raw(u128::from_be_bytes(id.try_into().ok()?))))
        }
        [b'u', id @ ..] => Some(Entity::User(UserId::from_raw(u64::from_be_bytes(id.try_into().ok()?)))),
        [b'a', name @ .., 0] => Some(Entity::Account(std::str::from_utf8(name).ok()?.into())),
        _ => None,
    }
}

/// What stands behind the entity's prefix in a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The entity's main row.
    Main,
    /// [`MemberRow`].
    Member(UserId),
    /// [`DeviceRow`], by slot.
    Device(u16),
    /// [`DirectoryRow`].
    Directory(ConversationId),
    /// [`RulesRow`].
    Rules(Position),
    /// [`KeptRow`]; of a partition [`AwaitedRow`].
    Kept(Position),
}

impl Part {
    /// The key of this row of an entity whose prefix is given.
    #[must_use]
    pub fn key(self, prefix: &[u8]) -> Vec<u8> {
        match self {
            Self::Main => [prefix, b"m"].concat(),
            Self::Member(user) => [prefix, b"u", &user.raw().to_be_bytes()].concat(),
            Self::Device(slot) => [prefix, b"d", &slot.to_be_bytes()].concat(),
            Self::Directory(id) => [prefix, b"c", &id.raw().to_be_bytes()].concat(),
            Self::Rules(position) => [prefix, b"r", &position.raw().to_be_bytes()].concat(),
            Self::Kept(position) => [prefix, b"k", &position.raw().to_be_bytes()].concat(),
        }
    }

    /// Reads what follows the prefix; `None` for bytes that no row has.
    #[must_use]
    pub fn parse(rest: &[u8]) -> Option<Self> {
        match rest {
            b"m" => Some(Self::Main),
            [b'u', id @ ..] => Some(Self::Member(UserId::from_raw(u64::from_be_bytes(id.try_into().ok()?)))),
            [b'd', slot @ ..] => Some(Self::Device(u16::from_be_bytes(slot.try_into().ok()?))),
            [b'c', id @ ..] => {
                Some(Self::Directory(ConversationId::from_raw(u128::from_be_bytes(id.try_into().ok()?))))
            }
            [b'r', at @ ..] => Some(Self::Rules(Position::from_raw(u64::from_be_bytes(at.try_into().ok()?)))),
            [b'k', at @ ..] => Some(Self::Kept(Position::from_raw(u64::from_be_bytes(at.try_into().ok()?)))),
            _ => None,
        }
    }
}

/// Key of an event.
#[must_use]
pub fn event_key(conversation: ConversationId, seq: Seq) -> [u8; 24] {
    let mut key = [0; 24];
    let (id, place) = key.split_at_mut(16);
    id.copy_from_slice(&conversation.raw().to_be_bytes());
    place.copy_from_slice(&seq.raw().to_be_bytes());
    key
}

/// A row's bytes.
#[must_use]
pub fn encode_row<R>(row: &R) -> Vec<u8>
where
    R: StoredRow + for<'a> Serialize<FrameSerializer<'a>>,
{
    rkyv::api::high::to_bytes_in::<_, Failure>(row, vec![R::VERSION]).expect("writing to a Vec cannot fail")
}

/// Reads a row of this version or an earlier one.
///
/// # Errors
/// A version that is later or too old, or an archive that does not validate: the store is damaged, or needs another build.
pub fn decode_row<R>(bytes: &[u8]) -> Result<R, FrameError>
where
    R: StoredRow + Archive,
    R::Archived: Portable
        + for<'a> CheckBytes<FrameValidator<'a>>
        + Deserialize<R, rkyv::rancor::Strategy<rkyv::de::Pool, Failure>>,
{
    match bytes {
        [version, archive @ ..] => decode_version(*version, archive),
        [] => Err(FrameError::Length(0)),
    }
}

fn decode_version<R>(version: u8, archive: &[u8]) -> Result<R, FrameError>
where
    R: StoredRow + Archive,
    R::Archived: Portable
        + for<'a> CheckBytes<FrameValidator<'a>>
        + Deserialize<R, rkyv::rancor::Strategy<rkyv::de::Pool, Failure>>,
{
    match version {
        version if version == R::VERSION => rkyv::from_bytes::<R, Failure>(archive).map_err(|_| FrameError::Archive),
        version if version < R::VERSION => R::from_older(version, archive),
        later => Err(FrameError::Version(later)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_rows_survive_the_store() {
        let entity = entity_key(&Entity::User(UserId::from_raw(5)));
        let directory = Part::Directory(ConversationId::WORLD);
        let (rules, kept) = (Part::Rules(Position::from_raw(7)), Part::Kept(Position::from_raw(7)));
        for part in [Part::Main, Part::Device(3), directory, rules, kept] {
            let key = part.key(&entity);
            assert_eq!(key.strip_prefix(&entity[..]).and_then(Part::parse), Some(part));
        }
        let row = UserRow { position: 1, user_seq: 2, name: b"ada".to_vec(), display: b"Ada".to_vec() };
        assert_eq!(decode_row::<UserRow>(&encode_row(&row)), Ok(row));
        assert_eq!(decode_row::<UserRow>(&[9, 1, 2]), Err(FrameError::Version(9)));
    }

    #[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
    struct First {
        name: Vec<u8>,
    }
    row!(First, 1);

    #[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
    struct Second {
        name: Vec<u8>,
        size: u32,
    }
    row!(Second, 2, Second::of, First);

    #[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
    struct Third {
        size: u64,
    }
    row!(Third, 3, Third::of, Second);

    impl Second {
        fn of(first: First) -> Self {
            Self { size: 3, name: first.name }
        }
    }

    impl Third {
        fn of(second: Second) -> Self {
            Self { size: u64::from(second.size) + second.name.len() as u64 }
        }
    }

    #[test]
    fn a_row_of_any_earlier_version_is_brought_to_the_newest_step_by_step() {
        let first = encode_row(&First { name: b"ab".to_vec() });
        assert_eq!(first.first(), Some(&1));
        assert_eq!(decode_row::<Second>(&first), Ok(Second { name: b"ab".to_vec(), size: 3 }));
        assert_eq!(decode_row::<Third>(&first), Ok(Third { size: 5 }));
        assert_eq!(decode_row::<Third>(&encode_row(&Second { name: Vec::new(), size: 9 })), Ok(Third { size: 9 }));
        assert_eq!(decode_row::<Second>(&encode_row(&Third { size: 1 })), Err(FrameError::Version(3)));
        assert_eq!(decode_row::<Third>(&[0, 1, 2]), Err(FrameError::Version(0)));
        assert_eq!(decode_row::<Third>(&[1, 0xff]), Err(FrameError::Archive));
    }

    #[test]
    fn no_account_name_is_the_beginning_of_another() {
        let bob = entity_key(&Entity::Account("bob".into()));
        let bobby = entity_key(&Entity::Account("bobby".into()));
        assert!(!bobby.starts_with(&bob));
    }

    #[test]
    fn a_key_says_whose_it_is() {
        let user = Entity::User(UserId::from_raw(5));
        for entity in [Entity::Conversation(ConversationId::WORLD), user, Entity::Account("bob".into())] {
            assert_eq!(entity_of_key(&entity_key(&entity)), Some(entity));
        }
        for key in [&b""[..], b"u", b"c123", b"abob", b"a\xff\0", b"x"] {
            assert_eq!(entity_of_key(key), None);
        }
    }
}
