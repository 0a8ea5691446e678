//! How threads of one process reach a shard: single-producer rings and one bell per shard. Push everything, ring each bell once.
//! Never blocks, never spins, never loses: what does not fit in a ring waits at the sender, and the sender says so.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::{fmt, io};

use rtrb::{Consumer, Producer, RingBuffer};
use rustix::event::{EventfdFlags, eventfd};

/// Wakes one shard. Ringing costs a system call only while the shard sleeps.
///
/// # Source
/// The flag protocol is Dekker's: the producer stores its message, fences, reads the flag; the shard stores the flag, fences, reads
/// its rings. One of them sees the other.
#[derive(Debug)]
pub struct Bell {
    fd: OwnedFd,
    asleep: AtomicBool,
}

impl Bell {
    /// A silent bell.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { fd, asleep: AtomicBool::new(false) })
    }

    /// Wakes the shard if it sleeps. Call after the message is where the shard looks for it.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::SeqCst) {
            self.ring_always();
        }
    }

    /// Makes the bell readable even if the shard is awake: how a shard lets its runtime look around before the next turn.
    pub fn ring_always(&self) {
        // The counter can only be full if it was never read: then the bell rings already.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// Announces that the shard will sleep. It must look at every source once more before it does.
    pub fn announce_sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Takes the announcement back.
    pub fn stay_awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Silences the bell.
    pub fn clear(&self) {
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// All rings from and to one shard.
pub struct Links<T> {
    own: usize,
    /// By receiving shard; `None` for this one.
    outgoing: Vec<Option<Outgoing<T>>>,
    /// By sending shard; `None` for this one.
    incoming: Vec<Option<Consumer<T>>>,
    /// Messages in all overflow queues.
    waiting: usize,
    overflowed: u64,
}

struct Outgoing<T> {
    ring: Producer<T>,
    /// Messages behind a full ring. While any wait, the shard reads no session, so it is bounded by what is already in flight.
    overflow: VecDeque<T>,
    bell: Arc<Bell>,
    /// Whether something was pushed since the bell was last rung.
    pushed: bool,
}

/// Slots of all rings into one shard together. Unit: messages.
/// 16 Ki messages of about 150 bytes are 2.4 MB per shard, and each of 64 shards still has 256 slots to each other.
const SLOTS_PER_SHARD: usize = 16 * 1024;
/// Slots of one ring. Unit: messages.
const SLOTS_MIN: usize = 256;
const SLOTS_MAX: usize = 4096;
/// Messages taken from one ring in one turn. Unit: messages.
const RECEIVE_BUDGET: usize = 1024;

/// A ring for each ordered pair of shards.
#[must_use]
pub fn mesh<T>(bells: &[Arc<Bell>]) -> Vec<Links<T>> {
    mesh_of(bells, (SLOTS_PER_SHARD / bells.len().max(1)).clamp(SLOTS_MIN, SLOTS_MAX))
}

fn mesh_of<T>(bells: &[Arc<Bell>], slots: usize) -> Vec<Links<T>> {
    let mut links: Vec<Links<T>> = (0..bells.len())
        .map(|own| Links { own, outgoing: Vec::new(), incoming: Vec::new(), waiting: 0, overflowed: 0 })
        .collect();
    for from in 0..bells.len() {
        for (to, bell) in bells.iter().enumerate() {
            let (outgoing, incoming) = if from == to {
                (None, None)
            } else {
                let (ring, consumer) = RingBuffer::new(slots);
                let bell = Arc::clone(bell);
                (Some(Outgoing { ring, overflow: VecDeque::new(), bell, pushed: false }), Some(consumer))
            };
            if let Some(links) = links.get_mut(from) {
                links.outgoing.push(outgoing);
            }
            if let Some(links) = links.get_mut(to) {
                links.incoming.push(incoming);
            }
        }
    }
    links
}

impl<T> Links<T> {
    /// Sends, or queues behind what already waits. Gives the message back only if there is no such shard, or it is this one.
    ///
    /// # Errors
    /// The message, which went nowhere.
    pub fn send(&mut self, to: usize, message: T) -> Result<(), T> {
        let Some(Some(out)) = self.outgoing.get_mut(to) else { return Err(message) };
        if out.overflow.is_empty() {
            match out.ring.push(message) {
                Ok(()) => out.pushed = true,
                Err(rtrb::PushError::Full(message)) => out.overflow.push_back(message),
            }
        } else {
            out.overflow.push_back(message);
        }
        if !out.overflow.is_empty() {
            self.waiting += 1;
            self.overflowed += 1;
        }
        Ok(())
    }

    /// Sends if there is room; otherwise gives the message back.
    ///
    /// # Errors
    /// The message, which went nowhere.
    pub fn try_send(&mut self, to: usize, message: T) -> Result<(), T> {
        let Some(Some(out)) = self.outgoing.get_mut(to) else { return Err(message) };
        if !out.overflow.is_empty() {
            return Err(message);
        }
        out.ring.push(message).map_err(|rtrb::PushError::Full(message)| message)?;
        out.pushed = true;
        Ok(())
    }

    /// Moves what waits into the rings as far as there is room, and rings each bell for which there is something new.
    pub fn flush(&mut self) {
        for out in self.outgoing.iter_mut().flatten() {
            while let Some(message) = out.overflow.pop_front() {
                match out.ring.push(message) {
                    Ok(()) => {
                        out.pushed = true;
                        self.waiting -= 1;
                    }
                    Err(rtrb::PushError::Full(message)) => {
                        out.overflow.push_front(message);
                        break;
                    }
                }
            }
            if std::mem::take(&mut out.pushed) {
                out.bell.ring();
            }
        }
    }

    /// Takes messages from every ring, a bounded number from each. Returns whether some are left.
    pub fn receive(&mut self, mut take: impl FnMut(usize, T)) -> bool {
        let mut left = false;
        for (from, ring) in self.incoming.iter_mut().enumerate() {
            let Some(ring) = ring else { continue };
            let count = ring.slots();
            left |= count > RECEIVE_BUDGET;
            if let Ok(chunk) = ring.read_chunk(count.min(RECEIVE_BUDGET)) {
                for message in chunk {
                    take(from, message);
                }
            }
        }
        left
    }

    /// Whether any ring to this shard has something.
    #[must_use]
    pub fn has_incoming(&self) -> bool {
        self.incoming.iter().flatten().any(|ring| !ring.is_empty())
    }

    /// Messages that found their ring full and still wait.
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Messages that ever found their ring full.
    #[must_use]
    pub const fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// This shard's own index.
    #[must_use]
    pub const fn own(&self) -> usize {
        self.own
    }
}

impl<T> fmt::Debug for Links<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("own", &self.own).field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bells(count: usize) -> Vec<Arc<Bell>> {
        (0..count).map(|_| Arc::new(Bell::new().unwrap())).collect()
    }

    fn is_ringing(bell: &Bell) -> bool {
        rustix::io::read(bell, &mut [0; 8]).is_ok()
    }

    #[test]
    fn messages_keep_their_order_when_the_ring_is_full() {
        let bells = bells(2);
        let mut links = mesh_of::<u32>(&bells, 4);
        let mut receiver = links.pop().unwrap();
        let mut sender = links.pop().unwrap();
        for n in 0..10 {
            sender.send(1, n).unwrap();
        }
        assert_eq!(sender.waiting(), 6);
        assert_eq!(sender.overflowed(), 6);
        assert_eq!(sender.try_send(1, 99), Err(99), "nothing may overtake what waits");
        let mut seen = Vec::new();
        while sender.waiting() > 0 || receiver.has_incoming() {
            sender.flush();
            receiver.receive(|from, n| seen.push((from, n)));
        }
        assert_eq!(seen, (0..10).map(|n| (0, n)).collect::<Vec<_>>());
    }

    #[test]
    fn a_bell_rings_only_for_a_sleeper_and_once_per_sleep() {
        let bells = bells(2);
        let mut links = mesh_of::<u32>(&bells, 4);
        let mut sender = links.swap_remove(0);
        sender.send(1, 1).unwrap();
        sender.flush();
        assert!(!is_ringing(&bells[1]), "an awake shard looks by itself");
        bells[1].announce_sleep();
        sender.send(1, 2).unwrap();
        sender.flush();
        sender.send(1, 3).unwrap();
        sender.flush();
        assert!(is_ringing(&bells[1]));
        assert!(!is_ringing(&bells[1]));
    }

    #[test]
    fn nothing_is_lost_between_threads_that_sleep_and_wake() {
        const COUNT: u32 = 20_000;
        let bells = bells(2);
        let mut links = mesh_of::<u32>(&bells, 64);
        let mut receiver = links.pop().unwrap();
        let mut sender = links.pop().unwrap();
        let bell = Arc::clone(&bells[1]);
        let consumer = std::thread::spawn(move || {
            let mut next = 0;
            while next < COUNT {
                receiver.receive(|_, n| {
                    assert_eq!(n, next);
                    next += 1;
                });
                bell.announce_sleep();
                if next < COUNT && !receiver.has_incoming() {
                    let mut fds = [rustix::event::PollFd::new(&*bell, rustix::event::PollFlags::IN)];
                    rustix::event::poll(&mut fds, None).unwrap();
                    bell.clear();
                }
                bell.stay_awake();
            }
        });
        for n in 0..COUNT {
            sender.send(1, n).unwrap();
            if n % 7 == 0 {
                sender.flush();
            }
        }
        while sender.waiting() > 0 {
            sender.flush();
            std::thread::yield_now();
        }
        sender.flush();
        consumer.join().unwrap();
    }
}
