//! Makes text of others harmless and fits it into cells. Nothing that came from the network reaches the terminal around this file.

use unicode_width::UnicodeWidthChar;

/// Combining marks that may follow one character. Unit: characters. Real scripts use up to four; "zalgo" uses hundreds.
const MARKS_MAX: usize = 4;

/// Text that cannot move the cursor, change colours, reorder its neighbours or hide: what could is shown as an escape.
/// Line feeds stay.
pub(crate) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut marks = 0;
    for c in text.chars() {
        if c == '\n' || c == '\t' {
            out.push_str(if c == '\n' { "\n" } else { "    " });
        } else if is_dangerous(c) {
            out.extend(c.escape_unicode());
        } else if c.width() == Some(0) && !is_joiner(c) {
            marks += 1;
            if marks <= MARKS_MAX {
                out.push(c);
            }
            continue;
        } else {
            out.push(c);
        }
        marks = 0;
    }
    out
}

/// As [`clean`], on one line.
pub(crate) fn clean_line(text: &str) -> String {
    clean(text).replace('\n', " ")
}

fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe0e}' | '\u{fe0f}')
}

/// Control characters, direction overrides (CVE-2021-42574), separators and invisible tags.
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Cells that a text takes on a line.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// The beginning of a text that fits into `cells`, with an ellipsis where something is cut.
pub(crate) fn cut(text: &str, cells: usize) -> String {
    if width(text) <= cells {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > cells {
            break;
        }
        out.push(c);
    }
    if cells > 0 {
        out.push('…');
    }
    out
}

/// Lines of at most `cells`, broken at spaces where there are any. Never empty.
pub(crate) fn wrap(text: &str, cells: usize) -> Vec<String> {
    let cells = cells.max(2);
    text.split('\n').flat_map(|line| wrap_line(line, cells)).collect()
}

fn wrap_line(line: &str, cells: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut current = String::new();
    let mut used = 0;
    for word in line.split_inclusive(' ') {
        let needed = width(word.trim_end_matches(' '));
        if used + needed > cells && used > 0 {
            lines.push(std::mem::take(&mut current));
            used = 0;
        }
        for c in word.chars() {
            let cell = c.width().unwrap_or(0);
            if used + cell > cells {
                if c == ' ' {
                    continue;
                }
                lines.push(std::mem::take(&mut current));
                used = 0;
            }
            current.push(c);
            used += cell;
        }
    }
    lines.push(current);
    for line in &mut lines {
        line.truncate(line.trim_end_matches(' ').len());
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_of_others_reaches_the_terminal_as_a_command() {
        assert_eq!(clean("\x1b[2Jhi\x07"), "\\u{1b}[2Jhi\\u{7}");
        assert_eq!(clean("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(clean("a\rb\u{9b}31m"), "a\\u{d}b\\u{9b}31m");
        assert_eq!(clean_line("one\ntwo\t."), "one two    .");
        let marks = format!("e{}", "\u{301}".repeat(10_000));
        assert_eq!(clean(&marks).chars().count(), 1 + MARKS_MAX);
        assert_eq!(clean("👩‍👧 naïve"), "👩‍👧 naïve");
    }

    #[test]
    fn lines_break_at_spaces_and_wide_characters_count_twice() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap("日本語です", 5), ["日本", "語で", "す"]);
        assert_eq!(wrap("a\n\nb", 5), ["a", "", "b"]);
        assert_eq!(cut("日本語です", 5), "日本…");
        assert_eq!(cut("short", 5), "short");
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_asked_and_nothing_is_lost(text in "\\PC{0,80}", cells in 2usize..40) {
            let lines = wrap(&text, cells);
            prop_assert!(lines.iter().all(|line| width(line) <= cells));
            let squeeze = |s: &str| s.chars().filter(|c| *c != ' ').collect::<String>();
            prop_assert_eq!(squeeze(&lines.concat()), squeeze(&text));
        }

        #[test]
        fn clean_text_has_no_control_character_but_the_line_feed(text in any::<String>()) {
            prop_assert!(clean(&text).chars().all(|c| c == '\n' || !is_dangerous(c)));
        }
    }
}
