//! `status`: the inventory of an archive and the health of its backups, from the files alone and without a lock.
//!
//! [`status()`] gathers the facts in a [`StatusReport`]; `policy/health` judges them. What looks broken only because a
//! writer is at work is no problem.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::archive::folders;
use crate::archive::history::{self, Filled, Recent};
use crate::archive::moment;
use crate::base::clock::{Clock, latest};
use crate::base::error::{ErrorKind, Result, judged};
use crate::base::extent::Extent;
use crate::base::report_path::ReportPath;
use crate::base::revision::{RevisionId, Tag};
use crate::base::units::BlockSize;
use crate::format::manifest::{
    Alarm, BlockRange, Bookmark, DrillReport, Findings, Hints, InProgress, Manifest, Revision,
    SourceIdentity,
};
use crate::image::damage;
use crate::image::taken;
use crate::policy::config::Config;
use crate::policy::health::{
    self, Change, Facts, Freeze, Growth, Health, OriginStatus, ProblemKind, Run, Space, TagStatus,
};
use crate::policy::schedule::Past;
use crate::storage::manifest::{self, Look};
use crate::storage::{Access, FileName, FileSystem};
use crate::verb::scrub::{self, Coverage};

/// Version of the JSON of a report; `doc/scripting.md` has the promise.
pub const STATUS_SCHEMA: u32 = 1;

/// Inventory and health of an archive.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StatusReport {
    /// Version of this structure: fields may be added within a version, but never removed or changed.
    pub schema: u32,
    /// The archive's folder, without symbolic links, whatever path was given.
    pub archive: ReportPath,
    /// The configured source; `null` if unknown.
    pub source: Option<ReportPath>,
    /// The source of the last backup.
    pub last_source: Option<SourceIdentity>,
    /// For a copy: where it comes from, and whether it is up to date.
    #[serde(default)]
    pub origin: Option<OriginStatus>,
    /// Block size in bytes.
    pub block_size: BlockSize,
    /// The operation that is running or was interrupted.
    pub in_progress: Option<InProgress>,
    /// Who holds the archive's lock.
    pub lock_holder: Option<String>,
    /// When that process last made progress; null if nobody holds the lock, or the holder does not show it.
    #[serde(default)]
    pub progress_at: Option<Timestamp>,
    /// How much of the stored data scrubs have verified, and since when.
    pub coverage: Coverage,
    /// The last test restore.
    pub drill: Option<DrillReport>,
    /// The requested revisions, newest first.
    pub revisions: Vec<RevisionStatus>,
    /// The verdict on the backups.
    pub health: Health,
    /// When the report was made.
    pub checked: Timestamp,
    /// Number of revisions, whichever were requested.
    pub revision_count: usize,
    /// How many of them cannot be read in full or have damaged files.
    pub damaged_count: usize,
    /// The newest revision.
    pub newest: Option<RevisionStatus>,
    /// The state of each tag of the schedule, shortest interval first.
    pub schedule: Vec<TagStatus>,
    /// The last run each of `backup`, `maintenance`, `scrub` and `pull`, if the history has one.
    pub last_runs: Vec<Run>,
    /// When a scrub last read any of the data that exists now.
    pub last_scrub: Option<Timestamp>,
    /// The earliest time at which some stored data was last verified.
    pub unchecked_since: Option<Timestamp>,
    /// The largest number of deltas that reading a revision goes through.
    pub chain_length: u32,
    /// The largest number that is not too many.
    pub long_chain: u32,
    /// Space on the file system.
    pub space: Option<Space>,
    /// How much changed in the newest revision, and how much is usual; null if too little is known.
    pub change: Option<Change>,
    /// Revisions with unusually many changes, confirmed or not.
    pub alarms: Vec<Alarm>,
    /// The reasons why nothing expires.
    pub frozen: Vec<Freeze>,
}

