//! One device, as a careful client is written: requests that are resent until they end, with the same id and the same `known`.
//! Never trusts an order between lanes or connections. What it has of conversations is in `sync.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tern_core_shard::io::Lane;
use tern_protocol::client::At;
use tern_protocol::limit::KNOWN_FRESH;
use tern_protocol::placement::mix64;
use tern_protocol::server::role;
use tern_protocol::{CloseCode, ConversationId, DeviceId, RejectCode, Timestamp, UserId};

use crate::audit::Audit;
use crate::rng::Rng;
use crate::sync::{Chat, Flow, Walk};
use crate::wire::{self, FromServer, Op};
use crate::witness::{Acked, Refused, Witness};

/// Why a device wakes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Keep-alive of the connection with this number.
    Ping(u64),
    /// A refused request may be tried again.
    Resend(u128),
    /// A conversation may be caught up.
    Repair(ConversationId),
    /// The directory may be read.
    Walk,
    /// A request that was catching up goes on.
    CatchUp(u128),
    /// The audit goes on.
    Audit,
}

/// What a device is given, and what it wants done.
pub(crate) struct Cx<'a> {
    pub(crate) now: Timestamp,
    pub(crate) rng: &'a mut Rng,
    pub(crate) witness: &'a mut Witness,
    /// Frames to send.
    pub(crate) send: Vec<Bytes>,
    /// When to wake up.
    pub(crate) wake: Vec<(Duration, Wake)>,
}

/// Where the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// There is none.
    Down,
    /// Hello is sent.
    Greeting,
    /// Welcome came.
    Up,
    /// The device was logged out: it never comes back.
    Revoked,
}

/// Where a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Sent, not answered.
    Flying,
    /// To be sent on the next connection, or when its pause is over.
    Waiting,
    /// Looking for its own event from here on, before it may be sent again.
    CatchingUp { anchor: u64 },
}

/// A request that has not ended.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) op: Op,
    /// What the device had when it first tried.
    pub(crate) known: u64,
    pub(crate) attempts: u32,
    pub(crate) since: Timestamp,
    pub(crate) stage: Stage,
}

/// A question that is answered by a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// What comes after the own position, as it was then.
    Repair(ConversationId, u64),
    /// The own event of this request.
    CatchUp(u128),
    /// The directory.
    Walk,
    /// All of a conversation, at the end.
    Audit(ConversationId),
    /// A look at something, perhaps at what is not ours: from where, and in which direction.
    Browse(ConversationId, u64, u8),
}

/// One device of a user.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) index: usize,
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    pub(crate) link: Link,
    /// Number of the connection, from 1.
    pub(crate) connection: u64,
    pub(crate) user_seq: u64,
    pub(crate) ping_interval: Duration,
    pub(crate) chats: BTreeMap<ConversationId, Chat>,
    /// Chats that ended, for the checker.
    pub(crate) past: Vec<(ConversationId, Chat)>,
    /// Conversations that were heard of before their directory entry came: the highest seq.
    pub(crate) hints: BTreeMap<ConversationId, u64>,
    /// What came on this connection, by conversation.
    pub(crate) flows: BTreeMap<ConversationId, Flow>,
    pub(crate) pending: BTreeMap<u128, Pending>,
    pub(crate) asks: BTreeMap<u128, Ask>,
    pub(crate) walk: Option<Walk>,
    /// Conversations that were announced and whose entry has not come.
    pub(crate) awaited: BTreeSet<ConversationId>,
    /// The last complete listing.
    pub(crate) listing: Option<Walk>,
    pub(crate) audit: Option<Audit>,
    /// What was told of others' presence, in order.
    pub(crate) presence: Vec<(UserId, bool)>,
    /// How connections ended.
    pub(crate) closes: Vec<CloseCode>,
    /// Every request ever made.
    pub(crate) ops: BTreeMap<u128, Op>,
    pub(crate) pongs: u64,
    /// Positions when everything had come to rest, before anything was read again.
    pub(crate) rested: BTreeMap<ConversationId, u64>,
    next: u64,
}

impl Device {
    /// A device that was just logged in.
    pub(crate) fn new(index: usize, user: UserId, device: DeviceId) -> Self {
        Self {
            index,
            user,
            device,
            link: Link::Down,
            connection: 0,
            user_seq: 0,
            ping_interval: Duration::from_secs(5),
            chats: BTreeMap::new(),
            past: Vec::new(),
            hints: BTreeMap::new(),
            flows: BTreeMap::new(),
            pending: BTreeMap::new(),
            asks: BTreeMap::new(),
            walk: None,
            awaited: BTreeSet::new(),
            listing: None,
            audit: None,
            presence: Vec::new(),
            closes: Vec::new(),
            ops: BTreeMap::new(),
            pongs: 0,
            rested: BTreeMap::new(),
            next: 0,
        }
    }

