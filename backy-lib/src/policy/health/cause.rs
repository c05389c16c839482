//! The table of causes: the only place that assigns a level to a problem.
//!
//! `doc/scripting.md` has the same table, with the meaning of each row and what clears it. One test raises
//! and clears each row for real; others compare the document, the Prometheus rules and this table.

use super::{Level, Problem, ProblemKind};

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// A named path cannot be read, or is not an archive.
    Unreadable,
    /// `backy.toml` cannot be used.
    Config,
    /// `backy.toml` names no source.
    NoSource,
    /// No revision counts as a backup.
    NoBackup,
    /// The last backup is too old.
    Overdue,
    /// The last backup is far too old.
    LongOverdue,
    /// A backup is due, but the archive cannot be written to, so that not even the failure can be recorded.
    Unwritable,
    /// Something is dated in the future.
    Clock,
    /// The last run of a command failed.
    Failed,
    /// An operation was interrupted, and nothing has continued it.
    Interrupted,
    /// A file is missing or has the wrong length.
    MissingFile,
    /// `last.raw` is not the file that backy left.
    ReplacedImage,
    /// Revisions cannot be read in full, or their files are damaged.
    Damage,
    /// The same damage, confirmed by the user.
    KnownDamage,
    /// A rebuild could not use some files.
    SetAside,
    /// The last drill failed.
    DrillFailed,
    /// The last drill was too long ago.
    DrillMissed,
    /// Some stored data has not been verified for too long.
    Scrub,
    /// Too many deltas on each other.
    Chain,
    /// Little free space, or the file system will be full soon.
    Space,
    /// Hardly any free space, or the file system will be full very soon.
    LastSpace,
    /// Far more of the source changed than usual, or the source shrank, lost its data, or was replaced by another one.
    UnusualChange,
    /// Users other than the owner can change the archive.
    Exposed,
    /// The manifest and the files are from different times.
    Mismatch,
    /// A file with a name that the archive uses is unknown to the manifest.
    UnknownFile,
    /// Far more revisions stay than the schedule keeps.
    Excess,
    /// The operation that holds the lock makes no progress.
    Stuck,
    /// `fleet.toml` expects an archive that is missing, has another source, or was never backed up.
    Expected,
    /// Some blocks have not been compared with the source for too long.
    Tracking,
}

impl Cause {
    /// All rows, in the order of the table.
    pub const ALL: [Cause; 29] = [
        Cause::Unreadable,
        Cause::Config,
        Cause::NoSource,
        Cause::NoBackup,
        Cause::Overdue,
        Cause::LongOverdue,
        Cause::Unwritable,
        Cause::Clock,
        Cause::Failed,
        Cause::Interrupted,
        Cause::MissingFile,
        Cause::ReplacedImage,
        Cause::Damage,
        Cause::KnownDamage,
        Cause::SetAside,
        Cause::DrillFailed,
        Cause::DrillMissed,
        Cause::Scrub,
        Cause::Chain,
        Cause::Space,
        Cause::LastSpace,
        Cause::UnusualChange,
        Cause::Exposed,
        Cause::Mismatch,
        Cause::UnknownFile,
        Cause::Excess,
        Cause::Stuck,
        Cause::Expected,
        Cause::Tracking,
    ];

    /// Its kind and its level.
    const fn row(self) -> (ProblemKind, Level) {
        match self {
            Cause::Unreadable => (ProblemKind::Unreadable, Level::Unknown),
            Cause::Config => (ProblemKind::Config, Level::Critical),
            Cause::NoSource => (ProblemKind::NoSource, Level::Critical),
            Cause::NoBackup => (ProblemKind::NoBackup, Level::Warning),
            Cause::Overdue => (ProblemKind::Overdue, Level::Warning),
            Cause::LongOverdue => (ProblemKind::Overdue, Level::Critical),
            Cause::Unwritable => (ProblemKind::Unwritable, Level::Warning),
            Cause::Clock => (ProblemKind::Clock, Level::Warning),
            Cause::Failed => (ProblemKind::Failed, Level::Warning),
            Cause::Interrupted => (ProblemKind::Interrupted, Level::Warning),
            Cause::MissingFile => (ProblemKind::MissingFile, Level::Critical),
            Cause::ReplacedImage => (ProblemKind::ReplacedImage, Level::Critical),
            Cause::Damage => (ProblemKind::Damage, Level::Critical),
            Cause::KnownDamage => (ProblemKind::Damage, Level::Warning),
            Cause::SetAside => (ProblemKind::SetAside, Level::Critical),
            Cause::DrillFailed => (ProblemKind::Drill, Level::Critical),
            Cause::DrillMissed => (ProblemKind::Drill, Level::Warning),
            Cause::Scrub => (ProblemKind::Scrub, Level::Warning),
            Cause::Chain => (ProblemKind::Chain, Level::Warning),
            Cause::Space => (ProblemKind::Space, Level::Warning),
            Cause::LastSpace => (ProblemKind::Space, Level::Critical),
            Cause::UnusualChange => (ProblemKind::UnusualChange, Level::Warning),
            Cause::Exposed => (ProblemKind::Exposed, Level::Warning),
            Cause::Mismatch => (ProblemKind::Mismatch, Level::Critical),
            Cause::UnknownFile => (ProblemKind::UnknownFile, Level::Warning),
            Cause::Excess => (ProblemKind::Excess, Level::Warning),
            Cause::Stuck => (ProblemKind::Stuck, Level::Warning),
            Cause::Expected => (ProblemKind::Expected, Level::Critical),
            Cause::Tracking => (ProblemKind::Tracking, Level::Warning),
        }
    }

    /// The kind that programs see.
    pub const fn kind(self) -> ProblemKind {
        self.row().0
    }

    /// Its level.
    pub const fn level(self) -> Level {
        self.row().1
    }

    /// A problem of this row.
    pub fn problem(self, message: impl Into<String>, advice: impl Into<String>) -> Problem {
        let (kind, level) = self.row();
        Problem { kind, level, message: message.into(), advice: advice.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// All rows differ, each kind has one, none has the level of a healthy archive, and kinds appear in the
    /// order of reports.
    #[test]
    fn every_kind_has_its_rows() {
        let rows: BTreeSet<_> = Cause::ALL.iter().map(|cause| cause.row()).collect();
        assert_eq!(rows.len(), Cause::ALL.len());
        let mut kinds: Vec<ProblemKind> = Cause::ALL.iter().map(|cause| cause.kind()).collect();
        kinds.dedup();
        assert_eq!(kinds, ProblemKind::ALL);
        assert!(Cause::ALL.iter().all(|cause| cause.level() > Level::Ok));
        assert!(Cause::ALL.is_sorted());
    }
}
