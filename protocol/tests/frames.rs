//! Every frame kind, byte for byte: the golden files are the promise to clients in other languages, and what `docs/wire-format.md` shows.
//! `TERN_BLESS=1 cargo test -p tern-protocol --test frames` writes them anew; a change of an existing one breaks stored data.

use std::fmt::Write as _;
use std::path::PathBuf;

use proptest::prelude::*;
use tern_protocol::client::{self, At};
use tern_protocol::frame::{self, Encode, Frame, FrameError};
use tern_protocol::server::{self, DirectoryEntry, Head, Member, Profile};
use tern_protocol::{command, limit};

const GROUP: u128 = 0x8000_0000_0000_0007_0123_4567_89ab_cdef;
const REQUEST: u128 = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;

/// One frame of each kind, with its name.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let mut all = client_samples();
    all.extend(command_samples());
    all.extend(server_samples());
    all
}

fn client_samples() -> Vec<(&'static str, Vec<u8>)> {
    let at = [At { conversation: GROUP, seq: 41 }];
    let (request, conversation) = (REQUEST, GROUP);
    vec![
        ("01-hello", enc(&client::Hello { user_seq: 3, token: b"token", client: b"tern-chat/0.1", positions: &at })),
        (
            "02-send-message",
            enc(&client::SendMessage {
                request,
                conversation,
                known: 41,
                reply_to: 40,
                content: 0,
                mentions: &[7, 9],
                body: "héllo".as_bytes(),
            }),
        ),
        (
            "03-edit-message",
            enc(&client::EditMessage { request, conversation, known: 42, target: 42, content: 0, body: b"hello" }),
        ),
        ("04-recall-message", enc(&client::RecallMessage { request, conversation, known: 43, target: 42 })),
        ("05-move-cursor", enc(&client::MoveCursor { request, conversation, seq: 42, visible: 30, cursor: 2 })),
        ("06-typing", enc(&client::Typing { conversation, active: 1 })),
        ("07-watch-presence", enc(&client::WatchPresence { users: &[7, 9] })),
        (
            "08-get-history",
            enc(&client::GetHistory { request, conversation, anchor: u64::MAX, limit: 50, direction: 0 }),
        ),
        (
            "09-get-directory",
            enc(&client::GetDirectory { request, before_time: 0, before_conversation: 0, limit: 100 }),
        ),
        ("0a-get-members", enc(&client::GetMembers { request, conversation, after: 7, limit: 512 })),
        ("0b-get-profiles", enc(&client::GetProfiles { request, users: &[7], name: b"ada" })),
        ("0c-open-direct", enc(&client::OpenDirect { request, user: 9 })),
        ("0d-create-group", enc(&client::CreateGroup { request, flags: 3, title: b"Engines", members: &[7, 9] })),
        ("0e-join-group", enc(&client::JoinGroup { request, conversation })),
        ("0f-leave-group", enc(&client::LeaveGroup { request, conversation })),
        ("10-invite", enc(&client::Invite { request, conversation, users: &[9] })),
        ("11-kick", enc(&client::Kick { request, conversation, user: 9 })),
        ("12-set-role", enc(&client::SetRole { request, conversation, user: 9, role: 2 })),
        ("13-ping", enc(&client::Ping { nonce: 5, positions: &at })),
    ]
}

fn command_samples() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("40-register", enc(&command::Register { name: b"ada", display: b"Ada", password: b"$argon2id$" })),
        ("41-create-user", enc(&command::CreateUser { user: 7, name: b"ada", display: b"Ada" })),
        (
            "42-open-device",
            enc(&command::OpenDevice { user: 7, device: 8, devices_max: 10, secret: [0x11; 32], name: b"phone" }),
        ),
        (
            "43-rotate-device",
            enc(&command::RotateDevice {
                user: 7,
                device: 8,
                generation: 2,
                secret: [0x11; 32],
                successor: [0x22; 32],
                attempt: 5,
            }),
        ),
        ("44-close-device", enc(&command::CloseDevice { user: 7, device: 0 })),
        ("45-set-directory", enc(&command::SetDirectory { conversation: GROUP, user: 7, version: 12, joined: 1 })),
        ("46-enter-world", enc(&command::EnterWorld { user: 7 })),
        ("47-set-rules", enc(&command::SetRules { level: 1, members_max: 10_000, world: 1 })),
        ("48-readmit", enc(&command::Readmit { entity: b"u\0\0\0\0\0\0\0\x07" })),
    ]
}

