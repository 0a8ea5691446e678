//! The entities in memory: loaded from the view when first needed, dropped when long unused and safely stored.
//! While one is loaded its work queues here, in order; everybody else's goes on. Never drops what the view does not have.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tern_protocol::frame::FrameError;
use tern_protocol::limit::PAGE_SIZE_MAX;
use tern_protocol::stored::Entity;
use tern_protocol::{PartitionId, Position, Seq};

use super::questions::Page;
use super::{Waiting, Work};
use crate::account::Account;
use crate::config::Sabotage;
use crate::context::{Context, Timer};
use crate::conversation::{Conversation, REMEMBERED, Remembered};
use crate::io::{Order, Output, Recent, ViewError, ViewQuery, ViewReply};
use crate::user::User;

/// Entities, and the questions to the view that are under way.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    slots: BTreeMap<Entity, Slot>,
    /// Least recently used first.
    used: BTreeMap<u64, Entity>,
    fetches: BTreeMap<u64, Fetching>,
    /// Fetches that failed, to be tried again.
    failed: Vec<Fetching>,
    next_ticket: u64,
    next_use: u64,
    size: usize,
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
struct Held {
    state: State,
    loaded: Position,
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
    },
}

#[derive(Debug)]
enum Fetching {
    Entity(Entity),
    Event(Entity, Seq),
    /// The newest events up to the head of a conversation whose rows are here.
    Window(Box<Conversation>, Seq, Seq),
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
    /// A page of history.
    Page(Box<Page>, Result<Vec<Bytes>, ViewError>),
    /// The rows of a partition's rules.
    Rules(PartitionId, Vec<(Bytes, Bytes)>),
}

/// How long a failed question to the view waits before it is asked again.
const RETRY: Duration = Duration::from_millis(100);
/// Entities looked at per eviction, so that one input's work is bounded. Unit: entities.
const EVICT_TRIES: usize = 16;

impl Cache {
    pub(crate) fn is_ready(&self, entity: &Entity) -> bool {
        matches!(self.slots.get(entity), Some(Slot::Ready { .. }))
    }

    pub(crate) fn state(&self, entity: &Entity) -> Option<&State> {
        match self.slots.get(entity)? {
            Slot::Ready { held, .. } => Some(&held.state),
            Slot::Loading { .. } => None,
        }
    }

    pub(crate) fn state_mut(&mut self, entity: &Entity) -> Option<&mut State> {
        match self.slots.get_mut(entity)? {
            Slot::Ready { held, .. } => Some(&mut held.state),
            Slot::Loading { .. } => None,
        }
    }

    /// Queues work behind the loading of its entity, which begins now if it has not.
    ///
    /// # Errors
    /// The work, when `load_queue_max` questions wait already. Commands are always queued: the log bounds them.
    pub(crate) fn wait(&mut self, cx: &mut Context, entity: &Entity, work: Work) -> Result<(), Work> {
        if let Some(Slot::Loading { waiting, .. }) = self.slots.get_mut(entity) {
            if waiting.len() >= cx.limits().load_queue_max && !matches!(work, Work::Apply(_)) {
                return Err(work);
            }
            waiting.push_back(work);
            return Ok(());
        }
        self.slots.insert(entity.clone(), Slot::Loading { held: None, waiting: VecDeque::from([work]) });
        self.fetch(cx, Fetching::Entity(entity.clone()));
        Ok(())
    }

    /// Puts work back that could not be done because its entity is loading again.
    pub(crate) fn wait_more(&mut self, entity: &Entity, mut more: Waiting) {
        if let Some(Slot::Loading { waiting, .. }) = self.slots.get_mut(entity) {
            waiting.append(&mut more);
        }
    }

    /// Sets an entity aside until an old event of it is loaded; `work` goes first then.
    pub(crate) fn fetch_event(&mut self, cx: &mut Context, entity: Entity, seq: Seq, work: Work) {
        let Some(Slot::Ready { held, used, size }) = self.slots.remove(&entity) else { return };
        self.used.remove(&used);
        self.size -= size;
        self.slots.insert(entity.clone(), Slot::Loading { held: Some(held), waiting: VecDeque::from([work]) });
        self.fetch(cx, Fetching::Event(entity, seq));
    }

    /// Asks the view for a page of history.
    pub(crate) fn fetch_page(&mut self, cx: &mut Context, page: Page) {
        self.fetch(cx, Fetching::Page(Box::new(page)));
    }

    /// Asks the view for the rules of a partition.
    pub(crate) fn fetch_rules(&mut self, cx: &mut Context, partition: PartitionId) {
        self.fetch(cx, Fetching::Rules(partition));
    }

