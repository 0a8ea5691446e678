//! One user: profile, logged-in devices, and the directory of conversations. Its own `user_seq` counts what devices must learn.
//! Applying a command is a pure function, as for conversations.

use std::collections::BTreeMap;

use bytes::Bytes;
use tern_protocol::command::{
    self, ArchivedCreateUser, ArchivedOpenDevice, ArchivedRotateDevice, ArchivedSetDirectory,
};
use tern_protocol::frame::{self, Frame, FrameError};
use tern_protocol::stored::{self, DeviceRow, DirectoryRow, Entity, Part, UserRow};
use tern_protocol::{ConversationId, DeviceId, Position, Timestamp, UserId};

use crate::config::Sabotage;
use crate::conversation::{At, Emission, EmissionTarget, to_bytes};
use crate::io::{DeviceInfo, Reply, Row, Table};

/// The state of one user, as its log made it.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) id: UserId,
    prefix: Vec<u8>,
    pub(crate) row: UserRow,
    devices: BTreeMap<DeviceId, Device>,
    directory: BTreeMap<ConversationId, DirectoryRow>,
}

/// A logged-in device, and where its row is.
#[derive(Debug)]
struct Device {
    slot: u16,
    row: DeviceRow,
}

/// What applying one command did.
#[derive(Debug, Default)]
pub(crate) struct UserEffects {
    pub(crate) rows: Vec<Row>,
    /// Answer to the HTTP request.
    pub(crate) reply: Option<Reply>,
    /// Devices that are logged out by this.
    pub(crate) closed: Vec<DeviceId>,
    /// The directory changed: tell the user's sessions.
    pub(crate) directory: Option<(ConversationId, bool)>,
    pub(crate) emissions: Vec<Emission>,
}

impl User {
    /// The state before the first command.
    pub(crate) fn empty(id: UserId) -> Self {
        let prefix = stored::entity_key(&Entity::User(id));
        Self { id, prefix, row: UserRow::default(), devices: BTreeMap::new(), directory: BTreeMap::new() }
    }

    /// The state as the view has it.
    pub(crate) fn load(id: UserId, rows: &[(Bytes, Bytes)]) -> Result<Self, FrameError> {
        let mut this = Self::empty(id);
        for (key, value) in rows {
            match key.strip_prefix(&this.prefix[..]).and_then(Part::parse) {
                Some(Part::Main) => this.row = stored::decode_row(value)?,
                Some(Part::Device(slot)) => {
                    let row: DeviceRow = stored::decode_row(value)?;
                    if row.device != 0 {
                        this.devices.insert(DeviceId::from_raw(row.device), Device { slot, row });
                    }
                }
                Some(Part::Directory(conversation)) => {
                    this.directory.insert(conversation, stored::decode_row(value)?);
                }
                Some(Part::Member(_) | Part::Rules(_) | Part::Kept(_)) | None => return Err(FrameError::Archive),
            }
        }
        Ok(this)
    }

    /// Whether a registration made it.
    pub(crate) fn exists(&self) -> bool {
        !self.row.name.is_empty()
    }

    /// Memory it takes. Unit: bytes, estimated.
    pub(crate) fn size(&self) -> usize {
        512 + self.devices.len() * 256 + self.directory.len() * 64
    }

    /// Whether this device is logged in.
    pub(crate) fn has_device(&self, device: DeviceId) -> bool {
        self.devices.contains_key(&device)
    }

    /// The conversations this user is in.
    pub(crate) fn conversations(&self) -> Vec<ConversationId> {
        self.directory.iter().filter(|(_, row)| row.joined != 0).map(|(id, _)| *id).collect()
    }

    /// The logged-in devices, oldest first.
    pub(crate) fn device_infos(&self) -> Vec<DeviceInfo> {
        let mut infos: Vec<DeviceInfo> = self.devices.iter().map(|(id, device)| info(*id, &device.row)).collect();
        infos.sort_by_key(|info| (info.created, info.device));
        infos
    }

    /// Applies one command.
    pub(crate) fn apply(&mut self, at: At<'_>, bytes: &[u8]) -> UserEffects {
        let mut effects = UserEffects::default();
        if at.position.raw() <= self.row.position && at.config.has(Sabotage::PositionSkip) {
            return effects;
        }
        self.row.position = at.position.raw();
        if let Ok((kind, archive)) = frame::open(bytes) {
            // A frame that does not decode changes nothing: it was checked before it was logged.
            let _ = self.dispatch(at, kind, archive, &mut effects);
        }
        let key = Part::Main.key(&self.prefix).into();
        effects.rows.push(Row { table: Table::Entities, key, value: Some(stored::encode_row(&self.row).into()) });
        effects
    }

