//! One delta: the blocks that an older revision holds itself, in a qcow2 overlay.
//!
//! [`Delta`] reads any delta of ours, also during a backup, and any that QEMU has written to or rewritten. It does
//! not check content against digests; a [`Chain`](crate::image::chain::Chain) does. [`DeltaWriter`] creates a delta,
//! or appends to one.

mod lenient;
mod repair;
mod stored;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::OnceLock;

use crate::base::error::{Error, Result, judged};
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::revision::RevisionId;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::qcow2::{
    Backing, Cluster, Compression, Decompressor, ENTRY_BYTES, Header, L1Entry, Layout,
    MAX_HEADER_BYTES, MAX_STORED_CLUSTERS, decode_entry,
};
use crate::image::taken::delta_bytes;
use crate::storage::{Access, FileName, Storage, StorageFile};

#[cfg(feature = "testing")]
pub use crate::image::refcounts::Unreferenced;
pub(crate) use lenient::Tables;
pub use repair::{rebase, repair, write_tables};
pub use stored::{OldBlock, StoredBlock};
pub use writer::DeltaWriter;

/// An open delta.
pub struct Delta {
    pub(super) file: Box<dyn StorageFile>,
    pub(super) header: Header,
    /// Whether its tables must be read to know which of them are empty, once that was needed.
    hides_holes: OnceLock<bool>,
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

    /// The same for a revision whose size is not known, because it was made after the manifest was read.
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
        Ok(Delta::of(file, header))
    }

    /// Opens the delta of a revision that [`DeltaWriter`] has made, whatever its header contains by now: every
    /// position follows from the revision's size.
    pub(crate) fn open_laid_out(
        storage: &dyn Storage,
        revision: RevisionId,
        block_size: BlockSize,
        size_bytes: u64,
    ) -> Result<Self> {
        let file = storage.open(FileName::Delta(revision), Access::Read)?;
        let layout = Layout::new(block_size, size_bytes);
        Ok(Delta::of(file, Header::new(&layout, Some(Backing::IMAGE))))
    }

    fn of(file: Box<dyn StorageFile>, header: Header) -> Self {
        Delta { file, header, hides_holes: OnceLock::new() }
    }

    /// The header when the delta was opened.
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
        // Afterwards: a writer may be appending, and the content that an entry refers to is there before the entry.
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

    /// What the entry of each of `count` blocks from `first` on says, or its problem: a damaged one costs only its
    /// own block.
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

    /// The L2 entries of `count` blocks as they are; 0 if there is no table.
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
    /// Empty L2 tables are holes; a stretch of them costs one system call, however long it is. Where the file system
    /// reports no holes, they are read.
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
                let data = self.file.next_data(at)?;
                let start = data.map_or(u64::MAX, |data| data.offset.max(at));
                if start >= table_end {
                    hole = Extent::between(at, start);
                    continue;
                }
                let reaches_end = data.is_some_and(|data| data.end() >= file_bytes);
                let wanted_end = offset + (next.min(end) - table * per_table) * ENTRY_BYTES as u64;
                let start = match reaches_end && start < wanted_end && self.hides_holes()? {
                    true => self.next_entry(start, wanted_end)?,
                    false => Some(start),
                };
                let Some(start) = start else { continue };
                let block = table * per_table + (start - offset) / ENTRY_BYTES as u64;
                return Ok((block < end).then_some(BlockIndex(block)));
            }
        }
        Ok(None)
    }

    fn hides_holes(&self) -> Result<bool> {
        match self.hides_holes.get() {
            Some(hides) => Ok(*hides),
            None => {
                let hides = self.file.hides_holes()?;
                Ok(*self.hides_holes.get_or_init(|| hides))
            }
        }
    }

    /// The first entry of a table between two offsets that says something. One that cannot be read may say something.
    fn next_entry(&self, from: u64, to: u64) -> Result<Option<u64>> {
        let mut raw = vec![0; (to - from) as usize];
        if judged(self.file.read_exact_at(&mut raw, from))?.is_err() {
            return Ok(Some(from));
        }
        let said = raw.iter().position(|&byte| byte != 0);
        Ok(said.map(|at| from + (at / ENTRY_BYTES * ENTRY_BYTES) as u64))
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

    fn read_compressed(&self, offset: u64, max_bytes: u64) -> Result<Vec<u8>> {
        let limit = MAX_STORED_CLUSTERS * self.header.cluster_size.bytes();
        let mut stored = vec![0; max_bytes.min(limit) as usize];
        self.file.read_exact_at(&mut stored, offset)?;
        Ok(stored)
    }

    /// Bytes that the file takes on disk: if the file system does not report them, those that were written.
    pub fn stored_bytes(&self) -> Result<u64> {
        let written = |len| {
            let Header { cluster_size, virtual_bytes, .. } = self.header;
            delta_bytes(len, cluster_size, virtual_bytes)
        };
        let taken = self.file.taken_bytes()?;
        taken.map_or_else(|| self.file.len().map(written), Ok)
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

    fn flaw(&self, flaw: String) -> Error {
        Error::flawed(self.file.path())(flaw)
    }
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
