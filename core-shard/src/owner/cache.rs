//! The entities in memory: loaded from the view when first needed, dropped when long unused and safely stored.
//! While one is loaded its work queues here, in order; everybody else's goes on. Never drops what the view does not have.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tern_protocol::frame::FrameError;
use tern_protocol::limit::PAGE_SIZE_MAX;
use tern_protocol::stored::Entity;
use tern_protocol::{PartitionId, Position, Seq};

use super::aside::{Aside, Kept, Returning, split_kept};
use super::questions::Page;
use super::{Waiting, Work};
use crate::account::Account;
use crate::config::Sabotage;
use crate::context::{Context, Timer};
use crate::conversation::{Conversation, REMEMBERED, Remembered};
use crate::io::{AsideCause, Order, Output, Recent, ViewError, ViewQuery, ViewReply};
use crate::user::User;

/// Entities, and the questions to the view that are under way.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    slots: BTreeMap<Entity, Slot>,
    /// Least recently used first.
    used: BTreeMap<u64, Entity>,
    fetches: BTreeMap<u64, Fetching>,
    /// Conversations of which pages are being read: they stay, because a page is compared with them before it is answered.
    reading: BTreeMap<Entity, u32>,
    /// Fetches that failed, to be tried again.
    failed: Vec<Fetching>,
    next_ticket: u64,
    next_use: u64,
    size: usize,
    /// Entities that were set aside and are not back.
    pub(super) away: BTreeSet<Entity>,
}

/// An entity's state.
#[derive(Debug)]
pub(crate) enum State {
    Conversation(Box<Conversation>),
    User(Box<User>),
    Account(Box<Account>),
}

/// A state, and the last command that was in it when the view gave it: up to there, the view has it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) state: State,
    loaded: Position,
}

impl Held {
    /// Whether the view has all of it.
    pub(super) fn is_stored(&self, stored: Position) -> bool {
        self.state.position() <= self.loaded.max(stored)
    }
}

#[derive(Debug)]
enum Slot {
    Ready {
        held: Held,
        used: u64,
        size: usize,
    },
    /// The state is here already when only an old event is missing.
    Loading {
        held: Option<Held>,
        waiting: Waiting,
        /// How often the view failed.
        failures: u32,
    },
    /// It cannot be read.
    Aside(Box<Aside>),
    /// It can be read again, and what was kept for it waits for its place in the log.
    Returning(Box<Returning>),
}

/// What became of work for an entity that is not in memory.
#[derive(Debug)]
pub(crate) enum Waited {
    /// It is queued.
    Queued,
    /// So many questions wait already.
    Busy(Work),
    /// The entity is set aside.
    Aside(Work),
}

#[derive(Debug)]
pub(super) enum Fetching {
    Entity(Entity),
    Event(Entity, Seq),
    /// The newest events up to the head of a conversation whose rows are here.
    Window(Box<Conversation>, Vec<Kept>, (Seq, Seq)),
    Page(Box<Page>),
    Rules(PartitionId),
}

/// Which answer with events it is.
#[derive(Debug, Clone, Copy)]
enum Fill {
    First,
    Last,
}

/// What an answer of the view made possible.
#[derive(Debug)]
pub(crate) enum Fetch {
    Nothing,
    /// The entity is in memory, and so is the event that its first command needs.
    Ready(Entity, Waiting, Option<Remembered>),
    /// The entity is in memory, but commands that were kept for it come first.
    Returning(Entity),
    /// The entity, or an event that its first command needs, cannot be read.
    Unreadable(Entity, AsideCause),
    /// A page of history.
    Page(Box<Page>, Result<Vec<Bytes>, ViewError>),
    /// The rows of a partition's rules.
    Rules(PartitionId, Vec<(Bytes, Bytes)>),
}

/// How long a failed question to the view waits before it is asked again.
const RETRY: Duration = Duration::from_millis(100);
/// Failures of the view after which an entity is set aside. Unit: failures. With [`RETRY`] between them: two seconds.
const FAILURES_MAX: u32 = 20;
/// Entities looked at per eviction, so that one input's work is bounded. Unit: entities.
const EVICT_TRIES: usize = 16;

impl Cache {
    pub(crate) fn is_ready(&self, entity: &Entity) -> bool {
        matches!(self.slots.get(entity), Some(Slot::Ready { .. }))
    }

    pub(crate) fn state(&self, entity: &Entity) -> Option<&State> {
        match self.slots.get(entity)? {
            Slot::Ready { held, .. } => Some(&held.state),
            Slot::Aside(aside) => aside.shown().map(|held| &held.state),
            Slot::Loading { .. } | Slot::Returning(_) => None,
        }
    }

