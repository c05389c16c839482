//! One delta: the blocks that an older revision holds itself, in a qcow2 overlay.
//!
//! [`Delta`] reads any of ours, during a backup as well, and any that QEMU has written to or made anew. [`DeltaWriter`] makes
//! a new one, or appends to one, such that it can be read, also by QEMU, at every moment: data first, then sync, then the
//! entries that refer to it. Only the reference counts wait for the end; until they are right the dirty bit is set.

#[cfg(test)]
mod tests;

use crate::base::error::{Error, ErrorKind, Result, judged};
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::revision::RevisionId;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::qcow2::{
    Backing, Cluster, Compression, Compressor, Decompressor, ENTRY_BYTES, Header, L1Entry, Layout,
    MAX_HEADER_BYTES, MAX_STORED_CLUSTERS, decode_entry, encode_entry, frame_bytes,
};
use crate::image::refcounts::{self, NewCounts};
use crate::storage::{Access, FileName, READ_ATTEMPTS, Storage, StorageFile};

pub use crate::image::refcounts::Unreferenced;

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
        let file = storage.open_among_many(FileName::Delta(revision))?;
        let header = read_header(&*file)?;
        let path = file.path();
        if header.cluster_size != block_size {
            let (found, expected) = (header.cluster_size.bytes(), block_size.bytes());
            return Err(Error::damaged(path, "cluster size", found, expected));
        }
        Ok(Delta { file, header })
    }

    /// Opens the delta of a revision that [`DeltaWriter`] has made, whatever its header says by now: where everything is follows
    /// from the revision's size.
    pub(crate) fn open_laid_out(
        storage: &dyn Storage,
        revision: RevisionId,
        block_size: BlockSize,
        size_bytes: u64,
    ) -> Result<Self> {
        let file = storage.open(FileName::Delta(revision), Access::Read)?;
        let layout = Layout::new(block_size, size_bytes);
        Ok(Delta { file, header: Header::new(&layout, Some(Backing::IMAGE)) })
    }

    /// What the header said when the delta was opened.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where the content of `count` blocks from `first` on is.
    pub fn clusters(&self, first: BlockIndex, count: u64) -> Result<Vec<Cluster>> {
        let mut clusters = vec![Cluster::Unallocated; count as usize];
        for (block, cluster) in self.held(first, count)? {
            if let Some(place) = clusters.get_mut((block.0 - first.0) as usize) {
                *place = cluster;
            }
        }
        Ok(clusters)
    }

    /// Those of `count` blocks from `first` on that the delta holds, ascending, and where their content is.
    pub fn held(&self, first: BlockIndex, count: u64) -> Result<Vec<(BlockIndex, Cluster)>> {
        let raw = self.raw_entries(first, count)?;
        // Afterwards: a writer may be appending, and what an entry refers to is there before the entry is.
        let file_bytes = self.file.len()?;
        let mut held = Vec::new();
        for (raw, block) in raw.into_iter().zip(first.0..).filter(|(raw, _)| *raw != 0) {
            let cluster = decode_entry(raw, self.header.cluster_size, file_bytes)
                .map_err(|flaw| self.flaw(format!("block {block}: {flaw}")))?;
            if cluster != Cluster::Unallocated {
                held.push((BlockIndex(block), cluster));
            }
        }
        Ok(held)
    }

    /// What the entry of each of `count` blocks from `first` on says, or what is wrong with it: one that is damaged costs its own
    /// block only.
    pub(crate) fn each_entry(
        &self,
        first: BlockIndex,
        count: u64,
    ) -> Result<Vec<std::result::Result<Cluster, String>>> {
        let raw = self.raw_entries(first, count)?;
        let file_bytes = self.file.len()?;
        let decode = |raw| decode_entry(raw, self.header.cluster_size, file_bytes);
        Ok(raw.into_iter().map(decode).collect())
    }

    /// The L2 entries of `count` blocks as they are; 0 where there is no table.
    pub(super) fn raw_entries(&self, first: BlockIndex, count: u64) -> Result<Vec<u64>> {
        let file_bytes = self.file.len()?;
        let per_table = self.blocks_per_table();
        let mut entries = Vec::with_capacity(count as usize);
        let mut next = first;
        let end = first.plus(count);
        while next < end {
            let table = next.0 / per_table;
            let step = (end.0 - next.0).min((table + 1) * per_table - next.0);
            match self.table_offset(table, file_bytes)? {
                None => entries.resize(entries.len() + step as usize, 0),
                Some(offset) => {
                    let mut raw = vec![0; step as usize * ENTRY_BYTES];
                    let at = offset + (next.0 % per_table) * ENTRY_BYTES as u64;
                    self.file.read_exact_at(&mut raw, at)?;
                    let raw = raw.as_chunks::<ENTRY_BYTES>().0.iter();
                    entries.extend(raw.map(|raw| u64::from_be_bytes(*raw)));
                }
            }
            next = next.plus(step);
        }
        Ok(entries)
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
            let step = (tables - first_table).min(limits().l1_read_entries);
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
                let stored = self.read_compressed(offset, max_bytes)?;
                let done = match self.header.compression {
                    Compression::Zstd => decompressor.decompress(&stored, buffer),
                    Compression::Zlib => decompressor.inflate(&stored, buffer),
                };
                done.map_err(|flaw| {
                    self.flaw(format!("compressed cluster at offset {offset}: {flaw}"))
                })
            }
        }
    }

    /// The stored form of a block that the delta holds, as it is, right or not. What is not stored in one of our forms gets
    /// one.
    pub fn read_stored(&self, cluster: Cluster) -> Result<StoredBlock> {
        match cluster {
            Cluster::Unallocated | Cluster::Zero => Ok(StoredBlock::Zero),
            Cluster::Plain { offset } => {
                let mut content = vec![0; self.header.cluster_size.len()];
                self.file.read_exact_at(&mut content, offset)?;
                Ok(StoredBlock::Plain(content))
            }
            Cluster::Compressed { .. } if self.header.compression == Compression::Zlib => {
                let mut content = vec![0; self.header.cluster_size.len()];
                match self.read_cluster(cluster, &mut Decompressor::new()?, &mut content) {
                    Ok(()) => Ok(StoredBlock::Plain(content)),
                    // It is rotten and stays so.
                    Err(error) if error.is_damage() => {
                        let frame = Compressor::new(1)?.compress_as_bad(&content)?;
                        Ok(StoredBlock::Compressed(frame))
                    }
                    Err(error) => Err(error),
                }
            }
            Cluster::Compressed { offset, max_bytes } => {
                let mut frame = self.read_compressed(offset, max_bytes)?;
                // One whose length cannot be told is rotten; it stays so.
                frame.truncate(frame_bytes(&frame).unwrap_or(frame.len()));
                Ok(StoredBlock::Compressed(frame))
            }
        }
    }

    fn read_compressed(&self, offset: u64, max_bytes: u64) -> Result<Vec<u8>> {
        let limit = MAX_STORED_CLUSTERS * self.header.cluster_size.bytes();
        let mut stored = vec![0; max_bytes.min(limit) as usize];
        self.file.read_exact_at(&mut stored, offset)?;
        Ok(stored)
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

    /// Writes the L2 tables again as they look: what a program sees is not what is durable after a sync that failed. Only
    /// what is there already, since there may be no room for more.
    fn rewrite_tables(&self) -> Result<()> {
        let blocks = BlockIndex(self.header.cluster_size.count(self.header.virtual_bytes));
        let per_table = self.blocks_per_table();
        let mut next = BlockIndex(0);
        while let Some(held) = self.next_held_block(next, blocks)? {
            let number = held.0 / per_table;
            if let Some(offset) = self.table_offset(number, self.file.len()?)? {
                self.rewrite(Extent::new(offset, self.header.cluster_size.bytes()))?;
            }
            next = BlockIndex((number + 1) * per_table);
        }
        Ok(())
    }

    /// Writes the data in an extent of the file again, and leaves its holes.
    fn rewrite(&self, extent: Extent) -> Result<()> {
        let mut offset = extent.offset;
        while let Some(data) = self.file.next_data(offset)?.filter(|d| d.offset < extent.end()) {
            let part = Extent::between(data.offset, data.end().min(extent.end()));
            let mut bytes = vec![0; part.len as usize];
            self.file.read_exact_at(&mut bytes, part.offset)?;
            self.file.write_at(&bytes, part.offset)?;
            offset = part.end();
        }
        Ok(())
    }

    /// Whoever writes relies on the tables being where we lay them out, and not in the data.
    fn check_layout(&self, size_bytes: u64) -> Result<()> {
        let layout = Layout::new(self.header.cluster_size, size_bytes);
        let ours = Header { dirty: self.header.dirty, ..Header::new(&layout, self.header.backing) };
        let differs = |place| {
            let expected = "that of a delta of this size; it is not written to";
            Err(Error::damaged(self.path(), place, "another one", expected))
        };
        if self.header != ours {
            return differs("header");
        }
        let expected = layout.l1_table();
        let mut found = vec![0; expected.len()];
        self.file.read_exact_at(&mut found, layout.l1_offset)?;
        if found == expected { Ok(()) } else { differs("L1 table") }
    }

    /// Writes the header, synced.
    fn write_header(&mut self, dirty: bool, backing: Option<Backing>) -> Result<()> {
        self.header.dirty = dirty;
        self.header.backing = backing;
        self.file.write_at(&self.header.encode(), 0)?;
        self.file.sync()
    }

    fn flaw(&self, flaw: String) -> Error {
        Error::flawed(self.file.path())(flaw)
    }
}

