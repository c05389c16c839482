//! `status`: what there is, and whether the backups are well. From the files alone, without a lock.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::archive::Archive;
use crate::clock::Clock;
use crate::config::Config;
use crate::damage;
use crate::error::Result;
use crate::extent::Extent;
use crate::format::manifest::{
    DrillReport, Findings, InProgress, Operation, Revision, SourceIdentity,
};
use crate::revision::{RevisionId, Tag};
use crate::schedule;
use crate::scrub::{self, Coverage};
use crate::storage::{Access, Exposed, FileName};
use crate::units::BlockSize;

/// Version of the JSON that this serializes to; `doc/scripting.md` has the promise.
pub const STATUS_SCHEMA: u32 = 1;

/// Inventory and health of an archive.
#[derive(Debug, Clone, Serialize)]
pub struct StatusReport {
    /// Version of this structure: fields may be added within a version, never removed or changed.
    pub schema: u32,
    /// The archive's folder.
    pub archive: String,
    /// What is backed up, as configured; `null` when that is not known.
    pub source: Option<String>,
    /// What was backed up last.
    pub last_source: Option<SourceIdentity>,
    /// Block size in bytes.
    pub block_size: BlockSize,
    /// The operation that is under way or was interrupted.
    pub in_progress: Option<InProgress>,
    /// Who holds the archive's lock.
    pub lock_holder: Option<String>,
    /// How much of what is stored has been verified by scrubs, and since when.
    pub coverage: Coverage,
    /// The last test restore.
    pub drill: Option<DrillReport>,
    /// Revisions, newest first; only those that were asked for.
    pub revisions: Vec<RevisionStatus>,
    /// Whether the backups are well.
    pub health: Health,
}

/// One revision.
#[derive(Debug, Clone, Serialize)]
pub struct RevisionStatus {
    /// Counted from the newest, which is 0.
    pub number: usize,
    /// Its name.
    pub uuid: RevisionId,
    /// When its backup began.
    pub started: Timestamp,
    /// When its backup was committed.
    pub finished: Timestamp,
    /// Exact size of the image in bytes.
    pub size_bytes: u64,
    /// Digest of the revision.
    pub digest: String,
    /// File that holds it, within the archive's folder.
    pub file: String,
    /// The next newer revision, which it reads through to.
    pub base: Option<RevisionId>,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// Those that were given by hand.
    pub pinned_tags: Vec<Tag>,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// Bytes in blocks that differed from the revision before.
    pub changed_bytes: u64,
    /// Bytes on disk that its backup added.
    pub stored_bytes: i64,
    /// Time that its backup took.
    pub seconds: f64,
    /// Stretches that cannot be read from it.
    pub damaged: Vec<Extent>,
}

/// The verdict, with what is behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// The worst of the problems.
    pub level: Level,
    /// One line: the verdict and the most important reason.
    pub summary: String,
    /// What is wrong, worst first.
    pub problems: Vec<Problem>,
}

/// How bad something is; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is well.
    Ok,
    /// Somebody should look at it.
    Warning,
    /// Somebody has to look at it now.
    Critical,
}

/// Something that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub level: Level,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub advice: String,
}

/// Inventory of the given revisions and health of the whole archive.
pub fn status(archive: &Archive, numbers: &[usize], clock: &dyn Clock) -> Result<StatusReport> {
    let config = archive.config();
    let holder = archive.lock_holder()?;
    let manifest = archive.manifest();
    let mut problems = Vec::new();
    let mut problem = |level, message: String, advice: &str| {
        problems.push(Problem { level, message, advice: advice.to_owned() });
    };
    match &config {
        Err(error) => problem(Level::Critical, error.to_string(), "correct backy.toml"),
        Ok(config) if config.source.is_none() => {
            problem(Level::Critical, "no source is configured".to_owned(), "set it in backy.toml");
        }
        Ok(config) => {
            if let Some(message) = future(archive.revisions(), clock.now()) {
                problem(Level::Warning, message, "set the clock right, then run 'backy backup'");
            }
            if let Some((level, message)) = age(archive.revisions(), config, clock.now()) {
                let advice = match archive.revisions().is_empty() {
                    true => "run 'backy backup', and let cron do it from then on",
                    false => "see why 'backy backup' does not run or fails",
                };
                problem(level, message, advice);
            }
        }
    }
    if let (Some(operation), None) = (&manifest.in_progress, &holder) {
        let what = match operation.operation {
            Operation::Backup => "backup",
            Operation::Remove | Operation::Merge => "maintenance",
        };
        let message = format!("the {what} begun at {} was interrupted", operation.started);
        problem(Level::Warning, message, "run 'backy backup': it tidies up by itself");
    }
    if let Some(exposed) = archive.exposed()? {
        problem(Level::Warning, exposed.to_string(), Exposed::ADVICE);
    }
    for message in missing_files(archive)? {
        problem(Level::Critical, message, "get it back from a copy of the archive");
    }
    let damaged = damaged(archive)?;
    let count = damaged.iter().filter(|extents| !extents.is_empty()).count();
    if count > 0 {
        let message = match damaged.len() {
            1 => "the only revision has damaged blocks".to_owned(),
            all => format!("{count} of {all} revisions have damaged blocks"),
        };
        let advice = match damaged.first().is_some_and(|newest| !newest.is_empty()) {
            true => {
                "run 'backy scrub': it says what, and mends what it can; the next backup heals the newest"
            }
            false => "run 'backy scrub': it says what, and mends what it can",
        };
        problem(Level::Critical, message, advice);
    }
    if let Some(drill) = manifest.drill.as_ref().filter(|drill| !drill.passed) {
        let message = format!("the last drill failed: {}", drill.message);
        problem(Level::Critical, message, "run 'backy scrub', then 'backy drill' again");
    }
    let revisions = numbers.iter().filter_map(|&number| {
        let revision = archive.revisions().get(number)?;
        Some(describe(number, revision, damaged.get(number)?.clone()))
    });
    Ok(StatusReport {
        schema: STATUS_SCHEMA,
        archive: archive.folder().display().to_string(),
        source: config.ok().and_then(|c| c.source).map(|source| source.display().to_string()),
        last_source: manifest.source.clone(),
        block_size: manifest.block_size,
        in_progress: manifest.in_progress.clone(),
        lock_holder: holder,
        coverage: scrub::coverage(manifest),
        drill: manifest.drill.clone(),
        revisions: revisions.collect(),
        health: verdict(problems, archive.revisions(), clock.now()),
    })
}

