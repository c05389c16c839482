//! Replacing a small file so that a reader finds the old or the new content, whatever happens.

use super::{Access, FileName, Published, StagingToken, Storage, StorageFile};
use crate::base::canary::{Bug, planted};
use crate::base::error::Result;

/// Writes `content` aside, syncs it, renames it over `file` and syncs the folder. Deletes what an earlier attempt has
/// left aside: its name has the archive's token, so nobody else has made it.
///
/// After an error `file` has the old content or the new one, and it is unknown which of them a crash would leave.
pub fn publish(
    storage: &dyn Storage,
    file: Published,
    token: StagingToken,
    content: &[u8],
) -> Result<()> {
    let staged = FileName::Aside(file, token);
    storage.remove(staged)?;
    let written = storage.create(staged)?;
    written.write_at(content, 0)?;
    written.sync()?;
    storage.rename(staged, FileName::Published(file))?;
    if planted(Bug::UnsyncedFolder) { Ok(()) } else { storage.sync_folder() }
}

/// The whole content of a small file.
///
/// # Errors
/// [`crate::Error::Damaged`] if it is longer than `limit_bytes`; then nothing is allocated for it.
pub fn read_whole(storage: &dyn Storage, name: FileName, limit_bytes: u64) -> Result<Vec<u8>> {
    read_file(&*storage.open(name, Access::Read)?, limit_bytes)
}

/// The same for an open file.
pub fn read_file(file: &dyn StorageFile, limit_bytes: u64) -> Result<Vec<u8>> {
    let len = file.len()?;
    if len > limit_bytes {
        return Err(crate::Error::damaged(
            file.path(),
            "length",
            format!("{len} bytes"),
            format!("at most {limit_bytes}"),
        ));
    }
    let mut content = vec![0; len as usize];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}
