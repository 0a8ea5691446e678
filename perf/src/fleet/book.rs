//! One worker's books: counts, latencies, seconds, times of messages, and the last place that each conversation was acknowledged at.
//! Shares its counts with the controlling thread now and then, never per event.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::body::Mark;
use super::buckets::Buckets;
use super::tally::{Counts, MessageTimes, Part, SecondPart};
use super::verify::{Applied, Way};

/// Between two times that the counts are shared. Unit: time.
const SHARE_INTERVAL: Duration = Duration::from_millis(50);
/// Messages whose times are kept. Unit: messages. 40 bytes each.
const MESSAGES_MAX: usize = 1 << 20;
/// Seconds that are kept. Unit: seconds. Two hours of busy seconds are under 10 MiB.
const SECONDS_MAX: usize = 7200;
/// Longest latency that is told apart. Unit: nanoseconds.
const LATENCY_MAX: u64 = 600 * 1_000_000_000;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    Connect,
    Resume,
    AutoResume,
    SendToAck,
    SendToDelivery,
    Presence,
    History,
    Request,
    Ping,
    Lateness,
}

/// Their names, in their order.
const SPANS: [&str; 10] = [
    "connect",
    "resume",
    "auto_resume",
    "send_to_ack",
    "send_to_delivery",
    "presence",
    "history",
    "request",
    "ping",
    "lateness",
];

/// What all workers of a fleet know: written once, or as single words.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) start: Instant,
    pub(super) run: u32,
    pub(super) seed: u64,
    /// Who is who among the fleet's users.
    pub(super) peers: HashMap<u64, u32>,
    /// When each peer's presence changed last: nanoseconds since the start, times two, plus one if it came. 0: never, or unclear.
    pub(super) presence: Box<[AtomicU64]>,
}

impl Common {
    /// Unit: nanoseconds since the start.
    pub(super) fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    /// A peer comes or goes at this moment; `None`: it vanishes, and the server cannot know when.
    pub(super) fn presence_changes(&self, peer: u32, change: Option<(u64, bool)>) {
        let word = change.map_or(0, |(at, online)| at * 2 + u64::from(online));
        if let Some(place) = usize::try_from(peer).ok().and_then(|peer| self.presence.get(peer)) {
            place.store(word, Ordering::Relaxed);
        }
    }

    /// When this user came (or went), if that is the last thing that happened to them.
    pub(super) fn presence_changed(&self, user: u64, online: bool) -> Option<u64> {
        let peer = usize::try_from(*self.peers.get(&user)?).ok()?;
        let word = self.presence.get(peer)?.load(Ordering::Relaxed);
        (word != 0 && (word & 1 == 1) == online).then_some(word / 2)
    }
}

/// The books of one worker.
pub(super) struct Book {
    pub(super) common: Arc<Common>,
    pub(super) counts: Counts,
    /// This moment. Unit: nanoseconds since the start.
    pub(super) now: u64,
    /// The same.
    pub(super) instant: Instant,
    latency: Vec<Histogram<u64>>,
    messages: Option<Vec<MessageTimes>>,
    second: SecondPart,
    buckets: Buckets,
    series: Vec<SecondPart>,
    /// By conversation: the last place at which something of this worker's peers was acknowledged.
    pub(super) acked: BTreeMap<u128, u64>,
    shared: Arc<Mutex<Counts>>,
    share_at: Instant,
    begun: Instant,
    /// Numbers of messages of this worker: `number % workers == worker`.
    next_number: u64,
    workers: u64,
}

impl std::fmt::Debug for Book {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Book").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Book {
    pub(super) fn new(
        common: Arc<Common>,
        (worker, workers): (u64, u64),
        per_message: bool,
        shared: Arc<Mutex<Counts>>,
    ) -> Self {
        let now = Instant::now();
        Self {
            common,
            counts: Counts::default(),
            now: 0,
            instant: now,
            latency: histograms(),
            messages: per_message.then(Vec::new),
            second: SecondPart::default(),
            buckets: Buckets::default(),
            series: Vec::new(),
            acked: BTreeMap::new(),
            shared,
            share_at: now,
            begun: now,
            next_number: worker,
            workers,
        }
    }

    /// Looks at the clock.
    pub(super) fn tick(&mut self) {
        self.instant = Instant::now();
        self.now = self.common.nanos(self.instant);
        let second = self.now / 1_000_000_000;
        if second != self.second.second {
            self.end_second(second);
        }
    }

    /// Measures from an intended time to this moment.
    pub(super) fn record(&mut self, span: Span, intended: u64) {
        self.record_nanos(span, self.now.saturating_sub(intended));
    }

    /// Measures a known length.
    pub(super) fn record_nanos(&mut self, span: Span, nanos: u64) {
        if let Some(histogram) = self.latency.get_mut(span as usize) {
            histogram.saturating_record(nanos);
        }
    }

    /// An event was applied by a peer other than its sender, that is connected since `since`.
    pub(super) fn on_applied(&mut self, applied: Applied, receiver: u32, since: u64) {
        self.second.delivered += 1;
        match applied.way {
            Way::Live => self.counts.delivered += 1,
            Way::Page => self.counts.repaired += 1,
        }
        let Some(mark) = applied.mark else { return };
        if mark.peer == receiver {
            return;
        }
        let latency = self.now.saturating_sub(mark.intended);
        if mark.intended < since {
            // It was sent while the receiver was away: how long that was says nothing about the server.
            self.counts.caught_up += u64::from(applied.way == Way::Live);
        } else {
            self.record_nanos(Span::SendToDelivery, latency);
            self.buckets.record(latency);
            self.note_message(mark, latency);
        }
    }

