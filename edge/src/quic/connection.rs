//! One QUIC connection as a session: its control stream in, its lanes out, its deadlines. Holds at most one frame per lane and one
//! partial frame; everything else waits in the core or at the client. Never sends a packet itself.

use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto::{ConnectionError, ConnectionEvent, Dir, Event, ReadError, StreamEvent, StreamId, VarInt, WriteError};
use tern_core_shard::io::{Ending, Lane};
use tern_protocol::client::{Hello, Ping};
use tern_protocol::frame::{self, Frame, FrameError};
use tern_protocol::limit::{DELIVERY_LANE_COUNT, FRAME_SIZE_MAX};
use tern_protocol::tail::{PathFacts, Tail};
use tern_protocol::{CloseCode, SessionId};

use super::admission::Network;
use super::assembler::{Assembler, code_of};
use super::config::HANDSHAKE_TIMEOUT;
use crate::shard_thread::{Performer, SILENCE_MAX, Transport};
use crate::store::Store;

/// From the first byte of a frame to its last. Unit: time.
pub(crate) const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// From the decision to close until the close, for what still waits to be sent. Unit: time.
pub(crate) const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Allowance for the peer's delay of acknowledgements when the last bytes before a close are given time to arrive. Unit: time.
const ACK_DELAY: Duration = Duration::from_millis(30);
/// Probes that a peer may leave unanswered before it is given up, as a multiple of the first one's timeout: RFC 9002 section 6.2.1 doubles
/// it each time, 1 + 2 + 4 + 8 + 16.
const PROBES_MAX: u32 = 31;
/// A peer is not given up sooner, however near it is: a phone changes networks in less. Unit: time.
const UNANSWERED_MIN: Duration = Duration::from_secs(10);
/// Bytes read from one connection in one turn, at least; a frame that has begun is finished. Unit: bytes.
const READ_BUDGET: usize = FRAME_SIZE_MAX;
/// Frames read from one connection in one turn. Unit: frames.
const FRAMES_BUDGET: usize = 64;
/// Datagrams read from one connection in one turn. Unit: datagrams.
const DATAGRAMS_BUDGET: usize = 64;

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The handshake is not confirmed; it must be by then.
    Handshake { until: Instant },
    /// Both sides speak.
    Open,
    /// Nothing more is read; what waits is sent until then, and then it is closed.
    Closing { code: CloseCode, until: Instant },
    /// The transport is gone, or will be when quinn-proto has told the peer.
    Closed,
}

/// One lane's way out.
#[derive(Debug, Default)]
struct Outlet {
    stream: Option<StreamId>,
    /// What is left of the frame that the stream took in part.
    rest: Bytes,
    /// Whether the stream takes nothing until quinn-proto says so.
    blocked: bool,
}

/// Whether a connection needs another look in the next turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything there was has been done.
    Done,
    /// A budget was used up.
    More,
}

/// One connection of a shard.
pub(super) struct Connection {
    pub(super) inner: quinn_proto::Connection,
    /// Its own slot, for [`Transport`].
    slot: usize,
    session: Option<SessionId>,
    phase: Phase,
    network: Network,
    /// Whether the end of the handshake was counted.
    is_admitted: bool,
    control: Option<StreamId>,
    control_readable: bool,
    inbound: Assembler,
    /// A frame that must wait for the end of the handshake, because early data can be replayed.
    held: Option<Bytes>,
    datagrams_readable: bool,
    /// Control first, then the delivery lanes.
    outlets: [Outlet; 1 + DELIVERY_LANE_COUNT],
    /// Whether the core may have frames for it, or a stream room.
    wants_write: bool,
    partial_until: Option<Instant>,
    last_write: Option<Instant>,
    /// When the last packet came.
    heard: Instant,
    /// When something was first written after that.
    unanswered: Option<Instant>,
    tail: Tail,
    /// When an empty packet follows what was written last.
    tail_at: Option<Instant>,
    /// Whether it is on the shard's list of connections to look at in this turn.
    pub(super) is_listed: bool,
    /// Whether it is on the shard's list of connections that wait for back-pressure to end.
    pub(super) is_paused: bool,
    /// Whether reading stopped at its budget.
    pub(super) has_more: bool,
    /// Its earliest entry among the deadlines.
    pub(super) armed: Option<Instant>,
}

