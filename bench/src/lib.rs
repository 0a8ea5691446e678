//! What the benches share: the hot paths of the server, set up and ready to be watched by a clock or by callgrind.
//! Never reaches into a crate's insides: what is measured is what the server runs.
#![forbid(unsafe_code)]

mod fixture;
mod group;
mod log;
mod message;
mod meter;
pub mod paths;
mod quic_clients;
mod quic_crowd;
mod room;
mod site;
mod storage;
mod websocket_crowd;

pub use fixture::{Fixture, Login};
pub use group::Group;
pub use log::MemoryLog;
pub use message::{event, send};
pub use meter::{Meter, Nobody, Stopwatch};
pub use quic_clients::QuicClients;
pub use quic_crowd::QuicCrowd;
pub use room::Room;
pub use site::Site;
pub use storage::Storage;
pub use websocket_crowd::WebSocketCrowd;
