//! Named scenarios: one promise each, told as a story. Every one ends with the check of all promises.
//! Virtual time only; the seeds are fixed.

use std::time::Duration;

use tern_core_shard::io::{Ending, Input};
use tern_protocol::client::group;
use tern_protocol::server::role;
use tern_protocol::{CloseCode, RejectCode};

use crate::client::{Ask, Link};
use crate::cluster::Ticket;
use crate::faults::Plan;
use crate::wire::{self, Op};
use crate::world::{Event, World};

fn world(seed: u64) -> World {
    World::new(Plan::calm(seed))
}

/// Goal: what was durable when the process died is neither lost nor sent twice (M2, M3).
/// Method: die between durable and ack; the client sends again by itself.
#[test]
fn resend_after_a_crash_is_delivered_once() {
    let mut world = world(1);
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let chat = world.direct(ada, bob);
    let request = world.say(ada, chat, "hello");
    let durable =
        |world: &World| world.log.all().any(|logged| Op::read(&logged.record.frame).is_some_and(|op| op.0 == request));
    assert!(world.run_until(Duration::from_secs(1), durable));
    world.crash();
    world.settle();
    assert_eq!(world.screen(bob, chat), ["hello"]);
    assert_eq!(world.stored_by(request), 1);
    assert!(world.witness.counts.retries > 0, "the client had to ask again");
    world.check_invariants();
}

/// Goal: a command that was not durable when the process died is stored once, by the resend (M3, M5).
/// Method: die while it waits for the group commit.
#[test]
fn what_a_crash_took_is_sent_again() {
    for seed in 0..8 {
        let mut world = world(seed);
        let (ada, bob) = (world.join("ada"), world.join("bob"));
        let chat = world.direct(ada, bob);
        world.faults.log = (500_000, 900_000);
        let request = world.say(ada, chat, "hello");
        world.run_for(Duration::from_millis(100));
        world.crash();
        world.faults.log = (200, 2_000);
        world.settle();
        assert_eq!(world.stored_by(request), 1);
        assert_eq!(world.screen(bob, chat), ["hello"]);
        world.check_invariants();
    }
}

/// Goal: between a kick and a send there is one order, the same for all (M1, M12).
/// Method: both at once, many times; both orders happen, and in each the sender is told the truth.
#[test]
fn kick_races_send_and_everybody_sees_the_same() {
    let (mut said, mut refused) = (0, 0);
    for seed in 0..20 {
        let mut world = world(seed);
        let (ada, bob, eve) = (world.join("ada"), world.join("bob"), world.join("eve"));
        let room = world.group(0, &[ada, bob, eve]);
        let request = world.say(bob, room, "one more thing");
        let kick = world.submit(ada, Op::Kick { conversation: room, user: world.user(bob) });
        assert!(world.wait_for(bob, request) && world.wait_for(ada, kick));
        let acked = world.witness.acks.contains_key(&(world.user(bob), request));
        world.settle();
        assert_eq!(world.screen(eve, room).len(), usize::from(acked));
        said += u32::from(acked);
        refused += u32::from(!acked);
        world.check_invariants();
    }
    assert!(said > 0 && refused > 0, "{said} said, {refused} refused: no race");
}

/// Goal: a sender who was removed while the ack was on its way still gets the ack (M3).
/// Method: send, lose the connection, be kicked, come back: the resend is answered as the first one was.
#[test]
fn a_kicked_sender_gets_the_ack_of_what_was_stored() {
    let mut world = world(3);
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let room = world.group(0, &[ada, bob]);
    let request = world.say(bob, room, "the last word");
    world.run_until(Duration::from_secs(1), |world| world.screen(ada, room).len() == 1);
    world.go_away(bob, Ending::Lost);
    let kick = world.submit(ada, Op::Kick { conversation: room, user: world.user(bob) });
    assert!(world.wait_for(ada, kick));
    world.come_back(bob);
    assert!(world.wait_for(bob, request));
    assert!(world.witness.acks.contains_key(&(world.user(bob), request)));
    world.check_invariants();
}

