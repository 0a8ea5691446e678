//! The owner half of a shard: applies its partitions' logs and answers for the entities in them.
//! Knows sessions only as places to send to; never waits: what is not in memory is asked for, and its commands queue meanwhile.

mod aside;
mod cache;
mod online;
mod partition;
mod questions;
mod requests;
mod rules;

use std::collections::{BTreeMap, VecDeque};

use tern_protocol::command::CommandHead;
use tern_protocol::frame::{self, Frame, Kind};
use tern_protocol::stored::Entity;
use tern_protocol::{ConversationId, PartitionId, Position, RequestId, Seq, SessionId, ShardId, UserId, client};

use crate::config::Sabotage;
use crate::context::{Context, Timer};
use crate::conversation::{Answer, At, Conversation, Effects, Emission, Remembered};
use crate::io::{AppendFailure, Ending, Logged, Output, Record, Reply, Request, Row, ViewError, ViewReply};
use crate::message::{Audience, Place, ToOwner, ToSessions};
use crate::rules::Rules;
pub(crate) use aside::RETRY_MS as ASIDE_RETRY_MS;
use cache::{Cache, Fetch, State, Waited};
use online::Online;
use partition::Partition;
use rules::Addressee;

/// Everything that this shard owns.
#[derive(Debug)]
pub(crate) struct Owner {
    partitions: BTreeMap<PartitionId, Partition>,
    cache: Cache,
    /// Shards with sessions that are subscribed, one bit each. Kept apart from the conversation: it outlives its stay in memory.
    watchers: BTreeMap<ConversationId, u64>,
    online: Online,
    /// Commands of this owner that the log refused, to be tried again.
    refused: Vec<(PartitionId, Record)>,
    caught_up: bool,
    /// The entity that was looked at last of those that are set aside.
    aside_last: Option<Entity>,
    /// The shard wakes to look at them.
    aside_wakes: bool,
}

/// Who is answered when a command is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Whoever asked.
    Asker,
    /// Nobody: it was kept, and whoever asked was told so.
    Nobody,
}

/// What applying a command leaves to be stored.
#[derive(Debug, Default)]
struct Performed {
    rows: Vec<Row>,
    emissions: Vec<Emission>,
    reply: Option<(CommandHead, Reply)>,
}

/// Something to be done with one entity, once it is in memory.
#[derive(Debug)]
pub(crate) enum Work {
    /// A durable command.
    Apply(Logged),
    /// A question from a session's shard.
    Ask(ToOwner),
    /// A question from the HTTP API.
    Request(u64, Request),
}

impl Owner {
    pub(crate) fn new(cx: &Context) -> Self {
        let placement = cx.config.placement;
        let owned =
            (0..placement.partitions()).map(PartitionId::from_raw).filter(|p| placement.shard(*p) == cx.shard());
        Self {
            partitions: owned.map(|partition| (partition, Partition::default())).collect(),
            cache: Cache::default(),
            watchers: BTreeMap::new(),
            online: Online::default(),
            refused: Vec::new(),
            caught_up: false,
            aside_last: None,
            aside_wakes: false,
        }
    }

    /// Whether everything that was durable before this run is applied, and what comes next is applied under the configured rules.
    pub(crate) fn is_caught_up(&self, cx: &Context) -> bool {
        let wanted = Rules::wanted(cx.limits());
        self.caught_up && self.partitions.values().all(|partition| partition.is_applied() && partition.has(wanted))
    }

    pub(crate) fn on_caught_up(&mut self, cx: &mut Context) {
        self.caught_up = true;
        let owned: Vec<PartitionId> = self.partitions.keys().copied().collect();
        for id in owned {
            self.ask_rules(cx, id);
            self.set_rules(cx, id);
        }
    }

    /// A durable command: notes that it must be applied, and applies it if its entity is in memory.
    pub(crate) fn on_logged(&mut self, cx: &mut Context, logged: Logged) {
        let head = logged.record.head;
        if head.cause_position != 0 {
            let partition = PartitionId::from_raw(head.cause_partition);
            let position = Position::from_raw(head.cause_position);
            cx.ask(partition, ToOwner::EmissionLogged { partition, position, index: head.cause_index });
        }
        let id = logged.partition;
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        match partition.wait(logged) {
            Ok(()) => {
                cx.counters.waiting += 1;
                self.ask_rules(cx, id);
            }
            Err(logged) => self.take_up(cx, logged),
        }
    }

