//! Connections: what is on the way between devices and shards, how much the transport takes, and how a connection ends.
//! Keeps order within a lane and nothing else; a datagram may be lost.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tern_core_shard::io::{Ending, Input, Lane};
use tern_protocol::limit::DELIVERY_LANE_COUNT;
use tern_protocol::{CloseCode, SessionId, Timestamp};

use crate::client::Link;
use crate::faults::Span;
use crate::wire::Op;
use crate::world::{Event, World};

/// Bytes on the way to a client with nothing wrong: more than any run queues.
const WINDOW_WIDE: usize = 16 * 1024 * 1024;

/// The server's end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerEnd {
    Open,
    /// Closed by the server; the shard was not told yet that it is gone.
    Closing,
    Gone,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) shard: usize,
    pub(crate) session: SessionId,
    pub(crate) device: usize,
    pub(crate) client_open: bool,
    pub(crate) server: ServerEnd,
    /// Bytes that may be on the way to the client.
    window: usize,
    on_the_way: usize,
    /// How long the client takes to read one frame.
    read: Span,
    /// Frames may wait in the shard.
    more: bool,
    /// Arrived, not read by the shard.
    inbound: VecDeque<Bytes>,
    up: Timestamp,
    lanes: [Timestamp; DELIVERY_LANE_COUNT + 1],
    /// Takes nothing until a scenario lets it.
    pub(crate) held: bool,
    /// The token was a forged one.
    pub(crate) forged: bool,
}

/// Session slots, reused with a new generation each.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    used: BTreeSet<u32>,
    generation: u32,
}

impl Slots {
    fn take(&mut self) -> SessionId {
        let slot = (0..).find(|slot| !self.used.contains(slot)).unwrap_or(0);
        self.used.insert(slot);
        self.generation += 1;
        SessionId::from_raw(u64::from(self.generation) << 32 | u64::from(slot))
    }

    fn free(&mut self, session: SessionId) {
        let slot = u32::try_from(session.raw() & 0xffff_ffff).expect("the low half");
        self.used.remove(&slot);
    }
}

impl World {
    /// A device connects, if it may and the server takes connections.
    pub(crate) fn connect(&mut self, index: usize) {
        let account = &self.accounts[index];
        if account.conn.is_some() || account.held || self.devices[index].link != Link::Down {
            return;
        }
        if !self.is_up() {
            let pause = self.rng.net.span((20_000, 300_000));
            self.schedule.after(pause, Event::Connect(index));
            return;
        }
        let shard = if self.rng.net.chance(700) {
            Self::shard_index(self.placement.home(self.devices[index].user))
        } else {
            self.rng.net.index(self.shards.len())
        };
        if self.rng.net.chance(self.faults.reinstall) {
            self.devices[index].reinstall();
        }
        let slow = self.rng.net.chance(self.faults.slow);
        let forged = self.plan.active > Duration::ZERO && self.faults.disconnect > 0 && self.rng.net.chance(20);
        let session = self.slots.take();
        let id = self.witness.counts.connections;
        self.witness.counts.connections += 1;
        let now = self.now();
        let window = if slow { usize::try_from(self.rng.net.between(0, 4_000)).unwrap_or(0) } else { WINDOW_WIDE };
        self.conns.insert(
            id,
            Conn {
                shard,
                session,
                device: index,
                client_open: true,
                server: ServerEnd::Open,
                window,
                on_the_way: 0,
                read: if slow { (10_000, 2_000_000) } else { (0, 0) },
                more: false,
                inbound: VecDeque::new(),
                up: now,
                lanes: [now; DELIVERY_LANE_COUNT + 1],
                held: false,
                forged,
            },
        );
        self.sessions.insert(session, id);
        self.accounts[index].conn = Some(id);
        self.attachments.push((shard, self.devices[index].user, now, None));
        self.turn(shard, Input::Connected { session });
        let token = if forged { Bytes::from_static(b"forged") } else { self.accounts[index].token.clone() };
        self.with_device(index, |device, cx| device.connect(cx, &token));
        if slow && window == 0 {
            // A reader that takes nothing at all for a while.
            let pause = self.rng.net.span((500_000, 20_000_000));
            self.schedule.after(pause, Event::Pump(id));
        }
    }

    /// A client's frame goes on its way, perhaps twice.
    pub(crate) fn client_sends(&mut self, index: usize, bytes: Bytes) {
        let Some(id) = self.accounts[index].conn else { return };
        let twice = self.rng.net.chance(self.faults.duplicate) && is_command(&bytes);
        // The second time is no first attempt: it says what was known.
        let known = |(request, _): &(u128, Op)| self.devices[index].ops.contains_key(request);
        let again = Op::read(&bytes).filter(|op| twice && known(op)).map(|(request, op)| {
            self.witness.doubled.insert(request);
            let known = self.devices[index].pending.get(&request).map_or(0, |pending| pending.known);
            op.frame(request, known)
        });
        for bytes in std::iter::once(bytes).chain(again) {
            let delay = self.rng.net.span(self.faults.net);
            let Some(conn) = self.conns.get_mut(&id) else { return };
            conn.up = self.schedule.now().after(delay).max(conn.up);
            let at = conn.up;
            self.schedule.at(at, Event::ToServer { conn: id, bytes });
        }
    }

