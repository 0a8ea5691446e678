//! Power cuts under the view's writer, from a seed: the real writer and reader over the real database without workers, or over a map. What was
//! not synced is kept, zeroed or torn per sector of 512 bytes. After every cut the view opens by itself, its rows and checkpoints are those of one
//! prefix of the commits, everything that was synced is in it, and the journal was never told of more.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rtrb::{Producer, RingBuffer};
use tern_core_shard::io::{Order, Row, Table, ViewQuery, ViewReply};
use tern_protocol::stored::event_key;
use tern_protocol::{ConversationId, PartitionId, Position, Seq};

use super::map::{Content, Map};
use super::{PARTITIONS, config, journal_file, put, rows};
use crate::EmbeddedConfig;
use crate::conformance::world::Place;
use crate::journal::segments::Synced;
use crate::sabotage::Sabotage;
use crate::status::Status;
use crate::store::StoreRows;
use crate::view::engine::{Batch, Engine, EngineError, Moment, View};
use crate::view::lsm::Lsm;
use crate::view::reader::answer;
use crate::view::tail::scan;
use crate::view::{ViewLane, ViewWriter};

/// Lives of one seed.
const LIVES: u64 = 5;
/// Seeds when nobody says how many.
const SEEDS_DEFAULT: u64 = 60;
/// Seeds tried before a mechanism counts as unnoticed.
const SABOTAGE_SEEDS_MAX: u64 = 2_000;
const SECTOR_SIZE: u64 = 512;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// The database of one life; its power goes inside a call of the seed's choice.
#[derive(Debug)]
struct Powered {
    inner: Inner,
    calls_left: AtomicU64,
    history: Arc<Mutex<History>>,
}

#[derive(Debug)]
enum Inner {
    Lsm { lsm: Lsm, journal: PathBuf },
    Map(Arc<Map>),
}

/// All that was ever committed, as far as it still counts.
#[derive(Debug, Default)]
struct History {
    batches: Vec<Batch>,
    /// Of them, how many are on the disk for certain.
    synced: usize,
    /// Where they end in the journal file. Unit: bytes.
    synced_end: u64,
}

impl History {
    fn after(&self, count: usize) -> Content {
        let mut content = Content::default();
        self.batches[..count].iter().for_each(|batch| content.put(batch));
        content
    }
}

impl Powered {
    /// Whether the power is still there; the call in which it goes may have been done or not.
    fn on(&self) -> bool {
        self.calls_left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok()
    }

    fn engine(&self) -> &dyn Engine {
        match &self.inner {
            Inner::Lsm { lsm, .. } => lsm,
            Inner::Map(map) => &**map,
        }
    }
}

fn gone() -> EngineError {
    EngineError::Failed("the power is gone".into())
}

impl Engine for Powered {
    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        if self.calls_left.load(SeqCst) == 0 {
            return Err(gone());
        }
        let on = self.on() && self.calls_left.load(SeqCst) > 0;
        self.history.lock().unwrap().batches.push(batch.clone());
        self.engine().commit(batch)?;
        if on { Ok(()) } else { Err(gone()) }
    }

    fn persist(&self) -> Result<(), EngineError> {
        if !self.on() || self.calls_left.load(SeqCst) == 0 {
            return Err(gone());
        }
        self.engine().persist()?;
        let mut history = self.history.lock().unwrap();
        history.synced = history.batches.len();
        if let Inner::Lsm { journal, .. } = &self.inner {
            history.synced_end = scan(journal).unwrap().end;
        }
        Ok(())
    }

    fn moment(&self) -> Box<dyn Moment + '_> {
        self.engine().moment()
    }

    fn size(&self) -> u64 {
        0
    }

    fn is_ready(&self) -> Result<bool, EngineError> {
        Ok(true)
    }

    fn reopen(&self) -> Result<Vec<u64>, EngineError> {
        Err(EngineError::Failed("is not opened again here".into()))
    }
}

/// What a power cut leaves of a journal file of which everything up to `synced` was synced.
fn cut_power(path: &Path, synced: u64, rng: &mut Rng) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let end = scan(path).unwrap().end;
    let keep_in_16 = [0, 8, 15, 16][rng.below(4) as usize];
    // What stood on the disk before: zeros, or bytes of a file that was removed.
    let filler = if rng.below(4) == 0 { 0x02 } else { 0 };
    let mut at = synced;
    while at < end {
        let next = (at / SECTOR_SIZE + 1) * SECTOR_SIZE;
        if rng.below(16) >= keep_in_16 {
            let lost = vec![filler; (next.min(end) - at) as usize];
            file.write_all_at(&lost, at).unwrap();
        }
        at = next;
    }
    if rng.below(3) == 0 {
        // A length that was not synced is lost too.
        file.set_len(synced + rng.below(end - synced + 1)).unwrap();
    }
}

