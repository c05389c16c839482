//! L1 and L2 entries: where a cluster's content is.
//!
//! Source: qcow2 specification, "Cluster mapping".

use crate::base::units::BlockSize;

/// Length of an L1 or L2 entry in bytes.
pub const ENTRY_BYTES: usize = 8;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const RESERVED_MASK: u64 = 0x3f00_0000_0000_01fe;
const SECTOR_BYTES: u64 = 512;

/// The meaning of an L2 entry for one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cluster {
    /// Not in this file: read the backing file.
    Unallocated,
    /// All zero, without data.
    Zero,
    /// Stored as it is, at a cluster boundary.
    Plain {
        /// Offset in the file.
        offset: u64,
    },
    /// Stored compressed.
    Compressed {
        /// Offset of the first byte in the file.
        offset: u64,
        /// Upper bound of its length in bytes: the entry gives the end only to the sector.
        max_bytes: u64,
    },
}

impl Cluster {
    /// Bytes of the file to read for its content.
    pub fn stored_bytes(self, cluster_size: BlockSize) -> u64 {
        match self {
            Cluster::Unallocated | Cluster::Zero => 0,
            Cluster::Plain { .. } => cluster_size.bytes(),
            Cluster::Compressed { max_bytes, .. } => max_bytes,
        }
    }
}

/// Where an L2 table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L1Entry {
    /// No table: all its clusters are unallocated.
    None,
    /// Offset of the L2 table, a cluster boundary.
    Table(u64),
}

impl L1Entry {
    /// Reads an L1 entry. `file_bytes` is the length of the file that it must lie in.
    pub fn decode(raw: u64, cluster_size: BlockSize, file_bytes: u64) -> Result<Self, String> {
        let offset = raw & OFFSET_MASK;
        if raw & !COPIED == 0 {
            return Ok(L1Entry::None);
        }
        if raw & !(COPIED | OFFSET_MASK) != 0 {
            return Err(format!("L1 entry: found reserved bits in {raw:#x}"));
        }
        in_file("L2 table", offset, cluster_size, file_bytes)?;
        Ok(L1Entry::Table(offset))
    }

    /// The L1 entry of the table at `offset`, which nothing else refers to.
    pub fn encode(offset: u64) -> u64 {
        offset | COPIED
    }
}

/// Reads an L2 entry. `file_bytes` is the length of the file that the data must lie in.
///
/// # Errors
/// One sentence: what was found, what was expected.
pub fn decode_entry(raw: u64, cluster_size: BlockSize, file_bytes: u64) -> Result<Cluster, String> {
    if raw & COMPRESSED != 0 {
        let (offset, sectors) = split_compressed(raw, cluster_size);
        // The first sector counts from where the data starts; those that follow are whole.
        let max_bytes = (sectors + 1) * SECTOR_BYTES - offset % SECTOR_BYTES;
        if raw & COPIED != 0 {
            return Err(format!("L2 entry: found {raw:#x}, a compressed cluster marked as copied"));
        }
        if offset < cluster_size.bytes() || offset >= file_bytes {
            return Err(format!(
                "compressed cluster: found offset {offset}, expected {} to {file_bytes}",
                cluster_size.bytes()
            ));
        }
        return Ok(Cluster::Compressed { offset, max_bytes: max_bytes.min(file_bytes - offset) });
    }
    if raw & RESERVED_MASK != 0 {
        return Err(format!("L2 entry: found reserved bits in {raw:#x}"));
    }
    let offset = raw & OFFSET_MASK;
    if offset != 0 {
        in_file("cluster", offset, cluster_size, file_bytes)?;
    }
    Ok(match (raw & ZERO != 0, offset) {
        (true, _) => Cluster::Zero,
        (false, 0) => Cluster::Unallocated,
        (false, offset) => Cluster::Plain { offset },
    })
}

/// Where a zero cluster keeps data that must not be read, as QEMU leaves it when it writes zeros over a plain
/// cluster.
pub fn kept_offset(raw: u64) -> Option<u64> {
    let offset = raw & OFFSET_MASK;
    (raw & COMPRESSED == 0 && raw & ZERO != 0 && offset != 0).then_some(offset)
}

/// The L2 entry for a cluster; for a compressed one `max_bytes` is its exact length.
pub fn encode_entry(cluster: Cluster, cluster_size: BlockSize) -> u64 {
    match cluster {
        Cluster::Unallocated => 0,
        Cluster::Zero => ZERO,
        Cluster::Plain { offset } => offset | COPIED,
        Cluster::Compressed { offset, max_bytes } => {
            let sectors = (offset + max_bytes - 1) / SECTOR_BYTES - offset / SECTOR_BYTES;
            COMPRESSED | (sectors << sector_shift(cluster_size)) | offset
        }
    }
}

/// No compressed cluster can begin here or later: the offset would not fit into its entry.
pub(super) fn compressed_end(cluster_size: BlockSize) -> u64 {
    1 << sector_shift(cluster_size)
}

/// Lowest bit of the sector count in a compressed entry: `62 - (cluster_bits - 8)`.
fn sector_shift(cluster_size: BlockSize) -> u32 {
    70 - cluster_size.bits()
}

fn split_compressed(raw: u64, cluster_size: BlockSize) -> (u64, u64) {
    let shift = sector_shift(cluster_size);
    let fields = raw & !(COPIED | COMPRESSED);
    (fields & ((1 << shift) - 1), fields >> shift)
}