impl Connection {
    pub(super) fn new(inner: quinn_proto::Connection, slot: usize, network: Network, now: Instant) -> Self {
        Self {
            inner,
            slot,
            session: None,
            phase: Phase::Handshake { until: now + HANDSHAKE_TIMEOUT },
            network,
            is_admitted: false,
            control: None,
            control_readable: false,
            inbound: Assembler::default(),
            held: None,
            datagrams_readable: false,
            outlets: Default::default(),
            wants_write: false,
            partial_until: None,
            last_write: None,
            heard: now,
            unanswered: None,
            tail: Tail::default(),
            tail_at: None,
            is_listed: false,
            is_paused: false,
            has_more: false,
            armed: None,
        }
    }

    pub(super) const fn network(&self) -> Network {
        self.network
    }

    /// Whether the handshake has ended, well or not; `true` once.
    pub(super) fn take_admitted(&mut self) -> bool {
        let ended = !matches!(self.phase, Phase::Handshake { .. });
        ended && !std::mem::replace(&mut self.is_admitted, true)
    }

    /// A packet came.
    pub(super) fn receive(&mut self, event: ConnectionEvent, now: Instant) {
        self.heard = now;
        self.unanswered = None;
        self.inner.handle_event(event);
    }

    /// The core has frames for it.
    pub(super) const fn mark_writable(&mut self) {
        self.wants_write = true;
    }

    /// Takes what quinn-proto has to say and hands whole frames to the core.
    pub(super) fn read<S: Store>(&mut self, performer: &mut Performer<S>) -> Progress {
        while let Some(event) = self.inner.poll() {
            self.on_event(event, performer);
        }
        self.check_deadlines(performer);
        let datagrams = self.read_datagrams(performer);
        let control = self.read_control(performer);
        if datagrams == Progress::More { datagrams } else { control }
    }

    fn on_event<S: Store>(&mut self, event: Event, performer: &mut Performer<S>) {
        match event {
            Event::HandshakeDataReady | Event::DatagramsUnblocked => {}
            Event::Connected => {
                if matches!(self.phase, Phase::Handshake { .. }) {
                    performer.status().counters.handshakes_done.add(1);
                    self.phase = Phase::Open;
                }
                self.control_readable = true;
                self.begin_session(performer);
            }
            Event::ConnectionLost { reason } => self.on_lost(&reason, performer),
            Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => self.on_opened(performer),
            Event::Stream(StreamEvent::Readable { .. }) => self.control_readable = true,
            Event::Stream(StreamEvent::Writable { id }) => {
                for outlet in self.outlets.iter_mut().filter(|outlet| outlet.stream == Some(id)) {
                    outlet.blocked = false;
                }
                self.wants_write = true;
            }
            Event::Stream(StreamEvent::Available { dir: Dir::Uni }) => {
                for outlet in self.outlets.iter_mut().skip(1).filter(|outlet| outlet.stream.is_none()) {
                    outlet.blocked = false;
                }
                self.wants_write = true;
            }
            // A client that refuses a lane has broken the protocol: what it misses it could not know.
            Event::Stream(StreamEvent::Stopped { .. }) => self.close(CloseCode::UnexpectedFrame, performer),
            Event::Stream(
                StreamEvent::Finished { .. }
                | StreamEvent::Opened { dir: Dir::Uni }
                | StreamEvent::Available { dir: Dir::Bi },
            ) => {}
            Event::DatagramReceived => self.datagrams_readable = true,
        }
    }

    fn on_opened<S: Store>(&mut self, performer: &mut Performer<S>) {
        while let Some(stream) = self.inner.streams().accept(Dir::Bi) {
            if self.control.is_some() {
                self.close(CloseCode::UnexpectedFrame, performer);
                return;
            }
            // Answers before events: a client that waits for an acknowledgement waits with a person before it.
            let _ = self.inner.send_stream(stream).set_priority(1);
            self.control = Some(stream);
            self.control_readable = true;
            if let Some(outlet) = self.outlets.first_mut() {
                outlet.stream = Some(stream);
                outlet.blocked = false;
            }
            self.wants_write = true;
            self.begin_session(performer);
        }
    }

