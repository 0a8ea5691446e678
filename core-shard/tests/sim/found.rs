//! Scenarios that the swarm found first: each was a bug, told here without the noise around it.
//! The swarm may stop meeting them when its dice change; these do not.

use std::time::Duration;

use tern_core_shard::io::Ending;
use tern_protocol::CloseCode;
use tern_protocol::client::group;

use crate::client::{Ask, Device, Link};
use crate::faults::Plan;
use crate::wire::{self, Op};
use crate::world::World;

/// Goal: what is recalled is recalled for the next command too, although the view does not know it (M1).
/// Method: recall an old message twice while the view is behind; another owner, whose view is quick, must agree.
#[test]
fn second_recall_of_an_old_message_is_refused_while_the_view_is_behind() {
    let mut world = World::new(Plan::calm(1));
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let conversation = world.direct(ada, bob);
    world.say_many(ada, conversation, 400, 10);
    world.settle();
    world.faults.view_lag = (20_000_000, 20_000_000);
    let recalls = [0, 1].map(|_| world.submit(ada, Op::Recall { conversation, target: 5 }));
    assert!(recalls.into_iter().all(|request| world.wait_for(ada, request)));
    assert_eq!(recalls.map(|request| world.witness.acks.contains_key(&(world.user(ada), request))), [true, false]);
    world.check_invariants();
}

/// Goal: whether a cursor is accepted does not depend on what happens to be in memory (M1).
/// Method: a wrong count far below the head, while memory holds all and after it holds little.
#[test]
fn old_cursor_is_judged_alike_by_every_owner() {
    for seed in 0..12 {
        let mut world = World::new(Plan::calm(seed));
        let (ada, bob) = (world.join("ada"), world.join("bob"));
        let conversation = world.direct(ada, bob);
        world.settle();
        world.faults.view_lag = (20_000_000, 20_000_000);
        world.say_many(ada, conversation, 400, 10);
        let request = world.submit(bob, Op::Read { conversation, seq: 50, visible: 50 });
        assert!(world.wait_for(bob, request));
        world.faults.view_lag = (500, 1_000);
        world.run_for(Duration::from_secs(25));
        world.replay_elsewhere();
        assert!(world.witness.violations.is_empty(), "{:#?}", world.witness.violations);
    }
}

/// Goal: all devices of somebody who left and came back at once go on getting everything (M6).
/// Method: one device leaves and joins in one breath, while the log refuses some of the news; the other one only watches.
#[test]
fn leaving_and_coming_back_at_once_keeps_every_device_subscribed() {
    for seed in 0..30 {
        let mut world = World::new(Plan::calm(seed));
        let (ada, bob) = (world.join("ada"), world.join("bob"));
        let user = world.user(bob);
        let watching = world.log_in(user);
        let conversation = world.group(group::OPEN, &[ada, bob]);
        world.faults.message = (5, 50_000);
        world.faults.append_fail = 300;
        for op in [Op::Leave { conversation }, Op::Join { conversation }] {
            let request = world.submit(bob, op);
            world.run_until(Duration::from_secs(9), |world| !world.devices[bob].pending.contains_key(&request));
        }
        world.faults.append_fail = 0;
        world.settle();
        world.say_and_wait(ada, conversation, "still there?");
        world.run_for(Duration::from_millis(500));
        for device in [bob, watching] {
            let last = world.screen(device, conversation).pop();
            assert_eq!(last.as_deref(), Some("still there?"), "seed {seed}, device {device}");
        }
        world.check_invariants();
    }
}

/// Goal: a hello that the server is slow to answer is not held against the client.
/// Method: the view does not answer for longer than a hello may take; the close is resumable.
#[test]
fn late_answer_to_a_hello_is_not_the_clients_fault() {
    let mut world = World::new(Plan::calm(3).with(|plan| plan.limits.cache_size_max = 1));
    let ada = world.join("ada");
    world.join("bob");
    world.settle();
    world.go_away(ada, Ending::Goodbye);
    world.join("eve");
    world.settle();
    world.faults.query = (20_000_000, 20_000_000);
    world.accounts[ada].held = false;
    world.schedule.after(Duration::ZERO, crate::world::Event::Connect(ada));
    world.run_for(world.plan.limits.hello_timeout + Duration::from_secs(2));
    assert_eq!((world.closes(ada, CloseCode::Internal), world.closes(ada, CloseCode::HelloExpected)), (1, 0));
    world.check_invariants();
    assert_eq!(world.devices[ada].link, Link::Up);
}

/// Goal: somebody who has just come in is not shown what was said before (M12).
/// Method: history is not for all; both are on one shard, where the conversation's last message is known.
#[test]
fn preview_shows_a_newcomer_nothing_from_before() {
    let mut world = World::new(Plan::calm(4).with(|plan| plan.shards = 1));
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let conversation = world.group(0, &[ada]);
    world.say_and_wait(ada, conversation, "not for newcomers");
    let users = vec![world.user(bob).raw()];
    let request = world.submit(ada, Op::Invite { conversation, users });
    assert!(world.wait_for(ada, request));
    world.settle();
    world.with_device(bob, Device::start_walk);
    world.settle();
    let entry = &world.devices[bob].listing.as_ref().expect("listed").entries[&conversation];
    assert!(entry.preview.is_empty(), "{:?}", String::from_utf8_lossy(&entry.preview));
    world.check_invariants();
}

