//! An archive: [`Archive`] reads, [`ArchiveWriter`] holds the exclusive lock and changes.
//!
//! An [`Archive`] is what the manifest said when it was opened. Only an [`ArchiveWriter`] makes, changes or deletes
//! revisions, and it undoes what was interrupted first. Both name a revision by its [`RevisionId`].

mod below;
pub(crate) mod compare;
mod find;
pub(crate) mod folders;
mod heartbeat;
pub(crate) mod history;
pub(crate) mod left_overs;
pub(crate) mod moment;
pub(crate) mod operation;
pub(crate) mod proof;
pub(crate) mod recover;
pub(crate) mod reserve;
pub(crate) mod settings;
mod sources;
mod trusted;
mod waiting;
mod writer;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::clock::Clock;
use crate::base::error::{Error, Result};
use crate::base::progress::Silent;
use crate::base::revision::RevisionId;
use crate::format::manifest::{Manifest, Revision};
use crate::image::chain::Chain;
use crate::image::reader::{ReadCache, RevisionReader};
use crate::policy::select::RevisionSpec;
use crate::storage::dir::DirStorage;
use crate::storage::manifest::{self, Look, ManifestFile};
use crate::storage::{Storage, Trust};

pub use below::archives_below;
pub(crate) use sources::is_inside;
pub(crate) use trusted::{take_file_mode, trusted_config};
pub(crate) use waiting::lock as lock_within;
pub use writer::ArchiveWriter;
pub(crate) use writer::waits;

/// How often to open a revision again when a writer changes the archive meanwhile.
const OPEN_ATTEMPTS: u32 = 16;

/// An archive as its manifest describes it. Takes no lock.
#[derive(Clone)]
pub struct Archive {
    storage: Arc<dyn Storage>,
    manifest: Manifest,
    /// Only for a trusted archive.
    held: Option<trusted::Held>,
}

impl Archive {
    /// Opens the archive in a folder. backy acts on it only if nobody but the caller and root can change it.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::open_with(folder, Trust::default())
    }

    /// The same, with the caller's decision about whom to trust. Reading does not need it.
    pub fn open_with(folder: &Path, trust: Trust) -> Result<Self> {
        Self::open_on(Arc::new(DirStorage::open(folder)?.with_trust(trust)))
    }

    /// Opens the archive in any storage.
    pub fn open_on(storage: Arc<dyn Storage>) -> Result<Self> {
        let manifest = manifest::read(&*storage)?;
        Ok(Archive { storage, manifest, held: None })
    }

    /// The same; also returns the file that the manifest was read from.
    pub(crate) fn open_with_manifest(storage: Arc<dyn Storage>) -> Result<(Self, ManifestFile)> {
        let file = manifest::open(&*storage)?;
        Ok((Archive { storage, manifest: file.manifest.clone(), held: None }, file))
    }

    /// The revisions, newest first.
    pub fn revisions(&self) -> &[Revision] {
        &self.manifest.revisions
    }

    /// All that the manifest says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The archive's folder.
    pub fn folder(&self) -> PathBuf {
        self.storage.folder()
    }

    /// The name of the revision with this number now, 0 being the newest. Every backup changes the numbers.
    ///
    /// # Errors
    /// [`Error::NoSuchRevision`] with the numbers that exist.
    pub fn id(&self, number: usize) -> Result<RevisionId> {
        RevisionSpec::Number(number).resolve(self.revisions())
    }

    /// The revision with this name.
    ///
    /// # Errors
    /// [`Error::NoSuchRevision`].
    pub fn revision(&self, id: RevisionId) -> Result<&Revision> {
        let message = || format!("revision {id} no longer exists");
        self.manifest.revision(id).ok_or_else(|| Error::NoSuchRevision { message: message() })
    }

    /// Checks that revisions exist.
    ///
    /// # Errors
    /// [`Error::NoSuchRevision`] with the first that does not.
    pub(crate) fn check_there(&self, ids: &[RevisionId]) -> Result<()> {
        let there: HashSet<RevisionId> = self.revisions().iter().map(|r| r.uuid).collect();
        let missing = ids.iter().find(|id| !there.contains(id));
        missing.map_or(Ok(()), |&id| self.revision(id).map(drop))
    }

    /// Opens a revision for reading.
    pub fn open_revision(&self, id: RevisionId) -> Result<Chain> {
        self.open_chain(id, false)
    }

    /// Opens a revision as a file for reading at any place.
    pub fn open_reader(&self, id: RevisionId, cache: &Arc<ReadCache>) -> Result<RevisionReader> {
        RevisionReader::new(&self.storage, self.open_revision(id)?, cache)
    }

    /// The same as [`Archive::open_revision`]. With `tolerant`, a file that cannot be opened only costs the blocks
    /// that depend on it.
    pub(crate) fn open_chain(&self, id: RevisionId, tolerant: bool) -> Result<Chain> {
        let deleted = || Error::NoSuchRevision {
            message: format!("{}: revision {id} was deleted meanwhile", self.folder().display()),
        };
        let mut left_attempts = OPEN_ATTEMPTS;
        let open = |manifest: &Manifest| {
            left_attempts = left_attempts.checked_sub(1).ok_or_else(deleted)?;
            let number = manifest.number_of(id).ok_or_else(deleted)?;
            // A writer may have changed the chain between the manifest and its files.
            let chain = match tolerant {
                true => Chain::open_tolerant(&self.storage, manifest, number),
                false => Chain::open(&self.storage, manifest, number),
            };
            Ok(match chain.as_ref().is_ok_and(|chain| chain.broken().is_none()) {
                true => Look::Sure(chain),
                false => Look::IfCurrent(chain),
            })
        };
        manifest::look(&*self.storage, self.manifest.clone(), open)?
    }

    /// Who holds the archive's lock at this moment, if anybody does.
    pub fn lock_holder(&self) -> Result<Option<String>> {
        self.storage.lock_holder()
    }

    /// Adds to the history that an operation failed before it began, for instance because its source cannot be read,
    /// so that `status` reports it. Does nothing while another process has the lock: the caller reports the error
    /// anyway.
    pub fn record_failure(&self, operation: &str, holder: &str, error: &Error, clock: &dyn Clock) {
        let Ok(_lock) = self.trusted().and_then(|own| own.storage.lock(holder)) else { return };
        let now = clock.now();
        let outcome: std::result::Result<&(), &Error> = Err(error);
        history::record(&*self.storage, operation, (now, now), outcome, &Silent);
    }

    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// The same storage, shared, for a caller that keeps it.
    pub(crate) fn shared_storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The same archive as another of its manifests describes it.
    pub(crate) fn as_of(&self, manifest: &Manifest) -> Self {
        let (storage, held) = (Arc::clone(&self.storage), self.held.clone());
        Archive { storage, manifest: manifest.clone(), held }
    }

    /// The archive as its manifest describes it now, and the file that the manifest was read from.
    pub(crate) fn reload(&self) -> Result<(Self, ManifestFile)> {
        let (archive, file) = Self::open_with_manifest(Arc::clone(&self.storage))?;
        Ok((Archive { held: self.held.clone(), ..archive }, file))
    }
}
