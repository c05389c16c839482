//! `pull`: takes over revisions of another archive, oldest first, each with its name, times and tags.
//!
//! Each revision is an ordinary backup whose source is the other archive: the same order of writes, space check and
//! recovery. `doc/decisions/35-copies.md` has the reasons.

mod plan;
mod request;
mod source;
mod table;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::ArchiveWriter;
use crate::archive::operation::{Context, Request};
use crate::archive::reserve;
use crate::base::clock::Clock;
use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::base::progress::{self, Event, Observer};
use crate::base::revision::RevisionId;
use crate::format::manifest::{Manifest, Revision};
use crate::origin::{Listing, Offered, Origin};
use crate::policy::select::RevisionsSpec;
use crate::storage::Storage;
use crate::verb::backup::{self, BackupOptions, ImageUpdate, Proof, SpaceCheck, Stamp};

use plan::{Sides, plan};
use source::{Figures, PulledSource, Pulling};

pub use plan::{LeftOut, PullPlan, Wanted};
pub use request::PullRequest;

/// What to pull, and how.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Which revisions of the origin; `None` for all that are newer than those here and that the schedule here keeps.
    pub revisions: Option<RevisionsSpec>,
    /// The most bytes of blocks per second to read from the origin.
    pub limit_rate: Option<u64>,
    /// Threads that digest and compress; `None` for one per core.
    pub threads: Option<usize>,
    /// How to update the image.
    pub update: ImageUpdate,
    /// How to check the space that each revision takes.
    pub space: SpaceCheck,
}

/// What a pull did.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PullReport {
    /// The origin.
    pub origin: String,
    /// The revisions that came over, oldest first.
    pub pulled: Vec<Pulled>,
    /// How many revisions of the origin this archive had already.
    pub present: usize,
    /// Revisions that this archive does not have, and that were not pulled, oldest first.
    pub left_out: Vec<LeftOut>,
    /// What else somebody should know, as sentences.
    pub notes: Vec<String>,
}

/// A revision that came over.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Pulled {
    /// Its name.
    pub uuid: RevisionId,
    /// When its backup began.
    pub started: Timestamp,
    /// Exact size in bytes.
    pub size_bytes: u64,
    /// Bytes of blocks that the origin sent.
    pub received_bytes: u64,
    /// How many more bytes the files of this archive take on disk than before.
    pub stored_bytes: i64,
    /// Time that it took.
    pub seconds: f64,
    /// Extents that the origin has lost: nobody can read them here either.
    pub damaged: Vec<Extent>,
}

impl PullReport {
    /// Whether nothing is missing: every revision that was asked for is here, and every block of those that came over.
    pub fn is_complete(&self) -> bool {
        let is_missing = self.left_out.iter().any(|left_out| left_out.asked_for);
        !is_missing && self.pulled.iter().all(|pulled| pulled.damaged.is_empty())
    }
}

impl ArchiveWriter {
    /// Takes over revisions of another archive, oldest first. A pull that was interrupted is continued by the next.
    ///
    /// # Errors
    /// Those of the origin; the revisions that came over until then stay. [`Error::Source`] if what comes is not what
    /// was offered; [`Error::Specification`] if the origin has blocks of another size.
    pub fn pull(
        &mut self,
        origin: &mut dyn Origin,
        options: &PullOptions,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<PullReport> {
        self.archive().check_no_undo()?;
        self.operation(Pull { origin, options }, clock, observer)
    }
}

struct Pull<'a> {
    origin: &'a mut dyn Origin,
    options: &'a PullOptions,
}

impl Request for Pull<'_> {
    const NAME: &'static str = "pull";
    type Plan = ();
    type Report = PullReport;

    fn threads(&self) -> Option<usize> {
        self.options.threads
    }

    fn plan(&self, _: &mut ArchiveWriter, _: &Context<'_>) -> Result<()> {
        Ok(())
    }

    fn run(
        self,
        writer: &mut ArchiveWriter,
        context: &Context<'_>,
        (): (),
        _: Timestamp,
    ) -> Result<PullReport> {
        pull(context, writer.manifest_mut(), self.origin, self.options)
    }

    fn finish(storage: &dyn Storage, done: &Result<PullReport>) {
        if done.as_ref().is_ok_and(|report| !report.pulled.is_empty()) {
            reserve::keep(storage);
        }
    }
}