    /// A request id that no other request of any device has.
    pub(crate) fn fresh_request(&mut self) -> u128 {
        self.next += 1;
        let name = self.device.raw() << 20 | self.next;
        u128::from(mix64(name)) << 64 | u128::from(name)
    }

    /// What this device has, as a hello or ping says it.
    pub(crate) fn positions(&self) -> Vec<At> {
        self.chats.iter().map(|(id, chat)| At { conversation: id.raw(), seq: chat.position }).collect()
    }

    /// A connection is up: says hello.
    pub(crate) fn connect(&mut self, cx: &mut Cx<'_>, token: &[u8]) {
        self.connection += 1;
        self.link = Link::Greeting;
        let positions = self.positions();
        self.flows = self.chats.iter().map(|(id, chat)| (*id, Flow::offered(chat.position))).collect();
        cx.send.push(wire::hello(self.user_seq, token, &positions));
    }

    /// The app was installed anew: it knows who it is and nothing else.
    pub(crate) fn reinstall(&mut self) {
        self.past.append(&mut std::mem::take(&mut self.chats).into_iter().collect());
        self.pending.clear();
        self.listing = None;
        self.user_seq = 0;
    }

    /// The connection is gone: what was not answered is sent again on the next one.
    pub(crate) fn disconnect(&mut self, code: Option<CloseCode>) {
        self.closes.extend(code);
        if self.link == Link::Revoked {
            return;
        }
        self.link = if code == Some(CloseCode::Revoked) { Link::Revoked } else { Link::Down };
        self.asks.clear();
        // What was announced or begun to be read counts as seen when it is here, not before.
        let announced = !std::mem::take(&mut self.awaited).is_empty() || !std::mem::take(&mut self.hints).is_empty();
        if self.walk.take().is_some() || announced {
            self.user_seq = 0;
        }
        for chat in self.chats.values_mut() {
            chat.repairing = false;
        }
        for pending in self.pending.values_mut() {
            if pending.stage == Stage::Flying {
                pending.stage = Stage::Waiting;
            }
        }
    }

    /// Makes a request.
    pub(crate) fn submit(&mut self, cx: &mut Cx<'_>, op: Op) -> u128 {
        let request = self.fresh_request();
        let known = op.conversation().and_then(|id| self.chats.get(&id)).map_or(0, |chat| chat.position);
        self.ops.insert(request, op.clone());
        self.pending.insert(request, Pending { op, known, attempts: 0, since: cx.now, stage: Stage::Waiting });
        if self.link == Link::Up {
            self.send(cx, request);
        }
        request
    }

    /// Sends a request, for the first time or again.
    fn send(&mut self, cx: &mut Cx<'_>, request: u128) {
        let Some(pending) = self.pending.get_mut(&request) else { return };
        let fresh = pending.attempts == 0;
        cx.witness.counts.retries += u64::from(pending.attempts > 0);
        pending.attempts += 1;
        pending.stage = Stage::Flying;
        cx.send.push(pending.op.frame(request, if fresh { KNOWN_FRESH } else { pending.known }));
    }

    /// Time passed.
    pub(crate) fn wake(&mut self, cx: &mut Cx<'_>, wake: Wake) {
        if self.link != Link::Up {
            return;
        }
        match wake {
            Wake::Ping(connection) if connection == self.connection => self.ping(cx),
            Wake::Ping(_) => {}
            Wake::Resend(request) => {
                if self.pending.get(&request).is_some_and(|pending| pending.stage == Stage::Waiting) {
                    self.send(cx, request);
                }
            }
            Wake::Repair(id) => self.repair(cx, id),
            Wake::Walk => self.start_walk(cx),
            Wake::CatchUp(request) => self.catch_up(cx, request),
            Wake::Audit => self.continue_audit(cx),
        }
    }

    /// Keep-alive, with what this device has.
    pub(crate) fn ping(&mut self, cx: &mut Cx<'_>) {
        let positions = self.positions();
        cx.send.push(wire::ping(self.connection, &positions));
        cx.wake.push((self.ping_interval, Wake::Ping(self.connection)));
    }

