//! Entities that cannot be read: set aside, so that everything else goes on. Their commands are kept in the view, each as a row of the
//! entity, so that the checkpoint passes them; when the entity can be read again they are applied first, at their own positions and times,
//! and leave with the rows of the next command. Never drops a command, never applies one before those that are kept, and never answers
//! from a state without commands that an earlier run may have applied: somebody may have seen what they did.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tern_protocol::command::{self, CommandHead};
use tern_protocol::frame::{self, FrameError};
use tern_protocol::stored::{self, AwaitedRow, Entity, KeptRow, Part};
use tern_protocol::{PartitionId, Position, RejectCode, Seq, SessionId, ShardId, Timestamp, UserId};

use super::cache::{EventsRead, Fetching, Held, State};
use super::partition::Carried;
use super::{Owner, Told, Waiting, Work, ids_of_frame, partition_of, questions, reply_to};
use crate::context::{Context, Timer};
use crate::conversation::{Conversation, Remembered, reject, to_bytes};
use crate::io::{AppendFailure, AsideCause, AsideChange, Logged, Output, Record, Reply, Row, Table};
use crate::message::ToSessions;

/// How often it is looked whether entities that were set aside can be read again; also what a client should wait. Unit: time.
const RETRY: Duration = Duration::from_secs(10);
/// What a request for an entity that is set aside should wait. Unit: milliseconds.
pub(crate) const RETRY_MS: u32 = 10_000;
const _: () = assert!(RETRY.as_millis() == RETRY_MS as u128);
/// Entities looked at each time. Unit: entities. The view answers questions of others too.
const TRIES: usize = 64;

/// An entity that cannot be read.
#[derive(Debug)]
pub(super) struct Aside {
    /// Of an entity of which only an old event cannot be read.
    held: Option<Held>,
    /// A command of an earlier run is not applied to it: that run may have shown a newer state.
    behind: bool,
    /// The last command kept in this run.
    kept: Position,
    /// What is kept in this run. Unit: bytes.
    size: usize,
    /// Commands that wait: while the view is being asked again, and when there is no room for more.
    waiting: Waiting,
    /// The view is being asked again.
    asking: bool,
}

/// An entity that was read, with commands that were kept for it.
#[derive(Debug)]
pub(super) struct Returning {
    pub(super) held: Held,
    pub(super) kept: Vec<Kept>,
    /// Old events that kept commands may need and that are not here.
    targets: VecDeque<Seq>,
    /// The first of them has been asked for.
    asking: bool,
    pub(super) events: EventsRead,
    pub(super) waiting: Waiting,
    /// The command that gives what was kept its place among the rows is on its way.
    called: bool,
}

/// A command that was kept.
#[derive(Debug)]
pub(super) struct Kept {
    position: Position,
    time: Timestamp,
    record: Record,
}

impl Aside {
    pub(super) fn new(held: Option<Held>) -> Self {
        Self { held, behind: false, kept: Position::ZERO, size: 0, waiting: Waiting::new(), asking: false }
    }

    /// What questions are answered from. What this run only kept nobody has seen; what an earlier one has done, somebody may have.
    pub(super) fn shown(&self) -> Option<&Held> {
        self.held.as_ref().filter(|_| !self.behind)
    }

    pub(super) fn shown_mut(&mut self) -> Option<&mut Held> {
        self.held.as_mut().filter(|_| !self.behind)
    }

    /// Notes a command that is not applied.
    fn lacks(&mut self, record: &Record, run: u64) {
        self.behind |= record.head.run != run;
    }

    /// The view has answered: what waited for that goes on.
    pub(super) fn give_up(&mut self) -> Waiting {
        self.asking = false;
        std::mem::take(&mut self.waiting)
    }
}

impl Returning {
    pub(super) fn new(held: Held, kept: Vec<Kept>, waiting: Waiting) -> Self {
        let mut targets = VecDeque::new();
        if let State::Conversation(conversation) = &held.state {
            targets.extend(kept.iter().filter_map(|kept| conversation.target(&kept.record.frame)));
        }
        Self { held, kept, targets, asking: false, events: EventsRead::new(), waiting, called: false }
    }

