//! What must hold at the end of every run, given the truth of the log and everything that was seen.
//! One function per promise of FEATURES.md; none of them repairs or excuses anything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tern_protocol::limit::DEDUP_WINDOW;
use tern_protocol::server::{DirectoryEntry, content, event};
use tern_protocol::{ConversationId, RejectCode, Timestamp, UserId};

use crate::client::{Device, Link};
use crate::model::{self, Truth};
use crate::sync::Start;
use crate::wire::{EventCopy, Op};
use crate::witness::{Refused, Witness};
use crate::world::World;

/// How long a shard may still be delivered to after a user's last session there ended, and before it is known to be there.
const ATTACHMENT_SLACK: Duration = Duration::from_secs(10);

/// How long news of coming in may take to reach a user's own log and sessions while things go wrong.
const NEWS_SLACK: Duration = Duration::from_secs(5);

/// Every event as it was first stored.
type Originals = BTreeMap<(ConversationId, u64), EventCopy>;
type Truths = BTreeMap<ConversationId, Truth>;

impl World {
    /// Compares everything that was seen with what the log says.
    pub(crate) fn compare(&mut self) {
        let events = self.view.all_events().map(|bytes| EventCopy::read(bytes).expect("only valid rows were stored"));
        let truths = model::build(self.log.all(), events, &mut self.witness);
        let (witness, devices) = (&mut self.witness, &self.devices);
        same_for_all(&truths, witness);
        erased_is_erased(&truths, witness);
        acked_is_stored(&truths, witness);
        refused_is_not_stored(&truths, witness);
        members_are_known(&truths, witness);
        seen_is_allowed(&truths, witness);
        for device in devices {
            applied_in_order(&truths, device, witness);
            if device.link == Link::Up {
                at_head(&truths, device, witness);
                directory_is_true(&truths, device, witness);
                audit_is_complete(&truths, device, witness);
                flows_are_whole(&truths, device, witness);
            }
        }
        let stored: Vec<_> = self.users.iter().map(|user| (*user, self.view.directory_of(*user))).collect();
        directory_is_stored(&truths, &stored, witness);
        delivered_where_online(&truths, &self.deliveries, &self.attachments, witness);
        if witness.unreadable > 0 && self.plan.faults.unreadable == 0 {
            witness.violation("M4", format!("{} pages were refused as unreadable, and nothing is", witness.unreadable));
        }
        let limits = &self.plan.limits;
        let allowed = limits.outbox_close_max + tern_protocol::limit::FRAME_SIZE_MAX;
        if witness.waiting_size_max > allowed {
            witness.violation("M11", format!("{} bytes waited for one session", witness.waiting_size_max));
        }
        let revoked = self.devices.iter().zip(&self.accounts).filter(|(_, account)| account.revoked_at.is_some());
        for (device, account) in revoked {
            if account.conn.is_some() || device.link == Link::Up {
                witness.violation("M12", format!("device {} was logged out and is connected", device.index));
            }
        }
    }
}

/// M1: every version of an event that anybody was sent is the stored one, or what it was before an edit.
fn same_for_all(truths: &Truths, witness: &mut Witness) {
    let mut found = Vec::new();
    for ((id, seq), versions) in &witness.versions {
        let Some(truth) = truths.get(id).and_then(|truth| truth.at(*seq).map(|event| (truth, event))) else {
            found.push(("M2", format!("{id} {seq} was sent to clients and is not stored")));
            continue;
        };
        for version in versions {
            if version.unrevised() != truth.1.unrevised() {
                found.push(("M1", format!("{id} {seq}: {version:?} against {:?}", truth.1)));
            } else if let Err(why) = version_is_true(truth.0, version, &witness.originals) {
                found.push(("M1", format!("{why}: {version:?}")));
            }
        }
        if let Err(why) = version_is_true(truth.0, truth.1, &witness.originals) {
            found.push(("M1", format!("stored, but {why}: {:?}", truth.1)));
        }
    }
    for (invariant, what) in found {
        witness.violation(invariant, what);
    }
}

