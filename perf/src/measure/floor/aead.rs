//! One packet's encryption: AES-128-GCM, in place, with the key in the cache and with one that has to come from memory.

use std::hint::black_box;
use std::io;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};

use super::Effort;
use super::spread::{Batches, Spread};

/// Keys that are used in turn: their contexts, about 600 bytes each, do not fit into the own cache of a core (1-2 MB) together.
const KEYS: u32 = 10_000;
/// From one key to the next that is used. A prime that does not divide [`KEYS`], so that each comes once.
const STRIDE: usize = 6_151;
/// Plaintext. Unit: bytes. A 200-byte message with its frame.
const PLAIN_SIZE: usize = 220;
/// With the tag of AES-128-GCM. Unit: bytes. Source: RFC 9001, section 5.3.
const PACKET_SIZE: usize = PLAIN_SIZE + 16;
/// Operations timed together.
const BATCH: u32 = 50;
const _: () = assert!(KEYS.is_multiple_of(BATCH), "every batch is whole");
/// Header of a short QUIC packet, which is authenticated and not encrypted. Unit: bytes.
const HEADER: [u8; 13] = [0x40; 13];

/// Seal and open, each operation with another key, in an order that no prefetcher guesses.
pub(super) fn cold(effort: Effort) -> io::Result<(Spread, Spread)> {
    let keys: Vec<LessSafeKey> = (0..KEYS).map(key).collect::<io::Result<_>>()?;
    let keys: Vec<&LessSafeKey> = (0..keys.len()).filter_map(|step| keys.get(step * STRIDE % keys.len())).collect();
    let (mut seals, mut opens) = (Batches::new()?, Batches::new()?);
    let mut plain = [0x5a_u8; PLAIN_SIZE];
    for round in 0..effort.count(10) {
        for keys in keys.chunks(BATCH as usize) {
            seals.time(BATCH, || {
                for key in keys {
                    let _ = black_box(seal(key, round, &mut plain)?);
                }
                Ok(())
            })?;
        }
        // All packets before the first is opened, so that their keys have left the cache again.
        let mut packets = keys.iter().map(|key| packet(key, round)).collect::<io::Result<Vec<_>>>()?;
        for (keys, packets) in keys.chunks(BATCH as usize).zip(packets.chunks_mut(BATCH as usize)) {
            // What was just received is in the cache: only the key is not.
            let mut received = [[0_u8; PACKET_SIZE]; BATCH as usize];
            received.copy_from_slice(packets);
            opens.time(BATCH, || {
                for (key, bytes) in keys.iter().zip(&mut received) {
                    key.open_in_place(nonce(round), Aad::from(HEADER), bytes).map_err(refused)?;
                }
                Ok(())
            })?;
            black_box(&received);
        }
    }
    Ok((seals.spread(), opens.spread()))
}

/// Seal with one key.
pub(super) fn hot(effort: Effort) -> io::Result<Spread> {
    let key = key(0)?;
    let mut seals = Batches::new()?;
    let mut plain = [0x5a_u8; PLAIN_SIZE];
    for round in 0..effort.count(2_000) {
        seals.time(BATCH, || {
            for _ in 0..BATCH {
                let _ = black_box(seal(&key, round, &mut plain)?);
            }
            Ok(())
        })?;
    }
    Ok(seals.spread())
}

fn key(index: u32) -> io::Result<LessSafeKey> {
    let mut secret = [0_u8; 16];
    secret[..4].copy_from_slice(&index.to_le_bytes());
    UnboundKey::new(&AES_128_GCM, &secret).map(LessSafeKey::new).map_err(refused)
}

/// The nonce repeats within a round, which would be a hole anywhere but here: nothing of this is ever sent.
fn nonce(round: u32) -> Nonce {
    let mut value = [0_u8; 12];
    value[..4].copy_from_slice(&round.to_le_bytes());
    Nonce::assume_unique_for_key(value)
}

fn seal(key: &LessSafeKey, round: u32, bytes: &mut [u8]) -> io::Result<Tag> {
    key.seal_in_place_separate_tag(nonce(round), Aad::from(HEADER), bytes).map_err(refused)
}

/// A sealed packet with its tag.
fn packet(key: &LessSafeKey, round: u32) -> io::Result<[u8; PACKET_SIZE]> {
    let mut packet = [0x5a; PACKET_SIZE];
    let (plain, end) = packet.split_at_mut(PLAIN_SIZE);
    end.copy_from_slice(seal(key, round, plain)?.as_ref());
    Ok(packet)
}

fn refused(_: aws_lc_rs::error::Unspecified) -> io::Error {
    io::Error::other("the crypto library refused a key or a packet of the floor measurement")
}
