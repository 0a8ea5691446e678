//! Every key there is, with what it may hold. `default.toml` has the values and the reasons; a test compares the two.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::text::{format_duration, format_size, parse_duration, parse_size};

/// A key and its range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// Dotted path in the file.
    pub path: &'static str,
    /// What it may hold.
    pub kind: Kind,
}

/// What a key may hold.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A whole number.
    Count(u64, u64),
    /// Bytes, written with a unit.
    Size(u64, u64),
    /// Time, written with a unit.
    Span(Duration, Duration),
    /// true or false.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Text of at most so many bytes, not empty.
    Text(usize),
    /// A path, or empty for none.
    Path,
    /// IP address and port.
    Address,
    /// A list of `https://host[:port]`.
    Origins,
    /// A list of words.
    Words,
}

/// A value that was found to be in range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Count(u64),
    Size(u64),
    Span(Duration),
    Switch(bool),
    Text(String),
    Address(SocketAddr),
    List(Vec<String>),
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DAY: u64 = 86_400;

const fn key(path: &'static str, kind: Kind) -> Key {
    Key { path, kind }
}

/// All keys, in the order of `default.toml`.
pub(super) const KEYS: &[Key] = &[
    key("listen", Kind::Address),
    key("data_dir", Kind::Text(4096)),
    key("shards", Kind::Count(0, 64)),
    key("driver", Kind::Choice(&["auto", "io_uring", "epoll", "glommio"])),
    key("pin", Kind::Switch),
    key("drain_spread", Kind::Span(ms(0), s(600))),
    key("drain_timeout", Kind::Span(ms(0), s(3600))),
    key("admin.listen", Kind::Address),
    key("log.format", Kind::Choice(&["auto", "json", "text"])),
    key("log.filter", Kind::Text(1024)),
    key("log.queue_lines_max", Kind::Count(1_000, 10_000_000)),
    key("tls.certificate", Kind::Path),
    key("tls.key", Kind::Path),
    key("tls.names", Kind::Words),
    key("tls.sessions_max", Kind::Count(0, 10_000_000)),
    key("auth.hash_memory", Kind::Size(64 * KIB, GIB)),
    key("auth.hash_passes", Kind::Count(1, 16)),
    key("auth.hash_workers", Kind::Count(1, 64)),
    key("auth.hash_queue_max", Kind::Count(1, 100_000)),
    key("auth.account_attempts_burst", Kind::Count(1, 10_000)),
    key("auth.account_attempts_per_minute", Kind::Count(1, 10_000)),
    key("auth.prefix_attempts_burst", Kind::Count(1, 1_000_000)),
    key("auth.prefix_attempts_per_minute", Kind::Count(1, 1_000_000)),
    key("auth.buckets_max", Kind::Count(1_000, 10_000_000)),
    key("http.connections_max", Kind::Count(1, 1_000_000)),
    key("http.handshake_timeout", Kind::Span(ms(100), s(60))),
    key("http.header_timeout", Kind::Span(ms(100), s(60))),
    key("http.body_timeout", Kind::Span(ms(100), s(300))),
    key("http.idle_timeout", Kind::Span(s(1), s(3600))),
    key("http.origins", Kind::Origins),
    key("limits.sessions_max", Kind::Count(1, 4_000_000)),
    key("limits.user_sessions_max", Kind::Count(1, 1_000)),
    key("limits.hello_timeout", Kind::Span(ms(100), s(60))),
    key("limits.ping_interval", Kind::Span(s(1), s(300))),
    key("limits.outbox_ephemeral_max", Kind::Size(4 * KIB, 16 * MIB)),
    key("limits.outbox_live_max", Kind::Size(64 * KIB, 64 * MIB)),
    key("limits.outbox_close_max", Kind::Size(128 * KIB, 256 * MIB)),
    key("limits.slow_reader_timeout", Kind::Span(s(1), s(3600))),
    key("limits.inflight_max", Kind::Count(1, 100_000)),
    key("limits.frames_burst", Kind::Count(1, 1_000_000)),
    key("limits.frames_per_second", Kind::Count(1, 1_000_000)),
    key("limits.flood_max", Kind::Count(1, 10_000_000)),
    key("limits.cache_size_max", Kind::Size(MIB, 1024 * GIB)),
    key("limits.load_queue_max", Kind::Count(1, 1_000_000)),
    key("limits.aside_max", Kind::Count(1, 100_000)),
    key("limits.kept_size_max", Kind::Size(64 * KIB, GIB)),
    key("limits.presence_grace", Kind::Span(ms(0), s(300))),
    key("limits.presence_coalesce", Kind::Span(ms(1), s(10))),
    key("store.segment_size", Kind::Size(MIB, 4 * GIB)),
    key("store.first_segment_size", Kind::Size(MIB, 4 * GIB)),
    key("store.segments_max", Kind::Count(2, 1_024)),
    key("store.append_queue_size_max", Kind::Size(128 * KIB, GIB)),
    key("store.append_queue_len_max", Kind::Count(1, 10_000_000)),
    key("store.logged_queue_size_max", Kind::Size(128 * KIB, GIB)),
    key("store.logged_queue_len_max", Kind::Count(1, 10_000_000)),
    key("store.store_queue_size_max", Kind::Size(128 * KIB, 4 * GIB)),
    key("store.store_queue_len_max", Kind::Count(1, 10_000_000)),
    key("store.query_queue_len_max", Kind::Count(1, 1_000_000)),
    key("store.batch_size_max", Kind::Size(128 * KIB, 4 * MIB)),
    key("store.view_batch_size_max", Kind::Size(64 * KIB, 64 * MIB)),
    key("store.view_cache_size", Kind::Size(MIB, 1024 * GIB)),
    key("store.view_memtable_size", Kind::Size(MIB, 4 * GIB)),
    key("store.view_journal_size", Kind::Size(64 * MIB, 16 * GIB)),
    key("store.view_readers", Kind::Count(1, 64)),
    key("store.checkpoint_interval", Kind::Span(ms(10), s(600))),
    key("store.checkpoint_size", Kind::Size(MIB, 4 * GIB)),
    key("store.free_space_min", Kind::Size(0, 1024 * GIB)),
    key("store.commit_slow", Kind::Span(ms(1), s(600))),
    key("store.shutdown_timeout", Kind::Span(ms(100), s(3600))),
    key("cluster.partitions", Kind::Count(1, 1024)),
    key("cluster.world", Kind::Switch),
    key("cluster.members_max", Kind::Count(2, 100_000)),
    key("cluster.receipts_members_max", Kind::Count(2, 10_000)),
    key("cluster.directory_max", Kind::Count(1, 1_000_000)),
    key("cluster.devices_max", Kind::Count(1, 1_000)),
    key("cluster.issuer", Kind::Text(128)),
    key("cluster.audience", Kind::Text(128)),
    key("cluster.access_token_lifetime", Kind::Span(s(30), s(DAY))),
];

