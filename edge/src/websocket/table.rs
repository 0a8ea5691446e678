//! All WebSockets of one shard: takes over what the control plane has accepted, and visits those for which something has happened.
//! Never visits an idle one.

use std::fmt;
use std::time::Instant;

use tern_core_shard::io::{Ending, Urgency};
use tern_protocol::CloseCode;

use super::session::{Progress, Session};
use crate::agenda::Agenda;
use crate::node::HandedSocket;
use crate::quic::{DEADLINES_PER_TURN, Deadlines};
use crate::runtime::{Driver, Readiness};
use crate::shard_thread::{Performer, Transport};
use crate::slots::{Key, Slots};
use crate::store::Store;

/// The WebSocket half of a shard.
pub(crate) struct WebSockets {
    sessions: Slots<Box<Session>>,
    /// By the slots of `sessions`.
    agenda: Agenda,
    /// The visits of one turn; empty between turns.
    visits: Vec<usize>,
    /// Sockets that are not read from for back-pressure.
    paused: Vec<Key>,
    deadlines: Deadlines<Key>,
    /// Where frames are gathered before they are encrypted.
    batch: Vec<u8>,
}

impl WebSockets {
    pub(crate) fn new() -> Self {
        Self {
            sessions: Slots::new(),
            agenda: Agenda::default(),
            visits: Vec::new(),
            paused: Vec::new(),
            deadlines: Deadlines::new(),
            batch: Vec::new(),
        }
    }

    /// Continues a TLS session that the control plane began. A socket that the runtime does not take is dropped, which closes it.
    pub(crate) fn adopt<S: Store>(&mut self, socket: HandedSocket, driver: &Driver, performer: &mut Performer<S>) {
        let HandedSocket { tcp, tls, read_buf } = socket;
        let tcp = match driver.adopt(tcp) {
            Ok(tcp) => tcp,
            Err(error) => {
                tracing::debug!(%error, "taking a WebSocket over");
                return;
            }
        };
        let session = Session::new(tcp, tls, &read_buf, performer.now().instant);
        let key = self.sessions.insert(Box::new(session));
        let session = performer.connect(Transport::WebSocket(key));
        if let Some(entry) = self.sessions.get_mut(key) {
            entry.set_session(session);
            self.agenda.mark(key.index(), &mut entry.is_listed);
        }
        performer.status().counters.websocket_connections.set(self.sessions.len());
    }

    /// A socket has become ready.
    pub(crate) fn mark_socket(&mut self, key: Key, readiness: Readiness) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        match readiness {
            Readiness::Read => session.is_readable = true,
            Readiness::Write => session.is_blocked = false,
        }
        self.agenda.mark(key.index(), &mut session.is_listed);
    }

    /// The core has frames for it.
    pub(crate) fn mark_ready(&mut self, key: Key, urgency: Urgency) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.mark_writable();
            self.agenda.add(key.index(), urgency, &mut session.is_listed);
        }
    }

    /// The core wants it closed.
    pub(crate) fn close<S: Store>(&mut self, key: Key, code: CloseCode, performer: &Performer<S>) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.close(code, performer);
            self.agenda.mark(key.index(), &mut session.is_listed);
        }
    }

    /// Looks at the sockets whose time has come.
    pub(crate) fn fire_timers(&mut self, now: Instant) {
        for _ in 0..DEADLINES_PER_TURN {
            let Some((key, at)) = self.deadlines.pop_due(now) else { return };
            let Some(session) = self.sessions.get_mut(key) else { continue };
            if session.armed == Some(at) {
                session.armed = None;
                self.agenda.mark(key.index(), &mut session.is_listed);
            }
        }
    }

    /// Looks again at the sockets that wait for back-pressure to end. Before [`Self::read`].
    pub(crate) fn resume(&mut self) {
        for key in self.paused.drain(..) {
            if let Some(session) = self.sessions.get_mut(key) {
                session.is_paused = false;
                self.agenda.mark(key.index(), &mut session.is_listed);
            }
        }
    }

    /// Sockets that wait for back-pressure to end.
    pub(crate) const fn paused(&self) -> usize {
        self.paused.len()
    }

    /// Reads from every socket for which something has happened. Returns whether some have more.
    pub(crate) fn read<S: Store>(&mut self, performer: &mut Performer<S>) -> bool {
        let mut more = false;
        for slot in self.agenda.now() {
            let Some(key) = self.sessions.key_at(*slot) else { continue };
            let Some(session) = self.sessions.get_mut(key) else { continue };
            let was_paused = session.is_paused;
            session.has_more = session.read(performer) == Progress::More;
            more |= session.has_more;
            if session.is_paused && !was_paused {
                self.paused.push(key);
            }
        }
        more
    }

    /// Writes to the sockets whose turn it is, and waits for those that are not ready. Returns whether some have more.
    pub(crate) fn drive<S: Store>(&mut self, driver: &Driver, performer: &mut Performer<S>) -> bool {
        self.agenda.take(&mut self.visits);
        for slot in self.visits.drain(..) {
            let Some(key) = self.sessions.key_at(slot) else { continue };
            let Some(session) = self.sessions.get_mut(key) else { continue };
            session.is_listed = false;
            let progress = session.write(&mut self.batch, performer);
            if session.is_over() {
                if let Some(mut session) = self.sessions.remove(key) {
                    session.end(Ending::Lost, performer);
                }
                continue;
            }
            if !session.is_readable {
                driver.watch(&session.tcp, Readiness::Read, key);
            }
            if session.is_blocked {
                driver.watch(&session.tcp, Readiness::Write, key);
            }
            if let Some(at) = session.next_deadline() {
                self.deadlines.arm(key, &mut session.armed, at);
            }
            if std::mem::take(&mut session.has_more) {
                self.agenda.mark(slot, &mut session.is_listed);
            }
            if progress == Progress::More {
                self.agenda.put_off(slot);
            }
        }
        let counters = &performer.status().counters;
        counters.websocket_connections.set(self.sessions.len());
        counters.websocket_visits_waiting.set(self.agenda.waiting());
        !self.agenda.is_empty()
    }

    /// Whether there is no socket, not even one that waits for its peer to close.
    pub(crate) const fn is_empty(&self) -> bool {
        self.sessions.len() == 0
    }

    /// When the earliest socket wants to be looked at.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }
}

impl fmt::Debug for WebSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSockets").field("live", &self.sessions.len()).finish_non_exhaustive()
    }
}
