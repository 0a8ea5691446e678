//! One virtual client, without its transport: what it is told to do, what it has, what it waits for. Behaves as the SDK does.
//! Never touches a socket: frames to write are in `out`, and what the transport must do is a [`Command`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tern_protocol::CloseCode;
use tern_protocol::client::{At, Hello};
use tern_protocol::frame;
use tern_protocol::limit::POSITIONS_MAX;

use super::asks::{Asked, Purpose};
use super::book::{Book, Span};
use super::outbox::Post;
use super::plan::{Account, Action, Request};
use super::tls::Visit;
use super::verify::Track;

/// How the fleet names itself in the server's logs.
const CLIENT_NAME: &str = concat!("tern-perf/", env!("CARGO_PKG_VERSION"));
/// First wait before dialling again, and its longest. Source: docs/wire-format.md, "The life of a connection", 8.
const BACKOFF_MIN_NS: u64 = 250_000_000;
/// See [`BACKOFF_MIN_NS`]. Unit: doublings; 250 ms doubled seven times are 32 s.
const BACKOFF_DOUBLINGS_MAX: u32 = 7;
/// How long a dial may take before it is given up. The server's own limit for a handshake is 5 s, and for a hello the same.
const DIAL_TIMEOUT_NS: u64 = 20 * 1_000_000_000;
/// Rhythm of pings until the server names one.
const PING_INTERVAL_NS: u64 = 25 * 1_000_000_000;

/// Where a peer is with its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has none and wants none.
    Away,
    /// It dials again at this time.
    Waiting(u64),
    /// From the dial to the welcome, which must be there by this time.
    Dialing(u64),
    /// Welcomed.
    Open,
}

/// What the transport must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Connect.
    Dial,
    /// Forget the connection without a word.
    Forget,
    /// Forget it and connect.
    Redial,
    /// Say goodbye and close.
    Goodbye,
    /// Go on from another local address.
    Move,
    /// Stop reading.
    Stall,
    /// Read again.
    Resume,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// The server said why.
    Closed(Result<CloseCode, String>),
    /// Nobody said anything.
    Lost,
}

/// Which transport a peer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    None,
    Quic(u32),
    WebSocket(u32),
}

/// How far the list of conversations is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Directory {
    Never,
    Once,
}

/// A virtual client.
pub(super) struct Peer {
    /// Index in the fleet.
    pub(super) id: u32,
    pub(super) user: u64,
    pub(super) token: Arc<str>,
    pub(super) home: Option<(u16, u16)>,
    pub(super) over_quic: bool,
    pub(super) phase: Phase,
    pub(super) link: Link,
    pub(super) visit: Visit,
    pub(super) stalled: bool,
    /// Sorted by conversation.
    pub(super) tracks: Vec<Track>,
    /// Events applied in conversations that it is no longer in.
    pub(super) got_elsewhere: u64,
    /// Number of the last user event applied, and the one that the server named last.
    pub(super) user_seq: u64,
    pub(super) wanted_seq: u64,
    pub(super) directory: Directory,
    /// By when the entry of a conversation whose events came must be here.
    pub(super) entry_due: u64,
    pub(super) posts: VecDeque<Post>,
    pub(super) asked: Vec<Asked>,
    /// Frames for the control stream.
    pub(super) out: Vec<Bytes>,
    /// Frames that may be lost.
    pub(super) out_datagrams: Vec<Bytes>,
    /// What is measured until the welcome.
    pub(super) until_welcome: Option<(Span, u64)>,
    /// What is measured until everything is level.
    pub(super) until_level: Option<(Span, u64)>,
    /// When this connection was welcomed.
    pub(super) since: u64,
    pub(super) ping_interval: u64,
    pub(super) ping_at: u64,
    /// The ping that waits for its pong.
    pub(super) pinged: Option<(u64, u64)>,
    /// When to ask for what is missing.
    pub(super) repair_at: u64,
    /// When a post or request may be tried again.
    pub(super) retry_at: u64,
    /// The server is busy: nothing is sent before.
    pub(super) hold_until: u64,
    pub(super) next_ask: u64,
    backoff: u32,
    pub(super) armed: Option<Instant>,
    /// Users whose presence is wanted, and whether each is known to be online.
    pub(super) watched: Vec<(u64, Option<bool>)>,
    pub(super) watched_at: u64,
    /// The transport must be closed with this code.
    pub(super) close: Option<CloseCode>,
    counted: u64,
}

/// Never.
pub(super) const NEVER: u64 = u64::MAX;

