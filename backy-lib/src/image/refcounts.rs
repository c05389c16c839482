//! Reference counts of a delta, made anew from its tables.
//!
//! Source: qcow2 specification, "Host cluster management". Every table and plain cluster counts once; a host cluster
//! counts once for each compressed cluster of which it holds any sector. Memory is bounded: the file is covered in
//! stretches, and the L2 tables are walked once for each.

use super::delta::Delta;
use crate::error::Result;
use crate::format::qcow2::{Cluster, ENTRY_BYTES};
use crate::units::BlockIndex;

const REFCOUNT_BYTES: u64 = 2;
/// Counts held in memory at a time, 8 MiB: enough for 256 GiB of delta with clusters of 64 KiB.
const STRETCH_COUNTS: u64 = 4 << 20;
/// Entries read at a time.
const WALK_ENTRIES: u64 = 4096;

/// Writes the reference count blocks and the table that refers to them. Not synced.
///
/// Blocks that the table has already are used again, new ones are appended.
pub(super) fn write(delta: &Delta) -> Result<()> {
    let cluster = delta.header.cluster_size.bytes();
    let counts_per_block = cluster / REFCOUNT_BYTES;
    let blocks = place_blocks(delta, cluster, counts_per_block)?;
    let host_clusters = delta.file.len()?.div_ceil(cluster);
    let blocks_per_stretch = (STRETCH_COUNTS / counts_per_block).max(1);
    let mut first_block = 0;
    for places in blocks.chunks(blocks_per_stretch as usize) {
        let first = first_block * counts_per_block;
        let end = (first + places.len() as u64 * counts_per_block).min(host_clusters);
        let mut counts = Counts { first, counts: vec![0; (end - first) as usize], cluster };
        count_tables(delta, &blocks, &mut counts)?;
        count_data(delta, &mut counts)?;
        let raw: Vec<u8> = counts.counts.iter().flat_map(|count| count.to_be_bytes()).collect();
        for (place, raw) in places.iter().zip(raw.chunks(cluster as usize)) {
            delta.file.write_at(raw, *place)?;
        }
        first_block += places.len() as u64;
    }
    let table: Vec<u8> = blocks.iter().flat_map(|place| place.to_be_bytes()).collect();
    delta.file.write_at(&table, delta.header.refcount_table_offset)
}

/// Offsets of the reference count blocks, enough to cover the file with themselves in it.
fn place_blocks(delta: &Delta, cluster: u64, counts_per_block: u64) -> Result<Vec<u64>> {
    let covered_by_block = counts_per_block * cluster;
    let mut file_bytes = delta.file.len()?.next_multiple_of(cluster);
    let mut blocks = Vec::new();
    while blocks.len() as u64 * covered_by_block < file_bytes {
        let mut raw = [0; ENTRY_BYTES];
        let at = delta.header.refcount_table_offset + (blocks.len() * ENTRY_BYTES) as u64;
        delta.file.read_exact_at(&mut raw, at)?;
        match u64::from_be_bytes(raw) {
            0 => {
                blocks.push(file_bytes);
                file_bytes += cluster;
            }
            place => blocks.push(place),
        }
    }
    delta.file.set_len(file_bytes)?;
    Ok(blocks)
}

/// Counts of the host clusters of one stretch of the file.
struct Counts {
    first: u64,
    counts: Vec<u16>,
    cluster: u64,
}

impl Counts {
    fn add(&mut self, offset: u64, bytes: u64) {
        let last = (offset + bytes.max(1) - 1) / self.cluster;
        for host in (offset / self.cluster).max(self.first)..=last {
            let Some(count) = self.counts.get_mut((host - self.first) as usize) else { break };
            *count = count.saturating_add(1);
        }
    }
}

fn count_tables(delta: &Delta, blocks: &[u64], counts: &mut Counts) -> Result<()> {
    let header = &delta.header;
    let cluster = counts.cluster;
    counts.add(0, cluster);
    counts.add(header.refcount_table_offset, u64::from(header.refcount_table_clusters) * cluster);
    counts.add(header.l1_offset, u64::from(header.l1_entries) * ENTRY_BYTES as u64);
    for &place in blocks {
        counts.add(place, cluster);
    }
    let file_bytes = delta.file.len()?;
    let mut first = 0;
    while first < u64::from(header.l1_entries) {
        let step = WALK_ENTRIES.min(u64::from(header.l1_entries) - first);
        let offsets = delta.table_offsets(first, step, file_bytes)?;
        offsets.into_iter().flatten().for_each(|offset| counts.add(offset, cluster));
        first += step;
    }
    Ok(())
}

fn count_data(delta: &Delta, counts: &mut Counts) -> Result<()> {
    let blocks = delta.header.cluster_size.count(delta.header.virtual_bytes);
    let mut next = BlockIndex(0);
    while let Some(held) = delta.next_held_block(next, BlockIndex(blocks))? {
        let step = WALK_ENTRIES.min(blocks.saturating_sub(held.0));
        for cluster in delta.clusters(held, step)? {
            match cluster {
                Cluster::Unallocated | Cluster::Zero => {}
                Cluster::Plain { offset } => counts.add(offset, counts.cluster),
                Cluster::Compressed { offset, max_bytes } => counts.add(offset, max_bytes),
            }
        }
        next = held.plus(step);
    }
    Ok(())
}
