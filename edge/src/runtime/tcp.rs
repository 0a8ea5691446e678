//! A TCP socket on a shard: reads and writes that never block, and readiness by the runtime. Never buffers.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;

use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::local::{Local, Source};

/// What a descriptor may be ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// There is something to read, or the peer is gone.
    Read,
    /// There is room to write, or the peer is gone.
    Write,
}

/// A socket that this thread's runtime watches. Dropping it ends the connection.
#[derive(Debug)]
pub(crate) struct Tcp(Rc<Watched>);

/// What a socket and the tasks that wait for it share.
#[derive(Debug)]
struct Watched {
    socket: Source,
    /// Whether a task waits until it can be read, and until it can be written.
    armed: [Cell<bool>; 2],
}

impl Watched {
    const fn armed(&self, readiness: Readiness) -> &Cell<bool> {
        let [read, write] = &self.armed;
        match readiness {
            Readiness::Read => read,
            Readiness::Write => write,
        }
    }
}

impl Tcp {
    /// Gives a socket to the runtime that runs on this thread.
    pub(super) fn new(socket: TcpStream, local: Local) -> io::Result<Self> {
        // Whatever the driver: our calls say "do not wait" themselves, and monoio's epoll driver needs it.
        socket.set_nonblocking(true)?;
        // A frame is one TLS record is one segment; waiting to fill segments only adds delay.
        socket.set_nodelay(true)?;
        Ok(Self(Rc::new(Watched { socket: local.source(socket.into())?, armed: Default::default() })))
    }

    /// A second handle for the task that waits; `None` if one waits already.
    pub(super) fn arm(&self, readiness: Readiness) -> Option<Waiter> {
        let waits = self.0.armed(readiness).replace(true);
        (!waits).then(|| Waiter { watched: Rc::clone(&self.0), readiness })
    }
}

/// Waits once for a socket to become ready.
pub(super) struct Waiter {
    watched: Rc<Watched>,
    readiness: Readiness,
}

impl Waiter {
    pub(super) async fn wait(self) -> Readiness {
        self.watched.socket.ready(self.readiness).await;
        self.watched.armed(self.readiness).set(false);
        self.readiness
    }
}

impl Read for &Tcp {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, size) = rustix::net::recv(self.0.socket.fd(), buffer, RecvFlags::DONTWAIT)?;
        Ok(size)
    }
}

impl Write for &Tcp {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0.socket.fd(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        // Also makes the socket ready, so that a task that waits for it ends and lets go of it.
        let _ = rustix::net::shutdown(self.0.socket.fd(), Shutdown::Both);
    }
}
