//! Reference counts of appended clusters.

use super::{
    Counts, REFCOUNT_BYTES, STRETCH_COUNTS, Unreferenced, place_blocks, rebuild, write_all,
    write_table,
};
use crate::base::error::Result;
use crate::base::units::BlockSize;
use crate::format::qcow2::Cluster;
use crate::image::delta::Delta;

/// Counts of the host clusters behind the previous end of the data, for appended content. The cost depends on what is
/// appended, not on what is there.
pub(in crate::image) struct NewCounts {
    counts: Counts,
    /// More was appended than is counted here: rebuild all counts at the end.
    too_many: bool,
}

impl NewCounts {
    /// For a new delta that so far has only its tables.
    pub(in crate::image) fn after_tables(delta: &Delta, end: u64) -> Self {
        let cluster = delta.header.cluster_size.bytes();
        let mut new = NewCounts::from_end(0, delta.header.cluster_size);
        // The L2 tables lie between the L1 table and the data.
        new.add_extent(0, cluster);
        let table = (
            delta.header.refcount_table_offset,
            u64::from(delta.header.refcount_table_clusters) * cluster,
        );
        new.add_extent(table.0, table.1);
        new.add_extent(table.0 + table.1, end - table.0 - table.1);
        new
    }

    /// For a delta whose counts are right up to `end`, a cluster boundary where the next data is written.
    pub(in crate::image) fn from_end(end: u64, cluster_size: BlockSize) -> Self {
        let cluster = cluster_size.bytes();
        NewCounts {
            counts: Counts { first: end / cluster, counts: Vec::new(), cluster },
            too_many: false,
        }
    }

    /// Counts an appended cluster.
    pub(in crate::image) fn add(&mut self, cluster: Cluster) {
        match cluster {
            Cluster::Unallocated | Cluster::Zero => {}
            Cluster::Plain { offset } => self.add_extent(offset, self.counts.cluster),
            Cluster::Compressed { offset, max_bytes } => self.add_extent(offset, max_bytes),
        }
    }

    pub(in crate::image) fn add_extent(&mut self, offset: u64, bytes: u64) {
        let end = (offset + bytes).div_ceil(self.counts.cluster).saturating_sub(self.counts.first);
        self.too_many |= end > STRETCH_COUNTS;
        if self.too_many {
            return;
        }
        if end as usize > self.counts.counts.len() {
            self.counts.counts.resize(end as usize, 0);
        }
        self.counts.add(offset, bytes);
    }

    /// Writes them, and the table. If the old counts are unreliable, rebuilds all; the appended clusters lie behind
    /// everything else, so nothing is cut off then. Not synced.
    pub(in crate::image) fn write(mut self, delta: &Delta) -> Result<()> {
        let cluster = self.counts.cluster;
        let per_block = cluster / REFCOUNT_BYTES;
        let first_offset = self.counts.first * cluster;
        let Some(blocks) = place_blocks(delta, cluster, per_block, first_offset)? else {
            return rebuild(delta, Unreferenced::Free);
        };
        for &place in blocks.iter().filter(|&&place| place >= first_offset) {
            self.add_extent(place, cluster);
        }
        if self.too_many {
            return write_all(delta, &blocks, None);
        }
        for (&place, number) in blocks.iter().zip(0..) {
            let block_first = number * per_block;
            if block_first + per_block <= self.counts.first {
                continue;
            }
            let mut raw = vec![0; cluster as usize];
            if block_first < self.counts.first {
                // It is missing, or does not even count itself: the table is wrong, and leads to something else.
                if place >= first_offset {
                    return rebuild(delta, Unreferenced::Free);
                }
                delta.file.read_exact_at(&mut raw, place)?;
                let own = (place / cluster).checked_sub(block_first);
                let own = own.and_then(|own| raw.as_chunks::<2>().0.get(own as usize));
                if own.is_some_and(|count| u16::from_be_bytes(*count) != 1) {
                    return rebuild(delta, Unreferenced::Free);
                }
            }
            for (slot, host) in raw.as_chunks_mut::<2>().0.iter_mut().zip(block_first..) {
                if let Some(at) = host.checked_sub(self.counts.first) {
                    let count = self.counts.counts.get(at as usize).copied().unwrap_or_default();
                    *slot = count.to_be_bytes();
                }
            }
            delta.file.write_at(&raw, place)?;
        }
        write_table(delta, &blocks)
    }
}
