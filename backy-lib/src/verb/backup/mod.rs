//! `backup`: makes a revision of the source.
//!
//! The order of writes is what makes it safe; `doc/safety.md` has the argument, and the sweep tests hold it.
//!
//! 1. publish the manifest with `in_progress`
//! 2. make the overlay of the newest revision, sync it and the folder
//! 3. point the next older delta at the overlay, sync
//! 4. per batch: old blocks to the overlay, sync; their entries, sync; only then the new blocks to the image
//! 5. length and zeros of the image, sync; reference counts of the overlay, sync; digest files, sync
//! 6. publish the manifest with the new revision: the commit
//! 7. where the image takes more room than it needs, cut it, make holes of zeros, and publish the manifest without `in_progress`
//!
//! Where the file system can clone, step 4 writes to a clone of the image, which replaces it between 5 and 6.

mod due;
mod plan;
mod request;
mod room;
mod run;
mod scan;
pub(crate) mod tags;
mod update;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::left_overs::{self, sweep};
use crate::archive::moment;
use crate::archive::proof;
use crate::archive::recover::{self, recover, tidy};
use crate::archive::reserve;
use crate::base::clock::Clock;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::pipeline::{self, BufferPool};
use crate::base::progress::{self, Event, Observer, Phase};
use crate::base::revision::{RevisionId, Tag};
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::digests::DigestsHeader;
use crate::format::manifest::{
    BlockRange, Findings, InProgress, Manifest, Operation, Ranges, Revision, Sameness, Series,
    SourceIdentity, Statistics,
};
use crate::format::qcow2::{Backing, Layout};
use crate::image::damage;
use crate::image::delta::{self, Delta};
use crate::policy::config::Config;
use crate::policy::health;
use crate::policy::room::Estimate;
use crate::policy::schedule::{self, Past};
use crate::source::hooks::{Held, NoHooks, Occasion};
use crate::source::{self, Source};
use crate::storage::manifest::{self, publish};
use crate::storage::{DigestsKind, FileName, Storage};

pub use plan::{BackupPlan, pins_scheduled, plan};
pub use request::{BackupOutcome, BackupRequest, BackupSource, OpenSource};
pub(crate) use room::estimate_for;
pub(crate) use scan::RateLimit;

/// Stretches of written blocks that are told apart, at most.
const MAX_WRITTEN_RANGES: usize = 1024;

/// How the newest image is brought up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageUpdate {
    /// On a clone where the file system can, else in place.
    #[default]
    Auto,
    /// In place always.
    InPlace,
}

/// What is done about the room that a backup takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpaceCheck {
    /// Nothing.
    #[default]
    Off,
    /// When there is too little, the error says how much is missing and what would free it.
    Explain,
    /// And when there is less than is expected to be needed, the backup is not begun.
    Require,
}

/// What to back up, when, and how.
#[derive(Debug, Clone, Default)]
pub struct BackupOptions {
    /// Whatever the schedule says.
    pub force: bool,
    /// Tags given by hand; with any, a backup is made whatever the schedule says.
    pub tags: BTreeSet<Tag>,
    /// Tags of the schedule that are given as if they were due now; with any, a backup is made. They expire like
    /// any other.
    pub scheduled: BTreeSet<Tag>,
    /// Threads that digest and compress; `None` for one a core.
    pub threads: Option<usize>,
    /// How the image is updated.
    pub update: ImageUpdate,
    /// Most bytes a second that are read from the source.
    pub limit_rate: Option<u64>,
    /// What is done about the room that the backup takes.
    pub space: SpaceCheck,
}

/// What a backup did.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BackupReport {
    /// The new revision.
    pub revision: Revision,
    /// Whether the image was updated on a clone.
    pub cloned: bool,
    /// Blocks of the revision before that were found to be rotten when they were moved to its delta.
    pub bad_blocks: u64,
    /// Blocks that were known to be bad and that the source still had: they are right again, in older revisions as well.
    pub healed_blocks: u64,
}

