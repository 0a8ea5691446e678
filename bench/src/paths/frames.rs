//! Frames: to encode, to validate in place, and to read what a shard reads of them. Nothing is copied by validating, so it must not depend on
//! the size of the body.

use std::hint::black_box;

use tern_protocol::client::SendMessage;
use tern_protocol::frame;
use tern_protocol::limit::BODY_SIZE_MAX;
use tern_protocol::server::Event;
use tern_protocol::{ConversationId, RequestId, UserId};

use super::path::{Path, Round};
use crate::message::{event, send};

/// A chat message. Unit: bytes of body.
const BODY_SIZE: usize = 150;
/// Frames in a round. Unit: frames.
const COUNT: u64 = 256;

const FRAME: Path = Path {
    name: "",
    iteration: "a frame",
    count: COUNT,
    warm_up: 1,
    rounds: 2,
    has_crypto: false,
    set_up: || encode_send(BODY_SIZE),
};

pub(super) const PATHS: [Path; 7] = [
    Path { name: "frame/encode/send_message/150", ..FRAME },
    Path { name: "frame/encode/event/150", set_up: || encode_event(BODY_SIZE), ..FRAME },
    Path { name: "frame/encode/event/largest", set_up: || encode_event(BODY_SIZE_MAX), ..FRAME },
    Path { name: "frame/validate/send_message/150", set_up: validate_send, ..FRAME },
    Path { name: "frame/validate/event/150", set_up: || validate_event(BODY_SIZE), ..FRAME },
    Path { name: "frame/validate/event/largest", set_up: || validate_event(BODY_SIZE_MAX), ..FRAME },
    Path { name: "frame/access/event/150", set_up: access, ..FRAME },
];

fn conversation() -> ConversationId {
    ConversationId::group(UserId::from_raw(1), RequestId::from_raw(1))
}

/// A round of the same thing over and over.
fn repeat(mut step: impl FnMut() + 'static) -> Round {
    Box::new(move |meter| meter.measure(&mut || (0..COUNT).for_each(|_| step())))
}

fn encode_send(size: usize) -> Round {
    let (body, mut out) = (vec![b'a'; size], Vec::new());
    repeat(move || {
        out.clear();
        frame::encode(black_box(&send(conversation(), 1, &body)), &mut out);
        black_box(&out);
    })
}

fn encode_event(size: usize) -> Round {
    let (body, mut out) = (vec![b'a'; size], Vec::new());
    repeat(move || {
        out.clear();
        frame::encode(black_box(&event(conversation(), 1, &body)), &mut out);
        black_box(&out);
    })
}

fn validate_send() -> Round {
    let sent = frame::to_vec(&send(conversation(), 1, &[b'a'; BODY_SIZE]));
    repeat(move || {
        let send = frame::decode::<SendMessage<'_>>(black_box(&sent)).expect("it was just encoded");
        black_box(send.body.len());
    })
}

fn validate_event(size: usize) -> Round {
    let happened = frame::to_vec(&event(conversation(), 1, &vec![b'a'; size]));
    repeat(move || {
        let event = frame::decode::<Event<'_>>(black_box(&happened)).expect("it was just encoded");
        black_box(event.body.len());
    })
}

fn access() -> Round {
    let happened = frame::to_vec(&event(conversation(), 1, &[b'a'; BODY_SIZE]));
    repeat(move || {
        let event = frame::decode::<Event<'_>>(black_box(&happened)).expect("it was just encoded");
        black_box((event.conversation.to_native(), event.seq.to_native(), event.time.to_native()));
        black_box((event.visible.to_native(), event.sender.to_native(), event.request.to_native()));
        black_box((event.kind, event.content, event.body.first(), event.mentions.len()));
    })
}
