//! What measures a server from outside: starts it, loads it with real clients, and keeps the books. Knows only what a client can see;
//! never looks into the server.
#![forbid(unsafe_code)]

pub mod child;
pub mod ledger;
pub mod load;
