//! Proof that the checker notices: one mechanism is switched off, and the promise that it holds must be reported as broken.
//! The same runs with the mechanism on are clean, so that it is the mechanism that was noticed.

use std::time::Duration;

use tern_core_shard::Sabotage;
use tern_core_shard::io::Ending;
use tern_protocol::client::group;

use crate::faults::{Faults, Plan};
use crate::wire::Op;
use crate::witness::Violation;
use crate::world::World;

/// Seeds tried before a mechanism counts as unnoticed.
const SEEDS_MAX: u64 = 60;

/// Runs a plan with a mechanism off until the promise is reported broken, then the same seed with it on.
fn notices(
    invariant: &str,
    broken: impl Fn(Plan) -> Plan,
    play: impl Fn(Plan) -> Vec<Violation>,
    plan: impl Fn(u64) -> Plan,
) {
    for seed in 1..=SEEDS_MAX {
        let found = play(broken(plan(seed)));
        if found.iter().any(|violation| violation.invariant == invariant) {
            let clean = play(plan(seed));
            assert!(clean.is_empty(), "seed {seed}, with the mechanism on: {clean:#?}");
            return;
        }
    }
    panic!("{SEEDS_MAX} runs without the mechanism, and {invariant} was never reported");
}

fn off(mechanism: Sabotage) -> impl Fn(Plan) -> Plan {
    move |plan| plan.with(|plan| plan.sabotage = Some(mechanism))
}

fn play(plan: Plan) -> Vec<Violation> {
    World::play(plan).1
}

/// A busy node of the swarm's kind, with the faults that a mechanism is there for.
fn busy(seed: u64, faults: impl Fn(&mut Faults)) -> Plan {
    Plan::calm(seed).with(|plan| {
        plan.users = 5;
        plan.devices_max = 2;
        plan.active = Duration::from_secs(20);
        plan.pace = 200_000;
        faults(&mut plan.faults);
    })
}

#[test]
fn resend_applied_again_is_noticed() {
    notices("M3", off(Sabotage::Dedup), play, |seed| busy(seed, |faults| faults.duplicate = 200));
}

#[test]
fn older_session_left_open_is_noticed() {
    let story = |plan| {
        let mut world = World::new(plan);
        let (ada, bob) = (world.join("ada"), world.join("bob"));
        let chat = world.direct(ada, bob);
        world.overtake((ada, bob), chat);
        world.verify()
    };
    notices("M3", off(Sabotage::OneSession), story, Plan::calm);
}

#[test]
fn command_applied_again_after_a_replay_is_noticed() {
    notices("M1", off(Sabotage::PositionSkip), play, |seed| {
        busy(seed, |faults| {
            faults.crash = Some(Duration::from_secs(4));
            faults.replay_overlap = 30;
        })
    });
}

#[test]
fn unreported_gap_of_a_slow_reader_is_noticed() {
    let story = |plan| {
        let mut world = World::new(plan);
        let (ada, bob) = (world.join("ada"), world.join("bob"));
        let chat = world.direct(ada, bob);
        world.set_reading(bob, false);
        world.say_many(ada, chat, 40, 1_000);
        world.set_reading(bob, true);
        world.run_for(Duration::from_secs(1));
        world.verify()
    };
    let plan = |seed| Plan::calm(seed).with(|plan| plan.limits.outbox_live_max = 16 * 1024);
    notices("M7", off(Sabotage::GapReport), story, plan);
}

#[test]
fn partial_resume_is_noticed() {
    let story = |plan| {
        let mut world = World::new(plan);
        let (ada, bob) = (world.join("ada"), world.join("bob"));
        let chat = world.direct(ada, bob);
        world.go_away(bob, Ending::Lost);
        world.say_many(ada, chat, 600, 10);
        world.settle();
        world.say_many(ada, chat, 1, 10);
        world.come_back(bob);
        world.verify()
    };
    notices("M6", off(Sabotage::ResetOnGap), story, Plan::calm);
}

#[test]
fn unchecked_permission_is_noticed() {
    notices("M12", off(Sabotage::Permission), play, |seed| busy(seed, |_| ()));
}

#[test]
fn subscription_of_a_removed_member_is_noticed() {
    notices("M12", off(Sabotage::KickUnsubscribe), play, |seed| busy(seed, |_| ()));
}

#[test]
fn outbox_without_a_bound_is_noticed() {
    let story = |plan| {
        let mut world = World::new(plan);
        let (ada, bob) = (world.join("ada"), world.join("bob"));
        let chat = world.direct(ada, bob);
        world.set_reading(bob, false);
        world.say_many(ada, chat, 100, 4_000);
        world.verify()
    };
    let plan = |seed| {
        Plan::calm(seed).with(|plan| {
            plan.limits.outbox_live_max = 64 * 1024;
            plan.limits.outbox_close_max = 128 * 1024;
        })
    };
    notices("M11", off(Sabotage::OutboxLimit), story, plan);
}

