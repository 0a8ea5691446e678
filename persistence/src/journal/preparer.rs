//! Makes segments before the journal needs them: zeros, gently, so that commits which come in between wait for little.
//! Never touches a segment that holds anything needed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::journal::disk::{Disk, Filling, SegmentFile};
use crate::status::Status;
use crate::turns::{Now, Rest, Turns};

/// How long the disk is left to the commits between two pieces, as a multiple of what a piece took. 3: it works for them three quarters of
/// the time. Measured: zeros without pauses and with one sync at the end held one commit up for 106 ms.
const REST_FACTOR: u32 = 3;
/// Longest rest between two pieces: a disk that takes longer is busy with something else. Unit: time.
const REST_MAX: Duration = Duration::from_millis(200);

/// A segment to be made (`from` is 0) or lengthened.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) path: PathBuf,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// What became of a job.
type Made = std::io::Result<SegmentFile>;

/// The journal's end: orders segments and takes them.
#[derive(Debug)]
pub(crate) struct Preparing {
    jobs: Sender<Job>,
    made: Receiver<Made>,
    urgent: Arc<AtomicBool>,
    status: Arc<Status>,
}

impl Preparing {
    /// Orders a segment. At most as many are under way as the journal may have.
    pub(crate) fn send(&self, job: Job) {
        // Nobody makes it any more when the store has been stopped; then nobody needs it either.
        self.jobs.send(job).ok();
        self.status.preparer.wake();
    }

    /// What is finished.
    pub(crate) fn poll(&self) -> Option<Made> {
        self.made.try_recv().ok()
    }

    /// The journal waits for the segment, or does not.
    pub(crate) fn set_urgent(&self, urgent: bool) {
        if self.urgent.swap(urgent, Relaxed) != urgent {
            self.status.preparer.wake();
        }
    }
}

/// What is being made.
#[derive(Debug)]
enum Stage {
    /// Nothing.
    Idle,
    /// A piece was begun at this moment.
    Working(Filling, Duration),
    /// The disk is left to others until this moment.
    Resting(Filling, Duration),
}

/// Makes one segment after another, a piece a turn.
#[derive(Debug)]
pub(crate) struct Preparer {
    disk: Disk,
    jobs: Receiver<Job>,
    made: Sender<Made>,
    urgent: Arc<AtomicBool>,
    stage: Stage,
    status: Arc<Status>,
}

impl Preparer {
    /// Both ends.
    pub(crate) fn new(disk: Disk, status: Arc<Status>) -> (Preparing, Self) {
        let (send_job, jobs) = channel();
        let (send_made, made) = channel();
        let urgent = Arc::<AtomicBool>::default();
        let ordered = Preparing { jobs: send_job, made, urgent: Arc::clone(&urgent), status: Arc::clone(&status) };
        (ordered, Self { disk, jobs, made: send_made, urgent, stage: Stage::Idle, status })
    }

    fn begin(&mut self, now: Now) -> Rest {
        let Ok(Job { path, from, to }) = self.jobs.try_recv() else { return Rest::UntilWoken };
        match Filling::begin(&self.disk, &path, from, to) {
            Ok(filling) => self.work(filling, now),
            // One that cannot be lengthened is used as it is.
            Err(error) => self.deliver(if from == 0 { Err(error) } else { self.disk.open(&path) }),
        }
    }

    fn work(&mut self, mut filling: Filling, now: Now) -> Rest {
        let done = match filling.piece() {
            Ok(true) => {
                self.stage = Stage::Working(filling, now.monotonic);
                return Rest::Again;
            }
            Ok(false) => filling.finish(),
            Err(error) => Err(error),
        };
        let made = done.or_else(|error| {
            tracing::debug!(%error, "a segment is not made or keeps its size");
            filling.give_up().ok_or(error)
        });
        self.deliver(made)
    }

    fn deliver(&mut self, made: Made) -> Rest {
        self.stage = Stage::Idle;
        self.made.send(made).ok();
        self.status.journal.wake();
        Rest::Again
    }
}

impl Turns for Preparer {
    fn turn(&mut self, now: Now) -> Rest {
        let stage = std::mem::replace(&mut self.stage, Stage::Idle);
        if self.status.is_stopped() {
            if let Stage::Working(filling, _) | Stage::Resting(filling, _) = stage {
                filling.give_up();
            }
            return Rest::Ended(Ok(()));
        }
        let urgent = self.urgent.load(Relaxed);
        match stage {
            Stage::Idle => self.begin(now),
            Stage::Working(filling, began) if !urgent => {
                let rest = (now.monotonic.saturating_sub(began) * REST_FACTOR).min(REST_MAX);
                self.stage = Stage::Resting(filling, now.monotonic + rest);
                Rest::AtMost(rest)
            }
            Stage::Resting(filling, until) if !urgent && now.monotonic < until => {
                self.stage = Stage::Resting(filling, until);
                Rest::AtMost(until - now.monotonic)
            }
            Stage::Working(filling, _) | Stage::Resting(filling, _) => self.work(filling, now),
        }
    }
}