impl Kind {
    /// Reads a value from the file; `None` when it is of another kind or out of range.
    pub(super) fn parse(self, value: &toml::Value) -> Option<Value> {
        match (self, value) {
            (Self::Count(min, max), toml::Value::Integer(n)) => {
                u64::try_from(*n).ok().filter(|n| (min..=max).contains(n)).map(Value::Count)
            }
            (Self::Switch, toml::Value::Boolean(on)) => Some(Value::Switch(*on)),
            (Self::Origins | Self::Words, toml::Value::Array(list)) => {
                let words: Option<Vec<&str>> = list.iter().map(toml::Value::as_str).collect();
                self.parse_list(words?)
            }
            (_, toml::Value::String(text)) => self.parse_text(text),
            _ => None,
        }
    }

    /// Reads a value from an environment variable or a flag. Lists are separated by commas.
    pub(super) fn parse_word(self, text: &str) -> Option<Value> {
        match self {
            Self::Count(..) => self.parse(&toml::Value::Integer(text.parse().ok()?)),
            Self::Switch => self.parse(&toml::Value::Boolean(text.parse().ok()?)),
            Self::Origins | Self::Words => {
                self.parse_list(text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect())
            }
            Self::Size(..) | Self::Span(..) | Self::Choice(_) | Self::Text(_) | Self::Path | Self::Address => {
                self.parse_text(text)
            }
        }
    }

    fn parse_text(self, text: &str) -> Option<Value> {
        match self {
            Self::Size(min, max) => parse_size(text).filter(|size| (min..=max).contains(size)).map(Value::Size),
            Self::Span(min, max) => parse_duration(text).filter(|span| (min..=max).contains(span)).map(Value::Span),
            Self::Choice(words) => words.contains(&text).then(|| Value::Text(text.to_owned())),
            Self::Text(max) => (1..=max).contains(&text.len()).then(|| Value::Text(text.to_owned())),
            Self::Path => Some(Value::Text(text.to_owned())),
            Self::Address => text.parse().ok().map(Value::Address),
            Self::Count(..) | Self::Switch | Self::Origins | Self::Words => None,
        }
    }

    fn parse_list(self, words: Vec<&str>) -> Option<Value> {
        let fits = |word: &str| !matches!(self, Self::Origins) || is_origin(word);
        words.iter().all(|word| fits(word)).then(|| Value::List(words.into_iter().map(str::to_owned).collect()))
    }
}

/// Whether this is what a browser sends as `Origin`: scheme, host, perhaps a port, nothing behind.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b))
    })
}

/// The range, as error messages and the comments of `default.toml` say it.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(min, max) => write!(f, "{min} ..= {max}"),
            Self::Size(min, max) => write!(f, "{} ..= {}", format_size(*min), format_size(*max)),
            Self::Span(min, max) => write!(f, "{} ..= {}", format_duration(*min), format_duration(*max)),
            Self::Switch => f.write_str("true or false"),
            Self::Choice(words) => f.write_str(&words.join(", ")),
            Self::Text(max) => write!(f, "text of 1 to {max} bytes"),
            Self::Path => f.write_str("a path, or empty"),
            Self::Address => f.write_str("address:port"),
            Self::Origins => f.write_str("a list of lower-case scheme://host[:port]"),
            Self::Words => f.write_str("a list of words"),
        }
    }
}

/// The value as TOML.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = match self {
            Self::Count(n) => return write!(f, "{n}"),
            Self::Switch(on) => return write!(f, "{on}"),
            Self::Size(size) => toml::Value::String(format_size(*size)),
            Self::Span(span) => toml::Value::String(format_duration(*span)),
            Self::Text(text) => toml::Value::String(text.clone()),
            Self::Address(address) => toml::Value::String(address.to_string()),
            Self::List(words) => toml::Value::Array(words.iter().cloned().map(toml::Value::String).collect()),
        };
        write!(f, "{value}")
    }
}