/// Where the tables of a delta are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tables {
    /// Where header and L1 table say.
    AsFound,
    /// Where [`DeltaWriter`] puts them, whatever is in header and L1 table by now.
    AsLaidOut,
}

impl Delta {
    /// What can be told of `count` blocks from `first` on, ascending: where those are that the delta holds, and `None` for
    /// those of which it cannot be told. An entry that makes no sense costs its own block only.
    pub(crate) fn held_leniently(
        &self,
        tables: Tables,
        first: BlockIndex,
        count: u64,
    ) -> Result<Vec<(BlockIndex, Option<Cluster>)>> {
        let (file_bytes, per_table) = (self.file.len()?, self.blocks_per_table());
        let end = first.plus(count);
        let mut held = Vec::new();
        let mut next = first;
        while next < end {
            let number = next.0 / per_table;
            let to = end.min(BlockIndex((number + 1) * per_table));
            let entries = match judged(self.find_table(tables, number, file_bytes))? {
                Ok(None) => Vec::new(),
                Ok(Some(table)) => {
                    let at = table + (next.0 % per_table) * ENTRY_BYTES as u64;
                    self.entries_leniently(at, (to.0 - next.0) as usize, file_bytes)?
                }
                Err(_) => vec![None; (to.0 - next.0) as usize],
            };
            let entries = entries.into_iter().zip((next.0..).map(BlockIndex));
            let entries = entries.filter(|(cluster, _)| *cluster != Some(Cluster::Unallocated));
            held.extend(entries.map(|(cluster, block)| (block, cluster)));
            next = to;
        }
        Ok(held)
    }

