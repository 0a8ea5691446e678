//! What each key does to the model.
#![expect(clippy::wildcard_enum_match_arm, reason = "most keys mean nothing")]

use std::time::Duration;

use bytes::Bytes;
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tern_client::{Content, EventKind, PostContent, Seq};

use super::commands::{self, Slash};
use super::lines;
use super::model::{Effect, Focus, Mode, Model, Overlay};
use super::room::is_live_message;

impl Model {
    /// A key was pressed.
    pub(super) fn on_key(&mut self, key: KeyEvent) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && matches!(key.code, KeyCode::Char('c' | 'q')) {
            return self.push(Effect::Quit);
        }
        if self.overlay.take().is_some() {
            return;
        }
        match key.code {
            KeyCode::Char('n') if control => self.open_neighbour(true),
            KeyCode::Char('p') if control => self.open_neighbour(false),
            KeyCode::Char('r') if control => self.retry(),
            KeyCode::Char('l') if control => self.push(Effect::ReconnectNow),
            KeyCode::F(1) => self.overlay = Some(Overlay::Help),
            KeyCode::Tab => self.focus_next(false),
            KeyCode::BackTab => self.focus_next(true),
            KeyCode::PageUp => self.scroll_by(self.pane.1.saturating_sub(2).max(1), true),
            KeyCode::PageDown => self.scroll_by(self.pane.1.saturating_sub(2).max(1), false),
            KeyCode::Esc => self.cancel(),
            _ => match self.focus {
                Focus::Input => self.on_input_key(key, control),
                Focus::List => self.on_list_key(key),
                Focus::Messages => self.on_messages_key(key),
            },
        }
    }

    /// Text was pasted.
    pub(super) fn on_paste(&mut self, text: &str) {
        self.focus = Focus::Input;
        self.editor.insert(text);
    }

    fn focus_next(&mut self, back: bool) {
        self.focus = match (self.focus, back) {
            (Focus::Input, false) | (Focus::Messages, true) => Focus::List,
            (Focus::List, false) | (Focus::Input, true) => Focus::Messages,
            (Focus::Messages, false) | (Focus::List, true) => Focus::Input,
        };
        let messages = self.focus == Focus::Messages;
        if let Some(room) = self.room_mut() {
            room.cursor = None;
            if messages {
                room.move_cursor(true);
            }
        }
    }

    fn cancel(&mut self) {
        if self.mode != Mode::Write {
            self.mode = Mode::Write;
            self.editor.take();
        }
        self.focus = Focus::Input;
        self.notice = None;
        if let Some(room) = self.room_mut() {
            room.cursor = None;
            room.scroll = 0;
        }
        self.mark_read();
    }

    fn on_input_key(&mut self, key: KeyEvent, control: bool) {
        let newline = key.modifiers.intersects(KeyModifiers::ALT | KeyModifiers::SHIFT);
        match key.code {
            KeyCode::Enter if newline => self.editor.insert("\n"),
            KeyCode::Enter => self.submit(),
            KeyCode::Char('j') if control => self.editor.insert("\n"),
            KeyCode::Char('w') if control => self.editor.delete_word(),
            KeyCode::Char('u') if control => self.editor.delete_line(),
            KeyCode::Char('a') if control => self.editor.home(),
            KeyCode::Char('e') if control => self.editor.end(),
            KeyCode::Char(c) if !control => {
                self.editor.insert(c.encode_utf8(&mut [0; 4]));
                self.say_typing();
            }
            KeyCode::Backspace if newline => self.editor.delete_word(),
            KeyCode::Backspace => self.editor.backspace(),
            KeyCode::Delete => self.editor.delete(),
            KeyCode::Left => self.editor.left(),
            KeyCode::Right => self.editor.right(),
            KeyCode::Home => self.editor.home(),
            KeyCode::End => self.editor.end(),
            KeyCode::Up => {
                let moved = self.editor.up();
                if !moved {
                    self.scroll_by(1, true);
                }
            }
            KeyCode::Down => {
                let moved = self.editor.down();
                if !moved {
                    self.scroll_by(1, false);
                }
            }
            _ => {}
        }
    }

    fn on_list_key(&mut self, key: KeyEvent) {
        match key.code {
            KeyCode::Down | KeyCode::Char('j') => self.open_neighbour(true),
            KeyCode::Up | KeyCode::Char('k') => self.open_neighbour(false),
            KeyCode::Enter | KeyCode::Right => self.focus = Focus::Input,
            KeyCode::Char(c) => {
                self.focus = Focus::Input;
                self.editor.insert(c.encode_utf8(&mut [0; 4]));
            }
            _ => {}
        }
    }

    fn on_messages_key(&mut self, key: KeyEvent) {
        match key.code {
            KeyCode::Up | KeyCode::Char('k') => self.choose(true),
            KeyCode::Down | KeyCode::Char('j') => self.choose(false),
            KeyCode::Char('e') => self.begin_edit(),
            KeyCode::Char('r') | KeyCode::Enter => self.begin_reply(),
            KeyCode::Char('d') | KeyCode::Delete => self.recall(),
            _ => {}
        }
    }

    /// Moves the cursor among the messages and keeps it visible.
    fn choose(&mut self, up: bool) {
        let (width, height) = self.pane;
        let Some(room) = self.room_mut() else { return };
        let moved = room.move_cursor(up);
        let Some(cursor) = room.cursor else { return };
        let below: usize = room.entries.range(cursor.next()..).map(|(_, entry)| lines::height(entry, width)).sum();
        let own = room.chosen().map_or(1, |entry| lines::height(entry, width));
        if below < room.scroll {
            room.scroll = below;
        } else if below + own > room.scroll + height {
            room.scroll = below + own - height.min(below + own);
        }
        if up && !moved {
            self.load_past();
        }
    }

    fn scroll_by(&mut self, lines: usize, up: bool) {
        let (width, height) = self.pane;
        let Some(room) = self.room_mut() else { return };
        if up {
            let all = room.entries.values().map(|entry| lines::height(entry, width)).sum::<usize>() + 2;
            room.scroll = (room.scroll + lines).min(all.saturating_sub(height / 2));
            if room.scroll + height >= all {
                self.load_past();
            }
        } else {
            room.scroll = room.scroll.saturating_sub(lines);
            self.mark_read();
        }
    }

    fn retry(&mut self) {
        match self.room().and_then(|room| room.last_failed()).map(|failed| failed.request) {
            Some(request) => self.push(Effect::Retry(request)),
            None => self.say("nothing here has failed", false),
        }
    }

    fn say_typing(&mut self) {
        if let Some(conversation) = self.selected
            && !self.editor.text().starts_with('/')
        {
            self.push(Effect::Typing { conversation, active: true });
        }
    }

    /// Enter: a command, an edit, a reply or a message.
    fn submit(&mut self) {
        let text = self.editor.text().trim_end().to_owned();
        if text.trim().is_empty() {
            return;
        }
        if let Some(line) = text.strip_prefix('/').filter(|line| !line.starts_with('/')) {
            self.editor.take();
            return match commands::parse(line) {
                Ok(slash) => self.on_slash(slash),
                Err(error) => self.say(&error, true),
            };
        }
        // Two slashes at the beginning are one slash of a message.
        let text = text.strip_prefix('/').unwrap_or(&text);
        match self.mode.clone() {
            Mode::Write => self.post_message(text, None),
            Mode::Reply(target) => self.post_message(text, Some(target)),
            Mode::Edit(target) => self.post_edit(text, target),
        }
    }

    fn post_message(&mut self, text: &str, reply_to: Option<Seq>) {
        let body = Bytes::copy_from_slice(text.as_bytes());
        self.post(PostContent::Message { content: Content::Text, reply_to, mentions: Vec::new(), body });
    }

    fn post_edit(&mut self, text: &str, target: Seq) {
        let body = Bytes::copy_from_slice(text.as_bytes());
        self.post(PostContent::Edit { target, content: Content::Text, body });
    }

    fn post(&mut self, content: PostContent) {
        match self.selected {
            Some(conversation) => {
                self.editor.take();
                self.mode = Mode::Write;
                self.push(Effect::Typing { conversation, active: false });
                self.push(Effect::Post { conversation, content });
            }
            None => self.say("no conversation is open: /dm NAME begins one", true),
        }
    }

    fn on_slash(&mut self, slash: Slash) {
        match slash {
            Slash::Help => self.overlay = Some(Overlay::Help),
            Slash::Quit => self.push(Effect::Quit),
            Slash::Edit(None) => self.begin_edit(),
            Slash::Edit(Some(text)) => match self.own_message() {
                Some((target, _)) => self.post_edit(&text, target),
                None => self.say("there is no message of yours to edit", true),
            },
            Slash::Recall => self.recall(),
            Slash::Reply(text) => match self.answerable() {
                Some(target) => self.post_message(&text, Some(target)),
                None => self.say("there is no message to answer", true),
            },
            Slash::Remote(command) => {
                let here = self.selected;
                self.say("…", false);
                self.push(Effect::Remote { here, command });
            }
        }
    }

    /// The chosen message if it is one's own, or the last own one.
    fn own_message(&self) -> Option<(Seq, String)> {
        let room = self.room()?;
        let entry = match room.chosen() {
            Some(chosen) if is_live_message(chosen) && chosen.event.sender == self.me => chosen,
            Some(_) => return None,
            None => room.last_message(self.me, true)?,
        };
        Some((entry.event.seq, entry.event.text().into_owned()))
    }

    fn answerable(&self) -> Option<Seq> {
        let room = self.room()?;
        let entry = room.chosen().or_else(|| room.last_message(self.me, false))?;
        (entry.event.kind == EventKind::Message).then_some(entry.event.seq)
    }

    fn begin_edit(&mut self) {
        match self.own_message() {
            Some((target, _)) => {
                let text = self.room().and_then(|room| room.entries.get(&target)).map(|entry| entry.text.clone());
                self.mode = Mode::Edit(target);
                self.editor.set(&text.unwrap_or_default());
                self.focus = Focus::Input;
            }
            None => self.say("only your own messages can be edited", true),
        }
    }

    fn begin_reply(&mut self) {
        match self.answerable() {
            Some(target) => {
                self.mode = Mode::Reply(target);
                self.focus = Focus::Input;
            }
            None => self.say("there is no message to answer", true),
        }
    }

    fn recall(&mut self) {
        let chosen = self.room().and_then(|room| room.chosen()).filter(|entry| is_live_message(entry));
        let target = chosen.map(|entry| entry.event.seq).or_else(|| self.own_message().map(|(seq, _)| seq));
        match target {
            Some(target) => self.post(PostContent::Recall { target }),
            None => self.say("there is no message of yours to recall", true),
        }
    }

    /// Whether the clock on the screen matters soon: a countdown, a notice, somebody writing.
    pub(super) fn wants_tick(&self) -> Duration {
        if matches!(self.state, tern_client::ConnectionState::Online { .. }) {
            Duration::from_secs(1)
        } else {
            Duration::from_millis(250)
        }
    }
}
