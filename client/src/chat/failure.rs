//! Why a command failed: one line for the person, one number for the script. Never a debug format.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the SDK's errors are open: what a later version adds falls under the rest"
)]

use std::fmt;
use std::process::ExitCode;

use tern_client::auth::AuthError;
use tern_client::{BuildError, RequestError, SendError, StopReason, TokenError};

/// Who must act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Something on this machine.
    Local,
    /// The command line.
    Usage,
    /// Log in first, or with another password.
    LoggedOut,
    /// The server refused: asking again changes nothing.
    Refused,
    /// The server could not be reached, or did not answer in time.
    Network,
    /// The server is not who it should be.
    Untrusted,
}

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    text: String,
}

impl Failure {
    pub(crate) fn new(cause: Cause, text: impl fmt::Display) -> Self {
        Self { cause, text: text.to_string() }
    }

    pub(crate) fn usage(text: impl fmt::Display) -> Self {
        Self::new(Cause::Usage, text)
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.cause {
            Cause::Local => 1,
            Cause::Usage => 2,
            Cause::LoggedOut => 3,
            Cause::Refused => 4,
            Cause::Network => 5,
            Cause::Untrusted => 6,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Part of it may be the server's own words.
        f.write_str(&crate::text::clean_line(&self.text))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Cause::Local, error)
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Self {
        let cause = match &error {
            AuthError::BadCredentials | AuthError::LoggedOut => Cause::LoggedOut,
            AuthError::NameTaken | AuthError::Invalid(_) => Cause::Refused,
            AuthError::Network(error) if error.is_untrusted() => Cause::Untrusted,
            _ => Cause::Network,
        };
        let hint = match (cause, &error) {
            (Cause::Network, AuthError::Network(_)) => ": is the server running, and is --server right?",
            (Cause::LoggedOut, AuthError::BadCredentials) => "; tern-chat register makes an account",
            _ => "",
        };
        if cause == Cause::Untrusted {
            return untrusted(&error);
        }
        Self::new(cause, format!("{error}{hint}"))
    }
}

/// A changed key says itself what to do; an unknown certificate may be one's own.
fn untrusted(why: &impl fmt::Display) -> Failure {
    let why = why.to_string();
    let hint = if why.contains("known_servers") {
        ""
    } else {
        ": give --ca FILE with its certificate, or --trust-first-use if you know that it is yours"
    };
    Failure::new(Cause::Untrusted, format!("{why}{hint}"))
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Auth(error) => error.into(),
            TokenError::LoggedOut => Self::new(Cause::LoggedOut, "not logged in: run tern-chat login"),
            other => Self::new(Cause::Local, other),
        }
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Token(error) => error.into(),
            BuildError::Stopped(reason) => reason.into(),
            BuildError::NoUser => Self::usage("who are you? give --user NAME"),
            BuildError::Address(error) => Self::usage(error),
            BuildError::Trust(error) => Self::new(Cause::Local, error),
            other => Self::new(Cause::Network, format!("{other}; is the server running, and is --server right?")),
        }
    }
}

impl From<StopReason> for Failure {
    fn from(reason: StopReason) -> Self {
        let cause = match &reason {
            StopReason::LoggedOut => Cause::LoggedOut,
            StopReason::Refused(_) => Cause::Refused,
            StopReason::Untrusted(why) => return untrusted(why),
            _ => Cause::Local,
        };
        Self::new(cause, reason)
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let cause = if matches!(error, RequestError::Rejected(_)) { Cause::Refused } else { Cause::Network };
        Self::new(cause, error)
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        let cause = if matches!(error, SendError::Rejected(_)) { Cause::Refused } else { Cause::Network };
        Self::new(cause, error)
    }
}