    pub(crate) fn state_mut(&mut self, entity: &Entity) -> Option<&mut State> {
        match self.slots.get_mut(entity)? {
            Slot::Ready { held, .. } => Some(&mut held.state),
            Slot::Aside(aside) => aside.shown_mut().map(|held| &mut held.state),
            Slot::Loading { .. } | Slot::Returning(_) => None,
        }
    }

    /// Queues work behind the loading of its entity, which begins now if it has not. Gives it back when `load_queue_max` questions wait
    /// already, or the entity is set aside. Commands are always queued: the log bounds them.
    pub(crate) fn wait(&mut self, cx: &mut Context, entity: &Entity, work: Work) -> Waited {
        let waiting = match self.slots.get_mut(entity) {
            Some(Slot::Loading { waiting, .. }) => waiting,
            Some(Slot::Returning(returning)) => &mut returning.waiting,
            Some(Slot::Aside(_)) => return Waited::Aside(work),
            Some(Slot::Ready { .. }) | None => {
                let slot = Slot::Loading { held: None, waiting: VecDeque::from([work]), failures: 0 };
                self.slots.insert(entity.clone(), slot);
                self.fetch(cx, Fetching::Entity(entity.clone()));
                return Waited::Queued;
            }
        };
        if waiting.len() >= cx.limits().load_queue_max && !matches!(work, Work::Apply(_)) {
            return Waited::Busy(work);
        }
        waiting.push_back(work);
        Waited::Queued
    }

    /// Begins to load an entity with which nothing is to be done yet, unless it is here or on its way.
    pub(super) fn load(&mut self, cx: &mut Context, entity: &Entity) {
        if !self.slots.contains_key(entity) {
            let slot = Slot::Loading { held: None, waiting: VecDeque::new(), failures: 0 };
            self.slots.insert(entity.clone(), slot);
            self.fetch(cx, Fetching::Entity(entity.clone()));
        }
    }

    /// Puts work back that could not be done because its entity is loading again.
    pub(crate) fn wait_more(&mut self, entity: &Entity, mut more: Waiting) {
        if let Some(Slot::Loading { waiting, .. }) = self.slots.get_mut(entity) {
            waiting.append(&mut more);
        }
    }

    pub(super) fn slot_aside(&mut self, entity: &Entity) -> Option<&mut Aside> {
        match self.slots.get_mut(entity)? {
            Slot::Aside(aside) => Some(aside),
            Slot::Ready { .. } | Slot::Loading { .. } | Slot::Returning(_) => None,
        }
    }

    pub(super) fn slot_returning(&mut self, entity: &Entity) -> Option<&mut Returning> {
        match self.slots.get_mut(entity)? {
            Slot::Returning(returning) => Some(returning),
            Slot::Ready { .. } | Slot::Loading { .. } | Slot::Aside(_) => None,
        }
    }

    /// Sets an entity aside that could not be read; what waited for it is given back, in order.
    pub(super) fn put_aside(&mut self, cx: &Context, entity: &Entity) -> Waiting {
        let (aside, waiting) = match self.slots.remove(entity) {
            Some(Slot::Loading { held, waiting, .. }) => (Aside::new(held), waiting),
            Some(Slot::Returning(returning)) => returning.put_aside(cx.config.run),
            Some(Slot::Aside(mut aside)) => {
                let waiting = aside.give_up();
                self.slots.insert(entity.clone(), Slot::Aside(aside));
                return waiting;
            }
            Some(Slot::Ready { .. }) | None => {
                debug_assert!(false, "only what is being read can turn out unreadable");
                return Waiting::new();
            }
        };
        self.slots.insert(entity.clone(), Slot::Aside(Box::new(aside)));
        waiting
    }

    /// What was kept is applied: the entity is in memory like any other.
    pub(super) fn admit(&mut self, cx: &mut Context, entity: &Entity) -> Option<(Vec<Kept>, EventsRead, Waiting)> {
        let Returning { held, kept, events, waiting, .. } = match self.slots.remove(entity)? {
            Slot::Returning(returning) => *returning,
            other @ (Slot::Ready { .. } | Slot::Loading { .. } | Slot::Aside(_)) => {
                self.slots.insert(entity.clone(), other);
                return None;
            }
        };
        self.slots.insert(entity.clone(), Slot::Ready { held, used: 0, size: 0 });
        self.touch(cx, entity);
        Some((kept, events, waiting))
    }

