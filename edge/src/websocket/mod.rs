//! WebSocket on a shard (RFC 6455, server role, binary messages only, no extensions): the codec, and the sessions that continue the
//! TLS connections which the control plane accepted.

pub mod codec;
mod session;
mod table;

pub(crate) use table::WebSockets;
