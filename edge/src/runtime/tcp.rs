//! A TCP socket on a shard: reads and writes that never block, and readiness by the runtime. Never buffers.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::Rc;

use rustix::net::{RecvFlags, SendFlags, Shutdown};

/// What a TCP socket may be ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// There is something to read, or the peer is gone.
    Read,
    /// There is room to write, or the peer is gone.
    Write,
}

/// A socket that this thread's runtime watches. Dropping it ends the connection.
#[derive(Debug)]
pub(crate) struct Tcp {
    socket: Rc<monoio::net::TcpStream>,
    /// Whether a task waits for it: see `super::driver`.
    armed: Rc<[Cell<bool>; 2]>,
}

impl Tcp {
    /// Gives a socket to the runtime that runs on this thread.
    pub(super) fn new(socket: TcpStream) -> io::Result<Self> {
        // Both of them in both drivers: our calls say "do not wait" themselves, and monoio's epoll driver needs it.
        socket.set_nonblocking(true)?;
        // A frame is one TLS record is one segment; waiting to fill segments only adds delay.
        socket.set_nodelay(true)?;
        Ok(Self { socket: Rc::new(monoio::net::TcpStream::from_std(socket)?), armed: Rc::default() })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `self.socket` owns the descriptor and closes it when its last reference is dropped; the borrow cannot outlive `self`,
        // which holds one.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }

    /// A second handle for the task that waits; `None` if one waits already.
    pub(super) fn arm(&self, readiness: Readiness) -> Option<Waiter> {
        let [read, write] = &*self.armed;
        let armed = match readiness {
            Readiness::Read => read,
            Readiness::Write => write,
        };
        if armed.replace(true) {
            return None;
        }
        Some(Waiter { socket: Rc::clone(&self.socket), armed: Rc::clone(&self.armed), readiness })
    }
}

/// Waits once for a socket to become ready.
pub(super) struct Waiter {
    socket: Rc<monoio::net::TcpStream>,
    armed: Rc<[Cell<bool>; 2]>,
    readiness: Readiness,
}

impl Waiter {
    /// An error counts as ready: the next read or write says which.
    pub(super) async fn wait(self) -> Readiness {
        let [read, write] = &*self.armed;
        match self.readiness {
            Readiness::Read => {
                let _ = self.socket.readable(false).await;
                read.set(false);
            }
            Readiness::Write => {
                let _ = self.socket.writable(false).await;
                write.set(false);
            }
        }
        self.readiness
    }
}

impl Read for &Tcp {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, size) = rustix::net::recv(self.fd(), buffer, RecvFlags::DONTWAIT)?;
        Ok(size)
    }
}

impl Write for &Tcp {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.fd(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        // Also makes the socket ready, so that a task that waits for it ends and lets go of it.
        let _ = rustix::net::shutdown(self.fd(), Shutdown::Both);
    }
}
