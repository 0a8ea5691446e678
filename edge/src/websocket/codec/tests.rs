//! The codec against the table of hostile inputs, and against tungstenite as an oracle.

use std::io::{Cursor, Read, Write};

use proptest::prelude::*;
use tungstenite::protocol::{Role, WebSocketContext};
use tungstenite::{Error, Message};

use super::*;

/// One frame from a client.
fn masked(first: u8, content: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut out = vec![first];
    match content.len() {
        size @ 0..=125 => out.push(0x80 | u8::try_from(size).unwrap()),
        size @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&u16::try_from(size).unwrap().to_be_bytes());
        }
        size => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(size as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    out.extend(content.iter().zip(mask.into_iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

fn decode(bytes: &[u8]) -> (Vec<Event>, Option<Violation>) {
    let mut decoder = Decoder::default();
    let mut input = BytesMut::from(bytes);
    let mut events = Vec::new();
    loop {
        match decoder.next(&mut input) {
            Ok(Some(event)) => events.push(event),
            Ok(None) => return (events, None),
            Err(violation) => return (events, Some(violation)),
        }
    }
}

fn violation(bytes: &[u8]) -> u16 {
    decode(bytes).1.map_or(0, Violation::code)
}

const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

#[test]
fn s1_frames_that_do_not_exist_are_protocol_errors() {
    let unmasked = [0x82, 0x01, 0x00];
    assert_eq!(violation(&unmasked), 1002);
    for reserved in [0x10, 0x20, 0x40] {
        assert_eq!(violation(&masked(0x82 | reserved, b"x", MASK)), 1002);
    }
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        assert_eq!(violation(&masked(0x80 | opcode, b"", MASK)), 1002);
    }
    assert_eq!(violation(&masked(0x89, &[0; 126], MASK)), 1002, "a long ping");
    assert_eq!(violation(&masked(0x09, b"", MASK)), 1002, "a split ping");
    assert_eq!(violation(&masked(0x80, b"x", MASK)), 1002, "a continuation of nothing");
    let interleaved = [masked(0x02, b"a", MASK), masked(0x82, b"b", MASK)].concat();
    assert_eq!(violation(&interleaved), 1002, "a message within a message");
    let mut long_form = vec![0x82, 0xfe, 0x00, 0x01];
    long_form.extend_from_slice(&MASK);
    long_form.push(0);
    assert_eq!(violation(&long_form), 1002, "a length that is not in its shortest form");
}

#[test]
fn s2_text_is_refused_and_a_close_reason_must_be_utf8() {
    assert_eq!(violation(&masked(0x81, b"hello", MASK)), 1003);
    assert_eq!(violation(&masked(0x88, &[0x03, 0xe8, 0xff], MASK)), 1007);
}

#[test]
fn s3_a_message_over_the_limit_is_refused_by_its_header() {
    let mut header = vec![0x82, 0xff];
    header.extend_from_slice(&(MESSAGE_SIZE_MAX as u64 + 1).to_be_bytes());
    assert_eq!(violation(&header), 1009, "not one byte of it, nor its mask, is needed");
    let first = masked(0x02, &vec![7; MESSAGE_SIZE_MAX - 1], MASK);
    let fits = [first.clone(), masked(0x80, &[7], MASK)].concat();
    assert_eq!(decode(&fits), (vec![Event::Message(Bytes::from(vec![7; MESSAGE_SIZE_MAX]))], None));
    let exceeds = [first, masked(0x80, &[7, 7], MASK)].concat();
    assert_eq!(violation(&exceeds), 1009);
}

#[test]
fn s4_close_codes_that_may_not_be_sent_are_protocol_errors() {
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        assert_eq!(violation(&masked(0x88, &code.to_be_bytes(), MASK)), 1002, "{code}");
    }
    for code in [1000u16, 1001, 1014, 3000, 4000, 4999] {
        assert_eq!(decode(&masked(0x88, &code.to_be_bytes(), MASK)), (vec![Event::Close(Some(code))], None));
    }
    assert_eq!(violation(&masked(0x88, &[3], MASK)), 1002, "half a code");
    assert_eq!(decode(&masked(0x88, b"", MASK)), (vec![Event::Close(None)], None));
}

#[test]
fn a_whole_message_is_a_slice_of_the_input() {
    let mut input = BytesMut::from(&masked(0x82, &[9; 300], MASK)[..]);
    let start = input.as_ptr();
    let event = Decoder::default().next(&mut input).unwrap();
    assert!(matches!(event, Some(Event::Message(bytes)) if bytes.as_ptr() == start.wrapping_add(8)));
}

#[test]
fn a_reason_is_cut_at_a_character() {
    let mut out = Vec::new();
    encode_close(4007, &"é".repeat(100), &mut out);
    assert_eq!(out[..4], [0x88, 2 + 122, 0x0f, 0xa7]);
    assert_eq!(std::str::from_utf8(&out[4..]).unwrap(), "é".repeat(61));
}

/// A stream that tungstenite reads from a table and writes into another.
struct Table {
    input: Cursor<Vec<u8>>,
    output: Vec<u8>,
}

impl Read for Table {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.input.read(buffer)? {
            0 => Err(std::io::ErrorKind::WouldBlock.into()),
            size => Ok(size),
        }
    }
}

