//! The names of things: each id is its own type, so that two of them cannot be swapped. No id carries arithmetic or a secret.
//! Conversation ids say what they are: a direct conversation's id *is* its pair of users, a group's names its creator.

use std::fmt;

/// Declares an id: a newtype that is ordered, hashable, and prints as its prefix and number.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident($raw:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($raw);

        impl $name {
            /// Wraps a number that came from the wire or the store.
            #[must_use]
            pub const fn from_raw(raw: $raw) -> Self {
                Self(raw)
            }

            /// The number as it stands on the wire.
            #[must_use]
            pub const fn raw(self) -> $raw {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    };
}

id!(
    /// A person or bot. Made from the log position of the registration, so never reused; 62 bits, never 0.
    UserId(u64), "user_");
id!(
    /// One logged-in device of a user; what a refresh token is bound to. Random, chosen at log-in.
    DeviceId(u64), "device_");
id!(
    /// One live connection of a device, unique within a run of the server (slot in the low half, generation in the high).
    SessionId(u64), "session_");
id!(
    /// Place of an event in its conversation's total order, from 1. 0 means "before the first". Not a count.
    Seq(u64), "seq_");
id!(
    /// A client's own name for one request. A resend carries the same one; the server answers it the same way.
    RequestId(u128), "request_");
id!(
    /// One ordered log. Every conversation, user and account name hashes to one.
    PartitionId(u16), "partition_");
id!(
    /// Place of a command in its partition's log. Later commands have higher ones; a log may leave some out, so differences mean nothing.
    Position(u64), "position_");
id!(
    /// One core of one node: owns partitions, holds sessions.
    ShardId(u16), "shard_");
id!(
    /// Microseconds since 1970-01-01 UTC. Says when; never orders anything.
    Timestamp(u64), "us_");
id!(
    /// A conversation: direct, group, or the world room. See [`ConversationKind`] for what the number says.
    ConversationId(u128), "conversation_");

impl Seq {
    /// Before the first event.
    pub const ZERO: Self = Self(0);

    /// The place after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Position {
    /// Before the first command.
    pub const ZERO: Self = Self(0);
    /// No log reaches this: a user id keeps 46 bits of the position that it is made of.
    pub const END: Self = Self(1 << 46);
    /// Commands of one record, in a log whose records hold several. Unit: commands.
    pub const RECORD_MAX: u16 = 1 << RECORD_INDEX_BITS;

    /// The place after this one, in a log without records.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Place of a command in a log of records: the record's number in the upper 34 bits, the command's index in it in the lower 12. Ordered
    /// as the log is, and not dense. `None` where two commands would get one place: such a log, or such a record, must be refused.
    #[must_use]
    pub const fn in_record(record: u64, index: u16) -> Option<Self> {
        if record >= Self::END.0 >> RECORD_INDEX_BITS || index >= Self::RECORD_MAX {
            return None;
        }
        Some(Self(record << RECORD_INDEX_BITS | index as u64))
    }
}

const RECORD_INDEX_BITS: u32 = 12;

impl Timestamp {
    /// The epoch.
    pub const ZERO: Self = Self(0);

    /// This moment moved later; stays at the end of time rather than wrap.
    #[must_use]
    pub const fn after(self, span: std::time::Duration) -> Self {
        let us = span.as_secs().saturating_mul(1_000_000).saturating_add(span.subsec_micros() as u64);
        Self(self.0.saturating_add(us))
    }

    /// Time from `earlier` to here; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Default for Seq {
    fn default() -> Self {
        Self::ZERO
    }
}

impl Default for Position {
    fn default() -> Self {
        Self::ZERO
    }
}

impl Default for Timestamp {
    fn default() -> Self {
        Self::ZERO
    }
}

/// Set in the top bit of every group's id.
const GROUP_BIT: u128 = 1 << 127;
/// User ids keep the two top bits free, so that the pair of a direct conversation cannot look like a group.
const USER_ID_MAX: u64 = (1 << 62) - 1;

/// The upper 64 bits.
pub(crate) const fn high_half(raw: u128) -> u64 {
    low_half(raw >> 64)
}

/// The lower 64 bits.
#[expect(clippy::cast_possible_truncation, reason = "cutting the upper half off is its purpose")]
pub(crate) const fn low_half(raw: u128) -> u64 {
    raw as u64
}

/// What a conversation id says by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConversationKind {
    /// Two users, the smaller id first. They may be the same: notes to oneself.
    Direct(UserId, UserId),
    /// A group made by this user.
    Group(UserId),
    /// The room that everyone is in.
    World,
}

