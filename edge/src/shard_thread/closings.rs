//! One log line about each session that the server closes for a reason, and never so many that the log is the next victim.

use std::cell::Cell;

use tern_protocol::{CloseCode, SessionId, Timestamp};

/// Lines in one second; more are counted, and the count stands in the next line. Unit: lines, per shard.
const LINES_MAX: u32 = 20;

/// What was said in the present second.
#[derive(Debug, Default)]
pub(crate) struct Closings {
    second: Cell<u64>,
    lines: Cell<u32>,
    left_out: Cell<u64>,
}

impl Closings {
    /// A session is being closed by the server.
    pub(crate) fn note(&self, session: Option<SessionId>, code: CloseCode, now: Timestamp) {
        if matches!(code, CloseCode::Goodbye | CloseCode::Draining) || !self.may_say(now) {
            return;
        }
        let session = session.map_or(0, SessionId::raw);
        tracing::info!(session, code = ?code, left_out = self.left_out.take(), "closed a session: {code}");
    }

    /// Whether there is room for another line.
    fn may_say(&self, now: Timestamp) -> bool {
        let second = now.raw() / 1_000_000;
        if self.second.replace(second) != second {
            self.lines.set(0);
        }
        let room = self.lines.get() < LINES_MAX;
        if room {
            self.lines.set(self.lines.get() + 1);
        } else {
            self.left_out.set(self.left_out.get() + 1);
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_counted_and_not_written() {
        let closings = Closings::default();
        let now = Timestamp::from_raw(5_000_000);
        let said = (0..1_000).filter(|_| closings.may_say(now)).count();
        assert_eq!(said, LINES_MAX as usize);
        assert_eq!(closings.left_out.get(), 1_000 - u64::from(LINES_MAX));
        assert!(closings.may_say(Timestamp::from_raw(6_000_000)));
    }
}