    fn fetch(&mut self, cx: &mut Context, fetching: Fetching) {
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
            Fetching::Window(conversation, from, to) => ViewQuery::Events {
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
        match (fetching, reply) {
            (Fetching::Page(page), Ok(ViewReply::Events(events))) => Fetch::Page(page, Ok(events)),
            (Fetching::Page(page), Ok(ViewReply::Entity { .. })) => Fetch::Page(page, Err(ViewError::Failed)),
            (Fetching::Page(page), Err(error)) => Fetch::Page(page, Err(error)),
            (Fetching::Rules(partition), Ok(ViewReply::Entity { rows, .. })) => Fetch::Rules(partition, rows),
            (Fetching::Entity(entity), Ok(ViewReply::Entity { rows, events })) => match load(&entity, &rows) {
                Ok(State::Conversation(conversation)) => self.fill(cx, conversation, events, Fill::First),
                Ok(state) => self.loaded(cx, entity, state),
                Err(_) => self.fail(cx, Fetching::Entity(entity)),
            },
            (Fetching::Window(conversation, ..), Ok(ViewReply::Events(events))) => {
                self.fill(cx, conversation, events, Fill::Last)
            }
            (Fetching::Event(entity, seq), Ok(ViewReply::Events(events))) => {
                let head = self.head_of(&entity);
                let event = events.into_iter().next().map(|frame| Remembered::read(frame, Position::ZERO, head));
                match (event, self.slots.get_mut(&entity)) {
                    (Some(Ok(event)), Some(Slot::Loading { held, .. })) if event.head.seq == seq => match held.take() {
                        Some(held) => self.ready(cx, entity, held, Some(event)),
                        None => Fetch::Nothing,
                    },
                    _ => self.fail(cx, Fetching::Event(entity, seq)),
                }
            }
            (fetching, _) => self.fail(cx, fetching),
        }
    }

    /// Takes events for a conversation whose rows are here. The newest ones of the view may all be ahead of it: then it is asked once more.
    fn fill(&mut self, cx: &mut Context, mut conversation: Box<Conversation>, events: Vec<Bytes>, fill: Fill) -> Fetch {
        let entity = Entity::Conversation(conversation.id);
        let believe = !cx.config.has(Sabotage::AheadEvents);
        match (conversation.remember(events, believe), fill) {
            (Ok(None), _) => self.loaded(cx, entity, State::Conversation(conversation)),
            (Ok(Some((from, to))), Fill::First) => {
                self.fetch(cx, Fetching::Window(conversation, from, to));
                Fetch::Nothing
            }
            (Ok(Some(_)), Fill::Last) | (Err(_), _) => self.fail(cx, Fetching::Entity(entity)),
        }
    }

    fn loaded(&mut self, cx: &mut Context, entity: Entity, state: State) -> Fetch {
        let loaded = state.position();
        self.ready(cx, entity, Held { state, loaded }, None)
    }

    /// The head of a conversation that waits for an old event.
    fn head_of(&self, entity: &Entity) -> Seq {
        match self.slots.get(entity) {
            Some(Slot::Loading { held: Some(Held { state: State::Conversation(conversation), .. }), .. }) => {
                conversation.head
            }
            _ => Seq::ZERO,
        }
    }

    fn ready(&mut self, cx: &mut Context, entity: Entity, held: Held, event: Option<Remembered>) -> Fetch {
        let Some(Slot::Loading { waiting, .. }) = self.slots.remove(&entity) else { return Fetch::Nothing };
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

    /// Drops the least recently used entities while there are too many bytes of them. One whose rows the view may lack stays, and goes
    /// to the young end of the list: however many of those there are, the others are reached.
    pub(crate) fn evict(&mut self, cx: &mut Context, stored: impl Fn(&Entity) -> Position) {
        for _ in 0..EVICT_TRIES {
            if self.size <= cx.limits().cache_size_max {
                break;
            }
            let Some((_, entity)) = self.used.pop_first() else { break };
            let Some(Slot::Ready { held, used, size }) = self.slots.get_mut(&entity) else { continue };
            if held.state.position() <= held.loaded.max(stored(&entity)) {
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

impl State {
    fn size(&self) -> usize {
        match self {
            Self::Conversation(conversation) => conversation.size(),
            Self::User(user) => user.size(),
            Self::Account(_) => 512,
        }
    }

    /// Last command applied.
    fn position(&self) -> Position {
        match self {
            Self::Conversation(conversation) => conversation.position,
            Self::User(user) => user.position(),
            Self::Account(account) => Position::from_raw(account.row.position),
        }
    }
}

fn load(entity: &Entity, rows: &[(Bytes, Bytes)]) -> Result<State, FrameError> {
    Ok(match entity {
        Entity::Conversation(id) => State::Conversation(Box::new(Conversation::load(*id, rows)?)),
        Entity::User(id) => State::User(Box::new(User::load(*id, rows)?)),
        Entity::Account(name) => State::Account(Box::new(Account::load(name.clone(), rows)?)),
        // Read with `Fetching::Rules`: no command is for a partition as an entity.
        Entity::Partition(_) => return Err(FrameError::Archive),
    })
}