    pub(super) fn take_event(&mut self, event: Remembered) {
        self.asking = false;
        self.targets.retain(|seq| *seq != event.head.seq);
        // Whoever edits or recalls it takes the body of the edit before, too.
        let exists =
            |seq: Seq| seq != Seq::ZERO && matches!(&self.held.state, State::Conversation(held) if seq <= held.head);
        if exists(event.revised) && !self.events.contains_key(&event.revised) {
            self.targets.push_front(event.revised);
        }
        self.events.insert(event.head.seq, event);
    }

    /// It cannot be read after all; what waited is given back, in order.
    pub(super) fn put_aside(self, run: u64) -> (Aside, Waiting) {
        let mut aside = Aside::new(Some(self.held));
        self.kept.iter().for_each(|kept| aside.lacks(&kept.record, run));
        (aside, self.waiting)
    }

    fn last(&self) -> Position {
        self.kept.last().map_or(Position::ZERO, |kept| kept.position)
    }
}

impl Owner {
    /// Whether commands for this entity can only be kept.
    pub(super) fn is_away(&self, entity: &Entity) -> bool {
        self.cache.away.contains(entity)
    }

    /// An entity cannot be read: sets it aside, or leaves it there.
    pub(super) fn set_aside(&mut self, cx: &mut Context, entity: &Entity, cause: AsideCause) {
        let waiting = self.cache.put_aside(cx, entity);
        if self.cache.away.insert(entity.clone()) {
            cx.counters.set_aside += 1;
            cx.output(Output::Aside { entity: entity.clone(), change: AsideChange::Away(cause) });
            self.tell_away(cx, entity, true);
        }
        for work in waiting {
            self.work_aside(cx, entity, work);
        }
    }

    fn tell_away(&mut self, cx: &mut Context, entity: &Entity, away: bool) {
        self.wake_for_aside(cx);
        cx.counters.aside = self.cache.away.len() as u64;
        if let Entity::Conversation(conversation) = entity {
            for shard in 0..cx.config.placement.shards() {
                let conversation = *conversation;
                cx.tell(ShardId::from_raw(shard), ToSessions::Aside { conversation, away });
            }
        }
    }

    /// An entity is in memory again, with nothing kept for it.
    pub(super) fn note_back(&mut self, cx: &mut Context, entity: &Entity) {
        if self.cache.away.remove(entity) {
            cx.output(Output::Aside { entity: entity.clone(), change: AsideChange::Back });
            self.tell_away(cx, entity, false);
        }
    }

    /// Something is to be done with an entity that is set aside.
    pub(super) fn work_aside(&mut self, cx: &mut Context, entity: &Entity, work: Work) {
        match work {
            Work::Apply(logged) => self.keep(cx, entity, logged),
            Work::Ask(question) if self.cache.state(entity).is_some() => self.answer_question(cx, entity, question),
            Work::Ask(question) => questions::unreadable(cx, question),
            Work::Request(ticket, request) if self.cache.state(entity).is_some() => {
                self.answer_request(cx, entity, ticket, request);
            }
            Work::Request(ticket, _) => {
                cx.output(Output::Reply { ticket, reply: Reply::Unavailable(AppendFailure::Unavailable) });
            }
        }
    }

