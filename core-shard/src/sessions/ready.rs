//! The sessions for which something was queued, and how soon each wants it: what one person waits for goes before what thousands get.
//! Never holds a session twice on the same list.

use tern_protocol::SessionId;

use super::session::Session;
use crate::io::Urgency;

/// Sessions of a shard that get the same thing, up to which it is sent to all of them at once. Unit: sessions. Most conversations are
/// smaller, and a turn that applies a thousand of their messages is not much longer for it.
const PROMPT_SESSIONS_MAX: usize = 16;

/// How soon news for so many sessions of this shard is sent.
pub(super) const fn urgency_of(sessions: usize) -> Urgency {
    if sessions <= PROMPT_SESSIONS_MAX { Urgency::Prompt } else { Urgency::Bulk }
}

/// Sessions with something new to send. A session notes what it is listed as; one that was bulk and becomes prompt stands on both lists.
#[derive(Debug, Default)]
pub(super) struct ReadyList {
    prompt: Vec<SessionId>,
    bulk: Vec<SessionId>,
}

impl ReadyList {
    /// Something was queued for the session.
    pub(super) fn add(&mut self, session: &mut Session, urgency: Urgency) {
        let list = match (session.ready, urgency) {
            (Some(Urgency::Prompt), _) | (Some(Urgency::Bulk), Urgency::Bulk) => return,
            (None | Some(Urgency::Bulk), Urgency::Prompt) => &mut self.prompt,
            (None, Urgency::Bulk) => &mut self.bulk,
        };
        session.ready = Some(urgency);
        list.push(session.id);
    }

    /// Empties both lists, the prompt one first. `take` is to clear the session's note, and says whether there was one. The memory of the
    /// lists stays: one that grew anew for every delivery would be moved a dozen times for ten thousand recipients.
    pub(super) fn drain(&mut self, mut take: impl FnMut(SessionId) -> bool, into: &mut Vec<(SessionId, Urgency)>) {
        let Self { prompt, bulk } = self;
        into.extend(prompt.drain(..).filter(|id| take(*id)).map(|id| (id, Urgency::Prompt)));
        into.extend(bulk.drain(..).filter(|id| take(*id)).map(|id| (id, Urgency::Bulk)));
    }
}
