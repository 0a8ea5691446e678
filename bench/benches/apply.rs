//! What one message costs the core before and after the log: the sender's frame to the command that is appended, and the durable
//! command to its event, its ack and its rows. Delivery to many is `fan_out`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tern_bench::{Room, measure};

/// Unit: bytes of body.
const BODY_SIZE: usize = 200;
/// Unit: members, the sender included; only the sender is online.
const GROUP_SIZES: [usize; 2] = [100, 10_000];

fn bench_apply(c: &mut Criterion, id: BenchmarkId, room: &mut Room) {
    let mut group = c.benchmark_group("apply");
    group.throughput(Throughput::Elements(1));
    group.bench_function(id, |b| {
        b.iter_custom(|count| {
            measure(count, room, Room::next_message, |room, logged| room.fixture.apply(logged), Room::clear)
        });
    });
    group.finish();
}

fn apply(c: &mut Criterion) {
    bench_apply(c, BenchmarkId::from_parameter("direct"), &mut Room::direct(BODY_SIZE));
    for members in GROUP_SIZES {
        bench_apply(c, BenchmarkId::new("group", members), &mut Room::quiet_group(members, BODY_SIZE));
    }
}

fn accept(c: &mut Criterion) {
    let mut room = Room::direct(BODY_SIZE);
    let session = room.session.expect("the sender is online");
    let mut appended = Vec::new();
    let mut group = c.benchmark_group("accept");
    group.throughput(Throughput::Elements(1));
    group.bench_function("direct", |b| {
        b.iter_custom(|count| {
            measure(
                count,
                &mut (&mut room, &mut appended),
                |(room, _)| room.next_frame(),
                |(room, appended), frame| appended.push(room.fixture.accept(session, frame)),
                // The session may only have so many commands under way: they are logged, applied and answered.
                |(room, appended)| {
                    for (partition, record) in appended.drain(..) {
                        let logged = room.fixture.log(partition, record);
                        room.fixture.apply(logged);
                    }
                    room.clear();
                },
            )
        });
    });
    group.finish();
}

criterion_group!(benches, apply, accept);
criterion_main!(benches);