fn verdict(mut problems: Vec<Problem>, revisions: &[Revision], now: Timestamp) -> Health {
    problems.sort_by_key(|problem| std::cmp::Reverse(problem.level));
    let summary = match problems.first() {
        None => {
            let count = match revisions.len() {
                1 => "1 revision".to_owned(),
                count => format!("{count} revisions"),
            };
            format!("{count}, the newest {} old", newest_age(revisions, now))
        }
        Some(worst) if problems.len() == 1 => worst.message.clone(),
        Some(worst) => format!("{} (and {} more)", worst.message, problems.len() - 1),
    };
    let level = problems.first().map_or(Level::Ok, |worst| worst.level);
    Health { level, summary, problems }
}

fn newest_age(revisions: &[Revision], now: Timestamp) -> String {
    match revisions.first() {
        None => "?".to_owned(),
        Some(newest) => display_age((now.as_second() - newest.started.as_second()).max(0)),
    }
}

/// A length of time in its largest unit, as people say it: `45 s`, `12 min`, `7 h`, `3 days`.
pub fn display_age(seconds: i64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

/// How much a clock may have been put back without its being worth a word.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// That the newest revision began at a time that is not yet: nobody can say whether it is overdue.
fn future(revisions: &[Revision], now: Timestamp) -> Option<String> {
    let ahead = revisions.first()?.started.duration_since(now);
    let message = || {
        format!("the newest revision is from the future, {} ahead", display_age(ahead.as_secs()))
    };
    (ahead > CLOCK_TOLERANCE).then(message)
}

/// Whether the newest success is too old for the schedule: overdue after an interval, critical after one and a half.
fn age(revisions: &[Revision], config: &Config, now: Timestamp) -> Option<(Level, String)> {
    let Some(newest) = revisions.first() else {
        return Some((Level::Warning, "there is no backup yet".to_owned()));
    };
    let shortest = config.schedule.values().map(|interval| interval.interval).min()?;
    let age = now.duration_since(newest.started);
    let level = match () {
        () if age > shortest + shortest / 2 => Level::Critical,
        () if age > shortest + schedule::tolerance(shortest) => Level::Warning,
        () => return None,
    };
    let message = format!(
        "the last backup is overdue: it began {} ago, and one is due every {}",
        display_age(age.as_secs()),
        display_age(shortest.as_secs())
    );
    Some((level, message))
}

/// Files that the manifest names and that are not there or too short.
fn missing_files(archive: &Archive) -> Result<Vec<String>> {
    let present = archive.storage().list()?;
    let mut missing = Vec::new();
    for revision in archive.revisions() {
        for name in [revision.file(), revision.digests_file()] {
            if present.binary_search(&name).is_err() {
                missing.push(format!(
                    "{}: the file is missing",
                    archive.storage().path(name).display()
                ));
            }
        }
    }
    if let (Some(newest), None) = (archive.revisions().first(), &archive.manifest().in_progress)
        && present.binary_search(&FileName::IMAGE).is_ok()
    {
        let found = archive.storage().open(FileName::IMAGE, Access::Read)?.len()?;
        if found != newest.size_bytes {
            missing.push(format!(
                "{}: found {found} bytes, expected {}",
                archive.storage().path(FileName::IMAGE).display(),
                newest.size_bytes
            ));
        }
    }
    Ok(missing)
}

/// What cannot be read from each revision, its own bad blocks and those that it reads through to.
fn damaged(archive: &Archive) -> Result<Vec<Vec<Extent>>> {
    let manifest = archive.manifest();
    let unreadable = damage::unreadable(archive.storage(), manifest)?;
    let revisions = manifest.revisions.iter().zip(unreadable);
    let extents = |(revision, bad): (&Revision, Findings)| {
        let ranges = bad.bad_blocks.into_iter();
        ranges
            .map(|range| damage::extent(range, manifest.block_size, revision.size_bytes))
            .collect()
    };
    Ok(revisions.map(extents).collect())
}

fn describe(number: usize, revision: &Revision, damaged: Vec<Extent>) -> RevisionStatus {
    RevisionStatus {
        number,
        uuid: revision.uuid,
        started: revision.started,
        finished: revision.finished,
        size_bytes: revision.size_bytes,
        digest: revision.digest.to_string(),
        file: revision.file().to_string(),
        base: revision.base,
        tags: revision.tags.iter().cloned().collect(),
        pinned_tags: revision.pinned_tags.iter().cloned().collect(),
        read_bytes: revision.statistics.read_bytes,
        changed_bytes: revision.statistics.changed_bytes,
        stored_bytes: revision.statistics.stored_bytes,
        seconds: revision.statistics.seconds,
        damaged,
    }
}
