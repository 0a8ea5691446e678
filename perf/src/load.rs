//! Clients that chat without pause, in one group and in pairs, over QUIC and WebSocket, and write everything into the ledger.
//! Bounded by who runs it: clients, rate, and the moment it is told to finish.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tern_client::auth::Auth;
use tern_client::wire::Dialer;
use tern_client::{
    Client, ConversationId, ConversationView, Events, GroupOptions, Page, Positions, SendError, ServerAddress,
    Transport, Trust, Update,
};
use tern_protocol::limit::HISTORY_PAGE_MAX;
use tern_protocol::placement::{mix_bytes, mix64};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::ledger::{Ledger, ScreenId, Verdict, Volume};

/// The password of every load user: their accounts are thrown away.
const PASSWORD: &str = "load load load";
/// How long the end may take: every send ends, every screen gets to the head.
const FINISH_TIMEOUT: Duration = Duration::from_secs(120);
/// Between two looks at screens that are not at the head yet.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Messages of one client without an end. Unit: messages.
const UNENDED_MAX: usize = 64;

/// What to do to a server.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// `host:port`.
    pub server: String,
    /// Whom to trust the first time.
    pub directory: PathBuf,
    /// Clients; every second one on WebSocket. At least two.
    pub clients: u32,
    /// Between two messages of one client.
    pub interval: Duration,
    /// What a message has at least. Unit: bytes.
    pub body_size: usize,
}

/// Why a load could not be run.
pub type LoadError = Box<dyn std::error::Error + Send + Sync>;

/// A load that is under way.
#[derive(Debug)]
pub struct Load {
    plan: LoadPlan,
    ledger: Arc<Mutex<Ledger>>,
    stop: watch::Sender<bool>,
    senders: Vec<JoinHandle<Sent>>,
    screens: Vec<JoinHandle<()>>,
    clients: Vec<Client>,
}

/// How one client's messages ended.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    acked: u64,
    failed: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Where the books disagree.
    pub verdict: Verdict,
    /// How much was compared.
    pub volume: Volume,
    /// Messages that ended without an acknowledgement.
    pub failed: u64,
}

impl Load {
    /// Registers the users, makes the group, and begins to chat.
    ///
    /// # Errors
    /// When the server does not let them in.
    pub async fn start(plan: LoadPlan) -> Result<Self, LoadError> {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let (stop, stopped) = watch::channel(false);
        let auth = Auth::new(Dialer::new(ServerAddress::parse(&plan.server)?, &trust(&plan.directory))?);
        for index in 0..plan.clients {
            auth.register(&name(index), PASSWORD, None).await?;
        }
        let mut clients = Vec::new();
        let mut screens = Vec::new();
        for index in 0..plan.clients {
            let transport = if index % 2 == 0 { Transport::Quic } else { Transport::WebSocket };
            // From the beginning of each conversation on, so that each screen must show all of it.
            let (client, events) = connect(&plan, index, transport, Some(Positions::default())).await?;
            screens.push(tokio::spawn(watch_screen(ScreenId(index), events, Arc::clone(&ledger))));
            clients.push(client);
        }
        let conversations = open_conversations(&clients).await?;
        let mut senders = Vec::new();
        for (index, client) in (0..).zip(&clients) {
            let mine: Vec<ConversationId> = conversations
                .iter()
                .filter(|(members, _)| members.contains(&index))
                .map(|(_, conversation)| *conversation)
                .collect();
            let chat = Chatter {
                index,
                client: client.clone(),
                conversations: mine,
                interval: plan.interval,
                body_size: plan.body_size,
            };
            senders.push(tokio::spawn(chat.run(stopped.clone(), Arc::clone(&ledger))));
        }
        Ok(Self { plan, ledger, stop, senders, screens, clients })
    }

    /// Messages acknowledged so far.
    #[must_use]
    pub fn acked(&self) -> u64 {
        lock(&self.ledger).volume().acked
    }

