//! The loop of the terminal client: keys, updates, answers and time go into the model, its effects to the SDK, its picture to the
//! terminal. Whatever happens, the terminal is put back as it was.
#![expect(clippy::wildcard_enum_match_arm, reason = "everything but the end is the model's")]

use std::io;
use std::time::{Instant, SystemTime};

use crossterm::event::{
    DisableBracketedPaste, DisableFocusChange, EnableBracketedPaste, EnableFocusChange, Event as TerminalEvent,
    EventStream,
};
use crossterm::execute;
use futures_util::StreamExt as _;
use jiff::tz::TimeZone;
use ratatui::DefaultTerminal;
use tern_client::{
    Client, ConnectionState, ConversationId, Events, HistoryView, Page, ProfileView, StopReason, Timestamp, Update,
    UserId,
};
use tokio::sync::mpsc;

use super::commands::{self, Outcome};
use super::model::{Effect, Model};
use super::view::{self, Areas};
use crate::failure::Failure;
use crate::profile::Profile;

/// Events of one page of the past. Unit: events.
const PAGE_LIMIT: u16 = 60;
/// Answers that wait for the loop. Unit: answers.
const ANSWERS_MAX: usize = 64;
/// Updates that are taken in before the screen is drawn again. Unit: updates.
const UPDATES_PER_FRAME: usize = 512;

/// What a task that asked the server brings back.
enum Answer {
    History(ConversationId, Result<HistoryView, String>),
    Profiles(Vec<UserId>, Option<Vec<ProfileView>>),
    Outcome(Result<Outcome, String>),
}

/// Runs the terminal client until the person leaves, or the server logs the device out.
pub(crate) async fn run(profile: &Profile) -> Result<(), Failure> {
    let (client, events) = profile.attentive_builder().start().await?;
    let now = Instant::now();
    let model = Model::new(client.user(), &profile.user, &profile.server.to_string(), now);
    let terminal = open_terminal()?;
    let ended = Loop::new(client.clone(), model).run(terminal, events).await;
    close_terminal();
    client.close().await;
    ended
}

/// Takes the terminal over. A panic gives it back before it prints.
fn open_terminal() -> Result<DefaultTerminal, Failure> {
    let terminal = ratatui::try_init()?;
    let printing = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let _ = execute!(io::stdout(), DisableBracketedPaste, DisableFocusChange);
        printing(info);
    }));
    execute!(io::stdout(), EnableBracketedPaste, EnableFocusChange)?;
    Ok(terminal)
}

fn close_terminal() {
    let _ = execute!(io::stdout(), DisableBracketedPaste, DisableFocusChange);
    ratatui::restore();
}

struct Loop {
    client: Client,
    model: Model,
    zone: TimeZone,
    answers: mpsc::Receiver<Answer>,
    answer: mpsc::Sender<Answer>,
}

impl Loop {
    fn new(client: Client, model: Model) -> Self {
        let (answer, answers) = mpsc::channel(ANSWERS_MAX);
        Self { client, model, zone: TimeZone::system(), answers, answer }
    }

    async fn run(mut self, mut terminal: DefaultTerminal, mut events: Events) -> Result<(), Failure> {
        let mut keys = EventStream::new();
        let mut end = std::pin::pin!(signalled());
        loop {
            self.draw(&mut terminal)?;
            let tick = tokio::time::sleep(self.model.wants_tick());
            tokio::select! {
                key = keys.next() => match key {
                    Some(Ok(event)) => self.on_terminal(event),
                    // The terminal is gone.
                    Some(Err(_)) | None => return Ok(()),
                },
                update = events.next() => match update {
                    Some(update) => self.on_updates(update, &mut events)?,
                    None => return Ok(()),
                },
                Some(answer) = self.answers.recv() => self.on_answer(answer),
                () = tick => {}
                () = &mut end => return Ok(()),
            }
            self.model.tick(Instant::now());
            if self.perform() {
                return Ok(());
            }
        }
    }

    fn draw(&mut self, terminal: &mut DefaultTerminal) -> io::Result<()> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = Timestamp::ZERO.after(since);
        let model = &mut self.model;
        terminal.draw(|frame| {
            model.pane = Areas::of(model, frame.area()).pane();
            view::draw(model, frame, time, &self.zone);
        })?;
        Ok(())
    }

    fn on_terminal(&mut self, event: TerminalEvent) {
        match event {
            TerminalEvent::Key(key) => self.model.on_key(key),
            TerminalEvent::Paste(text) => self.model.on_paste(&text),
            TerminalEvent::FocusGained => self.model.on_looking(true),
            TerminalEvent::FocusLost => self.model.on_looking(false),
            TerminalEvent::Resize(..) | TerminalEvent::Mouse(_) => {}
        }
    }

    /// Takes in what has come, so that a burst is drawn once.
    fn on_updates(&mut self, first: Update, events: &mut Events) -> Result<(), Failure> {
        let more = std::iter::from_fn(|| events.try_next()).take(UPDATES_PER_FRAME);
        for update in std::iter::once(first).chain(more) {
            match update {
                // These end the client, and the person must act: the screen gives way to the message.
                Update::State(ConnectionState::Stopped(reason)) if reason != StopReason::Closed => {
                    return Err(reason.into());
                }
                other => self.model.on_update(other),
            }
        }
        Ok(())
    }

    fn on_answer(&mut self, answer: Answer) {
        match answer {
            Answer::History(conversation, page) => self.model.on_history(conversation, page),
            Answer::Profiles(_, Some(profiles)) => self.model.on_profiles(profiles),
            Answer::Profiles(users, None) => self.model.on_no_profiles(&users),
            Answer::Outcome(outcome) => self.model.on_outcome(outcome),
        }
    }

    /// Does what the model wants. `true`: the person leaves.
    fn perform(&mut self) -> bool {
        for effect in self.model.take_effects() {
            let client = self.client.clone();
            match effect {
                Effect::Quit => return true,
                Effect::Post { conversation, content } => {
                    let request = self.client.post(conversation, content.clone()).request();
                    self.model.on_posted(conversation, request, &content);
                }
                Effect::Retry(request) => self.client.retry(request),
                Effect::MarkRead { conversation, seq, visible } => self.client.mark_read(conversation, seq, visible),
                Effect::Typing { conversation, active } => self.client.typing(conversation, active),
                Effect::Watch(users) => self.client.watch_presence(users),
                Effect::ReconnectNow => self.client.reconnect_now(),
                Effect::History { conversation, before } => {
                    let page = before.map_or(Page::Newest, Page::Before);
                    self.ask(async move {
                        let page = client.history(conversation, page, PAGE_LIMIT).await;
                        Answer::History(conversation, page.map_err(|error| error.to_string()))
                    });
                }
                Effect::Profiles(users) => self.ask(async move {
                    let profiles = client.profiles(&users).await.ok();
                    Answer::Profiles(users, profiles)
                }),
                Effect::Remote { here, command } => {
                    self.ask(async move { Answer::Outcome(commands::run(&client, here, command).await) });
                }
            }
        }
        false
    }

    /// Asks the server beside the loop.
    fn ask(&self, question: impl Future<Output = Answer> + Send + 'static) {
        let answer = self.answer.clone();
        tokio::spawn(async move {
            let _ = answer.send(question.await).await;
        });
    }
}

/// Ends when the process is asked to end.
#[cfg(unix)]
async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut hangup)) = (signal(SignalKind::terminate()), signal(SignalKind::hangup())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

/// Ends when the process is asked to end.
#[cfg(not(unix))]
async fn signalled() {
    let _ = tokio::signal::ctrl_c().await;
}
