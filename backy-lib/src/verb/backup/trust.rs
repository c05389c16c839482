//! How far a backup believes what its source reports about changes: the mark, its doubts, and what it compares anyway.
//!
//! Any doubt means that everything is read. [`crate::source::tracking`] has the order of the steps.

use super::Context;
use super::make::Making;
use super::scan::{OldImage, RateLimit, Scan, Scanned};
use crate::base::canary::{Bug, planted};
use crate::base::error::{Error, Result};
use crate::base::pipeline::BufferPool;
use crate::base::progress::{self, Event, Observer, Phase};
use crate::base::units::BlockSize;
use crate::format::manifest::{
    BlockRange, BlockRanges, Bookmark, Hints, Manifest, Revision, Unreported, Verified,
};
use crate::image::damage;
use crate::policy::config::TrackingMode;
use crate::policy::rotation;
use crate::source::tracking::newest_mark;
use crate::source::{self, Source, Tracker};

/// Why everything is read, where nothing is wrong with that.
const FIRST: &str = "this is the first backup";
const WANTED: &str = "--read-all asks for it";
const OFF: &str = "[tracking] in backy.toml says mode = \"off\"";

/// How far to believe a source in one backup.
#[derive(Default)]
pub(super) struct Trust {
    /// What the manifest keeps of the mark.
    bookmark: Option<Bookmark>,
    /// The source reports what has changed since the newest revision, whether the backup relies on it or not.
    is_reported: bool,
    /// Whether the backup relies on it.
    pub uses_hints: bool,
    /// Why it does not.
    reason: Option<String>,
    /// Whether the manifest says anything about this: not of a source that never reports changes.
    is_recorded: bool,
    /// The blocks that are compared in any case.
    chosen: BlockRanges,
    compared_bytes: u64,
}

impl Trust {
    /// Whether what the source has reported can be checked, because everything is read.
    pub(super) fn is_checkable(&self) -> bool {
        self.is_reported && !self.uses_hints
    }
}

