//! A file of a revision with its digests: which blocks it holds, and which of them are not what was backed up.

use std::sync::{Arc, Mutex, PoisonError};

use crate::base::digest::TableEntry;
use crate::base::error::{Result, judged};
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::{BlockRange, BlockRanges, Revision};
use crate::format::qcow2::{Cluster, Decompressor};
use crate::image::damage;
use crate::image::delta::{Delta, read_cut};
use crate::image::digests::DigestTable;
use crate::storage::{Access, DigestsKind, FileName, Storage, StorageFile};

/// What one thread needs, reused for each piece.
pub(super) struct Tools {
    decompressor: Decompressor,
    buffer: Vec<u8>,
}

impl Tools {
    pub(super) fn new() -> Result<Self> {
        Ok(Tools { decompressor: Decompressor::new()?, buffer: Vec::new() })
    }
}

/// One revision's own file with its digests.
pub(super) struct StoredFile {
    content: Content,
    /// `None` while they are being rebuilt.
    digests: Option<DigestTable>,
    pub(super) block_size: BlockSize,
    pub(super) size_bytes: u64,
    /// Zero blocks of the image that have to be read; `None` for those that the file system reports as data.
    written_zeros: Option<Arc<BlockRanges>>,
    /// The extent of data in the image that was found last: finding its end can cost as much as reading it.
    data: Mutex<Extent>,
}

enum Content {
    Image(Box<dyn StorageFile>),
    Delta(Delta),
}

impl StoredFile {
    pub(super) fn open(
        storage: &dyn Storage,
        revision: &Revision,
        block_size: BlockSize,
    ) -> Result<Self> {
        let kind = if revision.is_image() { DigestsKind::Image } else { DigestsKind::Delta };
        let digests = DigestTable::open(storage, revision.uuid, kind)?;
        let file = Self::open_content(storage, revision, block_size)?;
        Ok(StoredFile { digests: Some(digests), ..file })
    }

    /// The same, reading only these zero blocks if it is the image: the digests prove which blocks are zero.
    pub(super) fn open_knowing(
        storage: &dyn Storage,
        revision: &Revision,
        block_size: BlockSize,
        written_zeros: Option<&Arc<BlockRanges>>,
    ) -> Result<Self> {
        let file = Self::open(storage, revision, block_size)?;
        Ok(StoredFile { written_zeros: written_zeros.cloned(), ..file })
    }

    /// Only the file; `None` if it cannot be read.
    pub(super) fn without_digests(
        storage: &dyn Storage,
        revision: &Revision,
        block_size: BlockSize,
    ) -> Result<Option<Self>> {
        match Self::open_content(storage, revision, block_size) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open_content(
        storage: &dyn Storage,
        revision: &Revision,
        block_size: BlockSize,
    ) -> Result<Self> {
        let size_bytes = revision.size_bytes;
        let content = match revision.is_image() {
            true => {
                let image = storage.open(FileName::IMAGE, Access::Read)?;
                image.bypass_cache();
                Content::Image(image)
            }
            false => Content::Delta(Delta::open(storage, revision.uuid, block_size, size_bytes)?),
        };
        let data = Mutex::new(Extent::new(0, 0));
        let (digests, written_zeros) = (None, None);
        Ok(StoredFile { content, digests, block_size, size_bytes, written_zeros, data })
    }

    fn entries(&self, blocks: BlockRange) -> Result<Vec<TableEntry>> {
        self.digests.as_ref().map_or(Ok(Vec::new()), |table| table.read(blocks.first, blocks.count))
    }

    /// Which of the blocks the file itself holds.
    pub(super) fn holds(&self, blocks: BlockRange) -> Result<Vec<bool>> {
        match &self.content {
            Content::Image(_) => Ok(vec![true; blocks.count as usize]),
            Content::Delta(delta) => {
                let clusters = delta.clusters(blocks.first, blocks.count)?;
                Ok(clusters.into_iter().map(|c| c != Cluster::Unallocated).collect())
            }
        }
    }

    /// The first block from `from` up to `end` that the file may hold with a digest other than that of a zero block.
    pub(super) fn next_entry(
        &self,
        from: BlockIndex,
        end: BlockIndex,
    ) -> Result<Option<BlockIndex>> {
        let next = match (&self.content, &self.digests) {
            (Content::Delta(delta), _) => delta.next_held_block(from, end)?,
            (Content::Image(_), Some(table)) => table.next_data_block(from)?,
            (Content::Image(_), None) => Some(from),
        };
        Ok(next.filter(|block| *block < end))
    }

    /// The first block from `from` up to `end` that has to be read.
    pub(super) fn next_stored_block(
        &self,
        from: BlockIndex,
        end: BlockIndex,
    ) -> Result<Option<BlockIndex>> {
        let next = match &self.content {
            Content::Delta(delta) => return delta.next_held_block(from, end),
            Content::Image(image) => {
                let entry = match &self.digests {
                    Some(table) => table.next_data_block(from)?,
                    None => None,
                };
                let data = match &self.written_zeros {
                    Some(written) => written.next(from).map(|range| range.first),
                    None => self
                        .next_image_data(&**image, self.block_size.offset(from))?
                        .map(|offset| self.block_size.index(offset).max(from)),
                };
                match (entry, data) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                }
            }
        };
        Ok(next.filter(|block| *block < end))
    }

