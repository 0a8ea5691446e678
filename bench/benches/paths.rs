//! How long every hot path takes: what one iteration is stands in `tern_bench::paths`, beside the path. The same code as
//! `benches/instructions`, by the clock: trust ratios of one run.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tern_bench::{Stopwatch, paths};

/// The server's own: its time is a part of every path.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn all(criterion: &mut Criterion) {
    for path in paths::all() {
        let mut group = criterion.benchmark_group(path.name);
        group.throughput(Throughput::Elements(path.count));
        // Set up when it runs, and not for a path that is filtered out.
        let mut round = None;
        group.bench_function("round", |bencher| {
            let round = round.get_or_insert_with(|| path.set_up());
            bencher.iter_custom(|rounds| {
                let mut stopwatch = Stopwatch::default();
                (0..rounds).for_each(|_| round(&mut stopwatch));
                stopwatch.total
            });
        });
        group.finish();
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
