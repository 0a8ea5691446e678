//! The embedded backend passes the conformance suite.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use tern_persistence::conformance::{Backend, Bounds, SMALL_MAX, Setup};
use tern_persistence::{Bell, Clock, Embedded, EmbeddedConfig, EmbeddedHandle, ShardStore, conformance_tests, open};

struct EmbeddedBackend;

impl Backend for EmbeddedBackend {
    type End = ShardStore;
    type Running = EmbeddedHandle;

    fn open(&self, setup: &Setup, bells: Vec<Bell>) -> (Vec<ShardStore>, EmbeddedHandle) {
        let mut config = EmbeddedConfig::new(&setup.directory, setup.partitions, setup.shards);
        // Small segments: every test also wraps around them.
        config.first_segment_size = 512 * 1024;
        config.segment_size = 1024 * 1024;
        config.batch_size_max = 128 * 1024;
        if setup.bounds == Bounds::Small {
            config.append_queue_len_max = SMALL_MAX / 8;
            config.logged_queue_len_max = SMALL_MAX / 8;
            config.logged_queue_size_max = 64 * 1024;
        }
        let Embedded { stores, handle, .. } = open(config, bells, Clock::start()).unwrap();
        (stores, handle)
    }

    fn close(&self, running: EmbeddedHandle) {
        running.shutdown().unwrap();
    }

    fn crash(&self, running: EmbeddedHandle) {
        drop(running);
    }
}

conformance_tests!(EmbeddedBackend);
