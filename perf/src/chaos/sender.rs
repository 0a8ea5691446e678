//! The sending end of one direction of a TCP connection: what may leave, what counts as lost, when to try again. Pure: time comes in,
//! segments go out. RACK-TLP (RFC 8985) over SACK, the timer of RFC 6298. Bounded by the receiver's window.

use std::collections::VecDeque;
use std::time::Duration;

use super::congestion::Congestion;
use super::counters::Recovery;
use super::receiver::{Ack, Span};
use super::rtt::Rtt;

/// Most bytes of data in a segment. Unit: bytes. 1,500 of Ethernet without IPv4, TCP and timestamps.
pub(super) const SEGMENT_SIZE_MAX: u64 = 1_448;
/// Segments beyond a hole that prove it a loss at once. Unit: segments. Source: RFC 5681 and RFC 6675, DupThresh.
const DUPLICATES: usize = 3;
/// What a receiver may delay the acknowledgement of a single segment. Unit: time. Source: RFC 8985 section 7.2, and Linux's TCP_RTO_MIN.
const DELAYED_ACK: Duration = Duration::from_millis(200);
/// Added to a probe's wait when more than one segment is on its way. Unit: time. Source: Linux, TCP_TIMEOUT_MIN, two ticks.
const PROBE_SLACK: Duration = Duration::from_millis(2);
/// Timeouts in a row after which the connection is given up. Unit: timeouts. Source: Linux, tcp_retries2.
const TIMEOUTS_MAX: u32 = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    OnItsWay,
    /// The receiver has it, beyond a hole.
    Held,
    /// To be sent again.
    Lost,
}

