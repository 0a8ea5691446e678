//! What stands in the log: a frame (a client's own bytes, or one of the commands below, 0x40 to 0x7f) and a head that says who asked.
//! Applying a command depends on these bytes, its position and its log time, and on nothing else.

use rkyv::rancor::Failure;
use rkyv::{Archive, Serialize};

use crate::frame::{FrameError, frame};
use crate::slice::Slice;

/// Who asked for a command, where the answer goes, and what caused it. The record is the frame followed by this.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommandHead {
    /// The user who asked; 0 for the server itself.
    pub actor: u64,
    /// The device that asked; 0 for none.
    pub device: u64,
    /// The session, or the ticket of an HTTP request, that waits for the answer; 0 for none.
    pub session: u64,
    /// The run of the server in which that session lives: an answer for an earlier run is dropped.
    pub run: u64,
    /// For a command that another one emitted: the place of that one in its partition. 0 for none.
    pub cause_position: u64,
    /// The newest event of the conversation that the session's shard had heard of when it took the command; 0 for none. A first attempt
    /// that was stored meanwhile stands behind it.
    pub heard: u64,
    /// Which of the commands that it emitted, from 0.
    pub cause_index: u32,
    /// See `cause_position`.
    pub cause_partition: u16,
    /// The shard that holds the session.
    pub shard: u16,
}

/// Size of an archived [`CommandHead`]. Unit: bytes.
pub const COMMAND_HEAD_SIZE: usize = size_of::<ArchivedCommandHead>();

impl CommandHead {
    /// The head's bytes, as they follow the frame in a record.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; COMMAND_HEAD_SIZE] {
        let bytes = rkyv::to_bytes::<Failure>(self).expect("a struct of integers always serialises");
        bytes.as_slice().try_into().expect("COMMAND_HEAD_SIZE is its size")
    }

    /// Splits a record into its frame and its head.
    ///
    /// # Errors
    /// When the record is too short for a head.
    pub fn split(record: &[u8]) -> Result<(&[u8], Self), FrameError> {
        let at = record.len().checked_sub(COMMAND_HEAD_SIZE).ok_or(FrameError::Length(record.len() as u64))?;
        let (frame, head) = record.split_at_checked(at).ok_or(FrameError::Archive)?;
        let head = rkyv::access::<ArchivedCommandHead, Failure>(head).map_err(|_| FrameError::Archive)?;
        Ok((
            frame,
            Self {
                actor: head.actor.to_native(),
                device: head.device.to_native(),
                session: head.session.to_native(),
                run: head.run.to_native(),
                cause_position: head.cause_position.to_native(),
                heard: head.heard.to_native(),
                cause_index: head.cause_index.to_native(),
                cause_partition: head.cause_partition.to_native(),
                shard: head.shard.to_native(),
            },
        ))
    }
}

/// Takes an account name, if it is free. To the name's partition.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Register<'a> {
    /// Canonical account name.
    #[rkyv(with = Slice)]
    pub name: &'a [u8],
    /// Display name.
    #[rkyv(with = Slice)]
    pub display: &'a [u8],
    /// PHC string of the password hash.
    #[rkyv(with = Slice)]
    pub password: &'a [u8],
}
frame!(0x40, Register<'a>, [name, display, password]);

/// Makes the user that a registration named. Emitted; to the user's partition. Applying it again does nothing.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct CreateUser<'a> {
    /// Who.
    pub user: u64,
    /// Canonical account name.
    #[rkyv(with = Slice)]
    pub name: &'a [u8],
    /// Display name.
    #[rkyv(with = Slice)]
    pub display: &'a [u8],
}
frame!(0x41, CreateUser<'a>, [name, display]);

/// Logs a device in. To the user's partition.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct OpenDevice<'a> {
    /// Who.
    pub user: u64,
    /// Random id of the device's session.
    pub device: u64,
    /// Most devices this user may have: the least recently used one is logged out beyond it.
    pub devices_max: u16,
    /// SHA-256 of the refresh token's secret.
    pub secret: [u8; 32],
    /// What the person calls the device.
    #[rkyv(with = Slice)]
    pub name: &'a [u8],
}
frame!(0x42, OpenDevice<'a>, [name]);

/// Exchanges a refresh token for its successor. To the user's partition.
///
/// The presented token is right if it is the current one, or the one before with the same `attempt` (the answer was lost). Any
/// other earlier one means that it was stolen: the device is logged out.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct RotateDevice {
    /// Who.
    pub user: u64,
    /// Which device.
    pub device: u64,
    /// Generation of the presented token, from 1.
    pub generation: u32,
    /// SHA-256 of the presented secret.
    pub secret: [u8; 32],
    /// SHA-256 of the successor's secret.
    pub successor: [u8; 32],
    /// The client's own name for this exchange; a resend carries the same.
    pub attempt: u128,
}
frame!(0x43, RotateDevice, []);

/// Logs devices out. To the user's partition.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct CloseDevice {
    /// Who.
    pub user: u64,
    /// Which device; 0 for all.
    pub device: u64,
}
frame!(0x44, CloseDevice, []);

/// A user came into a conversation or went out of it. Emitted; to the user's partition. An older `version` does nothing.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct SetDirectory {
    /// Which conversation.
    pub conversation: u128,
    /// Who.
    pub user: u64,
    /// Position of the causing command in the conversation's partition.
    pub version: u64,
    /// 1 in, 0 out.
    pub joined: u8,
}
frame!(0x45, SetDirectory, []);

/// A new user comes into the world room, without an event. Emitted; to the world room's partition.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct EnterWorld {
    /// Who.
    pub user: u64,
}
frame!(0x46, EnterWorld, []);

/// Sets the rules under which every later command of this partition is applied. Appended by the partition's owner when its configuration
/// says something else than the log. A build that does not know the level must not apply anything behind this place.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct SetRules {
    /// Level of the rules, from 1: what `apply` does differently, it does from a level on.
    pub level: u16,
    /// Most members of a group. Unit: users.
    pub members_max: u32,
    /// Whether new users enter the world room: 1 yes, 0 no.
    pub world: u8,
}
frame!(0x47, SetRules, []);

/// An entity that could not be read is back. To the entity's own partition. Changes nothing by itself: it is the place in the log with
/// which the commands that were kept for the entity are applied.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Readmit<'a> {
    /// [`crate::stored::entity_key`] of the entity.
    #[rkyv(with = Slice)]
    pub entity: &'a [u8],
}
frame!(0x48, Readmit<'a>, [entity]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_splits_into_what_it_was_made_of() {
        let head = CommandHead {
            actor: 1,
            device: 2,
            session: 3,
            run: 4,
            cause_position: 5,
            heard: 9,
            cause_index: 8,
            cause_partition: 6,
            shard: 7,
        };
        let mut record = b"frame".to_vec();
        record.extend_from_slice(&head.to_bytes());
        assert_eq!(CommandHead::split(&record), Ok((&b"frame"[..], head)));
        assert!(CommandHead::split(&[0; COMMAND_HEAD_SIZE - 1]).is_err());
    }
}
