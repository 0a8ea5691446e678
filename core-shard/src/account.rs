//! One account name: who has it, and the hash of their password. Registration is decided here, by the order of the name's log.

use bytes::Bytes;
use tern_protocol::command::{self, Register};
use tern_protocol::frame::{self, FrameError};
use tern_protocol::stored::{self, AccountRow, Entity, Part};
use tern_protocol::{PartitionId, UserId};

use crate::config::Sabotage;
use crate::conversation::{At, Emission, EmissionTarget, to_bytes};
use crate::io::{Reply, Row, Table};

/// The state of one account name.
#[derive(Debug)]
pub(crate) struct Account {
    name: Box<str>,
    pub(crate) row: AccountRow,
}

/// What applying one command did.
#[derive(Debug, Default)]
pub(crate) struct AccountEffects {
    pub(crate) rows: Vec<Row>,
    pub(crate) reply: Option<Reply>,
    pub(crate) emissions: Vec<Emission>,
}

impl Account {
    /// The state as the view has it.
    pub(crate) fn load(name: Box<str>, rows: &[(Bytes, Bytes)]) -> Result<Self, FrameError> {
        let prefix = stored::entity_key(&Entity::Account(name.clone()));
        let mut this = Self { name, row: AccountRow::default() };
        for (key, value) in rows {
            match key.strip_prefix(&prefix[..]).and_then(Part::parse) {
                Some(Part::Main) => this.row = stored::decode_row(value)?,
                Some(Part::Member(_) | Part::Device(_) | Part::Directory(_) | Part::Rules(_) | Part::Kept(_))
                | None => {
                    return Err(FrameError::Archive);
                }
            }
        }
        Ok(this)
    }

    /// Whose it is, and the password's PHC string.
    pub(crate) fn holder(&self) -> Option<(UserId, Box<str>)> {
        let password = String::from_utf8_lossy(&self.row.password).into();
        (self.row.user != 0).then(|| (UserId::from_raw(self.row.user), password))
    }

    /// Applies one command: a name is taken once. The user's id is the place in the log at which that happened.
    pub(crate) fn apply(&mut self, at: At<'_>, partition: PartitionId, bytes: &[u8]) -> AccountEffects {
        let mut out = AccountEffects::default();
        if at.position.raw() <= self.row.position && at.config.has(Sabotage::PositionSkip) {
            return out;
        }
        self.row.position = at.position.raw();
        let Ok(f) = frame::decode::<Register<'_>>(bytes) else { return out };
        if self.row.user == 0 {
            let user = UserId::at(partition, at.position);
            self.row.user = user.raw();
            self.row.password = f.password.to_vec();
            out.reply = Some(Reply::Registered { user });
            out.emissions.push(Emission {
                to: EmissionTarget::User(user),
                frame: to_bytes(&command::CreateUser { user: user.raw(), name: &f.name, display: &f.display }),
            });
        } else {
            out.reply = Some(Reply::NameTaken);
        }
        let key = Part::Main.key(&stored::entity_key(&Entity::Account(self.name.clone()))).into();
        out.rows.push(Row { table: Table::Entities, key, value: Some(stored::encode_row(&self.row).into()) });
        out
    }
}
