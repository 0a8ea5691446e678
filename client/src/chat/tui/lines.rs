//! Events as lines of the message pane. Pure. Never decides which of them are visible.
#![expect(clippy::wildcard_enum_match_arm, reason = "the SDK's events are open: unknown ones are shown as nothing")]

use jiff::tz::TimeZone;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use tern_client::{EventKind, SendState, Seq, Timestamp, UserId};

use super::model::Model;
use super::room::{Entry, Pending, Room};
use crate::text::{cut, width, wrap};

/// Messages of one sender within this time stand under one name. Unit: microseconds.
const TOGETHER_US: u64 = 5 * 60 * 1_000_000;
/// Left margin of a body.
const INDENT: &str = "  ";
/// Colours of names: readable on dark and on light.
const NAME_COLORS: [Color; 6] =
    [Color::Cyan, Color::Green, Color::Magenta, Color::Yellow, Color::LightBlue, Color::LightRed];

pub(super) const DIM: Style = Style::new().fg(Color::DarkGray);

/// About how many lines an entry takes, headings left out.
pub(super) fn height(entry: &Entry, width: usize) -> usize {
    match entry.event.kind {
        EventKind::Edited | EventKind::Recalled | EventKind::Unknown(_) => 0,
        EventKind::Message => {
            wrap(&entry.text, body_width(width)).len() + usize::from(entry.event.target.is_some()) + 1
        }
        _ => 1,
    }
}

const fn body_width(width: usize) -> usize {
    // Room for the margin and the state mark.
    width.saturating_sub(INDENT.len() + 3)
}

/// The colour of a user's name.
pub(super) fn name_style(user: UserId, me: UserId) -> Style {
    let index = usize::try_from(user.raw() % NAME_COLORS.len() as u64).unwrap_or(0);
    let color = if user == me { Color::Blue } else { NAME_COLORS.get(index).copied().unwrap_or(Color::Cyan) };
    Style::new().fg(color).add_modifier(Modifier::BOLD)
}

/// Everything that draws one entry. `before` is the one above it.
pub(super) fn of_entry(
    model: &Model,
    room: &Room,
    entry: &Entry,
    before: Option<&Entry>,
    width: usize,
    zone: &TimeZone,
) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let event = &entry.event;
    if matches!(event.kind, EventKind::Edited | EventKind::Recalled | EventKind::Unknown(_)) {
        return lines;
    }
    let day = format_time(event.time, zone, "%A %-d %B %Y");
    let new_day = before.is_none_or(|before| format_time(before.event.time, zone, "%A %-d %B %Y") != day);
    if new_day {
        lines.push(rule(&day, width, DIM));
    }
    if room.new_from == Some(event.seq) {
        lines.push(rule("new", width, Style::new().fg(Color::Yellow)));
    }
    if event.kind != EventKind::Message {
        lines.push(Line::styled(cut(&format!("— {}", news(model, entry)), width), DIM));
        return lines;
    }
    let together = before.is_some_and(|before| {
        before.event.kind == EventKind::Message
            && before.event.sender == event.sender
            && event.time.raw().saturating_sub(before.event.time.raw()) < TOGETHER_US
    });
    if !together || new_day {
        let time = format_time(event.time, zone, "%H:%M");
        let name = cut(&model.name(event.sender), width.saturating_sub(8));
        let style = name_style(event.sender, model.me);
        lines.push(Line::from(vec![Span::styled(name, style), Span::styled(format!("  {time}"), DIM)]));
    }
    if let Some(target) = event.target {
        lines.push(quote(model, room, target, width));
    }
    lines.extend(body(model, room, entry, width));
    lines
}

