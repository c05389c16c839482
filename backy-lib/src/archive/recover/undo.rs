//! Bringing the image back to the newest revision of the manifest, from the overlay alone.
//!
//! Every readable block of the overlay is written back, whatever digests say. Where there are digests, they decide
//! whether the overlay or the image is wrong, and they add findings. If they are missing or wrong, only the findings
//! are missing. An unreadable part of the overlay costs only the blocks that it describes.

use std::time::{Duration, Instant};

use super::LostImage;
use crate::archive::moment;
use crate::base::canary::{Bug, planted};
use crate::base::digest::TableEntry;
use crate::base::error::{Error, ErrorKind, Result, judged};
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::progress::{self, Event, Observer, Phase};
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::{BlockRange, Findings, InProgress, Manifest, Operation, Revision};
use crate::format::qcow2::{Backing, Cluster, Decompressor};
use crate::image::delta::{self, Delta, Tables};
use crate::image::digests::DigestTable;
use crate::storage::{Access, DigestsKind, FileName, Storage, StorageFile};

/// Brings the image back to the newest revision of the manifest, and points the next older delta to it. Blocks that
/// this loses become findings.
pub(super) fn roll_back(
    storage: &dyn Storage,
    manifest: &mut Manifest,
    operation: &InProgress,
    lost_image: LostImage,
    observer: &dyn Observer,
) -> Result<()> {
    if let Some(newest) = manifest.revisions.first()
        && !is_untouched(storage, manifest, newest)?
    {
        let (image, is_new) = open_image(storage, newest, lost_image)?;
        let undo = Undo {
            storage,
            image: &*image,
            table: open_table(storage, newest, observer)?,
            newest,
            block_size: manifest.block_size,
        };
        let mut lost = match undo.open_overlay(operation)? {
            Some((overlay, tables)) => undo.copy_back(&overlay, tables, observer)?,
            None if may_have_begun(storage, manifest, operation)? => undo.wrong_blocks(observer)?,
            None => {
                undo.restore_length()?;
                Findings::default()
            }
        };
        if is_new {
            undo.wrong_blocks(observer)?.bad_blocks.into_iter().for_each(|range| lost.add(range));
        }
        if !planted(Bug::UnsyncedUndo) {
            image.sync()?;
        }
        note(storage, manifest, &lost, observer);
    }
    point_back(storage, manifest, observer)
}

/// Whether the operation has not changed the image.
fn is_untouched(storage: &dyn Storage, manifest: &Manifest, newest: &Revision) -> Result<bool> {
    // The clone never took the image's place.
    if storage.list()?.contains(&FileName::STAGED_IMAGE) {
        return Ok(true);
    }
    // Then a program that relies on the image does not matter: it need not be opened for writing.
    let (size, size_bytes) = (manifest.block_size, newest.size_bytes);
    let Ok(overlay) = judged(Delta::open(storage, newest.uuid, size, size_bytes))? else {
        return Ok(false);
    };
    let end = BlockIndex(size.count(size_bytes));
    let held = judged(overlay.next_held_block(BlockIndex(0), end))?;
    // A standalone revision does not hold its zeros.
    let is_empty = overlay.header().backing.is_some() && matches!(held, Ok(None));
    Ok(is_empty
        && moment::is_as_recorded(storage, manifest)?
        && storage.open(FileName::IMAGE, Access::Read)?.len()? == size_bytes)
}

/// Points the next older delta to the image again.
fn point_back(storage: &dyn Storage, manifest: &Manifest, observer: &dyn Observer) -> Result<()> {
    let [newest, older, ..] = manifest.revisions.as_slice() else { return Ok(()) };
    if older.is_standalone() {
        return Ok(());
    }
    match delta::rebase(storage, older.uuid, older.backing(Some(newest))) {
        // It is lost for other reasons; a scrub reports how much of it.
        Err(error) if error.is_damage() => {
            observer.event(&Event::Finding(error.to_string()));
            Ok(())
        }
        done => done,
    }
}

fn note(storage: &dyn Storage, manifest: &mut Manifest, lost: &Findings, observer: &dyn Observer) {
    let Some(newest) = manifest.revisions.first_mut() else { return };
    let (image, overlay) =
        (storage.path(FileName::IMAGE), storage.path(FileName::Delta(newest.uuid)));
    let mut added = lost.bad_blocks.clone();
    added.subtract(&newest.findings.bad_blocks);
    for range in &added {
        let blocks = match range.count {
            1 => format!("block {}", range.first),
            count => format!("{count} blocks from {} on", range.first),
        };
        observer.event(&Event::Finding(format!(
            "{}: {blocks} of revision {} cannot be restored: its data in {} is missing or damaged",
            image.display(),
            newest.uuid,
            overlay.display()
        )));
    }
    newest.findings.add_all(added);
}

