//! What the screen shows at 80x24, as snapshots, and what keys do. No terminal, no network, a fixed clock.
#![expect(clippy::wildcard_enum_match_arm, reason = "tests look for one thing among many")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use expect_test::{Expect, expect};
use jiff::tz::TimeZone;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use tern_client::{
    ConnectionState, Content, ConversationId, ConversationView, EventKind, EventView, HistoryView, LinkTransport,
    PostContent, ProfileView, Progress, RequestId, Role, SendError, SendState, Seq, Timestamp, Update, UserId,
};

use super::commands::Remote;
use super::model::{Effect, Focus, Mode, Model};
use super::view::{self, Areas};

const ADA: UserId = UserId::from_raw(1);
const BOB: UserId = UserId::from_raw(2);
const EVE: UserId = UserId::from_raw(3);
const DIRECT: ConversationId = ConversationId::direct(ADA, BOB);
const GROUP: ConversationId = ConversationId::group(ADA, RequestId::from_raw(9));
/// 2026-03-01 12:00 UTC.
const NOON: u64 = 1_772_366_400_000_000;
const MINUTE: u64 = 60_000_000;

fn conversation(id: ConversationId, title: &str, head: u64, unread: u64) -> ConversationView {
    ConversationView {
        conversation: id,
        title: title.to_owned(),
        head: Seq::from_raw(head),
        head_visible: head,
        head_time: Timestamp::from_raw(NOON + head),
        join: Seq::from_raw(1),
        join_visible: 0,
        read: Seq::from_raw(head - unread),
        read_visible: head - unread,
        peer_read: Seq::from_raw(2),
        peer_delivered: Seq::from_raw(4),
        members: 3,
        role: Role::Owner,
        preview_seq: None,
        preview_sender: Some(BOB),
        preview: "shall we?".to_owned(),
    }
}

fn event(conversation: ConversationId, seq: u64, sender: UserId, body: &str) -> EventView {
    EventView {
        conversation,
        seq: Seq::from_raw(seq),
        time: Timestamp::from_raw(NOON + seq * MINUTE),
        visible: seq,
        sender,
        request: RequestId::from_raw(u128::from(seq)),
        target: None,
        revised: None,
        subject: None,
        kind: EventKind::Message,
        role: Role::Member,
        mentions: Vec::new(),
        content: Content::Text,
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

fn profile(user: UserId, name: &str) -> ProfileView {
    ProfileView { user, name: name.to_owned(), display: String::new() }
}

fn model() -> Model {
    let mut model = Model::new(ADA, "ada", "localhost:7443", Instant::now());
    model.on_update(Update::State(ConnectionState::Online { transport: LinkTransport::Quic }));
    model.on_update(Update::Conversation(Box::new(conversation(DIRECT, "", 5, 0))));
    model.on_update(Update::Conversation(Box::new(conversation(GROUP, "Weekend plans", 3, 2))));
    model.on_update(Update::Presence { user: BOB, online: true, last_seen: None });
    model.on_profiles(vec![profile(BOB, "bob"), profile(EVE, "eve")]);
    model.on_update(Update::DirectoryLoaded);
    model.open(DIRECT);
    model
}

fn with_history() -> Model {
    let mut model = model();
    let mut reply = event(DIRECT, 4, ADA, "At three. Bring the long map of the northern mountains, and a lamp.");
    reply.target = Some(Seq::from_raw(3));
    let events = vec![
        event(DIRECT, 2, ADA, "Are we walking on Sunday?"),
        event(DIRECT, 3, BOB, "Yes! When?"),
        reply,
        event(DIRECT, 5, BOB, "日本語 too: \x1b[31mred\u{202e}drawkcab"),
    ];
    let page = HistoryView { conversation: DIRECT, head: Seq::from_raw(5), first: Seq::from_raw(1), events };
    model.on_history(DIRECT, Ok(page));
    model
}

fn screen(model: &mut Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a test terminal");
    let time = Timestamp::from_raw(NOON + 60 * MINUTE);
    terminal
        .draw(|frame| {
            model.pane = Areas::of(model, frame.area()).pane();
            view::draw(model, frame, time, &TimeZone::UTC);
        })
        .expect("draws");
    let buffer = terminal.backend().buffer().clone();
    let rows = (0..height).map(|y| {
        let mut row = String::new();
        let mut skip = 0;
        for x in 0..width {
            let symbol = buffer.cell((x, y)).map_or("", |cell| cell.symbol());
            if skip > 0 {
                skip -= 1;
                continue;
            }
            skip = crate::text::width(symbol).saturating_sub(1);
            row.push_str(symbol);
        }
        row.trim_end().to_owned() + "\n"
    });
    rows.collect()
}

fn check(model: &mut Model, expected: &Expect) {
    expected.assert_eq(&screen(model, 80, 24));
}

fn press(model: &mut Model, code: KeyCode) {
    model.on_key(KeyEvent::new(code, KeyModifiers::NONE));
}

fn press_control(model: &mut Model, c: char) {
    model.on_key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL));
}

