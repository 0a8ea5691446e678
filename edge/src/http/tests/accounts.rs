//! Accounts and devices as the documentation of [`Request`] describes them, in one table. The shards have their own tests.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tern_core_shard::io::{AppendFailure, DeviceInfo, Reply, Request};
use tern_protocol::{DeviceId, ShardId, Timestamp, UserId};

use crate::auth::{Owners, ReplyFuture};

#[derive(Default)]
pub(super) struct Accounts(Mutex<Table>);

#[derive(Default)]
struct Table {
    names: BTreeMap<Box<str>, (UserId, Box<str>)>,
    devices: BTreeMap<(UserId, DeviceId), Device>,
    asked: Vec<(ShardId, Request)>,
    failing: Option<AppendFailure>,
}

struct Device {
    name: Box<str>,
    generation: u32,
    secret: [u8; 32],
    before: [u8; 32],
    attempt: u128,
}

impl Accounts {
    /// Everything that was asked, and whom.
    pub(super) fn asked(&self) -> Vec<(ShardId, Request)> {
        self.0.lock().unwrap().asked.clone()
    }

    /// Lets every request fail from here on.
    pub(super) fn fail(&self, failure: AppendFailure) {
        self.0.lock().unwrap().failing = Some(failure);
    }
}

impl Owners for Accounts {
    fn request(&self, shard: ShardId, request: Request) -> ReplyFuture<'_> {
        let reply = self.0.lock().unwrap().answer(shard, request);
        Box::pin(std::future::ready(Ok(reply)))
    }
}

impl Table {
    fn answer(&mut self, shard: ShardId, request: Request) -> Reply {
        self.asked.push((shard, request.clone()));
        if let Some(failure) = self.failing {
            return Reply::Unavailable(failure);
        }
        match request {
            Request::Register { name, password, .. } => {
                if self.names.contains_key(&name) {
                    return Reply::NameTaken;
                }
                let user = UserId::from_raw(1_000 + self.names.len() as u64);
                self.names.insert(name, (user, password));
                Reply::Registered { user }
            }
            Request::FindAccount { name } => Reply::Account(self.names.get(&name).cloned()),
            Request::OpenDevice { user, device, secret, name, .. } => {
                let opened = Device { name, generation: 1, secret, before: [0; 32], attempt: 0 };
                self.devices.insert((user, device), opened);
                Reply::DeviceOpened
            }
            Request::RotateDevice { user, device, generation, secret, successor, attempt } => {
                self.rotate((user, device), generation, secret, successor, attempt)
            }
            Request::CloseDevice { user, device } => {
                let before = self.devices.len();
                self.devices.retain(|key, _| key.0 != user || device.is_some_and(|device| key.1 != device));
                Reply::Closed { count: u32::try_from(before - self.devices.len()).unwrap() }
            }
            Request::ListDevices { user } => {
                let own = self.devices.iter().filter(|(key, _)| key.0 == user);
                let time = Timestamp::from_raw(5_000_000);
                let info = |(key, device): (&(UserId, DeviceId), &Device)| DeviceInfo {
                    device: key.1,
                    name: device.name.clone(),
                    created: time,
                    used: time,
                };
                Reply::Devices(own.map(info).collect())
            }
        }
    }

    fn rotate(
        &mut self,
        key: (UserId, DeviceId),
        generation: u32,
        secret: [u8; 32],
        successor: [u8; 32],
        attempt: u128,
    ) -> Reply {
        let Some(device) = self.devices.get_mut(&key) else { return Reply::Refused };
        if (generation, secret) == (device.generation, device.secret) {
            *device = Device {
                name: device.name.clone(),
                generation: generation + 1,
                secret: successor,
                before: secret,
                attempt,
            };
            return Reply::Rotated { generation: generation + 1 };
        }
        if (generation + 1, secret, attempt) == (device.generation, device.before, device.attempt) {
            return Reply::Rotated { generation: device.generation };
        }
        self.devices.remove(&key);
        Reply::Refused
    }
}
