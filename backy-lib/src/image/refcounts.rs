//! Reference counts of a delta: those of appended clusters ([`NewCounts`]), rebuilt from its tables ([`rebuild`]), or
//! compared with them ([`check`]).
//!
//! Source: qcow2 specification, "Host cluster management". Every table and plain cluster counts once; a host cluster
//! counts once for each compressed cluster of which it holds any sector. A zero cluster of QEMU's may keep its data,
//! which counts as well. Memory is bounded: each pass covers one stretch of the file and walks the L2 tables once.
//!
//! A cluster that nothing refers to may be a block whose entry was lost. It is only freed for a caller that has
//! proved that nothing is missing: [`Unreferenced`].

mod appended;
mod tables;

use std::collections::BTreeSet;

use super::delta::Delta;
use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::base::progress::{Observer, Silent};

use crate::format::qcow2::{Cluster, ENTRY_BYTES, Layout};

pub(super) use appended::NewCounts;
pub(crate) use tables::has_sound_tables;
use tables::{data_end, for_each_cluster, for_each_table};

const REFCOUNT_BYTES: u64 = 2;
/// Counts held in memory at a time, 8 MiB: enough for 256 GiB of delta with clusters of 64 KiB.
const STRETCH_COUNTS: u64 = 4 << 20;
/// What to do with clusters with data that no table refers to.
#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "public for tests"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreferenced {
    /// Free them: the caller has proved that the delta lacks nothing.
    Free,
    /// Keep them where they are and allocated: one of them may be a block whose entry is lost.
    Keep,
}

/// Rebuilds all counts. Clusters that nothing refers to are freed, at the end of the file with their space, or kept.
/// Not synced; the dirty bit must be set meanwhile.
pub(super) fn rebuild(delta: &Delta, unreferenced: Unreferenced) -> Result<()> {
    let cluster = delta.header.cluster_size.bytes();
    let table_bytes = u64::from(delta.header.refcount_table_clusters) * cluster;
    let table = Extent::new(delta.header.refcount_table_offset, table_bytes);
    // Nobody can interrupt this: a repair that has begun runs to its end.
    if !has_sound_tables(delta, &Silent)? {
        let (found, expected) = ("one within another or in data", "each in its own place");
        return Err(Error::damaged(delta.path(), "tables", found, expected));
    }
    let per_block = cluster / REFCOUNT_BYTES;
    let (blocks, kept) = match unreferenced {
        Unreferenced::Free => {
            let end = data_end(delta)?.next_multiple_of(cluster);
            // Without the old blocks, which may lie past the end of the data.
            delta.file.punch_hole(table)?;
            delta.file.set_len(end)?;
            (place_blocks(delta, cluster, per_block, end)?, None)
        }
        Unreferenced::Keep => {
            let old = old_blocks(delta)?;
            let end = delta.file.len()?.next_multiple_of(cluster);
            let blocks = match old.is_sound {
                true => place_blocks(delta, cluster, per_block, end)?,
                false => None,
            };
            let blocks = match blocks {
                Some(blocks) => Some(blocks),
                None => {
                    delta.file.punch_hole(table)?;
                    place_blocks(delta, cluster, per_block, end)?
                }
            };
            (blocks, Some(Kept { except: old.places }))
        }
    };
    match blocks {
        Some(blocks) => write_all(delta, &blocks, kept),
        None => {
            let (place, expected) = ("reference count table", "zeros, after it was cleared");
            Err(Error::damaged(delta.path(), place, "something else", expected))
        }
    }
}

/// The reference count blocks that the table names.
struct OldBlocks {
    /// The blocks that are what the table says: each counts itself once, and nothing else refers to it. Ascending.
    places: Vec<u64>,
    /// Whether these are all of them.
    is_sound: bool,
}

