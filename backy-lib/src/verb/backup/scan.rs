//! Reading the source and finding out what has changed: the part of a backup that all cores share.
//!
//! The image is cut into chunks. A worker reads a chunk, digests its blocks and compares them with the digests of the
//! newest revision; for each that differs it fetches, checks and compresses the old content, ready to be stored. If
//! the source reports that a block cannot have changed, it is not read: its digest is that of the newest revision.

mod chunks;
mod compare;
mod tally;

use std::borrow::Cow;

use crate::base::canary::{Bug, planted};
use crate::base::digest::TableEntry;
use crate::base::error::{Error, Result, judged};
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::pipeline::BufferPool;
use crate::base::progress::Observer;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::{BlockRange, Findings, Revision};
use crate::format::qcow2::Compressor;
use crate::image::delta::{OldBlock, StoredBlock};
use crate::image::digests::DigestTable;
use crate::source::{self, KnownBlock, Source};
use crate::storage::{Access, DigestsKind, FileName, Storage, StorageFile};

use chunks::{Chunks, Stretch, next_lost};

pub(crate) use chunks::RateLimit;
pub(super) use tally::{Fate, Scanned, Tally};

/// The newest revision as it was before this backup.
pub(super) struct OldImage {
    image: Box<dyn StorageFile>,
    digests: DigestTable,
    size_bytes: u64,
    blocks: u64,
    /// Blocks that are known to be bad: if the source still has the right content, they heal.
    known: Findings,
}

impl OldImage {
    pub(super) fn open(
        storage: &dyn Storage,
        newest: &Revision,
        block_size: BlockSize,
    ) -> Result<Self> {
        let image = storage.open(FileName::IMAGE, Access::Read)?;
        let len = image.len()?;
        if len != newest.size_bytes {
            let expected = format!("the {} of revision {}", newest.size_bytes, newest.uuid);
            return Err(Error::damaged(image.path(), "length", format!("{len} bytes"), expected));
        }
        Ok(OldImage {
            image,
            digests: DigestTable::open(storage, newest.uuid, DigestsKind::Image)?,
            size_bytes: newest.size_bytes,
            blocks: block_size.count(newest.size_bytes),
            known: newest.findings.clone(),
        })
    }

    /// Bytes on disk of the image and its digests; `None` if the file system does not report them.
    pub(super) fn taken_bytes(&self) -> Result<Option<u64>> {
        let (image, digests) = (self.image.taken_bytes()?, self.digests.taken_bytes()?);
        Ok(image.zip(digests).map(|(image, digests)| image + digests))
    }
}

/// What the workers share.
pub(super) struct Scan<'a> {
    block_size: BlockSize,
    chunk_blocks: u64,
    source: &'a dyn Source,
    new_blocks: u64,
    old: Option<&'a OldImage>,
    /// Whether what the source reports as unchanged is not read.
    uses_hints: bool,
    buffers: &'a BufferPool,
}

/// A stretch of blocks to work on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    first: BlockIndex,
    blocks: u64,
    kind: ChunkKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkKind {
    /// The source may hold data there.
    Data,
    /// A hole of the source, or past its end, where the newest revision may have data.
    Hole,
    /// Zero in both; of any length.
    Void,
    /// The same in both, as the source says.
    Unchanged,
}

/// The result for a chunk.
pub(super) struct Outcome {
    chunk: Chunk,
    /// Entries of the new revision's blocks; none for a void.
    pub entries: Vec<TableEntry>,
    /// Entries of the newest revision's blocks so far.
    pub old_entries: Vec<TableEntry>,
    /// Blocks that differ, ascending.
    pub changed: Vec<Changed>,
    /// The entries that lost blocks should have, where they are known, ascending.
    pub claimed: Vec<(BlockIndex, TableEntry)>,
    /// The chunk's bytes, if some of them have to be written.
    pub bytes: Option<Vec<u8>>,
    read_bytes: u64,
    changed_bytes: u64,
    replaced_bytes: u64,
    lost_bytes: u64,
    data_bytes: u64,
}

/// A block that differs from the newest revision's.
pub(super) struct Changed {
    /// Which block.
    pub block: BlockIndex,
    /// Its old content; `None` when the newest revision ends before it.
    pub old: Option<Old>,
    /// Where its new content is within the chunk's bytes; `None` when it is zero or cut off.
    pub new: Option<Extent>,
    /// It has not changed, but is written again because the image is known to hold something else.
    pub heals: bool,
}

