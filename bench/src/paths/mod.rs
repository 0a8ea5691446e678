//! Every hot path of the server as one thing that can be run and watched: by a clock in `benches/paths.rs`, by callgrind in
//! `benches/instructions`. What both run is the same code.

mod core;
mod frames;
mod path;
mod quic;
mod ring;
mod storage;
mod websocket;

pub use path::{Path, all};