    /// So many entries from an offset on; `None` for one that cannot be read or makes no sense.
    fn entries_leniently(
        &self,
        at: u64,
        count: usize,
        file_bytes: u64,
    ) -> Result<Vec<Option<Cluster>>> {
        let mut raw = vec![0; count * ENTRY_BYTES];
        let there = match judged(self.file.read_persistently(&mut raw, at))? {
            Ok(bytes) => vec![true; bytes / ENTRY_BYTES],
            // One by one, to know which of them cannot be read.
            Err(_) => {
                let parts = raw.as_chunks_mut::<ENTRY_BYTES>().0.iter_mut().zip(0..);
                let read = |(part, number): (&mut [u8; ENTRY_BYTES], u64)| {
                    let read = self.file.read_persistently(part, at + number * ENTRY_BYTES as u64);
                    Ok(judged(read)?.is_ok_and(|bytes| bytes == ENTRY_BYTES))
                };
                parts.map(read).collect::<Result<_>>()?
            }
        };
        let there = there.into_iter().chain(std::iter::repeat(false));
        let entries = raw.as_chunks::<ENTRY_BYTES>().0.iter().zip(there);
        let decode = |raw: &[u8; ENTRY_BYTES]| {
            decode_entry(u64::from_be_bytes(*raw), self.header.cluster_size, file_bytes).ok()
        };
        Ok(entries.map(|(raw, there)| if there { decode(raw) } else { None }).collect())
    }