impl Peer {
    pub(super) fn new(id: u32, account: &Account, over_quic: bool) -> Self {
        Self {
            id,
            user: account.user.raw(),
            token: Arc::clone(&account.token),
            home: account.home,
            over_quic,
            phase: Phase::Away,
            link: Link::None,
            visit: Visit::First,
            stalled: false,
            tracks: Vec::new(),
            got_elsewhere: 0,
            user_seq: 0,
            wanted_seq: 0,
            directory: Directory::Never,
            entry_due: NEVER,
            posts: VecDeque::new(),
            asked: Vec::new(),
            out: Vec::new(),
            out_datagrams: Vec::new(),
            until_welcome: None,
            until_level: None,
            since: 0,
            ping_interval: PING_INTERVAL_NS,
            ping_at: NEVER,
            pinged: None,
            repair_at: NEVER,
            retry_at: NEVER,
            hold_until: 0,
            next_ask: 1,
            backoff: 0,
            armed: None,
            watched: Vec::new(),
            watched_at: 0,
            close: None,
            counted: 0,
        }
    }

    /// Does what the workload says; the rest is the transport's.
    pub(super) fn act(&mut self, action: Action, intended: u64, book: &mut Book) -> Option<Command> {
        let command = match action {
            Action::Connect => self.connect(intended, book),
            Action::Reconnect => self.reconnect(Span::Resume, intended, book),
            Action::Vanish => {
                book.common.presence_changes(self.id, None);
                self.leave(book).then_some(Command::Forget)
            }
            Action::Leave => {
                book.common.presence_changes(self.id, Some((intended, false)));
                self.leave(book).then_some(Command::Goodbye)
            }
            Action::Rebind if self.phase != Phase::Open => None,
            Action::Rebind if self.over_quic => Some(Command::Move),
            Action::Rebind => self.reconnect(Span::Resume, intended, book),
            Action::Stall => {
                self.stalled = true;
                Some(Command::Stall)
            }
            Action::Resume => {
                self.stalled = false;
                Some(Command::Resume)
            }
            Action::Send { conversation, size } => {
                self.post(conversation.raw(), size, intended, book);
                None
            }
            Action::Request(request) => {
                self.ask(request, intended, book);
                None
            }
        };
        self.count_outstanding(book);
        command
    }

    fn connect(&mut self, intended: u64, book: &mut Book) -> Option<Command> {
        if self.phase != Phase::Away {
            return None;
        }
        book.common.presence_changes(self.id, Some((intended, true)));
        self.visit = Visit::First;
        self.until_welcome = Some((Span::Connect, intended));
        self.backoff = 0;
        Some(Command::Dial)
    }

    fn reconnect(&mut self, span: Span, intended: u64, book: &mut Book) -> Option<Command> {
        book.common.presence_changes(self.id, None);
        self.visit = Visit::Return;
        self.backoff = 0;
        let was_linked = self.link != Link::None;
        self.leave(book);
        self.until_level = Some((span, intended));
        Some(if was_linked { Command::Redial } else { Command::Dial })
    }

    /// Wants no connection from here on. Returns whether there was one.
    fn leave(&mut self, book: &mut Book) -> bool {
        self.until_welcome = None;
        self.until_level = None;
        self.enter(Phase::Away, book);
        self.link != Link::None
    }

    /// The transport begins to dial: the positions of this moment are what the hello says.
    pub(super) fn on_dial(&mut self, book: &mut Book) {
        self.tracks.iter_mut().for_each(Track::on_connection);
        self.out.clear();
        self.out_datagrams.clear();
        self.close = None;
        self.pinged = None;
        self.repair_at = NEVER;
        self.entry_due = NEVER;
        self.enter(Phase::Dialing(book.now + DIAL_TIMEOUT_NS), book);
        self.count_outstanding(book);
    }

    /// The first frame of a connection.
    pub(super) fn hello(&self) -> Bytes {
        let positions = self.positions();
        Bytes::from(frame::to_vec(&Hello {
            user_seq: self.user_seq,
            token: self.token.as_bytes(),
            client: CLIENT_NAME.as_bytes(),
            positions: &positions,
        }))
    }

    pub(super) fn positions(&self) -> Vec<At> {
        let placed = self.tracks.iter().filter_map(|track| Some((track.conversation, track.position()?)));
        placed.take(POSITIONS_MAX).map(|(conversation, seq)| At { conversation, seq }).collect()
    }

