//! What the meddler does to frames on their way from the server to clients: one thing, once, at a frame that is named by its number.
//! Everything else passes unchanged. Never meddles with what clients send, but for holding it while a pause lasts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tern_protocol::frame::{self, Frame, Kind};
use tern_protocol::server::{Ack, Event, HistoryPage, event};

/// What is done. Frames are counted from 1, over all connections; events are those of messages.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rule {
    /// Everything passes.
    Nothing,
    /// From this acknowledgement on nothing passes for a while, either way, on any connection: the server does not run.
    Pause { ack: u64, length: Duration },
    /// This event never comes.
    Drop { event: u64, history: History },
    /// This event comes twice.
    Repeat { event: u64 },
    /// This event comes behind the next one of its conversation.
    Swap { event: u64 },
    /// One bit of this event's body is another one.
    Corrupt { event: u64 },
}

/// Whether a dropped event can be had in another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum History {
    /// Pages have it.
    Honest,
    /// Pages do not have it either.
    Forged,
}

/// From when to when nothing passed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pause {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

/// One rule, and how far it is, for all connections.
#[derive(Debug)]
pub(crate) struct Rules {
    rule: Rule,
    acks: AtomicU64,
    events: AtomicU64,
    is_done: AtomicBool,
    pause: Mutex<Option<Pause>>,
}

/// What one connection has to remember.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// To come behind the next event of its conversation.
    held: Option<(u128, Bytes)>,
    /// Not to be seen on pages: conversation and seq.
    forged: Option<(u128, u64)>,
}

impl Rules {
    pub(crate) const fn new(rule: Rule) -> Self {
        Self {
            rule,
            acks: AtomicU64::new(0),
            events: AtomicU64::new(0),
            is_done: AtomicBool::new(false),
            pause: Mutex::new(None),
        }
    }

    /// Whether it has been done. A pause has been done when it is over.
    pub(crate) fn is_done(&self) -> bool {
        match self.rule {
            Rule::Nothing => true,
            Rule::Pause { .. } => self.pause().is_some_and(|pause| pause.ended <= Instant::now()),
            Rule::Drop { .. } | Rule::Repeat { .. } | Rule::Swap { .. } | Rule::Corrupt { .. } => {
                self.is_done.load(Ordering::SeqCst)
            }
        }
    }

    pub(crate) fn pause(&self) -> Option<Pause> {
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a frame through when no pause lasts. What arrives during a pause leaves after its end, never before.
    pub(crate) async fn gate(&self) {
        while let Some(pause) = self.pause().filter(|pause| Instant::now() < pause.ended) {
            tokio::time::sleep_until(pause.ended.into()).await;
        }
    }

    /// What a client gets for a frame of the server.
    pub(crate) fn apply(&self, memory: &mut Memory, bytes: Bytes) -> Vec<Bytes> {
        match frame::open(&bytes).map(|(kind, _)| kind) {
            Ok(Ack::KIND) => {
                self.on_ack();
                vec![bytes]
            }
            Ok(Event::KIND) => self.on_event(memory, bytes),
            Ok(HistoryPage::KIND) => vec![memory.forged.map_or(bytes.clone(), |forged| without(&bytes, forged))],
            Ok(Kind(_)) | Err(_) => vec![bytes],
        }
    }

    fn on_ack(&self) {
        let number = self.acks.fetch_add(1, Ordering::SeqCst) + 1;
        if let Rule::Pause { ack, length } = self.rule
            && ack == number
        {
            // Under the lock: whoever looks at the gate later than `began` finds it closed.
            let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
            let began = Instant::now();
            *pause = Some(Pause { began, ended: began + length });
        }
    }

    fn on_event(&self, memory: &mut Memory, bytes: Bytes) -> Vec<Bytes> {
        let (conversation, seq, kind) = {
            let event = frame::decode::<Event<'_>>(&bytes).expect("the server sends valid events");
            (event.conversation.to_native(), event.seq.to_native(), event.kind)
        };
        if memory.held.as_ref().is_some_and(|(held, _)| *held == conversation) {
            self.is_done.store(true, Ordering::SeqCst);
            return [bytes].into_iter().chain(memory.held.take().map(|(_, held)| held)).collect();
        }
        if kind != event::MESSAGE {
            return vec![bytes];
        }
        let number = self.events.fetch_add(1, Ordering::SeqCst) + 1;
        match self.rule {
            Rule::Drop { event, history } if event == number => {
                memory.forged = Some((conversation, seq)).filter(|_| history == History::Forged);
                self.is_done.store(true, Ordering::SeqCst);
                vec![]
            }
            Rule::Repeat { event } if event == number => {
                self.is_done.store(true, Ordering::SeqCst);
                vec![bytes.clone(), bytes]
            }
            Rule::Swap { event } if event == number => {
                memory.held = Some((conversation, bytes));
                vec![]
            }
            Rule::Corrupt { event } if event == number => {
                self.is_done.store(true, Ordering::SeqCst);
                vec![corrupted(&bytes)]
            }
            Rule::Nothing
            | Rule::Pause { .. }
            | Rule::Drop { .. }
            | Rule::Repeat { .. }
            | Rule::Swap { .. }
            | Rule::Corrupt { .. } => vec![bytes],
        }
    }
}

/// The same event with one bit of its body's last byte turned: no field but the body changes.
fn corrupted(bytes: &Bytes) -> Bytes {
    let event = frame::decode::<Event<'_>>(bytes).expect("the server sends valid events");
    let body = event.body.as_slice();
    let last = body.as_ptr().addr() - bytes.as_ptr().addr() + body.len() - 1;
    let mut changed = bytes.to_vec();
    changed[last] ^= 1;
    changed.into()
}

/// The same page without one event.
fn without(bytes: &Bytes, (conversation, seq): (u128, u64)) -> Bytes {
    let page = frame::decode::<HistoryPage<'_>>(bytes).expect("the server sends valid pages");
    if page.conversation.to_native() != conversation {
        return bytes.clone();
    }
    let mut rest = page.events.as_slice();
    let mut kept = Vec::new();
    while let Ok(Some(size)) = frame::size(rest) {
        let (one, behind) = rest.split_at(size);
        let event = frame::decode::<Event<'_>>(one).expect("pages have valid events");
        if event.seq.to_native() != seq {
            kept.extend_from_slice(one);
        }
        rest = behind;
    }
    let page = HistoryPage {
        request: page.request.to_native(),
        conversation,
        head: page.head.to_native(),
        first: page.first.to_native(),
        events: &kept,
    };
    frame::to_vec(&page).into()
}
