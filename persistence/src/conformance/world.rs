//! A process's worth of shards without any logic: keeps everything that it is told. Waits for bells, never for time to pass.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tern_core_shard::io::{AppendFailure, Input, Logged, Record, Row, Table, ViewError, ViewQuery, ViewReply};
use tern_protocol::command::CommandHead;
use tern_protocol::stored::event_key;
use tern_protocol::{ConversationId, PartitionId, Position, Seq};

use crate::Bell;
use crate::conformance::{Backend, Bounds, End, Setup};

/// After this a test says what it waited for. A backend on a loaded machine takes a small part of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest time between two looks, should a bell be lost.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Rung by the backend, waited for by the test.
#[derive(Default)]
pub(crate) struct Chime {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Chime {
    pub(crate) fn bell(self: &Arc<Self>) -> Bell {
        let chime = Arc::clone(self);
        Arc::new(move || {
            *chime.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
            chime.heard.notify_all();
        })
    }

    pub(crate) fn wait(&self) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut rung, _) =
            self.heard.wait_timeout_while(rung, LOOK_INTERVAL, |rung| !*rung).unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}

/// The ends of a backend, and what they said.
pub(crate) struct World<'a, B: Backend> {
    backend: &'a B,
    pub(crate) ends: Vec<B::End>,
    running: B::Running,
    chime: Arc<Chime>,
    /// Shard that was told, and what; in order of arrival.
    pub(crate) logged: Vec<(usize, Logged)>,
    pub(crate) failed: Vec<(Record, AppendFailure)>,
    pub(crate) stored: BTreeMap<PartitionId, Position>,
    pub(crate) viewed: BTreeMap<u64, Result<ViewReply, ViewError>>,
    /// Per shard: how many commands came before `CaughtUp`.
    pub(crate) caught_up: Vec<Option<usize>>,
    ticket: u64,
}

impl<'a, B: Backend> World<'a, B> {
    pub(crate) fn open(backend: &'a B, directory: &Path, partitions: u16, shards: u16) -> Self {
        Self::open_with(backend, directory, partitions, shards, Bounds::Default)
    }

    pub(crate) fn open_with(backend: &'a B, directory: &Path, partitions: u16, shards: u16, bounds: Bounds) -> Self {
        let chime = Arc::<Chime>::default();
        let setup = Setup { directory: directory.into(), partitions, shards, bounds };
        let (ends, running) = backend.open(&setup, (0..shards).map(|_| chime.bell()).collect());
        assert_eq!(ends.len(), usize::from(shards), "one end per shard");
        let caught_up = ends.iter().map(|_| None).collect();
        Self {
            backend,
            ends,
            running,
            chime,
            logged: Vec::new(),
            failed: Vec::new(),
            stored: BTreeMap::new(),
            viewed: BTreeMap::new(),
            caught_up,
            ticket: 0,
        }
    }

    /// Opens and waits until everything old was handed over.
    pub(crate) fn open_caught_up(backend: &'a B, directory: &Path, partitions: u16, shards: u16) -> Self {
        let mut world = Self::open(backend, directory, partitions, shards);
        world.wait_for("every shard to catch up", |world| world.caught_up.iter().all(Option::is_some));
        world
    }

    pub(crate) fn close(self) {
        drop(self.ends);
        self.backend.close(self.running);
    }

    pub(crate) fn crash(self) {
        drop(self.ends);
        self.backend.crash(self.running);
    }

    /// What keeps the backend running.
    #[cfg(test)]
    pub(crate) fn running(&self) -> &B::Running {
        &self.running
    }

    /// Takes at most one thing.
    #[cfg(test)]
    pub(crate) fn poll_once(&mut self, shard: usize) {
        if let Some(input) = self.ends[shard].poll() {
            self.take(shard, input);
        }
    }

    /// Takes everything that there is at the moment.
    pub(crate) fn turn(&mut self) {
        for shard in 0..self.ends.len() {
            while let Some(input) = self.ends[shard].poll() {
                self.take(shard, input);
            }
            self.ends[shard].flush();
        }
    }

