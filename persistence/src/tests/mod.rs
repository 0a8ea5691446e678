//! Tests of the embedded store that look behind the shard's view: files are damaged, disks fail, segments run out.
#![expect(clippy::cast_possible_truncation, reason = "offsets in files of half a megabyte")]

mod away;
mod broken;
mod damage;
mod faults;
mod missing;
mod recovery;
mod refusals;
mod segments;
mod waiting;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::conformance::{Backend, Setup};
use crate::embedded::open_on;
use crate::files::{Files, Machine};
use crate::identity::Identity;
use crate::journal::batch::{Header, pages};
use crate::sabotage::Mechanisms;
use crate::{Bell, Clock, Embedded, EmbeddedConfig, EmbeddedHandle, OpenError, RecoveryReport, ShardStore};

pub(crate) const PARTITIONS: u16 = 4;

/// The embedded store with small segments, bounds of the test's choice, and files that can be broken.
pub(crate) struct Rig {
    tune: fn(&mut EmbeddedConfig),
    clock: Clock,
    faults: Arc<broken::Faults>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::tuned(|_| {})
    }

    pub(crate) fn tuned(tune: fn(&mut EmbeddedConfig)) -> Self {
        Self { tune, clock: Clock::start(), faults: Arc::default() }
    }

    pub(crate) fn config(&self, directory: &Path, partitions: u16, shards: u16) -> EmbeddedConfig {
        let mut config = EmbeddedConfig::new(directory, partitions, shards);
        config.first_segment_size = 512 * 1024;
        config.segment_size = 512 * 1024;
        config.batch_size_max = 128 * 1024;
        (self.tune)(&mut config);
        config
    }

    fn files(&self) -> Arc<dyn Files> {
        Arc::new(broken::Broken(Arc::clone(&self.faults)))
    }

    /// Opens and closes at once, for what it says.
    pub(crate) fn try_open(&self, directory: &Path) -> Result<RecoveryReport, OpenError> {
        let bell: Bell = Arc::new(|| {});
        open_on(self.config(directory, PARTITIONS, 1), vec![bell], self.clock, &self.files())
            .map(|embedded| embedded.report)
    }
}

impl Backend for Rig {
    type End = ShardStore;
    type Running = EmbeddedHandle;

    fn open(&self, setup: &Setup, bells: Vec<Bell>) -> (Vec<ShardStore>, EmbeddedHandle) {
        let config = self.config(&setup.directory, setup.partitions, setup.shards);
        let Embedded { stores, handle, .. } = open_on(config, bells, self.clock, &self.files()).unwrap();
        (stores, handle)
    }

    fn close(&self, running: EmbeddedHandle) {
        running.shutdown().unwrap();
    }

    fn crash(&self, running: EmbeddedHandle) {
        drop(running);
    }
}

/// The segments of a directory, by name.
fn segment_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory.join("journal")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The valid batches of a segment, in order: offset and header.
fn batches(directory: &Path, segment: &Path) -> Vec<(u64, Header)> {
    let key = Identity::open(
        &Machine,
        directory,
        Identity { partitions: PARTITIONS, key: 0, made: false },
        Mechanisms::default(),
    )
    .unwrap()
    .key;
    let bytes = Bytes::from(std::fs::read(segment).unwrap());
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match Header::check(&bytes[at..], key) {
            Ok(header) => {
                found.push((at as u64, header));
                at += header.padded_size();
            }
            Err(_) => at += pages(1),
        }
    }
    found
}

/// Changes bytes of a file in place.
pub(crate) fn damage(path: &Path, change: impl FnOnce(&mut [u8])) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}
