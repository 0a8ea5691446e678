//! The floors of this machine: what the parts of a delivery cost when nothing else is done. A figure of a run is divided by these, taken in
//! the same run, because absolute times move by 1.4-2x on shared machines. Every part has a bounded count of operations.
//!
//! Times are wall-clock medians over short batches: a batch in which a neighbour took the CPU is one of many and does not move the median.

mod aead;
mod disk;
mod hop;
mod socket;
mod spread;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

pub use spread::Spread;

/// How thoroughly floors are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// About a second, for beside a run.
    Quick,
    /// About five seconds, for the floors themselves.
    Full,
}

impl Effort {
    /// Operations of one part: `full` of them, or a fifth.
    const fn count(self, full: u32) -> u32 {
        match self {
            Self::Quick => full / 5,
            Self::Full => full,
        }
    }
}

/// The floors of this machine. Unit of every [`Spread`]: nanoseconds for one operation.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Floor {
    /// AES-128-GCM of 220 bytes in place, each with another of 10,000 keys: their contexts come from memory, as in a fan-out.
    pub aead_seal_cold: Spread,
    /// The same with one key.
    pub aead_seal_hot: Spread,
    /// The way back, with 10,000 keys.
    pub aead_open_cold: Spread,
    /// One `sendto` of 250 bytes, each to another of 10,000 loopback addresses; a socket filter drops them on arrival.
    pub udp_send: Spread,
    /// One `recvfrom` of 250 bytes that wait in the buffer.
    pub udp_recv: Spread,
    /// One `send` of 208 bytes, each on another of up to 1,000 loopback connections, receipt by the kernel included.
    pub tcp_send: Spread,
    /// `fdatasync` after 4 KiB were written into a preallocated file full of zeros.
    pub fdatasync: Spread,
    /// The same, its write included, after 2 ms in which nothing was written: what a message finds that comes alone.
    pub fdatasync_rested: Spread,
    /// Whether the file system let it be written past the page cache (`O_DIRECT`), as the journal does.
    pub fdatasync_direct: bool,
    /// From one thread to another through a slot that both look at all the time; half of a round trip.
    pub ring_hop_spin: Spread,
    /// The same where the other one sleeps and is woken by an eventfd.
    pub ring_hop_eventfd: Spread,
    /// There and back between two threads over UDP on loopback, with sockets that block: two loopback trips.
    pub udp_round_trip: Spread,
    /// The same after 2 ms in which both threads slept.
    pub udp_round_trip_rested: Spread,
}

/// Rest before each operation of a floor that is not busy. Unit: time. 500 a second.
const PACE: Duration = Duration::from_millis(2);

/// Nanoseconds in a microsecond.
const NANOS_PER_MICRO: f64 = 1e3;

impl Floor {
    /// Measures all of it in about five seconds; the disk is that of `directory`.
    ///
    /// # Errors
    /// When sockets, threads or the file are not to be had.
    pub fn measure(directory: &Path) -> io::Result<Self> {
        Self::with(Effort::Full, directory)
    }

    /// Measures all of it in about a second; the disk is that of `directory`.
    ///
    /// # Errors
    /// When sockets, threads or the file are not to be had.
    pub fn quick(directory: &Path) -> io::Result<Self> {
        Self::with(Effort::Quick, directory)
    }

    fn with(effort: Effort, directory: &Path) -> io::Result<Self> {
        let (aead_seal_cold, aead_open_cold) = aead::cold(effort)?;
        let disk::Syncs { busy: fdatasync, rested: fdatasync_rested, direct: fdatasync_direct } =
            disk::fdatasync(effort, directory)?;
        Ok(Self {
            aead_seal_cold,
            aead_seal_hot: aead::hot(effort)?,
            aead_open_cold,
            udp_send: socket::udp_send(effort)?,
            udp_recv: socket::udp_recv(effort)?,
            tcp_send: socket::tcp_send(effort)?,
            fdatasync,
            fdatasync_rested,
            fdatasync_direct,
            ring_hop_spin: hop::spin(effort)?,
            ring_hop_eventfd: hop::eventfd(effort)?,
            udp_round_trip: hop::udp(effort.count(5_000), Duration::ZERO)?,
            udp_round_trip_rested: hop::udp(effort.count(500), PACE)?,
        })
    }