    /// Stops sending, waits for every end and every screen, reads the store as a new client, and compares.
    ///
    /// # Errors
    /// When something does not end in time: then it is not known whether the books agree.
    pub async fn finish(self) -> Result<Report, LoadError> {
        self.stop.send_replace(true);
        let mut sent = Sent::default();
        for sender in self.senders {
            let one = tokio::time::timeout(FINISH_TIMEOUT, sender).await.map_err(|_| "a message did not end")??;
            sent = Sent { acked: sent.acked + one.acked, failed: sent.failed + one.failed };
        }
        for index in 0..self.plan.clients {
            read_store(&self.plan, index, &self.ledger).await?;
        }
        let deadline = tokio::time::Instant::now() + FINISH_TIMEOUT;
        let verdict = loop {
            let verdict = lock(&self.ledger).verdict(is_message);
            if verdict.behind == 0 || tokio::time::Instant::now() > deadline {
                break verdict;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        for client in &self.clients {
            client.close().await;
        }
        for screen in self.screens {
            screen.await?;
        }
        let volume = lock(&self.ledger).volume();
        Ok(Report { verdict, volume, failed: sent.failed })
    }
}

/// One client that talks without pause.
struct Chatter {
    index: u32,
    client: Client,
    conversations: Vec<ConversationId>,
    interval: Duration,
    body_size: usize,
}

impl Chatter {
    async fn run(self, mut stopped: watch::Receiver<bool>, ledger: Arc<Mutex<Ledger>>) -> Sent {
        let mut unended = JoinSet::new();
        let mut sent = Sent::default();
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut count: u64 = 0;
        while !*stopped.borrow_and_update() {
            tokio::select! {
                _ = tick.tick(), if unended.len() < UNENDED_MAX => {
                    let at = usize::try_from(count).unwrap_or(0) % self.conversations.len().max(1);
                    let Some(conversation) = self.conversations.get(at).copied() else { break };
                    let body = padded(format!("m {} {count}", self.index), self.body_size);
                    let handle = self.client.send(conversation, &body);
                    unended.spawn(async move { (body, handle.await) });
                    count += 1;
                }
                Some(end) = unended.join_next(), if !unended.is_empty() => note(end.ok(), &mut sent, &ledger),
                _ = stopped.changed() => {}
            }
        }
        while let Some(end) = unended.join_next().await {
            note(end.ok(), &mut sent, &ledger);
        }
        sent
    }
}

/// Lengthens a message with what no database compresses.
fn padded(mut body: String, size: usize) -> String {
    let mut random = mix_bytes(body.as_bytes());
    while body.len() < size {
        random = mix64(random);
        let _ = write!(body, " {random:016x}");
    }
    body
}

/// A message has ended.
fn note(end: Option<(String, Result<tern_client::Done, SendError>)>, sent: &mut Sent, ledger: &Mutex<Ledger>) {
    match end {
        Some((body, Ok(done))) => {
            sent.acked += 1;
            lock(ledger).acked(done.conversation, done.seq, body.as_bytes());
        }
        Some((_, Err(_))) | None => sent.failed += 1,
    }
}

/// One group of all, and a direct conversation of each with the next one. With the clients that are in each.
async fn open_conversations(clients: &[Client]) -> Result<Vec<(Vec<u32>, ConversationId)>, LoadError> {
    let first = clients.first().ok_or("a load needs clients")?;
    let others: Vec<_> = clients.iter().skip(1).map(Client::user).collect();
    let options = GroupOptions { open: false, history_for_all: true };
    let group = first.create_group("Load", &others, options).await?;
    let everybody: Vec<u32> = (0..).zip(clients).map(|(index, _)| index).collect();
    let mut all = vec![(everybody, group)];
    for (index, pair) in (0..).zip(clients.windows(2)) {
        let [one, other] = pair else { continue };
        all.push((vec![index, index + 1], one.open_direct(other.user()).await?));
    }
    for (index, client) in (0..).zip(clients) {
        for (_, conversation) in all.iter().filter(|(members, _)| members.contains(&index)) {
            wait_until_in(client, *conversation).await?;
        }
    }
    Ok(all)
}

/// Waits until a client has learned that it is in a conversation.
///
/// # Errors
/// When it does not in time.
pub async fn wait_until_in(client: &Client, conversation: ConversationId) -> Result<(), LoadError> {
    let deadline = tokio::time::Instant::now() + FINISH_TIMEOUT;
    while !client.directory().await?.iter().any(|entry| entry.conversation == conversation) {
        if tokio::time::Instant::now() > deadline {
            return Err(format!("a client does not learn of {conversation}").into());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

/// Writes down what a screen shows.
async fn watch_screen(screen: ScreenId, mut events: Events, ledger: Arc<Mutex<Ledger>>) {
    while let Some(update) = events.next().await {
        if let Update::Event(event) = update {
            lock(&ledger).shown(screen, event.conversation, event.seq, &event.body);
        } else if let Update::Reset { conversation, position } = update {
            lock(&ledger).skipped_to(screen, conversation, position);
        }
    }
}

/// Reads everything that a user may read, as a new device of theirs.
async fn read_store(plan: &LoadPlan, index: u32, ledger: &Mutex<Ledger>) -> Result<(), LoadError> {
    let (client, mut events) = connect(plan, index, Transport::Quic, None).await?;
    let drain = tokio::spawn(async move { while events.next().await.is_some() {} });
    let conversations: Vec<ConversationView> = client.directory().await?;
    for entry in conversations {
        let conversation = entry.conversation;
        if lock(ledger).has_stored(conversation) {
            continue;
        }
        let mut position = tern_client::Seq::ZERO;
        loop {
            let limit = u16::try_from(HISTORY_PAGE_MAX).unwrap_or(u16::MAX);
            let page = client.history(conversation, Page::After(position), limit).await?;
            let Some(last) = page.events.last() else { break };
            position = last.seq;
            for event in &page.events {
                lock(ledger).stored(conversation, event.seq, &event.body);
            }
        }
    }
    client.close().await;
    drain.await?;
    Ok(())
}

async fn connect(
    plan: &LoadPlan,
    index: u32,
    transport: Transport,
    resume: Option<Positions>,
) -> Result<(Client, Events), LoadError> {
    let builder = Client::builder(&plan.server)
        .user(&name(index))
        .password(PASSWORD)
        .device_name("load")
        .trust(trust(&plan.directory))
        .transport(transport)
        .ping_interval_max(Duration::from_secs(2));
    let builder = match resume {
        Some(positions) => builder.resume(positions),
        None => builder,
    };
    Ok(builder.connect().await?)
}

/// Whether a content is a message of a load: each is sent once.
fn is_message(body: &[u8]) -> bool {
    body.starts_with(b"m ")
}

fn name(index: u32) -> String {
    format!("load-{index}")
}

fn trust(directory: &Path) -> Trust {
    Trust::FirstUse(directory.join("known-servers"))
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
