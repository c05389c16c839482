//! Any revision as bytes: its own delta, the deltas it reads through to, and the newest image.
//!
//! A chain takes no lock, so a backup may be changing `last.raw` meanwhile. The digest makes that safe: a chain
//! returns a block only if it has the digest that was recorded for it. A block of `last.raw` with another digest is
//! either rotten or already overwritten by a newer revision; in the second case the overlay of the revision that was
//! newest holds the old content, and held it before the image changed. So after a mismatch the reader looks there. If
//! that has nothing either, it reads the manifest again: another backup may have been committed, or a revision merged
//! away, since the chain was opened. If the revision itself has been deleted, the chain uses the files that it holds
//! open, over its first revision that still exists (`chain/moved.rs`). Only if all that fails does it return an
//! error.
//!
//! A backing file that is shorter than its overlay reads as zeros past its end, as in QEMU.
//!
//! `Chain::open_tolerant` is for recovering whatever is still readable. A file that cannot be opened, or a table
//! that cannot be read, makes the blocks that reach it *lost*, and only those: their data cannot be read.

mod moved;
mod read;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

use crate::base::canary::{Bug, planted};
use crate::base::digest::{DIGEST_BYTES, Digest, RevisionHasher, TableEntry, is_zero};
use crate::base::error::{Error, Result};
use crate::base::limits::limits;
use crate::base::progress::{self, Observer};
use crate::base::revision::RevisionId;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::{Findings, Manifest, Revision};
use crate::format::qcow2::Cluster;
use crate::image::delta::Delta;
use crate::image::digests::DigestTable;
use crate::image::walk::Walk;
use crate::storage::{Access, DigestsKind, FileName, Stamp, Storage, StorageFile};

/// Digests of blocks this close together are read together: one system call costs as much as the digests in between.
const NEAR_BLOCKS: u64 = 64;
/// A revision, open for reading.
pub struct Chain {
    storage: Arc<dyn Storage>,
    revision: Revision,
    block_size: BlockSize,
    /// The revision's own delta first, then the next newer ones.
    layers: Vec<Arc<Layer>>,
    /// None if a standalone revision comes before it, or if the chain is broken.
    image: Option<Arc<Image>>,
    /// The same revision as it is stored now, if that has been needed.
    reopened: Mutex<Option<Arc<Chain>>>,
    /// Checksum of the manifest that it was opened from.
    manifest_checksum: String,
    /// Whether unreadable blocks are lost instead of an error.
    tolerant: bool,
    /// Where the chain breaks off, if it does.
    broken: Option<Broken>,
    /// The blocks that an undo archive left out of it.
    left_out: Findings,
}

/// A layer, or the image, that cannot be opened. Blocks that reach it are lost.
struct Broken {
    error: Error,
    size_bytes: u64,
}

struct Layer {
    delta: Delta,
    digests: DigestTable,
    revision: RevisionId,
    size_bytes: u64,
    /// Blocks that it does not hold are zero.
    standalone: bool,
}

struct Image {
    file: Box<dyn StorageFile>,
    digests: DigestTable,
    revision: RevisionId,
}

/// Where one block of a revision is, and which digest it must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    pub(crate) place: Place,
    /// Its digest.
    pub entry: TableEntry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Zero,
    /// In this layer: 0 is the revision's own delta.
    Layer(usize, Cluster),
    Image,
    Lost,
}

impl Located {
    pub(crate) const ZERO: Located = Located { place: Place::Zero, entry: TableEntry::ZERO_BLOCK };
    /// Its digest is one that no block has: a comparison finds a difference, and reading returns an error.
    const LOST: Located = Located { place: Place::Lost, entry: TableEntry([0xff; DIGEST_BYTES]) };
}

impl Chain {
    /// Opens revision `number` of the manifest, counted from the newest, and everything that it reads through to.
    pub(crate) fn open(
        storage: &Arc<dyn Storage>,
        manifest: &Manifest,
        number: usize,
    ) -> Result<Self> {
        Self::open_as(storage, manifest, number, false)
    }

    /// The same for blocks that are still readable; [`Chain::broken`] returns what could not be opened.
    pub(crate) fn open_tolerant(
        storage: &Arc<dyn Storage>,
        manifest: &Manifest,
        number: usize,
    ) -> Result<Self> {
        Self::open_as(storage, manifest, number, true)
    }

