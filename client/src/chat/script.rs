//! The commands for scripts: one thing each, results on standard output, everything else on standard error.
//! Never waits for a person, but for `login` and `register` on a terminal.
#![expect(clippy::wildcard_enum_match_arm, reason = "the SDK's updates are open: a listener has no use for the others")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use serde_json::Value;
use tern_client::{
    Client, ConnectionState, Content, ConversationId, ConversationView, EventKind, EventView, Events, Page, Positions,
    ProfileView, Seq, Update, UserId,
};

use crate::args::Command;
use crate::failure::{Cause, Failure};
use crate::json;
use crate::profile::Profile;
use crate::text::{clean, clean_line};

/// How long a line waits for the name of its sender.
const NAME_TIMEOUT: Duration = Duration::from_secs(2);
/// Names that are remembered. Unit: users.
const NAMES_MAX: usize = 10_000;
/// Events that one request asks for. Unit: events.
const PAGE_LIMIT: u16 = 256;

/// Runs one command.
pub(crate) async fn run(profile: &Profile, command: Command) -> Result<(), Failure> {
    match command {
        Command::Register { display } => {
            profile.register(display.as_deref()).await?;
            print(&format!("registered and logged in as {}", profile.user))
        }
        Command::Login => {
            profile.login().await?;
            print(&format!("logged in as {}", profile.user))
        }
        Command::Logout => {
            profile.tokens()?.logout().await?;
            print("logged out")
        }
        Command::Devices { json } => devices(profile, json).await,
        Command::Send { to, json, text } => send(profile, &to, json, text).await,
        Command::Listen { json, since_start, conversation } => {
            let only = conversation.map(ConversationId::from_raw);
            listen(profile, json, since_start, only).await
        }
        Command::Conversations { json } => conversations(profile, json).await,
        Command::History { of, limit, json } => history(profile, &of, limit, json).await,
    }
}

/// One line on standard output, there at once. A reader that went away is the end, not an error.
fn print(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}

fn print_json(value: &Value) -> Result<(), Failure> {
    print(&value.to_string())
}

async fn connect(profile: &Profile) -> Result<(Client, Events), Failure> {
    profile.ensure_login().await?;
    Ok(profile.builder().connect().await?)
}

async fn devices(profile: &Profile, json: bool) -> Result<(), Failure> {
    profile.ensure_login().await?;
    let mut tokens = profile.tokens()?;
    let access = tokens.access().await?;
    for device in tokens.auth().devices(&access.token).await? {
        let used = json::time(tern_client::Timestamp::from_raw(device.last_used_at.saturating_mul(1000)));
        if json {
            print_json(&serde_json::json!({
                "device": device.device.raw().to_string(), "name": device.name, "current": device.current,
                "created_at": device.created_at, "last_used_at": device.last_used_at,
            }))?;
        } else {
            let current = if device.current { " (this one)" } else { "" };
            print(&format!("{}  {used}  {}{current}", device.device.raw(), clean_line(&device.name)))?;
        }
    }
    Ok(())
}

/// A conversation by its id, or the direct one with the user of this name.
async fn resolve(client: &Client, target: &str) -> Result<ConversationId, Failure> {
    if let Some(id) = target.parse().ok().map(ConversationId::from_raw).filter(|id| id.kind().is_some()) {
        return Ok(id);
    }
    let found = client.profile_by_name(target).await?;
    let found = found.ok_or_else(|| Failure::new(Cause::Refused, format!("nobody is called {target}")))?;
    Ok(client.open_direct(found.user).await?)
}