/// One revision.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// All its tags.
    pub tags: Vec<Tag>,
    /// Tags given by hand.
    pub pinned_tags: Vec<Tag>,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// Bytes in blocks that differ from the previous revision.
    pub changed_bytes: u64,
    /// Bytes on disk that its backup added.
    pub stored_bytes: i64,
    /// How long its backup took, in seconds.
    pub seconds: f64,
    /// Extents that cannot be read from it.
    pub damaged: Vec<Extent>,
    /// Bad blocks of its own file. Earlier versions did not print them.
    #[serde(default)]
    pub bad_blocks: Vec<BlockRange>,
    /// What its backup did not read, because the source reported no change; null if the source reports none.
    #[serde(default)]
    pub hints: Option<Hints>,
    /// The mark at the source that stands for it; null if there is none.
    #[serde(default)]
    pub bookmark: Option<Bookmark>,
}

/// How often to look if a writer changes the archive meanwhile. Then even a doubtful report is better than none.
const ATTEMPTS: u32 = 16;

/// Inventory of the given revisions and health of the whole archive.
///
/// A writer may change the archive after its manifest was read and before its folder is. A problem is
/// reported only if the manifest stayed the same; otherwise everything is read again, with the same revisions
/// as far as they still exist.
pub fn status(archive: &Archive, ids: &[RevisionId], clock: &dyn Clock) -> Result<StatusReport> {
    let mut left_attempts = ATTEMPTS;
    manifest::look(archive.storage(), archive.manifest().clone(), |manifest| {
        left_attempts -= 1;
        let report = look(&archive.as_of(manifest), ids, clock);
        let is_sure = report.as_ref().is_ok_and(|report| !is_doubtful(report));
        Ok(match is_sure || left_attempts == 0 {
            true => Look::Sure(report),
            false => Look::IfCurrent(report),
        })
    })?
}

/// Whether there is a problem that a running writer could cause temporarily.
fn is_doubtful(report: &StatusReport) -> bool {
    use ProblemKind::{Damage, Interrupted, MissingFile, ReplacedImage};
    let doubtful = [Interrupted, MissingFile, ReplacedImage, Damage];
    report.health.problems.iter().any(|problem| doubtful.contains(&problem.kind))
}