/// Goal: a slow reader costs bounded memory and loses nothing (M11, M4).
/// Method: a device stops reading under load; live delivery to it stops; it reads again and catches up by seq.
#[test]
fn slow_reader_lags_then_catches_up() {
    let mut world = World::new(Plan::calm(4).with(|plan| plan.limits.outbox_live_max = 16 * 1024));
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let chat = world.direct(ada, bob);
    world.set_reading(bob, false);
    world.say_many(ada, chat, 100, 1_000);
    assert!(world.witness.waiting_size_max <= 16 * 1024 + 4_096, "{} bytes wait", world.witness.waiting_size_max);
    world.set_reading(bob, true);
    world.settle();
    assert_eq!(world.screen(bob, chat).len(), 100);
    assert!(world.witness.counts.lagging > 0 && world.witness.counts.slow_closes == 0);
    world.check_invariants();
}

/// Goal: who does not read at all is closed, and resumes (M11, M6).
/// Method: a device stops reading for longer than the timeout.
#[test]
fn reader_that_never_reads_is_closed_and_resumes() {
    let mut world = World::new(Plan::calm(5).with(|plan| {
        plan.limits.outbox_live_max = 16 * 1024;
        plan.limits.slow_reader_timeout = Duration::from_secs(3);
    }));
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let chat = world.direct(ada, bob);
    world.set_reading(bob, false);
    world.say_many(ada, chat, 100, 1_000);
    world.run_for(Duration::from_secs(6));
    assert_eq!(world.closes(bob, CloseCode::SlowReader), 1);
    world.settle();
    assert_eq!(world.screen(bob, chat).len(), 100);
    world.check_invariants();
}

/// Goal: a short disconnect touches memory only (M6).
/// Method: away for five messages, back; the view is not asked, nothing is paged, nothing comes twice.
#[test]
fn network_switch_touches_memory_only() {
    let mut world = world(6);
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let chat = world.direct(ada, bob);
    world.say_and_wait(ada, chat, "zero");
    world.settle();
    world.go_away(bob, Ending::Lost);
    for text in ["one", "two", "three", "four", "five"] {
        world.say_and_wait(ada, chat, text);
    }
    let (_, repairs) = (world.view.take_queries(), world.witness.counts.repairs);
    world.come_back(bob);
    world.run_for(Duration::from_millis(500));
    assert_eq!(world.screen(bob, chat), ["zero", "one", "two", "three", "four", "five"]);
    assert_eq!((world.view.take_queries(), world.witness.counts.resets), (0, 0));
    assert_eq!(world.witness.counts.repairs, repairs, "resume brought it, no page was asked for");
    world.check_invariants();
}

/// Goal: a gap beyond memory is a definite reset, never a part (M6).
/// Method: away for more messages than are remembered.
#[test]
fn gap_beyond_memory_is_a_reset() {
    let mut world = world(7);
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let chat = world.direct(ada, bob);
    world.settle();
    world.go_away(bob, Ending::Lost);
    world.say_many(ada, chat, 600, 10);
    world.settle();
    world.say_and_wait(ada, chat, "the last one");
    world.come_back(bob);
    world.run_until(Duration::from_secs(2), |world| world.witness.counts.resets > 0);
    assert_eq!(world.witness.counts.resets, 1);
    assert!(world.screen(bob, chat).is_empty(), "the screen begins again at the head");
    world.check_invariants();
}

/// Goal: a lost last event is found within one ping interval (M7).
/// Method: the network swallows one delivery; nothing else is sent.
#[test]
fn tail_loss_is_found_by_the_next_ping() {
    let mut world = world(8);
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let chat = world.direct(ada, bob);
    world.faults.event_loss = 1000;
    world.say_and_wait(ada, chat, "hello?");
    world.run_for(Duration::from_millis(200));
    assert!(world.screen(bob, chat).is_empty());
    world.faults.event_loss = 0;
    world.run_for(world.plan.limits.ping_interval + Duration::from_millis(200));
    assert_eq!(world.screen(bob, chat), ["hello?"]);
    // The hole is this scenario's own doing.
    world.devices.iter_mut().for_each(|device| device.flows.clear());
    world.check_invariants();
}