/// Goal: a look-up that is refused for load does not say that somebody does not exist (M5).
/// Method: no memory, no queue, a slow view: groups are made with many members, all at once.
#[test]
fn busy_look_up_does_not_deny_a_user() {
    let mut world = World::new(Plan::calm(5).with(|plan| {
        plan.limits.cache_size_max = 1;
        plan.limits.load_queue_max = 4;
    }));
    let people: Vec<_> = (0..6).map(|number| world.join(&format!("user.{number}"))).collect();
    world.settle();
    world.faults.query = (5_000, 10_000);
    let members: Vec<u64> = people.iter().map(|device| world.user(*device).raw()).collect();
    for device in &people {
        for _ in 0..3 {
            let op = Op::Create { flags: 0, title: b"all".to_vec(), members: members.clone() };
            world.submit(*device, op);
        }
    }
    world.settle();
    assert!(world.count(|counters| counters.busy) > 0, "the bound was not met");
    assert!(world.witness.rejects.is_empty(), "{:?}", world.witness.rejects);
    world.check_invariants();
}

/// Goal: asking for many pages at once is not punished as not reading (M6: never a loop).
/// Method: forty pages, more than may ever wait; each comes, and the connection stays.
#[test]
fn many_pages_at_once_do_not_close_the_connection() {
    let mut world = World::new(Plan::calm(6).with(|plan| {
        plan.limits.outbox_live_max = 8 * 1024;
        plan.limits.outbox_close_max = 64 * 1024;
    }));
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let chat = world.direct(ada, bob);
    world.say_many(ada, chat, 60, 1_000);
    world.settle();
    world.with_device(bob, |device, cx| {
        for _ in 0..40 {
            let request = device.ask(Ask::Browse(chat, 0, 1));
            cx.send.push(wire::history(request, chat, 0, 256, 1));
        }
    });
    world.settle();
    assert_eq!(world.closes(bob, CloseCode::SlowReader), 0);
    assert!(world.devices[bob].asks.is_empty());
    world.check_invariants();
}

/// Goal: the answer to an old question is not taken for the answer to a new one (M6).
/// Method: out, in, out and in again while messages between shards are slow, so that several watches are under way at once.
#[test]
fn answers_to_old_watches_do_not_count() {
    for seed in 0..30 {
        let mut world = World::new(Plan::calm(seed).with(|plan| plan.shards = 4));
        let (ada, bob) = (world.join("ada"), world.join("bob"));
        let conversation = world.group(0, &[ada, bob]);
        let user = world.user(bob);
        world.faults.message = (5, 150_000);
        for _ in 0..2 {
            world.submit(ada, Op::Kick { conversation, user });
            world.submit(ada, Op::Invite { conversation, users: vec![user.raw()] });
            world.run_for(Duration::from_millis(150));
        }
        world.settle();
        world.say_and_wait(ada, conversation, "still there?");
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.screen(bob, conversation).pop().as_deref(), Some("still there?"), "seed {seed}");
        world.check_invariants();
    }
}

/// Goal: a directory page does not wait for ever for a conversation that is gone by now (M5).
/// Method: ask for it while the answer to a watch is slow, and be removed meanwhile.
#[test]
fn directory_is_answered_although_a_watch_was_given_up() {
    for seed in 0..30 {
        let mut world = World::new(Plan::calm(seed).with(|plan| plan.shards = 4));
        let (ada, bob) = (world.join("ada"), world.join("bob"));
        let conversation = world.group(0, &[ada]);
        let user = world.user(bob);
        world.settle();
        world.faults.message = (50_000, 150_000);
        world.submit(ada, Op::Invite { conversation, users: vec![user.raw()] });
        world.submit(ada, Op::Kick { conversation, user });
        for _ in 0..10 {
            world.run_for(Duration::from_millis(40));
            world.with_device(bob, Device::start_walk);
        }
        world.settle();
        world.check_invariants();
    }
}

/// Goal: what was acknowledged is there after a restart with other limits (M2).
/// Method: a join and a message that only the log has; the operator lowers `members_max` and starts again.
#[test]
fn an_acknowledged_join_survives_a_restart_with_a_lower_members_max() {
    let mut world = World::new(Plan::calm(1));
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let conversation = world.group(group::OPEN, &[ada]);
    world.settle();
    world.faults.view_lag = (60_000_000, 60_000_000);
    let joined = world.submit(bob, Op::Join { conversation });
    assert!(world.wait_for(bob, joined));
    let said = world.say_and_wait(bob, conversation, "acknowledged is durable");
    let user = world.user(bob);
    assert!([joined, said].iter().all(|request| world.witness.acks.contains_key(&(user, *request))));
    world.crash();
    world.faults.view_lag = (500, 20_000);
    world.plan.limits.members_max = 1;
    world.settle();
    assert_eq!([joined, said].map(|request| world.stored_by(request)), [1, 1]);
    world.check_invariants();
}