    fn begin_session<S: Store>(&mut self, performer: &mut Performer<S>) {
        if self.session.is_none() && self.phase != Phase::Closed {
            self.session = Some(performer.connect(Transport::Quic(self.slot)));
        }
    }

    fn on_lost<S: Store>(&mut self, reason: &ConnectionError, performer: &mut Performer<S>) {
        let ending = match reason {
            ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(0) => Ending::Goodbye,
            ConnectionError::ApplicationClosed(_)
            | ConnectionError::ConnectionClosed(_)
            | ConnectionError::VersionMismatch
            | ConnectionError::TransportError(_)
            | ConnectionError::Reset
            | ConnectionError::TimedOut
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted => Ending::Lost,
        };
        self.end(ending, performer);
    }

    /// The transport is gone: the core is told, once.
    pub(super) fn end<S: Store>(&mut self, ending: Ending, performer: &mut Performer<S>) {
        self.phase = Phase::Closed;
        if let Some(session) = self.session.take() {
            performer.disconnect(session, ending);
        }
    }

    /// Begins to close: what waits is sent first, for a bounded time.
    pub(super) fn close<S: Store>(&mut self, code: CloseCode, performer: &Performer<S>) {
        match self.phase {
            Phase::Handshake { .. } | Phase::Open => {
                performer.note_close(self.session, code);
                self.phase = Phase::Closing { code, until: performer.now().instant + FLUSH_TIMEOUT };
                self.partial_until = None;
                self.wants_write = true;
            }
            Phase::Closing { .. } | Phase::Closed => {}
        }
    }

    /// Tells the peer, and the core.
    fn finish<S: Store>(&mut self, code: CloseCode, ending: Ending, performer: &mut Performer<S>) {
        let reason = Bytes::from_static(code.text().as_bytes());
        self.inner.close(performer.now().instant, VarInt::from_u32(code.raw().into()), reason);
        self.end(ending, performer);
    }

    fn check_deadlines<S: Store>(&mut self, performer: &mut Performer<S>) {
        let now = performer.now().instant;
        if let Phase::Handshake { until } = self.phase
            && until <= now
        {
            performer.status().counters.handshakes_timed_out.add(1);
            self.finish(CloseCode::TooSlow, Ending::Lost, performer);
        }
        if self.partial_until.is_some_and(|until| until <= now) {
            self.close(CloseCode::TooSlow, performer);
        }
        if self.phase == Phase::Open && self.give_up_at() <= now {
            performer.status().counters.peers_given_up.add(1);
            self.finish(CloseCode::SlowReader, Ending::Lost, performer);
        }
        if self.tail_at.is_some_and(|at| at <= now) {
            self.tail_at = None;
            performer.status().counters.tail_probes.add(1);
            self.inner.ping();
        }
    }

    /// When a peer that says nothing is given up: what was written to it should have been acknowledged by then, and without a word a
    /// client is never silent for so long. quinn-proto's own idle timeout begins again with the first packet that is sent.
    fn give_up_at(&self) -> Instant {
        let silent = self.heard + SILENCE_MAX;
        let probe = self.inner.rtt() * 3 + ACK_DELAY;
        let patience = (probe * PROBES_MAX).max(UNANSWERED_MIN);
        self.unanswered.map_or(silent, |at| silent.min(at + patience))
    }

    /// When this connection wants to be looked at, quinn-proto's timers included.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Handshake { until } => Some(until),
            Phase::Closing { until, .. } => Some(self.close_at(until)),
            Phase::Open => Some(self.give_up_at()),
            Phase::Closed => None,
        };
        [self.inner.poll_timeout(), phase, self.partial_until, self.tail_at].into_iter().flatten().min()
    }
}

/// Reading.
impl Connection {
    fn read_datagrams<S: Store>(&mut self, performer: &mut Performer<S>) -> Progress {
        if !self.datagrams_readable {
            return Progress::Done;
        }
        for _ in 0..DATAGRAMS_BUDGET {
            let Some(datagram) = self.inner.datagrams().recv() else {
                self.datagrams_readable = false;
                return Progress::Done;
            };
            // It only made the client's QUIC hear of what it had sent before.
            if datagram.is_empty() {
                continue;
            }
            // They are worth nothing later: what may not be read now is dropped. Early data is for hellos.
            let Some(session) = self.readable_session() else { continue };
            if self.inner.is_handshaking() || !performer.may_read(session) {
                continue;
            }
            match frame::size(&datagram) {
                Ok(Some(size)) if size == datagram.len() => performer.frame(session, datagram),
                Ok(_) | Err(_) => self.close(CloseCode::Malformed, performer),
            }
        }
        Progress::More
    }

