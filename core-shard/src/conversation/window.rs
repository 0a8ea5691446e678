//! The recent events of a conversation: what resume and history answer from memory, and what recognises a resend.
//! Holds at least the last `DEDUP_WINDOW` events, and every event that the view does not have yet; of those before them that are younger than
//! `DEDUP_TIME`, what their requests were. Never says that a request was not done when it cannot know.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tern_protocol::frame::{self, FrameError};
use tern_protocol::limit::DEDUP_WINDOW;
use tern_protocol::placement::mix64;
use tern_protocol::server::{Event, content};
use tern_protocol::{Position, RequestId, Seq, Timestamp, UserId};

use crate::io::Recent;
use crate::message::EventHead;

/// How long a request is remembered beyond `DEDUP_WINDOW`. Unit: log time.
/// Longer than a client waits between two attempts to connect, and than a command waits for a disk that stalls: what is known for certain
/// need not be looked for by the client.
const DEDUP_TIME: Duration = Duration::from_secs(60);
/// Events in which a request is remembered at most. Unit: events.
/// At 128 B each 256 KiB of memory. A conversation that is loaded while it is that busy reads as many: 34 MB, were all bodies of the largest size.
pub(super) const DEDUP_EVENTS_MAX: u64 = 2048;
const _: () = assert!(DEDUP_EVENTS_MAX >= DEDUP_WINDOW);

/// The events whose requests are remembered. A conversation is loaded with all of these: what it recognises must not depend on when it
/// was loaded.
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
pub(crate) const REMEMBERED: Recent =
    Recent { count: DEDUP_WINDOW as usize, span: DEDUP_TIME, count_max: DEDUP_EVENTS_MAX as usize };

/// Recent events, ascending, without holes.
#[derive(Debug, Default)]
pub(crate) struct Window {
    events: VecDeque<Remembered>,
    /// The requests of the events directly before them, ascending, without holes.
    faded: VecDeque<Done>,
    /// Older ones: edited, recalled or erased, and kept until the view has them as they are now; or fetched for the next command.
    older: BTreeMap<Seq, Remembered>,
    /// The last change to an older one that is left to the view alone.
    settled: Position,
    /// Newest event of each request in memory.
    requests: BTreeMap<(UserId, RequestId), Seq>,
    size: usize,
}

/// What a request did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    pub(crate) seq: Seq,
    pub(crate) time: Timestamp,
    sender: UserId,
    request: RequestId,
    pub(crate) subject: UserId,
    /// As in [`Remembered`].
    pub(crate) fingerprint: Option<u64>,
    pub(crate) kind: u8,
}

/// The moment for which the window is asked. What is remembered then follows from these two alone, not from what happens to be in memory:
/// every owner that applies the same log must decide alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// The conversation's last event.
    pub(crate) head: Seq,
    /// Log time of the command.
    pub(crate) time: Timestamp,
}

impl Moment {
    /// Whether the request of an event is remembered. If it is, so is every later one.
    fn remembers(self, seq: Seq, time: Timestamp) -> bool {
        let among_last = |count: u64| seq.raw() + count > self.head.raw();
        among_last(DEDUP_WINDOW) || (time.after(DEDUP_TIME) > self.time && among_last(DEDUP_EVENTS_MAX))
    }
}

/// One event in memory.
#[derive(Debug, Clone)]
pub(crate) struct Remembered {
    /// The encoded event, shared with every outbox.
    pub(crate) frame: Bytes,
    /// The command that wrote it last.
    pub(crate) position: Position,
    pub(crate) head: EventHead,
    pub(crate) request: RequestId,
    /// The event that last rewrote it; zero: none has. Beyond the head in a row of a view that is ahead.
    pub(crate) revised: Seq,
    pub(crate) content: u8,
    /// Of the command; `None` for an event that was edited or recalled before it was loaded.
    pub(crate) fingerprint: Option<u64>,
}