fn version_is_true(truth: &Truth, version: &EventCopy, originals: &Originals) -> Result<(), &'static str> {
    let original = |seq: u64| originals.get(&(version.conversation, seq));
    let reads_as = |other: &EventCopy| (other.content, &other.body) == (version.content, &version.body);
    if version.revised == 0 {
        return if original(version.seq).is_none_or(reads_as) { Ok(()) } else { Err("not the body that was sent") };
    }
    let about = if version.kind == event::EDITED { version.target } else { version.seq };
    let Some(by) = truth.at(version.revised).filter(|by| by.target == about && by.seq > version.seq) else {
        return Err("revised by what did not revise it");
    };
    let erased = version.content == content::RECALLED && version.body.is_empty() && version.mentions.is_empty();
    match (version.kind, by.kind) {
        (event::MESSAGE, event::RECALLED) | (event::EDITED, event::EDITED | event::RECALLED) if erased => Ok(()),
        (event::MESSAGE, event::EDITED) if original(by.seq).is_none_or(reads_as) => Ok(()),
        _ => Err("not the body that it was revised to"),
    }
}

/// M14: a message is stored as its last change left it, and of its edits only the last one has a body.
fn erased_is_erased(truths: &Truths, witness: &mut Witness) {
    let mut found = Vec::new();
    for (id, truth) in truths {
        // Of each message the change that comes next, going back, and the last one of all.
        let (mut next, mut last) = (BTreeMap::new(), BTreeMap::new());
        for event in truth.events.iter().rev() {
            let changes = matches!(event.kind, event::EDITED | event::RECALLED);
            let by = if changes { next.get(&event.target) } else { last.get(&event.seq) };
            let by = by.copied().unwrap_or(0);
            if event.revised != by {
                found.push(format!("{id}: not revised by {by}: {event:?}"));
            }
            if changes {
                next.insert(event.target, event.seq);
                last.entry(event.target).or_insert(event.seq);
            }
        }
    }
    for what in found {
        witness.violation("M14", what);
    }
}

/// M2: what an ack named is stored, at that place and time, and is the sender's own.
fn acked_is_stored(truths: &Truths, witness: &mut Witness) {
    let mut found = Vec::new();
    for ((user, request), (op, acked)) in &witness.acks {
        let stored = truths.get(&acked.conversation).and_then(|truth| truth.at(acked.seq));
        let own = |event: &EventCopy| (event.sender, event.request) == (*user, *request);
        let holds = match (op, stored) {
            (_, None) => matches!(op, Op::Read { .. }) && acked.seq == 0,
            (Op::Read { .. } | Op::OpenDirect { .. } | Op::Join { .. }, Some(_)) => true,
            (Op::Invite { .. }, Some(event)) => own(event) || event.time <= acked.time,
            (_, Some(event)) => own(event) && event.time == acked.time,
        };
        if !holds {
            found.push(format!("{user} request {request:#x} {op:?} was acked as {acked:?}; stored is {stored:?}"));
        }
    }
    for what in found {
        witness.violation("M2", what);
    }
}

