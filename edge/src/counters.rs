//! What a shard counts: plain numbers that only its own thread writes and anybody may read. Never on another core's cache line
//! unless somebody scrapes; never a histogram, never a label beyond the close codes.

use std::sync::atomic::{AtomicU64, Ordering};

use tern_protocol::CloseCode;

/// Close codes that are counted apart: all there are, by their number.
pub const CLOSE_CODE_COUNT: usize = 24;
const _: () = assert!(CloseCode::ALL.len() <= CLOSE_CODE_COUNT);

/// A number with one writer.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the shard's own thread may.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Replaces; only the shard's own thread may.
    pub(crate) fn set(&self, n: usize) {
        self.0.store(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// One shard's numbers at one moment. Counts since the start, except for those that say "now".
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct ShardCounters {
            $($(#[$doc])* pub $name: u64,)+
            /// Sessions closed by the server, by [`CloseCode`] number.
            pub closes: [u64; CLOSE_CODE_COUNT],
        }

        /// The live numbers of one shard.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)+
            closes: [Counter; CLOSE_CODE_COUNT],
        }

        impl Counters {
            /// A copy; the numbers in it may be a few nanoseconds apart.
            pub(crate) fn snapshot(&self) -> ShardCounters {
                ShardCounters {
                    $($name: self.$name.value(),)+
                    closes: std::array::from_fn(|code| self.closes.get(code).map_or(0, Counter::value)),
                }
            }
        }
    };
}

counters! {
    /// Sessions that the core knows, now.
    sessions,
    /// QUIC connections in any state, now.
    quic_connections,
    /// WebSocket connections, now.
    websocket_connections,
    /// Frames that clients sent.
    frames_in,
    /// Bytes of those frames.
    frame_bytes_in,
    /// Frames handed to a transport.
    frames_out,
    /// Bytes of those frames.
    frame_bytes_out,
    /// QUIC connections that have something to be sent in a later turn, now.
    quic_visits_waiting,
    /// WebSockets that have something to be sent in a later turn, now.
    websocket_visits_waiting,
    /// UDP datagrams received, the empty ones too.
    datagrams_in,
    /// UDP datagrams sent.
    datagrams_out,
    /// Bytes of UDP payload received.
    datagram_bytes_in,
    /// Bytes of UDP payload sent.
    datagram_bytes_out,
    /// Times the kernel did not take a datagram at once.
    datagrams_blocked,
    /// Datagrams that could not be sent and were dropped; QUIC repairs it.
    datagrams_failed,
    /// Datagrams that came to this shard and were passed on to theirs.
    strays_out,
    /// Datagrams that another shard passed on.
    strays_in,
    /// Strays dropped because the ring was full.
    strays_dropped,
    /// QUIC handshakes begun.
    handshakes,
    /// QUIC handshakes finished.
    handshakes_done,
    /// Handshakes that did not finish in time.
    handshakes_timed_out,
    /// Handshakes answered with Retry.
    handshakes_retried,
    /// Handshakes refused: draining or full.
    handshakes_refused,
    /// Handshakes ignored: one network has too many open, or they waited too long.
    handshakes_ignored,
    /// QUIC handshakes in flight, now.
    handshakes_open,
    /// Frames put on the control stream because a datagram could not carry them.
    datagram_fallbacks,
    /// Empty packets sent behind a message, so that its loss is noticed soon.
    tail_probes,
    /// QUIC peers given up: they acknowledged nothing, or said nothing, for too long.
    peers_given_up,
    /// Messages to other shards that found their ring full and waited.
    ring_overflows,
    /// Messages to other shards that wait for room, now.
    ring_waiting,
    /// Commands that the log did not take.
    appends_refused,
    /// Questions that the view did not take.
    queries_refused,
    /// Requests of the control plane.
    requests,
    /// Requests refused because too many waited.
    requests_refused,
    /// Sessions that are not read from for back-pressure, now.
    paused,
    /// Turns of the loop.
    turns,
    /// Times the loop slept.
    sleeps,
    /// Time spent in turns. Unit: microseconds.
    busy_us,
    /// The core: commands applied.
    core_commands,
    /// The core: events that commands made.
    core_events,
    /// The core: events put into sessions' outboxes.
    core_deliveries,
    /// The core: requests refused.
    core_rejects,
    /// The core: requests refused for their rate.
    core_rate_limited,
    /// The core: requests refused because a queue was full.
    core_busy,
    /// The core: resumes answered from memory.
    core_resumes,
    /// The core: resumes answered with a reset.
    core_resets,
    /// The core: sessions for which live delivery was stopped.
    core_lagging,
    /// The core: events not put into the outbox of a lagging session.
    core_skipped,
    /// The core: typing and presence frames dropped for slow readers.
    core_ephemeral_dropped,
    /// The core: frames that were not valid.
    core_malformed,
    /// The core: entities loaded from the view.
    core_loads,
    /// The core: loads that failed and were tried again.
    core_load_failures,
    /// The core: entities that were set aside because they could not be read.
    core_set_aside,
    /// The core: entities that are set aside, now.
    core_aside,
    /// The core: commands kept for entities that were set aside.
    core_kept,
    /// The core: commands that waited in the log because an entity had its fill of kept ones.
    core_kept_full,
    /// The core: entities dropped from memory.
    core_evictions,
    /// The core: appends of emitted commands that were tried again.
    core_emission_retries,
    /// The core: bytes of entities in memory, now.
    core_cache_size,
    /// The core: commands logged but not applied, now.
    core_waiting,
}

impl Counters {
    /// Shows what the core counts.
    pub(crate) fn publish_core(&self, core: &tern_core_shard::Counters) {
        let pairs = [
            (&self.core_commands, core.commands),
            (&self.core_events, core.events),
            (&self.core_deliveries, core.deliveries),
            (&self.core_rejects, core.rejects),
            (&self.core_rate_limited, core.rate_limited),
            (&self.core_busy, core.busy),
            (&self.core_resumes, core.resumes),
            (&self.core_resets, core.resets),
            (&self.core_lagging, core.lagging),
            (&self.core_skipped, core.skipped),
            (&self.core_ephemeral_dropped, core.ephemeral_dropped),
            (&self.core_malformed, core.malformed),
            (&self.core_loads, core.loads),
            (&self.core_load_failures, core.load_failures),
            (&self.core_set_aside, core.set_aside),
            (&self.core_aside, core.aside),
            (&self.core_kept, core.kept),
            (&self.core_kept_full, core.kept_full),
            (&self.core_evictions, core.evictions),
            (&self.core_emission_retries, core.emission_retries),
            (&self.core_cache_size, core.cache_size),
            (&self.core_waiting, core.waiting),
        ];
        for (shown, counted) in pairs {
            shown.0.store(counted, Ordering::Relaxed);
        }
    }

    /// Counts a session that the server closed.
    pub(crate) fn closed(&self, code: CloseCode) {
        if let Some(counter) = self.closes.get(usize::from(code.raw())) {
            counter.add(1);
        }
    }
}
