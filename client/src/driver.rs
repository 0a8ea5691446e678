//! The task behind a client: performs what the session asks for, connects again when a connection ends. The only place with a clock.
//! Never interprets a frame, and never lets a slow application stop the connection's timers.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tern_protocol::{CloseCode, ConversationId, RequestId};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::auth::AuthError;
use crate::backoff::Backoff;
use crate::connect::{self, Attempt, ConnectFailure, Connected, Transport};
use crate::outbox::{PostContent, SendError, SendState};
use crate::pending::PendingSend;
use crate::random;
use crate::session::{Command, Output, Session};
use crate::tokens::{Access, TokenError, Tokens};
use crate::update::{Answer, ConnectionState, Done, RequestError, StopReason, Update};
use crate::view::{ConversationView, Positions};
use crate::wire::{Dialer, Ending, Home, Incoming, Link, LinkSender, LinkTransport};

/// Updates that wait for the application before nothing more is read from the network. Unit: updates.
pub const UPDATES_QUEUED_MAX: usize = 4096;
/// Of those, how many the application's own channel holds. Unit: updates.
pub(crate) const UPDATES_CHANNEL_SIZE: usize = 256;
/// Requests of handles that wait for the driver. Unit: requests.
pub(crate) const ASKS_MAX: usize = 256;
/// How long a close waits for answers that are under way.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// Times in a row that another connection of this device may take ours' place before it counts as another client. Unit: connections.
const REPLACED_MAX: u32 = 3;
/// A connection that lasted so long begins to count anew.
const REPLACED_TIME: Duration = Duration::from_secs(60);
/// Names the software in the hello.
const CLIENT_NAME: &str = concat!("tern-client/", env!("CARGO_PKG_VERSION"));

/// What a handle asks of the driver.
pub(crate) enum Ask {
    /// Nobody waits for an answer.
    Tell(Command),
    /// A post, and who waits for its end.
    Post(RequestId, Command, oneshot::Sender<Result<Done, SendError>>),
    /// A request, and who waits for its answer.
    Query(RequestId, Command, oneshot::Sender<Result<Answer, RequestError>>),
    Directory(oneshot::Sender<Vec<ConversationView>>),
    Positions(oneshot::Sender<Positions>),
    Prepare(RequestId, ConversationId, PostContent, oneshot::Sender<PendingSend>),
    Rebind(oneshot::Sender<io::Result<()>>),
    Reconnect,
    Close(oneshot::Sender<()>),
}

/// What the driver is doing about the connection.
enum Phase {
    Authorizing(JoinHandle<Result<Access, TokenError>>),
    Connecting(JoinHandle<Result<Connected, ConnectFailure>>),
    Online(Link),
    Waiting(Instant),
    Stopped,
}

/// What happened to the connection.
enum Event {
    Authorized(Result<Access, TokenError>),
    Raced(Result<Connected, ConnectFailure>),
    Incoming(Incoming),
    Waited,
}

impl Phase {
    /// The next thing that happens to the connection. Cancel safe.
    async fn next(&mut self, paused: bool) -> Event {
        let stopped = |_| ConnectFailure::Network("the attempt was stopped".to_owned());
        match self {
            Self::Authorizing(task) => Event::Authorized(
                task.await.unwrap_or_else(|_| Err(TokenError::Store(io::Error::other("the exchange was stopped")))),
            ),
            Self::Connecting(task) => Event::Raced(task.await.map_err(stopped).and_then(|raced| raced)),
            Self::Online(link) if !paused => Event::Incoming(link.next().await),
            Self::Waiting(until) => {
                tokio::time::sleep_until((*until).into()).await;
                Event::Waited
            }
            Self::Online(_) | Self::Stopped => std::future::pending().await,
        }
    }

    fn sender(&self) -> Option<LinkSender> {
        match self {
            Self::Online(link) => Some(link.sender().clone()),
            Self::Authorizing(_) | Self::Connecting(_) | Self::Waiting(_) | Self::Stopped => None,
        }
    }
}

