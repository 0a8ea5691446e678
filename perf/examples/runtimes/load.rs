//! What each server is given to do, and what one turn of it came to.

use std::time::{Duration, Instant};

use tern_perf::fleet::{Action, Arrival, Counts, PeerId, Workload};
use tern_perf::measure::ProcessMeter;

use crate::Failure;
use crate::calls::Calls;
use crate::contender::{Contender, PEERS};

/// Size of a message. Unit: bytes. A few sentences; what the targets are stated for.
const BODY_SIZE: u32 = 200;
/// How long the end of a turn may take. Unit: time.
const PATIENCE: Duration = Duration::from_secs(60);
/// What comes before a turn and is not measured: caches, congestion windows, acknowledgement delays.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long system calls are counted. Unit: time.
const COUNTED: Duration = Duration::from_secs(1);
/// From the making of a schedule to its first message. Unit: time.
const LEAD: Duration = Duration::from_millis(20);

/// One way to load a server, the same for all of them.
pub(crate) struct Load {
    pub(crate) name: &'static str,
    /// What is counted.
    pub(crate) unit: &'static str,
    /// Messages a second.
    rate: u32,
    to: To,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// Direct messages, each pair in turn, each direction in turn.
    Pairs,
    /// Messages of one to the group of all.
    Group,
}

/// All loads. Rates: none is near what a server can do on this core, or latency would only be a queue. Fan-out to 100 at 200 messages a
/// second is 20,000 deliveries a second.
pub(crate) const LOADS: [Load; 3] = [
    Load { name: "direct, 500/s", unit: "message", rate: 500, to: To::Pairs },
    Load { name: "direct, 4,000/s", unit: "message", rate: 4_000, to: To::Pairs },
    Load { name: "fan-out to 100, 200/s", unit: "delivery", rate: 200, to: To::Group },
];

/// One turn of one server.
pub(crate) struct Sample {
    /// Index of the server, of the load, and which round.
    pub(crate) contender: usize,
    pub(crate) load: usize,
    pub(crate) round: u32,
    /// CPU of the server's process per unit. Unit: microseconds.
    pub(crate) cpu_us: f64,
    /// Of that: threads that do the transport's work.
    pub(crate) transport_us: f64,
    /// Times that a thread of the server went to sleep, per unit.
    pub(crate) sleeps: f64,
    /// Datagrams that the generator received and sent, per unit: the same work is the same packets.
    pub(crate) datagrams: [f64; 2],
    /// From the intended time to the receivers. Unit: microseconds.
    pub(crate) delivery_us: [f64; 2],
    /// From the intended time to the acknowledgement. Unit: microseconds.
    pub(crate) ack_us: [f64; 2],
    /// CPU of the machine that others used.
    pub(crate) others_percent: f64,
}

impl Load {
    /// Loads a server for a while and waits until everything has arrived.
    pub(crate) fn run(&self, contender: &Contender, length: Duration) -> Result<Sample, Failure> {
        self.offer(contender, WARM_UP)?;
        let fleet = &contender.fleet;
        let before = fleet.tally().counts;
        fleet.mark();
        let meter = ProcessMeter::new(contender.pid())?;
        self.offer(contender, length)?;
        let usage = meter.usage()?;
        let tally = fleet.tally();
        let counts = tally.counts.since(&before);
        clean(&counts)?;
        let per = |amount: f64| amount / self.units(&counts);
        let cpu = |of: &dyn Fn(&str) -> bool| -> f64 {
            usage.threads.iter().filter(|thread| of(&thread.name)).map(|thread| thread.cpu_seconds * 1e6).sum()
        };
        let latency = |name: &str| {
            [0.5, 0.99].map(|quantile| {
                tally.latency.get(name).map_or(f64::NAN, |times| times.value_at_quantile(quantile) as f64 / 1e3)
            })
        };
        Ok(Sample {
            contender: 0,
            load: 0,
            round: 0,
            cpu_us: per(cpu(&|_| true)),
            transport_us: per(cpu(&|name| contender.is_transport(name))),
            sleeps: per(usage.switches_voluntary as f64),
            datagrams: [counts.datagrams_in, counts.datagrams_out].map(|count| per(count as f64)),
            delivery_us: latency("send_to_delivery"),
            ack_us: latency("send_to_ack"),
            others_percent: 0.0,
        })
    }

    /// System calls of the transport's threads per unit; `None` where they cannot be counted.
    pub(crate) fn count_calls(&self, contender: &Contender) -> Result<Option<f64>, Failure> {
        let Some(calls) = Calls::begin(&contender.transport_threads(), &contender.directory) else { return Ok(None) };
        let before = contender.fleet.tally().counts;
        self.offer(contender, COUNTED)?;
        let counts = contender.fleet.tally().counts.since(&before);
        Ok(calls.end(&contender.directory).map(|count| count / self.units(&counts)))
    }

    fn units(&self, counts: &Counts) -> f64 {
        let units = match self.to {
            To::Pairs => counts.acked,
            To::Group => counts.delivered,
        };
        units.max(1) as f64
    }

    fn offer(&self, contender: &Contender, length: Duration) -> Result<(), Failure> {
        let start = Instant::now() + LEAD;
        let conversations = match self.to {
            To::Pairs => contender.directs.clone(),
            To::Group => vec![contender.group],
        };
        let gap = Duration::from_secs(1) / self.rate;
        let count = length.as_micros() / gap.as_micros().max(1);
        let to = self.to;
        let schedule = move |number: u32| {
            let at = number as usize % conversations.len();
            // The first of a pair the first time round, the second the next.
            let second = number as usize / conversations.len() % 2;
            let peer = match to {
                To::Pairs => u32::try_from(2 * at + second).unwrap_or(0) % PEERS,
                To::Group => 0,
            };
            let action = Action::Send { conversation: conversations[at], size: BODY_SIZE };
            Arrival { at: start + gap * number, peer: PeerId(peer), action }
        };
        let count = u32::try_from(count)?;
        let target = contender.fleet.tally().counts.arrivals + u64::from(count);
        contender.fleet.run(|_, _| Box::new(Schedule { next: 0, count, make: schedule.clone() }));
        contender.fleet.wait("the schedule to end", length + PATIENCE, |counts| counts.arrivals >= target)?;
        let settled = contender.fleet.settle(PATIENCE);
        if settled.level { Ok(()) } else { Err(format!("messages are missing: {settled:?}").into()) }
    }
}

/// Arrivals by their number.
struct Schedule<F> {
    next: u32,
    count: u32,
    make: F,
}

impl<F: Fn(u32) -> Arrival + Send> Workload for Schedule<F> {
    fn next(&mut self) -> Option<Arrival> {
        let number = self.next;
        self.next += 1;
        (number < self.count).then(|| (self.make)(number))
    }
}

/// A server that loses, repeats or refuses anything is not compared.
fn clean(counts: &Counts) -> Result<(), Failure> {
    let bad = [counts.lost, counts.duplicated, counts.reordered, counts.corrupt, counts.malformed, counts.sends_failed];
    if bad.iter().any(|count| *count > 0) || counts.lost_connections > 0 || counts.acked != counts.sends_intended {
        return Err(format!("a turn was not clean: {counts:?}").into());
    }
    Ok(())
}
