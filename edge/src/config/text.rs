//! How durations and sizes are written in the configuration: `250ms`, `5s`, `64KiB`. Never rounds and never guesses a unit.

use std::time::Duration;

const DURATIONS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Reads a duration; `None` for anything that is not a number and one of `ms s m h d`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &DURATIONS).map(Duration::from_millis)
}

/// Reads a size; `None` for anything that is not a number and one of `B KiB MiB GiB`.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    parse(text, &SIZES)
}

/// Writes a duration in the largest unit that says it exactly. Finer than a millisecond does not occur.
pub(super) fn format_duration(duration: Duration) -> String {
    format(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATIONS)
}

/// Writes a size in the largest unit that says it exactly.
pub(super) fn format_size(size: u64) -> String {
    format(size, &SIZES)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = units.iter().find(|(name, _)| *name == unit.trim())?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn format(number: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| number.is_multiple_of(*factor) && (number > 0 || *factor == 1);
    let (unit, factor) = units.iter().rev().find(fits).unwrap_or(&("", 1));
    format!("{}{unit}", number / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["0ms", "1ms", "1500ms", "5s", "15m", "36h", "10d"] {
            assert_eq!(parse_duration(text).map(format_duration).as_deref(), Some(text));
        }
        for text in ["0B", "1000B", "64KiB", "2MiB", "3GiB"] {
            assert_eq!(parse_size(text).map(format_size).as_deref(), Some(text));
        }
        assert_eq!(parse_duration("60s").map(format_duration).as_deref(), Some("1m"));
    }

    #[test]
    fn a_missing_or_foreign_unit_is_no_value() {
        for text in ["", "5", "s", "-5s", "5 weeks", "1.5s", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(parse_size("64K"), None);
    }
}