/// Pulls. The archive has been recovered; `manifest` is the one on disk and is kept up to date.
fn pull(
    context: &Context<'_>,
    manifest: &mut Manifest,
    origin: &mut dyn Origin,
    options: &PullOptions,
) -> Result<PullReport> {
    let name = origin.name();
    let mut listing = origin.listing()?;
    let sides = Sides {
        origin: &name,
        listing: &listing,
        manifest,
        schedule: &context.config.schedule,
        now: context.clock.now(),
    };
    let PullPlan { pull, present, left_out, notes, .. } = plan(&sides, options)?;
    for note in &notes {
        context.observer.event(&Event::Finding(note.clone()));
    }
    let mut report = PullReport { origin: name, pulled: Vec::new(), present, left_out, notes };
    for wanted in pull {
        progress::check(context.observer)?;
        let offered = listing.revisions.iter().find(|offered| offered.uuid == wanted.uuid);
        let Some(offered) = offered.cloned() else { continue };
        match pull_one(context, manifest, origin, &mut listing, &offered, options)? {
            Some(pulled) => report.pulled.push(pulled),
            None => {
                let why = "the origin has deleted it meanwhile".to_owned();
                report.left_out.push(LeftOut::new(&offered, why, options.revisions.is_some()));
            }
        }
    }
    Ok(report)
}

/// Pulls one revision; `None` if the origin has deleted it.
fn pull_one(
    context: &Context<'_>,
    manifest: &mut Manifest,
    origin: &mut dyn Origin,
    listing: &mut Listing,
    offered: &Offered,
    options: &PullOptions,
) -> Result<Option<Pulled>> {
    loop {
        let since = common(manifest, listing);
        match attempt(context, manifest, origin, offered, since, options) {
            Err(Error::NoSuchRevision { message }) => {
                let now = origin.listing()?;
                let has = |id: RevisionId| now.revisions.iter().any(|offered| offered.uuid == id);
                let is_gone = !has(offered.uuid);
                // Without the revision that it was compared with, the whole table comes over.
                if !is_gone && since.is_none_or(has) {
                    return Err(Error::NoSuchRevision { message });
                }
                *listing = now;
                if is_gone {
                    return Ok(None);
                }
            }
            done => return done.map(Some),
        }
    }
}

/// The newest revision here, if the origin has it, too, and the same table of it.
fn common(manifest: &Manifest, listing: &Listing) -> Option<RevisionId> {
    let newest = manifest.revisions.first()?;
    let same = |offered: &&Offered| {
        offered.uuid == newest.uuid
            && offered.digest == newest.digest
            && offered.size_bytes == newest.size_bytes
            && offered.expected_digest() == newest.expected_digest()
    };
    listing.revisions.iter().find(same).map(|offered| offered.uuid)
}

fn attempt(
    context: &Context<'_>,
    manifest: &mut Manifest,
    origin: &mut dyn Origin,
    offered: &Offered,
    since: Option<RevisionId>,
    options: &PullOptions,
) -> Result<Pulled> {
    let name = origin.name();
    let newest: Option<Revision> = manifest.revisions.first().cloned();
    let pulling = Pulling {
        origin: &name,
        revision: offered,
        since,
        newest: newest.as_ref(),
        block_size: manifest.block_size,
        storage: &**context.storage,
        observer: context.observer,
    };
    let source = PulledSource::new(pulling, origin);
    let stamp = Stamp {
        uuid: offered.uuid,
        started: offered.started,
        pinned_tags: offered.pinned_tags.clone(),
        scheduled_tags: offered.scheduled_tags.clone(),
        offered: Some(Proof { digest: offered.digest, table_digest: offered.expected_digest() }),
    };
    let options = BackupOptions {
        update: options.update,
        limit_rate: options.limit_rate,
        space: options.space,
        ..BackupOptions::default()
    };
    let tags = offered.tags.clone();
    let made = backup::backup(context, manifest, &source, &options, tags, Some(stamp))?;
    let Figures { received_bytes, lost } = source.figures();
    let extent = |range: &crate::format::manifest::BlockRange| {
        let size = manifest.block_size;
        let end = size.offset(range.end()).min(offered.size_bytes);
        Extent::between(size.offset(range.first), end)
    };
    let damaged: Vec<Extent> = lost.iter().map(extent).collect();
    if let Some(first) = damaged.first() {
        context.observer.event(&Event::Finding(format!(
            "{name}: {} bytes of revision {} are lost there, the first at offset {}; they are marked as lost here, too",
            damaged.iter().map(|extent| extent.len).sum::<u64>(),
            offered.uuid,
            first.offset
        )));
    }
    let statistics = &made.revision.statistics;
    Ok(Pulled {
        uuid: offered.uuid,
        started: offered.started,
        size_bytes: offered.size_bytes,
        received_bytes,
        stored_bytes: statistics.stored_bytes,
        seconds: statistics.seconds,
        damaged,
    })
}
