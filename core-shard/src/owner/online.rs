//! Which of this shard's users have sessions, where, and who wants to know. Rebuilt by clients connecting; never stored.
//! A lost connection is not a departure until a grace has passed; changes are collected for a moment before they are told.

use std::collections::{BTreeMap, BTreeSet};

use tern_protocol::{CloseCode, ConversationId, DeviceId, ShardId, Timestamp, UserId};

use super::{bit, shards_in};
use crate::config::Sabotage;
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
    sessions: Vec<Attached>,
    /// Sessions that may open when their device's older one has ended: at most one of each device.
    waiting: Vec<(Place, DeviceId)>,
    /// Shards that want to know, one bit each.
    watchers: u64,
    /// What was told last.
    announced: bool,
    last_seen: Timestamp,
    /// Online without a session until then.
    grace: Option<Timestamp>,
}

/// One session of a user.
#[derive(Debug)]
struct Attached {
    place: Place,
    device: DeviceId,
    /// It was told to close. It counts as there until its shard says that nothing more of it will be done.
    closing: bool,
}

impl Attached {
    fn close(&mut self, cx: &mut Context, code: CloseCode) {
        if !std::mem::replace(&mut self.closing, true) {
            cx.tell(self.place.shard, ToSessions::Close { session: self.place.session, code });
        }
    }
}

impl Presence {
    /// Closes what a device has beside this session, and lets it wait for the end of that. False: there is nothing else.
    fn replace(&mut self, cx: &mut Context, device: DeviceId, place: Place) -> bool {
        if let Some(at) = self.waiting.iter().position(|(_, other)| *other == device) {
            let (older, _) = self.waiting.remove(at);
            if older != place {
                // It was not let in: nothing of it was done.
                cx.tell(older.shard, ToSessions::Close { session: older.session, code: CloseCode::Replaced });
            }
        }
        let mut found = false;
        for older in self.sessions.iter_mut().filter(|older| older.device == device) {
            found = true;
            older.close(cx, CloseCode::Replaced);
        }
        if found {
            self.waiting.push((place, device));
        }
        found
    }

    fn is_online(&self) -> bool {
        !self.sessions.is_empty() || self.grace.is_some()
    }
}

impl Online {
    /// Adds a session; the user's oldest is closed when there are too many. False: an older one of its device must end first, then
    /// [`Self::end`] names it; or, if it `waited` for that, a newer one has taken its place meanwhile.
    ///
    /// What a client sent on a connection that it gave up may still arrive. It must not be done after the client has sent it again.
    pub(crate) fn open(
        &mut self,
        cx: &mut Context,
        user: UserId,
        device: DeviceId,
        place: Place,
        waited: bool,
    ) -> bool {
        let presence = self.users.entry(user).or_default();
        if waited && !presence.waiting.contains(&(place, device)) {
            return false;
        }
        if cx.config.has(Sabotage::OneSession) && presence.replace(cx, device, place) {
            return false;
        }
        let open = presence.sessions.iter().filter(|session| !session.closing).count();
        if open >= cx.limits().user_sessions_max
            && let Some(oldest) = presence.sessions.iter_mut().find(|session| !session.closing)
        {
            oldest.close(cx, CloseCode::TooManySessions);
        }
        presence.sessions.push(Attached { place, device, closing: false });
        if let Some(at) = presence.grace.take() {
            cx.cancel(at, Timer::PresenceGrace(user));
        }
        self.change(cx, user);
        true
    }

    /// Removes a session. Returns the one that waited for it to end.
    pub(crate) fn end(
        &mut self,
        cx: &mut Context,
        user: UserId,
        place: Place,
        ending: Ending,
    ) -> Option<(DeviceId, Place)> {
        let presence = self.users.get_mut(&user)?;
        presence.waiting.retain(|(other, _)| *other != place);
        let at = presence.sessions.iter().position(|session| session.place == place)?;
        let device = presence.sessions.remove(at).device;
        let last = !presence.sessions.iter().any(|session| session.device == device);
        let next = presence.waiting.iter().find(|(_, other)| last && *other == device);
        let next = next.map(|(place, device)| (*device, *place));
        if presence.sessions.is_empty() {
            self.left(cx, user, ending);
        }
        next
    }

    /// A user's last session has ended.
    fn left(&mut self, cx: &mut Context, user: UserId, ending: Ending) {
        let Some(presence) = self.users.get_mut(&user) else { return };
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
        let Some(presence) = self.users.get_mut(&user) else { return };
        for session in presence.sessions.iter_mut().filter(|session| session.device == device) {
            session.close(cx, CloseCode::Revoked);
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
        for Attached { place, .. } in &presence.sessions {
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
        let idle = |presence: &Presence| {
            !presence.is_online() && presence.waiting.is_empty() && presence.watchers == 0 && !presence.announced
        };
        if self.users.get(&user).is_some_and(idle) && !self.changed.contains(&user) {
            self.users.remove(&user);
        }
    }
}
