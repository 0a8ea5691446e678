//! Compares what each start hands out with all that was ever handed out. Remembers everything, forgives nothing.

use std::collections::BTreeSet;

use tern_core_shard::io::{AppendFailure, Logged, Record};
use tern_protocol::PartitionId;
use xxhash_rust::xxh3::xxh3_64;

/// A promise that was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) promise: &'static str,
    pub(super) what: String,
}

/// A command that was handed out: somebody may have been told.
#[derive(Debug)]
struct Handed {
    digest: u64,
    time: u64,
}

#[derive(Debug)]
pub(super) struct Checker {
    /// Per partition, by position from 1.
    handed: Vec<Vec<Handed>>,
    /// Per partition the position that is due in this run.
    due: Vec<u64>,
    /// Numbers of commands that were certainly not stored.
    refused: BTreeSet<u64>,
    pub(super) violations: Vec<Violation>,
}

impl Checker {
    pub(super) fn new(partitions: u16) -> Self {
        let handed = (0..partitions).map(|_| Vec::new()).collect();
        Self { handed, due: Vec::new(), refused: BTreeSet::new(), violations: Vec::new() }
    }

    pub(super) fn violated(&mut self, promise: &'static str, what: String) {
        self.violations.push(Violation { promise, what });
    }

    /// A run begins with a view that has so much.
    pub(super) fn opened(&mut self, applied: &[u64]) {
        self.due = applied.iter().map(|applied| applied + 1).collect();
        let handed = self.handed.iter().map(|handed| handed.len() as u64);
        if handed.zip(applied).any(|(handed, applied)| handed < *applied) {
            self.violated("M1", "the view has what was never handed out".to_owned());
        }
    }

    pub(super) fn logged(&mut self, logged: &Logged) {
        let Logged { partition, position, time, record } = logged;
        let (index, position, time) = (usize::from(partition.raw()), position.raw(), time.raw());
        if self.due[index] != position {
            let due = self.due[index];
            self.violated("M2", format!("{partition}: {position} was handed out, {due} was due"));
        }
        self.due[index] = position + 1;
        let number = record.head.actor;
        if self.refused.contains(&number) {
            self.violated("M5", format!("{partition} {position}: command {number} was refused for certain"));
        }
        let digest = digest(record);
        let handed = &self.handed[index];
        let at = usize::try_from(position - 1).expect("few commands");
        let before = at.checked_sub(1).and_then(|before| handed.get(before)).map_or(0, |before| before.time);
        if time <= before {
            self.violated("M1", format!("{partition} {position}: log time {time} after {before}"));
        }
        match self.handed[index].get(at) {
            Some(first) if first.digest != digest || first.time != time => {
                self.violated(
                    "M1",
                    format!("{partition} {position}: another command than the one that was handed out"),
                );
            }
            Some(_) => {}
            None => self.handed[index].push(Handed { digest, time }),
        }
    }

    pub(super) fn failed(&mut self, record: &Record, failure: AppendFailure) {
        match failure {
            AppendFailure::Busy | AppendFailure::Unavailable => {
                self.refused.insert(record.head.actor);
            }
            AppendFailure::Unknown => {}
        }
    }

    /// Everything that the view lacked has been handed out.
    pub(super) fn caught_up(&mut self) {
        for index in 0..self.handed.len() {
            let (known, due) = (self.handed[index].len() as u64, self.due[index]);
            if known >= due {
                let partition = PartitionId::from_raw(u16::try_from(index).expect("few partitions"));
                self.violated("M2", format!("{partition}: {due} to {known} were handed out once and are gone"));
            }
        }
    }

    /// Commands that were handed out, each counted once.
    pub(super) fn handed_out(&self) -> u64 {
        self.handed.iter().map(|handed| handed.len() as u64).sum()
    }
}

fn digest(record: &Record) -> u64 {
    xxh3_64(&record.frame) ^ xxh3_64(&record.head.to_bytes()).rotate_left(1)
}
