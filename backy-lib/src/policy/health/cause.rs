//! The table of what can be wrong: the only place where a problem gets its level.
//!
//! `doc/scripting.md` has the same table with what each row means and what clears it. A test raises and clears each row for real, and
//! others compare the document, the rules for Prometheus and this table.

use super::{Level, Problem, ProblemKind};

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Something that was named cannot be looked at, or is no archive.
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
    /// A backup is due, and no run of it can be recorded.
    Unwritable,
    /// Something is dated in the future.
    Clock,
    /// The last run of a command failed.
    Failed,
    /// An operation was interrupted, and nobody has continued it.
    Interrupted,
    /// A file is missing, or has not the length that it should have.
    MissingFile,
    /// `last.raw` is not the file that backy left.
    ReplacedImage,
    /// Revisions cannot be read in full, or their files are damaged.
    Damage,
    /// The same, and somebody has confirmed that they know.
    KnownDamage,
    /// A rebuild could make nothing of files.
    SetAside,
    /// The last drill failed.
    DrillFailed,
    /// The last drill was too long ago.
    DrillMissed,
    /// Something stored has not been verified for too long.
    Scrub,
    /// Too many deltas on each other.
    Chain,
    /// Little space is left, or will be.
    Space,
    /// Hardly any space is left, or will be.
    LastSpace,
    /// The source has changed far more than usual, shrunk, lost its data, or become another one.
    UnusualChange,
    /// Others than the owner may change the archive.
    Exposed,
    /// The manifest and the files belong to different moments.
    Mismatch,
    /// The manifest knows nothing of a file with the name of an archive's.
    UnknownFile,
    /// Far more revisions stay than the schedule keeps.
    Excess,
}

impl Cause {
    /// All rows, in the order of the table.
    pub const ALL: [Cause; 26] = [
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
    ];

    /// What programs call it, and how bad it is.
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
        }
    }

    /// What programs call it.
    pub const fn kind(self) -> ProblemKind {
        self.row().0
    }

    /// How bad it is.
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

    /// No two rows are the same, each kind has one, none is called well, and kinds are in the order in which they are told.
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
