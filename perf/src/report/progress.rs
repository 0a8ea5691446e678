//! The line on stderr while a scenario runs. Where stderr is no terminal only what is said in so many words is written; never writes to
//! stdout, which may be somebody's JSON.

use std::cell::{Cell, RefCell};
use std::io::{Write, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two drawings while nothing is reported. Fast enough to look alive, and no load.
const TICK: Duration = Duration::from_millis(250);
/// Shortest span a rate is taken over.
const RATE_SPAN: Duration = Duration::from_millis(500);
/// A phase of unknown length.
const SPINNER: &str = "{spinner} {prefix:.bold}  {wide_msg} {elapsed_precise}";
/// A phase of known length.
const BAR: &str = "{spinner} {prefix:.bold}  {bar:24} {percent:>3} %  {wide_msg} {elapsed_precise}";

/// The progress line of one scenario.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    phase: RefCell<String>,
    from: Cell<(Instant, u64)>,
    rate: Cell<f64>,
}

impl Progress {
    /// A line for `scenario`.
    #[must_use]
    pub fn new(scenario: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_prefix(scenario.to_owned());
        bar.enable_steady_tick(TICK);
        let progress =
            Self { bar, phase: RefCell::default(), from: Cell::new((Instant::now(), 0)), rate: Cell::new(0.0) };
        progress.phase("starting");
        progress
    }

    /// Enters a phase of unknown length.
    pub fn phase(&self, name: &str) {
        self.bar.unset_length();
        self.style(SPINNER);
        name.clone_into(&mut self.phase.borrow_mut());
        self.bar.set_message(name.to_owned());
    }

    /// Enters a phase that ends when [`Progress::done`] says `of`: connections, messages, milliseconds.
    pub fn phase_of(&self, name: &str, of: u64) {
        self.phase(name);
        self.bar.set_length(of.max(1));
        self.bar.set_position(0);
        self.style(BAR);
    }

    /// How far a phase of known length is.
    pub fn done(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// What there is at this moment: connections that stand, and events delivered since the start.
    pub fn update(&self, connected: u64, delivered: u64) {
        let (at, before) = self.from.get();
        let span = at.elapsed();
        if span >= RATE_SPAN {
            self.rate.set(delivered.saturating_sub(before) as f64 / span.as_secs_f64());
            self.from.set((Instant::now(), delivered));
        }
        let (phase, rate) = (self.phase.borrow(), self.rate.get());
        self.bar.set_message(format!("{phase}: {connected} connected, {rate:.0} delivered/s"));
    }

    /// Writes a line above and goes on.
    pub fn say(&self, line: &str) {
        // Not the bar's own `println`: it takes the lock that `suspend` holds, and writes nothing where there is no terminal.
        self.bar.suspend(|| {
            // A stderr that is closed is no reason to end a run.
            let _ = writeln!(stderr(), "{line}");
        });
    }

    /// Takes the line away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn style(&self, template: &str) {
        // The templates are constants of this file; the default style stands in for one that does not parse.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_templates_parse() {
        for template in [SPINNER, BAR] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn a_line_goes_through_its_phases_without_a_terminal() {
        let progress = Progress::new("direct");
        progress.phase_of("connecting", 100);
        progress.done(50);
        assert_eq!((progress.bar.position(), progress.bar.length()), (50, Some(100)));
        progress.update(50, 10);
        assert!(progress.bar.message().starts_with("connecting: 50 connected"));
        progress.say("a line above");
        progress.phase("settling");
        assert_eq!(progress.bar.length(), None);
    }
}