    fn open_as(
        storage: &Arc<dyn Storage>,
        manifest: &Manifest,
        number: usize,
        tolerant: bool,
    ) -> Result<Self> {
        let no_such =
            || Error::NoSuchRevision { message: format!("there is no revision {number}") };
        let revision = manifest.revisions.get(number).ok_or_else(no_such)?;
        let mut chain = Chain {
            storage: Arc::clone(storage),
            revision: revision.clone(),
            block_size: manifest.block_size,
            layers: Vec::new(),
            image: None,
            reopened: Mutex::default(),
            manifest_checksum: manifest.checksum().to_owned(),
            tolerant,
            broken: None,
            left_out: if manifest.is_undo() {
                revision.findings.clone()
            } else {
                Findings::default()
            },
        };
        for layer in manifest.revisions.get(..=number).unwrap_or_default().iter().rev() {
            if let Err(error) = chain.push_layer(layer) {
                if !chain.tolerates(&error) {
                    return Err(error);
                }
                chain.broken = Some(Broken { error, size_bytes: layer.size_bytes });
                break;
            }
            if layer.is_image() || layer.is_standalone() {
                break;
            }
        }
        Ok(chain)
    }

    fn push_layer(&mut self, layer: &Revision) -> Result<()> {
        let (storage, id) = (&*self.storage, layer.uuid);
        if layer.is_image() {
            self.image = Some(Arc::new(Image {
                file: storage.open(FileName::IMAGE, Access::Read)?,
                digests: DigestTable::open(storage, id, DigestsKind::Image)?,
                revision: id,
            }));
            return Ok(());
        }
        self.layers.push(Arc::new(Layer {
            delta: Delta::open(storage, id, self.block_size, layer.size_bytes)?,
            digests: DigestTable::open(storage, id, DigestsKind::Delta)?,
            revision: id,
            size_bytes: layer.size_bytes,
            standalone: layer.is_standalone(),
        }));
        Ok(())
    }

    /// Whether it belongs to an undo archive, which holds only part of it.
    pub(crate) fn is_partial(&self) -> bool {
        !self.left_out.bad_blocks.is_empty()
    }

    /// Whether an undo archive deliberately left the block out: there the image has nothing.
    pub(crate) fn leaves_out(&self, block: BlockIndex) -> Result<bool> {
        if !self.left_out.is_bad(block) {
            return Ok(false);
        }
        let extent = self.block_size.extent(block, self.revision.size_bytes);
        let mut bytes = vec![0; extent.len as usize];
        self.read_image(&mut bytes, extent.offset)?;
        Ok(is_zero(&bytes))
    }

    /// The error of a file that could not be opened, if the chain tolerates that.
    pub fn broken(&self) -> Option<&Error> {
        self.broken.as_ref().map(|broken| &broken.error)
    }

    fn tolerates(&self, error: &Error) -> bool {
        self.tolerant && error.is_loss()
    }

    /// The revision that this chain reads.
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// Block size of the archive.
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// How many blocks the revision has.
    pub fn blocks(&self) -> u64 {
        self.block_size.count(self.revision.size_bytes)
    }

    /// Whether no change of the archive can affect what this chain reads: it does not use the image.
    pub(crate) fn is_settled(&self) -> bool {
        self.image.is_none()
    }

    /// Whether it is the newest revision, which holds all its blocks in the image.
    pub(crate) fn is_image(&self) -> bool {
        self.layers.is_empty() && self.image.is_some()
    }

    /// Announces that the image is read once, from one end to the other: see [`StorageFile::bypass_cache`].
    pub(crate) fn bypass_cache(&self) {
        if let Some(image) = &self.image {
            image.file.bypass_cache();
        }
    }

    /// Reads the image from another file from now on.
    pub(crate) fn set_image_file(&mut self, file: Box<dyn StorageFile>) {
        // Only an image that has just been opened: it is not in another chain yet.
        if let Some(image) = self.image.take().and_then(Arc::into_inner) {
            self.image = Some(Arc::new(Image { file, ..image }));
        }
    }

