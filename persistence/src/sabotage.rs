//! Mechanisms that tests switch off, to show that the simulation of power cuts notices their absence. Always on in a server.

/// A mechanism that can be switched off in tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// M2: commands are handed out without a sync of their batch.
    Sync,
    /// M2: a sync that failed is tried again, and believed.
    SyncOnce,
    /// M2: the last batch of the journal is handed out at the start as it was read.
    WriteAgain,
    /// M2: the name of a new segment is not synced.
    SegmentName,
    /// Commits stay cheap: the zeros of a new segment are not synced.
    ZerosSync,
    /// M13: names that an interrupted start left in the cache are not synced by the next one.
    NamesAtStart,
    /// M2: the names of the directories above the data directory are not synced.
    NamesAbove,
    /// M13: segments are used again before the synced view has what they hold.
    Covers,
    /// M13: the torn end of the view's own journal is left as it is.
    ViewTail,
    /// M13: the view is never synced.
    ViewSync,
    /// M13: the journal is told what the view has before that is synced.
    ViewOrder,
    /// M13: after a commit of the view that failed the journal is told of it all the same.
    ViewFailure,
    /// Rows and their checkpoint are two commits of the view.
    ViewBatch,
    /// M1: whatever batch stands next in a segment is taken for the next one.
    BatchOrder,
    /// M1: a command is stamped with the wall clock, also when that went back.
    LogTime,
}

/// Which mechanisms work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mechanisms {
    #[cfg(feature = "sabotage")]
    pub(crate) off: Option<Sabotage>,
}

impl Mechanisms {
    /// Whether a mechanism works. Always true outside tests.
    #[cfg(feature = "sabotage")]
    pub(crate) fn has(self, mechanism: Sabotage) -> bool {
        self.off != Some(mechanism)
    }

    /// Whether a mechanism works. Always true outside tests.
    #[cfg(not(feature = "sabotage"))]
    pub(crate) const fn has(self, _mechanism: Sabotage) -> bool {
        true
    }
}
