//! Shards as clients meet them: real threads, real sockets on the loopback, stock clients, both drivers; only the store is a table in
//! memory. No test waits for a time to pass: each polls for its condition, with a deadline that only a failure reaches.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod client;
mod quic;
mod store;
mod websocket;
mod world;
