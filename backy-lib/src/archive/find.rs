//! Which file of the archive holds a revision.

use std::path::PathBuf;
use std::time::Duration;

use super::Archive;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::revision::RevisionId;
use crate::format::manifest::InProgress;
use crate::image::delta::Delta;
use crate::storage::manifest;
use crate::storage::{Access, FileName};

/// How often to look for a file that a writer is about to make, and how long to wait in between. The manifest stays the
/// same meanwhile, so `manifest::look` would not look again.
const FIND_ATTEMPTS: u32 = 250;
const FIND_PAUSE: Duration = Duration::from_millis(20);

impl Archive {
    /// The path of the file that holds a revision. While an operation changes `last.raw`, and after such an operation
    /// was interrupted, the overlay holds the newest revision.
    ///
    /// # Errors
    /// [`Error::Damaged`] when that overlay cannot be read.
    pub fn find(&self, id: RevisionId) -> Result<PathBuf> {
        let mut manifest = self.manifest.clone();
        for _ in 0..FIND_ATTEMPTS {
            let Some(revision) = manifest.revision(id) else { break };
            let writing = manifest.in_progress.as_ref().is_some_and(InProgress::changes_image);
            if !writing || !revision.is_image() {
                return Ok(self.storage.path(revision.file()));
            }
            let overlay = FileName::Delta(revision.uuid);
            let size_bytes = revision.size_bytes;
            match Delta::open(&*self.storage, revision.uuid, manifest.block_size, size_bytes) {
                Ok(_) => return Ok(self.storage.path(overlay)),
                Err(error) if !error.is_damage() => return Err(error),
                // Nobody is making the overlay, and as long as it is missing the image is unchanged.
                Err(error) if self.storage.lock_holder()?.is_none() => {
                    if manifest::read(&*self.storage)? == manifest {
                        let missing = error.kind() == ErrorKind::NotFound;
                        return match missing
                            || self.storage.open(overlay, Access::Read)?.len()? == 0
                        {
                            true => Ok(self.storage.path(FileName::IMAGE)),
                            false => Err(error),
                        };
                    }
                }
                Err(_) => {}
            }
            std::thread::sleep(FIND_PAUSE);
            manifest = manifest::read(&*self.storage)?;
        }
        Err(Error::NoSuchRevision {
            message: format!("{}: revision {id} no longer exists", self.folder().display()),
        })
    }
}
