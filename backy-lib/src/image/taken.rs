//! What the files of a revision take on disk, also where the file system only reports how long they are: then the
//! digest table and the layout of a delta show how much of them was ever written.

use crate::base::error::{ErrorKind, Result};
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::digests::entry_offset;
use crate::format::manifest::Revision;
use crate::format::qcow2::Layout;
use crate::image::digests::DigestTable;
use crate::storage::{DigestsKind, FileName, Storage, Taken};

/// Header, reference count table and L1 table of a delta, of which hardly more than the first page is written.
const DELTA_HEAD_BYTES: u64 = 3 * 4096;

/// Bytes on disk of a revision's own file and its digests. A missing file takes none.
pub(crate) fn revision_bytes(
    storage: &dyn Storage,
    revision: &Revision,
    size: BlockSize,
) -> Result<u64> {
    let file = taken(storage, revision.file())?;
    let digests = taken(storage, revision.digests_file())?;
    if let (Some(file), Some(digests)) = (file.bytes, digests.bytes) {
        return Ok(file + digests);
    }
    let (data_bytes, blocks) = match revision.is_image() {
        true => {
            let blocks = data_blocks(storage, revision, size)?;
            (blocks.saturating_mul(size.bytes()), blocks)
        }
        false => {
            let bytes = delta_bytes(file.len_bytes, size, revision.size_bytes);
            (bytes, size.count(bytes))
        }
    };
    let file = file.bytes.unwrap_or(data_bytes.min(file.len_bytes));
    let entries = entry_offset(BlockIndex(blocks));
    Ok(file + digests.bytes.unwrap_or(entries.min(digests.len_bytes)))
}

/// Bytes on disk of the image of the newest revision.
pub(crate) fn image_bytes(
    storage: &dyn Storage,
    newest: &Revision,
    size: BlockSize,
) -> Result<u64> {
    let image = taken(storage, FileName::IMAGE)?;
    match image.bytes {
        Some(bytes) => Ok(bytes),
        None => {
            let bytes = data_blocks(storage, newest, size)?.saturating_mul(size.bytes());
            Ok(bytes.min(image.len_bytes))
        }
    }
}

/// Bytes of a delta with this length that were written, for a revision of this size. Its L2 tables are mostly holes.
pub(crate) fn delta_bytes(len_bytes: u64, size: BlockSize, size_bytes: u64) -> u64 {
    let data_offset = Layout::new(size, size_bytes).data_offset;
    len_bytes.saturating_sub(data_offset).saturating_add(DELTA_HEAD_BYTES).min(len_bytes)
}

fn taken(storage: &dyn Storage, name: FileName) -> Result<Taken> {
    match storage.taken(name) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Ok(Taken { len_bytes: 0, bytes: Some(0) })
        }
        taken => taken,
    }
}

/// About how many blocks of the image hold data; all of them if its digests do not show that.
fn data_blocks(storage: &dyn Storage, newest: &Revision, size: BlockSize) -> Result<u64> {
    let table = DigestTable::open(storage, newest.uuid, DigestsKind::Image);
    match table.and_then(|table| table.estimate_data_blocks()) {
        Err(error) if error.is_damage() => Ok(size.count(newest.size_bytes)),
        blocks => blocks,
    }
}