/// See the module.
pub(crate) struct Driver {
    session: Session,
    dialer: Dialer,
    tokens: Arc<Mutex<Tokens>>,
    transport: Transport,
    favourite: Option<LinkTransport>,
    home: Option<Home>,
    phase: Phase,
    backoff: Backoff,
    /// Whether the server refused the token since the last welcome: once is repaired by a fresh one.
    token_refused: bool,
    /// Connections in a row that a newer one of the same device has taken the place of.
    replaced: u32,
    /// When the connection was welcomed.
    online_since: Instant,
    /// The server said when to come back.
    drain_until: Option<Instant>,
    asks: mpsc::Receiver<Ask>,
    updates: mpsc::Sender<Update>,
    updates_open: bool,
    queued: VecDeque<Update>,
    frames: VecDeque<(Bytes, bool)>,
    state: watch::Sender<ConnectionState>,
    answers: BTreeMap<RequestId, oneshot::Sender<Result<Answer, RequestError>>>,
    posts: BTreeMap<RequestId, oneshot::Sender<Result<Done, SendError>>>,
    directories: Vec<oneshot::Sender<Vec<ConversationView>>>,
    closing: Option<(Instant, Option<oneshot::Sender<()>>)>,
}

/// What a driver is made of.
pub(crate) struct DriverParts {
    pub(crate) session: Session,
    pub(crate) dialer: Dialer,
    pub(crate) tokens: Arc<Mutex<Tokens>>,
    pub(crate) transport: Transport,
    pub(crate) asks: mpsc::Receiver<Ask>,
    pub(crate) updates: mpsc::Sender<Update>,
    pub(crate) state: watch::Sender<ConnectionState>,
}

impl Driver {
    pub(crate) fn new(parts: DriverParts) -> Self {
        let DriverParts { session, dialer, tokens, transport, asks, updates, state } = parts;
        Self {
            session,
            dialer,
            tokens,
            transport,
            favourite: None,
            home: None,
            phase: Phase::Waiting(Instant::now()),
            backoff: Backoff::default(),
            token_refused: false,
            replaced: 0,
            online_since: Instant::now(),
            drain_until: None,
            asks,
            updates,
            updates_open: true,
            queued: VecDeque::new(),
            frames: VecDeque::new(),
            state,
            answers: BTreeMap::new(),
            posts: BTreeMap::new(),
            directories: Vec::new(),
            closing: None,
        }
    }

    /// Runs until the client is closed, or every handle and the stream of updates are gone.
    pub(crate) async fn run(mut self) {
        let mut handles = true;
        let updates = self.updates.clone();
        loop {
            self.perform();
            if self.closing_is_over() {
                break;
            }
            let deadline = self.deadline();
            let sender = self.phase.sender().filter(|_| !self.frames.is_empty());
            let paused = self.queued.len() >= UPDATES_QUEUED_MAX;
            tokio::select! {
                ask = self.asks.recv(), if handles => match ask {
                    Some(ask) => self.on_ask(ask),
                    None => handles = false,
                },
                event = self.phase.next(paused) => self.on_event(event),
                ready = writable(sender) => self.flush(ready),
                permit = updates.reserve(), if self.updates_open && !self.queued.is_empty() => match permit {
                    Ok(permit) => if let Some(update) = self.queued.pop_front() { permit.send(update) },
                    Err(_) => self.updates_open = false,
                },
                () = updates.closed(), if self.updates_open => self.updates_open = false,
                () = sleep_until(deadline) => self.session.on_timeout(Instant::now()),
            }
            if !handles && !self.updates_open && self.closing.is_none() {
                self.begin_close(None);
            }
        }
        drop(updates);
        self.finish().await;
    }