/// The store's rows of one command: an event, and now and then an entity's row that comes, changes or goes.
fn command(partition: u16, position: u64, rng: &mut Rng) -> StoreRows {
    let size = match rng.below(10) {
        0 => 4096 + rng.below(12 * 1024),
        1..5 => rng.below(4000),
        _ => rng.below(100),
    };
    // Nothing that the database's compressor makes smaller.
    let value = (0..size).map(|_| rng.next() as u8).collect();
    let room = ConversationId::from_raw(u128::from(partition) + 1);
    let mut rows = vec![put(Table::Events, &event_key(room, Seq::from_raw(position)), value)];
    let key = [1, partition as u8, rng.below(4) as u8];
    match rng.below(4) {
        0 => rows.push(Row { value: None, ..put(Table::Entities, &key, Vec::new()) }),
        1 => rows.push(put(Table::Entities, &key, position.to_be_bytes().to_vec())),
        _ => {}
    }
    let partition = PartitionId::from_raw(partition);
    StoreRows { partition, position: Position::from_raw(position), rows, size: size as usize }
}

/// One process: writes until the power goes, or is killed. Returns what the journal was told.
fn live(view: View, applied: &[u64], rng: &mut Rng, mut tuned: EmbeddedConfig) -> Vec<u64> {
    tuned.view_batch_size_max = 1 + rng.below(8 * 1024) as usize;
    let synced = Arc::new(Synced::new(applied));
    let status = Arc::new(Status::new(1, tuned.commit_slow));
    let (mut stores, ends) = RingBuffer::new(64);
    let (stored, _confirmed) = RingBuffer::new(64);
    let lane = ViewLane { stores: ends, stored, bell: Arc::new(|| {}) };
    let mut writer =
        ViewWriter::new(view, applied.to_vec(), vec![lane], &tuned, Arc::clone(&synced), Arc::clone(&status));
    let mut positions = applied.to_vec();
    for _ in 0..1 + rng.below(12) {
        hand_over(&mut stores, &mut positions, rng);
        for _ in 0..1 + rng.below(3) {
            writer.turn();
        }
        if rng.below(3) == 0 {
            writer.checkpoint().ok();
        }
        if status.view_failed().is_some() {
            break;
        }
    }
    synced.positions()
}

fn hand_over(stores: &mut Producer<StoreRows>, positions: &mut [u64], rng: &mut Rng) {
    for _ in 0..rng.below(6) {
        let partition = rng.below(u64::from(PARTITIONS)) as u16;
        let position = &mut positions[usize::from(partition)];
        if stores.push(command(partition, *position + 1, rng)).is_ok() {
            *position += 1;
        }
    }
}

/// Compares a view that was just opened with the commits; forgets those that are lost.
fn check(engine: &dyn Engine, applied: &[u64], told: &[u64], history: &mut History) -> Result<(), String> {
    let found = rows(engine);
    let matches = |count: &usize| {
        let content = history.after(*count);
        let there = |(raw, &at): (usize, &u64)| content.applied.get(&(raw as u16)).copied().unwrap_or(0) == at;
        content.rows == found && applied.iter().enumerate().all(there)
    };
    // From the newest: several may look alike.
    let count = (0..=history.batches.len()).rev().find(matches);
    let count = count.ok_or("rows and checkpoints are not those of any prefix of the commits")?;
    if count < history.synced {
        return Err(format!("{count} commits are there, {} were synced", history.synced));
    }
    if told.iter().zip(applied).any(|(told, applied)| told > applied) {
        return Err(format!("the journal was told of {told:?}, the view has {applied:?}"));
    }
    let room = ConversationId::from_raw(1);
    let (from, to, order) = (Seq::ZERO, Seq::from_raw(u64::MAX), Order::OldestFirst);
    let all = answer(engine, &ViewQuery::Events { conversation: room, from, to, size_max: usize::MAX, order });
    let expected =
        found.iter().filter(|((table, key), _)| *table == Table::Events && key[..16] == room.raw().to_be_bytes());
    let expected: Vec<Bytes> = expected.map(|(_, value)| value.clone()).collect();
    if all != Ok(ViewReply::Events(expected)) {
        return Err("the reader sees something else".into());
    }
    history.batches.truncate(count);
    history.synced = count;
    Ok(())
}

