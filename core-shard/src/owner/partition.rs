//! One owned partition: its rules, which commands are applied, and which of their rows the view may have already.
//! Rows leave in position order, and none before every command that it caused is durable: after a crash the cause is applied again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tern_protocol::command::CommandHead;
use tern_protocol::{PartitionId, Position};

use crate::conversation::Emission;
use crate::io::{Logged, Reply, Row};
use crate::rules::{History, Rules};

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
    rules: Known,
    /// Commands handed over before the rules were known, in order.
    early: VecDeque<Logged>,
    /// By the command with whose rows they leave: what commands that were kept have done.
    carried: BTreeMap<Position, Carried>,
    /// Of such commands: with whose rows theirs leave.
    carriers: BTreeMap<Position, Position>,
}

/// What commands that were kept have done, in order.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    pub(crate) rows: Vec<Row>,
    /// With the command that caused each, and which of its emissions it is.
    pub(crate) emissions: Vec<(Position, u32, Emission)>,
}

impl Carried {
    /// Adds what one command has done.
    pub(crate) fn add(&mut self, position: Position, mut rows: Vec<Row>, emissions: Vec<Emission>) {
        if self.rows.is_empty() {
            self.rows = rows;
        } else {
            self.rows.append(&mut rows);
        }
        self.emissions.extend(emissions.into_iter().zip(0..).map(|(emission, index)| (position, index, emission)));
    }
}

/// How much is known of a partition's rules. Nothing is applied without them.
#[derive(Debug, Default)]
enum Known {
    /// Not asked for.
    #[default]
    Nothing,
    /// The view is being asked.
    Asked,
    /// `setting`: a command that sets others is on its way.
    Rules { history: History, setting: bool },
    /// The log has something that this build must not pass.
    Stopped,
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
    /// Emissions that are not known to be durable: the causing command, and which of its emissions.
    outstanding: BTreeSet<(Position, u32)>,
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
    /// Whether the view must be asked for the rules.
    pub(crate) fn ask(&mut self) -> bool {
        let unasked = matches!(self.rules, Known::Nothing);
        if unasked {
            self.rules = Known::Asked;
        }
        unasked
    }

    /// Takes the rules; gives the commands that waited for them.
    pub(crate) fn know(&mut self, history: History) -> VecDeque<Logged> {
        self.rules = Known::Rules { history, setting: false };
        std::mem::take(&mut self.early)
    }

    /// Keeps a command until the rules are known. `Err`: they are known, take it.
    pub(crate) fn wait(&mut self, logged: Logged) -> Result<(), Logged> {
        match self.rules {
            Known::Nothing | Known::Asked => self.early.push_back(logged),
            Known::Rules { .. } => return Err(logged),
            // Replayed when a build that knows what is in the way has started.
            Known::Stopped => {}
        }
        Ok(())
    }

    /// The rules under which the command at this place is applied.
    pub(crate) fn rules_at(&self, position: Position) -> Rules {
        match &self.rules {
            Known::Rules { history, .. } => history.at(position),
            Known::Nothing | Known::Asked | Known::Stopped => Rules::FIRST,
        }
    }

    /// Whether these rules must be set; true only once until the log has them or refused them.
    pub(crate) fn lacks(&mut self, wanted: Rules) -> bool {
        match &mut self.rules {
            Known::Rules { history, setting } if !*setting && history.newest() != wanted => {
                *setting = true;
                true
            }
            Known::Rules { .. } | Known::Nothing | Known::Asked | Known::Stopped => false,
        }
    }

    /// Whether what comes next is applied under these rules.
    pub(crate) fn has(&self, wanted: Rules) -> bool {
        matches!(&self.rules, Known::Rules { history, .. } if history.newest() == wanted)
    }

    /// The log did not take the command that sets the rules.
    pub(crate) fn rules_refused(&mut self) {
        if let Known::Rules { setting, .. } = &mut self.rules {
            *setting = false;
        }
    }

    /// The log has set the rules; gives the row that keeps them.
    pub(crate) fn set_rules(&mut self, id: PartitionId, position: Position, rules: Rules) -> Option<Row> {
        let Known::Rules { history, setting } = &mut self.rules else { return None };
        *setting = false;
        Some(history.set(id, position, rules))
    }

    /// Nothing more is applied; gives the place in front of which it stopped.
    pub(crate) fn stop(&mut self) -> Position {
        self.rules = Known::Stopped;
        self.early.clear();
        self.logged
    }

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

    /// Lets what commands that were kept have done leave with the rows of a command that is not applied yet.
    pub(crate) fn carry(&mut self, carrier: Position, carried: Carried) {
        self.carriers.extend(carried.emissions.iter().map(|(cause, ..)| (*cause, carrier)));
        self.carried.insert(carrier, carried);
    }

    /// What leaves with the rows of this command.
    pub(crate) fn take_carried(&mut self, carrier: Position) -> Option<Carried> {
        self.carried.remove(&carrier)
    }

    /// Notes that a command is applied, and which emissions its rows wait for.
    pub(crate) fn applied(
        &mut self,
        position: Position,
        rows: Vec<Row>,
        emitted: impl Iterator<Item = (Position, u32)>,
        reply: Option<(CommandHead, Reply)>,
    ) {
        let Some(pending) = self.find(position) else { return };
        let early = |(cause, index): &(Position, u32)| *cause == position && pending.early.contains(index);
        let outstanding = emitted.filter(|emission| !early(emission)).collect();
        pending.done = Some(Done { rows, outstanding, reply });
        self.unapplied -= 1;
    }

    /// Notes that an emitted command is durable.
    pub(crate) fn emission_logged(&mut self, position: Position, index: u32) {
        let holder = self.carriers.get(&position).copied().unwrap_or(position);
        let Some(pending) = self.find(holder) else { return };
        match &mut pending.done {
            Some(done) => {
                done.outstanding.remove(&(position, index));
            }
            None if holder == position => {
                pending.early.insert(index);
            }
            // What was kept is emitted again, and waited for.
            None => {}
        }
    }

    /// The oldest command, if nothing of it is outstanding.
    pub(crate) fn pop_complete(&mut self) -> Option<Complete> {
        let complete = self.pending.front()?.done.as_ref().is_some_and(|done| done.outstanding.is_empty());
        if !complete {
            return None;
        }
        let pending = self.pending.pop_front()?;
        if !self.carriers.is_empty() {
            self.carriers.retain(|_, carrier| *carrier != pending.position);
        }
        let done = pending.done?;
        Some(Complete { position: pending.position, rows: done.rows, reply: done.reply })
    }

    /// Whether every command handed over is applied.
    pub(crate) fn is_applied(&self) -> bool {
        self.unapplied == 0 && self.early.is_empty()
    }

    /// Positions are ordered, not dense: a log may leave some out.
    fn find(&mut self, position: Position) -> Option<&mut Pending> {
        let index = self.pending.binary_search_by_key(&position, |pending| pending.position).ok()?;
        self.pending.get_mut(index)
    }
}
