//! What an application keeps so that the next process goes on where this one ended: sends that were not confirmed, and positions. As bytes,
//! in the frames of the protocol, so that a later build reads them.
//! Never kept by the SDK itself: the application writes them into its own storage, in one transaction with what it shows.

use std::collections::BTreeMap;

use bytes::Bytes;
use tern_protocol::client::{ArchivedSendMessage, At, EditMessage, Ping, RecallMessage, SendMessage};
use tern_protocol::frame::{self, Frame as _};
use tern_protocol::limit::POSITIONS_MAX;
use tern_protocol::{ConversationId, FrameError, RequestId, Seq, UserId};

use crate::outbox::PostContent;
use crate::view::{Content, Positions};

/// A message, edit or recall that is stored once although the process may die at any moment: see [`crate::Client::prepare`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingSend {
    /// The name under which the server stores it once.
    pub request: RequestId,
    /// Where to.
    pub conversation: ConversationId,
    /// The newest event of the conversation that was known before it was first sent: what it became stands behind it.
    pub known: Seq,
    /// What is said.
    pub content: PostContent,
}

impl PendingSend {
    /// To be stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.content.encode(self.request, self.conversation, self.known.raw())
    }

    /// As it was stored.
    ///
    /// # Errors
    /// When these are not the bytes of one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FrameError> {
        match frame::open(bytes)?.0 {
            SendMessage::KIND => {
                let f = frame::decode::<SendMessage<'_>>(bytes)?;
                Ok(Self::new(f.request.to_native(), f.conversation.to_native(), f.known.to_native(), message(f)))
            }
            EditMessage::KIND => {
                let f = frame::decode::<EditMessage<'_>>(bytes)?;
                let (content, body) = (Content::from_raw(f.content), Bytes::copy_from_slice(&f.body));
                let content = PostContent::Edit { target: Seq::from_raw(f.target.to_native()), content, body };
                Ok(Self::new(f.request.to_native(), f.conversation.to_native(), f.known.to_native(), content))
            }
            RecallMessage::KIND => {
                let f = frame::decode::<RecallMessage>(bytes)?;
                let content = PostContent::Recall { target: Seq::from_raw(f.target.to_native()) };
                Ok(Self::new(f.request.to_native(), f.conversation.to_native(), f.known.to_native(), content))
            }
            other => Err(FrameError::Kind(other.0)),
        }
    }

    const fn new(request: u128, conversation: u128, known: u64, content: PostContent) -> Self {
        let (request, conversation) = (RequestId::from_raw(request), ConversationId::from_raw(conversation));
        Self { request, conversation, known: Seq::from_raw(known), content }
    }
}

fn message(f: &ArchivedSendMessage<'_>) -> PostContent {
    let reply_to = Some(Seq::from_raw(f.reply_to.to_native())).filter(|seq| *seq != Seq::ZERO);
    PostContent::Message {
        content: Content::from_raw(f.content),
        reply_to,
        mentions: f.mentions.iter().map(|user| UserId::from_raw(user.to_native())).collect(),
        body: Bytes::copy_from_slice(&f.body),
    }
}

impl Positions {
    /// To be stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let all: Vec<At> =
            self.conversations.iter().map(|(id, seq)| At { conversation: id.raw(), seq: seq.raw() }).collect();
        let mut bytes = frame::to_vec(&Ping { nonce: self.user_seq, positions: &[] });
        for positions in all.chunks(POSITIONS_MAX) {
            frame::encode(&Ping { nonce: self.user_seq, positions }, &mut bytes);
        }
        bytes
    }

    /// As they were stored.
    ///
    /// # Errors
    /// When these are not the bytes of positions.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FrameError> {
        let mut this = Self { user_seq: 0, conversations: BTreeMap::new() };
        let mut rest = bytes;
        while let Some(size) = frame::size(rest)? {
            let (some, tail) = rest.split_at_checked(size).ok_or(FrameError::Length(rest.len() as u64))?;
            let some = frame::decode::<Ping<'_>>(some)?;
            this.user_seq = some.nonce.to_native();
            let at = |at: &tern_protocol::client::ArchivedAt| {
                (ConversationId::from_raw(at.conversation.to_native()), Seq::from_raw(at.seq.to_native()))
            };
            this.conversations.extend(some.positions.iter().map(at));
            rest = tail;
        }
        if rest.is_empty() && !bytes.is_empty() { Ok(this) } else { Err(FrameError::Length(rest.len() as u64)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_again() {
        let body = Bytes::from_static(b"hello");
        let contents = [
            PostContent::Message {
                content: Content::Text,
                reply_to: Some(Seq::from_raw(3)),
                mentions: vec![UserId::from_raw(5)],
                body: body.clone(),
            },
            PostContent::Edit { target: Seq::from_raw(4), content: Content::Text, body },
            PostContent::Recall { target: Seq::from_raw(4) },
        ];
        for content in contents {
            let pending = PendingSend::new(1 << 100, 7 << 64 | 9, 40, content);
            let bytes = pending.to_bytes();
            assert_eq!(PendingSend::from_bytes(&bytes), Ok(pending));
            assert!(PendingSend::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        }
        for count in [0, 1, POSITIONS_MAX as u64, 2 * POSITIONS_MAX as u64 + 1] {
            let place = |n| (ConversationId::from_raw(u128::from(n)), Seq::from_raw(n + 1));
            let positions = Positions { user_seq: 9, conversations: (0..count).map(place).collect() };
            let bytes = positions.to_bytes();
            assert_eq!(Positions::from_bytes(&bytes), Ok(positions));
            assert!(Positions::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        }
    }
}
