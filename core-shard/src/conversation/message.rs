//! Messages and what happens to them: send, edit, recall, and the cursors that say how far they were read.
//! Checks everything before it changes anything.

use tern_protocol::limit::{DEDUP_WINDOW, KNOWN_FRESH};
use tern_protocol::server::{content, event, role};
use tern_protocol::{RejectCode, RequestId, Seq, Timestamp, UserId, client};

use super::window::fingerprint;
use super::{At, Conversation, Effects, Member, NewEvent, Outcome, Remembered, event_row};
use crate::config::Sabotage;

impl Conversation {
    pub(super) fn send(
        &mut self,
        at: At<'_>,
        actor: UserId,
        f: &client::ArchivedSendMessage<'_>,
        out: &mut Effects,
    ) -> Outcome {
        let request = RequestId::from_raw(f.request.to_native());
        let reply_to = f.reply_to.to_native();
        let mentions: Vec<u64> = f.mentions.iter().map(|user| user.to_native()).collect();
        let print = fingerprint(event::MESSAGE, f.content, reply_to, mentions.iter().copied(), &f.body);
        if let Some(done) = self.once(at, actor, request, f.known.to_native(), print)? {
            return Ok(done);
        }
        if reply_to > self.head.raw() {
            return Err(RejectCode::UnknownTarget);
        }
        let new = NewEvent {
            kind: event::MESSAGE,
            content: f.content,
            target: Seq::from_raw(reply_to),
            mentions: &mentions,
            body: &f.body,
            fingerprint: print,
            ..NewEvent::EMPTY
        };
        let done = self.append(at, actor, request, new, out)?;
        self.read_own(at, actor, out);
        Ok(done)
    }

    pub(super) fn edit(
        &mut self,
        at: At<'_>,
        actor: UserId,
        f: &client::ArchivedEditMessage<'_>,
        out: &mut Effects,
    ) -> Outcome {
        let request = RequestId::from_raw(f.request.to_native());
        let target = Seq::from_raw(f.target.to_native());
        let print = fingerprint(event::EDITED, f.content, target.raw(), std::iter::empty(), &f.body);
        if let Some(done) = self.once(at, actor, request, f.known.to_native(), print)? {
            return Ok(done);
        }
        let old = self.message(target)?;
        if old.head.sender != actor && at.config.has(Sabotage::Permission) {
            return Err(RejectCode::Forbidden);
        }
        let rewritten = self.rewrite(at, old, f.content, &f.body)?;
        let new = NewEvent {
            kind: event::EDITED,
            content: f.content,
            target,
            body: &f.body,
            fingerprint: print,
            ..NewEvent::EMPTY
        };
        let done = self.append(at, actor, request, new, out)?;
        self.replace(rewritten, out);
        Ok(done)
    }

    pub(super) fn recall(
        &mut self,
        at: At<'_>,
        actor: UserId,
        f: &client::ArchivedRecallMessage,
        out: &mut Effects,
    ) -> Outcome {
        let request = RequestId::from_raw(f.request.to_native());
        let target = Seq::from_raw(f.target.to_native());
        let print = fingerprint(event::RECALLED, 0, target.raw(), std::iter::empty(), &[]);
        if let Some(done) = self.once(at, actor, request, f.known.to_native(), print)? {
            return Ok(done);
        }
        let member = self.member(at, actor)?;
        let old = self.message(target)?;
        if old.head.sender != actor && member.role < role::ADMIN && at.config.has(Sabotage::Permission) {
            return Err(RejectCode::Forbidden);
        }
        let rewritten = self.rewrite(at, old, content::RECALLED, &[])?;
        let new = NewEvent { kind: event::RECALLED, target, fingerprint: print, ..NewEvent::EMPTY };
        let done = self.append(at, actor, request, new, out)?;
        self.replace(rewritten, out);
        Ok(done)
    }

    pub(super) fn move_cursor(
        &mut self,
        at: At<'_>,
        actor: UserId,
        f: &client::ArchivedMoveCursor,
        out: &mut Effects,
    ) -> Outcome {
        let (seq, visible) = (f.seq.to_native(), f.visible.to_native());
        let member = self.member(at, actor)?;
        if seq > self.head.raw() || f.cursor != client::cursor::READ {
            return Err(RejectCode::BadCursor);
        }
        if seq <= member.read && at.config.has(Sabotage::CursorMonotone) {
            return Ok((Seq::from_raw(member.read), at.time));
        }
        // Of recent events the count is known; of older ones, which may or may not be in memory, it must at least be possible.
        let recent = seq + DEDUP_WINDOW > self.head.raw();
        let possible = match self.window.at(Seq::from_raw(seq)).filter(|_| recent) {
            Some(event) => event.head.visible == visible,
            None => visible <= seq && visible <= self.visible && self.visible - visible <= self.head.raw() - seq,
        };
        if !possible {
            return Err(RejectCode::BadCursor);
        }
        self.set_read(actor, seq, visible, out);
        out.receipt = Some(actor);
        Ok((Seq::from_raw(seq), at.time))
    }

