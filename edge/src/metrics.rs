//! Metrics, encoded when they are scraped: from plain counters that others keep. Names are a promise; labels come from fixed sets.
//! Measures nothing itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tern_persistence::{Counters as StoreCounters, Health as StoreHealth, State};
use tern_protocol::CloseCode;
use tracing_appender::non_blocking::ErrorCounter;

use crate::auth::Hasher;
use crate::certificate::Certificates;
use crate::clock::ClockStatus;
use crate::http::{HttpCounters, Route, STATUS_CLASSES};
use crate::node::ShardCounters;

/// What `/metrics` answers with.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Every name begins with this.
const PREFIX: &str = "tern";

/// Everything that can be seen of a running node at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Whether shards have applied everything that was durable before.
    pub caught_up: bool,
    /// Each shard's numbers.
    pub shards: Vec<ShardCounters>,
    /// What is set aside because it cannot be read, by name.
    pub aside: Vec<String>,
    /// The embedded store; `None` when it is closed.
    pub store: Option<(StoreHealth, StoreCounters)>,
}

/// Looks at the node.
pub type Look = Box<dyn Fn() -> Snapshot + Send + Sync>;

/// Where the numbers come from, besides the node.
pub struct Sources {
    /// The public listener.
    pub http: Arc<HttpCounters>,
    /// Password hashes.
    pub hasher: Arc<Hasher>,
    /// The certificate.
    pub certificates: Arc<Certificates>,
    /// The clock.
    pub clock: Arc<ClockStatus>,
    /// Log lines dropped.
    pub log: Option<ErrorCounter>,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

use Kind::{Counter, Gauge};

/// Name, meaning, kind, and where it is in `T`.
type Row<T> = (&'static str, &'static str, Kind, fn(&T) -> u64);

const SHARD: &[Row<ShardCounters>] = &[
    ("sessions", "Live sessions", Gauge, |shard| shard.sessions),
    ("quic_connections", "QUIC connections in any state", Gauge, |shard| shard.quic_connections),
    ("websocket_connections", "WebSocket connections", Gauge, |shard| shard.websocket_connections),
    ("quic_visits_waiting", "QUIC connections to be sent to in a later turn", Gauge, |shard| shard.quic_visits_waiting),
    ("websocket_visits_waiting", "WebSockets to be sent to in a later turn", Gauge, |shard| {
        shard.websocket_visits_waiting
    }),
    ("frames_received", "Frames that clients sent", Counter, |shard| shard.frames_in),
    ("frame_received_bytes", "Bytes of frames that clients sent", Counter, |shard| shard.frame_bytes_in),
    ("frames_sent", "Frames handed to a transport", Counter, |shard| shard.frames_out),
    ("frame_sent_bytes", "Bytes of frames handed to a transport", Counter, |shard| shard.frame_bytes_out),
    ("datagrams_received", "UDP datagrams received", Counter, |shard| shard.datagrams_in),
    ("datagrams_sent", "UDP datagrams sent", Counter, |shard| shard.datagrams_out),
    ("datagram_received_bytes", "UDP payload received", Counter, |shard| shard.datagram_bytes_in),
    ("datagram_sent_bytes", "UDP payload sent", Counter, |shard| shard.datagram_bytes_out),
    ("datagrams_blocked", "Times the kernel did not take a datagram at once", Counter, |shard| shard.datagrams_blocked),
    ("datagrams_failed", "Datagrams that could not be sent; QUIC repairs it", Counter, |shard| shard.datagrams_failed),
    ("strays_sent", "Datagrams passed on to the shard they were for", Counter, |shard| shard.strays_out),
    ("strays_received", "Datagrams that another shard passed on", Counter, |shard| shard.strays_in),
    ("strays_dropped", "Stray datagrams dropped: the ring was full", Counter, |shard| shard.strays_dropped),
    ("handshakes_begun", "QUIC handshakes begun", Counter, |shard| shard.handshakes),
    ("handshakes_finished", "QUIC handshakes finished", Counter, |shard| shard.handshakes_done),
    ("handshakes_timed_out", "QUIC handshakes that took too long", Counter, |shard| shard.handshakes_timed_out),
    ("handshakes_retried", "QUIC handshakes answered with Retry", Counter, |shard| shard.handshakes_retried),
    ("handshakes_refused", "QUIC handshakes refused: draining or full", Counter, |shard| shard.handshakes_refused),
    ("handshakes_ignored", "QUIC handshakes ignored: too many of one network", Counter, |shard| {
        shard.handshakes_ignored
    }),
    ("handshakes_open", "QUIC handshakes in flight", Gauge, |shard| shard.handshakes_open),
    ("datagram_fallbacks", "Frames that a datagram could not carry", Counter, |shard| shard.datagram_fallbacks),
    ("tail_probes", "Empty packets sent behind a message that may be lost", Counter, |shard| shard.tail_probes),
    ("peers_given_up", "QUIC peers that acknowledged or said nothing for too long", Counter, |shard| {
        shard.peers_given_up
    }),
    ("ring_overflows", "Messages to other shards that waited for room", Counter, |shard| shard.ring_overflows),
    ("ring_waiting", "Messages to other shards that wait for room", Gauge, |shard| shard.ring_waiting),
    ("appends_refused", "Commands that the log did not take", Counter, |shard| shard.appends_refused),
    ("queries_refused", "Questions that the view did not take", Counter, |shard| shard.queries_refused),
    ("control_requests", "Requests of the control plane", Counter, |shard| shard.requests),
    ("control_requests_refused", "Requests of the control plane refused: too many", Counter, |shard| {
        shard.requests_refused
    }),
    ("sessions_paused", "Sessions not read from, for back-pressure", Gauge, |shard| shard.paused),
    ("turns", "Turns of the shard's loop", Counter, |shard| shard.turns),
    ("sleeps", "Times the shard's loop slept", Counter, |shard| shard.sleeps),
    ("busy_microseconds", "Time that the shard was not asleep", Counter, |shard| shard.busy_us),
    ("commands_applied", "Commands applied", Counter, |shard| shard.core_commands),
    ("events", "Events that commands made", Counter, |shard| shard.core_events),
    ("deliveries", "Events put into sessions' outboxes", Counter, |shard| shard.core_deliveries),
    ("requests_rejected", "Requests refused", Counter, |shard| shard.core_rejects),
    ("requests_rate_limited", "Requests refused for their rate", Counter, |shard| shard.core_rate_limited),
    ("requests_busy", "Requests refused because a queue was full", Counter, |shard| shard.core_busy),
    ("resumes", "Resumes answered from memory", Counter, |shard| shard.core_resumes),
    ("resets", "Resumes answered with a reset", Counter, |shard| shard.core_resets),
    ("sessions_lagging", "Sessions for which live delivery was stopped", Counter, |shard| shard.core_lagging),
    ("events_skipped", "Events not put into the outbox of a lagging session", Counter, |shard| shard.core_skipped),
    ("ephemeral_dropped", "Typing and presence frames dropped for slow readers", Counter, |shard| {
        shard.core_ephemeral_dropped
    }),
    ("frames_malformed", "Frames that were not valid", Counter, |shard| shard.core_malformed),
    ("entity_loads", "Entities loaded from the view", Counter, |shard| shard.core_loads),
    ("entity_load_failures", "Loads that failed and were tried again", Counter, |shard| shard.core_load_failures),
    ("entities_set_aside", "Entities set aside because they could not be read", Counter, |shard| shard.core_set_aside),
    ("entities_aside", "Entities that are set aside", Gauge, |shard| shard.core_aside),
    ("commands_kept", "Commands kept for entities that were set aside", Counter, |shard| shard.core_kept),
    ("commands_kept_full", "Commands that waited: an entity had its fill of kept ones", Counter, |shard| {
        shard.core_kept_full
    }),
    ("entity_evictions", "Entities dropped from memory", Counter, |shard| shard.core_evictions),
    ("emission_retries", "Appends of emitted commands that were tried again", Counter, |shard| {
        shard.core_emission_retries
    }),
    ("cache_bytes", "Bytes of entities in memory", Gauge, |shard| shard.core_cache_size),
    ("commands_waiting", "Commands logged but not applied", Gauge, |shard| shard.core_waiting),
];

const STORE: &[Row<StoreCounters>] = &[
    ("journal_commits", "Batches written and synced", Counter, |store| store.commits),
    ("journal_records", "Commands in those batches", Counter, |store| store.records),
    ("journal_bytes", "Bytes written for them, padding included", Counter, |store| store.bytes),
    ("journal_commit_microseconds", "Time in write and sync, sum", Counter, |store| store.commit_us_sum),
    ("journal_commit_microseconds_max", "Time in write and sync, longest", Gauge, |store| store.commit_us_max),
    ("journal_refused_busy", "Commands refused: a queue was full", Counter, |store| store.refused_busy),
    ("journal_refused_unavailable", "Commands refused: nothing is accepted", Counter, |store| {
        store.refused_unavailable
    }),
    ("journal_unknown", "Commands whose write was not confirmed", Counter, |store| store.unknown),
    ("journal_append_queue_bytes", "Commands waiting for the journal", Gauge, |store| store.append_queue_size),
    ("journal_logged_queue_bytes", "Durable commands waiting for their shard", Gauge, |store| store.logged_queue_size),
    ("journal_shard_waits", "Times a shard began to take no durable commands", Counter, |store| store.shard_waits),
    ("journal_segments_used", "Segments with commands that the view may lack", Gauge, |store| store.segments_used),
    ("journal_segments", "Segments", Gauge, |store| store.segments),
    ("view_queue_bytes", "Rows that are not in the view yet", Gauge, |store| store.store_queue_size),
    ("view_lag_commands", "Durable commands whose rows are not in the view yet", Gauge, |store| store.view_lag),
    ("view_commits", "Commits of the view", Counter, |store| store.view_commits),
    ("view_rows", "Rows in those commits", Counter, |store| store.view_rows),
    ("view_bytes", "Keys and values in those commits", Counter, |store| store.view_bytes),
    ("view_commit_microseconds_max", "Time in commits of the view, longest", Gauge, |store| store.view_commit_us_max),
    ("view_checkpoints", "Times the view was synced", Counter, |store| store.checkpoints),
    ("view_heals", "Times the view was opened again after a full disk", Counter, |store| store.view_heals),
    ("view_queries", "Questions answered", Counter, |store| store.queries),
    ("view_queries_refused", "Questions refused: too many wait", Counter, |store| store.queries_refused),
    ("view_query_failures", "Questions that reading failed for", Counter, |store| store.query_failures),
    ("view_queries_damaged", "Questions for what is damaged", Counter, |store| store.queries_damaged),
];

const HTTP: &[Row<HttpCounters>] = &[
    ("http_requests_in_flight", "HTTP requests that are not answered yet", Gauge, HttpCounters::in_flight),
    ("http_connections_accepted", "TCP connections accepted", Counter, |http| load(&http.accepted)),
    ("http_connections", "TCP connections that are not chat sessions", Gauge, |http| load(&http.open)),
    ("http_accept_failures", "Accepting failed: no descriptors or memory", Counter, |http| load(&http.accept_failures)),
    ("http_handshake_failures", "TLS handshakes that failed or took too long", Counter, |http| {
        load(&http.handshake_failures)
    }),
    ("http_timeouts", "Connections closed for being slow or idle", Counter, |http| load(&http.timeouts)),
    ("http_upgrades", "WebSockets handed to a shard", Counter, |http| load(&http.upgrades)),
    ("http_upgrade_failures", "WebSockets that no shard took", Counter, |http| load(&http.upgrade_failures)),
];

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// All metrics as OpenMetrics text.
#[must_use]
pub fn encode(sources: &Arc<Sources>, snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Scrape { sources: Arc::clone(sources), snapshot }));
    let mut out = String::new();
    // Writing to a `String` does not fail.
    let _ = text::encode(&mut out, &registry);
    out
}

