//! Any bytes as a delta: opening it, looking clusters up and reading them returns content or an error, never a panic,
//! and never takes excessive memory. In an archive all ways to read it return the same, a merge into it or out of it
//! does not change what can be read, and an export is equal.

use std::ops::Range;

use backy_lib::format::qcow2::{Cluster, Decompressor, HEADER_BYTES, Header};
use backy_lib::image::delta::Delta;
use backy_lib::revision::RevisionId;
use backy_lib::units::BlockIndex;

use super::{OneFile, scratch_folder};

mod archive;

use archive::Position;

/// As many entries as one 4 KiB table has, twice.
const WINDOW_BLOCKS: u64 = 1024;
/// The fixed header fields with an extension, or the first entries of a table.
const INTERESTING_BYTES: usize = 128;
/// Reading more clusters of one input finds nothing new and costs speed.
const MAX_READS: usize = 32;

/// Runs the target.
///
/// # Panics
/// When a promise is broken.
pub fn run(data: &[u8]) {
    backy_lib::limits::use_small();
    let Ok(header) = Header::parse(&data[..data.len().min(HEADER_BYTES)]) else { return };
    assert_eq!(Header::parse(&header.encode()).as_ref(), Ok(&header));
    let revision = RevisionId::new("2026-11-22T00:00:00Z".parse().expect("a time"));
    let storage = OneFile(data.to_vec());
    let Ok(delta) = Delta::open_any_size(&storage, revision, header.cluster_size) else { return };
    assert_eq!(delta.header().backing, header.backing);
    read_some(&delta);
    let folder = scratch_folder();
    for position in [Position::Middle, Position::Oldest] {
        archive::check(&delta, data, position, folder.path());
    }
}

/// Reads the first and the last entries of the tables and some of the clusters.
fn read_some(delta: &Delta) {
    let header = delta.header();
    let blocks = header.cluster_size.count(header.virtual_bytes);
    let first_held = delta.next_held_block(BlockIndex(0), BlockIndex(blocks));
    assert!(!matches!(first_held, Ok(Some(block)) if block.0 >= blocks), "past the end");

    let mut decompressor = Decompressor::new().expect("memory for a decompressor");
    let mut buffer = vec![0; header.cluster_size.len()];
    let last_window = blocks.saturating_sub(WINDOW_BLOCKS);
    for first in [0, last_window] {
        let count = WINDOW_BLOCKS.min(blocks - first);
        let Ok(clusters) = delta.clusters(BlockIndex(first), count) else { continue };
        assert_eq!(clusters.len() as u64, count);
        let held = clusters.into_iter().filter(|cluster| *cluster != Cluster::Unallocated);
        for cluster in held.take(MAX_READS) {
            let _ = delta.read_cluster(cluster, &mut decompressor, &mut buffer);
        }
    }
}

/// Where a mutation is most likely to matter: the header or the start of a table. Most of the file is payload.
/// `None` for anywhere.
pub fn interesting_part(data: &[u8], seed: u32) -> Option<Range<usize>> {
    let start = match seed % 4 {
        0 => 0,
        1 => offset_at(data, 40)?,
        2 => offset_at(data, offset_at(data, 40)?)?,
        _ => return None,
    };
    let end = start.checked_add(INTERESTING_BYTES)?;
    (end <= data.len()).then_some(start..end)
}

/// The offset in a header field or a table entry, without its flags.
fn offset_at(data: &[u8], at: usize) -> Option<usize> {
    let raw = data.get(at..)?.first_chunk()?;
    usize::try_from(u64::from_be_bytes(*raw) & 0x00ff_ffff_ffff_fe00).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts are the header, the L1 table and the first L2 table, and never reach past the input.
    #[test]
    fn the_interesting_parts_are_where_the_tables_are() {
        let mut data = vec![0; 0x2080];
        data[40..48].copy_from_slice(&0x1000u64.to_be_bytes());
        data[0x1000..0x1008].copy_from_slice(&(1 << 63 | 0x2000u64).to_be_bytes());
        let starts = [0, 1, 2].map(|seed| interesting_part(&data, seed).map(|part| part.start));
        assert_eq!(starts, [Some(0), Some(0x1000), Some(0x2000)]);
        assert_eq!(interesting_part(&data, 3), None);
        assert_eq!(interesting_part(&data[..0x207f], 2), None);
        assert_eq!(interesting_part(&[], 0), None);
    }
}
