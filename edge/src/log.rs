//! Logs: text on a terminal, JSON elsewhere, on stderr, by a writer that never makes anybody wait.
//! Message bodies and tokens are never logged; addresses and what clients do only at DEBUG and below.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat};

/// Running logs. Dropping it writes what waits.
pub struct Log {
    dropped: ErrorCounter,
    _writer: WorkerGuard,
}

/// The filter cannot be understood. For the operator.
#[derive(Debug)]
pub struct FilterError(String);

/// Text or JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Text { colors: bool },
    Json,
}

impl Log {
    /// Starts logging for the whole process.
    ///
    /// # Errors
    /// When the filter cannot be understood.
    pub fn start(config: &LogConfig) -> Result<Self, FilterError> {
        let filter = filter(config)?;
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(config.queue_lines_max)
            .thread_name("tern-log")
            .finish(io::stderr());
        let dropped = writer.error_counter();
        let shape = match config.format {
            LogFormat::Json => Shape::Json,
            LogFormat::Auto if !io::stderr().is_terminal() => Shape::Json,
            LogFormat::Auto | LogFormat::Text => Shape::Text { colors: io::stderr().is_terminal() },
        };
        // A second one in the same process (tests) keeps the first.
        let _ = subscriber(shape, filter, writer).try_init();
        Ok(Self { dropped, _writer: guard })
    }

    /// Lines that were dropped because the writer was too slow.
    #[must_use]
    pub fn dropped(&self) -> ErrorCounter {
        self.dropped.clone()
    }
}

/// Whether the filter can be understood.
///
/// # Errors
/// When it cannot.
pub fn check(config: &LogConfig) -> Result<(), FilterError> {
    filter(config).map(drop)
}

fn filter(config: &LogConfig) -> Result<EnvFilter, FilterError> {
    EnvFilter::try_new(&config.filter).map_err(|_| FilterError(config.filter.clone()))
}

fn subscriber<W>(shape: Shape, filter: EnvFilter, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match shape {
        Shape::Text { colors } => Box::new(lines.with_ansi(colors).finish()),
        Shape::Json => Box::new(lines.json().flatten_event(true).with_span_list(false).finish()),
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`log.filter` cannot be {:?}; it takes levels (error, warn, info, debug, trace) and target=level, \
                   separated by commas",
            self.0
        )
    }
}

impl std::error::Error for FilterError {}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

/// What a piece of code logs, for tests.
#[cfg(test)]
pub(crate) mod capture {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::{EnvFilter, Shape, Subscriber, subscriber};

    /// Collected lines.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        /// A subscriber that collects here.
        pub(crate) fn subscriber(&self, level: &str) -> Box<dyn Subscriber + Send + Sync> {
            let lines = self.clone();
            subscriber(Shape::Json, EnvFilter::new(level), move || lines.clone())
        }

        /// Everything so far.
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_object_with_its_request() {
        let lines = capture::Lines::default();
        tracing::subscriber::with_default(lines.subscriber("info"), || {
            let _span = tracing::info_span!("request", id = "abc").entered();
            tracing::info!(shards = 2, "ready\nor not");
            tracing::debug!("not shown");
        });
        let text = lines.text();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["message"], &value["shards"]), (&"ready\nor not".into(), &2.into()));
        assert_eq!(value["span"]["id"], "abc");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn a_filter_that_cannot_be_understood_is_named() {
        let config = LogConfig { filter: "tern=loud".into(), ..crate::config::Config::default().process.log };
        assert!(check(&config).unwrap_err().to_string().contains("tern=loud"));
    }
}
