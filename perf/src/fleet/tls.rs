//! How the fleet speaks TLS and QUIC: as a real client does, but for trust. Any certificate is accepted, pinned to the first one of the
//! run; the signature of the handshake is verified, because real clients pay for that.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, OnceLock};

use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{ConnectionId, IdleTimeout, TransportConfig, VarInt};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tern_protocol::limit::DELIVERY_LANE_COUNT;

use super::tickets::{Collect, Spend, Tickets};

/// The protocol of the QUIC handshake.
const ALPN_QUIC: &[u8] = b"tern/1";
/// Silence after which a connection counts as lost. Unit: milliseconds. The server's own limit.
const IDLE_TIMEOUT_MS: u32 = 60_000;
/// Bytes of one stream that the server may send ahead of our reading. Unit: bytes. As the SDK.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes of all streams that the server may send ahead. Unit: bytes. As the SDK.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes that a peer may have sent without an acknowledgement. Unit: bytes. A cap, not an allocation.
const SEND_WINDOW: u64 = 512 * 1024;
/// Bytes of datagrams that wait to be read. Unit: bytes.
const DATAGRAM_BUFFER_SIZE: usize = 64 * 1024;
/// Tickets kept for each shard of the server. Unit: tickets. A server gives two to each of the peers.
const TICKETS_PER_PEER: usize = 2;

/// Whether a connection may use what an earlier one left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Visit {
    First,
    Return,
}

/// Accepts the certificate that was seen first.
#[derive(Debug)]
pub(crate) struct Pin {
    seen: OnceLock<Vec<u8>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pin {
    pub(crate) fn new() -> Arc<Self> {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        Arc::new(Self { seen: OnceLock::new(), algorithms })
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.seen.get_or_init(|| end_entity.to_vec()) == end_entity.as_ref() {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
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
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A TLS 1.3 configuration that trusts the pin.
pub(crate) fn client_config(pin: &Arc<Pin>) -> io::Result<ClientConfig> {
    let provider = Arc::new(tern_client::wire::crypto_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?;
    let verifier: Arc<dyn ServerCertVerifier> = Arc::<Pin>::clone(pin);
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// The configurations of one worker's connections, made when first needed: one for each shard and kind of visit.
pub(super) struct Dialects {
    pin: Arc<Pin>,
    transport: Arc<TransportConfig>,
    quic: BTreeMap<Option<(u16, u16)>, [quinn_proto::ClientConfig; 2]>,
    tcp: BTreeMap<Option<(u16, u16)>, [Arc<ClientConfig>; 2]>,
    tickets_max: usize,
}

impl Dialects {
    pub(super) fn new(pin: Arc<Pin>, peers: usize) -> Self {
        Self {
            pin,
            transport: Arc::new(transport()),
            quic: BTreeMap::new(),
            tcp: BTreeMap::new(),
            tickets_max: peers.max(1) * TICKETS_PER_PEER,
        }
    }

    /// For a QUIC connection to the user's home.
    pub(super) fn quic(&mut self, home: Option<(u16, u16)>, visit: Visit) -> io::Result<quinn_proto::ClientConfig> {
        if !self.quic.contains_key(&home) {
            let [first, again] = self.pair(&[ALPN_QUIC.to_vec()], true)?;
            let both = [self.quic_config(first, home)?, self.quic_config(again, home)?];
            self.quic.insert(home, both);
        }
        let pair = self.quic.get(&home).ok_or_else(|| io::Error::other("no QUIC configuration"))?;
        Ok(pair[visit as usize].clone())
    }

    /// For a TCP connection.
    pub(super) fn tcp(&mut self, home: Option<(u16, u16)>, visit: Visit) -> io::Result<Arc<ClientConfig>> {
        if !self.tcp.contains_key(&home) {
            let both = self.pair(&[b"http/1.1".to_vec()], false)?.map(Arc::new);
            self.tcp.insert(home, both);
        }
        let pair = self.tcp.get(&home).ok_or_else(|| io::Error::other("no TLS configuration"))?;
        Ok(Arc::clone(&pair[visit as usize]))
    }

    /// For first visits and for returns, with the same tickets.
    fn pair(&self, alpn: &[Vec<u8>], early_data: bool) -> io::Result<[ClientConfig; 2]> {
        let tickets = Tickets::new(self.tickets_max);
        let mut first = client_config(&self.pin)?;
        first.alpn_protocols = alpn.to_vec();
        first.enable_early_data = early_data;
        let mut again = first.clone();
        first.resumption = Resumption::store(Arc::new(Collect(Arc::clone(&tickets))));
        again.resumption = Resumption::store(Arc::new(Spend(tickets)));
        Ok([first, again])
    }

    fn quic_config(&self, tls: ClientConfig, home: Option<(u16, u16)>) -> io::Result<quinn_proto::ClientConfig> {
        let crypto = QuicClientConfig::try_from(Arc::new(tls)).map_err(io::Error::other)?;
        let mut config = quinn_proto::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::clone(&self.transport));
        if let Some(home) = home {
            config.initial_dst_cid_provider(Arc::new(move || first_connection_id(home)));
        }
        Ok(config)
    }
}

/// Names the shard in its first byte.
///
/// # Source
/// docs/wire-format.md, "Choosing the connection id".
fn first_connection_id((shard, shards): (u16, u16)) -> ConnectionId {
    let mut id = [0; 8];
    // Without randomness the id is guessable, which costs nothing: it is public, and the server picks the lasting one.
    let _ = getrandom::fill(&mut id);
    if let Some(first) = id.first_mut() {
        *first = steer(*first, shard, shards);
    }
    ConnectionId::new(&id)
}

fn steer(random: u8, shard: u16, shards: u16) -> u8 {
    let shards = u8::try_from(shards.clamp(1, 128)).unwrap_or(128);
    let shard = u8::try_from(shard % u16::from(shards)).unwrap_or(0);
    random % (u8::MAX / shards).max(1) * shards + shard
}

/// What the SDK offers, with less room for what a peer sends.
fn transport() -> TransportConfig {
    let lanes = u32::try_from(DELIVERY_LANE_COUNT).unwrap_or(u32::MAX);
    let mut config = TransportConfig::default();
    config
        .keep_alive_interval(Some(tern_client::wire::KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(lanes))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_SIZE))
        .datagram_send_buffer_size(DATAGRAM_BUFFER_SIZE)
        .allow_spin(false)
        .mtu_discovery_config(None);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_names_the_home_shard_whatever_the_random_byte() {
        for shards in 1..=64 {
            for shard in 0..shards {
                assert!((0..=255).all(|random| u16::from(steer(random, shard, shards)) % shards == shard));
            }
        }
    }

    #[test]
    fn another_certificate_than_the_first_is_refused() {
        let pin = Pin::new();
        let name = ServerName::try_from("localhost").expect("a name");
        let check = |bytes: &[u8]| {
            pin.verify_server_cert(&CertificateDer::from(bytes.to_vec()), &[], &name, &[], UnixTime::now()).is_ok()
        };
        assert!(check(b"first") && check(b"first") && !check(b"second"));
    }
}
