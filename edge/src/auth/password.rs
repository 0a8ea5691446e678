//! Argon2id on a bounded number of threads with a bounded queue. Takes the same time for users that do not exist.
//! Never keeps or logs a password.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use super::key::random;
use crate::config::AuthConfig;

/// Priority of hashing threads, 0 being the shards' and 19 the lowest. At 10 a busy shard gets nine tenths of a shared core.
const HASH_NICENESS: i32 = 10;

/// Hashes and checks passwords.
#[derive(Debug)]
pub struct Hasher {
    params: Params,
    /// Checked for users that do not exist, so that they take as long.
    dummy: Box<str>,
    workers: Semaphore,
    waiting: AtomicUsize,
    waiting_max: usize,
    refused: AtomicU64,
}

/// Too many hashes wait; nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HasherBusy;

/// Counts one waiting request for as long as it waits, also when its client goes away.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hasher {
    /// A pool for these costs.
    ///
    /// # Panics
    /// When the costs are outside the ranges of the configuration.
    #[must_use]
    pub fn new(config: &AuthConfig) -> Self {
        let memory_kib = u32::try_from(config.hash_memory / 1024).unwrap_or(u32::MAX);
        let params = Params::new(memory_kib, config.hash_passes, 1, None).expect("config/key.rs has Argon2's ranges");
        let dummy = hash(&params, &random::<16>());
        Self {
            params,
            dummy,
            workers: Semaphore::new(config.hash_workers),
            waiting: AtomicUsize::new(0),
            waiting_max: config.hash_queue_max,
            refused: AtomicU64::new(0),
        }
    }

    /// Makes the PHC string of a password.
    ///
    /// # Errors
    /// [`HasherBusy`] when too many wait.
    pub async fn hash(self: &Arc<Self>, password: String) -> Result<Box<str>, HasherBusy> {
        self.run(move |hasher| hash(&hasher.params, password.as_bytes())).await
    }

    /// Whether the password belongs to the PHC string; without one it takes as long and does not.
    ///
    /// # Errors
    /// [`HasherBusy`] when too many wait.
    pub async fn verify(self: &Arc<Self>, password: String, phc: Option<Box<str>>) -> Result<bool, HasherBusy> {
        self.run(move |hasher| {
            let right = matches(phc.as_deref().unwrap_or(&hasher.dummy), password.as_bytes());
            right && phc.is_some()
        })
        .await
    }

    /// Requests that were refused because too many waited.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, HasherBusy> {
        let ahead = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(&self.waiting);
        if ahead >= self.waiting_max {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(HasherBusy);
        }
        let permit = self.workers.acquire().await.expect("the semaphore is never closed");
        drop(waiting);
        let hasher = self.clone();
        // The permit goes back only when the thread is done: a client that leaves does not make room for another hash.
        permit.forget();
        let done = tokio::task::spawn_blocking(move || {
            yield_to_shards();
            let result = work(&hasher);
            hasher.workers.add_permits(1);
            result
        });
        done.await.map_err(|_| HasherBusy)
    }
}

/// Lets shards go first on this thread's core: people who log in can wait a little longer, people who chat should not notice.
fn yield_to_shards() {
    thread_local!(static DONE: Cell<bool> = const { Cell::new(false) });
    if !DONE.replace(true) {
        // Linux counts priorities by thread. Where it is refused, hashing competes: slower chat, nothing worse.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), HASH_NICENESS);
    }
}

fn argon2(params: &Params) -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
}

fn hash(params: &Params, password: &[u8]) -> Box<str> {
    let hash: PasswordHash = argon2(params).hash_password(password).expect("lengths and salt are in Argon2's ranges");
    hash.to_string().into_boxed_str()
}

/// The costs are those of the PHC string. One that cannot be read belongs to no password.
fn matches(phc: &str, password: &[u8]) -> bool {
    PasswordHash::new(phc).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn hasher(queue: usize) -> Arc<Hasher> {
        let config = AuthConfig {
            hash_memory: 64 * 1024,
            hash_passes: 1,
            hash_workers: 1,
            hash_queue_max: queue,
            ..Config::default().process.auth
        };
        Arc::new(Hasher::new(&config))
    }

    #[tokio::test]
    async fn only_the_right_password_of_a_user_who_exists_matches() {
        let hasher = hasher(8);
        let phc = hasher.hash("correct horse".into()).await.unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{phc}");
        assert_eq!(hasher.verify("correct horse".into(), Some(phc.clone())).await, Ok(true));
        assert_eq!(hasher.verify("wrong horse".into(), Some(phc)).await, Ok(false));
        assert_eq!(hasher.verify("correct horse".into(), None).await, Ok(false));
        assert_eq!(hasher.verify("correct horse".into(), Some("$nonsense".into())).await, Ok(false));
    }

    #[tokio::test]
    async fn beyond_the_queue_requests_are_refused_and_those_that_left_make_room() {
        let hasher = hasher(2);
        let busy = hasher.workers.acquire().await.unwrap();
        let mut first = Box::pin(hasher.verify("x".into(), None));
        let mut second = Box::pin(hasher.verify("x".into(), None));
        assert!(futures_poll(&mut first).is_none() && futures_poll(&mut second).is_none());
        assert_eq!(hasher.verify("x".into(), None).await, Err(HasherBusy));
        assert_eq!((hasher.refused(), hasher.waiting()), (1, 2));
        drop(first);
        let mut third = Box::pin(hasher.verify("x".into(), None));
        assert!(futures_poll(&mut third).is_none());
        drop(busy);
        assert_eq!((second.await, third.await), (Ok(false), Ok(false)));
        assert_eq!(hasher.waiting(), 0);
    }

    /// Polls once.
    fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
