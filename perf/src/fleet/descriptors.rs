//! The limit of open files: a WebSocket peer takes one. Raised as far as the system allows, with a clear error where that is not enough.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that a process has open anyway. Unit: descriptors.
const OTHERS: u64 = 256;

/// Sees to it that this many sockets can be open.
///
/// # Errors
/// When the hard limit is lower; the text says what to do.
pub(super) fn allow(sockets: u64) -> io::Result<()> {
    let wanted = sockets + OTHERS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    if let Some(most) = limit.maximum.filter(|most| *most < wanted) {
        // Whoever may raise the hard limit does; for others this fails.
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: Some(wanted) });
        return raised.map_err(|_| {
            io::Error::other(format!(
                "{sockets} sockets need {wanted} open files, and this process may have {most}: raise it with `ulimit -Hn {wanted}` (as \
                 root) or use fewer connections"
            ))
        });
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_system_allows_is_refused_with_advice() {
        let error = allow(1 << 40).expect_err("a million million files");
        assert!(error.to_string().contains("ulimit -Hn"), "{error}");
    }

    #[test]
    fn a_few_are_always_possible() {
        allow(8).expect("every system allows that");
    }
}
