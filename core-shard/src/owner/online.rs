//! Which of this shard's users have sessions, where, and who wants to know. Rebuilt by clients connecting; never stored.
//! A lost connection is not a departure until a grace has passed; changes are collected for a moment before they are told.

use std::collections::{BTreeMap, BTreeSet};

use tern_protocol::{CloseCode, ConversationId, DeviceId, ShardId, Timestamp, UserId};

use super::{bit, shards_in};
use crate::context::{Context, Timer};
use crate::io::Ending;
use crate::message::{Place, ToSessions};

/// Users with sessions, and users who are watched.
#[derive(Debug, Default)]
pub(crate) struct Online {
    users: BTreeMap<UserId, Presence>,
    /// Users whose presence may have changed since it was told.
    changed: BTreeSet<UserId>,
}

#[derive(Debug, Default)]
struct Presence {
    /// Oldest first.
    sessions: Vec<(Place, DeviceId)>,
    /// Shards that want to know, one bit each.
    watchers: u64,
    /// What was told last.
    announced: bool,
    last_seen: Timestamp,
    /// Online without a session until then.
    grace: Option<Timestamp>,
}

impl Presence {
    fn is_online(&self) -> bool {
        !self.sessions.is_empty() || self.grace.is_some()
    }
}

impl Online {
    /// Adds a session; the user's oldest is closed when there are too many.
    pub(crate) fn open(&mut self, cx: &mut Context, user: UserId, device: DeviceId, place: Place) {
        let presence = self.users.entry(user).or_default();
        if presence.sessions.len() >= cx.limits().user_sessions_max && !presence.sessions.is_empty() {
            let (oldest, _) = presence.sessions.remove(0);
            cx.tell(oldest.shard, ToSessions::Close { session: oldest.session, code: CloseCode::TooManySessions });
        }
        presence.sessions.push((place, device));
        if let Some(at) = presence.grace.take() {
            cx.cancel(at, Timer::PresenceGrace(user));
        }
        self.change(cx, user);
    }

    /// Removes a session.
    pub(crate) fn end(&mut self, cx: &mut Context, user: UserId, place: Place, ending: Ending) {
        let Some(presence) = self.users.get_mut(&user) else { return };
        let before = presence.sessions.len();
        presence.sessions.retain(|(other, _)| *other != place);
        if before == presence.sessions.len() || !presence.sessions.is_empty() {
            return;
        }
        presence.last_seen = cx.now;
        match ending {
            Ending::Goodbye => self.change(cx, user),
            Ending::Lost => {
                let at = cx.now.after(cx.limits().presence_grace);
                presence.grace = Some(at);
                cx.wake(at, Timer::PresenceGrace(user));
            }
        }
    }

    /// The user did not come back in time.
    pub(crate) fn grace_over(&mut self, cx: &mut Context, user: UserId) {
        if let Some(presence) = self.users.get_mut(&user) {
            presence.grace = None;
            self.change(cx, user);
        }
    }

    /// A shard wants to know, and is told at once how it stands.
    pub(crate) fn watch(&mut self, cx: &mut Context, user: UserId, shard: ShardId) {
        let presence = self.users.entry(user).or_default();
        if presence.watchers == 0 {
            presence.announced = presence.is_online();
        }
        presence.watchers |= bit(shard);
        cx.tell(shard, ToSessions::Presence { user, online: presence.is_online(), last_seen: presence.last_seen });
    }

    /// A shard wants to know no more.
    pub(crate) fn unwatch(&mut self, user: UserId, shard: ShardId) {
        if let Some(presence) = self.users.get_mut(&user) {
            presence.watchers &= !bit(shard);
        }
        self.forget(user);
    }

    /// Closes the sessions of a device that was logged out.
    pub(crate) fn close_device(&mut self, cx: &mut Context, user: UserId, device: DeviceId) {
        let Some(presence) = self.users.get(&user) else { return };
        for (place, _) in presence.sessions.iter().filter(|(_, other)| *other == device) {
            cx.tell(place.shard, ToSessions::Close { session: place.session, code: CloseCode::Revoked });
        }
    }

    /// Tells all of a user's sessions that their directory changed.
    pub(crate) fn tell_directory(
        &self,
        cx: &mut Context,
        user: UserId,
        user_seq: u64,
        conversation: ConversationId,
        joined: bool,
    ) {
        let Some(presence) = self.users.get(&user) else { return };
        for (place, _) in &presence.sessions {
            cx.tell(place.shard, ToSessions::Directory { session: place.session, user_seq, conversation, joined });
        }
    }

    /// Tells what changed since the last time.
    pub(crate) fn flush(&mut self, cx: &mut Context) {
        for user in std::mem::take(&mut self.changed) {
            if let Some(presence) = self.users.get_mut(&user) {
                let online = presence.is_online();
                if online != presence.announced {
                    presence.announced = online;
                    for shard in shards_in(presence.watchers) {
                        cx.tell(shard, ToSessions::Presence { user, online, last_seen: presence.last_seen });
                    }
                }
            }
            self.forget(user);
        }
    }

    fn change(&mut self, cx: &mut Context, user: UserId) {
        if self.changed.is_empty() {
            let at = cx.now.after(cx.limits().presence_coalesce);
            cx.wake(at, Timer::PresenceFlush);
        }
        self.changed.insert(user);
    }

    /// Drops a user who is neither here nor watched.
    fn forget(&mut self, user: UserId) {
        let idle = |presence: &Presence| !presence.is_online() && presence.watchers == 0 && !presence.announced;
        if self.users.get(&user).is_some_and(idle) && !self.changed.contains(&user) {
            self.users.remove(&user);
        }
    }
}
