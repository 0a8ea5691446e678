//! The core alone, without a transport: what one message costs before and after the log, for each who gets it, and what a client costs that
//! comes back or reads. Members without a session must cost nothing, a recipient the same in a crowd as alone.

use tern_core_shard::io::{Logged, Table};
use tern_protocol::client::At;
use tern_protocol::limit::DEDUP_WINDOW;
use tern_protocol::{PartitionId, SessionId};

use super::path::{Path, Round};
use crate::fixture::Fixture;
use crate::room::Room;

/// Unit: bytes of body.
const BODY_SIZE: usize = 200;
/// Messages in a round. Unit: messages. Small enough that what they leave behind stays under every limit of a session.
const COUNT: u64 = 64;
/// Rounds of `COUNT` messages that fill a conversation's memory twice.
const FILL: u64 = 2 * DEDUP_WINDOW / COUNT;
/// Conversations that a client resumes in. Unit: conversations.
const RESUMED: u64 = 10;
/// Events that it lacks in each. Unit: events.
const LACKED: u64 = 5;
/// Events of a page. Unit: events.
const PAGE: u16 = 50;

const CORE: Path = Path {
    name: "",
    iteration: "a message",
    count: COUNT,
    warm_up: FILL,
    rounds: 4,
    has_crypto: false,
    set_up: accept,
};
const FAN_OUT: Path = Path { iteration: "a recipient", warm_up: 2 * DEDUP_WINDOW, rounds: 16, ..CORE };

pub(super) const PATHS: [Path; 11] = [
    // A session's frame until its command is handed to the log.
    Path { name: "core/accept", ..CORE },
    // A durable message until event, ack and rows are out.
    Path { name: "core/apply/direct", set_up: || apply(Room::direct(BODY_SIZE)), ..CORE },
    Path { name: "core/apply/group/100", set_up: || apply(Room::quiet_group(100, BODY_SIZE)), ..CORE },
    Path { name: "core/apply/group/10000", set_up: || apply(Room::quiet_group(10_000, BODY_SIZE)), ..CORE },
    // The same message again, recognised and answered.
    Path { name: "core/dedup", iteration: "a resend", set_up: dedup, ..CORE },
    // One durable message until every session's frame was taken.
    Path { name: "core/fan_out/1", count: 1, set_up: || fan_out(1, 0), ..FAN_OUT },
    Path { name: "core/fan_out/100", count: 100, set_up: || fan_out(100, 0), ..FAN_OUT },
    Path { name: "core/fan_out/10000", count: 10_000, warm_up: 8, rounds: 4, set_up: || fan_out(10_000, 0), ..FAN_OUT },
    Path { name: "core/fan_out/100_of_1000", count: 100, set_up: || fan_out(100, 9), ..FAN_OUT },
    // From the hello of a client that lacks 5 events in each of 10 conversations until it has them.
    Path { name: "core/resume", iteration: "a session", count: 1, warm_up: 4, rounds: 8, set_up: resume, ..CORE },
    // 50 events that are in memory.
    Path { name: "core/history", iteration: "a page", count: 1, warm_up: 4, rounds: 8, set_up: history, ..CORE },
];

fn session(room: &Room) -> SessionId {
    room.session.expect("the sender is online")
}

fn accept() -> Round {
    let mut room = Room::direct(BODY_SIZE);
    let session = session(&room);
    let mut appended = Vec::new();
    Box::new(move |meter| {
        let mut frames: Vec<_> = (0..COUNT).map(|_| room.next_frame()).collect();
        meter.measure(&mut || appended.extend(frames.drain(..).map(|frame| room.fixture.accept(session, frame))));
        // The session may only have so many commands under way: they are logged, applied and answered.
        for (partition, record) in appended.drain(..) {
            let logged = room.fixture.log(partition, record);
            room.fixture.apply(logged);
        }
        room.clear();
    })
}

fn apply(mut room: Room) -> Round {
    Box::new(move |meter| {
        let mut messages: Vec<Logged> = (0..COUNT).map(|_| room.next_message()).collect();
        meter.measure(&mut || messages.drain(..).for_each(|message| room.fixture.apply(message)));
        room.clear();
    })
}

fn dedup() -> Round {
    let mut room = Room::direct(BODY_SIZE);
    Box::new(move |meter| {
        let message = room.next_message();
        let (partition, record): (PartitionId, _) = (message.partition, message.record.clone());
        room.fixture.apply(message);
        assert!(has_event(&room.fixture), "a new message is stored");
        room.clear();
        let mut again: Vec<Logged> = (0..COUNT).map(|_| room.fixture.log(partition, record.clone())).collect();
        meter.measure(&mut || again.drain(..).for_each(|message| room.fixture.apply(message)));
        assert!(!has_event(&room.fixture), "a resend is not");
        assert_eq!(room.fixture.take_frames(|_, _| {}) as u64, COUNT, "each is answered, and nobody else hears of it");
    })
}

fn has_event(fixture: &Fixture) -> bool {
    fixture.last_rows().iter().any(|row| row.table == Table::Events)
}

fn fan_out(online: usize, offline: usize) -> Round {
    let mut room = Room::audience(online, offline, BODY_SIZE);
    Box::new(move |meter| {
        let mut message = Some(room.next_message());
        let mut taken = 0;
        meter.measure(&mut || {
            message.take().into_iter().for_each(|message| room.fixture.apply(message));
            taken = room.fixture.take_frames(|_, _| {});
        });
        assert_eq!(taken, online, "everybody gets it once");
    })
}

fn resume() -> Round {
    let mut fixture = Fixture::new();
    let sender = fixture.register();
    let reader = fixture.register();
    let session = fixture.connect(sender);
    let mut positions: Vec<At> = Vec::new();
    for _ in 0..RESUMED {
        let conversation = fixture.create_group(session, sender.user, &[reader]);
        for _ in 0..LACKED {
            let message = fixture.next_message(sender, None, conversation, &[b'a'; BODY_SIZE]);
            fixture.apply(message);
        }
        positions.push(At { conversation: conversation.raw(), seq: 1 });
    }
    fixture.settle();
    Box::new(move |meter| {
        let mut resumed = None;
        meter.measure(&mut || resumed = Some(fixture.resume(reader, &positions)));
        let (session, taken) = resumed.expect("the meter does the work");
        assert!(taken as u64 > RESUMED * LACKED, "a welcome, and every event");
        fixture.disconnect(session);
        fixture.settle();
    })
}

fn history() -> Round {
    let mut room = Room::direct(BODY_SIZE);
    let session = session(&room);
    for _ in 0..PAGE {
        let message = room.next_message();
        room.fixture.apply(message);
    }
    room.clear();
    Box::new(move |meter| meter.measure(&mut || room.fixture.page(session, room.conversation, PAGE)))
}
