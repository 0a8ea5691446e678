//! A shard's UDP socket: receives many datagrams per call (recvmmsg, GRO), sends many to one peer per call (GSO). Keeps at most one
//! datagram that the kernel did not take; never looks inside of one.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn_proto::{EcnCodepoint, Transmit};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};

use crate::shard_thread::Status;

/// Bytes of one receive buffer: the most that the kernel merges into one. Unit: bytes.
const RECEIVE_SIZE: usize = 64 * 1024;
/// Datagrams for one peer in one call. Unit: datagrams. quinn's own value: more would burst past small router queues.
const SEGMENTS_MAX: usize = 10;

/// One shard's socket and its buffers.
pub(super) struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    receive: Box<[u8]>,
    metas: [RecvMeta; BATCH_SIZE],
    /// What the kernel had no room for.
    blocked: Option<(Transmit, Box<[u8]>)>,
    status: Arc<Status>,
}

/// One datagram as it was received.
pub(super) struct Received<'a> {
    pub(super) remote: SocketAddr,
    pub(super) local_ip: Option<IpAddr>,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) data: &'a [u8],
}

impl Udp {
    pub(super) fn new(socket: UdpSocket, status: Arc<Status>) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let receive = vec![0; RECEIVE_SIZE * BATCH_SIZE].into_boxed_slice();
        Ok(Self { socket, state, receive, metas: [RecvMeta::default(); BATCH_SIZE], blocked: None, status })
    }

    pub(super) const fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Receives one batch and hands out each datagram of it, the empty ones too. `false`: the socket is empty now.
    pub(super) fn receive(&mut self, mut take: impl FnMut(Received<'_>)) -> bool {
        let counters = &self.status.counters;
        let mut chunks = self.receive.chunks_exact_mut(RECEIVE_SIZE);
        let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let count = match self.state.recv((&self.socket).into(), &mut buffers, &mut self.metas) {
            Ok(count) => count,
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    tracing::debug!(%error, "receiving UDP");
                }
                return false;
            }
        };
        for (buffer, meta) in buffers.iter().zip(&self.metas).take(count) {
            let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
            counters.datagram_bytes_in.add(meta.len as u64);
            let mut rest = buffer.get(..meta.len).unwrap_or_default();
            loop {
                let (data, left) = rest.split_at(rest.len().min(meta.stride.max(1)));
                counters.datagrams_in.add(1);
                take(Received { remote: meta.addr, local_ip: meta.dst_ip, ecn, data });
                rest = left;
                if rest.is_empty() {
                    break;
                }
            }
        }
        // A call that fills less than it could has found the socket empty: no second one need ask.
        count == BATCH_SIZE
    }

    /// Most datagrams that one [`Transmit`] may carry.
    pub(super) fn segments_max(&self) -> usize {
        self.state.max_gso_segments().clamp(1, SEGMENTS_MAX)
    }

    /// Sends, or keeps it for [`Self::retry`]. Only while nothing is kept.
    pub(super) fn send(&mut self, transmit: Transmit, contents: &[u8]) {
        debug_assert!(self.blocked.is_none(), "one datagram waits already");
        let contents = contents.get(..transmit.size).unwrap_or(contents);
        if self.try_send(&transmit, contents).is_err() {
            self.status.counters.datagrams_blocked.add(1);
            self.blocked = Some((transmit, contents.into()));
        }
    }

    /// Whether a datagram waits for room.
    pub(super) const fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Tries again to send what waits.
    pub(super) fn retry(&mut self) {
        if let Some((transmit, contents)) = self.blocked.take()
            && self.try_send(&transmit, &contents).is_err()
        {
            self.blocked = Some((transmit, contents));
        }
    }

    /// `Err`: the kernel has no room now. Every other failure is a lost packet, which QUIC repairs.
    fn try_send(&self, transmit: &Transmit, contents: &[u8]) -> Result<(), ()> {
        let counters = &self.status.counters;
        let datagram = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
            contents,
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        match self.state.try_send((&self.socket).into(), &datagram) {
            Ok(()) => {
                let count = transmit.segment_size.map_or(1, |size| contents.len().div_ceil(size));
                counters.datagrams_out.add(count as u64);
                counters.datagram_bytes_out.add(contents.len() as u64);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(()),
            Err(error) => {
                tracing::trace!(%error, "sending UDP");
                counters.datagrams_failed.add(1);
                Ok(())
            }
        }
    }
}
