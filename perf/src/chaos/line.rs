//! One direction of one flow: a bottleneck with a queue that drops at its tail, then the wire. Pure: time comes in, arrival times go out.

use std::time::Duration;

use super::counters::Traffic;
use super::fate::Fate;
use super::plan::{Both, Direction, Event, Impairment};

/// How the network is at the moment, the same for all flows.
#[derive(Debug)]
pub(super) struct Weather {
    lines: Both<Impairment>,
    dark_until: Duration,
}

impl Weather {
    pub(super) const fn new(up: Impairment, down: Impairment) -> Self {
        Self { lines: Both { up, down }, dark_until: Duration::ZERO }
    }

    pub(super) const fn line(&self, direction: Direction) -> &Impairment {
        self.lines.of(direction)
    }

    /// Takes what concerns all packets. An address change concerns sockets only.
    pub(super) fn happen(&mut self, now: Duration, event: Event) {
        match event {
            Event::Blackout(length) => self.dark_until = self.dark_until.max(now + length),
            Event::Change { up, down } => self.lines = Both { up, down },
            Event::AddressChange => {}
        }
    }

    fn is_dark(&self, now: Duration) -> bool {
        now < self.dark_until
    }
}

/// When a packet comes out at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passage {
    pub(super) at: Duration,
    /// How many copies: 1 or 2.
    pub(super) copies: u8,
}

/// The way of one flow in one direction.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// When the bottleneck has passed on all that waits.
    free_at: Duration,
    /// When the last packet that was not reordered arrives: later ones do not overtake it.
    last_at: Duration,
}

impl Pipe {
    /// Puts a packet in; `None`: it never arrives.
    pub(super) fn offer(
        &mut self,
        now: Duration,
        size: usize,
        fate: Fate,
        (weather, direction): (&Weather, Direction),
        traffic: &mut Traffic,
    ) -> Option<Passage> {
        let line = weather.line(direction);
        traffic.offered += 1;
        if weather.is_dark(now) {
            traffic.blacked_out += 1;
            return None;
        }
        let Some(sent_at) = self.squeeze(now, size, line) else {
            traffic.queue_dropped += 1;
            return None;
        };
        if fate.lost {
            traffic.lost += 1;
            return None;
        }
        let on_time = (sent_at + line.delay + line.jitter.mul_f64(fate.jitter)).max(self.last_at);
        let at = if fate.reordered {
            traffic.reordered += 1;
            on_time + line.reorder.extra
        } else {
            self.last_at = on_time;
            on_time
        };
        traffic.arrived += 1;
        traffic.duplicated += u64::from(fate.duplicated);
        traffic.delayed_bytes += size as u64;
        Some(Passage { at, copies: 1 + u8::from(fate.duplicated) })
    }

    /// When the packet has left the bottleneck; `None` when its queue is full.
    #[expect(clippy::cast_precision_loss, reason = "bytes of a queue and of a second are far below 2^53")]
    fn squeeze(&mut self, now: Duration, size: usize, line: &Impairment) -> Option<Duration> {
        let Some(bandwidth) = line.bandwidth else { return Some(now) };
        let waiting = self.free_at.saturating_sub(now).as_secs_f64() * bandwidth as f64;
        if waiting + size as f64 > line.queue_max as f64 {
            return None;
        }
        self.free_at = self.free_at.max(now) + Duration::from_secs_f64(size as f64 / bandwidth as f64);
        Some(self.free_at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fate::{Concern, Dice};
    use super::super::plan::Reorder;
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// Arrival times of `count` packets of 1,000 bytes, one a millisecond.
    fn arrivals(line: Impairment, event: Option<Event>, count: u32) -> (Vec<Option<Duration>>, Traffic) {
        let mut weather = Weather::new(line, line);
        if let Some(event) = event {
            weather.happen(10 * MILLISECOND, event);
        }
        let mut dice = Dice::new(5, 0, Direction::Up, Concern::Datagram);
        let (mut pipe, mut traffic) = (Pipe::default(), Traffic::default());
        let mut offer = |packet| {
            let fate = dice.roll(&line);
            let now = MILLISECOND * packet;
            pipe.offer(now, 1_000, fate, (&weather, Direction::Up), &mut traffic).map(|passage| passage.at)
        };
        let arrivals = (0..count).map(&mut offer).collect();
        (arrivals, traffic)
    }

    fn is_ordered(arrivals: &[Option<Duration>]) -> bool {
        arrivals.iter().flatten().is_sorted()
    }

    #[test]
    fn jitter_delays_and_never_reorders() {
        let line = Impairment { delay: 30 * MILLISECOND, jitter: 20 * MILLISECOND, loss: 0.1, ..Impairment::NONE };
        let (arrivals, traffic) = arrivals(line, None, 1_000);
        assert!(is_ordered(&arrivals));
        for (packet, at) in (0..).zip(&arrivals) {
            assert!(at.is_none_or(|at| at >= MILLISECOND * (packet + 30) && at <= MILLISECOND * (packet + 50)));
        }
        assert_eq!(traffic.offered, 1_000);
        assert_eq!(traffic.lost, arrivals.iter().filter(|at| at.is_none()).count() as u64);
        assert_eq!(traffic.arrived + traffic.lost, traffic.offered);
    }

    #[test]
    fn a_reordered_packet_falls_behind_and_holds_nobody_back() {
        let reorder = Reorder { probability: 0.1, extra: 5 * MILLISECOND };
        let (arrivals, traffic) = arrivals(Impairment { reorder, ..Impairment::NONE }, None, 1_000);
        assert!(!is_ordered(&arrivals));
        let late = (0..).zip(&arrivals).filter(|(packet, at)| **at == Some(MILLISECOND * (packet + 5))).count();
        let on_time = (0..).zip(&arrivals).filter(|(packet, at)| **at == Some(MILLISECOND * *packet)).count();
        assert_eq!((late as u64, late + on_time), (traffic.reordered, 1_000));
    }

    #[test]
    fn a_blackout_takes_everything_while_it_lasts() {
        let (arrivals, traffic) = arrivals(Impairment::NONE, Some(Event::Blackout(40 * MILLISECOND)), 100);
        // It is as if it had begun before the first packet: it lasts until the fiftieth millisecond.
        assert_eq!(traffic.blacked_out, 50);
        assert_eq!(arrivals.iter().position(Option::is_some), Some(50));
    }

    #[test]
    fn a_bottleneck_spaces_packets_and_drops_at_the_tail_of_its_queue() {
        // Half of what is offered: 500 bytes a millisecond, room for ten packets.
        let line = Impairment { bandwidth: Some(500_000), queue_max: 10_000, ..Impairment::NONE };
        let (arrivals, traffic) = arrivals(line, None, 1_000);
        assert!(is_ordered(&arrivals));
        assert!(traffic.queue_dropped > 450 && traffic.queue_dropped < 500, "{traffic:?}");
        let passed: Vec<_> = arrivals.iter().flatten().collect();
        assert!(passed.windows(2).all(|pair| matches!(pair, [a, b] if **b - **a >= 2 * MILLISECOND)));
        for (packet, at) in (0..).zip(&arrivals) {
            assert!(at.is_none_or(|at| at <= MILLISECOND * (packet + 20)), "waited longer than the queue is long");
        }
    }
}
