//! One shard with a log and a view that answer at once, and clients that are driven frame by frame. For tests of limits and refusals;
//! what goes wrong between the parts is the simulator's business.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;

use bytes::Bytes;
use tern_core_shard::io::{
    AppendFailure, AsideChange, Claims, Ending, Input, Lane, Logged, Order, Output, Record, Reply, Request, Row,
    StopReason, Table, ViewError, ViewQuery, ViewReply,
};
use tern_core_shard::{Limits, Shard, ShardConfig};
use tern_protocol::command::CommandHead;
use tern_protocol::frame::{self, Encode, Frame};
use tern_protocol::limit::DELIVERY_LANE_COUNT;
use tern_protocol::placement::Placement;
use tern_protocol::server::{Ack, Reject};
use tern_protocol::{
    CloseCode, ConversationId, DeviceId, PartitionId, Position, RejectCode, RequestId, Seq, SessionId, ShardId,
    Timestamp, UserId, client, stored,
};

/// Partitions of the shard.
pub(crate) const PARTITIONS: u16 = 4;

/// A shard that owns everything.
pub(crate) struct OneShard {
    pub(crate) shard: Shard,
    pub(crate) now: Timestamp,
    run: u64,
    positions: BTreeMap<PartitionId, Position>,
    rows: BTreeMap<(Table, Bytes), Bytes>,
    /// The log refuses commands of sessions like this.
    pub(crate) refuse: Option<AppendFailure>,
    /// Commands wait here instead of being logged.
    pub(crate) hold: Option<VecDeque<(PartitionId, Record)>>,
    /// Commands that others caused wait here instead of being logged.
    pub(crate) hold_emissions: Option<VecDeque<(PartitionId, Record)>>,
    /// Commands logged.
    pub(crate) logged: u64,
    /// The view does not answer.
    pub(crate) silent_view: bool,
    /// The view fails to read these.
    pub(crate) failing: BTreeSet<stored::Entity>,
    /// The view has something else than what was stored of these.
    pub(crate) damaged: BTreeSet<stored::Entity>,
    /// The view cannot read old events and pages.
    pub(crate) failing_events: bool,
    /// What the shard said of entities that cannot be read.
    pub(crate) aside: Vec<(stored::Entity, AsideChange)>,
    /// What it read meanwhile, and has not said.
    unsaid: VecDeque<(u64, Result<ViewReply, ViewError>)>,
    /// The view does not take rows of these partitions.
    pub(crate) lagging_view: BTreeSet<PartitionId>,
    lagged: VecDeque<(PartitionId, Position, Vec<Row>)>,
    /// The view answers every question with this.
    pub(crate) broken_view: Option<ViewError>,
    /// The view takes events, and neither other rows nor checkpoints.
    pub(crate) torn_view: bool,
    /// What was logged meanwhile: handed over again by the next start.
    torn: Vec<Logged>,
    /// Partitions that cannot go on.
    pub(crate) stops: Vec<(PartitionId, Position, StopReason)>,
    pub(crate) closed: BTreeMap<SessionId, CloseCode>,
    replies: BTreeMap<u64, Reply>,
    next: u64,
}

impl OneShard {
    pub(crate) fn new(limits: Limits) -> Self {
        let now = Timestamp::from_raw(1_800_000_000_000_000);
        let mut this = Self {
            shard: Shard::new(config(1, now, limits)),
            now,
            run: 1,
            positions: BTreeMap::new(),
            rows: BTreeMap::new(),
            refuse: None,
            hold: None,
            hold_emissions: None,
            logged: 0,
            silent_view: false,
            failing: BTreeSet::new(),
            damaged: BTreeSet::new(),
            failing_events: false,
            aside: Vec::new(),
            unsaid: VecDeque::new(),
            lagged: VecDeque::new(),
            lagging_view: BTreeSet::new(),
            broken_view: None,
            torn_view: false,
            torn: Vec::new(),
            stops: Vec::new(),
            closed: BTreeMap::new(),
            replies: BTreeMap::new(),
            next: 0,
        };
        this.input(Input::CaughtUp);
        this
    }

    /// Ends the shard and begins it again: what it knew is what the view has.
    pub(crate) fn restart(&mut self, limits: Limits) {
        self.run += 1;
        self.shard = Shard::new(config(self.run, self.now, limits));
        self.torn_view = false;
        for logged in std::mem::take(&mut self.torn) {
            self.input(Input::Logged(logged));
        }
        self.input(Input::CaughtUp);
    }

    /// The last position of a partition's log.
    pub(crate) fn end_of(&self, partition: PartitionId) -> Position {
        self.positions.get(&partition).copied().unwrap_or(Position::ZERO)
    }

