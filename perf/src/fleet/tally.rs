//! What a fleet has counted and measured, and how the parts of several workers become one. Never counts anything itself.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::buckets::Buckets;

macro_rules! counts {
    ($(#[$doc:meta])* $name:ident { sum: $($(#[$sum_doc:meta])* $sum:ident,)+ ; max: $($(#[$max_doc:meta])* $max:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$sum_doc])* pub $sum: u64,)+
            $($(#[$max_doc])* pub $max: u64,)+
            /// Connections that the server closed, by the text of its code.
            pub closed_by_server: BTreeMap<String, u64>,
            /// Requests that were refused, by the text of the code.
            pub rejected: BTreeMap<String, u64>,
        }

        impl $name {
            /// Adds what another worker has counted.
            pub fn merge(&mut self, other: &Self) {
                $(self.$sum += other.$sum;)+
                $(self.$max = self.$max.max(other.$max);)+
                add_all(&mut self.closed_by_server, &other.closed_by_server);
                add_all(&mut self.rejected, &other.rejected);
            }

            /// What was counted since `before`; what holds "at present", and the largest values, stay as they are.
            #[must_use]
            pub fn since(&self, before: &Self) -> Self {
                Self {
                    $($sum: self.$sum.saturating_sub(before.$sum),)+
                    $($max: self.$max,)+
                    closed_by_server: subtract(&self.closed_by_server, &before.closed_by_server),
                    rejected: subtract(&self.rejected, &before.rejected),
                }
                .with_present_of(self)
            }

            /// Every number by its name, for reports.
            #[must_use]
            pub fn by_name(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($sum), self.$sum),)+ $((stringify!($max), self.$max),)+]
            }
        }
    };
}

counts! {
    /// Everything that is counted. All are sums over the run, but for those marked "at present".
    Counts {
        sum:
        /// Welcomed peers, at present.
        connected,
        /// Peers between the dial and the welcome, or waiting to dial again, at present.
        connecting,
        /// Connections that ended without a word of the server.
        lost_connections,
        /// TLS handshakes that were completed, on either carrier.
        handshakes_done,
        /// Connections whose hello travelled as early data that the server took.
        early_data_accepted,
        /// Dials that a peer made by itself after its connection was lost or refused.
        redials,
        /// Messages that the workload asked for.
        sends_intended,
        /// Send frames that were written, resends included.
        sends_made,
        /// Send frames that were written again under the same request id.
        resends,
        /// Messages that the server acknowledged, or whose event came back.
        acked,
        /// Messages that were given up: refused, or no room in the outbox.
        sends_failed,
        /// Events that came on a lane and were applied in order.
        delivered,
        /// Of those: events that are older than the connection, which the hello's positions asked for.
        caught_up,
        /// Events that came on a page and were applied in order.
        repaired,
        /// Events applied, and acknowledged ones that were not. As of the last tally or settling.
        expected,
        /// Acknowledged events that a connected member does not have. As of the last tally or settling.
        lost,
        /// Events that a lane brought twice.
        duplicated,
        /// Events that a lane brought behind a later one.
        reordered,
        /// Bodies that are not what was sent.
        corrupt,
        /// Times that a lane skipped events.
        gaps,
        /// Positions that the server could not continue.
        resets,
        /// Other requests that were answered.
        requests_acked,
        /// Presence notices.
        presence_seen,
        /// Typing notices.
        typing_seen,
        /// Receipts.
        receipts_seen,
        /// Pages of history.
        pages,
        /// Pings that were answered.
        pongs,
        /// Bytes of message bodies in applied events.
        payload_in,
        /// Bytes of message bodies in written sends, resends included.
        payload_out,
        /// Bytes received: UDP payload, or TCP payload.
        bytes_in,
        /// Bytes sent: UDP payload, or TCP payload.
        bytes_out,
        /// UDP datagrams received.
        datagrams_in,
        /// UDP datagrams sent.
        datagrams_out,
        /// Times that a socket had no room for a datagram.
        sends_blocked,
        /// Changes of address after which the server's packets came to the new one.
        migrations,
        /// Sends and requests of connected or connecting peers that wait for an answer, at present.
        outstanding,
        /// Arrivals that were started.
        arrivals,
        /// Workloads that have not ended, at present.
        workloads,
        /// Frames that do not decode.
        malformed,
        /// Message times that were not kept because there were too many.
        messages_left_out,
        /// Time that workers slept. Unit: nanoseconds.
        idle_ns,
        /// Time that workers have run, sleep included. Unit: nanoseconds.
        run_ns,
        ;
        max:
        /// The latest start of an arrival. Unit: microseconds.
        late_us_max,
    }
}

impl Counts {
    fn with_present_of(self, other: &Self) -> Self {
        let Self { connected, connecting, outstanding, workloads, .. } = *other;
        Self { connected, connecting, outstanding, workloads, ..self }
    }
}

