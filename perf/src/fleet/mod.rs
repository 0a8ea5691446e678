//! The load generator: many thousands of virtual clients on a few threads, without a task or a thread for each. What the peers do comes from
//! [`Workload`]s with intended times (open loop: nothing waits for an answer before the next one leaves), and every latency counts from them.
//! Each peer verifies what it gets: dense seq, whole bodies, nothing twice. Never looks into the server.

mod accounting;
mod asks;
pub mod body;
mod book;
mod buckets;
mod connection;
mod cutter;
mod deadline;
mod descriptors;
mod handle;
mod inbound;
mod liveness;
mod outbox;
mod peer;
mod plan;
mod quic;
mod tally;
mod tickets;
pub(crate) mod tls;
mod udp;
mod verify;
mod websocket;
mod wire;
mod worker;

pub use handle::{Fleet, WaitError};
pub use plan::{Account, Action, Arrival, Carrier, FleetPlan, PeerId, Proxy, Request, Workload};
pub use tally::{Counts, MessageTimes, Second, Settled, Tally};
