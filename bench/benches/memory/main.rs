//! Counts what an idle, logged-in connection keeps allocated in the server: the difference between many and few of them, with the same
//! users registered. Counts, never times, and is the same in every run. `cargo xtask bench-check` runs it and compares.

mod heap;

use std::any::Any;

use heap::{Counting, Heap};
use tern_bench::{QuicCrowd, WebSocketCrowd};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Unit: bytes of body; nobody writes.
const BODY_SIZE: usize = 200;

/// A kind of connection.
struct Kind {
    name: &'static str,
    /// Few and many. Unit: connections.
    counts: [usize; 2],
    /// A server with so many registered members of one group and so many of them connected, for whom nothing is on its way.
    server: fn(usize, usize) -> Box<dyn Any>,
}

const KINDS: [Kind; 2] = [
    Kind {
        name: "quic/idle",
        counts: [200, 1_000],
        server: |members, connected| Box::new(QuicCrowd::partly(members, connected, BODY_SIZE).leave()),
    },
    Kind {
        name: "websocket/idle",
        counts: [100, 400],
        server: |members, connected| Box::new(WebSocketCrowd::partly(members, connected, BODY_SIZE).leave()),
    },
];

/// What the server with so many connections has allocated.
fn heap(kind: &Kind, connected: usize) -> Heap {
    let [_, members] = kind.counts;
    let before = Heap::now();
    let server = (kind.server)(members, connected);
    let after = Heap::now();
    drop(server);
    Heap { rust: after.rust - before.rust, c: after.c.saturating_sub(before.c) }
}

#[expect(clippy::print_stdout, reason = "read by the command that runs this")]
fn main() {
    for kind in KINDS {
        // What the first one of a process makes once.
        heap(&kind, 1);
        let [few, many] = kind.counts;
        let (less, more) = (heap(&kind, few), heap(&kind, many));
        let each = |less: usize, more: usize| more.saturating_sub(less) / (many - few);
        println!("{} {} {}", kind.name, each(less.rust, more.rust), each(less.c, more.c));
    }
}
