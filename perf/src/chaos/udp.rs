//! The UDP side: one upstream socket for each client address, as a NAT has, and a line of datagrams that wait for their moment.
//! Reads one datagram at a time without GRO, so that each meets its own fate. ECN marks do not survive, as on many paths.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};

use super::counters::{Counters, Traffic};
use super::fate::{Concern, Dice};
use super::line::Pipe;
use super::plan::{Both, Direction};
use super::proxy::{Place, Readiness, Turn};

/// Clients at a time. Unit: flows. Each takes a file descriptor.
const FLOWS_MAX: usize = 16 * 1024;
/// Silence after which a flow is forgotten. Unit: time. Source: RFC 4787, REQ-5: "MUST NOT expire in less than two minutes".
const FLOW_IDLE: Duration = Duration::from_secs(120);
/// Bytes of all datagrams on their way. Unit: bytes. A second of 512 Mbit/s.
const WAITING_SIZE_MAX: usize = 64 * 1024 * 1024;
/// Largest datagram. Unit: bytes.
const DATAGRAM_SIZE_MAX: usize = 65_535;
/// Headers of IPv4 and UDP, for the bottleneck. Unit: bytes.
const HEADER_SIZE: usize = 28;
/// Datagrams read from one socket before others have their turn. Unit: datagrams.
const BURST: usize = 64;
/// Receive buffer asked of the kernel, which gives what it allows. Unit: bytes.
const RECEIVE_BUFFER_SIZE: usize = 4 * 1024 * 1024;

#[derive(Debug)]
struct Flow {
    client: SocketAddr,
    upstream: UdpSocket,
    pipes: Both<Pipe>,
    dice: Both<Dice>,
    active_at: Duration,
}

#[derive(Debug)]
struct Waiting {
    flow: usize,
    direction: Direction,
    bytes: Box<[u8]>,
}

/// All UDP flows.
#[derive(Debug)]
pub(super) struct UdpSide {
    seed: u64,
    server: SocketAddr,
    listener: UdpSocket,
    flows: BTreeMap<usize, Flow>,
    by_client: BTreeMap<SocketAddr, usize>,
    opened: usize,
    /// By arrival time, then in the order in which they came in.
    waiting: BTreeMap<(Duration, u64), Waiting>,
    waiting_size: usize,
    taken_in: u64,
    /// Sum of all flows' digests: the order in which flows are served does not matter.
    digest: u64,
    /// When silent flows are looked for next.
    expires_at: Duration,
    buffer: Box<[u8]>,
}

