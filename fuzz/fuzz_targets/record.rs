//! Any bytes as a record of the log: a frame and the head that says who asked. What splits is put together again as the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_protocol::command::{self, CommandHead};
use tern_protocol::frame::{self, Frame};
use tern_protocol::placement::Placement;
use tern_protocol::{ConversationId, UserId};

fuzz_target!(|record: &[u8]| {
    let Ok((bytes, head)) = CommandHead::split(record) else { return };
    assert_eq!([bytes, &head.to_bytes()].concat(), record);
    let placement = Placement::new(64, 3);
    let _ = placement.of_user(UserId::from_raw(head.actor));
    let Ok((kind, archive)) = frame::open(bytes) else { return };
    macro_rules! commands {
        ($($frame:ty),+ $(,)?) => {
            match kind {
                $(<$frame as Frame>::KIND => drop(frame::decode_archive::<$frame>(archive)),)+
                _ => {}
            }
        };
    }
    commands!(
        command::Register<'_>,
        command::CreateUser<'_>,
        command::OpenDevice<'_>,
        command::RotateDevice,
        command::CloseDevice,
        command::SetDirectory,
        command::EnterWorld,
        command::SetRules,
    );
    if let Ok(f) = frame::decode::<command::SetDirectory>(bytes) {
        let id = ConversationId::from_raw(f.conversation.to_native());
        let _ = (id.kind(), placement.of_conversation(id));
    }
});
