//! Shards on glommio, to compare runtimes; never the default. glommio 0.9 polls descriptors for its own sockets and shows that to nobody,
//! so a wait here borrows the poll that it makes for a socket whose reading begins, and never lets it read.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_io::AsyncRead;
use glommio::net::TcpStream;
use glommio::timer::Timer;
use glommio::{GlommioError, LocalExecutor, LocalExecutorBuilder, Placement, ReactorErrorKind};
use rustix::event::epoll;

use super::local::RING_ENTRIES;
use super::tcp::Readiness;
use crate::clock;

/// Memory for reading files past the page cache. Unit: bytes. Shards read none; glommio takes no less.
const IO_MEMORY: usize = 64 * 1024;
/// How soon a wait is tried again for which there was no descriptor. Unit: time.
const DESCRIPTOR_RETRY: Duration = Duration::from_millis(10);

/// A runtime with glommio's three rings and its helper thread.
pub(crate) struct Runtime(LocalExecutor);

impl Runtime {
    pub(super) fn new() -> io::Result<Self> {
        // glommio panics where io_uring is refused: ask first.
        drop(io_uring::IoUring::new(2)?);
        // Not placed by glommio: a shard that is to be pinned has pinned itself.
        let builder = LocalExecutorBuilder::new(Placement::Unbound);
        let executor = builder.ring_depth(RING_ENTRIES as usize).io_memory(IO_MEMORY).make();
        executor.map(Self).map_err(|error| {
            let memory = matches!(error, GlommioError::ReactorError(ReactorErrorKind::MemLockLimit(..)));
            if memory { io::Error::from_raw_os_error(libc::ENOMEM) } else { error.into() }
        })
    }

    pub(super) fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        self.0.run(future)
    }
}

/// Any descriptor.
#[derive(Debug)]
pub(super) struct Source(OwnedFd);

impl Source {
    pub(super) const fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(super) async fn ready(&self, readiness: Readiness) {
        loop {
            let watched = match readiness {
                Readiness::Read => self.0.try_clone(),
                Readiness::Write => writable(self.0.as_fd()),
            };
            match watched {
                Ok(watched) => return readable(watched).await,
                Err(error) => {
                    tracing::warn!(%error, "no descriptor to wait with");
                    Timer::new(DESCRIPTOR_RETRY).await;
                }
            }
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A descriptor that can be read when this one can be written: glommio lets nobody wait for the latter without writing something.
fn writable(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&set, fd, epoll::EventData::new_u64(0), epoll::EventFlags::OUT)?;
    Ok(set)
}

/// Waits until a descriptor can be read, in one task; reads nothing.
async fn readable(fd: OwnedFd) {
    // SAFETY: the descriptor is open and becomes this value's alone, which closes it. It need not be a stream, or a socket: taking it
    // over makes glommio queue a poll of it, and a read, which is where that would matter, is never asked for once the poll is done.
    let mut poll = unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) };
    let mut done = None;
    poll_fn(|cx| {
        let done = done.get_or_insert_with(|| {
            let done = Arc::new(Done { is: AtomicBool::new(false), task: cx.waker().clone() });
            // The poll was queued a moment ago and the kernel has not seen it, so this can only wait for it.
            let _ = Pin::new(&mut poll).poll_read(&mut Context::from_waker(&Waker::from(Arc::clone(&done))), &mut []);
            done
        });
        if done.is.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Whom glommio wakes when a poll is done: it alone, unlike the task, is woken for nothing else.
struct Done {
    is: AtomicBool,
    task: Waker,
}

impl Wake for Done {
    fn wake(self: Arc<Self>) {
        self.is.store(true, Ordering::Relaxed);
        self.task.wake_by_ref();
    }
}

/// One of glommio's timers, which know only how long from when they are asked.
pub(super) struct Sleep(Timer);

impl Sleep {
    pub(super) fn new(until: Instant) -> Self {
        Self(Timer::new(clock::until(until)))
    }

    pub(super) fn reset(&mut self, until: Instant) {
        self.0.reset(clock::until(until));
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        Pin::new(&mut self.0).poll(cx).is_ready()
    }
}

pub(super) fn spawn(task: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(task).detach();
}
