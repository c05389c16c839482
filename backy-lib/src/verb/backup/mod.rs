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
//! 7. where the image takes more room than it needs, cut it, make holes of zeros, and publish the manifest without
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
mod update;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::operation::Context;
use crate::archive::recover::recover;
use crate::base::error::{Error, Result};
use crate::base::revision::{RevisionId, Tag};
use crate::format::manifest::{Manifest, Revision};
use crate::source::Source;
use crate::source::hooks::{Held, NoHooks, Occasion};

use make::{Failed, Making};
use prepare::prepare;

pub use plan::{BackupPlan, pins_scheduled, plan};
pub use request::{BackupOutcome, BackupRequest, BackupSource, OpenSource};
pub(crate) use room::estimate_for;
pub(crate) use scan::RateLimit;

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
    /// Blocks that were known to be bad and that the source still had: they are right again, in older revisions as
    /// well.
    pub healed_blocks: u64,
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

/// Makes a revision of a source that is open, without hooks; with `stamp` one that keeps its name and time. The
/// archive has been recovered; `manifest` is the one on disk and is kept up to date.
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

/// The same of a source that is let go of as soon as it has been read. What is wrong with that is given beside the
/// report: the revision is there all the same.
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