impl UdpSide {
    pub(super) fn new(seed: u64, listen: IpAddr, server: SocketAddr) -> io::Result<Self> {
        let listener = bind(SocketAddr::new(listen, 0))?;
        Ok(Self {
            seed,
            server,
            listener,
            flows: BTreeMap::new(),
            by_client: BTreeMap::new(),
            opened: 0,
            waiting: BTreeMap::new(),
            waiting_size: 0,
            taken_in: 0,
            digest: 0,
            expires_at: FLOW_IDLE,
            buffer: vec![0; DATAGRAM_SIZE_MAX].into_boxed_slice(),
        })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.listener, token, Interest::READABLE)
    }

    /// When the next datagram has to go out.
    pub(super) fn next_at(&self) -> Option<Duration> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    /// Reads what clients sent.
    pub(super) fn read_clients(&mut self, turn: &mut Turn<'_>) -> Readiness {
        for _ in 0..BURST {
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = self.listener.recv_from(&mut buffer);
            if let Ok((size, client)) = received {
                match self.flow_of(client, turn) {
                    Some(flow) => self.pass(flow, Direction::Up, buffer.get(..size).unwrap_or_default(), turn),
                    None => turn.counters.refused += 1,
                }
            }
            self.buffer = buffer;
            if let Err(error) = received
                && stops(&error, turn.counters)
            {
                return Readiness::Drained;
            }
        }
        Readiness::More
    }

    /// Reads what the server sent to one client.
    pub(super) fn read_server(&mut self, flow: usize, turn: &mut Turn<'_>) -> Readiness {
        for _ in 0..BURST {
            let Some(upstream) = self.flows.get(&flow).map(|flow| &flow.upstream) else { return Readiness::Drained };
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = upstream.recv(&mut buffer);
            if let Ok(size) = received {
                self.pass(flow, Direction::Down, buffer.get(..size).unwrap_or_default(), turn);
            }
            self.buffer = buffer;
            if let Err(error) = received
                && stops(&error, turn.counters)
            {
                return Readiness::Drained;
            }
        }
        Readiness::More
    }

    /// Sends everything whose time has come. A full socket buffer loses it, as a full queue does.
    pub(super) fn flush(&mut self, turn: &mut Turn<'_>) {
        while let Some(entry) = self.waiting.first_entry().filter(|entry| entry.key().0 <= turn.now) {
            let Waiting { flow, direction, bytes } = entry.remove();
            self.waiting_size -= bytes.len();
            let Some(flow) = self.flows.get(&flow) else { continue };
            let sent = match direction {
                Direction::Up => flow.upstream.send(&bytes),
                Direction::Down => self.listener.send_to(&bytes, flow.client),
            };
            turn.counters.socket_errors += u64::from(sent.is_err());
        }
    }

    /// Every flow continues from another port. What the server sends to the old one is lost, as behind a NAT that forgot it.
    pub(super) fn change_addresses(&mut self, turn: &mut Turn<'_>) {
        for (number, flow) in &mut self.flows {
            match upstream(self.server, turn.registry, Place::UdpServer(*number).token()) {
                Ok(fresh) => {
                    flow.upstream = fresh;
                    turn.counters.address_changes += 1;
                }
                Err(_) => turn.counters.socket_errors += 1,
            }
        }
    }

    /// Forgets who was silent for too long.
    pub(super) fn expire(&mut self, turn: &mut Turn<'_>) {
        if turn.now < self.expires_at {
            return;
        }
        self.expires_at = turn.now + FLOW_IDLE / 4;
        let silent = |flow: &Flow| turn.now.saturating_sub(flow.active_at) > FLOW_IDLE;
        let expired: Vec<_> = self.flows.iter().filter(|(_, flow)| silent(flow)).map(|(number, _)| *number).collect();
        for number in expired {
            if let Some(flow) = self.flows.remove(&number) {
                self.by_client.remove(&flow.client);
                turn.counters.flows_ended += 1;
            }
        }
    }

    /// Every fate so far.
    pub(super) const fn digest(&self) -> u64 {
        self.digest
    }

    /// Datagrams that came to one of these sockets and found its buffer full. Unknown (0) where there is no `/proc`.
    pub(super) fn kernel_dropped(&self) -> u64 {
        let upstreams = self.flows.values().map(|flow| &flow.upstream);
        let ports = upstreams.chain([&self.listener]).filter_map(|socket| Some(socket.local_addr().ok()?.port()));
        let ports: BTreeSet<u16> = ports.collect();
        let table = |path| std::fs::read_to_string(path).unwrap_or_default();
        let tables = ["/proc/self/net/udp", "/proc/self/net/udp6"].map(table);
        let sockets = tables.iter().flat_map(|table| table.lines().filter_map(dropped));
        sockets.filter(|(port, _)| ports.contains(port)).map(|(_, dropped)| dropped).sum()
    }

    fn flow_of(&mut self, client: SocketAddr, turn: &mut Turn<'_>) -> Option<usize> {
        if let Some(flow) = self.by_client.get(&client) {
            return Some(*flow);
        }
        let number = self.opened;
        if self.flows.len() >= FLOWS_MAX {
            return None;
        }
        let upstream = upstream(self.server, turn.registry, Place::UdpServer(number).token()).ok()?;
        let dice = |direction| Dice::new(self.seed, number as u64, direction, Concern::Datagram);
        let dice = Both { up: dice(Direction::Up), down: dice(Direction::Down) };
        self.flows.insert(number, Flow { client, upstream, pipes: Both::default(), dice, active_at: turn.now });
        self.by_client.insert(client, number);
        self.opened += 1;
        turn.counters.udp_flows += 1;
        Some(number)
    }

    fn pass(&mut self, number: usize, direction: Direction, datagram: &[u8], turn: &mut Turn<'_>) {
        let Some(flow) = self.flows.get_mut(&number) else { return };
        flow.active_at = turn.now;
        let before = flow.digest();
        let fate = flow.dice.of_mut(direction).roll(turn.weather.line(direction));
        self.digest = self.digest.wrapping_sub(before).wrapping_add(flow.digest());
        let (size, way) = (datagram.len() + HEADER_SIZE, (turn.weather, direction));
        let pipe = flow.pipes.of_mut(direction);
        let passage = pipe.offer(turn.now, size, fate, way, traffic(turn.counters, direction));
        let Some(passage) = passage else { return };
        for _ in 0..passage.copies {
            if self.waiting_size + datagram.len() > WAITING_SIZE_MAX {
                turn.counters.refused += 1;
                return;
            }
            self.waiting_size += datagram.len();
            self.taken_in += 1;
            let waiting = Waiting { flow: number, direction, bytes: datagram.into() };
            self.waiting.insert((passage.at, self.taken_in), waiting);
        }
    }
}

impl Flow {
    const fn digest(&self) -> u64 {
        self.dice.up.digest().wrapping_add(self.dice.down.digest().rotate_left(1))
    }
}

/// Local port and drops of one line of the kernel's table: `sl local_address ... drops`, the port in hexadecimal.
fn dropped(line: &str) -> Option<(u16, u64)> {
    let mut words = line.split_whitespace();
    let (_address, port) = words.nth(1)?.rsplit_once(':')?;
    Some((u16::from_str_radix(port, 16).ok()?, words.last()?.parse().ok()?))
}

/// Whether a read that failed means that there is nothing more. A datagram that nobody took is reported by the next read.
fn stops(error: &io::Error, counters: &mut Counters) -> bool {
    if error.kind() == io::ErrorKind::WouldBlock {
        return true;
    }
    counters.socket_errors += 1;
    !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused)
}

const fn traffic(counters: &mut Counters, direction: Direction) -> &mut Traffic {
    match direction {
        Direction::Up => &mut counters.udp_up,
        Direction::Down => &mut counters.udp_down,
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM.nonblocking(), None)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_SIZE)?;
    socket.bind(&address.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

/// A socket on a port of its own that speaks to the server only.
fn upstream(server: SocketAddr, registry: &Registry, token: Token) -> io::Result<UdpSocket> {
    let any = match server.ip() {
        ip if ip.is_loopback() => ip,
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    };
    let mut socket = bind(SocketAddr::new(any, 0))?;
    socket.connect(server)?;
    registry.register(&mut socket, token, Interest::READABLE)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_names_port_and_drops() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n \
                     1101: 0100007F:1D13 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 77581 2 ffff8881 42";
        assert_eq!(table.lines().filter_map(dropped).collect::<Vec<_>>(), [(7_443, 42)]);
    }
}
