//! The server's own keys, made on first start: Ed25519 for access tokens, HMAC for the successors of refresh tokens, and the secret
//! of QUIC's stateless resets. Losing them logs everybody out; copying them to another deployment lets it make tokens for this one.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

use crate::secret_file::{self, FileError};

/// Length of the HMAC key. Unit: bytes; the digest's length, RFC 2104 section 3.
const REFRESH_KEY_SIZE: usize = 32;

/// The keys of a data directory.
pub struct Keys {
    /// PKCS#8.
    pub(super) token: Vec<u8>,
    /// The public half of `token`.
    pub(super) token_public: Vec<u8>,
    /// Derives refresh tokens.
    pub(super) refresh: hmac::Key,
    /// See [`crate::node::NodeConfig::secret`].
    pub(crate) quic: [u8; 32],
}

/// Why the keys cannot be used. For the operator.
#[derive(Debug)]
pub enum KeyError {
    /// The file system refused.
    File(FileError),
    /// The file does not hold such a key.
    Malformed(PathBuf),
}

impl Keys {
    /// Reads the keys of a directory, making what is missing.
    ///
    /// # Errors
    /// When a file can be neither read nor made, or is not a key.
    ///
    /// # Panics
    /// When the operating system has no randomness.
    pub fn open(directory: &Path) -> Result<Self, KeyError> {
        secret_file::make_directory(directory)?;
        let token_file = directory.join("access-token.ed25519");
        let token = secret_file::read_or_make(&token_file, || {
            Ed25519KeyPair::generate().and_then(|pair| pair.to_pkcs8v1()).expect("randomness").as_ref().to_vec()
        })?;
        let pair = Ed25519KeyPair::from_pkcs8(&token).map_err(|_| KeyError::Malformed(token_file))?;
        let refresh_file = directory.join("refresh-token.hmac");
        let refresh = secret_file::read_or_make(&refresh_file, || random::<REFRESH_KEY_SIZE>().to_vec())?;
        if refresh.len() != REFRESH_KEY_SIZE {
            return Err(KeyError::Malformed(refresh_file));
        }
        let quic_file = directory.join("quic.secret");
        let quic = secret_file::read_or_make(&quic_file, || random::<32>().to_vec())?;
        let quic = quic.try_into().map_err(|_| KeyError::Malformed(quic_file))?;
        Ok(Self {
            quic,
            token_public: pair.public_key().as_ref().to_vec(),
            token,
            refresh: hmac::Key::new(hmac::HMAC_SHA256, &refresh),
        })
    }
}

/// Random bytes for keys, ids and secrets.
///
/// # Panics
/// When the operating system has no randomness.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    bytes
}

impl From<FileError> for KeyError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Malformed(file) => write!(
                f,
                "{}: not a key that this server made; restore it from a backup, or remove it (everybody must log in again)",
                file.display()
            ),
        }
    }
}

impl std::error::Error for KeyError {}

/// Says nothing of the keys.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_a_restart_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let first = Keys::open(dir.path()).unwrap();
        assert_eq!(Keys::open(dir.path()).unwrap().token_public, first.token_public);
        std::fs::write(dir.path().join("access-token.ed25519"), b"not a key").unwrap();
        let text = Keys::open(dir.path()).unwrap_err().to_string();
        assert!(text.contains("access-token.ed25519: not a key"), "{text}");
    }
}
