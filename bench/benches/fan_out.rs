//! What one message costs for each session that it reaches: from the durable command until the transport has taken every frame.
//! Members without a session must cost nothing, and a recipient the same in a crowd as alone, but for cache misses.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tern_bench::{Room, measure};

/// Unit: bytes of body.
const BODY_SIZE: usize = 200;
/// Unit: sessions that receive the message.
const AUDIENCES: [usize; 3] = [1, 100, 10_000];

fn fan_out(c: &mut Criterion) {
    for (name, offline) in [("online", 0), ("half_offline", 1)] {
        let mut group = c.benchmark_group(format!("fan_out/{name}"));
        for audience in AUDIENCES {
            let mut room = Room::audience(audience, offline, BODY_SIZE);
            group.throughput(Throughput::Elements(audience as u64));
            group.bench_function(BenchmarkId::from_parameter(audience), |b| {
                b.iter_custom(|count| {
                    measure(
                        count,
                        &mut room,
                        Room::next_message,
                        |room, logged| {
                            room.fixture.apply(logged);
                            let taken = room.fixture.take_frames(|_, _| {});
                            assert_eq!(taken, audience, "everybody gets it once");
                        },
                        |_| {},
                    )
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, fan_out);
criterion_main!(benches);
