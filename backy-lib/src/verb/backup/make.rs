//! Makes the revision: the files that it needs, the blocks that have changed, and the manifest that commits it.

use std::cell::Cell;
use std::time::Instant;

use super::trust::Trust;
use super::{BackupReport, Context, Order, RateLimit, scan, update};
use crate::archive::left_overs::sweep;
use crate::archive::moment;
use crate::archive::recover::tidy;
use crate::base::canary::{Bug, planted};
use crate::base::error::{Error, Result};
use crate::base::pipeline::{self, BufferPool};
use crate::base::progress::{self, Event, Observer, Phase};
use crate::base::units::BlockIndex;
use crate::format::digests::DigestsHeader;
use crate::format::manifest::{
    BlockRange, BlockRanges, InProgress, Manifest, Operation, Ranges, Revision, Sameness, Series,
    SourceIdentity, Statistics,
};
use crate::format::qcow2::Backing;
use crate::image::delta;
use crate::policy::health;
use crate::policy::schedule::{self, Past};
use crate::source::hooks::Held;
use crate::source::{self, Source, Tracker, libvirt, qmp, rbd, thin};
use crate::storage::manifest::{self, publish};
use crate::storage::{DigestsKind, FileName, Storage};

/// The most ranges of changes that the source did not report to list separately.
const MAX_UNREPORTED_RANGES: usize = 64;

/// The most ranges of written blocks to record separately.
const MAX_WRITTEN_RANGES: usize = 1024;

/// Beside other jobs, a source gets a thread for each so many bytes. Another thread costs as much as some 16 MiB do.
const WORTH_A_THREAD: u64 = 256 << 20;

pub(super) enum Failed {
    /// Before the commit: everything has to be undone.
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
pub(super) struct Making<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) order: Order<'a>,
    pub(super) clock: Instant,
    /// How much of the source has been read, and its size.
    pub(super) read_bytes: Cell<(u64, u64)>,
}

/// A source as it was, for use after it has been released.
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
pub(super) struct Made {
    manifest: Manifest,
    report: BackupReport,
}

/// What to report about a source besides how much has changed.
fn observed(manifest: &Manifest, source: &SourceIdentity, fate: scan::Fate) -> health::Observed {
    let scan::Fate { had_bytes, replaced_bytes, lost_bytes } = fate;
    let known = manifest.source.as_ref().filter(|known| known.path == source.path);
    let other_source = match known.map_or(Sameness::Same, |known| known.compare(source)) {
        Sameness::Other(how) => Some(how),
        // The same data in another place still has most of the previous content.
        Sameness::Doubtful(how) => Some(how).filter(|_| replaced_bytes > had_bytes / 2),
        Sameness::Same => None,
    };
    let old_size_bytes = manifest.revisions.first().map_or(0, |newest| newest.size_bytes);
    let is_device = source.kind == "block device";
    let unreported = None;
    health::Observed { had_bytes, lost_bytes, other_source, old_size_bytes, is_device, unreported }
}

