//! One delta: the blocks that an older revision holds itself, in a qcow2 overlay.
//!
//! [`Delta`] reads any of ours, during a backup as well. [`DeltaWriter`] makes a new one such that it can be read,
//! also by QEMU, at every moment: data first, then sync, then the entries that refer to it. Only the reference counts
//! wait for the end; until they are right the dirty bit is set.

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::format::qcow2::{
    Backing, Cluster, Compression, Decompressor, ENTRY_BYTES, HEADER_BYTES, Header, L1Entry,
    Layout, MAX_STORED_CLUSTERS, decode_entry, encode_entry,
};
use crate::image::refcounts;
use crate::revision::RevisionId;
use crate::storage::{Access, FileName, Storage, StorageFile};
use crate::units::{BlockIndex, BlockSize};

/// L1 entries read at a time.
const L1_READ_ENTRIES: u64 = 512;

/// A delta that is open.
pub struct Delta {
    pub(super) file: Box<dyn StorageFile>,
    pub(super) header: Header,
}

impl Delta {
    /// Opens the delta of a revision for reading and checks its header against the revision's size.
    pub fn open(
        storage: &dyn Storage,
        revision: RevisionId,
        block_size: BlockSize,
        size_bytes: u64,
    ) -> Result<Self> {
        let delta = Self::open_any_size(storage, revision, block_size)?;
        let (found, expected) = (delta.header.virtual_bytes, size_bytes.next_multiple_of(512));
        if found != expected {
            return Err(Error::damaged(delta.path(), "virtual size", found, expected));
        }
        Ok(delta)
    }

    /// The same for a revision whose size is not known: one that was made after the manifest was read.
    pub fn open_any_size(
        storage: &dyn Storage,
        revision: RevisionId,
        block_size: BlockSize,
    ) -> Result<Self> {
        let file = storage.open(FileName::Delta(revision), Access::Read)?;
        let header = read_header(&*file)?;
        let path = file.path();
        if header.cluster_size != block_size {
            let (found, expected) = (header.cluster_size.bytes(), block_size.bytes());
            return Err(Error::damaged(path, "cluster size", found, expected));
        }
        if header.compression != Compression::Zstd {
            return Err(Error::damaged(path, "compression type", "zlib", "zstd"));
        }
        if header.backing.is_none() {
            return Err(Error::damaged(path, "backing file name", "none", "last.raw or a delta"));
        }
        Ok(Delta { file, header })
    }

    /// The backing file that the header names now; it changes while a newer delta is made or one is merged.
    pub fn read_backing(&self) -> Result<Option<Backing>> {
        Ok(read_header(&*self.file)?.backing)
    }

    /// Where the content of `count` blocks from `first` on is.
    pub fn clusters(&self, first: BlockIndex, count: u64) -> Result<Vec<Cluster>> {
        let file_bytes = self.file.len()?;
        let per_table = self.blocks_per_table();
        let mut clusters = Vec::with_capacity(count as usize);
        let mut next = first;
        let end = first.plus(count);
        while next < end {
            let table = next.0 / per_table;
            let step = (end.0 - next.0).min((table + 1) * per_table - next.0);
            match self.table_offset(table, file_bytes)? {
                None => clusters.resize(clusters.len() + step as usize, Cluster::Unallocated),
                Some(offset) => {
                    let at = offset + (next.0 % per_table) * ENTRY_BYTES as u64;
                    self.read_entries(next, at, step, file_bytes, &mut clusters)?;
                }
            }
            next = next.plus(step);
        }
        Ok(clusters)
    }

    /// The first block from `from` up to `end` that the delta may hold; `None` when it holds none of them.
    ///
    /// Empty L2 tables are holes; a stretch of them costs one system call, however long it is.
    pub fn next_held_block(&self, from: BlockIndex, end: BlockIndex) -> Result<Option<BlockIndex>> {
        let file_bytes = self.file.len()?;
        let per_table = self.blocks_per_table();
        let end = end.0.min(self.header.cluster_size.count(self.header.virtual_bytes));
        let tables = end.div_ceil(per_table);
        let mut hole = Extent::new(0, 0);
        let mut next = from.0;
        while next < end {
            let first_table = next / per_table;
            let step = (tables - first_table).min(L1_READ_ENTRIES);
            for (number, offset) in
                self.table_offsets(first_table, step, file_bytes)?.iter().enumerate()
            {
                let table = first_table + number as u64;
                let skipped = next.saturating_sub(table * per_table);
                next = (table + 1) * per_table;
                let Some(offset) = *offset else { continue };
                let at = offset + skipped * ENTRY_BYTES as u64;
                let table_end = offset + self.header.cluster_size.bytes();
                if hole.offset <= at && table_end <= hole.end() {
                    continue;
                }
                let data = self.file.next_data(at)?.map_or(u64::MAX, |data| data.offset.max(at));
                if data >= table_end {
                    hole = Extent::between(at, data);
                    continue;
                }
                let block = table * per_table + (data - offset) / ENTRY_BYTES as u64;
                return Ok((block < end).then_some(BlockIndex(block)));
            }
        }
        Ok(None)
    }

