//! The words that scenarios are written in: who does what, and what they have on their screens then.
//! Never checks anything by itself; each word waits, in virtual time, until it is done or certainly never will be.

use std::time::Duration;

use tern_core_shard::io::Ending;
use tern_protocol::{CloseCode, ConversationId, UserId};

use crate::client::Link;
use crate::wire::Op;
use crate::world::{Event, World};

/// Time in which anything that is under way with nothing wrong is done.
const SOON: Duration = Duration::from_secs(5);

impl World {
    /// The user of a device.
    pub(crate) fn user(&self, device: usize) -> UserId {
        self.devices[device].user
    }

    /// The direct conversation of two devices' users, open on both.
    pub(crate) fn direct(&mut self, a: usize, b: usize) -> ConversationId {
        let id = ConversationId::direct(self.user(a), self.user(b));
        self.submit(a, Op::OpenDirect { user: self.user(b) });
        self.wait_for_members(id, &[a, b]);
        id
    }

    /// A group with these devices' users, the first of them its owner.
    pub(crate) fn group(&mut self, flags: u8, devices: &[usize]) -> ConversationId {
        let (owner, others) = devices.split_first().expect("a group has an owner");
        let members = others.iter().map(|device| self.user(*device).raw()).collect();
        let request = self.submit(*owner, Op::Create { flags, title: b"group".to_vec(), members });
        let id = ConversationId::group(self.user(*owner), tern_protocol::RequestId::from_raw(request));
        self.wait_for_members(id, devices);
        id
    }

    /// Waits until these devices know that they are in a conversation, and have all of it.
    pub(crate) fn wait_for_members(&mut self, id: ConversationId, devices: &[usize]) {
        let known = |world: &Self| {
            devices.iter().all(|device| {
                let chat = world.devices[*device].chats.get(&id);
                chat.is_some_and(|chat| chat.position == chat.target && !chat.repairing)
            })
        };
        assert!(self.run_until(SOON, known), "{id} does not come to everybody in it");
    }

    /// Sends a text.
    pub(crate) fn say(&mut self, device: usize, conversation: ConversationId, text: &str) -> u128 {
        let body = text.as_bytes().to_vec();
        self.submit(device, Op::Send { conversation, reply_to: 0, mentions: Vec::new(), body })
    }

    /// Sends a text and waits for the ack.
    pub(crate) fn say_and_wait(&mut self, device: usize, conversation: ConversationId, text: &str) -> u128 {
        let request = self.say(device, conversation, text);
        assert!(self.wait_for(device, request), "{text:?} is not answered");
        request
    }

    /// Waits until a request has ended; `false`: it does not.
    pub(crate) fn wait_for(&mut self, device: usize, request: u128) -> bool {
        self.run_until(SOON, |world| !world.devices[device].pending.contains_key(&request))
    }

    /// Sends many texts, no faster than is allowed.
    pub(crate) fn say_many(&mut self, device: usize, conversation: ConversationId, count: usize, size: usize) {
        for number in 0..count {
            self.say(device, conversation, &format!("{number:0size$}"));
            if number % 10 == 9 {
                self.run_for(Duration::from_millis(100));
            }
        }
        let done = self.run_until(SOON, |world| world.devices[device].pending.is_empty());
        assert!(done, "{:?}", self.devices[device].pending);
    }

    /// The messages on a device's screen, oldest first.
    pub(crate) fn screen(&self, device: usize, id: ConversationId) -> Vec<String> {
        let messages = self.devices[device].chats.get(&id).map(|chat| &chat.messages);
        let body = |(_, body): &(UserId, Vec<u8>)| String::from_utf8_lossy(body).into_owned();
        messages.into_iter().flat_map(|messages| messages.values()).map(body).collect()
    }

    /// Takes a device off the network; it stays away until told otherwise.
    pub(crate) fn go_away(&mut self, device: usize, ending: Ending) {
        self.accounts[device].held = true;
        self.drop_connection(device, ending);
    }

    /// Lets a device connect again, and waits until it is welcome.
    pub(crate) fn come_back(&mut self, device: usize) {
        self.accounts[device].held = false;
        self.schedule.after(Duration::ZERO, Event::Connect(device));
        assert!(self.run_until(SOON, |world| world.devices[device].link == Link::Up), "device {device} is not welcome");
    }

    /// A network switch: away and back.
    pub(crate) fn switch_network(&mut self, device: usize) {
        self.go_away(device, Ending::Lost);
        self.come_back(device);
    }

    /// Lets a device stop, or go on, taking what it is sent.
    pub(crate) fn set_reading(&mut self, device: usize, reads: bool) {
        let id = self.accounts[device].conn.expect("it is connected");
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.held = !reads;
        }
        self.schedule.after(Duration::ZERO, Event::Pump(id));
    }

    /// Waits until nothing is under way, and until what was sent last has arrived.
    pub(crate) fn settle(&mut self) {
        for _ in 0..2 {
            assert!(self.run_until(Duration::from_secs(60), Self::is_quiet), "the world does not come to rest");
            self.run_for(Duration::from_secs(1));
        }
    }

    /// How often a device was refused in this way.
    pub(crate) fn closes(&self, device: usize, code: CloseCode) -> usize {
        self.devices[device].closes.iter().filter(|other| **other == code).count()
    }

    /// Stored events of a conversation that this request made.
    pub(crate) fn stored_by(&self, request: u128) -> usize {
        let events = self.view.all_events().filter_map(|bytes| crate::wire::EventCopy::read(bytes).ok());
        events.filter(|event| event.request == request).count()
    }

    /// A counter of all shards.
    pub(crate) fn count(&self, of: impl Fn(&tern_core_shard::Counters) -> u64) -> u64 {
        self.shards.iter().map(|shard| of(&shard.counters())).sum()
    }
}