impl Write for Table {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What tungstenite makes of the same bytes: its events, and whether it objects.
fn oracle(bytes: &[u8]) -> (Vec<Event>, bool) {
    let mut table = Table { input: Cursor::new(bytes.to_vec()), output: Vec::new() };
    let config = tungstenite::protocol::WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_SIZE_MAX))
        .max_frame_size(Some(MESSAGE_SIZE_MAX));
    let mut socket = WebSocketContext::new(Role::Server, Some(config));
    let mut events = Vec::new();
    loop {
        match socket.read(&mut table) {
            Ok(Message::Binary(bytes)) => events.push(Event::Message(bytes)),
            Ok(Message::Ping(bytes)) => events.push(Event::Ping(bytes)),
            Ok(Message::Pong(_)) => events.push(Event::Pong),
            Ok(Message::Close(frame)) => {
                events.push(Event::Close(frame.map(|frame| frame.code.into())));
                return (events, false);
            }
            // Ours refuses text by its first byte.
            Ok(Message::Text(_) | Message::Frame(_)) => return (events, true),
            Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => return (events, false),
            Err(_) => return (events, true),
        }
    }
}

/// Frames as clients send them, most of them legal.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let content = prop::collection::vec(any::<u8>(), 0..300);
    let frame = (any::<[u8; 4]>(), content, 0u8..20).prop_map(|(mask, content, kind)| {
        let short = &content[..content.len().min(125)];
        match kind {
            0..=7 => masked(0x82, &content, mask),
            8..=9 => masked(0x02, &content, mask),
            10..=11 => masked(0x00, &content, mask),
            12..=13 => masked(0x80, &content, mask),
            14 => masked(0x89, short, mask),
            15 => masked(0x8a, short, mask),
            16 => masked(0x88, &1001u16.to_be_bytes(), mask),
            17 => masked(0x88, &[], mask),
            18 => masked(0x09, short, mask),
            _ => masked(0xc2, &content, mask),
        }
    });
    prop::collection::vec(frame, 0..12).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn ours_and_tungstenite_read_the_same_frames_the_same_way(bytes in frames()) {
        let (mut ours, violation) = decode(&bytes);
        // After a close nothing is read; tungstenite stops there by itself.
        if let Some(end) = ours.iter().position(|event| matches!(event, Event::Close(_))) {
            ours.truncate(end + 1);
            prop_assert_eq!(oracle(&bytes), (ours, false));
        } else {
            prop_assert_eq!(oracle(&bytes), (ours, violation.is_some()));
        }
    }

    #[test]
    fn how_the_bytes_are_cut_makes_no_difference(bytes in frames(), cuts in prop::collection::vec(1usize..40, 1..40)) {
        let whole = decode(&bytes);
        let mut decoder = Decoder::default();
        let mut input = BytesMut::new();
        let mut events = Vec::new();
        let mut rest = &bytes[..];
        let mut cuts = cuts.iter().cycle();
        let mut violation = None;
        'outer: while !rest.is_empty() {
            let (piece, left) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            input.extend_from_slice(piece);
            rest = left;
            loop {
                match decoder.next(&mut input) {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break,
                    Err(error) => {
                        violation = Some(error);
                        break 'outer;
                    }
                }
            }
        }
        prop_assert_eq!((events, violation), whole);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn what_is_encoded_is_what_tungstenite_reads(content in prop::collection::vec(any::<u8>(), 0..70_000)) {
        let mut out = Vec::new();
        encode(Outgoing::Message, &content, &mut out);
        let mut table = Table { input: Cursor::new(out), output: Vec::new() };
        let message = WebSocketContext::new(Role::Client, None).read(&mut table).unwrap();
        prop_assert_eq!(message, Message::Binary(content.into()));
    }
}
