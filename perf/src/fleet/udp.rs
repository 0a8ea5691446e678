//! A worker's UDP sockets: each receives many datagrams per call (recvmmsg, GRO) and sends many to one peer per call (GSO). Keeps at most
//! one datagram per socket that the kernel did not take; never looks inside of one.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use quinn_proto::{EcnCodepoint, Transmit};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use super::tally::Counts;

/// Asked of the kernel for each socket, both ways; it caps it at its own limit. Unit: bytes.
/// A message to 10,000 peers arrives in one burst: 8 MiB are about 10,000 small datagrams as the kernel counts them.
const BUFFER_SIZE: usize = 8 * 1024 * 1024;
/// Bytes of one receive buffer: the most that the kernel merges into one. Unit: bytes.
const RECEIVE_SIZE: usize = 64 * 1024;
/// "ECN-capable transport", as quinn-proto marks its packets. Source: RFC 3168 section 5.
const ECT0: u32 = EcnCodepoint::Ect0 as u32;
/// Datagrams for one peer in one call. Unit: datagrams. quinn's own value.
const SEGMENTS_MAX: usize = 10;

/// Where datagrams are received, one for all sockets of a worker.
pub(super) struct ReceiveBuffer {
    bytes: Box<[u8]>,
    metas: [RecvMeta; BATCH_SIZE],
}

impl ReceiveBuffer {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; RECEIVE_SIZE * BATCH_SIZE].into_boxed_slice(), metas: [RecvMeta::default(); BATCH_SIZE] }
    }
}

/// One socket.
pub(super) struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    /// What the kernel had no room for.
    blocked: Option<(Transmit, Box<[u8]>)>,
    /// More may be there.
    pub(super) readable: bool,
}

/// One datagram as it was received.
pub(super) struct Received<'a> {
    pub(super) remote: SocketAddr,
    pub(super) local_ip: Option<IpAddr>,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) data: &'a [u8],
}

impl Udp {
    /// Bound to a free port and connected to `server`: a connected socket sends without looking the route up.
    pub(super) fn bind(server: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = match server.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => ([127, 0, 0, 1], 0).into(),
            IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            IpAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = Socket::new(Domain::for_address(any), Type::DGRAM, Some(Protocol::UDP))?;
        let _ = socket.set_recv_buffer_size(BUFFER_SIZE);
        let _ = socket.set_send_buffer_size(BUFFER_SIZE);
        // Every datagram that is sent without control data carries this mark.
        match server.ip() {
            IpAddr::V4(_) => socket.set_tos_v4(ECT0)?,
            IpAddr::V6(_) => socket.set_tclass_v6(ECT0)?,
        }
        socket.bind(&any.into())?;
        socket.connect(&server.into())?;
        let socket = UdpSocket::from(socket);
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state, blocked: None, readable: true })
    }

    pub(super) const fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Receives one batch and hands out each datagram of it. Returns whether more may be there.
    pub(super) fn receive(
        &mut self,
        buffer: &mut ReceiveBuffer,
        counts: &mut Counts,
        mut take: impl FnMut(Received<'_>),
    ) -> bool {
        let mut chunks = buffer.bytes.chunks_exact_mut(RECEIVE_SIZE);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let count = match self.state.recv((&self.socket).into(), &mut slices, &mut buffer.metas) {
            Ok(count) => count,
            Err(error) => {
                // Anything else is what the network said of an earlier datagram: there may be more behind it.
                self.readable = error.kind() != io::ErrorKind::WouldBlock;
                return false;
            }
        };
        // A call that is not filled has seen the end: what comes later is a new event.
        self.readable = count == BATCH_SIZE;
        for (bytes, meta) in slices.iter().zip(&buffer.metas).take(count) {
            let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
            let bytes = bytes.get(..meta.len).unwrap_or_default();
            counts.bytes_in += meta.len as u64;
            for data in bytes.chunks(meta.stride.max(1)) {
                counts.datagrams_in += 1;
                take(Received { remote: meta.addr, local_ip: meta.dst_ip, ecn, data });
            }
        }
        self.readable
    }

    /// Most datagrams that one [`Transmit`] may carry.
    pub(super) fn segments_max(&self) -> usize {
        self.state.max_gso_segments().clamp(1, SEGMENTS_MAX)
    }

    /// Sends, or keeps it for [`Self::retry`]. Only while nothing is kept.
    pub(super) fn send(&mut self, transmit: Transmit, contents: &[u8], counts: &mut Counts) {
        let contents = contents.get(..transmit.size).unwrap_or(contents);
        if self.try_send(&transmit, contents, counts).is_err() {
            counts.sends_blocked += 1;
            self.blocked = Some((transmit, contents.into()));
        }
    }

    /// Whether a datagram waits for room.
    pub(super) const fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Tries again to send what waits.
    pub(super) fn retry(&mut self, counts: &mut Counts) {
        if let Some((transmit, contents)) = self.blocked.take()
            && self.try_send(&transmit, &contents, counts).is_err()
        {
            self.blocked = Some((transmit, contents));
        }
    }

    /// `Err`: the kernel has no room now. Every other failure is a lost packet, which QUIC repairs.
    fn try_send(&self, transmit: &Transmit, contents: &[u8], counts: &mut Counts) -> Result<(), ()> {
        let result = if transmit.segment_size.is_none() && transmit.ecn == Some(EcnCodepoint::Ect0) {
            self.socket.send(contents).map(|_| ())
        } else {
            self.send_with_control(transmit, contents)
        };
        match result {
            Ok(()) => {
                counts.datagrams_out += transmit.segment_size.map_or(1, |size| contents.len().div_ceil(size)) as u64;
                counts.bytes_out += contents.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(()),
            Err(_) => Ok(()),
        }
    }

    fn send_with_control(&self, transmit: &Transmit, contents: &[u8]) -> io::Result<()> {
        let datagram = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
            contents,
            segment_size: transmit.segment_size,
            src_ip: None,
        };
        self.state.try_send((&self.socket).into(), &datagram)
    }
}