impl UserId {
    /// The user whose registration stands at this place of the log.
    ///
    /// 16 bits of partition and 46 of position: 70 trillion registrations a partition.
    #[must_use]
    pub const fn at(partition: PartitionId, position: Position) -> Self {
        Self(((partition.0 as u64) << 46 | (position.0 & ((1 << 46) - 1))) & USER_ID_MAX)
    }

    /// Whether a number may be a user id at all.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 != 0 && self.0 <= USER_ID_MAX
    }
}

impl ConversationId {
    /// The world room.
    pub const WORLD: Self = Self(u128::MAX);

    /// The one conversation of this pair, whoever starts it.
    #[must_use]
    pub const fn direct(a: UserId, b: UserId) -> Self {
        let (low, high) = if a.0 <= b.0 { (a.0, b.0) } else { (b.0, a.0) };
        Self((low as u128) << 64 | high as u128)
    }

    /// The group that `creator` asks for with this request: the same request names the same group.
    #[must_use]
    pub const fn group(creator: UserId, request: RequestId) -> Self {
        let nonce = low_half(request.0) ^ high_half(request.0);
        Self(GROUP_BIT | (creator.0 as u128) << 64 | nonce as u128)
    }

    /// What the id says; `None` for a number that names no conversation.
    #[must_use]
    pub const fn kind(self) -> Option<ConversationKind> {
        if self.0 == Self::WORLD.0 {
            return Some(ConversationKind::World);
        }
        let high = UserId(high_half(self.0 & !GROUP_BIT));
        let low = UserId(low_half(self.0));
        if !high.is_valid() {
            return None;
        }
        if self.0 & GROUP_BIT != 0 {
            return Some(ConversationKind::Group(high));
        }
        if low.is_valid() && high.0 <= low.0 { Some(ConversationKind::Direct(high, low)) } else { None }
    }

    /// The other one of a direct conversation.
    #[must_use]
    pub const fn peer_of(self, user: UserId) -> Option<UserId> {
        match self.kind() {
            Some(ConversationKind::Direct(a, b)) if a.0 == user.0 => Some(b),
            Some(ConversationKind::Direct(a, b)) if b.0 == user.0 => Some(a),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_one_conversation_whoever_starts_it() {
        let (a, b) = (UserId::from_raw(9), UserId::from_raw(4));
        assert_eq!(ConversationId::direct(a, b), ConversationId::direct(b, a));
        assert_eq!(ConversationId::direct(a, b).kind(), Some(ConversationKind::Direct(b, a)));
        assert_eq!(ConversationId::direct(a, b).peer_of(a), Some(b));
        assert_eq!(ConversationId::direct(a, b).peer_of(UserId::from_raw(5)), None);
    }

    #[test]
    fn places_in_records_are_ordered_and_no_two_are_one() {
        let at = |record, index| Position::in_record(record, index);
        assert_eq!(at(0, 0), Some(Position::ZERO));
        assert_eq!(at(0, 4095).map(Position::next), at(1, 0));
        assert_eq!(at(0, 4096), None);
        assert_eq!(at((1 << 34) - 1, 4095).map(Position::next), Some(Position::END));
        assert_eq!(at(1 << 34, 0), None);
        assert_eq!(at(u64::MAX, 0), None);
    }

    #[test]
    fn every_place_of_a_log_makes_another_user() {
        let user = |partition, position| UserId::at(PartitionId(partition), Position(position));
        let last = Position::END.0 - 1;
        assert_eq!(user(3, last).raw() & (Position::END.0 - 1), last);
        assert_ne!(user(3, last), user(4, last));
        assert!(user(0x3fff, last).is_valid());
        // Why nothing is applied there: it would be the user of position 1 again.
        assert_eq!(user(3, Position::END.0 + 1), user(3, 1));
    }

    #[test]
    fn the_same_request_names_the_same_group_and_no_other_kind() {
        let creator = UserId::from_raw(USER_ID_MAX);
        let group = ConversationId::group(creator, RequestId::from_raw(77 << 64 | 5));
        assert_eq!(group, ConversationId::group(creator, RequestId::from_raw(77 << 64 | 5)));
        assert_eq!(group.kind(), Some(ConversationKind::Group(creator)));
        assert_eq!(ConversationId::WORLD.kind(), Some(ConversationKind::World));
        assert_eq!(ConversationId::from_raw(0).kind(), None);
        assert_eq!(ConversationId::from_raw(5).kind(), None);
    }
}