async fn send(profile: &Profile, to: &str, json: bool, words: Vec<String>) -> Result<(), Failure> {
    let mut text = words.join(" ");
    if words.is_empty() {
        std::io::stdin().read_to_string(&mut text)?;
        text.truncate(text.trim_end_matches('\n').len());
    }
    if text.is_empty() {
        return Err(Failure::usage("nothing to send: give a text, or pipe one in"));
    }
    let (client, events) = connect(profile).await?;
    drop(events);
    let sending = async {
        let conversation = resolve(&client, to).await?;
        let handle = client.send(conversation, &text);
        let request = handle.request().raw();
        Ok::<_, Failure>((handle.await?, request))
    };
    let sent = sending.await;
    client.close().await;
    let (done, request) = sent?;
    if json { print_json(&json::ack(&done, request)) } else { print(&format!("stored as {}", done.seq.raw())) }
}

async fn conversations(profile: &Profile, json: bool) -> Result<(), Failure> {
    let (client, events) = connect(profile).await?;
    drop(events);
    let list = client.directory().await;
    let mut names = Names::default();
    for view in list? {
        let peer = match view.conversation.peer_of(client.user()) {
            Some(peer) => names.find(&client, peer).await.cloned(),
            None => None,
        };
        if json {
            print_json(&json::conversation(&view, client.user(), peer.as_ref()))?;
        } else {
            print(&conversation_line(&view, peer.as_ref()))?;
        }
    }
    client.close().await;
    Ok(())
}

fn conversation_line(view: &ConversationView, peer: Option<&ProfileView>) -> String {
    let title = match peer {
        Some(peer) => peer.name.clone(),
        None if view.conversation == ConversationId::WORLD => "everyone".to_owned(),
        None => view.title.clone(),
    };
    let unread = if view.unread() > 0 { format!(" ({} new)", view.unread()) } else { String::new() };
    clean_line(&format!("{}  {title}{unread}  {}", view.conversation.raw(), view.preview))
}

async fn history(profile: &Profile, of: &str, limit: u32, json: bool) -> Result<(), Failure> {
    let (client, events) = connect(profile).await?;
    drop(events);
    let paging = async {
        let conversation = resolve(&client, of).await?;
        let mut pages = Vec::new();
        let (mut page, mut left) = (Page::Newest, limit);
        while left > 0 {
            let count = u16::try_from(left).unwrap_or(PAGE_LIMIT).min(PAGE_LIMIT);
            let view = client.history(conversation, page, count).await?;
            let Some(first) = view.events.first().map(|event| event.seq) else { break };
            left = left.saturating_sub(u32::try_from(view.events.len()).unwrap_or(u32::MAX));
            pages.push(view.events);
            if first <= view.first {
                break;
            }
            page = Page::Before(first);
        }
        Ok::<_, Failure>(pages)
    };
    let pages = paging.await;
    let mut printer = Printer { client: client.clone(), json, names: Names::default(), told: String::new() };
    for event in pages?.iter().rev().flatten() {
        printer.event(event).await?;
    }
    client.close().await;
    Ok(())
}

