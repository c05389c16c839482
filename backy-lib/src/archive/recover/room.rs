//! Space in the image for bringing it back to the previous revision: where that one has data and the newest has
//! holes.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::units::{BlockIndex, display_size};
use crate::format::manifest::Manifest;
use crate::format::qcow2::Cluster;
use crate::image::delta::Delta;
use crate::image::digests::DigestTable;
use crate::storage::{Access, DigestsKind, FileName, Storage, StorageFile};

/// Space that the image has been given.
pub(crate) struct Room {
    extents: Vec<Extent>,
}

impl Room {
    /// Frees it again, as far as that works: a failure only costs space.
    pub(crate) fn give_back(&self, storage: &dyn Storage) {
        let Ok(image) = storage.open(FileName::IMAGE, Access::Write) else { return };
        for extent in &self.extents {
            let _ = image.punch_hole(*extent);
        }
    }
}

/// Allocates the space that the image needs to become the previous revision. A file system that cannot do this gives
/// no guarantee.
///
/// # Errors
/// [`ErrorKind::NoSpace`] when there is too little. Then the image has got none of it.
pub(crate) fn make(storage: &dyn Storage, manifest: &Manifest) -> Result<Room> {
    let Some((image, extents)) = holes(storage, manifest, Access::Write)? else {
        return Ok(Room { extents: Vec::new() });
    };
    let mut room = Room { extents: Vec::new() };
    for extent in &extents {
        room.extents.push(*extent);
        if let Err(error) = image.make_room(*extent) {
            // Nobody may have it open twice for writing.
            drop(image);
            room.give_back(storage);
            return Err(explained(error, &extents));
        }
    }
    if !extents.is_empty() {
        image.sync()?;
    }
    Ok(room)
}

/// How many bytes [`make`] would allocate.
pub(crate) fn needed_bytes(storage: &dyn Storage, manifest: &Manifest) -> Result<u64> {
    let holes = holes(storage, manifest, Access::Read)?;
    Ok(holes.map_or(0, |(_, extents)| extents.iter().map(|extent| extent.len).sum()))
}

/// The error for too little space, with the amount that has to fit.
fn explained(error: Error, extents: &[Extent]) -> Error {
    if error.kind() != ErrorKind::NoSpace {
        return error;
    }
    let Error::Io { path, source, .. } = error else { return error };
    let bytes = display_size(extents.iter().map(|extent| extent.len).sum());
    let action = format!("allocate about {bytes} that the previous revision has in addition");
    Error::io(path, action)(source)
}

type Holes = Option<(Box<dyn StorageFile>, Vec<Extent>)>;

/// The image, and its holes where the previous revision holds data. If the file system does not report holes, the
/// blocks that are zero by the digests.
fn holes(storage: &dyn Storage, manifest: &Manifest, access: Access) -> Result<Holes> {
    let [newest, older, ..] = manifest.revisions.as_slice() else { return Ok(None) };
    let (size, size_bytes) = (manifest.block_size, older.size_bytes);
    let delta = Delta::open(storage, older.uuid, size, size_bytes)?;
    let image = storage.open(FileName::IMAGE, access)?;
    let table = match image.hides_holes()? {
        true => Some(DigestTable::open(storage, newest.uuid, DigestsKind::Image)?),
        false => None,
    };
    let mut extents: Vec<Extent> = Vec::new();
    let end = BlockIndex(size.count(size_bytes));
    let mut next = BlockIndex(0);
    while let Some(first) = delta.next_held_block(next, end)? {
        let count = limits().walk_blocks.min(end.0 - first.0);
        for (block, cluster) in delta.held(first, count)? {
            if cluster == Cluster::Zero {
                continue;
            }
            let extent = size.extent(block, size_bytes);
            match &table {
                None => add_holes(&*image, extent, &mut extents)?,
                Some(table) => {
                    let entries = table.read(block, 1)?;
                    if entries.first().is_none_or(|entry| entry.is_zero_block()) {
                        add(extent, &mut extents);
                    }
                }
            }
        }
        next = first.plus(count);
    }
    Ok(Some((image, extents)))
}

fn add_holes(image: &dyn StorageFile, extent: Extent, extents: &mut Vec<Extent>) -> Result<()> {
    let mut offset = extent.offset;
    while offset < extent.end() {
        let data = image.next_data(offset)?.filter(|data| data.offset < extent.end());
        let hole_end = data.map_or(extent.end(), |data| data.offset.max(offset));
        add(Extent::between(offset, hole_end), extents);
        offset = data.map_or(extent.end(), |data| data.end().max(offset + 1));
    }
    Ok(())
}

/// Adds an extent that begins no earlier than the last one.
fn add(extent: Extent, extents: &mut Vec<Extent>) {
    match extents.last_mut() {
        _ if extent.len == 0 => {}
        Some(last) if last.end() == extent.offset => last.len += extent.len,
        _ => extents.push(extent),
    }
}
