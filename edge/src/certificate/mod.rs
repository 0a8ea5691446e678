//! The server's certificate: read from files or made for development, and replaced without a restart. TLS 1.3 only.
//! Never writes a key that it did not make.

mod der;
mod development;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys, ServerConfig};
use tern_protocol::Timestamp;

use crate::config::TlsConfig;
use crate::secret_file::FileError;

/// What QUIC clients name in the handshake.
const ALPN_QUIC: &[u8] = b"tern/1";
/// What HTTPS clients name. HTTP/2 cannot be handed to a shard as a WebSocket.
const ALPN_HTTP: &[u8] = b"http/1.1";
/// QUIC allows no other value than this or 0.
///
/// # Source
/// RFC 9001 section 4.6.1: any other value in a ticket is a connection error for the client.
const QUIC_EARLY_DATA: u32 = u32::MAX;

/// Where the certificate comes from.
#[derive(Debug, Clone)]
enum Source {
    /// `tls.certificate` and `tls.key`.
    Files { chain: PathBuf, key: PathBuf },
    /// Made here.
    Development { directory: PathBuf, names: Vec<String> },
}

/// What people check a certificate by, and when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// SHA-256 of the certificate, hexadecimal.
    pub fingerprint: String,
    /// SHA-256 of its public key (SPKI), base64: stays when the certificate is renewed.
    pub pin: String,
    /// When it begins.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// Whether it was made here.
    pub is_development: bool,
}

/// The certificate in use. Shared by QUIC and TCP, so that replacing it needs no new configuration and forgets no session.
#[derive(Debug)]
pub struct Certificates {
    source: Source,
    current: Arc<Current>,
    info: RwLock<(CertificateInfo, Vec<Option<SystemTime>>)>,
}

