//! One WebSocket as a session: TLS and framing without I/O of their own, over a socket that never blocks. Holds at most one batch of
//! outgoing frames and one incoming message; everything else waits in the core or at the client.

use std::io::{self, BufRead, Write};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tern_core_shard::io::{Ending, Lane};
use tern_protocol::limit::FRAME_SIZE_MAX;
use tern_protocol::{CloseCode, SessionId, frame};

use super::codec::{Decoder, Event, Outgoing, Violation, encode, encode_close};
use crate::quic::{FLUSH_TIMEOUT, FRAME_TIMEOUT, code_of};
use crate::runtime::Tcp;
use crate::shard_thread::{Performer, SILENCE_MAX};
use crate::store::Store;

/// Silence after which the client is pinged. Unit: time.
const PING_AFTER: Duration = Duration::from_secs(25);
/// Pings that a client may send in [`PING_WINDOW`]. Unit: pings.
const PINGS_MAX: u32 = 32;
/// See [`PINGS_MAX`]. Unit: time.
const PING_WINDOW: Duration = Duration::from_secs(10);
/// Frames are gathered into one TLS record until they have this size. Unit: bytes. A record carries 16 KiB.
const BATCH_SIZE: usize = 16 * 1024;
/// Plaintext and ciphertext that rustls may hold for one connection. Unit: bytes. One batch, and one largest frame that ends it.
const TLS_BUFFER_MAX: usize = 2 * (BATCH_SIZE + FRAME_SIZE_MAX + HEADER_SIZE_MAX);
/// Longest header of a frame to a client. Unit: bytes.
const HEADER_SIZE_MAX: usize = 10;
/// Bytes read from one socket, and written to it, in one turn. Unit: bytes.
const TURN_BUDGET: usize = 64 * 1024;
/// Frames read from one socket in one turn. Unit: frames.
const FRAMES_BUDGET: usize = 64;

/// Where a socket is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Both sides speak.
    Open,
    /// Nothing more is read as a frame; what waits is sent, then a close frame, until then.
    Closing { code: u16, reason: &'static str, until: Instant },
    /// The close frame is sent: waits for the client's, because a socket dropped with unread bytes resets the connection and may
    /// take the close frame with it.
    Lingering { until: Instant },
    /// To be dropped.
    Over,
}

/// Whether a socket needs another look in the next turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything there was has been done.
    Done,
    /// A budget was used up.
    More,
}

/// What came of an attempt to get more plaintext.
enum Filled {
    Some(usize),
    Empty,
    End,
}

/// One WebSocket of a shard.
pub(super) struct Session {
    pub(super) tcp: Tcp,
    tls: rustls::ServerConnection,
    decoder: Decoder,
    /// Plaintext that is not a whole frame yet. Empty, and without memory, while the client is silent.
    input: BytesMut,
    /// Pongs and the close frame, encoded.
    urgent: Vec<u8>,
    session: Option<SessionId>,
    phase: Phase,
    /// Whether the client's close frame has come: nothing follows it.
    is_peer_closed: bool,
    /// Whether the socket may have something to read; if not, readiness must be waited for.
    pub(super) is_readable: bool,
    /// Whether the socket took less than it was given; readiness must be waited for.
    pub(super) is_blocked: bool,
    /// Whether the core may have frames for it.
    wants_write: bool,
    heard: Instant,
    is_pinged: bool,
    pings: u32,
    pings_since: Instant,
    partial_until: Option<Instant>,
    /// Whether it is on the shard's list of sockets to look at in this turn.
    pub(super) is_listed: bool,
    /// Whether it is on the shard's list of sockets that wait for back-pressure to end.
    pub(super) is_paused: bool,
    /// Whether reading or writing stopped at its budget.
    pub(super) has_more: bool,
    /// Its earliest entry among the deadlines.
    pub(super) armed: Option<Instant>,
}

impl Session {
    pub(super) fn new(tcp: Tcp, mut tls: rustls::ServerConnection, read_buf: &[u8], now: Instant) -> Self {
        tls.set_buffer_limit(Some(TLS_BUFFER_MAX));
        Self {
            tcp,
            tls,
            decoder: Decoder::default(),
            // Comes before the plaintext that TLS holds, which comes before what the socket holds.
            input: BytesMut::from(read_buf),
            urgent: Vec::new(),
            session: None,
            phase: Phase::Open,
            is_peer_closed: false,
            is_readable: true,
            is_blocked: false,
            wants_write: true,
            heard: now,
            is_pinged: false,
            pings: 0,
            pings_since: now,
            partial_until: None,
            is_listed: false,
            is_paused: false,
            has_more: false,
            armed: None,
        }
    }

    /// The core knows it under this name.
    pub(super) const fn set_session(&mut self, session: SessionId) {
        self.session = Some(session);
    }

    /// The core has frames for it.
    pub(super) const fn mark_writable(&mut self) {
        self.wants_write = true;
    }

