//! One thread of the generator: the only loop that does I/O. Each turn does a bounded amount of everything that is due and sleeps only when
//! nothing is; the time it sleeps is counted, so that the tool can say when it is the bottleneck itself.

use std::io;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use std::os::fd::{AsFd as _, AsRawFd as _};

use super::accounting::{self, Audit, Heads};
use super::book::{Book, Common, Span};
use super::deadline::Deadlines;
use super::peer::{Command, Ending, Link, NEVER, Peer};
use super::plan::{Account, Arrival, Carrier, FleetPlan, Workload};
use super::quic::Quic;
use super::tally::{Counts, Part};
use super::tls::{Dialects, Pin};
use super::websocket::WebSockets;
use tern_protocol::CloseCode;

/// Token of the waker; the UDP sockets follow, then the TCP sockets.
const WAKER: Token = Token(0);
/// Events taken from the kernel at once. Unit: events.
const EVENTS_MAX: usize = 1024;
/// Time that one turn spends on starting arrivals: a dial is hundreds of microseconds, and what was received waits meanwhile.
const ARRIVALS_BUDGET: Duration = Duration::from_millis(2);
/// Longest sleep: counts are shared at least so often. Unit: time.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// Timers fire together with the others of this span, at its end. Unit: time.
/// Source: tokio, under the SDK: "Sleep operates at millisecond granularity".
const TIMER_GRAIN: Duration = Duration::from_millis(1);

/// What the controlling thread wants.
pub(super) enum Order {
    Run(Box<dyn Workload>),
    Mark,
    Tally(Sender<Part>),
    Heads(Sender<Heads>),
    Audit(Arc<Heads>, Sender<Audit>),
    Stop,
}

/// A schedule and its next arrival.
struct Running {
    workload: Box<dyn Workload>,
    next: Arrival,
}

/// One thread's state.
pub(super) struct Worker {
    poll: Poll,
    orders: Receiver<Order>,
    quic: Quic,
    web: WebSockets,
    peers: Vec<Peer>,
    book: Book,
    dialects: Dialects,
    running: Vec<Running>,
    /// Of peers; connections have their own.
    timers: Deadlines,
    workers: u32,
    stopped: bool,
}

