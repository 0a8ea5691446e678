//! The journal's ends of the shards' queues. A shard that takes nothing holds up what is for it, and nobody else: its commands wait here,
//! in order and bounded, and beyond that are refused as busy. Knows nothing of positions and files.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use rtrb::{Consumer, Producer, PushError};
use tern_core_shard::io::{AppendFailure, Logged, Record};
use tern_protocol::PartitionId;
use tern_protocol::placement::Placement;

use crate::config::{BATCH_SIZE_LIMIT, EmbeddedConfig};
use crate::embedded::Bell;
use crate::journal::batch::RECORD_OVERHEAD;
use crate::status::Status;

/// A command on its way to the journal.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) partition: PartitionId,
    pub(crate) record: Record,
}

impl Append {
    /// What it counts for in queues and in the journal. Unit: bytes.
    pub(crate) fn size(record: &Record) -> usize {
        RECORD_OVERHEAD + record.frame.len()
    }
}

/// What the journal tells a shard.
#[derive(Debug)]
pub(crate) enum FromJournal {
    /// To the owner.
    Logged(Logged),
    /// To the shard that appended.
    Failed(PartitionId, Record, AppendFailure),
    /// To every shard, once.
    CaughtUp,
}

impl FromJournal {
    fn size(&self) -> usize {
        match self {
            Self::Logged(logged) => Append::size(&logged.record),
            Self::Failed(_, record, _) => Append::size(record),
            Self::CaughtUp => 0,
        }
    }
}

/// The journal's ends of one shard's queues.
pub(crate) struct JournalLane {
    pub(crate) appends: Consumer<Append>,
    pub(crate) out: Producer<FromJournal>,
    pub(crate) bell: Bell,
}

struct Lane {
    ends: JournalLane,
    /// What did not fit into the queue to the shard.
    pending: VecDeque<FromJournal>,
    /// Of `pending`. Unit: bytes.
    pending_size: usize,
    /// The shard takes durable commands.
    takes: bool,
    /// Commands for the shard that wait until it takes some, and who appended them. Not durable yet.
    held: VecDeque<(usize, Append)>,
    /// Of `held`. Unit: bytes.
    held_size: usize,
    /// The bell is due.
    ring: bool,
}

impl Lane {
    fn tell(&mut self, what: FromJournal) {
        self.pending_size += what.size();
        self.pending.push_back(what);
    }

    fn hold(&mut self, source: usize, append: Append) {
        self.held_size += Append::size(&append.record);
        self.held.push_back((source, append));
    }

    fn release(&mut self) -> Option<(usize, Append)> {
        let (source, append) = self.held.pop_front()?;
        self.held_size -= Append::size(&append.record);
        Some((source, append))
    }
}

/// All shards' queues.
pub(crate) struct Lanes {
    lanes: Vec<Lane>,
    status: Arc<Status>,
    placement: Placement,
    logged_queue_size_max: usize,
    /// Held for one shard before more for it is refused where it is appended. Unit: bytes.
    held_size_max: usize,
    /// Whose turn is first in the next batch.
    first: usize,
    /// Where the batch that is being made has come to: first what is held for each shard, then what each appended.
    turn: usize,
    /// Taken from the queue of the shard whose turn it is. Unit: bytes.
    taken_size: usize,
}

impl Lanes {
    pub(crate) fn new(ends: Vec<JournalLane>, config: &EmbeddedConfig, status: Arc<Status>) -> Self {
        let lane = |ends| Lane {
            ends,
            pending: VecDeque::new(),
            pending_size: 0,
            takes: true,
            held: VecDeque::new(),
            held_size: 0,
            ring: false,
        };
        Self {
            lanes: ends.into_iter().map(lane).collect(),
            status,
            placement: Placement::new(config.partitions, config.shards),
            logged_queue_size_max: config.logged_queue_size_max,
            held_size_max: config.append_queue_size_max,
            first: 0,
            turn: 0,
            taken_size: 0,
        }
    }

    /// Delivers what waits; whether every shard takes more.
    pub(crate) fn deliver(&mut self) -> bool {
        if self.deliver_once() {
            return true;
        }
        // Said first, then looked at again: a shard that makes room in between sees it and wakes this thread.
        self.status.journal_wants_room.store(true, SeqCst);
        self.deliver_once()
    }

    fn deliver_once(&mut self) -> bool {
        let mut all_take = true;
        for (lane, queues) in self.lanes.iter_mut().zip(&self.status.queues) {
            while let Some(next) = lane.pending.pop_front() {
                let size = next.size();
                if let Err(PushError::Full(next)) = lane.ends.out.push(next) {
                    lane.pending.push_front(next);
                    break;
                }
                lane.pending_size -= size;
                lane.ring = true;
            }
            if std::mem::take(&mut lane.ring) {
                (lane.ends.bell)();
            }
            let takes = lane.pending.is_empty() && queues.logged.load(SeqCst) <= self.logged_queue_size_max;
            if takes != lane.takes {
                lane.takes = takes;
                self.status.set_taking(queues, takes);
            }
            queues.refuses.store(lane.held_size > self.held_size_max, Relaxed);
            all_take &= takes;
        }
        all_take
    }