    /// A durable command of a partition whose rules are known.
    fn take_up(&mut self, cx: &mut Context, logged: Logged) {
        let Some(partition) = self.partitions.get_mut(&logged.partition) else { return };
        if !partition.expect(logged.position) {
            return;
        }
        cx.counters.waiting += 1;
        match rules::addressee(logged.position, &logged.record) {
            Ok(Addressee::Entity(entity)) => self.work(cx, entity, Work::Apply(logged)),
            Ok(Addressee::Partition(rules)) => self.rules_logged(cx, &logged, rules),
            Ok(Addressee::Nobody) => {
                cx.counters.malformed += 1;
                self.applied(cx, &logged, Vec::new(), Vec::new(), None);
            }
            Err(reason) => self.stop(cx, logged.partition, reason),
        }
    }

    pub(crate) fn on_stored(&mut self, cx: &mut Context, partition: PartitionId, position: Position) {
        if let Some(partition) = self.partitions.get_mut(&partition) {
            partition.stored = partition.stored.max(position);
        }
        self.evict(cx);
    }

    pub(crate) fn on_message(&mut self, cx: &mut Context, message: ToOwner) {
        let placement = cx.config.placement;
        let entity = match &message {
            ToOwner::EmissionLogged { partition, position, index } => {
                if let Some(owned) = self.partitions.get_mut(partition) {
                    owned.emission_logged(*position, *index);
                }
                return self.release(cx, *partition);
            }
            ToOwner::EndSession { user, place, ending } => return self.end_session(cx, *user, *place, *ending),
            ToOwner::WatchPresence { user, shard } => return self.online.watch(cx, *user, *shard),
            ToOwner::UnwatchPresence { user, shard } => return self.online.unwatch(*user, *shard),
            ToOwner::Unwatch { shard, conversation } => return self.unwatch(*shard, *conversation),
            ToOwner::Typing { conversation, .. } | ToOwner::Delivered { conversation, .. } => {
                // Not worth a load: whoever is not in memory has nobody who watches.
                let entity = Entity::Conversation(*conversation);
                if self.cache.is_ready(&entity) {
                    self.work(cx, entity, Work::Ask(message));
                }
                return;
            }
            ToOwner::OpenSession { user, .. } | ToOwner::FindUser { user, .. } => Entity::User(*user),
            ToOwner::FindName { name, .. } => Entity::Account(name.clone()),
            ToOwner::Watch { conversation, .. }
            | ToOwner::History { conversation, .. }
            | ToOwner::FindMember { conversation, .. }
            | ToOwner::Members { conversation, .. } => Entity::Conversation(*conversation),
        };
        debug_assert!(self.partitions.contains_key(&partition_of(placement, &entity)), "asked the wrong owner");
        self.work(cx, entity, Work::Ask(message));
    }

    /// A session has ended: the newer one of its device that waited for that may open.
    fn end_session(&mut self, cx: &mut Context, user: UserId, place: Place, ending: Ending) {
        if let Some((device, place)) = self.online.end(cx, user, place, ending) {
            let open = ToOwner::OpenSession { user, device, place, waited: true };
            self.work(cx, Entity::User(user), Work::Ask(open));
        }
    }

    /// Does something with an entity: now, or when it is in memory.
    fn work(&mut self, cx: &mut Context, entity: Entity, work: Work) {
        if self.cache.is_ready(&entity) {
            self.run(cx, entity, work, None);
            return;
        }
        match self.cache.wait(cx, &entity, work) {
            Waited::Queued => self.go_on_returning(cx, &entity),
            Waited::Busy(work) => self.overloaded(cx, work),
            Waited::Aside(work) => self.work_aside(cx, &entity, work),
        }
    }

    /// Does something with an entity that is in memory.
    fn run(&mut self, cx: &mut Context, entity: Entity, work: Work, event: Option<Remembered>) {
        if let Work::Apply(logged) = &work
            && let Some(State::Conversation(conversation)) = self.cache.state_mut(&entity)
        {
            if let Some(event) = event {
                conversation.fetched(event);
            }
            if let Some(seq) = conversation.needs(logged.time, &logged.record.head, &logged.record.frame) {
                self.cache.fetch_event(cx, entity, seq, work);
                return;
            }
        }
        match work {
            Work::Apply(logged) => self.apply(cx, &entity, &logged),
            Work::Ask(question) => self.answer_question(cx, &entity, question),
            Work::Request(ticket, request) => self.answer_request(cx, &entity, ticket, request),
        }
        self.cache.touch(cx, &entity);
    }

