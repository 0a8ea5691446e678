//! The wire itself: raw connections over QUIC or WebSocket, whole frames in and out, nothing remembered.
//! For the SDK's own session, for load generators and for tests that send what no honest client would. Never retries or resumes.

mod address;
mod dial;
mod frames;
mod link;
mod quic;
mod trust;
mod websocket;

pub use address::{AddressError, ServerAddress};
pub use dial::{Dialer, WireError};
pub use frames::FrameReader;
pub use link::{Ending, Incoming, Lane, Link, LinkClosed, LinkSender, LinkTransport};
pub use quic::{Home, KEEP_ALIVE, QuicStart};
pub use trust::{KeyChanged, Trust, TrustError, crypto_provider};
pub use websocket::WebSocket;
