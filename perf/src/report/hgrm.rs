//! A histogram in the percentile text of HdrHistogram (`.hgrm`), which every plotter of the trade reads. Microseconds.
//!
//! # Source
//! `AbstractHistogram.outputPercentileDistribution` of HdrHistogram for Java: the columns, the lines per half distance, and the footer.

use std::fmt::Write;

use hdrhistogram::Histogram;

use super::json::NANOS_PER_MICRO;

/// Lines for each halving of the distance to 100 %. Source: the default of HdrHistogram's tools.
const LINES_PER_HALF: u32 = 5;

/// The text of a histogram of nanoseconds.
#[must_use]
pub fn hgrm(times: &Histogram<u64>) -> String {
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut seen = 0;
    for step in times.iter_quantiles(LINES_PER_HALF) {
        seen += step.count_since_last_iteration();
        let (value, quantile) = (step.value_iterated_to() as f64 / NANOS_PER_MICRO, step.quantile_iterated_to());
        // Writing into a String cannot fail.
        let _ = if quantile < 1.0 {
            writeln!(text, "{value:12.3} {quantile:2.12} {seen:10} {:14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(text, "{value:12.3} {quantile:2.12} {seen:10}")
        };
    }
    let (mean, deviation) = (times.mean() / NANOS_PER_MICRO, times.stdev() / NANOS_PER_MICRO);
    let max = times.max() as f64 / NANOS_PER_MICRO;
    let (count, buckets) = (times.len(), times.buckets());
    // 2 * 10^digits values are told apart in the first bucket, rounded up to a power of two.
    let sub_buckets = (2 * 10_u64.pow(u32::from(times.sigfig()))).next_power_of_two();
    let _ = write!(
        text,
        "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]\n#[Max     = {max:12.3}, Total count    = {count:12}]\n\
         #[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]\n"
    );
    text
}
