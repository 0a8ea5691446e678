//! All WebSockets of one shard: takes over what the control plane has accepted, and visits those for which something has happened.
//! Never visits an idle one.

use std::fmt;
use std::time::Instant;

use tern_core_shard::io::Ending;
use tern_protocol::CloseCode;

use super::session::{Progress, Session};
use crate::node::HandedSocket;
use crate::quic::Deadlines;
use crate::runtime::{Driver, Readiness};
use crate::shard_thread::{Performer, Transport};
use crate::slots::{Key, Slots};
use crate::store::Store;

/// The WebSocket half of a shard.
pub(crate) struct WebSockets {
    sessions: Slots<Box<Session>>,
    /// Sockets to look at in this turn, each once.
    dirty: Vec<Key>,
    /// The list that `dirty` is swapped with while it is worked on.
    spare: Vec<Key>,
    /// Sockets that are not read from for back-pressure.
    paused: Vec<Key>,
    deadlines: Deadlines<Key>,
    /// Where frames are gathered before they are encrypted.
    batch: Vec<u8>,
}

impl WebSockets {
    pub(crate) const fn new() -> Self {
        Self {
            sessions: Slots::new(),
            dirty: Vec::new(),
            spare: Vec::new(),
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
            mark(&mut self.dirty, entry, key);
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
        mark(&mut self.dirty, session, key);
    }

    /// The core has frames for it.
    pub(crate) fn mark_ready(&mut self, key: Key) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.mark_writable();
            mark(&mut self.dirty, session, key);
        }
    }

    /// The core wants it closed.
    pub(crate) fn close<S: Store>(&mut self, key: Key, code: CloseCode, performer: &Performer<S>) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.close(code, performer);
            mark(&mut self.dirty, session, key);
        }
    }

    /// Looks at the sockets whose time has come.
    pub(crate) fn fire_timers(&mut self, now: Instant) {
        while let Some((key, at)) = self.deadlines.pop_due(now) {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            if session.armed == Some(at) {
                session.armed = None;
                mark(&mut self.dirty, session, key);
            }
        }
    }

    /// Looks again at the sockets that wait for back-pressure to end. Before [`Self::read`].
    pub(crate) fn resume(&mut self) {
        for key in self.paused.drain(..) {
            if let Some(session) = self.sessions.get_mut(key) {
                session.is_paused = false;
                mark(&mut self.dirty, session, key);
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
        for key in &self.dirty {
            let Some(session) = self.sessions.get_mut(*key) else { continue };
            let was_paused = session.is_paused;
            session.has_more = session.read(performer) == Progress::More;
            more |= session.has_more;
            if session.is_paused && !was_paused {
                self.paused.push(*key);
            }
        }
        more
    }

    /// Writes to every socket for which something has happened, and waits for those that are not ready. Returns whether some have more.
    pub(crate) fn drive<S: Store>(&mut self, driver: &Driver, performer: &mut Performer<S>) -> bool {
        std::mem::swap(&mut self.dirty, &mut self.spare);
        for key in self.spare.drain(..) {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            session.is_dirty = false;
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
            if std::mem::take(&mut session.has_more) || progress == Progress::More {
                mark(&mut self.dirty, session, key);
            }
        }
        performer.status().counters.websocket_connections.set(self.sessions.len());
        !self.dirty.is_empty()
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

/// Puts a socket on the list of those to look at, once.
fn mark(dirty: &mut Vec<Key>, session: &mut Session, key: Key) {
    if !std::mem::replace(&mut session.is_dirty, true) {
        dirty.push(key);
    }
}

impl fmt::Debug for WebSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSockets").field("live", &self.sessions.len()).finish_non_exhaustive()
    }
}
