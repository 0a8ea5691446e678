//! What each kind of misbehaviour of a server looks like to one peer.

use super::*;

/// Offers live events; gives the verdicts and how many were applied.
fn live(track: &mut Track, seqs: &[u64]) -> (Vec<Verdict>, usize) {
    let mut applied = 0;
    let verdicts = seqs.iter().map(|seq| track.offer_live(*seq, None, &mut |_| applied += 1)).collect();
    (verdicts, applied)
}

fn placed(position: u64) -> Track {
    let mut track = Track::unplaced(1);
    track.place(position, &mut |_| {});
    track.on_connection();
    track
}

#[test]
fn events_in_order_are_applied_one_by_one() {
    let mut track = placed(4);
    assert_eq!(live(&mut track, &[5, 6, 7]), (vec![Verdict::Fine; 3], 3));
    assert_eq!((track.position(), track.lacks(), track.got), (Some(7), None, 3));
}

#[test]
fn an_event_that_comes_twice_is_a_duplicate_and_applied_once() {
    let mut track = placed(0);
    assert_eq!(live(&mut track, &[1, 2, 2, 1]).0[2..], [Verdict::Duplicated, Verdict::Duplicated]);
    assert_eq!(track.got, 2);
}

#[test]
fn swapped_events_are_a_gap_and_a_late_one_and_all_are_applied() {
    let mut track = placed(0);
    let (verdicts, applied) = live(&mut track, &[1, 3, 2, 4]);
    assert_eq!(verdicts, [Verdict::Fine, Verdict::Gap, Verdict::Reordered, Verdict::Fine]);
    assert_eq!((applied, track.lacks()), (4, None));
}

#[test]
fn a_dropped_event_is_a_gap_and_is_missing_until_a_page_brings_it() {
    let mut track = placed(0);
    assert_eq!(live(&mut track, &[1, 3, 4]), (vec![Verdict::Fine, Verdict::Gap, Verdict::Fine], 1));
    assert_eq!((track.lacks(), track.has_hole()), (Some(1), true));
    let mut ways = Vec::new();
    for seq in 2..=4 {
        track.offer_page(seq, None, &mut |applied| ways.push(applied.way));
    }
    assert_eq!(ways, [Way::Page, Way::Live, Way::Live]);
    assert_eq!((track.lacks(), track.got), (None, 4));
}

#[test]
fn the_live_copy_of_an_event_that_a_page_brought_first_is_no_duplicate() {
    let mut track = placed(0);
    live(&mut track, &[1]);
    for seq in 2..=5 {
        track.offer_page(seq, None, &mut |_| {});
    }
    assert_eq!(live(&mut track, &[2, 3, 4, 5, 6]), (vec![Verdict::Fine; 5], 1));
    assert_eq!(live(&mut track, &[5]).0, [Verdict::Duplicated]);
}

#[test]
fn a_lost_tail_is_missing_once_the_head_is_known() {
    let mut track = placed(0);
    live(&mut track, &[1]);
    track.saw_head(3);
    assert_eq!((track.lacks(), track.has_hole()), (Some(1), false));
}

#[test]
fn events_before_the_place_is_known_are_kept() {
    let mut track = Track::unplaced(1);
    assert_eq!(live(&mut track, &[6, 7]), (vec![Verdict::Fine; 2], 0));
    let mut applied = 0;
    track.place(9, &mut |_| applied += 1);
    assert_eq!((applied, track.position(), track.lacks()), (2, Some(7), Some(7)));
}

#[test]
fn a_new_connection_continues_behind_the_position_and_what_waited_comes_again() {
    let mut track = placed(0);
    live(&mut track, &[1, 2, 5]);
    track.on_connection();
    assert_eq!(live(&mut track, &[3, 4, 5]), (vec![Verdict::Fine; 3], 3));
    assert_eq!(live(&mut track, &[2]).0, [Verdict::Duplicated], "behind the position that the hello named");
}

#[test]
fn what_cannot_be_had_is_counted_and_left_behind() {
    let mut track = placed(0);
    live(&mut track, &[1, 4]);
    let mut applied = 0;
    track.give_up(&mut |_| applied += 1);
    assert_eq!((applied, track.given_up, track.position(), track.got), (1, 2, Some(4), 2));
}

#[test]
fn more_than_the_bound_behind_a_hole_is_dropped_and_still_missing() {
    let mut track = placed(0);
    let last = HELD_MAX as u64 + 9;
    live(&mut track, &(2..=last).collect::<Vec<_>>());
    assert_eq!(track.held.len(), HELD_MAX);
    live(&mut track, &[1]);
    assert_eq!(track.lacks(), Some(HELD_MAX as u64 + 1));
}

#[test]
fn what_may_not_be_read_is_skipped() {
    let mut track = placed(0);
    live(&mut track, &[1, 9]);
    track.skip_unreadable(9, &mut |_| {});
    assert_eq!((track.position(), track.lacks(), track.given_up), (Some(9), None, 0));
}

#[test]
fn the_first_events_of_a_new_conversation_may_be_swapped_too() {
    let mut track = Track::unplaced(1);
    assert_eq!(live(&mut track, &[3, 2, 2]).0, [Verdict::Fine, Verdict::Reordered, Verdict::Duplicated]);
    let mut applied = 0;
    track.place(9, &mut |_| applied += 1);
    assert_eq!((applied, track.position()), (2, Some(3)));
}