fn subtract(from: &BTreeMap<String, u64>, other: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let rest =
        from.iter().map(|(name, count)| (name.clone(), count - other.get(name).copied().unwrap_or(0).min(*count)));
    rest.filter(|(_, count)| *count > 0).collect()
}

fn add_all(to: &mut BTreeMap<String, u64>, from: &BTreeMap<String, u64>) {
    for (name, count) in from {
        *to.entry(name.clone()).or_default() += count;
    }
}

impl Counts {
    /// The part of the workers' time in which they did not sleep, 0 to 1. Near 1: the generator is the bottleneck.
    #[must_use]
    pub fn busy(&self) -> f64 {
        if self.run_ns == 0 { 0.0 } else { 1.0 - to_f64(self.idle_ns) / to_f64(self.run_ns) }
    }
}

/// Exact up to 2^53, which is 104 days of nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "a share of time needs no 53rd bit")]
const fn to_f64(number: u64) -> f64 {
    number as f64
}

/// First and last receipt of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageTimes {
    /// Which message of the run.
    pub number: u64,
    /// When it was meant to leave. Unit: nanoseconds since the fleet's start.
    pub intended_ns: u64,
    /// Until the first receipt. Unit: nanoseconds since `intended_ns`.
    pub first_ns: u64,
    /// Until the last receipt. Unit: nanoseconds since `intended_ns`.
    pub last_ns: u64,
    /// Receivers other than the sender that have it.
    pub receipts: u64,
}

/// What happened in one second of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Second {
    /// Since the fleet's start. Unit: seconds.
    pub second: u64,
    /// Events delivered or repaired.
    pub delivered: u64,
    /// Messages acknowledged.
    pub acked: u64,
    /// Median of send_to_delivery of what was delivered in it. Unit: nanoseconds, to 1.6 %.
    pub p50_ns: u64,
    /// 99th percentile of the same.
    pub p99_ns: u64,
}

/// Everything that a fleet knows.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Numbers.
    pub counts: Counts,
    /// By name: connect, resume, auto_resume, send_to_ack, send_to_delivery, presence, history, request, ping, lateness.
    /// Unit: nanoseconds, three digits, up to ten minutes.
    pub latency: BTreeMap<&'static str, Histogram<u64>>,
    /// By number, where the plan says `per_message`.
    pub messages: Vec<MessageTimes>,
    /// By second.
    pub series: Vec<Second>,
}

/// What [`super::Fleet::settle`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Whether nothing was outstanding and everybody was level in time.
    pub level: bool,
    /// How long it took.
    pub waited: Duration,
    /// Acknowledged events that connected members lack.
    pub lost: u64,
    /// Sends and requests without an answer.
    pub outstanding: u64,
}

/// One second, as a worker counts it.
#[derive(Debug, Clone, Default)]
pub(super) struct SecondPart {
    pub(super) second: u64,
    pub(super) delivered: u64,
    pub(super) acked: u64,
    /// Counts of latencies by bucket, only those that are not zero.
    pub(super) latencies: Vec<(u16, u32)>,
}

/// One worker's part of a [`Tally`].
#[derive(Debug)]
pub(super) struct Part {
    pub(super) counts: Counts,
    pub(super) latency: Vec<(&'static str, Histogram<u64>)>,
    pub(super) messages: Vec<MessageTimes>,
    pub(super) series: Vec<SecondPart>,
}

/// Puts the parts of all workers together.
pub(super) fn merge(parts: Vec<Part>) -> Tally {
    let mut tally =
        Tally { counts: Counts::default(), latency: BTreeMap::new(), messages: Vec::new(), series: Vec::new() };
    let mut messages: BTreeMap<u64, MessageTimes> = BTreeMap::new();
    let mut series: BTreeMap<u64, (SecondPart, Buckets)> = BTreeMap::new();
    for part in parts {
        tally.counts.merge(&part.counts);
        for (name, histogram) in part.latency {
            match tally.latency.entry(name) {
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(histogram);
                }
                std::collections::btree_map::Entry::Occupied(mut place) => {
                    // The same bounds everywhere: nothing can be out of range.
                    let _ = place.get_mut().add(&histogram);
                }
            }
        }
        for times in part.messages {
            let known = messages.entry(times.number).or_insert(MessageTimes { receipts: 0, ..times });
            known.first_ns = known.first_ns.min(times.first_ns);
            known.last_ns = known.last_ns.max(times.last_ns);
            known.receipts += times.receipts;
        }
        for second in part.series {
            let (sum, buckets) = series.entry(second.second).or_default();
            sum.delivered += second.delivered;
            sum.acked += second.acked;
            buckets.add(&second.latencies);
        }
    }
    tally.messages = messages.into_values().collect();
    tally.series = series
        .into_iter()
        .map(|(second, (sum, buckets))| Second {
            second,
            delivered: sum.delivered,
            acked: sum.acked,
            p50_ns: buckets.quantile(0.50),
            p99_ns: buckets.quantile(0.99),
        })
        .collect();
    tally
}