fn type_text(model: &mut Model, text: &str) {
    text.chars().for_each(|c| press(model, KeyCode::Char(c)));
}

fn body(text: &str) -> PostContent {
    let body = Bytes::copy_from_slice(text.as_bytes());
    PostContent::Message { content: Content::Text, reply_to: None, mentions: Vec::new(), body }
}

#[test]
fn a_conversation_shows_names_times_marks_and_quotes_and_nothing_of_others_escapes() {
    let mut model = with_history();
    check(
        &mut model,
        &expect![[r#"
        ● bob                    │● bob  online
          shall we?              │──────────────────────────────────────────────────────
        # Weekend plans         2│
          bob: shall we?         │
                                 │
                                 │
                                 │
                                 │
                                 │PgUp: older messages
                                 │──────────────── Sunday 1 March 2026 ────────────────
                                 │ada  12:02
                                 │  Are we walking on Sunday? ✓✓
                                 │bob  12:03
                                 │  Yes! When?
                                 │ada  12:04
                                 │  ↳ bob: Yes! When?
                                 │  At three. Bring the long map of the northern
                                 │  mountains, and a lamp. ✓✓
                                 │bob  12:05
                                 │  日本語 too: \u{1b}[31mred\u{202e}drawkcab
                                 │
                                 │──────────────────────────────────────────────────────
                                 │>
         ● online · QUIC · ada at localhost:7443                                F1 help
    "#]],
    );
}

#[test]
fn messages_under_way_and_failed_ones_say_so() {
    let mut model = with_history();
    model.on_posted(DIRECT, RequestId::from_raw(70), &body("still on its way"));
    model.on_posted(DIRECT, RequestId::from_raw(71), &body("this one failed"));
    let state = SendState::Failed(SendError::Unconfirmed);
    let progress = Progress { request: RequestId::from_raw(71), conversation: DIRECT, state, time: Timestamp::ZERO };
    model.on_update(Update::Send(progress));
    let retry_at = model.now + Duration::from_millis(2500);
    let why = "no answer".to_owned();
    model.on_update(Update::State(ConnectionState::Waiting { retry_at, why }));
    check(
        &mut model,
        &expect![[r#"
            ● bob                    │● bob  online
              shall we?              │──────────────────────────────────────────────────────
            # Weekend plans         2│
              bob: shall we?         │
                                     │PgUp: older messages
                                     │──────────────── Sunday 1 March 2026 ────────────────
                                     │ada  12:02
                                     │  Are we walking on Sunday? ✓✓
                                     │bob  12:03
                                     │  Yes! When?
                                     │ada  12:04
                                     │  ↳ bob: Yes! When?
                                     │  At three. Bring the long map of the northern
                                     │  mountains, and a lamp. ✓✓
                                     │bob  12:05
                                     │  日本語 too: \u{1b}[31mred\u{202e}drawkcab
                                     │  still on its way …
                                     │  this one failed ✗
                                     │  not sent: the server did not confirm it in time.
                                     │  Ctrl-R: try again
                                     │not sent: the server did not confirm it in time (Ctrl…
                                     │──────────────────────────────────────────────────────
                                     │>
             ○ reconnecting in 3 s (no answer) · ada at localhost:7443              F1 help
        "#]],
    );
    press_control(&mut model, 'r');
    assert!(model.take_effects().contains(&Effect::Retry(RequestId::from_raw(71))));
}

#[test]
fn a_group_shows_members_coming_and_going_and_where_the_new_messages_begin() {
    let mut model = model();
    model.on_update(Update::Conversation(Box::new(conversation(GROUP, "Weekend plans", 3, 2))));
    model.open(GROUP);
    let mut created = event(GROUP, 1, ADA, "Weekend plans");
    created.kind = EventKind::Created;
    let mut added = event(GROUP, 2, ADA, "");
    added.kind = EventKind::Added;
    added.subject = Some(EVE);
    let events = vec![created, added, event(GROUP, 3, EVE, "Hello!\nTwo lines.")];
    let page = HistoryView { conversation: GROUP, head: Seq::from_raw(3), first: Seq::from_raw(1), events };
    model.on_history(GROUP, Ok(page));
    model.on_update(Update::Typing { conversation: GROUP, user: BOB, active: true });
    check(
        &mut model,
        &expect![[r#"
        ● bob                    │# Weekend plans  3 members · you are owner
          shall we?              │──────────────────────────────────────────────────────
        # Weekend plans         2│
          bob: shall we?         │
                                 │
                                 │
                                 │
                                 │
                                 │
                                 │
                                 │
                                 │
                                 │
                                 │──────────────── Sunday 1 March 2026 ────────────────
                                 │— ada made the group Weekend plans
                                 │──────────────────────── new ────────────────────────
                                 │— ada added eve
                                 │eve  12:03
                                 │  Hello!
                                 │  Two lines.
                                 │bob is writing…
                                 │──────────────────────────────────────────────────────
                                 │>
         ● online · QUIC · ada at localhost:7443                                F1 help
    "#]],
    );
    model.tick(model.now + Duration::from_secs(7));
    assert!(!screen(&mut model, 80, 24).contains("writing"));
}

#[test]
fn the_help_fits_the_smallest_usual_terminal() {
    let mut model = model();
    press(&mut model, KeyCode::F(1));
    check(
        &mut model,
        &expect![[r#"
        ● bob                    │● bob  online
          ┌ help — any key closes ──────────────────────────────────────────────────┐───
        # │/dm NAME                       talk with somebody                        │
          │/group TITLE NAMES…            make a group; "quote a title of words"    │
          │/invite NAMES…                 add people to this group                  │
          │/kick NAME                     remove somebody                           │
          │/role NAME member|admin|owner  give a role                               │
          │/join ID                       join an open group                        │
          │/leave                         leave this group                          │
          │/members                       who is here                               │
          │/edit [TEXT]                   change your last, or the chosen, message  │
          │/recall                        take it back                              │
          │/reply TEXT                    answer the last, or the chosen, message   │
          │/quit                          leave tern-chat                           │
          │                                                                         │
          │Enter / Alt-Enter              send / new line                           │
          │Tab                            input, conversations, messages            │
          │Ctrl-N Ctrl-P                  next, previous conversation               │
          │PgUp PgDn                      older, newer messages                     │
          │e r d                          edit, reply, recall the chosen message    │
          │Ctrl-R                         try a failed message again                │
          │Esc / Ctrl-C                   cancel / quit                             │───
          └─────────────────────────────────────────────────────────────────────────┘
         ● online · QUIC · ada at localhost:7443                                F1 help
    "#]],
    );
    press(&mut model, KeyCode::Char('x'));
    assert!(model.overlay.is_none() && model.editor.text().is_empty());
}

#[test]
fn no_size_of_the_terminal_breaks_the_screen() {
    let mut model = with_history();
    type_text(&mut model, "some text that is longer than the screen is wide");
    for width in 1..100 {
        for height in [1, 2, 3, 5, 8, 24] {
            for focus in [Focus::Input, Focus::List, Focus::Messages] {
                model.focus = focus;
                screen(&mut model, width, height);
                press(&mut model, KeyCode::PageUp);
                press(&mut model, KeyCode::F(1));
                screen(&mut model, width, height);
                press(&mut model, KeyCode::Esc);
            }
        }
    }
}

#[test]
fn enter_sends_and_the_event_replaces_what_was_under_way() {
    let mut model = with_history();
    type_text(&mut model, "hi");
    model.on_key(KeyEvent::new(KeyCode::Enter, KeyModifiers::ALT));
    type_text(&mut model, "there");
    press(&mut model, KeyCode::Enter);
    let posts: Vec<_> =
        model.take_effects().into_iter().filter(|effect| matches!(effect, Effect::Post { .. })).collect();
    assert_eq!(posts, [Effect::Post { conversation: DIRECT, content: body("hi\nthere") }]);
    let request = RequestId::from_raw(6);
    model.on_posted(DIRECT, request, &body("hi\nthere"));
    assert!(screen(&mut model, 80, 24).contains("there …"));
    let state = SendState::Sent(Seq::from_raw(6));
    model.on_update(Update::Send(Progress { request, conversation: DIRECT, state, time: Timestamp::ZERO }));
    model.on_update(Update::Event(Box::new(event(DIRECT, 6, ADA, "hi\nthere"))));
    assert_eq!(screen(&mut model, 80, 24).matches("there").count(), 1);
}

#[test]
fn edits_and_recalls_change_the_message_and_take_no_line() {
    let mut model = with_history();
    let mut edited = event(DIRECT, 6, BOB, "Yes! At noon?");
    (edited.kind, edited.target) = (EventKind::Edited, Some(Seq::from_raw(3)));
    let mut recalled = event(DIRECT, 7, BOB, "");
    (recalled.kind, recalled.target) = (EventKind::Recalled, Some(Seq::from_raw(5)));
    model.on_update(Update::Event(Box::new(edited)));
    model.on_update(Update::Event(Box::new(recalled)));
    let screen = screen(&mut model, 80, 24);
    assert!(screen.contains("Yes! At noon? (edited)") && screen.contains("(message recalled)"), "{screen}");
    assert!(!screen.contains("日本語"));
}

#[test]
fn a_recall_takes_every_version_out_of_memory() {
    let mut model = with_history();
    let change = |seq, kind, text: &str| {
        let mut change = event(DIRECT, seq, BOB, text);
        (change.kind, change.target) = (kind, Some(Seq::from_raw(3)));
        Update::Event(Box::new(change))
    };
    model.on_update(change(6, EventKind::Edited, "Yes! At noon?"));
    model.on_update(change(7, EventKind::Edited, "No. At one?"));
    assert!(screen(&mut model, 80, 24).contains("No. At one? (edited)"));
    model.on_update(change(8, EventKind::Recalled, ""));
    let entries = format!("{:?}", model.rooms[&DIRECT].entries);
    assert!(!entries.contains("At noon") && !entries.contains("At one"), "{entries}");
    assert!(screen(&mut model, 80, 24).contains("(message recalled)"));
}

#[test]
fn an_edit_that_was_overtaken_changes_nothing() {
    let mut model = with_history();
    let mut overtaken = event(DIRECT, 6, BOB, "");
    (overtaken.kind, overtaken.target) = (EventKind::Edited, Some(Seq::from_raw(3)));
    (overtaken.content, overtaken.revised) = (Content::Recalled, Some(Seq::from_raw(9)));
    let before = screen(&mut model, 80, 24);
    model.on_update(Update::Event(Box::new(overtaken)));
    assert_eq!(screen(&mut model, 80, 24), before);
}

#[test]
fn the_chosen_message_is_answered_edited_or_recalled() {
    let mut model = with_history();
    press(&mut model, KeyCode::BackTab);
    assert_eq!(model.focus, Focus::Messages);
    press(&mut model, KeyCode::Up);
    press(&mut model, KeyCode::Char('e'));
    assert_eq!(model.mode, Mode::Edit(Seq::from_raw(4)));
    press(&mut model, KeyCode::Esc);
    type_text(&mut model, "/reply no");
    press(&mut model, KeyCode::Enter);
    let replies: Vec<_> = model
        .take_effects()
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Post { content: PostContent::Message { reply_to, .. }, .. } => reply_to,
            _ => None,
        })
        .collect();
    assert_eq!(replies, [Seq::from_raw(5)]);
    type_text(&mut model, "/recall");
    press(&mut model, KeyCode::Enter);
    let recall = PostContent::Recall { target: Seq::from_raw(4) };
    assert!(model.take_effects().contains(&Effect::Post { conversation: DIRECT, content: recall }));
}

#[test]
fn scrolling_to_the_top_asks_for_the_past_once() {
    let mut model = with_history();
    model.take_effects();
    if let Some(room) = model.room_mut() {
        room.past = super::room::Past::Partial;
    }
    press(&mut model, KeyCode::PageUp);
    press(&mut model, KeyCode::PageUp);
    let asked: Vec<_> =
        model.take_effects().into_iter().filter(|effect| matches!(effect, Effect::History { .. })).collect();
    assert_eq!(asked, [Effect::History { conversation: DIRECT, before: Some(Seq::from_raw(2)) }]);
}

#[test]
fn what_is_on_the_screen_is_read_only_while_somebody_looks() {
    let mut model = model();
    model.on_looking(false);
    model.take_effects();
    model.open(GROUP);
    let read = Effect::MarkRead { conversation: GROUP, seq: Seq::from_raw(3), visible: 3 };
    assert!(!model.take_effects().contains(&read));
    model.on_looking(true);
    assert!(model.take_effects().contains(&read));
}

#[test]
fn commands_go_to_the_server_and_a_doubled_slash_is_text() {
    let mut model = model();
    type_text(&mut model, "/dm eve");
    press(&mut model, KeyCode::Enter);
    let remote = Effect::Remote { here: Some(DIRECT), command: Remote::Direct("eve".to_owned()) };
    assert!(model.take_effects().contains(&remote));
    type_text(&mut model, "//shrug");
    press(&mut model, KeyCode::Enter);
    assert!(model.take_effects().contains(&Effect::Post { conversation: DIRECT, content: body("/shrug") }));
    type_text(&mut model, "/dance");
    press(&mut model, KeyCode::Enter);
    assert!(screen(&mut model, 80, 24).contains("there is no /dance"));
}
