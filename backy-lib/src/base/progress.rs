//! How a long operation tells what it is doing, and how it is told to stop.
//!
//! The library never prints. It announces phases and findings as events; the bytes done are two
//! atomics that the observer reads as often as it likes, so that counting costs nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::base::error::{Error, Result};
use crate::base::revision::OperationId;

/// What an operation is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Undoing what an interrupted operation left behind.
    Recover,
    /// Checking an archive of 2014 before anything of it is imported.
    CheckOldArchive,
    /// Reading the source, comparing, storing.
    Backup,
    /// Checking what is stored.
    Scrub,
    /// Copying blocks from one delta to another.
    Merge,
    /// Making sure that a target holds nothing.
    CheckTarget,
    /// Finding out how much of a target differs.
    CompareTarget,
    /// Saving what a restore is going to overwrite.
    SaveTarget,
    /// Writing a revision to a target.
    Restore,
    /// Writing a revision to a file of its own.
    Export,
    /// Reading a revision, or restoring it for trial.
    Drill,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 11] = [
        Phase::Recover,
        Phase::CheckOldArchive,
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

/// Bytes done and bytes to do in the present phase.
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

    /// The phase has ended, and there was nothing to do in what is left.
    pub(crate) fn finish(&self) {
        self.done_bytes.store(self.total_bytes(), Relaxed);
    }
}

/// What an observer is told.
#[derive(Debug, Clone)]
pub enum Event {
    /// A phase begins; poll `counters` for its progress.
    Begin {
        /// What is being done now.
        phase: Phase,
        /// Grows until the phase ends.
        counters: Arc<Counters>,
    },
    /// Something worth a line in a log, as a full sentence.
    Note(String),
    /// Something is wrong with stored data, or with how it is kept, as a full sentence. The operation goes on.
    Finding(String),
}

/// Watches an operation and may stop it. Called from several threads.
pub trait Observer: Sync {
    /// Something happened.
    fn event(&self, event: &Event);

    /// Asked between chunks of work; `true` ends the operation with [`Error::Interrupted`],
    /// with the archive as it was before; what takes longer than half a second to undo is left to the next writer.
    fn cancelled(&self) -> bool {
        false
    }

    /// From now on nothing must be written that could wait for a file system that a hook has frozen, such as a log on it: what there
    /// is to tell has to be kept. With `false` that is over.
    fn hold_back(&self, _held: bool) {}

    /// How the operation is called in the history, for an observer that has a log of its own. Without, it gets a new name.
    fn operation(&self) -> Option<OperationId> {
        None
    }
}

/// Watches nothing and never stops anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: &Event) {}
}

/// Announces a phase of `total_bytes`.
pub(crate) fn begin(observer: &dyn Observer, phase: Phase, total_bytes: u64) -> Arc<Counters> {
    let counters = Arc::new(Counters::default());
    counters.total_bytes.store(total_bytes, Relaxed);
    observer.event(&Event::Begin { phase, counters: Arc::clone(&counters) });
    counters
}

/// As [`begin`], unless the observer wants to stop when it is told of the phase: what has little to do would be done before it is
/// asked again. Not for undoing, which goes on when an operation is stopped.
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
