//! Shards on monoio: io_uring with one poll per wait, or epoll. Both in readiness mode, so that UDP is read and written by quinn-udp.

use std::future::Future;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::Context;
use std::time::Instant;

use monoio::time::TimeDriver;
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

use super::local::RING_ENTRIES;
use super::tcp::Readiness;

/// A runtime with one of monoio's two drivers.
pub(crate) struct Runtime(monoio::FusionRuntime<TimeDriver<IoUringDriver>, TimeDriver<LegacyDriver>>);

impl Runtime {
    pub(super) fn io_uring() -> io::Result<Self> {
        let mut builder = io_uring::IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun();
        let build = |builder| {
            RuntimeBuilder::<IoUringDriver>::new()
                .uring_builder(builder)
                .with_entries(RING_ENTRIES)
                .enable_timer()
                .build()
        };
        let runtime = match build(builder) {
            // Kernels before 6.1 do not know the two flags.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => build(io_uring::IoUring::builder()),
            result => result,
        };
        Ok(Self(runtime?.into()))
    }

    pub(super) fn epoll() -> io::Result<Self> {
        let runtime = RuntimeBuilder::<LegacyDriver>::new().with_entries(RING_ENTRIES).enable_timer().build()?;
        Ok(Self(runtime.into()))
    }

    pub(super) fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        self.0.block_on(future)
    }
}

/// Any descriptor: all that is asked of monoio's socket is readiness, which is the same for datagrams, streams and event counters.
#[derive(Debug)]
pub(super) struct Source(monoio::net::udp::UdpSocket);

impl Source {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        monoio::net::udp::UdpSocket::from_std(UdpSocket::from(fd)).map(Self)
    }

    pub(super) async fn ready(&self, readiness: Readiness) {
        let _ = match readiness {
            Readiness::Read => self.0.readable(false).await,
            Readiness::Write => self.0.writable(false).await,
        };
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `self.0` owns the descriptor and closes it when it is dropped; the borrow cannot outlive `self`.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// One of monoio's timers.
pub(super) struct Sleep(Pin<Box<monoio::time::Sleep>>);

impl Sleep {
    pub(super) fn new(until: Instant) -> Self {
        Self(Box::pin(monoio::time::sleep_until(until.into())))
    }

    pub(super) fn reset(&mut self, until: Instant) {
        self.0.as_mut().reset(until.into());
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        self.0.as_mut().poll(cx).is_ready()
    }
}

pub(super) fn spawn(task: impl Future<Output = ()> + 'static) {
    monoio::spawn(task);
}