    /// The server has welcomed this peer.
    pub(super) fn on_welcome(&mut self, ping_interval: u64, home: (u16, u16), user_seq: u64, book: &mut Book) {
        if !matches!(self.phase, Phase::Dialing(_)) {
            return;
        }
        self.home = Some(home);
        self.ping_interval = ping_interval.max(1_000_000_000);
        self.ping_at = book.now + self.ping_interval;
        self.since = book.now;
        self.backoff = 0;
        self.hold_until = 0;
        self.enter(Phase::Open, book);
        if let Some((span, from)) = self.until_welcome.take() {
            book.record(span, from);
        }
        self.wanted_seq = user_seq;
        if self.directory == Directory::Never || self.user_seq != user_seq {
            self.read_directory(book);
        }
        self.watch_again(book);
        self.resend_posts(book);
        self.pump(book);
        self.check_level(book);
    }

    /// Sends what may be sent.
    pub(super) fn pump(&mut self, book: &mut Book) {
        if self.phase == Phase::Open {
            self.retry_at = NEVER;
            self.pump_posts(book);
            self.pump_asked(book);
        }
        self.count_outstanding(book);
    }

    /// The transport is gone.
    pub(super) fn on_ended(&mut self, ending: &Ending, book: &mut Book) {
        self.link = Link::None;
        if self.phase == Phase::Away {
            return;
        }
        let was_open = self.phase == Phase::Open;
        let resumable = match ending {
            Ending::Closed(Ok(code)) => {
                book.on_closed(code.text());
                code.is_resumable()
            }
            Ending::Closed(Err(why)) => {
                book.on_closed(why);
                true
            }
            Ending::Lost => {
                book.counts.lost_connections += 1;
                true
            }
        };
        book.common.presence_changes(self.id, None);
        if !resumable || self.stalled {
            self.leave(book);
        } else {
            self.wait_to_dial(was_open, book);
        }
        self.count_outstanding(book);
    }

    fn wait_to_dial(&mut self, was_open: bool, book: &mut Book) {
        self.visit = if was_open { Visit::Return } else { self.visit };
        if was_open && self.until_level.is_none() {
            self.until_level = Some((Span::AutoResume, book.now));
        }
        let longest = BACKOFF_MIN_NS << self.backoff.min(BACKOFF_DOUBLINGS_MAX);
        self.backoff += 1;
        // Half of it is jitter, so that those that were lost together do not come back together.
        let jitter = tern_protocol::placement::mix64(book.common.seed ^ book.now ^ u64::from(self.id)) % (longest / 2);
        self.enter(Phase::Waiting(book.now + longest / 2 + jitter), book);
    }

    /// Records a resume that is complete.
    pub(super) fn check_level(&mut self, book: &mut Book) {
        let Some((span, from)) = self.until_level else { return };
        let reading = self.asked.iter().any(|asked| asked.purpose == Purpose::Directory);
        if self.phase == Phase::Open
            && !reading
            && self.tracks.iter().all(|track| !track.syncing && track.lacks().is_none())
        {
            self.until_level = None;
            book.record(span, from);
        }
    }

    /// Whether it is, or is about to be, connected.
    pub(super) fn is_active(&self) -> bool {
        self.phase != Phase::Away
    }

    pub(super) fn next_nonce(&mut self) -> u64 {
        self.next_ask += 1;
        self.next_ask
    }

    /// A request id that no message of the run and no other request of this peer has.
    pub(super) fn next_request(&mut self, book: &Book) -> u128 {
        1 << 126 | u128::from(book.common.run) << 64 | u128::from(self.next_nonce())
    }

    fn enter(&mut self, phase: Phase, book: &mut Book) {
        match self.phase {
            Phase::Away => {}
            Phase::Waiting(_) | Phase::Dialing(_) => book.counts.connecting -= 1,
            Phase::Open => book.counts.connected -= 1,
        }
        match phase {
            Phase::Away => {}
            Phase::Waiting(_) | Phase::Dialing(_) => book.counts.connecting += 1,
            Phase::Open => book.counts.connected += 1,
        }
        if phase != Phase::Open {
            self.forget_inner_asks();
        }
        self.phase = phase;
    }

    /// What waits for an answer counts as outstanding while somebody could answer.
    pub(super) fn count_outstanding(&mut self, book: &mut Book) {
        let waits = if self.is_active() { (self.posts.len() + self.asked.len()) as u64 } else { 0 };
        book.counts.outstanding = book.counts.outstanding + waits - self.counted;
        self.counted = waits;
    }

    fn watch_again(&mut self, book: &mut Book) {
        if self.watched.is_empty() {
            return;
        }
        let users = self.watched.iter().map(|(user, _)| *user).collect();
        self.ask(Request::WatchPresence(users), book.now, book);
    }
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
