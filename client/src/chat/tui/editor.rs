//! The input field: several lines, a cursor, the keys one expects. Pure. Never wraps: the view does.

/// Longest input. Unit: bytes. What a message may carry.
const TEXT_SIZE_MAX: usize = tern_protocol::limit::BODY_SIZE_MAX;

/// What is being written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Editor {
    text: String,
    /// A byte offset, on a character boundary.
    cursor: usize,
}

impl Editor {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What stands before the cursor.
    pub(super) fn before(&self) -> &str {
        self.text.get(..self.cursor).unwrap_or_default()
    }

    fn after(&self) -> &str {
        self.text.get(self.cursor..).unwrap_or_default()
    }

    pub(super) fn set(&mut self, text: &str) {
        text.clone_into(&mut self.text);
        self.cursor = self.text.len();
    }

    pub(super) fn take(&mut self) -> String {
        self.cursor = 0;
        std::mem::take(&mut self.text)
    }

    pub(super) fn insert(&mut self, text: &str) {
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        if self.text.len() + text.len() <= TEXT_SIZE_MAX {
            self.text.insert_str(self.cursor, &text);
            self.cursor += text.len();
        }
    }

    pub(super) fn backspace(&mut self) {
        let to = self.cursor;
        self.left();
        self.text.replace_range(self.cursor..to, "");
    }

    pub(super) fn delete(&mut self) {
        let length = self.after().chars().next().map_or(0, char::len_utf8);
        self.text.replace_range(self.cursor..self.cursor + length, "");
    }

    /// Removes the word before the cursor, and the spaces behind it.
    pub(super) fn delete_word(&mut self) {
        let kept = self.before().trim_end();
        let start =
            kept.rfind(char::is_whitespace).map_or(0, |at| at + kept[at..].chars().next().map_or(1, char::len_utf8));
        self.text.replace_range(start..self.cursor, "");
        self.cursor = start;
    }

    /// Removes everything before the cursor on its line.
    pub(super) fn delete_line(&mut self) {
        let start = self.line_start();
        self.text.replace_range(start..self.cursor, "");
        self.cursor = start;
    }

    pub(super) fn left(&mut self) {
        self.cursor -= self.before().chars().next_back().map_or(0, char::len_utf8);
    }

    pub(super) fn right(&mut self) {
        self.cursor += self.after().chars().next().map_or(0, char::len_utf8);
    }

    pub(super) fn home(&mut self) {
        self.cursor = self.line_start();
    }

    pub(super) fn end(&mut self) {
        self.cursor += self.after().find('\n').unwrap_or(self.after().len());
    }

    /// To the line above; `false` on the first one.
    pub(super) fn up(&mut self) -> bool {
        let start = self.line_start();
        let Some(above_end) = start.checked_sub(1) else { return false };
        let column = self.column();
        let above_start = self.text.get(..above_end).and_then(|text| text.rfind('\n')).map_or(0, |at| at + 1);
        self.cursor = self.at_column(above_start, column);
        true
    }

    /// To the line below; `false` on the last one.
    pub(super) fn down(&mut self) -> bool {
        let Some(end) = self.after().find('\n') else { return false };
        self.cursor = self.at_column(self.cursor + end + 1, self.column());
        true
    }

    fn line_start(&self) -> usize {
        self.before().rfind('\n').map_or(0, |at| at + 1)
    }

    /// Characters between the line's start and the cursor.
    fn column(&self) -> usize {
        self.text.get(self.line_start()..self.cursor).map_or(0, |text| text.chars().count())
    }

    fn at_column(&self, start: usize, column: usize) -> usize {
        let line = self.text.get(start..).unwrap_or_default().split('\n').next().unwrap_or_default();
        start + line.char_indices().nth(column).map_or(line.len(), |(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_what_one_expects() {
        let mut editor = Editor::default();
        editor.insert("héllo wörld");
        editor.delete_word();
        assert_eq!(editor.text(), "héllo ");
        editor.home();
        editor.right();
        editor.delete();
        assert_eq!(editor.text(), "hllo ");
        editor.end();
        editor.backspace();
        editor.insert("\nsecond line\nx");
        assert!(editor.up());
        editor.home();
        assert_eq!(editor.before(), "hllo\n");
        assert!(editor.up() && !editor.up());
        assert!(editor.down() && editor.down() && !editor.down());
        editor.delete_line();
        assert_eq!(editor.take(), "hllo\nsecond line\nx");
        assert_eq!(editor.text(), "");
    }

    #[test]
    fn the_cursor_stays_on_characters_at_both_ends() {
        let mut editor = Editor::default();
        editor.left();
        editor.backspace();
        editor.delete_word();
        editor.insert("日本");
        editor.right();
        editor.left();
        editor.left();
        editor.left();
        editor.delete();
        assert_eq!(editor.text(), "本");
    }

    #[test]
    fn more_than_a_message_carries_is_not_taken() {
        let mut editor = Editor::default();
        editor.insert(&"x".repeat(TEXT_SIZE_MAX));
        editor.insert("y");
        assert_eq!(editor.text().len(), TEXT_SIZE_MAX);
    }
}
