//! Any revision as bytes: its own delta, the deltas it reads through to, and the newest image.
//!
//! No lock is taken, so a backup may be changing `last.raw` meanwhile. What makes that safe is the digest: a block is
//! given out only if it has the digest that was recorded for it. A block of `last.raw` that has not is either rotten or
//! already overwritten by a newer revision; in the second case the overlay of the revision that was newest holds the old
//! content, and held it before the image was touched. So a mismatch sends the reader there, and only when that has
//! nothing either is it an error.
//!
//! A backing file that is shorter than its overlay reads as zeros past its end, as QEMU has it.

use std::sync::Arc;

use crate::digest::{RevisionHasher, TableEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::{Manifest, Revision};
use crate::format::qcow2::{Cluster, Decompressor};
use crate::image::delta::Delta;
use crate::image::digests::DigestTable;
use crate::revision::RevisionId;
use crate::storage::{Access, DigestsKind, FileName, Storage, StorageFile};
use crate::units::{BlockIndex, BlockSize};

/// Blocks located at a time: the tables of a long chain are read once for all of them.
pub const WINDOW_BLOCKS: u64 = 4096;

/// How often a block that another process keeps moving is looked for.
const ATTEMPTS: u32 = 8;

/// How many backups may be made while a chain is open before its newest blocks are given up.
const MAX_OVERLAYS: u32 = 4096;

/// A revision, open for reading.
pub struct Chain {
    storage: Arc<dyn Storage>,
    revision: Revision,
    block_size: BlockSize,
    /// The revision's own delta first, then ever newer ones.
    layers: Vec<Layer>,
    image: Box<dyn StorageFile>,
    image_digests: DigestTable,
    newest: RevisionId,
}

struct Layer {
    delta: Delta,
    digests: DigestTable,
    revision: RevisionId,
    size_bytes: u64,
}

/// Where one block of a revision is, and what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    place: Place,
    /// Its digest.
    pub entry: TableEntry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Zero,
    Layer(usize, Cluster),
    Image,
}

impl Located {
    const ZERO: Located = Located { place: Place::Zero, entry: TableEntry::ZERO_BLOCK };
}

