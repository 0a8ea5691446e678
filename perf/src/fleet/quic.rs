//! All QUIC connections of one worker: receives a bounded number of packets, drives the connections for which something has happened in
//! slot order, and sends what they have to say. Never visits an idle connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use quinn_proto::{ConnectionEvent, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, EndpointEvent, VarInt};
use tern_protocol::CloseCode;

use super::book::Book;
use super::connection::Connection;
use super::deadline::Deadlines;
use super::peer::Peer;
use super::tally::Counts;
use super::tls::{Dialects, Visit};
use super::udp::{ReceiveBuffer, Received, Udp};

/// Batches received from one socket in one turn. Unit: calls of up to 32 buffers.
const RECEIVE_CALLS: usize = 4;
/// Connections driven in one turn. Unit: connections. 128 are about a millisecond.
const VISITS_MAX: usize = 128;
/// Packets sent for one connection in one turn. Unit: transmits of up to ten datagrams.
const TRANSMITS_MAX: usize = 32;

/// The QUIC half of a worker.
pub(super) struct Quic {
    endpoint: Endpoint,
    pub(super) sockets: Vec<Udp>,
    buffer: ReceiveBuffer,
    /// By [`ConnectionHandle`], which is a slab key. Boxed: a connection is 6 KB and stays where it is.
    connections: Vec<Option<Box<Connection>>>,
    /// Slots to look at in the next round, each once.
    dirty: Vec<u32>,
    /// The slots that were dirty when the last round began, and how many of them were visited.
    round: Vec<u32>,
    visited: usize,
    deadlines: Deadlines,
    /// Where packets are written before they are sent.
    packet: Vec<u8>,
    server: SocketAddr,
    server_name: String,
}

impl Quic {
    pub(super) fn new(server: SocketAddr, server_name: &str, sockets: usize) -> io::Result<Self> {
        let mut secret = [0; 64];
        getrandom::fill(&mut secret).map_err(io::Error::other)?;
        let reset = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
        let config = EndpointConfig::new(Arc::new(reset));
        let sockets = (0..sockets.max(2)).map(|_| Udp::bind(server)).collect::<io::Result<_>>()?;
        Ok(Self {
            endpoint: Endpoint::new(Arc::new(config), None, false, None),
            sockets,
            buffer: ReceiveBuffer::new(),
            connections: Vec::new(),
            dirty: Vec::new(),
            round: Vec::new(),
            visited: 0,
            deadlines: Deadlines::default(),
            packet: Vec::new(),
            server,
            server_name: server_name.to_owned(),
        })
    }

    /// Begins a connection; its slot.
    pub(super) fn dial(&mut self, local: u32, peer: &Peer, dialects: &mut Dialects, now: Instant) -> io::Result<u32> {
        let config = dialects.quic(peer.home, peer.visit)?;
        let (ConnectionHandle(slot), inner) =
            self.endpoint.connect(now, config, self.server, &self.server_name).map_err(io::Error::other)?;
        let number = u32::try_from(slot).map_err(io::Error::other)?;
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        let socket = usize::try_from(peer.id).unwrap_or(0) % self.sockets.len();
        let mut connection = Box::new(Connection::new(inner, local, socket, peer.stalled));
        if peer.visit == Visit::Return {
            connection.say_hello_early(peer);
        }
        if let Some(place) = self.connections.get_mut(slot) {
            *place = Some(connection);
        }
        self.mark(number);
        Ok(number)
    }

    /// Forgets a connection as if the process had died: nothing more is sent, and what comes is thrown away.
    pub(super) fn forget(&mut self, slot: u32) {
        if self.connections.get_mut(index(slot)).and_then(Option::take).is_some() {
            self.endpoint.handle_event(ConnectionHandle(index(slot)), EndpointEvent::drained());
        }
    }

    /// Closes a connection in order; it no longer belongs to its peer.
    pub(super) fn goodbye(&mut self, slot: u32, code: CloseCode, now: Instant) {
        if let Some(connection) = at(&mut self.connections, slot) {
            connection.detach();
            let reason = Bytes::from_static(code.text().as_bytes());
            connection.inner.close(now, VarInt::from_u32(u32::from(code.raw())), reason);
            self.mark(slot);
        }
    }

    /// Goes on from another socket.
    pub(super) fn migrate(&mut self, slot: u32) {
        let sockets = self.sockets.len();
        if let Some(connection) = at(&mut self.connections, slot) {
            connection.migrate((connection.socket + 1) % sockets);
            self.mark(slot);
        }
    }

    /// Stops or begins to read.
    pub(super) fn set_stalled(&mut self, slot: u32, stalled: bool) {
        if let Some(connection) = at(&mut self.connections, slot) {
            connection.stalled = stalled;
            self.mark(slot);
        }
    }

    /// The peer has something to write, or the connection something to do.
    pub(super) fn mark(&mut self, slot: u32) {
        if let Some(connection) = at(&mut self.connections, slot) {
            mark(&mut self.dirty, connection, slot);
        }
    }

    /// Receives a bounded number of packets. Returns whether more may be there.
    pub(super) fn receive(&mut self, now: Instant, counts: &mut Counts) -> bool {
        let mut more = false;
        for socket in 0..self.sockets.len() {
            let Some(udp) = self.sockets.get_mut(socket).filter(|udp| udp.readable) else { continue };
            let Self { endpoint, buffer, connections, dirty, packet, .. } = self;
            let mut migrations = 0;
            for _ in 0..RECEIVE_CALLS {
                let more = udp.receive(buffer, counts, |datagram| {
                    let Received { remote, local_ip, ecn, data } = datagram;
                    packet.clear();
                    // A packet of a forgotten connection would be answered with a reset: a dead process answers nothing.
                    let event = endpoint.handle(now, remote, local_ip, ecn, BytesMut::from(data), packet);
                    if let Some(DatagramEvent::ConnectionEvent(ConnectionHandle(slot), event)) = event {
                        migrations += deliver(connections, dirty, slot, event, socket);
                    }
                });
                if !more {
                    break;
                }
            }
            counts.migrations += migrations;
            more |= udp.readable;
        }
        more
    }

