//! Bringing the image up to date without ever losing what it held.
//!
//! *In place*: a block of `last.raw` is overwritten only when its old content is durable in the overlay. *Staged*: the new
//! blocks go to a file of their own, a clone of the image or, at the first backup, an empty one, which is renamed over it
//! when all is durable. In both, overlay over `last.raw` reads as the revision that was newest, at every moment.

use super::ImageUpdate;
use super::scan::Outcome;
use crate::canary::{Bug, planted};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::format::digests::DigestsHeader;
use crate::format::manifest::Revision;
use crate::format::qcow2::Cluster;
use crate::image::delta::{Delta, DeltaWriter, OldBlock};
use crate::image::digests::{DigestTable, DigestWriter};
use crate::manifest;
use crate::pipeline::BufferPool;
use crate::revision::RevisionId;
use crate::storage::{Access, DigestsKind, FileName, Storage, StorageFile};
use crate::units::{BlockIndex, BlockSize};

/// Bytes of old and new blocks that are gathered before they are made durable.
const BATCH_BYTES: usize = 16 << 20;

/// Blocks looked at together.
const WALK_BLOCKS: u64 = 4096;

/// An image being brought up to date.
pub(super) struct Update<'a> {
    storage: &'a dyn Storage,
    block_size: BlockSize,
    new_bytes: u64,
    revision: RevisionId,
    image: Box<dyn StorageFile>,
    staged: Option<Staged>,
    overlay: Option<Overlay>,
    digests: DigestWriter,
    batch: Batch,
    healed_blocks: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Staged {
    Empty,
    Clone,
}

/// Where the old blocks go.
struct Overlay {
    writer: DeltaWriter,
    digests: DigestWriter,
    bad_blocks: Vec<BlockIndex>,
}

#[derive(Default)]
struct Batch {
    old: Vec<OldBlock>,
    new: Vec<(u64, Vec<u8>)>,
    bytes: usize,
}

/// An update of which everything but the manifest is durable.
pub(super) struct Finished {
    /// Whether a clone took the image's place.
    pub cloned: bool,
    /// Bytes on disk of the files that were made and of the image.
    pub stored_bytes: u64,
    /// Old blocks that were not what was backed up.
    pub bad_blocks: Vec<BlockIndex>,
    /// Blocks of the image that were bad and are right again.
    pub healed_blocks: u64,
}

impl<'a> Update<'a> {
    /// Makes the overlay and the files that the new revision needs. Their names are durable when this returns.
    pub(super) fn begin(
        storage: &'a dyn Storage,
        newest: Option<&Revision>,
        block_size: BlockSize,
        new_bytes: u64,
        revision: RevisionId,
        policy: ImageUpdate,
    ) -> Result<Self> {
        let overlay = newest
            .map(|newest| {
                let (id, bytes) = (newest.uuid, newest.size_bytes);
                Ok::<_, Error>(Overlay {
                    writer: DeltaWriter::create(storage, id, block_size, bytes)?,
                    digests: DigestWriter::create(storage, id, DigestsKind::Delta)?,
                    bad_blocks: Vec::new(),
                })
            })
            .transpose()?;
        let digests = DigestWriter::create(storage, revision, DigestsKind::Image)?;
        let (image, staged) = match (newest, policy) {
            (None, _) => {
                let image = storage.create(FileName::STAGED_IMAGE)?;
                // Each block is written once, in order.
                image.bypass_cache();
                (image, Some(Staged::Empty))
            }
            (Some(_), ImageUpdate::InPlace) => {
                (storage.open(FileName::IMAGE, Access::Write)?, None)
            }
            (Some(_), ImageUpdate::Auto) => {
                match storage.clone_file(FileName::IMAGE, FileName::STAGED_IMAGE)? {
                    Some(clone) => (clone, Some(Staged::Clone)),
                    None => (storage.open(FileName::IMAGE, Access::Write)?, None),
                }
            }
        };
        storage.sync_folder()?;
        let batch = Batch::default();
        Ok(Update {
            storage,
            block_size,
            new_bytes,
            revision,
            image,
            staged,
            overlay,
            digests,
            batch,
            healed_blocks: 0,
        })
    }

