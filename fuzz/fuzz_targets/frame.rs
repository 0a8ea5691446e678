//! Any bytes as a frame, and as the archive of every kind. Nothing may panic, and what is read as a message, an event, a ping or a page
//! of profiles is written back as the very same bytes: each content has one encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_protocol::client::{self, At};
use tern_protocol::command;
use tern_protocol::frame::{self, Encode};
use tern_protocol::server::{self, Profile};

fuzz_target!(|bytes: &[u8]| {
    let _ = frame::size(bytes);
    if let Ok((_, archive)) = frame::open(bytes) {
        every_kind(archive);
        rewritten(archive);
    }
    // Without the header's luck: the mutator finds lengths and kinds slowly.
    every_kind(bytes);
    rewritten(bytes);
});

fn every_kind(archive: &[u8]) {
    macro_rules! kinds {
        ($($frame:ty),+ $(,)?) => { $(let _ = frame::decode_archive::<$frame>(archive);)+ };
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
    );
}

fn rewritten(archive: &[u8]) {
    if let Ok(f) = frame::decode_archive::<client::SendMessage<'_>>(archive) {
        let mentions: Vec<u64> = f.mentions.iter().map(|user| user.to_native()).collect();
        assert_same(
            archive,
            &client::SendMessage {
                request: f.request.to_native(),
                conversation: f.conversation.to_native(),
                known: f.known.to_native(),
                reply_to: f.reply_to.to_native(),
                content: f.content,
                mentions: &mentions,
                body: &f.body,
            },
        );
    }
    if let Ok(f) = frame::decode_archive::<client::Ping<'_>>(archive) {
        let at = |at: &client::ArchivedAt| At { conversation: at.conversation.to_native(), seq: at.seq.to_native() };
        let positions: Vec<At> = f.positions.iter().map(at).collect();
        assert_same(archive, &client::Ping { nonce: f.nonce.to_native(), positions: &positions });
    }
    if let Ok(f) = frame::decode_archive::<server::Event<'_>>(archive) {
        let mentions: Vec<u64> = f.mentions.iter().map(|user| user.to_native()).collect();
        assert_same(
            archive,
            &server::Event {
                conversation: f.conversation.to_native(),
                seq: f.seq.to_native(),
                time: f.time.to_native(),
                visible: f.visible.to_native(),
                sender: f.sender.to_native(),
                request: f.request.to_native(),
                target: f.target.to_native(),
                revised: f.revised.to_native(),
                subject: f.subject.to_native(),
                kind: f.kind,
                content: f.content,
                role: f.role,
                mentions: &mentions,
                body: &f.body,
            },
        );
    }
    if let Ok(f) = frame::decode_archive::<server::Profiles>(archive) {
        let profile = |profile: &server::ArchivedProfile| Profile {
            user: profile.user.to_native(),
            name: profile.name.to_vec(),
            display: profile.display.to_vec(),
        };
        let profiles = f.profiles.iter().map(profile).collect();
        assert_same(archive, &server::Profiles { request: f.request.to_native(), profiles });
    }
}

fn assert_same<F: Encode>(archive: &[u8], content: &F) {
    // A larger one cannot be written at all.
    if archive.len() <= tern_protocol::limit::FRAME_SIZE_MAX - tern_protocol::limit::FRAME_HEADER_SIZE {
        let written = frame::to_vec(content);
        assert_eq!(&written[tern_protocol::limit::FRAME_HEADER_SIZE..], archive, "two encodings of one content");
    }
}
