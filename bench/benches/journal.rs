//! How many commands a second become durable, by how many share one `fdatasync`; beside it the disk alone, as the floor.
//! Measures the journal as a shard meets it: queue, thread, write, sync, and the way back.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tern_core_shard::io::{Input, Record};
use tern_persistence::{Bell, Embedded, EmbeddedConfig, EmbeddedHandle, ShardStore, open};
use tern_protocol::command::CommandHead;
use tern_protocol::{PartitionId, Position};

/// Unit: bytes of a command's frame.
const RECORD_SIZE: usize = 200;
/// Unit: commands appended together.
const BATCHES: [usize; 3] = [1, 16, 256];
/// What a disk writes at least. Unit: bytes.
const PAGE_SIZE: usize = 4096;
/// After this the bench says that the journal hangs.
const PATIENCE: Duration = Duration::from_secs(60);

const PARTITION: PartitionId = PartitionId::from_raw(0);

/// A store with one shard, which is the bench's thread.
struct Journal {
    store: ShardStore,
    handle: EmbeddedHandle,
    record: Record,
}

impl Journal {
    fn open(directory: &tempfile::TempDir) -> Self {
        let shard: Thread = std::thread::current();
        let bell: Bell = Arc::new(move || shard.unpark());
        let config = EmbeddedConfig::new(directory.path(), 1, 1);
        let Embedded { mut stores, handle, .. } = open(config, vec![bell]).expect("an empty directory can be opened");
        let frame = Bytes::from(vec![b'f'; RECORD_SIZE]);
        let record = Record { head: CommandHead { actor: 1, ..CommandHead::default() }, frame };
        Self { store: stores.remove(0), handle, record }
    }

    /// Appends so many commands and waits until the last of them is durable.
    fn commit(&mut self, count: usize) {
        for _ in 0..count {
            self.store.append(PARTITION, self.record.clone()).expect("the queue is empty");
        }
        self.store.flush();
        let (mut durable, mut last) = (0, Position::ZERO);
        let deadline = Instant::now() + PATIENCE;
        while durable < count {
            match self.store.poll() {
                Some(Input::Logged(logged)) => {
                    durable += 1;
                    last = logged.position;
                }
                Some(_) => {}
                None => std::thread::park_timeout(deadline.saturating_duration_since(Instant::now())),
            }
            assert!(Instant::now() < deadline, "the journal does not answer");
        }
        // Commands without rows: the view only moves its checkpoint, and the journal can use its segments again.
        self.store.store(PARTITION, last, Vec::new());
    }
}

/// On the disk that holds the build, which is less often in memory than the system's place for temporary files.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's own directory can be written to")
}

fn journal(c: &mut Criterion) {
    let mut group = c.benchmark_group("journal");
    let directory = directory();
    let mut journal = Journal::open(&directory);
    for count in BATCHES {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("commit", count), |b| b.iter(|| journal.commit(count)));
    }
    group.finish();
    drop(journal.store);
    journal.handle.shutdown().expect("nothing is left to write");
}

/// One page written over in place and synced: less than this no commit can cost.
fn floor(c: &mut Criterion) {
    let directory = directory();
    let file = File::create(directory.path().join("page")).expect("the directory is empty");
    let page = [b'p'; PAGE_SIZE];
    file.write_all_at(&page, 0).and_then(|()| file.sync_all()).expect("there is space for a page");
    let mut group = c.benchmark_group("journal");
    group.throughput(Throughput::Elements(1));
    group.bench_function("floor", |b| {
        b.iter(|| file.write_all_at(&page, 0).and_then(|()| file.sync_data()).expect("the disk works"));
    });
    group.finish();
}

criterion_group!(benches, floor, journal);
criterion_main!(benches);
