//! Where the tables of a new delta lie. All positions follow from the size and the cluster size.

use super::entry::compressed_end;
use super::{ENTRY_BYTES, L1Entry};
use crate::base::units::BlockSize;

/// QEMU's limit for the L1 table, 32 MiB.
const MAX_L1_BYTES: u64 = 32 << 20;
/// QEMU's limit for the reference count table, 8 MiB.
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
const REFCOUNT_BYTES: u64 = 2;

/// Positions of a delta's tables, in bytes from the start of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Cluster size, the archive's block size.
    pub cluster_size: BlockSize,
    /// Size of the revision rounded up to 512: QEMU cuts an odd size down to that.
    pub virtual_bytes: u64,
    /// The reference count table, large enough for a delta that holds every block uncompressed.
    pub refcount_table_offset: u64,
    /// Its length in clusters.
    pub refcount_table_clusters: u32,
    /// The L1 table.
    pub l1_offset: u64,
    /// Entries of the L1 table, at least one.
    pub l1_entries: u32,
    /// The first L2 table; the others follow.
    pub l2_offset: u64,
    /// First byte after the L2 tables.
    pub data_offset: u64,
}

impl Layout {
    /// The largest image in bytes that a delta can have with this cluster size.
    pub fn max_image_bytes(cluster_size: BlockSize) -> u64 {
        let cluster = cluster_size.bytes();
        let per_l1_entry = cluster * entries_per_table(cluster_size);
        let by_l1 = per_l1_entry.saturating_mul(MAX_L1_BYTES / ENTRY_BYTES as u64);
        let per_refcount_block = cluster * (cluster / REFCOUNT_BYTES);
        let host = per_refcount_block.saturating_mul(MAX_REFCOUNT_TABLE_BYTES / ENTRY_BYTES as u64);
        // A file may grow to a little more than twice its image, see `host_clusters`, and compressed data may be
        // anywhere in it.
        by_l1.min(host / 4).min(compressed_end(cluster_size) / 4).min(1 << 50)
    }

    /// The length that a delta can have whose reference count table has this many clusters. The table has space for
    /// all of it and for the blocks that it leads to, and an entry for compressed data can name every place in it.
    pub fn max_file_bytes(cluster_size: BlockSize, refcount_table_clusters: u32) -> u64 {
        let cluster = cluster_size.bytes();
        let blocks = u64::from(refcount_table_clusters) * (cluster / ENTRY_BYTES as u64);
        let counted = (cluster / REFCOUNT_BYTES - 1) * cluster;
        blocks.saturating_mul(counted).min(compressed_end(cluster_size))
    }

    /// The layout for a revision of `image_bytes`, at most [`Layout::max_image_bytes`].
    pub fn new(cluster_size: BlockSize, image_bytes: u64) -> Self {
        let cluster = cluster_size.bytes();
        let image_bytes = image_bytes.min(Self::max_image_bytes(cluster_size));
        let virtual_bytes = image_bytes.next_multiple_of(512);
        let l1_entries = virtual_bytes.div_ceil(cluster * entries_per_table(cluster_size)).max(1);
        let l1_clusters = (l1_entries * ENTRY_BYTES as u64).div_ceil(cluster);
        // All clusters that the file can ever have, twice over: tables, data and what merges leave behind.
        let host_clusters = 2 * (cluster_size.count(virtual_bytes) + l1_entries + l1_clusters + 16);
        let refcount_blocks = host_clusters.div_ceil(cluster / REFCOUNT_BYTES);
        let refcount_table_clusters =
            (refcount_blocks * ENTRY_BYTES as u64).div_ceil(cluster).max(1);
        let refcount_table_offset = cluster;
        let l1_offset = refcount_table_offset + refcount_table_clusters * cluster;
        let l2_offset = l1_offset + l1_clusters * cluster;
        Layout {
            cluster_size,
            virtual_bytes,
            refcount_table_offset,
            refcount_table_clusters: refcount_table_clusters as u32,
            l1_offset,
            l1_entries: l1_entries as u32,
            l2_offset,
            data_offset: l2_offset + l1_entries * cluster,
        }
    }

