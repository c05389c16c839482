//! `pull`: takes over revisions of another archive, oldest first, each with its name, times and tags.
//!
//! Each revision is an ordinary backup whose source is the other archive: the same order of writes, space check and
//! recovery. `doc/decisions/35-copies.md` has the reasons.

mod configured;
mod due;
mod fetcher;
mod plan;
mod request;
mod run;
mod source;
mod spool;
mod table;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::ArchiveWriter;
use crate::archive::operation::{Context, Request};
use crate::archive::reserve;
use crate::base::clock::Clock;
use crate::base::error::Result;
use crate::base::extent::Extent;
use crate::base::progress::Observer;
use crate::base::revision::RevisionId;
use crate::origin::Origin;
use crate::policy::select::RevisionsSpec;
use crate::storage::Storage;
use crate::verb::backup::{ImageUpdate, SpaceCheck};

use run::Puller;

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
    /// The revisions that were pulled, oldest first.
    pub pulled: Vec<Pulled>,
    /// How many revisions of the origin this archive had already.
    pub present: usize,
    /// Revisions that this archive does not have, and that were not pulled, oldest first.
    pub left_out: Vec<LeftOut>,
    /// What else somebody should know, as sentences.
    pub notes: Vec<String>,
}

/// A revision that was pulled.
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
    /// Bytes of blocks that had arrived with an earlier pull, which was interrupted.
    pub reused_bytes: u64,
    /// How many more bytes the files of this archive take on disk than before.
    pub stored_bytes: i64,
    /// Time that it took.
    pub seconds: f64,
    /// Extents that the origin has lost: nobody can read them here either.
    pub damaged: Vec<Extent>,
}

impl PullReport {
    /// Whether nothing is missing: every requested revision is here, and every block of those that were pulled.
    pub fn is_complete(&self) -> bool {
        let is_missing = self.left_out.iter().any(|left_out| left_out.requested);
        !is_missing && self.pulled.iter().all(|pulled| pulled.damaged.is_empty())
    }
}

impl ArchiveWriter {
    /// Takes over revisions of another archive, oldest first. A pull that was interrupted is continued by the next.
    ///
    /// # Errors
    /// Those of the origin; the revisions that were pulled until then stay. [`Error::Source`](crate::Error::Source) if
    /// what comes is not what was offered; [`Error::Specification`](crate::Error::Specification) if the origin has
    /// blocks of another size.
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
        let Pull { origin, options } = self;
        Puller { context, manifest: writer.manifest_mut(), origin, options }.run()
    }

    fn finish(storage: &dyn Storage, done: &Result<PullReport>) {
        if done.as_ref().is_ok_and(|report| !report.pulled.is_empty()) {
            reserve::keep(storage);
        }
    }
}