/// Goal: a logged-out device is closed within a second and stays out (FEATURES.md 1).
/// Method: the HTTP API logs one of two devices out; the other one stays.
#[test]
fn revoked_device_is_closed_and_stays_out() {
    let mut world = world(9);
    let ada = world.join("ada");
    let user = world.user(ada);
    let phone = world.log_in(user);
    world.schedule.after(Duration::ZERO, Event::Call(Ticket::Revoke { device: phone }));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.closes(phone, CloseCode::Revoked), 1);
    assert_eq!(world.devices[ada].link, Link::Up);
    // A token outlives its session: it must not open another one.
    world.devices[phone].link = Link::Down;
    world.schedule.after(Duration::ZERO, Event::Connect(phone));
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.closes(phone, CloseCode::Revoked), 2);
    world.check_invariants();
}

/// Goal: unread is a formula, and all devices of a user get the same from it (M8).
/// Method: one device reads, the other one writes; each time both list the same count.
#[test]
fn two_devices_agree_on_unread() {
    let mut world = world(10);
    let (ada, phone) = (world.join("ada"), world.join("bob"));
    let user = world.user(phone);
    let laptop = world.log_in(user);
    let chat = world.direct(ada, phone);
    for text in ["one", "two", "three"] {
        world.say_and_wait(ada, chat, text);
    }
    let unread = |world: &mut World| {
        world.settle();
        [phone, laptop].map(|device| {
            world.with_device(device, crate::client::Device::start_walk);
            world.settle();
            let entry = &world.devices[device].listing.as_ref().expect("listed").entries[&chat];
            entry.head_visible - entry.read_visible.max(entry.join_visible)
        })
    };
    assert_eq!(unread(&mut world), [3, 3]);
    let request = world.submit(phone, Op::Read { conversation: chat, seq: 3, visible: 2 });
    assert!(world.wait_for(phone, request));
    assert_eq!(unread(&mut world), [1, 1]);
    world.say_and_wait(laptop, chat, "four");
    assert_eq!(unread(&mut world), [0, 0], "whoever writes has read what stands above");
    world.check_invariants();
}

/// Goal: a conversation that was dropped from memory still recognises a resend (M3).
/// Method: no room in memory; other conversations push it out; then a late copy of a send arrives.
#[test]
fn evicted_conversation_still_recognises_a_resend() {
    let mut world = World::new(Plan::calm(11).with(|plan| plan.limits.cache_size_max = 1));
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let chat = world.direct(ada, bob);
    let request = world.say_and_wait(ada, chat, "once");
    for _ in 0..5 {
        world.group(0, &[bob]);
    }
    world.settle();
    assert!(world.count(|counters| counters.evictions) > 0, "it must have been dropped");
    let copy = world.devices[ada].ops[&request].frame(request, 1);
    world.client_sends(ada, copy);
    world.settle();
    assert_eq!(world.stored_by(request), 1);
    world.check_invariants();
}

/// Goal: a failed append is told, in words that say what to do, and ends by a resend (M5).
/// Method: the log fails every append for a while, in all three ways.
#[test]
fn failed_append_is_told_and_retried() {
    for seed in 0..10 {
        let mut world = world(seed);
        let (ada, bob) = (world.join("ada"), world.join("bob"));
        let chat = world.direct(ada, bob);
        world.faults.append_fail = 1000;
        let request = world.say(ada, chat, "hello");
        world.run_for(Duration::from_secs(1));
        assert!(world.witness.counts.rejects > 0, "nobody was told");
        world.faults.append_fail = 0;
        assert!(world.wait_for(ada, request));
        world.settle();
        assert_eq!(world.stored_by(request), 1);
        assert_eq!(world.screen(bob, chat), ["hello"]);
        world.check_invariants();
    }
}

