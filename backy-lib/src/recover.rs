//! Undoing an operation that was interrupted.
//!
//! May itself be interrupted anywhere and started again: the overlay is only removed when the image is
//! durable as it was, and until then overlay over image reads as the newest revision. Removing the newest revision is the
//! undoing of its backup: the manifest says that the backup is under way, and the rest is done here.

use std::sync::Arc;

use crate::canary::{Bug, planted};
use crate::digest::{TableEntry, is_zero};
use crate::error::{ErrorKind, Result};
use crate::extent::Extent;
use crate::format::manifest::{InProgress, Manifest, Operation, Revision};
use crate::format::qcow2::{Cluster, Decompressor, Layout};
use crate::image::delta::{self, Delta};
use crate::image::digests::DigestTable;
use crate::left_overs::{has_any, made_by, sweep, tidy};
use crate::manifest;
use crate::moment;
use crate::progress::{self, Event, Observer, Phase};
use crate::reserve;
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
    manifest::check_ours(storage)?;
    let Some(operation) = manifest.in_progress.clone() else {
        if has_any(storage, manifest)? {
            make_durable(storage, manifest)?;
        }
        return tidy(storage, manifest);
    };
    // An older program has not listed them.
    let made = made_by(manifest, &operation);
    manifest.removable.extend(made);
    make_durable(storage, manifest)?;
    match operation.operation {
        Operation::Backup => observer.event(&Event::Note(format!(
            "undoing the backup {} that was interrupted; it began at {}",
            operation.revision, operation.started
        ))),
        Operation::Remove | Operation::Merge => {}
    }
    match operation.operation {
        Operation::Backup | Operation::Remove => roll_back(storage, manifest, observer)?,
        Operation::Merge => repair_delta(storage, manifest, &operation, observer)?,
    }
    // First, because publishing may need the room.
    sweep(storage, manifest)?;
    if operation.operation != Operation::Merge {
        manifest.image_file = moment::image_file(storage)?;
    }
    manifest.in_progress = None;
    reserve::publish(storage, manifest)
}

/// Brings the image back to what the newest revision of the manifest is.
fn roll_back(
    storage: &dyn Storage,
    manifest: &mut Manifest,
    observer: &dyn Observer,
) -> Result<()> {
    if let Some(newest) = manifest.revisions.first_mut() {
        undo_image(storage, newest, manifest.block_size, observer)?;
    }
    match manifest.revisions.as_slice() {
        [newest, older, ..] if !older.is_standalone() => {
            delta::rebase(storage, older.uuid, older.backing(Some(newest)))
        }
        _ => Ok(()),
    }
}

/// Brings a delta to which blocks were being appended into order. What was entered stays: it changed nothing.
fn repair_delta(
    storage: &dyn Storage,
    manifest: &Manifest,
    operation: &InProgress,
    observer: &dyn Observer,
) -> Result<()> {
    let number = manifest.revisions.iter().position(|r| r.uuid == operation.revision);
    let Some((number, revision)) =
        number.and_then(|number| Some((number, manifest.revisions.get(number)?)))
    else {
        return Ok(());
    };
    let backing = revision.backing(manifest.newer(number));
    let (block_size, size_bytes) = (manifest.block_size, revision.size_bytes);
    match delta::repair(storage, revision.uuid, block_size, size_bytes, backing) {
        // It was damaged by something else; what is left of it can still be read, and scrub says how much.
        Err(error) if error.kind() == ErrorKind::Damaged => {
            observer.event(&Event::Finding(error.to_string()));
            Ok(())
        }
        other => other,
    }
}

/// Publishes the manifest as it was read: after a sync that failed it may be what programs see and not what is durable, and
/// what the durable one names must not be removed.
fn make_durable(storage: &dyn Storage, manifest: &Manifest) -> Result<()> {
    match manifest::publish(storage, manifest) {
        // What is going to be removed makes room; that both happen, a failed sync and a full disk, is left to chance.
        Err(error) if error.kind() == ErrorKind::NoSpace => Ok(()),
        done => done,
    }
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
        Err(error) if error.kind() == ErrorKind::NotFound => return undo.restore_length(),
        // The overlay is made and synced before anything depends on it, so one that is not whole and holds nothing was never
        // completed, as a rule. If it holds something it was damaged afterwards, and is not thrown away if the image needs it.
        Err(error) if error.kind() == ErrorKind::Damaged => {
            let wrong = undo.wrong_blocks()?;
            if !wrong.is_empty() && !is_blank(storage, newest, block_size)? {
                return Err(error);
            }
            undo.restore_length()?;
            wrong
        }
        Err(error) => return Err(error),
    };
    for block in lost {
        if newest.findings.is_bad(block) {
            continue;
        }
        newest.findings.add_bad_block(block);
        observer.event(&Event::Finding(format!(
            "{}: block {block} of revision {} cannot be restored: its copy in {} is damaged",
            image.path().display(),
            newest.uuid,
            storage.path(FileName::Delta(newest.uuid)).display()
        )));
    }
    if planted(Bug::UnsyncedUndo) { Ok(()) } else { image.sync() }
}

