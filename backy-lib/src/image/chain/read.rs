//! Reading located blocks, each checked against its digest.
//!
//! A block of the image with another digest may have been overwritten since it was located, so the reader looks for
//! it where a writer has put it (`moved.rs`). Only if it is not there either is that an error.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Chain, Layer, Located, Place};
use crate::base::canary::{Bug, planted};
use crate::base::digest::TableEntry;
use crate::base::error::{Error, Result};
use crate::base::units::BlockIndex;
use crate::format::qcow2::Decompressor;
use crate::image::delta::read_cut;
use crate::storage::FileName;

/// Stretches of the image this close together are read in one call: the system's read-ahead includes the bytes
/// between them anyway.
const NEAR_IMAGE_BYTES: usize = 128 << 10;

impl Chain {
    /// Reads located blocks into `buffer`, which is as long as they are, and checks each against its digest.
    pub fn read(
        &self,
        first: BlockIndex,
        located: &[Located],
        decompressor: &mut Decompressor,
        buffer: &mut [u8],
    ) -> Result<()> {
        let is_unknown =
            |block: &Located| block.entry == TableEntry::LOST && block.place != Place::Lost;
        if let Some(at) = located.iter().position(is_unknown) {
            return Err(self.unknown_block(located.get(at), first.plus(at as u64)));
        }
        let failed = self.fetch(first, located, decompressor, buffer)?;
        let mut failed = failed.into_iter().peekable();
        let block_bytes = self.block_size.len();
        let entries = located.iter().map(|block| block.entry);
        let right = TableEntry::matching(entries.zip(buffer.chunks(block_bytes)))?;
        let parts = buffer.chunks_mut(block_bytes);
        for (((located, part), right), at) in located.iter().zip(parts).zip(right).zip(first.0..) {
            let (block, entry) = (BlockIndex(at), located.entry);
            let error = failed.next_if(|(failed, _)| *failed == block).map(|(_, error)| error);
            let right = right && error.is_none();
            match (located.place, &self.image) {
                (Place::Zero, _) => {}
                (Place::Lost, _) | (Place::Image, None) => {
                    return Err(self.unreachable_block(block));
                }
                (Place::Image, Some(_)) | (Place::Layer(..), _) if right => {}
                (Place::Image, Some(image)) => {
                    self.read_overwritten(image, block, entry, decompressor, part)?;
                }
                (Place::Layer(..), _) if error.is_none() && planted(Bug::UncheckedBlock) => {}
                (Place::Layer(layer, _), _) => {
                    // A scrub may have repaired it since it was located.
                    if !self.read_reopened(block, entry, decompressor, part)? {
                        let file = self.layers.get(layer).map(|layer| layer.revision);
                        let file = file.map_or(FileName::IMAGE, FileName::Delta);
                        return Err(error.unwrap_or_else(|| self.wrong_block(file, block)));
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads blocks from where they were located, right or not. Returns those that a delta could not provide,
    /// ascending.
    fn fetch(
        &self,
        first: BlockIndex,
        located: &[Located],
        decompressor: &mut Decompressor,
        buffer: &mut [u8],
    ) -> Result<Vec<(BlockIndex, Error)>> {
        self.fetch_from_image(first, located, buffer)?;
        let mut failed = Vec::new();
        let parts = buffer.chunks_mut(self.block_size.len());
        for ((block, part), at) in located.iter().zip(parts).zip(first.0..) {
            match block.place {
                Place::Image | Place::Lost => {}
                Place::Zero => part.fill(0),
                Place::Layer(layer, cluster) => {
                    let Some(Layer { delta, .. }) = self.layers.get(layer).map(Arc::as_ref) else {
                        continue;
                    };
                    let read = read_cut(delta, cluster, self.block_size, decompressor, part);
                    failed.extend(read.err().map(|error| (BlockIndex(at), error)));
                }
            }
        }
        Ok(failed)
    }

    /// The blocks that were located in the image, right or not: a block that was cut off or overwritten meanwhile has
    /// a wrong digest. Also reads the bytes between two of them that are close together.
    fn fetch_from_image(
        &self,
        first: BlockIndex,
        located: &[Located],
        buffer: &mut [u8],
    ) -> Result<()> {
        let Some(image) = &self.image else { return Ok(()) };
        let block_bytes = self.block_size.len();
        let mut read = |from: usize, to: usize| {
            let end = (to * block_bytes).min(buffer.len());
            let part = buffer.get_mut(from * block_bytes..end).unwrap_or_default();
            image.file.read_padded_at(part, self.block_size.offset(first.plus(from as u64)))
        };
        let blocks = located.iter().enumerate();
        let blocks = blocks.filter(|(_, block)| block.place == Place::Image).map(|(at, _)| at);
        let blocks: Vec<usize> = blocks.collect();
        for near in blocks.chunk_by(|a, b| (b - a - 1) * block_bytes <= NEAR_IMAGE_BYTES) {
            let (Some(&from), Some(&last)) = (near.first(), near.last()) else { continue };
            match read(from, last + 1) {
                // Perhaps only bytes that nobody asked for are unreadable.
                Err(_) if near.len() <= last - from => {
                    near.iter().try_for_each(|&at| read(at, at + 1))?;
                }
                read => read?,
            }
        }
        Ok(())
    }

    /// The same, but a block that does not read right becomes zero; returns those blocks, ascending.
    pub fn read_tolerant(
        &self,
        first: BlockIndex,
        located: &[Located],
        decompressor: &mut Decompressor,
        buffer: &mut [u8],
    ) -> Result<Vec<BlockIndex>> {
        let mut unreadable = Vec::new();
        match self.read(first, located, decompressor, buffer) {
            Err(error) if error.is_loss() => {}
            result => return result.map(|()| unreadable),
        }
        let parts = buffer.chunks_mut(self.block_size.len());
        for ((block, part), at) in located.iter().zip(parts).zip(first.0..) {
            let number = BlockIndex(at);
            match self.read(number, std::slice::from_ref(block), decompressor, part) {
                Err(error) if error.is_loss() => {
                    part.fill(0);
                    unreadable.push(number);
                }
                result => result?,
            }
        }
        Ok(unreadable)
    }

    pub(crate) fn wrong_block(&self, file: FileName, block: BlockIndex) -> Error {
        self.damaged_block(
            self.storage.path(file),
            block,
            "content with another digest",
            "the digest recorded when it was backed up",
        )
    }

    /// The error for a block of the image that is zero according to digests that are not right as a whole.
    pub(crate) fn doubtful_block(&self, block: BlockIndex) -> Error {
        self.damaged_block(
            self.storage.path(FileName::IMAGE),
            block,
            "a zero block in digests that are not right as a whole",
            "digests that prove it; 'backy scrub' may repair them",
        )
    }

    fn unknown_block(&self, located: Option<&Located>, block: BlockIndex) -> Error {
        let layer = match located.map(|located| located.place) {
            Some(Place::Layer(number, _)) => self.layers.get(number),
            _ => None,
        };
        let file = layer.map_or(FileName::IMAGE, |layer| FileName::Delta(layer.revision));
        self.damaged_block(
            self.storage.path(file),
            block,
            "content that nothing proves right",
            "a digest",
        )
    }

    fn damaged_block(
        &self,
        path: PathBuf,
        block: BlockIndex,
        found: &str,
        expected: &str,
    ) -> Error {
        let extent = self.block_size.extent(block, self.revision.size_bytes);
        let (start, last) = (extent.offset, extent.end().saturating_sub(1));
        let revision = self.revision.uuid;
        let place = format!("block {block} (bytes {start}-{last} of revision {revision})");
        Error::damaged(path, place, found, expected).costing(revision, extent)
    }

    fn unreachable_block(&self, block: BlockIndex) -> Error {
        let found = "no way to it: a file of its chain is missing or damaged";
        self.damaged_block(self.storage.folder(), block, found, "its content")
    }
}
