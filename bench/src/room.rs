//! A conversation that is ready for its next message: who is in it, who of them is online, and who writes.
//! Never measures.

use tern_core_shard::io::Logged;
use tern_protocol::{ConversationId, SessionId};

use crate::fixture::{Fixture, Login};

/// A conversation and the shard that has it.
#[derive(Debug)]
pub struct Room {
    /// The shard.
    pub fixture: Fixture,
    /// Who writes.
    pub sender: Login,
    /// Where the acks go; `None`: to a session elsewhere.
    pub session: Option<SessionId>,
    /// Which conversation.
    pub conversation: ConversationId,
    body: Vec<u8>,
}

impl Room {
    /// Two users, both online. `body_size`: of each message, in bytes.
    #[must_use]
    pub fn direct(body_size: usize) -> Self {
        let mut fixture = Fixture::new();
        let (sender, peer) = (fixture.register(), fixture.register());
        let session = fixture.connect(sender);
        let conversation = fixture.open_direct(session, sender.user, peer.user);
        fixture.connect(peer);
        fixture.settle();
        Self { fixture, sender, session: Some(session), conversation, body: vec![b'a'; body_size] }
    }

    /// A group of which only the sender is online.
    #[must_use]
    pub fn quiet_group(members: usize, body_size: usize) -> Self {
        let mut fixture = Fixture::new();
        let sender = fixture.register();
        let others = fixture.register_many(members.saturating_sub(1));
        let session = fixture.connect(sender);
        let conversation = fixture.create_group(session, sender.user, &others);
        fixture.settle();
        Self { fixture, sender, session: Some(session), conversation, body: vec![b'a'; body_size] }
    }

    /// A group with so many members online here and `offline` times as many who are not. The sender is connected elsewhere.
    #[must_use]
    pub fn audience(online: usize, offline: usize, body_size: usize) -> Self {
        let mut fixture = Fixture::new();
        let sender = fixture.register();
        let members = fixture.register_many(online * (1 + offline));
        let session = fixture.connect(sender);
        let conversation = fixture.create_group(session, sender.user, &members);
        fixture.disconnect(session);
        for member in members.into_iter().step_by(1 + offline) {
            fixture.connect(member);
        }
        fixture.settle();
        Self { fixture, sender, session: None, conversation, body: vec![b'a'; body_size] }
    }

    /// The next message, durable. To be applied in the order in which they are made.
    pub fn next_message(&mut self) -> Logged {
        self.fixture.next_message(self.sender, self.session, self.conversation, &self.body)
    }

    /// The next message's frame, as the sender's client makes it.
    pub fn next_frame(&mut self) -> bytes::Bytes {
        self.fixture.next_frame(self.conversation, &self.body)
    }

    /// Takes what waits for anybody.
    pub fn clear(&mut self) {
        self.fixture.take_frames(|_, _| {});
    }
}
