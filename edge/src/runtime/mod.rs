//! All that knows which runtime waits for the kernel: readiness of the UDP socket and the bell, readiness of TCP sockets, one deadline.
//! Nothing outside of this folder names a monoio type; nothing in it knows QUIC, TLS or chat.

mod driver;
#[expect(unsafe_code, reason = "monoio lends its sockets only as raw descriptors")]
mod tcp;

use std::future::Future;
use std::{fmt, io};

use monoio::time::TimeDriver;
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

pub(crate) use driver::{Driver, UdpInterest};
pub(crate) use tcp::{Readiness, Tcp};

/// How shards wait for the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriverKind {
    /// io_uring where the kernel allows it, else epoll.
    #[default]
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// epoll.
    Epoll,
}

/// Entries of a shard's ring. Unit: entries.
/// The ring's memory counts against RLIMIT_MEMLOCK (8 MiB by default, per user): 64 rings of 1024 entries fit, 4096 do not.
const RING_ENTRIES: u32 = 1024;

/// One thread's runtime.
pub(crate) struct Runtime {
    inner: monoio::FusionRuntime<TimeDriver<IoUringDriver>, TimeDriver<LegacyDriver>>,
}

/// Which driver a runtime came to use, and why not io_uring if that was asked for first.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) kind: DriverKind,
    pub(crate) refused: Option<io::Error>,
}

impl Runtime {
    /// Builds the runtime of the calling thread.
    ///
    /// # Errors
    /// What the kernel said to the only driver that was allowed.
    pub(crate) fn new(kind: DriverKind) -> io::Result<(Self, Chosen)> {
        match kind {
            DriverKind::Epoll => Ok((Self::epoll()?, Chosen { kind, refused: None })),
            DriverKind::IoUring => Ok((Self::io_uring()?, Chosen { kind, refused: None })),
            DriverKind::Auto => match Self::io_uring() {
                Ok(runtime) => Ok((runtime, Chosen { kind: DriverKind::IoUring, refused: None })),
                Err(refused) => Ok((Self::epoll()?, Chosen { kind: DriverKind::Epoll, refused: Some(refused) })),
            },
        }
    }

    fn io_uring() -> io::Result<Self> {
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
        Ok(Self { inner: runtime?.into() })
    }

    fn epoll() -> io::Result<Self> {
        let runtime = RuntimeBuilder::<LegacyDriver>::new().with_entries(RING_ENTRIES).enable_timer().build()?;
        Ok(Self { inner: runtime.into() })
    }

    /// Runs a shard until it ends.
    pub(crate) fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        self.inner.block_on(future)
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

/// What an operator can do about a refusal of io_uring.
#[must_use]
pub(crate) fn advice(refused: &io::Error) -> &'static str {
    match refused.raw_os_error() {
        Some(libc::EPERM) => {
            "a seccomp profile or the sysctl kernel.io_uring_disabled forbids io_uring; allow io_uring_setup, io_uring_enter and \
             io_uring_register in the container's profile, or choose epoll to silence this"
        }
        Some(libc::ENOMEM) => {
            "the limit on locked memory is too low for the rings; raise it (LimitMEMLOCK=infinity, or --ulimit memlock=-1 for a \
             container), or choose epoll to silence this"
        }
        Some(libc::ENOSYS) => "this kernel has no io_uring; choose epoll to silence this",
        _ => "choose epoll to silence this",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_own_advice() {
        let advise = |code| advice(&io::Error::from_raw_os_error(code));
        assert!(advise(libc::EPERM).contains("seccomp"));
        assert!(advise(libc::ENOMEM).contains("memlock"));
        assert!(advise(libc::ENOSYS).contains("kernel"));
    }
}
