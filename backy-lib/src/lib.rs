//! The engine of backy: backs up one block device or large file into one directory, the archive.
//!
//! The newest revision in an archive is a plain raw image, every older one a standard qcow2 overlay on the next newer one.
//! Start with [`Archive`] for reading and [`ArchiveWriter`] for changing; `ARCHITECTURE.md` has the map of the modules.
//!
//! The library never prints, never reads the environment and never looks at the wall clock by itself.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod archive;
mod base;
pub mod format;
pub mod image;
pub mod mount;
mod policy;
pub mod source;
pub mod storage;
mod target;
mod verb;
mod verdict;

#[cfg(feature = "testing")]
pub use base::limits;
pub use base::{
    canary, clock, digest, error, escape, extent, fork, progress, report_path, revision, units,
};
pub use policy::{config, health, plan, retention, room, schedule, select};
pub use source::hooks;
pub use verb::caller::Caller;
pub use verb::{backup, drill, export, import, init, maintenance, restore, scrub, tag};
pub use verdict::{check, monitoring, status};

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
pub use report_path::ReportPath;
pub use restore::{RestoreOptions, RestoreReport};
pub use revision::{OperationId, RevisionId, Tag};
pub use scrub::{Budget, ScrubOptions, ScrubReport};
pub use select::{Here, RevisionSpec, RevisionsSpec};
pub use status::StatusReport;
pub use storage::Trust;
pub use units::BlockSize;
pub use verb::rebuild::RebuildReport;
