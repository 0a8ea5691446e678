//! Draws the model. Pure: the same model at the same moment gives the same cells. Never changes it.

use jiff::tz::TimeZone;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Position, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph};
use tern_client::{ConnectionState, Timestamp};

use super::commands::HELP;
use super::lines::{self, DIM, format_time};
use super::model::{Focus, Mode, Model, Overlay};
use super::room::{Past, Room};
use crate::text::{cut, width, wrap};

/// Cells of the conversation list.
const LIST_WIDTH: u16 = 26;
/// Under this width the list is shown only while it has the focus.
const LIST_SCREEN_WIDTH_MIN: u16 = 60;
/// Lines of input that are visible at once.
const INPUT_HEIGHT_MAX: usize = 6;

/// Where everything goes.
pub(super) struct Areas {
    list: Rect,
    title: Rect,
    messages: Rect,
    typing: Rect,
    input: Rect,
    status: Rect,
}

impl Areas {
    /// Splits the screen.
    pub(super) fn of(model: &Model, screen: Rect) -> Self {
        let [body, status] = Layout::vertical([Constraint::Min(1), Constraint::Length(1)]).areas(screen);
        let list_width = match (screen.width >= LIST_SCREEN_WIDTH_MIN, model.focus) {
            (true, _) => LIST_WIDTH,
            (false, Focus::List) => screen.width,
            (false, Focus::Input | Focus::Messages) => 0,
        };
        let [list, room] = Layout::horizontal([Constraint::Length(list_width), Constraint::Min(0)]).areas(body);
        let input_lines = wrap(model.editor.text(), input_width(room.width)).len().min(INPUT_HEIGHT_MAX);
        let input_height = u16::try_from(input_lines).unwrap_or(1) + 1;
        let [title, messages, typing, input] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Min(1),
            Constraint::Length(1),
            Constraint::Length(input_height),
        ])
        .areas(room);
        Self { list, title, messages, typing, input, status }
    }

    /// Size of the message pane, for scrolling.
    pub(super) fn pane(&self) -> (usize, usize) {
        (usize::from(self.messages.width), usize::from(self.messages.height))
    }
}

fn input_width(width: u16) -> usize {
    // Two cells of prompt, one for the cursor behind a full line.
    usize::from(width.saturating_sub(3)).max(2)
}

/// Draws everything. `time` is the wall clock, for days and "last seen".
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, time: Timestamp, zone: &TimeZone) {
    let areas = Areas::of(model, frame.area());
    draw_list(model, frame, areas.list);
    draw_title(model, frame, areas.title, time, zone);
    draw_messages(model, frame, areas.messages, zone);
    draw_typing(model, frame, areas.typing);
    draw_input(model, frame, areas.input);
    draw_status(model, frame, areas.status);
    if let Some(overlay) = &model.overlay {
        draw_overlay(model, overlay, frame);
    }
}

fn border(focused: bool) -> Style {
    if focused { Style::new().fg(Color::Blue) } else { DIM }
}

fn draw_list(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    if area.width < 4 {
        return;
    }
    let block = Block::new().borders(Borders::RIGHT).border_style(border(model.focus == Focus::List));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let order = model.order();
    let rows = usize::from(inner.height / 2).max(1);
    let at = model.selected.and_then(|id| order.iter().position(|other| *other == id)).unwrap_or(0);
    let first = (at + 1).saturating_sub(rows);
    let cells = usize::from(inner.width);
    let mut text = Vec::new();
    for room in order.iter().skip(first).take(rows).filter_map(|id| model.rooms.get(id)) {
        text.extend(list_entry(model, room, cells));
    }
    if order.is_empty() {
        let hint = if model.loaded { "No conversations yet. /dm NAME begins one." } else { "Loading…" };
        text.extend(wrap(hint, cells).into_iter().map(|line| Line::styled(line, DIM)));
    }
    frame.render_widget(Paragraph::new(text), inner);
}

fn list_entry(model: &Model, room: &Room, cells: usize) -> [Line<'static>; 2] {
    let view = &room.view;
    let selected = model.selected == Some(view.conversation);
    let unread = view.unread();
    let count = if unread > 999 { " 999+".to_owned() } else { format!(" {unread}") };
    let count = if unread > 0 { count } else { String::new() };
    let peer = view.conversation.peer_of(model.me).filter(|peer| *peer != model.me);
    let dot = peer.map_or_else(|| Span::styled("# ", DIM), |peer| presence_dot(model, peer));
    let room_for_title = cells.saturating_sub(2 + width(&count));
    let title = cut(&model.title(view), room_for_title);
    let gap = " ".repeat(room_for_title.saturating_sub(width(&title)));
    let mut style = if unread > 0 { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
    if selected {
        style = style.bg(Color::Blue).fg(Color::White);
    }
    let count_style = if selected { style } else { Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD) };
    let head = Line::from(vec![dot, Span::styled(title + &gap, style), Span::styled(count, count_style)]);
    let sender = match view.preview_sender.filter(|_| !view.preview.is_empty()) {
        Some(sender) if sender == model.me => "you: ".to_owned(),
        Some(sender) if peer.is_none() => format!("{}: ", model.name(sender)),
        Some(_) | None => String::new(),
    };
    let preview = cut(&format!("{sender}{}", view.preview), cells.saturating_sub(2));
    [head, Line::styled(format!("  {preview}"), DIM)]
}

