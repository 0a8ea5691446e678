//! Who is in a conversation: create, join, leave, invite, kick, roles, and the world room that everyone enters.
//! Checks everything before it changes anything.

use tern_protocol::server::{event, role};
use tern_protocol::stored::{MemberRow, standing};
use tern_protocol::{ConversationId, ConversationKind, RejectCode, RequestId, Seq, Timestamp, UserId, client};

use super::{At, Conversation, Effects, Member, NewEvent, Outcome};
use crate::config::Sabotage;

/// Rows of present and former members that a group may have, as a multiple of `members_max`. Unit: rows a member. A group is loaded whole:
/// beyond this it takes only those who have a row, until its rows are compacted.
const ROWS_PER_MEMBER_MAX: usize = 4;

impl Conversation {
    pub(super) fn open_direct(
        &mut self,
        at: At<'_>,
        actor: UserId,
        f: &client::ArchivedOpenDirect,
        out: &mut Effects,
    ) -> Outcome {
        let peer = UserId::from_raw(f.user.to_native());
        if self.id != ConversationId::direct(actor, peer) {
            return Err(RejectCode::Invalid);
        }
        if !self.exists() {
            self.create(at, actor, RequestId::from_raw(f.request.to_native()), &[], out)?;
            for user in if peer == actor { vec![actor] } else { vec![actor, peer] } {
                self.add(at, user, role::MEMBER, out);
            }
        }
        Ok((Seq::from_raw(1), self.created))
    }

    pub(super) fn create_group(
        &mut self,
        at: At<'_>,
        actor: UserId,
        f: &client::ArchivedCreateGroup<'_>,
        out: &mut Effects,
    ) -> Outcome {
        let request = RequestId::from_raw(f.request.to_native());
        if self.id != ConversationId::group(actor, request) {
            return Err(RejectCode::Invalid);
        }
        if self.exists() {
            return Ok((Seq::from_raw(1), self.created));
        }
        let mut users: Vec<UserId> = f.members.iter().map(|user| UserId::from_raw(user.to_native())).collect();
        users.sort_unstable();
        users.dedup();
        users.retain(|user| *user != actor);
        if users.len() as u64 + 1 > u64::from(at.rules.members_max) {
            return Err(RejectCode::GroupFull);
        }
        self.flags = f.flags & client::group::ALL;
        self.create(at, actor, request, &f.title, out)?;
        self.add(at, actor, role::OWNER, out);
        for user in users {
            self.add_next(at, user, role::MEMBER, out);
            self.member_event(at, actor, request, event::ADDED, user, role::MEMBER, out)?;
        }
        Ok((Seq::from_raw(1), self.created))
    }

    pub(super) fn join(
        &mut self,
        at: At<'_>,
        actor: UserId,
        f: &client::ArchivedJoinGroup,
        out: &mut Effects,
    ) -> Outcome {
        let request = RequestId::from_raw(f.request.to_native());
        // A late copy of a request does not bring back somebody who was removed since.
        if let Some(done) = self.answered(at, actor, request).filter(|done| done.kind == event::JOINED) {
            return Ok((done.seq, done.time));
        }
        if let Some(member) = self.members.get(&actor) {
            return Ok((Seq::from_raw(member.row.join), self.time_of(Seq::from_raw(member.row.join))));
        }
        let open = self.is_group() && self.exists() && self.flags & client::group::OPEN != 0;
        if (!open || self.former.get(&actor) == Some(&standing::BARRED)) && at.config.has(Sabotage::Permission) {
            return Err(RejectCode::NotFound);
        }
        self.room_for(at, &[actor])?;
        // Whoever comes into a group that everybody has left owns it.
        let role = if self.members.is_empty() { role::OWNER } else { role::MEMBER };
        self.add_next(at, actor, role, out);
        self.member_event(at, actor, request, event::JOINED, actor, role, out)
    }

