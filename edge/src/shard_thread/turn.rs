//! The order in which a shard does things, and the bound on each of them: letters, other shards, packets, timers, frames, the log, then
//! what is to be written, then sleep. All writes of a turn come before the first packet, so that messages share packets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tern_core_shard::io::Urgency;
use tern_protocol::{CloseCode, SessionId};

use super::performer::{Parcel, Performer, Transport};
use crate::clock::{Clock, Moment};
use crate::mailbox::{Inbox, Letter};
use crate::quic::{FLUSH_TIMEOUT, Quic};
use crate::ring::Bell;
use crate::runtime::{Driver, Readiness, UdpInterest};
use crate::slots::Key;
use crate::store::Store;
use crate::websocket::WebSockets;

/// Letters of the control plane taken in one turn. Unit: letters.
const LETTERS_PER_TURN: usize = 64;
/// Answers of the log and the view taken in one turn. Unit: inputs. About 2 ms of applying.
const STORE_PER_TURN: usize = 1024;
/// How soon a full ring is tried again. Unit: time.
const RING_RETRY: Duration = Duration::from_millis(1);
/// How soon a session that the core does not want to hear is asked about again. Unit: time. Most are let go by an answer before that.
const PAUSE_RETRY: Duration = Duration::from_millis(20);
/// How long a stopping shard waits for its sessions to be told. Unit: time.
const STOP_TIMEOUT: Duration = FLUSH_TIMEOUT.saturating_add(Duration::from_millis(500));

/// One shard with its transports.
pub(super) struct ShardThread<S> {
    performer: Performer<S>,
    quic: Quic,
    websockets: WebSockets,
    inbox: Inbox,
    bell: Arc<Bell>,
    clock: Clock,
    /// Whether the UDP socket may hold more than was read.
    udp_readable: bool,
    /// When a stopping shard ends at the latest.
    stop_at: Option<Instant>,
    /// Scratch space, kept so that no turn allocates.
    parcels: Vec<(usize, Parcel)>,
    ready: Vec<(SessionId, Urgency)>,
    closes: Vec<(SessionId, CloseCode)>,
    sockets: Vec<(Key, Readiness)>,
}

impl<S: Store> ShardThread<S> {
    pub(super) const fn new(
        performer: Performer<S>,
        quic: Quic,
        websockets: WebSockets,
        inbox: Inbox,
        bell: Arc<Bell>,
        clock: Clock,
    ) -> Self {
        Self {
            performer,
            quic,
            websockets,
            inbox,
            bell,
            clock,
            udp_readable: false,
            stop_at: None,
            parcels: Vec::new(),
            ready: Vec::new(),
            closes: Vec::new(),
            sockets: Vec::new(),
        }
    }

    /// Turns until the shard is stopped.
    pub(super) async fn run(mut self, mut driver: Driver) {
        loop {
            let now = self.clock.now();
            let more = self.turn(now, &mut driver);
            self.count_turn();
            if self.is_over() {
                return;
            }
            self.sleep(more, &mut driver).await;
        }
    }

    /// Has the next turn look for packets, whatever the driver says.
    pub(super) const fn expect_packets(&mut self) {
        self.udp_readable = true;
    }

    /// Does what there is to do, within bounds. Returns whether something is left.
    pub(super) fn turn(&mut self, now: Moment, driver: &mut Driver) -> bool {
        self.performer.set_now(now);
        let mut more = self.take_letters(driver);
        more |= self.take_parcels();
        if self.performer.status().is_caught_up() {
            if self.udp_readable {
                self.udp_readable = self.quic.receive(&mut self.performer);
                more |= self.udp_readable;
            }
            more |= self.quic.accept(&mut self.performer);
        }
        self.take_sockets(driver);
        self.quic.fire_timers(now.instant);
        self.websockets.fire_timers(now.instant);
        self.performer.fire_timers();
        self.quic.resume();
        self.websockets.resume();
        more |= self.quic.read(&mut self.performer);
        more |= self.websockets.read(&mut self.performer);
        more |= self.performer.poll_store(STORE_PER_TURN);
        self.settle();
        // Before the packets: the log and the other shards work while this one encrypts.
        self.performer.flush();
        more |= self.quic.drive(&mut self.performer);
        more |= self.websockets.drive(driver, &mut self.performer);
        // What ended while it was written may have woken others.
        more |= self.settle();
        self.performer.flush();
        self.performer.publish();
        more
    }

