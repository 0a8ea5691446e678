//! All QUIC connections of one shard: receives a bounded number of packets, lets a bounded number of handshakes in, drives the
//! connections for which something has happened in slot order, and sends what they have to say. Never visits an idle connection.

use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::{ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, Incoming, ServerConfig};
use tern_core_shard::io::{Ending, Urgency};
use tern_protocol::CloseCode;

use super::admission::{ACCEPTS_PER_TURN, Admission, Network, Verdict};
use super::cid::shard_of;
use super::connection::{Connection, Progress};
use super::deadline::{DEADLINES_PER_TURN, Deadlines};
use super::prefetch::prefetch;
use super::udp::{Received, Udp};
use crate::agenda::Agenda;
use crate::shard_thread::{Performer, Status, Stray};
use crate::store::Store;

/// Batches received in one turn. Unit: calls of up to 32 buffers.
const RECEIVE_CALLS: usize = 4;
/// Packets sent for one connection in one turn. Unit: transmits of up to ten datagrams. More than a send window holds.
const TRANSMITS_MAX: usize = 32;

/// The QUIC half of a shard.
pub(crate) struct Quic {
    net: Net,
    /// By [`ConnectionHandle`], which is a slab key. Boxed: a connection is 6 KB and stays where it is.
    connections: Vec<Option<Box<Connection>>>,
    live: usize,
    agenda: Agenda,
    /// The visits of one turn; empty between turns.
    visits: Vec<usize>,
    /// Slots of connections that are not read from for back-pressure.
    paused: Vec<usize>,
    deadlines: Deadlines<usize>,
    connections_max: usize,
}

/// What has no connection: the socket, the endpoint, and who may come in.
struct Net {
    endpoint: Endpoint,
    udp: Udp,
    admission: Admission,
    /// Where packets are written before they are sent.
    packet: Vec<u8>,
    shard: u16,
    shards: u16,
}

impl Quic {
    /// # Errors
    /// The kernel lacks a socket option that QUIC needs.
    pub(crate) fn new(
        socket: UdpSocket,
        config: EndpointConfig,
        server: Arc<ServerConfig>,
        (shard, shards): (u16, u16),
        connections_max: usize,
        status: Arc<Status>,
    ) -> io::Result<Self> {
        let endpoint = Endpoint::new(Arc::new(config), Some(server), false, None);
        let udp = Udp::new(socket, status)?;
        Ok(Self {
            net: Net { endpoint, udp, admission: Admission::default(), packet: Vec::new(), shard, shards },
            connections: Vec::new(),
            live: 0,
            agenda: Agenda::default(),
            visits: Vec::new(),
            paused: Vec::new(),
            deadlines: Deadlines::new(),
            connections_max,
        })
    }

    pub(crate) const fn socket(&self) -> &UdpSocket {
        self.net.udp.socket()
    }

    /// Uses another certificate for new connections.
    pub(crate) fn set_server(&mut self, server: Arc<ServerConfig>) {
        self.net.endpoint.set_server_config(Some(server));
    }

    /// Receives a bounded number of packets. Returns whether more may be there.
    pub(crate) fn receive<S: Store>(&mut self, performer: &mut Performer<S>) -> bool {
        for _ in 0..RECEIVE_CALLS {
            let Self { net, connections, agenda, .. } = self;
            let Net { endpoint, udp, admission, packet, shard, shards } = net;
            let mut replies = Vec::new();
            let received = udp.receive(|datagram| {
                let Received { remote, local_ip, ecn, data } = datagram;
                // One allocation per packet, not per batch: a frame that is kept keeps its packet, and no more.
                let data = BytesMut::from(data);
                match shard_of(&data, *shards) {
                    Some(to) if to != *shard => performer.forward(to, Stray { remote, local_ip, ecn, data }),
                    Some(_) | None => {
                        let stray = Stray { remote, local_ip, ecn, data };
                        let mut router = Router { endpoint, admission, packet, connections, agenda };
                        replies.extend(router.route(stray, performer));
                    }
                }
            });
            self.net.send_replies(replies);
            if !received {
                return false;
            }
        }
        true
    }