fn server_samples() -> Vec<(&'static str, Vec<u8>)> {
    let (request, conversation, time) = (REQUEST, GROUP, 1_800_000_000_000_000);
    let event = enc(&event(time));
    let entry = DirectoryEntry {
        conversation,
        head: 42,
        head_visible: 30,
        head_time: time,
        join: 1,
        join_visible: 0,
        read: 41,
        read_visible: 29,
        peer_read: 0,
        peer_delivered: 0,
        members: 3,
        role: 1,
        title: b"Engines".to_vec(),
        preview_seq: 42,
        preview_sender: 7,
        preview: b"hello".to_vec(),
    };
    vec![
        (
            "80-welcome",
            enc(&server::Welcome {
                user: 7,
                device: 8,
                session: 1 << 32,
                time,
                user_seq: 3,
                home: 1,
                shards: 2,
                ping_interval: 25_000,
            }),
        ),
        ("81-reset", enc(&server::Reset { conversation, seq: 42, visible: 30 })),
        ("82-ack", enc(&server::Ack { request, conversation, seq: 42, time })),
        ("83-reject", enc(&server::Reject { request, code: 20, retry_after: 100 })),
        ("84-event", event.clone()),
        ("85-receipt", enc(&server::Receipt { conversation, user: 9, read: 42, read_visible: 30, delivered: 42 })),
        ("86-typing-notice", enc(&server::TypingNotice { conversation, user: 9, active: 1 })),
        ("87-presence-notice", enc(&server::PresenceNotice { user: 9, last_seen: time, online: 0 })),
        ("88-history-page", enc(&server::HistoryPage { request, conversation, head: 42, first: 1, events: &event })),
        ("89-directory-page", enc(&server::DirectoryPage { request, more: 0, entries: vec![entry.clone(), entry] })),
        (
            "8a-members-page",
            enc(&server::MembersPage {
                request,
                conversation,
                total: 1,
                more: 0,
                members: &[Member { user: 7, join: 1, read: 41, role: 3 }],
            }),
        ),
        (
            "8b-profiles",
            enc(&server::Profiles {
                request,
                profiles: vec![Profile { user: 7, name: b"ada".to_vec(), display: b"Ada".to_vec() }],
            }),
        ),
        ("8c-user-event", enc(&server::UserEvent { user_seq: 4, conversation, kind: 1 })),
        (
            "8d-pong",
            enc(&server::Pong { nonce: 5, time, user_seq: 4, heads: &[Head { conversation, seq: 42, visible: 30 }] }),
        ),
        ("8e-drain", enc(&server::Drain { reconnect_after: 750 })),
    ]
}

fn event(time: u64) -> server::Event<'static> {
    server::Event {
        conversation: GROUP,
        seq: 42,
        time,
        visible: 30,
        sender: 7,
        request: REQUEST,
        target: 40,
        revised: 0,
        subject: 0,
        kind: server::event::MESSAGE,
        content: server::content::TEXT,
        role: 0,
        mentions: &[7, 9],
        body: "héllo".as_bytes(),
    }
}

fn enc<F: Encode>(frame: &F) -> Vec<u8> {
    frame::to_vec(frame)
}

/// Reads a frame as the type of its kind; says only whether that works.
fn read(bytes: &[u8]) -> Result<(), FrameError> {
    macro_rules! kinds {
        ($($frame:ty),+ $(,)?) => {
            match frame::open(bytes)?.0 {
                $(<$frame as Frame>::KIND => frame::decode::<$frame>(bytes).map(|_| ()),)+
                other => Err(FrameError::Kind(other.0)),
            }
        };
    }
    kinds!(
        client::Hello<'_>,
        client::SendMessage<'_>,
        client::EditMessage<'_>,
        client::RecallMessage,
        client::MoveCursor,
        client::Typing,
        client::WatchPresence<'_>,
        client::GetHistory,
        client::GetDirectory,
        client::GetMembers,
        client::GetProfiles<'_>,
        client::OpenDirect,
        client::CreateGroup<'_>,
        client::JoinGroup,
        client::LeaveGroup,
        client::Invite<'_>,
        client::Kick,
        client::SetRole,
        client::Ping<'_>,
        command::Register<'_>,
        command::CreateUser<'_>,
        command::OpenDevice<'_>,
        command::RotateDevice,
        command::CloseDevice,
        command::SetDirectory,
        command::EnterWorld,
        command::SetRules,
        command::Readmit<'_>,
        server::Welcome,
        server::Reset,
        server::Ack,
        server::Reject,
        server::Event<'_>,
        server::Receipt,
        server::TypingNotice,
        server::PresenceNotice,
        server::HistoryPage<'_>,
        server::DirectoryPage,
        server::MembersPage<'_>,
        server::Profiles,
        server::UserEvent,
        server::Pong<'_>,
        server::Drain,
    )
}

fn dump(bytes: &[u8]) -> String {
    bytes.chunks(16).enumerate().fold(String::new(), |mut text, (row, chunk)| {
        let _ = write!(text, "{:04x} ", row * 16);
        for byte in chunk {
            let _ = write!(text, " {byte:02x}");
        }
        text.push('\n');
        text
    })
}