    /// Looks at the connections whose time has come.
    pub(super) fn fire_timers(&mut self, now: Instant) {
        while let Some((slot, due)) = self.deadlines.pop_due(now) {
            let Some(connection) = at(&mut self.connections, slot) else { continue };
            if connection.armed != Some(due) {
                continue;
            }
            connection.armed = None;
            if connection.inner.poll_timeout().is_some_and(|due| due <= now) {
                connection.inner.handle_timeout(now);
            }
            mark(&mut self.dirty, connection, slot);
        }
    }

    /// Reads, writes and sends for a bounded number of the connections for which something has happened: arrivals do not wait for a whole
    /// round. Each that has a peer is given to `after` with it. Returns whether some are left.
    pub(super) fn drive(
        &mut self,
        peers: &mut [Peer],
        book: &mut Book,
        mut after: impl FnMut(u32, &mut Peer, &mut Book),
    ) -> bool {
        for udp in &mut self.sockets {
            udp.retry(&mut book.counts);
        }
        if self.visited >= self.round.len() {
            self.round.clear();
            self.visited = 0;
            std::mem::swap(&mut self.dirty, &mut self.round);
            // Neighbours in memory were made together: the order keeps the caches useful.
            self.round.sort_unstable();
        }
        for _ in 0..VISITS_MAX {
            let Some(slot) = self.round.get(self.visited).copied() else { break };
            self.visited += 1;
            let Some(connection) = at(&mut self.connections, slot) else { continue };
            connection.is_dirty = false;
            if self.sockets.get(connection.socket).is_none_or(Udp::is_blocked) {
                mark(&mut self.dirty, connection, slot);
                continue;
            }
            book.tick();
            let mut drained = exchange(&mut self.endpoint, slot, connection);
            let local = connection.peer();
            let peer = local.and_then(|local| peers.get_mut(index(local)));
            let mut more = false;
            if let (Some(local), Some(peer)) = (local, peer) {
                more = connection.visit(peer, book);
                after(local, peer, book);
            }
            let Self { sockets, packet, .. } = self;
            more |= transmit(connection, sockets, packet, book);
            if let Some(due) = connection.next_deadline() {
                self.deadlines.arm(slot, &mut connection.armed, due);
            }
            drained |= exchange(&mut self.endpoint, slot, connection);
            if drained {
                if let Some(place) = self.connections.get_mut(index(slot)) {
                    *place = None;
                }
            } else if more {
                mark(&mut self.dirty, connection, slot);
            }
        }
        self.visited < self.round.len() || (!self.dirty.is_empty() && !self.is_blocked())
    }

    /// Whether every connection that has something to do waits for room in a socket.
    fn is_blocked(&self) -> bool {
        self.sockets.iter().any(Udp::is_blocked)
    }

    /// When the earliest connection wants to be looked at.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }
}

/// A slot as an index.
fn index(slot: u32) -> usize {
    usize::try_from(slot).unwrap_or(usize::MAX)
}

fn at(connections: &mut [Option<Box<Connection>>], slot: u32) -> Option<&mut Connection> {
    connections.get_mut(index(slot))?.as_deref_mut()
}

fn mark(dirty: &mut Vec<u32>, connection: &mut Connection, slot: u32) {
    if !connection.is_dirty {
        connection.is_dirty = true;
        dirty.push(slot);
    }
}

/// Gives a packet to its connection. Returns 1 if it is the first one at a new address.
fn deliver(
    connections: &mut [Option<Box<Connection>>],
    dirty: &mut Vec<u32>,
    slot: usize,
    event: ConnectionEvent,
    socket: usize,
) -> u64 {
    let Ok(slot) = u32::try_from(slot) else { return 0 };
    let Some(connection) = at(connections, slot) else { return 0 };
    connection.inner.handle_event(event);
    let arrived = connection.arrived_at(socket);
    mark(dirty, connection, slot);
    u64::from(arrived)
}

/// Passes on what the endpoint and a connection have to say to each other. Returns whether the connection is over.
fn exchange(endpoint: &mut Endpoint, slot: u32, connection: &mut Connection) -> bool {
    let mut drained = false;
    while let Some(event) = connection.inner.poll_endpoint_events() {
        drained |= event.is_drained();
        if let Some(answer) = endpoint.handle_event(ConnectionHandle(index(slot)), event) {
            connection.inner.handle_event(answer);
        }
    }
    drained
}

/// Sends what a connection has to say, until its socket or the budget is full. Returns whether there may be more.
fn transmit(connection: &mut Connection, sockets: &mut [Udp], packet: &mut Vec<u8>, book: &mut Book) -> bool {
    let Some(udp) = sockets.get_mut(connection.socket) else { return false };
    let segments = udp.segments_max();
    for _ in 0..TRANSMITS_MAX {
        packet.clear();
        let Some(transmit) = connection.inner.poll_transmit(book.instant, segments, packet) else { return false };
        udp.send(transmit, packet, &mut book.counts);
        if udp.is_blocked() {
            return true;
        }
    }
    true
}
