//! What a bad network is to be like: impairments of each direction and what happens when. Only data; nothing here acts.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    /// From client to server.
    Up,
    /// From server to client.
    Down,
}

impl Direction {
    /// Both, for loops.
    pub(super) const BOTH: [Self; 2] = [Self::Up, Self::Down];

    /// The other one.
    pub(super) const fn reverse(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

/// One of something for each direction.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Both<T> {
    pub(super) up: T,
    pub(super) down: T,
}

impl<T> Both<T> {
    pub(super) const fn of(&self, direction: Direction) -> &T {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    pub(super) const fn of_mut(&mut self, direction: Direction) -> &mut T {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}

/// Packets that arrive late and hold nobody else back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reorder {
    /// How many: 0 none, 1 all.
    pub probability: f64,
    /// How much later than they would have.
    pub extra: Duration,
}

/// What one direction does to its packets. Queue, bandwidth and order are each flow's own: clients do not share an access line. A flow is a
/// TCP connection, or the address of a UDP socket: QUIC clients that are to have lines of their own need sockets of their own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Impairment {
    /// How many packets are lost, behind the bottleneck: 0 none, 1 all.
    pub loss: f64,
    /// How many packets arrive twice.
    pub duplicate: f64,
    /// Packets that fall behind others.
    pub reorder: Reorder,
    /// From one end to the other.
    pub delay: Duration,
    /// Up to this much more, evenly spread. Packets do not overtake each other by it: real jitter is waiting in line.
    pub jitter: Duration,
    /// Unit: bytes per second, headers of IP, UDP and TCP included. `None`: no bottleneck.
    pub bandwidth: Option<u64>,
    /// Bytes that may wait at the bottleneck; what comes on top is dropped. Unit: bytes.
    pub queue_max: u64,
}

impl Impairment {
    /// A wire that does nothing to its packets.
    pub const NONE: Self = Self {
        loss: 0.0,
        duplicate: 0.0,
        reorder: Reorder { probability: 0.0, extra: Duration::ZERO },
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        bandwidth: None,
        queue_max: 256 * 1024,
    };

    /// Loss and delay, nothing else.
    #[must_use]
    pub const fn lossy(loss: f64, delay: Duration) -> Self {
        Self { loss, delay, ..Self::NONE }
    }

    fn check(&self) -> Result<(), &'static str> {
        let parts = [self.loss, self.duplicate, self.reorder.probability];
        if !parts.iter().all(|part| (0.0..=1.0).contains(part)) {
            return Err("loss, duplicate and reorder are probabilities: give each a number from 0 to 1");
        }
        if self.bandwidth == Some(0) {
            return Err("a bandwidth of 0 carries nothing: leave it out, or use a blackout");
        }
        Ok(())
    }
}

/// Something that happens to all flows at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// Nothing passes, either way, for this long.
    Blackout(Duration),
    /// The server sees every client at another port from here on, as when a NAT forgets its bindings. A TCP connection does not survive that.
    AddressChange,
    /// The network is like this from here on.
    Change {
        /// From clients to the server.
        up: Impairment,
        /// From the server to clients.
        down: Impairment,
    },
}

/// A bad network.
#[derive(Debug, Clone, PartialEq)]
pub struct ChaosPlan {
    /// Decides every fate.
    pub seed: u64,
    /// Where the proxy listens; it chooses free ports.
    pub listen: IpAddr,
    /// Where the server is, on UDP and on TCP.
    pub server: SocketAddr,
    /// From clients to the server.
    pub up: Impairment,
    /// From the server to clients.
    pub down: Impairment,
    /// What happens when, counted from the start of the proxy.
    pub schedule: Vec<(Duration, Event)>,
}

impl ChaosPlan {
    /// The same loss and delay in both directions; the round trip is twice `delay`.
    #[must_use]
    pub const fn lossy(seed: u64, server: SocketAddr, loss: f64, delay: Duration) -> Self {
        let impairment = Impairment::lossy(loss, delay);
        let listen = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self { seed, listen, server, up: impairment, down: impairment, schedule: Vec::new() }
    }

    /// Everything that can be wrong with a plan.
    pub(super) fn check(&self) -> io::Result<()> {
        let changes = self.schedule.iter().filter_map(|(_, event)| match event {
            Event::Change { up, down } => Some([up, down]),
            Event::Blackout(_) | Event::AddressChange => None,
        });
        let mut all = [&self.up, &self.down].into_iter().chain(changes.flatten());
        all.try_for_each(Impairment::check).map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))
    }
}
