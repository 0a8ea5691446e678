//! The TCP side: accepts clients, connects to the server for each, and lets their bytes through when the model says that they arrived.
//! Bounded by connections, and for each of them by the model's send buffer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

use super::plan::{Both, Direction};
use super::proxy::{Place, Readiness, Turn};
use super::stream::Stream;

/// Connections at a time. Unit: connections. Each takes two file descriptors.
const FLOWS_MAX: usize = 16 * 1024;
/// One read. Unit: bytes.
const READ_SIZE: usize = 16 * 1024;
/// Connections accepted before others have their turn. Unit: connections.
const BURST: usize = 64;
/// How long the server's end of a severed connection is kept, silent. Unit: time. Longer than any server waits for a sign of life.
const SILENCE: Duration = Duration::from_secs(90);
/// Severed server ends that are kept. Unit: connections. The oldest are closed beyond it.
const SILENT_MAX: usize = 4 * 1024;

/// One of the two sockets, by what it gives: the client's gives what goes up.
#[derive(Debug)]
struct Leg {
    socket: TcpStream,
    is_readable: bool,
    /// Read here, not yet taken at the other end.
    bytes: BytesMut,
    has_ended: bool,
    is_shut: bool,
}

impl Leg {
    fn new(socket: TcpStream) -> Self {
        Self { socket, is_readable: false, bytes: BytesMut::new(), has_ended: false, is_shut: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Relayed,
    /// The server never hears of the client again; the client hears when it next says something.
    Severed,
    /// The client is told at this time.
    Resets(Duration),
}

#[derive(Debug)]
struct Flow {
    legs: Both<Leg>,
    stream: Stream,
    fate: Fate,
    wakes_at: Option<Duration>,
}

/// What is left to do with a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Goes,
    Ended,
    /// To be cut off with a reset.
    Broken,
}

/// All TCP flows.
#[derive(Debug)]
pub(super) struct TcpSide {
    seed: u64,
    server: SocketAddr,
    listener: TcpListener,
    flows: BTreeMap<usize, Flow>,
    alarms: BTreeSet<(Duration, usize)>,
    accepted: usize,
    silent: VecDeque<(Duration, TcpStream)>,
    /// Sum of all flows' digests: the order in which flows are served does not matter.
    digest: u64,
}

impl TcpSide {
    pub(super) fn new(seed: u64, listen: SocketAddr, server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        Ok(Self {
            seed,
            server,
            listener,
            flows: BTreeMap::new(),
            alarms: BTreeSet::new(),
            accepted: 0,
            silent: VecDeque::new(),
            digest: 0,
        })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.listener, token, Interest::READABLE)
    }

    /// When a flow has something to do.
    pub(super) fn next_at(&self) -> Option<Duration> {
        self.alarms.first().map(|(at, _)| *at)
    }

    /// Takes new clients.
    pub(super) fn accept(&mut self, turn: &mut Turn<'_>) -> Readiness {
        for _ in 0..BURST {
            match self.listener.accept() {
                Ok((client, _)) if self.flows.len() < FLOWS_MAX => {
                    if self.open(client, turn).is_err() {
                        turn.counters.socket_errors += 1;
                    }
                }
                Ok(_) => turn.counters.refused += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Readiness::Drained,
                Err(_) => turn.counters.socket_errors += 1,
            }
        }
        Readiness::More
    }

    /// One of a flow's sockets can be read or written again.
    pub(super) fn ready(&mut self, number: usize, from: Direction, turn: &mut Turn<'_>) {
        if let Some(flow) = self.flows.get_mut(&number) {
            flow.legs.of_mut(from).is_readable = true;
        }
        self.pump(number, turn);
    }

    /// Everything whose time has come.
    pub(super) fn advance(&mut self, turn: &mut Turn<'_>) {
        while let Some((_, number)) = self.alarms.first().copied().filter(|(at, _)| *at <= turn.now) {
            self.alarms.pop_first();
            if let Some(flow) = self.flows.get_mut(&number) {
                flow.wakes_at = None;
            }
            self.pump(number, turn);
        }
        while self.silent.front().is_some_and(|(until, _)| *until <= turn.now || self.silent.len() > SILENT_MAX) {
            self.silent.pop_front();
        }
    }

    /// Cuts all connections from the server: it would see them come from another port, which TCP does not know.
    pub(super) fn change_addresses(&mut self, turn: &mut Turn<'_>) {
        for flow in self.flows.values_mut().filter(|flow| flow.fate == Fate::Relayed) {
            flow.fate = Fate::Severed;
            turn.counters.severed += 1;
        }
        // What is on its way to the server provokes the reset as well as what is said later.
        for number in self.flows.keys().copied().collect::<Vec<_>>() {
            self.pump(number, turn);
        }
    }

    /// Every fate so far.
    pub(super) const fn digest(&self) -> u64 {
        self.digest
    }

    fn open(&mut self, client: TcpStream, turn: &mut Turn<'_>) -> io::Result<()> {
        let number = self.accepted;
        let server = TcpStream::connect(self.server)?;
        let mut legs = Both { up: Leg::new(client), down: Leg::new(server) };
        for direction in Direction::BOTH {
            let socket = &mut legs.of_mut(direction).socket;
            // What the model lets through leaves at once. A server socket that is still connecting takes the option too.
            socket.set_nodelay(true)?;
            let token = Place::Tcp(number, direction).token();
            turn.registry.register(socket, token, Interest::READABLE | Interest::WRITABLE)?;
        }
        self.accepted += 1;
        turn.counters.tcp_flows += 1;
        let stream = Stream::open(self.seed, number as u64, turn.now, turn.weather, turn.counters);
        self.digest = self.digest.wrapping_add(stream.digest());
        self.flows.insert(number, Flow { legs, stream, fate: Fate::Relayed, wakes_at: None });
        self.pump(number, turn);
        Ok(())
    }