fn body(model: &Model, room: &Room, entry: &Entry, width: usize) -> Vec<Line<'static>> {
    let chosen = room.cursor == Some(entry.event.seq);
    let mut style = Style::new();
    if chosen {
        style = style.add_modifier(Modifier::REVERSED);
    }
    let text = if entry.recalled { "(message recalled)" } else { entry.text.as_str() };
    if entry.recalled {
        style = style.fg(Color::DarkGray).add_modifier(Modifier::ITALIC);
    }
    let mut lines: Vec<Line<'static>> = wrap(text, body_width(width))
        .into_iter()
        .map(|line| Line::from(vec![Span::raw(INDENT), Span::styled(line, style)]))
        .collect();
    if let Some(last) = lines.last_mut() {
        if entry.edited && !entry.recalled {
            last.push_span(Span::styled(" (edited)", DIM));
        }
        if entry.event.sender == model.me && !entry.recalled {
            last.push_span(mark(model, room, entry.event.seq));
        }
    }
    lines
}

/// How far an own message has come, as ticks.
fn mark(model: &Model, room: &Room, seq: Seq) -> Span<'static> {
    let direct = room.view.conversation.peer_of(model.me).is_some_and(|peer| peer != model.me);
    if direct && seq <= room.view.peer_read {
        Span::styled(" ✓✓", Style::new().fg(Color::LightBlue))
    } else if direct && seq <= room.view.peer_delivered {
        Span::styled(" ✓✓", DIM)
    } else {
        Span::styled(" ✓", DIM)
    }
}

/// A message that is not an event yet.
pub(super) fn of_pending(pending: &Pending, width: usize) -> Vec<Line<'static>> {
    let (mark, style) = match pending.state {
        SendState::Pending => (" …".to_owned(), DIM),
        SendState::Sent(_) | SendState::Delivered | SendState::Read => (" ✓".to_owned(), DIM),
        SendState::Failed(_) => (" ✗".to_owned(), Style::new().fg(Color::Red)),
    };
    let mut lines: Vec<Line<'static>> = wrap(&pending.text, body_width(width))
        .into_iter()
        .map(|line| Line::from(vec![Span::raw(INDENT), Span::styled(line, DIM)]))
        .collect();
    if let Some(last) = lines.last_mut() {
        last.push_span(Span::styled(mark, style));
    }
    if let SendState::Failed(error) = pending.state {
        let why = wrap(&format!("not sent: {error}. Ctrl-R: try again"), body_width(width));
        lines.extend(why.into_iter().map(|line| Line::styled(format!("{INDENT}{line}"), Style::new().fg(Color::Red))));
    }
    lines
}

/// The beginning of the message that is answered.
fn quote(model: &Model, room: &Room, target: Seq, width: usize) -> Line<'static> {
    let text = match room.entries.get(&target) {
        Some(entry) if entry.recalled => "(message recalled)".to_owned(),
        Some(entry) => format!("{}: {}", model.name(entry.event.sender), entry.text.replace('\n', " ")),
        None => "an earlier message".to_owned(),
    };
    Line::styled(cut(&format!("{INDENT}↳ {text}"), width), DIM)
}

/// What a membership event says.
fn news(model: &Model, entry: &Entry) -> String {
    let event = &entry.event;
    let (sender, subject) = (model.name(event.sender), event.subject.map_or_else(String::new, |user| model.name(user)));
    match event.kind {
        EventKind::Created if event.body.is_empty() => "the conversation begins".to_owned(),
        // The world room is nobody's.
        EventKind::Created if event.sender.raw() == 0 => "the room is open to everyone".to_owned(),
        EventKind::Created => format!("{sender} made the group {}", entry.text.replace('\n', " ")),
        EventKind::Joined => format!("{subject} joined"),
        EventKind::Left => format!("{subject} left"),
        EventKind::Added => format!("{sender} added {subject}"),
        EventKind::Kicked => format!("{sender} removed {subject}"),
        EventKind::Role => format!("{sender} made {subject} {}", event.role.name()),
        _ => String::new(),
    }
}

fn rule(text: &str, cells: usize, style: Style) -> Line<'static> {
    let side = cells.saturating_sub(width(text) + 2) / 2;
    let bar = "─".repeat(side);
    Line::styled(format!("{bar} {text} {bar}"), style)
}

/// A time in the person's zone.
pub(super) fn format_time(time: Timestamp, zone: &TimeZone, format: &str) -> String {
    let us = i64::try_from(time.raw()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_microsecond(us)
        .map(|time| time.to_zoned(zone.clone()).strftime(format).to_string())
        .unwrap_or_default()
}
