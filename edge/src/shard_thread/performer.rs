//! The core with everything that performs its outputs at once: log, view, other shards, tokens, replies. Transports feed it inputs and
//! pull frames from it. Decides nothing: what the core asks for is done or its refusal is fed back.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quinn_proto::EcnCodepoint;
use tern_core_shard::io::{AppendFailure, Ending, Lane, Lanes, Reply, Request, Urgency, ViewError};
use tern_core_shard::message::Message;
use tern_core_shard::{Input, Output, Shard};
use tern_protocol::{CloseCode, SessionId, ShardId};
use tokio::sync::oneshot;

use super::Status;
use super::closings::Closings;
use crate::aside;
use crate::clock::Moment;
use crate::node::TokenVerifier;
use crate::ring::Links;
use crate::slots::{Key, Slots};
use crate::store::Store;

/// Requests of the control plane that one shard may have in hand. Unit: requests.
const REQUESTS_MAX: usize = 4096;

/// What one shard sends another.
#[derive(Debug)]
pub(crate) enum Parcel {
    /// From core to core.
    Message(Message),
    /// A QUIC packet that came to the wrong shard.
    Stray(Box<Stray>),
}

/// A UDP datagram on its way to the shard that it was for.
#[derive(Debug)]
pub(crate) struct Stray {
    pub(crate) remote: SocketAddr,
    pub(crate) local_ip: Option<IpAddr>,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) data: BytesMut,
}

/// Where a session's transport is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Slot of a QUIC connection.
    Quic(usize),
    /// A WebSocket.
    WebSocket(Key),
}

/// The core, and what performs its outputs.
pub(crate) struct Performer<S> {
    core: Shard,
    store: S,
    verifier: Arc<dyn TokenVerifier>,
    links: Links<Parcel>,
    sessions: Slots<Transport>,
    waiting: BTreeMap<u64, oneshot::Sender<Reply>>,
    last_ticket: u64,
    /// Answers that the outputs of the present input have caused. They come after all of its outputs.
    feedback: VecDeque<Input>,
    /// Sessions that the core wants closed; the transports take them.
    closes: Vec<(SessionId, CloseCode)>,
    strays: Vec<Stray>,
    draining: bool,
    now: Moment,
    status: Arc<Status>,
    closings: Closings,
}

impl<S: Store> Performer<S> {
    pub(crate) fn new(
        core: Shard,
        store: S,
        verifier: Arc<dyn TokenVerifier>,
        links: Links<Parcel>,
        status: Arc<Status>,
        now: Moment,
    ) -> Self {
        Self {
            core,
            store,
            verifier,
            links,
            sessions: Slots::new(),
            waiting: BTreeMap::new(),
            last_ticket: 0,
            feedback: VecDeque::new(),
            closes: Vec::new(),
            strays: Vec::new(),
            draining: false,
            now,
            status,
            closings: Closings::default(),
        }
    }

    /// Counts and tells the operator that the server closes a connection.
    pub(crate) fn note_close(&self, session: Option<SessionId>, code: CloseCode) {
        self.status.counters.closed(code);
        self.closings.note(session, code, self.now.timestamp);
    }

    /// The moment of everything that is fed until the next call.
    pub(crate) const fn set_now(&mut self, now: Moment) {
        self.now = now;
    }

