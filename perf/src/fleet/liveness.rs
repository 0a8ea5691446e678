//! What a peer does by the clock: dials again, pings in the server's rhythm, notices that nobody answers, asks for what is missing.

use bytes::Bytes;
use tern_protocol::CloseCode;
use tern_protocol::client::Ping;
use tern_protocol::frame;

use super::book::{Book, Span};
use super::peer::{Command, NEVER, Peer, Phase};

/// Pings without an answer for so many intervals end the connection. Source: docs/wire-format.md, "The life of a connection", 6.
const INTERVALS_MAX: u64 = 2;

impl Peer {
    /// Everything that is due. The worker dials when it says so.
    pub(super) fn on_timer(&mut self, book: &mut Book) -> Option<Command> {
        match self.phase {
            Phase::Away => return None,
            Phase::Waiting(at) if at <= book.now => {
                book.counts.redials += 1;
                return Some(Command::Dial);
            }
            Phase::Waiting(_) => return None,
            Phase::Dialing(until) if until <= book.now => {
                self.close = Some(CloseCode::TooSlow);
                return None;
            }
            Phase::Dialing(_) => return None,
            Phase::Open => {}
        }
        if self.ping_at <= book.now {
            self.ping_at = book.now + self.ping_interval;
            match self.pinged {
                Some((_, at)) if book.now.saturating_sub(at) >= INTERVALS_MAX * self.ping_interval => {
                    self.close = Some(CloseCode::TooSlow);
                    return None;
                }
                Some(_) => {}
                None => {
                    let nonce = self.next_nonce();
                    self.pinged = Some((nonce, book.now));
                    self.write_ping(nonce);
                }
            }
        }
        if self.repair_at <= book.now {
            self.repair_at = NEVER;
            self.repair_all(book);
        }
        if self.entry_due <= book.now {
            self.read_directory(book);
        }
        if self.retry_at <= book.now {
            self.pump(book);
        }
        None
    }

    pub(super) fn write_ping(&mut self, nonce: u64) {
        let positions = self.positions();
        self.out.push(Bytes::from(frame::to_vec(&Ping { nonce, positions: &positions })));
    }

    pub(super) fn on_pong_nonce(&mut self, nonce: u64, book: &mut Book) {
        if self.pinged.is_some_and(|(asked, _)| asked == nonce) {
            self.pinged = None;
            book.counts.pongs += 1;
        } else if nonce != 0
            && let Some(asked) = self.take_asked(u128::from(nonce))
        {
            book.counts.pongs += 1;
            book.record(Span::Ping, asked.intended);
        }
    }

    /// When [`Self::on_timer`] will have something to do.
    pub(super) fn deadline(&self) -> u64 {
        match self.phase {
            Phase::Away => NEVER,
            Phase::Waiting(at) | Phase::Dialing(at) => at,
            Phase::Open => self.ping_at.min(self.repair_at).min(self.retry_at).min(self.entry_due),
        }
    }
}