fn presence_dot(model: &Model, user: tern_client::UserId) -> Span<'static> {
    if model.presence.get(&user).is_some_and(|presence| presence.online) {
        Span::styled("● ", Style::new().fg(Color::Green))
    } else {
        Span::styled("○ ", DIM)
    }
}

fn draw_title(model: &Model, frame: &mut Frame<'_>, area: Rect, time: Timestamp, zone: &TimeZone) {
    let block = Block::new().borders(Borders::BOTTOM).border_style(border(model.focus == Focus::Messages));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let Some(room) = model.room() else { return };
    let view = &room.view;
    let peer = view.conversation.peer_of(model.me).filter(|peer| *peer != model.me);
    let about = match peer {
        Some(peer) => about_peer(model, peer, time, zone),
        None => format!("{} members · you are {}", view.members, view.role.name()),
    };
    let cells = usize::from(inner.width);
    let title = cut(&model.title(view), cells.saturating_sub(width(&about) + 5).max(8));
    let dot = peer.map_or_else(|| Span::styled("# ", DIM), |peer| presence_dot(model, peer));
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let line = Line::from(vec![dot, Span::styled(title, bold), Span::styled(format!("  {about}"), DIM)]);
    frame.render_widget(line, inner);
}

fn about_peer(model: &Model, peer: tern_client::UserId, time: Timestamp, zone: &TimeZone) -> String {
    match model.presence.get(&peer) {
        Some(presence) if presence.online => "online".to_owned(),
        Some(presence) => presence.last_seen.map_or_else(
            || "offline".to_owned(),
            |seen| {
                let today = format_time(seen, zone, "%F") == format_time(time, zone, "%F");
                let format = if today { "last seen at %H:%M" } else { "last seen on %-d %B at %H:%M" };
                format_time(seen, zone, format)
            },
        ),
        None => String::new(),
    }
}

/// Lines from the bottom up, until the pane is full: what is above costs nothing.
fn draw_messages(model: &Model, frame: &mut Frame<'_>, area: Rect, zone: &TimeZone) {
    let Some(room) = model.room() else {
        return draw_empty(model, frame, area);
    };
    let (cells, height) = (usize::from(area.width), usize::from(area.height));
    let wanted = height + room.scroll;
    let mut blocks = Vec::new();
    let mut count = 0;
    for pending in room.pending.iter().rev() {
        let block = lines::of_pending(pending, cells);
        count += block.len();
        blocks.push(block);
    }
    let mut entries = room.entries.values().rev().peekable();
    while let Some(entry) = entries.next() {
        if count >= wanted {
            break;
        }
        // Edits and recalls take no line: the name above belongs to the last entry that does.
        while entries.peek().is_some_and(|before| lines::height(before, cells) == 0) {
            entries.next();
        }
        let block = lines::of_entry(model, room, entry, entries.peek().copied(), cells, zone);
        count += block.len();
        blocks.push(block);
    }
    if count < wanted {
        let past = match room.past {
            Past::Complete => None,
            Past::Loading => Some("loading…"),
            Past::Partial => Some("PgUp: older messages"),
        };
        blocks.extend(past.map(|past| vec![Line::styled(past, DIM)]));
    }
    let all: Vec<Line<'static>> = blocks.into_iter().rev().flatten().collect();
    let scroll = room.scroll.min(all.len().saturating_sub(height));
    let end = all.len() - scroll;
    let visible: Vec<_> = all.into_iter().take(end).skip(end.saturating_sub(height)).collect();
    let top = height - visible.len();
    let [_, bottom] =
        Layout::vertical([Constraint::Length(u16::try_from(top).unwrap_or(0)), Constraint::Min(0)]).areas(area);
    frame.render_widget(Paragraph::new(visible), bottom);
    if scroll > 0 {
        let hint = " ↓ newer messages ";
        let x = area.right().saturating_sub(u16::try_from(width(hint)).unwrap_or(0));
        let place = Rect::new(x, area.bottom().saturating_sub(1), area.right() - x, 1);
        frame.render_widget(Span::styled(hint, Style::new().fg(Color::Black).bg(Color::Yellow)), place);
    }
}

fn draw_empty(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    if model.loaded {
        let hints =
            ["", "  /dm NAME        talk with somebody", "  /group TITLE NAMES…", "  /help           everything else"];
        frame.render_widget(Paragraph::new(hints.map(|hint| Line::styled(hint, DIM)).to_vec()), area);
    }
}