/// Whether the overlay of the newest revision holds no block, whatever its header says.
fn is_blank(storage: &dyn Storage, newest: &Revision, block_size: BlockSize) -> Result<bool> {
    const STEP_BYTES: u64 = 1 << 20;
    let overlay = storage.open(FileName::Delta(newest.uuid), Access::Read)?;
    let mut offset = Layout::new(block_size, newest.size_bytes).l2_offset;
    while let Some(data) = overlay.next_data(offset)? {
        let mut bytes = vec![0; data.len.min(STEP_BYTES) as usize];
        overlay.read_padded_at(&mut bytes, data.offset)?;
        if !is_zero(&bytes) {
            return Ok(false);
        }
        offset = data.offset + bytes.len() as u64;
    }
    Ok(true)
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
        // A length that looks right need not be durable either.
        self.image.set_len(size_bytes + 1)?;
        self.image.set_len(size_bytes)?;
        let mut zeros = Zeros { image: self.image, extent: Extent::new(0, 0) };
        // What a standalone revision does not hold is zero.
        let standalone = overlay.header().backing.is_none();
        let next_block = |from: BlockIndex| match standalone {
            true => Ok((from < blocks).then_some(from)),
            false => overlay.next_held_block(from, blocks),
        };
        let mut next = BlockIndex(0);
        while let Some(held) = next_block(next)? {
            let count = WALK_BLOCKS.min(blocks.0 - held.0);
            let entries = self.table.read(held, count)?;
            for ((cluster, entry), at) in
                overlay.clusters(held, count)?.into_iter().zip(entries).zip(held.0..)
            {
                let block = BlockIndex(at);
                let extent = self.block_size.extent(block, size_bytes);
                match cluster {
                    Cluster::Unallocated if !standalone => continue,
                    Cluster::Unallocated | Cluster::Zero => {
                        zeros.add(extent)?;
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
        zeros.clear()?;
        Ok(lost)
    }

    /// An undoing that was cut short may have left the image a byte longer.
    fn restore_length(&self) -> Result<()> {
        if self.image.len()? == self.newest.size_bytes {
            return Ok(());
        }
        self.image.set_len(self.newest.size_bytes)?;
        self.image.sync()
    }

    /// Whether a block of the image is that of the newest revision.
    fn image_holds(&self, block: BlockIndex, entry: TableEntry) -> Result<bool> {
        let extent = self.block_size.extent(block, self.newest.size_bytes);
        let mut bytes = vec![0; extent.len as usize];
        self.image.read_padded_at(&mut bytes, extent.offset)?;
        Ok(entry.matches(&bytes))
    }

    /// Blocks of the image that are not those of the newest revision, without those that were known to be bad.
    fn wrong_blocks(&self) -> Result<Vec<BlockIndex>> {
        let blocks = self.block_size.count(self.newest.size_bytes);
        let mut wrong = Vec::new();
        let mut first = BlockIndex(0);
        while first.0 < blocks {
            let entries = self.table.read(first, WALK_BLOCKS)?;
            for (entry, at) in entries.into_iter().zip(first.0..) {
                let block = BlockIndex(at);
                if !self.newest.findings.is_bad(block) && !self.image_holds(block, entry)? {
                    wrong.push(block);
                }
            }
            first = first.plus(WALK_BLOCKS);
        }
        Ok(wrong)
    }
}

/// Clears extents of the image, neighbours together.
struct Zeros<'a> {
    image: &'a dyn StorageFile,
    extent: Extent,
}

impl Zeros<'_> {
    fn add(&mut self, extent: Extent) -> Result<()> {
        if self.extent.end() != extent.offset {
            self.clear()?;
            self.extent = Extent::new(extent.offset, 0);
        }
        self.extent.len += extent.len;
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        let extent = std::mem::replace(&mut self.extent, Extent::new(0, 0));
        if extent.len == 0 { Ok(()) } else { self.image.punch_hole(extent) }
    }
}
