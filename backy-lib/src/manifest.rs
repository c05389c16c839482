//! The manifest on disk: read, and replaced as a whole.

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::{MANIFEST_FULL_BYTES, MANIFEST_LIMIT_BYTES, Manifest, ManifestFlaw};
use crate::storage::{Access, FileName, Published, Storage, StorageFile, staged};

/// How long a manifest counts as the newest on a file system that does not tell whether it has been replaced.
const TRUSTED: Duration = Duration::from_secs(1);

/// A manifest, and the file that it was read from.
pub(crate) struct ManifestFile {
    pub(crate) manifest: Manifest,
    file: Box<dyn StorageFile>,
    /// When it was read, where inode numbers mean nothing.
    doubtful_since: Option<Instant>,
}

impl ManifestFile {
    /// Whether it has not been replaced. While it is open no other file can be taken for it, so nothing that begins with the
    /// publishing of a manifest has begun since it was read.
    ///
    /// On network and FUSE file systems another one may look the same: there this only says that it need not be read again yet.
    pub(crate) fn is_current(&self) -> Result<bool> {
        let is_recent = self.doubtful_since.is_none_or(|since| since.elapsed() < TRUSTED);
        Ok(is_recent && self.file.is_in_place()?)
    }
}

/// Reads the manifest of the archive in `storage`.
///
/// # Errors
/// [`Error::NoArchive`] when there is none and nothing else of an archive either.
pub(crate) fn read(storage: &dyn Storage) -> Result<Manifest> {
    Ok(open(storage)?.manifest)
}

/// The same, with the file.
pub(crate) fn open(storage: &dyn Storage) -> Result<ManifestFile> {
    let file = match storage.open(FileName::MANIFEST, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if storage.list()?.contains(&FileName::IMAGE) {
                let path = storage.path(FileName::MANIFEST);
                return Err(Error::damaged(
                    path,
                    "file",
                    "none",
                    "the manifest of the archive here",
                ));
            }
            return Err(Error::NoArchive { path: storage.folder() });
        }
        Err(error) => return Err(error),
    };
    let doubtful_since = match file.stamp()? {
        Some(_) => None,
        None => Some(Instant::now()),
    };
    let content = staged::read_file(&*file, MANIFEST_LIMIT_BYTES)?;
    let path = || storage.path(FileName::MANIFEST);
    let manifest = Manifest::parse(&content).map_err(|flaw| match flaw {
        ManifestFlaw::Damaged(flaw) => Error::flawed(path())(flaw),
        ManifestFlaw::Unsupported(what) => Error::Unsupported { path: path(), what },
    })?;
    Ok(ManifestFile { manifest, file, doubtful_since })
}

/// Replaces the manifest: the commit of every operation.
///
/// # Errors
/// [`Error::Specification`] when it could not be read again; nothing has been written then.
pub(crate) fn publish(storage: &dyn Storage, manifest: &Manifest) -> Result<()> {
    let content = encode(storage, manifest, MANIFEST_LIMIT_BYTES)?;
    staged::publish(storage, Published::Manifest, &content)
}

/// That the manifest has room for one more revision.
///
/// # Errors
/// [`Error::Specification`] when it has not.
pub(crate) fn check_room(storage: &dyn Storage, manifest: &Manifest) -> Result<()> {
    encode(storage, manifest, MANIFEST_FULL_BYTES).map(drop)
}

fn encode(storage: &dyn Storage, manifest: &Manifest, limit_bytes: u64) -> Result<Vec<u8>> {
    let path = || storage.path(FileName::MANIFEST);
    let content = manifest.encode().map_err(Error::flawed(path()))?;
    let len = content.len() as u64;
    let message = match Manifest::parse(&content) {
        Ok(_) if len <= limit_bytes => return Ok(content),
        Ok(_) => format!(
            "it would be {len} bytes long, expected at most {limit_bytes}; delete revisions with 'backy rm'"
        ),
        Err(ManifestFlaw::Damaged(flaw) | ManifestFlaw::Unsupported(flaw)) => {
            format!("it could not be read again: {flaw}")
        }
    };
    let message = format!("{}: not written: {message}", path().display());
    Err(Error::Specification { message })
}