impl Worker {
    pub(super) fn new(
        plan: &FleetPlan,
        (index, workers): (u32, u32),
        common: Arc<Common>,
        pin: Arc<Pin>,
        shared: Arc<Mutex<Counts>>,
        orders: Receiver<Order>,
    ) -> io::Result<(Self, Arc<Waker>)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let quic_at = plan.proxy.map_or(plan.server, |proxy| proxy.quic);
        let tcp_at = plan.proxy.map_or(plan.server, |proxy| proxy.tcp);
        let quic = Quic::new(quic_at, &plan.server_name, plan.sockets)?;
        for (number, udp) in quic.sockets.iter().enumerate() {
            let fd = udp.socket().as_raw_fd();
            poll.registry().register(&mut SourceFd(&fd), Token(1 + number), Interest::READABLE | Interest::WRITABLE)?;
        }
        let base = 1 + quic.sockets.len();
        let web = WebSockets::new(poll.registry().try_clone()?, base, tcp_at, &plan.server_name);
        let peers: Vec<Peer> = own_peers(plan, index, workers)
            .map(|(id, account)| Peer::new(id, account, is_quic(plan.carrier, id)))
            .collect();
        let dialects = Dialects::new(pin, peers.len());
        let book = Book::new(common, (u64::from(index), u64::from(workers)), plan.per_message, shared);
        let (running, timers, stopped) = (Vec::new(), Deadlines::default(), false);
        Ok((Self { poll, orders, quic, web, peers, book, dialects, running, timers, workers, stopped }, waker))
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut more = false;
        while !self.stopped {
            if self.sleep(&mut events, more).is_err() {
                // Without the kernel's events nothing can go on; the controlling thread sees that this one has ended.
                return;
            }
            self.note_events(&events);
            self.take_orders();
            self.book.tick();
            more = self.quic.receive(self.book.instant, &mut self.book.counts);
            self.quic.fire_timers(self.book.instant);
            self.fire_timers();
            self.start_arrivals();
            more |= self.drive();
            self.book.share();
        }
        self.book.share_now();
    }

    /// Waits until something is due, at the precision of the kernel's timers: milliseconds would make every arrival late.
    fn sleep(&mut self, events: &mut Events, more: bool) -> io::Result<()> {
        let now = Instant::now();
        let until = if more { now } else { self.next_due().map_or(now + SLEEP_MAX, |due| due.min(now + SLEEP_MAX)) };
        let wait = until.saturating_duration_since(now);
        if !wait.is_zero() {
            let timeout = rustix::event::Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(0),
                tv_nsec: i64::from(wait.subsec_nanos()),
            };
            let epoll = self.poll.registry().as_fd();
            let mut wanted = [rustix::event::PollFd::from_borrowed_fd(epoll, rustix::event::PollFlags::IN)];
            let woken = rustix::event::poll(&mut wanted, Some(&timeout));
            self.book.counts.idle_ns += u64::try_from(now.elapsed().as_nanos()).unwrap_or(0);
            match woken {
                Ok(0) => {
                    events.clear();
                    return Ok(());
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match self.poll.poll(events, Some(Duration::ZERO)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }

    /// Arrivals are due to the nanosecond, timers to the next whole grain: those of many connections then share one waking.
    fn next_due(&self) -> Option<Instant> {
        let arrival = self.running.iter().map(|running| running.next.at).min();
        let timer = [self.quic.next_deadline(), self.timers.next()].into_iter().flatten().min();
        [timer.map(|at| self.next_grain(at)), arrival].into_iter().flatten().min()
    }

    fn next_grain(&self, at: Instant) -> Instant {
        let start = self.book.common.start;
        let since = at.saturating_duration_since(start).as_nanos();
        let grains = since.div_ceil(TIMER_GRAIN.as_nanos());
        start + TIMER_GRAIN * u32::try_from(grains).unwrap_or(u32::MAX)
    }

    fn note_events(&mut self, events: &Events) {
        for event in events {
            match event.token() {
                WAKER => {}
                Token(number) if number <= self.quic.sockets.len() => {
                    if let Some(udp) = self.quic.sockets.get_mut(number - 1) {
                        udp.readable |= event.is_readable();
                    }
                }
                token => self.web.on_event(token, event.is_readable() || event.is_error() || event.is_read_closed()),
            }
        }
    }

    fn take_orders(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            self.book.tick();
            // Whoever asked may have gone: then nobody misses the answer.
            match order {
                Order::Run(workload) => self.begin(workload),
                Order::Mark => self.book.mark(),
                Order::Tally(to) => {
                    self.book.share_now();
                    let _ = to.send(self.book.part());
                }
                Order::Heads(to) => {
                    let _ = to.send(self.book.acked.clone());
                }
                Order::Audit(heads, to) => {
                    let _ = to.send(accounting::audit(&self.peers, &heads, &mut self.book));
                }
                Order::Stop => self.stopped = true,
            }
        }
    }

    fn begin(&mut self, mut workload: Box<dyn Workload>) {
        if let Some(next) = workload.next() {
            self.running.push(Running { workload, next });
            self.book.counts.workloads += 1;
        }
    }

    /// Starts what is due, in the order of its time.
    fn start_arrivals(&mut self) {
        let stop = self.book.instant + ARRIVALS_BUDGET;
        while self.book.instant < stop {
            let Some(index) =
                (0..self.running.len()).min_by_key(|index| self.running.get(*index).map(|one| one.next.at))
            else {
                return;
            };
            let Some(running) = self.running.get_mut(index) else { return };
            if running.next.at > self.book.instant {
                return;
            }
            let arrival = match running.workload.next() {
                Some(next) => std::mem::replace(&mut running.next, next),
                None => {
                    self.book.counts.workloads -= 1;
                    self.running.swap_remove(index).next
                }
            };
            self.start(arrival);
            self.book.tick();
        }
    }

    fn start(&mut self, arrival: Arrival) {
        let intended = self.book.common.nanos(arrival.at);
        let late = self.book.now.saturating_sub(intended);
        self.book.counts.arrivals += 1;
        self.book.counts.late_us_max = self.book.counts.late_us_max.max(late / 1000);
        self.book.record_nanos(Span::Lateness, late);
        debug_assert_eq!(self.peers.first().map_or(0, |peer| peer.id % self.workers), arrival.peer.0 % self.workers);
        let local = arrival.peer.0 / self.workers;
        let Some(peer) = self.peers.get_mut(index_of(local)) else { return };
        let command = peer.act(arrival.action, intended, &mut self.book);
        self.perform(local, command);
    }

    fn fire_timers(&mut self) {
        while let Some((local, at)) = self.timers.pop_due(self.book.instant) {
            let Some(peer) = self.peers.get_mut(index_of(local)) else { continue };
            if peer.armed != Some(at) {
                continue;
            }
            peer.armed = None;
            let command = peer.on_timer(&mut self.book);
            self.perform(local, command);
        }
    }

    /// Does what a peer wants of its transport, and sees to it that what it wrote is sent.
    fn perform(&mut self, local: u32, command: Option<Command>) {
        let Some(peer) = self.peers.get_mut(index_of(local)) else { return };
        match command {
            Some(Command::Dial) => self.dial(local),
            Some(Command::Redial) => {
                self.forget(local);
                self.dial(local);
            }
            Some(Command::Forget) => self.forget(local),
            Some(Command::Goodbye) => match std::mem::replace(&mut peer.link, Link::None) {
                Link::Quic(slot) => self.quic.goodbye(slot, CloseCode::Goodbye, self.book.instant),
                Link::WebSocket(slot) => self.web.goodbye(slot),
                Link::None => {}
            },
            Some(Command::Move) => {
                if let Link::Quic(slot) = peer.link {
                    self.quic.migrate(slot);
                }
            }
            Some(Command::Stall | Command::Resume) => match peer.link {
                Link::Quic(slot) => self.quic.set_stalled(slot, peer.stalled),
                Link::WebSocket(slot) => self.web.set_stalled(slot, peer.stalled),
                Link::None => {}
            },
            None => {}
        }
        let Some(peer) = self.peers.get_mut(index_of(local)) else { return };
        match peer.link {
            Link::Quic(slot) => self.quic.mark(slot),
            Link::WebSocket(slot) => self.web.mark(slot),
            Link::None => {}
        }
        arm(&mut self.timers, local, peer, &self.book);
    }

    fn dial(&mut self, local: u32) {
        let Some(peer) = self.peers.get_mut(index_of(local)) else { return };
        peer.on_dial(&mut self.book);
        let link = if peer.over_quic {
            self.quic.dial(local, peer, &mut self.dialects, self.book.instant).map(Link::Quic)
        } else {
            self.web.dial(local, peer, &mut self.dialects).map(Link::WebSocket)
        };
        match link {
            Ok(link) => peer.link = link,
            Err(error) => peer.on_ended(&Ending::Closed(Err(format!("not dialled: {error}"))), &mut self.book),
        }
    }

    fn forget(&mut self, local: u32) {
        let Some(peer) = self.peers.get_mut(index_of(local)) else { return };
        match std::mem::replace(&mut peer.link, Link::None) {
            Link::Quic(slot) => self.quic.forget(slot),
            Link::WebSocket(slot) => self.web.forget(slot),
            Link::None => {}
        }
    }

    fn drive(&mut self) -> bool {
        let Self { quic, web, peers, book, timers, .. } = self;
        let mut more = quic.drive(peers, book, |local, peer, book| arm(timers, local, peer, book));
        more |= web.drive(peers, book, |local, peer, book| arm(timers, local, peer, book));
        more
    }
}

/// Sees to it that the peer is looked at when something of it is due.
fn arm(timers: &mut Deadlines, local: u32, peer: &mut Peer, book: &Book) {
    let due = peer.deadline();
    if due != NEVER {
        timers.arm(local, &mut peer.armed, book.common.start + Duration::from_nanos(due));
    }
}

fn index_of(local: u32) -> usize {
    usize::try_from(local).unwrap_or(usize::MAX)
}

/// The accounts of a worker's peers, in their order: every `workers`th, beginning with its own number.
fn own_peers(plan: &FleetPlan, index: u32, workers: u32) -> impl Iterator<Item = (u32, &Account)> {
    (0u32..).zip(plan.accounts.iter()).filter(move |(id, _)| id % workers == index)
}

const fn is_quic(carrier: Carrier, peer: u32) -> bool {
    match carrier {
        Carrier::Quic => true,
        Carrier::WebSocket => false,
        Carrier::Both => peer.is_multiple_of(2),
    }
}
