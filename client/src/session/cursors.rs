//! Read and delivered cursors of one conversation: moved at most twice a second, the read one until the server has it. Sans-IO.
//! Never goes back.

use std::time::{Duration, Instant};

use tern_protocol::client::{MoveCursor, cursor};
use tern_protocol::{ConversationId, Seq, frame};

use super::Session;
use super::requests::{Purpose, Query};
use crate::update::RequestError;

/// A conversation's cursors move at most this often.
const INTERVAL: Duration = Duration::from_millis(500);

/// Where a cursor should be: an event and the messages up to it.
type Mark = (Seq, u64);

/// What the server should learn.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    /// Read up to here, and the server was not told.
    read: Option<Mark>,
    /// Arrived up to here, and the server was not told.
    delivered: Option<Mark>,
    /// When it may be told.
    due: Option<Instant>,
    told: Option<Instant>,
}

impl Cursors {
    /// An event of somebody else arrived in a direct conversation.
    pub(super) fn arrived(&mut self, now: Instant, seq: Seq, visible: u64) {
        self.delivered = self.delivered.max(Some((seq, visible)));
        self.schedule(now);
    }

    fn was_read(&mut self, now: Instant, mark: Mark) {
        self.read = self.read.max(Some(mark));
        self.schedule(now);
    }

    fn schedule(&mut self, now: Instant) {
        if self.due.is_none() {
            self.due = Some(self.told.map_or(now, |told| (told + INTERVAL).max(now)));
        }
    }

    pub(super) fn on_connected(&mut self) {
        self.told = None;
    }

    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.due
    }
}

impl Session {
    pub(super) fn mark_read(&mut self, now: Instant, id: ConversationId, seq: Seq, visible: u64) {
        let Some(conversation) = self.conversations.get_mut(&id) else { return };
        if let Some(view) = &mut conversation.view {
            if seq <= view.read {
                return;
            }
            view.read = seq;
            view.read_visible = visible;
            self.changed.insert(id);
        }
        conversation.cursors.was_read(now, (seq, visible));
        self.attention.insert(id);
    }

    /// Tells the server what is due.
    pub(super) fn pump_cursors(&mut self, now: Instant) {
        self.send_cursors(now, |due| due <= now);
    }

    /// Tells the server everything, before a goodbye.
    pub(crate) fn flush_cursors(&mut self, now: Instant) {
        self.send_cursors(now, |_| true);
        self.pump(now);
    }

    fn send_cursors(&mut self, now: Instant, is_due: impl Fn(Instant) -> bool) {
        let cursors_of =
            |id: &&ConversationId| self.conversations.get(id).and_then(|c| c.cursors.due).is_some_and(&is_due);
        let due: Vec<_> = self.attention.iter().filter(cursors_of).copied().collect();
        for id in due {
            let busy = self.requests.has(Purpose::ReadCursor(id));
            let Some(conversation) = self.conversations.get_mut(&id) else { continue };
            let cursors = &mut conversation.cursors;
            cursors.due = None;
            cursors.told = Some(now);
            if busy {
                // The answer to the last move is still awaited: this one follows it.
                cursors.schedule(now);
                continue;
            }
            let (read, delivered) = (cursors.read.take(), cursors.delivered.take());
            if let Some((seq, visible)) = delivered.filter(|delivered| read.is_none_or(|read| read < *delivered)) {
                let request = self.next_id().raw();
                let cursor = cursor::DELIVERED;
                self.send(frame::to_vec(&MoveCursor {
                    request,
                    conversation: id.raw(),
                    seq: seq.raw(),
                    visible,
                    cursor,
                }));
            }
            if let Some((seq, visible)) = read {
                let request = self.next_id();
                let _ = self.requests.push(
                    now,
                    request,
                    Purpose::ReadCursor(id),
                    Query::MoveRead { conversation: id, seq, visible },
                );
            }
        }
    }

    /// A move that was not answered is made again; one that was refused is not.
    pub(super) fn on_cursor_failed(&mut self, now: Instant, id: ConversationId, query: &Query, error: RequestError) {
        if let (Query::MoveRead { seq, visible, .. }, RequestError::TimedOut) = (query, error)
            && let Some(conversation) = self.conversations.get_mut(&id)
        {
            conversation.cursors.was_read(now, (*seq, *visible));
            self.attention.insert(id);
        }
    }
}