/// What every step needs.
pub(crate) struct Context<'a> {
    pub storage: &'a Arc<dyn Storage>,
    pub config: &'a Config,
    pub clock: &'a dyn Clock,
    pub observer: &'a dyn Observer,
}

/// What a revision is that was made elsewhere, long ago.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub uuid: RevisionId,
    pub time: Timestamp,
}

/// A backup that is to be made.
pub(crate) struct Order<'a> {
    options: &'a BackupOptions,
    tags: BTreeSet<Tag>,
    stamp: Option<Stamp>,
    started: Timestamp,
    uuid: RevisionId,
}

impl<'a> Order<'a> {
    fn new(
        options: &'a BackupOptions,
        tags: BTreeSet<Tag>,
        stamp: Option<Stamp>,
        now: Timestamp,
    ) -> Self {
        let uuid = stamp.map_or_else(|| RevisionId::new(now), |stamp| stamp.uuid);
        let started = stamp.map_or(now, |stamp| stamp.time);
        Order { options, tags, stamp, started, uuid }
    }
}

/// Makes a revision of a source that is open, without hooks; with `stamp` one that keeps its name and time. The archive has been
/// recovered; `manifest` is the one on disk and is kept up to date.
pub(crate) fn backup(
    context: &Context<'_>,
    manifest: &mut Manifest,
    source: &dyn Source,
    options: &BackupOptions,
    tags: BTreeSet<Tag>,
    stamp: Option<Stamp>,
) -> Result<BackupReport> {
    let order = Order::new(options, tags, stamp, context.clock.now());
    let folder = context.storage.folder();
    let occasion = Occasion { archive: &folder, revision: order.uuid, lock: None };
    let mut none = NoHooks;
    let held = Held::open(&mut none, occasion, context.observer, || Ok(Box::new(source)))?;
    let (report, _) = backup_held(context, manifest, held, order)?;
    Ok(report)
}

/// The same of a source that is let go of as soon as it has been read. What is wrong with that is given beside the report: the
/// revision is there all the same.
fn backup_held(
    context: &Context<'_>,
    manifest: &mut Manifest,
    held: Held<'_>,
    order: Order<'_>,
) -> Result<(BackupReport, Option<Error>)> {
    let prepared = prepare(context, manifest, held.source(), &order);
    let (held, (old, estimate)) = held.checked(prepared)?;
    let making = Making { context, order, clock: Instant::now(), read_bytes: Cell::default() };
    let error = match making.make(manifest, held, old) {
        Ok((made, untold)) => match making.commit(manifest, made) {
            Ok(report) => return Ok((report, untold)),
            Err(failed) => failed,
        },
        Err(failed) => failed,
    };
    let error = match error {
        Failed::Making(error) => error,
        Failed::Committing(error) => return Err(error),
    };
    match recover(context.storage, manifest, context.observer) {
        Ok(()) => Err(match estimate {
            Some(estimate) => {
                room::explain(context, manifest, &estimate, making.read_bytes.get(), error)
            }
            None => error,
        }),
        Err(second) => Err(Error::UndoFailed { first: error.into(), second: second.into() }),
    }
}

/// Everything that may stop a backup before anything is written, and then the manifest that says that it is under way.
fn prepare(
    context: &Context<'_>,
    manifest: &mut Manifest,
    source: &dyn Source,
    order: &Order<'_>,
) -> Result<(Option<scan::OldImage>, Option<Estimate>)> {
    let storage = &**context.storage;
    check_limits(source, manifest.block_size, &order.tags)?;
    manifest::check_room(storage, manifest)?;
    moment::check_image(context.storage, manifest, context.observer)?;
    check_table(context, manifest)?;
    let old = open_old(context, manifest)?;
    if old.is_some() {
        check_image_is_free(storage, order.options.update)?;
    }
    let estimate = match order.options.space {
        SpaceCheck::Off => None,
        _ => Some(estimate_for(storage, manifest, Some(source), order.options.update)?),
    };
    if let (Some(estimate), SpaceCheck::Require) = (&estimate, order.options.space) {
        room::check(context, manifest, estimate)?;
    }
    let (started, mut begun) = (context.clock.now(), manifest.clone());
    let operation = InProgress { operation: Operation::Backup, revision: order.uuid, started };
    left_overs::check_vacant(storage, &left_overs::made_by(manifest, &operation))?;
    left_overs::enter(&mut begun, operation);
    // Nothing has been touched yet; the next writer finds either manifest in order.
    publish(storage, &begun)?;
    *manifest = begun;
    Ok((old, estimate))
}