/// Opens the image for bringing it back; also returns whether it had to be made.
fn open_image(
    storage: &dyn Storage,
    newest: &Revision,
    lost_image: LostImage,
) -> Result<(Box<dyn StorageFile>, bool)> {
    match (storage.open(FileName::IMAGE, Access::Write), lost_image) {
        (Err(error), LostImage::MakeAnew) if error.kind() == ErrorKind::NotFound => {
            Ok((make_image(storage, newest)?, true))
        }
        (Err(error), LostImage::Refuse) if error.kind() == ErrorKind::NotFound => {
            Err(image_is_missing(storage, newest))
        }
        (opened, _) => Ok((opened?, false)),
    }
}

/// An image of the right length without data, in place of one that is missing.
pub(crate) fn make_image(storage: &dyn Storage, newest: &Revision) -> Result<Box<dyn StorageFile>> {
    let image = storage.create(FileName::IMAGE)?;
    image.set_len(newest.size_bytes)?;
    image.sync()?;
    storage.sync_folder()?;
    Ok(image)
}

/// The error that there is no image.
pub(crate) fn image_is_missing(storage: &dyn Storage, newest: &Revision) -> Error {
    let expected = format!("the image of revision {}", newest.uuid);
    Error::damaged(storage.path(FileName::IMAGE), "file", "none", expected)
}

