//! Undoing a backup that was interrupted, and sweeping up files that no manifest names.
//!
//! May itself be interrupted anywhere and started again: the overlay is only removed when the image is
//! durable as it was, and until then overlay over image reads as the newest revision.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::publish;
use crate::digest::TableEntry;
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::{Manifest, Revision};
use crate::format::qcow2::{Backing, Cluster, Decompressor};
use crate::image::delta::{Delta, rebase};
use crate::image::digests::DigestTable;
use crate::progress::{self, Event, Observer, Phase};
use crate::storage::{Access, DigestsKind, FileName, Storage, StorageFile};
use crate::units::{BlockIndex, BlockSize};

/// Blocks looked at together.
const WALK_BLOCKS: u64 = 256;

/// Brings the archive to the state that its manifest describes.
pub(crate) fn recover(
    storage: &Arc<dyn Storage>,
    manifest: &mut Manifest,
    observer: &dyn Observer,
) -> Result<()> {
    let storage = &**storage;
    let Some(operation) = manifest.in_progress.clone() else {
        return sweep(storage, manifest);
    };
    observer.event(&Event::Note(format!(
        "undoing the backup {} that was interrupted; it began at {}",
        operation.revision, operation.started
    )));
    if let Some(newest) = manifest.revisions.first_mut() {
        undo_image(storage, newest, manifest.block_size, observer)?;
    }
    if let Some(older) = manifest.revisions.get(1) {
        rebase(storage, older.uuid, Backing::IMAGE)?;
    }
    // First, because publishing may need the room.
    sweep(storage, manifest)?;
    manifest.in_progress = None;
    publish(storage, manifest)
}

/// Removes the files that the manifest does not name. Other people's files are not touched.
pub(super) fn sweep(storage: &dyn Storage, manifest: &Manifest) -> Result<()> {
    let named = named_files(manifest);
    for name in storage.list()? {
        if !named.contains(&name) {
            storage.remove(name)?;
        }
    }
    Ok(())
}

/// The files that belong to an archive with this manifest.
pub(crate) fn named_files(manifest: &Manifest) -> BTreeSet<FileName> {
    let mut named =
        BTreeSet::from([FileName::README, FileName::CONFIG, FileName::MANIFEST, FileName::Lock]);
    for (number, revision) in manifest.revisions.iter().enumerate() {
        let kind = if number == 0 { DigestsKind::Image } else { DigestsKind::Delta };
        named.extend([revision.file(), FileName::Digests(revision.uuid, kind)]);
    }
    named
}

/// Copies what the overlay of the newest revision holds back into the image.
fn undo_image(
    storage: &dyn Storage,
    newest: &mut Revision,
    block_size: BlockSize,
    observer: &dyn Observer,
) -> Result<()> {
    if storage.list()?.contains(&FileName::STAGED_IMAGE) {
        // The clone never took the image's place.
        return Ok(());
    }
    let image = storage.open(FileName::IMAGE, Access::Write)?;
    let table = DigestTable::open(storage, newest.uuid, DigestsKind::Image)?;
    let undo = Undo { image: &*image, table, newest, block_size };
    let lost = match undo.copy_back(storage, observer) {
        Ok(lost) => lost,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        // The overlay is made and synced before anything depends on it, so if it is not whole the image has not been
        // touched; if it has, then the overlay was damaged afterwards, and must not be thrown away.
        Err(error) if error.kind() == ErrorKind::Damaged => {
            return undo.check_image().map_err(|_| error);
        }
        Err(error) => return Err(error),
    };
    for block in lost {
        newest.findings.push_bad_block(block);
        observer.event(&Event::Finding(format!(
            "{}: block {block} of revision {} cannot be restored: its copy in {} is damaged",
            image.path().display(),
            newest.uuid,
            storage.path(FileName::Delta(newest.uuid)).display()
        )));
    }
    image.sync()
}

struct Undo<'a> {
    image: &'a dyn StorageFile,
    table: DigestTable,
    newest: &'a Revision,
    block_size: BlockSize,
}

impl Undo<'_> {
    /// Writes all blocks back, also those that look right: what a program sees is not what is durable after a failed
    /// sync. Gives the blocks that could not be read.
    fn copy_back(&self, storage: &dyn Storage, observer: &dyn Observer) -> Result<Vec<BlockIndex>> {
        let size_bytes = self.newest.size_bytes;
        let overlay = Delta::open(storage, self.newest.uuid, self.block_size, size_bytes)?;
        let blocks = BlockIndex(self.block_size.count(size_bytes));
        let counters = progress::begin(observer, Phase::Recover, size_bytes);
        let mut decompressor = Decompressor::new()?;
        let mut content = vec![0; self.block_size.len()];
        let mut lost = Vec::new();
        self.image.set_len(size_bytes)?;
        let mut next = BlockIndex(0);
        while let Some(held) = overlay.next_held_block(next, blocks)? {
            let count = WALK_BLOCKS.min(blocks.0 - held.0);
            let entries = self.table.read(held, count)?;
            for ((cluster, entry), at) in
                overlay.clusters(held, count)?.into_iter().zip(entries).zip(held.0..)
            {
                let block = BlockIndex(at);
                let extent = self.block_size.extent(block, size_bytes);
                match cluster {
                    Cluster::Unallocated => continue,
                    Cluster::Zero => {
                        self.image.punch_hole(extent)?;
                        continue;
                    }
                    Cluster::Plain { .. } | Cluster::Compressed { .. } => {}
                }
                let read = overlay.read_cluster(cluster, &mut decompressor, &mut content);
                let bytes = content.get(..extent.len as usize).unwrap_or(&content);
                match read {
                    Ok(()) if entry.matches(bytes) => self.image.write_at(bytes, extent.offset)?,
                    Err(error) if error.kind() != ErrorKind::Damaged => return Err(error),
                    _ if self.image_holds(block, entry)? => {}
                    _ => lost.push(block),
                }
            }
            counters.add(self.block_size.offset(held.plus(count)) - self.block_size.offset(next));
            next = held.plus(count);
        }
        Ok(lost)
    }

    /// Whether a block of the image is that of the newest revision.
    fn image_holds(&self, block: BlockIndex, entry: TableEntry) -> Result<bool> {
        let extent = self.block_size.extent(block, self.newest.size_bytes);
        let mut bytes = vec![0; extent.len as usize];
        self.image.read_padded_at(&mut bytes, extent.offset)?;
        Ok(entry.matches(&bytes))
    }

    /// Whether the whole image is that of the newest revision.
    fn check_image(&self) -> Result<()> {
        let blocks = self.block_size.count(self.newest.size_bytes);
        let mut first = BlockIndex(0);
        while first.0 < blocks {
            let entries = self.table.read(first, WALK_BLOCKS)?;
            for (entry, at) in entries.into_iter().zip(first.0..) {
                if !self.image_holds(BlockIndex(at), entry)? {
                    let extent = self.block_size.extent(BlockIndex(at), self.newest.size_bytes);
                    return Err(Error::damaged(
                        self.image.path(),
                        format!("bytes {} to {}", extent.offset, extent.end()),
                        "content of another revision",
                        "that of the newest",
                    ));
                }
            }
            first = first.plus(WALK_BLOCKS);
        }
        Ok(())
    }
}
