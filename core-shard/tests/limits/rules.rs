//! What decides outcomes stands in the log, and what a build does not know it does not pass. One shard, command by command.

use tern_core_shard::io::{Record, StopReason};
use tern_core_shard::{LEVEL, Limits};
use tern_protocol::command::{CommandHead, SetRules};
use tern_protocol::placement::Placement;
use tern_protocol::{ConversationId, PartitionId, Position, RejectCode, RequestId, client, frame};

use crate::one_shard::{OneShard, acks, rejects, text};
use crate::{fast, pair};

/// Goal: a lowered limit holds for what comes next and undoes nothing.
#[test]
fn a_lowered_limit_keeps_the_members_that_are_there() {
    let mut p = pair(fast());
    p.world.send(p.ada_session, &client::CreateGroup { request: 50, flags: 0, title: b"G", members: &[p.bob.raw()] });
    let group = ConversationId::group(p.ada, RequestId::from_raw(50));
    p.world.restart(Limits { members_max: 1, ..fast() });
    let (ada, bob) = (p.world.open(p.ada), p.world.open(p.bob));
    p.world.take(ada);
    p.world.take(bob);
    p.world.send(bob, &text(group, 51, b"still here"));
    assert_eq!(acks(&p.world.take(bob)).len(), 1);
    let eve = p.world.user("eve");
    p.world.send(ada, &client::Invite { request: 52, conversation: group.raw(), users: &[eve.raw()] });
    let refused = rejects(&p.world.take(ada));
    assert_eq!(refused.first().map(|(_, code, _)| *code), Some(RejectCode::GroupFull));
}

/// Goal: the same rules are not logged again at every start.
#[test]
fn rules_are_logged_only_when_they_change() {
    let other = Limits { members_max: 7, ..fast() };
    let mut world = OneShard::new(other.clone());
    let ends = |world: &OneShard| (0..4).map(|raw| world.end_of(PartitionId::from_raw(raw)).raw()).collect::<Vec<_>>();
    assert_eq!(ends(&world), [1; 4]);
    world.restart(other);
    assert_eq!(ends(&world), [1; 4]);
    world.restart(fast());
    assert_eq!(ends(&world), [2; 4]);
    assert!(world.shard.is_caught_up());
}

/// Goal: until the log has the configured rules nobody is served under others.
#[test]
fn a_shard_whose_rules_are_not_set_is_not_ready() {
    let mut world = OneShard::new(fast());
    world.silent_view = true;
    world.restart(fast());
    assert!(!world.shard.is_caught_up());
    world.answer_backwards();
    assert!(world.shard.is_caught_up());
}

/// Goal: whoever does not know a command stops in front of it, and says what it is.
#[test]
fn a_command_of_an_unknown_kind_stops_its_partition_and_no_other() {
    let partition = PartitionId::from_raw(0);
    for (frame, reason) in [
        (vec![2, 0, 0, 0, 1, 0x7f], StopReason::UnknownKind(0x7f)),
        (vec![2, 0, 0, 0, 9, 0x02], StopReason::FrameVersion(9)),
        (
            frame::to_vec(&SetRules { level: LEVEL + 1, members_max: 9, world: 0 }),
            StopReason::Level { needed: LEVEL + 1, known: LEVEL },
        ),
    ] {
        let mut world = OneShard::new(fast());
        let ada = world.user("ada");
        let end = world.end_of(partition).raw();
        world.log_at(partition, end + 1, Record { head: CommandHead::default(), frame: frame.into() });
        assert_eq!(world.stops, [(partition, world.end_of(partition), reason)]);
        assert!(!world.shard.is_caught_up());
        // What stands behind it is not applied: its rows, and with them the checkpoint, would pass it.
        let applied = world.shard.counters().commands;
        let message = frame::to_vec(&client::OpenDirect { request: 1, user: ada.raw() });
        let head = CommandHead { actor: ada.raw(), ..CommandHead::default() };
        world.log_at(partition, end + 2, Record { head, frame: message.into() });
        assert_eq!(world.shard.counters().commands, applied);
        assert_eq!(world.stops.len(), 1);
    }
}

/// Goal: stored rules of a later level are refused before anything is applied.
#[test]
fn stored_rules_of_a_later_level_stop_the_partition() {
    let mut world = OneShard::new(fast());
    world.store_rules(PartitionId::from_raw(2), LEVEL + 1);
    world.restart(fast());
    let reasons: Vec<_> = world.stops.iter().map(|(partition, _, reason)| (partition.raw(), *reason)).collect();
    assert_eq!(reasons, [(2, StopReason::Level { needed: LEVEL + 1, known: LEVEL })]);
}

/// Goal: positions are ordered, not dense.
/// Method: two commands with a gap between them, whose entities come out of the view in the other order.
#[test]
fn gaps_between_positions_do_not_stop_a_partition() {
    let mut world = OneShard::new(fast());
    let ada = world.user("ada");
    let partition = PartitionId::from_raw(0);
    let placement = Placement::new(4, 1);
    let groups = (1..).map(|request| ConversationId::group(ada, RequestId::from_raw(request)));
    let cold = groups.filter(|id| placement.of_conversation(*id) == partition).take(2);
    let end = world.end_of(partition).raw();
    world.silent_view = true;
    for (gap, id) in [10, 4096].into_iter().zip(cold) {
        let head = CommandHead { actor: ada.raw(), ..CommandHead::default() };
        world.log_at(partition, end + gap, Record { head, frame: frame::to_vec(&text(id, 7, b"x")).into() });
    }
    assert!(!world.shard.is_caught_up());
    world.answer_backwards();
    assert!(world.shard.is_caught_up());
    assert_eq!(world.shard.counters().waiting, 0);
}

/// Goal: no two users get one id, however long a log runs.
#[test]
fn a_partition_stops_at_the_end_of_all_positions() {
    let mut world = OneShard::new(fast());
    let ada = world.user("ada");
    let (partition, end) = (PartitionId::from_raw(0), Position::END);
    let head = CommandHead { actor: ada.raw(), ..CommandHead::default() };
    let record = Record { head, frame: frame::to_vec(&client::OpenDirect { request: 1, user: ada.raw() }).into() };
    world.log_at(partition, end.raw() - 1, record.clone());
    assert!(world.stops.is_empty());
    world.log_at(partition, end.raw(), record);
    assert_eq!(world.stops, [(partition, end, StopReason::PositionsUsedUp)]);
}
