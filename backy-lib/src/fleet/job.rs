//! One operation on one archive, and how urgent it is.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::base::report_path::ReportPath;
use crate::policy::config::Group;

/// A job that is expected to take longer than this is a long one.
const SHORT_SECONDS: f64 = 600.0;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Operation {
    /// Makes the archive.
    Init,
    /// Makes the revision that is due.
    Backup,
    /// Takes over what the origin of a copy has.
    Pull,
    /// Deletes what the schedule no longer keeps.
    Maintenance,
    /// Verifies a part of what is stored.
    Scrub,
}

impl Operation {
    /// All of them, most urgent first.
    pub const ALL: [Operation; 5] = [
        Operation::Init,
        Operation::Backup,
        Operation::Pull,
        Operation::Maintenance,
        Operation::Scrub,
    ];

    /// Its name, which is that of the command.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Init => "init",
            Operation::Backup => "backup",
            Operation::Pull => "pull",
            Operation::Maintenance => "maintenance",
            Operation::Scrub => "scrub",
        }
    }
}

/// One operation that is due on one archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Job {
    /// The archive's folder, without symbolic links.
    pub archive: ReportPath,
    /// What is done.
    pub operation: Operation,
    /// Why it is due, without a full stop.
    pub why: String,
    /// Since when it has been due; null if it has never been done.
    pub due_since: Option<Timestamp>,
    /// How late it is, in units of its interval; null if it has never been done.
    pub overdue: Option<f64>,
    /// The group in the archive's `backy.toml`, whose archives share a limit.
    pub group: Option<Group>,
    /// The virtual machine whose disk is backed up, as far as its disks can have one backup point: those of one group
    /// that are due at once have it. Null for anything else.
    pub machine: Option<String>,
    /// How long it is expected to take, in seconds; null if nothing is known.
    pub expected_seconds: Option<f64>,
    /// The command that does it, for programs that start it themselves.
    pub command: Vec<ReportPath>,
}

impl Job {
    /// Whether it is expected to end soon. Nobody waits for a job about which nothing is known.
    pub fn is_short(&self) -> bool {
        self.expected_seconds.is_some_and(|seconds| seconds <= SHORT_SECONDS)
    }

    /// The more urgent job first: backups before pulls before maintenance before scrubs, what was never done before the
    /// rest, then what is most overdue relative to its interval.
    pub(crate) fn urgency(&self, other: &Job) -> Ordering {
        let never = |job: &Job| job.overdue.is_none();
        let overdue = |job: &Job| job.overdue.unwrap_or_default();
        let operation = self.operation.cmp(&other.operation);
        operation
            .then_with(|| never(other).cmp(&never(self)))
            .then_with(|| overdue(other).total_cmp(&overdue(self)))
            .then_with(|| self.archive.cmp(&other.archive))
    }
}
