//! The verdict on an archive: a pure function of the facts. Every problem has a stable kind and advice.
//!
//! `status` gathers the facts. The schedule and `[monitoring]` set the thresholds.

mod age;
mod cause;
mod change;
mod checked;
mod copy;
mod future;
mod judge;
mod newer;
mod space;
mod tracking;

use std::collections::HashMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::base::revision::RevisionId;
use crate::format::manifest::Manifest;
use crate::policy::config::Config;
use crate::policy::schedule::Past;

pub use age::{TagStatus, tags};
pub use cause::Cause;
pub use change::{
    Change, MAX_EARLIER, MIN_EARLIER, MIN_LOST_BYTES, MIN_PERCENT, Observed, changed_share, unusual,
};
pub(crate) use checked::long_as;
pub use checked::unchecked_since;
pub use copy::{LastPull, OriginStatus};
pub(crate) use future::{Ahead, as_of};
pub use judge::judge;
pub(crate) use judge::{chain_length, long_chain, stuck};
pub use space::{
    Growth, MIN_BACKUPS, MIN_DAYS, Movement, SharedSpace, WINDOW_DAYS, full_at, growth,
    shared_space,
};

/// How bad something is; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// No problems.
    Ok,
    /// Somebody should look at it.
    Warning,
    /// The state cannot be determined: only for something that cannot be read.
    Unknown,
    /// Somebody has to look at it now.
    Critical,
}

impl Level {
    /// The exit status of a Nagios plugin. Source: Monitoring Plugins Development Guidelines, "Plugin Return Codes".
    pub fn exit_status(self) -> u8 {
        match self {
            Level::Ok => 0,
            Level::Warning => 1,
            Level::Critical => 2,
            Level::Unknown => 3,
        }
    }
}

/// What a problem is about. Kinds may be added but never renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ProblemKind {
    /// The archive, or a path given as one, cannot be read.
    Unreadable,
    /// `backy.toml` cannot be used.
    Config,
    /// No source is configured.
    NoSource,
    /// There is no revision yet.
    NoBackup,
    /// The last backup is too old.
    Overdue,
    /// A backup is due, but the archive cannot be written to.
    Unwritable,
    /// Something is dated in the future.
    Clock,
    /// The last run of a command failed.
    Failed,
    /// An operation was interrupted, and nothing has continued it.
    Interrupted,
    /// A file is missing or has the wrong length.
    MissingFile,
    /// `last.raw` is not the file that backy left, and was not compared since.
    ReplacedImage,
    /// Revisions cannot be read in full.
    Damage,
    /// A rebuild could not use some files.
    SetAside,
    /// The last drill failed, or was too long ago.
    Drill,
    /// Some stored data has not been verified for too long.
    Scrub,
    /// Too many deltas on each other.
    Chain,
    /// Little free space, or the file system will be full soon.
    Space,
    /// Far more of the source changed than usual, or the source shrank, lost its data, or was replaced by another one.
    UnusualChange,
    /// Users other than the owner can change the archive.
    Exposed,
    /// The manifest and the files are from different times.
    Mismatch,
    /// Files with names that the archive uses are unknown to the manifest.
    UnknownFile,
    /// Far more revisions stay than the schedule keeps.
    Excess,
    /// The operation that holds the lock makes no progress.
    Stuck,
    /// `fleet.toml` expects an archive that is missing, has another source, or was never backed up.
    Expected,
    /// Some blocks have not been compared with the source for too long.
    Tracking,
    /// A kind added by a newer version; appears only in a report read from its JSON.
    Newer(&'static str),
}

