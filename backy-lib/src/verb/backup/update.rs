//! Bringing the image up to date without ever losing what it held.
//!
//! *In place*: backy overwrites a block of `last.raw` only when its old content is durable in the overlay. *Staged*:
//! the new blocks are written to a file of their own, a clone of the image or, at the first backup, an empty one;
//! when everything is durable, it is renamed over the image. In both cases, overlay over `last.raw` reads as the
//! revision that was newest, at every moment. Where no change is expected, the image is neither cloned nor opened for
//! writing.

use super::ImageUpdate;
use super::scan::Outcome;
use crate::archive::recover::tidy;
use crate::base::canary::{Bug, planted};
use crate::base::error::Result;
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::pipeline::BufferPool;
use crate::base::revision::RevisionId;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::digests::DigestsHeader;
use crate::format::manifest::Revision;
use crate::image::append::NewDelta;
use crate::image::delta::Delta;
use crate::image::digests::{DigestTable, DigestWriter};
use crate::storage::manifest;
use crate::storage::{Access, DigestsKind, FileName, Storage, StorageFile};

/// An image being brought up to date.
pub(super) struct Update<'a> {
    storage: &'a dyn Storage,
    block_size: BlockSize,
    new_bytes: u64,
    revision: RevisionId,
    image: Box<dyn StorageFile>,
    /// Whether nothing has been written to the image in place, which is open for reading only.
    is_untouched: bool,
    staged: Option<Staged>,
    /// Where the old blocks go.
    overlay: Option<NewDelta>,
    digests: DigestWriter,
    /// Whether they begin as those of the newest revision.
    digests_are_like: bool,
    batch: Batch,
    healed_blocks: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Staged {
    Empty,
    Clone,
    /// What an interrupted pull of the first revision has left: right here and there, anything elsewhere.
    Spool,
}

/// New blocks of the image that wait until the old ones are durable.
#[derive(Default)]
struct Batch {
    /// The offset and the length of each.
    blocks: Vec<(u64, usize)>,
    /// One after the other; used again and again.
    bytes: Vec<u8>,
}

/// An update that is durable except for the manifest.
pub(super) struct Finished {
    /// Whether a clone took the image's place.
    pub cloned: bool,
    /// Bytes on disk of the files of the revision that was the newest.
    pub older_bytes: u64,
    /// The same of the image and its digests; `None` if the file system does not report them.
    pub newest_bytes: Option<u64>,
    /// Old blocks that differ from what was backed up.
    pub bad_blocks: Vec<BlockIndex>,
    /// Bad blocks of the image whose content the source still had; they are right again.
    pub healed_blocks: u64,
    /// Whether the image takes no space that it does not need.
    pub is_tidy: bool,
}

impl Finished {
    /// Bytes on disk that were added. `before` is what the image and its digests took, and `growth_bytes` how much more
    /// data they have now: that counts if the file system does not report what they take.
    pub(super) fn stored_bytes(&self, before: Option<u64>, growth_bytes: i64) -> i64 {
        let reported = self.newest_bytes.zip(before);
        let growth = reported.map(|(after, before)| after as i64 - before as i64);
        self.older_bytes as i64 + growth.unwrap_or(growth_bytes)
    }
}

impl<'a> Update<'a> {
    /// Makes the overlay and the files that the new revision needs. Their names are durable when this returns.
    pub(super) fn begin(
        storage: &'a dyn Storage,
        newest: Option<&Revision>,
        block_size: BlockSize,
        new_bytes: u64,
        revision: RevisionId,
        (policy, expects_changes): (ImageUpdate, bool),
        spools: bool,
    ) -> Result<Self> {
        let overlay = match newest {
            Some(newest) => Some(NewDelta::create(storage, newest, block_size)?),
            None => None,
        };
        // A clone takes longer the more extents the image has, and it has more after each.
        let untouched = match newest.filter(|_| !expects_changes) {
            Some(_) => Some(storage.open(FileName::IMAGE, Access::Read)?),
            None => None,
        };
        let clones = newest.filter(|_| policy == ImageUpdate::Auto);
        let clone = match clones.filter(|_| untouched.is_none()) {
            Some(_) => storage.clone_file(FileName::IMAGE, FileName::STAGED_IMAGE, 0)?,
            None => None,
        };
        let blocks = block_size.count(new_bytes);
        let like = match clones.filter(|_| untouched.is_some() || clone.is_some()) {
            Some(newest) => DigestWriter::create_like(storage, newest.uuid, revision, blocks)?,
            None => None,
        };
        let digests_are_like = like.is_some();
        let digests = match like {
            Some(digests) => digests,
            None => DigestWriter::create(storage, (revision, DigestsKind::Image), blocks)?,
        };
        let is_untouched = untouched.is_some();
        let (image, staged) = match (newest, clone, untouched) {
            (None, ..) => {
                let kept = spools && storage.list()?.contains(&FileName::Spool);
                let image = if kept {
                    storage.rename(FileName::Spool, FileName::STAGED_IMAGE)?;
                    storage.open(FileName::STAGED_IMAGE, Access::Write)?
                } else {
                    storage.create(FileName::STAGED_IMAGE)?
                };
                // First of all: otherwise XFS allocates ahead in a growing file, and skipped blocks are not holes.
                image.set_len(new_bytes)?;
                // Each block is written once, in order.
                image.bypass_cache();
                (image, Some(if kept { Staged::Spool } else { Staged::Empty }))
            }
            (Some(_), Some(clone), _) => (clone, Some(Staged::Clone)),
            (Some(_), None, Some(image)) => (image, None),
            (Some(_), None, None) => (storage.open(FileName::IMAGE, Access::Write)?, None),
        };
        storage.sync_folder()?;
        let batch = Batch::default();
        Ok(Update {
            storage,
            block_size,
            new_bytes,
            revision,
            image,
            is_untouched,
            staged,
            overlay,
            digests,
            digests_are_like,
            batch,
            healed_blocks: 0,
        })
    }