/// M5: whoever was told "no" finds nothing stored. But one who is out, and comes back with a request that is older than the memory
/// of requests, can only be told that they are out; and a request that does not say how old it is, what would come of it by now.
fn refused_is_not_stored(truths: &Truths, witness: &mut Witness) {
    let made: BTreeSet<_> =
        truths.values().flat_map(|truth| &truth.events).map(|event| (event.sender, event.request)).collect();
    let forgotten = |(user, request): &(UserId, u128), op: &Op| {
        truths.values().any(|truth| {
            let own = |event: &&EventCopy| (event.sender, event.request) == (*user, *request);
            let old = truth.events.iter().find(own).is_some_and(|event| event.seq + DEDUP_WINDOW <= truth.head());
            let left = |stays: &Vec<model::Stay>| stays.iter().any(|stay| stay.last.is_some());
            old && (!op.says_what_it_knows() || truth.stays.get(user).is_some_and(left))
        })
    };
    let doubled = witness.doubled.clone();
    let once = |(_, request): &(UserId, u128)| !doubled.contains(request);
    let told = witness.rejects.iter().filter(|(key, _)| made.contains(key) && once(key));
    let told = told.filter(|(key, refused)| !forgotten(key, &refused.op));
    let lies: Vec<_> = told.map(|(key, refused)| (*key, refused.clone())).collect();
    for ((user, request), refused) in lies {
        let Refused { op, code, .. } = refused;
        witness.violation("M5", format!("{user} request {request:#x} {op:?} was refused as {code:?} and is stored"));
    }
    let both = witness.rejects.keys().filter(|key| witness.acks.contains_key(key) && once(key));
    let both: Vec<_> = both.copied().collect();
    for (user, request) in both {
        let Refused { op, code, .. } = &witness.rejects[&(user, request)];
        if op.makes_an_event() {
            let what = format!("{user} request {request:#x} {op:?} was acked and refused: {code:?}");
            witness.violation("M3", what);
        }
    }
}

/// M5: "you are not in it" is not said to somebody who was, well before and well after.
fn members_are_known(truths: &Truths, witness: &mut Witness) {
    let mut found = Vec::new();
    for ((user, _), refused) in witness.rejects.iter().filter(|(_, refused)| refused.code == RejectCode::NotFound) {
        // Joining what cannot be joined is refused in the same words.
        let joins = matches!(refused.op, Op::Join { .. });
        let id = refused.op.conversation().filter(|id| *id != ConversationId::WORLD && !joins);
        let Some((id, truth)) = id.and_then(|id| Some((id, truths.get(&id)?))) else { continue };
        let time_of = |seq| truth.at(seq).map_or(Timestamp::ZERO, |event| Timestamp::from_raw(event.time));
        let mut stays = truth.stays.get(user).into_iter().flatten();
        if stays.any(|stay| {
            let left_late = stay.last.is_none_or(|last| time_of(last) > refused.at.after(NEWS_SLACK));
            time_of(stay.join).after(NEWS_SLACK) < refused.since && left_late
        }) {
            found.push(format!("{user} is in {id} and is told otherwise: {refused:?}"));
        }
    }
    for what in found {
        witness.violation("M5", what);
    }
}

/// M12: nobody was sent an event from outside their stays, or told something live of a foreign conversation.
fn seen_is_allowed(truths: &Truths, witness: &mut Witness) {
    let mut found = Vec::new();
    for ((user, id), seqs) in &witness.viewers {
        let Some(truth) = truths.get(id) else { continue };
        if let Some(seq) = seqs.iter().find(|seq| !truth.may_see(*user, **seq)) {
            found.push(format!("{user} was sent {id} {seq}; stays: {:?}", truth.stays.get(user)));
        }
    }
    for (user, id) in &witness.told {
        if !truths.get(id).is_some_and(|truth| truth.stays.contains_key(user)) {
            found.push(format!("{user} was told of {id}, never being in it"));
        }
    }
    for what in found {
        witness.violation("M12", what);
    }
}

/// M4: each run of a client is without holes by construction; here, that it begins where it may.
fn applied_in_order(truths: &Truths, device: &Device, witness: &mut Witness) {
    let chats = device.chats.iter().map(|(id, chat)| (*id, chat));
    for (id, chat) in chats.chain(device.past.iter().map(|(id, chat)| (*id, chat))) {
        let Some(truth) = truths.get(&id) else { continue };
        for (index, segment) in chat.segments.iter().enumerate() {
            // "Nothing before may be read" is true at the beginning of a stay only.
            let lied =
                segment.start == Start::First && index > 0 && !truth.may_begin_at(device.user, segment.after + 1);
            if lied || segment.last > truth.head() {
                let what = format!("{} device {}: {id} {segment:?}", device.user, device.index);
                witness.violation("M4", format!("{what}; stays {:?}", truth.stays.get(&device.user)));
            }
        }
    }
}

