//! Which account names, display names and passwords are good. One canonical form: no two accounts look alike.

use tern_protocol::limit::{ACCOUNT_NAME_SIZE_MAX, ACCOUNT_NAME_SIZE_MIN, CLIENT_NAME_SIZE_MAX, DISPLAY_NAME_SIZE_MAX};

/// Shortest password. Unit: bytes. NIST SP 800-63B section 5.1.1.2: "at least 8 characters in length".
const PASSWORD_SIZE_MIN: usize = 8;
/// Longest password. Unit: bytes. Hashing time does not depend on it; it bounds what an attempt may carry.
const PASSWORD_SIZE_MAX: usize = 1024;

/// The canonical account name: lower case ASCII letters, digits, `_`, `-`, `.`; `None` for what cannot be one.
pub(super) fn canonical(name: &str) -> Option<Box<str>> {
    let fits = (ACCOUNT_NAME_SIZE_MIN..=ACCOUNT_NAME_SIZE_MAX).contains(&name.len());
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    (fits && name.bytes().all(good)).then(|| name.to_ascii_lowercase().into_boxed_str())
}

/// The display name for people: the given one without control characters, or the account name.
pub(super) fn display(given: Option<&str>, name: &str) -> Box<str> {
    let given = given.map(|text| printable(text, DISPLAY_NAME_SIZE_MAX)).unwrap_or_default();
    if given.is_empty() { name.into() } else { given }
}

/// What a person calls a device.
pub(super) fn device(given: Option<&str>) -> Box<str> {
    printable(given.unwrap_or_default(), CLIENT_NAME_SIZE_MAX)
}

/// Whether a password may be chosen.
pub(super) fn is_strong(password: &str, name: &str) -> bool {
    (PASSWORD_SIZE_MIN..=PASSWORD_SIZE_MAX).contains(&password.len()) && !password.eq_ignore_ascii_case(name)
}

/// Whether a password is worth hashing at all.
pub(super) fn is_possible(password: &str) -> bool {
    password.len() <= PASSWORD_SIZE_MAX
}

/// Without control characters and invisible direction marks (they make one name look like another), cut at a character.
fn printable(text: &str, size_max: usize) -> Box<str> {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let mut clean: String = text.chars().filter(|c| !hidden(*c)).collect();
    clean.truncate(clean.floor_char_boundary(size_max));
    clean.trim().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_one_canonical_name() {
        assert_eq!(canonical("Ada.L-1_x").as_deref(), Some("ada.l-1_x"));
        // Cyrillic а, full-width a, combining accent, space, empty, too long.
        for name in ["\u{430}da", "\u{ff41}da", "ada\u{301}", "a da", "a", "", &"a".repeat(33), "ada\0", "../etc"] {
            assert_eq!(canonical(name), None, "{name:?}");
        }
    }

    #[test]
    fn display_names_cannot_play_tricks() {
        assert_eq!(&*display(Some("Ada \u{202e}ecaL\x1b[31m"), "ada"), "Ada ecaL[31m");
        assert_eq!(&*display(Some(" \u{200b}\n"), "ada"), "ada");
        assert_eq!(display(Some(&"ü".repeat(100)), "ada").len(), 64);
    }

    #[test]
    fn a_password_is_not_the_name_and_not_too_short_or_long() {
        assert!(is_strong("correct horse", "ada"));
        assert!(!is_strong("short", "ada"));
        assert!(!is_strong("AdaLovelace", "adalovelace"));
        assert!(!is_strong(&"x".repeat(1025), "ada"));
    }
}