struct Scrape {
    sources: Arc<Sources>,
    snapshot: Snapshot,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut encoder;
        let Self { sources, snapshot } = self;
        rows(out, HTTP, &*sources.http)?;
        self.requests(out)?;
        self.shards(out)?;
        if let Some((health, counters)) = &snapshot.store {
            rows(out, STORE, counters)?;
            let of = |state: &State| u64::from(matches!(state, State::Ok));
            single(out, "journal_healthy", "1: the journal works", Gauge, of(&health.journal))?;
            single(out, "view_healthy", "1: the view works", Gauge, of(&health.view))?;
        }
        let hasher = &sources.hasher;
        single(out, "password_hashes_waiting", "Password hashes that wait", Gauge, hasher.waiting() as u64)?;
        single(out, "password_hashes_refused", "Password hashes refused: too many wait", Counter, hasher.refused())?;
        let expires = sources.certificates.info().not_after.raw() / 1_000_000;
        single(out, "certificate_expires_seconds", "End of the certificate, since 1970", Gauge, expires)?;
        let clock = &sources.clock;
        single(out, "clock_jumps", "Times the system's clock was set", Counter, load(&clock.jumps))?;
        let help = "How far the system's clock is ahead of the server's time; negative: behind";
        let ahead = out.encode_descriptor("clock_ahead_microseconds", help, None, MetricType::Gauge)?;
        ConstGauge::new(clock.ahead_us.load(Ordering::Relaxed)).encode(ahead)?;
        let dropped = sources.log.as_ref().map_or(0, ErrorCounter::dropped_lines);
        single(out, "log_lines_dropped", "Log lines dropped: the writer was too slow", Counter, dropped as u64)?;
        single(out, "caught_up", "1: everything durable has been applied", Gauge, u64::from(snapshot.caught_up))?;
        process(out)
    }
}