    /// Reads a whole cluster that the delta holds. Its content is not checked against a digest here.
    pub fn read_cluster(
        &self,
        cluster: Cluster,
        decompressor: &mut Decompressor,
        buffer: &mut [u8],
    ) -> Result<()> {
        match cluster {
            Cluster::Unallocated | Cluster::Zero => {
                buffer.fill(0);
                Ok(())
            }
            Cluster::Plain { offset } => self.file.read_exact_at(buffer, offset),
            Cluster::Compressed { offset, max_bytes } => {
                let limit = MAX_STORED_CLUSTERS * self.header.cluster_size.bytes();
                let mut stored = vec![0; max_bytes.min(limit) as usize];
                self.file.read_exact_at(&mut stored, offset)?;
                decompressor.decompress(&stored, buffer).map_err(|flaw| Error::Damaged {
                    path: self.file.path(),
                    flaw: format!("compressed cluster at offset {offset}: {flaw}"),
                })
            }
        }
    }

    /// Bytes that the file takes on disk.
    pub fn allocated_bytes(&self) -> Result<u64> {
        self.file.allocated_bytes()
    }

    /// Where the delta is, for messages.
    pub fn path(&self) -> std::path::PathBuf {
        self.file.path()
    }

    fn blocks_per_table(&self) -> u64 {
        self.header.cluster_size.bytes() / ENTRY_BYTES as u64
    }

    fn table_offset(&self, table: u64, file_bytes: u64) -> Result<Option<u64>> {
        Ok(self.table_offsets(table, 1, file_bytes)?.first().copied().flatten())
    }

    /// Where the L2 tables are: `count` entries of the L1 table.
    pub(super) fn table_offsets(
        &self,
        first: u64,
        count: u64,
        file_bytes: u64,
    ) -> Result<Vec<Option<u64>>> {
        let mut raw = vec![0; count as usize * ENTRY_BYTES];
        let at = self.header.l1_offset + first * ENTRY_BYTES as u64;
        self.file.read_exact_at(&mut raw, at)?;
        let entries = raw.as_chunks::<ENTRY_BYTES>().0.iter().zip(first..);
        entries
            .map(|(raw, table)| {
                let raw = u64::from_be_bytes(*raw);
                match L1Entry::decode(raw, self.header.cluster_size, file_bytes) {
                    Ok(L1Entry::None) => Ok(None),
                    Ok(L1Entry::Table(offset)) => Ok(Some(offset)),
                    Err(flaw) => Err(self.flaw(format!("L1 entry {table}: {flaw}"))),
                }
            })
            .collect()
    }

    fn read_entries(
        &self,
        first: BlockIndex,
        offset: u64,
        count: u64,
        file_bytes: u64,
        clusters: &mut Vec<Cluster>,
    ) -> Result<()> {
        let mut raw = vec![0; count as usize * ENTRY_BYTES];
        self.file.read_exact_at(&mut raw, offset)?;
        for (number, raw) in raw.as_chunks::<ENTRY_BYTES>().0.iter().enumerate() {
            let raw = u64::from_be_bytes(*raw);
            let cluster =
                decode_entry(raw, self.header.cluster_size, file_bytes).map_err(|flaw| {
                    self.flaw(format!("block {}: {flaw}", first.plus(number as u64)))
                })?;
            clusters.push(cluster);
        }
        Ok(())
    }

    fn flaw(&self, flaw: String) -> Error {
        Error::Damaged { path: self.file.path(), flaw }
    }
}

/// Gives a delta another backing file: one sector, written at once. Reads the same before and after only if the caller
/// has seen to that. Synced.
pub fn rebase(storage: &dyn Storage, revision: RevisionId, backing: Backing) -> Result<()> {
    let file = storage.open(FileName::Delta(revision), Access::Write)?;
    let header = read_header(&*file)?;
    if header.backing != Some(backing) {
        file.write_at(&Header { backing: Some(backing), ..header }.encode(), 0)?;
    }
    // Even when nothing was written: an earlier attempt may have written and not synced.
    file.sync()
}

fn read_header(file: &dyn StorageFile) -> Result<Header> {
    let mut sector = [0; HEADER_BYTES];
    let found = file.read_at(&mut sector, 0)?;
    Header::parse(sector.get(..found).unwrap_or(&sector)).map_err(Error::flawed(file.path()))
}

/// An old block on its way into a delta.
#[derive(Debug)]
pub struct OldBlock {
    /// Which block.
    pub block: BlockIndex,
    /// Its content in the form in which it is stored.
    pub content: StoredBlock,
}

/// The stored form of a block.
#[derive(Debug)]
pub enum StoredBlock {
    /// All zero: no data.
    Zero,
    /// A whole cluster as it is.
    Plain(Vec<u8>),
    /// A zstd frame.
    Compressed(Vec<u8>),
}

