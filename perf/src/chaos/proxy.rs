//! The proxy's thread and the handle to it. One loop: what the clock brings, then what the sockets bring, then wait.
//! Arrivals are up to a millisecond late, which is the step of the kernel's wait, for UDP and TCP alike.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Registry, Token, Waker};

use super::counters::Counters;
use super::line::Weather;
use super::plan::{ChaosPlan, Direction, Event};
use super::relay::TcpSide;
use super::udp::UdpSide;

/// Sockets that one wait reports. Unit: sockets. The others are reported by the next.
const EVENTS_MAX: usize = 1024;
/// Longest wait, so that silent flows are forgotten. Unit: time.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Attempts to find a port that is free on UDP and TCP. Unit: attempts.
const PORT_ATTEMPTS: usize = 64;

/// What every part needs in one turn of the loop.
pub(super) struct Turn<'a> {
    pub(super) now: Duration,
    pub(super) weather: &'a Weather,
    pub(super) counters: &'a mut Counters,
    pub(super) registry: &'a Registry,
}

/// Whether a socket may have more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    /// It said that there is nothing.
    Drained,
    /// Others have their turn first.
    More,
}

/// Which socket a token names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Bell,
    UdpClients,
    TcpClients,
    UdpServer(usize),
    /// The socket that gives what goes in this direction.
    Tcp(usize, Direction),
}

impl Place {
    pub(super) const fn token(self) -> Token {
        Token(match self {
            Self::Bell => 0,
            Self::UdpClients => 1,
            Self::TcpClients => 2,
            Self::UdpServer(flow) => (flow + 1) << 2,
            Self::Tcp(flow, Direction::Up) => (flow + 1) << 2 | 1,
            Self::Tcp(flow, Direction::Down) => (flow + 1) << 2 | 2,
        })
    }

    const fn of(Token(token): Token) -> Self {
        match ((token >> 2).checked_sub(1), token & 3) {
            (None, 1) => Self::UdpClients,
            (None, 2) => Self::TcpClients,
            (None, _) => Self::Bell,
            (Some(flow), 0) => Self::UdpServer(flow),
            (Some(flow), 1) => Self::Tcp(flow, Direction::Up),
            (Some(flow), _) => Self::Tcp(flow, Direction::Down),
        }
    }
}

/// A proxy that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Chaos {
    quic: SocketAddr,
    tcp: SocketAddr,
    counters: Arc<Mutex<Counters>>,
    /// Its end is the thread's end.
    commands: Option<Sender<Event>>,
    bell: Waker,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Chaos {
    /// Binds the addresses and starts the thread.
    ///
    /// # Errors
    /// A plan that cannot be (it says what to mend), or no free port.
    pub fn start(plan: ChaosPlan) -> io::Result<Self> {
        plan.check()?;
        let poll = Poll::new()?;
        let bell = Waker::new(poll.registry(), Place::Bell.token())?;
        let (mut udp, mut tcp) = listen(&plan)?;
        udp.register(poll.registry(), Place::UdpClients.token())?;
        tcp.register(poll.registry(), Place::TcpClients.token())?;
        let (quic_address, tcp_address) = (udp.address()?, tcp.address()?);
        let (sender, receiver) = channel();
        let counters = Arc::new(Mutex::new(Counters::default()));
        let mut schedule = plan.schedule;
        schedule.sort_by_key(|(at, _)| *at);
        let proxy = Proxy {
            began: Instant::now(),
            poll,
            weather: Weather::new(plan.up, plan.down),
            counters: Counters::default(),
            published: Arc::clone(&counters),
            udp,
            tcp,
            schedule: schedule.into(),
            commands: receiver,
            pending: BTreeSet::new(),
        };
        let thread = std::thread::Builder::new().name("tern-chaos".to_owned()).spawn(move || proxy.run())?;
        Ok(Self { quic: quic_address, tcp: tcp_address, counters, commands: Some(sender), bell, thread: Some(thread) })
    }

    /// Where QUIC clients find the server.
    #[must_use]
    pub const fn quic(&self) -> SocketAddr {
        self.quic
    }

    /// Where WebSocket clients find it: the same port.
    #[must_use]
    pub const fn tcp(&self) -> SocketAddr {
        self.tcp
    }

    /// What it did so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets something happen at once, beside the schedule.
    ///
    /// # Errors
    /// When the proxy's thread has ended.
    pub fn apply(&self, event: Event) -> io::Result<()> {
        let ended = || io::Error::new(io::ErrorKind::BrokenPipe, "the proxy has ended: stop() says why");
        self.commands.as_ref().and_then(|commands| commands.send(event).ok()).ok_or_else(ended)?;
        self.bell.wake()
    }

    /// Ends it and closes all its connections.
    ///
    /// # Errors
    /// Why the thread had ended by itself.
    pub fn stop(mut self) -> io::Result<Counters> {
        self.end()?;
        Ok(self.counters())
    }

    fn end(&mut self) -> io::Result<()> {
        self.commands = None;
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.bell.wake()?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the proxy's thread panicked")))
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        // Whoever wants to know why it ended calls `stop`.
        let _ = self.end();
    }
}

