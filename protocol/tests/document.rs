//! `docs/wire-format.md` tells the truth: its tables of layouts, values, codes, limits and defaults, and its dumps, are compared with the
//! code and the golden files. Never judges its prose.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::mem::offset_of;
use std::path::{Path, PathBuf};

use rkyv::Archive;
use rkyv::primitive::{ArchivedU16, ArchivedU32, ArchivedU64, ArchivedU128};
use rkyv::vec::ArchivedVec;
use tern_protocol::frame::{self, Frame, Kind};
use tern_protocol::{CloseCode, RejectCode, client, command, limit, server, tail};

/// A type of a field, as the document writes it.
trait Wire {
    fn name() -> String;
}

macro_rules! wire {
    ($($type:ty => $name:literal,)+) => {
        $(impl Wire for $type {
            fn name() -> String {
                $name.to_owned()
            }
        })+
    };
}

wire! {
    u8 => "u8",
    ArchivedU16 => "u16",
    ArchivedU32 => "u32",
    ArchivedU64 => "u64",
    ArchivedU128 => "u128",
    [u8; 32] => "[u8; 32]",
    client::ArchivedAt => "At",
    server::ArchivedDirectoryEntry => "DirectoryEntry",
    server::ArchivedMember => "Member",
    server::ArchivedProfile => "Profile",
    server::ArchivedHead => "Head",
}

impl<T: Wire> Wire for ArchivedVec<T> {
    fn name() -> String {
        format!("Vec<{}>", T::name())
    }
}

/// One frame type or element, as the compiler laid it out.
struct Layout {
    /// `None` for an element of a vector.
    kind: Option<Kind>,
    name: &'static str,
    size: usize,
    fields: Vec<Field>,
}

struct Field {
    name: &'static str,
    offset: usize,
    size: usize,
    wire: String,
}

fn field<A, F: Wire>(name: &'static str, offset: usize, _access: fn(&A) -> &F) -> Field {
    Field { name, offset, size: size_of::<F>(), wire: F::name() }
}

macro_rules! layouts {
    ($($kind:expr, $type:ty { $($field:ident),+ $(,)? })+) => {
        vec![$({
            type Root = <$type as Archive>::Archived;
            let path = stringify!($type);
            let name = path.rsplit("::").next().unwrap().split('<').next().unwrap();
            let fields = vec![$(field::<Root, _>(stringify!($field), offset_of!(Root, $field), |root| &root.$field)),+];
            Layout { kind: $kind, name, size: size_of::<Root>(), fields }
        }),+]
    };
}

/// Frames with their kinds.
macro_rules! frames {
    ($($type:ty { $($field:ident),+ $(,)? })+) => {
        layouts! { $(Some(<$type as Frame>::KIND), $type { $($field),+ })+ }
    };
}

fn client_frames() -> Vec<Layout> {
    frames! {
        client::Hello<'static> { user_seq, token, client, positions }
        client::SendMessage<'static> { request, conversation, known, reply_to, content, mentions, body }
        client::EditMessage<'static> { request, conversation, known, target, content, body }
        client::RecallMessage { request, conversation, known, target }
        client::MoveCursor { request, conversation, seq, visible, cursor }
        client::Typing { conversation, active }
        client::WatchPresence<'static> { users }
        client::GetHistory { request, conversation, anchor, limit, direction }
        client::GetDirectory { request, before_time, before_conversation, limit }
        client::GetMembers { request, conversation, after, limit }
        client::GetProfiles<'static> { request, users, name }
        client::OpenDirect { request, user }
        client::CreateGroup<'static> { request, flags, title, members }
        client::JoinGroup { request, conversation }
        client::LeaveGroup { request, conversation }
        client::Invite<'static> { request, conversation, users }
        client::Kick { request, conversation, user }
        client::SetRole { request, conversation, user, role }
        client::Ping<'static> { nonce, positions }
    }
}

fn server_frames() -> Vec<Layout> {
    frames! {
        server::Welcome { user, device, session, time, user_seq, home, shards, ping_interval }
        server::Reset { conversation, seq, visible }
        server::Ack { request, conversation, seq, time }
        server::Reject { request, code, retry_after }
        server::Event<'static> {
            conversation, seq, time, visible, sender, request, target, revised, subject, kind, content, role, mentions, body,
        }
        server::Receipt { conversation, user, read, read_visible, delivered }
        server::TypingNotice { conversation, user, active }
        server::PresenceNotice { user, last_seen, online }
        server::HistoryPage<'static> { request, conversation, head, first, events }
        server::DirectoryPage { request, more, entries }
        server::MembersPage<'static> { request, conversation, total, more, members }
        server::Profiles { request, profiles }
        server::UserEvent { user_seq, conversation, kind }
        server::Pong<'static> { nonce, time, user_seq, heads }
        server::Drain { reconnect_after }
    }
}

