//! Datagrams that the kernel dropped before anybody saw them: the usual reason of a slow QUIC run, and invisible to both ends.
//! Counts of the whole machine from `/proc/net/snmp` and `snmp6`, and of one port's sockets from `/proc/net/udp` and `udp6`.

use serde::{Deserialize, Serialize};

use super::machine::text;

/// Datagrams dropped between two looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpDrops {
    /// Whole machine: a receive buffer was full.
    pub receive_buffer: u64,
    /// Whole machine: a send buffer was full.
    pub send_buffer: u64,
    /// Sockets of the server's port: dropped on arrival.
    pub server_port: u64,
}

/// Counts drops from `start` on.
#[derive(Debug, Clone, Copy)]
pub struct UdpMeter {
    port: Option<u16>,
    from: UdpDrops,
}

impl UdpMeter {
    /// Looks for the first time; `port` is the server's, if it is on this machine.
    #[must_use]
    pub fn start(port: Option<u16>) -> Self {
        Self { port, from: UdpDrops::read(port) }
    }

    /// What was dropped so far.
    #[must_use]
    pub fn drops(&self) -> UdpDrops {
        let now = UdpDrops::read(self.port);
        UdpDrops {
            receive_buffer: now.receive_buffer.saturating_sub(self.from.receive_buffer),
            send_buffer: now.send_buffer.saturating_sub(self.from.send_buffer),
            server_port: now.server_port.saturating_sub(self.from.server_port),
        }
    }
}

impl UdpDrops {
    fn read(port: Option<u16>) -> Self {
        let (v4, v6) = (text("/proc/net/snmp"), text("/proc/net/snmp6"));
        let server_port =
            port.map_or(0, |port| port_drops(&text("/proc/net/udp"), port) + port_drops(&text("/proc/net/udp6"), port));
        Self {
            receive_buffer: snmp(&v4, "RcvbufErrors") + snmp6(&v6, "Udp6RcvbufErrors"),
            send_buffer: snmp(&v4, "SndbufErrors") + snmp6(&v6, "Udp6SndbufErrors"),
            server_port,
        }
    }
}

/// One value of the two `Udp:` lines (names, values) of `/proc/net/snmp`.
pub(super) fn snmp(text: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

/// One value of `/proc/net/snmp6`.
pub(super) fn snmp6(text: &str, name: &str) -> u64 {
    let mut pairs = text.lines().map(|line| line.split_whitespace());
    let found = pairs.find_map(|mut words| (words.next() == Some(name)).then(|| words.next()).flatten());
    found.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// The last column (`drops`) of a port's sockets in `/proc/net/udp` or `udp6`.
pub(super) fn port_drops(text: &str, port: u16) -> u64 {
    let suffix = format!(":{port:04X}");
    let lines = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = lines.filter(|words| words.get(1).is_some_and(|local| local.ends_with(&suffix)));
    ours.filter_map(|words| words.last()?.parse::<u64>().ok()).sum()
}