    /// Keeps a command: its row is the record itself. Whoever asked is told that the outcome is not known.
    fn keep(&mut self, cx: &mut Context, entity: &Entity, logged: Logged) {
        let kept_size_max = cx.limits().kept_size_max;
        let Some(aside) = self.cache.slot_aside(entity) else { return };
        aside.lacks(&logged.record, cx.config.run);
        let full = aside.size >= kept_size_max;
        if aside.asking || full || !aside.waiting.is_empty() {
            cx.counters.kept_full += u64::from(full);
            aside.waiting.push_back(Work::Apply(logged));
            return;
        }
        let head = &logged.record.head;
        let record = [&logged.record.frame[..], &head.to_bytes()].concat();
        let value = stored::encode_row(&KeptRow { time: logged.time.raw(), record });
        aside.size += value.len();
        aside.kept = logged.position;
        cx.counters.kept += 1;
        let key = Part::Kept(logged.position).key(&stored::entity_key(entity));
        let row = Row { table: Table::Entities, key: key.into(), value: Some(value.into()) };
        let awaited = AwaitedRow { entity: stored::entity_key(entity) };
        let awaited = Row {
            table: Table::Entities,
            key: awaited_key(logged.partition, logged.position),
            value: Some(stored::encode_row(&awaited).into()),
        };
        if head.actor == 0 {
            reply_to(cx, head, Reply::Unavailable(AppendFailure::Unknown));
        } else if head.run == cx.config.run && head.session != 0 {
            let ids = frame::open(&logged.record.frame).ok();
            let ids = ids.and_then(|(kind, archive)| ids_of_frame(UserId::from_raw(head.actor), kind, archive));
            if let Some((_, request)) = ids {
                let frame = reject(request, RejectCode::OutcomeUnknown, RETRY_MS);
                let session = SessionId::from_raw(head.session);
                let answer = ToSessions::Answer { session, frame, command: true, joined: None };
                cx.tell(ShardId::from_raw(head.shard), answer);
            }
        }
        self.applied(cx, &logged, vec![row, awaited], Vec::new(), None);
    }

    fn wake_for_aside(&mut self, cx: &mut Context) {
        if !self.cache.away.is_empty() && !std::mem::replace(&mut self.aside_wakes, true) {
            let at = cx.now.after(RETRY);
            cx.wake(at, Timer::RetryAside);
        }
    }

    /// Looks whether entities that are set aside can be read again.
    pub(crate) fn retry_aside(&mut self, cx: &mut Context) {
        self.aside_wakes = false;
        self.wake_for_aside(cx);
        // Round and round: the ones behind the last one first.
        let after = |entity: &&Entity| self.aside_last.as_ref().is_none_or(|last| *entity > last);
        let mut next: Vec<Entity> = self.cache.away.iter().filter(after).take(TRIES).cloned().collect();
        if next.len() < TRIES {
            let more = self.cache.away.iter().take(TRIES - next.len()).filter(|entity| !next.contains(entity)).cloned();
            let more: Vec<Entity> = more.collect();
            next.extend(more);
        }
        self.aside_last = next.last().cloned();
        for entity in next {
            self.look_again(cx, &entity);
        }
    }

    fn look_again(&mut self, cx: &mut Context, entity: &Entity) {
        let partition = self.partitions.get(&partition_of(cx.config.placement, entity));
        let stored = partition.map_or(Position::ZERO, |partition| partition.stored);
        let Some(aside) = self.cache.slot_aside(entity) else { return };
        // What was kept must be readable, and what is in memory must be replaceable by it.
        let replaceable = aside.held.as_ref().is_none_or(|held| held.is_stored(stored));
        if !aside.asking && replaceable && aside.kept <= stored {
            aside.asking = true;
            self.cache.fetch(cx, Fetching::Entity(entity.clone()));
        }
    }

    /// An entity is in memory again: gets the old events that kept commands need, then waits for a command that gives what was kept its
    /// place among the rows. If none waits, one is appended.
    pub(super) fn go_on_returning(&mut self, cx: &mut Context, entity: &Entity) {
        let Some(returning) = self.cache.slot_returning(entity) else { return };
        if let Some(seq) = returning.targets.front().copied() {
            if !std::mem::replace(&mut returning.asking, true) {
                self.cache.fetch(cx, Fetching::Event(entity.clone(), seq));
            }
            return;
        }
        let last = returning.last();
        let carrier = returning.waiting.iter().find_map(|work| match work {
            Work::Apply(logged) if logged.position > last => Some(logged.position),
            Work::Apply(_) | Work::Ask(_) | Work::Request(..) => None,
        });
        match carrier {
            Some(carrier) => self.admit(cx, entity, carrier),
            None if returning.called => {}
            None => {
                returning.called = true;
                let head = CommandHead { run: cx.config.run, shard: cx.shard().raw(), ..CommandHead::default() };
                let frame = to_bytes(&command::Readmit { entity: &stored::entity_key(entity) });
                cx.append(partition_of(cx.config.placement, entity), head, frame);
            }
        }
    }

