//! Reading the rest of a damaged delta: an invalid entry costs only its own block.

use super::{Decompressor, Delta};
use crate::base::error::{ErrorKind, Result, judged};
use crate::base::units::BlockIndex;
use crate::format::qcow2::{Cluster, Compression, ENTRY_BYTES, Layout, decode_entry};
use crate::storage::READ_ATTEMPTS;

/// Where to look for the tables of a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tables {
    /// Where header and L1 table say.
    AsFound,
    /// Where [`DeltaWriter`] puts them, whatever header and L1 table contain by now.
    AsLaidOut,
}

impl Delta {
    /// What is known about `count` blocks from `first` on, ascending: where those are that the delta holds, and
    /// `None` for those that are unknown. An invalid entry costs only its own block.
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

    /// This many entries from an offset on; `None` for one that is unreadable or invalid.
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

    /// The first block from `from` up to `end` that the delta may hold, or about which nothing is known.
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
            // They follow each other, and so do their entries. Nothing is known about those that are cut off.
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

    /// Reads a whole cluster as it was found, even if it was stored as one that is known to be bad.
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
