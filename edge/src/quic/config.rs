//! How this server speaks QUIC: the transport parameters, the limits on handshakes, and the keys that all shards share so that a
//! retried or rebound client may land anywhere. Never per connection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{hkdf, hmac};
use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{AckFrequencyConfig, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};

use super::cid::ShardCids;

/// The protocol that both sides name in the handshake.
pub const ALPN: &[u8] = b"tern/1";

/// A connection that is silent for this long is gone. Unit: time. Clients say something every 28 s at the latest.
const IDLE_TIMEOUT: VarInt = VarInt::from_u32(60_000);
/// Bytes of one stream that may be on their way to us. Unit: bytes. Two of the largest frames: one arrives while one is handled.
const STREAM_RECEIVE_WINDOW: u32 = 128 * 1024;
/// Bytes of all streams of a connection that may be on their way to us. Unit: bytes.
const RECEIVE_WINDOW: u32 = 128 * 1024;
/// Bytes that a connection may have sent and not yet had acknowledged. Unit: bytes. More waits in the core, where it is bounded.
const SEND_WINDOW: u64 = 128 * 1024;
/// Bytes of handshake that may arrive out of order. Unit: bytes. A hello with a post-quantum key is under 2 KiB.
const CRYPTO_BUFFER_SIZE: usize = 16 * 1024;
/// Bytes of datagrams that wait for us, and for the wire. Unit: bytes. They are typing and presence: old ones are worth nothing.
const DATAGRAM_BUFFER_SIZE: usize = 16 * 1024;
/// Handshakes that may wait to be looked at. Unit: handshakes, per shard. quinn-proto's own default is 65,536.
pub(crate) const INCOMING_MAX: usize = 4096;
/// Bytes kept for one of them. Unit: bytes. quinn-proto's own default is 10 MiB.
const INCOMING_BUFFER_SIZE: u64 = 64 * 1024;
/// Bytes kept for all of them. Unit: bytes. quinn-proto's own default is 100 MiB.
const INCOMING_BUFFER_SIZE_TOTAL: u64 = 8 * 1024 * 1024;
/// Packets after which the client is asked to acknowledge. Unit: packets.
/// Source: an acknowledgement costs this server as much as the message it acknowledges (4.6-6.2 us against 4.0-5.5 us measured).
const ACK_THRESHOLD: u32 = 10;

/// Packets out of order after which the client is asked to acknowledge at once. Unit: packets. 1 is what QUIC does without the extension;
/// its own default of 2 would keep the loss of a lone message from us for the client's whole delay.
const REORDERING: u32 = 1;

/// Secrets that every shard uses.
pub(crate) struct Keys {
    reset: Arc<hmac::Key>,
    token: Arc<hkdf::Prk>,
}

impl Keys {
    /// Both keys follow from one secret; each is separated from the other by its name.
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let reset = hmac::sign(&root, b"tern stateless reset");
        Self {
            reset: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset.as_ref())),
            token: Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, b"tern address token").extract(secret)),
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// A TLS configuration that QUIC cannot use: no TLS 1.3, no AES-128-GCM for the first packets, or a limit on early data that QUIC forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsuitableTls;

impl fmt::Display for UnsuitableTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QUIC needs TLS 1.3 with AES-128-GCM, and early data either off or of size u32::MAX")
    }
}

impl std::error::Error for UnsuitableTls {}

/// The endpoint configuration of one shard.
pub(crate) fn endpoint(keys: &Keys, shard: u16, shards: u16) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::clone(&keys.reset) as _);
    config.cid_generator(move || Box::new(ShardCids::new(shard, shards)));
    config
}

/// The server configuration of all shards. The protocol name is set here, whatever the TLS configuration says.
pub(crate) fn server(keys: &Keys, tls: &rustls::ServerConfig) -> Result<ServerConfig, UnsuitableTls> {
    if tls.max_early_data_size != 0 && tls.max_early_data_size != u32::MAX {
        return Err(UnsuitableTls);
    }
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicServerConfig::try_from(tls).map_err(|_| UnsuitableTls)?;
    let mut config = ServerConfig::new(Arc::new(crypto), Arc::clone(&keys.token) as _);
    config
        .transport_config(Arc::new(transport()))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BUFFER_SIZE)
        .incoming_buffer_size_total(INCOMING_BUFFER_SIZE_TOTAL);
    Ok(config)
}

fn transport() -> TransportConfig {
    let mut ack_frequency = AckFrequencyConfig::default();
    ack_frequency
        .ack_eliciting_threshold(VarInt::from_u32(ACK_THRESHOLD))
        .reordering_threshold(VarInt::from_u32(REORDERING));
    let mut config = TransportConfig::default();
    config
        // quinn-proto makes room for each stream that the peer may open: 100 + 100 cost 8 KB a connection.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(Some(IdleTimeout::from(IDLE_TIMEOUT)))
        .stream_receive_window(VarInt::from_u32(STREAM_RECEIVE_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(SEND_WINDOW)
        .crypto_buffer_size(CRYPTO_BUFFER_SIZE)
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_SIZE))
        .datagram_send_buffer_size(DATAGRAM_BUFFER_SIZE)
        // Probing costs 10 datagrams and 5.7 KB a handshake; a chat frame fits the minimum.
        .mtu_discovery_config(None)
        .initial_mtu(1200)
        .keep_alive_interval(None)
        .ack_frequency_config(Some(ack_frequency))
        .allow_spin(false);
    config
}

/// From the first packet to the end of the handshake. Unit: time.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
