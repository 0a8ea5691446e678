//! One live connection as two queues of whole frames, whatever carries it. Never interprets a frame, never reconnects.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tern_protocol::{CloseCode, FrameError};
use tokio::sync::mpsc;

/// Frames that wait between the network and the reader of a [`Link`]. Unit: frames.
/// Behind them flow control holds the server back; 128 of the largest are 8 MiB.
pub(super) const INCOMING_FRAMES_MAX: usize = 128;
/// Frames that wait between a [`Link`]'s writer and the network. Unit: frames.
pub(super) const OUTGOING_FRAMES_MAX: usize = 64;

/// How long a close may wait for the other side.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What carries a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkTransport {
    /// UDP: streams, datagrams, migration.
    Quic,
    /// TCP with TLS.
    WebSocket,
}

impl fmt::Display for LinkTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quic => "QUIC",
            Self::WebSocket => "WebSocket",
        })
    }
}

/// On which of a connection's ways a frame came. On WebSocket everything is `Control`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// The bidirectional stream that the client opened.
    Control,
    /// A unidirectional stream of the server, numbered in the order in which they were opened.
    Delivery(u8),
    /// An unreliable datagram.
    Datagram,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The server closed it and said why.
    Closed(CloseCode),
    /// The server closed it with a number that this build does not know.
    ClosedUnknown(u64),
    /// The network lost it: timeout, reset, error.
    Lost(String),
    /// The server sent what is no frame.
    Malformed(FrameError),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(code) => write!(f, "closed by the server: {code}"),
            Self::ClosedUnknown(code) => write!(f, "closed by the server with the unknown code {code}"),
            Self::Lost(why) => write!(f, "connection lost, {why}"),
            Self::Malformed(error) => write!(f, "the server sent nonsense: {error}"),
        }
    }
}

/// What comes in.
#[derive(Debug)]
pub enum Incoming {
    /// One whole frame, header included; only its length was checked.
    Frame(Lane, Bytes),
    /// Nothing comes after this.
    Closed(Ending),
}

/// What goes out.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// On the control stream. Any bytes: hostile tests send no frames at all.
    Control(Bytes),
    /// As a datagram if there are datagrams and it fits, on the control stream otherwise.
    Datagram(Bytes),
    /// The last thing.
    Close(CloseCode),
}

/// The connection is gone; what was handed over may or may not have been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkClosed;

impl fmt::Display for LinkClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is closed")
    }
}

impl std::error::Error for LinkClosed {}

/// The writing half, cheap to clone. The connection lives as long as its [`Link`].
#[derive(Debug, Clone)]
pub struct LinkSender {
    outgoing: mpsc::Sender<Outgoing>,
}

impl LinkSender {
    /// Queues bytes for the control stream, waiting while the network is slower than the caller.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&self, bytes: Bytes) -> Result<(), LinkClosed> {
        self.outgoing.send(Outgoing::Control(bytes)).await.map_err(|_| LinkClosed)
    }

    /// Queues bytes for a datagram (the control stream where there are none).
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send_datagram(&self, bytes: Bytes) -> Result<(), LinkClosed> {
        self.outgoing.send(Outgoing::Datagram(bytes)).await.map_err(|_| LinkClosed)
    }

    /// Waits until at least one more frame fits; `false` when the connection is gone.
    pub async fn ready(&self) -> bool {
        self.outgoing.reserve().await.is_ok()
    }

    /// Room in the queue right away. Unit: frames.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.outgoing.capacity()
    }

    /// Queues without waiting. Gives the bytes back when there is no room or no connection.
    ///
    /// # Errors
    /// The bytes, unsent.
    pub fn try_send(&self, bytes: Bytes, datagram: bool) -> Result<(), Bytes> {
        let outgoing = if datagram { Outgoing::Datagram(bytes) } else { Outgoing::Control(bytes) };
        self.outgoing.try_send(outgoing).map_err(|error| match error.into_inner() {
            Outgoing::Control(bytes) | Outgoing::Datagram(bytes) => bytes,
            Outgoing::Close(_) => Bytes::new(),
        })
    }
}

/// A live connection. Dropping it closes the connection at once and without a goodbye: unsent frames are lost.
#[derive(Debug)]
pub struct Link {
    transport: LinkTransport,
    early_data: bool,
    incoming: mpsc::Receiver<Incoming>,
    sender: LinkSender,
    tasks: tokio::task::JoinSet<()>,
    _abort: Option<AbortOnDrop>,
}

/// Closes a QUIC connection with an error: quinn's own close on drop has code 0, which would be a goodbye.
#[derive(Debug)]
pub(super) struct AbortOnDrop(pub(super) quinn::Connection);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        let code = CloseCode::Internal;
        self.0.close(quinn::VarInt::from_u32(u32::from(code.raw())), b"the client gave up");
    }
}

impl Link {
    pub(super) fn new(
        transport: LinkTransport,
        early_data: bool,
        incoming: mpsc::Receiver<Incoming>,
        outgoing: mpsc::Sender<Outgoing>,
        tasks: tokio::task::JoinSet<()>,
        abort: Option<AbortOnDrop>,
    ) -> Self {
        Self { transport, early_data, incoming, sender: LinkSender { outgoing }, tasks, _abort: abort }
    }

    /// What carries it.
    #[must_use]
    pub const fn transport(&self) -> LinkTransport {
        self.transport
    }

    /// Whether the first frame travelled as 0-RTT data that the server accepted.
    #[must_use]
    pub const fn used_early_data(&self) -> bool {
        self.early_data
    }

    /// The writing half.
    #[must_use]
    pub const fn sender(&self) -> &LinkSender {
        &self.sender
    }

    /// The next frame, or how it ended. Cancel safe.
    pub async fn next(&mut self) -> Incoming {
        self.incoming.recv().await.unwrap_or_else(|| Incoming::Closed(Ending::Lost("closed here".to_owned())))
    }

    /// Sends what is queued, then closes with this code and waits until that is on its way.
    pub async fn close(mut self, code: CloseCode) {
        self.incoming.close();
        if self.sender.outgoing.send(Outgoing::Close(code)).await.is_ok() {
            let all_done = async { while self.tasks.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, all_done).await;
        }
    }
}
