//! The handle of a client, cheap to clone, and the stream of its updates. Never blocks and never touches the network itself.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tern_protocol::limit::{ACCOUNT_NAME_SIZE_MAX, BODY_SIZE_MAX, INVITES_MAX, PROFILES_MAX, TITLE_SIZE_MAX};
use tern_protocol::{ConversationId, DeviceId, RejectCode, RequestId, Seq, UserId};
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use crate::auth::Device;
use crate::driver::Ask;
use crate::outbox::{PostContent, SendError};
use crate::pending::PendingSend;
use crate::random;
use crate::session::{Command, Query};
use crate::tokens::{TokenError, Tokens};
use crate::update::{Answer, ConnectionState, Done, RequestError, Update};
use crate::view::{Content, ConversationView, HistoryView, MembersView, Positions, ProfileView, Role};

/// Where to page from. See [`Client::history`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The newest events.
    Newest,
    /// The events before this one, itself excluded.
    Before(Seq),
    /// The events after this one, itself excluded.
    After(Seq),
}

/// How a group lets people in, and what it shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupOptions {
    /// Anyone who knows its id may join.
    pub open: bool,
    /// Members may read what was said before they joined.
    pub history_for_all: bool,
}

/// A logged-in client that keeps itself connected. All clones are the same client; see the crate's example.
#[derive(Clone)]
pub struct Client {
    user: UserId,
    device: DeviceId,
    asks: mpsc::Sender<Ask>,
    state: watch::Receiver<ConnectionState>,
    tokens: Arc<Mutex<Tokens>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("user", &self.user).field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

/// The updates of one client, each once and in order.
///
/// When nobody reads them the client stops reading from the network, and the server will close the connection as too slow: read
/// them, or drop the stream.
#[derive(Debug)]
pub struct Events {
    updates: mpsc::Receiver<Update>,
}

impl Events {
    pub(crate) const fn new(updates: mpsc::Receiver<Update>) -> Self {
        Self { updates }
    }

    /// The next update; `None` when the client is closed. Cancel safe.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }

    /// The next update, if one is there already.
    pub fn try_next(&mut self) -> Option<Update> {
        self.updates.try_recv().ok()
    }
}

/// The future end of one message, edit or recall: await it, or drop it and watch [`Update::Send`].
#[derive(Debug)]
pub struct SendHandle {
    request: RequestId,
    end: oneshot::Receiver<Result<Done, SendError>>,
}

impl SendHandle {
    /// The name under which the server stores it once, however often it is sent.
    #[must_use]
    pub const fn request(&self) -> RequestId {
        self.request
    }
}

impl Future for SendHandle {
    type Output = Result<Done, SendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.end).poll(context).map(|end| end.unwrap_or(Err(SendError::Stopped)))
    }
}

impl Client {
    pub(crate) const fn new(
        user: UserId,
        device: DeviceId,
        asks: mpsc::Sender<Ask>,
        state: watch::Receiver<ConnectionState>,
        tokens: Arc<Mutex<Tokens>>,
    ) -> Self {
        Self { user, device, asks, state, tokens }
    }

    /// Who this is.
    #[must_use]
    pub const fn user(&self) -> UserId {
        self.user
    }

    /// Which device this is.
    #[must_use]
    pub const fn device(&self) -> DeviceId {
        self.device
    }