#[test]
fn checkpoint_ahead_of_what_it_caused_is_noticed() {
    notices("M8", off(Sabotage::EmissionHold), play, |seed| {
        busy(seed, |faults| {
            faults.crash = Some(Duration::from_secs(2));
            faults.log = (100_000, 400_000);
            faults.view_lag = (10, 100);
        })
    });
}

#[test]
fn events_dropped_before_the_view_has_them_are_noticed() {
    let story = |plan| {
        let mut world = World::new(plan);
        let (ada, bob) = (world.join("ada"), world.join("bob"));
        let chat = world.direct(ada, bob);
        world.settle();
        world.faults.view_lag = (30_000_000, 30_000_000);
        world.go_away(bob, Ending::Lost);
        world.say_many(ada, chat, 600, 10);
        // Read from the beginning while only memory can have it.
        world.with_device(ada, |device, cx| {
            let request = device.ask(crate::client::Ask::Browse(chat, 0, 1));
            cx.send.push(crate::wire::history(request, chat, 0, 256, 1));
            device.start_audit(cx);
        });
        world.run_for(Duration::from_secs(2));
        world.devices[ada].audit = None;
        world.verify()
    };
    notices("M4", off(Sabotage::WindowRetention), story, Plan::calm);
}

#[test]
fn own_message_left_unread_is_noticed() {
    notices("M8", off(Sabotage::OwnSendReads), play, |seed| busy(seed, |_| ()));
}

#[test]
fn cursor_that_goes_back_is_noticed() {
    let story = |plan| {
        let mut world = World::new(plan);
        let (ada, bob) = (world.join("ada"), world.join("bob"));
        let chat = world.direct(ada, bob);
        world.say_many(ada, chat, 5, 10);
        for (seq, visible) in [(5, 4), (3, 2)] {
            let request = world.submit(bob, Op::Read { conversation: chat, seq, visible });
            world.wait_for(bob, request);
        }
        world.verify()
    };
    notices("M8", off(Sabotage::CursorMonotone), story, Plan::calm);
}

#[test]
fn delivery_to_every_shard_is_noticed() {
    let story = |plan: Plan| {
        let mut world = World::new(plan);
        let people: Vec<_> = (0..6).map(|number| world.join(&format!("user.{number}"))).collect();
        let chat = world.direct(people[0], people[1]);
        world.say_many(people[0], chat, 5, 10);
        world.verify()
    };
    notices("M9", off(Sabotage::OnlineIndex), story, |seed| Plan::calm(seed).with(|plan| plan.shards = 4));
}

#[test]
fn late_news_of_joining_is_noticed() {
    let story = |plan| {
        let mut world = World::new(plan);
        let (ada, bob) = (world.join("ada"), world.join("bob"));
        let conversation = world.group(group::OPEN, &[ada]);
        world.faults.append_fail = 400;
        for _ in 0..4 {
            for op in [Op::Join { conversation }, Op::Leave { conversation }] {
                let request = world.submit(bob, op);
                world.run_until(Duration::from_secs(9), |world| !world.devices[bob].pending.contains_key(&request));
            }
        }
        world.verify()
    };
    notices("M8", off(Sabotage::DirectoryVersion), story, Plan::calm);
}

#[test]
fn silence_about_a_failed_append_is_noticed() {
    notices("M5", off(Sabotage::AppendFailureReply), play, |seed| busy(seed, |faults| faults.append_fail = 50));
}

#[test]
fn events_beyond_the_head_are_noticed_when_they_count() {
    notices("M1", off(Sabotage::AheadEvents), play, |seed| {
        busy(seed, |faults| {
            faults.crash = Some(Duration::from_secs(3));
            faults.view_lag = (100_000, 3_000_000);
        })
        .with(|plan| plan.ahead = true)
    });
}

#[test]
fn rules_read_from_the_configuration_are_noticed() {
    notices("M1", off(Sabotage::Rules), play, |seed| {
        busy(seed, |faults| {
            faults.crash = Some(Duration::from_secs(3));
            faults.view_lag = (100_000, 3_000_000);
        })
        .with(|plan| plan.relimit = true)
    });
}

#[test]
fn forgotten_commands_of_an_unreadable_entity_are_noticed() {
    notices("M2", off(Sabotage::KeptCommands), play, |seed| {
        busy(seed, |faults| {
            faults.unreadable = 300;
            faults.crash = Some(Duration::from_secs(4));
        })
    });
}

/// Not of the core: the log itself lies.
#[test]
fn ack_before_durable_is_noticed() {
    let broken = |plan: Plan| plan.with(|plan| plan.log_acks_early = true);
    notices("M2", broken, play, |seed| busy(seed, |faults| faults.crash = Some(Duration::from_secs(5))));
}