fn tuned(directory: &Path, sabotage: Option<Sabotage>) -> EmbeddedConfig {
    EmbeddedConfig { sabotage, ..config(directory) }
}

/// Plays one seed.
fn play(seed: u64, sabotage: Option<Sabotage>) -> Result<(), String> {
    let mut rng = Rng(seed);
    let place = Place::new("view-power");
    let memory = Path::new("/dev/shm");
    let name = place.0.file_name().expect("it was given one");
    let place = if memory.is_dir() { Place(memory.join(name)) } else { place };
    let map = (seed % 2 == 1).then(|| Arc::new(Map::default()));
    let history = Arc::<Mutex<History>>::default();
    let mut told = vec![0; usize::from(PARTITIONS)];
    for _ in 0..LIVES {
        let inner = if let Some(map) = &map {
            // Whoever opens a database makes durable what it finds.
            map.persist().unwrap();
            Inner::Map(Arc::clone(map))
        } else {
            let lsm = Lsm::open(&tuned(&place.0, sabotage), 0).map_err(|error| error.to_string())?;
            Inner::Lsm { lsm, journal: journal_file(&place.0) }
        };
        let applied = match &inner {
            Inner::Lsm { lsm, .. } => lsm.checkpoints(PARTITIONS).map_err(|error| error.to_string())?,
            Inner::Map(map) => {
                (0..PARTITIONS).map(|raw| map.content().applied.get(&raw).copied().unwrap_or(0)).collect()
            }
        };
        let calls_left = AtomicU64::new(1 + rng.below(30));
        let powered = Powered { inner, calls_left, history: Arc::clone(&history) };
        check(powered.engine(), &applied, &told, &mut history.lock().unwrap())?;
        if let Inner::Lsm { journal, .. } = &powered.inner {
            // What was read at the start was synced by whoever opened it.
            history.lock().unwrap().synced_end = scan(journal).unwrap().end;
        }
        let killed = rng.below(4) == 0;
        told = live(Arc::new(powered), &applied, &mut rng, tuned(&place.0, sabotage));
        let history = history.lock().unwrap();
        match &map {
            _ if killed => {}
            Some(map) => map.cut(rng.below(map.unsynced() as u64 + 1) as usize),
            None => cut_power(&journal_file(&place.0), history.synced_end, &mut rng),
        }
    }
    Ok(())
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_power_cut_takes_only_commits_that_were_never_synced_and_the_view_opens_by_itself() {
    let start = number("TERN_CUTS_START").unwrap_or(1);
    let all = start..start + number("TERN_CUTS_SEEDS").unwrap_or(SEEDS_DEFAULT);
    for seed in number("TERN_CUTS_SEED").map_or(all, |seed| seed..seed + 1) {
        let replay = "cargo test -p tern-persistence --lib power_cuts";
        assert_eq!(play(seed, None), Ok(()), "replay: TERN_CUTS_SEED={seed} {replay}");
    }
}

/// One mechanism is off: some seed must show it.
fn notices(mechanism: Sabotage, seen_as: &str) {
    let seeds = 1..=SABOTAGE_SEEDS_MAX;
    let mut found = seeds.filter_map(|seed| play(seed, Some(mechanism)).err());
    let why = found.next().unwrap_or_else(|| panic!("{SABOTAGE_SEEDS_MAX} seeds without {mechanism:?} look well"));
    assert!(why.contains(seen_as), "{why}");
}

#[test]
fn a_torn_end_that_is_not_cut_is_noticed() {
    notices(Sabotage::ViewTail, "ChecksumMismatch");
}

#[test]
fn a_view_that_is_never_synced_is_noticed() {
    notices(Sabotage::ViewSync, "the journal was told");
}

#[test]
fn a_journal_that_is_told_before_the_sync_is_noticed() {
    notices(Sabotage::ViewOrder, "the journal was told");
}

#[test]
fn a_journal_that_is_told_of_a_failed_commit_is_noticed() {
    notices(Sabotage::ViewFailure, "the journal was told");
}

#[test]
fn rows_without_their_checkpoint_are_noticed() {
    notices(Sabotage::ViewBatch, "not those of any prefix");
}