    /// Puts rules into the view as a later build would have stored them.
    pub(crate) fn store_rules(&mut self, partition: PartitionId, level: u16) {
        let key =
            stored::Part::Rules(Position::from_raw(1)).key(&stored::entity_key(&stored::Entity::Partition(partition)));
        let row = stored::RulesRow { level, ..stored::RulesRow::default() };
        self.rows.insert((Table::Entities, key.into()), stored::encode_row(&row).into());
    }

    /// A command that stands in a log at this place.
    pub(crate) fn log_at(&mut self, partition: PartitionId, position: u64, record: Record) {
        let position = Position::from_raw(position);
        self.positions.insert(partition, position);
        self.input(Input::Logged(Logged { partition, position, time: self.now, record }));
    }

    /// The view answers again, beginning with what it was asked last.
    pub(crate) fn answer_backwards(&mut self) {
        self.silent_view = false;
        while let Some((ticket, reply)) = self.unsaid.pop_back() {
            self.input(Input::Viewed { ticket, reply });
        }
    }

    /// Gives an input and performs what comes of it, until nothing does.
    pub(crate) fn input(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.shard.handle(self.now, input);
            while let Some(output) = self.shard.poll_output() {
                self.perform(output, &mut inputs);
            }
        }
    }

    fn perform(&mut self, output: Output, inputs: &mut VecDeque<Input>) {
        match output {
            Output::VerifyToken { session, token } => {
                inputs.push_back(Input::Token { session, verdict: verify(&token) });
            }
            Output::Close { session, code } => {
                self.closed.insert(session, code);
            }
            Output::Append { partition, record } if record.head.cause_position != 0 => match &mut self.hold_emissions {
                Some(held) => held.push_back((partition, record)),
                None => inputs.push_back(self.logged(partition, record)),
            },
            Output::Append { partition, record } => match (&mut self.hold, self.refuse) {
                (Some(held), _) if record.head.actor != 0 => held.push_back((partition, record)),
                (_, Some(failure)) if record.head.actor != 0 => {
                    inputs.push_back(Input::AppendFailed { partition, record, failure });
                }
                _ => inputs.push_back(self.logged(partition, record)),
            },
            Output::View { ticket, query } => {
                let reply = self.read(&query);
                if self.silent_view {
                    self.unsaid.push_back((ticket, reply));
                } else {
                    inputs.push_back(Input::Viewed { ticket, reply });
                }
            }
            Output::Store { rows, .. } if self.torn_view => {
                for row in rows.into_iter().filter(|row| row.table == Table::Events) {
                    self.rows.extend(row.value.map(|value| ((row.table, row.key), value)));
                }
            }
            Output::Store { partition, position, rows } if self.lagging_view.contains(&partition) => {
                self.lagged.push_back((partition, position, rows));
            }
            Output::Store { partition, position, rows } => {
                self.store(rows);
                inputs.push_back(Input::Stored { partition, position });
            }
            Output::Message { to, .. } => panic!("a single shard sent to {to}"),
            Output::Aside { entity, change } => self.aside.push((entity, change)),
            Output::Reply { ticket, reply } => {
                self.replies.insert(ticket, reply);
            }
            Output::Stop { partition, position, reason } => self.stops.push((partition, position, reason)),
        }
    }

    fn logged(&mut self, partition: PartitionId, record: Record) -> Input {
        self.logged += 1;
        let position = self.positions.entry(partition).or_default();
        *position = position.next();
        let logged = Logged { partition, position: *position, time: self.now, record };
        if self.torn_view {
            self.torn.push(logged.clone());
        }
        Input::Logged(logged)
    }

    /// The view says what it read, and answers from now on.
    pub(crate) fn answer_view(&mut self) {
        self.silent_view = false;
        while let Some((ticket, reply)) = self.unsaid.pop_front() {
            self.input(Input::Viewed { ticket, reply });
        }
    }

    /// The view takes the rows that it did not, and takes them from now on.
    pub(crate) fn catch_view_up(&mut self) {
        self.lagging_view.clear();
        while let Some((partition, position, rows)) = self.lagged.pop_front() {
            self.store(rows);
            self.input(Input::Stored { partition, position });
        }
    }

    fn store(&mut self, rows: Vec<Row>) {
        for row in rows {
            match row.value {
                Some(value) => self.rows.insert((row.table, row.key), value),
                None => self.rows.remove(&(row.table, row.key)),
            };
        }
    }

    /// Whether a stored row has these bytes in it.
    pub(crate) fn stores(&self, bytes: &[u8]) -> bool {
        self.rows.values().any(|row| row.windows(bytes.len()).any(|part| part == bytes))
    }

    /// Logs the commands that were held.
    pub(crate) fn release(&mut self) {
        let held = self.hold.take().into_iter().chain(self.hold_emissions.take());
        for (partition, record) in held.flatten().collect::<Vec<_>>() {
            let logged = self.logged(partition, record);
            self.input(logged);
        }
    }

    fn read(&self, query: &ViewQuery) -> Result<ViewReply, ViewError> {
        if let Some(error) = self.broken_view {
            return Err(error);
        }
        match query {
            ViewQuery::Entity { entity, .. } if self.failing.contains(entity) => Err(ViewError::Failed),
            ViewQuery::Entity { entity, .. } if self.damaged.contains(entity) => {
                let key = stored::Part::Main.key(&stored::entity_key(entity));
                Ok(ViewReply::Entity { rows: vec![(key.into(), Bytes::from_static(b"\x01rot"))], events: Vec::new() })
            }
            ViewQuery::Events { .. } if self.failing_events => Err(ViewError::Failed),
            ViewQuery::Entity { .. } | ViewQuery::Events { .. } => Ok(self.answer(query)),
        }
    }

    /// Logs a session's command as its shard would, without asking it.
    pub(crate) fn log(&mut self, actor: UserId, session: SessionId, frame: &client::SendMessage<'_>) {
        let conversation = ConversationId::from_raw(frame.conversation);
        let head = CommandHead { actor: actor.raw(), session: session.raw(), run: self.run, ..CommandHead::default() };
        let record = Record { head, frame: frame::to_vec(frame).into() };
        let partition = Placement::new(PARTITIONS, 1).of_conversation(conversation);
        let logged = self.logged(partition, record);
        self.input(logged);
    }

    /// The view loses an event.
    pub(crate) fn lose_event(&mut self, id: ConversationId, seq: u64) {
        let key = stored::event_key(id, Seq::from_raw(seq));
        self.rows.remove(&(Table::Events, Bytes::copy_from_slice(&key)));
    }

    /// How many rows the view has.
    pub(crate) fn row_count(&self) -> usize {
        self.rows.len()
    }

    fn answer(&self, query: &ViewQuery) -> ViewReply {
        match query {
            ViewQuery::Entity { entity, recent } => {
                let prefix = stored::entity_key(entity);
                let entities =
                    self.rows.iter().filter(|((table, key), _)| *table == Table::Entities && key.starts_with(&prefix));
                let rows = entities.map(|((_, key), value)| (key.clone(), value.clone())).collect();
                let all: Vec<Bytes> = match entity {
                    stored::Entity::Conversation(id) => self.events(*id, 0, u64::MAX),
                    stored::Entity::User(_) | stored::Entity::Account(_) | stored::Entity::Partition(_) => Vec::new(),
                };
                let events = recent.take(all.into_iter().rev().map(Ok::<_, Infallible>)).unwrap();
                ViewReply::Entity { rows, events }
            }
            ViewQuery::Events { conversation, from, to, size_max, order } => {
                let mut all = self.events(*conversation, from.raw(), to.raw());
                while all.len() > 1 && all.iter().map(Bytes::len).sum::<usize>() > *size_max {
                    match order {
                        Order::OldestFirst => all.pop(),
                        Order::NewestFirst => Some(all.remove(0)),
                    };
                }
                ViewReply::Events(all)
            }
        }
    }

    fn events(&self, id: ConversationId, from: u64, to: u64) -> Vec<Bytes> {
        let inside = |key: &Bytes| {
            let seq = u64::from_be_bytes(key[16..].try_into().unwrap());
            key[..16] == id.raw().to_be_bytes() && (from..=to).contains(&seq)
        };
        let events = self.rows.iter().filter(|((table, key), _)| *table == Table::Events && inside(key));
        events.map(|(_, frame)| frame.clone()).collect()
    }

    /// Asks as the HTTP API does.
    pub(crate) fn request(&mut self, request: Request) -> Option<Reply> {
        self.next += 1;
        let ticket = self.next;
        self.input(Input::Request { ticket, request });
        self.replies.remove(&ticket)
    }

    /// Registers a user and logs their device 1 in.
    pub(crate) fn user(&mut self, name: &str) -> UserId {
        let register = Request::Register { name: name.into(), display: name.into(), password: "x".into() };
        let Some(Reply::Registered { user }) = self.request(register) else { panic!("{name} is not registered") };
        self.device(user, 1);
        user
    }

    /// Logs a device in.
    pub(crate) fn device(&mut self, user: UserId, device: u64) {
        let device = DeviceId::from_raw(device);
        let open = Request::OpenDevice { user, device, secret: [0; 32], name: "test".into(), devices_max: 10 };
        assert_eq!(self.request(open), Some(Reply::DeviceOpened));
    }

    /// A connection that has said nothing.
    pub(crate) fn connect(&mut self) -> SessionId {
        self.next += 1;
        let session = SessionId::from_raw(self.next | 1 << 32);
        self.input(Input::Connected { session });
        session
    }

    /// A connection of the user's device 1 that was welcomed.
    pub(crate) fn open(&mut self, user: UserId) -> SessionId {
        self.open_device(user, 1)
    }

    /// A connection of one of the user's devices that was welcomed.
    pub(crate) fn open_device(&mut self, user: UserId, device: u64) -> SessionId {
        let session = self.connect();
        self.send(session, &hello(&token(user, device)));
        session
    }

    pub(crate) fn send<F: Encode>(&mut self, session: SessionId, frame: &F) {
        self.raw(session, frame::to_vec(frame).into());
    }

    pub(crate) fn raw(&mut self, session: SessionId, bytes: Bytes) {
        self.input(Input::Frame { session, bytes });
    }

    pub(crate) fn disconnect(&mut self, session: SessionId, ending: Ending) {
        self.input(Input::Disconnected { session, ending });
    }

    /// Everything that waits for a session, lane by lane.
    pub(crate) fn take(&mut self, session: SessionId) -> Vec<Bytes> {
        let lanes = (0..DELIVERY_LANE_COUNT).map(|lane| Lane::Delivery(u8::try_from(lane).unwrap()));
        let lanes: Vec<Lane> = [Lane::Control].into_iter().chain(lanes).chain([Lane::Datagram]).collect();
        let mut frames = Vec::new();
        // Taking a frame may queue another one on a lane that was empty.
        while let Some(frame) = lanes.iter().find_map(|lane| self.shard.pop_frame(session, *lane)) {
            frames.push(frame);
        }
        frames
    }

    /// Opens the direct conversation of two users, both of them online.
    pub(crate) fn direct(&mut self, session: SessionId, from: UserId, to: UserId) -> ConversationId {
        self.send(session, &client::OpenDirect { request: 0xd1ec7, user: to.raw() });
        ConversationId::direct(from, to)
    }

    /// Lets time pass.
    pub(crate) fn wait(&mut self, span: std::time::Duration) {
        let end = self.now.after(span);
        while let Some(at) = self.shard.poll_timeout().filter(|at| *at <= end) {
            self.now = at;
            self.input(Input::Timeout);
        }
        self.now = end;
    }
}