impl StoredBlock {
    /// Bytes that it takes in memory and, about, in the file.
    pub fn bytes(&self) -> usize {
        match self {
            StoredBlock::Zero => 0,
            StoredBlock::Plain(data) | StoredBlock::Compressed(data) => data.len(),
        }
    }
}

/// Frames gathered before they are written.
const APPEND_BYTES: usize = 1 << 20;

/// Makes a new delta.
pub struct DeltaWriter {
    delta: Delta,
    end: u64,
    appended: Vec<(BlockIndex, Cluster)>,
}

impl DeltaWriter {
    /// Makes the delta of a revision that holds nothing yet and reads through to `last.raw`. Synced, but its name is
    /// not durable before the folder is synced.
    pub fn create(
        storage: &dyn Storage,
        revision: RevisionId,
        block_size: BlockSize,
        size_bytes: u64,
    ) -> Result<Self> {
        let layout = Layout::new(block_size, size_bytes);
        let header = Header::new(&layout, Some(Backing::IMAGE));
        let file = storage.create(FileName::Delta(revision))?;
        file.set_len(layout.data_offset)?;
        let cluster = block_size.bytes();
        let l1: Vec<u8> = (0..u64::from(layout.l1_entries))
            .flat_map(|table| L1Entry::encode(layout.l2_offset + table * cluster).to_be_bytes())
            .collect();
        file.write_at(&l1, layout.l1_offset)?;
        file.write_at(&header.encode(), 0)?;
        file.sync()?;
        Ok(DeltaWriter {
            delta: Delta { file, header },
            end: layout.data_offset,
            appended: Vec::new(),
        })
    }

    /// Appends blocks in ascending order: compressed ones packed, then plain ones. Not yet part of the delta and not synced.
    pub fn append(&mut self, blocks: &[OldBlock]) -> Result<()> {
        let cluster = self.delta.header.cluster_size.bytes();
        let mut run = Vec::with_capacity(APPEND_BYTES);
        for old in blocks {
            match &old.content {
                StoredBlock::Zero => self.appended.push((old.block, Cluster::Zero)),
                StoredBlock::Compressed(frame) => {
                    let offset = self.end + run.len() as u64;
                    run.extend_from_slice(frame);
                    let max_bytes = frame.len() as u64;
                    self.appended.push((old.block, Cluster::Compressed { offset, max_bytes }));
                    if run.len() >= APPEND_BYTES {
                        self.append_run(&mut run)?;
                    }
                }
                StoredBlock::Plain(_) => {}
            }
        }
        // A reader may take whole sectors.
        run.resize(run.len().next_multiple_of(512), 0);
        self.append_run(&mut run)?;
        self.end = self.end.next_multiple_of(cluster);
        for old in blocks {
            if let StoredBlock::Plain(content) = &old.content {
                self.delta.file.write_at(content, self.end)?;
                self.appended.push((old.block, Cluster::Plain { offset: self.end }));
                self.end += cluster;
            }
        }
        self.delta.file.set_len(self.end)
    }

    fn append_run(&mut self, run: &mut Vec<u8>) -> Result<()> {
        if !run.is_empty() {
            self.delta.file.write_at(run, self.end)?;
            self.end += run.len() as u64;
            run.clear();
        }
        Ok(())
    }

    /// Enters what was appended, in runs. The caller has synced in between, and syncs afterwards.
    pub fn enter(&mut self) -> Result<()> {
        let mut appended = std::mem::take(&mut self.appended);
        appended.sort_unstable_by_key(|(block, _)| *block);
        let per_table = self.delta.blocks_per_table();
        let size = self.delta.header.cluster_size;
        let same_run = |(a, _): &(BlockIndex, Cluster), (b, _): &(BlockIndex, Cluster)| {
            a.plus(1) == *b && b.0 % per_table != 0
        };
        for run in appended.chunk_by(same_run) {
            let Some((first, _)) = run.first() else { continue };
            let table = first.0 / per_table;
            let offset = self
                .delta
                .table_offset(table, self.end)?
                .ok_or_else(|| self.delta.flaw(format!("L1 entry {table}: found none")))?;
            let raw: Vec<u8> = run
                .iter()
                .flat_map(|(_, cluster)| encode_entry(*cluster, size).to_be_bytes())
                .collect();
            self.delta.file.write_at(&raw, offset + (first.0 % per_table) * ENTRY_BYTES as u64)?;
        }
        Ok(())
    }

    /// Makes durable what was written so far.
    pub fn sync(&self) -> Result<()> {
        self.delta.file.sync()
    }

    /// Writes the reference counts, then clears the dirty bit; synced after each.
    pub fn finish(self) -> Result<Delta> {
        let mut delta = self.delta;
        refcounts::write(&delta)?;
        delta.file.sync()?;
        delta.header.dirty = false;
        // The backing file is written as it is now: nobody else changes it while the lock is held.
        delta.file.write_at(&delta.header.encode(), 0)?;
        delta.file.sync()?;
        Ok(delta)
    }

    /// The delta as far as it has been entered.
    pub fn delta(&self) -> &Delta {
        &self.delta
    }
}