    fn find_table(&self, tables: Tables, number: u64, file_bytes: u64) -> Result<Option<u64>> {
        let layout = Layout::new(self.header.cluster_size, self.header.virtual_bytes);
        match tables {
            Tables::AsFound => {
                let mut found = self.table_offset(number, file_bytes);
                for _ in 1..READ_ATTEMPTS {
                    if !found.as_ref().is_err_and(|error| error.kind() == ErrorKind::Io) {
                        break;
                    }
                    found = self.table_offset(number, file_bytes);
                }
                found
            }
            // All L1 entries are set from the beginning.
            Tables::AsLaidOut => {
                Ok(Some(layout.l2_offset + number * self.header.cluster_size.bytes()))
            }
        }
    }

    /// The first block from `from` up to `end` of which something can be told, or cannot.
    pub(crate) fn next_held_leniently(
        &self,
        tables: Tables,
        from: BlockIndex,
        end: BlockIndex,
    ) -> Result<Option<BlockIndex>> {
        let layout = Layout::new(self.header.cluster_size, self.header.virtual_bytes);
        let next = match tables {
            Tables::AsFound => match self.next_held_block(from, end) {
                Err(error) if error.is_unreadable() => Some(from),
                found => found?,
            },
            // They follow each other, and so do their entries. What is cut off cannot be told.
            Tables::AsLaidOut => {
                let entry = |block: BlockIndex| layout.l2_offset + block.0 * ENTRY_BYTES as u64;
                let file_end = self.file.len()?.saturating_sub(layout.l2_offset);
                let cut = BlockIndex(file_end / ENTRY_BYTES as u64);
                let data = self.file.next_data(entry(from))?;
                let data = data.map(|data| data.offset.saturating_sub(layout.l2_offset));
                let data = data.map(|offset| BlockIndex(offset / ENTRY_BYTES as u64).max(from));
                data.or(Some(cut.max(from)))
            }
        };
        Ok(next.filter(|block| *block < end))
    }

    /// Reads a whole cluster also where it was stored as one that is known to be bad: as it was found.
    pub(crate) fn read_as_found(
        &self,
        cluster: Cluster,
        decompressor: &mut Decompressor,
        buffer: &mut [u8],
    ) -> Result<()> {
        let mut read = self.read_cluster(cluster, decompressor, buffer);
        for _ in 1..READ_ATTEMPTS {
            if !read.as_ref().is_err_and(|error| error.kind() == ErrorKind::Io) {
                break;
            }
            read = self.read_cluster(cluster, decompressor, buffer);
        }
        match (read, cluster, self.header.compression) {
            (Err(error), Cluster::Compressed { offset, max_bytes }, Compression::Zstd)
                if error.kind() == ErrorKind::Damaged =>
            {
                let stored = self.read_compressed(offset, max_bytes)?;
                decompressor.decompress_bad(&stored, buffer).map_err(|_| error)
            }
            (read, ..) => read,
        }
    }
}