impl Remembered {
    /// Reads an event that the view kept. One that was revised beyond the head was not revised yet, though its earlier body is gone.
    pub(crate) fn read(bytes: Bytes, position: Position, known: Seq) -> Result<Self, FrameError> {
        let event = frame::decode::<Event<'_>>(&bytes)?;
        let head = EventHead {
            seq: Seq::from_raw(event.seq.to_native()),
            visible: event.visible.to_native(),
            time: Timestamp::from_raw(event.time.to_native()),
            sender: UserId::from_raw(event.sender.to_native()),
            subject: UserId::from_raw(event.subject.to_native()),
            target: Seq::from_raw(event.target.to_native()),
            kind: event.kind,
            role: event.role,
            members: 0,
        };
        let revised = Seq::from_raw(event.revised.to_native());
        let ahead = revised > known;
        let mentions = event.mentions.iter().map(|user| user.to_native());
        let print = fingerprint(event.kind, event.content, event.target.to_native(), mentions, &event.body);
        Ok(Self {
            position,
            head,
            request: RequestId::from_raw(event.request.to_native()),
            revised,
            content: if ahead { content::TEXT } else { event.content },
            fingerprint: (revised == Seq::ZERO).then_some(print),
            frame: bytes,
        })
    }

    fn done(&self) -> Done {
        Done {
            seq: self.head.seq,
            time: self.head.time,
            sender: self.head.sender,
            request: self.request,
            subject: self.head.subject,
            fingerprint: self.fingerprint,
            kind: self.head.kind,
        }
    }

    /// The same event with another body; with [`content::RECALLED`] without one, and without mentions.
    pub(crate) fn revise(&self, position: Position, by: Seq, new_content: u8, body: &[u8]) -> Result<Self, FrameError> {
        let event = frame::decode::<Event<'_>>(&self.frame)?;
        let mentions: Vec<u64> = event.mentions.iter().map(|user| user.to_native()).collect();
        let encoded = frame::to_vec(&Event {
            conversation: event.conversation.to_native(),
            seq: event.seq.to_native(),
            time: event.time.to_native(),
            visible: event.visible.to_native(),
            sender: event.sender.to_native(),
            request: event.request.to_native(),
            target: event.target.to_native(),
            revised: by.raw(),
            subject: event.subject.to_native(),
            kind: event.kind,
            content: new_content,
            role: event.role,
            mentions: if new_content == content::RECALLED { &[] } else { &mentions },
            body,
        });
        Ok(Self { frame: encoded.into(), position, revised: by, content: new_content, ..self.clone() })
    }
}

/// Tells whether two commands with one request id are the same command.
pub(crate) fn fingerprint(kind: u8, content: u8, target: u64, mentions: impl Iterator<Item = u64>, body: &[u8]) -> u64 {
    let start = mix64(u64::from(kind) << 8 | u64::from(content)) ^ mix64(target);
    let named = mentions.fold(start, |hash, user| mix64(hash ^ user));
    mix64(named ^ tern_protocol::placement::mix_bytes(body))
}

impl Window {
    /// Adds the newest event.
    pub(crate) fn push(&mut self, event: Remembered) {
        debug_assert!(self.events.back().is_none_or(|last| last.head.seq.next() == event.head.seq), "no holes");
        self.size += size_of(&event);
        if event.request.raw() != 0 {
            self.requests.insert((event.head.sender, event.request), event.head.seq);
        }
        self.events.push_back(event);
    }

    /// Drops what neither a resend, a resume nor the view needs.
    pub(crate) fn trim(&mut self, now: Moment, stored: Position, keep_unstored: bool) {
        let size = &mut self.size;
        let settled = &mut self.settled;
        self.older.retain(|_, event| {
            let keep = event.position > stored;
            if !keep {
                *size -= size_of(event);
                *settled = (*settled).max(event.position);
            }
            keep
        });
        while let Some(first) = self.events.front() {
            let recent = first.head.seq.raw() + DEDUP_WINDOW > now.head.raw();
            if recent || (keep_unstored && first.position > stored) {
                break;
            }
            self.size -= size_of(first);
            self.size += FADED_SIZE;
            self.faded.push_back(first.done());
            self.events.pop_front();
        }
        while let Some(first) = self.faded.front().filter(|first| !now.remembers(first.seq, first.time)) {
            let key = (first.sender, first.request);
            if self.requests.get(&key) == Some(&first.seq) {
                self.requests.remove(&key);
            }
            self.size -= FADED_SIZE;
            self.faded.pop_front();
        }
    }

