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
pub mod clock;
pub mod config;
pub mod digest;
pub mod error;
pub mod extent;
pub mod format;
pub mod image;
mod pipeline;
pub mod progress;
pub mod restore;
pub mod revision;
pub mod schedule;
pub mod select;
pub mod source;
pub mod status;
pub mod storage;
pub mod units;

pub use archive::{Archive, ArchiveWriter};
pub use backup::{BackupOptions, BackupPlan, BackupReport, ImageUpdate};
pub use clock::{Clock, SystemClock};
pub use config::Config;
pub use digest::Digest;
pub use error::{Error, ErrorKind, Result};
pub use format::manifest::{Manifest, Revision};
pub use restore::RestoreReport;
pub use revision::{RevisionId, Tag};
pub use select::{RevisionSpec, RevisionsSpec};
pub use status::StatusReport;
pub use units::BlockSize;