    /// Applies what was kept, then everything that waited. The rows of what was kept go to the view with those of `carrier`.
    fn admit(&mut self, cx: &mut Context, entity: &Entity, carrier: Position) {
        let Some((kept, events, waiting)) = self.cache.admit(cx, entity) else { return };
        let id = partition_of(cx.config.placement, entity);
        let prefix = stored::entity_key(entity);
        let mut carried = Carried::default();
        for Kept { position, time, record } in kept {
            let logged = Logged { partition: id, position, time, record };
            if let Some(State::Conversation(conversation)) = self.cache.state_mut(entity) {
                let needs = |conversation: &Conversation| {
                    let seq = conversation.needs(logged.time, &logged.record.head, &logged.record.frame)?;
                    events.get(&seq).cloned()
                };
                while let Some(event) = needs(conversation) {
                    conversation.fetched(event);
                }
            }
            let done = self.perform(cx, entity, &logged, carrier, Told::Nobody);
            carried.add(position, done.rows, done.emissions);
            let key = Part::Kept(position).key(&prefix).into();
            carried.rows.push(Row { table: Table::Entities, key, value: None });
            carried.rows.push(Row { table: Table::Entities, key: awaited_key(id, position), value: None });
        }
        if let Some(partition) = self.partitions.get_mut(&id) {
            partition.carry(carrier, carried);
        }
        self.note_back(cx, entity);
        self.run_all(cx, entity, waiting, None);
    }
}

/// Keys and values.
type Rows = Vec<(Bytes, Bytes)>;

/// Key of an [`AwaitedRow`].
fn awaited_key(partition: PartitionId, position: Position) -> Bytes {
    Part::Kept(position).key(&stored::entity_key(&Entity::Partition(partition))).into()
}

/// The entities for which commands are kept, by the rows of their partition.
///
/// # Errors
/// A row that cannot be read.
pub(super) fn awaited(partition: PartitionId, rows: &[(Bytes, Bytes)]) -> Result<BTreeSet<Entity>, FrameError> {
    let prefix = stored::entity_key(&Entity::Partition(partition));
    let mut found = BTreeSet::new();
    for (key, value) in rows {
        if let Some(Part::Kept(_)) = key.strip_prefix(&prefix[..]).and_then(Part::parse) {
            let row: AwaitedRow = stored::decode_row(value)?;
            found.insert(stored::entity_of_key(&row.entity).ok_or(FrameError::Archive)?);
        }
    }
    Ok(found)
}

/// Divides an entity's rows into those that say what it is, and the commands that were kept for it, in order.
pub(super) fn split_kept(entity: &Entity, rows: Rows) -> Result<(Rows, Vec<Kept>), FrameError> {
    let prefix = stored::entity_key(entity);
    let (mut state, mut kept) = (Vec::with_capacity(rows.len()), Vec::new());
    for (key, value) in rows {
        match key.strip_prefix(&prefix[..]).and_then(Part::parse) {
            Some(Part::Kept(position)) => {
                let row: KeptRow = stored::decode_row(&value)?;
                let (frame, head) = CommandHead::split(&row.record)?;
                let record = Record { head, frame: Bytes::copy_from_slice(frame) };
                kept.push(Kept { position, time: Timestamp::from_raw(row.time), record });
            }
            Some(Part::Main | Part::Member(_) | Part::Device(_) | Part::Directory(_) | Part::Rules(_)) | None => {
                state.push((key, value));
            }
        }
    }
    Ok((state, kept))
}
