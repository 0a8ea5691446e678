//! Why a request was refused and why a connection ended: numbers listed once, never reused. Retired ones stay, marked.

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident($raw:ty) { $($(#[$vdoc:meta])* $variant:ident = $value:literal, $text:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum $name { $($(#[$vdoc])* $variant = $value,)+ }

        impl $name {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The number on the wire.
            #[must_use]
            pub const fn raw(self) -> $raw { self as $raw }

            /// The code with this number, if this build knows it.
            #[must_use]
            pub const fn from_raw(raw: $raw) -> Option<Self> {
                match raw { $($value => Some(Self::$variant),)+ _ => None }
            }

            /// One sentence for a person.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.text()) }
        }
    };
}

codes! {
    /// Why one request was refused. The connection stays.
    RejectCode(u16) {
        /// The frame is well formed, its content is not allowed (empty body, bad UTF-8, unknown role).
        Invalid = 1, "the request is not valid";
        /// The body, title or list is over its limit.
        TooLarge = 2, "the request is too large";
        /// The caller is not a member, or there is no such conversation: the two are not told apart.
        NotFound = 3, "no such conversation, or you are not in it";
        /// A member without the right to do this.
        Forbidden = 4, "you are not allowed to do this";
        /// The named user does not exist; for a kick or a role: is not a member.
        UnknownUser = 5, "no such user";
        /// The event to edit or recall is not a message, or is recalled already; the one to reply to lies beyond the head.
        UnknownTarget = 6, "no such message";
        /// The same request id was used for something else.
        Conflict = 7, "this request id was used for something else";
        /// The group has its full number of members.
        GroupFull = 8, "the group is full";
        /// The resend is older than the server's memory of request ids: page to the head, look for your own event, then resend with a new `known`.
        CatchUpFirst = 9, "too old to tell whether it was stored: catch up first";
        /// A cursor beyond the head, or with an impossible count.
        BadCursor = 10, "the cursor is beyond the head";
        /// The resend is older than the server's memory of request ids, and its sender was out of the conversation since the first attempt:
        /// whether that was stored can be told by nobody who may be asked. A person decides whether to say it again.
        Rejoined = 11, "you were out since you first sent it: whether it was stored cannot be told";
        /// Too many requests; wait `retry_after`.
        RateLimited = 20, "too many requests";
        /// The server has too much queued; wait `retry_after`.
        Busy = 21, "the server is busy";
        /// The log did not confirm: it may or may not be stored. Resend with the same request id.
        OutcomeUnknown = 22, "the outcome is unknown: send it again with the same request id";
        /// The log does not accept writes at present; wait `retry_after`.
        Unavailable = 23, "the server cannot store messages at present";
        /// This build does not know the frame's kind.
        Unsupported = 24, "this server does not know this kind of request";
        /// What was asked for is damaged where it is stored. Asking again gives the same until an operator has repaired it.
        Unreadable = 25, "the server cannot read what was asked for";
        /// A command for a conversation that the server cannot read at present. Not done; wait `retry_after`. Other conversations go on.
        SetAside = 26, "the server cannot read this conversation at present";
    }
}

impl RejectCode {
    /// Whether the same request may succeed later, unchanged.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::RateLimited | Self::Busy | Self::OutcomeUnknown | Self::Unavailable | Self::SetAside)
    }
}

codes! {
    /// Why a connection ended: QUIC application error code, and 4000 + the same number as WebSocket close code.
    CloseCode(u16) {
        /// The client is done, or the server has nothing more to say. A user with no other connection is offline at once.
        Goodbye = 0, "goodbye";
        /// The peer broke the framing: length, version, archive.
        Malformed = 1, "malformed frame";
        /// The frame is over the size limit.
        FrameTooLarge = 2, "frame too large";
        /// The frame's version is not spoken here.
        UnsupportedVersion = 3, "unsupported frame version";
        /// A frame that only the server may send, or one that this state does not allow.
        UnexpectedFrame = 4, "unexpected frame";
        /// The first frame was not a hello, or none came in time.
        HelloExpected = 5, "say hello first";
        /// The token is forged, malformed or not for this server. Log in again.
        BadToken = 6, "the token is not valid";
        /// The token's time is over. Refresh it and connect again.
        ExpiredToken = 7, "the token has expired";
        /// The device was logged out. Log in again.
        Revoked = 8, "this device was logged out";
        /// More requests than any well-behaved client makes. Resumable after a pause.
        Flooding = 9, "too many requests";
        /// The client did not read what was sent. Resumable.
        SlowReader = 10, "too slow to read";
        /// The server is going away; connect again when the drain frame said. Resumable.
        Draining = 11, "the server is restarting";
        /// A frame took too long to arrive. Resumable.
        TooSlow = 12, "a frame took too long";
        /// This user has more connections than are allowed; the oldest was closed.
        TooManySessions = 13, "too many connections of this user";
        /// Not the client's fault. Resumable.
        Internal = 14, "internal error";
        /// The server has as many connections as it may hold. Resumable after a pause.
        Full = 15, "the server is full";
        /// A newer connection of the same device took this one's place. Whoever has no newer one shares its device with another client.
        Replaced = 16, "a newer connection of this device took its place";
    }
}

impl CloseCode {
    /// Added to a code to make it a WebSocket close code: 4000-4999 are for applications.
    ///
    /// # Source
    /// RFC 6455 section 7.4.2: "Status codes in the range 4000-4999 are reserved for private use".
    pub const WEBSOCKET_BASE: u16 = 4000;

    /// Whether the client should connect again by itself with the same token.
    #[must_use]
    pub const fn is_resumable(self) -> bool {
        matches!(self, Self::Flooding | Self::SlowReader | Self::Draining | Self::TooSlow | Self::Internal | Self::Full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_wire() {
        assert!(RejectCode::ALL.iter().all(|code| RejectCode::from_raw(code.raw()) == Some(*code)));
        assert!(CloseCode::ALL.iter().all(|code| CloseCode::from_raw(code.raw()) == Some(*code)));
        assert_eq!(RejectCode::from_raw(999), None);
    }
}