impl ProblemKind {
    /// All kinds, in the order in which equally bad ones are reported.
    pub const ALL: [ProblemKind; 25] = [
        ProblemKind::Unreadable,
        ProblemKind::Config,
        ProblemKind::NoSource,
        ProblemKind::NoBackup,
        ProblemKind::Overdue,
        ProblemKind::Unwritable,
        ProblemKind::Clock,
        ProblemKind::Failed,
        ProblemKind::Interrupted,
        ProblemKind::MissingFile,
        ProblemKind::ReplacedImage,
        ProblemKind::Damage,
        ProblemKind::SetAside,
        ProblemKind::Drill,
        ProblemKind::Scrub,
        ProblemKind::Chain,
        ProblemKind::Space,
        ProblemKind::UnusualChange,
        ProblemKind::Exposed,
        ProblemKind::Mismatch,
        ProblemKind::UnknownFile,
        ProblemKind::Excess,
        ProblemKind::Stuck,
        ProblemKind::Expected,
        ProblemKind::Tracking,
    ];

    /// Its name in JSON and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            ProblemKind::Unreadable => "unreadable",
            ProblemKind::Config => "config",
            ProblemKind::NoSource => "no-source",
            ProblemKind::NoBackup => "no-backup",
            ProblemKind::Overdue => "overdue",
            ProblemKind::Unwritable => "unwritable",
            ProblemKind::Clock => "clock",
            ProblemKind::Failed => "failed",
            ProblemKind::Interrupted => "interrupted",
            ProblemKind::MissingFile => "missing-file",
            ProblemKind::ReplacedImage => "replaced-image",
            ProblemKind::Damage => "damage",
            ProblemKind::SetAside => "set-aside",
            ProblemKind::Drill => "drill",
            ProblemKind::Scrub => "scrub",
            ProblemKind::Chain => "chain",
            ProblemKind::Space => "space",
            ProblemKind::UnusualChange => "unusual-change",
            ProblemKind::Exposed => "exposed",
            ProblemKind::Mismatch => "mismatch",
            ProblemKind::UnknownFile => "unknown-file",
            ProblemKind::Excess => "excess",
            ProblemKind::Stuck => "stuck",
            ProblemKind::Expected => "expected",
            ProblemKind::Tracking => "tracking",
            ProblemKind::Newer(word) => word,
        }
    }
}

/// A problem, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What it is about, for programs.
    pub kind: ProblemKind,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// What to do.
    pub advice: String,
}

/// The verdict, with its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The level of the worst problem.
    pub level: Level,
    /// The verdict and the most important reason, in one line.
    pub summary: String,
    /// The problems, worst first.
    pub problems: Vec<Problem>,
}

impl Health {
    /// The verdict on problems in any order; `well` makes the summary if there are none.
    pub fn of(mut problems: Vec<Problem>, well: impl FnOnce() -> String) -> Self {
        problems.sort_by_key(|problem| (std::cmp::Reverse(problem.level), problem.kind));
        let summary = match problems.first() {
            None => well(),
            Some(worst) if problems.len() == 1 => worst.message.clone(),
            Some(worst) => format!("{} (and {} more)", worst.message, problems.len() - 1),
        };
        let level = problems.first().map_or(Level::Ok, |worst| worst.level);
        Health { level, summary, problems }
    }
}

/// The command that fills a copy.
pub const PULL: &str = "pull";

/// The commands whose last run is judged.
pub const RUNS: [&str; 4] = ["backup", "maintenance", "scrub", PULL];

/// The possible results of a run.
pub const RUN_RESULTS: [&str; 3] = ["ok", "failed", "interrupted"];

/// A finished command that changes the archive, from the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// `backup`, `maintenance`, `scrub` or `pull`.
    pub operation: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// `ok`, `failed` or `interrupted`.
    pub result: String,
    /// Why it failed.
    pub error: Option<String>,
}

/// A reason why nothing expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// [`ProblemKind::UnusualChange`] or [`ProblemKind::Damage`].
    pub kind: ProblemKind,
    /// The affected revision.
    pub revision: RevisionId,
    /// One sentence, without a full stop.
    pub message: String,
}

/// Space on the archive's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes that the archive's files take up on disk.
    pub used_bytes: u64,
    /// Bytes that backy can still write there.
    pub free_bytes: u64,
    /// Size of the file system.
    pub size_bytes: u64,
    /// Bytes that the archive grows by per day: what backups added minus what maintenance freed; null if too
    /// little is known.
    pub growth_bytes_per_day: Option<i64>,
    /// When the file system will be full at this rate; null if the archive does not grow.
    pub full_at: Option<Timestamp>,
    /// Identifies the file system on this machine.
    #[serde(skip)]
    pub device: u64,
}