/// The digests of the newest revision, if they are available.
fn open_table(
    storage: &dyn Storage,
    newest: &Revision,
    observer: &dyn Observer,
) -> Result<Option<DigestTable>> {
    match DigestTable::open(storage, newest.uuid, DigestsKind::Image) {
        Err(error) if error.is_damage() => {
            observer.event(&Event::Finding(format!(
                "{error}; recovering the image without its digests"
            )));
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

/// Whether blocks of the image may have been overwritten although there is no overlay. Before that happens, the
/// overlay is made and the next older delta points to it; the overlay is deleted once that delta points back.
fn may_have_begun(
    storage: &dyn Storage,
    manifest: &Manifest,
    operation: &InProgress,
) -> Result<bool> {
    if let [newest, older, ..] = manifest.revisions.as_slice()
        && !older.is_standalone()
    {
        let opened = Delta::open_any_size(storage, older.uuid, manifest.block_size);
        return match opened {
            Ok(older) => Ok(older.header().backing == Some(Backing::delta(newest.uuid))),
            Err(error) if error.is_damage() => Ok(true),
            Err(error) => Err(error),
        };
    }
    // These are made before the image is opened for writing, and swept up with the overlay.
    let other = FileName::Digests(operation.revision, DigestsKind::Image);
    Ok(storage.list()?.contains(&other))
}

struct Undo<'a> {
    storage: &'a dyn Storage,
    image: &'a dyn StorageFile,
    table: Option<DigestTable>,
    newest: &'a Revision,
    block_size: BlockSize,
}

impl Undo<'_> {
    /// The overlay, and where its tables are; `None` if there is none.
    fn open_overlay(&self, operation: &InProgress) -> Result<Option<(Delta, Tables)>> {
        let (id, size, bytes) = (self.newest.uuid, self.block_size, self.newest.size_bytes);
        // We made the one that is being made. But QEMU may have rewritten a delta that becomes the image.
        if operation.operation == Operation::Remove {
            match Delta::open(self.storage, id, size, bytes) {
                Ok(delta) => return Ok(Some((delta, Tables::AsFound))),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        match Delta::open_laid_out(self.storage, id, size, bytes) {
            Ok(delta) => Ok(Some((delta, Tables::AsLaidOut))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes all blocks back, also those that look right: after a failed sync, what a program sees is not what is
    /// durable. Returns the lost blocks.
    fn copy_back(
        &self,
        overlay: &Delta,
        tables: Tables,
        observer: &dyn Observer,
    ) -> Result<Findings> {
        let size_bytes = self.newest.size_bytes;
        let blocks = BlockIndex(self.block_size.count(size_bytes));
        let counters = progress::begin(observer, Phase::Recover, size_bytes);
        // A length that looks right may not be durable either.
        self.image.set_len(size_bytes + 1)?;
        self.image.set_len(size_bytes)?;
        // A block that a standalone revision does not hold is zero.
        let standalone = overlay.header().backing.is_none();
        let mut copy = Copying {
            undo: self,
            overlay,
            decompressor: Decompressor::new()?,
            content: vec![0; self.block_size.len()],
            zeros: Zeros { image: self.image, extent: Extent::new(0, 0) },
            lost: Findings::default(),
        };
        // A stopped operation still puts everything in order, unless that takes long.
        let patience = if observer.cancelled() { limits().undo_patience } else { Duration::ZERO };
        let began = Instant::now();
        let mut next = BlockIndex(0);
        loop {
            if began.elapsed() >= patience {
                progress::check(observer)?;
            }
            let held = match standalone {
                true => Some(next).filter(|next| *next < blocks),
                false => overlay.next_held_leniently(tables, next, blocks)?,
            };
            let Some(first) = held else { break };
            let count = limits().walk_blocks.min(blocks.0 - first.0);
            let mut held = overlay.held_leniently(tables, first, count)?;
            if standalone {
                held = fill_up(held, first, count);
            }
            let entries = self.entries(first, count)?;
            for (block, cluster) in held {
                let entry = entries.get((block.0 - first.0) as usize).copied();
                copy.take(block, cluster, entry)?;
            }
            let done = self.block_size.offset(first.plus(count));
            counters.add(done - self.block_size.offset(next));
            next = first.plus(count);
        }
        counters.add(size_bytes.saturating_sub(counters.done_bytes()));
        copy.zeros.clear()?;
        Ok(copy.lost)
    }

    /// The digests of these blocks, or nothing if there are none.
    fn entries(&self, first: BlockIndex, count: u64) -> Result<Vec<TableEntry>> {
        match self.table.as_ref().map(|table| table.read(first, count)) {
            None => Ok(Vec::new()),
            Some(Err(error)) if error.is_unreadable() => Ok(Vec::new()),
            Some(read) => read,
        }
    }

    /// An interrupted undoing may have left the image a byte longer.
    fn restore_length(&self) -> Result<()> {
        if self.image.len()? != self.newest.size_bytes {
            self.image.set_len(self.newest.size_bytes)?;
        }
        Ok(())
    }

    /// Blocks of the image that differ from the newest revision, as far as there are digests. All of them if there
    /// are none.
    fn wrong_blocks(&self, observer: &dyn Observer) -> Result<Findings> {
        self.restore_length()?;
        let blocks = self.block_size.count(self.newest.size_bytes);
        let counters = progress::begin(observer, Phase::Recover, self.newest.size_bytes);
        let mut wrong = Findings::default();
        let mut first = BlockIndex(0);
        while first.0 < blocks {
            let count = limits().walk_blocks.min(blocks - first.0);
            let entries = self.entries(first, count)?;
            for block in (first.0..first.0 + count).map(BlockIndex) {
                let entry = entries.get((block.0 - first.0) as usize);
                let held = entry.map(|entry| self.image_holds(block, *entry)).transpose()?;
                if held.flatten().is_none() {
                    wrong.add_bad_block(block);
                }
            }
            counters.add(count * self.block_size.bytes());
            first = first.plus(count);
        }
        Ok(wrong)
    }

    /// The block of the image, if it is that of the newest revision.
    fn image_holds(&self, block: BlockIndex, entry: TableEntry) -> Result<Option<Vec<u8>>> {
        let extent = self.block_size.extent(block, self.newest.size_bytes);
        let mut bytes = vec![0; extent.len as usize];
        let read = judged(self.image.read_persistently(&mut bytes, extent.offset))?;
        Ok((read.is_ok() && entry.matches(&bytes)).then_some(bytes))
    }
}

/// Blocks of a standalone revision: those that it does not hold are zero.
fn fill_up(
    held: Vec<(BlockIndex, Option<Cluster>)>,
    first: BlockIndex,
    count: u64,
) -> Vec<(BlockIndex, Option<Cluster>)> {
    let mut all: Vec<_> =
        (first.0..first.0 + count).map(|block| (BlockIndex(block), Some(Cluster::Zero))).collect();
    for (block, cluster) in held {
        if let Some((_, slot)) = all.get_mut((block.0 - first.0) as usize) {
            *slot = cluster;
        }
    }
    all
}

/// Copying the blocks of an overlay into the image.
struct Copying<'a> {
    undo: &'a Undo<'a>,
    overlay: &'a Delta,
    decompressor: Decompressor,
    content: Vec<u8>,
    zeros: Zeros<'a>,
    lost: Findings,
}

impl Copying<'_> {
    /// Takes the next block: where the overlay holds it, if known, and what it has to be, if known.
    fn take(
        &mut self,
        block: BlockIndex,
        cluster: Option<Cluster>,
        entry: Option<TableEntry>,
    ) -> Result<()> {
        let undo = self.undo;
        let extent = undo.block_size.extent(block, undo.newest.size_bytes);
        let is_zero = matches!(cluster, Some(Cluster::Zero | Cluster::Unallocated));
        let found = match cluster {
            None => false,
            Some(cluster) => {
                let read =
                    self.overlay.read_as_found(cluster, &mut self.decompressor, &mut self.content);
                match read {
                    Err(error) if !error.is_unreadable() => return Err(error),
                    read => read.is_ok(),
                }
            }
        };
        let bytes = self.content.get(..extent.len as usize).unwrap_or(&self.content);
        let is_right = found && entry.is_none_or(|entry| entry.matches(bytes));
        if !is_right {
            let held = entry.map(|entry| undo.image_holds(block, entry)).transpose()?;
            if let Some(right) = held.flatten() {
                return undo.image.write_at(&right, extent.offset);
            }
            self.lost.add(BlockRange { first: block, count: 1 });
        }
        match (found, is_zero) {
            (true, true) => self.zeros.add(extent),
            (true, false) => undo.image.write_at(bytes, extent.offset),
            (false, _) => Ok(()),
        }
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