    /// Takes a packet that another shard has received.
    pub(crate) fn take_stray<S: Store>(&mut self, stray: Stray, performer: &Performer<S>) {
        performer.status().counters.strays_in.add(1);
        let Self { net: Net { endpoint, admission, packet, .. }, connections, agenda, .. } = self;
        let reply = Router { endpoint, admission, packet, connections, agenda }.route(stray, performer);
        self.net.send_replies(reply.into_iter().collect());
    }

    /// Begins a bounded number of the handshakes that wait. Returns whether some are left.
    pub(crate) fn accept<S: Store>(&mut self, performer: &mut Performer<S>) -> bool {
        let now = performer.now().instant;
        for _ in 0..ACCEPTS_PER_TURN {
            let Some((incoming, is_late)) = self.net.admission.pop(now) else { break };
            let network = Network::of(incoming.remote_address().ip());
            let counters = &performer.status().counters;
            if is_late {
                counters.handshakes_ignored.add(1);
                self.net.endpoint.ignore(incoming);
                self.net.admission.ended(network);
                continue;
            }
            if performer.is_draining() || self.live >= self.connections_max {
                counters.handshakes_refused.add(1);
                self.net.packet.clear();
                let refusal = self.net.endpoint.refuse(incoming, &mut self.net.packet);
                self.net.admission.ended(network);
                self.net.send_packet(refusal);
                continue;
            }
            self.accept_one(incoming, network, performer);
        }
        let counters = &performer.status().counters;
        counters.handshakes_open.set(self.net.admission.open());
        self.net.admission.waiting() > 0
    }

    fn accept_one<S: Store>(&mut self, incoming: Incoming, network: Network, performer: &mut Performer<S>) {
        let now = performer.now().instant;
        performer.status().counters.handshakes.add(1);
        self.net.packet.clear();
        match self.net.endpoint.accept(incoming, now, &mut self.net.packet, None) {
            Ok((ConnectionHandle(slot), inner)) => {
                if self.connections.len() <= slot {
                    self.connections.resize_with(slot + 1, || None);
                }
                if let Some(place) = self.connections.get_mut(slot) {
                    *place = Some(Box::new(Connection::new(inner, slot, network, now)));
                    self.live += 1;
                }
                self.mark_dirty(slot);
            }
            Err(error) => {
                self.net.admission.ended(network);
                if let Some(response) = error.response {
                    self.net.send_packet(response);
                }
            }
        }
        performer.status().counters.quic_connections.set(self.live);
    }

    /// Looks at the connections whose time has come. Most entries are leftovers of timers that an acknowledgement has stopped since: those
    /// connections are left alone, because a visit brings all of a connection into the caches.
    pub(crate) fn fire_timers(&mut self, now: Instant) {
        let Self { connections, deadlines, agenda, .. } = self;
        for _ in 0..DEADLINES_PER_TURN {
            let Some((slot, at)) = deadlines.pop_due(now) else { return };
            let Some(connection) = connection(connections, slot) else { continue };
            if connection.armed != Some(at) {
                continue;
            }
            connection.armed = None;
            match connection.next_deadline() {
                Some(next) if next > now => deadlines.arm(slot, &mut connection.armed, next),
                Some(_) => {
                    if connection.inner.poll_timeout().is_some_and(|due| due <= now) {
                        connection.inner.handle_timeout(now);
                    }
                    agenda.mark(slot, &mut connection.is_listed);
                }
                None => {}
            }
        }
    }

    /// Reads from every connection for which something has happened.
    pub(crate) fn read<S: Store>(&mut self, performer: &mut Performer<S>) -> bool {
        let mut more = false;
        // Indexed, because frames that are handed over can close connections, which marks them.
        let mut index = 0;
        while let Some(slot) = self.agenda.now().get(index).copied() {
            index += 1;
            fetch_ahead(&self.connections, self.agenda.now().get(index));
            let Some(connection) = connection(&mut self.connections, slot) else { continue };
            let is_drained = self.net.exchange(slot, connection);
            let was_paused = connection.is_paused;
            connection.has_more = connection.read(performer) == Progress::More;
            more |= connection.has_more;
            if connection.is_paused && !was_paused {
                self.paused.push(slot);
            }
            if is_drained {
                self.remove(slot, performer);
            }
        }
        more
    }