    /// A message was acknowledged at this place.
    pub(super) fn on_acked(&mut self, conversation: u128, seq: u64, intended: u64) {
        self.counts.acked += 1;
        self.second.acked += 1;
        self.record(Span::SendToAck, intended);
        self.on_head(conversation, seq);
    }

    /// Something of ours is durable at this place.
    pub(super) fn on_head(&mut self, conversation: u128, seq: u64) {
        let head = self.acked.entry(conversation).or_default();
        *head = (*head).max(seq);
    }

    pub(super) fn on_closed(&mut self, why: &str) {
        *self.counts.closed_by_server.entry(why.to_owned()).or_default() += 1;
    }

    pub(super) fn on_rejected(&mut self, why: &str) {
        *self.counts.rejected.entry(why.to_owned()).or_default() += 1;
    }

    /// A number that no other message of the run has.
    pub(super) fn next_number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += self.workers;
        number
    }

    /// Warm-up is over: latencies start anew, counts go on.
    pub(super) fn mark(&mut self) {
        self.latency.iter_mut().for_each(Histogram::reset);
        self.counts.late_us_max = 0;
        if let Some(messages) = &mut self.messages {
            messages.iter_mut().for_each(|times| times.receipts = 0);
        }
    }

    /// Shares the counts if that is due.
    pub(super) fn share(&mut self) {
        if self.instant >= self.share_at {
            self.share_now();
        }
    }

    /// Shares the counts.
    pub(super) fn share_now(&mut self) {
        self.share_at = self.instant + SHARE_INTERVAL;
        self.counts.run_ns = u64::try_from((self.instant - self.begun).as_nanos()).unwrap_or(u64::MAX);
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&self.counts);
    }

    /// Everything, as of this moment.
    pub(super) fn part(&self) -> Part {
        let mut series = self.series.clone();
        let mut last = self.second.clone();
        last.latencies = self.buckets.clone().take();
        series.push(last);
        let messages = self.messages.iter().flatten().filter(|times| times.receipts > 0).copied().collect();
        let latency = SPANS.into_iter().zip(self.latency.iter().cloned()).collect();
        Part { counts: self.counts.clone(), latency, messages, series }
    }

    fn end_second(&mut self, next: u64) {
        let mut ended = std::mem::replace(&mut self.second, SecondPart { second: next, ..SecondPart::default() });
        ended.latencies = self.buckets.take();
        if self.series.len() < SECONDS_MAX {
            self.series.push(ended);
        }
    }

    fn note_message(&mut self, mark: Mark, latency: u64) {
        let Some(messages) = &mut self.messages else { return };
        let index = usize::try_from(mark.number).unwrap_or(usize::MAX);
        if index >= MESSAGES_MAX {
            self.counts.messages_left_out += 1;
            return;
        }
        if messages.len() <= index {
            let none = MessageTimes { number: 0, intended_ns: 0, first_ns: u64::MAX, last_ns: 0, receipts: 0 };
            messages.resize(index + 1, none);
        }
        let Some(times) = messages.get_mut(index) else { return };
        if times.receipts == 0 {
            (times.number, times.intended_ns, times.first_ns) = (mark.number, mark.intended, latency);
            times.last_ns = latency;
        }
        times.first_ns = times.first_ns.min(latency);
        times.last_ns = times.last_ns.max(latency);
        times.receipts += 1;
    }
}

fn histograms() -> Vec<Histogram<u64>> {
    let one = || Histogram::new_with_bounds(1, LATENCY_MAX, 3);
    // The bounds are constants that the type allows; a worker without histograms would measure nothing, which a test would see.
    SPANS.iter().filter_map(|_| one().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Book {
        let common = Common { start: Instant::now(), run: 1, seed: 1, peers: HashMap::new(), presence: Box::new([]) };
        Book::new(Arc::new(common), (0, 1), true, Arc::default())
    }

    fn applied(intended: u64, peer: u32) -> Applied {
        Applied { way: Way::Live, mark: Some(Mark { run: 1, peer, number: 0, intended }) }
    }

    #[test]
    fn latency_counts_from_the_intended_time_for_receivers_that_were_there() {
        let mut book = book();
        book.now = 5_000_000;
        book.on_applied(applied(1_000_000, 9), 1, 0);
        book.on_applied(applied(1_000_000, 9), 9, 0);
        book.on_applied(applied(1_000_000, 9), 2, 2_000_000);
        let delivery = &book.latency[Span::SendToDelivery as usize];
        assert_eq!((delivery.len(), delivery.max() / 10_000), (1, 400), "not the sender, not who was away");
        assert_eq!((book.counts.delivered, book.counts.caught_up), (3, 1));
    }

    #[test]
    fn first_and_last_receipt_of_a_message_are_kept() {
        let mut book = book();
        for (now, receiver) in [(3_000, 1), (2_000, 2), (9_000, 3)] {
            book.now = now;
            book.on_applied(applied(1_000, 0), receiver, 0);
        }
        let part = book.part();
        let times = MessageTimes { number: 0, intended_ns: 1_000, first_ns: 1_000, last_ns: 8_000, receipts: 3 };
        assert_eq!(part.messages, [times]);
    }

    #[test]
    fn every_span_has_a_histogram() {
        assert_eq!(histograms().len(), SPANS.len());
        assert_eq!(SPANS.get(Span::Lateness as usize), Some(&"lateness"));
    }
}