fn old_blocks(delta: &Delta) -> Result<OldBlocks> {
    let cluster = delta.header.cluster_size.bytes();
    let per_block = cluster / REFCOUNT_BYTES;
    let file_bytes = delta.file.len()?;
    let entries = u64::from(delta.header.refcount_table_clusters) * cluster / ENTRY_BYTES as u64;
    let named = file_bytes.div_ceil(cluster).div_ceil(per_block).min(entries);
    let mut old = OldBlocks { places: Vec::new(), is_sound: true };
    for (place, number) in read_table(delta, named)?.into_iter().zip(0_u64..) {
        if place == 0 {
            continue;
        }
        let mut own = [0; REFCOUNT_BYTES as usize];
        let at = (place / cluster).checked_sub(number * per_block).filter(|at| *at < per_block);
        let is_inside = place % cluster == 0 && place.saturating_add(cluster) <= file_bytes;
        // If it lies where another one counts, that one is believed.
        let counts_itself = match at.filter(|_| is_inside) {
            Some(at) => {
                delta.file.read_exact_at(&mut own, place + at * REFCOUNT_BYTES)?;
                u16::from_be_bytes(own) == 1
            }
            None => is_inside,
        };
        match counts_itself {
            true => old.places.push(place),
            false => old.is_sound = false,
        }
    }
    old.places.sort_unstable();
    let mut taken = BTreeSet::new();
    let mut take = |offset: u64, bytes: u64| {
        let first = old.places.partition_point(|place| place + cluster <= offset);
        let hit = old.places.get(first..).unwrap_or_default().iter();
        taken.extend(hit.take_while(|place| **place < offset + bytes).copied());
    };
    for_each_table(delta, &Silent, |offset| take(offset, cluster))?;
    for_each_cluster(delta, &Silent, |held| match held {
        Cluster::Unallocated | Cluster::Zero => {}
        Cluster::Plain { offset } => take(offset, cluster),
        Cluster::Compressed { offset, max_bytes } => take(offset, max_bytes),
    })?;
    old.is_sound &= taken.is_empty();
    old.places.retain(|place| !taken.contains(place));
    Ok(old)
}

/// Which of the clusters that nothing refers to stay allocated: all with data but those at these offsets, ascending.
struct Kept {
    except: Vec<u64>,
}

impl Kept {
    /// Gives each of them a count of at least 1.
    fn count(&self, delta: &Delta, counts: &mut Counts) -> Result<()> {
        let cluster = counts.cluster;
        let end = (counts.first + counts.counts.len() as u64) * cluster;
        let mut offset = counts.first * cluster;
        while let Some(data) = delta.file.next_data(offset)?.filter(|data| data.offset < end) {
            let hosts = data.offset / cluster..data.end().min(end).div_ceil(cluster);
            for host in hosts.filter(|host| self.except.binary_search(&(host * cluster)).is_err()) {
                let Some(at) = host.checked_sub(counts.first) else { continue };
                if let Some(count) = counts.counts.get_mut(at as usize) {
                    *count = (*count).max(1);
                }
            }
            offset = data.end();
        }
        Ok(())
    }
}

fn write_all(delta: &Delta, blocks: &[u64], kept: Option<Kept>) -> Result<()> {
    let cluster = delta.header.cluster_size.bytes();
    for_each_stretch(delta, blocks, &Silent, |places, counts| {
        if let Some(kept) = &kept {
            kept.count(delta, counts)?;
        }
        let mut raw: Vec<u8> = counts.counts.iter().flat_map(|count| count.to_be_bytes()).collect();
        // A reused block may have counted clusters behind the end.
        raw.resize(places.len() * cluster as usize, 0);
        for (place, raw) in places.iter().zip(raw.chunks(cluster as usize)) {
            delta.file.write_at(raw, *place)?;
        }
        Ok(())
    })?;
    write_table(delta, blocks)
}

fn write_table(delta: &Delta, blocks: &[u64]) -> Result<()> {
    let table: Vec<u8> = blocks.iter().flat_map(|place| place.to_be_bytes()).collect();
    delta.file.write_at(&table, delta.header.refcount_table_offset)
}

/// Compares the counts with what the tables refer to; returns a sentence if they differ. With [`Unreferenced::Keep`]
/// a cluster that nothing refers to may be counted.
pub(crate) fn check(
    delta: &Delta,
    unreferenced: Unreferenced,
    observer: &dyn Observer,
) -> Result<Option<String>> {
    let cluster = delta.header.cluster_size.bytes();
    let host_clusters = delta.file.len()?.div_ceil(cluster);
    let needed = host_clusters.div_ceil(cluster / REFCOUNT_BYTES);
    let entries = u64::from(delta.header.refcount_table_clusters) * cluster / ENTRY_BYTES as u64;
    if needed > entries {
        return Ok(Some(format!(
            "length: found {host_clusters} clusters, more than the reference count table covers"
        )));
    }
    let blocks = read_table(delta, needed)?;
    if let Some(&place) = blocks
        .iter()
        .find(|&&place| place % cluster != 0 || place + cluster > host_clusters * cluster)
    {
        return Ok(Some(format!("reference count block: found offset {place}, outside the file")));
    }
    let mut flaw = None;
    let is_wrong = |found: u16, expected: u16| {
        found != expected && !(unreferenced == Unreferenced::Keep && expected == 0)
    };
    for_each_stretch(delta, &blocks, observer, |places, counts| {
        let mut raw = vec![0; cluster as usize];
        for (place, counts_of_block) in
            places.iter().zip(counts.counts.chunks((cluster / REFCOUNT_BYTES) as usize))
        {
            raw.fill(0);
            if *place != 0 {
                delta.file.read_exact_at(&mut raw, *place)?;
            }
            let found = raw.as_chunks::<2>().0.iter().map(|raw| u16::from_be_bytes(*raw));
            if let Some((found, expected)) =
                found.zip(counts_of_block).find(|(found, expected)| is_wrong(*found, **expected))
            {
                flaw.get_or_insert(format!("reference count: found {found}, expected {expected}"));
            }
        }
        Ok(())
    })?;
    Ok(flaw)
}