impl Making<'_> {
    /// Everything up to the commit. Also returns the error of releasing the source.
    pub(super) fn make(
        &self,
        manifest: &Manifest,
        held: Held<'_>,
        old: Option<scan::OldImage>,
        tracker: Option<&mut (dyn Tracker + '_)>,
    ) -> std::result::Result<(Made, Option<Error>), Failed> {
        let reading = (held.source(), &held.observer() as &dyn Observer);
        let trusted = self.trust(manifest, reading, old.as_ref(), tracker);
        let (held, trust) = held.checked(trusted)?;
        let source = Described::of(held.source());
        let begun = self
            .expects_changes(manifest, &held, (old.as_ref(), &trust))
            .and_then(|expects| self.begin(manifest, &source, old.as_ref(), expects));
        let (held, (mut update, stored_before)) = held.checked(begun)?;
        let scanned = self.scan(manifest, &held, (old.as_ref(), &trust), &mut update);
        let ((scanned, unreported, written), untold) = held.finish(scanned)?;
        let seen = (trust, unreported);
        let mut made = self.finish(manifest, source, update, (scanned, seen), stored_before)?;
        if let Some(newest) = made.manifest.revisions.first_mut() {
            newest.note_rewritten(written);
            made.report.revision = newest.clone();
        }
        Ok((made, untold))
    }

    /// Whether there may be anything to write to the image.
    fn expects_changes(
        &self,
        manifest: &Manifest,
        held: &Held<'_>,
        (old, trust): (Option<&scan::OldImage>, &Trust),
    ) -> Result<bool> {
        let (source, buffers) = (held.source(), BufferPool::new());
        let scan = scan::Scan::new(manifest.block_size, source, old, trust.uses_hints, &buffers);
        scan.expects_changes(&held.observer())
    }

    /// Makes the files that the revision needs; returns what the image takes on disk before it is changed, if known.
    fn begin(
        &self,
        manifest: &Manifest,
        source: &Described,
        old: Option<&scan::OldImage>,
        expects_changes: bool,
    ) -> Result<(update::Update<'_>, Option<u64>)> {
        let storage = self.context.storage;
        let newest = manifest.revisions.first();
        let stored_before = old.map_or(Ok(Some(0)), scan::OldImage::taken_bytes)?;
        let update = update::Update::begin(
            &**storage,
            newest,
            manifest.block_size,
            source.size_bytes,
            self.order.uuid,
            (self.order.options.update, expects_changes),
            self.order.spools(),
        )?;
        if let Some(newest) = newest
            && let Some(older) = manifest.revisions.get(1).filter(|r| !r.is_standalone())
        {
            match delta::rebase(&**storage, older.uuid, Some(Backing::delta(newest.uuid))) {
                // The checks before have reported it; it is lost with or without this backup.
                Err(error) if error.is_damage() => {}
                done => done?,
            }
        }
        Ok((update, stored_before))
    }

    /// Reads the source to its end and stores what has changed; returns which blocks of the image have changed.
    fn scan(
        &self,
        manifest: &Manifest,
        held: &Held<'_>,
        (old, trust): (Option<&scan::OldImage>, &Trust),
        update: &mut update::Update<'_>,
    ) -> Result<(scan::Scanned, BlockRanges, Vec<BlockRange>)> {
        let (source, observer) = (held.source(), held.observer());
        let level = self.context.config.compression_level;
        let workers = scan::workers(self.threads(source), level)?;
        let counters = progress::begin_work(&observer, Phase::Backup, source.size_bytes())?;
        let buffers = BufferPool::new();
        let scan = scan::Scan::new(manifest.block_size, source, old, trust.uses_hints, &buffers);
        let rate = self.order.options.limit_rate.map(RateLimit::new);
        let mut chunks = scan.chunks(&observer);
        let mut tally = scan::Tally::new(&scan);
        let mut written = Ranges::with_limit(MAX_WRITTEN_RANGES);
        let mut unreported = Ranges::with_limit(MAX_UNREPORTED_RANGES);
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
                if trust.is_checkable() {
                    scan.for_each_unreported(&outcome, |range| unreported.push(range))?;
                }
                update.take(outcome, &buffers)
            },
        );
        self.read_bytes.set((counters.done_bytes(), counters.total_bytes()));
        read?;
        let scanned = tally.finish(&**self.context.storage, manifest.revisions.first())?;
        source::check_size(source)?;
        progress::check(&observer)?;
        Ok((scanned, unreported.finish().into_iter().collect(), written.finish()))
    }

    /// How many threads work on a source.
    pub(super) fn threads(&self, source: &dyn Source) -> usize {
        if let Some(threads) = self.context.threads {
            return pipeline::threads(Some(threads));
        }
        let (cores, beside) = (pipeline::threads(None), self.order.options.beside);
        let threads = worthwhile_threads(cores, beside, source.size_bytes());
        // Nothing reads ahead on a device or a server: while one thread reads, another one digests, even on one core.
        let waited_for = [
            "block device",
            "NBD export",
            "qcow2 image",
            libvirt::KIND,
            qmp::KIND,
            rbd::KIND,
            thin::KIND,
        ];
        if waited_for.contains(&&*source.place().kind) { threads.max(2) } else { threads }
    }

    fn finish(
        &self,
        manifest: &Manifest,
        source: Described,
        update: update::Update<'_>,
        (scanned, (trust, unreported)): (scan::Scanned, (Trust, BlockRanges)),
        stored_before: Option<u64>,
    ) -> Result<Made> {
        self.check_offered(&source, &scanned)?;
        let mut after = manifest.clone();
        after.in_progress = None;
        let mut seen = observed(manifest, &source.identity, scanned.fate);
        self.report_container(manifest, &source.identity);
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
        match &self.order.stamp {
            Some(stamp) => {
                revision.pinned_tags = stamp.pinned_tags.clone();
                revision.scheduled_tags = stamp.scheduled_tags.clone();
            }
            None => revision.pinned_tags = self.order.options.tags.clone(),
        }
        if let Some(offered) = self.order.stamp.as_ref().and_then(|stamp| stamp.offered.as_ref()) {
            revision.digest = offered.digest;
            revision.table_digest = Some(scanned.digest).filter(|found| *found != offered.digest);
        }
        seen.unreported = self.record_trust(trust, &scanned, &unreported, manifest, &mut revision);
        revision.findings = scanned.findings;
        let block_size = manifest.block_size;
        let header = |revision: &Revision, kind| DigestsHeader::new(kind, revision, block_size);
        let old_header =
            manifest.revisions.first().map(|newest| header(newest, DigestsKind::Delta));
        let finished =
            update.finish(&header(&revision, DigestsKind::Image), old_header.as_ref())?;
        revision.statistics.stored_bytes =
            finished.stored_bytes(stored_before, scanned.growth_bytes);
        revision.statistics.seconds = self.clock.elapsed().as_secs_f64();
        // It has another name by now, and the next file of that name is not ours.
        after.removable.retain(|name| *name != FileName::STAGED_IMAGE);
        after.image_file = moment::image_file(&**self.context.storage)?;
        let mut found_bad = 0;
        if let Some(newest) = after.revisions.first_mut() {
            after.removable.push(newest.digests_file());
            // The revision's own file is now the delta; findings that did not move there belong to the new revision.
            let known = newest.findings.clone();
            revision.findings.inherit(&known);
            let moved = finished.bad_blocks.iter();
            let moved = moved.map(|&first| BlockRange { first, count: 1 });
            let all = BlockRange { first: BlockIndex(0), count: u64::MAX };
            newest.findings.replace(&[all], moved);
            newest.compared.clear();
            let mut news = newest.findings.clone();
            news.clear_all(&known.bad_blocks);
            found_bad = news.bad_block_count();
            self.report_rotten(&news, newest.uuid);
        }
        // An imported revision was due long ago, if ever.
        if self.order.stamp.is_none() {
            after.series = self.series(manifest);
        }
        after.push_newest(revision.clone());
        if let (false, Some(before)) = (finished.is_tidy, after.revisions.get(1)) {
            // Its delta is complete; the remaining steps concern the image that it reads through to.
            let (operation, started) = (Operation::Merge, self.order.started);
            after.in_progress = Some(InProgress { operation, revision: before.uuid, started });
        }
        let factor = self.context.config.monitoring.change_factor;
        // An imported revision changed long ago.
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

    /// Checks that the source has given what it offered: its digest, over all entries.
    fn check_offered(&self, source: &Described, scanned: &scan::Scanned) -> Result<()> {
        let stamp = self.order.stamp.as_ref();
        let Some(offered) = stamp.and_then(|stamp| stamp.offered.as_ref()) else { return Ok(()) };
        let (found, expected) = (scanned.claimed_digest, offered.table_digest);
        if found == expected || planted(Bug::UncheckedCopy) {
            return Ok(());
        }
        let message = format!(
            "the blocks of revision {} do not give its digest: found {found}, expected {expected}; this revision was \
             not stored; pull again, and if that does not help, run 'backy scrub' there",
            self.order.uuid
        );
        Err(Error::Source { path: source.identity.path.clone().into(), message })
    }

    /// When the series of scheduled tags began, with this revision.
    fn series(&self, manifest: &Manifest) -> Vec<Series> {
        let past = Past::of_manifest(manifest, self.context.clock.zone());
        let scheduled = &self.order.tags - &self.order.options.tags;
        schedule::series_after(&past, self.context.config, &scheduled, self.order.started)
    }

    pub(super) fn commit(
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
        self.report_unusual(manifest);
        // A failure here does no harm; the next writer tries again.
        if let Err(error) = tidy_up(storage, manifest) {
            self.context.observer.event(&Event::Note(format!("left for the next backup: {error}")));
        }
        Ok(made.report)
    }
}

