//! What the controlling thread holds: starts the workers, gives them schedules, waits, adds up.

use std::fmt;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::Waker;

use super::accounting::{self, Audit, Heads};
use super::book::Common;
use super::descriptors;
use super::plan::{Carrier, FleetPlan, Workload};
use super::tally::{Counts, Settled, Tally, merge};
use super::tls::Pin;
use super::worker::{Order, Worker};

/// Between two looks at the shared counts. Unit: time.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Between two comparisons of what everybody has. Unit: time.
const AUDIT_INTERVAL: Duration = Duration::from_millis(50);

/// A running fleet. Ends its workers when it is dropped.
pub struct Fleet {
    common: Arc<Common>,
    workers: Vec<Hand>,
}

/// One worker, from outside.
struct Hand {
    orders: Sender<Order>,
    waker: Arc<Waker>,
    shared: Arc<Mutex<Counts>>,
    thread: Option<JoinHandle<()>>,
}

/// What was waited for did not come.
#[derive(Debug, Clone)]
pub struct WaitError {
    /// What it was.
    pub what: String,
    /// How long it was waited for.
    pub waited: Duration,
    /// Whether a worker has ended by itself.
    pub worker_died: bool,
    /// The counts at the end.
    pub counts: Box<Counts>,
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, waited, counts, .. } = self;
        if self.worker_died {
            return write!(f, "a thread of the load generator ended while waiting for {what}: its panic is on stderr");
        }
        write!(f, "{what} did not happen in {:.1} s: {} connected", waited.as_secs_f64(), counts.connected)?;
        write!(f, ", {} connecting, {} outstanding, {} acked", counts.connecting, counts.outstanding, counts.acked)?;
        write!(f, ", {} delivered, {} lost connections", counts.delivered, counts.lost_connections)?;
        for (why, count) in counts.closed_by_server.iter().chain(&counts.rejected) {
            write!(f, ", {count} x \"{why}\"")?;
        }
        Ok(())
    }
}

impl std::error::Error for WaitError {}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}

impl Fleet {
    /// Starts the workers. No peer connects before a workload says so.
    ///
    /// # Errors
    /// When sockets, threads or open files cannot be had.
    pub fn launch(plan: FleetPlan) -> io::Result<Self> {
        let workers = u32::try_from(plan.workers.max(1)).map_err(io::Error::other)?;
        let web = match plan.carrier {
            Carrier::Quic => 0,
            Carrier::WebSocket => plan.accounts.len(),
            Carrier::Both => plan.accounts.len() / 2,
        };
        descriptors::allow((web + plan.workers.max(1) * (plan.sockets.max(2) + 4)) as u64)?;
        let mut run = [0; 4];
        getrandom::fill(&mut run).map_err(io::Error::other)?;
        let common = Arc::new(Common {
            start: Instant::now(),
            run: u32::from_le_bytes(run),
            seed: plan.seed,
            peers: (0u32..).zip(plan.accounts.iter()).map(|(id, account)| (account.user.raw(), id)).collect(),
            presence: plan.accounts.iter().map(|_| AtomicU64::new(0)).collect(),
        });
        let pin = Pin::new();
        let workers = (0..workers)
            .map(|index| start_worker(&plan, (index, workers), &common, &pin))
            .collect::<io::Result<_>>()?;
        Ok(Self { common, workers })
    }

    /// When the fleet was started: the zero of every time that it reports.
    #[must_use]
    pub fn start(&self) -> Instant {
        self.common.start
    }

    /// Adds a schedule, beside those that run: `make` gives each worker the part for its own peers (`peer % workers == worker`).
    pub fn run(&self, make: impl Fn(usize, usize) -> Box<dyn Workload>) {
        for (index, worker) in self.workers.iter().enumerate() {
            worker.order(Order::Run(make(index, self.workers.len())));
        }
    }

    /// Warm-up is over: latencies start anew, counts go on.
    pub fn mark(&self) {
        self.workers.iter().for_each(|worker| worker.order(Order::Mark));
    }

