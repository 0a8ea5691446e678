//! Which driver was asked for, which one a shard came to have, and what an operator can do about a refusal. Never starts one.

use std::io;

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
    /// glommio's io_uring or nothing: to compare runtimes. Only in builds with the feature of that name.
    Glommio,
}

/// Which driver a runtime came to use, and why not io_uring if that was asked for first.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) kind: DriverKind,
    pub(crate) refused: Option<io::Error>,
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
