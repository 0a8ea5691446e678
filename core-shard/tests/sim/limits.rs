//! Each bound of a shard, met by a client that goes for it: what is said to it, and that everybody else goes on.
//! Bounds of the slow-reader policy are in `scenarios.rs`.

use std::time::Duration;

use tern_protocol::{CloseCode, RejectCode};

use crate::client::Link;
use crate::faults::Plan;
use crate::wire::{self, Op};
use crate::world::World;

/// Goal: more frames than allowed are refused with a pause; many more end the connection, resumably.
#[test]
fn flood_is_refused_then_closed() {
    let mut world = World::new(Plan::calm(1).with(|plan| {
        plan.limits.frames_burst = 50;
        plan.limits.frames_per_second = 50;
        plan.limits.flood_max = 100;
    }));
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let chat = world.direct(ada, bob);
    world.run_for(Duration::from_secs(2));
    for number in 0..70 {
        world.say(ada, chat, &format!("{number}"));
    }
    world.settle();
    assert!(world.witness.counts.rejects > 0, "nothing was refused");
    assert_eq!(world.screen(bob, chat).len(), 70, "what was refused for its rate was sent again");
    for _ in 0..400 {
        world.client_sends(ada, wire::ping(7, &[]));
    }
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.closes(ada, CloseCode::Flooding), 1);
    assert_eq!(world.devices[bob].link, Link::Up);
    world.check_invariants();
}

/// Goal: a shard holds no more sessions than it may; who does not fit is told so, resumably.
#[test]
fn full_shard_says_so() {
    let mut world = World::new(Plan::calm(2).with(|plan| {
        plan.shards = 1;
        plan.limits.sessions_max = 2;
    }));
    let (ada, _bob) = (world.join("ada"), world.join("bob"));
    let eve = world.join("eve");
    assert!(world.closes(eve, CloseCode::Full) > 0);
    assert_eq!(world.devices[ada].link, Link::Up);
    world.go_away(ada, tern_core_shard::io::Ending::Goodbye);
    assert!(world.run_until(Duration::from_secs(10), |world| world.devices[eve].link == Link::Up));
}

/// Goal: the oldest connection gives way when a user has too many.
#[test]
fn oldest_session_gives_way() {
    let mut world = World::new(Plan::calm(3).with(|plan| plan.limits.user_sessions_max = 2));
    let first = world.join("ada");
    let user = world.user(first);
    let second = world.log_in(user);
    let third = world.log_in(user);
    world.run_for(Duration::from_millis(500));
    assert_eq!(world.closes(first, CloseCode::TooManySessions), 1);
    assert_eq!([second, third].map(|device| world.devices[device].link), [Link::Up, Link::Up]);
}

/// Goal: a group takes no more members than it may, and says so.
#[test]
fn full_group_takes_nobody() {
    let mut world = World::new(Plan::calm(4).with(|plan| plan.limits.members_max = 2));
    let (ada, bob, eve) = (world.join("ada"), world.join("bob"), world.join("eve"));
    let conversation = world.group(0, &[ada, bob]);
    let request = world.submit(ada, Op::Invite { conversation, users: vec![world.user(eve).raw()] });
    assert!(world.wait_for(ada, request));
    assert_eq!(world.witness.rejects[&(world.user(ada), request)].code, RejectCode::GroupFull);
    world.check_invariants();
}

/// Goal: commands on their way through the log are bounded per session; reading stops, nothing is refused or lost.
#[test]
fn commands_in_flight_are_bounded() {
    let mut world = World::new(Plan::calm(5).with(|plan| plan.limits.inflight_max = 4));
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let chat = world.direct(ada, bob);
    world.faults.log = (50_000, 50_000);
    for number in 0..40 {
        world.say(ada, chat, &format!("{number}"));
    }
    world.settle();
    assert_eq!(world.screen(bob, chat).len(), 40);
    world.check_invariants();
}

/// Goal: questions that wait for one entity to be loaded are bounded; who is refused is told to come again.
#[test]
fn questions_that_wait_for_a_load_are_bounded() {
    let mut world = World::new(Plan::calm(6).with(|plan| {
        plan.limits.cache_size_max = 1;
        plan.limits.load_queue_max = 2;
    }));
    let people: Vec<_> = (0..5).map(|number| world.join(&format!("user.{number}"))).collect();
    let room = world.group(0, &people);
    world.say_many(people[0], room, 5, 10);
    world.settle();
    world.faults.query = (100_000, 200_000);
    for device in &people {
        world.with_device(*device, |device, cx| {
            for _ in 0..4 {
                let request = device.ask(crate::client::Ask::Browse(room, 0, 1));
                cx.send.push(wire::history(request, room, 0, 10, 1));
            }
        });
    }
    world.settle();
    assert!(world.count(|counters| counters.busy) > 0, "the bound was not met");
    world.check_invariants();
}

/// Goal: who connects and says nothing is closed.
#[test]
fn silence_is_closed() {
    let mut world = World::new(Plan::calm(7).with(|plan| plan.limits.hello_timeout = Duration::from_millis(100)));
    // Every frame takes longer than a hello may.
    world.faults.net = (200_000, 300_000);
    let before = world.witness.violations.len();
    let ada = world.join("ada");
    assert!(world.closes(ada, CloseCode::HelloExpected) > 0);
    assert!(world.devices[ada].link != Link::Up);
    // The checker calls this a close for no reason; here it has one.
    assert!(world.witness.violations.len() > before);
}

/// Goal: a reader that asks for more than it reads is not read from; what waits stays bounded (M11).
#[test]
fn asking_without_reading_is_bounded() {
    let mut world = World::new(Plan::calm(8).with(|plan| {
        plan.limits.outbox_live_max = 16 * 1024;
        plan.limits.outbox_close_max = 128 * 1024;
    }));
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let chat = world.direct(ada, bob);
    world.say_many(ada, chat, 50, 1_000);
    world.settle();
    world.set_reading(bob, false);
    world.with_device(bob, |device, cx| {
        for _ in 0..100 {
            let request = device.ask(crate::client::Ask::Browse(chat, 0, 1));
            cx.send.push(wire::history(request, chat, 0, 100, 1));
        }
    });
    world.run_for(Duration::from_secs(3));
    assert!(world.witness.waiting_size_max <= 128 * 1024, "{} bytes wait", world.witness.waiting_size_max);
    world.set_reading(bob, true);
    world.check_invariants();
}