    /// The shared counts, at most 50 ms old. `expected` and `lost` are as of the last [`Self::tally`] or [`Self::settle`].
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for worker in &self.workers {
            sum.merge(&worker.shared.lock().unwrap_or_else(PoisonError::into_inner));
        }
        sum
    }

    /// Waits until `done` says so of the shared counts.
    ///
    /// # Errors
    /// When it does not in time, or a worker has ended.
    pub fn wait(&self, what: &str, most: Duration, mut done: impl FnMut(&Counts) -> bool) -> Result<Counts, WaitError> {
        let begun = Instant::now();
        loop {
            let counts = self.counts();
            if done(&counts) {
                return Ok(counts);
            }
            let worker_died = self.has_died();
            if worker_died || begun.elapsed() >= most {
                let (what, waited, counts) = (what.to_owned(), begun.elapsed(), Box::new(counts));
                return Err(WaitError { what, waited, worker_died, counts });
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Waits until every schedule has ended, nothing is outstanding, and every connected peer has everything that was acknowledged.
    #[must_use]
    pub fn settle(&self, most: Duration) -> Settled {
        let begun = Instant::now();
        loop {
            let counts = self.counts();
            let audit = self.audit();
            let quiet = counts.workloads == 0 && counts.outstanding == 0 && counts.connecting == 0;
            let level = quiet && audit.lost == 0;
            if level || begun.elapsed() >= most || self.has_died() {
                let (waited, outstanding) = (begun.elapsed(), counts.outstanding);
                return Settled { level, waited, lost: audit.lost, outstanding };
            }
            std::thread::sleep(AUDIT_INTERVAL);
        }
    }

    /// Everything, as of now.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.audit();
        merge(self.ask_all(Order::Tally))
    }

    /// Everything, and the end of the workers. Connections are not closed: for the server, the process dies.
    #[must_use]
    pub fn finish(self) -> Tally {
        self.tally()
    }

    fn audit(&self) -> Audit {
        let mut heads = Heads::new();
        for part in self.ask_all(Order::Heads) {
            accounting::merge(&mut heads, &part);
        }
        let heads = Arc::new(heads);
        let mut sum = Audit::default();
        for part in self.ask_all(|to| Order::Audit(Arc::clone(&heads), to)) {
            sum.expected += part.expected;
            sum.lost += part.lost;
        }
        sum
    }

    /// Asks every worker at once. One that has ended does not answer.
    fn ask_all<T>(&self, order: impl Fn(Sender<T>) -> Order) -> Vec<T> {
        let answers: Vec<_> = self
            .workers
            .iter()
            .map(|worker| {
                let (to, from) = channel();
                worker.order(order(to));
                from
            })
            .collect();
        answers.into_iter().filter_map(|answer| answer.recv().ok()).collect()
    }

    fn has_died(&self) -> bool {
        self.workers.iter().any(|worker| worker.thread.as_ref().is_none_or(JoinHandle::is_finished))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.workers.iter().for_each(|worker| worker.order(Order::Stop));
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                // A panic was printed where it happened.
                let _ = thread.join();
            }
        }
    }
}

impl Hand {
    /// A worker that has ended takes no orders, and that is seen elsewhere.
    fn order(&self, order: Order) {
        let _ = self.orders.send(order);
        let _ = self.waker.wake();
    }
}

fn start_worker(
    plan: &FleetPlan,
    (index, workers): (u32, u32),
    common: &Arc<Common>,
    pin: &Arc<Pin>,
) -> io::Result<Hand> {
    let shared = Arc::new(Mutex::new(Counts::default()));
    let (orders, receiver) = channel();
    let (common, pin) = (Arc::clone(common), Arc::clone(pin));
    let (worker, waker) = Worker::new(plan, (index, workers), common, pin, Arc::clone(&shared), receiver)?;
    let cpu = usize::try_from(index).ok().and_then(|index| plan.cpus.get(index % plan.cpus.len().max(1)).copied());
    let name = format!("tern-fleet-{index}");
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        if let Some(cpu) = cpu {
            let mut set = rustix::thread::CpuSet::new();
            set.set(cpu);
            // A core that does not exist cannot be pinned to; the run goes on unpinned, and the report shows the cores in use.
            let _ = rustix::thread::sched_setaffinity(None, &set);
        }
        worker.run();
    })?;
    Ok(Hand { orders, waker, shared, thread: Some(thread) })
}
