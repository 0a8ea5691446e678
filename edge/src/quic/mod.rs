//! QUIC on a shard: one endpoint, one socket, many connections, all driven by the shard's own loop through quinn-proto.
//! Never spawns, never waits, never decides a chat rule.

mod admission;
mod assembler;
mod cid;
mod config;
mod connection;
mod deadline;
mod endpoint;
#[expect(unsafe_code, reason = "prefetching has no safe form")]
mod prefetch;
mod socket;
mod udp;

pub(crate) use assembler::code_of;
pub use config::{ALPN, UnsuitableTls};
pub(crate) use config::{Keys, endpoint as endpoint_config, server as server_config};
pub(crate) use connection::{FLUSH_TIMEOUT, FRAME_TIMEOUT};
pub(crate) use deadline::{DEADLINES_PER_TURN, Deadlines};
pub(crate) use endpoint::Quic;
pub(crate) use socket::{BindError, PortLock, SocketGroup, bind_group};
