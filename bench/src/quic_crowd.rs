//! A server and QUIC clients, logged in and members of one group. Measures the server's turns, and nothing of the clients.

use std::time::Duration;

use tern_protocol::ConversationId;

use crate::group::Group;
use crate::meter::{Meter, Nobody};
use crate::quic_clients::{ACK_DELAY_MAX, QuicClients};
use crate::site::Site;

/// Clients that connect at once. Unit: connections. Few enough that no socket overflows and no address must be proved.
const CONNECT_BATCH: usize = 16;
/// Rounds of talk after which a client that is not in never will be. Unit: rounds.
const ROUNDS_MAX: usize = 1_000;
/// A round trip to clients that are near. Unit: time.
const ROUND_TRIP: Duration = Duration::from_millis(5);

/// Both sides.
#[derive(Debug)]
pub struct QuicCrowd {
    group: Group,
    clients: QuicClients,
    /// Clients that have said hello.
    said: usize,
    round_trip: Duration,
}

impl QuicCrowd {
    /// A group of so many members, of whom nobody is connected. `body_size`: of each message, in bytes.
    #[must_use]
    pub fn absent(members: usize, body_size: usize) -> Self {
        let group = Group::new(members, body_size);
        let clients = QuicClients::new(&group.site, 2);
        Self { group, clients, said: 0, round_trip: ROUND_TRIP }
    }

    /// The same, everybody connected, logged in, and quiet for some seconds.
    #[must_use]
    pub fn present(members: usize, body_size: usize) -> Self {
        Self::partly(members, members, body_size)
    }

    /// The same, with only so many of the members connected.
    #[must_use]
    pub fn partly(members: usize, connected: usize, body_size: usize) -> Self {
        let mut this = Self::absent(members, body_size);
        this.enter(connected);
        this.settle();
        this
    }

    /// A group of so many members, all connected and logged in over a path with this round trip.
    #[must_use]
    pub fn far(members: usize, body_size: usize, round_trip: Duration) -> Self {
        let mut this = Self::absent(members, body_size);
        this.round_trip = round_trip;
        this.enter(members);
        this
    }

    fn enter(&mut self, connected: usize) {
        for begin in (0..connected).step_by(CONNECT_BATCH) {
            let end = connected.min(begin + CONNECT_BATCH);
            self.handshake(end - begin, &mut Nobody);
            self.hello(&mut Nobody);
        }
    }

    /// Members who have no client yet.
    #[must_use]
    pub fn absentees(&self) -> usize {
        self.group.members.len() - self.clients.len()
    }

    /// Connects as many clients more, at once. Measures the server's part of the handshakes.
    ///
    /// # Panics
    /// When one of them does not get in.
    pub fn handshake(&mut self, count: usize, meter: &mut dyn Meter) {
        let goal = self.clients.len() + count;
        let confirmed = self.group.site.counters().handshakes_done + count as u64;
        for _ in 0..count {
            self.clients.connect(self.group.site.now().instant);
        }
        self.talk(meter, |this| {
            this.clients.connected() == goal && this.group.site.counters().handshakes_done == confirmed
        });
    }

    /// Says hello for the clients that have not. Measures the server's part, until its welcome is acknowledged.
    ///
    /// # Panics
    /// When one of them is not welcome.
    pub fn hello(&mut self, meter: &mut dyn Meter) {
        let clients = self.said..self.clients.len();
        self.said = clients.end;
        let count = clients.len() as u64;
        let before = self.clients.frames();
        for client in clients {
            let hello = self.group.hello(client);
            self.clients.say(client, &hello);
        }
        self.talk(meter, |this| this.clients.frames() - before >= count);
        assert_eq!(self.group.site.counters().sessions, self.clients.len() as u64, "each is a session");
    }

    /// One message to everybody. Measures from the durable command until every packet is sent with `send`, and what the acknowledgements
    /// of all of them cost with `ack`.
    ///
    /// # Panics
    /// When somebody does not get it, once.
    pub fn fan_out(&mut self, send: &mut dyn Meter, ack: &mut dyn Meter) {
        let count = self.clients.len() as u64;
        self.group.site.pass(Duration::from_secs(1));
        let (frames, sent) = (self.clients.frames(), self.group.site.counters().datagrams_out);
        self.group.post();
        send.measure(&mut || self.group.site.turns());
        assert_eq!(self.group.site.counters().datagrams_out - sent, count, "a packet for each");
        self.clients.pump(self.group.site.now().instant);
        assert_eq!(self.clients.frames() - frames, count, "everybody gets it once");
        let heard = self.group.site.counters().datagrams_in;
        self.group.site.pass(ACK_DELAY_MAX);
        self.clients.pump(self.group.site.now().instant);
        ack.measure(&mut || self.group.site.turns());
        assert_eq!(self.group.site.counters().datagrams_in - heard, count, "an acknowledgement from each");
    }

