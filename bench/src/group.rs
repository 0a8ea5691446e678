//! A server and a group whose members are registered and not connected. Whoever writes is connected elsewhere.

use tern_protocol::ConversationId;

use crate::fixture::Login;
use crate::site::Site;

/// A server and one group on it.
#[derive(Debug)]
pub struct Group {
    /// The server.
    pub site: Site,
    /// Who may connect.
    pub members: Vec<Login>,
    founder: Login,
    conversation: ConversationId,
    body: Vec<u8>,
}

impl Group {
    /// A group of so many members beside its founder. `body_size`: of each message, in bytes.
    #[must_use]
    pub fn new(members: usize, body_size: usize) -> Self {
        let mut site = Site::new(1);
        let founder = site.register();
        let members = site.register_many(members);
        let conversation = site.create_group(founder, &members);
        Self { site, members, founder, conversation, body: vec![b'a'; body_size] }
    }

    /// Makes the next message durable. It is applied and delivered in the next turn.
    pub fn post(&mut self) {
        self.site.post(self.founder, self.conversation, &self.body);
    }

    /// Opens the conversation of the founder with one member.
    ///
    /// # Panics
    /// When there is no such member.
    pub fn open_direct(&mut self, member: usize) -> ConversationId {
        self.site.open_direct(self.founder, self.members[member])
    }

    /// Makes a message of the founder in another of their conversations durable.
    pub fn post_to(&mut self, conversation: ConversationId) {
        self.site.post(self.founder, conversation, &self.body);
    }

    /// The first frame of a member's client.
    ///
    /// # Panics
    /// When there is no such member.
    #[must_use]
    pub fn hello(&self, member: usize) -> Vec<u8> {
        self.site.hello(self.members[member])
    }
}
