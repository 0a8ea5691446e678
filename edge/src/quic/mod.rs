//! QUIC on a shard: one endpoint, one socket, many connections, all driven by the shard's own loop through quinn-proto.
//! Never spawns, never waits, never decides a chat rule.

mod cid;
mod config;
mod socket;

pub use config::{ALPN, UnsuitableTls};
pub(crate) use config::{Keys, endpoint as endpoint_config, server as server_config};
pub(crate) use socket::{BindError, PortLock, SocketGroup, bind_group};