/// M6, M7: a connected client that had time for a ping has everything.
fn at_head(truths: &Truths, device: &Device, witness: &mut Witness) {
    for (id, truth) in truths.iter().filter(|(_, truth)| truth.members.contains_key(&device.user)) {
        match device.rested.get(id) {
            Some(position) if *position == truth.head() => {}
            Some(position) => {
                let what = format!("{} device {}: {id} at {position} of {}", device.user, device.index, truth.head());
                witness.violation("M7", what);
            }
            None => {
                let what = format!("{} device {} does not know that it is in {id}", device.user, device.index);
                witness.violation("M7", what);
            }
        }
    }
}

/// M8: the directory is the membership, and its numbers are those of the events. All devices read the same one.
fn directory_is_true(truths: &Truths, device: &Device, witness: &mut Witness) {
    let Some(listing) = &device.listing else {
        return witness.violation("M5", format!("device {} cannot read its directory", device.index));
    };
    let user = device.user;
    let member_of: BTreeSet<_> =
        truths.iter().filter(|(_, truth)| truth.members.contains_key(&user)).map(|(id, _)| *id).collect();
    let listed: BTreeSet<_> = listing.entries.keys().copied().collect();
    if member_of != listed {
        let (missing, extra): (Vec<_>, Vec<_>) =
            (member_of.difference(&listed).collect(), listed.difference(&member_of).collect());
        witness.violation("M8", format!("{user} device {}: directory lacks {missing:?}, has {extra:?}", device.index));
    }
    for (id, entry) in &listing.entries {
        let Some((truth, member)) = truths.get(id).and_then(|truth| Some((truth, truth.members.get(&user)?))) else {
            continue;
        };
        let unread = entry.head_visible.saturating_sub(entry.read_visible.max(entry.join_visible));
        let expected = truth.unread(user).unwrap_or(0);
        if unread != expected {
            let what = format!("{user} {id}: unread {unread}, by count {expected}; {entry:?} against {member:?}");
            witness.violation("M8", what);
        }
        if let Err(why) = entry_shows_the_truth(truth, user, entry) {
            witness.violation("M12", format!("{user} {id}: {why}: {entry:?} against {member:?}"));
        }
        let last = truth.events.last().map_or(0, |event| event.time);
        let head = (entry.head, entry.head_visible, entry.head_time);
        let own = (entry.join, entry.read, entry.role, u64::from(entry.members));
        let join_visible = truth.visible_at(member.join);
        if head != (truth.head(), truth.visible_at(truth.head()), last)
            || own != (member.join, member.read, member.role, truth.members.len() as u64)
            || entry.join_visible != join_visible
            || entry.title != truth.title
        {
            let what = format!("{user} {id}: {entry:?} against {member:?}, head {}, {join_visible}", truth.head());
            witness.violation("M8", what);
        }
    }
}

/// M12, M8: a preview shows what this user may read, as it reads now; a direct conversation shows the other one's cursor.
fn entry_shows_the_truth(truth: &Truth, user: UserId, entry: &DirectoryEntry) -> Result<(), &'static str> {
    let shown = truth.at(entry.preview_seq).filter(|event| truth.may_see(user, event.seq));
    let reads_so = |event: &EventCopy| {
        event.kind == event::MESSAGE
            && event.sender.raw() == entry.preview_sender
            && event.content != content::RECALLED
            && event.body.starts_with(&entry.preview)
    };
    let none = entry.preview_seq == 0 && entry.preview_sender == 0 && entry.preview.is_empty();
    if !none && !shown.is_some_and(reads_so) {
        return Err("the preview is of nothing that may be read");
    }
    let peer = truth.events.first().and_then(|event| event.conversation.peer_of(user));
    match peer.and_then(|peer| truth.members.get(&peer)) {
        Some(peer) if entry.peer_read != peer.read => Err("the peer has read up to elsewhere"),
        Some(_) if entry.peer_delivered < entry.peer_read || entry.peer_delivered > truth.head() => {
            Err("the peer has what is not there, or reads what has not arrived")
        }
        Some(_) | None => Ok(()),
    }
}