    /// A value that changes when anybody writes to the image; see [`StorageFile::stamp`].
    pub(crate) fn image_stamp(&self) -> Result<Option<Stamp>> {
        self.image.as_ref().map_or(Ok(None), |image| image.file.stamp())
    }

    /// Reads the image as it is at this moment, right or not; zeros if there is none.
    pub(crate) fn read_image(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        match &self.image {
            Some(image) => image.file.read_padded_at(buffer, offset),
            None => {
                buffer.fill(0);
                Ok(())
            }
        }
    }

    /// Where `count` blocks from `first` on are; fewer at the end of the image.
    pub fn locate(&self, first: BlockIndex, count: u64) -> Result<Vec<Located>> {
        let count = count.min(self.blocks().saturating_sub(first.0));
        match self.locate_all(first, count) {
            Err(error) if self.tolerates(&error) => {}
            located => return located,
        }
        if count <= 1 {
            return Ok(vec![Located::LOST; count as usize]);
        }
        // A wrong entry costs only its own block.
        let mut located = self.locate(first, count / 2)?;
        located.extend(self.locate(first.plus(count / 2), count - count / 2)?);
        Ok(located)
    }

    fn locate_all(&self, first: BlockIndex, count: u64) -> Result<Vec<Located>> {
        let mut located: Vec<Option<Located>> = vec![None; count as usize];
        let mut expected: Vec<Option<TableEntry>> = vec![None; count as usize];
        for (number, layer) in self.layers.iter().enumerate() {
            self.locate_in_layer(number, layer, first, &mut located, &mut expected)?;
        }
        if let (Some((from, to)), Some(image)) = (unlocated(&located), &self.image) {
            let from_block = first.plus(from as u64);
            let entries = image.digests.read(from_block, (to - from) as u64)?;
            let open = located.get_mut(from..to).unwrap_or_default();
            for (slot, entry) in open.iter_mut().zip(entries) {
                let place = if entry.is_zero_block() { Place::Zero } else { Place::Image };
                slot.get_or_insert(Located { place, entry });
            }
        }
        if let Some(broken) = &self.broken {
            let inside = self.block_size.count(broken.size_bytes).saturating_sub(first.0) as usize;
            located.iter_mut().take(inside).for_each(|slot| _ = slot.get_or_insert(Located::LOST));
        }
        // Blocks past the end of the newest image had been cut off before it.
        let located = located.into_iter().map(|slot| slot.unwrap_or(Located::ZERO));
        let checked = located.zip(expected).map(|(located, expected)| match expected {
            Some(expected) if expected != located.entry => Located::LOST,
            _ => located,
        });
        Ok(checked.collect())
    }

    fn locate_in_layer(
        &self,
        number: usize,
        layer: &Layer,
        first: BlockIndex,
        located: &mut [Option<Located>],
        expected: &mut [Option<TableEntry>],
    ) -> Result<()> {
        let Some((from, to)) = unlocated(located) else { return Ok(()) };
        let from_block = first.plus(from as u64);
        let blocks = self.block_size.count(layer.size_bytes);
        let blocks = if planted(Bug::PastTheEnd) { blocks + 1 } else { blocks };
        // Past the end of a backing file everything is zero, however long the next one is.
        let inside = (blocks.saturating_sub(from_block.0) as usize).min(to - from);
        for slot in located.get_mut(from + inside..to).unwrap_or_default() {
            slot.get_or_insert(Located::ZERO);
        }
        let end = from_block.plus(inside as u64);
        if layer.delta.next_held_block(from_block, end)?.is_none() && !self.tolerant {
            if layer.standalone {
                located.iter_mut().for_each(|slot| _ = slot.get_or_insert(Located::ZERO));
            }
            return Ok(());
        }
        let mut held = layer.delta.held(from_block, inside as u64)?;
        held.retain(|(block, _)| located.get((block.0 - first.0) as usize) == Some(&None));
        for near in held.chunk_by(|(a, _), (b, _)| b.0 - a.0 < NEAR_BLOCKS) {
            let (Some((from, _)), Some((last, _))) = (near.first(), near.last()) else { continue };
            let entries = layer.digests.read(*from, last.0 + 1 - from.0)?;
            for (block, cluster) in near {
                let Some(&entry) = entries.get((block.0 - from.0) as usize) else { continue };
                let zero = entry.is_zero_block();
                let place = if zero { Place::Zero } else { Place::Layer(number, *cluster) };
                if let Some(slot) = located.get_mut((block.0 - first.0) as usize) {
                    *slot = Some(Located { place, entry });
                }
            }
        }
        let open = located.get_mut(from..from + inside).unwrap_or_default();
        if self.tolerant {
            // Only a block that a delta holds has an entry in its digest file, except those that a failed merge did
            // not get to enter. If the delta reads other content through to here, it has lost the block.
            let expected = expected.get_mut(from..from + inside).unwrap_or_default();
            let entries = layer.digests.read(from_block, inside as u64)?;
            for ((slot, entry), expected) in open.iter().zip(entries).zip(expected) {
                if slot.is_none() && !entry.is_zero_block() {
                    expected.get_or_insert(entry);
                }
            }
        }
        if layer.standalone {
            open.iter_mut().for_each(|slot| _ = slot.get_or_insert(Located::ZERO));
        }
        Ok(())
    }