    /// Looks again at the connections that wait for back-pressure to end. Before [`Self::read`].
    pub(crate) fn resume(&mut self) {
        for slot in self.paused.drain(..) {
            if let Some(connection) = connection(&mut self.connections, slot) {
                connection.is_paused = false;
                self.agenda.mark(slot, &mut connection.is_listed);
            }
        }
    }

    /// Connections that wait for back-pressure to end.
    pub(crate) const fn paused(&self) -> usize {
        self.paused.len()
    }

    /// The core has frames for this connection.
    pub(crate) fn mark_ready(&mut self, slot: usize, urgency: Urgency) {
        if let Some(connection) = connection(&mut self.connections, slot) {
            connection.mark_writable();
            self.agenda.add(slot, urgency, &mut connection.is_listed);
        }
    }

    /// The core wants this connection closed.
    pub(crate) fn close<S: Store>(&mut self, slot: usize, code: CloseCode, performer: &Performer<S>) {
        if let Some(connection) = connection(&mut self.connections, slot) {
            connection.close(code, performer);
            self.agenda.mark(slot, &mut connection.is_listed);
        }
    }

    /// Writes and sends for the connections whose turn it is, in slot order. Returns whether some have more.
    pub(crate) fn drive<S: Store>(&mut self, performer: &mut Performer<S>) -> bool {
        self.net.udp.retry();
        if self.net.udp.is_blocked() {
            return false;
        }
        self.agenda.take(&mut self.visits);
        let mut visited = 0;
        while let Some(slot) = self.visits.get(visited).copied() {
            visited += 1;
            fetch_ahead(&self.connections, self.visits.get(visited));
            let Some(connection) = connection(&mut self.connections, slot) else { continue };
            connection.is_listed = false;
            connection.write(performer);
            let progress = self.net.transmit(connection, performer);
            if connection.take_admitted() {
                self.net.admission.ended(connection.network());
            }
            if let Some(at) = connection.next_deadline() {
                self.deadlines.arm(slot, &mut connection.armed, at);
            }
            if std::mem::take(&mut connection.has_more) {
                self.agenda.mark(slot, &mut connection.is_listed);
            }
            if progress == Progress::More {
                self.agenda.put_off(slot);
            }
            if self.net.exchange(slot, connection) {
                self.remove(slot, performer);
            }
            if self.net.udp.is_blocked() {
                break;
            }
        }
        for slot in self.visits.drain(..).skip(visited) {
            // Those that were not reached keep their place.
            match connection(&mut self.connections, slot) {
                Some(connection) if connection.is_listed => {
                    connection.is_listed = false;
                    self.agenda.mark(slot, &mut connection.is_listed);
                }
                Some(_) => self.agenda.put_off(slot),
                None => {}
            }
        }
        let counters = &performer.status().counters;
        counters.quic_connections.set(self.live);
        counters.quic_visits_waiting.set(self.agenda.waiting());
        !self.agenda.is_empty() && !self.net.udp.is_blocked()
    }

    /// Whether a packet waits for room in the socket.
    pub(crate) const fn is_blocked(&self) -> bool {
        self.net.udp.is_blocked()
    }

    /// When the earliest connection wants to be looked at.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Forgets a connection that the endpoint has forgotten: its slot may be given to another at once.
    fn remove<S: Store>(&mut self, slot: usize, performer: &mut Performer<S>) {
        let Some(mut connection) = self.connections.get_mut(slot).and_then(Option::take) else { return };
        connection.end(Ending::Lost, performer);
        if connection.take_admitted() {
            self.net.admission.ended(connection.network());
        }
        self.live -= 1;
    }

    fn mark_dirty(&mut self, slot: usize) {
        if let Some(connection) = connection(&mut self.connections, slot) {
            self.agenda.mark(slot, &mut connection.is_listed);
        }
    }
}

impl Net {
    /// Passes on what the endpoint and a connection have to say to each other. Returns whether the connection is over.
    fn exchange(&mut self, slot: usize, connection: &mut Connection) -> bool {
        let mut is_drained = false;
        while let Some(event) = connection.inner.poll_endpoint_events() {
            is_drained |= event.is_drained();
            if let Some(answer) = self.endpoint.handle_event(ConnectionHandle(slot), event) {
                connection.inner.handle_event(answer);
            }
        }
        is_drained
    }