    /// The session, while it is read from.
    fn readable_session(&self) -> Option<SessionId> {
        match self.phase {
            Phase::Handshake { .. } | Phase::Open => self.session,
            Phase::Closing { .. } | Phase::Closed => None,
        }
    }

    fn read_control<S: Store>(&mut self, performer: &mut Performer<S>) -> Progress {
        if !self.control_readable {
            return Progress::Done;
        }
        let Some(stream) = self.control else { return Progress::Done };
        let (mut frames, mut size) = (0, 0);
        loop {
            let Some(session) = self.readable_session() else { return Progress::Done };
            if !performer.may_read(session) {
                self.is_paused = true;
                self.partial_until = None;
                return Progress::Done;
            }
            if frames >= FRAMES_BUDGET || size >= READ_BUDGET {
                return Progress::More;
            }
            match self.next_frame() {
                Ok(Some(frame)) if self.must_wait(&frame) => {
                    self.held = Some(frame);
                    return Progress::Done;
                }
                Ok(Some(frame)) => {
                    self.partial_until = None;
                    frames += 1;
                    size += frame.len();
                    performer.frame(session, frame);
                }
                Ok(None) => match self.next_chunk(stream, performer) {
                    Some(chunk) => {
                        size += chunk.len();
                        self.inbound.push(chunk);
                    }
                    None => return Progress::Done,
                },
                Err(error) => {
                    self.close(code_of(error), performer);
                    return Progress::Done;
                }
            }
        }
    }

    fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        match self.held.take() {
            Some(frame) => Ok(Some(frame)),
            None => self.inbound.next(),
        }
    }

    /// Whether a frame is one that early data may not carry.
    ///
    /// # Source
    /// RFC 9001 section 9.2: "Endpoints MUST implement and use the replay protections described in TLS13"; a hello or a ping that is
    /// replayed changes nothing.
    fn must_wait(&self, frame: &[u8]) -> bool {
        let kind = frame.get(5).copied().map(frame::Kind);
        self.inner.is_handshaking() && kind != Some(Hello::KIND) && kind != Some(Ping::KIND)
    }

    /// The next bytes of the control stream; `None`: none now, or the stream has ended.
    fn next_chunk<S: Store>(&mut self, stream: StreamId, performer: &mut Performer<S>) -> Option<Bytes> {
        let result = {
            let mut recv = self.inner.recv_stream(stream);
            let Ok(mut chunks) = recv.read(true) else {
                self.control_readable = false;
                return None;
            };
            // The credit that this frees is sent with whatever this turn sends: every connection that was read is driven.
            let result = chunks.next(READ_BUDGET);
            let _ = chunks.finalize();
            result
        };
        match result {
            Ok(Some(chunk)) => Some(chunk.bytes),
            Ok(None) => {
                self.control_readable = false;
                if self.inbound.is_partial() {
                    self.close(CloseCode::Malformed, performer);
                } else {
                    self.finish(CloseCode::Goodbye, Ending::Goodbye, performer);
                }
                None
            }
            Err(ReadError::Blocked) => {
                self.control_readable = false;
                if self.inbound.is_partial() && self.partial_until.is_none() {
                    self.partial_until = Some(performer.now().instant + FRAME_TIMEOUT);
                }
                None
            }
            Err(ReadError::Reset(_)) => {
                self.control_readable = false;
                self.finish(CloseCode::Goodbye, Ending::Lost, performer);
                None
            }
        }
    }
}

/// Writing.
impl Connection {
    /// Hands the core's frames to quinn-proto, as far as the streams take them, and closes when that is due.
    pub(super) fn write<S: Store>(&mut self, performer: &mut Performer<S>) {
        if self.wants_write
            && let Some(session) = self.session
        {
            self.wants_write = false;
            self.write_lanes(session, performer);
            let now = performer.now().instant;
            if self.last_write == Some(now) {
                self.unanswered.get_or_insert(now);
                self.arm_tail(now);
            }
        }
        if let Phase::Closing { code, until } = self.phase
            && self.close_at(until) <= performer.now().instant
        {
            self.finish(code, Ending::Lost, performer);
        }
    }