    pub(super) fn leave(
        &mut self,
        at: At<'_>,
        actor: UserId,
        f: &client::ArchivedLeaveGroup,
        out: &mut Effects,
    ) -> Outcome {
        let request = RequestId::from_raw(f.request.to_native());
        if let Some(done) = self.answered(at, actor, request).filter(|done| done.kind == event::LEFT) {
            return Ok((done.seq, done.time));
        }
        let member = self.member(at, actor)?;
        if !self.is_group() {
            return Err(RejectCode::Forbidden);
        }
        // The group is handed over first, so that it has an owner after each of the two events; the later one answers a resend.
        if member.role == role::OWNER
            && let Some(successor) = self.successor(actor)
        {
            self.give_role(at, actor, request, successor, role::OWNER, out)?;
        }
        self.remove(at, actor, standing::LEFT, out);
        self.member_event(at, actor, request, event::LEFT, actor, 0, out)
    }

    /// Who owns the group when its owner leaves: of those with the highest role, who has been in it for longest.
    fn successor(&self, owner: UserId) -> Option<UserId> {
        let others = self.members.iter().filter(|(user, _)| **user != owner);
        others
            .min_by_key(|(user, member)| (std::cmp::Reverse(member.row.role), member.row.join, **user))
            .map(|(user, _)| *user)
    }

    pub(super) fn invite(
        &mut self,
        at: At<'_>,
        actor: UserId,
        f: &client::ArchivedInvite<'_>,
        out: &mut Effects,
    ) -> Outcome {
        let request = RequestId::from_raw(f.request.to_native());
        if let Some(done) = self.answered(at, actor, request) {
            return Ok((done.seq, done.time));
        }
        self.member(at, actor)?;
        if !self.is_group() {
            return Err(RejectCode::Forbidden);
        }
        let mut users: Vec<UserId> = f.users.iter().map(|user| UserId::from_raw(user.to_native())).collect();
        users.sort_unstable();
        users.dedup();
        users.retain(|user| !self.members.contains_key(user));
        self.room_for(at, &users)?;
        let mut done = (self.head, self.head_time);
        for user in users {
            self.add_next(at, user, role::MEMBER, out);
            done = self.member_event(at, actor, request, event::ADDED, user, role::MEMBER, out)?;
        }
        Ok(done)
    }

    pub(super) fn kick(&mut self, at: At<'_>, actor: UserId, f: &client::ArchivedKick, out: &mut Effects) -> Outcome {
        let request = RequestId::from_raw(f.request.to_native());
        let user = UserId::from_raw(f.user.to_native());
        if let Some(done) = self.answered(at, actor, request).filter(|done| done.subject == user) {
            return Ok((done.seq, done.time));
        }
        let member = self.member(at, actor)?;
        let subject = self.members.get(&user).ok_or(RejectCode::UnknownUser)?;
        let allowed = self.is_group() && member.role >= role::ADMIN && member.role > subject.row.role;
        if !allowed && at.config.has(Sabotage::Permission) {
            return Err(RejectCode::Forbidden);
        }
        self.remove(at, user, standing::BARRED, out);
        self.member_event(at, actor, request, event::KICKED, user, 0, out)
    }

    pub(super) fn set_role(
        &mut self,
        at: At<'_>,
        actor: UserId,
        f: &client::ArchivedSetRole,
        out: &mut Effects,
    ) -> Outcome {
        let request = RequestId::from_raw(f.request.to_native());
        let user = UserId::from_raw(f.user.to_native());
        if let Some(done) = self.answered(at, actor, request) {
            return Ok((done.seq, done.time));
        }
        let member = self.member(at, actor)?;
        if !(role::MEMBER..=role::OWNER).contains(&f.role) || user == actor {
            return Err(RejectCode::Invalid);
        }
        if (!self.is_group() || member.role != role::OWNER) && at.config.has(Sabotage::Permission) {
            return Err(RejectCode::Forbidden);
        }
        if !self.members.contains_key(&user) {
            return Err(RejectCode::UnknownUser);
        }
        if f.role == role::OWNER {
            self.give_role(at, actor, request, actor, role::ADMIN, out)?;
        }
        self.give_role(at, actor, request, user, f.role, out)
    }

