//! A store that an earlier build wrote opens, and everything in it is there: accounts, devices, messages, members, rules, and what only
//! the journal has. `tests/stores/` keeps one for each format, for ever.
//! `TERN_BLESS=1 cargo test -p tern-persistence --test earlier_store` writes the one of this build's format.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tern_core_shard::io::{Claims, Input, Lane, Output, Reply, Request};
use tern_core_shard::{Limits, Shard, ShardConfig};
use tern_persistence::{Clock, Embedded, EmbeddedConfig, EmbeddedHandle, OpenError, ShardStore, open};
use tern_protocol::client::{CreateGroup, EditMessage, GetHistory, GetMembers, Hello, LeaveGroup, OpenDirect};
use tern_protocol::client::{RecallMessage, SendMessage};
use tern_protocol::frame::{self, Encode, Frame};
use tern_protocol::placement::Placement;
use tern_protocol::server::{Ack, Event, HistoryPage, MembersPage, content, event};
use tern_protocol::{ConversationId, DeviceId, RequestId, SessionId, ShardId, Timestamp, UserId};

const PARTITIONS: u16 = 2;
const NOW: Timestamp = Timestamp::from_raw(1_800_000_000_000_000);
/// Looks at the store before a test counts as stuck. Unit: looks, of 5 ms.
const LOOKS_MAX: u32 = 12_000;
/// Blocks in which the fixture's files are kept. Unit: bytes. Those of zeros are left out.
const BLOCK_SIZE: usize = 512;

/// One shard on an embedded store.
struct Node {
    shard: Shard,
    store: ShardStore,
    handle: EmbeddedHandle,
    replies: BTreeMap<u64, Reply>,
    /// Rows go to the view.
    stores: bool,
    next: u64,
}

impl Node {
    fn open(directory: &Path) -> Result<Self, OpenError> {
        let mut config = EmbeddedConfig::new(directory, PARTITIONS, 1);
        config.first_segment_size = 512 * 1024;
        config.segment_size = 1024 * 1024;
        config.batch_size_max = 128 * 1024;
        let thread = std::thread::current();
        let Embedded { mut stores, handle, .. } =
            open(config, vec![Arc::new(move || thread.unpark())], Clock::start())?;
        let mut config = ShardConfig::new(ShardId::from_raw(0), Placement::new(PARTITIONS, 1));
        (config.run, config.now) = (1, NOW);
        config.limits = Limits { members_max: 50, world: false, ..Limits::default() };
        let (shard, store) = (Shard::new(config), stores.pop().unwrap());
        let mut node = Self { shard, store, handle, replies: BTreeMap::new(), stores: true, next: 0 };
        node.until(|node| node.shard.is_caught_up());
        Ok(node)
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        for _ in 0..LOOKS_MAX {
            while let Some(input) = self.store.poll() {
                self.feed(input);
            }
            self.store.flush();
            if done(self) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        panic!("the store does not answer: {:?}", self.handle.health());
    }

    fn feed(&mut self, input: Input) {
        self.shard.handle(NOW, input);
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::VerifyToken { session, token } => {
                    let user = UserId::from_raw(u64::from_le_bytes(token[..].try_into().unwrap()));
                    let device = DeviceId::from_raw(1);
                    let verdict = Ok(Claims { user, device, expires: Timestamp::from_raw(u64::MAX) });
                    self.feed(Input::Token { session, verdict });
                }
                Output::Append { partition, record } => self.store.append(partition, record).unwrap(),
                Output::View { ticket, query } => self.store.query(ticket, query).unwrap(),
                Output::Store { partition, position, rows } if self.stores => {
                    self.store.store(partition, position, rows);
                }
                Output::Reply { ticket, reply } => drop(self.replies.insert(ticket, reply)),
                Output::Store { .. } | Output::Message { .. } => {}
                stop @ (Output::Stop { .. } | Output::Close { .. } | Output::Aside { .. }) => panic!("{stop:?}"),
            }
        }
    }

    fn ask(&mut self, request: Request) -> Reply {
        self.next += 1;
        let ticket = self.next;
        self.feed(Input::Request { ticket, request });
        self.until(|node| node.replies.contains_key(&ticket));
        self.replies.remove(&ticket).unwrap()
    }

    fn register(&mut self, name: &str) -> UserId {
        let register = Request::Register { name: name.into(), display: name.into(), password: "phc".into() };
        let Reply::Registered { user } = self.ask(register) else { panic!("{name} is not registered") };
        user
    }

    fn open_device(&mut self, user: UserId, device: u64) {
        let device = DeviceId::from_raw(device);
        let open = Request::OpenDevice { user, device, secret: [7; 32], name: "phone".into(), devices_max: 9 };
        assert_eq!(self.ask(open), Reply::DeviceOpened);
    }

    fn connect(&mut self, user: UserId) -> SessionId {
        self.next += 1;
        let session = SessionId::from_raw(self.next);
        self.feed(Input::Connected { session });
        let token = user.raw().to_le_bytes();
        self.say(session, &Hello { user_seq: 0, token: &token, client: b"test", positions: &[] });
        self.until(|node| node.shard.waiting(session).has(Lane::Control));
        session
    }

    fn say<F: Encode>(&mut self, session: SessionId, said: &F) {
        self.feed(Input::Frame { session, bytes: frame::to_vec(said).into() });
    }

    /// Says something, and waits for the answer of that kind.
    fn call<A: Frame, F: Encode>(&mut self, session: SessionId, said: &F) -> Bytes {
        while self.shard.pop_frame(session, Lane::Control).is_some() {}
        self.say(session, said);
        loop {
            self.until(|node| node.shard.waiting(session).has(Lane::Control));
            let answer = self.shard.pop_frame(session, Lane::Control).unwrap();
            if frame::open(&answer).unwrap().0 == A::KIND {
                return answer;
            }
        }
    }

    /// Waits until the view has everything.
    fn settle(&mut self) {
        self.until(|node| node.handle.counters().view_lag == 0);
    }
}

