//! A run from beginning to end: people register and act while things go wrong; then everything is healed, and everything is checked.
//! Never ends with something under way: what does not come to rest is a violation.

use std::time::Duration;

use crate::client::{Device, Link};
use crate::faults::{Faults, Plan};
use crate::network::ServerEnd;
use crate::witness::Violation;
use crate::world::{Event, World};

/// Time that a healed world may need to come to rest.
const REST_MAX: Duration = Duration::from_secs(180);

impl World {
    /// Plays a plan of the swarm. What is wrong is in the answer.
    pub(crate) fn play(plan: Plan) -> (Self, Vec<Violation>) {
        let mut world = Self::new(plan);
        for index in 0..world.plan.users {
            world.join(&format!("user.{index}"));
            let user = world.users[index];
            for _ in 1..world.rng.work.between(1, world.plan.devices_max) {
                world.log_in(user);
            }
        }
        world.faults = world.plan.faults.clone();
        world.active_until = world.now().after(world.plan.active);
        for device in 0..world.devices.len() {
            let pause = world.rng.work.span((0, 1_000_000));
            world.schedule.after(pause, Event::Act(device));
        }
        if let Some(mean) = world.faults.crash {
            world.schedule.after(mean, Event::Crash);
        }
        world.run_for(world.plan.active);
        let violations = world.verify();
        (world, violations)
    }

    /// Heals the world, lets it come to rest, reads everything back and compares. What is wrong is in the answer.
    pub(crate) fn verify(&mut self) -> Vec<Violation> {
        self.active_until = self.now();
        self.faults = Faults::none();
        for device in 0..self.devices.len() {
            self.accounts[device].held = false;
            self.schedule.after(Duration::from_millis(10), Event::Connect(device));
        }
        for conn in self.conns.keys().copied().collect::<Vec<_>>() {
            if let Some(conn) = self.conns.get_mut(&conn) {
                conn.held = false;
            }
            self.schedule.after(Duration::from_millis(1), Event::Pump(conn));
        }
        if !self.run_until(REST_MAX, Self::is_quiet) {
            let what = self.unrest();
            self.witness.violation("M5", what);
        }
        // Time for two pings: what was lost without a trace is found by them.
        self.run_for(self.plan.limits.ping_interval * 2 + Duration::from_secs(7));
        if !self.run_until(REST_MAX, Self::is_quiet) {
            let what = self.unrest();
            self.witness.violation("M5", what);
        }
        for index in 0..self.devices.len() {
            let device = &mut self.devices[index];
            device.rested = device.chats.iter().map(|(id, chat)| (*id, chat.position)).collect();
            if device.link == Link::Up {
                self.with_device(index, Device::start_audit);
            }
        }
        self.run_until(REST_MAX, |world| {
            world.is_quiet() && world.devices.iter().all(|device| device.audit.as_ref().is_none_or(|audit| audit.done))
        });
        self.compare();
        self.replay_elsewhere();
        self.witness.violations.clone()
    }

    /// [`Self::verify`] for scenarios.
    pub(crate) fn check_invariants(&mut self) {
        let violations = self.verify();
        assert!(violations.is_empty(), "seed {}: {violations:#?}", self.plan.seed);
    }

    /// Whether nothing is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.is_up()
            && self.is_stored()
            && self.shards.iter().all(|shard| shard.counters().aside == 0)
            && self.tickets.is_empty()
            && self.devices.iter().zip(&self.accounts).all(|(device, account)| {
                let behind = device.chats.values().any(|chat| chat.repairing || chat.position < chat.target);
                let idle = device.pending.is_empty() && device.asks.is_empty() && device.walk.is_none() && !behind;
                match device.link {
                    Link::Up => idle,
                    Link::Revoked => true,
                    Link::Down | Link::Greeting => account.held,
                }
            })
            && self.conns.values().all(|conn| conn.client_open || conn.server == ServerEnd::Gone)
    }

    /// What is still under way.
    fn unrest(&self) -> String {
        let mut what = format!("no rest: up {}, stored {}, http {:?}", self.is_up(), self.is_stored(), self.tickets);
        for device in &self.devices {
            let behind: Vec<_> = device.chats.iter().filter(|(_, chat)| chat.position < chat.target).collect();
            if device.link == Link::Revoked {
                continue;
            }
            let busy = !device.pending.is_empty() || !device.asks.is_empty() || !behind.is_empty();
            if busy || device.link != Link::Up || device.walk.is_some() {
                let behind: Vec<_> = behind.iter().map(|(id, chat)| (id, chat.position, chat.target)).collect();
                let (index, link) = (device.index, device.link);
                what += &format!(
                    "\n  device {index} {link:?}: pending {:?}, asks {:?}, behind {behind:?}",
                    device.pending, device.asks
                );
            }
        }
        what
    }
}
