//! The frames of the server, as one peer takes them: events into their conversation's place, answers to what was asked, lists of
//! conversations. A frame that does not decode ends the connection, as in any client.

use tern_protocol::limit::DIRECTORY_PAGE_MAX;
use tern_protocol::server::{
    Ack, ArchivedDirectoryEntry, ArchivedEvent, DirectoryPage, Drain, Event, HistoryPage, Pong, PresenceNotice,
    Receipt, Reject, Reset, TypingNotice, UserEvent, Welcome, content, event, user_event,
};
use tern_protocol::{CloseCode, Frame as _, FrameError, RejectCode, frame};

use super::asks::Purpose;
use super::body::{self, Mark};
use super::book::{Book, Span};
use super::peer::{Directory, NEVER, Peer};
use super::verify::{Track, Verdict};

/// A head beyond the position is given this long to arrive by itself. Unit: nanoseconds. As the SDK.
const HEAD_PATIENCE_NS: u64 = 500_000_000;
/// Events of a conversation whose place is not known wait this long for its entry. Unit: nanoseconds. As the SDK.
const ENTRY_PATIENCE_NS: u64 = 2_000_000_000;
/// Events since joining that are fetched when a conversation is new. Unit: events. As the SDK.
const FETCHED_SINCE_JOIN_MAX: u64 = 1024;

