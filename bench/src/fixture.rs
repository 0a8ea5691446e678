//! One shard that owns everything and holds every session, with a log and a view that answer at once.
//! Drives the shard only by its inputs and outputs. Panics on whatever a bench does not expect: a refusal would be quick, and wrong.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tern_core_shard::Shard;
use tern_core_shard::config::{Limits, ShardConfig};
use tern_core_shard::io::{
    Claims, Ending, Input, Lane, Logged, Output, Record, Reply, Request, Row, Urgency, ViewQuery, ViewReply,
};
use tern_protocol::client::{At, CreateGroup, GetHistory, Hello, Invite, OpenDirect};
use tern_protocol::command::CommandHead;
use tern_protocol::frame::{self, Encode, Frame};
use tern_protocol::limit::{DELIVERY_LANE_COUNT, INVITES_MAX};
use tern_protocol::placement::{PARTITION_COUNT_DEFAULT, Placement};
use tern_protocol::server::Reject;
use tern_protocol::{
    ConversationId, DeviceId, PartitionId, Position, RequestId, SessionId, ShardId, Timestamp, UserId,
};

use crate::message::send;

/// The run of the server that the fixture plays. Anything but 0, which names no run.
const RUN: u64 = 1;

/// A registered user and their one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Login {
    /// Who.
    pub user: UserId,
    /// The device that is logged in.
    pub device: DeviceId,
}

/// One shard and its surroundings.
#[derive(Debug)]
pub struct Fixture {
    shard: Shard,
    placement: Placement,
    now: Timestamp,
    /// The last position of each log.
    ends: BTreeMap<PartitionId, Position>,
    /// What log and view have to say, and the shard has not heard.
    inputs: VecDeque<Input>,
    replies: VecDeque<Reply>,
    last_rows: Vec<Row>,
    ready: Vec<(SessionId, Urgency)>,
    next_slot: u64,
    next_number: u64,
}

impl Fixture {
    /// A shard without users. Limits that a set-up would meet are lifted; those that a bench might meet are the defaults.
    #[must_use]
    pub fn new() -> Self {
        let placement = Placement::new(PARTITION_COUNT_DEFAULT, 1);
        let now = Timestamp::from_raw(1_700_000_000_000_000);
        let limits = Limits {
            frames_burst: u32::MAX,
            members_max: u32::MAX,
            cache_size_max: usize::MAX,
            world: false,
            ..Limits::default()
        };
        let config = ShardConfig { run: RUN, now, limits, ..ShardConfig::new(ShardId::from_raw(0), placement) };
        let mut this = Self {
            shard: Shard::new(config),
            placement,
            now,
            ends: BTreeMap::new(),
            inputs: VecDeque::new(),
            replies: VecDeque::new(),
            last_rows: Vec::new(),
            ready: Vec::new(),
            next_slot: 0,
            next_number: 0,
        };
        this.feed(Input::CaughtUp);
        this
    }

    /// Registers a user and logs a device in.
    ///
    /// # Panics
    /// When the shard refuses.
    pub fn register(&mut self) -> Login {
        let number = self.number();
        let name: Box<str> = format!("user{number}").into();
        let register = Request::Register { name: name.clone(), display: name, password: "$argon2id$".into() };
        let Reply::Registered { user } = self.ask(register) else { panic!("the name is free") };
        let device = DeviceId::from_raw(number);
        let open = Request::OpenDevice { user, device, secret: [7; 32], name: "bench".into(), devices_max: 4 };
        assert_eq!(self.ask(open), Reply::DeviceOpened, "the user is registered");
        Login { user, device }
    }

    /// Registers as many users as that.
    pub fn register_many(&mut self, count: usize) -> Vec<Login> {
        (0..count).map(|_| self.register()).collect()
    }

    /// Connects a device and waits until its session is open.
    pub fn connect(&mut self, login: Login) -> SessionId {
        self.resume(login, &[]).0
    }

