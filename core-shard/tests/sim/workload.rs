//! What devices do by themselves: everything that the protocol allows, and some things that it does not.
//! Stays under the rate limits; never waits for an answer.

use std::time::Duration;

use tern_core_shard::io::Ending;
use tern_protocol::server::role;
use tern_protocol::{ConversationId, UserId};

use crate::client::{Ask, Device, Link};
use crate::cluster::Ticket;
use crate::wire::{self, Op};
use crate::world::{Event, World};

impl World {
    /// One act of one device, and the time of its next.
    pub(crate) fn act(&mut self, index: usize) {
        if self.now() >= self.active_until {
            return;
        }
        let pause = self.rng.work.between(self.plan.pace / 10, self.plan.pace * 2);
        self.schedule.after(Duration::from_micros(pause), Event::Act(index));
        if self.devices[index].link != Link::Up {
            return;
        }
        if self.rng.faults.chance(self.faults.disconnect) {
            let ending = if self.rng.faults.chance(300) { Ending::Goodbye } else { Ending::Lost };
            return self.drop_connection(index, ending);
        }
        let chats: Vec<_> = self.devices[index].chats.keys().copied().collect();
        for id in &chats {
            if !self.known.contains(id) {
                self.known.push(*id);
            }
        }
        let own = self.rng.work.pick(&chats).copied();
        let any = self.rng.work.pick(&self.known).copied();
        let user = self.rng.work.pick(&self.users).copied().unwrap_or(self.devices[index].user);
        if self.plan.hot && self.rng.work.chance(850) {
            let hot = self.known.first().copied().filter(|id| chats.contains(id));
            return hot.map_or((), |id| self.act_send(index, id));
        }
        match (self.rng.work.below(100), own, any) {
            (0..38, Some(id), _) => self.act_send(index, id),
            (38..50, Some(id), _) => self.act_revise(index, id),
            (50..58, Some(id), _) => self.act_read(index, id),
            (58..62, Some(id), _) => self.act_lightly(index, id),
            (62..66, _, _) => _ = self.submit(index, Op::OpenDirect { user }),
            (66..69, _, _) => self.act_create(index),
            (69..74, _, Some(conversation)) => _ = self.submit(index, Op::Join { conversation }),
            (74..76, Some(conversation), _) => _ = self.submit(index, Op::Leave { conversation }),
            (76..86, Some(id), _) => self.act_on_members(index, id, user),
            (86..90, _, Some(id)) => self.act_browse(index, id),
            (90..92, _, _) => self.with_device(index, Device::start_walk),
            (92..94, _, _) => {
                let users: Vec<_> = self.users.iter().map(|user| user.raw()).collect();
                self.client_sends(index, wire::watch(&users));
            }
            (94..97, _, Some(id)) => self.act_as_stranger(index, id, user),
            (97..98, _, _) => self.with_device(index, Device::ping),
            (98..99, _, _) => self.act_log_out(index),
            _ => {}
        }
    }

    fn act_send(&mut self, index: usize, conversation: ConversationId) {
        let rng = &mut self.rng.work;
        let number = rng.raw();
        let size = if rng.chance(60) { rng.between(500, 6_000) } else { rng.between(0, 40) };
        let mut body = format!("{number:x}").into_bytes();
        body.resize(body.len() + usize::try_from(size).unwrap_or(0), b'.');
        let messages: Vec<_> = self.devices[index].chats[&conversation].messages.keys().copied().collect();
        let reply_to = match rng.below(10) {
            0 | 1 => rng.pick(&messages).copied().unwrap_or(0),
            2 if rng.chance(100) => 1 << 40,
            _ => 0,
        };
        let mentions = if rng.chance(100) { self.users.iter().map(|user| user.raw()).collect() } else { Vec::new() };
        self.submit(index, Op::Send { conversation, reply_to, mentions, body });
    }

    fn act_revise(&mut self, index: usize, conversation: ConversationId) {
        let rng = &mut self.rng.work;
        let user = self.devices[index].user;
        let others = rng.chance(250);
        let messages = &self.devices[index].chats[&conversation].messages;
        let fits: Vec<_> =
            messages.iter().filter(|(_, sender)| others || sender.0 == user).map(|(seq, _)| *seq).collect();
        let Some(target) = rng.pick(&fits).copied() else { return };
        let op = if rng.chance(650) {
            Op::Edit { conversation, target, body: format!("edit {:x}", rng.raw()).into_bytes() }
        } else {
            Op::Recall { conversation, target }
        };
        self.submit(index, op);
    }

