//! Connection ids that say which shard they belong to: byte 0 modulo the number of shards. The kernel reads the same byte
//! (`super::socket`), and so does the client when it picks its first one. Never hides the shard: it is as public as the port.

use std::time::Duration;

use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

/// Length of every connection id that this server issues. Unit: bytes. One for the shard, 56 random bits.
pub(crate) const CID_SIZE: usize = 8;

/// Issues one shard's connection ids.
#[derive(Debug)]
pub(crate) struct ShardCids {
    shard: u8,
    shards: u8,
    /// Random bytes not used yet: one system call for many ids.
    pool: [u8; POOL_SIZE],
    used: usize,
}

const POOL_SIZE: usize = 32 * CID_SIZE;

impl ShardCids {
    /// # Panics
    /// When `shard` is not below `shards`, or `shards` is over `SHARD_COUNT_MAX`: the caller's placement was not checked.
    pub(crate) fn new(shard: u16, shards: u16) -> Self {
        let (shard, shards) = (u8::try_from(shard), u8::try_from(shards));
        let (shard, shards) =
            (shard.expect("SHARD_COUNT_MAX fits a byte"), shards.expect("SHARD_COUNT_MAX fits a byte"));
        assert!(shard < shards, "shard is one of shards");
        Self { shard, shards, pool: [0; POOL_SIZE], used: POOL_SIZE }
    }
}

impl ConnectionIdGenerator for ShardCids {
    fn generate_cid(&mut self) -> ConnectionId {
        if self.used >= POOL_SIZE {
            getrandom::fill(&mut self.pool).expect("the kernel has random bytes");
            self.used = 0;
        }
        let mut id = [0; CID_SIZE];
        id.copy_from_slice(&self.pool[self.used..self.used + CID_SIZE]);
        self.used += CID_SIZE;
        // Only whole multiples, so that every shard has as many first bytes: 256 / 3 leaves one out.
        let multiple = id[0] % (u8::MAX / self.shards);
        id[0] = multiple * self.shards + self.shard;
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        match id.first() {
            Some(first) if first % self.shards == self.shard => Ok(()),
            Some(_) | None => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        CID_SIZE
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The shard that a packet is for, as the kernel computes it; `None` for one that is too short to say.
pub(crate) fn shard_of(packet: &[u8], shards: u16) -> Option<u16> {
    let first = if packet.first()? & 0x80 == 0 { packet.get(1)? } else { packet.get(6)? };
    Some(u16::from(*first) % shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_names_its_shard_also_where_256_is_no_multiple() {
        for shards in 1..=64 {
            for shard in 0..shards {
                let mut cids = ShardCids::new(shard, shards);
                for _ in 0..100 {
                    let id = cids.generate_cid();
                    assert_eq!(u16::from(id[0]) % shards, shard);
                    assert!(cids.validate(&id).is_ok());
                    let mut short = vec![0x40];
                    short.extend_from_slice(&id);
                    assert_eq!(shard_of(&short, shards), Some(shard));
                }
            }
        }
    }

    #[test]
    fn a_packet_too_short_for_an_id_is_for_nobody() {
        assert_eq!(shard_of(&[], 3), None);
        assert_eq!(shard_of(&[0x40], 3), None);
        assert_eq!(shard_of(&[0xc0, 0, 0, 0, 1, 8], 3), None);
    }
}