/// What the thread owns.
struct Proxy {
    began: Instant,
    poll: Poll,
    weather: Weather,
    counters: Counters,
    published: Arc<Mutex<Counters>>,
    udp: UdpSide,
    tcp: TcpSide,
    /// Ascending.
    schedule: VecDeque<(Duration, Event)>,
    commands: Receiver<Event>,
    /// Sockets that may have more to read.
    pending: BTreeSet<Place>,
}

impl Proxy {
    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            let now = self.began.elapsed();
            let ends = self.happen(now);
            if ends == Ends::No {
                self.turn(now);
            } else {
                self.counters.kernel_dropped = self.udp.kernel_dropped();
            }
            *self.published.lock().unwrap_or_else(PoisonError::into_inner) = self.counters;
            if ends == Ends::Yes {
                return Ok(());
            }
            match self.poll.poll(&mut events, Some(self.wait())) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Ok(()) | Err(_) => self.pending.extend(events.iter().map(|event| Place::of(event.token()))),
            }
        }
    }

    /// The schedule, and what the handle asks for.
    fn happen(&mut self, now: Duration) -> Ends {
        while let Some((at, event)) = self.schedule.pop_front_if(|(at, _)| *at <= now) {
            self.take(at, event);
        }
        loop {
            match self.commands.try_recv() {
                Ok(event) => self.take(now, event),
                Err(TryRecvError::Empty) => return Ends::No,
                Err(TryRecvError::Disconnected) => return Ends::Yes,
            }
        }
    }

    fn take(&mut self, now: Duration, event: Event) {
        self.weather.happen(now, event);
        if event == Event::AddressChange {
            let Self { poll, weather, counters, udp, tcp, .. } = self;
            let mut turn = Turn { now, weather, counters, registry: poll.registry() };
            udp.change_addresses(&mut turn);
            tcp.change_addresses(&mut turn);
        }
    }

    fn turn(&mut self, now: Duration) {
        let Self { poll, weather, counters, udp, tcp, pending, .. } = self;
        let mut turn = Turn { now, weather, counters, registry: poll.registry() };
        tcp.advance(&mut turn);
        for place in std::mem::take(pending) {
            let readiness = match place {
                Place::Bell => Readiness::Drained,
                Place::UdpClients => udp.read_clients(&mut turn),
                Place::UdpServer(flow) => udp.read_server(flow, &mut turn),
                Place::TcpClients => tcp.accept(&mut turn),
                Place::Tcp(flow, from) => {
                    tcp.ready(flow, from, &mut turn);
                    Readiness::Drained
                }
            };
            if readiness == Readiness::More {
                pending.insert(place);
            }
        }
        udp.flush(&mut turn);
        udp.expire(&mut turn);
        (counters.udp_digest, counters.tcp_digest) = (udp.digest(), tcp.digest());
    }

    fn wait(&self) -> Duration {
        if !self.pending.is_empty() {
            return Duration::ZERO;
        }
        let scheduled = self.schedule.front().map(|(at, _)| *at);
        let next = [scheduled, self.udp.next_at(), self.tcp.next_at()].into_iter().flatten().min();
        next.map_or(WAIT_MAX, |at| at.saturating_sub(self.began.elapsed()).min(WAIT_MAX))
    }
}

/// Whether the thread is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Yes,
    No,
}

/// A port that is free on both: a client that knows one address finds either.
fn listen(plan: &ChaosPlan) -> io::Result<(UdpSide, TcpSide)> {
    let mut last = None;
    for _ in 0..PORT_ATTEMPTS {
        let udp = UdpSide::new(plan.seed, plan.listen, plan.server)?;
        match TcpSide::new(plan.seed, SocketAddr::new(plan.listen, udp.address()?.port()), plan.server) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("no port is free on both UDP and TCP")))
}