fn log_frames() -> Vec<Layout> {
    frames! {
        command::Register<'static> { name, display, password }
        command::CreateUser<'static> { user, name, display }
        command::OpenDevice<'static> { user, device, devices_max, secret, name }
        command::RotateDevice { user, device, generation, secret, successor, attempt }
        command::CloseDevice { user, device }
        command::SetDirectory { conversation, user, version, joined }
        command::EnterWorld { user }
        command::SetRules { level, members_max, world }
        command::Readmit<'static> { entity }
    }
}

fn elements() -> Vec<Layout> {
    layouts! {
        None, client::At { conversation, seq }
        None, server::DirectoryEntry {
            conversation, head, head_visible, head_time, join, join_visible, read, read_visible, peer_read, peer_delivered,
            members, role, title, preview_seq, preview_sender, preview,
        }
        None, server::Member { user, join, read, role }
        None, server::Profile { user, name, display }
        None, server::Head { conversation, seq, visible }
    }
}

fn all_layouts() -> Vec<Layout> {
    [client_frames(), server_frames(), log_frames(), elements()].into_iter().flatten().collect()
}

impl Layout {
    fn heading(&self) -> String {
        match self.kind {
            Some(kind) => format!("### 0x{:02x} {}", kind.0, self.name),
            None => format!("### Element {}", self.name),
        }
    }

    fn direction(&self) -> &'static str {
        match self.kind {
            None => "",
            Some(kind) if kind.is_client() => "Client to server. ",
            Some(kind) if kind.0 < 0x80 => "Log only. ",
            Some(_) => "Server to client. ",
        }
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn document() -> String {
    read("docs/wire-format.md")
}

/// What stands below a heading, up to the next one of its level or above.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let mut found = document.match_indices(heading).filter(|(at, _)| {
        let (before, after) = (&document[..*at], &document[at + heading.len()..]);
        before.ends_with('\n') && after.starts_with('\n')
    });
    let (at, _) = found.next().unwrap_or_else(|| panic!("there is no heading {heading:?}"));
    assert!(found.next().is_none(), "there are two headings {heading:?}");
    let level = heading.bytes().take_while(|byte| *byte == b'#').count();
    let body = &document[at + heading.len()..];
    let ends = |line: &str| {
        let hashes = line.bytes().take_while(|byte| *byte == b'#').count();
        (1..=level).contains(&hashes) && line[hashes..].starts_with(' ')
    };
    let end = body.match_indices('\n').find(|(at, _)| ends(&body[at + 1..])).map_or(body.len(), |(at, _)| at);
    &body[..end]
}

/// The cells of all tables of a text, without heads and backticks.
fn rows(text: &str) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
        if line.trim_matches(['|', '-', ':', ' ']).is_empty() && line.contains('-') {
            rows.pop();
        } else {
            rows.push(cells.collect());
        }
    }
    rows
}

/// The first cells of each row.
fn columns<const N: usize>(text: &str) -> Vec<[String; N]> {
    rows(text).into_iter().map(|row| <[String; N]>::try_from(row[..N].to_vec()).unwrap()).collect()
}

/// Both have the same, with a message that names the difference and not the whole.
#[track_caller]
fn assert_same<T: Ord + Debug>(
    what: &str,
    in_document: impl IntoIterator<Item = T>,
    in_code: impl IntoIterator<Item = T>,
) {
    let (document, code): (BTreeSet<T>, BTreeSet<T>) =
        (in_document.into_iter().collect(), in_code.into_iter().collect());
    let (extra, missing) =
        (document.difference(&code).collect::<Vec<_>>(), code.difference(&document).collect::<Vec<_>>());
    assert!(
        extra.is_empty() && missing.is_empty(),
        "{what}: only in the document {extra:?}, only in the code {missing:?}"
    );
}

#[test]
fn every_layout_is_the_one_that_the_document_shows() {
    let document = document();
    for layout in all_layouts() {
        let heading = layout.heading();
        let text = section(&document, &heading);
        let root = format!("\n\n{}Root: {} bytes. ", layout.direction(), layout.size);
        assert!(text.starts_with(&root), "{heading} does not begin with {root:?}");
        let fields = layout.fields.iter();
        let expected: Vec<[String; 4]> =
            fields.map(|f| [f.offset.to_string(), f.name.to_owned(), f.wire.clone(), f.size.to_string()]).collect();
        assert_eq!(columns::<4>(text), expected, "{heading}");
    }
}

/// Otherwise a field that the lists above forget would be missing from the document, too.
#[test]
fn the_fields_of_a_layout_fill_it_without_gaps() {
    for layout in all_layouts() {
        let end = layout.fields.iter().fold(0, |at, field| {
            assert_eq!(field.offset, at, "{}.{}", layout.name, field.name);
            at + field.size
        });
        assert_eq!(end, layout.size, "{}", layout.name);
    }
}

