//! What measures a server from outside: starts it, loads it with real clients, and keeps the books. Knows only what a client can see;
//! never looks into the server.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod chaos;
pub mod child;
pub mod cli;
pub mod fleet;
pub mod ledger;
pub mod load;
pub mod measure;
pub mod report;
pub mod scenario;
