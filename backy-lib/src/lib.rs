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
pub mod backup;
pub mod canary;
pub mod check;
pub mod clock;
pub mod config;
mod damage;
pub mod digest;
pub mod drill;
pub mod error;
pub mod escape;
pub mod export;
pub mod extent;
mod folders;
pub mod fork;
pub mod format;
pub mod health;
mod history;
pub mod hooks;
pub mod image;
pub mod import;
mod left_overs;
#[cfg(feature = "testing")]
pub mod limits;
#[cfg(not(feature = "testing"))]
mod limits;
pub mod maintenance;
mod manifest;
mod merge;
mod moment;
pub mod monitoring;
pub mod mount;
mod pipeline;
pub mod plan;
pub mod progress;
mod proof;
mod rebuild;
mod recover;
pub mod report_path;
mod reserve;
pub mod restore;
pub mod retention;
pub mod revision;
pub mod room;
pub mod schedule;
pub mod scrub;
pub mod select;
pub mod source;
pub mod status;
pub mod storage;
pub mod units;

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
pub use rebuild::RebuildReport;
pub use report_path::ReportPath;
pub use restore::{RestoreOptions, RestoreReport};
pub use revision::{OperationId, RevisionId, Tag};
pub use scrub::{Budget, ScrubOptions, ScrubReport};
pub use select::{Here, RevisionSpec, RevisionsSpec};
pub use status::StatusReport;
pub use storage::Trust;
pub use units::BlockSize;
