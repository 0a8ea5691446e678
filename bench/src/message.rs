//! The frames that every bench sends. Bodies are text without meaning, of exactly the size asked for.

use tern_protocol::ConversationId;
use tern_protocol::client::SendMessage;
use tern_protocol::limit::KNOWN_FRESH;
use tern_protocol::server::{self, Event, content};

/// A first attempt to send `body`.
#[must_use]
pub const fn send(conversation: ConversationId, request: u128, body: &[u8]) -> SendMessage<'_> {
    SendMessage {
        request,
        conversation: conversation.raw(),
        known: KNOWN_FRESH,
        reply_to: 0,
        content: content::TEXT,
        mentions: &[],
        body,
    }
}

/// The event that such a message becomes.
#[must_use]
pub const fn event(conversation: ConversationId, seq: u64, body: &[u8]) -> Event<'_> {
    Event {
        conversation: conversation.raw(),
        seq,
        time: 1_700_000_000_000_000,
        visible: seq,
        sender: 1,
        request: seq as u128,
        target: 0,
        revised: 0,
        subject: 0,
        kind: server::event::MESSAGE,
        content: content::TEXT,
        role: 0,
        mentions: &[],
        body,
    }
}
