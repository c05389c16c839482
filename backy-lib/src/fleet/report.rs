//! What a run did.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::job::Operation;
use super::plan::Obstacle;
use crate::base::report_path::ReportPath;
use crate::base::revision::RevisionId;
use crate::verb::backup::BackupReport;
use crate::verb::maintenance::MaintenanceReport;
use crate::verb::pull::PullReport;
use crate::verb::scrub::ScrubReport;

/// What a run did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FleetReport {
    /// Version of this structure: fields may be added within a version, but never removed or changed.
    pub schema: u32,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// How many archives it looked at.
    pub archives: usize,
    /// The jobs, in the order in which they ended.
    pub jobs: Vec<JobReport>,
    /// What it could not work on, and expectations that are not met.
    pub problems: Vec<Obstacle>,
    /// Whether it was stopped on request.
    pub interrupted: bool,
}

impl FleetReport {
    /// Whether all went well.
    pub fn is_ok(&self) -> bool {
        let is_bad = |job: &JobReport| matches!(job.result, JobResult::Failed);
        !self.interrupted && self.problems.is_empty() && !self.jobs.iter().any(is_bad)
    }

    /// How many jobs ended in this way.
    pub fn count(&self, result: JobResult) -> usize {
        self.jobs.iter().filter(|job| job.result == result).count()
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum JobResult {
    /// It did what was due.
    Ok,
    /// It failed, also when it was tried again.
    Failed,
    /// Somebody else works on the archive, or has just done it.
    Skipped,
    /// It was stopped on request, or not started.
    Interrupted,
    /// It was too late to start it.
    NotStarted,
}

impl JobResult {
    /// All of them.
    pub const ALL: [JobResult; 5] = [
        JobResult::Ok,
        JobResult::Failed,
        JobResult::Skipped,
        JobResult::Interrupted,
        JobResult::NotStarted,
    ];

    /// Its name in JSON and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            JobResult::Ok => "ok",
            JobResult::Failed => "failed",
            JobResult::Skipped => "skipped",
            JobResult::Interrupted => "interrupted",
            JobResult::NotStarted => "not-started",
        }
    }
}

/// How one job ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobReport {
    /// The archive's folder.
    pub archive: ReportPath,
    /// What was to be done.
    pub operation: Operation,
    /// How it ended.
    pub result: JobResult,
    /// How often it was tried.
    pub attempts: usize,
    /// Why it failed or was skipped, in one line.
    pub message: Option<String>,
    /// How long the last attempt took, in seconds.
    pub seconds: f64,
    /// The revision that it made, or the newest one that it pulled.
    pub revision: Option<RevisionId>,
    /// Bytes that it read: of the source, of the origin, or of stored data that it verified.
    pub read_bytes: Option<u64>,
    /// Bytes on disk that it added; negative if it freed some.
    pub stored_bytes: Option<i64>,
}

/// The report of a job's own command.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Done {
    /// Of one that has none.
    Nothing,
    /// Of a backup.
    Backup(Box<BackupReport>),
    /// Of a pull.
    Pull(Box<PullReport>),
    /// Of maintenance.
    Maintenance(Box<MaintenanceReport>),
    /// Of a scrub.
    Scrub(Box<ScrubReport>),
}

impl Done {
    /// Reads what the command of a job prints with `--json`: null if it was not due any more. `None` if it is neither.
    pub(super) fn parse(operation: Operation, text: &[u8]) -> Option<Option<Self>> {
        fn read<T: serde::de::DeserializeOwned>(text: &[u8]) -> Option<Option<Box<T>>> {
            serde_json::from_slice(text).ok()
        }
        match operation {
            Operation::Init => Some(Some(Done::Nothing)),
            Operation::Backup => Some(read(text)?.map(Done::Backup)),
            Operation::Pull => Some(read(text)?.map(Done::Pull)),
            Operation::Maintenance => Some(read(text)?.map(Done::Maintenance)),
            Operation::Scrub => Some(read(text)?.map(Done::Scrub)),
        }
    }

    pub(super) fn fill_in(&self, report: &mut JobReport) {
        match self {
            Done::Nothing => {}
            Done::Backup(done) => {
                let statistics = &done.revision.statistics;
                report.revision = Some(done.revision.uuid);
                report.read_bytes = Some(statistics.read_bytes);
                report.stored_bytes = Some(statistics.stored_bytes);
            }
            Done::Pull(done) => {
                report.revision = done.pulled.last().map(|newest| newest.uuid);
                report.read_bytes = Some(done.pulled.iter().map(|one| one.received_bytes).sum());
                report.stored_bytes = Some(done.pulled.iter().map(|one| one.stored_bytes).sum());
            }
            Done::Maintenance(done) => report.stored_bytes = done.freed_bytes.checked_neg(),
            Done::Scrub(done) => report.read_bytes = Some(done.read_bytes),
        }
    }
}
