//! Log and view behind their queues: the instructions of the shard's end and of the threads together. How long the disk takes is not
//! theirs: that is in `benches/journal.rs`.

use super::path::{Path, Round};
use crate::storage::Storage;

/// Unit: bytes of a command's frame.
const RECORD_SIZE: usize = 200;
/// Commands that share a write. Unit: commands.
const BATCH: usize = 256;
/// Events of the conversation that is read. Unit: events. More than a block of the view holds, and than a window.
const EVENTS: u64 = 2_000;
/// Events of a page. Unit: events.
const PAGE: u64 = 50;

pub(super) const PATHS: [Path; 2] = [
    // From the append until it is durable and heard of.
    Path {
        name: "journal/append/256",
        iteration: "a command",
        count: BATCH as u64,
        warm_up: 4,
        rounds: 8,
        has_crypto: false,
        set_up: append,
    },
    // 50 events that are in no shard's memory, out of the view's.
    Path {
        name: "view/history",
        iteration: "a page",
        count: 1,
        warm_up: 8,
        rounds: 16,
        has_crypto: false,
        set_up: page,
    },
];

fn append() -> Round {
    let mut storage = Storage::open(&std::env::temp_dir(), RECORD_SIZE);
    Box::new(move |meter| meter.measure(&mut || storage.commit(BATCH)))
}

fn page() -> Round {
    let mut storage = Storage::open(&std::env::temp_dir(), RECORD_SIZE);
    storage.fill(EVENTS);
    let mut to = EVENTS;
    Box::new(move |meter| {
        to = if to > 2 * PAGE { to - PAGE } else { EVENTS };
        meter.measure(&mut || storage.page(to, PAGE));
    })
}