    /// A frame is in the server's receive buffer.
    pub(crate) fn arrive_at_server(&mut self, id: u64, bytes: Bytes) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.server == ServerEnd::Gone {
            return;
        }
        conn.inbound.push_back(bytes);
        if conn.inbound.len() == 1 {
            self.feed(id);
        }
    }

    /// The shard reads one frame, if it wants to.
    pub(crate) fn feed(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.server == ServerEnd::Gone || conn.inbound.is_empty() {
            return;
        }
        let (shard, session) = (conn.shard, conn.session);
        if !self.shards[shard].wants_input(session) {
            self.stalled.insert(id);
            return;
        }
        if let Some(bytes) = conn.inbound.pop_front() {
            if !conn.inbound.is_empty() {
                self.schedule.after(Duration::ZERO, Event::Feed(id));
            }
            self.turn(shard, Input::Frame { session, bytes });
        }
    }

    /// Reads go on where the shard wants input again.
    pub(crate) fn retry_stalled(&mut self, shard: usize) {
        let ready: Vec<_> = self
            .stalled
            .iter()
            .filter(|id| {
                self.conns.get(id).is_some_and(|conn| {
                    conn.shard == shard
                        && (conn.server == ServerEnd::Gone || self.shards[shard].wants_input(conn.session))
                })
            })
            .copied()
            .collect();
        for id in ready {
            self.stalled.remove(&id);
            self.schedule.after(Duration::ZERO, Event::Feed(id));
        }
    }

    /// Frames wait for a connection: the transport takes them at once, or a little later.
    pub(crate) fn ready(&mut self, id: u64) {
        if self.rng.net.chance(150) {
            let pause = self.rng.net.span((10, 20_000));
            self.schedule.after(pause, Event::Pump(id));
        } else {
            self.pump(id);
        }
    }

    /// The transport takes as many frames as it has room for.
    pub(crate) fn pump(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.server != ServerEnd::Open || !self.alive {
            return;
        }
        if conn.held {
            conn.more = true;
            return;
        }
        if self.faults.slow == 0 {
            (conn.window, conn.read) = (WINDOW_WIDE, (0, 0));
        } else if conn.window == 0 && conn.more {
            conn.window = 2_000;
        }
        conn.more = false;
        self.take_frames(id, false);
    }

    fn take_frames(&mut self, id: u64, all: bool) {
        for lane in lanes() {
            loop {
                let Some(conn) = self.conns.get_mut(&id) else { return };
                if !all && conn.on_the_way >= conn.window {
                    conn.more = true;
                    break;
                }
                let Some(bytes) = self.shards[conn.shard].pop_frame(conn.session, lane) else { break };
                self.ship(id, lane, bytes);
            }
        }
        if let Some(conn) = self.conns.get(&id) {
            self.after_taking(conn.shard);
        }
    }

    fn ship(&mut self, id: u64, lane: Lane, bytes: Bytes) {
        let now = self.now();
        let Some(conn) = self.conns.get_mut(&id) else { return };
        self.trace.step(now, conn.shard, "pop", &bytes);
        let delay = self.rng.net.span(self.faults.net) + self.rng.net.span(conn.read);
        let at = now.after(delay);
        let clock = match lane {
            Lane::Control => conn.lanes.last_mut(),
            Lane::Delivery(lane) => conn.lanes[..DELIVERY_LANE_COUNT].get_mut(usize::from(lane)),
            Lane::Datagram => {
                if !self.rng.net.chance(self.faults.datagram_loss) {
                    self.schedule.at(at, Event::ToClient { conn: id, lane, bytes });
                }
                return;
            }
        };
        let clock = clock.expect("the core names one of its lanes");
        *clock = at.max(*clock);
        conn.on_the_way += bytes.len();
        let at = *clock;
        let lost = self.faults.event_loss > 0
            && matches!(lane, Lane::Delivery(_))
            && self.rng.net.chance(self.faults.event_loss);
        if lost {
            conn.on_the_way -= bytes.len();
        } else {
            self.schedule.at(at, Event::ToClient { conn: id, lane, bytes });
        }
    }

    /// The client reads a frame; the transport has room for others.
    pub(crate) fn arrive_at_client(&mut self, id: u64, lane: Lane, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if lane != Lane::Datagram {
            conn.on_the_way -= bytes.len();
        }
        let (device, more) = (conn.device, conn.more);
        if conn.client_open {
            let now = self.schedule.now();
            self.trace
                .print(now, format_args!("device {device} <- {lane:?} {:?}", crate::wire::FromServer::read(bytes)));
            if conn.forged && tern_protocol::frame::open(bytes).is_ok_and(|(kind, _)| kind.0 == 0x80) {
                self.witness.violation("M12", "a forged token was welcomed".to_owned());
            }
            self.with_device(device, |device, cx| device.on_frame(cx, lane, bytes));
        }
        if more {
            self.pump(id);
        }
    }

    /// The server closes: what waits is sent first, unless the transport is broken too.
    pub(crate) fn server_close(&mut self, id: u64, code: CloseCode) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.server != ServerEnd::Open || !self.alive {
            return;
        }
        if code == CloseCode::SlowReader {
            self.witness.counts.slow_closes += 1;
        }
        conn.server = ServerEnd::Closing;
        self.take_frames(id, true);
        let told =
            self.conns.get(&id).map_or(Timestamp::ZERO, |conn| conn.lanes.iter().copied().max().unwrap_or(conn.up));
        let pause = self.rng.net.span(self.faults.net);
        self.schedule.at(told.max(self.now()).after(pause), Event::ClientGone { conn: id, code: Some(code) });
        let pause = self.rng.net.span((10, 500_000));
        self.schedule.after(pause, Event::ServerGone { conn: id, ending: Ending::Lost });
    }

    /// The shard learns that a connection is gone.
    pub(crate) fn server_gone(&mut self, id: u64, ending: Ending) {
        let now = self.now();
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.server == ServerEnd::Gone {
            return;
        }
        conn.server = ServerEnd::Gone;
        let (shard, session, user) = (conn.shard, conn.session, self.devices[conn.device].user);
        self.sessions.remove(&session);
        if let Some(attachment) =
            self.attachments.iter_mut().find(|(s, u, _, until)| (*s, *u, *until) == (shard, user, None))
        {
            attachment.3 = Some(now);
        }
        self.turn(shard, Input::Disconnected { session, ending });
        self.slots.free(session);
    }

    /// The client learns that its connection is gone, and comes back unless it was logged out.
    pub(crate) fn client_gone(&mut self, id: u64, code: Option<CloseCode>) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if !std::mem::replace(&mut conn.client_open, false) {
            return;
        }
        let (index, forged) = (conn.device, conn.forged);
        self.accounts[index].conn = None;
        let expected = match code {
            None => true,
            Some(CloseCode::Revoked) => self.accounts[index].revoked,
            Some(CloseCode::BadToken) => forged,
            Some(CloseCode::TooManySessions) => true,
            Some(code) => code.is_resumable(),
        };
        if !expected {
            self.witness.violation("M5", format!("device {index} was closed for no reason of its own: {code:?}"));
        }
        self.devices[index].disconnect(code);
        let crowded = code == Some(CloseCode::TooManySessions);
        let pause = self.rng.net.span(if crowded { (1_000_000, 4_000_000) } else { self.faults.away });
        self.schedule.after(pause, Event::Connect(index));
    }

    /// A device loses its connection: it knows at once, the server later; what is on the way up may still arrive.
    pub(crate) fn drop_connection(&mut self, index: usize, ending: Ending) {
        let Some(id) = self.accounts[index].conn else { return };
        let up = self.conns.get(&id).map_or(Timestamp::ZERO, |conn| conn.up);
        let pause = match ending {
            Ending::Goodbye => up.since(self.now()),
            Ending::Lost if self.rng.net.chance(400) => self.rng.net.span((10, 5_000)),
            Ending::Lost => self.rng.net.span((5_000, 5_000_000)),
        };
        self.schedule.after(pause, Event::ServerGone { conn: id, ending });
        self.client_gone(id, None);
    }

    /// The process died: its ends of all connections are gone, and the clients notice by and by.
    pub(crate) fn lose_connections(&mut self) {
        let now = self.now();
        self.sessions.clear();
        self.stalled.clear();
        self.slots.used.clear();
        for (_, _, _, until) in &mut self.attachments {
            until.get_or_insert(now);
        }
        let open: Vec<_> =
            self.conns.iter_mut().filter(|(_, conn)| conn.server != ServerEnd::Gone || conn.client_open).collect();
        let mut lost = Vec::new();
        for (id, conn) in open {
            conn.server = ServerEnd::Gone;
            if conn.client_open {
                lost.push(*id);
            }
        }
        for conn in lost {
            let pause = self.rng.net.span((10, 2_000_000));
            self.schedule.after(pause, Event::ClientGone { conn, code: None });
        }
    }
}

fn lanes() -> impl Iterator<Item = Lane> {
    let delivery = (0..DELIVERY_LANE_COUNT).map(|lane| Lane::Delivery(u8::try_from(lane).expect("a few lanes")));
    std::iter::once(Lane::Control).chain(delivery).chain([Lane::Datagram])
}

/// Whether a frame may be sent twice without breaking the protocol: the requests that carry an id of their own.
fn is_command(bytes: &[u8]) -> bool {
    bytes.get(5).is_some_and(|kind| matches!(kind, 0x02..=0x05 | 0x0c..=0x12))
}