    /// Connects a device that has something already, and waits until its session is open and level. Returns how many frames it took, too.
    pub fn resume(&mut self, login: Login, positions: &[At]) -> (SessionId, usize) {
        let session = SessionId::from_raw(1 << 32 | self.next_slot);
        self.next_slot += 1;
        self.feed(Input::Connected { session });
        let mut token = login.user.raw().to_le_bytes().to_vec();
        token.extend_from_slice(&login.device.raw().to_le_bytes());
        let taken = self.say(session, &Hello { user_seq: 0, token: &token, client: b"bench", positions });
        (session, taken)
    }

    /// Ends a connection.
    pub fn disconnect(&mut self, session: SessionId) {
        self.feed(Input::Disconnected { session, ending: Ending::Goodbye });
    }

    /// Opens the direct conversation between the session's user and a peer.
    pub fn open_direct(&mut self, session: SessionId, own: UserId, peer: UserId) -> ConversationId {
        let request = u128::from(self.number());
        self.say(session, &OpenDirect { request, user: peer.raw() });
        ConversationId::direct(own, peer)
    }

    /// Makes a group of the session's user and others.
    pub fn create_group(&mut self, session: SessionId, owner: UserId, members: &[Login]) -> ConversationId {
        let request = u128::from(self.number());
        let users: Vec<u64> = members.iter().map(|login| login.user.raw()).collect();
        let mut chunks = users.chunks(INVITES_MAX);
        let first = chunks.next().unwrap_or_default();
        self.say(session, &CreateGroup { request, flags: 0, title: b"bench", members: first });
        let conversation = ConversationId::group(owner, RequestId::from_raw(request));
        for users in chunks {
            let request = u128::from(self.number());
            self.say(session, &Invite { request, conversation: conversation.raw(), users });
        }
        conversation
    }

    /// Asks for the newest events of a conversation and waits for the page.
    ///
    /// # Panics
    /// When the answer is not one page.
    pub fn page(&mut self, session: SessionId, conversation: ConversationId, limit: u16) {
        let request = u128::from(self.number());
        let conversation = conversation.raw();
        let page = GetHistory { request, conversation, anchor: u64::MAX, limit, direction: 0 };
        assert_eq!(self.say(session, &page), 1, "a page");
    }

    /// Lets a minute pass, so that no timer of the set-up is left, and takes everything that waits for a session.
    pub fn settle(&mut self) {
        // Or it would wait for a minute.
        self.take_frames(|_, _| {});
        self.now = self.now.after(Duration::from_secs(60));
        self.feed(Input::Timeout);
        self.take_frames(|_, _| {});
    }

    /// The next message's frame, as a client sends it. Each has a request id of its own.
    pub fn next_frame(&mut self, conversation: ConversationId, body: &[u8]) -> Bytes {
        let request = u128::from(self.number());
        Bytes::from(frame::to_vec(&send(conversation, request, body)))
    }

    /// The next message from a sender, durable. `session`: where the ack goes; `None`: to a session elsewhere.
    /// Must be handed to [`Self::apply`] in the order in which it was made.
    pub fn next_message(
        &mut self,
        sender: Login,
        session: Option<SessionId>,
        conversation: ConversationId,
        body: &[u8],
    ) -> Logged {
        let head = CommandHead {
            actor: sender.user.raw(),
            device: sender.device.raw(),
            session: session.map_or(0, SessionId::raw),
            run: RUN,
            // As a shard that has heard of everything so far.
            heard: u64::MAX,
            ..CommandHead::default()
        };
        let frame = self.next_frame(conversation, body);
        self.log(self.placement.of_conversation(conversation), Record { head, frame })
    }

    /// Gives a command its place in a log.
    pub fn log(&mut self, partition: PartitionId, record: Record) -> Logged {
        let end = self.ends.entry(partition).or_default();
        *end = end.next();
        Logged { partition, position: *end, time: self.now, record }
    }

