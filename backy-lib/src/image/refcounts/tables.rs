//! Walking over the tables of a delta, and over everything that they refer to.

use crate::base::error::Result;
use crate::base::extent::Extent;
use crate::base::progress::{self, Observer, Silent};
use crate::base::units::BlockIndex;
use crate::format::qcow2::{Cluster, ENTRY_BYTES, kept_offset};
use crate::image::delta::Delta;

/// Entries read at a time.
const WALK_ENTRIES: u64 = 4096;

/// Whether the tables are readable, wherever they are, and nothing else lies where the header has one. Then they can
/// be trusted, whoever has made them, and the counts may be written.
pub(crate) fn has_sound_tables(delta: &Delta, observer: &dyn Observer) -> Result<bool> {
    let header = &delta.header;
    let cluster = header.cluster_size.bytes();
    let table_bytes = u64::from(header.refcount_table_clusters) * cluster;
    let l1_bytes = u64::from(header.l1_entries) * ENTRY_BYTES as u64;
    let fixed = [
        Extent::new(0, cluster),
        Extent::new(header.refcount_table_offset, table_bytes),
        Extent::new(header.l1_offset, l1_bytes.next_multiple_of(cluster)),
    ];
    let file_bytes = delta.file.len()?.next_multiple_of(cluster);
    let mut sound = fixed.iter().all(|table| table.end() <= file_bytes);
    let mut take = |offset: u64, bytes: u64| {
        sound &= fixed.iter().all(|table| offset + bytes <= table.offset || table.end() <= offset);
    };
    let walked = for_each_table(delta, observer, |offset| take(offset, cluster)).and_then(|()| {
        for_each_cluster(delta, observer, |held| match held {
            Cluster::Unallocated | Cluster::Zero => {}
            Cluster::Plain { offset } => take(offset, cluster),
            Cluster::Compressed { offset, .. } => take(offset, 1),
        })
    });
    match walked {
        Ok(()) => Ok(sound),
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The end of the last of the delta's tables and of what they refer to.
pub(super) fn data_end(delta: &Delta) -> Result<u64> {
    let header = &delta.header;
    let cluster_bytes = header.cluster_size.bytes();
    let table_bytes = u64::from(header.refcount_table_clusters) * cluster_bytes;
    let l1_bytes = u64::from(header.l1_entries) * ENTRY_BYTES as u64;
    let mut end = (header.refcount_table_offset + table_bytes).max(header.l1_offset + l1_bytes);
    for_each_table(delta, &Silent, |offset| end = end.max(offset + cluster_bytes))?;
    for_each_cluster(delta, &Silent, |cluster| {
        end = end.max(match cluster {
            Cluster::Unallocated | Cluster::Zero => 0,
            Cluster::Plain { offset } => offset + cluster_bytes,
            Cluster::Compressed { offset, max_bytes } => offset + max_bytes,
        });
    })?;
    Ok(end)
}

/// Where the L2 tables are.
pub(super) fn for_each_table(
    delta: &Delta,
    observer: &dyn Observer,
    mut take: impl FnMut(u64),
) -> Result<()> {
    let entries = u64::from(delta.header.l1_entries);
    let file_bytes = delta.file.len()?;
    let mut first = 0;
    while first < entries {
        progress::check(observer)?;
        let step = WALK_ENTRIES.min(entries - first);
        let offsets = delta.table_offsets(first, step, file_bytes)?;
        offsets.into_iter().flatten().for_each(&mut take);
        first += step;
    }
    Ok(())
}

pub(super) fn for_each_cluster(
    delta: &Delta,
    observer: &dyn Observer,
    mut take: impl FnMut(Cluster),
) -> Result<()> {
    let blocks = delta.header.cluster_size.count(delta.header.virtual_bytes);
    let mut next = BlockIndex(0);
    while let Some(held) = delta.next_held_block(next, BlockIndex(blocks))? {
        progress::check(observer)?;
        let step = WALK_ENTRIES.min(blocks.saturating_sub(held.0));
        let clusters = delta.clusters(held, step)?;
        for (cluster, raw) in clusters.into_iter().zip(delta.raw_entries(held, step)?) {
            take(kept_offset(raw).map_or(cluster, |offset| Cluster::Plain { offset }));
        }
        next = held.plus(step);
    }
    Ok(())
}
