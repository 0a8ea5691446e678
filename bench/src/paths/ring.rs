//! From one shard to another, while both are awake: what a message costs without what a thread that sleeps costs. That is in
//! `benches/ring.rs`, which needs two threads.

use std::sync::Arc;

use tern_edge::ring::{Bell, Links, mesh};

use super::path::{Path, Round};

/// Messages pushed before the other side looks. Unit: messages; less than a ring holds.
const COUNT: u64 = 256;

pub(super) const PATHS: [Path; 1] = [Path {
    name: "ring/hop",
    iteration: "a message, pushed and taken",
    count: COUNT,
    warm_up: 1,
    rounds: 4,
    has_crypto: false,
    set_up: hop,
}];

fn hop() -> Round {
    let bells: Vec<Arc<Bell>> = (0..2).map(|_| Arc::new(Bell::new().expect("a file descriptor"))).collect();
    let [mut near, mut far]: [Links<u64>; 2] = mesh(&bells).try_into().expect("two shards");
    Box::new(move |meter| {
        let mut sum = 0;
        meter.measure(&mut || {
            for message in 1..=COUNT {
                near.send(1, message).expect("the other side exists");
            }
            near.flush();
            far.receive(|_, message| sum += message);
        });
        assert_eq!(sum, COUNT * (COUNT + 1) / 2, "each arrives once");
    })
}