    pub(super) fn enter_world(&mut self, at: At<'_>, user: UserId, out: &mut Effects) {
        if self.id != ConversationId::WORLD || self.members.contains_key(&user) {
            return;
        }
        if !self.exists() {
            self.flags = client::group::OPEN | client::group::HISTORY_FOR_ALL;
            let nobody = UserId::from_raw(0);
            // Creating cannot be refused: it has no conditions.
            let _ = self.create(at, nobody, RequestId::from_raw(0), b"World", out);
        }
        self.add(at, user, role::MEMBER, out);
    }

    fn create(&mut self, at: At<'_>, actor: UserId, request: RequestId, title: &[u8], out: &mut Effects) -> Outcome {
        self.created = at.time;
        self.creator = actor;
        self.title = bytes::Bytes::copy_from_slice(title);
        let new = NewEvent { kind: event::CREATED, role: role::OWNER, body: title, ..NewEvent::EMPTY };
        self.append(at, actor, request, new, out)
    }

    /// A member as of the event that stands at the head.
    fn add(&mut self, at: At<'_>, user: UserId, role: u8, out: &mut Effects) {
        self.insert(
            at,
            user,
            MemberRow { join: self.head.raw(), join_visible: self.visible, role, ..Default::default() },
            out,
        );
    }

    /// A member as of the event that comes next.
    fn add_next(&mut self, at: At<'_>, user: UserId, role: u8, out: &mut Effects) {
        let join = self.head.next().raw();
        self.insert(at, user, MemberRow { join, join_visible: self.visible, role, ..Default::default() }, out);
    }

    fn insert(&mut self, at: At<'_>, user: UserId, row: MemberRow, out: &mut Effects) {
        self.members.insert(user, Member { row, delivered: Seq::ZERO });
        self.former.remove(&user);
        self.write_member(user, &row, out);
        out.set_directory(at, self.id, user, true);
    }

    fn remove(&mut self, at: At<'_>, user: UserId, standing: u8, out: &mut Effects) {
        let Some(member) = self.members.remove(&user) else { return };
        self.former.insert(user, standing);
        self.write_member(user, &MemberRow { standing, ..member.row }, out);
        out.set_directory(at, self.id, user, false);
    }

    fn give_role(
        &mut self,
        at: At<'_>,
        actor: UserId,
        request: RequestId,
        user: UserId,
        role: u8,
        out: &mut Effects,
    ) -> Outcome {
        if let Some(member) = self.members.get_mut(&user) {
            member.row.role = role;
            let row = member.row;
            self.write_member(user, &row, out);
        }
        self.member_event(at, actor, request, event::ROLE, user, role, out)
    }

    #[expect(clippy::too_many_arguments, reason = "one call per kind of event; a struct would only rename them")]
    fn member_event(
        &mut self,
        at: At<'_>,
        actor: UserId,
        request: RequestId,
        kind: u8,
        subject: UserId,
        role: u8,
        out: &mut Effects,
    ) -> Outcome {
        self.append(at, actor, request, NewEvent { kind, subject, role, ..NewEvent::EMPTY }, out)
    }

    /// Whether these users, none of them a member, may come in.
    fn room_for(&self, at: At<'_>, users: &[UserId]) -> Result<(), RejectCode> {
        let most = at.rules.members_max as usize;
        let members = self.members.len() + users.len();
        let rows = members + self.former.len() - users.iter().filter(|user| self.former.contains_key(user)).count();
        let full = members > most || rows > most.saturating_mul(ROWS_PER_MEMBER_MAX);
        if full && !matches!(self.id.kind(), Some(ConversationKind::World)) {
            Err(RejectCode::GroupFull)
        } else {
            Ok(())
        }
    }

    /// When an event was, if it is in memory.
    fn time_of(&self, seq: Seq) -> Timestamp {
        self.window.at(seq).map_or(Timestamp::ZERO, |event| event.head.time)
    }
}