    /// Whether it can be dropped.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// The transport is gone: the core is told, once.
    pub(super) fn end<S: Store>(&mut self, ending: Ending, performer: &mut Performer<S>) {
        self.phase = Phase::Over;
        self.leave(ending, performer);
    }

    fn leave<S: Store>(&mut self, ending: Ending, performer: &mut Performer<S>) {
        if let Some(session) = self.session.take() {
            performer.disconnect(session, ending);
        }
    }

    /// Begins to close: what waits is sent first, for a bounded time.
    pub(super) fn close<S: Store>(&mut self, code: CloseCode, performer: &Performer<S>) {
        if self.phase == Phase::Open {
            performer.note_close(self.session, code);
            self.close_with(CloseCode::WEBSOCKET_BASE + code.raw(), code.text(), performer.now().instant);
        }
    }

    fn close_with(&mut self, code: u16, reason: &'static str, now: Instant) {
        self.phase = Phase::Closing { code, reason, until: now + FLUSH_TIMEOUT };
        self.partial_until = None;
        self.wants_write = true;
    }

    /// When this socket wants to be looked at.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Open => {
                let silence = if self.is_pinged { SILENCE_MAX } else { PING_AFTER };
                Some(self.partial_until.map_or(self.heard + silence, |partial| partial.min(self.heard + silence)))
            }
            Phase::Closing { until, .. } | Phase::Lingering { until } => Some(until),
            Phase::Over => None,
        }
    }

    fn check_deadlines<S: Store>(&mut self, performer: &mut Performer<S>) {
        let now = performer.now().instant;
        match self.phase {
            Phase::Open => {
                let silence = now.saturating_duration_since(self.heard);
                if silence >= SILENCE_MAX {
                    self.end(Ending::Lost, performer);
                } else if silence >= PING_AFTER && !self.is_pinged {
                    self.is_pinged = true;
                    encode(Outgoing::Ping, &[], &mut self.urgent);
                } else if self.partial_until.is_some_and(|until| until <= now) {
                    self.close(CloseCode::TooSlow, performer);
                }
            }
            Phase::Closing { until, .. } | Phase::Lingering { until } if until <= now => {
                self.end(Ending::Lost, performer);
            }
            Phase::Closing { .. } | Phase::Lingering { .. } | Phase::Over => {}
        }
    }
}

/// Reading.
impl Session {
    /// Takes what the client has sent and hands whole frames to the core.
    pub(super) fn read<S: Store>(&mut self, performer: &mut Performer<S>) -> Progress {
        self.check_deadlines(performer);
        let (mut frames, mut size) = (0, 0);
        loop {
            if let (Phase::Open, Some(session)) = (self.phase, self.session) {
                if !performer.may_read(session) {
                    self.is_paused = true;
                    self.partial_until = None;
                    return Progress::Done;
                }
            } else if self.phase == Phase::Over {
                return Progress::Done;
            }
            if frames >= FRAMES_BUDGET || size >= TURN_BUDGET {
                return Progress::More;
            }
            match self.decoder.next(&mut self.input) {
                Ok(Some(event)) => {
                    frames += 1;
                    // Not by a ping in between, or a message could be held open for ever.
                    if matches!(event, Event::Message(_)) {
                        self.partial_until = None;
                    }
                    self.on_event(event, performer);
                }
                Ok(None) => match self.fill() {
                    Ok(Filled::Some(count)) => {
                        size += count;
                        self.heard = performer.now().instant;
                        self.is_pinged = false;
                    }
                    Ok(Filled::Empty) => {
                        self.rest(performer.now().instant);
                        return Progress::Done;
                    }
                    Ok(Filled::End) | Err(_) => {
                        self.end(Ending::Lost, performer);
                        return Progress::Done;
                    }
                },
                Err(violation) => {
                    self.on_violation(violation, performer);
                    return Progress::Done;
                }
            }
        }
    }