/// The content to be replaced.
pub(super) struct Old {
    /// In its stored form.
    pub stored: OldBlock,
    /// Its digest.
    pub entry: TableEntry,
    /// Whether it differs from what was backed up.
    pub bad: bool,
}

/// The tools of one thread.
pub(super) struct Worker {
    compressor: Compressor,
    old_blocks: Vec<u8>,
}

/// A block of the newest revision whose content must be kept.
struct Wanted {
    /// Its place among the changed blocks.
    at: usize,
    block: BlockIndex,
    entry: TableEntry,
    extent: Extent,
}

/// Tools for each of `threads`.
pub(super) fn workers(threads: usize, level: i32) -> Result<Vec<Worker>> {
    (0..threads)
        .map(|_| {
            let compressor = Compressor::new(level)?;
            Ok(Worker { compressor, old_blocks: Vec::new() })
        })
        .collect()
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        block_size: BlockSize,
        source: &'a dyn Source,
        old: Option<&'a OldImage>,
        uses_hints: bool,
        buffers: &'a BufferPool,
    ) -> Self {
        Scan {
            block_size,
            chunk_blocks: (limits().chunk_bytes / block_size.bytes()).max(1),
            source,
            new_blocks: block_size.count(source.size_bytes()),
            old,
            uses_hints,
            buffers,
        }
    }

    /// Calls `take` for blocks that were read and have changed although the source does not report that.
    pub(super) fn for_each_unreported(
        &self,
        outcome: &Outcome,
        mut take: impl FnMut(BlockRange),
    ) -> Result<()> {
        if outcome.chunk.kind != ChunkKind::Data {
            return Ok(());
        }
        let changed = outcome.changed.iter().filter(|changed| !changed.heals);
        for block in changed.map(|changed| changed.block).filter(|block| *block < self.same_end()) {
            let extent = self.block_size.extent(block, self.source.size_bytes());
            let next = self.source.next_changed(extent.offset)?;
            if next.is_none_or(|next| next.offset >= extent.end()) && !self.is_bad(block) {
                take(BlockRange::one(block));
            }
        }
        Ok(())
    }

    /// The chunks of the source, in order, and after its end those that the newest revision had there.
    pub(super) fn chunks(&'a self, observer: &'a dyn Observer) -> Chunks<'a> {
        Chunks::new(self, observer)
    }

    /// Whether a block may differ from that of the newest revision, as far as the source says.
    pub(super) fn expects_changes(&self, observer: &dyn Observer) -> Result<bool> {
        let is_same = self.old.is_some_and(|old| old.size_bytes == self.source.size_bytes());
        if !self.uses_hints || !is_same {
            return Ok(true);
        }
        let mut chunks = self.chunks(observer);
        while let Some(chunk) = chunks.next_chunk(None)? {
            match chunk.kind {
                ChunkKind::Data | ChunkKind::Hole => return Ok(true),
                ChunkKind::Void | ChunkKind::Unchanged => {}
            }
        }
        Ok(false)
    }

    /// Reads and compares a chunk.
    pub(super) fn work(&self, worker: &mut Worker, chunk: Chunk) -> Result<Outcome> {
        let mut outcome = Outcome {
            chunk,
            entries: Vec::new(),
            old_entries: Vec::new(),
            changed: Vec::new(),
            claimed: Vec::new(),
            bytes: None,
            read_bytes: 0,
            changed_bytes: 0,
            replaced_bytes: 0,
            lost_bytes: 0,
            data_bytes: self.source_extent(chunk).len,
        };
        if chunk.kind == ChunkKind::Void {
            return Ok(outcome);
        }
        if let Some(old) = self.old {
            outcome.old_entries = old.digests.read(chunk.first, chunk.blocks)?;
        }
        match chunk.kind {
            ChunkKind::Data => self.read(chunk, &mut outcome)?,
            ChunkKind::Unchanged => outcome.entries.clone_from(&outcome.old_entries),
            ChunkKind::Hole | ChunkKind::Void => {
                let blocks = self.new_blocks.saturating_sub(chunk.first.0).min(chunk.blocks);
                outcome.entries = vec![TableEntry::ZERO_BLOCK; blocks as usize];
            }
        }
        self.compare(worker, &mut outcome)?;
        if outcome.changed.iter().all(|changed| changed.new.is_none()) {
            // Nobody is going to write them, and the next chunk finds the buffer in the cache of this core.
            outcome.bytes.take().into_iter().for_each(|bytes| self.buffers.give(bytes));
        }
        Ok(outcome)
    }

    fn source_extent(&self, chunk: Chunk) -> Extent {
        self.extent_of(BlockRange { first: chunk.first, count: chunk.blocks })
    }

    /// The bytes of the source in these blocks.
    fn extent_of(&self, blocks: BlockRange) -> Extent {
        let size = self.source.size_bytes();
        let place = |block: BlockIndex| self.block_size.offset(block).min(size);
        Extent::between(place(blocks.first), place(blocks.end()))
    }

    fn read(&self, chunk: Chunk, outcome: &mut Outcome) -> Result<()> {
        let extent = self.source_extent(chunk);
        let mut bytes = self.buffers.take(extent.len as usize);
        source::read_exact(self.source, &mut bytes, extent.offset)?;
        let known = self.source.take_known(BlockRange { first: chunk.first, count: chunk.blocks });
        let mut expected = Cow::from(&outcome.old_entries);
        for KnownBlock { block, entry, .. } in &known {
            let at = block.0.checked_sub(chunk.first.0).map(|at| at as usize);
            let place = at.and_then(|at| expected.to_mut().get_mut(at));
            place.into_iter().for_each(|place| *place = *entry);
        }
        let blocks = bytes.chunks(self.block_size.len());
        outcome.entries = TableEntry::of_blocks(blocks, &expected)?;
        let mut lost = known.into_iter().filter(|known| known.is_lost).peekable();
        for (entry, at) in outcome.entries.iter_mut().zip(chunk.first.0..) {
            let block = BlockIndex(at);
            let known = lost.next_if(|known| known.block == block).map(|known| known.entry);
            let known = if self.is_lost(block) { Some(TableEntry::LOST) } else { known };
            let Some(known) = known else { continue };
            *entry = TableEntry::LOST;
            if known != TableEntry::LOST {
                outcome.claimed.push((block, known));
            }
        }
        outcome.read_bytes = extent.len;
        outcome.bytes = Some(bytes);
        Ok(())
    }

    /// Whether the source has lost the content of a block.
    fn is_lost(&self, block: BlockIndex) -> bool {
        let extent = self.block_size.extent(block, self.source.size_bytes());
        next_lost(self.source, extent.offset).is_some_and(|lost| lost.offset < extent.end())
    }

    /// The end of the blocks that have the same length in the source and in the newest revision.
    fn same_end(&self) -> BlockIndex {
        let new_bytes = self.source.size_bytes();
        match self.old {
            None => BlockIndex(0),
            Some(old) => self.block_size.same_length_end(old.size_bytes, new_bytes),
        }
    }

    /// The blocks that an extent touches, from `from` on.
    fn touched(&self, extent: Extent, from: BlockIndex) -> Stretch {
        let first = self.block_size.index(extent.offset).max(from);
        let end = BlockIndex(self.block_size.count(extent.end())).max(first.plus(1));
        Stretch { first, end }
    }

    fn compare(&self, worker: &mut Worker, outcome: &mut Outcome) -> Result<()> {
        let chunk = outcome.chunk;
        let mut wanted = Vec::new();
        for at in 0..chunk.blocks {
            let block = chunk.first.plus(at);
            let new = outcome.entries.get(at as usize).copied();
            let old = outcome.old_entries.get(at as usize).copied();
            let new_extent = self.block_size.extent(block, self.source.size_bytes());
            let old_extent =
                self.block_size.extent(block, self.old.map_or(0, |old| old.size_bytes));
            // The digest of a last block covers its true length, so a block that grew has changed.
            let is_data = new.is_some_and(|entry| !entry.is_zero_block());
            let new_place =
                is_data.then(|| Extent::new(at * self.block_size.bytes(), new_extent.len));
            if new == old && new_extent.len == old_extent.len {
                if new != Some(TableEntry::LOST) && self.is_bad(block) {
                    let heals = Changed { block, old: None, new: new_place, heals: true };
                    outcome.changed.push(heals);
                }
                continue;
            }
            let had_bytes = match old {
                Some(entry) if !entry.is_zero_block() => old_extent.len,
                _ => 0,
            };
            let has_bytes = if is_data { new_extent.len } else { 0 };
            let old = match old {
                // A delta reads as zeros past the end of its backing file anyway.
                Some(entry) if new.is_none() && entry.is_zero_block() => continue,
                Some(entry) if entry.is_zero_block() => {
                    let stored = OldBlock { block, content: StoredBlock::Zero };
                    Some(Old { stored, entry, bad: false })
                }
                Some(entry) => {
                    let at = outcome.changed.len();
                    wanted.push(Wanted { at, block, entry, extent: old_extent });
                    None
                }
                None => None,
            };
            outcome.changed_bytes += new_extent.len.max(had_bytes);
            outcome.replaced_bytes += had_bytes;
            outcome.lost_bytes += had_bytes.saturating_sub(has_bytes);
            outcome.changed.push(Changed { block, old, new: new_place, heals: false });
        }
        self.fetch_old(worker, &wanted, &mut outcome.changed)
    }

    fn is_bad(&self, block: BlockIndex) -> bool {
        self.old.is_some_and(|old| old.known.is_bad(block))
    }

    /// Reads, checks and compresses the old blocks that are wanted, and puts them in their place.
    fn fetch_old(
        &self,
        worker: &mut Worker,
        wanted: &[Wanted],
        changed: &mut [Changed],
    ) -> Result<()> {
        let Some(old) = self.old.filter(|_| !wanted.is_empty()) else { return Ok(()) };
        let Worker { compressor, old_blocks } = worker;
        let block_bytes = self.block_size.len();
        old_blocks.resize(wanted.len() * block_bytes, 0);
        for (wanted, cluster) in wanted.iter().zip(old_blocks.chunks_mut(block_bytes)) {
            let len = (wanted.extent.len as usize).min(block_bytes);
            let (bytes, padding) = cluster.split_at_mut(len);
            // A cluster is stored whole: a short last block is padded with zeros.
            padding.fill(0);
            match judged(old.image.read_padded_at(bytes, wanted.extent.offset))? {
                // A block that is known to be bad may not even be readable.
                Err(_) if old.known.is_bad(wanted.block) => bytes.fill(0),
                read => read?,
            }
        }
        let clusters = || wanted.iter().zip(old_blocks.chunks(block_bytes));
        let right = TableEntry::matching(clusters().map(|(wanted, cluster)| {
            (wanted.entry, cluster.get(..wanted.extent.len as usize).unwrap_or_default())
        }))?;
        for ((wanted, cluster), right) in clusters().zip(right) {
            let bad = !right && !planted(Bug::UncheckedOldBlock);
            let content = if bad {
                StoredBlock::Compressed(compressor.compress_as_bad(cluster)?)
            } else {
                compressor.store(cluster)
            };
            if let Some(changed) = changed.get_mut(wanted.at) {
                let stored = OldBlock { block: wanted.block, content };
                changed.old = Some(Old { stored, entry: wanted.entry, bad });
            }
        }
        Ok(())
    }
}

