//! Numbers as people read them: three digits, a unit that fits, nothing that is not a number. Used by every writer but the JSON one.

/// What stands where there is no value.
pub(super) const NOTHING: &str = "–";

/// Three significant digits; whole numbers from 1,000 on with separators.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return NOTHING.to_owned();
    }
    let size = value.abs();
    if size >= 999.5 {
        return separated(&format!("{value:.0}"));
    }
    let digits = if size >= 99.95 || size == 0.0 {
        0
    } else if size >= 9.995 {
        1
    } else if size >= 0.9995 {
        2
    } else {
        3
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A count with separators: `19,782`.
pub(super) fn count(value: u64) -> String {
    separated(&value.to_string())
}

/// Microseconds in the unit that fits: `140 ns`, `3.86 µs`, `1.2 ms`, `4.5 s`.
pub(super) fn micros(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.9995 {
        return format!("{} ns", number(value * 1e3));
    }
    scaled(value, 1e3, &["µs", "ms"]).unwrap_or_else(|| format!("{} s", number(value / 1e6)))
}

/// Bytes in the unit that fits.
pub(super) fn bytes(value: f64) -> String {
    scaled(value, 1024.0, &["B", "KiB", "MiB"]).unwrap_or_else(|| format!("{} GiB", number(value / 1_073_741_824.0)))
}

/// A value with its unit, as a scenario or a floor names it.
pub(super) fn quantity(value: f64, unit: &str) -> String {
    match unit {
        "us" => micros(value),
        "ns" => micros(value / 1e3),
        "ms" => micros(value * 1e3),
        "s" => micros(value * 1e6),
        "B" | "bytes" => bytes(value),
        "%" => format!("{} %", number(value)),
        "1/s" => format!("{} /s", number(value)),
        "" => number(value),
        other => format!("{} {other}", number(value)),
    }
}

/// The value of a floor, whose name ends in its unit, and the name without it.
pub(super) fn floor(name: &str, value: f64) -> (String, String) {
    let (what, unit) = name.rsplit_once('_').unwrap_or((name, ""));
    match unit {
        "ns" | "us" | "ms" => (title(what), quantity(value, unit)),
        _ => (title(name), number(value)),
    }
}

/// `send_to_ack` as `send to ack`.
pub(super) fn title(name: &str) -> String {
    name.replace('_', " ")
}

/// The name of a figure whose value is shown with its unit: without the unit at its end.
pub(super) fn figure_title(name: &str) -> String {
    let bare = ["_ns", "_us", "_ms", "_bytes", "_percent"].iter().find_map(|unit| name.strip_suffix(unit));
    title(bare.unwrap_or(name))
}

/// A value for an axis: `0.5`, `20`, `3k`, `1.5M`.
pub(super) fn tick(value: f64) -> String {
    let size = value.abs();
    let (scale, suffix) = if size >= 1e9 {
        (1e9, "G")
    } else if size >= 1e6 {
        (1e6, "M")
    } else if size >= 1e3 {
        (1e3, "k")
    } else {
        (1.0, "")
    };
    // What is left of binary fractions after the sixth digit is no part of the tick.
    let text = format!("{:.6}", value / scale);
    format!("{}{suffix}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// What a latency is from and to, for someone who has not read the generator.
pub(super) fn latency_meaning(name: &str) -> &'static str {
    match name {
        "connect" => "from when a client should dial until it is logged in",
        "resume" => "from when a client should come back until it has everything it missed",
        "send_to_ack" => "from when a message should leave until the server says that it is on disk",
        "send_to_delivery" => "from when a message should leave until another member has it",
        "send_to_first" => "from when a message should leave until the first member has it",
        "send_to_last" => "from when a message should leave until the last member has it",
        "presence" => "from a change of presence until a watcher sees it",
        "history" => "from asking for a page of history until it is there",
        "request" => "from any other request until its answer",
        "lateness" => "how late the generator itself began what was due; part of every line above",
        _ => "",
    }
}

fn separated(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |rest| ("-", rest));
    let mut text = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// In the first unit in which it is below `step`; `None` past the last.
fn scaled(value: f64, step: f64, units: &[&str]) -> Option<String> {
    if !value.is_finite() {
        return Some(NOTHING.to_owned());
    }
    let mut value = value;
    for unit in units {
        if value.abs() < step * 0.9995 {
            return Some(format!("{} {unit}", number(value)));
        }
        value /= step;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_separators() {
        let said = [0.0, 0.0456, 0.5, 3.8614, 12.34, 999.4, 999.6, 19_782.4, -1_234.0].map(number);
        assert_eq!(said, ["0", "0.046", "0.5", "3.86", "12.3", "999", "1,000", "19,782", "-1,234"]);
        assert_eq!((number(f64::NAN), count(1_000_000)), (NOTHING.to_owned(), "1,000,000".to_owned()));
    }

    #[test]
    fn units_fit_the_value() {
        assert_eq!(
            [0.12, 3.8614, 999.9, 1_234.0, 4.5e6, 9e7].map(micros),
            ["120 ns", "3.86 µs", "1 ms", "1.23 ms", "4.5 s", "90 s"]
        );
        assert_eq!([12.0, 20_214.0, 5e9].map(bytes), ["12 B", "19.7 KiB", "4.66 GiB"]);
        assert_eq!(quantity(3_700.0, "1/s"), "3,700 /s");
        assert_eq!(quantity(2.5, "cores"), "2.5 cores");
        assert_eq!(floor("aead_seal_cold_ns", 590.0), ("aead seal cold".to_owned(), "590 ns".to_owned()));
        assert_eq!(
            (figure_title("udp_send_ns"), figure_title("clients")),
            ("udp send".to_owned(), "clients".to_owned())
        );
        assert_eq!(floor("something_else", 5.0), ("something else".to_owned(), "5".to_owned()));
    }

    #[test]
    fn ticks_are_short() {
        assert_eq!([0.0, 0.1 + 0.2, 20.0, 3_000.0, 1.5e6].map(tick), ["0", "0.3", "20", "3k", "1.5M"]);
    }
}
