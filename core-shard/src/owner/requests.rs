//! What the HTTP API asks: registration and log-in go through the log like everything that lasts, look-ups are answered at once.

use tern_protocol::DeviceId;
use tern_protocol::command::{self, CommandHead};
use tern_protocol::stored::Entity;

use super::cache::State;
use super::{Owner, Work, partition_of};
use crate::context::Context;
use crate::conversation::to_bytes;
use crate::io::{AppendFailure, Output, Reply, Request};

impl Owner {
    /// A request from the HTTP API.
    pub(crate) fn on_request(&mut self, cx: &mut Context, ticket: u64, request: Request) {
        let placement = cx.config.placement;
        let (entity, frame) = match request {
            Request::FindAccount { ref name } => {
                let entity = Entity::Account(name.clone());
                return self.work(cx, entity, Work::Request(ticket, request));
            }
            Request::ListDevices { user } => return self.work(cx, Entity::User(user), Work::Request(ticket, request)),
            Request::Register { name, display, password } => {
                let frame = to_bytes(&command::Register {
                    name: name.as_bytes(),
                    display: display.as_bytes(),
                    password: password.as_bytes(),
                });
                (Entity::Account(name), frame)
            }
            Request::OpenDevice { user, device, secret, name, devices_max } => {
                let (user, device, name) = (user.raw(), device.raw(), name.as_bytes());
                (
                    Entity::User(tern_protocol::UserId::from_raw(user)),
                    to_bytes(&command::OpenDevice { user, device, devices_max, secret, name }),
                )
            }
            Request::RotateDevice { user, device, generation, secret, successor, attempt } => {
                let command = command::RotateDevice {
                    user: user.raw(),
                    device: device.raw(),
                    generation,
                    secret,
                    successor,
                    attempt,
                };
                (Entity::User(user), to_bytes(&command))
            }
            Request::CloseDevice { user, device } => {
                let device = device.map_or(0, DeviceId::raw);
                (Entity::User(user), to_bytes(&command::CloseDevice { user: user.raw(), device }))
            }
        };
        if self.is_away(&entity) {
            let reply = Reply::Unavailable(AppendFailure::Unavailable);
            return cx.output(Output::Reply { ticket, reply });
        }
        let head =
            CommandHead { session: ticket, run: cx.config.run, shard: cx.shard().raw(), ..CommandHead::default() };
        cx.append(partition_of(placement, &entity), head, frame);
    }

    /// A look-up whose entity is in memory.
    pub(super) fn answer_request(&mut self, cx: &mut Context, entity: &Entity, ticket: u64, request: Request) {
        let reply = match (self.cache.state(entity), request) {
            (Some(State::Account(account)), Request::FindAccount { .. }) => Reply::Account(account.holder()),
            (Some(State::User(user)), Request::ListDevices { .. }) => Reply::Devices(user.device_infos()),
            _ => Reply::Refused,
        };
        cx.output(Output::Reply { ticket, reply });
    }
}