    /// Sends what a connection has to say, until the socket or the budget is full.
    fn transmit<S: Store>(&mut self, connection: &mut Connection, performer: &Performer<S>) -> Progress {
        let segments = self.udp.segments_max();
        for _ in 0..TRANSMITS_MAX {
            self.packet.clear();
            let Some(transmit) = connection.inner.poll_transmit(performer.now().instant, segments, &mut self.packet)
            else {
                return Progress::Done;
            };
            self.udp.send(transmit, &self.packet);
            if self.udp.is_blocked() {
                break;
            }
        }
        Progress::More
    }

    fn send_replies(&mut self, replies: Vec<(quinn_proto::Transmit, Vec<u8>)>) {
        for (transmit, packet) in replies {
            // While the socket is full a lost reply is repeated by the peer's own timers.
            if !self.udp.is_blocked() {
                self.udp.send(transmit, &packet);
            }
        }
    }

    /// Sends the packet that was just written.
    fn send_packet(&mut self, transmit: quinn_proto::Transmit) {
        let packet = std::mem::take(&mut self.packet);
        if !self.udp.is_blocked() {
            self.udp.send(transmit, &packet);
        }
        self.packet = packet;
    }
}

/// Brings received packets to where they belong, while the receive buffers are borrowed.
struct Router<'a> {
    endpoint: &'a mut Endpoint,
    admission: &'a mut Admission,
    packet: &'a mut Vec<u8>,
    connections: &'a mut Vec<Option<Box<Connection>>>,
    agenda: &'a mut Agenda,
}

impl Router<'_> {
    /// Returns a packet that is to be sent at once, without a connection.
    fn route<S: Store>(
        &mut self,
        datagram: Stray,
        performer: &Performer<S>,
    ) -> Option<(quinn_proto::Transmit, Vec<u8>)> {
        let Stray { remote, local_ip, ecn, data } = datagram;
        let now = performer.now().instant;
        self.packet.clear();
        match self.endpoint.handle(now, remote, local_ip, ecn, data, self.packet)? {
            DatagramEvent::ConnectionEvent(ConnectionHandle(slot), event) => {
                let connection = connection(self.connections, slot)?;
                connection.receive(event, now);
                self.agenda.mark(slot, &mut connection.is_listed);
                None
            }
            DatagramEvent::NewConnection(incoming) => self.admit(incoming, performer),
            DatagramEvent::Response(transmit) => Some((transmit, std::mem::take(self.packet))),
        }
    }

    fn admit<S: Store>(
        &mut self,
        incoming: Incoming,
        performer: &Performer<S>,
    ) -> Option<(quinn_proto::Transmit, Vec<u8>)> {
        let counters = &performer.status().counters;
        match self.admission.judge(&incoming) {
            Verdict::Queue => self.admission.push(performer.now().instant, incoming),
            Verdict::Ignore => {
                counters.handshakes_ignored.add(1);
                self.endpoint.ignore(incoming);
            }
            Verdict::Retry => {
                self.packet.clear();
                match self.endpoint.retry(incoming, self.packet) {
                    Ok(transmit) => {
                        counters.handshakes_retried.add(1);
                        return Some((transmit, std::mem::take(self.packet)));
                    }
                    Err(error) => {
                        counters.handshakes_ignored.add(1);
                        self.endpoint.ignore(error.into_incoming());
                    }
                }
            }
        }
        None
    }
}

fn connection(connections: &mut [Option<Box<Connection>>], slot: usize) -> Option<&mut Connection> {
    connections.get_mut(slot)?.as_deref_mut()
}

/// The next connection on a list will be needed in a moment.
fn fetch_ahead(connections: &[Option<Box<Connection>>], slot: Option<&usize>) {
    if let Some(Some(connection)) = slot.and_then(|slot| connections.get(*slot)) {
        prefetch::<Connection>(connection);
    }
}

impl fmt::Debug for Quic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quic").field("live", &self.live).finish_non_exhaustive()
    }
}