    fn apply(&mut self, cx: &mut Context, entity: &Entity, logged: &Logged) {
        let done = self.perform(cx, entity, logged, logged.position, Told::Asker);
        self.applied(cx, logged, done.rows, done.emissions, done.reply);
    }

    /// Applies a command, and tells everybody who must know; its rows leave with those of `carrier`.
    fn perform(
        &mut self,
        cx: &mut Context,
        entity: &Entity,
        logged: &Logged,
        carrier: Position,
        told: Told,
    ) -> Performed {
        cx.counters.commands += 1;
        let Some(partition) = self.partitions.get(&logged.partition) else { return Performed::default() };
        let (record, config) = (&logged.record, &cx.config);
        let rules = if config.has(Sabotage::Rules) {
            partition.rules_at(logged.position)
        } else {
            Rules::wanted(&config.limits)
        };
        let (position, time, stored) = (logged.position, logged.time, partition.stored);
        let heard = Seq::from_raw(record.head.heard);
        let at = At { position, time, carrier, heard, stored, rules, config };
        match self.cache.state_mut(entity) {
            Some(State::Conversation(conversation)) => {
                let mut effects = conversation.apply(at, &record.head, &record.frame);
                let id = conversation.id;
                let many = conversation.members.len() > config.limits.receipts_members_max as usize;
                let audience = if many { Audience::Own } else { Audience::Members };
                let receipt = effects.receipt.and_then(|user| receipt(conversation, user, audience));
                if told == Told::Nobody {
                    effects.answer = None;
                }
                self.conversation_applied(cx, id, &record.head, effects, receipt)
            }
            Some(State::User(user)) => {
                let effects = user.apply(at, &record.frame);
                let (id, user_seq) = (user.id, user.row.user_seq);
                for device in effects.closed {
                    self.online.close_device(cx, id, device);
                }
                if let Some((conversation, joined)) = effects.directory {
                    self.online.tell_directory(cx, id, user_seq, conversation, joined);
                }
                if let Some(reply) = effects.reply.filter(|_| told == Told::Asker) {
                    reply_to(cx, &record.head, reply);
                }
                Performed { rows: effects.rows, emissions: effects.emissions, reply: None }
            }
            Some(State::Account(account)) => {
                let effects = account.apply(at, logged.partition, &record.frame);
                // Told when the user's own log has it: whoever logs in next must find the user.
                let reply = effects.reply.filter(|_| told == Told::Asker).map(|reply| (record.head, reply));
                Performed { rows: effects.rows, emissions: effects.emissions, reply }
            }
            None => {
                debug_assert!(false, "only entities in memory are applied to");
                Performed::default()
            }
        }
    }

    fn conversation_applied(
        &mut self,
        cx: &mut Context,
        id: ConversationId,
        head: &CommandHead,
        effects: Effects,
        receipt: Option<ToSessions>,
    ) -> Performed {
        let mut watchers = self.watchers.get(&id).copied().unwrap_or(0);
        if !cx.config.has(Sabotage::OnlineIndex) {
            watchers = u64::MAX >> (64 - u32::from(cx.config.placement.shards()));
        }
        for (event, frame) in effects.events {
            cx.counters.events += 1;
            for shard in shards_in(watchers) {
                cx.tell(shard, ToSessions::Deliver { conversation: id, event, frame: frame.clone() });
            }
        }
        if let Some(ToSessions::Receipt { conversation, user, read, read_visible, delivered, audience }) = receipt {
            for shard in shards_in(watchers) {
                cx.tell(shard, ToSessions::Receipt { conversation, user, read, read_visible, delivered, audience });
            }
        }
        if let Some(answer) = &effects.answer {
            cx.counters.group_full += u64::from(answer.is_full());
            if head.run == cx.config.run && head.session != 0 && head.actor != 0 {
                let joined = matches!(answer, Answer::Done { joined: true, .. }).then_some(id);
                let session = SessionId::from_raw(head.session);
                let answer = ToSessions::Answer { session, frame: answer.frame(id), command: true, joined };
                cx.tell(ShardId::from_raw(head.shard), answer);
            }
        }
        Performed { rows: effects.rows, emissions: effects.emissions, reply: None }
    }