    /// One message to everybody, of which nobody's packet arrives: the network loses it on the way to the clients. Only [`Self::pass`] makes
    /// it good.
    ///
    /// # Panics
    /// When it was not sent.
    pub fn lose_message(&mut self) {
        let count = self.clients.len();
        self.group.post();
        self.group.site.turns();
        assert_eq!(self.clients.lose(), count, "a packet for each");
    }

    /// Lets time pass and then has the server do what is due, and hear what clients have said.
    pub fn pass(&mut self, time: Duration) {
        self.group.site.pass(time);
        self.group.site.turns();
    }

    /// Lets time pass and then has the clients do what is due, and hear what the server has said. Returns how many frames they got.
    pub fn pass_to_clients(&mut self, time: Duration) -> u64 {
        let before = self.clients.frames();
        self.group.site.pass(time);
        self.clients.pump(self.group.site.now().instant);
        self.clients.frames() - before
    }

    /// Makes a message to everybody durable. It is applied and delivered in the next turns.
    pub fn post(&mut self) {
        self.group.post();
    }

    /// Opens the conversation of the founder with one client, who hears of it.
    pub fn open_direct(&mut self, client: usize) -> ConversationId {
        let conversation = self.group.open_direct(client);
        self.settle();
        conversation
    }

    /// Makes a message of the founder in another of their conversations durable.
    pub fn post_to(&mut self, conversation: ConversationId) {
        self.group.post_to(conversation);
    }

    /// One turn of the server. Returns how many packets it sent.
    pub fn turn(&mut self) -> u64 {
        let before = self.group.site.counters().datagrams_out;
        self.group.site.turn();
        self.group.site.counters().datagrams_out - before
    }

    /// Takes turns until nothing is left to do. Returns how many packets were sent.
    pub fn turns(&mut self) -> u64 {
        let before = self.group.site.counters().datagrams_out;
        self.group.site.turns();
        self.group.site.counters().datagrams_out - before
    }

    /// Has the clients take in what has come, and say what they have to. Returns how many frames the one got.
    pub fn hear(&mut self, client: usize) -> u64 {
        let before = self.clients.frames_of(client);
        self.clients.pump(self.group.site.now().instant);
        self.clients.frames_of(client) - before
    }

    /// One sign of life from everybody. Measures what receiving and answering it costs.
    ///
    /// # Panics
    /// When it is not answered.
    pub fn keep_alive(&mut self, meter: &mut dyn Meter) {
        let count = self.clients.len() as u64;
        self.group.site.pass(Duration::from_secs(20));
        for client in 0..self.clients.len() {
            self.clients.ping(client);
        }
        let before = self.group.site.counters();
        self.clients.pump(self.group.site.now().instant);
        meter.measure(&mut || self.group.site.turns());
        self.group.site.pass(ACK_DELAY_MAX);
        meter.measure(&mut || self.group.site.turns());
        let after = self.group.site.counters();
        assert_eq!(after.datagrams_in - before.datagrams_in, count, "a ping from each");
        assert_eq!(after.datagrams_out - before.datagrams_out, count, "an answer for each");
        self.clients.pump(self.group.site.now().instant);
    }

    /// Lets both sides say all they have to say, and some seconds pass.
    pub fn settle(&mut self) {
        for _ in 0..8 {
            self.clients.pump(self.group.site.now().instant);
            self.group.site.turns();
            self.group.site.pass(Duration::from_millis(500));
        }
        self.clients.pump(self.group.site.now().instant);
        self.group.site.turns();
    }

    /// What is left when the clients vanish without a word: the server, which does not know.
    #[must_use]
    pub fn leave(self) -> Site {
        self.group.site
    }

    /// Speaks in round trips until something is reached.
    fn talk(&mut self, meter: &mut dyn Meter, mut is_done: impl FnMut(&Self) -> bool) {
        for _ in 0..ROUNDS_MAX {
            self.clients.pump(self.group.site.now().instant);
            if is_done(self) {
                return;
            }
            meter.measure(&mut || self.group.site.turns());
            self.group.site.pass(self.round_trip);
        }
        panic!("never done: {:?}", self.group.site.counters());
    }
}
