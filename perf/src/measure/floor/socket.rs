//! One send and one receive of the kernel, on loopback. Loopback charges the receiver's half of the stack to the sender; a network card would
//! not.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{SockFilter, SockRef};

use super::Effort;
use super::spread::{Batches, Spread};

/// Addresses that are sent to in turn. All of 127.0.0.0/8 is this machine.
const DESTINATIONS: u32 = 10_000;
/// Bytes of a datagram. A 200-byte message with its frame, header and tag.
const DATAGRAM_SIZE: usize = 250;
/// Bytes of a WebSocket frame with a 200-byte message.
const FRAME_SIZE: usize = 208;
/// Operations timed together. 50 datagrams fit into the kernel's default receive buffer (208 KiB, 768 bytes each with their bookkeeping).
const BATCH: u32 = 50;
/// TCP connections that are sent on in turn, if the limit of open files lets so many be.
const CONNECTIONS: u32 = 1_000;
/// Files of the process that are left alone when connections are counted. Each connection is two files.
const FILES_SPARED: u64 = 256;
/// Looks at an empty receive buffer before a datagram is taken for lost.
const LOOKS_MAX: u32 = 10_000;

/// A send to another address each time. One socket takes them all and drops them by a socket filter, so nothing is queued.
pub(super) fn udp_send(effort: Effort) -> io::Result<Spread> {
    let sink = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    SockRef::from(&sink).attach_filter(&[drop_all()])?;
    let port = sink.local_addr()?.port();
    let addresses: Vec<SocketAddr> = (0..DESTINATIONS).map(|index| destination(index, port)).collect();
    let source = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let datagram = [0x5a; DATAGRAM_SIZE];
    let mut sends = Batches::new()?;
    for _ in 0..effort.count(10) {
        for addresses in addresses.chunks(BATCH as usize) {
            sends.time(BATCH, || addresses.iter().try_for_each(|to| source.send_to(&datagram, to).map(|_| ())))?;
        }
    }
    Ok(sends.spread())
}

/// A receive of what waits in the buffer.
pub(super) fn udp_recv(effort: Effort) -> io::Result<Spread> {
    let (source, sink) = (UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?);
    sink.set_nonblocking(true)?;
    let to = sink.local_addr()?;
    let (datagram, mut buffer) = ([0x5a; DATAGRAM_SIZE], [0; 2048]);
    let mut receives = Batches::new()?;
    for _ in 0..effort.count(1_000) {
        for _ in 0..BATCH {
            source.send_to(&datagram, to)?;
        }
        receives.time(BATCH, || (0..BATCH).try_for_each(|_| receive(&sink, &mut buffer)))?;
    }
    Ok(receives.spread())
}

/// A send on another connection each time; receivers are emptied between batches, untimed.
pub(super) fn tcp_send(effort: Effort) -> io::Result<Spread> {
    raise_files();
    let free = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(FILES_SPARED) / 2;
    let count = u32::try_from(free).unwrap_or(CONNECTIONS).clamp(BATCH, CONNECTIONS);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let to = listener.local_addr()?;
    let mut pairs = (0..count).map(|_| connection(&listener, to)).collect::<io::Result<Vec<_>>>()?;
    let (frame, mut buffer) = ([0x5a; FRAME_SIZE], vec![0; 64 * 1024]);
    let mut sends = Batches::new()?;
    for _ in 0..effort.count(20) {
        for pairs in pairs.chunks_exact_mut(BATCH as usize) {
            sends.time(BATCH, || pairs.iter_mut().try_for_each(|(sender, _)| sender.write_all(&frame)))?;
        }
        for (_, receiver) in &mut pairs {
            empty(receiver, &mut buffer)?;
        }
    }
    Ok(sends.spread())
}

/// The filter program of one instruction, `ret #0`: keep no byte of it.
fn drop_all() -> SockFilter {
    /// `BPF_RET | BPF_K` of linux/filter.h.
    const RETURN_CONSTANT: u16 = 0x06;
    SockFilter::new(RETURN_CONSTANT, 0, 0, 0)
}

/// 127.1.0.0 and what follows.
fn destination(index: u32, port: u16) -> SocketAddr {
    /// As a number.
    const FIRST: u32 = 0x7f01_0000;
    SocketAddr::from((Ipv4Addr::from_bits(FIRST + index), port))
}

fn receive(sink: &UdpSocket, buffer: &mut [u8]) -> io::Result<()> {
    for _ in 0..LOOKS_MAX {
        match sink.recv_from(buffer) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(
        "a datagram on loopback never came: the receive buffer (net.core.rmem_default) is below 64 KiB",
    ))
}

fn connection(listener: &TcpListener, to: SocketAddr) -> io::Result<(TcpStream, TcpStream)> {
    let sender = TcpStream::connect(to)?;
    let (receiver, _) = listener.accept()?;
    sender.set_nodelay(true)?;
    receiver.set_nonblocking(true)?;
    Ok((sender, receiver))
}

fn empty(receiver: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match receiver.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Lets this process open as many files as it is allowed to; where that is refused, fewer connections do.
fn raise_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}