    /// One recipient of a fan-out over QUIC, its ACK included: seal and open with keys that are not in the cache, one send, one receive.
    /// Unit: microseconds.
    #[must_use]
    pub fn quic_recipient_us(&self) -> f64 {
        let parts = [&self.aead_seal_cold, &self.aead_open_cold, &self.udp_send, &self.udp_recv];
        parts.iter().map(|part| part.p50).sum::<f64>() / NANOS_PER_MICRO
    }

    /// One recipient of a fan-out over WebSocket: one plain TCP send. Unit: microseconds.
    #[must_use]
    pub fn wss_recipient_us(&self) -> f64 {
        self.tcp_send.p50 / NANOS_PER_MICRO
    }

    /// A durable message from send to acknowledgement: the median `fdatasync` and two loopback trips. Unit: microseconds.
    #[must_use]
    pub fn durable_round_trip_us(&self) -> f64 {
        (self.fdatasync.p50 + self.udp_round_trip.p50) / NANOS_PER_MICRO
    }

    /// The same on a machine that has slept for 2 ms before each step. Unit: microseconds.
    #[must_use]
    pub fn durable_round_trip_rested_us(&self) -> f64 {
        (self.fdatasync_rested.p50 + self.udp_round_trip_rested.p50) / NANOS_PER_MICRO
    }

    /// Every part with its spread, by name. Unit: nanoseconds.
    #[must_use]
    pub const fn spreads(&self) -> [(&'static str, &Spread); 12] {
        [
            ("aead_seal_cold", &self.aead_seal_cold),
            ("aead_seal_hot", &self.aead_seal_hot),
            ("aead_open_cold", &self.aead_open_cold),
            ("udp_send", &self.udp_send),
            ("udp_recv", &self.udp_recv),
            ("tcp_send", &self.tcp_send),
            ("fdatasync", &self.fdatasync),
            ("ring_hop_spin", &self.ring_hop_spin),
            ("ring_hop_eventfd", &self.ring_hop_eventfd),
            ("udp_round_trip", &self.udp_round_trip),
            ("fdatasync_rested", &self.fdatasync_rested),
            ("udp_round_trip_rested", &self.udp_round_trip_rested),
        ]
    }

    /// As an outcome carries them: medians; the unit is at the end of the name.
    #[must_use]
    pub fn figures(&self) -> BTreeMap<String, f64> {
        let us = |nanos: f64| nanos / NANOS_PER_MICRO;
        let figures = [
            ("aead_seal_cold_ns", self.aead_seal_cold.p50),
            ("aead_seal_hot_ns", self.aead_seal_hot.p50),
            ("aead_open_cold_ns", self.aead_open_cold.p50),
            ("udp_send_ns", self.udp_send.p50),
            ("udp_recv_ns", self.udp_recv.p50),
            ("tcp_send_ns", self.tcp_send.p50),
            ("fdatasync_p50_us", us(self.fdatasync.p50)),
            ("fdatasync_p99_us", us(self.fdatasync.p99)),
            ("ring_hop_spin_ns", self.ring_hop_spin.p50),
            ("ring_hop_eventfd_ns", self.ring_hop_eventfd.p50),
            ("udp_round_trip_p50_us", us(self.udp_round_trip.p50)),
            ("quic_recipient_us", self.quic_recipient_us()),
            ("wss_recipient_us", self.wss_recipient_us()),
            ("durable_round_trip_us", self.durable_round_trip_us()),
            ("durable_round_trip_rested_us", self.durable_round_trip_rested_us()),
        ];
        figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}
