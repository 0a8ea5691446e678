//! The axis of a plot: which values are at its ends, where its ticks are, and where a value lies between the ends. No drawing.

use super::words;

/// Ticks of a linear axis, at most.
const TICKS_MAX: f64 = 6.0;
/// A logarithmic axis over more decades than this has a tick per decade, else also at 2 and 5.
const DECADES_WITH_STEPS: i32 = 2;
/// Decades of a logarithmic axis, at most: what is smaller is noise beside the largest value.
const DECADES_MAX: i32 = 9;

/// How an axis is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// Evenly.
    Linear,
    /// By powers of ten.
    Log,
    /// Milliseconds by powers of ten, labelled in the unit that fits.
    Time,
    /// `1/(1-p)` by powers of ten, labelled with p in percent.
    Percentile,
}

/// An axis with its ticks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    scale: Scale,
    /// Value and label, ascending.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// An axis that holds all these values; zero too when it is `from_zero` and linear.
    pub(super) fn holding(values: impl Iterator<Item = f64>, scale: Scale, from_zero: bool) -> Self {
        let drawn = values.filter(|value| Self::draws(scale, *value));
        let (low, high) =
            drawn.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        let empty = low > high;
        match scale {
            Scale::Linear if empty => Self::linear(0.0, 1.0),
            Scale::Linear => {
                Self::linear(if from_zero { low.min(0.0) } else { low }, if from_zero { high.max(0.0) } else { high })
            }
            Scale::Log | Scale::Time | Scale::Percentile if empty => Self::log(1.0, 10.0, scale),
            Scale::Log | Scale::Time | Scale::Percentile => Self::log(low, high, scale),
        }
    }

    /// Whether such a value can be on such an axis.
    pub(super) fn draws(scale: Scale, value: f64) -> bool {
        value.is_finite() && (scale == Scale::Linear || value > 0.0)
    }

    /// Where the value lies: 0 at the low end, 1 at the high one. What is outside is at the end.
    pub(super) fn place(&self, value: f64) -> f64 {
        let on = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Log | Scale::Time | Scale::Percentile => value.max(f64::MIN_POSITIVE).log10(),
        };
        ((on(value) - on(self.low)) / (on(self.high) - on(self.low))).clamp(0.0, 1.0)
    }

    fn linear(low: f64, high: f64) -> Self {
        let span = if high > low { high - low } else { low.abs().max(1.0) };
        let step = nice_step(span / TICKS_MAX);
        let (first, last) = ((low / step).floor(), (low + span).max(high) / step);
        let last = last.ceil().max(first + 1.0);
        let steps = std::iter::successors(Some(first), |at| Some(at + 1.0)).take_while(|at| *at <= last);
        let ticks: Vec<_> = steps.map(|at| (at * step, words::tick(at * step))).collect();
        Self { low: first * step, high: last * step, scale: Scale::Linear, ticks }
    }

    fn log(low: f64, high: f64, scale: Scale) -> Self {
        let top = decade(high);
        let bottom = decade(low).max(top - DECADES_MAX);
        let steps: &[f64] =
            if scale != Scale::Percentile && top - bottom <= DECADES_WITH_STEPS { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let values = (bottom..=top + 1).flat_map(|decade| steps.iter().map(move |step| step * 10_f64.powi(decade)));
        let values: Vec<f64> = values.collect();
        // The narrowest pair of ticks around the data.
        let from = values.iter().rposition(|value| *value <= low * (1.0 + 1e-9)).unwrap_or(0);
        let to =
            values.iter().position(|value| *value >= high * (1.0 - 1e-9)).unwrap_or(values.len() - 1).max(from + 1);
        let held: Vec<f64> = values.into_iter().skip(from).take(to - from + 1).collect();
        let label = |value: f64| match scale {
            Scale::Percentile => percentile(value),
            Scale::Time => words::micros(value * 1e3),
            Scale::Linear | Scale::Log => words::tick(value),
        };
        let ends = (held.first().copied().unwrap_or(1.0), held.last().copied().unwrap_or(10.0));
        Self { low: ends.0, high: ends.1, scale, ticks: held.into_iter().map(|value| (value, label(value))).collect() }
    }
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn nice_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let nice = [1.0, 2.0, 5.0, 10.0].into_iter().find(|nice| nice * power >= step * (1.0 - 1e-9));
    nice.unwrap_or(10.0) * power
}

#[expect(clippy::cast_possible_truncation, reason = "the exponent of a finite number has three digits")]
fn decade(value: f64) -> i32 {
    // A power of ten must not fall into the decade below it for want of the last bit.
    (value.log10() + 1e-9).floor() as i32
}

/// 1/(1-p) as p: `90 %`, `99.9 %`.
fn percentile(distance: f64) -> String {
    let nines = decade(distance);
    match usize::try_from(nines) {
        Ok(0) | Err(_) => "0 %".to_owned(),
        Ok(1) => "90 %".to_owned(),
        Ok(more) => format!("{:.*} %", more - 2, 100.0 - 100.0 / distance),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn a_linear_axis_holds_its_values_and_zero() {
        let axis = Axis::holding([3.0, 97.0].into_iter(), Scale::Linear, true);
        assert_eq!(labels(&axis), ["0", "20", "40", "60", "80", "100"]);
        assert!((axis.place(50.0) - 0.5).abs() < 1e-9 && axis.place(-5.0) == 0.0 && axis.place(500.0) == 1.0);
        let one = Axis::holding([7.0].into_iter(), Scale::Linear, false);
        assert!(one.ticks.len() >= 2 && one.place(7.0) < 1.0, "{one:?}");
    }

    #[test]
    fn a_logarithmic_axis_ends_at_the_nearest_ticks() {
        let narrow = Axis::holding([1.5, 40.0].into_iter(), Scale::Log, false);
        assert_eq!(labels(&narrow), ["1", "2", "5", "10", "20", "50"]);
        let wide = Axis::holding([0.09, 1_000.0].into_iter(), Scale::Log, false);
        assert_eq!(labels(&wide), ["0.01", "0.1", "1", "10", "100", "1k"]);
        assert!((wide.place(1.0) - 0.4).abs() < 1e-9);
        let times = Axis::holding([0.02, 3_000.0].into_iter(), Scale::Time, false);
        assert_eq!(labels(&times), ["10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s"]);
    }

    #[test]
    fn values_that_cannot_be_drawn_are_left_out() {
        let axis = Axis::holding([0.0, -1.0, f64::NAN, f64::INFINITY, 10.0, 100.0].into_iter(), Scale::Log, false);
        assert_eq!(labels(&axis), ["10", "20", "50", "100"]);
        assert_eq!(labels(&Axis::holding(std::iter::empty(), Scale::Log, false)), ["1", "2", "5", "10"]);
        assert!(Axis::holding([f64::NAN].into_iter(), Scale::Linear, true).ticks.len() > 1);
    }

    #[test]
    fn percentiles_have_as_many_nines_as_they_need() {
        let axis = Axis::holding([1.0, 50_000.0].into_iter(), Scale::Percentile, false);
        assert_eq!(labels(&axis), ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"]);
    }
}