/// Goal: a resend older than the memory of request ids is not stored twice (M3).
/// Method: send, lose the ack, stay away for 300 messages: the client is told to catch up, and finds its own event.
#[test]
fn very_late_resend_catches_up_first() {
    let mut world = world(12);
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let chat = world.direct(ada, bob);
    world.say_and_wait(ada, chat, "before");
    world.set_reading(ada, false);
    let request = world.say(ada, chat, "did this arrive?");
    world.run_until(Duration::from_secs(1), |world| world.screen(bob, chat).len() == 2);
    world.go_away(ada, Ending::Lost);
    world.say_many(bob, chat, 300, 10);
    world.run_for(Duration::from_secs(60));
    world.come_back(ada);
    assert!(world.wait_for(ada, request));
    assert_eq!((world.witness.counts.catch_ups, world.stored_by(request)), (1, 1));
    world.check_invariants();
}

/// Goal: the same, when the message never arrived: it is stored after all (M5).
/// Method: the frame is lost with the connection; 300 messages later the client comes back.
#[test]
fn very_late_first_send_is_stored_once() {
    let mut world = world(13);
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let chat = world.direct(ada, bob);
    world.say_and_wait(ada, chat, "before");
    world.faults.append_fail = 1000;
    let request = world.say(ada, chat, "late");
    world.go_away(ada, Ending::Goodbye);
    world.run_for(Duration::from_secs(2));
    world.faults.append_fail = 0;
    world.say_many(bob, chat, 300, 10);
    world.run_for(Duration::from_secs(60));
    world.come_back(ada);
    world.settle();
    assert!(world.witness.counts.catch_ups > 0);
    assert_eq!(world.stored_by(request), 1);
    world.check_invariants();
}

/// Goal: live chat does not wait for the view (ARCHITECTURE.md 7).
/// Method: the view is a minute behind; everybody still gets everything at once, and history comes from memory.
#[test]
fn live_chat_goes_on_while_the_view_is_behind() {
    let mut world = world(14);
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let chat = world.direct(ada, bob);
    world.settle();
    world.faults.view_lag = (60_000_000, 60_000_000);
    world.say_many(ada, chat, 400, 20);
    world.run_for(Duration::from_millis(500));
    assert_eq!(world.screen(bob, chat).len(), 400);
    world.with_device(bob, |device, cx| {
        let request = device.ask(Ask::Browse(chat, 0, 1));
        cx.send.push(wire::history(request, chat, 0, 256, 1));
    });
    world.run_for(Duration::from_secs(1));
    assert!(world.devices[bob].asks.is_empty(), "history is answered although the view has none of it");
    world.check_invariants();
}

/// Goal: ids are not secrets: a stranger who knows one gets nothing and changes nothing (M12).
/// Method: every request of a conversation from somebody who is not in it.
#[test]
fn stranger_gets_nothing() {
    let mut world = world(15);
    let (ada, bob, eve) = (world.join("ada"), world.join("bob"), world.join("eve"));
    let conversation = world.group(group::HISTORY_FOR_ALL, &[ada, bob]);
    world.say_and_wait(ada, conversation, "private");
    let user = world.user(bob);
    let ops = [
        Op::Send { conversation, reply_to: 0, mentions: Vec::new(), body: b"hi".to_vec() },
        Op::Edit { conversation, target: 3, body: b"mine now".to_vec() },
        Op::Recall { conversation, target: 3 },
        Op::Read { conversation, seq: 3, visible: 1 },
        Op::Join { conversation },
        Op::Leave { conversation },
        Op::Invite { conversation, users: vec![world.user(eve).raw()] },
        Op::Kick { conversation, user },
        Op::SetRole { conversation, user, role: role::ADMIN },
    ];
    for op in ops {
        let request = world.submit(eve, op.clone());
        assert!(world.wait_for(eve, request), "{op:?} is not answered");
        assert_eq!(world.witness.rejects[&(world.user(eve), request)].code, RejectCode::NotFound, "{op:?}");
    }
    world.client_sends(eve, wire::typing(conversation, 1));
    world.with_device(eve, |device, cx| {
        let request = device.ask(Ask::Browse(conversation, 0, 1));
        cx.send.push(wire::history(request, conversation, 0, 10, 1));
    });
    world.settle();
    assert!(world.witness.viewers.keys().all(|(user, _)| *user != world.user(eve)));
    world.check_invariants();
}

