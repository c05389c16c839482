//! Reading the source, and finding out what has changed: the part of a backup that all cores share.
//!
//! The image is cut into chunks. A chunk is read, its blocks are digested and compared with the digests of the
//! newest revision; for each that differs the old content is fetched, checked and compressed, ready to be stored.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::digest::{Digest, RevisionHasher, TableEntry};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::format::manifest::Revision;
use crate::format::qcow2::Compressor;
use crate::image::delta::{OldBlock, StoredBlock};
use crate::image::digests::DigestTable;
use crate::pipeline::BufferPool;
use crate::progress::{self, Observer};
use crate::source::{self, Source};
use crate::storage::{Access, DigestsKind, FileName, Storage, StorageFile};
use crate::units::{BlockIndex, BlockSize};

/// Bytes read at a time, a multiple of every block size up to it.
const CHUNK_BYTES: u64 = 1 << 20;

/// The newest revision as it was before this backup.
pub(super) struct OldImage {
    image: Box<dyn StorageFile>,
    digests: DigestTable,
    size_bytes: u64,
    blocks: u64,
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
        })
    }

    /// Bytes on disk of the image and its digests.
    pub(super) fn allocated_bytes(&self) -> Result<u64> {
        Ok(self.image.allocated_bytes()? + self.digests.allocated_bytes()?)
    }
}

/// Everything that the workers share.
pub(super) struct Scan<'a> {
    block_size: BlockSize,
    chunk_blocks: u64,
    source: &'a dyn Source,
    new_blocks: u64,
    old: Option<&'a OldImage>,
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
    /// May hold data in the source.
    Data,
    /// A hole of the source, or past its end, where the newest revision may have data.
    Hole,
    /// Zero in both; may be of any length.
    Void,
}

/// What was found out about a chunk.
pub(super) struct Outcome {
    chunk: Chunk,
    /// Entries of the new revision's blocks; none for a void.
    pub entries: Vec<TableEntry>,
    /// Entries of the newest revision's blocks so far.
    old_entries: Vec<TableEntry>,
    /// Blocks that differ, ascending.
    pub changed: Vec<Changed>,
    /// The chunk's bytes, when it was read.
    pub bytes: Option<Vec<u8>>,
    read_bytes: u64,
    changed_bytes: u64,
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
}

/// The content that is going to be replaced.
pub(super) struct Old {
    /// In the form in which it is stored.
    pub stored: OldBlock,
    /// Its digest.
    pub entry: TableEntry,
    /// Whether it is not what was backed up.
    pub bad: bool,
}

/// One thread's tools.
pub(super) struct Worker {
    compressor: Compressor,
    old_block: Vec<u8>,
    frame: Vec<u8>,
}