    /// A frame came.
    pub(crate) fn on_frame(&mut self, cx: &mut Cx<'_>, lane: Lane, bytes: &[u8]) {
        match FromServer::read(bytes) {
            Ok(frame) => self.on_server(cx, lane, frame),
            Err(error) => cx.witness.violation("wire", format!("{} was sent what does not read: {error}", self.user)),
        }
    }

    fn on_server(&mut self, cx: &mut Cx<'_>, lane: Lane, frame: FromServer) {
        match frame {
            FromServer::Welcome { user, device, user_seq, ping_interval } => {
                if (user, device) != (self.user, self.device.raw()) {
                    cx.witness.violation("M12", format!("{} was welcomed as {user}", self.user));
                }
                self.ping_interval = Duration::from_millis(u64::from(ping_interval));
                self.on_welcome(cx, user_seq);
            }
            FromServer::Reset { conversation, seq, visible } => self.on_reset(cx, conversation, seq, visible),
            FromServer::Ack { request, conversation, seq, time } => {
                self.on_ack(cx, request, Acked { conversation, seq, time });
            }
            FromServer::Reject { request, code, retry_after } => self.on_reject(cx, request, code, retry_after),
            FromServer::Event(event) => self.on_event(cx, lane, &event),
            FromServer::Receipt { conversation, read, delivered } => {
                cx.witness.told.insert((self.user, conversation));
                if read > delivered {
                    cx.witness.violation("M8", format!("{conversation}: read {read} beyond delivered {delivered}"));
                }
            }
            FromServer::Typing { conversation, user } => {
                cx.witness.told.insert((self.user, conversation));
                cx.witness.told.insert((user, conversation));
            }
            FromServer::Presence { user, online } => {
                self.presence.push((user, online));
            }
            FromServer::History { request, conversation, head, first, events } => {
                self.on_history(cx, request.raw(), conversation, head, first, &events);
            }
            FromServer::Directory { request, more, entries } => self.on_directory(cx, request, more, &entries),
            FromServer::Members { request, conversation, more, members } => {
                self.on_members(cx, request, conversation, more, &members);
            }
            FromServer::Profiles { request } => {
                if self.asks.remove(&request).is_none() {
                    cx.witness.violation("M5", format!("{} got an answer to nothing", self.user));
                }
            }
            FromServer::UserEvent { user_seq, conversation, kind } => {
                self.on_user_event(cx, user_seq, conversation, kind);
            }
            FromServer::Pong { nonce, user_seq, heads } => self.on_pong(cx, nonce, user_seq, &heads),
            FromServer::Drain => {}
        }
    }

    fn on_welcome(&mut self, cx: &mut Cx<'_>, user_seq: u64) {
        self.link = Link::Up;
        let entries = self.listing.iter().flat_map(|listing| listing.entries.values());
        let partial = entries.into_iter().any(|entry| entry.role == role::UNREADABLE);
        let changed = user_seq != self.user_seq || user_seq == 0 || partial;
        self.user_seq = user_seq;
        if changed || self.listing.is_none() {
            self.start_walk(cx);
        }
        let behind: Vec<_> =
            self.chats.iter().filter(|(_, chat)| chat.position < chat.target).map(|(id, _)| *id).collect();
        for id in behind {
            // Resume usually brings it; ask when that had its chance.
            cx.wake.push((Duration::from_secs(1), Wake::Repair(id)));
        }
        let requests: Vec<_> =
            self.pending.iter().map(|(request, pending)| (*request, pending.stage.clone())).collect();
        for (request, stage) in requests {
            match stage {
                Stage::Flying | Stage::Waiting => self.send(cx, request),
                Stage::CatchingUp { .. } => self.catch_up(cx, request),
            }
        }
        if self.audit.is_some() {
            cx.wake.push((Duration::from_millis(100), Wake::Audit));
        }
        cx.wake.push((self.ping_interval, Wake::Ping(self.connection)));
    }

    fn on_ack(&mut self, cx: &mut Cx<'_>, request: u128, acked: Acked) {
        let Some(op) = self.ops.get(&request) else {
            return cx.witness.violation("M5", format!("{} got an ack for a request of nobody", self.user));
        };
        cx.witness.acked(self.user, request, op, acked);
        self.pending.remove(&request);
    }