    fn dispatch(
        &mut self,
        at: At<'_>,
        kind: frame::Kind,
        archive: &[u8],
        out: &mut UserEffects,
    ) -> Result<(), FrameError> {
        match kind {
            command::CreateUser::KIND => {
                self.create(at, frame::decode_archive::<command::CreateUser<'_>>(archive)?, out);
            }
            command::SetDirectory::KIND => {
                self.set_directory(at, frame::decode_archive::<command::SetDirectory>(archive)?, out);
            }
            command::OpenDevice::KIND => {
                let reply = self.open_device(at, frame::decode_archive::<command::OpenDevice<'_>>(archive)?, out);
                out.reply = Some(reply);
            }
            command::RotateDevice::KIND => {
                let reply = self.rotate_device(at, frame::decode_archive::<command::RotateDevice>(archive)?, out);
                out.reply = Some(reply);
            }
            command::CloseDevice::KIND => {
                let device = frame::decode_archive::<command::CloseDevice>(archive)?.device.to_native();
                let all: Vec<DeviceId> = self.devices.keys().copied().collect();
                let chosen = all.into_iter().filter(|id| device == 0 || id.raw() == device);
                let count = chosen.map(|id| self.close_device(id, out)).count();
                out.reply = Some(Reply::Closed { count: u32::try_from(count).unwrap_or(u32::MAX) });
            }
            _ => {}
        }
        Ok(())
    }

    fn create(&mut self, at: At<'_>, f: &ArchivedCreateUser<'_>, out: &mut UserEffects) {
        if self.exists() {
            return;
        }
        self.row.name = f.name.to_vec();
        self.row.display = f.display.to_vec();
        if at.rules.world {
            out.emissions.push(Emission {
                to: EmissionTarget::Conversation(ConversationId::WORLD),
                frame: to_bytes(&command::EnterWorld { user: self.id.raw() }),
            });
        }
    }

    fn set_directory(&mut self, at: At<'_>, f: &ArchivedSetDirectory, out: &mut UserEffects) {
        let id = ConversationId::from_raw(f.conversation.to_native());
        let new = DirectoryRow { version: f.version.to_native(), joined: f.joined };
        let old = self.directory.get(&id).copied().unwrap_or_default();
        if new.version <= old.version && at.config.has(Sabotage::DirectoryVersion) {
            return;
        }
        self.directory.insert(id, new);
        let key = Part::Directory(id).key(&self.prefix).into();
        out.rows.push(Row { table: Table::Entities, key, value: Some(stored::encode_row(&new).into()) });
        // In again where one was in: the news of going out was overtaken, and sessions may have gone out by the event itself.
        if new.joined != 0 || old.joined != 0 {
            self.row.user_seq += 1;
            out.directory = Some((id, new.joined != 0));
        }
    }

    fn open_device(&mut self, at: At<'_>, f: &ArchivedOpenDevice<'_>, out: &mut UserEffects) -> Reply {
        if !self.exists() {
            return Reply::Refused;
        }
        let device = DeviceId::from_raw(f.device.to_native());
        let most = usize::from(f.devices_max.to_native()).max(1);
        while self.devices.len() >= most && !self.devices.contains_key(&device) {
            let oldest = self.devices.iter().min_by_key(|(id, device)| (device.row.used, **id)).map(|(id, _)| *id);
            let Some(oldest) = oldest else { break };
            self.close_device(oldest, out);
        }
        let slot = self.devices.get(&device).map_or_else(|| self.free_slot(), |open| open.slot);
        let row = DeviceRow {
            device: device.raw(),
            created: at.time.raw(),
            used: at.time.raw(),
            generation: 1,
            secret: f.secret,
            before: [0; 32],
            attempt: 0,
            name: f.name.to_vec(),
        };
        self.write_device(slot, &row, out);
        self.devices.insert(device, Device { slot, row });
        Reply::DeviceOpened
    }

    /// The presented token is the current one: exchange it. It is the one before, and the same attempt: the answer was lost, give it again.
    /// Anything else that was once good has been stolen or cloned: log the device out.
    fn rotate_device(&mut self, at: At<'_>, f: &ArchivedRotateDevice, out: &mut UserEffects) -> Reply {
        let device = DeviceId::from_raw(f.device.to_native());
        let (generation, attempt) = (f.generation.to_native(), f.attempt.to_native());
        let Some(Device { slot, row }) = self.devices.get_mut(&device) else { return Reply::Refused };
        if generation == row.generation && f.secret == row.secret {
            row.before = row.secret;
            row.secret = f.successor;
            row.generation += 1;
            row.attempt = attempt;
            row.used = at.time.raw();
            let (slot, row) = (*slot, row.clone());
            self.write_device(slot, &row, out);
            return Reply::Rotated { generation: row.generation };
        }
        if generation + 1 == row.generation && f.secret == row.before && attempt == row.attempt {
            return Reply::Rotated { generation: row.generation };
        }
        if generation < row.generation {
            self.close_device(device, out);
        }
        Reply::Refused
    }

    fn close_device(&mut self, device: DeviceId, out: &mut UserEffects) {
        if let Some(Device { slot, .. }) = self.devices.remove(&device) {
            self.write_device(slot, &DeviceRow::default(), out);
            out.closed.push(device);
        }
    }

    /// The first slot without a device.
    fn free_slot(&self) -> u16 {
        let is_free = |slot: &u16| self.devices.values().all(|device| device.slot != *slot);
        (0..u16::MAX).find(is_free).unwrap_or(u16::MAX)
    }

    fn write_device(&self, slot: u16, row: &DeviceRow, out: &mut UserEffects) {
        let (key, value) = (Part::Device(slot).key(&self.prefix).into(), Some(stored::encode_row(row).into()));
        out.rows.push(Row { table: Table::Entities, key, value });
    }

    /// Last command applied.
    pub(crate) fn position(&self) -> Position {
        Position::from_raw(self.row.position)
    }
}

fn info(device: DeviceId, row: &DeviceRow) -> DeviceInfo {
    DeviceInfo {
        device,
        name: String::from_utf8_lossy(&row.name).into(),
        created: Timestamp::from_raw(row.created),
        used: Timestamp::from_raw(row.used),
    }
}