/// Tools for each of `threads`.
pub(super) fn workers(threads: usize, level: i32) -> Result<Vec<Worker>> {
    (0..threads)
        .map(|_| {
            let compressor = Compressor::new(level)?;
            Ok(Worker { compressor, old_block: Vec::new(), frame: Vec::new() })
        })
        .collect()
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        block_size: BlockSize,
        source: &'a dyn Source,
        old: Option<&'a OldImage>,
        buffers: &'a BufferPool,
    ) -> Self {
        Scan {
            block_size,
            chunk_blocks: (CHUNK_BYTES / block_size.bytes()).max(1),
            source,
            new_blocks: block_size.count(source.size_bytes()),
            old,
            buffers,
        }
    }

    /// The chunks of the source, in order, and after its end those of what the newest revision had there.
    pub(super) fn chunks(&'a self, observer: &'a dyn Observer) -> Chunks<'a> {
        Chunks { scan: self, observer, next: BlockIndex(0), data: None }
    }

    /// Reads and compares a chunk.
    pub(super) fn work(&self, worker: &mut Worker, chunk: Chunk) -> Result<Outcome> {
        let mut outcome = Outcome {
            chunk,
            entries: Vec::new(),
            old_entries: Vec::new(),
            changed: Vec::new(),
            bytes: None,
            read_bytes: 0,
            changed_bytes: 0,
            data_bytes: self.source_extent(chunk).len,
        };
        if chunk.kind == ChunkKind::Void {
            return Ok(outcome);
        }
        if let Some(old) = self.old {
            outcome.old_entries = old.digests.read(chunk.first, chunk.blocks)?;
        }
        if chunk.kind == ChunkKind::Data {
            self.read(chunk, &mut outcome)?;
        } else {
            let blocks = self.new_blocks.saturating_sub(chunk.first.0).min(chunk.blocks);
            outcome.entries = vec![TableEntry::ZERO_BLOCK; blocks as usize];
        }
        self.compare(worker, &mut outcome)?;
        Ok(outcome)
    }

    fn source_extent(&self, chunk: Chunk) -> Extent {
        let size = self.source.size_bytes();
        let start = self.block_size.offset(chunk.first).min(size);
        Extent::between(start, self.block_size.offset(chunk.first.plus(chunk.blocks)).min(size))
    }

    fn read(&self, chunk: Chunk, outcome: &mut Outcome) -> Result<()> {
        let extent = self.source_extent(chunk);
        let mut bytes = self.buffers.take(extent.len as usize);
        source::read_exact(self.source, &mut bytes, extent.offset)?;
        outcome.entries = bytes.chunks(self.block_size.len()).map(TableEntry::of_block).collect();
        outcome.read_bytes = extent.len;
        outcome.bytes = Some(bytes);
        Ok(())
    }

    fn compare(&self, worker: &mut Worker, outcome: &mut Outcome) -> Result<()> {
        let chunk = outcome.chunk;
        for at in 0..chunk.blocks {
            let block = chunk.first.plus(at);
            let new = outcome.entries.get(at as usize).copied();
            let old = outcome.old_entries.get(at as usize).copied();
            let new_extent = self.block_size.extent(block, self.source.size_bytes());
            let old_extent =
                self.block_size.extent(block, self.old.map_or(0, |old| old.size_bytes));
            // The digest of a last block is that of its true length, so a block that grew has changed.
            if new == old && new_extent.len == old_extent.len {
                continue;
            }
            let old = match old {
                // Past the end of its backing file a delta reads as zeros anyway.
                Some(entry) if new.is_none() && entry.is_zero_block() => continue,
                Some(entry) => Some(self.fetch_old(worker, block, entry, old_extent)?),
                None => None,
            };
            let is_data = new.is_some_and(|entry| !entry.is_zero_block());
            outcome.changed_bytes += new_extent.len;
            outcome.changed.push(Changed {
                block,
                old,
                new: is_data.then(|| Extent::new(at * self.block_size.bytes(), new_extent.len)),
            });
        }
        Ok(())
    }

    fn fetch_old(
        &self,
        worker: &mut Worker,
        block: BlockIndex,
        entry: TableEntry,
        extent: Extent,
    ) -> Result<Old> {
        let stored = |content| OldBlock { block, content };
        let Some(old) = self.old.filter(|_| !entry.is_zero_block()) else {
            return Ok(Old { stored: stored(StoredBlock::Zero), entry, bad: false });
        };
        // A cluster is stored whole: a short last block is padded with zeros.
        worker.old_block.clear();
        worker.old_block.resize(self.block_size.len(), 0);
        let bytes = worker.old_block.get_mut(..extent.len as usize).unwrap_or_default();
        old.image.read_padded_at(bytes, extent.offset)?;
        if !entry.matches(bytes) {
            let frame = worker.compressor.compress_as_bad(&worker.old_block)?;
            return Ok(Old { stored: stored(StoredBlock::Compressed(frame)), entry, bad: true });
        }
        let content = if worker.compressor.compress(&worker.old_block, &mut worker.frame) {
            StoredBlock::Compressed(worker.frame.clone())
        } else {
            StoredBlock::Plain(worker.old_block.clone())
        };
        Ok(Old { stored: stored(content), entry, bad: false })
    }
}

