//! Space reserved for a full disk: a file that backy deletes when not even a manifest fits any more.

use crate::base::error::{ErrorKind, Result};
use crate::format::manifest::Manifest;
use crate::storage::manifest;
use crate::storage::{Access, FileName, Storage, StorageFile};

/// Space for the manifest of some thousand revisions.
const RESERVE_BYTES: u64 = 4 << 20;

/// Space for reference counts and a manifest, besides the data to be stored.
const MARGIN_BYTES: u64 = 1 << 20;

/// Creates the reserve if it is missing and there is space for it.
pub(crate) fn keep(storage: &dyn Storage) {
    // Failing to create the reserve is not worth an error: the operation itself is done.
    let _ = try_keep(storage);
}

fn try_keep(storage: &dyn Storage) -> Result<()> {
    let file = open(storage)?;
    if file.allocated_bytes()? < RESERVE_BYTES {
        file.allocate(RESERVE_BYTES)?;
    }
    Ok(())
}

fn open(storage: &dyn Storage) -> Result<Box<dyn StorageFile>> {
    match storage.open(FileName::Reserve, Access::Write) {
        Err(error) if error.kind() == ErrorKind::NotFound => storage.create(FileName::Reserve),
        other => other,
    }
}

/// Publishes a manifest; on a full disk, deletes the reserve and tries again.
pub(crate) fn publish(storage: &dyn Storage, manifest: &Manifest) -> Result<()> {
    match manifest::publish(storage, manifest) {
        Err(error) if error.kind() == ErrorKind::NoSpace && release(storage)? => {
            manifest::publish(storage, manifest)
        }
        done => done,
    }
}

/// Deletes the reserve, and checks that this many bytes and a manifest fit into the space that is then free. If the
/// file system cannot say, assumes that they do.
///
/// # Errors
/// [`ErrorKind::NoSpace`] if they do not fit.
pub(crate) fn claim(storage: &dyn Storage, bytes: u64) -> Result<()> {
    // Tables, reference counts and digests take space as well.
    let wanted = bytes.saturating_add(bytes / 16).saturating_add(MARGIN_BYTES);
    let fits = open(storage).and_then(|file| match file.allocated_bytes()? < wanted {
        true => file.allocate(wanted),
        false => Ok(()),
    });
    // Also frees what a failed attempt has taken.
    release(storage)?;
    match fits {
        Err(error) if error.kind() == ErrorKind::NoSpace => Err(error),
        _ => Ok(()),
    }
}

/// Deletes the reserve; returns whether there was one.
pub(crate) fn release(storage: &dyn Storage) -> Result<bool> {
    if !storage.list()?.contains(&FileName::Reserve) {
        return Ok(false);
    }
    storage.remove(FileName::Reserve)?;
    storage.sync_folder()?;
    Ok(true)
}

/// Bytes that a file takes on disk; 0 if it does not exist.
pub(crate) fn allocated_bytes(storage: &dyn Storage, name: FileName) -> Result<u64> {
    match storage.open(name, Access::Read) {
        Ok(file) => file.allocated_bytes(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}