    /// Nothing more is there: gives memory back, or notes since when a message is incomplete.
    fn rest(&mut self, now: Instant) {
        if self.phase == Phase::Open && self.decoder.is_partial(&self.input) {
            self.partial_until.get_or_insert(now + FRAME_TIMEOUT);
        } else if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    fn on_event<S: Store>(&mut self, event: Event, performer: &mut Performer<S>) {
        match event {
            Event::Message(bytes) => self.on_message(bytes, performer),
            Event::Ping(content) => {
                if self.phase != Phase::Open {
                    return;
                }
                let now = performer.now().instant;
                if now.saturating_duration_since(self.pings_since) >= PING_WINDOW {
                    self.pings_since = now;
                    self.pings = 0;
                }
                self.pings += 1;
                if self.pings > PINGS_MAX {
                    self.close_with(1008, "too many pings", now);
                } else {
                    encode(Outgoing::Pong, &content, &mut self.urgent);
                }
            }
            Event::Pong => {}
            Event::Close(code) => self.on_close(code, performer),
        }
    }

    fn on_message<S: Store>(&mut self, bytes: Bytes, performer: &mut Performer<S>) {
        let (Phase::Open, Some(session)) = (self.phase, self.session) else { return };
        match frame::size(&bytes) {
            Ok(Some(size)) if size == bytes.len() => performer.frame(session, bytes),
            Ok(_) => self.close(CloseCode::Malformed, performer),
            Err(error) => self.close(code_of(error), performer),
        }
    }

    /// The client closes, or answers our close.
    fn on_close<S: Store>(&mut self, code: Option<u16>, performer: &mut Performer<S>) {
        self.is_peer_closed = true;
        match self.phase {
            Phase::Open | Phase::Closing { .. } => {
                // No code is what browsers send when the page asks to close without one.
                let is_goodbye = matches!(code, None | Some(1000 | CloseCode::WEBSOCKET_BASE));
                self.leave(if is_goodbye { Ending::Goodbye } else { Ending::Lost }, performer);
                self.close_with(code.unwrap_or(1000), "", performer.now().instant);
            }
            Phase::Lingering { .. } | Phase::Over => self.phase = Phase::Over,
        }
    }

    fn on_violation<S: Store>(&mut self, violation: Violation, performer: &mut Performer<S>) {
        // Whatever follows cannot be understood.
        self.input.clear();
        self.is_readable = false;
        match self.phase {
            Phase::Open => {
                performer.note_close(self.session, CloseCode::Malformed);
                self.leave(Ending::Lost, performer);
                self.close_with(violation.code(), "", performer.now().instant);
            }
            Phase::Closing { .. } | Phase::Lingering { .. } | Phase::Over => self.end(Ending::Lost, performer),
        }
    }

    /// Gets more plaintext: first what TLS holds already, then what the socket holds.
    fn fill(&mut self) -> io::Result<Filled> {
        loop {
            let mut reader = self.tls.reader();
            match reader.fill_buf() {
                Ok([]) => return Ok(Filled::End),
                Ok(plaintext) => {
                    let count = plaintext.len();
                    self.input.extend_from_slice(plaintext);
                    reader.consume(count);
                    return Ok(Filled::Some(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if !self.is_readable {
                return Ok(Filled::Empty);
            }
            match self.tls.read_tls(&mut &self.tcp) {
                Ok(0) => return Ok(Filled::End),
                Ok(_) => {
                    if let Err(error) = self.tls.process_new_packets() {
                        // The alert that says why.
                        let _ = self.tls.write_tls(&mut &self.tcp);
                        return Err(io::Error::other(error));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Writing.
impl Session {
    /// Writes what the core and the protocol have to say, as far as the socket takes it, and closes when that is due.
    pub(super) fn write<S: Store>(&mut self, batch: &mut Vec<u8>, performer: &mut Performer<S>) -> Progress {
        let mut size = 0;
        loop {
            if self.phase == Phase::Over || self.is_blocked {
                return Progress::Done;
            }
            match self.flush_tls() {
                Ok(true) => {}
                Ok(false) => {
                    self.is_blocked = true;
                    return Progress::Done;
                }
                Err(_) => {
                    self.end(Ending::Lost, performer);
                    return Progress::Done;
                }
            }
            if size >= TURN_BUDGET {
                return Progress::More;
            }
            batch.clear();
            self.gather(batch, performer);
            if batch.is_empty() {
                if self.is_peer_closed && matches!(self.phase, Phase::Lingering { .. }) {
                    self.phase = Phase::Over;
                }
                return Progress::Done;
            }
            size += batch.len();
            // Nothing is buffered at this point, and the limit is above one batch.
            if self.tls.writer().write_all(batch).is_err() {
                self.end(Ending::Lost, performer);
                return Progress::Done;
            }
            if matches!(self.phase, Phase::Lingering { .. }) {
                self.tls.send_close_notify();
            }
        }
    }

    /// The next frames to write: urgent ones, then the lanes in order, then, when nothing is left, the close frame.
    fn gather<S: Store>(&mut self, batch: &mut Vec<u8>, performer: &mut Performer<S>) {
        batch.append(&mut self.urgent);
        if self.wants_write
            && let Some(session) = self.session
        {
            let waiting = performer.waiting(session);
            for lane in LANES.into_iter().filter(|lane| waiting.has(*lane)) {
                while batch.len() < BATCH_SIZE {
                    let Some(frame) = performer.pop_frame(session, lane) else { break };
                    encode(Outgoing::Message, &frame, batch);
                }
            }
            self.wants_write = batch.len() >= BATCH_SIZE;
        }
        if let Phase::Closing { code, reason, until } = self.phase
            && batch.is_empty()
        {
            encode_close(code, reason, batch);
            self.leave(Ending::Lost, performer);
            self.phase = Phase::Lingering { until };
        }
    }

    /// Writes what TLS holds. `false`: the socket is full.
    fn flush_tls(&mut self) -> io::Result<bool> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut &self.tcp) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// The lanes, the most urgent first.
const LANES: [Lane; 5] = [Lane::Control, Lane::Delivery(0), Lane::Delivery(1), Lane::Delivery(2), Lane::Datagram];
const _: () = assert!(LANES.len() == 2 + tern_protocol::limit::DELIVERY_LANE_COUNT);
