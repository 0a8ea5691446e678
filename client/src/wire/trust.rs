//! Whom to believe: public roots, one's own root, or the key that was there the first time (as ssh does). TLS 1.3 only.
//! Never believes a changed key, and never remembers a key whose owner did not prove to have it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::address::ServerAddress;
use super::quic;
use crate::private_file;

/// What must vouch for the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Mozilla's root certificates.
    WebPki,
    /// The certificates of this PEM file, and no others.
    Ca(PathBuf),
    /// Whatever key the server has the first time; it is kept in this file, and another one is refused from then on.
    FirstUse(PathBuf),
}

/// Why trust could not be set up.
#[derive(Debug)]
pub enum TrustError {
    /// The file cannot be read, or has no usable certificate or pin.
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The TLS library refused the configuration.
    Tls(rustls::Error),
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, why } => write!(f, "{}: {why}", path.display()),
            Self::Tls(error) => write!(f, "TLS: {error}"),
        }
    }
}

impl std::error::Error for TrustError {}

/// The server showed another key than the one that was remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChanged {
    /// Which server.
    pub server: String,
    /// SHA-256 of the remembered public key, in hexadecimal.
    pub known: String,
    /// SHA-256 of the one shown.
    pub shown: String,
    /// Where the remembered one stands.
    pub path: PathBuf,
}

impl fmt::Display for KeyChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, known, shown, path } = self;
        write!(
            f,
            "the key of {server} has changed from {known:.16}… to {shown:.16}…: somebody may be listening in. \
             If you know why it changed, remove its line from {} and connect again",
            path.display()
        )
    }
}

/// TLS configurations of one server: they hold its session tickets, so one of these lives as long as its client.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    pub(super) quic: Arc<ClientConfig>,
    pub(super) tcp: Arc<ClientConfig>,
    first_use: Option<Arc<FirstUse>>,
}

impl Tls {
    pub(super) fn new(trust: &Trust, server: &ServerAddress) -> Result<Self, TrustError> {
        let provider = Arc::new(crypto_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TrustError::Tls)?;
        let (config, first_use) = match trust {
            Trust::WebPki => {
                let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
                (builder.with_root_certificates(roots).with_no_client_auth(), None)
            }
            Trust::Ca(path) => (builder.with_root_certificates(read_roots(path)?).with_no_client_auth(), None),
            Trust::FirstUse(path) => {
                let verifier = Arc::new(FirstUse::new(path.clone(), server, &provider)?);
                let dangerous = builder.dangerous().with_custom_certificate_verifier(Arc::clone(&verifier) as _);
                (dangerous.with_no_client_auth(), Some(verifier))
            }
        };
        let mut quic = config.clone();
        quic.alpn_protocols = vec![quic::ALPN.to_vec()];
        quic.enable_early_data = true;
        let mut tcp = config;
        tcp.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { quic: Arc::new(quic), tcp: Arc::new(tcp), first_use })
    }

    /// Whether a handshake failed because the key is another one.
    pub(super) fn changed(&self) -> Option<KeyChanged> {
        self.first_use.as_ref().and_then(|first_use| first_use.state().changed.clone())
    }
}

/// What every connection is encrypted with: AES-128-GCM before the others. The library's own order begins with AES-256-GCM-SHA384, whose
/// hash alone is 38 % of the instructions of a server's handshake and which no processor accelerates; 128 bits are as safe here.
#[must_use]
pub fn crypto_provider() -> CryptoProvider {
    use rustls::crypto::aws_lc_rs::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256, TLS13_AES_256_GCM_SHA384],
        ..rustls::crypto::aws_lc_rs::default_provider()
    }
}

fn read_roots(path: &Path) -> Result<RootCertStore, TrustError> {
    let file_error = |why: String| TrustError::File { path: path.to_owned(), why };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| file_error(error.to_string()))? {
        let certificate = certificate.map_err(|error| file_error(error.to_string()))?;
        roots.add(certificate).map_err(|error| file_error(error.to_string()))?;
    }
    if roots.is_empty() { Err(file_error("no certificate in this PEM file".to_owned())) } else { Ok(roots) }
}

/// Pins the server's public key, not its certificate: a renewed certificate with the same key is the same server.
#[derive(Debug)]
struct FirstUse {
    path: PathBuf,
    server: String,
    algorithms: WebPkiSupportedAlgorithms,
    state: Mutex<Pin>,
}

#[derive(Debug, Default)]
struct Pin {
    known: Option<String>,
    changed: Option<KeyChanged>,
}

impl FirstUse {
    fn new(path: PathBuf, server: &ServerAddress, provider: &CryptoProvider) -> Result<Self, TrustError> {
        let server = server.to_string();
        let known = read_pin(&path, &server)
            .map_err(|error| TrustError::File { path: path.clone(), why: error.to_string() })?;
        let state = Mutex::new(Pin { known, changed: None });
        Ok(Self { path, server, algorithms: provider.signature_verification_algorithms, state })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Pin> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares with the remembered key; another process may have remembered one meanwhile.
    fn check(&self, shown: &str) -> Result<(), rustls::Error> {
        let mut state = self.state();
        if state.known.is_none() {
            state.known = read_pin(&self.path, &self.server).ok().flatten();
        }
        match &state.known {
            Some(known) if known != shown => {
                let (known, shown) = (known.clone(), shown.to_owned());
                let (server, path) = (self.server.clone(), self.path.clone());
                state.changed = Some(KeyChanged { server, known, shown, path });
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            Some(_) | None => {
                state.changed = None;
                Ok(())
            }
        }
    }

    /// Remembers a key that has just signed the handshake.
    fn remember(&self, shown: &str) {
        let mut state = self.state();
        if state.known.is_none() {
            state.known = Some(shown.to_owned());
            if let Err(error) = append_pin(&self.path, &self.server, shown) {
                tracing::warn!(path = %self.path.display(), %error, "the server's key could not be remembered");
            }
        }
    }
}

impl ServerCertVerifier for FirstUse {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(&key_of(end_entity)?)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = verify_tls13_signature(message, certificate, signature, &self.algorithms)?;
        self.remember(&key_of(certificate)?);
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo, in hexadecimal.
fn key_of(certificate: &CertificateDer<'_>) -> Result<String, rustls::Error> {
    let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    let hash = digest::digest(&digest::SHA256, &key);
    Ok(hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn read_pin(path: &Path, server: &str) -> io::Result<Option<String>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(text.lines().find_map(|line| {
        let (name, key) = line.trim().split_once(' ')?;
        (name == server).then(|| key.trim().strip_prefix("sha256:").map(str::to_owned))?
    }))
}

fn append_pin(path: &Path, server: &str, key: &str) -> io::Result<()> {
    let _lock = private_file::lock(path)?;
    let mut text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            "# Keys of Tern servers, remembered when they were first seen. Remove a line to forget one.\n".to_owned()
        }
        Err(error) => return Err(error),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&format!("{server} sha256:{key}\n"));
    private_file::replace(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_read_back_and_others_are_kept() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("known_servers");
        append_pin(&path, "a:1", "aa").expect("writes");
        append_pin(&path, "b:2", "bb").expect("writes");
        assert_eq!(read_pin(&path, "a:1").expect("reads"), Some("aa".into()));
        assert_eq!(read_pin(&path, "b:2").expect("reads"), Some("bb".into()));
        assert_eq!(read_pin(&path, "c:3").expect("reads"), None);
    }

    #[test]
    fn an_empty_pem_file_is_named_in_the_error() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        let error = read_roots(file.path()).expect_err("no certificate");
        assert!(error.to_string().contains("no certificate"), "{error}");
    }
}