fn look(archive: &Archive, ids: &[RevisionId], clock: &dyn Clock) -> Result<StatusReport> {
    let (config, now) = (judged(archive.config())?, clock.now());
    let why = config.as_ref().err().map(ToString::to_string).unwrap_or_default();
    let lock_holder = archive.lock_holder()?;
    let progress_at = match lock_holder {
        Some(_) => archive.storage().lock_progress()?,
        None => None,
    };
    let (manifest, mut ahead) = health::as_of(archive.manifest(), now);
    let manifest = &*manifest;
    let filled = config.as_ref().map_or(Filled::ByBackups, Filled::of);
    let recent = recent(archive, filled, now)?;
    ahead.extend(recent.ahead);
    let growth = health::growth(&recent.movements, now);
    let space = space(archive, growth, now)?;
    let missing = missing_files(archive)?;
    let exposed = exposed(archive, config.as_ref().ok())?;
    let replaced = replaced_image(archive, lock_holder.is_some())?;
    let set_aside = set_aside(archive, manifest)?;
    let unwritable = unwritable(archive, space.as_ref());
    let unreadable = unreadable(archive, manifest)?;
    let bad_blocks: Vec<u64> = unreadable.iter().map(Findings::bad_block_count).collect();
    let beside = moment::look(archive.storage())?;
    let zone = clock.zone();
    let past = Past::of_manifest(manifest, zone.clone());
    let facts = Facts {
        now,
        zone: &zone,
        manifest,
        config: config.as_ref().map_err(|_| why.as_str()),
        lock_holder: lock_holder.as_deref(),
        progress: progress_at,
        failures: &recent.failures,
        last_pull: recent.last_pull.as_ref(),
        missing: &missing,
        replaced: replaced.as_deref(),
        set_aside: &set_aside,
        ahead: &ahead,
        unwritable: unwritable.as_deref(),
        bad_blocks: &bad_blocks,
        space: space.as_ref(),
        exposed: exposed.as_deref(),
        mismatch: beside.mismatch.as_deref(),
        unknown: &beside.unknown,
    };
    let health = health::judge(&facts);
    let all: Vec<(&Revision, &Findings)> = manifest.revisions.iter().zip(&unreadable).collect();
    let numbers = manifest.revisions.iter().map(|revision| revision.uuid).zip(0..);
    let numbers: HashMap<RevisionId, usize> = numbers.collect();
    let described = |number: usize| {
        let (revision, bad) = all.get(number)?;
        Some(describe(number, revision, damaged(manifest.block_size, revision, bad)))
    };
    let config = config.ok();
    let limits = config.as_ref().map(|c| c.monitoring.clone()).unwrap_or_default();
    let source = config.as_ref().and_then(|config| config.source.as_ref());
    let tags = config.as_ref().map(|config| health::tags(&past, config, now));
    let origin = config.as_ref().and_then(|config| config.origin.as_ref());
    let origin = origin.map(|origin| {
        OriginStatus::of(origin, recent.last_pull.as_ref(), &manifest.revisions, now)
    });
    Ok(StatusReport {
        schema: STATUS_SCHEMA,
        archive: folders::label(&archive.folder()),
        source: source.map(|source| (&*source.written()).into()),
        last_source: manifest.source.clone(),
        origin,
        block_size: manifest.block_size,
        in_progress: manifest.in_progress.clone(),
        lock_holder,
        progress_at,
        coverage: scrub::coverage(manifest),
        drill: manifest.drill.clone(),
        revisions: ids.iter().filter_map(|id| described(*numbers.get(id)?)).collect(),
        health,
        checked: now,
        revision_count: manifest.revisions.len(),
        damaged_count: all
            .iter()
            .filter(|(revision, bad)| !bad.bad_blocks.is_empty() || !revision.flaws.is_empty())
            .count(),
        newest: described(0),
        schedule: tags.unwrap_or_default(),
        last_runs: recent.runs,
        last_scrub: scrub::last_read(manifest),
        unchecked_since: health::unchecked_since(manifest),
        chain_length: health::chain_length(archive.revisions()),
        long_chain: health::long_chain(config.as_ref()),
        space,
        change: health::Change::of(archive.revisions(), limits.change_factor),
        alarms: manifest.alarms.clone(),
        frozen: if limits.freeze { health::freezes(manifest, &bad_blocks) } else { Vec::new() },
    })
}

/// For each revision, newest first, the extents that cannot be read from it, as in
/// [`RevisionStatus::damaged`]. `None` if that may only be due to a running writer.
pub fn damage(archive: &Archive) -> Result<Option<Vec<Vec<Extent>>>> {
    let manifest = archive.manifest();
    let all = unreadable(archive, manifest)?;
    let found: Vec<Vec<Extent>> = manifest
        .revisions
        .iter()
        .zip(&all)
        .map(|(revision, bad)| damaged(manifest.block_size, revision, bad))
        .collect();
    let is_sure = found.iter().all(Vec::is_empty) || archive.reload()?.0.manifest() == manifest;
    Ok(is_sure.then_some(found))
}

fn unreadable(archive: &Archive, manifest: &Manifest) -> Result<Vec<Findings>> {
    let mut unreadable = damage::unreadable(archive.storage(), manifest)?;
    if let Some(newest) = unreadable.first_mut() {
        *newest = damage::besides_left_out(archive.storage(), manifest, newest)?;
    }
    Ok(unreadable)
}