    fn on_reject(&mut self, cx: &mut Cx<'_>, request: u128, code: u16, retry_after: u32) {
        let Some(code) = RejectCode::from_raw(code) else {
            return cx.witness.violation("wire", format!("reject code {code} is unknown"));
        };
        cx.witness.counts.rejects += 1;
        let pause = Duration::from_millis(u64::from(retry_after).clamp(20, 5_000));
        if let Some(ask) = self.asks.remove(&request) {
            return self.on_refused_ask(cx, ask, code, pause);
        }
        let Some(pending) = self.pending.get_mut(&request) else {
            // A duplicate's answer; or the delivered cursor, which is not acknowledged but may be refused.
            return;
        };
        if code.is_retryable() {
            if retry_after == 0 && code != RejectCode::OutcomeUnknown {
                cx.witness.violation("M5", format!("{code:?} does not say when to come back"));
            }
            pending.stage = Stage::Waiting;
            cx.wake.push((pause, Wake::Resend(request)));
        } else if code == RejectCode::CatchUpFirst {
            cx.witness.counts.catch_ups += 1;
            pending.stage = Stage::CatchingUp { anchor: pending.known };
            self.catch_up(cx, request);
        } else if code == RejectCode::Rejoined {
            // Out and in again since the first attempt: whether that was stored cannot be told. A person would decide.
            self.pending.remove(&request);
        } else {
            let refused = Refused { op: pending.op.clone(), code, since: pending.since, at: cx.now };
            self.pending.remove(&request);
            cx.witness.rejects.insert((self.user, request), refused);
        }
    }

    fn on_refused_ask(&mut self, cx: &mut Cx<'_>, ask: Ask, code: RejectCode, pause: Duration) {
        let not_found = code == RejectCode::NotFound;
        // Final for a question; whoever wants to know asks again some time.
        let unreadable = code == RejectCode::Unreadable;
        cx.witness.unreadable += u64::from(unreadable);
        let pause = if unreadable { Duration::from_secs(1) } else { pause };
        if !not_found && !unreadable && !code.is_retryable() {
            cx.witness.violation("M5", format!("{} asked {ask:?} and was refused: {code:?}", self.user));
        }
        match ask {
            Ask::Repair(id, _) => {
                if let Some(chat) = self.chats.get_mut(&id) {
                    chat.repairing = false;
                    if not_found {
                        self.leave_chat(id);
                    } else {
                        cx.wake.push((pause, Wake::Repair(id)));
                    }
                }
            }
            // No longer a member: it cannot be stored from here on, and whether it was is not for this user to know.
            Ask::CatchUp(request) if not_found => {
                self.pending.remove(&request);
            }
            Ask::CatchUp(request) => cx.wake.push((pause, Wake::CatchUp(request))),
            Ask::Walk => {
                self.walk = None;
                cx.wake.push((pause, Wake::Walk));
            }
            Ask::Audit(id) => self.refused_audit(cx, id, not_found, pause),
            Ask::Browse(..) => {}
        }
    }

    /// Pages from where a refused request was first tried to the head, looking for its event.
    pub(crate) fn catch_up(&mut self, cx: &mut Cx<'_>, request: u128) {
        let Some(Pending { op, stage: Stage::CatchingUp { anchor }, .. }) = self.pending.get(&request) else { return };
        let (Some(id), anchor) = (op.conversation(), *anchor) else { return };
        let page = self.ask(Ask::CatchUp(request));
        cx.send.push(wire::history(page, id, anchor, 256, 1));
    }

    /// A page for [`Self::catch_up`]: found, more to read, or sent again with what is known by it.
    pub(crate) fn caught_up(
        &mut self,
        cx: &mut Cx<'_>,
        request: u128,
        (head, first): (u64, u64),
        events: &[wire::EventCopy],
    ) {
        let Some(pending) = self.pending.get_mut(&request) else { return };
        if matches!(pending.stage, Stage::CatchingUp { anchor } if first > anchor + 1) {
            // Out and in again since: it may stand where this user cannot look any more. Sending it again might store it twice.
            self.pending.remove(&request);
            return;
        }
        if let Some(own) = events.iter().find(|event| event.sender == self.user && event.request == request) {
            let acked = Acked { conversation: own.conversation, seq: own.seq, time: own.time };
            cx.witness.acked(self.user, request, &pending.op, acked);
            self.pending.remove(&request);
            return;
        }
        match events.last() {
            Some(last) if last.seq < head => {
                pending.stage = Stage::CatchingUp { anchor: last.seq };
                self.catch_up(cx, request);
            }
            Some(_) | None => {
                pending.known = head;
                self.send(cx, request);
            }
        }
    }

    /// Names a question.
    pub(crate) fn ask(&mut self, ask: Ask) -> u128 {
        let request = self.fresh_request();
        self.asks.insert(request, ask);
        request
    }
}