/// Goal: presence is told to those who watch; a network switch is not a departure (M10).
/// Method: watch, switch, leave with goodbye, come back.
#[test]
fn presence_is_damped_and_told() {
    let mut world = world(16);
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    world.direct(ada, bob);
    let peer = world.user(bob);
    world.client_sends(ada, wire::watch(&[peer.raw()]));
    world.run_for(Duration::from_millis(500));
    assert_eq!(world.devices[ada].presence.last(), Some(&(peer, true)));
    world.switch_network(bob);
    world.run_for(Duration::from_secs(10));
    assert!(world.devices[ada].presence.iter().all(|(_, online)| *online), "a switch was told as a departure");
    world.go_away(bob, Ending::Goodbye);
    world.run_for(Duration::from_millis(500));
    assert_eq!(world.devices[ada].presence.last(), Some(&(peer, false)));
    world.come_back(bob);
    world.run_for(Duration::from_millis(500));
    assert_eq!(world.devices[ada].presence.last(), Some(&(peer, true)));
    world.check_invariants();
}

/// Goal: an event costs nothing where nobody of the conversation is online (M9).
/// Method: four shards, two people; no other shard is told of what they say.
#[test]
fn only_shards_with_online_members_are_told() {
    let mut world = World::new(Plan::calm(17).with(|plan| plan.shards = 4));
    let people: Vec<_> = (0..8).map(|number| world.join(&format!("user.{number}"))).collect();
    let chat = world.direct(people[0], people[1]);
    world.settle();
    world.deliveries.clear();
    world.say_many(people[0], chat, 20, 10);
    let told: std::collections::BTreeSet<_> = world.deliveries.iter().map(|(_, shard, _)| *shard).collect();
    assert!(told.len() <= 2, "{told:?}");
    world.check_invariants();
}

/// Goal: before a planned restart everybody is told, everything accepted is answered, nothing is lost (M5).
/// Method: drain under load, stop, start.
#[test]
fn drain_answers_everything_and_restart_resumes() {
    let mut world = world(18);
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let chat = world.direct(ada, bob);
    for number in 0..20 {
        world.say(ada, chat, &format!("{number}"));
    }
    world.run_for(Duration::from_millis(10));
    for shard in 0..world.shards.len() {
        world.turn(shard, Input::Drain { spread_ms: 1_000 });
    }
    world.run_for(Duration::from_secs(2));
    assert!(world.closes(ada, CloseCode::Draining) > 0 && world.closes(bob, CloseCode::Draining) > 0);
    world.crash();
    world.settle();
    assert_eq!(world.screen(bob, chat).len(), 20);
    world.check_invariants();
}

/// Goal: late news of joining does not bring back what was left (M1).
/// Method: the log refuses the news of joining and takes that of leaving; the refused one is tried again after it.
#[test]
fn late_news_of_joining_does_not_undo_leaving() {
    for seed in 0..10 {
        let mut world = world(seed);
        let (ada, bob) = (world.join("ada"), world.join("bob"));
        let room = world.group(group::OPEN, &[ada]);
        world.faults.append_fail = 400;
        for _ in 0..6 {
            for op in [Op::Join { conversation: room }, Op::Leave { conversation: room }] {
                let request = world.submit(bob, op);
                world.run_until(Duration::from_secs(9), |world| !world.devices[bob].pending.contains_key(&request));
            }
        }
        world.faults.append_fail = 0;
        world.check_invariants();
    }
}