    /// Holds an entity back until an old event of it is loaded; `work` goes first then.
    pub(crate) fn fetch_event(&mut self, cx: &mut Context, entity: Entity, seq: Seq, work: Work) {
        let Some(Slot::Ready { held, used, size }) = self.slots.remove(&entity) else { return };
        self.used.remove(&used);
        self.size -= size;
        let slot = Slot::Loading { held: Some(held), waiting: VecDeque::from([work]), failures: 0 };
        self.slots.insert(entity.clone(), slot);
        self.fetch(cx, Fetching::Event(entity, seq));
    }

    /// Asks the view for a page of history.
    pub(crate) fn fetch_page(&mut self, cx: &mut Context, page: Page) {
        *self.reading.entry(Entity::Conversation(page.conversation)).or_default() += 1;
        self.fetch(cx, Fetching::Page(Box::new(page)));
    }

    /// Asks the view for the rules of a partition.
    pub(crate) fn fetch_rules(&mut self, cx: &mut Context, partition: PartitionId) {
        self.fetch(cx, Fetching::Rules(partition));
    }

    pub(super) fn fetch(&mut self, cx: &mut Context, fetching: Fetching) {
        let query = match &fetching {
            Fetching::Entity(entity) => {
                cx.counters.loads += 1;
                ViewQuery::Entity { entity: entity.clone(), recent: REMEMBERED }
            }
            Fetching::Event(Entity::Conversation(id), seq) => {
                ViewQuery::Events { conversation: *id, from: *seq, to: *seq, size_max: 1, order: Order::OldestFirst }
            }
            Fetching::Event(Entity::User(_) | Entity::Account(_) | Entity::Partition(_), _) => return,
            Fetching::Rules(partition) => {
                ViewQuery::Entity { entity: Entity::Partition(*partition), recent: Recent::last(0) }
            }
            Fetching::Window(conversation, _, (from, to)) => ViewQuery::Events {
                conversation: conversation.id,
                from: *from,
                to: *to,
                size_max: usize::MAX,
                order: Order::OldestFirst,
            },
            Fetching::Page(page) => ViewQuery::Events {
                conversation: page.conversation,
                from: page.from,
                to: page.to,
                size_max: PAGE_SIZE_MAX,
                order: page.order,
            },
        };
        self.next_ticket += 1;
        self.fetches.insert(self.next_ticket, fetching);
        cx.output(Output::View { ticket: self.next_ticket, query });
    }

    /// Takes an answer of the view.
    pub(crate) fn fetched(&mut self, cx: &mut Context, ticket: u64, reply: Result<ViewReply, ViewError>) -> Fetch {
        let Some(fetching) = self.fetches.remove(&ticket) else { return Fetch::Nothing };
        if let Fetching::Page(page) = &fetching {
            self.page_read(&Entity::Conversation(page.conversation));
        }
        let fetching = match (fetching, reply) {
            (Fetching::Page(page), Ok(ViewReply::Events(events))) => return Fetch::Page(page, Ok(events)),
            (Fetching::Page(page), Ok(ViewReply::Entity { .. })) => return Fetch::Page(page, Err(ViewError::Failed)),
            (Fetching::Page(page), Err(error)) => return Fetch::Page(page, Err(error)),
            (Fetching::Rules(partition), Ok(ViewReply::Entity { rows, .. })) => return Fetch::Rules(partition, rows),
            // Nothing of the partition can be applied without them.
            (fetching @ Fetching::Rules(_), _) => return self.fail(cx, fetching),
            (Fetching::Entity(entity), Ok(ViewReply::Entity { rows, events })) => {
                return match load(&entity, rows) {
                    Ok((State::Conversation(conversation), kept)) => {
                        self.fill(cx, conversation, kept, events, Fill::First)
                    }
                    Ok((state, kept)) => self.loaded(cx, entity, state, kept),
                    Err(_) => self.unreadable(cx, Fetching::Entity(entity), AsideCause::Damaged),
                };
            }
            (Fetching::Window(conversation, kept, _), Ok(ViewReply::Events(events))) => {
                return self.fill(cx, conversation, kept, events, Fill::Last);
            }
            // Read again from the beginning: the rows may be others by then.
            (Fetching::Window(conversation, ..), reply) => {
                let damaged = reply.is_err_and(|error| error == ViewError::Damaged);
                let fetching = Fetching::Entity(Entity::Conversation(conversation.id));
                if damaged {
                    return self.unreadable(cx, fetching, AsideCause::Damaged);
                }
                fetching
            }
            (Fetching::Event(entity, seq), Ok(ViewReply::Events(events))) => {
                let head = self.head_of(&entity);
                let event = events.into_iter().next().map(|frame| Remembered::read(frame, Position::ZERO, head));
                return match event {
                    Some(Ok(event)) if event.head.seq == seq => self.event_arrived(cx, entity, event),
                    Some(_) | None => self.unreadable(cx, Fetching::Event(entity, seq), AsideCause::Event),
                };
            }
            (fetching @ Fetching::Event(..), Err(ViewError::Damaged)) => {
                return self.unreadable(cx, fetching, AsideCause::Event);
            }
            (fetching, Err(ViewError::Damaged)) => return self.unreadable(cx, fetching, AsideCause::Damaged),
            (fetching, Err(ViewError::Busy)) if !self.is_looked_at(&fetching) => return self.fail(cx, fetching),
            (fetching, _) => fetching,
        };
        let (Fetching::Entity(entity) | Fetching::Event(entity, _)) = &fetching else { return Fetch::Nothing };
        let cause = if matches!(fetching, Fetching::Event(..)) { AsideCause::Event } else { AsideCause::Failing };
        let last = match self.slots.get_mut(entity) {
            Some(Slot::Loading { failures, .. }) => {
                *failures += 1;
                *failures >= FAILURES_MAX
            }
            // It is being looked whether it can be read again: it cannot.
            Some(Slot::Aside(_) | Slot::Returning(_)) => true,
            Some(Slot::Ready { .. }) | None => return Fetch::Nothing,
        };
        if last { self.unreadable(cx, fetching, cause) } else { self.fail(cx, fetching) }
    }

