//! Checks, before anything is written, that a target has the space that a restore or a drill needs.

use std::path::Path;

use rustix::fs::statvfs;
use rustix::io::retry_on_intr;

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extent::Extent;
use crate::base::progress::Observer;
use crate::base::units::{BlockIndex, display_size};
use crate::image::chain::{Chain, Located};
use crate::image::sequential::{Chunk, Chunks};
use crate::image::walk::Blocks;
use crate::target::Target;
use crate::target::unfinished::Folder;
use crate::target::{TargetKind, folder_of};

/// Checks that the file system has the space that a restore allocates in a file. A block device has its own.
///
/// First deletes what killed restores left in the folder if space is short, except in a dry run.
///
/// # Errors
/// [`crate::ErrorKind::NoSpace`] if less is free than the restore needs at its peak.
pub(crate) fn check_target(
    chain: &Chain,
    target: Option<&dyn Target>,
    path: &Path,
    dry_run: bool,
    observer: &dyn Observer,
) -> Result<()> {
    if target.is_some_and(|target| target.kind() == TargetKind::BlockDevice) {
        return Ok(());
    }
    let folder = folder_of(path);
    let needed = needed_bytes(chain, target, observer)?;
    check_swept(folder, dry_run, || check(folder, needed))
}

/// Checks again after deleting what killed restores left, which may be enough.
fn check_swept(folder: &Path, dry_run: bool, check: impl Fn() -> Result<()>) -> Result<()> {
    let mut checked = check();
    if checked.is_err() && !dry_run {
        if let Ok(folder) = Folder::open(folder) {
            folder.sweep();
        }
        checked = check();
    }
    checked.map_err(|error| naming_left_overs(error, folder))
}

/// Lists what killed restores, exports and drills left in a full folder.
fn naming_left_overs(error: Error, folder: &Path) -> Error {
    let left = Folder::open(folder).map(|folder| folder.left_overs()).unwrap_or_default();
    let describe = |(name, bytes): &(String, u64)| format!("{name} ({})", display_size(*bytes));
    match left.iter().map(describe).collect::<Vec<_>>().join(", ") {
        names if names.is_empty() || error.kind() != ErrorKind::NoSpace => error,
        names => {
            let also = format!("other restores, exports or drills left unfinished files: {names}");
            Error::Besides { first: error.into(), also }
        }
    }
}

/// Checks that this many bytes are free in the file system of a folder.
///
/// # Errors
/// [`crate::ErrorKind::NoSpace`] if they are not.
pub(crate) fn check(folder: &Path, needed: u64) -> Result<()> {
    let found = retry_on_intr(|| statvfs(folder))
        .map_err(|errno| Error::io(folder, "look up the free space")(errno.into()))?;
    // ext4 reserves some blocks for root.
    let blocks = if rustix::process::geteuid().is_root() { found.f_bfree } else { found.f_bavail };
    let free = blocks.saturating_mul(found.f_frsize);
    if free >= needed {
        return Ok(());
    }
    let (needed, free) = (display_size(needed), display_size(free));
    let action = format!("write the revision: it needs {needed} of free space, found {free}");
    Err(Error::io(folder, action)(std::io::ErrorKind::StorageFull.into()))
}

/// The most bytes that a restore has allocated at any moment, beyond what the target has: data fills holes,
/// and extents that become zero are freed in their turn, in the order of offsets.
pub(crate) fn needed_bytes(
    chain: &Chain,
    target: Option<&dyn Target>,
    observer: &dyn Observer,
) -> Result<u64> {
    let mut balance = Balance { target, now: 0, most: 0, data: Extent::new(0, 0) };
    let mut chunks = Chunks::new(chain, u64::MAX, observer);
    while let Some(chunk) = chunks.next_chunk()? {
        match chunk {
            Chunk::Void { extent } => balance.free(extent)?,
            Chunk::Data(Blocks { first, located }) => {
                for (extent, is_data) in runs(chain, first, &located) {
                    if is_data { balance.fill(extent)? } else { balance.free(extent)? }
                }
            }
        }
    }
    Ok(balance.most)
}