/// Frees the space that a committed backup does not need, and deletes the files.
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

/// How many threads to work on so many bytes with, beside other jobs. A thread that another job would have used
/// costs more than it saves where there is little to do.
fn worthwhile_threads(cores: usize, beside: usize, bytes: u64) -> usize {
    if beside == 0 {
        return cores;
    }
    let share = cores.div_ceil(beside.saturating_add(1));
    usize::try_from(bytes / WORTH_A_THREAD).unwrap_or(cores).clamp(share, cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A large source gets all cores, so that it does not hold up the end of a run; a small one its share of them.
    #[test]
    fn threads_have_to_pay_beside_other_jobs() {
        let large = 100 * WORTH_A_THREAD;
        for (cores, beside, bytes, expected) in [
            (8, 0, 0, 8),
            (8, 0, large, 8),
            (8, 1, 0, 4),
            (8, 3, WORTH_A_THREAD, 2),
            (8, 3, 3 * WORTH_A_THREAD, 3),
            (8, 3, large, 8),
            (2, 3, WORTH_A_THREAD, 1),
            (2, 3, 2 * WORTH_A_THREAD, 2),
            (1, usize::MAX, u64::MAX, 1),
        ] {
            let found = worthwhile_threads(cores, beside, bytes);
            assert_eq!(found, expected, "{cores} cores, {beside} others, {bytes} bytes");
        }
    }
}
