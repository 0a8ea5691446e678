//! One UDP socket per shard in one `SO_REUSEPORT` group, a classic BPF program that sends each packet to the shard its connection id
//! names, and the lock that keeps a second process out of the group. Never closes one socket of a group alone: the kernel renumbers.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// Receive buffer asked of the kernel for each socket. Unit: bytes. Room for 2 ms of a 10 Gbit/s link.
const RECEIVE_BUFFER_SIZE: usize = 4 * 1024 * 1024;
/// Send buffer asked of the kernel for each socket. Unit: bytes.
const SEND_BUFFER_SIZE: usize = 2 * 1024 * 1024;
/// How long a port may still be held by a process that has just ended. Unit: time.
/// Source: a killed process with io_uring kept its port for 5-15 ms after `wait()`.
const PORT_WAIT: Duration = Duration::from_millis(10);
/// See [`PORT_WAIT`]. Unit: attempts.
const PORT_ATTEMPTS: u32 = 20;

/// The sockets of all shards, in shard order, and the lock on their port.
#[derive(Debug)]
pub(crate) struct SocketGroup {
    pub(crate) sockets: Vec<UdpSocket>,
    pub(crate) address: SocketAddr,
    pub(crate) lock: PortLock,
}

/// Held as long as this process serves the port. An abstract Unix socket: it lives in the same network namespace as the port, and the
/// kernel drops it with the process, so that no stale file can keep a server from starting.
#[derive(Debug)]
pub(crate) struct PortLock {
    _name: UnixListener,
}

/// Why there are no sockets.
#[derive(Debug)]
pub(crate) enum BindError {
    /// Another program, or another server, has the port.
    Taken(SocketAddr),
    /// The kernel refused something else.
    Io(io::Error),
}

impl From<io::Error> for BindError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Binds one socket per shard to one address and steers packets between them.
///
/// An unspecified address becomes one dual-stack socket; port 0 becomes a free port that all share.
pub(crate) fn bind_group(listen: SocketAddr, shards: u16) -> Result<SocketGroup, BindError> {
    let listen = dual_stack(listen);
    let mut attempts = 0;
    loop {
        match try_bind_group(listen, shards) {
            // A port that was free a moment ago: take the next one.
            Err(BindError::Taken(_)) if listen.port() == 0 && attempts < PORT_ATTEMPTS => {}
            Err(BindError::Taken(_)) if attempts < PORT_ATTEMPTS => std::thread::sleep(PORT_WAIT),
            result => return result,
        }
        attempts += 1;
    }
}

fn try_bind_group(listen: SocketAddr, shards: u16) -> Result<SocketGroup, BindError> {
    // Without SO_REUSEPORT this fails for any holder of the port, also one that would let us join its group.
    let probe = bind(listen, Sharing::Alone)?;
    let address = probe.local_addr()?;
    drop(probe);
    let lock = lock_port(address)?;
    let mut sockets = Vec::new();
    for _ in 0..shards {
        sockets.push(bind(address, Sharing::Group)?);
    }
    if let Some(first) = sockets.first() {
        steering::attach(first, shards)?;
    }
    Ok(SocketGroup { sockets, address, lock })
}

/// Whether other sockets may be bound to the same address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    Group,
}

fn bind(address: SocketAddr, sharing: Sharing) -> Result<UdpSocket, BindError> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if sharing == Sharing::Group {
        socket.set_reuse_port(true)?;
        // The kernel caps both at its own limits; a smaller buffer is not an error.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_SIZE);
        let _ = socket.set_send_buffer_size(SEND_BUFFER_SIZE);
    }
    match socket.bind(&address.into()) {
        Ok(()) => Ok(socket.into()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(BindError::Taken(address)),
        Err(error) => Err(BindError::Io(error)),
    }
}

/// `0.0.0.0` and `[::]` both mean every address of both families.
fn dual_stack(listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() && has_ipv6() {
        SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), listen.port())
    } else {
        listen
    }
}

fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

fn lock_port(address: SocketAddr) -> Result<PortLock, BindError> {
    let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("tern-udp-{address}"))?;
    match UnixListener::bind_addr(&name) {
        Ok(listener) => Ok(PortLock { _name: listener }),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(BindError::Taken(address)),
        Err(error) => Err(BindError::Io(error)),
    }
}

/// The kernel's half of [`super::cid`]: which socket of the group gets a packet.
#[expect(unsafe_code, reason = "no safe wrapper attaches a classic BPF program to a reuseport group")]
mod steering {
    use super::{AsRawFd, UdpSocket, io};

    /// Instructions of [`program`].
    const LENGTH: usize = 7;

    const fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code, jt, jf, k }
    }

    /// `shard = (first byte of the destination connection id) % shards`, the index in the group being the bind order.
    ///
    /// The program sees the QUIC packet from its first byte, IPv4 or IPv6.
    ///
    /// # Source
    /// RFC 9000 sections 17.2 and 17.3: long headers have the form bit set, the length of the id in byte 5 and the id from byte 6;
    /// short headers have it from byte 1.
    const fn program(shards: u32) -> [libc::sock_filter; LENGTH] {
        [
            instruction(0x30, 0, 0, 0),      // ldb [0]
            instruction(0x45, 0, 2, 0x80),   // jset #0x80: long header
            instruction(0x30, 0, 0, 6),      // ldb [6]
            instruction(0x05, 0, 0, 1),      // ja over the next
            instruction(0x30, 0, 0, 1),      // ldb [1]
            instruction(0x94, 0, 0, shards), // mod #shards
            instruction(0x16, 0, 0, 0),      // ret a
        ]
    }

    /// Attaches the program to the group that `socket` is in. Once, after every socket of the group is bound.
    pub(super) fn attach(socket: &UdpSocket, shards: u16) -> io::Result<()> {
        let mut filter = program(u32::from(shards));
        let program = libc::sock_fprog { len: 7, filter: filter.as_mut_ptr() };
        let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open for the length of the call, `program` and the seven instructions it points to outlive the
        // call, and the kernel copies both before it returns.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_REUSEPORT_CBPF,
                (&raw const program).cast(),
                size,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_server_cannot_join_the_group() {
        let group = bind_group("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        assert!(matches!(try_bind_group(group.address, 2), Err(BindError::Taken(address)) if address == group.address));
    }

    #[test]
    fn every_shard_has_the_same_port() {
        let group = bind_group("[::]:0".parse().unwrap(), 3).unwrap();
        assert_ne!(group.address.port(), 0);
        assert!(group.sockets.iter().all(|socket| socket.local_addr().unwrap() == group.address));
    }

    #[test]
    fn packets_go_to_the_shard_that_their_first_byte_names() {
        let group = bind_group("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for first in [0u8, 1, 2, 7, 128, 255] {
            let long = [0xc0, 0, 0, 0, 1, 8, first, 0];
            let short = [0x40, first, 0, 0];
            for packet in [&long[..], &short[..]] {
                sender.send_to(packet, group.address).unwrap();
                let socket = &group.sockets[usize::from(first) % 3];
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut buffer = [0; 16];
                let size = socket.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..size], packet);
            }
        }
    }
}
