//! One TCP connection over a bad network, without sockets: two senders, two receivers and the two pipes between them, in virtual time.
//! Knows how many bytes there are, never which. Everything happens in the order of its time; equal inputs give equal outputs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::counters::{Counters, Traffic};
use super::fate::{Concern, Dice};
use super::line::{Pipe, Weather};
use super::plan::{Both, Direction};
use super::receiver::{Ack, Receiver, Span};
use super::rtt::RTO_INITIAL;
use super::sender::Sender;

/// Headers of a segment: IPv4, TCP, timestamps. Unit: bytes.
const HEADER_SIZE: u64 = 52;
/// What a receiver holds that nobody has taken. Unit: bytes. Linux grows to 6 MiB (`tcp_rmem`); a chat does not.
const WINDOW_SIZE: u64 = 1024 * 1024;
/// What a sender holds that nobody has acknowledged. Unit: bytes. Not less than the window, so that it alone limits.
const SEND_BUFFER_SIZE: u64 = WINDOW_SIZE;
/// SYNs that are sent before the connection fails. Unit: segments. Source: Linux, tcp_syn_retries.
const SYNS_MAX: u32 = 7;

#[derive(Debug)]
enum Arrival {
    /// Data of this direction.
    Segment(Direction, Span),
    /// The answer to data of this direction; it went the other way.
    Ack(Direction, Ack),
}

/// One direction's two ends.
#[derive(Debug)]
struct Half {
    sender: Sender,
    receiver: Receiver,
    segments: Dice,
    acks: Dice,
    /// Where the FIN stands: it takes one place of the stream, as in TCP.
    fin: Option<u64>,
    written: u64,
    taken: u64,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Stream {
    halves: Both<Half>,
    pipes: Both<Pipe>,
    /// By time, then in the order in which they were sent.
    arrivals: BTreeMap<(Duration, u64), Arrival>,
    departures: u64,
    opens_at: Duration,
    is_open: bool,
    has_failed: bool,
}

impl Stream {
    /// Connects: one round trip, more when a SYN is lost.
    pub(super) fn open(seed: u64, flow: u64, now: Duration, weather: &Weather, counters: &mut Counters) -> Self {
        let dice = |direction, concern| Dice::new(seed, flow, direction, concern);
        let mut pipes = Both::default();
        let mut acks = Both {
            up: dice(Direction::Up, Concern::Acknowledgement),
            down: dice(Direction::Down, Concern::Acknowledgement),
        };
        let opened = shake_hands(now, weather, &mut pipes, &mut acks, counters);
        let round_trip = opened.filter(|(_, syns)| *syns == 1).map(|(at, _)| at.saturating_sub(now));
        let half = |direction: Direction, acks| Half {
            sender: Sender::new(round_trip),
            receiver: Receiver::default(),
            segments: dice(direction, Concern::Segment),
            acks,
            fin: None,
            written: 0,
            taken: 0,
        };
        // The dice of acknowledgements are those of the direction in which they travel.
        let halves = Both { up: half(Direction::Up, acks.down), down: half(Direction::Down, acks.up) };
        Self {
            halves,
            pipes,
            arrivals: BTreeMap::new(),
            departures: 0,
            opens_at: opened.map_or(now, |(at, _)| at),
            is_open: false,
            has_failed: opened.is_none(),
        }
    }

    /// More bytes to carry. Call [`Self::advance`] before, so that nothing is sent before it was written, and after.
    pub(super) const fn write(&mut self, direction: Direction, bytes: u64) {
        let half = self.halves.of_mut(direction);
        half.written += bytes;
        half.sender.write(bytes);
    }

    /// No more bytes in this direction.
    pub(super) fn finish(&mut self, direction: Direction) {
        let half = self.halves.of_mut(direction);
        if half.fin.is_none() {
            half.fin = Some(half.written);
            half.sender.write(1);
        }
    }

    /// Bytes that may be written.
    pub(super) const fn room(&self, direction: Direction) -> u64 {
        SEND_BUFFER_SIZE.saturating_sub(self.halves.of(direction).sender.outstanding())
    }

    /// Bytes at the other end, in order, that were not taken.
    pub(super) fn ready(&self, direction: Direction) -> u64 {
        let half = self.halves.of(direction);
        half.receiver.next().min(half.written) - half.taken
    }

    /// Bytes were taken at the other end: there is room for as many more.
    pub(super) const fn take(&mut self, direction: Direction, bytes: u64) {
        self.halves.of_mut(direction).taken += bytes;
    }

    /// Whether the other end has everything and knows that it has.
    pub(super) fn has_ended(&self, direction: Direction) -> bool {
        let half = self.halves.of(direction);
        half.fin.is_some_and(|fin| half.receiver.next() > fin && half.taken == fin)
    }

    /// Whether it never opened, or nobody answers.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed || Direction::BOTH.iter().any(|direction| self.halves.of(*direction).sender.is_given_up())
    }