    /// Whether it is only asked for to see whether it can be read again.
    fn is_looked_at(&self, fetching: &Fetching) -> bool {
        matches!(fetching, Fetching::Entity(entity) if matches!(self.slots.get(entity), Some(Slot::Aside(_))))
    }

    /// Gives an entity up, unless there are so many that it must be the store.
    fn unreadable(&mut self, cx: &mut Context, fetching: Fetching, cause: AsideCause) -> Fetch {
        match fetching {
            Fetching::Entity(entity) | Fetching::Event(entity, _)
                if self.away.contains(&entity) || self.away.len() < cx.limits().aside_max =>
            {
                Fetch::Unreadable(entity, cause)
            }
            fetching @ (Fetching::Entity(_)
            | Fetching::Event(..)
            | Fetching::Page(_)
            | Fetching::Window(..)
            | Fetching::Rules(_)) => self.fail(cx, fetching),
        }
    }

    /// Takes events for a conversation whose rows are here. The newest ones of the view may all be ahead of it: then it is asked once more.
    fn fill(
        &mut self,
        cx: &mut Context,
        mut conversation: Box<Conversation>,
        kept: Vec<Kept>,
        events: Vec<Bytes>,
        fill: Fill,
    ) -> Fetch {
        let entity = Entity::Conversation(conversation.id);
        let believe = !cx.config.has(Sabotage::AheadEvents);
        match (conversation.remember(events, believe), fill) {
            (Ok(None), _) => self.loaded(cx, entity, State::Conversation(conversation), kept),
            (Ok(Some(range)), Fill::First) => {
                self.fetch(cx, Fetching::Window(conversation, kept, range));
                Fetch::Nothing
            }
            (Ok(Some(_)), Fill::Last) | (Err(_), _) => {
                self.unreadable(cx, Fetching::Entity(entity), AsideCause::Damaged)
            }
        }
    }

    /// An entity was read, and it makes sense.
    fn loaded(&mut self, cx: &mut Context, entity: Entity, state: State, kept: Vec<Kept>) -> Fetch {
        let waiting = match self.slots.remove(&entity) {
            Some(Slot::Loading { waiting, .. }) => waiting,
            Some(Slot::Aside(mut aside)) => aside.give_up(),
            Some(Slot::Ready { .. } | Slot::Returning(_)) | None => return Fetch::Nothing,
        };
        let loaded = state.position();
        let held = Held { state, loaded };
        if kept.is_empty() || !cx.config.has(Sabotage::KeptCommands) {
            return self.ready(cx, entity, held, waiting, None);
        }
        self.slots.insert(entity.clone(), Slot::Returning(Box::new(Returning::new(held, kept, waiting))));
        Fetch::Returning(entity)
    }

    /// The head of a conversation that waits for an old event.
    fn head_of(&self, entity: &Entity) -> Seq {
        let held = match self.slots.get(entity) {
            Some(Slot::Loading { held, .. }) => held.as_ref(),
            Some(Slot::Returning(returning)) => Some(&returning.held),
            Some(Slot::Ready { .. } | Slot::Aside(_)) | None => None,
        };
        match held.map(|held| &held.state) {
            Some(State::Conversation(conversation)) => conversation.head,
            Some(State::User(_) | State::Account(_)) | None => Seq::ZERO,
        }
    }

