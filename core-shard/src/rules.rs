//! The rules of the deployment: what decides outcomes besides the commands themselves. They stand in each partition's own log, so that
//! whoever applies it, whenever, decides alike. Everything else that is configured is read by nobody who applies a command.

use std::collections::BTreeMap;

use bytes::Bytes;
use tern_protocol::command::{ArchivedSetRules, SetRules};
use tern_protocol::frame::FrameError;
use tern_protocol::stored::{self, Entity, Part, RulesRow};
use tern_protocol::{PartitionId, Position};

use crate::config::Limits;
use crate::io::{Row, Table};

/// Highest level of rules that this build can apply, and the one that it sets. Whatever is applied differently from some release on is
/// applied so from a level on, never before: then an old log gives the old rows for ever.
pub const LEVEL: u16 = 1;

/// What decides outcomes, at one place of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) level: u16,
    /// Most members of a group. Unit: users.
    pub(crate) members_max: u32,
    /// Whether new users enter the world room.
    pub(crate) world: bool,
}

impl Rules {
    /// In force where a log has set none. Constants of level 1: they never follow the defaults of the configuration.
    pub(crate) const FIRST: Self = Self { level: 1, members_max: 10_000, world: true };

    /// What the configuration asks for.
    pub(crate) fn wanted(limits: &Limits) -> Self {
        Self { level: LEVEL, members_max: limits.members_max, world: limits.world }
    }

    /// What a command sets.
    pub(crate) fn of_command(f: &ArchivedSetRules) -> Self {
        Self { level: f.level.to_native(), members_max: f.members_max.to_native(), world: f.world != 0 }
    }

    /// The command that sets them.
    pub(crate) fn command(self) -> SetRules {
        SetRules { level: self.level, members_max: self.members_max, world: u8::from(self.world) }
    }
}

/// All rules that a partition's log has set up to the last command handed over.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// By the position of the command that set them.
    set: BTreeMap<Position, Rules>,
}

impl History {
    /// As the view has it.
    pub(crate) fn load(partition: PartitionId, rows: &[(Bytes, Bytes)]) -> Result<Self, FrameError> {
        let prefix = stored::entity_key(&Entity::Partition(partition));
        let mut set = BTreeMap::new();
        for (key, value) in rows {
            let position = match key.strip_prefix(&prefix[..]).and_then(Part::parse) {
                Some(Part::Rules(position)) => position,
                // For whom commands are kept: not a rule.
                Some(Part::Kept(_)) => continue,
                Some(Part::Main | Part::Member(_) | Part::Device(_) | Part::Directory(_)) | None => {
                    return Err(FrameError::Archive);
                }
            };
            let row: RulesRow = stored::decode_row(value)?;
            set.insert(position, Rules { level: row.level, members_max: row.members_max, world: row.world != 0 });
        }
        Ok(Self { set })
    }

    /// The rules under which the command at this place is applied.
    pub(crate) fn at(&self, position: Position) -> Rules {
        self.set.range(..position).next_back().map_or(Rules::FIRST, |(_, rules)| *rules)
    }

    /// The rules for what comes next.
    pub(crate) fn newest(&self) -> Rules {
        self.set.values().next_back().copied().unwrap_or(Rules::FIRST)
    }

    /// Notes what a command sets, and gives the row that keeps it.
    pub(crate) fn set(&mut self, partition: PartitionId, position: Position, rules: Rules) -> Row {
        self.set.insert(position, rules);
        let row = RulesRow { level: rules.level, members_max: rules.members_max, world: u8::from(rules.world) };
        let key = Part::Rules(position).key(&stored::entity_key(&Entity::Partition(partition))).into();
        Row { table: Table::Entities, key, value: Some(stored::encode_row(&row).into()) }
    }
}
