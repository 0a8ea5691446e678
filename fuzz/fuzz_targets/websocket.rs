//! Any bytes as what a WebSocket client sends. However they are cut into reads, the same events and the same end come out, and no message
//! is over the limit. The first byte says how they are cut.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "the writing half is not fuzzed")]
#[path = "../../edge/src/websocket/codec.rs"]
mod codec;

use codec::{Decoder, Event, Violation};

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, sent)) = bytes.split_first() else { return };
    let whole = read(sent, sent.len());
    assert_eq!(whole, read(sent, usize::from(*cut)));
    for event in &whole.0 {
        match event {
            Event::Message(content) => assert!(content.len() <= codec::MESSAGE_SIZE_MAX),
            Event::Ping(content) => assert!(content.len() <= 125),
            Event::Pong | Event::Close(_) => {}
        }
    }
});

fn read(sent: &[u8], cut: usize) -> (Vec<Event>, Option<Violation>) {
    let (mut decoder, mut input, mut events) = (Decoder::default(), BytesMut::new(), Vec::new());
    for chunk in sent.chunks(cut.max(1)) {
        input.extend_from_slice(chunk);
        loop {
            match decoder.next(&mut input) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(violation) => return (events, Some(violation)),
            }
        }
    }
    (events, None)
}
