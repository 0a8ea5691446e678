//! One owned partition: which commands are applied, and which of their rows the view may have already.
//! Rows leave in position order, and none before every command that it caused is durable: after a crash the cause is applied again.

use std::collections::{BTreeSet, VecDeque};

use tern_protocol::Position;
use tern_protocol::command::CommandHead;

use crate::io::{Reply, Row};

/// The owner's book-keeping of one log.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    /// Last command handed over by the log.
    logged: Position,
    /// Up to here the view can be read.
    pub(crate) stored: Position,
    /// Commands from the oldest one whose rows are still here, in order.
    pending: VecDeque<Pending>,
    /// Commands handed over and not applied.
    unapplied: usize,
}

/// One command whose rows are still here.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) position: Position,
    /// `None`: not applied yet.
    done: Option<Done>,
    /// Emissions whose durability was reported before the command was applied again here (a replay).
    early: BTreeSet<u32>,
}

/// What an applied command still has to give.
#[derive(Debug)]
struct Done {
    rows: Vec<Row>,
    /// Emissions that are not known to be durable.
    outstanding: BTreeSet<u32>,
    reply: Option<(CommandHead, Reply)>,
}

/// A command that is finished.
#[derive(Debug)]
pub(crate) struct Complete {
    pub(crate) position: Position,
    pub(crate) rows: Vec<Row>,
    pub(crate) reply: Option<(CommandHead, Reply)>,
}

impl Partition {
    /// Notes a command that the log handed over; false for one that was handed over before.
    pub(crate) fn expect(&mut self, position: Position) -> bool {
        if position <= self.logged {
            return false;
        }
        self.logged = position;
        self.unapplied += 1;
        self.pending.push_back(Pending { position, done: None, early: BTreeSet::new() });
        true
    }

    /// Notes that a command is applied and has emitted so many commands.
    pub(crate) fn applied(
        &mut self,
        position: Position,
        rows: Vec<Row>,
        emitted: usize,
        reply: Option<(CommandHead, Reply)>,
    ) {
        let Some(pending) = self.find(position) else { return };
        let emitted = u32::try_from(emitted).unwrap_or(u32::MAX);
        let outstanding = (0..emitted).filter(|index| !pending.early.contains(index)).collect();
        pending.done = Some(Done { rows, outstanding, reply });
        self.unapplied -= 1;
    }

    /// Notes that an emitted command is durable.
    pub(crate) fn emission_logged(&mut self, position: Position, index: u32) {
        let Some(pending) = self.find(position) else { return };
        match &mut pending.done {
            Some(done) => {
                done.outstanding.remove(&index);
            }
            None => {
                pending.early.insert(index);
            }
        }
    }

    /// The oldest command, if nothing of it is outstanding.
    pub(crate) fn pop_complete(&mut self) -> Option<Complete> {
        let complete = self.pending.front()?.done.as_ref().is_some_and(|done| done.outstanding.is_empty());
        if !complete {
            return None;
        }
        let pending = self.pending.pop_front()?;
        let done = pending.done?;
        Some(Complete { position: pending.position, rows: done.rows, reply: done.reply })
    }

    /// Whether every command handed over is applied.
    pub(crate) fn is_applied(&self) -> bool {
        self.unapplied == 0
    }

    /// Positions of a partition are dense within what a run is handed.
    fn find(&mut self, position: Position) -> Option<&mut Pending> {
        let first = self.pending.front()?.position;
        let index = usize::try_from(position.raw().checked_sub(first.raw())?).ok()?;
        self.pending.get_mut(index).filter(|pending| pending.position == position)
    }
}
