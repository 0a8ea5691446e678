//! Random numbers from the operating system. The only source of randomness of the crate; state machines take theirs as input.

/// 128 random bits, never 0.
///
/// # Panics
/// When the operating system has no randomness: without it no request id is unique, and TLS does not work either.
pub(crate) fn u128() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    u128::from_le_bytes(bytes) | 1 << 127
}

/// 64 random bits.
///
/// # Panics
/// As [`u128()`].
pub(crate) fn u64() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    u64::from_le_bytes(bytes)
}