/// Changed blocks that follow each other and are all data, or all not.
pub(super) struct Run {
    /// The first block.
    pub first: BlockIndex,
    /// How many.
    pub blocks: u64,
    new: Option<Extent>,
}

impl Outcome {
    /// Bytes of the source that the chunk stands for.
    pub(super) fn source_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// The changed blocks, neighbours of one kind together.
    pub(super) fn runs(&self) -> impl Iterator<Item = Run> {
        let together = |a: &Changed, b: &Changed| {
            a.block.plus(1) == b.block && a.new.is_some() == b.new.is_some()
        };
        self.changed.chunk_by(together).filter_map(|run| {
            let (first, last) = (run.first()?, run.last()?);
            let new = first.new.zip(last.new).map(|(a, b)| Extent::between(a.offset, b.end()));
            Some(Run { first: first.block, blocks: run.len() as u64, new })
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

/// Cuts the source into chunks.
pub(super) struct Chunks<'a> {
    scan: &'a Scan<'a>,
    observer: &'a dyn Observer,
    next: BlockIndex,
    /// Blocks of the source's stretch of data that is at or after `next`, once it has been looked for.
    data: Option<(BlockIndex, BlockIndex)>,
}

impl Chunks<'_> {
    /// The next chunk; asks before whether to go on, and waits for the rate limit.
    pub(super) fn next_chunk(&mut self, rate: Option<&RateLimit>) -> Result<Option<Chunk>> {
        progress::check(self.observer)?;
        let chunk = self.cut()?;
        if let (Some(rate), Some(chunk)) = (rate, chunk.filter(|c| c.kind == ChunkKind::Data)) {
            rate.wait(self.scan.source_extent(chunk).len, self.observer)?;
        }
        Ok(chunk)
    }

    fn cut(&mut self) -> Result<Option<Chunk>> {
        let scan = self.scan;
        let end = BlockIndex(scan.new_blocks.max(scan.old.map_or(0, |old| old.blocks)));
        let first = self.next;
        if first >= end {
            return Ok(None);
        }
        let (data_first, data_end) = self.next_data()?;
        let (to, kind) = if first >= data_first {
            (data_end.min(first.plus(scan.chunk_blocks)), ChunkKind::Data)
        } else {
            let hole_end = data_first.min(end);
            let old_data = match scan.old {
                Some(old) => old.digests.next_data_block(first)?,
                None => None,
            };
            match old_data.filter(|&old_data| old_data < hole_end) {
                None => (hole_end, ChunkKind::Void),
                Some(at) if at > first => (at, ChunkKind::Void),
                Some(_) => (hole_end.min(first.plus(scan.chunk_blocks)), ChunkKind::Hole),
            }
        };
        // A chunk lies within the source or past its end, never both.
        let source_end = BlockIndex(scan.new_blocks);
        let to = if first < source_end { to.min(source_end) } else { to };
        self.next = to;
        Ok(Some(Chunk { first, blocks: to.0 - first.0, kind }))
    }

    /// The source's next stretch of data, in whole blocks; past every block when there is none.
    fn next_data(&mut self) -> Result<(BlockIndex, BlockIndex)> {
        let none = (BlockIndex(u64::MAX), BlockIndex(u64::MAX));
        if let Some(data) = self.data.filter(|(_, end)| self.next < *end) {
            return Ok(data);
        }
        let block_size = self.scan.block_size;
        let found = match self.next.0 < self.scan.new_blocks {
            true => self.scan.source.next_data(block_size.offset(self.next))?,
            false => None,
        };
        let data = found.map_or(none, |extent| {
            let first = block_size.index(extent.offset);
            (first, BlockIndex(block_size.count(extent.end())).max(first.plus(1)))
        });
        self.data = Some(data);
        Ok(data)
    }
}

/// What a scan found out, all in all.
pub(super) struct Scanned {
    /// Digest of the new revision.
    pub digest: Digest,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// Bytes in changed blocks.
    pub changed_bytes: u64,
}

/// Adds up the outcomes, in order. Checks on the way that the digests of the newest revision are those recorded: they
/// decide what counts as changed.
pub(super) struct Tally {
    new: RevisionHasher,
    /// The newest revision's digest so far, from the first entry on in which it differs.
    old: Option<RevisionHasher>,
    has_old: bool,
    new_blocks: u64,
    old_blocks: u64,
    read_bytes: u64,
    changed_bytes: u64,
}

impl Tally {
    pub(super) fn new(scan: &Scan<'_>) -> Self {
        let new_bytes = scan.source.size_bytes();
        let old_bytes = scan.old.map(|old| old.size_bytes);
        let same_size = old_bytes == Some(new_bytes);
        Tally {
            new: RevisionHasher::new(scan.block_size, new_bytes),
            old: old_bytes
                .filter(|_| !same_size)
                .map(|bytes| RevisionHasher::new(scan.block_size, bytes)),
            has_old: old_bytes.is_some(),
            new_blocks: scan.new_blocks,
            old_blocks: scan.old.map_or(0, |old| old.blocks),
            read_bytes: 0,
            changed_bytes: 0,
        }
    }

    pub(super) fn take(&mut self, outcome: &Outcome) {
        self.read_bytes += outcome.read_bytes;
        self.changed_bytes += outcome.changed_bytes;
        let chunk = outcome.chunk;
        if chunk.kind == ChunkKind::Void {
            let within = |blocks: u64| blocks.saturating_sub(chunk.first.0).min(chunk.blocks);
            self.new.push_zero_blocks(within(self.new_blocks));
            if let Some(old) = &mut self.old {
                old.push_zero_blocks(within(self.old_blocks));
            }
            return;
        }
        if self.has_old && self.old.is_none() && outcome.entries != outcome.old_entries {
            // Up to here both are the same.
            self.old = Some(self.new.clone());
        }
        outcome.entries.iter().for_each(|entry| self.new.push(*entry));
        if let Some(old) = &mut self.old {
            outcome.old_entries.iter().for_each(|entry| old.push(*entry));
        }
    }

    /// # Errors
    /// [`Error::Damaged`] when the digests of the newest revision are not those that were recorded.
    pub(super) fn finish(
        self,
        storage: &dyn Storage,
        newest: Option<&Revision>,
    ) -> Result<Scanned> {
        let digest = self.new.finish();
        if let Some(newest) = newest {
            let found = self.old.map_or(digest, RevisionHasher::finish);
            if found != newest.digest {
                let name = FileName::Digests(newest.uuid, DigestsKind::Image);
                let place = format!("digest of revision {} from this file", newest.uuid);
                return Err(Error::damaged(storage.path(name), place, found, newest.digest));
            }
        }
        Ok(Scanned { digest, read_bytes: self.read_bytes, changed_bytes: self.changed_bytes })
    }
}

/// Keeps the reading of the source below a number of bytes a second.
pub(crate) struct RateLimit {
    bytes_per_second: u64,
    next: Mutex<Option<Instant>>,
}

/// Longest sleep at a time, so that Ctrl-C is noticed soon.
const MAX_SLEEP: Duration = Duration::from_millis(100);

impl RateLimit {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        RateLimit { bytes_per_second: bytes_per_second.max(1), next: Mutex::new(None) }
    }

    /// Waits until `bytes` more may be read.
    fn wait(&self, bytes: u64, observer: &dyn Observer) -> Result<()> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let until = next.unwrap_or(now).max(now);
        *next = Some(until + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64));
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero())
        {
            progress::check(observer)?;
            std::thread::sleep(left.min(MAX_SLEEP));
        }
        Ok(())
    }
}