fn text(conversation: ConversationId, request: u128, body: &[u8]) -> SendMessage<'_> {
    let conversation = conversation.raw();
    SendMessage { request, conversation, known: u64::MAX, reply_to: 0, content: 0, mentions: &[], body }
}

fn group(ada: UserId) -> ConversationId {
    ConversationId::group(ada, RequestId::from_raw(20))
}

/// What the fixture has in it.
fn write(directory: &Path) {
    let mut node = Node::open(directory).unwrap();
    let (ada, bob) = (node.register("ada"), node.register("bob"));
    for (user, device) in [(ada, 1), (ada, 2), (bob, 1)] {
        node.open_device(user, device);
    }
    let device = Some(DeviceId::from_raw(2));
    assert_eq!(node.ask(Request::CloseDevice { user: ada, device }), Reply::Closed { count: 1 });
    let (a, b) = (node.connect(ada), node.connect(bob));
    node.call::<Ack, _>(a, &OpenDirect { request: 10, user: bob.raw() });
    let direct = ConversationId::direct(ada, bob);
    let conversation = direct.raw();
    for (request, body) in [(11, "one"), (12, "two"), (13, "three")] {
        node.call::<Ack, _>(a, &text(direct, request, body.as_bytes()));
    }
    let edit = EditMessage { request: 14, conversation, known: 4, target: 2, content: 0, body: b"one, edited" };
    node.call::<Ack, _>(a, &edit);
    node.call::<Ack, _>(a, &RecallMessage { request: 15, conversation, known: 5, target: 3 });
    node.call::<Ack, _>(a, &CreateGroup { request: 20, flags: 1, title: b"G", members: &[bob.raw()] });
    node.call::<Ack, _>(b, &LeaveGroup { request: 21, conversation: group(ada).raw() });
    node.settle();
    // This one the journal has and the view has not.
    node.stores = false;
    node.call::<Ack, _>(a, &text(direct, 16, b"four"));
    drop(node.store);
    node.handle.shutdown().unwrap();
}

#[test]
fn a_store_of_an_earlier_build_opens_with_everything_in_it() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores");
    if std::env::var_os("TERN_BLESS").is_some() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path());
        let identity = fs::read_to_string(directory.path().join("identity")).unwrap();
        let format = identity.lines().find_map(|line| line.strip_prefix("format = ")).unwrap();
        fs::create_dir_all(&kept).unwrap();
        fs::write(kept.join(format!("format-{format}.bin")), pack(directory.path())).unwrap();
    }
    let mut count = 0;
    for entry in fs::read_dir(&kept).unwrap() {
        let directory = tempfile::tempdir().unwrap();
        unpack(&fs::read(entry.unwrap().path()).unwrap(), directory.path());
        check(directory.path());
        count += 1;
    }
    assert!(count > 0);
}