    fn page_read(&mut self, entity: &Entity) {
        let Some(count) = self.reading.get_mut(entity) else { return };
        *count -= 1;
        if *count == 0 {
            self.reading.remove(entity);
        }
    }

    /// An old event was read.
    fn event_arrived(&mut self, cx: &mut Context, entity: Entity, event: Remembered) -> Fetch {
        match self.slots.remove(&entity) {
            Some(Slot::Loading { held: Some(held), waiting, .. }) => self.ready(cx, entity, held, waiting, Some(event)),
            Some(Slot::Returning(mut returning)) => {
                returning.take_event(event);
                self.slots.insert(entity.clone(), Slot::Returning(returning));
                Fetch::Returning(entity)
            }
            Some(other) => {
                self.slots.insert(entity, other);
                Fetch::Nothing
            }
            None => Fetch::Nothing,
        }
    }

    fn ready(
        &mut self,
        cx: &mut Context,
        entity: Entity,
        held: Held,
        waiting: Waiting,
        event: Option<Remembered>,
    ) -> Fetch {
        self.slots.insert(entity.clone(), Slot::Ready { held, used: 0, size: 0 });
        self.touch(cx, &entity);
        Fetch::Ready(entity, waiting, event)
    }

    fn fail(&mut self, cx: &mut Context, fetching: Fetching) -> Fetch {
        cx.counters.load_failures += 1;
        if self.failed.is_empty() {
            let at = cx.now.after(RETRY);
            cx.wake(at, Timer::RetryLoads);
        }
        self.failed.push(fetching);
        Fetch::Nothing
    }

    /// Asks again what the view could not answer.
    pub(crate) fn retry(&mut self, cx: &mut Context) {
        for fetching in std::mem::take(&mut self.failed) {
            self.fetch(cx, fetching);
        }
    }

    /// Notes that an entity was used, and how large it is now.
    pub(crate) fn touch(&mut self, cx: &mut Context, entity: &Entity) {
        let Some(Slot::Ready { held, used, size }) = self.slots.get_mut(entity) else { return };
        let new = held.state.size();
        self.size = self.size - *size + new;
        *size = new;
        if *used == 0 || *used != self.next_use {
            self.used.remove(used);
            self.next_use += 1;
            *used = self.next_use;
            self.used.insert(*used, entity.clone());
        }
        cx.counters.cache_size = self.size as u64;
    }

    /// Drops the least recently used entities while there are too many bytes of them. One whose rows the view may lack, or of which a page is
    /// being read, stays, and goes to the young end of the list: however many of those there are, the others are reached.
    pub(crate) fn evict(&mut self, cx: &mut Context, stored: impl Fn(&Entity) -> Position) {
        for _ in 0..EVICT_TRIES {
            if self.size <= cx.limits().cache_size_max {
                break;
            }
            let Some((_, entity)) = self.used.pop_first() else { break };
            let Some(Slot::Ready { held, used, size }) = self.slots.get_mut(&entity) else { continue };
            if !self.reading.contains_key(&entity) && held.is_stored(stored(&entity)) {
                self.size -= *size;
                self.slots.remove(&entity);
                cx.counters.evictions += 1;
            } else {
                self.next_use += 1;
                *used = self.next_use;
                self.used.insert(*used, entity);
            }
        }
        cx.counters.cache_size = self.size as u64;
    }
}

/// Old events that kept commands need, as the view has them.
pub(super) type EventsRead = BTreeMap<Seq, Remembered>;

impl State {
    fn size(&self) -> usize {
        match self {
            Self::Conversation(conversation) => conversation.size(),
            Self::User(user) => user.size(),
            Self::Account(_) => 512,
        }
    }

    /// Last command applied.
    pub(super) fn position(&self) -> Position {
        match self {
            Self::Conversation(conversation) => conversation.position,
            Self::User(user) => user.position(),
            Self::Account(account) => Position::from_raw(account.row.position),
        }
    }
}

fn load(entity: &Entity, rows: Vec<(Bytes, Bytes)>) -> Result<(State, Vec<Kept>), FrameError> {
    let (rows, kept) = split_kept(entity, rows)?;
    let state = match entity {
        Entity::Conversation(id) => State::Conversation(Box::new(Conversation::load(*id, &rows)?)),
        Entity::User(id) => State::User(Box::new(User::load(*id, &rows)?)),
        Entity::Account(name) => State::Account(Box::new(Account::load(name.clone(), &rows)?)),
        // Read with `Fetching::Rules`: no command is for a partition as an entity.
        Entity::Partition(_) => return Err(FrameError::Archive),
    };
    Ok((state, kept))
}
