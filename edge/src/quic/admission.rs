//! Which handshakes are let in: how many at once, how many from one network, and when an address must be proved first. A handshake
//! costs as much as a hundred messages, so they are taken a few per turn. Never looks into a packet.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use quinn_proto::Incoming;

use super::config::INCOMING_MAX;

/// Handshakes in flight or waiting from which on an address must be proved with Retry. Unit: handshakes, per shard.
/// 256 take under 0.2 s of a core; honest storms pass and pay one more round trip.
const RETRY_FROM: usize = 256;
/// Handshakes in flight at once. Unit: handshakes, per shard. What quinn-proto keeps for each is about 25 KB.
const OPEN_MAX: usize = INCOMING_MAX;
/// Handshakes in flight or waiting from one network. Unit: handshakes. A carrier's NAT gateway may well send hundreds at once.
const NETWORK_OPEN_MAX: u32 = 1024;
/// A handshake that has waited for longer is ignored: the client has sent its first packet again or gone. Unit: time.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Handshakes taken in one turn. Unit: handshakes. 4 take about 1.5 ms, which everybody else's messages wait at most, and in which
/// the packets of the handshakes already begun must find room in the socket.
pub(super) const ACCEPTS_PER_TURN: usize = 4;

/// Where an address is from, as far as one holder can have many: IPv4 by /24, IPv6 by /56.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Network([u8; 7]);

impl Network {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                // Inside of ::/8, where no IPv6 client is.
                Self([0, 0, 0, 4, a, b, c])
            }
            IpAddr::V6(v6) => Self::of_v6(v6),
        }
    }

    const fn of_v6(address: Ipv6Addr) -> Self {
        let [a, b, c, d, e, f, g, ..] = address.octets();
        Self([a, b, c, d, e, f, g])
    }
}

/// What is to be done with a new handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Take it when its turn comes.
    Queue,
    /// Have it prove its address.
    Retry,
    /// Say nothing: it may try again by itself.
    Ignore,
}

/// Handshakes of one shard.
#[derive(Debug, Default)]
pub(super) struct Admission {
    queue: VecDeque<(Instant, Incoming)>,
    open: usize,
    /// Handshakes waiting and in flight by network. Only networks that have any.
    networks: BTreeMap<Network, u32>,
}

impl Admission {
    /// Judges a handshake by what is known before anything is spent on it.
    pub(super) fn judge(&self, incoming: &Incoming) -> Verdict {
        let network = Network::of(incoming.remote_address().ip());
        let from_network = self.networks.get(&network).copied().unwrap_or(0);
        self.judge_load(from_network, incoming.remote_address_validated() || !incoming.may_retry())
    }

    fn judge_load(&self, from_network: u32, proved: bool) -> Verdict {
        let load = self.open + self.queue.len();
        if load >= RETRY_FROM && !proved {
            Verdict::Retry
        } else if load >= OPEN_MAX || from_network >= NETWORK_OPEN_MAX {
            Verdict::Ignore
        } else {
            Verdict::Queue
        }
    }

    pub(super) fn push(&mut self, now: Instant, incoming: Incoming) {
        *self.networks.entry(Network::of(incoming.remote_address().ip())).or_default() += 1;
        self.queue.push_back((now, incoming));
    }

    /// The next handshake to take, and whether it has waited too long. It counts as in flight until [`Self::ended`].
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Incoming, bool)> {
        let (since, incoming) = self.queue.pop_front()?;
        self.open += 1;
        Some((incoming, now.saturating_duration_since(since) > WAIT_MAX))
    }

    /// A handshake that was popped has succeeded, failed or been dropped.
    pub(super) fn ended(&mut self, network: Network) {
        self.open = self.open.saturating_sub(1);
        if let Some(count) = self.networks.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.networks.remove(&network);
            }
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) const fn open(&self) -> usize {
        self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_holder_are_one_network() {
        let network = |text: &str| Network::of(text.parse().unwrap());
        assert_eq!(network("192.0.2.1"), network("192.0.2.254"));
        assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.9"));
        assert_ne!(network("192.0.2.1"), network("192.0.3.1"));
        assert_eq!(network("2001:db8:1:2ff::1"), network("2001:db8:1:200::9"));
        assert_ne!(network("2001:db8:1:100::1"), network("2001:db8:1:200::1"));
    }

    #[test]
    fn load_first_asks_for_a_proof_and_then_turns_away() {
        let mut admission = Admission::default();
        assert_eq!(admission.judge_load(0, false), Verdict::Queue);
        admission.open = RETRY_FROM;
        assert_eq!(admission.judge_load(0, false), Verdict::Retry);
        assert_eq!(admission.judge_load(0, true), Verdict::Queue);
        assert_eq!(admission.judge_load(NETWORK_OPEN_MAX, true), Verdict::Ignore);
        admission.open = OPEN_MAX;
        assert_eq!(admission.judge_load(0, true), Verdict::Ignore);
    }
}
