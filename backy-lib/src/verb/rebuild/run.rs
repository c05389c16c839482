//! A rebuild from beginning to end: the checks, the lock, the new manifest.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{RebuildReport, check_needed, rebuild};
use crate::archive::{ArchiveWriter, lock_within, take_file_mode, trusted_config};
use crate::base::error::Result;
use crate::base::progress::Observer;
use crate::storage::dir::DirStorage;
use crate::storage::{Storage, Trust};

impl ArchiveWriter {
    /// Rebuilds the lost or damaged manifest of the archive in a folder from its digest files and deltas. Holds the
    /// lock meanwhile, noting who holds it. With `force`, also rebuilds a manifest that is valid.
    ///
    /// # Errors
    /// [`crate::Error::NoArchive`] when there is nothing of an archive; [`crate::Error::Specification`] when the
    /// manifest is valid; [`crate::Error::Damaged`] when nothing shows which revision `last.raw` is;
    /// [`crate::Error::Untrusted`]. Then nothing has changed.
    pub fn rebuild(
        folder: &Path,
        trust: Trust,
        holder: &str,
        force: bool,
        observer: &dyn Observer,
    ) -> Result<RebuildReport> {
        Self::rebuild_within(folder, trust, holder, force, Duration::ZERO, observer)
    }

    /// The same; waits this long for another writer.
    pub fn rebuild_within(
        folder: &Path,
        trust: Trust,
        holder: &str,
        force: bool,
        wait: Duration,
        observer: &dyn Observer,
    ) -> Result<RebuildReport> {
        let storage = Arc::new(DirStorage::open(folder)?.with_trust(trust));
        Self::rebuild_with(storage, holder, force, wait, observer)
    }

    /// The same in any storage.
    pub fn rebuild_on(
        storage: Arc<dyn Storage>,
        holder: &str,
        force: bool,
        observer: &dyn Observer,
    ) -> Result<RebuildReport> {
        Self::rebuild_with(storage, holder, force, Duration::ZERO, observer)
    }

    fn rebuild_with(
        storage: Arc<dyn Storage>,
        holder: &str,
        force: bool,
        wait: Duration,
        observer: &dyn Observer,
    ) -> Result<RebuildReport> {
        storage.check_trust()?;
        // Also checked before taking the lock, which would leave its file in a folder that is not ours.
        check_needed(&*storage, force)?;
        let _lock = lock_within(&*storage, holder, wait, observer)?;
        take_file_mode(&*storage, trusted_config(&*storage))?;
        rebuild(&storage, force, observer)
    }
}
