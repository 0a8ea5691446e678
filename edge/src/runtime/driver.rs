//! One thread's view of the kernel: what a shard sleeps on. Readiness and sleep futures stay alive across turns, because dropping one
//! costs a cancellation. Never reads or writes UDP itself.

use std::cell::RefCell;
use std::future::Future;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use std::{fmt, future, io};

use super::local::{Local, Sleep, Source};
use super::tcp::{Readiness, Tcp};
use crate::slots::Key;

/// What a shard waits for on its UDP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UdpInterest {
    /// Datagrams to read: the socket was read until it was empty.
    pub(crate) read: bool,
    /// Room to write: a datagram did not fit.
    pub(crate) write: bool,
}

/// Why a sleep ended, as far as the shard cannot see it by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Woken {
    /// Which of the UDP interests are ready.
    pub(crate) udp: UdpInterest,
    /// Whether the bell rang, and rings until it is silenced.
    pub(crate) bell: bool,
}

/// Waits for one shard's sources.
pub(crate) struct Driver {
    local: Local,
    udp: Rc<Source>,
    udp_read: Watch,
    udp_write: Watch,
    bell: Rc<Source>,
    bell_read: Watch,
    sleep: Sleep,
    /// When `sleep` fires. Moved only to earlier; it fires for nothing rather than be armed for each packet.
    sleep_until: Instant,
    tcp: Rc<TcpQueue>,
}

/// What became ready, as the tasks that wait for TCP sockets report it.
#[derive(Default)]
struct TcpQueue {
    ready: RefCell<Vec<(Key, Readiness)>>,
    shard: RefCell<Option<Waker>>,
}

/// A readiness future, if one is in flight.
#[derive(Default)]
struct Watch(Option<Pin<Box<dyn Future<Output = ()>>>>);

/// Far enough that nothing depends on it.
const FAR: Duration = Duration::from_secs(24 * 3600);

impl Driver {
    /// Watches a shard's UDP socket and bell. Only inside of `Runtime::block_on`.
    pub(crate) fn new(udp: &UdpSocket, bell: &impl AsFd, now: Instant) -> io::Result<Self> {
        let local = Local::current();
        let sleep_until = now + FAR;
        Ok(Self {
            local,
            udp: Rc::new(local.source(udp.as_fd().try_clone_to_owned()?)?),
            udp_read: Watch::default(),
            udp_write: Watch::default(),
            bell: Rc::new(local.source(bell.as_fd().try_clone_to_owned()?)?),
            bell_read: Watch::default(),
            sleep: local.sleep(sleep_until),
            sleep_until,
            tcp: Rc::default(),
        })
    }

    /// Sleeps until something of interest is ready, the bell rings, a TCP socket is ready, or the time has come.
    pub(crate) async fn wait(&mut self, interest: UdpInterest, until: Option<Instant>) -> Woken {
        if let Some(until) = until
            && until < self.sleep_until
        {
            self.sleep_until = until;
            self.sleep.reset(until);
        }
        let mut found = None;
        let mut has_yielded = false;
        future::poll_fn(|cx| {
            if let Some(woken) = found {
                return Poll::Ready(woken);
            }
            let woken = self.poll_wait(cx, interest);
            if let Poll::Ready(woken) = woken
                && !has_yielded
            {
                found = Some(woken);
                self.yield_to_runtime(cx);
                return Poll::Pending;
            }
            has_yielded = true;
            woken
        })
        .await
    }

    /// Has the runtime ask the kernel and run its other tasks before the shard goes on. Under epoll a bell that rings is seen by a `poll` of
    /// its own: a shard that is never without work would never come to `epoll_wait`, and no TCP socket would ever be reported.
    fn yield_to_runtime(&self, cx: &Context<'_>) {
        let waker = cx.waker().clone();
        // A task, because monoio polls its main future again at once when that wakes itself.
        self.local.spawn(async move { waker.wake() });
    }

    fn poll_wait(&mut self, cx: &mut Context<'_>, interest: UdpInterest) -> Poll<Woken> {
        let read = interest.read && self.udp_read.poll(cx, &self.udp, Readiness::Read);
        let write = interest.write && self.udp_write.poll(cx, &self.udp, Readiness::Write);
        let rung = self.bell_read.poll(cx, &self.bell, Readiness::Read);
        let slept = self.sleep.poll(cx);
        if slept {
            self.sleep_until += FAR;
            self.sleep.reset(self.sleep_until);
        }
        let tcp = !self.tcp.ready.borrow().is_empty();
        if read || write || rung || slept || tcp {
            return Poll::Ready(Woken { udp: UdpInterest { read, write }, bell: rung });
        }
        *self.tcp.shard.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Takes a socket over from another thread's runtime.
    pub(crate) fn adopt(&self, socket: TcpStream) -> io::Result<Tcp> {
        Tcp::new(socket, self.local)
    }

    /// Reports once, under this key, when the socket is ready. Does nothing if it is watched for this already.
    pub(crate) fn watch(&self, tcp: &Tcp, readiness: Readiness, key: Key) {
        let Some(waiter) = tcp.arm(readiness) else { return };
        let queue = Rc::clone(&self.tcp);
        self.local.spawn(async move {
            let readiness = waiter.wait().await;
            queue.ready.borrow_mut().push((key, readiness));
            if let Some(shard) = queue.shard.borrow_mut().take() {
                shard.wake();
            }
        });
    }

    /// Moves what became ready to `into`. A socket in it may have ended meanwhile.
    pub(crate) fn take_tcp(&mut self, into: &mut Vec<(Key, Readiness)>) {
        into.append(&mut self.tcp.ready.borrow_mut());
    }
}

impl Watch {
    /// Whether it has fired; arms it first if nothing is in flight.
    fn poll(&mut self, cx: &mut Context<'_>, source: &Rc<Source>, readiness: Readiness) -> bool {
        let watch = self.0.get_or_insert_with(|| {
            let source = Rc::clone(source);
            Box::pin(async move { source.ready(readiness).await })
        });
        let ready = watch.as_mut().poll(cx).is_ready();
        if ready {
            self.0 = None;
        }
        ready
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("sleep_until", &self.sleep_until).finish_non_exhaustive()
    }
}
