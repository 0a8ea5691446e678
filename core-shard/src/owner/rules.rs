//! The rules of each owned partition: read from the view before anything is applied, set in the log when the configuration asks for others.
//! Never skips what this build does not know: the partition stops there.

use tern_protocol::command::{self, CommandHead};
use tern_protocol::frame::{self, Frame, Kind};
use tern_protocol::stored::{Entity, entity_of_key};
use tern_protocol::{PartitionId, Position, UserId, client};

use super::aside::awaited;
use super::{EMISSION_RETRY, Owner, ids_of_frame};
use crate::context::{Context, Timer};
use crate::conversation::to_bytes;
use crate::io::{Logged, Output, Record, StopReason};
use crate::rules::{History, LEVEL, Rules};

/// Whom a logged command is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Addressee {
    /// One entity of the partition.
    Entity(Entity),
    /// The partition itself.
    Partition(Rules),
    /// Nobody: of a kind that this build knows, and not valid. Every build passes it alike.
    Nobody,
}

impl Owner {
    /// Reads a partition's rules, once.
    pub(super) fn ask_rules(&mut self, cx: &mut Context, id: PartitionId) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        if partition.ask() {
            self.cache.fetch_rules(cx, id);
        }
    }

    /// The rules of a partition are here, and with them everything that waited for them.
    pub(super) fn rules_loaded(&mut self, cx: &mut Context, id: PartitionId, rows: &[(bytes::Bytes, bytes::Bytes)]) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let loaded = History::load(id, rows).and_then(|history| Ok((history, awaited(id, rows)?)));
        let (history, awaited) = match loaded {
            Ok((history, _)) if history.newest().level > LEVEL => {
                let needed = history.newest().level;
                return self.stop(cx, id, StopReason::Level { needed, known: LEVEL });
            }
            Ok(loaded) => loaded,
            Err(_) => return self.stop(cx, id, StopReason::RulesUnreadable),
        };
        let early = partition.know(history);
        for entity in awaited {
            // Perhaps nobody asks for it, but what is kept for it must be applied.
            self.cache.load(cx, &entity);
        }
        for logged in early {
            cx.counters.waiting -= 1;
            self.take_up(cx, logged);
        }
        self.set_rules(cx, id);
    }

    /// Appends the rules that the configuration asks for, if the log says others.
    pub(super) fn set_rules(&mut self, cx: &mut Context, id: PartitionId) {
        let wanted = Rules::wanted(cx.limits());
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        if !self.caught_up || !partition.lacks(wanted) {
            return;
        }
        let head = CommandHead { run: cx.config.run, shard: cx.shard().raw(), ..CommandHead::default() };
        cx.append(id, head, to_bytes(&wanted.command()));
    }

    /// The log refused what nobody asked for and nothing caused: the rules, or the return of an entity.
    pub(crate) fn own_refused(&mut self, cx: &mut Context, id: PartitionId, record: Record) {
        match frame::open(&record.frame) {
            Ok((command::SetRules::KIND, _)) => self.rules_refused(cx, id),
            Ok(_) | Err(_) => self.emission_failed(cx, id, record),
        }
    }

    /// The log refused the rules: they are appended again, unless they are there after all.
    fn rules_refused(&mut self, cx: &mut Context, id: PartitionId) {
        if let Some(partition) = self.partitions.get_mut(&id) {
            partition.rules_refused();
        }
        let at = cx.now.after(EMISSION_RETRY);
        cx.wake(at, Timer::RetryRules);
    }

    pub(crate) fn retry_rules(&mut self, cx: &mut Context) {
        let owned: Vec<PartitionId> = self.partitions.keys().copied().collect();
        owned.into_iter().for_each(|id| self.set_rules(cx, id));
    }

    /// A command that sets the rules of its partition.
    pub(super) fn rules_logged(&mut self, cx: &mut Context, logged: &Logged, rules: Rules) {
        if rules.level > LEVEL {
            let reason = StopReason::Level { needed: rules.level, known: LEVEL };
            return self.stop(cx, logged.partition, reason);
        }
        let Some(partition) = self.partitions.get_mut(&logged.partition) else { return };
        let row = partition.set_rules(logged.partition, logged.position, rules);
        self.applied(cx, logged, row.into_iter().collect(), Vec::new(), None);
    }

    /// Nothing more of this partition is applied: what is behind this place needs another build.
    pub(super) fn stop(&mut self, cx: &mut Context, id: PartitionId, reason: StopReason) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let position = partition.stop();
        cx.output(Output::Stop { partition: id, position, reason });
    }
}