    /// Does all that can be done for a flow at the moment, and sets its alarm.
    fn pump(&mut self, number: usize, turn: &mut Turn<'_>) {
        let Some(flow) = self.flows.get_mut(&number) else { return };
        let before = flow.stream.digest();
        let rest = match flow.fate {
            Fate::Relayed => flow.relay(turn),
            Fate::Severed | Fate::Resets(_) => flow.wait_for_reset(turn),
        };
        self.digest = self.digest.wrapping_sub(before).wrapping_add(flow.stream.digest());
        if let Some(at) = flow.wakes_at.take() {
            self.alarms.remove(&(at, number));
        }
        if rest == Rest::Goes {
            flow.wakes_at = flow.next_at();
            self.alarms.extend(flow.wakes_at.map(|at| (at, number)));
            return;
        }
        let Some(flow) = self.flows.remove(&number) else { return };
        turn.counters.flows_ended += 1;
        let severed = flow.fate != Fate::Relayed;
        let Both { up: client, down: server } = flow.legs;
        if rest == Rest::Broken {
            reset(&client.socket, turn);
        }
        if severed {
            self.silent.push_back((turn.now + SILENCE, server.socket));
        } else if rest == Rest::Broken {
            reset(&server.socket, turn);
        }
    }
}

impl Flow {
    fn next_at(&self) -> Option<Duration> {
        match self.fate {
            Fate::Relayed => self.stream.next_at(),
            Fate::Severed => None,
            Fate::Resets(at) => Some(at),
        }
    }

    fn relay(&mut self, turn: &mut Turn<'_>) -> Rest {
        self.stream.advance(turn.now, turn.weather, turn.counters);
        let moved = Direction::BOTH.into_iter().try_for_each(|direction| self.read(direction));
        self.stream.advance(turn.now, turn.weather, turn.counters);
        let moved = moved.and_then(|()| Direction::BOTH.into_iter().try_for_each(|direction| self.write(direction)));
        // Taking bytes may have opened a window.
        self.stream.advance(turn.now, turn.weather, turn.counters);
        if moved.is_err() {
            turn.counters.socket_errors += 1;
            return Rest::Broken;
        }
        if self.stream.has_failed() {
            return Rest::Broken;
        }
        let ended = Direction::BOTH.iter().all(|direction| self.legs.of(*direction).is_shut);
        if ended { Rest::Ended } else { Rest::Goes }
    }

    /// Reads what the model has room for.
    fn read(&mut self, direction: Direction) -> io::Result<()> {
        let leg = self.legs.of_mut(direction);
        while leg.is_readable && !leg.has_ended && self.stream.room(direction) > 0 {
            let mut buffer = [0; READ_SIZE];
            match leg.socket.read(&mut buffer) {
                Ok(0) => {
                    leg.has_ended = true;
                    self.stream.finish(direction);
                }
                Ok(size) => {
                    leg.bytes.extend_from_slice(buffer.get(..size).unwrap_or_default());
                    self.stream.write(direction, size as u64);
                }
                Err(error) if is_later(&error) => leg.is_readable = false,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes what has arrived, as far as the other socket takes it.
    fn write(&mut self, direction: Direction) -> io::Result<()> {
        loop {
            let ready = usize::try_from(self.stream.ready(direction)).unwrap_or(usize::MAX);
            let bytes = self.legs.of(direction).bytes.get(..ready).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            match (&self.legs.of(direction.reverse()).socket).write(bytes) {
                Ok(size) => {
                    self.legs.of_mut(direction).bytes.advance(size);
                    self.stream.take(direction, size as u64);
                }
                Err(error) if is_later(&error) => break,
                Err(error) => return Err(error),
            }
        }
        if self.stream.has_ended(direction) && !self.legs.of(direction).is_shut {
            self.legs.of_mut(direction).is_shut = true;
            // It may be gone already, which is as well.
            let _ = self.legs.of(direction.reverse()).socket.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// A severed client is answered with a reset one round trip after it says something, or had something under way.
    fn wait_for_reset(&mut self, turn: &Turn<'_>) -> Rest {
        match self.fate {
            Fate::Resets(at) if at <= turn.now => Rest::Broken,
            Fate::Resets(_) | Fate::Relayed => Rest::Goes,
            Fate::Severed => {
                let mut byte = [0; 1];
                let said = match self.legs.up.socket.read(&mut byte) {
                    Err(error) if is_later(&error) => !self.legs.up.bytes.is_empty(),
                    Ok(_) => true,
                    Err(_) => return Rest::Broken,
                };
                if said {
                    let trip = turn.weather.line(Direction::Up).delay + turn.weather.line(Direction::Down).delay;
                    self.fate = Fate::Resets(turn.now + trip);
                }
                Rest::Goes
            }
        }
    }
}

/// Nothing at the moment. A socket that is still connecting says `NotConnected`.
fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::NotConnected)
}

/// Closes without a goodbye: zero lingering makes the kernel send a reset.
fn reset(socket: &TcpStream, turn: &mut Turn<'_>) {
    if socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO)).is_err() {
        turn.counters.socket_errors += 1;
    }
}