    /// What the connection does at this moment.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        self.state.borrow().clone()
    }

    /// Waits for the connection to be in a state that `accept` wants. `None`: the client is closed.
    pub async fn wait_for(&self, accept: impl FnMut(&ConnectionState) -> bool) -> Option<ConnectionState> {
        let mut state = self.state.clone();
        state.wait_for(accept).await.ok().map(|state| state.clone())
    }

    /// Sends a text. It is queued at once and tried until it ends: see [`SendHandle`].
    pub fn send(&self, conversation: ConversationId, text: &str) -> SendHandle {
        let body = Bytes::copy_from_slice(text.as_bytes());
        let content = PostContent::Message { content: Content::Text, reply_to: None, mentions: Vec::new(), body };
        self.post(conversation, content)
    }

    /// Sends a message with everything that it may carry, an edit or a recall, under a fresh name.
    pub fn post(&self, conversation: ConversationId, content: PostContent) -> SendHandle {
        let request = RequestId::from_raw(random::u128());
        let checked = check(&content);
        self.send_as(request, checked, Command::Post { request, conversation, content })
    }

    /// Gives a message, edit or recall a name and a place in time, without sending it. A send that must be stored once even if this process
    /// dies goes so: prepare it, store it durably ([`PendingSend::to_bytes`]), send it with [`Self::post_as`], forget it when that has ended.
    ///
    /// # Errors
    /// [`RequestError::Stopped`].
    pub async fn prepare(
        &self,
        conversation: ConversationId,
        content: PostContent,
    ) -> Result<PendingSend, RequestError> {
        let (reply, answer) = oneshot::channel();
        let request = RequestId::from_raw(random::u128());
        let ask = Ask::Prepare(request, conversation, content, reply);
        self.asks.send(ask).await.map_err(|_| RequestError::Stopped)?;
        answer.await.map_err(|_| RequestError::Stopped)
    }

    /// Sends what was prepared, by this process or an earlier one. However often this is called, by however many processes one after another,
    /// it is stored once: name, place and content together let the server tell, or let this client look. Where neither can, the send ends
    /// with [`SendError::Rejected`] and `Rejoined`, or as [`SendError::Unconfirmed`], and is not sent again by itself.
    ///
    /// The name alone is not enough. A server remembers names for a while only; what was sent before that under the same name and another
    /// `known` would be stored a second time.
    pub fn post_as(&self, pending: PendingSend) -> SendHandle {
        let checked = check(&pending.content);
        self.send_as(pending.request, checked, Command::Resume(pending))
    }

    fn send_as(&self, request: RequestId, checked: Result<(), RejectCode>, command: Command) -> SendHandle {
        let (reply, end) = oneshot::channel();
        let handle = SendHandle { request, end };
        if let Err(code) = checked {
            let _ = reply.send(Err(SendError::Rejected(code)));
            return handle;
        }
        if let Err(refused) = self.asks.try_send(Ask::Post(request, command, reply)) {
            let error = match refused {
                mpsc::error::TrySendError::Full(_) => SendError::QueueFull,
                mpsc::error::TrySendError::Closed(_) => SendError::Stopped,
            };
            if let Ask::Post(_, _, reply) = refused.into_inner() {
                let _ = reply.send(Err(error));
            }
        }
        handle
    }

    /// Tries a failed post again, under the same name. Its progress comes as [`Update::Send`].
    pub fn retry(&self, request: RequestId) {
        self.tell(Command::Retry { request });
    }

    /// Replaces the text of an own message.
    pub fn edit(&self, conversation: ConversationId, target: Seq, text: &str) -> SendHandle {
        let body = Bytes::copy_from_slice(text.as_bytes());
        self.post(conversation, PostContent::Edit { target, content: Content::Text, body })
    }

    /// Takes a message back: an own one, or another's as admin.
    pub fn recall(&self, conversation: ConversationId, target: Seq) -> SendHandle {
        self.post(conversation, PostContent::Recall { target })
    }

    /// Everything up to this event was read; `visible` is the event's. Told to the server at most twice a second.
    pub fn mark_read(&self, conversation: ConversationId, seq: Seq, visible: u64) {
        self.tell(Command::MarkRead { conversation, seq, visible });
    }

    /// The user is writing, or stopped. Sent at most every 3 seconds.
    pub fn typing(&self, conversation: ConversationId, active: bool) {
        self.tell(Command::Typing { conversation, active });
    }

    /// Replaces the set of users whose presence is told, also after a reconnect. At most 512; the rest is left out.
    pub fn watch_presence(&self, users: Vec<UserId>) {
        self.tell(Command::WatchPresence { users });
    }

    /// A page of a conversation's events, ascending. `limit`: 1 to 256.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn history(
        &self,
        conversation: ConversationId,
        page: Page,
        limit: u16,
    ) -> Result<HistoryView, RequestError> {
        let (anchor, forward) = match page {
            Page::Newest => (u64::MAX, false),
            Page::Before(seq) => (seq.raw(), false),
            Page::After(seq) => (seq.raw(), true),
        };
        let answer = self.ask(Query::History { conversation, anchor, limit: limit.clamp(1, 256), forward }).await?;
        if let Answer::History(view) = answer { Ok(view) } else { Err(unexpected(&answer)) }
    }

    /// All conversations, newest activity first; waits until they are known.
    ///
    /// # Errors
    /// [`RequestError::Stopped`].
    pub async fn directory(&self) -> Result<Vec<ConversationView>, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::Directory(reply)).await.map_err(|_| RequestError::Stopped)?;
        answer.await.map_err(|_| RequestError::Stopped)
    }

    /// A page of a conversation's members after this user. `limit`: 1 to 512.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn members(
        &self,
        conversation: ConversationId,
        after: Option<UserId>,
        limit: u16,
    ) -> Result<MembersView, RequestError> {
        let query = Query::Members { conversation, after: after.map_or(0, UserId::raw), limit: limit.clamp(1, 512) };
        let answer = self.ask(query).await?;
        if let Answer::Members(view) = answer { Ok(view) } else { Err(unexpected(&answer)) }
    }

    /// The user with this account name, if there is one.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn profile_by_name(&self, name: &str) -> Result<Option<ProfileView>, RequestError> {
        let name = name.to_ascii_lowercase();
        if name.len() > ACCOUNT_NAME_SIZE_MAX {
            return Ok(None);
        }
        let answer = self.ask(Query::ProfileByName { name }).await?;
        if let Answer::Profiles(found) = answer { Ok(found.into_iter().next()) } else { Err(unexpected(&answer)) }
    }

    /// The profiles of these users; those that do not exist are left out.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn profiles(&self, users: &[UserId]) -> Result<Vec<ProfileView>, RequestError> {
        let mut found = Vec::new();
        for chunk in users.chunks(PROFILES_MAX) {
            let answer = self.ask(Query::Profiles { users: chunk.to_vec() }).await?;
            let Answer::Profiles(profiles) = answer else { return Err(unexpected(&answer)) };
            found.extend(profiles);
        }
        Ok(found)
    }

    /// Opens the direct conversation with a user; the same one whoever opens it.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn open_direct(&self, user: UserId) -> Result<ConversationId, RequestError> {
        self.done(Query::OpenDirect { user }).await.map(|done| done.conversation)
    }

    /// Makes a group with these members.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn create_group(
        &self,
        title: &str,
        members: &[UserId],
        options: GroupOptions,
    ) -> Result<ConversationId, RequestError> {
        if title.len() > TITLE_SIZE_MAX || members.len() > INVITES_MAX {
            return Err(RequestError::TooLarge);
        }
        use tern_protocol::client::group;
        let open = if options.open { group::OPEN } else { 0 };
        let history = if options.history_for_all { group::HISTORY_FOR_ALL } else { 0 };
        let query = Query::CreateGroup { flags: open | history, title: title.to_owned(), members: members.to_vec() };
        self.done(query).await.map(|done| done.conversation)
    }

    /// Joins an open group.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn join(&self, conversation: ConversationId) -> Result<Done, RequestError> {
        self.done(Query::Join { conversation }).await
    }

    /// Leaves a group.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn leave(&self, conversation: ConversationId) -> Result<Done, RequestError> {
        self.done(Query::Leave { conversation }).await
    }

    /// Adds users to a group.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn invite(&self, conversation: ConversationId, users: &[UserId]) -> Result<Done, RequestError> {
        if users.len() > INVITES_MAX {
            return Err(RequestError::TooLarge);
        }
        self.done(Query::Invite { conversation, users: users.to_vec() }).await
    }

    /// Removes a member of lower role.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn kick(&self, conversation: ConversationId, user: UserId) -> Result<Done, RequestError> {
        self.done(Query::Kick { conversation, user }).await
    }

    /// Gives a member another role.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn set_role(&self, conversation: ConversationId, user: UserId, role: Role) -> Result<Done, RequestError> {
        self.done(Query::SetRole { conversation, user, role }).await
    }

    /// What this client has: a later one that is given it gets exactly what is missing.
    ///
    /// # Errors
    /// [`RequestError::Stopped`].
    pub async fn positions(&self) -> Result<Positions, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::Positions(reply)).await.map_err(|_| RequestError::Stopped)?;
        answer.await.map_err(|_| RequestError::Stopped)
    }

    /// Moves a QUIC connection to a fresh UDP socket, as a change of network does: it goes on where it was.
    ///
    /// # Errors
    /// When no socket can be bound.
    pub async fn rebind(&self) -> io::Result<()> {
        let (reply, answer) = oneshot::channel();
        let stopped = || io::Error::other("the client is stopped");
        self.asks.send(Ask::Rebind(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Ends a wait between two attempts to connect.
    pub fn reconnect_now(&self) {
        let _ = self.asks.try_send(Ask::Reconnect);
    }

    /// The devices on which this user is logged in.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub async fn devices(&self) -> Result<Vec<Device>, TokenError> {
        let mut tokens = self.tokens.lock().await;
        let access = tokens.access().await?;
        Ok(tokens.auth().devices(&access.token).await?)
    }

    /// Logs this device out and closes the client.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub async fn logout(&self) -> Result<(), TokenError> {
        self.tokens.lock().await.logout().await?;
        self.close().await;
        Ok(())
    }

    /// Tells the server what it does not know yet (cursors, messages under way; at most 2 s) and says goodbye.
    pub async fn close(&self) {
        let (reply, done) = oneshot::channel();
        if self.asks.send(Ask::Close(reply)).await.is_ok() {
            let _ = done.await;
        }
    }

    fn tell(&self, command: Command) {
        if self.asks.try_send(Ask::Tell(command)).is_err() {
            tracing::debug!("the client is busy or stopped: a cursor or typing notice was dropped");
        }
    }

    async fn ask(&self, query: Query) -> Result<Answer, RequestError> {
        let request = RequestId::from_raw(random::u128());
        let (reply, answer) = oneshot::channel();
        let ask = Ask::Query(request, Command::Query { request, query }, reply);
        self.asks.send(ask).await.map_err(|_| RequestError::Stopped)?;
        answer.await.unwrap_or(Err(RequestError::Stopped))
    }

    async fn done(&self, query: Query) -> Result<Done, RequestError> {
        let answer = self.ask(query).await?;
        if let Answer::Done(done) = answer { Ok(done) } else { Err(unexpected(&answer)) }
    }
}

/// What the protocol would refuse, or could not even carry.
fn check(content: &PostContent) -> Result<(), RejectCode> {
    match content {
        PostContent::Message { body, .. } | PostContent::Edit { body, .. } if body.is_empty() => {
            Err(RejectCode::Invalid)
        }
        PostContent::Message { body, mentions, .. } => {
            let fits = body.len() <= BODY_SIZE_MAX && mentions.len() <= tern_protocol::limit::MENTIONS_MAX;
            if fits { Ok(()) } else { Err(RejectCode::TooLarge) }
        }
        PostContent::Edit { body, .. } if body.len() > BODY_SIZE_MAX => Err(RejectCode::TooLarge),
        PostContent::Edit { .. } | PostContent::Recall { .. } => Ok(()),
    }
}

/// The server answered a question with the answer to another one.
fn unexpected(answer: &Answer) -> RequestError {
    tracing::warn!(?answer, "the answer does not fit the question");
    RequestError::Rejected(RejectCode::Invalid)
}
