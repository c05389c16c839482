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
    /// Makes the lost or damaged manifest of the archive in a folder anew, from its digest files and deltas. Takes
    /// the lock for that time, saying who holds it. `force`: also when the manifest reads fine.
    ///
    /// # Errors
    /// [`crate::Error::NoArchive`] when there is nothing of an archive; [`crate::Error::Specification`] when the
    /// manifest reads fine; [`crate::Error::Damaged`] when nothing says what `last.raw` is;
    /// [`crate::Error::Untrusted`]. Then nothing has been changed.
    pub fn rebuild(
        folder: &Path,
        trust: Trust,
        holder: &str,
        force: bool,
        observer: &dyn Observer,
    ) -> Result<RebuildReport> {
        Self::rebuild_within(folder, trust, holder, force, Duration::ZERO, observer)
    }

    /// The same; another writer is waited for so long.
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
        // Looked at before the lock as well, whose file would otherwise be left in a folder that is not ours.
        check_needed(&*storage, force)?;
        let _lock = lock_within(&*storage, holder, wait, observer)?;
        take_file_mode(&*storage, trusted_config(&*storage))?;
        rebuild(&storage, force, observer)
    }
}