fn in_file(
    what: &str,
    offset: u64,
    cluster_size: BlockSize,
    file_bytes: u64,
) -> Result<(), String> {
    let cluster = cluster_size.bytes();
    if offset.is_multiple_of(cluster) && offset >= cluster && offset + cluster <= file_bytes {
        return Ok(());
    }
    Err(format!(
        "{what}: found offset {offset}, expected a cluster boundary from {cluster} to {}",
        file_bytes.saturating_sub(cluster)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_read_back_as_written() {
        let size = BlockSize::DEFAULT;
        for cluster in [
            Cluster::Unallocated,
            Cluster::Zero,
            Cluster::Plain { offset: 7 << 16 },
            Cluster::Compressed { offset: 70_001, max_bytes: 4 * 512 - 70_001 % 512 },
        ] {
            let raw = encode_entry(cluster, size);
            assert_eq!(decode_entry(raw, size, 1 << 30), Ok(cluster));
        }
    }

    /// With every block size, the last possible place of a compressed cluster, and the most sectors, are read back as
    /// written.
    #[test]
    fn the_last_place_of_a_compressed_cluster_reads_back() {
        for bits in 12..=21 {
            let size = BlockSize::new(1 << bits).unwrap();
            let offset = compressed_end(size) - SECTOR_BYTES;
            for max_bytes in [SECTOR_BYTES, size.bytes(), 2 * size.bytes()] {
                let cluster = Cluster::Compressed { offset, max_bytes };
                let raw = encode_entry(cluster, size);
                assert_eq!(decode_entry(raw, size, u64::MAX), Ok(cluster), "{bits} {max_bytes}");
            }
        }
    }

    #[test]
    fn the_sector_count_is_that_of_additional_sectors_touched() {
        let size = BlockSize::DEFAULT;
        for (offset, bytes, sectors) in
            [(65536, 1, 0), (65536, 512, 0), (65536, 513, 1), (66047, 1, 0), (66047, 2, 1)]
        {
            let raw = encode_entry(Cluster::Compressed { offset, max_bytes: bytes }, size);
            assert_eq!(split_compressed(raw, size), (offset, sectors), "{offset} {bytes}");
        }
    }

    #[test]
    fn offsets_outside_the_file_and_reserved_bits_are_refused() {
        let size = BlockSize::DEFAULT;
        let file_bytes = 10 << 16;
        assert_eq!(decode_entry(COPIED | 2 << 16 | ZERO, size, file_bytes), Ok(Cluster::Zero));
        for raw in [
            10 << 16 | COPIED,               // past the end
            10 << 16 | ZERO,                 // data that a zero cluster keeps, past the end
            (1 << 16) + 512,                 // not on a boundary
            2 << 16 | 2,                     // reserved bit
            1 << 56 | 2 << 16,               // reserved bit
            COMPRESSED | (11 << 16),         // past the end
            COMPRESSED | 100,                // within the header
            COMPRESSED | COPIED | (2 << 16), // compressed clusters are never "copied"
        ] {
            assert!(decode_entry(raw, size, file_bytes).is_err(), "{raw:#x}");
        }
        for raw in [10 << 16, 1 << 16 | 1, 1 << 62 | 2 << 16] {
            assert!(L1Entry::decode(raw, size, file_bytes).is_err(), "{raw:#x}");
        }
        assert_eq!(L1Entry::decode(0, size, file_bytes), Ok(L1Entry::None));
        assert_eq!(
            L1Entry::decode(COPIED | 9 << 16, size, file_bytes),
            Ok(L1Entry::Table(9 << 16))
        );
    }

    /// A cluster, and a table, may lie anywhere from the first cluster after the header to the end of the file, and
    /// no further.
    #[test]
    fn the_first_and_the_last_place_in_a_file_are_taken() {
        let size = BlockSize::DEFAULT;
        let (cluster, file_bytes) = (size.bytes(), 10 * size.bytes());
        for (offset, fits) in [
            (cluster, true),
            (file_bytes - cluster, true),
            (file_bytes - cluster / 2, false),
            (file_bytes, false),
        ] {
            assert_eq!(decode_entry(offset | COPIED, size, file_bytes).is_ok(), fits, "{offset}");
            let table = L1Entry::decode(L1Entry::encode(offset), size, file_bytes);
            assert_eq!(table.is_ok(), fits, "{offset}");
        }
        for (offset, fits) in
            [(cluster - 1, false), (cluster, true), (file_bytes - 1, true), (file_bytes, false)]
        {
            let read = decode_entry(COMPRESSED | offset, size, file_bytes);
            assert_eq!(read.is_ok(), fits, "{offset}");
        }
    }

    /// The length of a compressed cluster never exceeds the bytes that the file has for it.
    #[test]
    fn a_compressed_cluster_ends_with_the_file() {
        for size in [BlockSize::MIN, BlockSize::DEFAULT, BlockSize::MAX] {
            let offset = 3 * size.bytes() + 100;
            let raw = encode_entry(Cluster::Compressed { offset, max_bytes: 700 }, size);
            let bound = 2 * SECTOR_BYTES - offset % SECTOR_BYTES;
            for (after, max_bytes) in [(1, 1), (700, 700), (bound, bound), (1 << 30, bound)] {
                let read = decode_entry(raw, size, offset + after);
                assert_eq!(read, Ok(Cluster::Compressed { offset, max_bytes }), "{after}");
            }
        }
    }

    /// Only a zero cluster that is not compressed keeps data, and only if its entry says where.
    #[test]
    fn a_zero_cluster_may_keep_data() {
        let offset = 3 << 16;
        for (raw, kept) in [
            (ZERO | offset, Some(offset)),
            (COPIED | ZERO | offset, Some(offset)),
            (ZERO, None),
            (COPIED | ZERO, None),
            (COPIED | offset, None),
            (COMPRESSED | ZERO | offset, None),
            (COMPRESSED | offset, None),
            (0, None),
        ] {
            assert_eq!(kept_offset(raw), kept, "{raw:#x}");
        }
    }
}
