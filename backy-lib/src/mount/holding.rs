//! What a mount keeps open of its archive: nothing, unless somebody has a file open.
//!
//! The kernel does not wait for the process that serves a mount: when `umount` returns, that process may not know of
//! it yet. So that the disk of the archive can be unmounted right then, the folder and the manifest are only open
//! while a file is, and otherwise opened for each look and closed again. The folder has to be the one that was
//! mounted: in another one that was put in its place nothing is opened.

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

/// So many revisions stay open after they were closed, as long as any file is open.
const RECENT: usize = 4;

/// How long the manifest of a network or FUSE file system counts as the newest: there each look takes several round
/// trips.
const TRUSTED: Duration = Duration::from_secs(1);

/// An archive's folder, and what of it is open.
pub(super) struct Holding {
    folder: PathBuf,
    /// What the folder was when it was mounted.
    identity: Option<FolderIdentity>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many [`Hold`]s there are.
    users: usize,
    /// As long as there are any.
    open: Option<Open>,
    /// The last ones that were opened, though they may have been closed: what was found out about them is of use when
    /// they are opened again. Only until the manifest is replaced, because they hold on to files that may be removed
    /// then.
    recent: VecDeque<Arc<OpenRevision>>,
    /// When the manifest was last looked at while nothing was open.
    looked: Option<Instant>,
}

struct Open {
    archive: Arc<Archive>,
    manifest: ManifestFile,
}

/// Keeps the archive open until it is dropped. What was opened by it has to go first.
pub(super) struct Hold(Arc<Holding>);

impl Holding {
    /// Of an archive that is open. Keeps nothing of it.
    pub(super) fn new(archive: &Archive) -> Self {
        let folder = archive.folder();
        // A process may change its folder.
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

    /// The archive as it is now, if its manifest is not the one with the checksum `known`.
    ///
    /// # Errors
    /// Also when the folder is not there, or is another one.
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
    /// Also when the folder is not there, or is another one.
    pub(super) fn hold(self: &Arc<Self>) -> Result<Hold> {
        let mut state = self.state();
        if state.open.is_none() {
            let (archive, manifest) = Archive::open_with_manifest(Arc::new(self.reach()?))?;
            state.open = Some(Open { archive: Arc::new(archive), manifest });
        }
        state.users += 1;
        Ok(Hold(Arc::clone(self)))
    }

    /// The same, if it is open.
    pub(super) fn hold_if_open(self: &Arc<Self>) -> Option<Hold> {
        let mut state = self.state();
        state.open.as_ref()?;
        state.users += 1;
        Some(Hold(Arc::clone(self)))
    }

    /// Closes what is kept of revisions that are not in use.
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
    /// The archive as it was when the manifest was last looked at.
    ///
    /// # Errors
    /// When it is not open, which does not happen as long as this is there.
    pub(super) fn archive(&self) -> Result<Arc<Archive>> {
        let open = self.0.state().open.as_ref().map(|open| Arc::clone(&open.archive));
        open.ok_or_else(|| Error::NoArchive { path: self.0.folder.clone() })
    }

    /// Keeps a revision open, if `still` says so, for when it is opened again.
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
        // Closing takes a while.
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