fn config(run: u64, now: Timestamp, limits: Limits) -> ShardConfig {
    ShardConfig {
        shard: ShardId::from_raw(0),
        placement: Placement::new(PARTITIONS, 1),
        run,
        now,
        limits,
        sabotage: None,
    }
}

/// The token that the test's verifier takes: user and device, and what to say to them.
pub(crate) fn token(user: UserId, device: u64) -> Vec<u8> {
    format!("{} {device}", user.raw()).into_bytes()
}

fn verify(token: &[u8]) -> Result<Claims, CloseCode> {
    match token {
        b"expired" => return Err(CloseCode::ExpiredToken),
        b"forged" => return Err(CloseCode::BadToken),
        _ => {}
    }
    let text = std::str::from_utf8(token).unwrap();
    let (user, device) = text.split_once(' ').unwrap();
    Ok(Claims {
        user: UserId::from_raw(user.parse().unwrap()),
        device: DeviceId::from_raw(device.parse().unwrap()),
        expires: Timestamp::from_raw(u64::MAX),
    })
}

/// A hello with this token.
pub(crate) fn hello(token: &[u8]) -> client::Hello<'_> {
    client::Hello { user_seq: 0, token, client: b"test", positions: &[] }
}

/// A first attempt at a text message.
pub(crate) fn text(conversation: ConversationId, request: u128, body: &[u8]) -> client::SendMessage<'_> {
    client::SendMessage {
        request,
        conversation: conversation.raw(),
        known: u64::MAX,
        reply_to: 0,
        content: 0,
        mentions: &[],
        body,
    }
}

/// The refusals among frames.
pub(crate) fn rejects(frames: &[Bytes]) -> Vec<(RequestId, RejectCode, u32)> {
    let decoded = frames.iter().filter_map(|frame| frame::decode::<Reject>(frame).ok());
    decoded
        .map(|f| {
            let code = RejectCode::from_raw(f.code.to_native()).unwrap();
            (RequestId::from_raw(f.request.to_native()), code, f.retry_after.to_native())
        })
        .collect()
}

/// The acknowledgements among frames: request and seq.
pub(crate) fn acks(frames: &[Bytes]) -> Vec<(u128, u64)> {
    let decoded = frames.iter().filter_map(|frame| frame::decode::<Ack>(frame).ok());
    decoded.map(|f| (f.request.to_native(), f.seq.to_native())).collect()
}

/// How many frames are of this type.
pub(crate) fn count<F: Frame>(frames: &[Bytes]) -> usize {
    frames.iter().filter(|bytes| frame::open(bytes).is_ok_and(|(kind, _)| kind == F::KIND)).count()
}