    pub(crate) fn wait_for(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.turn();
            if done(self) {
                return;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            self.chime.wait();
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "a backend says nothing else")]
    fn take(&mut self, shard: usize, input: Input) {
        match input {
            Input::Logged(logged) => self.logged.push((shard, logged)),
            Input::AppendFailed { record, failure, .. } => self.failed.push((record, failure)),
            Input::CaughtUp => {
                let before = self.logged.iter().filter(|(at, _)| *at == shard).count();
                assert_eq!(self.caught_up[shard].replace(before), None, "caught up once");
            }
            Input::Viewed { ticket, reply } => {
                assert!(self.viewed.insert(ticket, reply).is_none(), "one answer to each question");
            }
            Input::Stored { partition, position } => {
                assert_eq!(usize::from(partition.raw()) % self.ends.len(), shard, "told to the owner");
                let before = self.stored.insert(partition, position);
                assert!(before.is_none_or(|before| before <= position), "confirmed in order");
            }
            other => panic!("not for a backend to say: {other:?}"),
        }
    }

    /// Appends and waits until all of it is durable.
    pub(crate) fn append_all(&mut self, from_shard: usize, partition: PartitionId, count: u64) {
        let expected = self.logged.len() as u64 + count;
        for actor in 0..count {
            self.ends[from_shard].append(partition, record(partition, actor)).expect("there is room");
        }
        self.wait_for("commands to be durable", |world| world.logged.len() as u64 == expected);
    }

    /// Hands rows over and waits until they can be read.
    pub(crate) fn store(&mut self, partition: PartitionId, position: u64, rows: Vec<Row>) {
        let owner = usize::from(partition.raw()) % self.ends.len();
        let position = Position::from_raw(position);
        self.ends[owner].store(partition, position, rows);
        self.wait_for("rows to be stored", |world| world.stored.get(&partition).is_some_and(|at| *at >= position));
    }

    pub(crate) fn ask(&mut self, query: ViewQuery) -> ViewReply {
        self.try_ask(query).expect("the view can read")
    }

    pub(crate) fn try_ask(&mut self, query: ViewQuery) -> Result<ViewReply, ViewError> {
        self.ticket += 1;
        let ticket = self.ticket;
        self.ends[0].query(ticket, query).expect("there is room");
        self.wait_for("an answer", |world| world.viewed.contains_key(&ticket));
        self.viewed.remove(&ticket).expect("it was just there")
    }

    /// All events of a conversation.
    pub(crate) fn events(&mut self, conversation: ConversationId) -> Vec<Bytes> {
        let (from, to) = (Seq::ZERO, Seq::from_raw(u64::MAX));
        let order = tern_core_shard::io::Order::OldestFirst;
        match self.ask(ViewQuery::Events { conversation, from, to, size_max: usize::MAX, order }) {
            ViewReply::Events(events) => events,
            other @ ViewReply::Entity { .. } => panic!("asked for events: {other:?}"),
        }
    }
}

/// A directory that is removed at the end of the test.
pub(crate) struct Place(pub(crate) PathBuf);

impl Place {
    pub(crate) fn new(name: &str) -> Self {
        use std::hash::{BuildHasher, RandomState};
        let random = RandomState::new().hash_one(name);
        let base = std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
        Self(base.join(format!("tern-{name}-{random:016x}")))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A command that can be told from all others of its partition.
pub(crate) fn record(partition: PartitionId, actor: u64) -> Record {
    let head = CommandHead { actor, cause_partition: partition.raw(), run: 7, ..CommandHead::default() };
    let size = usize::try_from(actor % 700).unwrap_or(0);
    let mut frame = format!("{partition} command {actor} ").into_bytes();
    frame.resize(frame.len() + size, b'.');
    Record { head, frame: Bytes::from(frame) }
}

/// The row of an event, with a value that names it.
pub(crate) fn event(conversation: ConversationId, seq: u64, size: usize) -> Row {
    let mut value = format!("event {seq} ").into_bytes();
    value.resize(value.len().max(size), b'.');
    let key = Bytes::copy_from_slice(&event_key(conversation, Seq::from_raw(seq)));
    Row { table: Table::Events, key, value: Some(Bytes::from(value)) }
}

/// A row of an entity.
pub(crate) fn row(key: &[u8], value: Option<&str>) -> Row {
    let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
    Row { table: Table::Entities, key: Bytes::copy_from_slice(key), value }
}