    /// A command is applied: its emissions go out, and its rows go to the view when those are durable.
    fn applied(
        &mut self,
        cx: &mut Context,
        logged: &Logged,
        rows: Vec<Row>,
        emissions: Vec<Emission>,
        reply: Option<(CommandHead, Reply)>,
    ) {
        cx.counters.waiting -= 1;
        let Some(partition) = self.partitions.get_mut(&logged.partition) else { return };
        let mut carried = partition.take_carried(logged.position).unwrap_or_default();
        carried.add(logged.position, rows, emissions);
        let emitted = carried.emissions.iter().map(|(cause, index, _)| (*cause, *index));
        let emitted = emitted.filter(|_| cx.config.has(Sabotage::EmissionHold));
        partition.applied(logged.position, carried.rows, emitted, reply);
        for (cause, index, emission) in carried.emissions {
            let head = CommandHead {
                run: cx.config.run,
                cause_position: cause.raw(),
                cause_index: index,
                cause_partition: logged.partition.raw(),
                shard: cx.shard().raw(),
                ..CommandHead::default()
            };
            let partition = emission.to.partition(cx.config.placement);
            cx.append(partition, head, emission.frame);
        }
        self.release(cx, logged.partition);
    }

    /// Gives the view what it may have: rows in order, none before everything it caused is durable.
    fn release(&mut self, cx: &mut Context, id: PartitionId) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        while let Some(done) = partition.pop_complete() {
            cx.output(Output::Store { partition: id, position: done.position, rows: done.rows });
            if let Some((head, reply)) = done.reply {
                reply_to(cx, &head, reply);
            }
        }
    }

    /// The log refused a command of this owner: it must get there, so it is tried again.
    pub(crate) fn emission_failed(&mut self, cx: &mut Context, partition: PartitionId, record: Record) {
        if self.refused.is_empty() {
            let at = cx.now.after(EMISSION_RETRY);
            cx.wake(at, Timer::RetryEmissions);
        }
        self.refused.push((partition, record));
    }

    pub(crate) fn retry_emissions(&mut self, cx: &mut Context) {
        for (partition, record) in std::mem::take(&mut self.refused) {
            cx.counters.emission_retries += 1;
            cx.output(Output::Append { partition, record });
        }
    }

    pub(crate) fn retry_loads(&mut self, cx: &mut Context) {
        self.cache.retry(cx);
    }

    pub(crate) fn on_grace_over(&mut self, cx: &mut Context, user: UserId) {
        self.online.grace_over(cx, user);
    }

    pub(crate) fn flush_presence(&mut self, cx: &mut Context) {
        self.online.flush(cx);
    }

    /// The view answered: an entity is in memory, or an event, or a page of history.
    pub(crate) fn on_viewed(&mut self, cx: &mut Context, ticket: u64, reply: Result<ViewReply, ViewError>) {
        match self.cache.fetched(cx, ticket, reply) {
            Fetch::Nothing => {}
            Fetch::Page(page, events) => self.page_loaded(cx, &page, events),
            Fetch::Rules(partition, rows) => self.rules_loaded(cx, partition, &rows),
            Fetch::Ready(entity, waiting, event) => {
                self.note_back(cx, &entity);
                self.run_all(cx, &entity, waiting, event);
            }
            Fetch::Returning(entity) => self.go_on_returning(cx, &entity),
            Fetch::Unreadable(entity, cause) => self.set_aside(cx, &entity, cause),
        }
        self.evict(cx);
    }

    /// Does what waited for an entity, in order, as far as it can be done at once.
    fn run_all(&mut self, cx: &mut Context, entity: &Entity, mut waiting: Waiting, mut event: Option<Remembered>) {
        while let Some(work) = waiting.pop_front() {
            if self.cache.is_ready(entity) {
                self.run(cx, entity.clone(), work, event.take());
            } else {
                waiting.push_front(work);
                return self.cache.wait_more(entity, waiting);
            }
        }
    }

    fn evict(&mut self, cx: &mut Context) {
        let partitions = &self.partitions;
        let placement = cx.config.placement;
        self.cache.evict(cx, |entity| {
            partitions.get(&partition_of(placement, entity)).map_or(Position::ZERO, |partition| partition.stored)
        });
    }

    /// An entity's queue is full: whoever asked is told, nothing that is in the log is dropped.
    fn overloaded(&mut self, cx: &mut Context, work: Work) {
        cx.counters.busy += 1;
        match work {
            Work::Apply(_) => debug_assert!(false, "commands are always queued"),
            Work::Request(ticket, _) => {
                cx.output(Output::Reply { ticket, reply: Reply::Unavailable(AppendFailure::Busy) });
            }
            Work::Ask(question) => questions::refuse(cx, question),
        }
    }

    fn unwatch(&mut self, shard: ShardId, conversation: ConversationId) {
        if let Some(bits) = self.watchers.get_mut(&conversation) {
            *bits &= !bit(shard);
            if *bits == 0 {
                self.watchers.remove(&conversation);
            }
        }
    }
}

