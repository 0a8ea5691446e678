//! The body of a generated message: says who sent it, which one it is and when it was meant to leave, and proves that it is whole
//! and where it belongs. Filler is made from the seed; nothing of a body is ever stored.

use tern_protocol::placement::mix64;

/// Smallest body: the head and the checksum. Unit: bytes.
pub const BODY_SIZE_MIN: usize = HEAD_SIZE + CHECKSUM_SIZE;

/// Magic, run, peer, a spare word, number, intended time.
const HEAD_SIZE: usize = 32;
/// One word at the end.
const CHECKSUM_SIZE: usize = 8;
/// "TERN" in the order of the wire.
const MAGIC: u32 = u32::from_le_bytes(*b"TERN");
/// Odd, with about as many ones as zeros: the golden ratio in 64 bits.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a body says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Which run of a fleet: times of another one mean nothing here.
    pub run: u32,
    /// Who sent it.
    pub peer: u32,
    /// Which message of the run.
    pub number: u64,
    /// When it was meant to leave. Unit: nanoseconds since the run's start.
    pub intended: u64,
}

/// The body is not what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrupt;

/// Writes a body of `size` bytes (at least [`BODY_SIZE_MIN`]) for a conversation over what `out` has.
pub fn write(mark: Mark, conversation: u128, size: usize, seed: u64, out: &mut Vec<u8>) {
    let size = size.max(BODY_SIZE_MIN);
    out.clear();
    out.reserve(size);
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&mark.run.to_le_bytes());
    out.extend_from_slice(&mark.peer.to_le_bytes());
    out.extend_from_slice(&0u32.to_le_bytes());
    out.extend_from_slice(&mark.number.to_le_bytes());
    out.extend_from_slice(&mark.intended.to_le_bytes());
    let mut word = mix64(seed ^ mark.number);
    while out.len() < size - CHECKSUM_SIZE {
        word = mix64(word);
        let room = size - CHECKSUM_SIZE - out.len();
        out.extend(word.to_le_bytes().into_iter().take(room));
    }
    let sum = checksum(out, conversation);
    out.extend_from_slice(&sum.to_le_bytes());
}

/// Reads a body that stands in this conversation.
///
/// # Errors
/// When it is not, bit for bit, a body that was written for this conversation.
pub fn read(body: &[u8], conversation: u128) -> Result<Mark, Corrupt> {
    let (content, sum) = body.split_last_chunk::<CHECKSUM_SIZE>().ok_or(Corrupt)?;
    if checksum(content, conversation) != u64::from_le_bytes(*sum) || word32(content, 0)? != MAGIC {
        return Err(Corrupt);
    }
    Ok(Mark {
        run: word32(content, 4)?,
        peer: word32(content, 8)?,
        number: word64(content, 16)?,
        intended: word64(content, 24)?,
    })
}

fn word32(bytes: &[u8], at: usize) -> Result<u32, Corrupt> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map(|word| u32::from_le_bytes(*word)).ok_or(Corrupt)
}

fn word64(bytes: &[u8], at: usize) -> Result<u64, Corrupt> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map(|word| u64::from_le_bytes(*word)).ok_or(Corrupt)
}

/// One multiplication a word: each bit of a word changes the state for good, and the end mixes it through.
fn checksum(bytes: &[u8], conversation: u128) -> u64 {
    let (low, high) = halves(conversation);
    let mut sum = mix64(low ^ high.rotate_left(32)) ^ bytes.len() as u64;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        sum = (sum.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(MULTIPLIER);
    }
    for byte in rest {
        sum = (sum.rotate_left(23) ^ u64::from(*byte)).wrapping_mul(MULTIPLIER);
    }
    mix64(sum)
}

fn halves(conversation: u128) -> (u64, u64) {
    let [low, high] = [conversation & u128::from(u64::MAX), conversation >> 64];
    (u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { run: 7, peer: 3, number: 11, intended: 123_456 };

    #[test]
    fn a_body_says_who_when_and_which_at_every_size() {
        let mut body = Vec::new();
        for size in [0, BODY_SIZE_MIN, BODY_SIZE_MIN + 1, 200, 203, 16 * 1024] {
            write(MARK, 5, size, 1, &mut body);
            assert_eq!(body.len(), size.max(BODY_SIZE_MIN));
            assert_eq!(read(&body, 5), Ok(MARK));
        }
    }

    #[test]
    fn a_changed_bit_a_cut_and_a_foreign_conversation_are_noticed() {
        let mut body = Vec::new();
        write(MARK, 1 << 64, 101, 1, &mut body);
        for bit in 0..body.len() * 8 {
            let mut changed = body.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&changed, 1 << 64), Err(Corrupt), "bit {bit}");
        }
        assert_eq!(read(&body, 1), Err(Corrupt), "delivered into another conversation");
        for size in 0..body.len() {
            assert_eq!(read(&body[..size], 1 << 64), Err(Corrupt));
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_body_and_another_one_another() {
        let make = |seed| {
            let mut body = Vec::new();
            write(MARK, 5, 200, seed, &mut body);
            body
        };
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
    }
}