/// Whom a command is for.
///
/// # Errors
/// When this build does not know the kind: applying would have to skip it. At the end of all positions.
pub(super) fn addressee(position: Position, record: &Record) -> Result<Addressee, StopReason> {
    if position >= Position::END {
        return Err(StopReason::PositionsUsedUp);
    }
    let (kind, archive) = match frame::open(&record.frame) {
        Ok(opened) => opened,
        Err(frame::FrameError::Version(version)) => return Err(StopReason::FrameVersion(version)),
        Err(_) => return Ok(Addressee::Nobody),
    };
    let found = match kind {
        command::SetRules::KIND => {
            frame::decode_archive::<command::SetRules>(archive).ok().map(|f| Addressee::Partition(Rules::of_command(f)))
        }
        kind if is_command(kind) => entity(record, kind, archive).map(Addressee::Entity),
        Kind(unknown) => return Err(StopReason::UnknownKind(unknown)),
    };
    Ok(found.unwrap_or(Addressee::Nobody))
}

/// Whether the log may have frames of this kind for an entity.
fn is_command(kind: Kind) -> bool {
    const KINDS: [Kind; 19] = [
        client::SendMessage::KIND,
        client::EditMessage::KIND,
        client::RecallMessage::KIND,
        client::MoveCursor::KIND,
        client::OpenDirect::KIND,
        client::CreateGroup::KIND,
        client::JoinGroup::KIND,
        client::LeaveGroup::KIND,
        client::Invite::KIND,
        client::Kick::KIND,
        client::SetRole::KIND,
        command::Register::KIND,
        command::CreateUser::KIND,
        command::OpenDevice::KIND,
        command::RotateDevice::KIND,
        command::CloseDevice::KIND,
        command::SetDirectory::KIND,
        command::EnterWorld::KIND,
        command::Readmit::KIND,
    ];
    KINDS.contains(&kind)
}

/// The entity that a command of a known kind is for.
fn entity(record: &Record, kind: Kind, archive: &[u8]) -> Option<Entity> {
    let user = |id: u64| Some(Entity::User(UserId::from_raw(id)));
    match kind {
        command::Register::KIND => {
            let f = frame::decode_archive::<command::Register<'_>>(archive).ok()?;
            Some(Entity::Account(std::str::from_utf8(&f.name).ok()?.into()))
        }
        command::CreateUser::KIND => {
            user(frame::decode_archive::<command::CreateUser<'_>>(archive).ok()?.user.to_native())
        }
        command::OpenDevice::KIND => {
            user(frame::decode_archive::<command::OpenDevice<'_>>(archive).ok()?.user.to_native())
        }
        command::RotateDevice::KIND => {
            user(frame::decode_archive::<command::RotateDevice>(archive).ok()?.user.to_native())
        }
        command::CloseDevice::KIND => {
            user(frame::decode_archive::<command::CloseDevice>(archive).ok()?.user.to_native())
        }
        command::SetDirectory::KIND => {
            user(frame::decode_archive::<command::SetDirectory>(archive).ok()?.user.to_native())
        }
        command::EnterWorld::KIND => Some(Entity::Conversation(tern_protocol::ConversationId::WORLD)),
        command::Readmit::KIND => entity_of_key(&frame::decode_archive::<command::Readmit<'_>>(archive).ok()?.entity),
        _ => ids_of_frame(UserId::from_raw(record.head.actor), kind, archive).map(|(id, _)| Entity::Conversation(id)),
    }
}
