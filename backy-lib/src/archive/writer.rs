//! The writer of an archive: it takes the lock, undoes what an interrupted operation left, and records what it did.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::recover::{self, LostImage};
use super::{Archive, history, left_overs, moment, waiting};
use crate::base::clock::Clock;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::progress::Observer;
use crate::format::manifest::Manifest;
use crate::storage::StorageLock;
use crate::storage::manifest;

/// An archive that nobody else can change: holds the exclusive lock until dropped.
pub struct ArchiveWriter {
    archive: Archive,
    lock: Arc<dyn StorageLock>,
}

impl ArchiveWriter {
    /// Takes the lock, noting who holds it, and undoes what an interrupted operation left behind. The archive is then
    /// [`trusted`](Archive::trusted), with its config as it is under the lock.
    ///
    /// # Errors
    /// [`Error::Locked`] when another writer is at work; [`Error::Untrusted`].
    pub fn open(archive: Archive, holder: &str, observer: &dyn Observer) -> Result<Self> {
        Self::open_within(archive, holder, Duration::ZERO, observer)
    }

    /// The same; waits this long for another writer.
    pub fn open_within(
        archive: Archive,
        holder: &str,
        wait: Duration,
        observer: &dyn Observer,
    ) -> Result<Self> {
        // Before taking the lock, because that writes to the lock file.
        let storage = Arc::clone(&archive.trusted()?.storage);
        let lock = waiting::lock(&*storage, holder, wait, observer)?;
        Self::begin(archive, lock, observer)
    }

    /// The rest, once the lock has been taken.
    fn begin(
        archive: Archive,
        lock: Box<dyn StorageLock>,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let archive = archive.trusted()?;
        manifest::begin_writing(&*archive.storage)?;
        let mut writer = ArchiveWriter { archive, lock: lock.into() };
        match writer.recover(observer) {
            // Every operation tries again; `rm` can make space for that, and a scrub gives up lost blocks.
            Err(error) if waits(&error) && writer.is_under_way() => Ok(writer),
            recovered => recovered.map(|()| writer),
        }
    }

    /// The archive, for reading.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    fn is_under_way(&self) -> bool {
        self.archive.manifest.in_progress.is_some()
    }

    /// See [`StorageLock::share`].
    pub(crate) fn share_lock(&self) -> Option<OwnedFd> {
        self.lock.share()
    }

    /// The lock, for an observer that shows others the progress of an operation.
    pub(super) fn shared_lock(&self) -> Arc<dyn StorageLock> {
        Arc::clone(&self.lock)
    }

    /// The manifest as it is on disk, to be kept up to date.
    pub(crate) fn manifest_mut(&mut self) -> &mut Manifest {
        &mut self.archive.manifest
    }

    /// Publishes a manifest, which becomes the one in memory.
    pub(crate) fn publish(&mut self, after: Manifest) -> Result<()> {
        manifest::publish(&*self.archive.storage, &after)?;
        self.archive.manifest = after;
        Ok(())
    }

    /// Reads the manifest again and undoes any operation that it lists as under way.
    fn recover(&mut self, observer: &dyn Observer) -> Result<()> {
        self.read_again()?;
        recover::recover(&self.archive.storage, &mut self.archive.manifest, observer)
    }

    /// Reads the manifest again; it must belong to the files.
    fn read_again(&mut self) -> Result<()> {
        let archive = &mut self.archive;
        archive.manifest = manifest::read_again(&*archive.storage)?;
        moment::check(&*archive.storage, &archive.manifest)
    }

    /// Recovers before the next operation: after a failed operation of this writer the manifest on disk may be
    /// another one.
    pub(crate) fn recover_from_failure(&mut self, observer: &dyn Observer) -> Result<()> {
        let archive = &mut self.archive;
        match archive.manifest.in_progress {
            Some(_) => self.recover(observer),
            None => left_overs::tidy(&*archive.storage, &mut archive.manifest),
        }
    }

    /// The same before a scrub, which counts blocks that only a missing image held as lost.
    pub(crate) fn recover_by_all_means(
        &mut self,
        lost_image: LostImage,
        observer: &dyn Observer,
    ) -> Result<()> {
        if !self.is_under_way() {
            return Ok(());
        }
        self.read_again()?;
        let archive = &mut self.archive;
        recover::recover_with(&archive.storage, &mut archive.manifest, lost_image, observer)
    }

    /// Adds an operation that has ended to the history.
    pub(super) fn record<T: Serialize>(
        &self,
        operation: &str,
        started: Timestamp,
        done: &Result<T>,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) {
        let times = (started, clock.now());
        history::record(&*self.archive.storage, operation, times, done.as_ref(), observer);
    }
}

/// Whether an operation that cannot be undone now may be undone later, once there is more space or after a scrub. If
/// manifest and files do not belong together, nothing may be done.
pub(crate) fn waits(error: &Error) -> bool {
    let belongs_together = !matches!(error, Error::OtherMoment { .. } | Error::InTheWay { .. });
    error.kind() == ErrorKind::NoSpace || error.is_damage() && belongs_together
}