/// Everything that is known about an archive.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The time of the verdict.
    pub now: Timestamp,
    /// The time zone of the schedule.
    pub zone: &'a TimeZone,
    /// The manifest.
    pub manifest: &'a Manifest,
    /// The config, or why it cannot be used.
    pub config: Result<&'a Config, &'a str>,
    /// Who is changing the archive right now.
    pub lock_holder: Option<&'a str>,
    /// When that process last showed progress, if it shows any.
    pub progress: Option<Timestamp>,
    /// Failed runs from the history that no successful run has followed.
    pub failures: &'a [Run],
    /// The last pull that succeeded, according to the history.
    pub last_pull: Option<&'a LastPull>,
    /// Files that are missing or have the wrong length; a sentence each.
    pub missing: &'a [String],
    /// Why `last.raw` is not the file that backy left.
    pub replaced: Option<&'a str>,
    /// Files that a rebuild could not use and that still exist.
    pub set_aside: &'a [String],
    /// Dates in the future; a few words each. The manifest no longer contains them.
    pub ahead: &'a [Ahead],
    /// Why the archive cannot be written to.
    pub unwritable: Option<&'a str>,
    /// For each revision, newest first, how many of its blocks cannot be read.
    pub bad_blocks: &'a [u64],
    /// Space on the file system; `None` if unknown.
    pub space: Option<&'a Space>,
    /// What users other than root and the owner can change, as a sentence.
    pub exposed: Option<&'a str>,
    /// Why the manifest and the files do not belong together.
    pub mismatch: Option<&'a str>,
    /// Files that the manifest does not know.
    pub unknown: &'a [String],
}

impl<'a> Facts<'a> {
    /// The input for the next due times.
    fn past(&self) -> Past<'a> {
        Past::of_manifest(self.manifest, self.zone.clone())
    }
}

/// Why nothing expires: unconfirmed alarms and damage. `bad_blocks` has a count for each revision, newest first.
pub fn freezes(manifest: &Manifest, bad_blocks: &[u64]) -> Vec<Freeze> {
    let numbered = manifest.revisions.iter().enumerate();
    let number_of: HashMap<_, _> = numbered.map(|(number, it)| (it.uuid, number)).collect();
    let confirmed = manifest.confirmed_damage();
    let alarms = manifest.open_alarms().filter_map(|alarm| {
        let number = *number_of.get(&alarm.revision)?;
        let message = change::sentence(number, alarm, manifest.revisions.get(number)?.size_bytes);
        Some(Freeze { kind: ProblemKind::UnusualChange, revision: alarm.revision, message })
    });
    let damaged = manifest.revisions.iter().zip(bad_blocks).enumerate();
    let damage = damaged.filter_map(|(number, (revision, &count))| {
        let known = confirmed.get(&revision.uuid).copied().unwrap_or(0) >= count;
        let blocks = if count == 1 { "block" } else { "blocks" };
        let message = format!("revision {number} has {count} damaged {blocks}");
        let (kind, revision) = (ProblemKind::Damage, revision.uuid);
        (!known).then_some(Freeze { kind, revision, message })
    });
    let flaws = manifest.revisions.iter().enumerate().filter_map(|(number, revision)| {
        let flaw = revision.open_flaws().next()?;
        let message =
            format!("revision {number} has a damaged file: {}: {}", flaw.file, flaw.message);
        Some(Freeze { kind: ProblemKind::Damage, revision: revision.uuid, message })
    });
    alarms.chain(damage).chain(flaws).collect()
}

/// A length of time in its largest unit: `45 s`, `12 min`, `7 h`, `3 days`.
pub fn display_age(seconds: i64) -> String {
    match seconds {
        ..=119 => format!("{} s", seconds.max(0)),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}