/// M8: the stored directory of each user is their membership.
fn directory_is_stored(truths: &Truths, stored: &[(UserId, BTreeSet<ConversationId>)], witness: &mut Witness) {
    for (user, directory) in stored {
        let member_of = truths.iter().filter(|(_, truth)| truth.members.contains_key(user)).map(|(id, _)| *id);
        let member_of: BTreeSet<_> = member_of.collect();
        let differ: Vec<_> = member_of.symmetric_difference(directory).collect();
        if !differ.is_empty() {
            witness.violation("M8", format!("{user}: stored directory and membership differ in {differ:?}"));
        }
    }
}

/// M2, M12: reading everything from the beginning yields exactly the stay, with the bodies as they are.
fn audit_is_complete(truths: &Truths, device: &Device, witness: &mut Witness) {
    let Some(audit) = device.audit.as_ref().filter(|audit| audit.done) else {
        return witness.violation("M5", format!("device {} does not finish reading its history", device.index));
    };
    for (id, events) in &audit.events {
        let Some(truth) = truths.get(id) else {
            witness.violation("M2", format!("{id} is listed and was never made"));
            continue;
        };
        let first = truth.stays.get(&device.user).and_then(|stays| stays.last()).map_or(1, |stay| stay.first.max(1));
        let wanted = truth.events.iter().filter(|event| event.seq >= first);
        let members: Vec<_> = audit.members.get(id).into_iter().flatten().collect();
        let same = |member: &&tern_protocol::server::Member| {
            truth
                .members
                .get(&UserId::from_raw(member.user))
                .is_some_and(|truth| (member.join, member.read, member.role) == (truth.join, truth.read, truth.role))
        };
        if members.len() != truth.members.len() || !members.iter().all(same) {
            witness.violation("M8", format!("{id}: members {members:?} against {:?}", truth.members));
        }
        if !wanted.eq(events.iter()) {
            let read: Vec<_> = events.iter().map(|event| event.seq).collect();
            let what = format!("{} reads {read:?} of {id}, {first}..={}", device.user, truth.head());
            witness.violation("M2", what);
        }
    }
}

/// M4, M6: on a connection that is still up, what was offered was continued without a silent hole, up to the head.
fn flows_are_whole(truths: &Truths, device: &Device, witness: &mut Witness) {
    for (id, flow) in device.flows.iter().filter(|(_, flow)| !flow.announced) {
        let Some(truth) = truths.get(id) else { continue };
        let missed = |hole: &&(u64, u64)| (hole.0..=hole.1).any(|seq| truth.was_in(device.user, seq));
        if let Some((from, to)) = flow.holes.iter().find(missed) {
            let what = format!("{} device {}: {id} {from}..={to} never came", device.user, device.index);
            witness.violation("M6", what);
        }
        let member = truth.members.contains_key(&device.user);
        let one_stay = truth.stays.get(&device.user).is_some_and(|stays| stays.len() == 1);
        if member && one_stay && flow.offered.is_some() && flow.last != truth.head() {
            let what = format!("{} device {}: {id} {flow:?}, head {}", device.user, device.index, truth.head());
            witness.violation("M6", what);
        }
    }
}

/// M9: an event goes to a shard only if a member is, or just was, connected there.
fn delivered_where_online(
    truths: &Truths,
    deliveries: &[(Timestamp, usize, ConversationId)],
    attachments: &[(usize, UserId, Timestamp, Option<Timestamp>)],
    witness: &mut Witness,
) {
    for (at, shard, id) in deliveries {
        let online = attachments.iter().any(|(where_to, user, from, to)| {
            where_to == shard
                && *from <= *at
                && to.is_none_or(|to| to.after(ATTACHMENT_SLACK) >= *at)
                && truths.get(id).is_some_and(|truth| truth.stays.contains_key(user))
        });
        if !online {
            witness.violation("M9", format!("{id} was delivered to shard {shard}, where no member is"));
        }
    }
}