#[test]
fn every_kind_of_the_code_stands_in_the_document_and_no_other() {
    let document = document();
    let known: BTreeSet<String> = all_layouts().iter().map(Layout::heading).collect();
    let headings = document.lines().filter(|line| line.starts_with("### 0x") || line.starts_with("### Element "));
    assert_same("headings", headings.map(str::to_owned), known);

    let sources = ["client", "command", "server"].map(|name| read(&format!("protocol/src/{name}.rs"))).concat();
    let declared =
        sources.split("frame!(").chain(sources.split("= Kind(")).filter_map(|rest| rest.get(..4)?.strip_prefix("0x"));
    let declared = declared.map(|digits| u8::from_str_radix(digits, 16).unwrap());
    let listed: Vec<u8> = all_layouts().iter().filter_map(|layout| Some(layout.kind?.0)).collect();
    assert_same("kinds", listed.clone(), declared);
    assert_same(
        "golden files",
        listed,
        golden_files().into_keys().map(|name| u8::from_str_radix(&name[..2], 16).unwrap()),
    );
}

/// Name (without `.hex`) and content of each golden file.
fn golden_files() -> BTreeMap<String, String> {
    let directory = std::fs::read_dir(repository().join("protocol/tests/golden")).unwrap();
    let paths = directory.map(|entry| entry.unwrap().path());
    paths
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect()
}

fn bytes_of(dump: &str) -> Vec<u8> {
    let digits = dump.lines().flat_map(|line| line.split_whitespace().skip(1));
    digits.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
}

/// Name, content, and what follows up to the next heading.
fn dumps(document: &str) -> Vec<(&str, &str, &str)> {
    let each = document.split("\n```hex ").skip(1).map(|rest| {
        let (name, rest) = rest.split_once('\n').unwrap();
        let (dump, rest) = rest.split_once("```\n").unwrap();
        (name, dump, rest.split("\n#").next().unwrap())
    });
    each.collect()
}

#[test]
fn every_dump_is_its_golden_file() {
    let (document, golden) = (document(), golden_files());
    let shown = dumps(&document);
    for needed in ["02-send-message", "84-event"] {
        assert!(shown.iter().any(|(name, ..)| *name == needed), "{needed} is not shown");
    }
    for (name, dump, _) in shown {
        let expected = match name {
            "ping-without-positions" => {
                assert_eq!(bytes_of(dump), frame::to_vec(&client::Ping { nonce: 5, positions: &[] }));
                continue;
            }
            golden_file => golden.get(golden_file).unwrap_or_else(|| panic!("{name} is no golden file")),
        };
        assert_eq!(dump, expected, "{name}");
    }
}

#[test]
fn a_dump_s_table_takes_it_apart_from_the_first_byte_to_the_last() {
    let document = document();
    for (name, dump, rest) in dumps(&document).into_iter().filter(|(name, ..)| *name != "ping-without-positions") {
        let mut taken: Vec<u8> = Vec::new();
        for [at, bytes, _] in columns::<3>(rest) {
            assert_eq!(usize::from_str_radix(&at, 16), Ok(taken.len()), "{name} at {at}");
            taken.extend(bytes.split(' ').map(|digits| u8::from_str_radix(digits, 16).unwrap()));
        }
        assert_eq!(taken, bytes_of(dump), "{name}");
    }
}

#[test]
fn every_golden_file_is_listed() {
    let document = document();
    let listed = columns::<1>(section(&document, "## Golden files")).into_iter().map(|[name]| name);
    assert_same("golden files", listed, golden_files().into_keys().map(|name| format!("{name}.hex")));
}

fn yes(answer: bool) -> String {
    if answer { "yes" } else { "no" }.to_owned()
}

#[test]
fn codes_have_their_numbers_names_and_consequences() {
    let document = document();
    let rejects =
        RejectCode::ALL.iter().map(|code| [code.raw().to_string(), format!("{code:?}"), yes(code.is_retryable())]);
    assert_same("reject codes", columns::<3>(section(&document, "### Reject codes")), rejects);
    let closes = CloseCode::ALL.iter().map(|code| {
        let number = CloseCode::WEBSOCKET_BASE + code.raw();
        [code.raw().to_string(), number.to_string(), format!("{code:?}"), yes(code.is_resumable())]
    });
    assert_same("close codes", columns::<4>(section(&document, "### Close codes")), closes);
}

