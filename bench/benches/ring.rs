//! What a message from one shard to another costs: woken by the bell when the other one sleeps, and in a stream when it does not.
//! Two threads, the edge's own rings and bells; waiting is a `poll` of the bell, as the drivers do it.

use std::sync::Arc;
use std::thread::JoinHandle;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustix::event::{PollFd, PollFlags, poll};
use tern_edge::ring::{Bell, Links, mesh};

/// Messages pushed before the other side is rung. Unit: messages; less than a ring holds.
const STREAM: u64 = 1024;
/// Ends the other thread.
const STOP: u64 = u64::MAX;

/// One side: its rings and its bell.
struct Side {
    links: Links<u64>,
    bell: Arc<Bell>,
    taken: Vec<u64>,
}

impl Side {
    /// Sleeps until something comes in, and takes it.
    fn take(&mut self) -> &[u64] {
        self.taken.clear();
        while self.taken.is_empty() {
            self.bell.announce_sleep();
            if !self.links.has_incoming() {
                let bell = PollFd::new(&self.bell, PollFlags::IN);
                // A signal only makes it look once more.
                let _ = poll(&mut [bell], None);
                self.bell.clear();
            }
            self.bell.stay_awake();
            let taken = &mut self.taken;
            self.links.receive(|_, message| taken.push(message));
        }
        &self.taken
    }

    fn send(&mut self, to: usize, messages: impl Iterator<Item = u64>) {
        for message in messages {
            self.links.send(to, message).expect("the other side exists");
        }
        self.links.flush();
    }
}

/// This thread's side, and a thread that answers each delivery with the last message of it.
fn sides() -> (Side, JoinHandle<()>) {
    let bells: Vec<Arc<Bell>> = (0..2).map(|_| Arc::new(Bell::new().expect("a file descriptor"))).collect();
    let mut links = mesh(&bells).into_iter();
    let side = |links, index: usize| Side { links, bell: Arc::clone(&bells[index]), taken: Vec::new() };
    let near = side(links.next().expect("two shards"), 0);
    let mut far = side(links.next().expect("two shards"), 1);
    let thread = std::thread::spawn(move || {
        while let Some(last) = far.take().last().copied().filter(|last| *last != STOP) {
            far.send(0, std::iter::once(last));
        }
    });
    (near, thread)
}

fn hop(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring");
    let (mut near, thread) = sides();
    // Two hops: there, and back.
    group.throughput(Throughput::Elements(2));
    group.bench_function("hop_and_back_asleep", |bencher| {
        bencher.iter(|| {
            near.send(1, std::iter::once(1));
            near.take().len()
        });
    });
    group.throughput(Throughput::Elements(STREAM));
    group.bench_function("stream_of_1024", |bencher| {
        bencher.iter(|| {
            near.send(1, 1..=STREAM);
            while near.take().last() != Some(&STREAM) {}
        });
    });
    near.send(1, std::iter::once(STOP));
    thread.join().expect("the other side ends when it is told to");
    group.finish();
}

criterion_group!(benches, hop);
criterion_main!(benches);