    /// Has an empty packet follow what was just written, where the path may lose it.
    fn arm_tail(&mut self, now: Instant) {
        let inner = &self.inner;
        let facts = || {
            let path = inner.stats().path;
            PathFacts { sent: path.sent_packets, lost: path.lost_packets, rtt_min: path.min_rtt, rtt: path.rtt }
        };
        self.tail_at = self.tail.wrote(facts).map(|after| now + after);
    }

    /// When a closing connection is closed: when everything that was written has probably arrived, because a close overtakes what is
    /// lost on the way; with streams that take nothing, at `until`.
    fn close_at(&self, until: Instant) -> Instant {
        if self.outlets.iter().any(|outlet| !outlet.rest.is_empty()) {
            return until;
        }
        // Nothing was ever written: there is nothing to wait for, and any time that has passed will do.
        let arrived = self.last_write.map_or(until - FLUSH_TIMEOUT, |at| at + self.inner.rtt() * 3 + ACK_DELAY);
        arrived.min(until)
    }

    fn write_lanes<S: Store>(&mut self, session: SessionId, performer: &mut Performer<S>) {
        let waiting = performer.waiting(session);
        for (index, lane) in (0..).zip(LANES) {
            if waiting.has(lane) || self.outlets.get(index).is_some_and(|outlet| !outlet.rest.is_empty()) {
                self.write_lane(index, session, lane, performer);
            }
        }
        if waiting.has(Lane::Datagram) {
            self.write_datagrams(session, performer);
        }
    }

    fn write_lane<S: Store>(&mut self, index: usize, session: SessionId, lane: Lane, performer: &mut Performer<S>) {
        let Self { inner, outlets, last_write, .. } = self;
        let Some(outlet) = outlets.get_mut(index) else { return };
        while !outlet.blocked {
            if outlet.rest.is_empty() {
                let Some(frame) = performer.pop_frame(session, lane) else { return };
                outlet.rest = frame;
            }
            // The control stream is the client's to open; the others are ours, as many as the client allows.
            let stream = match (outlet.stream, lane) {
                (Some(stream), _) => Some(stream),
                (None, Lane::Delivery(_)) => inner.streams().open(Dir::Uni),
                (None, Lane::Control | Lane::Datagram) => None,
            };
            outlet.stream = stream;
            let Some(stream) = stream else {
                outlet.blocked = true;
                return;
            };
            match inner.send_stream(stream).write_chunks(std::slice::from_mut(&mut outlet.rest)) {
                Ok(_) => *last_write = Some(performer.now().instant),
                // A stopped stream is reported as an event, which closes the connection.
                Err(WriteError::Blocked | WriteError::Stopped(_) | WriteError::ClosedStream) => outlet.blocked = true,
            }
        }
    }

    fn write_datagrams<S: Store>(&mut self, session: SessionId, performer: &mut Performer<S>) {
        loop {
            // What does not fit a datagram goes on the control stream, at a frame's boundary.
            match self.outlets.first() {
                Some(control) if control.stream.is_some() && !control.blocked && control.rest.is_empty() => {}
                Some(_) | None => return,
            }
            let Some(frame) = performer.pop_frame(session, Lane::Datagram) else { return };
            let fits = self.inner.datagrams().max_size().is_some_and(|max| frame.len() <= max);
            if fits && self.inner.datagrams().send(frame.clone(), true).is_ok() {
                self.last_write = Some(performer.now().instant);
                continue;
            }
            performer.status().counters.datagram_fallbacks.add(1);
            if let Some(control) = self.outlets.first_mut() {
                control.rest = frame;
            }
            self.write_lane(0, session, Lane::Control, performer);
        }
    }
}

/// The lanes with a stream each, in the order of a connection's outlets.
const LANES: [Lane; 1 + DELIVERY_LANE_COUNT] = [Lane::Control, Lane::Delivery(0), Lane::Delivery(1), Lane::Delivery(2)];