    /// The L1 table: all entries are set from the beginning.
    pub fn l1_table(&self) -> Vec<u8> {
        let cluster = self.cluster_size.bytes();
        (0..u64::from(self.l1_entries))
            .flat_map(|table| L1Entry::encode(self.l2_offset + table * cluster).to_be_bytes())
            .collect()
    }
}

/// Entries of one L2 table.
fn entries_per_table(cluster_size: BlockSize) -> u64 {
    cluster_size.bytes() / ENTRY_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_follow_each_other_and_cover_the_image() {
        for bits in 12..=21 {
            let size = BlockSize::new(1 << bits).unwrap();
            for image_bytes in [0, 1, 511, 4097, 1 << 30, 1 << 42, Layout::max_image_bytes(size)] {
                let image_bytes = image_bytes.min(Layout::max_image_bytes(size));
                let layout = Layout::new(size, image_bytes);
                assert!(
                    layout.virtual_bytes >= image_bytes && layout.virtual_bytes.is_multiple_of(512)
                );
                let covered = u64::from(layout.l1_entries) * size.bytes() * (size.bytes() / 8);
                assert!(covered >= layout.virtual_bytes, "{bits} {image_bytes}");
                assert!(
                    u64::from(layout.refcount_table_clusters) * size.bytes() <= 8 << 20,
                    "{bits}"
                );
                assert!(layout.refcount_table_offset < layout.l1_offset);
                assert!(layout.l1_offset < layout.l2_offset);
                assert!(layout.l2_offset < layout.data_offset);
                let header = super::super::Header::new(&layout, None);
                assert_eq!(super::super::Header::parse(&header.encode()), Ok(header));
            }
        }
    }

    /// The positions of the tables are part of the format: these were counted by hand.
    #[test]
    fn the_tables_are_where_they_were_counted_to_be() {
        let places = |size, bytes| {
            let layout = Layout::new(size, bytes);
            assert_eq!(layout.l1_table().len(), 8 * layout.l1_entries as usize);
            let tables = layout.l1_table();
            let last = tables.last_chunk::<8>().map(|raw| u64::from_be_bytes(*raw));
            assert_eq!(last, Some(L1Entry::encode(layout.data_offset - size.bytes())));
            let refcounts = (layout.refcount_table_offset, layout.refcount_table_clusters);
            (refcounts, layout.l1_offset, layout.l1_entries, layout.l2_offset, layout.data_offset)
        };
        let small = places(BlockSize::MIN, 42_496);
        assert_eq!(small, ((0x1000, 1), 0x2000, 1, 0x3000, 0x4000));
        let large = places(BlockSize::DEFAULT, 1 << 40);
        assert_eq!(large, ((0x1_0000, 1), 0x2_0000, 2048, 0x3_0000, 0x803_0000));
        let limits = [BlockSize::MIN, BlockSize::DEFAULT, BlockSize::MAX];
        assert_eq!(limits.map(Layout::max_image_bytes), [2 << 40, 512 << 40, 128 << 40]);
    }

    /// With every block size, a delta of the largest possible image can hold every block of it twice over, with each
    /// of them compressed, and QEMU's limits hold.
    #[test]
    fn the_largest_image_fits_with_every_size_of_blocks() {
        for bits in 12..=21 {
            let size = BlockSize::new(1 << bits).unwrap();
            let image_bytes = Layout::max_image_bytes(size);
            let layout = Layout::new(size, image_bytes);
            assert_eq!(layout.virtual_bytes, image_bytes, "{bits}");
            assert!(u64::from(layout.l1_entries) * ENTRY_BYTES as u64 <= MAX_L1_BYTES, "{bits}");
            let table = u64::from(layout.refcount_table_clusters) * size.bytes();
            assert!(table <= MAX_REFCOUNT_TABLE_BYTES, "{bits}");
            let most = Layout::max_file_bytes(size, layout.refcount_table_clusters);
            assert!(most >= layout.data_offset + 2 * image_bytes, "{bits}: {most}");
            // 62 - (cluster_bits - 8) bits of an entry are the offset.
            assert!(most <= 1 << (70 - bits), "{bits}: {most}");
        }
        assert_eq!(compressed_end(BlockSize::MAX), 1 << 49);
    }
}