/// Calls back with the counts as they must be, for as many reference count blocks at a time as memory allows.
fn for_each_stretch(
    delta: &Delta,
    blocks: &[u64],
    observer: &dyn Observer,
    mut take: impl FnMut(&[u64], &mut Counts) -> Result<()>,
) -> Result<()> {
    let cluster = delta.header.cluster_size.bytes();
    let counts_per_block = cluster / REFCOUNT_BYTES;
    let host_clusters = delta.file.len()?.div_ceil(cluster);
    let blocks_per_stretch = (STRETCH_COUNTS / counts_per_block).max(1);
    let mut first = 0;
    for places in blocks.chunks(blocks_per_stretch as usize) {
        let end = (first + places.len() as u64 * counts_per_block).min(host_clusters);
        let mut counts =
            Counts { first, counts: vec![0; end.saturating_sub(first) as usize], cluster };
        count_tables(delta, blocks, &mut counts, observer)?;
        count_data(delta, &mut counts, observer)?;
        take(places, &mut counts)?;
        first = end;
    }
    Ok(())
}

/// The first `count` entries of the reference count table.
fn read_table(delta: &Delta, count: u64) -> Result<Vec<u64>> {
    let mut raw = vec![0; count as usize * ENTRY_BYTES];
    delta.file.read_exact_at(&mut raw, delta.header.refcount_table_offset)?;
    Ok(raw.as_chunks::<ENTRY_BYTES>().0.iter().map(|raw| u64::from_be_bytes(*raw)).collect())
}

/// Offsets of the reference count blocks, enough to cover the file including themselves. Those that backy has written
/// lie between the tables and `end`, in ascending order. `None` if the table says otherwise: then it is not followed,
/// whether QEMU has arranged it or it is damaged.
fn place_blocks(
    delta: &Delta,
    cluster: u64,
    counts_per_block: u64,
    end: u64,
) -> Result<Option<Vec<u64>>> {
    let covered_by_block = counts_per_block * cluster;
    let entries = u64::from(delta.header.refcount_table_clusters) * cluster / ENTRY_BYTES as u64;
    let layout = Layout::new(delta.header.cluster_size, delta.header.virtual_bytes);
    let mut next = layout.data_offset;
    let mut file_bytes = delta.file.len()?.next_multiple_of(cluster);
    let mut blocks = Vec::new();
    while blocks.len() as u64 * covered_by_block < file_bytes {
        if blocks.len() as u64 >= entries {
            let found = format!("space for {}", entries * counts_per_block);
            let expected = format!("{} clusters", file_bytes / cluster);
            return Err(Error::damaged(delta.path(), "reference count table", found, expected));
        }
        let mut raw = [0; ENTRY_BYTES];
        let at = delta.header.refcount_table_offset + (blocks.len() * ENTRY_BYTES) as u64;
        delta.file.read_exact_at(&mut raw, at)?;
        match u64::from_be_bytes(raw) {
            0 => {
                blocks.push(file_bytes);
                file_bytes += cluster;
            }
            place if place >= next && place % cluster == 0 && place < end => {
                blocks.push(place);
                next = place + cluster;
            }
            _ => return Ok(None),
        }
    }
    delta.file.set_len(file_bytes)?;
    Ok(Some(blocks))
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

fn count_tables(
    delta: &Delta,
    blocks: &[u64],
    counts: &mut Counts,
    observer: &dyn Observer,
) -> Result<()> {
    let header = &delta.header;
    let cluster = counts.cluster;
    counts.add(0, cluster);
    counts.add(header.refcount_table_offset, u64::from(header.refcount_table_clusters) * cluster);
    counts.add(header.l1_offset, u64::from(header.l1_entries) * ENTRY_BYTES as u64);
    for &place in blocks.iter().filter(|&&place| place != 0) {
        counts.add(place, cluster);
    }
    for_each_table(delta, observer, |offset| counts.add(offset, cluster))
}

fn count_data(delta: &Delta, counts: &mut Counts, observer: &dyn Observer) -> Result<()> {
    for_each_cluster(delta, observer, |cluster| match cluster {
        Cluster::Unallocated | Cluster::Zero => {}
        Cluster::Plain { offset } => counts.add(offset, counts.cluster),
        Cluster::Compressed { offset, max_bytes } => counts.add(offset, max_bytes),
    })
}