/// Gives a delta another backing file, or none: one sector, written at once. Reads the same before and after only if the
/// caller has seen to that. Synced.
pub fn rebase(storage: &dyn Storage, revision: RevisionId, backing: Option<Backing>) -> Result<()> {
    let file = storage.open(FileName::Delta(revision), Access::Write)?;
    let header = read_header(&*file)?;
    // Even when it looks right: after a sync that failed, what a program sees is not what is durable.
    file.write_at(&Header { backing, ..header }.encode(), 0)?;
    file.sync()
}

/// Brings a delta to which blocks were being appended into order, whatever the backing file it has: makes durable what was
/// entered, gives back what nothing refers to if the caller says so, writes the reference counts anew and clears the dirty
/// bit. Synced.
pub fn repair(
    storage: &dyn Storage,
    revision: RevisionId,
    block_size: BlockSize,
    size_bytes: u64,
    backing: Option<Backing>,
    unreferenced: Unreferenced,
) -> Result<()> {
    let mut delta = Delta::open(storage, revision, block_size, size_bytes)?;
    delta.check_layout(size_bytes)?;
    delta.file = storage.open(FileName::Delta(revision), Access::Write)?;
    delta.write_header(true, backing)?;
    delta.rewrite_tables()?;
    refcounts::rebuild(&delta, unreferenced)?;
    delta.file.sync()?;
    delta.write_header(false, backing)
}

/// Writes header and L1 table anew, both of which follow from the revision's size; the reference counts are for
/// [`repair`]. Synced.
pub fn write_tables(
    storage: &dyn Storage,
    revision: RevisionId,
    block_size: BlockSize,
    size_bytes: u64,
    backing: Option<Backing>,
) -> Result<()> {
    let file = storage.open(FileName::Delta(revision), Access::Write)?;
    let layout = Layout::new(block_size, size_bytes);
    if file.len()? < layout.data_offset {
        file.set_len(layout.data_offset)?;
    }
    file.write_at(&layout.l1_table(), layout.l1_offset)?;
    file.write_at(&Header::new(&layout, backing).encode(), 0)?;
    file.sync()
}

fn read_header(file: &dyn StorageFile) -> Result<Header> {
    let mut start = [0; MAX_HEADER_BYTES];
    let found = file.read_at(&mut start, 0)?;
    Header::parse(start.get(..found).unwrap_or(&start)).map_err(Error::flawed(file.path()))
}