/// That the digests of the newest revision, which decide what has changed and what was right, are those that were recorded. When they
/// are not, they are put in order, and that is all that is done: somebody has to learn of it, and the next backup is made.
fn check_table(context: &Context<'_>, manifest: &mut Manifest) -> Result<()> {
    let storage = &**context.storage;
    let mut after = manifest.clone();
    let (verdict, flaw) = proof::prove_silently(context.storage, &mut after, context.observer)?;
    let Some(flaw) = flaw else { return Ok(()) };
    reserve::publish(storage, &after)?;
    *manifest = after;
    let (outcome, undone) = (verdict.outcome(), "no backup was made");
    Err(Error::PutInOrder { flaw: flaw.into(), outcome, undone })
}

/// The newest image, for comparing with. Damage that would stop the backup on its way is told here, before anything is written. A
/// damaged older delta does not: it is lost with or without the backup.
fn open_old(context: &Context<'_>, manifest: &Manifest) -> Result<Option<scan::OldImage>> {
    let (storage, block_size) = (&**context.storage, manifest.block_size);
    if let Some(older) = manifest.revisions.get(1).filter(|older| !older.is_standalone()) {
        match Delta::open(storage, older.uuid, block_size, older.size_bytes) {
            Err(error) if error.is_damage() => {
                context.observer.event(&Event::Finding(error.to_string()));
            }
            opened => _ = opened?,
        }
    }
    let Some(newest) = manifest.revisions.first() else { return Ok(None) };
    match scan::OldImage::open(storage, newest, block_size) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(recover::image_is_missing(storage, newest))
        }
        opened => opened.map(Some),
    }
}

/// A longer name of a source is none: a path of a file has at most as many bytes.
const MAX_NAME_BYTES: usize = 4096;

/// That nobody relies on the image as it is, where it is going to be updated in place.
fn check_image_is_free(storage: &dyn Storage, update: ImageUpdate) -> Result<()> {
    let Some(holder) = storage.image_user()? else { return Ok(()) };
    let clones = update == ImageUpdate::Auto && storage.clone_unnamed(FileName::IMAGE)?.is_some();
    let path = storage.path(FileName::IMAGE);
    if clones { Ok(()) } else { Err(Error::Locked { path, holder }) }
}

fn check_limits(source: &dyn Source, block_size: BlockSize, tags: &BTreeSet<Tag>) -> Result<()> {
    let limit = Layout::max_image_bytes(block_size);
    if source.size_bytes() > limit {
        let message = format!(
            "its size is {} bytes; with blocks of {} the limit is {limit}",
            source.size_bytes(),
            block_size.bytes()
        );
        return Err(Error::Source { path: source.identity().path.into(), message });
    }
    let name_bytes = source.identity().path.len();
    if name_bytes > MAX_NAME_BYTES {
        let message = format!(
            "the name of the source is {name_bytes} bytes long, expected at most {MAX_NAME_BYTES}"
        );
        return Err(Error::Specification { message });
    }
    tags::check_count(tags)
}

/// Gives back the room that a committed backup does not need, and removes the files.
fn tidy_up(storage: &dyn Storage, manifest: &mut Manifest) -> Result<()> {
    if manifest.in_progress.is_some() {
        let mut after = manifest.clone();
        tidy::finish_image(storage, &mut after)?;
        after.in_progress = None;
        publish(storage, &after)?;
        *manifest = after;
    }
    sweep(storage, manifest).map(drop)
}