    fn deadline(&self) -> Option<Instant> {
        let closing = self.closing.as_ref().map(|(until, _)| *until);
        [self.session.poll_timeout(), closing, self.drain_until].into_iter().flatten().min()
    }

    fn on_ask(&mut self, ask: Ask) {
        let now = Instant::now();
        let stopped = matches!(self.phase, Phase::Stopped) || self.closing.is_some();
        match ask {
            Ask::Close(done) => self.begin_close(Some(done)),
            Ask::Positions(reply) => drop(reply.send(self.session.positions())),
            Ask::Prepare(request, conversation, content, reply) => {
                drop(reply.send(self.session.pending(request, conversation, content)));
            }
            Ask::Rebind(reply) => drop(reply.send(self.dialer.rebind())),
            Ask::Post(_, _, reply) if stopped => drop(reply.send(Err(SendError::Stopped))),
            Ask::Query(_, _, reply) if stopped => drop(reply.send(Err(RequestError::Stopped))),
            Ask::Tell(_) | Ask::Directory(_) | Ask::Reconnect if stopped => {}
            Ask::Tell(command) => self.session.on_command(now, command),
            Ask::Post(request, command, reply) => {
                self.posts.insert(request, reply);
                self.session.on_command(now, command);
            }
            Ask::Query(request, command, reply) => {
                self.answers.insert(request, reply);
                self.session.on_command(now, command);
            }
            Ask::Directory(reply) => self.directories.push(reply),
            Ask::Reconnect => {
                if let Phase::Waiting(until) = &mut self.phase {
                    *until = now;
                }
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Waited => self.authorize(),
            Event::Authorized(Ok(access)) => self.connect(access),
            Event::Authorized(Err(error)) => self.on_token_error(error),
            Event::Raced(Ok(connected)) => self.on_connected(connected),
            Event::Raced(Err(ConnectFailure::Closed(code))) => self.on_closed(code),
            Event::Raced(Err(ConnectFailure::Stop(reason))) => self.stop(reason),
            Event::Raced(Err(ConnectFailure::Network(why))) => self.wait(why),
            Event::Incoming(Incoming::Frame(_, bytes)) => self.on_frame(&bytes),
            Event::Incoming(Incoming::Closed(ending)) => self.on_ending(ending),
        }
    }

    fn authorize(&mut self) {
        self.set_state(ConnectionState::Connecting);
        let tokens = Arc::clone(&self.tokens);
        self.phase = Phase::Authorizing(tokio::spawn(async move { tokens.lock().await.access().await }));
    }

    fn connect(&mut self, access: Access) {
        let attempt = Attempt {
            dialer: self.dialer.clone(),
            transport: self.transport,
            favourite: self.favourite,
            home: self.home.or(access.home),
            hello: self.session.hello(&access.token, CLIENT_NAME).into(),
            token: access.token,
        };
        self.phase = Phase::Connecting(tokio::spawn(connect::race(attempt)));
    }

    fn on_connected(&mut self, connected: Connected) {
        let Connected { link, welcome, home, early } = connected;
        let transport = link.transport();
        tracing::debug!(%transport, early_data = link.used_early_data(), "connected");
        self.favourite = Some(transport);
        self.home = Some(home);
        self.backoff.reset();
        self.token_refused = false;
        self.online_since = Instant::now();
        self.drain_until = None;
        self.phase = Phase::Online(link);
        self.set_state(ConnectionState::Online { transport });
        self.session.on_connected(Instant::now(), welcome);
        early.iter().for_each(|bytes| self.on_frame(bytes));
    }

    fn on_frame(&mut self, bytes: &Bytes) {
        if let Err(error) = self.session.on_frame(Instant::now(), bytes) {
            tracing::warn!(%error, "the server sent nonsense");
            self.hang_up(CloseCode::Malformed);
            self.wait(format!("the server sent nonsense: {error}"));
        }
    }

    fn on_ending(&mut self, ending: Ending) {
        match ending {
            Ending::Closed(code) => self.on_closed(code),
            Ending::ClosedUnknown(_) | Ending::Lost(_) | Ending::Malformed(_) => self.wait(ending.to_string()),
        }
    }

    /// The server closed with a reason: some are repaired, some only wait, some are final.
    fn on_closed(&mut self, code: CloseCode) {
        let about_token = matches!(code, CloseCode::ExpiredToken | CloseCode::BadToken);
        let passing = matches!(code, CloseCode::Goodbye | CloseCode::HelloExpected | CloseCode::ExpiredToken);
        if about_token && !self.token_refused {
            self.token_refused = true;
            self.authorize_afresh();
        } else if matches!(code, CloseCode::Revoked | CloseCode::BadToken) {
            self.stop(StopReason::LoggedOut);
        } else if code == CloseCode::Replaced {
            self.on_replaced();
        } else if passing || code.is_resumable() {
            self.wait(code.to_string());
        } else {
            self.stop(StopReason::Refused(code));
        }
    }

    /// Another connection of this device took this one's place. Once in a while it is one of ours that was given up, or lost the race to be
    /// the first. Time and again it is another client with the same session: to take the place back for ever would serve neither.
    fn on_replaced(&mut self) {
        let steady = self.online_since.elapsed() >= REPLACED_TIME;
        self.replaced = if steady { 1 } else { self.replaced + 1 };
        if self.replaced > REPLACED_MAX {
            self.stop(StopReason::Refused(CloseCode::Replaced));
        } else {
            self.wait(CloseCode::Replaced.to_string());
        }
    }

    /// The token that was good here is not good there: exchange it.
    fn authorize_afresh(&mut self) {
        self.session.on_disconnected();
        self.frames.clear();
        self.set_state(ConnectionState::Connecting);
        let tokens = Arc::clone(&self.tokens);
        self.phase = Phase::Authorizing(tokio::spawn(async move {
            let mut tokens = tokens.lock().await;
            tokens.expire();
            tokens.access().await
        }));
    }

    fn on_token_error(&mut self, error: TokenError) {
        match error {
            TokenError::LoggedOut => self.stop(StopReason::LoggedOut),
            TokenError::Store(error) => self.stop(StopReason::Failed(format!("the session file failed: {error}"))),
            TokenError::Auth(AuthError::Network(error)) if connect::is_untrusted(&error) => {
                self.stop(StopReason::Untrusted(error.to_string()));
            }
            TokenError::Auth(AuthError::RetryLater(after)) => {
                let at = Instant::now() + after;
                self.drain_until = Some(self.drain_until.map_or(at, |until| until.max(at)));
                self.wait(format!("the server asks to wait {} s", after.as_secs()));
            }
            TokenError::Auth(other) => self.wait(other.to_string()),
        }
    }

    /// The connection is gone; the next attempt is after a pause, or when the server said.
    fn wait(&mut self, why: String) {
        self.session.on_disconnected();
        self.frames.clear();
        let now = Instant::now();
        let pause = now + self.backoff.next(random::u64());
        let retry_at = self.drain_until.take().filter(|until| *until > now).unwrap_or(pause);
        tracing::debug!(%why, "waiting to connect again");
        self.set_state(ConnectionState::Waiting { retry_at, why });
        self.phase = Phase::Waiting(retry_at);
    }

    fn stop(&mut self, reason: StopReason) {
        self.session.stop();
        self.frames.clear();
        self.phase = Phase::Stopped;
        self.directories.clear();
        self.set_state(ConnectionState::Stopped(reason));
    }

    /// Leaves the connection in the background.
    fn hang_up(&mut self, code: CloseCode) {
        if let Phase::Online(link) = std::mem::replace(&mut self.phase, Phase::Stopped) {
            tokio::spawn(link.close(code));
        }
    }

    fn begin_close(&mut self, done: Option<oneshot::Sender<()>>) {
        self.session.flush_cursors(Instant::now());
        let patience = if self.phase.sender().is_some() { CLOSE_PATIENCE } else { Duration::ZERO };
        self.closing = Some((Instant::now() + patience, done));
    }

    fn closing_is_over(&self) -> bool {
        let Some((until, _)) = &self.closing else { return false };
        let idle = self.frames.is_empty() && !self.session.awaits_answer();
        *until <= Instant::now() || idle || !matches!(self.phase, Phase::Online(_))
    }

    async fn finish(mut self) {
        let phase = std::mem::replace(&mut self.phase, Phase::Stopped);
        match phase {
            Phase::Online(link) => link.close(CloseCode::Goodbye).await,
            Phase::Authorizing(task) => task.abort(),
            Phase::Connecting(task) => task.abort(),
            Phase::Waiting(_) | Phase::Stopped => {}
        }
        self.session.stop();
        self.perform();
        let final_state = ConnectionState::Stopped(StopReason::Closed);
        if !matches!(&*self.state.borrow(), ConnectionState::Stopped(_)) {
            self.set_state(final_state);
        }
        while let Some(update) = self.queued.pop_front() {
            if self.updates.try_send(update).is_err() {
                break;
            }
        }
        self.dialer.finish().await;
        if let Some((_, Some(done))) = self.closing.take() {
            let _ = done.send(());
        }
    }

    /// Does everything that the session wants done.
    fn perform(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Frame { bytes, datagram } => self.frames.push_back((bytes.into(), datagram)),
                Output::Update(update) => self.on_update(update),
                Output::Answer(request, answer) => {
                    if let Some(reply) = self.answers.remove(&request) {
                        let _ = reply.send(answer);
                    }
                }
                Output::Dead => {
                    self.hang_up(CloseCode::Internal);
                    self.wait("the server does not answer".to_owned());
                }
                Output::Drain(after) => self.drain_until = Some(Instant::now() + after),
            }
        }
        if let (Some(until), Phase::Online(_)) = (self.drain_until, &self.phase)
            && until <= Instant::now()
        {
            self.drain_until = None;
            self.hang_up(CloseCode::Goodbye);
            self.wait(CloseCode::Draining.to_string());
        }
        if !self.directories.is_empty()
            && let Some(directory) = self.session.directory()
        {
            for reply in self.directories.drain(..) {
                let _ = reply.send(directory.clone());
            }
        }
        self.flush(true);
    }

    fn on_update(&mut self, update: Update) {
        if let Update::Send(progress) = &update {
            let end = match progress.state {
                SendState::Sent(seq) => {
                    Some(Ok(Done { conversation: progress.conversation, seq, time: progress.time }))
                }
                SendState::Failed(error) => Some(Err(error)),
                SendState::Pending | SendState::Delivered | SendState::Read => None,
            };
            if let Some(end) = end
                && let Some(reply) = self.posts.remove(&progress.request)
            {
                let _ = reply.send(end);
            }
        }
        if self.updates_open {
            self.queued.push_back(update);
        }
    }

    /// Hands frames to the network as long as it takes them.
    fn flush(&mut self, ready: bool) {
        let Phase::Online(link) = &self.phase else { return };
        if !ready {
            return;
        }
        while let Some((bytes, datagram)) = self.frames.pop_front() {
            if let Err(bytes) = link.sender().try_send(bytes, datagram) {
                self.frames.push_front((bytes, datagram));
                break;
            }
        }
    }

    fn set_state(&mut self, state: ConnectionState) {
        self.state.send_replace(state.clone());
        if self.updates_open {
            self.queued.push_back(Update::State(state));
        }
    }
}

/// Waits until the network takes another frame; for ever where there is nothing to send or nowhere to send it.
async fn writable(sender: Option<LinkSender>) -> bool {
    match sender {
        Some(sender) => {
            // A dead link says so on its other half.
            if !sender.ready().await {
                std::future::pending::<()>().await;
            }
            true
        }
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