    fn take_letters(&mut self, driver: &Driver) -> bool {
        if let Some(spread_ms) = self.inbox.drain() {
            self.performer.drain(spread_ms);
        }
        if self.inbox.must_stop() && self.stop_at.is_none() {
            self.stop_at = Some(self.performer.now().instant + STOP_TIMEOUT);
            self.performer.drain(0);
            self.performer.close_all(CloseCode::Draining);
        }
        if let Some(server) = self.inbox.renewed_tls() {
            self.quic.set_server(server);
        }
        for _ in 0..LETTERS_PER_TURN {
            match self.inbox.next() {
                Some(Letter::Request { request, reply }) => self.performer.request(request, reply),
                Some(Letter::Socket(socket)) => self.websockets.adopt(*socket, driver, &mut self.performer),
                None => return false,
            }
        }
        true
    }

    fn take_parcels(&mut self) -> bool {
        let Self { performer, quic, parcels, .. } = self;
        let left = performer.receive(parcels);
        for stray in performer.take_strays() {
            quic.take_stray(stray, performer);
        }
        left
    }

    fn take_sockets(&mut self, driver: &mut Driver) {
        driver.take_tcp(&mut self.sockets);
        for (key, readiness) in self.sockets.drain(..) {
            self.websockets.mark_socket(key, readiness);
        }
    }

    /// Tells the transports what the core wants written and closed. Returns whether there was anything.
    fn settle(&mut self) -> bool {
        let Self { performer, quic, websockets, ready, closes, .. } = self;
        performer.take_ready(ready);
        performer.take_closes(closes);
        let any = !ready.is_empty() || !closes.is_empty();
        for (session, urgency) in ready.drain(..) {
            match performer.transport(session) {
                Some(Transport::Quic(slot)) => quic.mark_ready(slot, urgency),
                Some(Transport::WebSocket(key)) => websockets.mark_ready(key, urgency),
                None => {}
            }
        }
        for (session, code) in closes.drain(..) {
            match performer.transport(session) {
                Some(Transport::Quic(slot)) => quic.close(slot, code, performer),
                Some(Transport::WebSocket(key)) => websockets.close(key, code, performer),
                None => {}
            }
        }
        any
    }

    fn is_over(&self) -> bool {
        let is_empty = self.performer.sessions() == 0 && self.websockets.is_empty();
        self.stop_at.is_some_and(|at| is_empty || at <= self.performer.now().instant)
    }

    fn count_turn(&self) {
        let counters = &self.performer.status().counters;
        counters.turns.add(1);
        counters.paused.set(self.quic.paused() + self.websockets.paused());
        let spent = self.clock.now().instant.saturating_duration_since(self.performer.now().instant);
        counters.busy_us.add(u64::try_from(spent.as_micros()).unwrap_or(u64::MAX));
    }

    /// Sleeps until there is something to do; if there is already, lets the runtime look around and comes straight back.
    pub(super) async fn sleep(&mut self, more: bool, driver: &mut Driver) {
        let deadline = self.deadline();
        let mut stay = more || deadline.is_some_and(|at| at <= self.performer.now().instant);
        if !stay {
            self.bell.announce_sleep();
            // What came in before the announcement rang no bell.
            stay = self.performer.has_incoming()
                || self.inbox.has_something(self.performer.is_draining())
                || self.performer.poll_store(1);
        }
        if stay {
            self.bell.ring_always();
        } else {
            self.performer.status().counters.sleeps.add(1);
        }
        let interest = UdpInterest {
            read: self.performer.status().is_caught_up() && !self.udp_readable,
            write: self.quic.is_blocked(),
        };
        let woken = driver.wait(interest, deadline).await;
        self.bell.stay_awake();
        if woken.bell {
            self.bell.clear();
        }
        self.udp_readable |= woken.udp.read;
    }

    /// When there is something to do without anything coming in.
    fn deadline(&self) -> Option<Instant> {
        let now = self.performer.now().instant;
        let ring = (self.performer.backlog() > 0).then(|| now + RING_RETRY);
        let pause = (self.quic.paused() + self.websockets.paused() > 0).then(|| now + PAUSE_RETRY);
        let core = self.performer.timeout().map(|at| self.clock.instant(at));
        [self.quic.next_deadline(), self.websockets.next_deadline(), core, ring, pause, self.stop_at]
            .into_iter()
            .flatten()
            .min()
    }
}
