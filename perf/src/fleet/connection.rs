//! One QUIC connection: the control stream, the server's lanes, datagrams. Moves frames between quinn-proto and the peer; what they say
//! is the peer's business.

use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{ConnectionError, Dir, Event, ReadError, StreamEvent, StreamId, VarInt, WriteError};
use tern_protocol::CloseCode;
use tern_protocol::limit::DELIVERY_LANE_COUNT;
use tern_protocol::tail::{PathFacts, Tail};

use super::book::Book;
use super::cutter::Cutter;
use super::peer::{Ending, Peer};

/// Bytes read from one stream in one visit. Unit: bytes. More waits for the next turn.
const READ_BUDGET: usize = 256 * 1024;
/// The control stream and the lanes.
const STREAMS: usize = 1 + DELIVERY_LANE_COUNT;

/// A stream that the server sends on.
#[derive(Debug, Default)]
struct Inlet {
    stream: Option<StreamId>,
    cutter: Cutter,
    readable: bool,
}

/// How far the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Handshake,
    /// The hello went out as early data.
    Early,
    Open,
}

/// One connection.
pub(super) struct Connection {
    pub(super) inner: quinn_proto::Connection,
    /// Whose it is; `None`: it only dies.
    peer: Option<u32>,
    /// Which of the worker's sockets it uses.
    pub(super) socket: usize,
    /// The first packet on the new socket is awaited.
    migrating: bool,
    pub(super) stalled: bool,
    pub(super) is_dirty: bool,
    pub(super) armed: Option<Instant>,
    stage: Stage,
    /// The control stream takes nothing now.
    blocked: bool,
    inlets: [Inlet; STREAMS],
    datagrams_readable: bool,
    tail: Tail,
    /// When an empty packet follows what was written last.
    tail_at: Option<Instant>,
}

impl Connection {
    pub(super) fn new(inner: quinn_proto::Connection, peer: u32, socket: usize, stalled: bool) -> Self {
        Self {
            inner,
            peer: Some(peer),
            socket,
            migrating: false,
            stalled,
            is_dirty: false,
            armed: None,
            stage: Stage::Handshake,
            blocked: false,
            inlets: std::array::from_fn(|_| Inlet::default()),
            datagrams_readable: false,
            tail: Tail::default(),
            tail_at: None,
        }
    }

    pub(super) const fn peer(&self) -> Option<u32> {
        self.peer
    }

    /// It is no longer its peer's.
    pub(super) fn detach(&mut self) {
        self.peer = None;
    }

    /// Sends the hello before the handshake, where a ticket allows it.
    pub(super) fn say_hello_early(&mut self, peer: &Peer) {
        if self.inner.has_0rtt() {
            self.stage = Stage::Early;
            self.say_hello(peer);
        }
    }

    /// From here on it sends from another socket.
    pub(super) fn migrate(&mut self, socket: usize) {
        self.socket = socket;
        self.migrating = true;
        self.inner.local_address_changed();
    }

    /// A packet came in on this socket. Returns whether it is the first one after a change of address.
    pub(super) fn arrived_at(&mut self, socket: usize) -> bool {
        socket == self.socket && std::mem::take(&mut self.migrating)
    }

    /// Reads what is there for the peer and writes what it has. Returns whether there is more to read.
    pub(super) fn visit(&mut self, peer: &mut Peer, book: &mut Book) -> bool {
        while let Some(event) = self.inner.poll() {
            self.on_event(event, peer, book);
            if self.peer.is_none() {
                return false;
            }
        }
        let more = !self.stalled && self.read(peer, book);
        if self.tail_at.is_some_and(|at| at <= book.instant) {
            self.tail_at = None;
            self.inner.ping();
        }
        if self.stage == Stage::Open {
            self.write(peer, book.instant);
        }
        if let Some(code) = peer.close.take() {
            self.close(code, book);
            peer.on_ended(&Ending::Lost, book);
        }
        more
    }