#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// Why there is no certificate. For the operator.
#[derive(Debug)]
pub enum CertificateError {
    /// The file system refused.
    File(FileError),
    /// The file has none of what it should have.
    Missing {
        /// Which.
        file: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// The file has something that cannot be used.
    Unusable {
        /// Which.
        file: PathBuf,
        /// Why not.
        reason: TlsError,
    },
    /// The key is another certificate's.
    Mismatch {
        /// The chain.
        chain: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The development certificate could not be made.
    Development(rcgen::Error),
}

impl Certificates {
    /// Reads the certificate, or makes one in `data_dir/tls`.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(config: &TlsConfig, data_dir: &Path, now: Timestamp) -> Result<Self, CertificateError> {
        let source = match config.files.clone() {
            Some((chain, key)) => Source::Files { chain, key },
            None => Source::Development { directory: data_dir.join("tls"), names: development::names(&config.names) },
        };
        let times = source.modified();
        let (key, info) = source.load(now)?;
        let current = Arc::new(Current(ArcSwap::from_pointee(key)));
        Ok(Self { source, current, info: RwLock::new((info, times)) })
    }

    /// Reads the files again. New connections get what is in them.
    ///
    /// # Errors
    /// When they cannot be used: the certificate in use stays.
    pub fn reload(&self, now: Timestamp) -> Result<CertificateInfo, CertificateError> {
        let times = self.source.modified();
        let loaded = self.source.load(now);
        let mut info = self.info.write().unwrap_or_else(PoisonError::into_inner);
        // Also after an error: files that are wrong are complained of once.
        info.1 = times;
        let (key, fresh) = loaded?;
        self.current.0.store(Arc::new(key));
        info.0 = fresh.clone();
        Ok(fresh)
    }

    /// Whether the files changed since they were read, or the development certificate is due.
    #[must_use]
    pub fn is_stale(&self, now: Timestamp) -> bool {
        let info = self.info.read().unwrap_or_else(PoisonError::into_inner);
        match &self.source {
            Source::Files { .. } => info.1 != self.source.modified(),
            Source::Development { .. } => development::is_due(&info.0, now),
        }
    }

    /// The certificate in use.
    #[must_use]
    pub fn info(&self) -> CertificateInfo {
        self.info.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// For QUIC: with 0-RTT, for which sessions are kept here, each good for one resumption.
    ///
    /// # Panics
    /// Never: the provider has TLS 1.3.
    #[must_use]
    pub fn quic(&self, sessions_max: usize) -> Arc<ServerConfig> {
        let mut config = self.config(sessions_max, ALPN_QUIC);
        config.max_early_data_size = if sessions_max == 0 { 0 } else { QUIC_EARLY_DATA };
        Arc::new(config)
    }

    /// For HTTPS and WebSocket: without early data.
    ///
    /// # Panics
    /// Never: the provider has TLS 1.3.
    #[must_use]
    pub fn tcp(&self, sessions_max: usize) -> Arc<ServerConfig> {
        Arc::new(self.config(sessions_max, ALPN_HTTP))
    }

    fn config(&self, sessions_max: usize, alpn: &[u8]) -> ServerConfig {
        let mut config = ServerConfig::builder_with_provider(Arc::new(crypto()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has TLS 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.current) as _);
        config.alpn_protocols = vec![alpn.to_vec()];
        config.session_storage = match sessions_max {
            0 => Arc::new(NoServerSessionStorage {}),
            max => ServerSessionMemoryCache::new(max),
        };
        // One at a time: a connection that resumes gets the next one.
        config.send_tls13_tickets = usize::from(sessions_max > 0);
        config
    }
}

/// The one provider of the graph. X25519 first: a post-quantum share is 1.2 KB more in each direction; clients that insist get it.
fn crypto() -> CryptoProvider {
    use provider::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    CryptoProvider { kx_groups: vec![X25519, X25519MLKEM768, SECP256R1, SECP384R1], ..provider::default_provider() }
}

impl Source {
    fn load(&self, now: Timestamp) -> Result<(CertifiedKey, CertificateInfo), CertificateError> {
        let (chain_file, key_file) = match self {
            Self::Files { chain, key } => (chain.clone(), key.clone()),
            Self::Development { directory, names } => development::prepare(directory, names, now)?,
        };
        let chain = read_chain(&chain_file)?;
        let key_pem = fs::read(&key_file).map_err(FileError::at(&key_file, "read the key"))?;
        let key = PrivateKeyDer::from_pem_slice(&key_pem)
            .map_err(|_| CertificateError::Missing { file: key_file.clone(), what: "private key" })?;
        let certificate = chain.first().cloned();
        let key = CertifiedKey::from_der(chain, key, &crypto()).map_err(|reason| {
            if reason == TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) {
                return CertificateError::Mismatch { chain: chain_file.clone(), key: key_file.clone() };
            }
            let is_of_the_chain = matches!(reason, TlsError::InvalidCertificate(_));
            CertificateError::Unusable { file: if is_of_the_chain { &chain_file } else { &key_file }.clone(), reason }
        })?;
        let info = certificate.and_then(|certificate| info(&certificate, matches!(self, Self::Development { .. })));
        let info = info.ok_or(CertificateError::Missing { file: chain_file, what: "X.509 certificate" })?;
        Ok((key, info))
    }

    /// When the files last changed.
    fn modified(&self) -> Vec<Option<SystemTime>> {
        let time = |path: &PathBuf| fs::metadata(path).and_then(|meta| meta.modified()).ok();
        match self {
            Self::Files { chain, key } => vec![time(chain), time(key)],
            Self::Development { .. } => Vec::new(),
        }
    }
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let pem = fs::read(file).map_err(FileError::at(file, "read the certificate"))?;
    let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(CertificateError::Missing { file: file.to_owned(), what: "PEM certificate" }),
    }
}

fn info(certificate: &CertificateDer<'_>, is_development: bool) -> Option<CertificateInfo> {
    let fields = der::read(certificate)?;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(CertificateInfo {
        fingerprint: hex(digest::digest(&digest::SHA256, certificate).as_ref()),
        pin: STANDARD.encode(digest::digest(&digest::SHA256, fields.public_key)),
        not_before: fields.not_before,
        not_after: fields.not_after,
        is_development,
    })
}

impl From<FileError> for CertificateError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) if error.source.kind() == io::ErrorKind::NotFound => {
                write!(
                    f,
                    "{error} that tls.certificate and tls.key name, or leave both empty for a development certificate"
                )
            }
            Self::File(error) => error.fmt(f),
            Self::Missing { file, what } => {
                write!(
                    f,
                    "{}: no {what} in it; tls.certificate takes a PEM chain, tls.key a PEM private key",
                    file.display()
                )
            }
            Self::Unusable { file, reason } => {
                write!(f, "{}: cannot be used: {reason}; take an ECDSA P-256 or Ed25519 key", file.display())
            }
            Self::Mismatch { chain, key } => write!(
                f,
                "{} is not the key of {}; set tls.key to the key that the certificate was made with, and put the server's own \
                 certificate first in the chain",
                key.display(),
                chain.display()
            ),
            Self::Development(error) => write!(f, "cannot make a development certificate: {error}; check tls.names"),
        }
    }
}

impl std::error::Error for CertificateError {}

#[cfg(test)]
mod tests;
