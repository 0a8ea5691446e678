//! Everything of the binary `tern` that is not chat logic: threads, QUIC, WebSocket, HTTP API, TLS, configuration, metrics.
//! Never decides a chat rule; reads the clock in `clock` only.

pub mod config;
pub mod clock;
mod counters;
mod mailbox;
pub mod node;
mod quic;
mod ring;
mod runtime;
mod shard_thread;
mod slots;
pub mod store;
mod websocket;
