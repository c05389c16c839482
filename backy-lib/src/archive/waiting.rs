//! Waiting for another writer, and what a backup does that meets another one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Archive, ArchiveWriter};
use crate::base::error::{Error, Result};
use crate::base::progress::{self, Event, Observer};
use crate::storage::{Storage, StorageLock};

/// How long to wait before trying the lock again.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes the lock; if somebody holds it, waits at most `wait` until it is free.
///
/// # Errors
/// [`Error::Locked`] when it is still held after that; [`Error::Interrupted`].
pub(crate) fn lock(
    storage: &dyn Storage,
    holder: &str,
    wait: Duration,
    observer: &dyn Observer,
) -> Result<Box<dyn StorageLock>> {
    let began = Instant::now();
    let mut told = false;
    loop {
        let error = match storage.lock(holder) {
            Err(error @ Error::Locked { .. }) => error,
            taken => return taken,
        };
        let left = wait.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(error);
        }
        if !std::mem::replace(&mut told, true) {
            observer.event(&Event::Note(format!("waiting: {error}")));
        }
        progress::check(observer)?;
        std::thread::sleep(PAUSE.min(left));
        progress::check(observer)?;
    }
}

impl ArchiveWriter {
    /// As [`ArchiveWriter::open_within`], for a backup that is due. `None` if another backup of this archive runs all
    /// that time, because that one makes the revision that is due.
    pub fn open_for_due_backup(
        archive: Archive,
        holder: &str,
        wait: Duration,
        observer: &dyn Observer,
    ) -> Result<Option<Self>> {
        let storage = Arc::clone(&archive.trusted()?.storage);
        match Self::open_within(archive, holder, wait, observer) {
            Err(Error::Locked { path, .. })
                if path == storage.folder() && storage.is_backup_at_work() =>
            {
                Ok(None)
            }
            opened => opened.map(Some),
        }
    }
}
