//! A pull from beginning to end, as a writer makes it.

use std::thread;

use super::fetcher::Pulling;
use super::plan::{LeftOut, PullPlan, Sides, plan};
use super::source::{Figures, PulledSource};
use super::{PullOptions, PullReport, Pulled};
use crate::archive::operation::Context;
use crate::archive::{left_overs, reserve};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extent::Extent;
use crate::base::progress::{self, Event};
use crate::base::revision::RevisionId;
use crate::format::manifest::{BlockRanges, Manifest, Revision};
use crate::origin::{Listing, Offered, Origin};
use crate::storage::FileName;
use crate::verb::backup::{self, BackupOptions, BackupReport, Proof, Stamp};

/// A pull into an archive that has been recovered; `manifest` is the one on disk and is kept up to date.
pub(super) struct Puller<'a> {
    pub context: &'a Context<'a>,
    pub manifest: &'a mut Manifest,
    pub origin: &'a mut dyn Origin,
    pub options: &'a PullOptions,
}

/// How to pull a revision.
#[derive(Clone, Copy)]
struct Way {
    /// The revision that both sides have.
    since: Option<RevisionId>,
    /// Whether to keep what arrives for the next attempt.
    spools: bool,
}

impl Puller<'_> {
    pub(super) fn run(mut self) -> Result<PullReport> {
        let (name, mut listing) = (self.origin.name(), self.origin.listing()?);
        let sides = Sides {
            origin: &name,
            listing: &listing,
            manifest: self.manifest,
            schedule: &self.context.config.schedule,
            now: self.context.clock.now(),
        };
        let PullPlan { pull, present, left_out, notes, .. } = plan(&sides, self.options)?;
        for note in &notes {
            self.context.observer.event(&Event::Finding(note.clone()));
        }
        let mut report = PullReport { origin: name, pulled: Vec::new(), present, left_out, notes };
        for wanted in pull {
            progress::check(self.context.observer)?;
            let offered = listing.revisions.iter().find(|offered| offered.uuid == wanted.uuid);
            let pulled = match offered.cloned() {
                Some(offered) => self.pull(&offered, &mut listing)?,
                None => None,
            };
            match pulled {
                Some(pulled) => report.pulled.push(pulled),
                None => report.left_out.push(LeftOut {
                    uuid: wanted.uuid,
                    started: wanted.started,
                    why: "the origin has deleted it meanwhile".to_owned(),
                    requested: self.options.revisions.is_some(),
                }),
            }
        }
        self.forget_spool()?;
        Ok(report)
    }

    /// Pulls one revision; `None` if the origin has deleted it.
    fn pull(&mut self, offered: &Offered, listing: &mut Listing) -> Result<Option<Pulled>> {
        let mut way = Way { since: None, spools: true };
        loop {
            way.since = self.common(listing);
            let error = match self.attempt(offered, way) {
                Ok(pulled) => return Ok(Some(pulled)),
                Err(error) => error,
            };
            if error.kind() == ErrorKind::NoSpace && way.spools && self.has_spool()? {
                // Perhaps it fits without what has arrived, which is only kept for the next attempt.
                left_overs::delete_spool(&**self.context.storage, self.manifest)?;
                way.spools = false;
                continue;
            }
            if !matches!(error, Error::NoSuchRevision { .. }) {
                return Err(error);
            }
            *listing = self.origin.listing()?;
            let has = |id: RevisionId| listing.revisions.iter().any(|known| known.uuid == id);
            if !has(offered.uuid) {
                return Ok(None);
            }
            // Without the revision that it was compared with, the origin sends the whole table.
            if way.since.is_none_or(has) {
                return Err(error);
            }
        }
    }

    /// The newest revision here, if the origin has it, too, and the same table of it.
    fn common(&self, listing: &Listing) -> Option<RevisionId> {
        let newest = self.manifest.revisions.first()?;
        let same = |offered: &&Offered| {
            offered.uuid == newest.uuid
                && offered.digest == newest.digest
                && offered.size_bytes == newest.size_bytes
                && offered.expected_digest() == newest.expected_digest()
        };
        listing.revisions.iter().find(same).map(|offered| offered.uuid)
    }

    fn attempt(&mut self, offered: &Offered, way: Way) -> Result<Pulled> {
        let name = self.origin.name();
        let newest: Option<Revision> = self.manifest.revisions.first().cloned();
        let pulling = Pulling {
            origin: &name,
            revision: offered,
            since: way.since,
            newest: newest.as_ref(),
            block_size: self.manifest.block_size,
            spools: way.spools,
            storage: &**self.context.storage,
            observer: self.context.observer,
        };
        let stamp = Stamp {
            uuid: offered.uuid,
            started: offered.started,
            pinned_tags: offered.pinned_tags.clone(),
            scheduled_tags: offered.scheduled_tags.clone(),
            offered: Some(Proof {
                digest: offered.digest,
                table_digest: offered.expected_digest(),
            }),
            spools: way.spools,
        };
        let options = BackupOptions {
            update: self.options.update,
            limit_rate: self.options.limit_rate,
            space: self.options.space,
            ..BackupOptions::default()
        };
        let (context, manifest) = (self.context, &mut *self.manifest);
        let back_up = |source: &PulledSource<'_>| {
            let tags = offered.tags.clone();
            backup::backup(context, manifest, source, &options, tags, Some(stamp))
        };
        let origin = &mut *self.origin;
        let (made, figures) = match context.threads {
            Some(1) => {
                let source = PulledSource::asking(pulling, origin);
                (back_up(&source), source.figures())
            }
            _ => fed(pulling, origin, back_up)?,
        };
        Ok(self.describe(offered, &made?, figures, &name))
    }

    fn describe(
        &self,
        offered: &Offered,
        made: &BackupReport,
        figures: Figures,
        name: &str,
    ) -> Pulled {
        let damaged = self.extents(&figures.lost, offered.size_bytes);
        if let Some(first) = damaged.first() {
            let bytes: u64 = damaged.iter().map(|extent| extent.len).sum();
            self.context.observer.event(&Event::Finding(format!(
                "{name}: {bytes} bytes of revision {} are lost there, the first at offset {}; they are marked as lost \
                 here, too",
                offered.uuid, first.offset
            )));
        }
        Pulled {
            uuid: offered.uuid,
            started: offered.started,
            size_bytes: offered.size_bytes,
            received_bytes: figures.received_bytes,
            reused_bytes: figures.reused_bytes,
            stored_bytes: made.revision.statistics.stored_bytes,
            seconds: made.revision.statistics.seconds,
            damaged,
        }
    }

    fn extents(&self, blocks: &BlockRanges, size_bytes: u64) -> Vec<Extent> {
        let size = self.manifest.block_size;
        let end = |block| size.offset(block).min(size_bytes);
        blocks.iter().map(|range| Extent::between(end(range.first), end(range.end()))).collect()
    }

    /// Whether there is a file with what has arrived, beside the image, and nothing that has to be undone first.
    fn has_spool(&self) -> Result<bool> {
        let Manifest { revisions, in_progress, .. } = &*self.manifest;
        let is_possible = !revisions.is_empty() && in_progress.is_none();
        Ok(is_possible && self.context.storage.list()?.contains(&FileName::Spool))
    }

    /// The revisions are complete: nobody needs what had arrived of them.
    fn forget_spool(&mut self) -> Result<()> {
        if self.manifest.spool.is_none() || self.manifest.has_spool() {
            return Ok(());
        }
        let mut after = self.manifest.clone();
        left_overs::tidy(&**self.context.storage, &mut after)?;
        reserve::publish(&**self.context.storage, &after)?;
        *self.manifest = after;
        Ok(())
    }
}

/// Backs up from a source that another thread feeds.
fn fed<T>(
    pulling: Pulling<'_>,
    origin: &mut dyn Origin,
    back_up: impl FnOnce(&PulledSource<'_>) -> Result<T>,
) -> Result<(Result<T>, Figures)> {
    let source = PulledSource::fed(pulling);
    let made = thread::scope(|scope| {
        let feed = || source.feed(origin);
        thread::Builder::new()
            .spawn_scoped(scope, feed)
            .map_err(Error::io("backy", "start a thread"))?;
        let made = back_up(&source);
        source.end();
        Ok::<_, Error>(made)
    })?;
    Ok((made, source.figures()))
}
