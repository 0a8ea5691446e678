//! Asks the person on the terminal: a password without echo, a yes or no. Never reads from a pipe: a script must not hang.
#![expect(clippy::wildcard_enum_match_arm, reason = "most keys mean nothing to a prompt")]

use std::io::{IsTerminal as _, Write as _};

use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, read};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};

use crate::failure::{Cause, Failure};

/// Longest password that is read. Unit: characters. The server takes 1024 bytes.
const PASSWORD_LENGTH_MAX: usize = 1024;

/// Puts the terminal back when a prompt ends, however it ends.
struct RawMode;

impl RawMode {
    fn enter() -> std::io::Result<Self> {
        enable_raw_mode().map(|()| Self)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = disable_raw_mode();
    }
}

/// Whether there is somebody to ask.
pub(crate) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks for a password, showing nothing of it.
pub(crate) fn password(question: &str) -> Result<String, Failure> {
    let mut password = String::new();
    ask(question, |code| match code {
        KeyCode::Enter => true,
        KeyCode::Backspace => {
            password.pop();
            false
        }
        KeyCode::Char(c) if password.chars().count() < PASSWORD_LENGTH_MAX => {
            password.push(c);
            false
        }
        _ => false,
    })?;
    Ok(password)
}

/// Asks a question; yes is `y`.
pub(crate) fn confirm(question: &str) -> Result<bool, Failure> {
    let mut yes = false;
    ask(&format!("{question} [y/N] "), |code| {
        yes = matches!(code, KeyCode::Char('y' | 'Y'));
        matches!(code, KeyCode::Char(_) | KeyCode::Enter | KeyCode::Esc)
    })?;
    Ok(yes)
}

/// Shows a question and hands keys to `done` until it says so.
fn ask(question: &str, mut done: impl FnMut(KeyCode) -> bool) -> Result<(), Failure> {
    let mut terminal = std::io::stderr();
    write!(terminal, "{question}")?;
    terminal.flush()?;
    let raw = RawMode::enter()?;
    let ended = loop {
        if let Event::Key(key) = read()?
            && key.kind != KeyEventKind::Release
        {
            if key.modifiers.contains(KeyModifiers::CONTROL) && matches!(key.code, KeyCode::Char('c' | 'd')) {
                break Err(Failure::new(Cause::Local, "stopped"));
            }
            if done(key.code) {
                break Ok(());
            }
        }
    };
    drop(raw);
    writeln!(terminal)?;
    ended
}
