//! The runtime of one thread, whichever it is: each call goes to the file of that runtime. Decides only which one; adds nothing.

use std::cell::Cell;
use std::future::Future;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::task::Context;
use std::time::Instant;
use std::{fmt, io};

#[cfg(feature = "glommio")]
use super::glommio;
use super::kind::{Chosen, DriverKind};
use super::monoio;
use super::tcp::Readiness;

/// Entries of a shard's ring. Unit: entries.
/// The ring's memory counts against RLIMIT_MEMLOCK (8 MiB by default, per user): 64 rings of 1024 entries fit, 4096 do not.
pub(super) const RING_ENTRIES: u32 = 1024;

/// One thread's runtime.
pub(crate) enum Runtime {
    Monoio(monoio::Runtime),
    #[cfg(feature = "glommio")]
    Glommio(glommio::Runtime),
}

/// Which runtime runs on this thread.
#[derive(Debug, Clone, Copy)]
pub(super) enum Local {
    Monoio,
    #[cfg(feature = "glommio")]
    Glommio,
}

/// A descriptor that the thread's runtime can wait for. Dropping it closes it.
#[derive(Debug)]
pub(super) enum Source {
    Monoio(monoio::Source),
    #[cfg(feature = "glommio")]
    Glommio(glommio::Source),
}

/// A time that the thread's runtime waits for.
pub(super) enum Sleep {
    Monoio(monoio::Sleep),
    #[cfg(feature = "glommio")]
    Glommio(glommio::Sleep),
}

thread_local! {
    /// Set for as long as a runtime runs, as the runtimes themselves do it.
    static LOCAL: Cell<Local> = const { Cell::new(Local::Monoio) };
}

/// The same expression for whichever runtime a value is of.
macro_rules! either {
    ($value:expr, $inner:ident => $call:expr) => {
        match $value {
            Self::Monoio($inner) => $call,
            #[cfg(feature = "glommio")]
            Self::Glommio($inner) => $call,
        }
    };
}

impl Runtime {
    /// Builds the runtime of the calling thread.
    ///
    /// # Errors
    /// What the kernel said to the only driver that was allowed.
    pub(crate) fn new(kind: DriverKind) -> io::Result<(Self, Chosen)> {
        let io_uring = || monoio::Runtime::io_uring().map(Self::Monoio);
        let epoll = || monoio::Runtime::epoll().map(Self::Monoio);
        match kind {
            DriverKind::Epoll => Ok((epoll()?, Chosen { kind, refused: None })),
            DriverKind::IoUring => Ok((io_uring()?, Chosen { kind, refused: None })),
            DriverKind::Auto => match io_uring() {
                Ok(runtime) => Ok((runtime, Chosen { kind: DriverKind::IoUring, refused: None })),
                Err(refused) => Ok((epoll()?, Chosen { kind: DriverKind::Epoll, refused: Some(refused) })),
            },
            #[cfg(feature = "glommio")]
            DriverKind::Glommio => Ok((glommio::Runtime::new().map(Self::Glommio)?, Chosen { kind, refused: None })),
            #[cfg(not(feature = "glommio"))]
            DriverKind::Glommio => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "this binary is built without the feature `glommio`"))
            }
        }
    }

    /// Runs a shard until it ends.
    pub(crate) fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        LOCAL.set(match self {
            Self::Monoio(_) => Local::Monoio,
            #[cfg(feature = "glommio")]
            Self::Glommio(_) => Local::Glommio,
        });
        either!(self, runtime => runtime.block_on(future))
    }
}

impl Local {
    /// The one that runs the caller. Only inside of [`Runtime::block_on`].
    pub(super) fn current() -> Self {
        LOCAL.get()
    }

    /// Gives it a descriptor to wait for.
    pub(super) fn source(self, fd: OwnedFd) -> io::Result<Source> {
        Ok(match self {
            Self::Monoio => Source::Monoio(monoio::Source::new(fd)?),
            #[cfg(feature = "glommio")]
            Self::Glommio => Source::Glommio(glommio::Source::new(fd)),
        })
    }

    /// Gives it a time to wait for.
    pub(super) fn sleep(self, until: Instant) -> Sleep {
        match self {
            Self::Monoio => Sleep::Monoio(monoio::Sleep::new(until)),
            #[cfg(feature = "glommio")]
            Self::Glommio => Sleep::Glommio(glommio::Sleep::new(until)),
        }
    }

    /// Runs something beside the shard, on this thread.
    pub(super) fn spawn(self, task: impl Future<Output = ()> + 'static) {
        match self {
            Self::Monoio => monoio::spawn(task),
            #[cfg(feature = "glommio")]
            Self::Glommio => glommio::spawn(task),
        }
    }
}

impl Source {
    /// Waits once until it is ready. An error counts as ready: the next read or write says which.
    pub(super) async fn ready(&self, readiness: Readiness) {
        either!(self, source => source.ready(readiness).await);
    }

    /// The descriptor.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        either!(self, source => source.fd())
    }
}

impl Sleep {
    /// Waits for another time.
    pub(super) fn reset(&mut self, until: Instant) {
        either!(self, sleep => sleep.reset(until));
    }

    /// Whether the time has come; the task is woken when it does.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        either!(self, sleep => sleep.poll(cx))
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}
