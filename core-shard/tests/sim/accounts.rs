//! What the HTTP API asks of the owners: names, devices and refresh tokens, with the process dying in between.
//! Never opens a connection but to see that it is closed.

use std::time::Duration;

use tern_core_shard::io::{Reply, Request};
use tern_protocol::{CloseCode, DeviceId, UserId};

use crate::client::Link;
use crate::cluster::Ticket;
use crate::faults::Plan;
use crate::world::{Event, World};

impl World {
    /// Makes a request, without waiting.
    fn request(&mut self, label: u64, request: Request) {
        self.answers.remove(&label);
        self.schedule.after(Duration::ZERO, Event::Call(Ticket::Plain { label, request }));
    }

    /// Makes a request and waits for its answer.
    fn ask_for(&mut self, request: Request) -> Reply {
        self.request(u64::MAX, request);
        assert!(self.run_until(Duration::from_secs(20), |world| world.answers.contains_key(&u64::MAX)), "no answer");
        self.answers.remove(&u64::MAX).expect("it is there")
    }
}

fn register(name: &str) -> Request {
    Request::Register { name: name.into(), display: name.into(), password: "phc".into() }
}

fn open(user: UserId, device: u64) -> Request {
    let (device, secret) = (DeviceId::from_raw(device), [1; 32]);
    Request::OpenDevice { user, device, secret, name: "phone".into(), devices_max: 2 }
}

fn rotate(user: UserId, generation: u32, secret: u8, attempt: u128) -> Request {
    let (device, successor) = (DeviceId::from_raw(1), [secret + 1; 32]);
    Request::RotateDevice { user, device, generation, secret: [secret; 32], successor, attempt }
}

/// Goal: a name has one owner, however many ask for it at once.
#[test]
fn two_registrations_of_one_name_have_one_winner() {
    for seed in 0..10 {
        let mut world = World::new(Plan::calm(seed));
        for label in 0..4 {
            world.request(label, register("ada"));
        }
        assert!(world.run_until(Duration::from_secs(5), |world| world.answers.len() == 4));
        let won: Vec<_> = world.answers.values().filter(|reply| matches!(reply, Reply::Registered { .. })).collect();
        let lost = world.answers.values().filter(|reply| **reply == Reply::NameTaken).count();
        assert_eq!((won.len(), lost), (1, 3), "{:?}", world.answers);
        world.check_invariants();
    }
}

/// Goal: a registration is there wholly or not at all, whenever the process dies.
/// Method: die at a random moment; if the name is taken then, its user can log in.
#[test]
fn registration_survives_a_crash_wholly_or_not_at_all() {
    let (mut there, mut not_there) = (0, 0);
    for seed in 0..30 {
        let mut world = World::new(Plan::calm(seed));
        assert!(world.run_until(Duration::from_secs(1), World::is_up));
        world.faults.log = (1_000, 20_000);
        world.request(0, register("ada"));
        world.run_for(Duration::from_micros(seed * 1_500));
        world.crash();
        assert!(world.run_until(Duration::from_secs(20), World::is_up));
        let Reply::Account(holder) = world.ask_for(Request::FindAccount { name: "ada".into() }) else {
            panic!("no answer")
        };
        (there, not_there) = (there + u32::from(holder.is_some()), not_there + u32::from(holder.is_none()));
        if let Some((user, _)) = holder {
            assert_eq!(world.ask_for(open(user, 1)), Reply::DeviceOpened, "seed {seed}: half a registration");
        }
        if let Some(Reply::Registered { user }) = world.answers.get(&0) {
            let account = Reply::Account(Some((*user, "phc".into())));
            assert_eq!(
                world.ask_for(Request::FindAccount { name: "ada".into() }),
                account,
                "seed {seed}: told, and lost"
            );
        }
        world.check_invariants();
    }
    assert!(there > 0 && not_there > 0, "{there} there, {not_there} not: the crash was never in between");
}

/// Goal: a lost answer to a refresh may be asked for again; a stolen token ends the device's session (FEATURES.md 1).
/// Method: exchange, repeat the exchange, exchange again, then present the first token.
#[test]
fn reused_refresh_token_logs_the_device_out() {
    let mut world = World::new(Plan::calm(3));
    let Reply::Registered { user } = world.ask_for(register("ada")) else { panic!("not registered") };
    assert_eq!(world.ask_for(open(user, 1)), Reply::DeviceOpened);
    assert_eq!(world.ask_for(rotate(user, 1, 1, 77)), Reply::Rotated { generation: 2 });
    assert_eq!(world.ask_for(rotate(user, 1, 1, 77)), Reply::Rotated { generation: 2 }, "the answer was lost");
    assert_eq!(world.ask_for(rotate(user, 2, 2, 78)), Reply::Rotated { generation: 3 });
    world.crash();
    assert_eq!(world.ask_for(rotate(user, 1, 1, 79)), Reply::Refused, "stolen");
    assert_eq!(world.ask_for(Request::ListDevices { user }), Reply::Devices(Vec::new()));
    assert_eq!(world.ask_for(rotate(user, 3, 3, 80)), Reply::Refused, "the thief and the owner are both out");
    world.check_invariants();
}

/// Goal: more devices than allowed log the least recently used one out, and its connection ends.
#[test]
fn oldest_device_gives_way() {
    let mut world = World::new(Plan::calm(4));
    let first = world.join("ada");
    let user = world.user(first);
    world.accounts[first].revoked = true;
    for device in 1..=2 {
        assert_eq!(world.ask_for(open(user, device)), Reply::DeviceOpened);
    }
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.closes(first, CloseCode::Revoked), 1);
    assert_eq!(world.devices[first].link, Link::Revoked);
    let Reply::Devices(devices) = world.ask_for(Request::ListDevices { user }) else { panic!("no list") };
    let left: Vec<_> = devices.iter().map(|device| device.device.raw()).collect();
    assert_eq!(left, [1, 2]);
    world.check_invariants();
}
