//! The verdict on an archive: a pure function of what is known of it. Every problem has a stable kind, and says what to do.
//!
//! What is known is gathered by `status`; from when on it is a problem is for the schedule and `[monitoring]` to say.

mod age;
mod cause;
mod change;
mod checked;
mod future;
mod judge;
mod newer;
mod space;

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
pub(crate) use future::{Ahead, as_of};
pub use judge::judge;
pub(crate) use judge::{chain_length, long_chain};
pub use space::{
    Growth, MIN_BACKUPS, MIN_DAYS, Movement, SharedSpace, WINDOW_DAYS, full_at, growth,
    shared_space,
};

/// How bad something is; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is well.
    Ok,
    /// Somebody should look at it.
    Warning,
    /// It cannot be told how things are: only of what cannot be looked at.
    Unknown,
    /// Somebody has to look at it now.
    Critical,
}

impl Level {
    /// As a Nagios plugin exits. Source: Monitoring Plugins Development Guidelines, "Plugin Return Codes".
    pub fn exit_status(self) -> u8 {
        match self {
            Level::Ok => 0,
            Level::Warning => 1,
            Level::Critical => 2,
            Level::Unknown => 3,
        }
    }
}

/// What a problem is about. Kinds may be added, never renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ProblemKind {
    /// The archive, or what was named as one, cannot be looked at.
    Unreadable,
    /// `backy.toml` cannot be used.
    Config,
    /// No source is configured.
    NoSource,
    /// There is no revision yet.
    NoBackup,
    /// The last backup is too old.
    Overdue,
    /// A backup is due, and no run of it can be recorded.
    Unwritable,
    /// Something is dated in the future.
    Clock,
    /// The last run of a command failed.
    Failed,
    /// An operation was interrupted, and nobody has gone on with it.
    Interrupted,
    /// A file is missing, or not as long as it should be.
    MissingFile,
    /// `last.raw` is not the file that backy left, and nobody has compared it.
    ReplacedImage,
    /// Revisions cannot be read in full.
    Damage,
    /// A rebuild could make nothing of files.
    SetAside,
    /// The last drill failed, or was too long ago.
    Drill,
    /// Something stored has not been checked for too long.
    Scrub,
    /// Too many deltas on each other.
    Chain,
    /// Little space is left, or will be.
    Space,
    /// The source has changed far more than usual, shrunk, lost its data, or become another one.
    UnusualChange,
    /// Others than the owner may change the archive.
    Exposed,
    /// The manifest and the files are of different times.
    Mismatch,
    /// There are files with the name of an archive's of which the manifest knows nothing.
    UnknownFile,
    /// Far more revisions stay than the schedule keeps.
    Excess,
    /// One that a newer version has added: only in a report that was read from its JSON.
    Newer(&'static str),
}

impl ProblemKind {
    /// All of them, in the order in which they are told when they are equally bad.
    pub const ALL: [ProblemKind; 22] = [
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
            ProblemKind::Newer(word) => word,
        }
    }
}

/// Something that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What it is about, for programs.
    pub kind: ProblemKind,
    /// How bad it is.
    pub level: Level,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub advice: String,
}

/// The verdict, with what is behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The worst of the problems.
    pub level: Level,
    /// One line: the verdict and the most important reason.
    pub summary: String,
    /// What is wrong, worst first.
    pub problems: Vec<Problem>,
}

impl Health {
    /// That of problems, in any order; `well` is the summary when there are none.
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

/// The commands whose last run is asked for.
pub const RUNS: [&str; 3] = ["backup", "maintenance", "scrub"];

/// How a run can end.
pub const RUN_RESULTS: [&str; 3] = ["ok", "failed", "interrupted"];

/// A command that changes the archive and has ended, from the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// `backup`, `maintenance` or `scrub`.
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

/// What keeps anything from expiring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// [`ProblemKind::UnusualChange`] or [`ProblemKind::Damage`].
    pub kind: ProblemKind,
    /// The revision that it is about.
    pub revision: RevisionId,
    /// One sentence, without a full stop.
    pub message: String,
}

/// Space on the archive's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes that the archive's files take on disk.
    pub used_bytes: u64,
    /// Bytes that may still be written there.
    pub free_bytes: u64,
    /// All that fits into the file system.
    pub size_bytes: u64,
    /// Bytes by which the archive grows a day, from what backups added and maintenance freed; null when too little is known.
    pub growth_bytes_per_day: Option<i64>,
    /// When the file system will be full if the archive goes on growing like that; null when it does not grow.
    pub full_at: Option<Timestamp>,
    /// Tells file systems of this machine apart.
    #[serde(skip)]
    pub device: u64,
}

/// All that is known of an archive.
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
    /// Whether somebody changes the archive at this moment.
    pub is_locked: bool,
    /// The runs from the history that failed, and that none which worked has followed.
    pub failures: &'a [Run],
    /// Files that are missing or not as long as they should be; a sentence each.
    pub missing: &'a [String],
    /// Why `last.raw` is not the file that backy left.
    pub replaced: Option<&'a str>,
    /// Files that a rebuild could make nothing of, and that are still there.
    pub set_aside: &'a [String],
    /// What is dated in the future; a few words each. None of it is in the manifest any more.
    pub ahead: &'a [Ahead],
    /// Why nothing can be written to the archive.
    pub unwritable: Option<&'a str>,
    /// For each revision, newest first, how many of its blocks cannot be read.
    pub bad_blocks: &'a [u64],
    /// Room on the file system; `None` where that is not known.
    pub space: Option<&'a Space>,
    /// What others than root and the owner of the archive can change, as a sentence.
    pub exposed: Option<&'a str>,
    /// Why the manifest and the files do not belong together.
    pub mismatch: Option<&'a str>,
    /// Files of which the manifest knows nothing.
    pub unknown: &'a [String],
}

impl<'a> Facts<'a> {
    /// What the next due times follow from.
    fn past(&self) -> Past<'a> {
        Past::of_manifest(self.manifest, self.zone.clone())
    }
}

/// What keeps anything from expiring: alarms, flaws and damage that nobody has confirmed. `bad_blocks` are those of each revision,
/// newest first.
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

/// A length of time in its largest unit, as people say it: `45 s`, `12 min`, `7 h`, `3 days`.
pub fn display_age(seconds: i64) -> String {
    match seconds {
        ..=119 => format!("{} s", seconds.max(0)),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}