/// Removes the marks that the newest revision does not need. A source that does not answer is asked again by the next
/// backup.
pub(super) fn settle(
    context: &Context<'_>,
    manifest: &Manifest,
    tracker: Option<&mut (dyn Tracker + '_)>,
) {
    let (Some(tracker), Some(archive)) = (tracker, manifest.archive) else { return };
    let newest = manifest.revisions.first().filter(|newest| newest.bookmark.is_some());
    let keep = newest.and_then(|newest| manifest.mark_of(newest.uuid));
    if let Err(error) = tracker.settle(archive, keep) {
        let left = "old marks at the source are left for the next backup to remove";
        context.observer.event(&Event::Note(format!("{left}: {error}")));
    }
}

impl Making<'_> {
    /// Makes the mark, and decides whether to rely on what the source reports since the newest revision.
    pub(super) fn trust(
        &self,
        manifest: &Manifest,
        (source, observer): (&dyn Source, &dyn Observer),
        old: Option<&OldImage>,
        tracker: Option<&mut (dyn Tracker + '_)>,
    ) -> Result<Trust> {
        let mode = self.context.config.tracking.mode;
        let newest = manifest.revisions.first();
        let size_bytes = source.size_bytes();
        let is_tracked = tracker.is_some();
        let (bookmark, doubt) = match tracker {
            Some(tracker) if mode != TrackingMode::Off => self.mark(manifest, tracker)?,
            Some(tracker) => {
                if let Some(name) = manifest.mark_of(self.order.uuid) {
                    tracker.hold(name)?;
                }
                (None, Some(OFF.to_owned()))
            }
            None => (None, None),
        };
        if source.size_bytes() != size_bytes {
            return Err(source::size_changed(source, size_bytes));
        }
        let reason = match newest {
            None => Some(FIRST.to_owned()),
            Some(_) if mode == TrackingMode::Off => Some(OFF.to_owned()),
            Some(_) => doubt.or_else(|| {
                let silent = "the source cannot report what has changed";
                (!source.gives_hints()).then(|| silent.to_owned())
            }),
        };
        let is_recorded = is_tracked || source.gives_hints();
        let is_reported = reason.is_none();
        let is_wanted = self.order.options.read_all;
        let reason = if is_wanted { reason.or_else(|| Some(WANTED.to_owned())) } else { reason };
        let is_expected = newest.is_none() || is_wanted || mode == TrackingMode::Off;
        let is_pulled = self.order.stamp.is_some();
        if let Some(reason) = reason.as_ref().filter(|_| !is_expected && !is_pulled) {
            self.check_required(source, reason)?;
            if is_recorded {
                self.tell(&format!("everything is read: {reason}"));
            }
        }
        let mut trust = Trust { bookmark, is_reported, is_recorded, ..Trust::default() };
        trust.uses_hints = reason.is_none() || is_pulled;
        trust.reason = reason;
        if let (true, Some(newest), Some(old)) = (is_reported && trust.uses_hints, newest, old) {
            self.compare(newest, (source, observer), (old, manifest.block_size), &mut trust)?;
        }
        Ok(trust)
    }

    /// Makes the mark; returns it, and why it is not known what has changed since the newest revision, if so.
    fn mark(
        &self,
        manifest: &Manifest,
        tracker: &mut (dyn Tracker + '_),
    ) -> Result<(Option<Bookmark>, Option<String>)> {
        let Some(name) = manifest.mark_of(self.order.uuid) else { return Ok((None, None)) };
        let (since, none) = match newest_mark(manifest, tracker.name()) {
            Some(Ok(since)) => (Some(since), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, None),
        };
        let marked = tracker.mark(name, since)?;
        if let Some(note) = tracker.note() {
            self.tell(&note);
        }
        if planted(Bug::SettledFirst) {
            tracker.settle(name.archive, Some(name))?;
        }
        let doubt = none.filter(|_| marked.bookmark.is_some()).or(marked.doubt);
        Ok((marked.bookmark, doubt))
    }

    /// Fails if the config wants no backup that reads everything.
    fn check_required(&self, source: &dyn Source, reason: &str) -> Result<()> {
        if self.context.config.tracking.mode != TrackingMode::Require {
            return Ok(());
        }
        let message = format!(
            "everything would have to be read, and [tracking] in backy.toml says mode = \"require\": {reason}; \
             'backy backup --read-all' reads everything once"
        );
        Err(Error::Source { path: source.place().path.into(), message })
    }

    /// Compares the blocks whose turn it is. If one differs, the report of the source is not used.
    fn compare(
        &self,
        newest: &Revision,
        (source, observer): (&dyn Source, &dyn Observer),
        (old, block_size): (&OldImage, BlockSize),
        trust: &mut Trust,
    ) -> Result<()> {
        let known = rotation::compared(newest, block_size);
        let within = self.context.config.tracking.verify_within;
        let chosen = rotation::due(&known, newest.started, self.order.started, within);
        if chosen.is_empty() {
            return Ok(());
        }
        let bytes = chosen.block_count().saturating_mul(block_size.bytes());
        let counters = progress::begin_work(observer, Phase::CompareSource, bytes)?;
        let buffers = BufferPool::new();
        let scan = Scan::new(block_size, source, Some(old), true, &buffers);
        let rate = self.order.options.limit_rate.map(RateLimit::new);
        let pace = (&*counters, rate.as_ref());
        let compared = scan.compare_unread(&chosen, self.threads(source), pace, observer)?;
        counters.finish();
        trust.compared_bytes = compared.bytes;
        trust.chosen = chosen;
        if let Some(block) = compared.wrong {
            trust.uses_hints = false;
            trust.reason = Some(format!(
                "the source reports no change of {}, but it has changed",
                damage::name(BlockRange::one(block))
            ));
        }
        Ok(())
    }

    /// What the revision records, and which changes the source has not reported.
    pub(super) fn record_trust(
        &self,
        trust: Trust,
        scanned: &Scanned,
        unreported: &BlockRanges,
        before: &Manifest,
        revision: &mut Revision,
    ) -> Option<Unreported> {
        let newest = before.revisions.first();
        let since = newest.filter(|_| trust.uses_hints && trust.is_recorded);
        revision.bookmark = trust.bookmark.filter(|_| unreported.is_empty());
        let block_size = before.block_size;
        let blocks = block_size.count(revision.size_bytes);
        let compared = |newest: &Revision| rotation::compared(newest, block_size);
        match since {
            Some(newest) => {
                let (skipped, read) = (scanned.skipped_bytes, trust.compared_bytes);
                revision.hints = Some(Hints::used(newest.uuid, skipped, read));
                let (old, new) = (newest.size_bytes, revision.size_bytes);
                let same = block_size.same_length_end(old, new).0;
                let now = revision.started;
                revision.compared =
                    rotation::after(compared(newest), &trust.chosen, same, blocks, now);
            }
            None if trust.is_recorded => {
                revision.hints = Some(Hints::not_used(trust.reason.unwrap_or_default()));
            }
            None => {}
        }
        let first = unreported.first()?;
        let newest = newest?;
        let known = compared(newest);
        let touched =
            |range: &&Verified| unreported.within(range.blocks).any(|overlap| overlap.count > 0);
        let since = known.iter().filter(touched).map(|range| range.at).min();
        // Where it is not known, any revision may be wrong.
        let oldest = before.revisions.last().map_or(newest.started, |oldest| oldest.started);
        let since = since.unwrap_or(newest.started).max(oldest);
        let in_doubt = Unreported::new(unreported.to_vec(), since);
        self.context.observer.event(&Event::Finding(format!(
            "the source has not reported a change of {} ({}); this revision is right, because everything was read, but \
             revisions made after {} may hold older content there",
            damage::name(*first),
            count_of(unreported),
            in_doubt.since,
        )));
        Some(in_doubt)
    }

    fn tell(&self, message: &str) {
        self.context.observer.event(&Event::Note(message.to_owned()));
    }
}

/// `1 block`, `17 blocks in all`
fn count_of(blocks: &BlockRanges) -> String {
    match blocks.block_count() {
        1 => "1 block".to_owned(),
        count => format!("{count} blocks in all"),
    }
}