/// Reads a cluster of which the image has only the first `part.len()` bytes.
pub(crate) fn read_cut(
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

impl Compressor {
    /// The stored form of a whole cluster that is not zero.
    pub fn store(&mut self, cluster: &[u8]) -> StoredBlock {
        let mut frame = Vec::new();
        match self.compress(cluster, &mut frame) {
            true => {
                // Many of them are kept until they are written.
                frame.shrink_to_fit();
                StoredBlock::Compressed(frame)
            }
            false => StoredBlock::Plain(cluster.to_vec()),
        }
    }
}

/// Makes a new delta, or appends to one.
pub struct DeltaWriter {
    delta: Delta,
    end: u64,
    appended: Vec<(BlockIndex, Cluster)>,
    counts: NewCounts,
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
        let file = storage.create(FileName::Delta(revision))?;
        Self::create_in(file, block_size, size_bytes, Some(Backing::IMAGE))
    }

    /// The same in an empty file, with any backing file or none. Synced.
    pub fn create_in(
        file: Box<dyn StorageFile>,
        block_size: BlockSize,
        size_bytes: u64,
        backing: Option<Backing>,
    ) -> Result<Self> {
        let layout = Layout::new(block_size, size_bytes);
        let header = Header::new(&layout, backing);
        file.set_len(layout.data_offset)?;
        file.write_at(&layout.l1_table(), layout.l1_offset)?;
        file.write_at(&header.encode(), 0)?;
        file.sync()?;
        let delta = Delta { file, header };
        let end = layout.data_offset;
        Ok(DeltaWriter {
            counts: NewCounts::after_tables(&delta, end),
            delta,
            end,
            appended: Vec::new(),
        })
    }

    /// Opens the delta of a revision to append to it. It is dirty from now on. Synced.
    pub fn reopen(
        storage: &dyn Storage,
        revision: RevisionId,
        block_size: BlockSize,
        size_bytes: u64,
    ) -> Result<Self> {
        let mut delta = Delta::open(storage, revision, block_size, size_bytes)?;
        if delta.header.dirty {
            let expected = "clear: nothing was being written";
            return Err(Error::damaged(delta.path(), "dirty bit", "set", expected));
        }
        delta.check_layout(size_bytes)?;
        delta.file = storage.open(FileName::Delta(revision), Access::Write)?;
        delta.write_header(true, delta.header.backing)?;
        let end = delta.file.len()?.next_multiple_of(block_size.bytes());
        Ok(DeltaWriter {
            delta,
            end,
            appended: Vec::new(),
            counts: NewCounts::from_end(end, block_size),
        })
    }

    /// Appends blocks in ascending order: compressed ones packed, then plain ones. Not yet part of the delta and not synced.
    pub fn append(&mut self, blocks: &[OldBlock]) -> Result<()> {
        let cluster = self.delta.header.cluster_size.bytes();
        self.check_room(blocks)?;
        let mut run = Vec::with_capacity(limits().append_bytes);
        for old in blocks {
            match &old.content {
                StoredBlock::Zero => self.appended.push((old.block, Cluster::Zero)),
                StoredBlock::Compressed(frame) => {
                    let offset = self.end + run.len() as u64;
                    run.extend_from_slice(frame);
                    let max_bytes = frame.len() as u64;
                    self.appended.push((old.block, Cluster::Compressed { offset, max_bytes }));
                    if run.len() >= limits().append_bytes {
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

    /// That no place of what is to be appended is past what an entry, or the reference counts, can name. Nothing has been written.
    fn check_room(&self, blocks: &[OldBlock]) -> Result<()> {
        let Header { cluster_size, refcount_table_clusters, .. } = self.delta.header;
        let (mut packed, mut plain) = (0, 0);
        for old in blocks {
            match &old.content {
                StoredBlock::Zero => {}
                StoredBlock::Compressed(frame) => packed += frame.len() as u64,
                StoredBlock::Plain(_) => plain += cluster_size.bytes(),
            }
        }
        // Whole sectors are read, and plain clusters begin at boundaries.
        let end = self.end.saturating_add(packed).saturating_add(plain + cluster_size.bytes());
        let limit = Layout::max_file_bytes(cluster_size, refcount_table_clusters);
        if end <= limit {
            return Ok(());
        }
        let action = format!("append to it up to byte {end}: a delta like this ends at {limit}");
        let too_large = std::io::Error::from(std::io::ErrorKind::FileTooLarge);
        Err(Error::io(self.delta.path(), action)(too_large))
    }

    /// Takes what is in the file already for a block, to be entered with what was appended.
    pub(crate) fn adopt(&mut self, block: BlockIndex, cluster: Cluster) {
        self.appended.push((block, cluster));
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
        appended.iter().for_each(|(_, cluster)| self.counts.add(*cluster));
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
        let backing = self.delta.header.backing;
        self.finish_with(backing)
    }

    /// The same, and gives the delta another backing file or none, with the dirty bit, in one write.
    pub fn finish_with(self, backing: Option<Backing>) -> Result<Delta> {
        let mut delta = self.delta;
        self.counts.write(&delta)?;
        delta.file.sync()?;
        // Nobody else changes the header while the lock is held.
        delta.write_header(false, backing)?;
        Ok(delta)
    }

    /// The delta as far as it has been entered.
    pub fn delta(&self) -> &Delta {
        &self.delta
    }
}