impl Scrape {
    fn requests(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = out.encode_descriptor("http_requests", "HTTP requests answered", None, MetricType::Counter)?;
        for route in Route::ALL {
            for (class, status) in STATUS_CLASSES.iter().enumerate() {
                let count = self.sources.http.requests(*route, class);
                if count > 0 {
                    let labels = [("route", route.label()), ("status", *status)];
                    ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }

    fn shards(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, kind, of) in SHARD {
            let mut family = out.encode_descriptor(name, help, None, kind.metric())?;
            for (index, shard) in self.snapshot.shards.iter().enumerate() {
                kind.encode(of(shard), family.encode_family(&[("shard", index.to_string())])?)?;
            }
        }
        let help = "Sessions that the server closed, by reason";
        let mut family = out.encode_descriptor("sessions_closed", help, None, MetricType::Counter)?;
        for (index, shard) in self.snapshot.shards.iter().enumerate() {
            for code in CloseCode::ALL {
                let count = shard.closes.get(usize::from(code.raw())).copied().unwrap_or(0);
                if count > 0 {
                    let labels = [("shard", index.to_string()), ("code", format!("{code:?}"))];
                    ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

impl Kind {
    const fn metric(self) -> MetricType {
        match self {
            Counter => MetricType::Counter,
            Gauge => MetricType::Gauge,
        }
    }

    fn encode(self, value: u64, encoder: prometheus_client::encoding::MetricEncoder<'_>) -> fmt::Result {
        match self {
            Counter => ConstCounter::new(value).encode(encoder),
            Gauge => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder),
        }
    }
}

fn rows<T>(out: &mut DescriptorEncoder<'_>, rows: &[Row<T>], from: &T) -> fmt::Result {
    rows.iter().try_for_each(|(name, help, kind, of)| single(out, name, help, *kind, of(from)))
}

fn single(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, kind: Kind, value: u64) -> fmt::Result {
    kind.encode(value, out.encode_descriptor(name, help, None, kind.metric())?)
}

/// What the kernel says of this process.
fn process(out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let rss = field("VmRSS:").unwrap_or(0).saturating_mul(1024);
    single(out, "process_resident_bytes", "Memory in use", Gauge, rss)?;
    single(out, "process_threads", "Threads", Gauge, field("Threads:").unwrap_or(0))?;
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    single(out, "process_open_files", "Open file descriptors", Gauge, open as u64)
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tern_protocol::Timestamp;

    use super::*;
    use crate::config::Config;

    /// Sources that count nothing yet.
    pub(crate) fn sources() -> Arc<Sources> {
        let mut config = Config::default().process;
        config.auth.hash_memory = 64 * 1024;
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::from_raw(1_800_000_000_000_000);
        Arc::new(Sources {
            http: Arc::default(),
            hasher: Arc::new(Hasher::new(&config.auth)),
            certificates: Arc::new(Certificates::open(&config.tls, dir.path(), now).unwrap()),
            clock: Arc::default(),
            log: None,
        })
    }

    pub(crate) fn snapshot(journal: State) -> Snapshot {
        let health = StoreHealth { journal, view: State::Ok };
        let mut shard = ShardCounters { sessions: 7, ..ShardCounters::default() };
        shard.closes[usize::from(CloseCode::SlowReader.raw())] = 3;
        let shards = vec![shard, ShardCounters::default()];
        Snapshot { caught_up: true, shards, aside: Vec::new(), store: Some((health, StoreCounters::default())) }
    }

    #[test]
    fn a_scrape_has_every_metric_once_with_help_and_fixed_labels() {
        let sources = sources();
        sources.http.answered(Route::Login, 401);
        let text = encode(&sources, snapshot(State::Failed("disk".into())));
        let names =
            SHARD.iter().map(|row| row.0).chain(STORE.iter().map(|row| row.0)).chain(HTTP.iter().map(|row| row.0));
        for name in names {
            assert_eq!(text.matches(&format!("# HELP tern_{name} ")).count(), 1, "{name} in {text}");
        }
        for line in [
            "tern_sessions{shard=\"0\"} 7",
            "tern_sessions{shard=\"1\"} 0",
            "tern_sessions_closed_total{shard=\"0\",code=\"SlowReader\"} 3",
            "tern_http_requests_total{route=\"login\",status=\"4xx\"} 1",
            "tern_journal_healthy 0",
            "tern_view_healthy 1",
            "tern_certificate_expires_seconds 1800860400",
            "# EOF",
        ] {
            assert!(text.lines().any(|had| had == line), "{line} in {text}");
        }
    }
}