/// Consecutive changed blocks that either all have data or all have none.
pub(super) struct Run {
    /// The first block.
    pub first: BlockIndex,
    /// How many.
    pub blocks: u64,
    /// They have not changed, see [`Changed::heals`].
    pub heals: bool,
    new: Option<Extent>,
}

impl Outcome {
    /// Bytes of the source that the chunk stands for.
    pub(super) fn source_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// The blocks, if all of them are zero in the source and in the newest revision.
    pub(super) fn void(&self) -> Option<BlockRange> {
        let Chunk { first, blocks, kind } = self.chunk;
        (kind == ChunkKind::Void).then_some(BlockRange { first, count: blocks })
    }

    /// The changed blocks, neighbours of one kind together.
    pub(super) fn runs(&self) -> impl Iterator<Item = Run> {
        let together = |a: &Changed, b: &Changed| {
            a.block.plus(1) == b.block && a.new.is_some() == b.new.is_some() && a.heals == b.heals
        };
        self.changed.chunk_by(together).filter_map(|run| {
            let (first, last) = (run.first()?, run.last()?);
            let new = first.new.zip(last.new).map(|(a, b)| Extent::between(a.offset, b.end()));
            Some(Run { first: first.block, blocks: run.len() as u64, new, heals: first.heals })
        })
    }

    /// The new content of a run of data.
    pub(super) fn run_bytes(&self, run: &Run) -> Option<&[u8]> {
        let new = run.new?;
        self.bytes.as_ref()?.get(new.offset as usize..new.end() as usize)
    }

    /// The first block that the outcome has an entry for.
    pub(super) fn first(&self) -> BlockIndex {
        self.chunk.first
    }
}