enum Failed {
    /// Before the commit: what was done has to be undone.
    Making(Error),
    /// The new manifest may be in place: nothing may be undone.
    Committing(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed::Making(error)
    }
}

/// A revision being made.
struct Making<'a> {
    context: &'a Context<'a>,
    order: Order<'a>,
    clock: Instant,
    /// How much of the source has been read, of how much.
    read_bytes: Cell<(u64, u64)>,
}

/// A source as it was, for when it has been let go of.
struct Described {
    identity: SourceIdentity,
    size_bytes: u64,
}

impl Described {
    fn of(source: &dyn Source) -> Self {
        Described { identity: source.identity(), size_bytes: source.size_bytes() }
    }
}

/// A revision that only lacks its place in the manifest.
struct Made {
    manifest: Manifest,
    report: BackupReport,
}

/// What there is to be said of a source beside how much has changed.
fn observed(manifest: &Manifest, source: &SourceIdentity, fate: scan::Fate) -> health::Observed {
    let scan::Fate { had_bytes, replaced_bytes, lost_bytes } = fate;
    let known = manifest.source.as_ref().filter(|known| known.path == source.path);
    let other_source = match known.map_or(Sameness::Same, |known| known.compare(source)) {
        Sameness::Other(how) => Some(how),
        // The same data in another place has most of what there was.
        Sameness::Doubtful(how) => Some(how).filter(|_| replaced_bytes > had_bytes / 2),
        Sameness::Same => None,
    };
    let old_size_bytes = manifest.revisions.first().map_or(0, |newest| newest.size_bytes);
    let is_device = source.kind == "block device";
    health::Observed { had_bytes, lost_bytes, other_source, old_size_bytes, is_device }
}

