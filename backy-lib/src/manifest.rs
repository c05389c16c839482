//! The manifest on disk: read, and replaced as a whole.

use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::{MANIFEST_LIMIT_BYTES, Manifest, ManifestFlaw};
use crate::storage::{FileName, Published, Storage, staged};

/// Reads the manifest of the archive in `storage`.
///
/// # Errors
/// [`Error::NoArchive`] when there is none and nothing else of an archive either.
pub(crate) fn read(storage: &dyn Storage) -> Result<Manifest> {
    let content = match staged::read_whole(storage, FileName::MANIFEST, MANIFEST_LIMIT_BYTES) {
        Ok(content) => content,
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
    let path = || storage.path(FileName::MANIFEST);
    Manifest::parse(&content).map_err(|flaw| match flaw {
        ManifestFlaw::Damaged(flaw) => Error::Damaged { path: path(), flaw },
        ManifestFlaw::Unsupported(what) => Error::Unsupported { path: path(), what },
    })
}

/// Replaces the manifest: the commit of every operation.
pub(crate) fn publish(storage: &dyn Storage, manifest: &Manifest) -> Result<()> {
    let content = manifest.encode().map_err(Error::flawed(storage.path(FileName::MANIFEST)))?;
    staged::publish(storage, Published::Manifest, &content)
}