    /// When something happens next.
    pub(super) fn next_at(&self) -> Option<Duration> {
        if !self.is_open {
            return Some(self.opens_at);
        }
        let arrival = self.arrivals.first_key_value().map(|((at, _), _)| *at);
        let timers = [&self.halves.up, &self.halves.down].map(|half| half.sender.timer());
        [arrival].into_iter().chain(timers).flatten().min()
    }

    /// Lets everything happen up to now, each at its own time.
    pub(super) fn advance(&mut self, now: Duration, weather: &Weather, counters: &mut Counters) {
        while let Some(at) = self.next_at().filter(|at| *at <= now) {
            self.step(at, weather, counters);
        }
        self.transmit(now, weather, counters);
    }

    /// What the dice rolled, both directions.
    pub(super) fn digest(&self) -> u64 {
        let all = [&self.halves.up, &self.halves.down];
        all.iter().fold(0, |sum: u64, half| {
            sum.wrapping_add(half.segments.digest()).wrapping_add(half.acks.digest().rotate_left(1))
        })
    }

    fn step(&mut self, at: Duration, weather: &Weather, counters: &mut Counters) {
        if !self.is_open {
            self.is_open = true;
        } else if self.arrivals.first_key_value().is_some_and(|((arrives, _), _)| *arrives <= at) {
            match self.arrivals.pop_first() {
                Some((_, Arrival::Segment(direction, span))) => {
                    let ack = self.halves.of_mut(direction).receiver.segment(span);
                    self.answer(at, direction, ack, weather, counters);
                }
                Some((_, Arrival::Ack(direction, ack))) => self.halves.of_mut(direction).sender.ack(at, &ack),
                None => {}
            }
        } else {
            for direction in Direction::BOTH {
                let sender = &mut self.halves.of_mut(direction).sender;
                if sender.timer().is_some_and(|timer| timer <= at) {
                    sender.timeout(at, &mut counters.recovery);
                }
            }
        }
        self.transmit(at, weather, counters);
    }

    fn transmit(&mut self, now: Duration, weather: &Weather, counters: &mut Counters) {
        if !self.is_open {
            return;
        }
        for direction in Direction::BOTH {
            let half = self.halves.of_mut(direction);
            half.sender.grant(half.taken + WINDOW_SIZE);
            while let Some(span) = half.sender.next_segment(now, &mut counters.recovery) {
                let fate = half.segments.roll(weather.line(direction));
                let size = usize::try_from(span.end - span.start + HEADER_SIZE).unwrap_or(usize::MAX);
                let traffic = traffic(counters, direction);
                let passage = self.pipes.of_mut(direction).offer(now, size, fate, (weather, direction), traffic);
                let Some(passage) = passage else { continue };
                for _ in 0..passage.copies {
                    self.departures += 1;
                    self.arrivals.insert((passage.at, self.departures), Arrival::Segment(direction, span));
                }
            }
        }
    }

    /// Sends the acknowledgement of data of `direction`, the other way. A second copy would say nothing new.
    fn answer(&mut self, now: Duration, direction: Direction, ack: Ack, weather: &Weather, counters: &mut Counters) {
        let way = direction.reverse();
        let fate = self.halves.of_mut(direction).acks.roll(weather.line(way));
        let size = usize::try_from(HEADER_SIZE).unwrap_or(usize::MAX);
        let passage = self.pipes.of_mut(way).offer(now, size, fate, (weather, way), traffic(counters, way));
        if let Some(passage) = passage {
            self.departures += 1;
            self.arrivals.insert((passage.at, self.departures), Arrival::Ack(direction, ack));
        }
    }
}

const fn traffic(counters: &mut Counters, direction: Direction) -> &mut Traffic {
    match direction {
        Direction::Up => &mut counters.tcp_up,
        Direction::Down => &mut counters.tcp_down,
    }
}

/// When the client may send, and how many SYNs it took; `None`: it gave up. A lost SYN-ACK costs a SYN as well.
fn shake_hands(
    now: Duration,
    weather: &Weather,
    pipes: &mut Both<Pipe>,
    dice: &mut Both<Dice>,
    counters: &mut Counters,
) -> Option<(Duration, u32)> {
    let size = usize::try_from(HEADER_SIZE).unwrap_or(usize::MAX);
    let mut sent_at = now;
    for syns in 1..=SYNS_MAX {
        let mut at = Some(sent_at);
        for way in Direction::BOTH {
            let fate = dice.of_mut(way).roll(weather.line(way));
            let pass = |at| pipes.of_mut(way).offer(at, size, fate, (weather, way), traffic(counters, way));
            at = at.and_then(pass).map(|passage| passage.at);
        }
        if let Some(at) = at {
            return Some((at, syns));
        }
        counters.recovery.syn_retransmits += 1;
        sent_at += RTO_INITIAL * (1 << (syns - 1));
    }
    None
}

#[cfg(test)]
mod tests;
