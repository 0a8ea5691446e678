//! What a fleet is made of and what its peers can be told to do. Data only; never opens a socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tern_protocol::{ConversationId, RequestId, UserId};

/// A virtual client, and the index of its account.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerId(pub u32);

/// A logged-in user.
#[derive(Clone)]
pub struct Account {
    /// Who.
    pub user: UserId,
    /// Access token for the hello.
    pub token: Arc<str>,
    /// Home shard and number of shards, where the server said them.
    pub home: Option<(u16, u16)>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token lets anybody be this user.
        f.debug_struct("Account").field("user", &self.user).field("home", &self.home).finish_non_exhaustive()
    }
}

/// How peers reach the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carrier {
    /// All over QUIC.
    Quic,
    /// All over secure WebSocket.
    WebSocket,
    /// Even peers over QUIC, odd ones over WebSocket.
    Both,
}

/// What stands between the fleet and the server: dialled instead of it.
#[derive(Clone, Copy, Debug)]
pub struct Proxy {
    /// Takes UDP.
    pub quic: SocketAddr,
    /// Takes TCP.
    pub tcp: SocketAddr,
}

/// A fleet.
#[derive(Clone, Debug)]
pub struct FleetPlan {
    /// The server, UDP and TCP.
    pub server: SocketAddr,
    /// Its name in the TLS handshake.
    pub server_name: String,
    /// QUIC, WebSocket or both.
    pub carrier: Carrier,
    /// Generator threads, at least 1. A peer belongs to worker `peer % workers`.
    pub workers: usize,
    /// Cores for the workers, round robin; empty: wherever the kernel likes.
    pub cpus: Vec<usize>,
    /// UDP sockets of each worker, at least 2 so that a peer can move. QUIC peers are spread over them.
    pub sockets: usize,
    /// One per peer.
    pub accounts: Arc<[Account]>,
    /// What everything random follows from, but for request ids and keys.
    pub seed: u64,
    /// Whether first and last receipt of each message are kept.
    pub per_message: bool,
    /// Dialled instead of `server`.
    pub proxy: Option<Proxy>,
}

impl FleetPlan {
    /// One worker, two sockets, QUIC, nothing between, no times per message.
    #[must_use]
    pub fn new(server: SocketAddr, accounts: Arc<[Account]>) -> Self {
        Self {
            server,
            server_name: "localhost".to_owned(),
            carrier: Carrier::Quic,
            workers: 1,
            cpus: Vec::new(),
            sockets: 2,
            accounts,
            seed: 1,
            per_message: false,
            proxy: None,
        }
    }
}

/// What a peer can be told to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Dial and say hello. Latency "connect": until the welcome.
    Connect,
    /// Come back after [`Self::Vanish`] or a close: a new connection with a session ticket and 0-RTT where there is one, and the
    /// positions. Latency "resume": until every conversation of the peer is level with its head again.
    Reconnect,
    /// Stop answering and forget the transport without a word, as a crashed application does. Positions are kept.
    Vanish,
    /// Say goodbye and close.
    Leave,
    /// QUIC: go on from another local socket, as after a change of network. WebSocket: [`Self::Vanish`] and [`Self::Reconnect`].
    Rebind,
    /// Send a message. While the peer is not connected it waits in the outbox, and its latency counts all the same.
    Send {
        /// Where to.
        conversation: ConversationId,
        /// Size of the body. Unit: bytes; at least [`super::body::BODY_SIZE_MIN`].
        size: u32,
    },
    /// Ask for something.
    Request(Request),
    /// Stop reading, as a slow reader does: QUIC gives no more credit, WebSocket does not read the socket.
    Stall,
    /// Read again.
    Resume,
}

/// What a peer can ask for.
#[derive(Clone, Debug)]
pub enum Request {
    /// Make a group; its id is `ConversationId::group(creator, request)`.
    CreateGroup {
        /// Names the request and the group.
        request: RequestId,
        /// Shown to members.
        title: Arc<str>,
        /// Who else is in from the start. At most `INVITES_MAX`.
        members: Arc<[u64]>,
        /// See `tern_protocol::client::group`.
        flags: u8,
    },
    /// Add users to a group.
    Invite {
        /// Which group.
        conversation: ConversationId,
        /// At most `INVITES_MAX`.
        users: Arc<[u64]>,
    },
    /// Open the direct conversation with a user.
    OpenDirect {
        /// The other one.
        user: UserId,
    },
    /// Writing, or no more. Not answered.
    Typing {
        /// Where.
        conversation: ConversationId,
        /// Whether writing.
        active: bool,
    },
    /// Move the read cursor to the last event that the peer has.
    Read {
        /// Where.
        conversation: ConversationId,
    },
    /// Ask for the newest events.
    History {
        /// Which conversation.
        conversation: ConversationId,
        /// 1 to `HISTORY_PAGE_MAX` events.
        limit: u16,
    },
    /// Want to know when these users come and go. Replaces the set of before; asked again on each connection.
    WatchPresence(Arc<[u64]>),
    /// A ping beside those that the peer makes by itself.
    Ping,
}

/// Something that happens at a time.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When it is meant to happen: every latency counts from here.
    pub at: Instant,
    /// To whom.
    pub peer: PeerId,
    /// What.
    pub action: Action,
}

/// A schedule: ascending in time, the same for the same seed. It is asked lazily, and never ahead of time by more than one arrival.
pub trait Workload: Send {
    /// The next arrival; `None`: no more.
    fn next(&mut self) -> Option<Arrival>;
}

/// A list is a schedule.
impl Workload for std::vec::IntoIter<Arrival> {
    fn next(&mut self) -> Option<Arrival> {
        Iterator::next(self)
    }
}