/// Prints what happens until the process is stopped. What was left out of the stream is paged in: no event is missed.
async fn listen(profile: &Profile, json: bool, since_start: bool, only: Option<ConversationId>) -> Result<(), Failure> {
    profile.ensure_login().await?;
    let builder = profile.attentive_builder();
    let builder = if since_start { builder.resume(Positions::default()) } else { builder };
    let (client, mut events) = builder.start().await?;
    let mut printer = Printer { client: client.clone(), json, names: Names::default(), told: String::new() };
    let mut printed: BTreeMap<ConversationId, Seq> = BTreeMap::new();
    loop {
        let update = tokio::select! {
            update = events.next() => update,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(update) = update else { break };
        match update {
            Update::Event(event) if only.is_none_or(|only| only == event.conversation) => {
                printed.insert(event.conversation, event.seq);
                printer.event(&event).await?;
            }
            Update::Reset { conversation, position } if only.is_none_or(|only| only == conversation) => {
                let from = printed.get(&conversation).copied().or_else(|| since_start.then_some(Seq::ZERO));
                if let Some(from) = from {
                    printer.between(conversation, from, position).await?;
                }
                printed.insert(conversation, position);
            }
            Update::State(ConnectionState::Stopped(reason)) => return Err(reason.into()),
            Update::Event(_) | Update::Reset { .. } => {}
            other => printer.update(&other, only)?,
        }
    }
    client.close().await;
    Ok(())
}

/// Writes lines.
struct Printer {
    client: Client,
    json: bool,
    names: Names,
    /// What was last said about the connection: an outage of an hour is one line.
    told: String,
}

impl Printer {
    async fn event(&mut self, event: &EventView) -> Result<(), Failure> {
        let sender = self.names.find(&self.client, event.sender).await;
        if self.json {
            return print_json(&json::event(event, sender));
        }
        let name = sender.map_or_else(|| event.sender.raw().to_string(), |sender| sender.name.clone());
        let body = match (event.kind, event.content) {
            (EventKind::Message | EventKind::Edited, Content::Text) => clean(&event.text()),
            (EventKind::Message, Content::Recalled) => "(recalled)".to_owned(),
            (kind, _) => format!("({})", kind.name()),
        };
        let (time, name) = (json::time(event.time), clean_line(&name));
        print(&format!("{time} {} {} {name}: {body}", event.conversation.raw(), event.seq.raw()))
    }

    /// Everything after `from` up to `to`, page by page.
    async fn between(&mut self, conversation: ConversationId, from: Seq, to: Seq) -> Result<(), Failure> {
        let mut from = from;
        while from < to {
            let page = match self.client.history(conversation, Page::After(from), PAGE_LIMIT).await {
                Ok(page) => page,
                Err(error) => {
                    // The listener goes on: the hole is told, not hidden.
                    let hole = format!("events {} to {} are missing: {error}", from.next().raw(), to.raw());
                    return complain(&hole);
                }
            };
            for event in page.events.iter().filter(|event| event.seq <= to) {
                self.event(event).await?;
            }
            let Some(last) = page.events.last() else { break };
            from = last.seq;
        }
        Ok(())
    }

    /// What is no event: JSON listeners get it on their stream, people on standard error where it concerns them.
    fn update(&mut self, update: &Update, only: Option<ConversationId>) -> Result<(), Failure> {
        let of = match update {
            Update::Receipt { conversation, .. } | Update::Typing { conversation, .. } => Some(*conversation),
            Update::Conversation(view) => Some(view.conversation),
            Update::Removed(conversation) => Some(*conversation),
            _ => None,
        };
        let wanted = only.is_none() || of.is_none() || of == only;
        match update {
            _ if self.json && wanted => {
                json::update(update, self.client.user()).map_or(Ok(()), |value| print_json(&value))
            }
            Update::State(ConnectionState::Online { transport }) if !self.json => {
                self.tell(format!("online over {transport}"))
            }
            Update::State(ConnectionState::Waiting { why, .. }) if !self.json => self.tell(format!("offline: {why}")),
            _ => Ok(()),
        }
    }
}

impl Printer {
    fn tell(&mut self, line: String) -> Result<(), Failure> {
        if self.told == line {
            return Ok(());
        }
        self.told = line;
        complain(&self.told)
    }
}

/// One line on standard error.
fn complain(line: &str) -> Result<(), Failure> {
    writeln!(std::io::stderr(), "tern-chat: {}", clean_line(line))?;
    Ok(())
}

/// Names of users, asked for once.
#[derive(Default)]
struct Names {
    known: BTreeMap<UserId, ProfileView>,
}

impl Names {
    async fn find(&mut self, client: &Client, user: UserId) -> Option<&ProfileView> {
        if !self.known.contains_key(&user) && self.known.len() < NAMES_MAX {
            let asked = tokio::time::timeout(NAME_TIMEOUT, client.profiles(&[user])).await;
            let found = asked.ok().and_then(Result::ok).unwrap_or_default();
            self.known.extend(found.into_iter().map(|profile| (profile.user, profile)));
        }
        self.known.get(&user)
    }
}
