//! How many commands a second become durable, by how many share one `fdatasync`; beside it the disk alone, as the floor.
//! One iteration is a commit: queue, thread, write, sync, and the way back. Of the floor, it is one page.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tern_bench::Storage;

/// Unit: bytes of a command's frame.
const RECORD_SIZE: usize = 200;
/// Unit: commands appended together.
const BATCHES: [usize; 3] = [1, 16, 256];
/// What a disk writes at least. Unit: bytes.
const PAGE_SIZE: usize = 4096;

/// On the disk that holds the build, which is less often in memory than the system's place for temporary files.
fn directory() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn journal(c: &mut Criterion) {
    let mut group = c.benchmark_group("journal");
    let mut storage = Storage::open(directory(), RECORD_SIZE);
    for count in BATCHES {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("commit", count), |b| b.iter(|| storage.commit(count)));
    }
    group.finish();
}

/// One page written over in place and synced: less than this no commit can cost.
fn floor(c: &mut Criterion) {
    let directory = tempfile::tempdir_in(directory()).expect("the build's own directory can be written to");
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