    /// Feeds one input and performs what it causes.
    pub(crate) fn feed(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next {
            self.core.handle(self.now.timestamp, input);
            while let Some(output) = self.core.poll_output() {
                self.perform(output);
            }
            next = self.feedback.pop_front();
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::VerifyToken { session, token } => {
                let verdict = self.verifier.verify(&token, self.now.timestamp);
                self.feedback.push_back(Input::Token { session, verdict });
            }
            Output::Close { session, code } => self.closes.push((session, code)),
            Output::Append { partition, record } => {
                if let Err((record, failure)) = self.store.append(partition, record) {
                    self.status.counters.appends_refused.add(1);
                    self.feedback.push_back(Input::AppendFailed { partition, record, failure });
                }
            }
            Output::View { ticket, query } => {
                if self.store.query(ticket, query).is_err() {
                    self.status.counters.queries_refused.add(1);
                    self.feedback.push_back(Input::Viewed { ticket, reply: Err(ViewError::Busy) });
                }
            }
            Output::Store { partition, position, rows } => self.store.store(partition, position, rows),
            Output::Message { to, message } => {
                if let Err(Parcel::Message(message)) = self.links.send(usize::from(to.raw()), Parcel::Message(message))
                {
                    debug_assert_eq!(usize::from(to.raw()), self.links.own(), "messages go to shards that exist");
                    self.feedback.push_back(Input::Message { from: to, message });
                }
            }
            Output::Aside { entity, change } => {
                aside::say(&entity, change);
                if let Some(notes) = self.status.aside.get() {
                    // When nobody reads them the newest are left out.
                    let _ = notes.try_send((entity, change));
                }
            }
            Output::Reply { ticket, reply } => {
                if let Some(waiting) = self.waiting.remove(&ticket) {
                    // The asker may have given up.
                    let _ = waiting.send(reply);
                }
            }
            Output::Stop { partition, position, reason } => {
                tracing::error!(%partition, %position, %reason, "a partition cannot go on");
                self.status.stop(format!("{partition}, {position}: {reason}"));
            }
        }
    }

    /// Passes a request of the control plane on.
    pub(crate) fn request(&mut self, request: Request, reply: oneshot::Sender<Reply>) {
        if self.waiting.len() >= REQUESTS_MAX {
            self.status.counters.requests_refused.add(1);
            let _ = reply.send(Reply::Unavailable(AppendFailure::Busy));
            return;
        }
        self.status.counters.requests.add(1);
        self.last_ticket += 1;
        self.waiting.insert(self.last_ticket, reply);
        self.feed(Input::Request { ticket: self.last_ticket, request });
    }

    /// Takes what other shards sent; strays wait for [`Self::take_strays`]. Returns whether some are left.
    pub(crate) fn receive(&mut self, parcels: &mut Vec<(usize, Parcel)>) -> bool {
        let left = self.links.receive(|from, parcel| parcels.push((from, parcel)));
        for (from, parcel) in parcels.drain(..) {
            match parcel {
                Parcel::Message(message) => {
                    let from = ShardId::from_raw(u16::try_from(from).expect("SHARD_COUNT_MAX fits u16"));
                    self.feed(Input::Message { from, message });
                }
                Parcel::Stray(datagram) => self.strays.push(*datagram),
            }
        }
        left
    }

    /// Packets that other shards have received for this one.
    pub(crate) fn take_strays(&mut self) -> Vec<Stray> {
        std::mem::take(&mut self.strays)
    }

    /// Passes a packet on to the shard that it is for, if there is room.
    pub(crate) fn forward(&mut self, to: u16, stray: Stray) {
        let counter = match self.links.try_send(usize::from(to), Parcel::Stray(Box::new(stray))) {
            Ok(()) => &self.status.counters.strays_out,
            Err(_) => &self.status.counters.strays_dropped,
        };
        counter.add(1);
    }

    /// Takes answers of the log and the view, at most so many. Returns whether some may be left.
    pub(crate) fn poll_store(&mut self, budget: usize) -> bool {
        for _ in 0..budget {
            // What the log says makes messages to other shards: while those find no room, the log waits.
            if self.links.waiting() > OVERFLOW_MAX {
                return false;
            }
            self.store.pause_commands(!self.core.wants_commands());
            let Some(input) = self.store.poll() else { return false };
            self.feed(input);
        }
        true
    }

    /// Feeds the passing of time, if the core waits for it.
    pub(crate) fn fire_timers(&mut self) {
        for _ in 0..TIMERS_MAX {
            match self.core.poll_timeout() {
                Some(at) if at <= self.now.timestamp => self.feed(Input::Timeout),
                Some(_) | None => return,
            }
        }
    }

    /// Begins a session.
    pub(crate) fn connect(&mut self, transport: Transport) -> SessionId {
        let session = SessionId::from_raw(self.sessions.insert(transport).raw());
        self.feed(Input::Connected { session });
        session
    }

    /// Ends a session, however it came to that. Exactly once for each.
    pub(crate) fn disconnect(&mut self, session: SessionId, ending: Ending) {
        if self.sessions.remove(Key::from_raw(session.raw())).is_some() {
            self.closes.retain(|(closed, _)| *closed != session);
            self.feed(Input::Disconnected { session, ending });
        }
    }

