//! All that knows which runtime waits for the kernel: readiness of the UDP socket and the bell, readiness of TCP sockets, one deadline.
//! Nothing outside of this folder names a type of a runtime; nothing in it knows QUIC, TLS or chat.
//!
//! A runtime is a file here with a `Runtime` to run a shard in, a `Source` to wait for a descriptor, a `Sleep` to wait for a time and a
//! `spawn`, all of the same form; `local` picks between them, and everything else is written once on top of it.

mod driver;
#[cfg(feature = "glommio")]
#[expect(unsafe_code, reason = "glommio takes sockets only as raw descriptors")]
mod glommio;
mod kind;
mod local;
#[expect(unsafe_code, reason = "monoio lends its sockets only as raw descriptors")]
mod monoio;
mod tcp;
#[cfg(test)]
mod tests;

pub(crate) use driver::{Driver, UdpInterest};
pub use kind::DriverKind;
pub(crate) use kind::{Chosen, advice};
pub(crate) use local::Runtime;
pub(crate) use tcp::{Readiness, Tcp};