fn draw_typing(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let cells = usize::from(area.width);
    if let Some(notice) = &model.notice {
        let style = Style::new().fg(if notice.bad { Color::Red } else { Color::Green });
        frame.render_widget(Line::styled(cut(&notice.text, cells), style), area);
        return;
    }
    let Some(room) = model.room() else { return };
    let names: Vec<String> = room.typing(model.now).map(|user| model.name(user)).collect();
    let text = match names.as_slice() {
        [] => return,
        [one] => format!("{one} is writing…"),
        [one, two] => format!("{one} and {two} are writing…"),
        many => format!("{} people are writing…", many.len()),
    };
    frame.render_widget(Line::styled(cut(&text, cells), DIM.add_modifier(Modifier::ITALIC)), area);
}

fn draw_input(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let block = Block::new().borders(Borders::TOP).border_style(border(model.focus == Focus::Input));
    let block = match model.mode {
        Mode::Write => block,
        Mode::Edit(_) => block.title(" editing, Esc cancels "),
        Mode::Reply(seq) => {
            let to = model.room().and_then(|room| room.entries.get(&seq)).map(|entry| model.name(entry.event.sender));
            block.title(format!(" replying to {}, Esc cancels ", to.unwrap_or_default()))
        }
    };
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let cells = input_width(area.width);
    let before = wrap(model.editor.before(), cells);
    // Spaces at a line's end are not drawn, but the cursor stands behind them.
    let trailing = model.editor.before().len() - model.editor.before().trim_end_matches(' ').len();
    let all = wrap(model.editor.text(), cells);
    let row = before.len() - 1;
    let height = usize::from(inner.height).max(1);
    let first = (row + 1).saturating_sub(height);
    let shown: Vec<_> = all
        .into_iter()
        .enumerate()
        .skip(first)
        .take(height)
        .map(|(at, line)| {
            let prompt = if at == 0 { Span::styled("> ", DIM) } else { Span::raw("  ") };
            Line::from(vec![prompt, Span::raw(crate::text::clean(&line))])
        })
        .collect();
    frame.render_widget(Paragraph::new(shown), inner);
    if model.focus == Focus::Input && model.overlay.is_none() {
        let column = (before.last().map_or(0, |line| width(line)) + trailing).min(cells);
        let x = inner.x + 2 + u16::try_from(column).unwrap_or(0);
        let y = inner.y + u16::try_from(row - first).unwrap_or(0);
        frame.set_cursor_position(Position::new(x.min(area.right().saturating_sub(1)), y));
    }
}

fn draw_status(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let (mark, text, color) = match &model.state {
        ConnectionState::Online { transport } => ("●", format!("online · {transport}"), Color::Green),
        ConnectionState::Connecting => ("○", "connecting…".to_owned(), Color::Yellow),
        ConnectionState::Waiting { retry_at, why } => {
            let left = retry_at.saturating_duration_since(model.now).as_millis().div_ceil(1000);
            ("○", format!("reconnecting in {left} s ({})", crate::text::clean_line(why)), Color::Yellow)
        }
        ConnectionState::Stopped(reason) => ("✗", format!("stopped: {reason}"), Color::Red),
    };
    let right = "F1 help ";
    let who = format!(" · {} at {}", model.user, model.server);
    let cells = usize::from(area.width).saturating_sub(width(right) + 3);
    let text = cut(&text, cells.saturating_sub(width(&who)).max(16));
    let rest = cut(&who, cells.saturating_sub(width(&text)));
    let used = 3 + width(&text) + width(&rest);
    let gap = usize::from(area.width).saturating_sub(used + width(right));
    let line = Line::from(vec![
        Span::styled(format!(" {mark} "), Style::new().fg(color)),
        Span::raw(text),
        Span::styled(rest, DIM),
        Span::raw(" ".repeat(gap)),
        Span::styled(right, DIM),
    ]);
    frame.render_widget(line, area);
}

fn draw_overlay(model: &Model, overlay: &Overlay, frame: &mut Frame<'_>) {
    let (title, text): (String, Vec<Line<'static>>) = match overlay {
        Overlay::Help => {
            let line = |(key, what): &(&str, &str)| Line::raw(format!("{key:<30} {what}"));
            ("help".to_owned(), HELP.iter().map(line).collect())
        }
        Overlay::Members { title, members } => {
            let line = |(role, user): &(tern_client::Role, tern_client::UserId)| {
                Line::raw(format!("{:<30} {}", cut(&model.name(*user), 29), role.name()))
            };
            (title.clone(), members.iter().map(line).collect())
        }
    };
    let screen = frame.area();
    let width = text.iter().map(Line::width).max().unwrap_or(0).max(30) + 4;
    let width = u16::try_from(width).unwrap_or(u16::MAX).min(screen.width);
    let height = u16::try_from(text.len() + 2).unwrap_or(u16::MAX).min(screen.height);
    let area = Rect::new((screen.width - width) / 2, (screen.height - height) / 2, width, height);
    let block =
        Block::bordered().title(format!(" {title} — any key closes ")).border_style(Style::new().fg(Color::Blue));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(text).block(block), area);
}