/// How long an emitted command waits before it is tried again.
const EMISSION_RETRY: std::time::Duration = std::time::Duration::from_millis(50);

/// Answers the HTTP request that a command came from, if it came from one of this run.
fn reply_to(cx: &mut Context, head: &CommandHead, reply: Reply) {
    if head.run == cx.config.run && head.session != 0 && head.actor == 0 && head.cause_position == 0 {
        cx.output(Output::Reply { ticket: head.session, reply });
    }
}

fn receipt(conversation: &Conversation, user: UserId, audience: Audience) -> Option<ToSessions> {
    let member = conversation.members.get(&user)?;
    Some(ToSessions::Receipt {
        conversation: conversation.id,
        user,
        read: Seq::from_raw(member.row.read),
        read_visible: member.row.read_visible,
        delivered: member.delivered,
        audience,
    })
}

/// The conversation and the request id of a client's command.
pub(crate) fn ids_of_frame(actor: UserId, kind: Kind, archive: &[u8]) -> Option<(ConversationId, RequestId)> {
    macro_rules! ids {
        ($frame:ty) => {{
            let f = frame::decode_archive::<$frame>(archive).ok()?;
            (f.conversation.to_native(), f.request.to_native())
        }};
    }
    let (conversation, request) = match kind {
        client::SendMessage::KIND => ids!(client::SendMessage<'_>),
        client::EditMessage::KIND => ids!(client::EditMessage<'_>),
        client::RecallMessage::KIND => ids!(client::RecallMessage),
        client::MoveCursor::KIND => ids!(client::MoveCursor),
        client::JoinGroup::KIND => ids!(client::JoinGroup),
        client::LeaveGroup::KIND => ids!(client::LeaveGroup),
        client::Invite::KIND => ids!(client::Invite<'_>),
        client::Kick::KIND => ids!(client::Kick),
        client::SetRole::KIND => ids!(client::SetRole),
        client::OpenDirect::KIND => {
            let f = frame::decode_archive::<client::OpenDirect>(archive).ok()?;
            (ConversationId::direct(actor, UserId::from_raw(f.user.to_native())).raw(), f.request.to_native())
        }
        client::CreateGroup::KIND => {
            let f = frame::decode_archive::<client::CreateGroup<'_>>(archive).ok()?;
            let request = f.request.to_native();
            (ConversationId::group(actor, RequestId::from_raw(request)).raw(), request)
        }
        _ => return None,
    };
    Some((ConversationId::from_raw(conversation), RequestId::from_raw(request)))
}

pub(crate) fn partition_of(placement: tern_protocol::placement::Placement, entity: &Entity) -> PartitionId {
    match entity {
        Entity::Conversation(id) => placement.of_conversation(*id),
        Entity::User(id) => placement.of_user(*id),
        Entity::Account(name) => placement.of_account(name),
        Entity::Partition(id) => *id,
    }
}

/// One bit per shard.
pub(crate) fn bit(shard: ShardId) -> u64 {
    1 << (shard.raw() & 63)
}

/// The shards whose bits are set, in order.
pub(crate) fn shards_in(mut bits: u64) -> impl Iterator<Item = ShardId> {
    std::iter::from_fn(move || {
        let index = bits.trailing_zeros();
        bits &= bits.wrapping_sub(1);
        u16::try_from(index).ok().filter(|index| *index < 64).map(ShardId::from_raw)
    })
}

/// Work that waits for an entity.
type Waiting = VecDeque<Work>;