    /// Takes the outcome of the next chunk, in order.
    pub(super) fn take(&mut self, mut outcome: Outcome, buffers: &BufferPool) -> Result<()> {
        self.enter(&outcome)?;
        if self.is_untouched && !outcome.changed.is_empty() {
            // The source has changed its answer since.
            self.image = self.storage.open(FileName::IMAGE, Access::Write)?;
            self.is_untouched = false;
        }
        let holds_anything = matches!(self.staged, Some(Staged::Clone | Staged::Spool));
        if let Some(void) = outcome.void().filter(|_| self.staged == Some(Staged::Spool)) {
            let end = self.block_size.offset(void.end()).min(self.new_bytes);
            self.image
                .punch_hole(Extent::between(self.block_size.offset(void.first).min(end), end))?;
        }
        for run in outcome.runs() {
            let offset = self.block_size.offset(run.first);
            if run.heals {
                self.healed_blocks += run.blocks;
            }
            match (self.staged, outcome.run_bytes(&run)) {
                (None, Some(bytes)) => {
                    if self.batch.bytes.capacity() == 0 {
                        // A vector that grows takes twice as much.
                        self.batch.bytes.reserve(limits().batch_bytes + bytes.len());
                    }
                    self.batch.blocks.push((offset, bytes.len()));
                    self.batch.bytes.extend_from_slice(bytes);
                }
                (Some(_), Some(bytes)) => self.image.write_at(bytes, offset)?,
                (_, None) if run.heals || holds_anything => {
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
            overlay.push(old.stored, old.entry, old.bad)?;
        }
        let old_bytes = self.overlay.as_ref().map_or(0, NewDelta::batch_bytes);
        if self.batch.bytes.len() + old_bytes >= limits().batch_bytes {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn enter(&mut self, outcome: &Outcome) -> Result<()> {
        for (number, entry) in outcome.entries.iter().enumerate() {
            let block = outcome.first().plus(number as u64);
            if !self.digests_are_like {
                self.digests.push(block, *entry)?;
            } else if outcome.old_entries.get(number) != Some(entry) {
                self.digests.replace(block, *entry)?;
            }
        }
        Ok(())
    }

    /// Old blocks first, durable; then their entries, durable; then the new blocks.
    fn flush(&mut self) -> Result<()> {
        if planted(Bug::SwappedOrder) {
            self.write_new()?;
        }
        if let Some(overlay) = &mut self.overlay {
            overlay.flush()?;
        }
        // If the lock does not keep writers apart, the image may be another's by now.
        manifest::check_ours(self.storage)?;
        self.write_new()?;
        self.batch.blocks.clear();
        self.batch.bytes.clear();
        Ok(())
    }

    fn write_new(&self) -> Result<()> {
        let mut rest = self.batch.bytes.as_slice();
        for (offset, length) in &self.batch.blocks {
            let Some((bytes, behind)) = rest.split_at_checked(*length) else { break };
            self.image.write_at(bytes, *offset)?;
            rest = behind;
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
        let digests_bytes = self.digests.finish(header)?;
        let mut older_bytes = 0;
        let mut bad_blocks = Vec::new();
        let mut room_bytes = None;
        if let (Some(overlay), Some(old_header)) = (self.overlay.take(), old_header) {
            let (delta, overlay_bytes, bad) = overlay.finish(old_header)?;
            older_bytes = overlay_bytes;
            bad_blocks = bad;
            if self.staged.is_none() {
                let table = DigestTable::open(self.storage, self.revision, DigestsKind::Image)?;
                let (size, bytes) = (self.block_size, self.new_bytes);
                room_bytes = clear_zero_blocks(&*self.image, size, bytes, &delta, &table)?;
            }
        }
        if self.staged.is_none() && self.image.len()? > self.new_bytes {
            let end = Extent::between(self.new_bytes, self.image.len()?);
            room_bytes = Some(room_bytes.unwrap_or(0) + tidy::data_bytes(&*self.image, end)?);
        } else if !self.is_untouched {
            self.image.set_len(self.new_bytes)?;
        }
        if !planted(Bug::EarlyCommit) {
            self.image.sync()?;
        }
        manifest::check_ours(self.storage)?;
        if self.staged.is_some() {
            self.storage.rename(FileName::STAGED_IMAGE, FileName::IMAGE)?;
        }
        self.storage.sync_folder()?;
        let kept = |bytes: u64| bytes.saturating_sub(room_bytes.unwrap_or(0));
        let newest_bytes = self.image.taken_bytes()?.map(|image| kept(image) + digests_bytes);
        let (cloned, healed_blocks) = (self.staged == Some(Staged::Clone), self.healed_blocks);
        let is_tidy = room_bytes.is_none();
        Ok(Finished { cloned, older_bytes, newest_bytes, bad_blocks, healed_blocks, is_tidy })
    }
}

/// Clears the blocks that the overlay holds and that are zero now. They keep their space, which undoing would need.
/// Returns how much of it can be freed when the revision is committed, if there are such blocks.
fn clear_zero_blocks(
    image: &dyn StorageFile,
    block_size: BlockSize,
    size_bytes: u64,
    overlay: &Delta,
    table: &DigestTable,
) -> Result<Option<u64>> {
    let mut room_bytes = None;
    tidy::for_each_emptied(size_bytes, block_size, overlay, table, |extent| {
        room_bytes = Some(room_bytes.unwrap_or(0) + tidy::data_bytes(image, extent)?);
        image.zero(extent)
    })?;
    Ok(room_bytes)
}
