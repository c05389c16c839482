//! What a committed backup no longer needs of the image: the bytes past its new end, and blocks that have become
//! zero.
//!
//! Until the commit the image keeps all of its space, because undoing writes there, and another program may have
//! taken what was freed. Everything that is freed here reads as zeros or belongs to no revision.

use crate::archive::moment;
use crate::base::digest::is_zero;
use crate::base::error::{ErrorKind, Result};
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::{Manifest, Operation};
use crate::format::qcow2::Cluster;
use crate::image::delta::Delta;
use crate::image::digests::DigestTable;
use crate::storage::{Access, DigestsKind, FileName, Storage, StorageFile};

/// Frees what the image of a committed backup does not need. The manifest says that the delta of the previous
/// revision is being worked on; if it names another one, nothing is done. What cannot be found out only costs space.
/// Records the state of the image afterwards.
pub(crate) fn finish_image(storage: &dyn Storage, manifest: &mut Manifest) -> Result<()> {
    let [newest, before, ..] = manifest.revisions.as_slice() else { return Ok(()) };
    let is_tidied = manifest.in_progress.as_ref().is_some_and(|operation| {
        operation.operation == Operation::Merge && operation.revision == before.uuid
    });
    if !is_tidied {
        return Ok(());
    }
    let opened = storage.open(FileName::IMAGE, Access::Write).and_then(|image| {
        let table = DigestTable::open(storage, newest.uuid, DigestsKind::Image)?;
        let (size, bytes) = (manifest.block_size, before.size_bytes);
        Ok((image, table, Delta::open(storage, before.uuid, size, bytes)?))
    });
    let (image, table, delta) = match opened {
        Ok(opened) => opened,
        Err(error) if error.is_damage() => return Ok(()),
        Err(error) => return Err(error),
    };
    // A length that looks right may not be durable after a failed sync.
    image.set_len(newest.size_bytes + 1)?;
    image.set_len(newest.size_bytes)?;
    let punched =
        for_each_emptied(newest.size_bytes, manifest.block_size, &delta, &table, |extent| {
            punch_zeros(&*image, extent)
        });
    match punched {
        Err(error) if error.kind() != ErrorKind::Damaged => return Err(error),
        _ => {}
    }
    image.sync()?;
    manifest.image_file = moment::image_file(storage)?;
    Ok(())
}

/// Calls back with the extents of blocks that the delta holds and that are zero in the newest revision, which has
/// this many bytes.
pub(crate) fn for_each_emptied(
    size_bytes: u64,
    block_size: BlockSize,
    delta: &Delta,
    table: &DigestTable,
    mut take: impl FnMut(Extent) -> Result<()>,
) -> Result<()> {
    let blocks = BlockIndex(block_size.count(size_bytes));
    let mut next = BlockIndex(0);
    while let Some(held) = delta.next_held_block(next, blocks)? {
        let entries = table.read(held, limits().walk_blocks)?;
        next = held.plus(entries.len() as u64);
        let clusters = delta.clusters(held, entries.len() as u64)?;
        let emptied: Vec<bool> = clusters
            .iter()
            .zip(&entries)
            .map(|(cluster, entry)| *cluster != Cluster::Unallocated && entry.is_zero_block())
            .collect();
        let mut first = held;
        for run in emptied.chunk_by(|a, b| a == b) {
            let end = first.plus(run.len() as u64);
            if run.first() == Some(&true) {
                let end = block_size.offset(end).min(size_bytes);
                take(Extent::between(block_size.offset(first), end))?;
            }
            first = end;
        }
    }
    Ok(())
}

/// Makes holes of the pieces of an extent that read as zeros.
fn punch_zeros(image: &dyn StorageFile, extent: Extent) -> Result<()> {
    let mut offset = extent.offset;
    let mut bytes = Vec::new();
    while offset < extent.end() {
        let len = limits().chunk_bytes.min(extent.end() - offset);
        bytes.resize(len as usize, 0xff);
        image.read_padded_at(&mut bytes, offset)?;
        if is_zero(&bytes) {
            image.punch_hole(Extent::new(offset, len))?;
        }
        offset += len;
    }
    Ok(())
}

/// Bytes that are allocated in an extent of a file, as the file system reports them.
pub(crate) fn data_bytes(file: &dyn StorageFile, extent: Extent) -> Result<u64> {
    let (mut bytes, mut offset) = (0, extent.offset);
    while let Some(data) = file.next_data(offset)?.filter(|data| data.offset < extent.end()) {
        let end = data.end().min(extent.end());
        bytes += end.saturating_sub(data.offset.max(offset));
        offset = end.max(offset + 1);
        if offset >= extent.end() {
            break;
        }
    }
    Ok(bytes)
}
