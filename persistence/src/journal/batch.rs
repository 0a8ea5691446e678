//! The bytes of the journal: batches of a header, content and zeros up to the next page. Never trusts a byte it reads.
//!
//! ```text
//! header   magic 8, format u32, kind u32, generation u64, number u64, content size u32, record count u32,
//!          records so far u64, latest time u64, checksum u64 (xxh3 of the header before it and the content, seeded)
//! opening  owner u64, then per partition: u64 last position before this segment
//! closing  empty: another segment was opened after this one
//! record   partition u16, zero u16, frame size u32, position u64, time u64, frame, command head
//! ```
//! All integers little-endian. A segment is one opening, then batches of records, then at most one closing, `number` counting up
//! over all segments. The closing has the number of the opening that followed: what is missing behind it is missed.

use bytes::Bytes;
use tern_core_shard::io::{Logged, Record};
use tern_protocol::command::{COMMAND_HEAD_SIZE, CommandHead};
use tern_protocol::limit::FRAME_SIZE_MAX;
use tern_protocol::{PartitionId, Position, Timestamp};
use xxhash_rust::xxh3::Xxh3;

use crate::config::{BATCH_SIZE_LIMIT, PAGE_SIZE};
use crate::identity::{FORMAT, OLDEST};

/// Size of a batch's header. Unit: bytes.
pub(crate) const HEADER_SIZE: usize = 64;
/// Whose a segment is, at the beginning of its opening. Unit: bytes.
const OWNER_SIZE: usize = 8;
/// A record without its frame. Unit: bytes.
pub(crate) const RECORD_OVERHEAD: usize = RECORD_PREFIX_SIZE + COMMAND_HEAD_SIZE;
const RECORD_PREFIX_SIZE: usize = 24;
const MAGIC: &[u8; 8] = b"TERNJRNL";
const CHECKSUM_AT: usize = HEADER_SIZE - 8;

/// What a batch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The first of a segment.
    Opening,
    /// Commands.
    Records,
    /// The last of a segment: the journal went on in another one.
    Closing,
}

/// What a batch says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// Of the segment: which use of all uses.
    pub(crate) generation: u64,
    /// Of the batch, dense over the whole journal, from 1.
    pub(crate) number: u64,
    /// Content. Unit: bytes.
    pub(crate) size: u32,
    /// Records in it.
    pub(crate) count: u32,
    /// Commands in the whole log up to and including this batch.
    pub(crate) records_total: u64,
    /// The latest time given to any command so far. Unit: microseconds since 1970.
    pub(crate) time_max: u64,
}

/// Why bytes are not a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// No header begins here: zeros, or the middle of something older.
    Blank,
    /// A header of this generation, but header or content is not what was written.
    Damaged {
        /// What it says.
        generation: u64,
    },
    /// Valid, and of a later version.
    Newer(u32),
}

impl Header {
    /// Content and header, rounded up to whole pages. Unit: bytes.
    pub(crate) const fn padded_size(&self) -> usize {
        pages(HEADER_SIZE + self.size as usize)
    }

    /// Reads what the first bytes say, unchecked: only good for knowing how much to read before [`Header::check`].
    pub(crate) fn peek(bytes: &[u8]) -> Result<Self, Invalid> {
        let header: &[u8; HEADER_SIZE] = bytes.first_chunk().ok_or(Invalid::Blank)?;
        if !header.starts_with(MAGIC) {
            return Err(Invalid::Blank);
        }
        let generation = u64_at(header, 16);
        let kind = match u32_at(header, 12) {
            1 => Kind::Opening,
            2 => Kind::Records,
            3 => Kind::Closing,
            _ => return Err(Invalid::Damaged { generation }),
        };
        let size = u32_at(header, 32);
        if HEADER_SIZE + size as usize > BATCH_SIZE_LIMIT {
            return Err(Invalid::Damaged { generation });
        }
        Ok(Self {
            kind,
            generation,
            number: u64_at(header, 24),
            size,
            count: u32_at(header, 36),
            records_total: u64_at(header, 40),
            time_max: u64_at(header, 48),
        })
    }

    /// Whether damaged bytes were meant to be this batch: two of magic, generation and number are right. One can be wrong by the
    /// damage; what an earlier use of the segment left behind has only the magic.
    pub(crate) fn resembles(bytes: &[u8], generation: u64, number: u64) -> bool {
        let signs = [bytes.starts_with(MAGIC), u64_at(bytes, 16) == generation, u64_at(bytes, 24) == number];
        signs.into_iter().filter(|sign| *sign).count() >= 2
    }

