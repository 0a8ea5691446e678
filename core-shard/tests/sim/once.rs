//! Once means once, with the whole world: a copy of a request comes out of a network that was given up.

use std::time::Duration;

use tern_protocol::ConversationId;

use crate::faults::Plan;
use crate::world::World;

impl World {
    /// A device gives its connection up and makes another one. The server is not told; what is on the way still arrives.
    fn change_network(&mut self, device: usize) {
        if let Some(conn) = self.accounts[device].conn.take().and_then(|id| self.conns.get_mut(&id)) {
            conn.client_open = false;
        }
        self.devices[device].disconnect(None);
        self.come_back(device);
    }

    /// Something is said, and again on another connection; much is said by another one; then the original arrives. Returns the request.
    pub(crate) fn overtake(&mut self, (device, other): (usize, usize), chat: ConversationId) -> u128 {
        self.say_many(device, chat, 1, 10);
        self.settle();
        self.faults.net = (80_000_000, 80_000_000);
        let request = self.say(device, chat, "hello");
        self.faults.net = (500, 20_000);
        self.change_network(device);
        assert!(self.wait_for(device, request), "the resend is answered");
        self.say_many(other, chat, 300, 10);
        self.run_for(Duration::from_secs(100));
        request
    }
}

/// Goal: a message whose original arrives long after its resend is stored once (M3).
/// Method: the old network holds the original until nothing but the closed session stands between it and the log.
#[test]
fn original_that_was_overtaken_is_stored_once() {
    for seed in 0..4 {
        let mut world = World::new(Plan::calm(seed));
        let (ada, bob) = (world.join("ada"), world.join("bob"));
        let chat = world.direct(ada, bob);
        let request = world.overtake((ada, bob), chat);
        assert_eq!(world.stored_by(request), 1);
        world.check_invariants();
    }
}

/// Goal: a first attempt is done although its conversation is not in memory anywhere, and nobody has to search for it.
/// Method: restart, and speak before the conversation was read from a slow view.
#[test]
fn first_word_after_a_restart_is_not_refused() {
    let mut world = World::new(Plan::calm(5));
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let chat = world.direct(ada, bob);
    world.say_many(bob, chat, 300, 10);
    world.settle();
    world.run_for(Duration::from_secs(100));
    world.faults.query = (300_000, 500_000);
    world.crash();
    let said = [0, 1].map(|_| world.say(ada, chat, "good morning"));
    assert!(said.into_iter().all(|request| world.wait_for(ada, request)));
    assert_eq!(world.witness.counts.catch_ups, 0);
    world.check_invariants();
}
