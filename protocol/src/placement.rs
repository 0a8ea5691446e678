//! Where an entity lives: id -> slot -> partition -> shard, the same on every node and in every client. Frozen: changing the hash
//! moves every stored conversation. Never looks at load or membership; tables of owners are the caller's.

use crate::id::{ConversationId, PartitionId, ShardId, UserId, high_half, low_half};

/// Partitions of a deployment, fixed for its life. Unit: partitions.
pub const PARTITION_COUNT_DEFAULT: u16 = 64;
/// Most partitions a deployment may have: positions of a batch are kept in arrays of this size.
pub const PARTITION_COUNT_MAX: u16 = 1024;
/// Hash slots between ids and partitions: wide enough that 64 partitions differ by under 2 % in load.
const SLOT_COUNT: u64 = 4096;

/// The `splitmix64` finaliser: every input bit reaches every output bit.
///
/// # Source
/// Steele, Lea, Flood: Fast splittable pseudorandom number generators (2014); constants of David Stafford's variant 13.
#[must_use]
pub const fn mix64(raw: u64) -> u64 {
    let mut z = raw.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Hashes bytes with [`mix64`], eight at a time, the length last.
#[must_use]
pub fn mix_bytes(bytes: &[u8]) -> u64 {
    let mut hash = 0;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        hash = mix64(hash ^ u64::from_le_bytes(word));
    }
    mix64(hash ^ bytes.len() as u64)
}

/// How many partitions there are, and which shard owns each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    partitions: u16,
    shards: u16,
}

impl Placement {
    /// A deployment's placement on one node.
    ///
    /// # Panics
    /// When there are no partitions, no shards, or more of either than the limits allow: the configuration was not checked.
    #[must_use]
    pub const fn new(partitions: u16, shards: u16) -> Self {
        assert!(partitions > 0 && partitions <= PARTITION_COUNT_MAX, "partitions: 1 to PARTITION_COUNT_MAX");
        assert!(shards > 0 && shards <= crate::limit::SHARD_COUNT_MAX, "shards: 1 to SHARD_COUNT_MAX");
        Self { partitions, shards }
    }

    /// Number of partitions.
    #[must_use]
    pub const fn partitions(self) -> u16 {
        self.partitions
    }

    /// Number of shards.
    #[must_use]
    pub const fn shards(self) -> u16 {
        self.shards
    }

    /// The log that a conversation's commands go to.
    #[must_use]
    pub const fn of_conversation(self, id: ConversationId) -> PartitionId {
        self.slot(high_half(id.raw()) ^ mix64(low_half(id.raw())))
    }

    /// The log that a user's commands go to.
    #[must_use]
    pub const fn of_user(self, id: UserId) -> PartitionId {
        self.slot(id.raw())
    }

    /// The log that decides who gets an account name.
    #[must_use]
    pub fn of_account(self, name: &str) -> PartitionId {
        self.slot(mix_bytes(name.as_bytes()))
    }

    /// The shard that owns a partition.
    #[must_use]
    pub const fn shard(self, partition: PartitionId) -> ShardId {
        ShardId::from_raw(partition.raw() % self.shards)
    }

    /// The shard where a user's own log is applied, and where their sessions are best placed.
    #[must_use]
    pub const fn home(self, user: UserId) -> ShardId {
        self.shard(self.of_user(user))
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a slot below SLOT_COUNT gives a partition below `partitions`, a u16"
    )]
    const fn slot(self, raw: u64) -> PartitionId {
        let slot = mix64(raw) % SLOT_COUNT;
        PartitionId::from_raw((slot * self.partitions as u64 / SLOT_COUNT) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These numbers are a promise: a stored deployment relies on them.
    #[test]
    fn placement_is_frozen() {
        let placement = Placement::new(64, 4);
        assert_eq!(mix64(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix_bytes(b"ada"), mix64(mix64(0x0061_6461) ^ 3));
        let users: Vec<u16> = (1..=8).map(|id| placement.of_user(UserId::from_raw(id)).raw()).collect();
        assert_eq!(users, [51, 27, 63, 43, 13, 0, 55, 24]);
    }

    #[test]
    fn sequential_ids_spread_evenly() {
        let placement = Placement::new(64, 1);
        let mut counts = [0u32; 64];
        for id in 1..=64_000 {
            if let Some(count) = counts.get_mut(usize::from(placement.of_user(UserId::from_raw(id)).raw())) {
                *count += 1;
            }
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
