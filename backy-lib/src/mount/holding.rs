//! What a mount keeps open of its archive: nothing, unless a file is open.
//!
//! The kernel does not wait for the process that serves a mount: when `umount` returns, that process may not
//! know yet. To allow unmounting the archive's disk right then, the folder and the manifest are only open
//! while a file is, and are otherwise opened for each lookup and closed again. The folder must be the one
//! that was mounted: if another one is in its place, nothing in it is opened.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::open::OpenRevision;
use crate::archive::Archive;
use crate::base::error::{Error, Result};
use crate::storage::dir::DirStorage;
use crate::storage::manifest::{self, ManifestFile};
use crate::storage::{FolderIdentity, Storage};

/// How many revisions stay open after they were closed, as long as any file is open.
const RECENT: usize = 4;

/// How long the manifest on a network or FUSE file system counts as current: each check there takes several
/// round trips.
const TRUSTED: Duration = Duration::from_secs(1);

/// An archive's folder, and the parts of it that are open.
pub(super) struct Holding {
    folder: PathBuf,
    /// Identity of the folder when it was mounted.
    identity: Option<FolderIdentity>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Number of [`Hold`]s.
    users: usize,
    /// `Some` while there are any.
    open: Option<Open>,
    /// The revisions opened last, possibly closed by now: what was learned about them helps when they are
    /// opened again. Dropped when the manifest is replaced, because they hold files open that may be deleted
    /// then.
    recent: VecDeque<Arc<OpenRevision>>,
    /// When the manifest was last checked while nothing was open.
    looked: Option<Instant>,
}

struct Open {
    archive: Arc<Archive>,
    manifest: ManifestFile,
}

/// Keeps the archive open until it is dropped. Drop everything opened through it first.
pub(super) struct Hold(Arc<Holding>);

impl Holding {
    /// For an open archive. Keeps nothing of it open.
    pub(super) fn new(archive: &Archive) -> Self {
        let folder = archive.folder();
        // The working directory of a process may change.
        let folder = folder.canonicalize().or_else(|_| std::path::absolute(&folder));
        Holding {
            folder: folder.unwrap_or_else(|_| archive.folder()),
            identity: archive.storage().folder_identity(),
            state: Mutex::default(),
        }
    }

    /// The archive's folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The archive as it is now, unless its manifest still has the checksum `known`.
    ///
    /// # Errors
    /// Also if the folder is missing or is another one.
    pub(super) fn newer_than(&self, known: &str) -> Result<Option<Arc<Archive>>> {
        let mut state = self.state();
        if let Some(open) = &mut state.open {
            if !open.manifest.is_current()? {
                let (archive, manifest) = open.archive.reload()?;
                *open = Open { archive: Arc::new(archive), manifest };
            }
            let is_known = open.archive.manifest().checksum() == known;
            return Ok((!is_known).then(|| Arc::clone(&open.archive)));
        }
        let is_recent = state.looked.is_some_and(|at| at.elapsed() < TRUSTED);
        if is_recent && !self.identity.is_some_and(FolderIdentity::is_certain) {
            return Ok(None);
        }
        let storage = self.reach()?;
        let newer = match manifest::checksum(&storage)? {
            Some(found) if found == known => None,
            _ => Some(Arc::new(Archive::open_on(Arc::new(storage))?)),
        };
        state.looked = Some(Instant::now());
        Ok(newer)
    }

    /// Opens the archive, unless it is open.
    ///
    /// # Errors
    /// Also if the folder is missing or is another one.
    pub(super) fn hold(self: &Arc<Self>) -> Result<Hold> {
        let mut state = self.state();
        if state.open.is_none() {
            let (archive, manifest) = Archive::open_with_manifest(Arc::new(self.reach()?))?;
            state.open = Some(Open { archive: Arc::new(archive), manifest });
        }
        state.users += 1;
        Ok(Hold(Arc::clone(self)))
    }

    /// As [`Self::hold`], but `None` if the archive is not open.
    pub(super) fn hold_if_open(self: &Arc<Self>) -> Option<Hold> {
        let mut state = self.state();
        state.open.as_ref()?;
        state.users += 1;
        Some(Hold(Arc::clone(self)))
    }

    /// Closes revisions that are kept but not in use.
    pub(super) fn forget_recent(&self) {
        let recent = std::mem::take(&mut self.state().recent);
        drop(recent);
    }

    /// Opens the folder.
    fn reach(&self) -> Result<DirStorage> {
        let storage = DirStorage::open(&self.folder)?;
        if storage.folder_identity() == self.identity {
            return Ok(storage);
        }
        let message = "it is not the folder that was mounted; unmount and mount it again";
        Err(Error::Mount { path: self.folder.clone(), message: message.to_owned() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    /// The archive as of the last check of the manifest.
    ///
    /// # Errors
    /// If it is not open, which does not happen while `self` exists.
    pub(super) fn archive(&self) -> Result<Arc<Archive>> {
        let open = self.0.state().open.as_ref().map(|open| Arc::clone(&open.archive));
        open.ok_or_else(|| Error::NoArchive { path: self.0.folder.clone() })
    }

    /// Keeps a revision for the next open, if `still` agrees.
    pub(super) fn keep(&self, revision: &Arc<OpenRevision>, still: impl FnOnce() -> bool) -> bool {
        let mut state = self.0.state();
        let kept = still();
        let mut over = VecDeque::new();
        if kept {
            let most = state.recent.len().min(RECENT - 1);
            over = state.recent.split_off(most);
            state.recent.push_front(Arc::clone(revision));
        }
        drop(state);
        // Closing takes a while, so it happens after unlocking.
        drop(over);
        kept
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.users = state.users.saturating_sub(1);
        if state.users > 0 {
            return;
        }
        let unused = (std::mem::take(&mut state.recent), state.open.take());
        drop(state);
        drop(unused);
    }
}