    /// The first block at or after `from` that may be other than zero.
    pub fn next_data_block(&self, from: BlockIndex) -> Result<Option<BlockIndex>> {
        let next = match self.find_data_block(from) {
            Err(error) if self.tolerates(&error) => Some(from),
            found => found?,
        };
        Ok(next.filter(|block| block.0 < self.blocks()))
    }

    fn find_data_block(&self, from: BlockIndex) -> Result<Option<BlockIndex>> {
        let mut next = match &self.image {
            Some(image) => image.digests.next_data_block(from)?,
            None => self.broken.as_ref().map(|_| from),
        };
        for layer in &self.layers {
            let end = next.unwrap_or(BlockIndex(self.blocks()));
            next = layer.delta.next_held_block(from, end)?.or(next);
            if self.tolerant {
                next = next.into_iter().chain(layer.digests.next_data_block(from)?).min();
            }
        }
        Ok(next)
    }

    /// The first block at or after `from` that the revision's own file holds, even as a zero block; for the newest
    /// revision that is every block.
    pub(crate) fn next_own_block(&self, from: BlockIndex) -> Result<Option<BlockIndex>> {
        let end = BlockIndex(self.blocks());
        let Some(layer) = self.layers.first() else { return Ok((from < end).then_some(from)) };
        let mut from = from;
        while let Some(next) = layer.delta.next_held_block(from, end)? {
            let count = limits().window_blocks.min(end.0.saturating_sub(next.0));
            if let Some((held, _)) = layer.delta.held(next, count)?.first() {
                return Ok(Some(*held));
            }
            from = next.plus(count);
        }
        Ok(None)
    }

    /// Checks that the digests of all blocks give the digest of the revision: then a zero entry can be trusted, and a
    /// block that matches its entry is the right one.
    pub fn verify_digests(&self, observer: &dyn Observer) -> Result<()> {
        let (found, expected) = (self.table_digest(observer)?, self.revision.expected_digest());
        if found == expected || planted(Bug::UncheckedDigests) {
            return Ok(());
        }
        Err(Error::damaged(
            self.storage.folder(),
            format!("digest of revision {} from its digest files", self.revision.uuid),
            found,
            expected,
        ))
    }

    /// The digest over the digests of all blocks.
    pub(crate) fn table_digest(&self, observer: &dyn Observer) -> Result<Digest> {
        let mut hasher = RevisionHasher::new(self.block_size, self.revision.size_bytes);
        let mut next = BlockIndex(0);
        let mut walk = Walk::new(self);
        while let Some(piece) = walk.next_window()? {
            progress::check(observer)?;
            hasher.push_zero_blocks(piece.first.0 - next.0, observer)?;
            next = piece.end();
            piece.located.iter().for_each(|block| hasher.push(block.entry));
        }
        hasher.push_zero_blocks(self.blocks() - next.0, observer)?;
        Ok(hasher.finish())
    }
}

/// The stretch from the first to just after the last block that has no place yet.
fn unlocated(located: &[Option<Located>]) -> Option<(usize, usize)> {
    let from = located.iter().position(Option::is_none)?;
    let last = located.iter().rposition(Option::is_none)?;
    Some((from, last + 1))
}