    /// One frame from a session, to the command that it appends. The log does not have it yet.
    ///
    /// # Panics
    /// When the shard appends nothing.
    pub fn accept(&mut self, session: SessionId, frame: Bytes) -> (PartitionId, Record) {
        self.shard.handle(self.now, Input::Frame { session, bytes: frame });
        let Some(Output::Append { partition, record }) = self.shard.poll_output() else {
            panic!("a member's message is appended")
        };
        debug_assert!(self.shard.poll_output().is_none(), "and nothing else");
        (partition, record)
    }

    /// One durable command, until it is applied and its rows are stored.
    pub fn apply(&mut self, logged: Logged) {
        self.feed(Input::Logged(logged));
    }

    /// Takes every frame that waits for a session, as a transport does. Returns how many there were.
    pub fn take_frames(&mut self, mut take: impl FnMut(SessionId, Bytes)) -> usize {
        let mut count = 0;
        self.shard.take_ready(&mut self.ready);
        for (session, _) in self.ready.drain(..) {
            for lane in LANES {
                while let Some(frame) = self.shard.pop_frame(session, lane) {
                    take(session, frame);
                    count += 1;
                }
            }
        }
        count
    }

    /// The rows of the last command that was applied.
    #[must_use]
    pub fn last_rows(&self) -> &[Row] {
        &self.last_rows
    }

    /// Says something for a session, and checks that nothing was refused. Returns how many frames came back, to anybody.
    fn say<F: Encode>(&mut self, session: SessionId, said: &F) -> usize {
        self.feed(Input::Frame { session, bytes: frame::to_vec(said).into() });
        self.take_frames(|_, answer| {
            let kind = frame::open(&answer).map(|(kind, _)| kind);
            assert_ne!(kind, Ok(Reject::KIND), "{:?} is refused", F::KIND);
        })
    }

    fn ask(&mut self, request: Request) -> Reply {
        let ticket = self.number();
        self.feed(Input::Request { ticket, request });
        self.replies.pop_front().expect("log and view answer at once, so the shard does")
    }

    fn feed(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next {
            self.shard.handle(self.now, input);
            while let Some(output) = self.shard.poll_output() {
                self.perform(output);
            }
            next = self.inputs.pop_front();
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::VerifyToken { session, token } => {
                let (user, device) = token.split_at(size_of::<u64>());
                let raw = |half: &[u8]| u64::from_le_bytes(half.try_into().expect("connect made it of two halves"));
                let (user, device) = (UserId::from_raw(raw(user)), DeviceId::from_raw(raw(device)));
                let expires = self.now.after(Duration::from_secs(3600));
                self.inputs.push_back(Input::Token { session, verdict: Ok(Claims { user, device, expires }) });
            }
            Output::Append { partition, record } => {
                let logged = self.log(partition, record);
                self.inputs.push_back(Input::Logged(logged));
            }
            Output::Store { partition, position, rows } => {
                self.last_rows = rows;
                self.inputs.push_back(Input::Stored { partition, position });
            }
            // Nothing is ever dropped from memory, so whatever is asked for does not exist yet.
            Output::View { ticket, query: ViewQuery::Entity { .. } } => {
                let reply = ViewReply::Entity { rows: Vec::new(), events: Vec::new() };
                self.inputs.push_back(Input::Viewed { ticket, reply: Ok(reply) });
            }
            Output::Reply { reply, .. } => self.replies.push_back(reply),
            other @ (Output::Close { .. }
            | Output::View { .. }
            | Output::Message { .. }
            | Output::Stop { .. }
            | Output::Aside { .. }) => {
                panic!("no bench expects {other:?}")
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

impl Default for Fixture {
    fn default() -> Self {
        Self::new()
    }
}

/// Every lane of a connection.
const LANES: [Lane; DELIVERY_LANE_COUNT + 2] =
    [Lane::Control, Lane::Delivery(0), Lane::Delivery(1), Lane::Delivery(2), Lane::Datagram];