    /// Where the next data of the image is, at or after `offset`.
    fn next_image_data(&self, image: &dyn StorageFile, offset: u64) -> Result<Option<u64>> {
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        if data.offset <= offset && offset < data.end() {
            return Ok(Some(offset));
        }
        let Some(found) = image.next_data(offset)? else { return Ok(None) };
        *data = found;
        Ok(Some(found.offset.max(offset)))
    }

    /// Blocks of a piece.
    pub(super) fn piece_blocks(&self) -> u64 {
        let bytes = match self.content {
            Content::Image(_) => limits().scrub_piece_bytes,
            Content::Delta(_) => limits().scrub_delta_piece_bytes,
        };
        (bytes / self.block_size.bytes()).max(1)
    }

    /// Bytes to read for checking these blocks: their stored size.
    pub(super) fn stored_bytes(&self, blocks: BlockRange) -> Result<u64> {
        let end = blocks.end();
        let mut bytes = 0;
        match &self.content {
            Content::Image(_) if self.written_zeros.is_some() => {
                let mut next = blocks.first;
                while let Some(first) = self.next_stored_block(next, end)? {
                    let count = limits().walk_blocks.min(end.0 - first.0);
                    bytes += self.bytes_to_read(BlockRange { first, count })?;
                    next = first.plus(count);
                }
            }
            Content::Image(image) => {
                let all = damage::extent(blocks, self.block_size, self.size_bytes);
                let mut next = all.offset;
                while let Some(data) = image.next_data(next)?.filter(|data| data.offset < all.end())
                {
                    let to = data.end().min(all.end());
                    bytes += to.saturating_sub(data.offset.max(next));
                    next = to;
                }
            }
            Content::Delta(delta) => {
                let mut next = blocks.first;
                while let Some(first) = delta.next_held_block(next, end)? {
                    let count = limits().walk_blocks.min(end.0 - first.0);
                    let clusters = delta.clusters(first, count)?;
                    bytes +=
                        clusters.into_iter().map(|c| c.stored_bytes(self.block_size)).sum::<u64>();
                    next = first.plus(count);
                }
            }
        }
        Ok(bytes)
    }

    /// Bytes of those blocks of the image that are not zero, or zero and to be read all the same.
    fn bytes_to_read(&self, blocks: BlockRange) -> Result<u64> {
        let entries = self.entries(blocks)?.into_iter().zip((blocks.first.0..).map(BlockIndex));
        let is_written =
            |block| self.written_zeros.as_ref().is_none_or(|written| written.contains(block));
        let read = entries.filter(|(entry, block)| !entry.is_zero_block() || is_written(*block));
        Ok(read.map(|(_, block)| self.block_size.extent(block, self.size_bytes).len).sum())
    }

    /// The entries of those blocks that the file holds.
    pub(super) fn held_entries(&self, blocks: BlockRange) -> Result<Vec<Option<TableEntry>>> {
        let held = self.holds(blocks)?;
        let entries = self.entries(blocks)?.into_iter().zip(held);
        Ok(entries.map(|(entry, held)| held.then_some(entry)).collect())
    }