impl Chain {
    /// Opens revision `number` of the manifest, counted from the newest, and all that it reads through to.
    pub fn open(storage: &Arc<dyn Storage>, manifest: &Manifest, number: usize) -> Result<Self> {
        let no_such =
            || Error::NoSuchRevision { message: format!("there is no revision {number}") };
        let revision = manifest.revisions.get(number).ok_or_else(no_such)?;
        let newest = manifest.revisions.first().ok_or_else(no_such)?;
        let block_size = manifest.block_size;
        let deltas = manifest.revisions.get(1..=number).unwrap_or_default();
        let layers = deltas
            .iter()
            .rev()
            .map(|layer| {
                let (id, bytes) = (layer.uuid, layer.size_bytes);
                Ok(Layer {
                    delta: Delta::open(&**storage, id, block_size, bytes)?,
                    digests: DigestTable::open(&**storage, id, DigestsKind::Delta)?,
                    revision: id,
                    size_bytes: bytes,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Chain {
            storage: Arc::clone(storage),
            revision: revision.clone(),
            block_size,
            layers,
            image: storage.open(FileName::IMAGE, Access::Read)?,
            image_digests: DigestTable::open(&**storage, newest.uuid, DigestsKind::Image)?,
            newest: newest.uuid,
        })
    }

    /// The revision that this is.
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

    /// Where `count` blocks from `first` on are; fewer at the end of the image.
    pub fn locate(&self, first: BlockIndex, count: u64) -> Result<Vec<Located>> {
        let count = count.min(self.blocks().saturating_sub(first.0));
        let mut located: Vec<Option<Located>> = vec![None; count as usize];
        for (number, layer) in self.layers.iter().enumerate() {
            self.locate_in_layer(number, layer, first, &mut located)?;
        }
        if let Some((from, to)) = unlocated(&located) {
            let from_block = first.plus(from as u64);
            let entries = self.image_digests.read(from_block, (to - from) as u64)?;
            let open = located.get_mut(from..to).unwrap_or_default();
            for (slot, entry) in open.iter_mut().zip(entries) {
                let place = if entry.is_zero_block() { Place::Zero } else { Place::Image };
                slot.get_or_insert(Located { place, entry });
            }
        }
        // What is past the end of the newest image was cut off before it.
        Ok(located.into_iter().map(|slot| slot.unwrap_or(Located::ZERO)).collect())
    }

    fn locate_in_layer(
        &self,
        number: usize,
        layer: &Layer,
        first: BlockIndex,
        located: &mut [Option<Located>],
    ) -> Result<()> {
        let Some((from, to)) = unlocated(located) else { return Ok(()) };
        let from_block = first.plus(from as u64);
        let blocks = self.block_size.count(layer.size_bytes);
        // Past the end of a backing file everything is zero, however long the next one is.
        let inside = (blocks.saturating_sub(from_block.0) as usize).min(to - from);
        for slot in located.get_mut(from + inside..to).unwrap_or_default() {
            slot.get_or_insert(Located::ZERO);
        }
        if layer.delta.next_held_block(from_block, from_block.plus(inside as u64))?.is_none() {
            return Ok(());
        }
        let clusters = layer.delta.clusters(from_block, inside as u64)?;
        let entries = layer.digests.read(from_block, inside as u64)?;
        let open = located.get_mut(from..from + inside).unwrap_or_default();
        for ((slot, cluster), entry) in open.iter_mut().zip(clusters).zip(entries) {
            if cluster != Cluster::Unallocated && slot.is_none() {
                let zero = entry.is_zero_block();
                let place = if zero { Place::Zero } else { Place::Layer(number, cluster) };
                *slot = Some(Located { place, entry });
            }
        }
        Ok(())
    }

    /// The first block at or after `from` that may be other than zero.
    pub fn next_data_block(&self, from: BlockIndex) -> Result<Option<BlockIndex>> {
        let mut next = self.image_digests.next_data_block(from)?;
        for layer in &self.layers {
            let end = next.unwrap_or(BlockIndex(self.blocks()));
            next = layer.delta.next_held_block(from, end)?.or(next);
        }
        Ok(next.filter(|block| block.0 < self.blocks()))
    }

    /// Checks that the digests of all blocks come out as the digest of the revision: then a zero entry can be trusted,
    /// and a block that matches its entry is the right one.
    pub fn verify_digests(&self) -> Result<()> {
        let mut hasher = RevisionHasher::new(self.block_size, self.revision.size_bytes);
        let mut next = BlockIndex(0);
        while let Some(data) = self.next_data_block(next)? {
            hasher.push_zero_blocks(data.0 - next.0);
            let located = self.locate(data, WINDOW_BLOCKS)?;
            next = data.plus(located.len() as u64);
            located.iter().for_each(|block| hasher.push(block.entry));
        }
        hasher.push_zero_blocks(self.blocks() - next.0);
        let found = hasher.finish();
        if found == self.revision.digest {
            return Ok(());
        }
        Err(Error::damaged(
            self.storage.folder(),
            format!("digest of revision {} from its digest files", self.revision.uuid),
            found,
            self.revision.digest,
        ))
    }

    /// Reads located blocks into `buffer`, which is as long as they are, and checks each against its digest.
    pub fn read(
        &self,
        first: BlockIndex,
        located: &[Located],
        decompressor: &mut Decompressor,
        buffer: &mut [u8],
    ) -> Result<()> {
        let mut block = first;
        let mut rest = buffer;
        for run in located.chunk_by(|a, b| a.place == Place::Image && b.place == Place::Image) {
            let end = self.block_size.offset(block.plus(run.len() as u64));
            let bytes = end.min(self.revision.size_bytes) - self.block_size.offset(block);
            let (part, after) = rest.split_at_mut_checked(bytes as usize).unwrap_or_default();
            match run {
                [Located { place: Place::Zero, .. }] => part.fill(0),
                [Located { place: Place::Layer(layer, cluster), entry }] => {
                    self.read_from_layer(*layer, *cluster, *entry, block, decompressor, part)?;
                }
                run => self.read_from_image(block, run, decompressor, part)?,
            }
            rest = after;
            block = block.plus(run.len() as u64);
        }
        Ok(())
    }

    fn read_from_layer(
        &self,
        layer: usize,
        cluster: Cluster,
        entry: TableEntry,
        block: BlockIndex,
        decompressor: &mut Decompressor,
        part: &mut [u8],
    ) -> Result<()> {
        let Some(layer) = self.layers.get(layer) else { return Ok(()) };
        read_cut(&layer.delta, cluster, self.block_size, decompressor, part)?;
        if entry.matches(part) {
            return Ok(());
        }
        Err(self.wrong_block(FileName::Delta(layer.revision), block))
    }

    fn read_from_image(
        &self,
        first: BlockIndex,
        run: &[Located],
        decompressor: &mut Decompressor,
        part: &mut [u8],
    ) -> Result<()> {
        // Cut off past the end or overwritten meanwhile: both show as a wrong digest.
        self.image.read_padded_at(part, self.block_size.offset(first))?;
        for (number, (located, bytes)) in
            run.iter().zip(part.chunks_mut(self.block_size.len())).enumerate()
        {
            let block = first.plus(number as u64);
            if !located.entry.matches(bytes) {
                self.read_overwritten(block, located.entry, decompressor, bytes)?;
            }
        }
        Ok(())
    }

    /// Finds a block of the revision that was newest when the chain was opened, after a backup has changed the image.
    fn read_overwritten(
        &self,
        block: BlockIndex,
        entry: TableEntry,
        decompressor: &mut Decompressor,
        bytes: &mut [u8],
    ) -> Result<()> {
        for _ in 0..ATTEMPTS {
            if self.read_from_overlays(block, entry, decompressor, bytes)? {
                return Ok(());
            }
            // An interrupted backup may have been undone in between: then the image has the block again.
            let offset = self.block_size.offset(block);
            self.image.read_padded_at(bytes, offset)?;
            if entry.matches(bytes) {
                return Ok(());
            }
            // A new image may have been renamed over the one that is open here.
            let image = self.storage.open(FileName::IMAGE, Access::Read)?;
            image.read_padded_at(bytes, offset)?;
            if entry.matches(bytes) {
                return Ok(());
            }
        }
        Err(self.wrong_block(FileName::IMAGE, block))
    }

    /// Follows the overlays from the revision that was newest to ever newer ones until one holds the block.
    fn read_from_overlays(
        &self,
        block: BlockIndex,
        entry: TableEntry,
        decompressor: &mut Decompressor,
        bytes: &mut [u8],
    ) -> Result<bool> {
        let mut overlay = self.newest;
        for _ in 0..MAX_OVERLAYS {
            let delta = match Delta::open_any_size(&*self.storage, overlay, self.block_size) {
                Ok(delta) => delta,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            };
            let cluster =
                delta.clusters(block, 1)?.first().copied().unwrap_or(Cluster::Unallocated);
            if cluster != Cluster::Unallocated {
                let read = read_cut(&delta, cluster, self.block_size, decompressor, bytes);
                return Ok(read.is_ok() && entry.matches(bytes));
            }
            match delta.read_backing()?.map(|backing| backing.file) {
                Some(FileName::Delta(newer)) => overlay = newer,
                _ => return Ok(false),
            }
        }
        Ok(false)
    }

    fn wrong_block(&self, file: FileName, block: BlockIndex) -> Error {
        let extent = self.block_size.extent(block, self.revision.size_bytes);
        Error::damaged(
            self.storage.path(file),
            format!(
                "block {block} (bytes {} to {} of revision {})",
                extent.offset,
                extent.end(),
                self.revision.uuid
            ),
            "content with another digest",
            "the digest recorded when it was backed up",
        )
    }
}

/// The stretch from the first to after the last block that has no place yet.
fn unlocated(located: &[Option<Located>]) -> Option<(usize, usize)> {
    let from = located.iter().position(Option::is_none)?;
    let last = located.iter().rposition(Option::is_none)?;
    Some((from, last + 1))
}

/// Reads a cluster of which the image has only the first `part.len()` bytes.
fn read_cut(
    delta: &Delta,
    cluster: Cluster,
    block_size: BlockSize,
    decompressor: &mut Decompressor,
    part: &mut [u8],
) -> Result<()> {
    if part.len() == block_size.len() {
        return delta.read_cluster(cluster, decompressor, part);
    }
    let mut whole = vec![0; block_size.len()];
    delta.read_cluster(cluster, decompressor, &mut whole)?;
    part.copy_from_slice(whole.get(..part.len()).unwrap_or_default());
    Ok(())
}
