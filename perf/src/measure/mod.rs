//! What a run stood on and what it cost: the machine, the processes, the neighbours, and the floor below which nothing here can go.
//! Reads `/proc` and its own clocks; never asks the server.

pub mod floor;
mod kernel;
mod machine;
mod pressure;
mod process;
mod udp;

pub use kernel::kernel_tcp_bytes;
pub use machine::Machine;
pub use pressure::{PRESSURE_MAX, Pace, Pressure, PressureMeter};
pub use process::{ProcessMeter, Sample, ThreadUse, Usage};
pub use udp::{UdpDrops, UdpMeter};

#[cfg(test)]
mod tests;
