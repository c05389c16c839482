//! `backup`: makes a revision of the source.
//!
//! The order of writes makes it safe; `doc/safety.md` has the argument, and the sweep tests check it.
//!
//! 1. publish the manifest with `in_progress`
//! 2. make the overlay of the newest revision, sync it and the folder
//! 3. point the next older delta at the overlay, sync
//! 4. per batch: old blocks to the overlay, sync; their entries, sync; only then the new blocks to the image
//! 5. length and zeros of the image, sync; reference counts of the overlay, sync; digest files, sync
//! 6. publish the manifest with the new revision: the commit
//! 7. where the image takes more space than it needs, cut it, make holes of zeros, and publish the manifest without
//!    `in_progress`
//!
//! Where the file system can clone, step 4 writes to a clone of the image, which replaces it between 5 and 6.

mod due;
mod findings;
mod make;
mod plan;
mod prepare;
mod request;
mod room;
mod run;
mod scan;
pub(crate) mod tags;
mod trust;
mod update;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::operation::Context;
use crate::archive::recover::recover;
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::revision::{RevisionId, Tag};
use crate::format::manifest::{Manifest, Revision};
use crate::source::hooks::{Held, NoHooks, Occasion};
use crate::source::{Source, Tracker};

use make::{Failed, Making};
use prepare::prepare;

pub use crate::source::Meeting;
pub use plan::{BackupPlan, pins_scheduled, plan};
pub use request::{BackupOutcome, BackupRequest, BackupSource, OpenSource};
pub(crate) use room::estimate_for;
pub(crate) use scan::RateLimit;

/// How to bring the newest image up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageUpdate {
    /// On a clone if the file system can, otherwise in place.
    #[default]
    Auto,
    /// Always in place.
    InPlace,
}

/// How to check the space that a backup takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpaceCheck {
    /// Do not check it.
    #[default]
    Off,
    /// If there is too little, report how much is missing and what would free it.
    Explain,
    /// Also do not begin the backup if there is less space than it probably needs.
    Require,
}

/// What to back up, when, and how.
#[derive(Debug, Clone, Default)]
pub struct BackupOptions {
    /// Back up whatever the schedule says.
    pub force: bool,
    /// Tags given by hand. If there are any, make a backup whatever the schedule says.
    pub tags: BTreeSet<Tag>,
    /// Tags of the schedule to give as if they were due now. If there are any, make a backup. They expire like any
    /// other scheduled tag.
    pub scheduled: BTreeSet<Tag>,
    /// Threads that digest and compress; `None` for one per core, or fewer beside other jobs.
    pub threads: Option<usize>,
    /// How many other jobs may run on this machine at the same time: then a small source gets fewer threads.
    pub beside: usize,
    /// How to update the image.
    pub update: ImageUpdate,
    /// The most bytes per second to read from the source.
    pub limit_rate: Option<u64>,
    /// How to check the space that the backup takes.
    pub space: SpaceCheck,
    /// Read everything, whatever the source reports about changes.
    pub read_all: bool,
}

/// What a backup did.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BackupReport {
    /// The new revision.
    pub revision: Revision,
    /// Whether the image was updated on a clone.
    pub cloned: bool,
    /// Blocks of the previous revision that turned out to be rotten when they moved to its delta.
    pub bad_blocks: u64,
    /// Blocks that were known to be bad and whose content the source still had: they are right again, in older
    /// revisions as well.
    pub healed_blocks: u64,
}

/// The identity of a revision that was made elsewhere, long ago.
#[derive(Debug, Clone)]
pub(crate) struct Stamp {
    pub uuid: RevisionId,
    pub started: Timestamp,
    /// Those of its tags that were given by hand.
    pub pinned_tags: BTreeSet<Tag>,
    /// Those pinned tags that a schedule had given before.
    pub scheduled_tags: BTreeSet<Tag>,
    /// What the backup must turn out to be, if that is known.
    pub offered: Option<Proof>,
    /// Whether what arrives is kept for the next attempt if this one is interrupted.
    pub spools: bool,
}

/// What proves that a backup is the revision that its source says it is.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    /// The digest of the revision.
    pub digest: Digest,
    /// What the entries of its table give, those of blocks that were lost on the way included.
    pub table_digest: Digest,
}

/// A backup to make.
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
        let known = stamp.as_ref();
        let uuid = known.map_or_else(|| RevisionId::new(now), |stamp| stamp.uuid);
        let started = known.map_or(now, |stamp| stamp.started);
        Order { options, tags, stamp, started, uuid }
    }

    /// Whether what arrives is kept for the next attempt.
    fn spools(&self) -> bool {
        self.stamp.as_ref().is_some_and(|stamp| stamp.spools)
    }
}

/// Makes a revision of an open source, without hooks; with `stamp`, one that keeps its name and time. The archive has
/// been recovered; `manifest` is the one on disk and is kept up to date.
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
    let (report, _) = backup_held(context, manifest, held, None, order)?;
    Ok(report)
}

/// The same for a source that is released as soon as it has been read. An error of releasing it comes besides the
/// report, because the revision exists all the same.
fn backup_held(
    context: &Context<'_>,
    manifest: &mut Manifest,
    held: Held<'_>,
    mut tracker: Option<Box<dyn Tracker + '_>>,
    order: Order<'_>,
) -> Result<(BackupReport, Option<Error>)> {
    let prepared = prepare(context, manifest, held.source(), tracker.is_some(), &order);
    let (held, (old, estimate)) = held.checked(prepared)?;
    let making = Making { context, order, clock: Instant::now(), read_bytes: Cell::default() };
    let error = match making.make(manifest, held, old, tracker.as_deref_mut()) {
        Ok((made, untold)) => match making.commit(manifest, made) {
            Ok(report) => {
                trust::settle(context, manifest, tracker.as_deref_mut());
                return Ok((report, untold));
            }
            Err(failed) => failed,
        },
        Err(failed) => failed,
    };
    let error = match error {
        Failed::Making(error) => error,
        Failed::Committing(error) => return Err(error),
    };
    let recovered = recover(context.storage, manifest, context.observer);
    if recovered.is_ok() {
        trust::settle(context, manifest, tracker.as_deref_mut());
    }
    match recovered {
        Ok(()) => Err(match estimate {
            Some(estimate) => {
                room::explain(context, manifest, &estimate, making.read_bytes.get(), error)
            }
            None => error,
        }),
        Err(second) => Err(Error::UndoFailed { first: error.into(), second: second.into() }),
    }
}