    fn act_read(&mut self, index: usize, conversation: ConversationId) {
        let chat = &self.devices[index].chats[&conversation];
        let (seq, visible) = (chat.position, chat.visible);
        let op = match (self.rng.work.below(10), visible) {
            // Beyond the head, and a count that cannot be.
            (0, _) => Op::Read { conversation, seq: seq + 1_000_000, visible: 1 },
            (1, _) => Op::Read { conversation, seq, visible: seq + 1 },
            (_, Some(visible)) => Op::Read { conversation, seq, visible },
            (_, None) => return,
        };
        self.submit(index, op);
    }

    fn act_lightly(&mut self, index: usize, id: ConversationId) {
        if self.rng.work.chance(500) {
            let active = u8::from(self.rng.work.chance(700));
            return self.client_sends(index, wire::typing(id, active));
        }
        let device = &mut self.devices[index];
        let chat = &device.chats[&id];
        let (seq, visible) = (chat.position, chat.visible.unwrap_or(0));
        let request = device.fresh_request();
        self.client_sends(index, wire::delivered(request, id, seq, visible));
    }

    fn act_create(&mut self, index: usize) {
        let user = self.devices[index].user;
        let rng = &mut self.rng.work;
        let members =
            self.users.iter().filter(|member| rng.chance(400) && **member != user).map(|user| user.raw()).collect();
        let flags = u8::try_from(rng.below(4)).unwrap_or(0);
        let title = format!("group {:x}", rng.below(1 << 16)).into_bytes();
        self.submit(index, Op::Create { flags, title, members });
    }

    fn act_on_members(&mut self, index: usize, conversation: ConversationId, user: UserId) {
        let op = match self.rng.work.below(10) {
            0..5 => Op::Invite { conversation, users: vec![user.raw()] },
            5..8 => Op::Kick { conversation, user },
            8 => Op::SetRole { conversation, user, role: role::ADMIN },
            _ => {
                let role = u8::try_from(self.rng.work.between(1, 3)).unwrap_or(1);
                Op::SetRole { conversation, user, role }
            }
        };
        self.submit(index, op);
    }

    fn act_browse(&mut self, index: usize, id: ConversationId) {
        let rng = &mut self.rng.work;
        let limit = u16::try_from(rng.between(1, 40)).unwrap_or(1);
        let (anchor, direction) = match rng.below(3) {
            0 => (u64::MAX, 0),
            1 => (rng.below(60), 0),
            _ => (rng.below(60), 1),
        };
        self.with_device(index, |device, cx| {
            let request = device.ask(Ask::Browse(id, anchor, direction));
            cx.send.push(wire::history(request, id, anchor, limit, direction));
        });
    }

    /// Tries what only a member, an author or an admin may do, wherever it is.
    fn act_as_stranger(&mut self, index: usize, conversation: ConversationId, user: UserId) {
        let op = match self.rng.work.below(6) {
            0 => Op::Kick { conversation, user },
            1 => Op::Invite { conversation, users: vec![self.devices[index].user.raw()] },
            2 => Op::SetRole { conversation, user: self.devices[index].user, role: role::OWNER },
            3 => Op::Recall { conversation, target: 2 },
            4 => Op::Read { conversation, seq: 1, visible: 0 },
            _ => Op::Send { conversation, reply_to: 0, mentions: Vec::new(), body: b"let me in".to_vec() },
        };
        self.submit(index, op);
    }

    /// Logs this device out, by the HTTP API; another one takes its place.
    fn act_log_out(&mut self, index: usize) {
        if self.accounts[index].revoked || self.devices.len() > 30 || !self.rng.work.chance(400) {
            return;
        }
        self.accounts[index].revoked = true;
        let user = self.devices[index].user;
        let device = tern_protocol::DeviceId::from_raw(0x0e00_0000 | self.rng.work.below(1 << 24));
        self.schedule.after(Duration::ZERO, Event::Call(Ticket::Revoke { device: index }));
        self.schedule.after(Duration::from_millis(1), Event::Call(Ticket::Open { user, device }));
    }
}