    fn on_event(&mut self, event: Event, peer: &mut Peer, book: &mut Book) {
        match event {
            Event::Connected => self.on_connected(peer, book),
            Event::ConnectionLost { reason } => {
                self.detach();
                peer.on_ended(&ending(&reason), book);
            }
            Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) => self.on_lane(),
            Event::Stream(StreamEvent::Readable { id }) => {
                for inlet in self.inlets.iter_mut().filter(|inlet| inlet.stream == Some(id)) {
                    inlet.readable = true;
                }
            }
            Event::Stream(StreamEvent::Writable { .. }) => self.blocked = false,
            Event::DatagramReceived => self.datagrams_readable = true,
            Event::HandshakeDataReady
            | Event::DatagramsUnblocked
            | Event::Stream(
                StreamEvent::Finished { .. }
                | StreamEvent::Stopped { .. }
                | StreamEvent::Available { .. }
                | StreamEvent::Opened { dir: Dir::Bi },
            ) => {}
        }
    }

    fn on_connected(&mut self, peer: &Peer, book: &mut Book) {
        book.counts.handshakes_done += 1;
        if self.stage == Stage::Early && self.inner.accepted_0rtt() {
            book.counts.early_data_accepted += 1;
        } else {
            // Streams of refused early data are void: the same hello goes out again.
            self.inlets = std::array::from_fn(|_| Inlet::default());
            self.say_hello(peer);
        }
        self.stage = Stage::Open;
    }

    fn say_hello(&mut self, peer: &Peer) {
        let Some(stream) = self.inner.streams().open(Dir::Bi) else { return };
        if let Some(control) = self.inlets.first_mut() {
            control.stream = Some(stream);
        }
        // A hello is far smaller than any window.
        let _ = self.inner.send_stream(stream).write_chunks(&mut [peer.hello()]);
    }

    fn on_lane(&mut self) {
        while let Some(stream) = self.inner.streams().accept(Dir::Uni) {
            if let Some(inlet) = self.inlets.iter_mut().skip(1).find(|inlet| inlet.stream.is_none()) {
                inlet.stream = Some(stream);
                inlet.readable = true;
            }
        }
    }

    fn read(&mut self, peer: &mut Peer, book: &mut Book) -> bool {
        let mut more = false;
        for inlet in self.inlets.iter_mut().filter(|inlet| inlet.readable) {
            more |= inlet.read(&mut self.inner, peer, book);
        }
        if self.datagrams_readable {
            self.datagrams_readable = false;
            while let Some(datagram) = self.inner.datagrams().recv() {
                peer.on_frame(&datagram, book);
            }
        }
        more
    }

    fn write(&mut self, peer: &mut Peer, now: Instant) {
        for datagram in peer.out_datagrams.drain(..) {
            let fits = self.inner.datagrams().max_size().is_some_and(|most| datagram.len() <= most);
            if !(fits && self.inner.datagrams().send(datagram.clone(), true).is_ok()) {
                peer.out.push(datagram);
            }
        }
        if peer.out.is_empty() || self.blocked {
            return;
        }
        let Some(control) = self.inlets.first().and_then(|control| control.stream) else { return };
        match self.inner.send_stream(control).write_chunks(&mut peer.out) {
            Ok(written) => {
                peer.out.drain(..written.chunks);
                self.blocked = !peer.out.is_empty();
                self.arm_tail(now);
            }
            Err(WriteError::Blocked | WriteError::Stopped(_) | WriteError::ClosedStream) => self.blocked = true,
        }
    }

    /// Has an empty packet follow what was just written, as every client of Tern does.
    fn arm_tail(&mut self, now: Instant) {
        let inner = &self.inner;
        let facts = || {
            let path = inner.stats().path;
            PathFacts { sent: path.sent_packets, lost: path.lost_packets, rtt_min: path.min_rtt, rtt: path.rtt }
        };
        self.tail_at = self.tail.wrote(facts).map(|after| now + after);
    }

    /// When it wants to be looked at.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        [self.inner.poll_timeout(), self.tail_at].into_iter().flatten().min()
    }

    fn close(&mut self, code: CloseCode, book: &Book) {
        self.detach();
        let reason = Bytes::from_static(code.text().as_bytes());
        self.inner.close(book.instant, VarInt::from_u32(u32::from(code.raw())), reason);
    }
}

impl Inlet {
    /// Reads a bounded number of bytes. Returns whether there is more.
    fn read(&mut self, inner: &mut quinn_proto::Connection, peer: &mut Peer, book: &mut Book) -> bool {
        let Some(stream) = self.stream else { return false };
        let mut recv = inner.recv_stream(stream);
        let Ok(mut chunks) = recv.read(true) else {
            self.readable = false;
            return false;
        };
        let mut budget = READ_BUDGET;
        let mut broken = false;
        while budget > 0 && !broken {
            match chunks.next(budget) {
                Ok(Some(chunk)) => {
                    budget = budget.saturating_sub(chunk.bytes.len());
                    broken = self.cutter.push(&chunk.bytes, |frame| peer.on_frame(frame, book)).is_err();
                }
                Ok(None) | Err(ReadError::Blocked | ReadError::Reset(_)) => {
                    self.readable = false;
                    break;
                }
            }
        }
        // The credit that this frees is sent with whatever this visit sends.
        let _ = chunks.finalize();
        if broken {
            book.counts.malformed += 1;
            peer.close = Some(CloseCode::Malformed);
        }
        self.readable
    }
}

fn ending(reason: &ConnectionError) -> Ending {
    match reason {
        ConnectionError::ApplicationClosed(close) => {
            let raw = close.error_code.into_inner();
            let code = u16::try_from(raw).ok().and_then(CloseCode::from_raw);
            Ending::Closed(code.ok_or_else(|| format!("a code that this build does not know: {raw}")))
        }
        ConnectionError::ConnectionClosed(close) => Ending::Closed(Err(format!("QUIC: {}", close.error_code))),
        ConnectionError::TransportError(error) => Ending::Closed(Err(format!("QUIC: {}", error.code))),
        ConnectionError::Reset => Ending::Closed(Err("QUIC: stateless reset".to_owned())),
        ConnectionError::VersionMismatch
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => Ending::Lost,
    }
}