/// Adjacent blocks that are all data or all zero, as extents of the revision.
fn runs(
    chain: &Chain,
    first: BlockIndex,
    located: &[Located],
) -> impl Iterator<Item = (Extent, bool)> {
    let size = chain.block_size();
    let end_bytes = chain.revision().size_bytes;
    let same = |a: &Located, b: &Located| a.entry.is_zero_block() == b.entry.is_zero_block();
    let mut next = first;
    located.chunk_by(same).map(move |run| {
        let start = next;
        next = next.plus(run.len() as u64);
        let extent = Extent::between(size.offset(start), size.offset(next).min(end_bytes));
        (extent, run.first().is_some_and(|block| !block.entry.is_zero_block()))
    })
}

/// Bytes allocated so far and not freed.
struct Balance<'a> {
    target: Option<&'a dyn Target>,
    now: i64,
    most: u64,
    /// The extent of data in the target that was found last.
    data: Extent,
}

impl Balance<'_> {
    fn fill(&mut self, extent: Extent) -> Result<()> {
        self.now += (extent.len - self.allocated(extent)?) as i64;
        self.most = self.most.max(self.now.max(0) as u64);
        Ok(())
    }

    fn free(&mut self, extent: Extent) -> Result<()> {
        self.now -= self.allocated(extent)? as i64;
        Ok(())
    }

    /// Bytes of an extent in which the target has data. Extents come in ascending order.
    fn allocated(&mut self, extent: Extent) -> Result<u64> {
        let Some(target) = self.target else { return Ok(0) };
        let mut bytes = 0;
        let mut offset = extent.offset;
        while offset < extent.end() {
            if self.data.end() <= offset {
                let Some(data) = target.next_data(offset)? else { break };
                self.data = data;
            }
            if self.data.offset >= extent.end() {
                break;
            }
            let end = self.data.end().min(extent.end());
            bytes += end - self.data.offset.max(offset);
            offset = end;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::unfinished;

    /// A folder without enough space is reported before anything is written to it.
    #[test]
    fn lack_of_space_is_reported_before_anything_is_written() {
        assert!(check(Path::new("/"), 0).is_ok());
        let error = check(Path::new("/"), u64::MAX).expect_err("16 EiB of space");
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        assert!(error.to_string().contains("16.0 EiB"), "{error}");
    }

    /// What a killed restore left is in the way of a dry run, and deleted by a restore that lacks space.
    #[test]
    fn a_restore_deletes_leftovers_that_are_in_the_way() {
        let folder = tempfile::tempdir().expect("a folder");
        let left = unfinished::tests::leave(folder.path(), |token| format!(".backy-{token}.part"));
        let left = folder.path().join(format!(".backy-{left}.part"));
        // As on a disk where only the leftover file is in the way.
        let lacking = || match left.exists() {
            true => check(folder.path(), u64::MAX),
            false => Ok(()),
        };
        assert!(check_swept(folder.path(), true, lacking).is_err() && left.exists());
        assert!(check_swept(folder.path(), false, lacking).is_ok() && !left.exists());
    }

    /// Lack of space lists what a killed restore left, and no other file.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a file that somebody has left")]
    fn lack_of_space_lists_leftovers() {
        let folder = tempfile::tempdir().expect("a folder");
        let lacking = || check(folder.path(), u64::MAX).expect_err("16 EiB of space");
        std::fs::write(folder.path().join("other"), [1; 9000]).expect("write");
        let said = naming_left_overs(lacking(), folder.path()).to_string();
        assert!(!said.contains("unfinished"), "{said}");
        std::fs::write(folder.path().join(".backy-1234.part"), [1; 9000]).expect("write");
        let error = naming_left_overs(lacking(), folder.path());
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        let said = error.to_string();
        assert!(said.contains(".backy-1234.part (") && !said.contains("other ("), "{said}");
    }
}