    /// The content of a block that the file holds, at its true length, correct or not.
    pub(super) fn read_block(
        &self,
        block: BlockIndex,
        decompressor: &mut Decompressor,
    ) -> Result<Vec<u8>> {
        let extent = self.block_size.extent(block, self.size_bytes);
        let mut bytes = vec![0; extent.len as usize];
        match &self.content {
            Content::Image(image) => image.read_padded_at(&mut bytes, extent.offset)?,
            Content::Delta(delta) => {
                let cluster = delta.clusters(block, 1)?.first().copied();
                let cluster = cluster.unwrap_or(Cluster::Unallocated);
                read_cut(delta, cluster, self.block_size, decompressor, &mut bytes)?;
            }
        }
        Ok(bytes)
    }

    /// Which of the blocks differ from what was backed up, and how many bytes were read.
    pub(super) fn check(
        &self,
        blocks: BlockRange,
        tools: &mut Tools,
    ) -> Result<(Vec<BlockIndex>, u64)> {
        let entries = self.entries(blocks)?;
        match &self.content {
            Content::Image(image) => {
                self.check_image(&**image, blocks, &entries, &mut tools.buffer)
            }
            Content::Delta(delta) => self.check_delta(delta, blocks, &entries, tools),
        }
    }

    fn check_image(
        &self,
        image: &dyn StorageFile,
        blocks: BlockRange,
        entries: &[TableEntry],
        bytes: &mut Vec<u8>,
    ) -> Result<(Vec<BlockIndex>, u64)> {
        let extent = damage::extent(blocks, self.block_size, self.size_bytes);
        bytes.resize(extent.len as usize, 0);
        if judged(image.read_padded_at(bytes, extent.offset))?.is_err() {
            if blocks.count == 1 {
                return Ok((vec![blocks.first], extent.len));
            }
            // One by one, to know which of them cannot be read.
            let mut bad = Vec::new();
            for (entry, block) in entries.iter().zip(blocks.first.0..) {
                let one = BlockRange { first: BlockIndex(block), count: 1 };
                bad.extend(self.check_image(image, one, std::slice::from_ref(entry), bytes)?.0);
            }
            return Ok((bad, extent.len));
        }
        let pairs = entries.iter().copied().zip(bytes.chunks(self.block_size.len()));
        let bad = TableEntry::matching(pairs)?.into_iter().zip(blocks.first.0..);
        let bad = bad.filter(|(right, _)| !right).map(|(_, block)| BlockIndex(block));
        Ok((bad.collect(), extent.len))
    }

    fn check_delta(
        &self,
        delta: &Delta,
        blocks: BlockRange,
        entries: &[TableEntry],
        tools: &mut Tools,
    ) -> Result<(Vec<BlockIndex>, u64)> {
        let (mut bad, mut read_bytes) = (Vec::new(), 0);
        let clusters = delta.clusters(blocks.first, blocks.count)?;
        let held = clusters.into_iter().zip(entries).zip(blocks.first.0..);
        let held = held.filter(|((cluster, _), _)| *cluster != Cluster::Unallocated);
        let held: Vec<_> = held.collect();
        let Tools { decompressor, buffer } = tools;
        let block_bytes = self.block_size.len();
        let together = (limits().scrub_piece_bytes / block_bytes as u64).max(1) as usize;
        for group in held.chunks(together) {
            buffer.resize(group.len() * block_bytes, 0);
            let mut pairs = Vec::with_capacity(group.len());
            for (((cluster, entry), block), part) in
                group.iter().zip(buffer.chunks_mut(block_bytes))
            {
                let extent = self.block_size.extent(BlockIndex(*block), self.size_bytes);
                let part = part.get_mut(..extent.len as usize).unwrap_or_default();
                read_bytes += extent.len;
                let read = read_cut(delta, *cluster, self.block_size, decompressor, part);
                // No content matches `LOST`.
                let entry = judged(read)?.map_or(TableEntry::LOST, |()| **entry);
                pairs.push((entry, &*part));
            }
            let right = TableEntry::matching(pairs)?.into_iter().zip(group);
            let wrong = right.filter(|(right, _)| !right);
            bad.extend(wrong.map(|(_, (_, block))| BlockIndex(*block)));
        }
        Ok((bad, read_bytes))
    }
}
