//! What measures a server from outside. Knows only what a client can see; never looks into the server.
#![forbid(unsafe_code)]

pub mod ledger;