#[test]
fn every_kind_has_its_golden_bytes_and_reads_back() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for (name, bytes) in samples() {
        assert_eq!(read(&bytes), Ok(()), "{name}");
        let file = directory.join(format!("{name}.hex"));
        if std::env::var_os("TERN_BLESS").is_some() {
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(&file, dump(&bytes)).unwrap();
        }
        let golden = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(dump(&bytes), golden, "{name}: the wire format changed");
    }
}

#[test]
fn every_golden_file_belongs_to_a_kind() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let names: Vec<String> = samples().into_iter().map(|(name, _)| format!("{name}.hex")).collect();
    for entry in std::fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(names.contains(&name), "{name} belongs to no sample");
    }
}

#[test]
fn the_fixed_part_of_an_event_is_where_the_document_says() {
    let bytes = enc(&event(9));
    let root = bytes.len() - 107;
    assert_eq!(bytes[6..22], [7u64.to_le_bytes(), 9u64.to_le_bytes()].concat());
    assert_eq!(&bytes[22..28], "héllo".as_bytes());
    assert_eq!(root, 28);
    assert_eq!(bytes[root + 16..root + 24], 42u64.to_le_bytes());
}

#[test]
fn a_frame_reads_the_same_at_every_alignment() {
    for (name, bytes) in samples() {
        for offset in 0..16 {
            let mut shifted = vec![0; offset];
            shifted.extend_from_slice(&bytes);
            assert_eq!(read(&shifted[offset..]), Ok(()), "{name} at {offset}");
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    for (name, bytes) in samples() {
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "{name} cut to {length}");
            let mut relabelled = bytes[..length].to_vec();
            if let Some(field) = relabelled.first_chunk_mut::<4>() {
                *field = u32::try_from(length - 4).unwrap().to_le_bytes();
                assert!(read(&relabelled).is_err(), "{name} cut to {length} with a matching length");
            }
        }
    }
}

#[test]
fn every_bit_flip_is_refused_or_another_valid_frame() {
    for (_, bytes) in samples() {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Reading must not panic; what it accepts is a canonical frame of some content.
            let _ = read(&flipped);
        }
    }
}

#[test]
fn two_fields_that_share_bytes_are_refused() {
    let bytes =
        enc(&client::EditMessage { request: 1, conversation: 2, known: 3, target: 4, content: 0, body: &[0; 64] });
    let pointer = bytes.len() - 8;
    let mut refused = 0;
    for back in 1..=64_i32 {
        let mut aliased = bytes.clone();
        let old = i32::from_le_bytes(aliased[pointer..pointer + 4].try_into().unwrap());
        aliased[pointer..pointer + 4].copy_from_slice(&(old + back).to_le_bytes());
        refused += i32::from(read(&aliased).is_err());
    }
    assert_eq!(refused, 64, "a body that does not begin where bodies begin is not canonical");
}

#[test]
fn lengths_are_refused_before_anything_is_read() {
    assert_eq!(frame::size(&[1, 2, 3]), Ok(None));
    assert_eq!(frame::size(&u32::MAX.to_le_bytes()), Err(FrameError::Length(u64::from(u32::MAX))));
    assert_eq!(frame::size(&0u32.to_le_bytes()), Err(FrameError::Length(0)));
    let largest = u32::try_from(limit::FRAME_SIZE_MAX - 4).unwrap();
    assert_eq!(frame::size(&largest.to_le_bytes()), Ok(Some(limit::FRAME_SIZE_MAX)));
    assert!(frame::size(&(largest + 1).to_le_bytes()).is_err());
}

#[test]
fn another_version_is_named() {
    let mut bytes = enc(&client::Typing { conversation: 1, active: 1 });
    bytes[4] = 2;
    assert_eq!(read(&bytes), Err(FrameError::Version(2)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = frame::size(&bytes);
        let _ = read(&bytes);
        let _ = command::CommandHead::split(&bytes);
    }

    #[test]
    fn any_archive_under_any_kind_is_refused_or_read(kind in any::<u8>(), archive in proptest::collection::vec(any::<u8>(), 0..512)) {
        let mut bytes = u32::try_from(archive.len() + 2).unwrap().to_le_bytes().to_vec();
        bytes.extend_from_slice(&[1, kind]);
        bytes.extend_from_slice(&archive);
        let _ = read(&bytes);
    }

    #[test]
    fn what_is_written_is_read_back(body in proptest::collection::vec(any::<u8>(), 0..2048), mentions in proptest::collection::vec(any::<u64>(), 0..64), request in any::<u128>()) {
        let bytes = enc(&client::SendMessage { request, conversation: 1, known: 2, reply_to: 3, content: 1, mentions: &mentions, body: &body });
        let read = frame::decode::<client::SendMessage<'_>>(&bytes).unwrap();
        prop_assert_eq!(read.request.to_native(), request);
        prop_assert_eq!(&read.body[..], &body[..]);
        prop_assert!(read.mentions.iter().map(|user| user.to_native()).eq(mentions.iter().copied()));
    }
}