fn check(directory: &Path) {
    let mut node = Node::open(directory).unwrap();
    let find = |node: &mut Node, name: &str| {
        let reply = node.ask(Request::FindAccount { name: name.into() });
        let Reply::Account(Some((user, password))) = reply else { panic!("{name}: {reply:?}") };
        assert_eq!(&*password, "phc");
        user
    };
    let (ada, bob) = (find(&mut node, "ada"), find(&mut node, "bob"));
    let Reply::Devices(devices) = node.ask(Request::ListDevices { user: ada }) else { panic!("no devices") };
    assert_eq!(devices.iter().map(|device| device.device.raw()).collect::<Vec<_>>(), [1]);
    let session = node.connect(ada);
    let conversation = ConversationId::direct(ada, bob);
    let ask = GetHistory { request: 1, conversation: conversation.raw(), anchor: 0, limit: 50, direction: 1 };
    let page = node.call::<HistoryPage<'_>, _>(session, &ask);
    let mut events = &frame::decode::<HistoryPage<'_>>(&page).unwrap().events[..];
    let mut read = Vec::new();
    while let Some(size) = frame::size(events).unwrap() {
        let event = frame::decode::<Event<'_>>(&events[..size]).unwrap();
        read.push((event.seq.to_native(), event.kind, event.content, String::from_utf8(event.body.to_vec()).unwrap()));
        events = &events[size..];
    }
    let message = |seq, body: &str| (seq, event::MESSAGE, content::TEXT, body.to_owned());
    assert_eq!(read[1], message(2, "one, edited"));
    assert_eq!(read[2], (3, event::MESSAGE, content::RECALLED, String::new()));
    assert_eq!(read[3], message(4, "three"));
    assert_eq!(read[6], message(7, "four"));
    let ask = GetMembers { request: 2, conversation: group(ada).raw(), after: 0, limit: 9 };
    let page = node.call::<MembersPage<'_>, _>(session, &ask);
    let members = &frame::decode::<MembersPage<'_>>(&page).unwrap().members;
    assert_eq!(members.iter().map(|member| member.user.to_native()).collect::<Vec<_>>(), [ada.raw()]);
    let ack = node.call::<Ack, _>(session, &text(conversation, 17, b"five"));
    assert_eq!(frame::decode::<Ack>(&ack).unwrap().seq.to_native(), 8);
    drop(node.store);
    node.handle.shutdown().unwrap();
}

/// All files: their names, sizes, and the blocks that are not zeros.
fn pack(directory: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for path in files(directory) {
        let (bytes, name) = (fs::read(&path).unwrap(), path.strip_prefix(directory).unwrap().to_str().unwrap());
        let blocks: Vec<_> = bytes.chunks(BLOCK_SIZE).enumerate().filter(|(_, b)| b.iter().any(|b| *b != 0)).collect();
        put(&mut out, name.as_bytes());
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(&(blocks.len() as u64).to_le_bytes());
        for (index, block) in blocks {
            out.extend_from_slice(&(index as u64).to_le_bytes());
            put(&mut out, block);
        }
    }
    out
}

fn unpack(mut packed: &[u8], directory: &Path) {
    while !packed.is_empty() {
        let path = directory.join(std::str::from_utf8(take(&mut packed)).unwrap());
        let mut bytes = vec![0; number(&mut packed)];
        for _ in 0..number(&mut packed) {
            let at = number(&mut packed) * BLOCK_SIZE;
            let block = take(&mut packed);
            bytes[at..at + block.len()].copy_from_slice(block);
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn number(packed: &mut &[u8]) -> usize {
    let (raw, rest) = packed.split_first_chunk().unwrap();
    *packed = rest;
    usize::try_from(u64::from_le_bytes(*raw)).unwrap()
}

fn take<'a>(packed: &mut &'a [u8]) -> &'a [u8] {
    let size = number(packed);
    let (taken, rest) = packed.split_at(size);
    *packed = rest;
    taken
}
