//! How the control plane's tokio tasks reach a shard: a ring for letters and a few standing orders. Never blocks a shard: mutexes are
//! held for the length of one push or swap, and a shard takes one only after its flag says that there is something in it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rtrb::{Consumer, Producer, PushError, RingBuffer};
use tern_core_shard::io::{Reply, Request};
use tokio::sync::oneshot;

use crate::node::HandedSocket;
use crate::ring::Bell;

/// Letters that may wait for one shard. Unit: letters. A login storm is bounded by Argon2 long before; each is about 200 bytes.
pub(crate) const LETTERS_MAX: usize = 1024;

/// What a shard is asked to do once.
pub(crate) enum Letter {
    /// Answer this.
    Request {
        /// What is wanted.
        request: Request,
        /// Who waits.
        reply: oneshot::Sender<Reply>,
    },
    /// Take this upgraded socket over.
    Socket(Box<HandedSocket>),
}

/// The tokio side of one shard's mailbox.
pub(crate) struct Mailbox {
    ring: Mutex<Producer<Letter>>,
    orders: Arc<Orders>,
    bell: Arc<Bell>,
}

/// The shard's side.
pub(crate) struct Inbox {
    ring: Consumer<Letter>,
    orders: Arc<Orders>,
}

/// What holds from the moment it is said; saying it again changes nothing but the latest value.
#[derive(Default)]
struct Orders {
    stop: AtomicBool,
    /// The spread in milliseconds, plus one; 0: no drain was asked for.
    drain: AtomicU64,
    /// Whether `tls` has something new.
    renewed: AtomicBool,
    tls: Mutex<Option<Arc<quinn_proto::ServerConfig>>>,
}

/// Both sides of a new mailbox.
pub(crate) fn mailbox(bell: Arc<Bell>) -> (Mailbox, Inbox) {
    let (producer, ring) = RingBuffer::new(LETTERS_MAX);
    let orders = Arc::<Orders>::default();
    (Mailbox { ring: Mutex::new(producer), orders: Arc::clone(&orders), bell }, Inbox { ring, orders })
}

impl Mailbox {
    /// Puts a letter in; gives it back when the box is full.
    pub(crate) fn post(&self, letter: Letter) -> Result<(), Letter> {
        let posted = self.ring.lock().unwrap_or_else(PoisonError::into_inner).push(letter);
        posted.map_err(|PushError::Full(letter)| letter)?;
        self.bell.ring();
        Ok(())
    }

    pub(crate) fn order_drain(&self, spread_ms: u32) {
        self.orders.drain.store(u64::from(spread_ms) + 1, Ordering::Release);
        self.bell.ring();
    }

    pub(crate) fn order_stop(&self) {
        self.orders.stop.store(true, Ordering::Release);
        self.bell.ring();
    }

    pub(crate) fn order_tls(&self, config: Arc<quinn_proto::ServerConfig>) {
        *self.orders.tls.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
        self.orders.renewed.store(true, Ordering::Release);
        self.bell.ring();
    }
}

impl Inbox {
    pub(crate) fn next(&mut self) -> Option<Letter> {
        self.ring.pop().ok()
    }

    /// Whether a letter or an order waits.
    pub(crate) fn has_something(&self, drained: bool) -> bool {
        !self.ring.is_empty()
            || self.must_stop()
            || self.orders.renewed.load(Ordering::Acquire)
            || (!drained && self.drain().is_some())
    }

    pub(crate) fn must_stop(&self) -> bool {
        self.orders.stop.load(Ordering::Acquire)
    }

    /// Over how long sessions are to be spread, once a drain was ordered. Unit: milliseconds.
    pub(crate) fn drain(&self) -> Option<u32> {
        let order = self.orders.drain.load(Ordering::Acquire).checked_sub(1)?;
        Some(u32::try_from(order).unwrap_or(u32::MAX))
    }

    /// A certificate that replaces the one in use for new connections.
    pub(crate) fn renewed_tls(&self) -> Option<Arc<quinn_proto::ServerConfig>> {
        if !self.orders.renewed.load(Ordering::Acquire) {
            return None;
        }
        self.orders.renewed.store(false, Ordering::Release);
        self.orders.tls.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}