/// Space used by the archive, and free space.
fn space(archive: &Archive, growth: Option<Growth>, now: Timestamp) -> Result<Option<Space>> {
    let storage = archive.storage();
    let Some(FileSystem { device, size_bytes, free_bytes }) = storage.file_system()? else {
        return Ok(None);
    };
    let block_size = archive.manifest().block_size;
    let mut used_bytes = 0_u64;
    for revision in archive.revisions() {
        let bytes = taken::revision_bytes(storage, revision, block_size)?;
        used_bytes = used_bytes.saturating_add(bytes);
    }
    let growth_bytes_per_day = growth.map(|growth| growth.bytes_per_day);
    let full_at = growth_bytes_per_day.and_then(|growth| health::full_at(free_bytes, growth, now));
    Ok(Some(Space { used_bytes, free_bytes, size_bytes, growth_bytes_per_day, full_at, device }))
}

/// The part of the history that the verdict uses.
fn recent(archive: &Archive, filled: Filled, now: Timestamp) -> Result<Recent> {
    let window = SignedDuration::from_hours(24 * health::WINDOW_DAYS);
    let since = now.saturating_sub(window).unwrap_or(now);
    history::recent(archive.storage(), filled, since, latest(now))
}

/// What users other than the owner can change, as a sentence.
fn exposed(archive: &Archive, config: Option<&Config>) -> Result<Option<String>> {
    let accepts = config.is_some_and(|config| config.monitoring.accept_no_permissions);
    let storage = archive.storage();
    let mut exposed = storage.exposed(accepts)?;
    for path in config.iter().flat_map(|config| &config.includes) {
        if exposed.is_none() {
            exposed = storage.exposed_included(path, accepts)?;
        }
    }
    Ok(exposed.map(|error| error.to_string()))
}

/// Files that a rebuild could not use and that still exist.
fn set_aside(archive: &Archive, manifest: &Manifest) -> Result<Vec<String>> {
    let present = archive.storage().list()?;
    let is_there = |name: &&FileName| present.binary_search(name).is_ok();
    Ok(manifest.set_aside.iter().filter(is_there).map(FileName::to_string).collect())
}

/// Files in the manifest that are missing or too short.
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

/// Whether `last.raw` is not the file that backy left, although its length is right. Not asked while a writer
/// is running.
fn replaced_image(archive: &Archive, is_locked: bool) -> Result<Option<String>> {
    let (storage, manifest) = (archive.storage(), archive.manifest());
    let (Some(newest), Some(_)) = (manifest.revisions.first(), &manifest.image_file) else {
        return Ok(None);
    };
    // An interrupted writer may have been about to record its time.
    if is_locked || manifest.in_progress.is_some() {
        return Ok(None);
    }
    let image = match storage.open(FileName::IMAGE, Access::Read) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        image => image?,
    };
    if image.len()? != newest.size_bytes || moment::is_as_recorded(storage, manifest)? {
        return Ok(None);
    }
    Ok(Some(format!(
        "{}: something other than backy changed it at {}, and nobody has compared it since",
        storage.path(FileName::IMAGE).display(),
        image.modified()?
    )))
}

/// With less than this, not even a line of the history can be written.
const FULL_BYTES: u64 = 64 << 10;

/// Why no process can write to the archive.
fn unwritable(archive: &Archive, space: Option<&Space>) -> Option<String> {
    let full = space.filter(|space| space.free_bytes < FULL_BYTES);
    let full = full.map(|_| "its file system is full".to_owned());
    archive.storage().unwritable().or(full)
}

/// Extents of a revision that cannot be read: its own bad blocks, and those that it reads through to.
fn damaged(block_size: BlockSize, revision: &Revision, bad: &Findings) -> Vec<Extent> {
    let ranges = bad.bad_blocks.iter();
    ranges.map(|&range| damage::extent(range, block_size, revision.size_bytes)).collect()
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
        bad_blocks: revision.findings.bad_blocks.to_vec(),
        hints: revision.hints.clone(),
        bookmark: revision.bookmark.clone(),
    }
}
