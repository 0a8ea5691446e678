//! How shards wake the view's writer: at once while it has nothing to do, not at all while it gathers rows, and again when too many wait.
//! Never loses a wake-up; a writer that gathers looks again by itself.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::Thread;

/// Wakes the view's writer.
///
/// # Source
/// The flag protocol is Dekker's: a shard pushes its rows, fences, reads the flag; the writer sets the flag, fences, looks at the queues.
/// One of them sees the other.
#[derive(Debug, Default)]
pub(crate) struct Doorbell {
    idle: AtomicBool,
    writer: OnceLock<Thread>,
}

impl Doorbell {
    /// Says whom it wakes; once, when the writer has been started.
    pub(crate) fn belongs_to(&self, writer: Thread) {
        self.writer.set(writer).ok();
    }

    /// Rows are in a queue. `urgent`: so many that they should not wait until the writer looks by itself. Returns whether it was woken.
    pub(crate) fn rows_wait(&self, urgent: bool) -> bool {
        fence(Ordering::SeqCst);
        let idle = self.idle.load(Ordering::Relaxed) && self.idle.swap(false, Ordering::SeqCst);
        if idle || urgent {
            self.wake();
        }
        idle || urgent
    }

    /// Wakes it for something else than rows.
    pub(crate) fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// The writer has nothing to do and is about to sleep until it is woken. It must look at every queue once more before it does.
    pub(crate) fn announce_idle(&self) {
        self.idle.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The writer looks by itself again.
    pub(crate) fn stay_awake(&self) {
        self.idle.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_that_gathers_is_left_alone() {
        let doorbell = Doorbell::default();
        assert!(!doorbell.rows_wait(false), "it looks by itself");
        assert!(doorbell.rows_wait(true), "unless too much waits");
        doorbell.announce_idle();
        assert!(doorbell.rows_wait(false), "nothing else would wake it");
        assert!(!doorbell.rows_wait(false), "once");
        doorbell.announce_idle();
        doorbell.stay_awake();
        assert!(!doorbell.rows_wait(false));
    }

    #[test]
    fn no_row_is_left_behind_by_a_writer_that_falls_idle() {
        const COUNT: u32 = 20_000;
        let doorbell = std::sync::Arc::new(Doorbell::default());
        let (mut rows, mut taken) = rtrb::RingBuffer::new(64);
        let bell = std::sync::Arc::clone(&doorbell);
        let writer = std::thread::spawn(move || {
            let mut next = 0;
            while next < COUNT {
                while let Ok(row) = taken.pop() {
                    assert_eq!(row, next);
                    next += 1;
                }
                bell.announce_idle();
                if next < COUNT && taken.is_empty() {
                    // Without a timeout: a lost wake-up would hang here.
                    std::thread::park();
                }
                bell.stay_awake();
            }
        });
        doorbell.belongs_to(writer.thread().clone());
        for row in 0..COUNT {
            while rows.push(row).is_err() {
                std::thread::yield_now();
            }
            doorbell.rows_wait(false);
        }
        // It may have parked before the bell knew it.
        doorbell.wake();
        writer.join().unwrap();
    }
}
