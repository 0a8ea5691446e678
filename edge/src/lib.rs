//! Everything of the binary `tern` that is not chat logic: threads, QUIC, WebSocket, HTTP API, TLS, configuration, metrics.
//! Never decides a chat rule; reads the clock in `clock` only.
#![deny(unsafe_code)]

pub mod admin;
mod agenda;
mod aside;
pub mod auth;
pub mod certificate;
pub mod cli;
pub mod clock;
pub mod config;
mod counters;
mod embedded;
pub mod http;
pub mod log;
mod mailbox;
pub mod metrics;
pub mod node;
mod quic;
pub mod ring;
mod runtime;
pub mod secret_file;
pub mod serve;
mod shard_thread;
mod slots;
pub mod store;
pub mod websocket;

pub use shard_thread::SteppedShard;
