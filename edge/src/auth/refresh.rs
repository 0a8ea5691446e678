//! Refresh tokens: opaque to clients, bound to a device, exchanged at each use. A successor follows from the token that is presented
//! and the client's name for the exchange, so that a retry whose answer was lost gets the same one. The shard keeps digests only.

use std::fmt;

use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tern_protocol::{DeviceId, UserId};

use super::key::random;

/// First byte of every token.
const VERSION: u8 = 1;
/// Unit: bytes. As long as the digest: guessing the secret is no easier than guessing the digest.
const SECRET_SIZE: usize = 32;
/// Version, user, device, generation, secret. Unit: bytes.
const TOKEN_SIZE: usize = 1 + 8 + 8 + 4 + SECRET_SIZE;
/// Keeps this use of the key apart from any other.
const CONTEXT: &[u8] = b"tern refresh token 1";

/// What a device presents to get new tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshToken {
    /// Whose.
    pub user: UserId,
    /// Which device's.
    pub device: DeviceId,
    /// From 1; how often it was exchanged.
    pub generation: u32,
    secret: [u8; SECRET_SIZE],
}

impl RefreshToken {
    /// The first token of a device.
    #[must_use]
    pub fn first(user: UserId, device: DeviceId) -> Self {
        Self { user, device, generation: 1, secret: random() }
    }

    /// Reads what a client presents; `None` for anything that [`Self::encode`] does not make.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // No longer text can be a token, and none is decoded.
        if text.len() != TOKEN_SIZE.div_ceil(3) * 4 - (3 - TOKEN_SIZE % 3) % 3 {
            return None;
        }
        let bytes: [u8; TOKEN_SIZE] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (version, rest) = bytes.split_first()?;
        let (user, rest) = rest.split_first_chunk()?;
        let (device, rest) = rest.split_first_chunk()?;
        let (generation, secret) = rest.split_first_chunk()?;
        let token = Self {
            user: UserId::from_raw(u64::from_be_bytes(*user)),
            device: DeviceId::from_raw(u64::from_be_bytes(*device)),
            generation: u32::from_be_bytes(*generation),
            secret: secret.try_into().ok()?,
        };
        let possible = *version == VERSION && token.user.is_valid() && token.device.raw() != 0;
        (possible && (1..u32::MAX).contains(&token.generation)).then_some(token)
    }

    /// The text that the client keeps.
    #[must_use]
    pub fn encode(&self) -> String {
        let bytes = [
            &[VERSION][..],
            &self.user.raw().to_be_bytes(),
            &self.device.raw().to_be_bytes(),
            &self.generation.to_be_bytes(),
            &self.secret,
        ]
        .concat();
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// SHA-256 of the secret: what the shard keeps and compares.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let digest = digest::digest(&digest::SHA256, &self.secret);
        digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// The token that follows this one in an exchange with this name.
    #[must_use]
    pub fn successor(&self, key: &hmac::Key, attempt: u128) -> Self {
        let mut context = hmac::Context::with_key(key);
        context.update(CONTEXT);
        context.update(&self.device.raw().to_be_bytes());
        context.update(&self.generation.to_be_bytes());
        context.update(&attempt.to_be_bytes());
        context.update(&self.secret);
        let secret = context.sign().as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes");
        Self { generation: self.generation + 1, secret, ..*self }
    }
}

/// Says nothing of the secret.
impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RefreshToken({}, {}, {})", self.user, self.device, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[seed; 32])
    }

    fn token() -> RefreshToken {
        RefreshToken { user: UserId::from_raw(7), device: DeviceId::from_raw(9), generation: 3, secret: [5; 32] }
    }

    #[test]
    fn a_retry_of_an_exchange_gets_the_same_successor_and_nothing_else_does() {
        let next = token().successor(&key(1), 77);
        assert_eq!(next, token().successor(&key(1), 77));
        assert_eq!((next.user, next.device, next.generation), (UserId::from_raw(7), DeviceId::from_raw(9), 4));
        let others = [
            token().successor(&key(2), 77),
            token().successor(&key(1), 78),
            RefreshToken { secret: [6; 32], ..token() }.successor(&key(1), 77),
            RefreshToken { generation: 4, ..token() }.successor(&key(1), 77),
            RefreshToken { device: DeviceId::from_raw(8), ..token() }.successor(&key(1), 77),
        ];
        assert!(others.iter().all(|other| other.secret != next.secret));
        assert_ne!(next.digest(), token().digest());
    }

    /// Every stored digest depends on these bytes.
    #[test]
    fn the_derivation_is_frozen() {
        let text = token().successor(&key(1), 77).encode();
        expect_test::expect!["AQAAAAAAAAAHAAAAAAAAAAkAAAAEkVUZQNXGJq05T99fL5_wsUOwN1zXz1xAVIS0a18lN94"]
            .assert_eq(&text);
    }

    #[test]
    fn a_token_survives_the_client_and_anything_else_is_none() {
        let text = token().encode();
        assert_eq!(text.len(), 71);
        assert_eq!(RefreshToken::parse(&text), Some(token()));
        for generation in [0, u32::MAX] {
            assert_eq!(RefreshToken::parse(&RefreshToken { generation, ..token() }.encode()), None);
        }
        for bad in ["", "a", &text[1..], &format!("{text}A"), &text.replace('A', "+"), &"A".repeat(71)] {
            assert_eq!(RefreshToken::parse(bad), None, "{bad}");
        }
        assert!(!format!("{:?}", token()).contains('5'));
    }
}