    /// Takes the outcome of the next chunk, in order.
    pub(super) fn take(&mut self, mut outcome: Outcome, buffers: &BufferPool) -> Result<()> {
        for (number, entry) in outcome.entries.iter().enumerate() {
            self.digests.push(outcome.first().plus(number as u64), *entry)?;
        }
        for run in outcome.runs() {
            let offset = self.block_size.offset(run.first);
            if run.heals {
                self.healed_blocks += run.blocks;
            }
            match (self.staged, outcome.run_bytes(&run)) {
                (None, Some(bytes)) => {
                    self.batch.bytes += bytes.len();
                    self.batch.new.push((offset, bytes.to_vec()));
                }
                (Some(_), Some(bytes)) => self.image.write_at(bytes, offset)?,
                (staged, None) if run.heals || staged == Some(Staged::Clone) => {
                    let end = self.block_size.offset(run.first.plus(run.blocks));
                    let end = end.min(self.new_bytes);
                    self.image.punch_hole(Extent::between(offset.min(end), end))?;
                }
                // A new file is zero; in place, holes are made at the end.
                (_, None) => {}
            }
        }
        if let Some(bytes) = outcome.bytes.take() {
            buffers.give(bytes);
        }
        for changed in outcome.changed {
            let (Some(old), Some(overlay)) = (changed.old, &mut self.overlay) else { continue };
            overlay.digests.push(changed.block, old.entry)?;
            if old.bad {
                overlay.bad_blocks.push(changed.block);
            }
            self.batch.bytes += old.stored.content.bytes();
            self.batch.old.push(old.stored);
        }
        if self.batch.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    /// Old blocks first, durable; then their entries, durable; then the new blocks.
    fn flush(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        if planted(Bug::SwappedOrder) {
            self.write_new(&batch)?;
        }
        if let Some(overlay) = self.overlay.as_mut().filter(|_| !batch.old.is_empty()) {
            overlay.writer.append(&batch.old)?;
            overlay.writer.sync()?;
            overlay.writer.enter()?;
            if !planted(Bug::SkippedSync) {
                overlay.writer.sync()?;
            }
        }
        // Where the lock does not keep writers apart, the image may be another's by now.
        manifest::check_ours(self.storage)?;
        self.write_new(&batch)
    }

    fn write_new(&self, batch: &Batch) -> Result<()> {
        for (offset, bytes) in &batch.new {
            self.image.write_at(bytes, *offset)?;
        }
        Ok(())
    }

    /// Makes everything durable and puts the image in its place.
    pub(super) fn finish(
        mut self,
        header: &DigestsHeader,
        old_header: Option<&DigestsHeader>,
    ) -> Result<Finished> {
        self.flush()?;
        let mut stored_bytes = self.digests.finish(header)?;
        let mut bad_blocks = Vec::new();
        if let (Some(overlay), Some(old_header)) = (self.overlay.take(), old_header) {
            stored_bytes += overlay.digests.finish(old_header)?;
            let delta = overlay.writer.finish()?;
            stored_bytes += delta.allocated_bytes()?;
            bad_blocks = overlay.bad_blocks;
            // Last, for it frees room that undoing would need: everything else has had its chance to fail.
            if self.staged.is_none() {
                let table = DigestTable::open(self.storage, self.revision, DigestsKind::Image)?;
                punch_zero_blocks(&*self.image, self.block_size, self.new_bytes, &delta, &table)?;
            }
        }
        self.image.set_len(self.new_bytes)?;
        if !planted(Bug::EarlyCommit) {
            self.image.sync()?;
        }
        manifest::check_ours(self.storage)?;
        if self.staged.is_some() {
            self.storage.rename(FileName::STAGED_IMAGE, FileName::IMAGE)?;
        }
        self.storage.sync_folder()?;
        stored_bytes += self.image.allocated_bytes()?;
        let (cloned, healed_blocks) = (self.staged == Some(Staged::Clone), self.healed_blocks);
        Ok(Finished { cloned, stored_bytes, bad_blocks, healed_blocks })
    }
}

/// Makes holes of the blocks that were data and are zero now: the overlay holds them, the new digests say zero.
fn punch_zero_blocks(
    image: &dyn StorageFile,
    block_size: BlockSize,
    size_bytes: u64,
    delta: &Delta,
    table: &DigestTable,
) -> Result<()> {
    let blocks = BlockIndex(block_size.count(size_bytes));
    let mut next = BlockIndex(0);
    while let Some(held) = delta.next_held_block(next, blocks)? {
        let entries = table.read(held, WALK_BLOCKS)?;
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
                image.punch_hole(Extent::between(block_size.offset(first), end))?;
            }
            first = end;
        }
    }
    Ok(())
}