    /// The event at this place, if it is in memory.
    pub(crate) fn at(&self, seq: Seq) -> Option<&Remembered> {
        let index = self.first().and_then(|first| seq.raw().checked_sub(first.raw()));
        let recent = index.and_then(|index| self.events.get(usize::try_from(index).ok()?));
        recent.or_else(|| self.older.get(&seq))
    }

    /// Puts another body into an event, or takes it in as it was fetched. One that is older than what is in memory is remembered until the
    /// view has it: until then the view alone would tell of the body before.
    pub(crate) fn replace(&mut self, event: Remembered) {
        let first = self.first().unwrap_or(event.head.seq.next());
        let index = event.head.seq.raw().checked_sub(first.raw()).and_then(|index| usize::try_from(index).ok());
        self.size += size_of(&event);
        match index.and_then(|index| self.events.get_mut(index)) {
            Some(old) => {
                self.size -= size_of(old);
                *old = event;
            }
            None => {
                let old = self.older.insert(event.head.seq, event);
                self.size -= old.as_ref().map_or(0, size_of);
            }
        }
    }

    /// What this request did, if it is remembered.
    pub(crate) fn answered(&self, now: Moment, sender: UserId, request: RequestId) -> Option<Done> {
        let done = self.done(*self.requests.get(&(sender, request))?)?;
        now.remembers(done.seq, done.time).then_some(done)
    }

    /// Whether every request whose event stands behind `known` is remembered: if it is not among them, it was not done.
    pub(crate) fn reaches(&self, now: Moment, known: u64) -> bool {
        let next = Seq::from_raw(known.saturating_add(1));
        // What is not in memory is not remembered: memory holds all that is.
        next > now.head || self.done(next).is_some_and(|done| now.remembers(done.seq, done.time))
    }

    fn done(&self, seq: Seq) -> Option<Done> {
        let index = self.faded.front().and_then(|first| seq.raw().checked_sub(first.seq.raw()));
        let faded = index.and_then(|index| self.faded.get(usize::try_from(index).ok()?).copied());
        faded.or_else(|| self.first().filter(|first| seq >= *first).and_then(|_| self.at(seq)).map(Remembered::done))
    }

    /// The oldest event in memory.
    pub(crate) fn first(&self) -> Option<Seq> {
        self.events.front().map(|event| event.head.seq)
    }

    /// The newest event.
    pub(crate) fn last(&self) -> Option<Seq> {
        self.events.back().map(|event| event.head.seq)
    }

    /// The events of a page that was read from the view when `asked` was the last command applied, as they are now; `None`: the view must
    /// be asked again, because what was changed since may be known to it alone by now.
    pub(crate) fn renew(&self, asked: Position, mut page: Vec<Bytes>) -> Option<Vec<Bytes>> {
        if self.settled > asked {
            return None;
        }
        let Some(first) = page.first().and_then(|frame| frame::decode::<Event<'_>>(frame).ok()) else {
            return Some(page);
        };
        let (first, count) = (Seq::from_raw(first.seq.to_native()), page.len() as u64);
        let older = self.older.range(first..Seq::from_raw(first.raw().saturating_add(count)));
        for (seq, event) in older {
            let index = usize::try_from(seq.raw() - first.raw()).ok();
            if let Some(stale) = index.and_then(|index| page.get_mut(index)) {
                *stale = event.frame.clone();
            }
        }
        Some(page)
    }

    /// Everything up to this command was read from the view.
    pub(crate) fn settle(&mut self, position: Position) {
        self.settled = position;
    }

    /// Events from `from` on; nothing unless that one is in memory.
    pub(crate) fn from(&self, from: Seq) -> impl Iterator<Item = &Remembered> {
        let start = self.first().and_then(|first| from.raw().checked_sub(first.raw()));
        let start = start.and_then(|start| usize::try_from(start).ok()).unwrap_or(usize::MAX).min(self.events.len());
        self.events.range(start..)
    }

    /// Events, newest first.
    pub(crate) fn newest(&self) -> impl Iterator<Item = &Remembered> {
        self.events.iter().rev()
    }

    /// Memory of the events. Unit: bytes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }
}

/// Memory of what one request was, with its share of the table. Unit: bytes.
const FADED_SIZE: usize = 128;

/// Memory of one event, with its share of the tables. Unit: bytes.
fn size_of(event: &Remembered) -> usize {
    event.frame.len() + 256
}
