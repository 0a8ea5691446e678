//! What a frame costs: to encode, and to validate in place. Nothing is copied by validating, so it must not depend on the body.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tern_bench::{event, send};
use tern_protocol::client::SendMessage;
use tern_protocol::frame;
use tern_protocol::server::Event;
use tern_protocol::{ConversationId, RequestId, UserId};

/// A chat message, and the largest one. Unit: bytes of body.
const BODY_SIZES: [usize; 2] = [150, tern_protocol::limit::BODY_SIZE_MAX];

fn conversation() -> ConversationId {
    ConversationId::group(UserId::from_raw(1), RequestId::from_raw(1))
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame/encode");
    for size in BODY_SIZES {
        let body = vec![b'a'; size];
        let mut out = Vec::new();
        group.throughput(Throughput::Elements(1));
        group.bench_with_input(BenchmarkId::new("send_message", size), &body, |b, body| {
            b.iter(|| {
                out.clear();
                frame::encode(black_box(&send(conversation(), 1, body)), &mut out);
            });
        });
        group.bench_with_input(BenchmarkId::new("event", size), &body, |b, body| {
            b.iter(|| {
                out.clear();
                frame::encode(black_box(&event(conversation(), 1, body)), &mut out);
            });
        });
        // As the owner does for each event: into a buffer of its own.
        group.bench_with_input(BenchmarkId::new("event_to_vec", size), &body, |b, body| {
            b.iter(|| frame::to_vec(black_box(&event(conversation(), 1, body))));
        });
    }
    group.finish();
}

fn validate(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame/validate");
    for size in BODY_SIZES {
        let body = vec![b'a'; size];
        let sent = frame::to_vec(&send(conversation(), 1, &body));
        let happened = frame::to_vec(&event(conversation(), 1, &body));
        group.throughput(Throughput::Elements(1));
        group.bench_with_input(BenchmarkId::new("send_message", size), &sent, |b, frame| {
            b.iter(|| frame::decode::<SendMessage<'_>>(black_box(frame)).map(|send| send.body.len()));
        });
        group.bench_with_input(BenchmarkId::new("event", size), &happened, |b, frame| {
            b.iter(|| frame::decode::<Event<'_>>(black_box(frame)).map(|event| event.body.len()));
        });
    }
    group.finish();
}

criterion_group!(benches, encode, validate);
criterion_main!(benches);