    /// Reads and verifies a batch that begins at the first byte.
    pub(crate) fn check(bytes: &[u8], key: u64) -> Result<Self, Invalid> {
        let header = Self::peek(bytes)?;
        let damaged = Invalid::Damaged { generation: header.generation };
        let (head, rest) = bytes.split_at_checked(HEADER_SIZE).ok_or(damaged)?;
        let content = rest.get(..header.size as usize).ok_or(damaged)?;
        let (covered, checksum) = head.split_at_checked(CHECKSUM_AT).ok_or(damaged)?;
        if u64_at(checksum, 0) != digest(covered, content, key) {
            return Err(damaged);
        }
        match u32_at(head, 8) {
            OLDEST..=FORMAT => Ok(header),
            newer if newer > FORMAT => Err(Invalid::Newer(newer)),
            _ => Err(damaged),
        }
    }

    /// Writes header and checksum in front of the content that stands behind it in `batch`.
    pub(crate) fn seal(&self, batch: &mut [u8], key: u64) {
        let Some((head, rest)) = batch.split_at_mut_checked(HEADER_SIZE) else { return };
        let kind: u32 = match self.kind {
            Kind::Opening => 1,
            Kind::Records => 2,
            Kind::Closing => 3,
        };
        let mut fields = Vec::with_capacity(HEADER_SIZE);
        fields.extend_from_slice(MAGIC);
        fields.extend_from_slice(&FORMAT.to_le_bytes());
        fields.extend_from_slice(&kind.to_le_bytes());
        fields.extend_from_slice(&self.generation.to_le_bytes());
        fields.extend_from_slice(&self.number.to_le_bytes());
        fields.extend_from_slice(&self.size.to_le_bytes());
        fields.extend_from_slice(&self.count.to_le_bytes());
        fields.extend_from_slice(&self.records_total.to_le_bytes());
        fields.extend_from_slice(&self.time_max.to_le_bytes());
        let content = rest.get(..self.size as usize).unwrap_or_default();
        let checksum = digest(&fields, content, key);
        fields.extend_from_slice(&checksum.to_le_bytes());
        head.copy_from_slice(&fields);
    }
}

/// Names the directory in its own files: made from its key, and does not tell it.
pub(crate) fn owner(key: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(b"owner of these files", key)
}

/// Reads whose an opening says it is, checked or not: a segment of another data directory passes no check.
pub(crate) fn owner_of_opening(bytes: &[u8]) -> Option<u64> {
    let opening = Header::peek(bytes).is_ok_and(|header| header.kind == Kind::Opening);
    (opening && bytes.len() >= HEADER_SIZE + OWNER_SIZE).then(|| u64_at(bytes, HEADER_SIZE))
}

/// Reads the last positions that stand in an opening's content.
pub(crate) fn read_opening(content: &[u8]) -> Vec<u64> {
    content.chunks_exact(8).skip(1).map(|raw| u64_at(raw, 0)).collect()
}

/// What stands in front of a record's frame, and what behind it.
pub(crate) fn record_frame_parts(
    partition: PartitionId,
    position: Position,
    time: Timestamp,
    record: &Record,
) -> ([u8; RECORD_PREFIX_SIZE], [u8; COMMAND_HEAD_SIZE]) {
    let mut prefix = [0; RECORD_PREFIX_SIZE];
    let frame_size = u32::try_from(record.frame.len()).expect("no frame is over FRAME_SIZE_MAX");
    prefix[..2].copy_from_slice(&partition.raw().to_le_bytes());
    prefix[4..8].copy_from_slice(&frame_size.to_le_bytes());
    prefix[8..16].copy_from_slice(&position.raw().to_le_bytes());
    prefix[16..].copy_from_slice(&time.raw().to_le_bytes());
    (prefix, record.head.to_bytes())
}

/// Walks the records of a verified batch; frames share its memory.
#[derive(Debug)]
pub(crate) struct Records {
    content: Bytes,
}

impl Records {
    /// The records of a content.
    pub(crate) const fn new(content: Bytes) -> Self {
        Self { content }
    }

    /// The next one; `Err` when the content is not what a journal writes, although its checksum holds.
    fn take(&mut self) -> Result<Logged, ()> {
        let prefix: &[u8; RECORD_PREFIX_SIZE] = self.content.first_chunk().ok_or(())?;
        let partition = u16::from_le_bytes([prefix[0], prefix[1]]);
        let frame_size = u32_at(prefix, 4) as usize;
        let (position, time) = (u64_at(prefix, 8), u64_at(prefix, 16));
        if frame_size > FRAME_SIZE_MAX || self.content.len() < RECORD_OVERHEAD + frame_size {
            return Err(());
        }
        let rest = self.content.slice(RECORD_PREFIX_SIZE..RECORD_OVERHEAD + frame_size);
        let (frame, head) = CommandHead::split(&rest).map_err(|_| ())?;
        let frame = rest.slice_ref(frame);
        self.content = self.content.slice(RECORD_OVERHEAD + frame_size..);
        Ok(Logged {
            partition: PartitionId::from_raw(partition),
            position: Position::from_raw(position),
            time: Timestamp::from_raw(time),
            record: Record { head, frame },
        })
    }
}

