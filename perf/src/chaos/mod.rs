//! A bad network between clients and one server, without the kernel's help: loss, delay, duplicates, reordering, blackouts and address
//! changes for UDP and TCP alike, decided by a seed, so that a run can be repeated and QUIC and WebSocket meet the same weather.
//!
//! UDP is treated datagram by datagram. TCP ends at the proxy, and each direction is carried by a sender of its own making: segments are
//! lost, delayed and reordered by the very same dice, and the sender recovers as Linux does. What bytes of a stream suffer from a lost
//! segment, they suffer here: they wait for its retransmission, and everything behind them waits too.
//!
//! The TCP model: SACK (RFC 2018, RFC 6675), RACK-TLP (RFC 8985), the retransmission timer of RFC 6298 with Linux's minimum of 200 ms,
//! CUBIC (RFC 9438) counted in packets from an initial window of 10 (RFC 6928), a three-way handshake with SYNs that can be lost.
//! What it leaves out, and whom that helps:
//! - acknowledgements are never delayed, and Linux's own timer adds its 200 ms to the round trip instead of taking the larger: helps TCP;
//! - no F-RTO, no undo after a spurious retransmission, no HyStart: costs TCP under reordering and in bulk, nothing in a chat;
//! - no slow start after idle, no congestion response to a repaired tail, the window opens at once: helps TCP;
//! - losses are independent of each other: bursts hurt both, and a stream more;
//! - an address change answers a TCP sender with a reset, where many NATs would answer nothing: helps TCP.
//!
//! Never opens anything but the addresses of its plan; bounded by flows, by bytes on their way, and by what each connection may buffer.

mod congestion;
mod counters;
mod fate;
mod line;
mod plan;
mod proxy;
mod receiver;
mod relay;
mod rtt;
mod sender;
mod stream;
mod udp;

pub use counters::{Counters, Recovery, Traffic};
pub use plan::{ChaosPlan, Event, Impairment, Reorder};
pub use proxy::Chaos;