/// Every constant of [`limit`], by its name.
fn limits() -> Vec<[String; 2]> {
    macro_rules! named {
        ($($name:ident)+) => { vec![$([stringify!($name).to_owned(), limit::$name.to_string()]),+] };
    }
    named! {
        FRAME_SIZE_MAX FRAME_HEADER_SIZE FRAME_VERSION BODY_SIZE_MAX MENTIONS_MAX INVITES_MAX TITLE_SIZE_MAX DISPLAY_NAME_SIZE_MAX
        ACCOUNT_NAME_SIZE_MIN ACCOUNT_NAME_SIZE_MAX TOKEN_SIZE_MAX CLIENT_NAME_SIZE_MAX POSITIONS_MAX HISTORY_PAGE_MAX
        DIRECTORY_PAGE_MAX MEMBERS_PAGE_MAX PAGE_SIZE_MAX PREVIEW_SIZE_MAX PROFILES_MAX PRESENCE_WATCH_MAX SHARD_COUNT_MAX
        DELIVERY_LANE_COUNT DEDUP_WINDOW KNOWN_FRESH
    }
}

/// The name in `pub const NAME: type = value;`, and the value.
fn constants(source: &str) -> impl Iterator<Item = (&str, &str)> {
    source.lines().filter_map(|line| line.trim().strip_prefix("pub const ")).filter_map(|rest| {
        let (name, rest) = rest.split_once(':')?;
        Some((name, rest.split_once("= ")?.1.trim_end_matches(';')))
    })
}

#[test]
fn limits_have_their_values() {
    let (document, source) = (document(), read("protocol/src/limit.rs"));
    assert_same(
        "constants",
        limits().into_iter().map(|[name, _]| name),
        constants(&source).map(|(name, _)| name.to_owned()),
    );
    let text = section(&document, "## Limits");
    let table = columns::<2>(text).into_iter().filter(|[name, _]| !name.contains('.'));
    assert_same("limits", table, limits());
}

/// Constants of the public modules of a source, by module.
fn modules(source: &str) -> BTreeMap<&str, Vec<[String; 2]>> {
    let bodies = source.split("\npub mod ").skip(1).map(|rest| rest.split_once(" {").unwrap());
    let values = |body: &str| {
        let body = body.split("\n}").next().unwrap();
        let single = constants(body).filter(|(_, value)| value.parse::<u8>().is_ok());
        single.map(|(name, value)| [value.to_owned(), name.to_owned()]).collect()
    };
    bodies.map(|(name, body)| (name, values(body))).collect()
}

#[test]
fn values_have_their_names() {
    let document = document();
    let sources = ["client", "server"].map(|name| read(&format!("protocol/src/{name}.rs")));
    let modules: BTreeMap<_, _> = sources.iter().flat_map(|source| modules(source)).collect();
    let headings = [
        ("event", "### Events"),
        ("content", "### Content"),
        ("role", "### Roles"),
        ("cursor", "### Cursors"),
        ("group", "### Group flags"),
        ("user_event", "### User event kinds"),
    ];
    assert_same("modules", headings.map(|(module, _)| module), modules.keys().copied());
    for (module, heading) in headings {
        assert_same(heading, columns::<2>(section(&document, heading)), modules[module].clone());
    }
}

#[test]
fn a_name_in_capitals_is_the_name_of_something() {
    let document = document();
    let sources = ["client", "server"].map(|name| read(&format!("protocol/src/{name}.rs"))).concat();
    let limits = limits();
    let known: BTreeSet<&str> =
        limits.iter().map(|[name, _]| name.as_str()).chain(constants(&sources).map(|(name, _)| name)).collect();
    for name in document.split('`').skip(1).step_by(2) {
        let capitals = name.len() > 3 && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        assert!(!capitals || known.contains(name), "`{name}` is the name of nothing");
    }
}

#[test]
fn the_rule_of_the_empty_packet_has_its_numbers() {
    let words = document().split_whitespace().collect::<Vec<_>>().join(" ");
    let (rtt, packets) = (tail::TAIL_RTT_MIN.as_millis(), tail::TAIL_CLEAN_PACKETS);
    let rule = format!("a round trip of {rtt} ms or more, until it has carried {packets} packets without a loss");
    assert!(words.contains(&rule), "docs/wire-format.md does not say: {rule}");
}

#[test]
fn configuration_has_the_defaults_that_the_document_says() {
    let (document, defaults) = (document(), read("edge/default.toml"));
    let mut table = "";
    let mut values = BTreeMap::new();
    for line in defaults.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = name;
        } else if let Some((key, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            values.insert(format!("{table}.{key}"), value.trim_matches('"').to_owned());
        }
    }
    let shown = columns::<2>(section(&document, "## Limits")).into_iter().filter(|[key, _]| key.contains('.'));
    for [key, value] in shown {
        assert_eq!(values.get(&key), Some(&value), "{key}");
    }
    for key in document
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.starts_with("limits.") || name.starts_with("cluster."))
    {
        assert!(values.contains_key(key), "`{key}` is no key of edge/default.toml");
    }
}
