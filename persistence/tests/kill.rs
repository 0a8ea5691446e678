//! A process that is killed at a random moment loses nothing that was handed out. The child is this same test binary.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tern_core_shard::io::{Input, Order, Record, Row, Table, ViewQuery, ViewReply};
use tern_persistence::{Bell, Clock, Embedded, EmbeddedConfig, open};
use tern_protocol::command::CommandHead;
use tern_protocol::stored::event_key;
use tern_protocol::{ConversationId, PartitionId, Position, Seq};

const PARTITIONS: u16 = 4;
const DIRECTORY: &str = "TERN_KILL_TEST_DIRECTORY";
const PATIENCE: Duration = Duration::from_secs(60);

fn start(directory: &Path) -> Embedded {
    let mut config = EmbeddedConfig::new(directory, PARTITIONS, 1);
    // Small, so that segments are reused under the child's hands.
    config.first_segment_size = 1024 * 1024;
    config.segment_size = 1024 * 1024;
    config.segments_max = 4;
    config.batch_size_max = 128 * 1024;
    let shard: Thread = std::thread::current();
    let bell: Bell = Arc::new(move || shard.unpark());
    open(config, vec![bell], Clock::start()).unwrap()
}

fn room(partition: PartitionId) -> ConversationId {
    ConversationId::from_raw(u128::from(partition.raw()) + 1)
}

fn row(partition: PartitionId, position: Position) -> Row {
    let key = Bytes::copy_from_slice(&event_key(room(partition), Seq::from_raw(position.raw())));
    Row { table: Table::Events, key, value: Some(Bytes::from(format!("{partition} {position}"))) }
}

/// Appends without pause and says on standard output what is durable. Only does something when the parent starts it.
#[test]
fn child_that_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let Embedded { mut stores, handle: _handle, .. } = start(Path::new(&directory));
    let store = &mut stores[0];
    let mut out = std::io::stdout().lock();
    let mut actor = 0u64;
    loop {
        for _ in 0..20 {
            actor += 1;
            let frame = Bytes::from(vec![b'f'; usize::try_from(actor % 900).unwrap()]);
            let record = Record { head: CommandHead { actor, ..CommandHead::default() }, frame };
            store.append(PartitionId::from_raw(u16::try_from(actor % 4).unwrap()), record).ok();
        }
        let mut said = String::new();
        while let Some(input) = store.poll() {
            if let Input::Logged(logged) = input {
                said.push_str(&format!("durable {} {}\n", logged.partition.raw(), logged.position.raw()));
                store.store(logged.partition, logged.position, vec![row(logged.partition, logged.position)]);
            }
        }
        store.flush();
        if out.write_all(said.as_bytes()).and_then(|()| out.flush()).is_err() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Runs the child until it said so many lines, kills it, and returns the last durable position of each partition.
fn run_and_kill(directory: &Path, lines: usize) -> BTreeMap<u16, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_is_killed", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut durable = BTreeMap::new();
    let mut seen = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        if let (Some("durable"), Some(partition), Some(position)) = (words.next(), words.next(), words.next()) {
            // The last line may be cut short: then it says a smaller number, which is durable too.
            if let (Ok(partition), Ok(position)) = (partition.parse(), position.parse::<u64>()) {
                let last = durable.entry(partition).or_insert(0);
                *last = position.max(*last);
            }
            seen += 1;
            if seen == lines {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    durable
}

/// Opens, and checks that every durable command is either in the view or handed over, in order; and leaves it all in the view.
fn check(directory: &Path, durable: &BTreeMap<u16, u64>) {
    let Embedded { mut stores, handle, .. } = start(directory);
    let store = &mut stores[0];
    let mut next_replayed = BTreeMap::new();
    let deadline = Instant::now() + PATIENCE;
    let (mut caught_up, mut open_stores) = (false, BTreeMap::new());
    while !caught_up || !open_stores.is_empty() {
        while let Some(input) = store.poll() {
            if let Input::Logged(logged) = &input {
                let position = logged.position.raw();
                let next = next_replayed.entry(logged.partition).or_insert(position);
                assert_eq!(*next, position, "in order, once");
                *next += 1;
                open_stores.insert(logged.partition, logged.position);
                store.store(logged.partition, logged.position, vec![row(logged.partition, logged.position)]);
            } else if let Input::Stored { partition, position } = &input
                && open_stores.get(partition) == Some(position)
            {
                open_stores.remove(partition);
            }
            caught_up |= matches!(input, Input::CaughtUp);
        }
        store.flush();
        assert!(Instant::now() < deadline, "recovery takes too long");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    for raw in 0..PARTITIONS {
        let (from, to) = (Seq::ZERO, Seq::from_raw(u64::MAX));
        let conversation = room(PartitionId::from_raw(raw));
        let query = ViewQuery::Events { conversation, from, to, size_max: usize::MAX, order: Order::OldestFirst };
        store.query(u64::from(raw), query).unwrap();
        store.flush();
        let events = loop {
            match store.poll() {
                Some(Input::Viewed { reply: Ok(ViewReply::Events(events)), .. }) => break events,
                Some(_) => {}
                None => std::thread::park_timeout(Duration::from_millis(5)),
            }
            assert!(Instant::now() < deadline, "the view does not answer");
        };
        let promised = durable.get(&raw).copied().unwrap_or(0);
        assert!(events.len() as u64 >= promised, "partition {raw}: {} of {promised}", events.len());
        for (index, event) in events.iter().enumerate() {
            let position = Position::from_raw(index as u64 + 1);
            assert_eq!(Some(event), row(PartitionId::from_raw(raw), position).value.as_ref(), "no hole");
        }
    }
    handle.shutdown().unwrap();
}

#[test]
fn nothing_durable_is_lost_when_the_process_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    for lines in [137, 2_011, 6_007, 1_409] {
        let durable = run_and_kill(directory.path(), lines);
        assert!(!durable.is_empty(), "the child said something");
        check(directory.path(), &durable);
    }
}
