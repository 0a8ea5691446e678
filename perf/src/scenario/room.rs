//! One group: made by its first member, filled by invitations while nobody else is connected, so that filling it costs one delivery
//! per member and not their square.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tern_protocol::limit::INVITES_MAX;
use tern_protocol::{ConversationId, RequestId, UserId};

use super::schedule::Share;
use super::stage::{Failure, Stage, soon};
use crate::fleet::{Action, Arrival, Fleet, PeerId, Request};

/// How long one invitation of 1024 members may take. Unit: time.
const INVITE_TIMEOUT: Duration = Duration::from_secs(60);

/// A group whose members are a span of peers.
#[derive(Debug, Clone)]
pub(super) struct Room {
    /// The group.
    pub(super) conversation: ConversationId,
    /// Its members; the first made it.
    pub(super) members: Vec<u32>,
}

impl Room {
    /// A group of all peers up to `members`, of which those up to `online` are connected afterwards.
    ///
    /// # Errors
    /// When the server refuses something or does not answer.
    pub(super) fn open(stage: &Stage<'_>, fleet: &Fleet, members: usize, online: usize) -> Result<Self, Failure> {
        stage.connect(fleet, 0..1)?;
        let room = Self::make(stage, fleet, all(0..members), 1)?;
        stage.connect(fleet, 1..u32::try_from(online)?)?;
        Ok(room)
    }

    /// Makes a group of these peers. The first one must be connected, the others should not be.
    ///
    /// # Errors
    /// When the server refuses it or does not answer.
    pub(super) fn make(stage: &Stage<'_>, fleet: &Fleet, members: Vec<u32>, number: u64) -> Result<Self, Failure> {
        let users = stage.users(&members)?;
        let (first, rest) = users.split_first().ok_or("a group needs a member")?;
        let owner = members.first().copied().unwrap_or(0);
        let request = RequestId::from_raw((u128::from(first.raw()) << 64) | u128::from(number));
        let conversation = ConversationId::group(*first, request);
        let (at_once, later) = rest.split_at(rest.len().min(INVITES_MAX));
        let create =
            Request::CreateGroup { request, title: format!("room {number}").into(), members: raw(at_once), flags: 0 };
        ask(stage, fleet, owner, create)?;
        for (index, some) in later.chunks(INVITES_MAX).enumerate() {
            stage.progress.phase_of("inviting members", members.len() as u64);
            stage.progress.done((INVITES_MAX * (index + 1)) as u64);
            ask(stage, fleet, owner, Request::Invite { conversation, users: raw(some) })?;
        }
        Ok(Self { conversation, members })
    }
}

/// Opens the direct conversation of each of these pairs; the first of each must be connected.
///
/// # Errors
/// When the server refuses one or does not answer.
pub(super) fn open_directs(
    stage: &Stage<'_>,
    fleet: &Fleet,
    pairs: &[(u32, u32)],
) -> Result<Vec<ConversationId>, Failure> {
    stage.progress.phase("opening conversations");
    let mut arrivals = Vec::new();
    let mut conversations = Vec::new();
    let mut at = soon();
    for (one, other) in pairs {
        let both = stage.users(&[*one, *other])?;
        let [a, b] = both[..] else { return Err("a pair is two".into()) };
        conversations.push(ConversationId::direct(a, b));
        arrivals.push(Arrival { at, peer: PeerId(*one), action: Action::Request(Request::OpenDirect { user: b }) });
        at += OPEN_GAP;
    }
    let before = fleet.tally().counts.requests_acked;
    let target = before + pairs.len() as u64;
    run_script(fleet, &arrivals);
    let most = INVITE_TIMEOUT + OPEN_GAP * u32::try_from(pairs.len()).unwrap_or(u32::MAX);
    stage.wait(fleet, "direct conversations to open", most, |counts| counts.requests_acked >= target)?;
    Ok(conversations)
}

/// Between two conversations that are opened. Unit: time. 5,000 a second.
const OPEN_GAP: Duration = Duration::from_micros(200);

/// Makes one request and waits for its acknowledgement.
///
/// # Errors
/// When it is refused or not answered.
pub(super) fn ask(stage: &Stage<'_>, fleet: &Fleet, peer: u32, request: Request) -> Result<(), Failure> {
    let counts = fleet.tally().counts;
    let (acked, rejected) = (counts.requests_acked, counts.rejected.values().sum::<u64>());
    run_script(fleet, &[Arrival { at: soon(), peer: PeerId(peer), action: Action::Request(request) }]);
    let mut refused = None;
    stage.wait(fleet, "an answer to a request", INVITE_TIMEOUT, |counts| {
        let more = counts.rejected.values().sum::<u64>() > rejected;
        refused = more.then(|| counts.rejected.keys().cloned().collect::<Vec<_>>().join(", "));
        more || counts.requests_acked > acked
    })?;
    match refused {
        Some(why) => Err(format!("the server refused a request: {why}").into()),
        None => Ok(()),
    }
}

/// Runs known arrivals, each on its peer's worker.
pub(super) fn run_script(fleet: &Fleet, arrivals: &[Arrival]) {
    fleet.run(|worker, workers| {
        let share = Share { worker, workers };
        let mut mine: Vec<Arrival> = arrivals.iter().filter(|arrival| share.has(arrival.peer.0)).cloned().collect();
        mine.sort_by_key(|arrival| arrival.at);
        Box::new(mine.into_iter())
    });
}

fn raw(users: &[UserId]) -> Arc<[u64]> {
    users.iter().map(|user| user.raw()).collect()
}

/// The span as a list.
#[must_use]
pub(super) fn all(peers: Range<usize>) -> Vec<u32> {
    peers.map(|peer| u32::try_from(peer).unwrap_or(u32::MAX)).collect()
}
