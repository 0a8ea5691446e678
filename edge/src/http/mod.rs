//! The public HTTP side: TLS listener, the API's frame (request ids, errors, CORS), the upgrade to WebSocket, the page for people.
//! Never serves health or metrics: those are on the admin listener.

mod body;
mod connection;
mod count;
mod listener;
mod problem;
mod router;
mod upgrade;

pub use body::{BODY_SIZE_MAX, Json};
pub use connection::{Paced, Timeouts, serve_connection};
pub use count::{HttpCounters, Route, STATUS_CLASSES};
pub use listener::{Listener, TcpSocketError, bind};
pub use problem::Problem;
pub use router::{RouterParts, router};
pub use upgrade::{Sockets, Upgrades};

#[cfg(test)]
mod tests;