#[derive(Debug)]
struct Segment {
    span: Span,
    sent_at: Duration,
    times: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Losses of before `until` are being repaired; they are one event of congestion.
    Recovery {
        until: u64,
    },
    /// After a timeout.
    Loss {
        until: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timer {
    /// What was overtaken is late enough to be lost.
    Reorder,
    /// The tail is unanswered: ask.
    Probe,
    Retransmission,
}

/// The segment sent last among those that arrived: what was sent before it and is not there was overtaken. RFC 8985 section 5.3.
#[derive(Debug, Default)]
struct Rack {
    sent_at: Duration,
    end: u64,
    round_trip: Duration,
    /// End of the furthest segment that arrived.
    furthest: u64,
    reordering_seen: bool,
}

/// A sender.
#[derive(Debug)]
pub(super) struct Sender {
    segments: VecDeque<Segment>,
    on_their_way: usize,
    lost: usize,
    acknowledged: u64,
    sent: u64,
    written: u64,
    /// The receiver takes no byte from here on.
    edge: u64,
    rtt: Rtt,
    congestion: Congestion,
    rack: Rack,
    phase: Phase,
    timeouts: u32,
    /// Set while a probe is unanswered.
    probing: Option<u64>,
    /// One segment may leave whatever the window says: the first retransmission, a probe.
    exempt: bool,
    /// Base of the probe's timer: when something was last sent or delivered.
    active_at: Duration,
    /// The retransmission timer does not count from before this.
    restarted_at: Duration,
    /// When what was overtaken is late enough to be lost.
    reorder_at: Option<Duration>,
    timer: Option<(Duration, Timer)>,
}

impl Sender {
    /// A sender that knows its round trip from the handshake, if no SYN was sent twice.
    pub(super) fn new(round_trip: Option<Duration>) -> Self {
        let mut rtt = Rtt::default();
        if let Some(round_trip) = round_trip {
            rtt.sample(round_trip);
        }
        Self {
            segments: VecDeque::new(),
            on_their_way: 0,
            lost: 0,
            acknowledged: 0,
            sent: 0,
            written: 0,
            edge: 0,
            rtt,
            congestion: Congestion::new(),
            rack: Rack::default(),
            phase: Phase::Open,
            timeouts: 0,
            probing: None,
            exempt: false,
            active_at: Duration::ZERO,
            restarted_at: Duration::ZERO,
            reorder_at: None,
            timer: None,
        }
    }

    /// More bytes to send.
    pub(super) const fn write(&mut self, bytes: u64) {
        self.written += bytes;
    }

    /// How far the receiver takes bytes.
    pub(super) fn grant(&mut self, edge: u64) {
        self.edge = self.edge.max(edge);
    }

    /// Bytes that are written and not acknowledged.
    pub(super) const fn outstanding(&self) -> u64 {
        self.written - self.acknowledged
    }

    /// Whether nobody answers any more.
    pub(super) const fn is_given_up(&self) -> bool {
        self.timeouts > TIMEOUTS_MAX
    }

    /// When to call [`Self::timeout`].
    pub(super) fn timer(&self) -> Option<Duration> {
        self.timer.map(|(at, _)| at)
    }

    /// The next segment to put on the wire, if one may leave. Call it until it says no.
    pub(super) fn next_segment(&mut self, now: Duration, recovery: &mut Recovery) -> Option<Span> {
        if !self.congestion.allows(self.on_their_way) && !self.exempt {
            return None;
        }
        let probes = std::mem::take(&mut self.exempt) && self.probing.is_some();
        let span = self.resend_lost(now, recovery).or_else(|| self.send_new(now));
        let span = span.or_else(|| if probes { self.resend_last(now) } else { None })?;
        self.active_at = now;
        self.arm();
        Some(span)
    }

    /// Takes an acknowledgement.
    pub(super) fn ack(&mut self, now: Duration, ack: &Ack) {
        let in_flight = self.on_their_way;
        let delivered = self.settle(now, ack);
        if ack.cumulative > self.acknowledged {
            self.acknowledged = ack.cumulative;
            self.timeouts = 0;
            self.leave(ack.cumulative);
            if !matches!(self.phase, Phase::Recovery { .. }) {
                let round_trip = self.rtt.smoothed().unwrap_or_default();
                self.congestion.acknowledged(now, delivered, in_flight, round_trip);
            }
        }
        if delivered > 0 {
            self.active_at = now;
        }
        self.detect(now);
        self.arm();
    }

    /// The timer ran out.
    pub(super) fn timeout(&mut self, now: Duration, recovery: &mut Recovery) {
        match self.timer.take().map(|(_, timer)| timer) {
            Some(Timer::Reorder) => self.detect(now),
            Some(Timer::Probe) => {
                recovery.probes += 1;
                self.probing = Some(self.sent);
                self.exempt = true;
                self.restarted_at = now;
            }
            Some(Timer::Retransmission) => {
                recovery.timeouts += 1;
                self.lose_all(now);
            }
            None => {}
        }
        self.arm();
    }

    fn resend_lost(&mut self, now: Duration, recovery: &mut Recovery) -> Option<Span> {
        if self.lost == 0 {
            return None;
        }
        let segment = self.segments.iter_mut().find(|segment| segment.state == State::Lost)?;
        (segment.state, segment.sent_at, segment.times) = (State::OnItsWay, now, segment.times + 1);
        let span = segment.span;
        self.lost -= 1;
        self.on_their_way += 1;
        recovery.fast_retransmits += u64::from(matches!(self.phase, Phase::Recovery { .. }));
        Some(span)
    }

    fn send_new(&mut self, now: Duration) -> Option<Span> {
        let span = Span { start: self.sent, end: self.written.min(self.edge).min(self.sent + SEGMENT_SIZE_MAX) };
        if span.end <= span.start {
            return None;
        }
        self.segments.push_back(Segment { span, sent_at: now, times: 1, state: State::OnItsWay });
        self.on_their_way += 1;
        self.sent = span.end;
        Some(span)
    }

    /// A probe without new data: RFC 8985 section 7.3, "retransmit the highest-sequence segment sent so far".
    fn resend_last(&mut self, now: Duration) -> Option<Span> {
        let segment = self.segments.back_mut().filter(|segment| segment.state == State::OnItsWay)?;
        (segment.sent_at, segment.times) = (now, segment.times + 1);
        Some(segment.span)
    }

    /// Takes out what is acknowledged and marks what is held; how many segments arrived that were not known to.
    fn settle(&mut self, now: Duration, ack: &Ack) -> usize {
        let furthest = self.rack.furthest;
        let mut delivered = 0;
        let mut newest: Option<Duration> = None;
        for segment in &mut self.segments {
            let acknowledged = segment.span.end <= ack.cumulative;
            if !acknowledged && !ack.blocks.iter().any(|block| block.contains(segment.span)) {
                continue;
            }
            match std::mem::replace(&mut segment.state, State::Held) {
                State::Held => continue,
                State::OnItsWay => self.on_their_way -= 1,
                State::Lost => self.lost -= 1,
            }
            delivered += 1;
            if segment.times == 1 {
                newest = newest.max(Some(segment.sent_at));
                self.rack.reordering_seen |= segment.span.end < furthest;
            }
            self.rack.delivered(now, segment, self.rtt.shortest());
        }
        // RFC 6298 (3): "RTT samples MUST NOT be made using segments that were retransmitted".
        if let Some(sent_at) = newest {
            self.rtt.sample(now.saturating_sub(sent_at));
        }
        while self.segments.front().is_some_and(|segment| segment.span.end <= ack.cumulative) {
            self.segments.pop_front();
        }
        delivered
    }

    fn leave(&mut self, cumulative: u64) {
        match self.phase {
            Phase::Recovery { until } | Phase::Loss { until } if cumulative >= until => self.phase = Phase::Open,
            Phase::Open | Phase::Recovery { .. } | Phase::Loss { .. } => {}
        }
        self.probing = self.probing.filter(|until| cumulative < *until);
    }

    /// RFC 8985 section 6.2: what was overtaken, and is late by more than reordering explains, is lost.
    fn detect(&mut self, now: Duration) {
        let late = self.rack.round_trip + self.reordering_window();
        let mut wait = None;
        let mut found = 0;
        for segment in self.segments.iter_mut().filter(|segment| segment.state == State::OnItsWay) {
            if (segment.sent_at, segment.span.end) >= (self.rack.sent_at, self.rack.end) {
                continue;
            }
            let lost_at = segment.sent_at + late;
            if lost_at <= now {
                segment.state = State::Lost;
                found += 1;
            } else {
                wait = wait.max(Some(lost_at));
            }
        }
        self.on_their_way -= found;
        self.lost += found;
        if found > 0 {
            self.exempt = true;
            if self.phase == Phase::Open {
                self.phase = Phase::Recovery { until: self.sent };
                self.congestion.lost();
            }
        }
        self.reorder_at = wait;
    }

    /// RFC 8985 section 6.2, step 4: no patience once the loss is clear, while nothing was ever seen out of order.
    fn reordering_window(&self) -> Duration {
        let held = self.segments.iter().filter(|segment| segment.state == State::Held);
        if !self.rack.reordering_seen && (self.phase != Phase::Open || held.take(DUPLICATES).count() == DUPLICATES) {
            return Duration::ZERO;
        }
        self.rtt.shortest() / 4
    }

    /// RFC 8985 section 6.3: a timeout takes the first segment for lost, and all that had the time to be answered.
    fn lose_all(&mut self, now: Duration) {
        let round_trip = self.rtt.smoothed().unwrap_or_default();
        let mut first = true;
        for segment in self.segments.iter_mut().filter(|segment| segment.state == State::OnItsWay) {
            if std::mem::take(&mut first) || segment.sent_at + round_trip <= now {
                segment.state = State::Lost;
                self.on_their_way -= 1;
                self.lost += 1;
            }
        }
        // RFC 5681 section 3.1: the threshold is held while the same segment times out again.
        if self.timeouts == 0 {
            self.congestion.timed_out();
        }
        self.timeouts += 1;
        self.phase = Phase::Loss { until: self.sent };
        self.probing = None;
        self.reorder_at = None;
        self.exempt = true;
        self.restarted_at = now;
    }

    fn arm(&mut self) {
        let Some(first) = self.segments.front() else {
            self.timer = None;
            return;
        };
        if let Some(at) = self.reorder_at {
            self.timer = Some((at, Timer::Reorder));
            return;
        }
        let retransmission = first.sent_at.max(self.restarted_at) + self.rtt.timeout(self.timeouts);
        self.timer = Some(match self.probe_at() {
            Some(probe) if probe < retransmission => (probe, Timer::Probe),
            Some(_) | None => (retransmission, Timer::Retransmission),
        });
    }

    /// RFC 8985 section 7.2.
    fn probe_at(&self) -> Option<Duration> {
        let quiet = self.phase == Phase::Open && self.probing.is_none() && self.on_their_way == self.segments.len();
        let slack = if self.on_their_way == 1 { DELAYED_ACK } else { PROBE_SLACK };
        self.rtt.smoothed().filter(|_| quiet).map(|round_trip| self.active_at + 2 * round_trip + slack)
    }
}

impl Rack {
    fn delivered(&mut self, now: Duration, segment: &Segment, shortest: Duration) {
        self.furthest = self.furthest.max(segment.span.end);
        let round_trip = now.saturating_sub(segment.sent_at);
        // An answer that came sooner than any can was to an earlier transmission. RFC 8985 section 6.2, step 2.
        if segment.times > 1 && round_trip < shortest {
            return;
        }
        if (segment.sent_at, segment.span.end) > (self.sent_at, self.end) {
            (self.sent_at, self.end, self.round_trip) = (segment.sent_at, segment.span.end, round_trip);
        }
    }
}
