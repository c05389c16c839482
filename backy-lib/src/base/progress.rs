//! How a long operation reports what it is doing, and how a caller stops it.
//!
//! The library never prints. It reports phases and findings as events. The bytes done are two atomics that
//! the observer polls as often as it likes, so that counting costs nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::base::error::{Error, Result};
use crate::base::revision::OperationId;

/// What an operation is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Undoing what an interrupted operation left behind.
    Recover,
    /// Checking an archive of 2014 before importing anything.
    CheckOldArchive,
    /// Comparing blocks of the source that have not changed, according to the source.
    CompareSource,
    /// Reading and comparing the source, storing changes.
    Backup,
    /// Verifying stored data.
    Scrub,
    /// Copying blocks from one delta to another.
    Merge,
    /// Checking that a target is blank.
    CheckTarget,
    /// Finding how much of a target differs.
    CompareTarget,
    /// Saving the data that a restore will overwrite.
    SaveTarget,
    /// Writing a revision to a target.
    Restore,
    /// Writing a revision to a file of its own.
    Export,
    /// Reading a revision, or restoring it as a test.
    Drill,
}

impl Phase {
    /// All phases.
    pub const ALL: [Phase; 12] = [
        Phase::Recover,
        Phase::CheckOldArchive,
        Phase::CompareSource,
        Phase::Backup,
        Phase::Scrub,
        Phase::Merge,
        Phase::CheckTarget,
        Phase::CompareTarget,
        Phase::SaveTarget,
        Phase::Restore,
        Phase::Export,
        Phase::Drill,
    ];

    /// Its name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Recover => "recover",
            Phase::CheckOldArchive => "check-old-archive",
            Phase::CompareSource => "compare-source",
            Phase::Backup => "backup",
            Phase::Scrub => "scrub",
            Phase::Merge => "merge",
            Phase::CheckTarget => "check-target",
            Phase::CompareTarget => "compare-target",
            Phase::SaveTarget => "save-target",
            Phase::Restore => "restore",
            Phase::Export => "export",
            Phase::Drill => "drill",
        }
    }
}

/// Bytes done and bytes to do in the current phase.
#[derive(Debug, Default)]
pub struct Counters {
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

impl Counters {
    /// Bytes done so far, never more than the total.
    pub fn done_bytes(&self) -> u64 {
        self.done_bytes.load(Relaxed).min(self.total_bytes())
    }

    /// Bytes that the phase has to do.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Relaxed)
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Relaxed);
    }

    /// Marks the phase as complete: the rest needed no work.
    pub(crate) fn finish(&self) {
        self.done_bytes.store(self.total_bytes(), Relaxed);
    }
}

/// An event for an observer.
#[derive(Debug, Clone)]
pub enum Event {
    /// A phase begins; poll `counters` for its progress.
    Begin {
        /// The phase.
        phase: Phase,
        /// Grows until the phase ends.
        counters: Arc<Counters>,
    },
    /// A full sentence worth a line in a log.
    Note(String),
    /// A full sentence about a problem with stored data or with how it is kept. The operation continues.
    Finding(String),
}

/// Watches an operation and may stop it. Called from several threads.
pub trait Observer: Sync {
    /// Something happened.
    fn event(&self, event: &Event);

    /// Polled between chunks of work. `true` ends the operation with [`Error::Interrupted`] and leaves the
    /// archive as it was before; if undoing takes longer than half a second, the next writer finishes it.
    fn cancelled(&self) -> bool {
        false
    }

    /// From now on the observer must not write to anything that could block on a file system frozen by a
    /// hook, such as a log; it has to keep its messages. `false` ends that.
    fn hold_back(&self, _held: bool) {}

    /// The name of the operation in the history, for an observer that has a log of its own. Without one, the
    /// operation gets a new name.
    fn operation(&self) -> Option<OperationId> {
        None
    }
}

/// Ignores all events and never stops anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: &Event) {}
}

/// Reports the start of a phase of `total_bytes`.
pub(crate) fn begin(observer: &dyn Observer, phase: Phase, total_bytes: u64) -> Arc<Counters> {
    let counters = Arc::new(Counters::default());
    counters.total_bytes.store(total_bytes, Relaxed);
    observer.event(&Event::Begin { phase, counters: Arc::clone(&counters) });
    counters
}

/// As [`begin`], and stops if the observer wants to stop when it hears of the phase: a short phase would
/// finish before the next poll. Not for undoing, which continues when an operation is stopped.
pub(crate) fn begin_work(
    observer: &dyn Observer,
    phase: Phase,
    total_bytes: u64,
) -> Result<Arc<Counters>> {
    let counters = begin(observer, phase, total_bytes);
    check(observer)?;
    Ok(counters)
}

/// [`Error::Interrupted`] when the observer wants to stop.
pub(crate) fn check(observer: &dyn Observer) -> Result<()> {
    if observer.cancelled() { Err(Error::Interrupted) } else { Ok(()) }
}