impl Making<'_> {
    /// Everything up to the commit. Also gives what was wrong with letting go of the source.
    fn make(
        &self,
        manifest: &Manifest,
        held: Held<'_>,
        old: Option<scan::OldImage>,
    ) -> std::result::Result<(Made, Option<Error>), Failed> {
        let source = Described::of(held.source());
        let begun = self.begin(manifest, &source, old.as_ref());
        let (held, (mut update, stored_before)) = held.checked(begun)?;
        let scanned = self.scan(manifest, &held, old.as_ref(), &mut update);
        let ((scanned, written), untold) = held.finish(scanned)?;
        let mut made = self.finish(manifest, source, update, scanned, stored_before)?;
        if let Some(newest) = made.manifest.revisions.first_mut() {
            newest.note_rewritten(written);
            made.report.revision = newest.clone();
        }
        Ok((made, untold))
    }

    /// Makes the files that the revision needs; and what the image takes on disk before it is changed.
    fn begin(
        &self,
        manifest: &Manifest,
        source: &Described,
        old: Option<&scan::OldImage>,
    ) -> Result<(update::Update<'_>, u64)> {
        let storage = self.context.storage;
        let newest = manifest.revisions.first();
        let stored_before = old.map_or(Ok(0), scan::OldImage::allocated_bytes)?;
        let update = update::Update::begin(
            &**storage,
            newest,
            manifest.block_size,
            source.size_bytes,
            self.order.uuid,
            self.order.options.update,
        )?;
        if let Some(newest) = newest
            && let Some(older) = manifest.revisions.get(1).filter(|r| !r.is_standalone())
        {
            match delta::rebase(&**storage, older.uuid, Some(Backing::delta(newest.uuid))) {
                // It has been told of, and is lost with or without this backup.
                Err(error) if error.is_damage() => {}
                done => done?,
            }
        }
        Ok((update, stored_before))
    }

    /// Reads the source to its end and stores what has changed; which blocks of the image that were.
    fn scan(
        &self,
        manifest: &Manifest,
        held: &Held<'_>,
        old: Option<&scan::OldImage>,
        update: &mut update::Update<'_>,
    ) -> Result<(scan::Scanned, Vec<BlockRange>)> {
        let (source, observer) = (held.source(), held.observer());
        let level = self.context.config.compression_level;
        let threads = pipeline::threads(self.order.options.threads);
        // Nobody reads ahead on a device: while one reads, another digests, also on a single core.
        let is_waited_for = source.identity().kind == "block device";
        let threads = match self.order.options.threads {
            None if is_waited_for => threads.max(2),
            _ => threads,
        };
        let workers = scan::workers(threads, level)?;
        let counters = progress::begin_work(&observer, Phase::Backup, source.size_bytes())?;
        let buffers = BufferPool::new();
        let scan = scan::Scan::new(manifest.block_size, source, old, &buffers);
        let rate = self.order.options.limit_rate.map(RateLimit::new);
        let mut chunks = scan.chunks(&observer);
        let mut tally = scan::Tally::new(&scan);
        let mut written = Ranges::with_limit(MAX_WRITTEN_RANGES);
        let read = pipeline::run(
            workers,
            || chunks.next_chunk(rate.as_ref()),
            |worker, chunk| scan.work(worker, chunk),
            |outcome| {
                counters.add(outcome.source_bytes());
                tally.take(&outcome, &observer)?;
                for run in outcome.runs() {
                    written.push(BlockRange { first: run.first, count: run.blocks });
                }
                update.take(outcome, &buffers)
            },
        );
        self.read_bytes.set((counters.done_bytes(), counters.total_bytes()));
        read?;
        let scanned = tally.finish(&**self.context.storage, manifest.revisions.first())?;
        source::check_size(source)?;
        progress::check(&observer)?;
        Ok((scanned, written.finish()))
    }

    fn finish(
        &self,
        manifest: &Manifest,
        source: Described,
        update: update::Update<'_>,
        scanned: scan::Scanned,
        stored_before: u64,
    ) -> Result<Made> {
        let mut after = manifest.clone();
        after.in_progress = None;
        let seen = observed(manifest, &source.identity, scanned.fate);
        self.tell_container(manifest, &source.identity);
        after.source = Some(source.identity.following(manifest.source.as_ref()));
        let mut revision = Revision::newest(
            self.order.uuid,
            self.order.started,
            self.context.clock.now(),
            source.size_bytes,
            scanned.digest,
            Statistics {
                read_bytes: scanned.read_bytes,
                changed_bytes: scanned.changed_bytes,
                lost_bytes: scanned.fate.lost_bytes,
                ..Statistics::default()
            },
        );
        revision.tags = self.order.tags.clone();
        revision.pinned_tags = self.order.options.tags.clone();
        revision.findings = scanned.findings;
        let block_size = manifest.block_size;
        let header = |revision: &Revision, kind| DigestsHeader::new(kind, revision, block_size);
        let old_header =
            manifest.revisions.first().map(|newest| header(newest, DigestsKind::Delta));
        let finished =
            update.finish(&header(&revision, DigestsKind::Image), old_header.as_ref())?;
        revision.statistics.stored_bytes = finished.stored_bytes as i64 - stored_before as i64;
        revision.statistics.seconds = self.clock.elapsed().as_secs_f64();
        // It has another name by now, and the next one is not ours.
        after.removable.retain(|name| *name != FileName::STAGED_IMAGE);
        after.image_file = moment::image_file(&**self.context.storage)?;
        let mut found_bad = 0;
        if let Some(newest) = after.revisions.first_mut() {
            after.removable.push(newest.digests_file());
            // Its own file now is the delta; what did not move there is with the new revision.
            let known = newest.findings.clone();
            revision.findings.inherit(&known);
            let moved = finished.bad_blocks.iter();
            let moved = moved.map(|&first| BlockRange { first, count: 1 });
            let all = BlockRange { first: BlockIndex(0), count: u64::MAX };
            newest.findings.replace(&[all], moved);
            let mut news = newest.findings.clone();
            news.clear_all(&known.bad_blocks);
            found_bad = news.bad_block_count();
            self.tell_rotten(&news, newest.uuid);
        }
        // What is imported was due long ago, if ever.
        if self.order.stamp.is_none() {
            after.series = self.series(manifest);
        }
        after.push_newest(revision.clone());
        if let (false, Some(before)) = (finished.is_tidy, after.revisions.get(1)) {
            // Its delta is complete; what is still to be done is about the image that it reads through to.
            let (operation, started) = (Operation::Merge, self.order.started);
            after.in_progress = Some(InProgress { operation, revision: before.uuid, started });
        }
        let factor = self.context.config.monitoring.change_factor;
        // What is imported changed long ago.
        if self.order.stamp.is_none() {
            after.alarms.extend(health::unusual(&after.revisions, factor, seen));
        }
        let report = BackupReport {
            revision,
            cloned: finished.cloned,
            bad_blocks: found_bad,
            healed_blocks: finished.healed_blocks,
        };
        Ok(Made { manifest: after, report })
    }

    /// When the series of scheduled tags began, with this revision.
    fn series(&self, manifest: &Manifest) -> Vec<Series> {
        let past = Past::of_manifest(manifest, self.context.clock.zone());
        let scheduled = &self.order.tags - &self.order.options.tags;
        schedule::series_after(&past, self.context.config, &scheduled, self.order.started)
    }

    fn commit(
        &self,
        manifest: &mut Manifest,
        made: Made,
    ) -> std::result::Result<BackupReport, Failed> {
        let storage = &**self.context.storage;
        if let Err(error) = publish(storage, &made.manifest) {
            // Undoing is only right if the new manifest is certainly not in place.
            return match manifest::read(storage) {
                Ok(found) if found.revisions.first().map(|r| r.uuid) != Some(self.order.uuid) => {
                    Err(Failed::Making(error))
                }
                _ => Err(Failed::Committing(error)),
            };
        }
        *manifest = made.manifest;
        self.tell_unusual(manifest);
        // What is left over does no harm; the next writer does it again.
        if let Err(error) = tidy_up(storage, manifest) {
            self.context.observer.event(&Event::Note(format!("left for the next backup: {error}")));
        }
        Ok(made.report)
    }

    /// Says which blocks of the revision before were found to be rotten.
    fn tell_rotten(&self, news: &Findings, revision: RevisionId) {
        let image = self.context.storage.path(FileName::IMAGE);
        let (listed, more) = damage::listed(news);
        let (blocks, count) = more;
        let more = (count > 0).then(|| (format!("{blocks} more blocks"), blocks));
        let listed = listed.iter().map(|range| (damage::name(*range), range.count));
        for (what, count) in listed.chain(more) {
            let (are, they, them) =
                if count == 1 { ("is", "it is", "it") } else { ("are", "they are", "them") };
            self.context.observer.event(&Event::Finding(format!(
                "{}: {what} of revision {revision} {are} not what was backed up; {they} lost for this revision and \
                 for older ones that share {them}",
                image.display()
            )));
        }
    }

    /// Says that the source is an image in another format, once.
    fn tell_container(&self, manifest: &Manifest, source: &SourceIdentity) {
        let known = manifest.source.as_ref().and_then(|known| known.container.as_ref());
        if let Some(what) = source.container_note().filter(|_| known != source.container.as_ref()) {
            self.context.observer.event(&Event::Finding(what));
        }
    }

    /// Says that far more had changed than usual.
    fn tell_unusual(&self, manifest: &Manifest) {
        let own =
            health::freezes(manifest, &[]).into_iter().find(|f| f.revision == self.order.uuid);
        let Some(alarm) = own else { return };
        let frozen = match self.context.config.monitoring.freeze {
            true => "; nothing expires until 'backy maintenance --confirm'",
            false => "",
        };
        self.context.observer.event(&Event::Finding(format!("{}{frozen}", alarm.message)));
    }
}