    /// Whether this request was done before: then the same answer again, also to somebody who is no longer a member.
    /// A stranger is refused, and what is too old to tell.
    pub(super) fn once(
        &self,
        at: At<'_>,
        actor: UserId,
        request: RequestId,
        known: u64,
        fingerprint: u64,
    ) -> Result<Option<(Seq, Timestamp)>, RejectCode> {
        if !at.config.has(Sabotage::Dedup) {
            return self.member(at, actor).map(|_| None);
        }
        if let Some(before) = self.answered(at, actor, request) {
            return match before.fingerprint {
                Some(print) if print != fingerprint => Err(RejectCode::Conflict),
                Some(_) | None => Ok(Some((before.seq, before.time))),
            };
        }
        self.member(at, actor)?;
        // Sent again since it was taken, it stands behind what was heard of then: so a first attempt has an age, too.
        let first = known == KNOWN_FRESH;
        let since = if first { at.heard.raw() } else { known };
        if self.window.reaches(self.moment(at), since) {
            return Ok(None);
        }
        // Who was out since they first tried cannot look for it: what was said before they came in again is not for them to read.
        let unseen = |member: &Member| !first && self.first_readable(member).raw() > known.saturating_add(1);
        let rejoined = self.members.get(&actor).is_some_and(unseen);
        Err(if rejoined { RejectCode::Rejoined } else { RejectCode::CatchUpFirst })
    }

    /// The message at this place.
    fn message(&self, target: Seq) -> Result<&Remembered, RejectCode> {
        self.window
            .at(target)
            .filter(|found| found.head.kind == event::MESSAGE && found.content != content::RECALLED)
            .ok_or(RejectCode::UnknownTarget)
    }

    /// What the next event makes of a message: the message with its newest body, and the edit before without one. So at any time a message
    /// and one edit of it carry a body, and a recall has two places to erase, however often the message was edited.
    fn rewrite(&self, at: At<'_>, old: &Remembered, content: u8, body: &[u8]) -> Result<Vec<Remembered>, RejectCode> {
        let by = self.head.next();
        let edit = match self.last_edit(old) {
            None => None,
            Some(edit) => Some(self.window.at(edit).ok_or(RejectCode::UnknownTarget)?),
        };
        let erased = edit.map(|edit| edit.revise(at.carrier, by, content::RECALLED, &[]));
        let message = old.revise(at.carrier, by, content, body);
        erased.into_iter().chain([message]).map(|event| event.map_err(|_| RejectCode::UnknownTarget)).collect()
    }

    /// The last edit of a message, as the message says. Where a view that is ahead has it as it will be, that is written over, and the edit is
    /// looked for in memory.
    pub(super) fn last_edit(&self, message: &Remembered) -> Option<Seq> {
        if message.revised <= self.head {
            return Some(message.revised).filter(|edit| *edit != Seq::ZERO);
        }
        let of = |event: &&Remembered| event.head.kind == event::EDITED && event.head.target == message.head.seq;
        self.window.newest().find(of).map(|event| event.head.seq)
    }

    /// Puts rewritten events where they are.
    fn replace(&mut self, rewritten: Vec<Remembered>, out: &mut Effects) {
        for event in rewritten {
            out.rows.push(event_row(self.id, event.head.seq, event.frame.clone()));
            self.window.replace(event);
        }
    }

    /// Whoever writes has seen what stands above.
    fn read_own(&mut self, at: At<'_>, actor: UserId, out: &mut Effects) {
        if at.config.has(Sabotage::OwnSendReads) {
            self.set_read(actor, self.head.raw(), self.visible, out);
        }
    }

    fn set_read(&mut self, user: UserId, seq: u64, visible: u64, out: &mut Effects) {
        if let Some(member) = self.members.get_mut(&user) {
            member.row.read = seq;
            member.row.read_visible = visible;
            member.delivered = member.delivered.max(Seq::from_raw(seq));
            let row = member.row;
            self.write_member(user, &row, out);
        }
    }
}