    /// Hands a frame to the core. Ask [`Self::may_read`] first.
    pub(crate) fn frame(&mut self, session: SessionId, bytes: Bytes) {
        self.status.counters.frames_in.add(1);
        self.status.counters.frame_bytes_in.add(bytes.len() as u64);
        self.feed(Input::Frame { session, bytes });
    }

    /// Whether the session's next frame may be handed over: not while messages to other shards find no room, nor while the session
    /// must first take its answers, nor after its end was decided.
    pub(crate) fn may_read(&self, session: SessionId) -> bool {
        self.links.waiting() == 0
            && self.core.wants_input(session)
            && !self.closes.iter().any(|(closed, _)| *closed == session)
    }

    /// The lanes on which a session has frames.
    pub(crate) fn waiting(&self, session: SessionId) -> Lanes {
        self.core.waiting(session)
    }

    /// The next frame for a session's lane. Only when the transport takes it now.
    pub(crate) fn pop_frame(&mut self, session: SessionId, lane: Lane) -> Option<Bytes> {
        let frame = self.core.pop_frame(session, lane);
        while let Some(output) = self.core.poll_output() {
            self.perform(output);
        }
        let frame = frame?;
        self.status.counters.frames_out.add(1);
        self.status.counters.frame_bytes_out.add(frame.len() as u64);
        Some(frame)
    }

    /// Moves the sessions that have something to send to `into`.
    pub(crate) fn take_ready(&mut self, into: &mut Vec<(SessionId, Urgency)>) {
        self.core.take_ready(into);
    }

    /// Moves the sessions that are to be closed to `into`.
    pub(crate) fn take_closes(&mut self, into: &mut Vec<(SessionId, CloseCode)>) {
        into.append(&mut self.closes);
    }

    /// Where a session's transport is; `None` for one that has ended.
    pub(crate) fn transport(&self, session: SessionId) -> Option<Transport> {
        self.sessions.get(Key::from_raw(session.raw())).copied()
    }

    /// Tells the core once that the server goes away.
    pub(crate) fn drain(&mut self, spread_ms: u32) {
        if !self.draining {
            self.draining = true;
            self.feed(Input::Drain { spread_ms });
        }
    }

    /// Whether new sessions are refused.
    pub(crate) const fn is_draining(&self) -> bool {
        self.draining
    }

    /// Asks for every session to be closed.
    pub(crate) fn close_all(&mut self, code: CloseCode) {
        self.closes.extend(self.sessions.iter().map(|(key, _)| (SessionId::from_raw(key.raw()), code)));
    }

    /// Hands this turn's commands to the log and this turn's messages to the other shards, and rings each once.
    pub(crate) fn flush(&mut self) {
        self.store.flush();
        self.links.flush();
    }

    /// Whether a message for this shard has come. To be asked after sleep was announced.
    pub(crate) fn has_incoming(&self) -> bool {
        self.links.has_incoming()
    }

    /// Messages that wait for room in another shard's ring.
    pub(crate) const fn backlog(&self) -> usize {
        self.links.waiting()
    }

    /// When the core wants to be told the time.
    pub(crate) fn timeout(&self) -> Option<tern_protocol::Timestamp> {
        self.core.poll_timeout()
    }

    /// Live sessions.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The moment of the present turn.
    pub(crate) const fn now(&self) -> Moment {
        self.now
    }

    /// Publishes what only the core and the rings know.
    pub(crate) fn publish(&self) {
        let counters = &self.status.counters;
        counters.sessions.set(self.sessions.len());
        counters.publish_core(&self.core.counters());
        counters.ring_waiting.set(self.links.waiting());
        counters.ring_overflows.set(usize::try_from(self.links.overflowed()).unwrap_or(usize::MAX));
        if !self.status.is_caught_up() && self.core.is_caught_up() {
            self.status.set_caught_up();
        }
    }

    pub(crate) fn status(&self) -> &Status {
        &self.status
    }
}

/// Messages behind full rings at which the log waits too. Unit: messages. Sessions wait from the first one on.
const OVERFLOW_MAX: usize = 4096;
/// Times that the core may be told the time in one turn. Unit: inputs. A timer that is due at once again waits for the next turn.
const TIMERS_MAX: usize = 1024;