impl Iterator for Records {
    type Item = Result<Logged, ()>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.content.is_empty() {
            return None;
        }
        let taken = self.take();
        if taken.is_err() {
            self.content.clear();
        }
        Some(taken)
    }
}

/// Rounds up to whole pages. Unit: bytes.
pub(crate) const fn pages(size: usize) -> usize {
    size.next_multiple_of(PAGE_SIZE)
}

fn digest(header: &[u8], content: &[u8], key: u64) -> u64 {
    let mut hasher = Xxh3::with_seed(key);
    hasher.update(header);
    hasher.update(content);
    hasher.digest()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u32::from_le_bytes(*raw))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u64::from_le_bytes(*raw))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: u64 = 7;

    /// One sealed batch of these frames.
    fn batch(frames: &[Vec<u8>]) -> (Header, Vec<u8>) {
        let mut bytes = vec![0; HEADER_SIZE];
        for (index, frame) in frames.iter().enumerate() {
            let record = Record {
                head: CommandHead { actor: index as u64, ..CommandHead::default() },
                frame: Bytes::copy_from_slice(frame),
            };
            let position = Position::from_raw(index as u64 + 1);
            let (prefix, head) =
                record_frame_parts(PartitionId::from_raw(3), position, Timestamp::from_raw(9), &record);
            bytes.extend_from_slice(&prefix);
            bytes.extend_from_slice(frame);
            bytes.extend_from_slice(&head);
        }
        let header = Header {
            kind: Kind::Records,
            generation: 2,
            number: 5,
            size: u32::try_from(bytes.len() - HEADER_SIZE).unwrap(),
            count: u32::try_from(frames.len()).unwrap(),
            records_total: 100,
            time_max: 9,
        };
        header.seal(&mut bytes, KEY);
        (header, bytes)
    }

    #[test]
    fn a_page_of_zeros_is_blank() {
        assert_eq!(Header::check(&[0; PAGE_SIZE], KEY), Err(Invalid::Blank));
        assert_eq!(Header::check(&[], KEY), Err(Invalid::Blank));
    }

    #[test]
    fn a_valid_batch_of_a_later_format_is_told_from_a_damaged_one() {
        let (_, mut bytes) = batch(&[b"x".to_vec()]);
        bytes[8] = 3;
        assert_eq!(Header::check(&bytes, KEY), Err(Invalid::Damaged { generation: 2 }));
        let (covered, content) = (bytes[..CHECKSUM_AT].to_vec(), bytes[HEADER_SIZE..].to_vec());
        bytes[CHECKSUM_AT..HEADER_SIZE].copy_from_slice(&digest(&covered, &content, KEY).to_le_bytes());
        assert_eq!(Header::check(&bytes, KEY), Err(Invalid::Newer(3)));
    }

    #[test]
    fn a_batch_made_without_the_key_does_not_pass() {
        let (_, bytes) = batch(&[b"forged".to_vec()]);
        assert_eq!(Header::check(&bytes, KEY + 1), Err(Invalid::Damaged { generation: 2 }));
    }

    proptest! {
        #[test]
        fn batches_read_back_as_written(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20)) {
            let (header, bytes) = batch(&frames);
            prop_assert_eq!(Header::check(&bytes, KEY), Ok(header));
            let content = Bytes::from(bytes).slice(HEADER_SIZE..);
            let read: Result<Vec<_>, ()> = Records::new(content).collect();
            let read = read.unwrap();
            prop_assert_eq!(read.len(), frames.len());
            for (index, (logged, frame)) in read.iter().zip(&frames).enumerate() {
                prop_assert_eq!(&logged.record.frame[..], &frame[..]);
                prop_assert_eq!(logged.record.head.actor, index as u64);
                prop_assert_eq!(logged.position.raw(), index as u64 + 1);
            }
        }

        #[test]
        fn any_flipped_bit_is_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let (_, mut bytes) = batch(&[b"hello".to_vec(), vec![7; 500]]);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Header::check(&bytes, KEY).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), magic in any::<bool>()) {
            let mut bytes = bytes;
            if magic {
                bytes.splice(0..0, MAGIC.iter().copied());
            }
            let _ = Header::check(&bytes, KEY);
            for record in Records::new(Bytes::from(bytes)) {
                let _ = record;
            }
        }
    }
}