    /// A new batch begins: the next shard has the first turn.
    pub(crate) fn begin_batch(&mut self) {
        self.first = (self.first + 1) % self.lanes.len().max(1);
        self.turn = 0;
    }

    /// The next command for the batch, and who appended it, if any fits into `room`. Call until it says `None`.
    pub(crate) fn next(&mut self, room: usize) -> Option<(usize, Append)> {
        let count = self.lanes.len();
        while self.turn < 2 * count {
            let index = (self.first + self.turn) % count;
            let next = if self.turn < count { self.next_held(index, room) } else { self.next_appended(index, room) };
            if next.is_some() {
                return next;
            }
            if let Some(queues) = self.status.queues.get(index) {
                queues.append.fetch_sub(std::mem::take(&mut self.taken_size), Relaxed);
            }
            self.turn += 1;
        }
        None
    }

    fn next_held(&mut self, owner: usize, room: usize) -> Option<(usize, Append)> {
        let lane = self.lanes.get_mut(owner).filter(|lane| lane.takes)?;
        let (_, next) = lane.held.front()?;
        if Append::size(&next.record) > room { None } else { lane.release() }
    }

    fn next_appended(&mut self, source: usize, room: usize) -> Option<(usize, Append)> {
        loop {
            let lane = self.lanes.get_mut(source)?;
            // A shard that takes no answers gets no further ones: what it appends waits in its queue.
            if lane.pending_size > self.logged_queue_size_max {
                return None;
            }
            let size = Append::size(&lane.ends.appends.peek().ok()?.record);
            if size > room {
                return None;
            }
            let append = lane.ends.appends.pop().ok()?;
            self.taken_size += size;
            let owner = self.owner(append.partition);
            if self.lanes.get(owner).is_some_and(|lane| lane.takes && lane.held.is_empty()) {
                return Some((source, append));
            }
            self.hold(owner, source, append);
        }
    }

    /// Keeps a command until its owner takes some. Those that were appended before their shard was told have room for one queue more; what a
    /// durable command caused has room for another, because rows and checkpoint wait for it.
    fn hold(&mut self, owner: usize, source: usize, append: Append) {
        let share = if append.record.head.cause_position == 0 { 2 } else { 3 };
        match self.lanes.get_mut(owner) {
            Some(lane) if lane.held_size + Append::size(&append.record) <= self.held_size_max * share => {
                lane.hold(source, append);
                // Said before the queues are counted down: whoever sees room in them sees this.
                if let Some(queues) = self.status.queues.get(owner).filter(|_| lane.held_size > self.held_size_max) {
                    queues.refuses.store(true, Relaxed);
                }
            }
            _ => {
                self.status.refused_busy.fetch_add(1, Relaxed);
                self.fail(source, append.partition, append.record, AppendFailure::Busy);
            }
        }
    }

    fn owner(&self, partition: PartitionId) -> usize {
        usize::from(self.placement.shard(partition).raw())
    }

    /// Tells the owner about a durable command.
    pub(crate) fn hand_out(&mut self, logged: Logged) {
        let owner = self.owner(logged.partition);
        if let Some(queues) = self.status.queues.get(owner) {
            queues.logged.fetch_add(Append::size(&logged.record), SeqCst);
        }
        if let Some(lane) = self.lanes.get_mut(owner) {
            lane.tell(FromJournal::Logged(logged));
        }
    }

    /// Tells whoever appended a command what became of it.
    pub(crate) fn fail(&mut self, source: usize, partition: PartitionId, record: Record, failure: AppendFailure) {
        if let Some(lane) = self.lanes.get_mut(source) {
            lane.tell(FromJournal::Failed(partition, record, failure));
        }
    }

    /// Tells every shard that everything old was handed out.
    pub(crate) fn caught_up(&mut self) {
        for lane in &mut self.lanes {
            lane.tell(FromJournal::CaughtUp);
        }
    }

    /// Answers what is held and queued: certainly not stored. At most a batch's worth of each shard; returns how many.
    pub(crate) fn refuse_all(&mut self) -> u64 {
        let mut refused = 0;
        for owner in 0..self.lanes.len() {
            while let Some((source, append)) = self.lanes.get_mut(owner).and_then(Lane::release) {
                refused += 1;
                self.fail(source, append.partition, append.record, AppendFailure::Unavailable);
            }
        }
        for (lane, queues) in self.lanes.iter_mut().zip(&self.status.queues) {
            let mut size = 0;
            while size <= BATCH_SIZE_LIMIT && lane.pending_size <= self.logged_queue_size_max {
                let Ok(Append { partition, record }) = lane.ends.appends.pop() else { break };
                size += Append::size(&record);
                refused += 1;
                lane.tell(FromJournal::Failed(partition, record, AppendFailure::Unavailable));
            }
            queues.append.fetch_sub(size, Relaxed);
        }
        self.status.refused_unavailable.fetch_add(refused, Relaxed);
        self.deliver();
        refused
    }
}
