//! The engine of backy: backs up one block device or large file into one directory, the archive.
//!
//! The newest revision in an archive is a plain raw image, every older one a standard qcow2 overlay on the next newer
//! one.
//!
//! [`Archive`] reads an archive, [`ArchiveWriter`] holds its lock and changes it. A request, such as
//! [`BackupRequest`](backup::BackupRequest), is a whole operation as the command runs it: it plans, takes the lock,
//! runs hooks, and records what it did; [`Caller`] says who makes it. `ARCHITECTURE.md` has the map of the modules.
//!
//! The library never prints, never reads the environment, and looks at the wall clock only through [`Clock`].
//!
//! ```
//! use std::time::Duration;
//!
//! use backy_lib::backup::{BackupOptions, BackupRequest, BackupSource};
//! use backy_lib::init::InitRequest;
//! use backy_lib::progress::Silent;
//! use backy_lib::{BlockSize, Caller, RestoreOptions, SystemClock, Trust};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let temp = tempfile::tempdir()?;
//! let (source, target) = (temp.path().join("disk.img"), temp.path().join("restored.img"));
//! std::fs::write(&source, vec![7; 300_000])?;
//!
//! let init = InitRequest {
//!     folder: temp.path().join("archive"),
//!     source: Some(source.clone()),
//!     origin: None,
//!     include: Vec::new(),
//!     block_size: BlockSize::DEFAULT,
//!     trust: Trust::default(),
//! };
//! let archive = init.run()?.archive;
//!
//! let options = BackupOptions { force: true, ..BackupOptions::default() };
//! let request = BackupRequest { source: BackupSource::Config, options, meeting: None };
//! let caller = Caller {
//!     program: Some("an example"),
//!     wait: Duration::ZERO,
//!     clock: &SystemClock,
//!     observer: &Silent,
//! };
//! // Without hooks nothing has to guard them.
//! let report = request.run(&archive, || Ok(Vec::new()), &caller)?.report().ok_or("no backup")?;
//! assert_eq!(report.revision.size_bytes, 300_000);
//!
//! let archive = backy_lib::Archive::open(&archive.folder())?;
//! let newest = archive.id(0)?;
//! archive.restore(newest, &target, &RestoreOptions::default(), &SystemClock, &Silent)?;
//! assert!(std::fs::read(&source)? == std::fs::read(&target)?);
//! # Ok(())
//! # }
//! ```

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod archive;
mod base;
pub mod fleet;
pub mod format;
pub mod image;
pub mod mount;
pub mod origin;
mod policy;
pub mod source;
pub mod storage;
mod target;
mod verb;
mod verdict;

#[cfg(feature = "testing")]
pub use base::limits;
pub use base::{
    canary, clock, digest, error, escape, extent, fork, mark, progress, report_path, revision,
    units,
};
pub use policy::{config, health, plan, retention, room, schedule, select};
pub use source::hooks;
pub use verb::caller::Caller;
pub use verb::{backup, drill, export, import, init, maintenance, pull, push, restore, scrub, tag};
pub use verdict::{check, monitoring, settings, source as source_report, status};

pub use archive::{Archive, ArchiveWriter, archives_below};
pub use backup::{BackupOptions, BackupPlan, BackupReport, ImageUpdate, SpaceCheck};
pub use check::HostReport;
pub use clock::{Clock, SystemClock};
pub use config::Config;
pub use digest::Digest;
pub use error::{Error, ErrorKind, Result};
pub use export::ExportReport;
pub use format::manifest::{DrillReport, Manifest, Revision};
pub use health::{Health, Level, Problem, ProblemKind};
pub use import::ImportReport;
pub use maintenance::{MaintenanceOptions, MaintenancePlan, MaintenanceReport};
pub use mount::{MountOptions, Mounted};
pub use pull::{PullOptions, PullPlan, PullReport};
pub use report_path::ReportPath;
pub use restore::{RestoreOptions, RestoreReport};
pub use revision::{OperationId, RevisionId, Tag};
pub use scrub::{Budget, ScrubOptions, ScrubReport};
pub use select::{Here, RevisionSpec, RevisionsSpec};
pub use settings::ConfigReport;
pub use source_report::SourceReport;
pub use status::StatusReport;
pub use storage::Trust;
pub use units::BlockSize;
pub use verb::rebuild::RebuildReport;