impl Peer {
    /// Takes one whole frame.
    pub(super) fn on_frame(&mut self, bytes: &[u8], book: &mut Book) {
        let result = frame::open(bytes).and_then(|(kind, archive)| {
            if kind == Event::KIND {
                self.on_event(frame::decode_archive::<Event<'_>>(archive)?, book);
                return Ok(());
            }
            self.on_other(kind, archive, book)
        });
        if result.is_err() {
            book.counts.malformed += 1;
            self.close = Some(CloseCode::Malformed);
        }
    }

    fn on_other(&mut self, kind: frame::Kind, archive: &[u8], book: &mut Book) -> Result<(), FrameError> {
        match kind {
            Ack::KIND => {
                let ack = frame::decode_archive::<Ack>(archive)?;
                let (request, seq) = (ack.request.to_native(), ack.seq.to_native());
                if !self.on_ack_of_post(request, seq, book) {
                    self.on_ack_of_request(request, ack.conversation.to_native(), seq, book);
                }
                self.pump(book);
            }
            Reject::KIND => {
                let reject = frame::decode_archive::<Reject>(archive)?;
                self.on_reject(
                    reject.request.to_native(),
                    reject.code.to_native(),
                    reject.retry_after.to_native(),
                    book,
                );
            }
            Receipt::KIND => {
                let receipt = frame::decode_archive::<Receipt>(archive)?;
                book.counts.receipts_seen += 1;
                if receipt.user.to_native() == self.user {
                    self.on_own_receipt(receipt.conversation.to_native(), book);
                }
            }
            PresenceNotice::KIND => {
                let notice = frame::decode_archive::<PresenceNotice>(archive)?;
                self.on_presence(notice.user.to_native(), notice.online != 0, book);
            }
            TypingNotice::KIND => {
                frame::decode_archive::<TypingNotice>(archive)?;
                book.counts.typing_seen += 1;
            }
            Pong::KIND => {
                let pong = frame::decode_archive::<Pong<'_>>(archive)?;
                let heads = pong.heads.iter().map(|head| (head.conversation.to_native(), head.seq.to_native()));
                self.on_pong(pong.nonce.to_native(), pong.user_seq.to_native(), heads, book);
            }
            HistoryPage::KIND => self.on_history(archive, book)?,
            DirectoryPage::KIND => self.on_directory_page(archive, book)?,
            Reset::KIND => {
                let reset = frame::decode_archive::<Reset>(archive)?;
                self.on_reset(reset.conversation.to_native(), reset.seq.to_native(), book);
            }
            UserEvent::KIND => {
                let event = frame::decode_archive::<UserEvent>(archive)?;
                let (seq, conversation) = (event.user_seq.to_native(), event.conversation.to_native());
                self.on_user_event(seq, conversation, event.kind, book);
            }
            Welcome::KIND => {
                let welcome = frame::decode_archive::<Welcome>(archive)?;
                let interval = u64::from(welcome.ping_interval.to_native()) * 1_000_000;
                let home = (welcome.home.to_native(), welcome.shards.to_native());
                self.on_welcome(interval, home, welcome.user_seq.to_native(), book);
            }
            // The server closes when all is answered, and then the peer dials again.
            Drain::KIND => {
                frame::decode_archive::<Drain>(archive)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn on_event(&mut self, event: &ArchivedEvent<'_>, book: &mut Book) {
        let (conversation, seq) = (event.conversation.to_native(), event.seq.to_native());
        let mark = mark_of(event, conversation, book);
        if event.sender.to_native() == self.user {
            self.on_own_event(event.request.to_native(), seq, book);
        }
        let (me, since, now) = (self.id, self.since, book.now);
        let index = match self.track_index(conversation) {
            Ok(index) => index,
            Err(index) => {
                self.tracks.insert(index, Track::unplaced(conversation));
                self.entry_due = self.entry_due.min(now + ENTRY_PATIENCE_NS);
                index
            }
        };
        let Some(track) = self.tracks.get_mut(index) else { return };
        let verdict = track.offer_live(seq, mark, &mut |applied| book.on_applied(applied, me, since));
        if track.position() == Some(seq) {
            track.seen = (seq, event.visible.to_native());
        }
        match verdict {
            Verdict::Fine => {}
            Verdict::Gap => book.counts.gaps += 1,
            Verdict::Reordered => book.counts.reordered += 1,
            Verdict::Duplicated => book.counts.duplicated += 1,
        }
        if track.lacks().is_some() {
            let certain = track.has_hole();
            self.want_repair(conversation, certain, book);
        }
        if self.until_level.is_some() {
            self.check_level(book);
        }
    }

    /// A hole is certain when an event waits behind it; a head alone may be news that is still under way.
    fn want_repair(&mut self, conversation: u128, certain: bool, book: &mut Book) {
        if certain {
            self.repair(conversation, book);
        } else {
            self.repair_at = self.repair_at.min(book.now + HEAD_PATIENCE_NS);
        }
    }

    fn on_reject(&mut self, request: u128, code: u16, retry_after_ms: u32, book: &mut Book) {
        let code = RejectCode::from_raw(code);
        book.on_rejected(code.map_or("a code that this build does not know", RejectCode::text));
        let retry_after = u64::from(retry_after_ms) * 1_000_000;
        if !self.on_reject_of_post(request, code, retry_after, book) {
            self.on_reject_of_request(request, code, retry_after, book);
        }
    }

    /// Behind what it continued, the server says where this user's own cursors are: the conversation is in step.
    fn on_own_receipt(&mut self, conversation: u128, book: &mut Book) {
        if let Some(track) = self.track_mut(conversation)
            && track.syncing
        {
            track.syncing = false;
            self.check_level(book);
        }
    }

    fn on_presence(&mut self, user: u64, online: bool, book: &mut Book) {
        book.counts.presence_seen += 1;
        let Ok(index) = self.watched.binary_search_by_key(&user, |(user, _)| *user) else { return };
        let Some((_, known)) = self.watched.get_mut(index) else { return };
        let changed = known.is_some_and(|known| known != online);
        *known = Some(online);
        // The first notice says how things are, the others what happens; the same one again says nothing.
        if let Some(at) = book.common.presence_changed(user, online).filter(|at| changed && *at >= self.watched_at) {
            book.record(Span::Presence, at);
        }
    }

    fn on_pong(&mut self, nonce: u64, user_seq: u64, heads: impl Iterator<Item = (u128, u64)>, book: &mut Book) {
        self.on_pong_nonce(nonce, book);
        for (conversation, seq) in heads {
            let Some(track) = self.track_mut(conversation) else { continue };
            track.saw_head(seq);
            if track.lacks().is_some() {
                let certain = track.has_hole();
                self.want_repair(conversation, certain, book);
            }
        }
        self.wanted_seq = user_seq;
        if self.user_seq != user_seq {
            self.read_directory(book);
        }
        self.count_outstanding(book);
    }

    fn on_reset(&mut self, conversation: u128, seq: u64, book: &mut Book) {
        book.counts.resets += 1;
        if conversation == 0 {
            // Everything is forgotten: the list says where each conversation begins anew.
            let tracks = std::mem::take(&mut self.tracks);
            self.got_elsewhere += tracks.iter().map(|track| track.got + track.given_up).sum::<u64>();
            self.directory = Directory::Never;
            self.read_directory(book);
        } else if let Some(track) = self.track_mut(conversation) {
            track.reset(seq);
        }
        self.check_level(book);
    }

    fn on_user_event(&mut self, user_seq: u64, conversation: u128, kind: u8, book: &mut Book) {
        if user_seq <= self.user_seq {
            return;
        }
        self.wanted_seq = self.wanted_seq.max(user_seq);
        let reading = self.asked.iter().any(|asked| asked.purpose == Purpose::Directory);
        if user_seq != self.user_seq + 1 || reading {
            self.read_directory(book);
        } else {
            self.user_seq = user_seq;
        }
        if kind == user_event::CONVERSATION_REMOVED
            && let Ok(index) = self.track_index(conversation)
        {
            let track = self.tracks.remove(index);
            self.got_elsewhere += track.got + track.given_up;
        }
    }

    fn on_history(&mut self, archive: &[u8], book: &mut Book) -> Result<(), FrameError> {
        let page = frame::decode_archive::<HistoryPage<'_>>(archive)?;
        book.counts.pages += 1;
        let Some(asked) = self.take_asked(page.request.to_native()) else { return Ok(()) };
        let (conversation, head) = (page.conversation.to_native(), page.head.to_native());
        match asked.purpose {
            Purpose::Repair(_) => {
                self.on_repair_page(conversation, head, page.first.to_native(), &page.events, book)?;
            }
            Purpose::Search(number) => {
                let wanted = Self::search_request(number, book);
                let (mut found, mut last) = (None, None);
                each_event(&page.events, |event| {
                    last = Some(event.seq.to_native());
                    if event.sender.to_native() == self.user && event.request.to_native() == wanted {
                        found = last;
                    }
                })?;
                self.on_search_page(number, found, last, head, book);
            }
            Purpose::History => {
                let mut before = None;
                each_event(&page.events, |event| {
                    let seq = event.seq.to_native();
                    // Ascending, without holes: anything else is an order that the server must not have.
                    book.counts.reordered += u64::from(before.is_some_and(|before: u64| seq != before + 1));
                    before = Some(seq);
                    mark_of(event, conversation, book);
                })?;
                book.counts.requests_acked += 1;
                book.record(Span::History, asked.intended);
            }
            Purpose::Workload | Purpose::Ping | Purpose::Directory => {}
        }
        self.count_outstanding(book);
        Ok(())
    }

    fn on_repair_page(
        &mut self,
        conversation: u128,
        head: u64,
        first: u64,
        events: &[u8],
        book: &mut Book,
    ) -> Result<(), FrameError> {
        let (me, since) = (self.id, self.since);
        let Some(track) = self.track_mut(conversation) else { return Ok(()) };
        let before = track.position();
        track.repairing = false;
        track.skip_unreadable(first, &mut |applied| book.on_applied(applied, me, since));
        each_event(events, |event| {
            let mark = mark_of(event, conversation, book);
            let seq = event.seq.to_native();
            track.offer_page(seq, mark, &mut |applied| book.on_applied(applied, me, since));
            if track.position() == Some(seq) {
                track.seen = (seq, event.visible.to_native());
            }
        })?;
        track.saw_head(head);
        if track.position() == before {
            self.on_repair_failed(conversation, book);
        } else {
            track.repair_failures = 0;
            self.repair(conversation, book);
        }
        self.check_level(book);
        Ok(())
    }

    fn on_directory_page(&mut self, archive: &[u8], book: &mut Book) -> Result<(), FrameError> {
        let page = frame::decode_archive::<DirectoryPage>(archive)?;
        let request = page.request.to_native();
        if request != 0 && self.take_asked(request).is_none() {
            return Ok(());
        }
        for entry in page.entries.iter() {
            self.on_entry(entry, book);
        }
        if request != 0 {
            match page.entries.last() {
                Some(last) if page.more != 0 && page.entries.len() <= DIRECTORY_PAGE_MAX => {
                    self.continue_directory(last.head_time.to_native(), last.conversation.to_native(), book);
                }
                Some(_) | None => self.on_directory_end(book),
            }
        }
        // A message may have waited for the entry of its conversation.
        self.pump(book);
        self.check_level(book);
        Ok(())
    }

    fn on_directory_end(&mut self, book: &mut Book) {
        self.directory = Directory::Once;
        self.user_seq = self.user_seq.max(self.wanted_seq);
        if self.tracks.iter().any(|track| track.position().is_none()) {
            // Events of a conversation that has no entry yet: it was missed.
            self.entry_due = self.entry_due.min(book.now + ENTRY_PATIENCE_NS);
        }
    }

    fn on_entry(&mut self, entry: &ArchivedDirectoryEntry, book: &mut Book) {
        let (conversation, head) = (entry.conversation.to_native(), entry.head.to_native());
        let since_join = entry.join.to_native().saturating_sub(1);
        let is_new = self.directory == Directory::Once;
        let fetch = is_new && head.saturating_sub(since_join) <= FETCHED_SINCE_JOIN_MAX;
        let (me, since) = (self.id, self.since);
        let index = match self.track_index(conversation) {
            Ok(index) => index,
            Err(index) => {
                self.tracks.insert(index, Track::unplaced(conversation));
                index
            }
        };
        let Some(track) = self.tracks.get_mut(index) else { return };
        let position = if fetch { since_join } else { head };
        track.place(position, &mut |applied| book.on_applied(applied, me, since));
        track.saw_head(head);
        if track.position() == Some(head) {
            track.seen = (head, entry.head_visible.to_native());
        }
        if track.lacks().is_some() {
            let certain = track.has_hole();
            self.want_repair(conversation, certain, book);
        }
        if self.tracks.iter().all(|track| track.position().is_some()) {
            self.entry_due = NEVER;
        }
    }

    /// Few conversations are found faster one by one than by halves.
    pub(super) fn track_index(&self, conversation: u128) -> Result<usize, usize> {
        if self.tracks.len() <= 4 {
            for (index, track) in self.tracks.iter().enumerate() {
                if track.conversation >= conversation {
                    return if track.conversation == conversation { Ok(index) } else { Err(index) };
                }
            }
            return Err(self.tracks.len());
        }
        self.tracks.binary_search_by_key(&conversation, |track| track.conversation)
    }

    pub(super) fn track(&self, conversation: u128) -> Option<&Track> {
        self.tracks.get(self.track_index(conversation).ok()?)
    }

    pub(super) fn track_mut(&mut self, conversation: u128) -> Option<&mut Track> {
        let index = self.track_index(conversation).ok()?;
        self.tracks.get_mut(index)
    }
}

/// What the body of an event says, if it is a message of this run. The fleet alone sends opaque bodies: each must check.
fn mark_of(event: &ArchivedEvent<'_>, conversation: u128, book: &mut Book) -> Option<Mark> {
    if event.kind != event::MESSAGE || event.content != content::OPAQUE {
        return None;
    }
    book.counts.payload_in += event.body.len() as u64;
    match body::read(&event.body, conversation) {
        Ok(mark) => Some(mark).filter(|mark| mark.run == book.common.run),
        Err(body::Corrupt) => {
            book.counts.corrupt += 1;
            None
        }
    }
}

/// Takes the frames of a page apart.
fn each_event(mut bytes: &[u8], mut take: impl FnMut(&ArchivedEvent<'_>)) -> Result<(), FrameError> {
    while !bytes.is_empty() {
        let size = frame::size(bytes)?.filter(|size| *size <= bytes.len()).ok_or(FrameError::Archive)?;
        let (whole, rest) = bytes.split_at(size);
        take(frame::decode::<Event<'_>>(whole)?);
        bytes = rest;
    }
    Ok(())
}
