//! Blocks that are in a delta's file although no entry refers to them, found by their digests.
//!
//! The search looks for plain clusters at every cluster that nothing refers to, and for zstd frames at every byte,
//! because they are packed. A match has the right digest, so it is the right content wherever it lies. The search
//! only returns a place if nothing else is known to lie there. Work is bounded by the length of the file, memory by
//! the number of blocks that the delta holds.

use std::collections::{HashMap, HashSet};

use super::delta::Delta;
use crate::base::digest::{Digest, is_zero};
use crate::base::error::Result;
use crate::base::progress::{self, Observer};
use crate::base::units::BlockIndex;
use crate::format::qcow2::{
    Cluster, Decompressor, Layout, MAX_STORED_CLUSTERS, decode_entry, frame_bytes, kept_offset,
};

/// The fewest bytes to look through at a time.
const STEP_BYTES: u64 = 1 << 20;
/// Entries read at a time.
const WALK_ENTRIES: u64 = 4096;
/// The first bytes of a zstd frame. Source: RFC 8878, 3.1.1.
const FRAME_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Frames to try for each cluster of the file: more than there can be.
const TRIES_PER_CLUSTER: u64 = 256;

/// Where blocks with the wanted digests are, each place once. `last_bytes` is the true length of the last block. Only
/// for a delta that is laid out as backy's own.
pub(crate) fn find(
    delta: &Delta,
    wanted: &HashSet<[u8; 32]>,
    last_bytes: usize,
    observer: &dyn Observer,
) -> Result<HashMap<[u8; 32], Vec<Cluster>>> {
    let cluster = delta.header.cluster_size.bytes();
    let known = Known::of(delta, observer)?;
    let end = delta.file.len()?;
    let mut search = Search {
        delta,
        known,
        wanted,
        last_bytes,
        decompressor: Decompressor::new()?,
        content: vec![0; cluster as usize],
        found: HashMap::new(),
        tries_left: end.div_ceil(cluster).saturating_mul(TRIES_PER_CLUSTER),
    };
    let step = STEP_BYTES.max(cluster);
    let mut bytes = vec![0; (step + MAX_STORED_CLUSTERS * cluster) as usize];
    let data_offset =
        Layout::new(delta.header.cluster_size, delta.header.virtual_bytes).data_offset;
    let mut next = data_offset;
    while let Some(data) = delta.file.next_data(next)?.filter(|data| data.offset < end) {
        let mut at = data.offset / cluster * cluster;
        let stop = data.end().min(end);
        while at < stop {
            progress::check(observer)?;
            delta.file.read_padded_at(&mut bytes, at)?;
            search.look(&bytes, at, step.min(stop - at) as usize)?;
            at += step;
        }
        next = at.max(data.end());
    }
    Ok(search.found)
}

/// Everything known to be in a delta's file, ascending by offset.
struct Known {
    extents: Vec<Extent>,
}

#[derive(Clone, Copy)]
struct Extent {
    offset: u64,
    /// For a compressed cluster an upper bound: up to the end of its last sector.
    bytes: u64,
    is_packed: bool,
}

impl Known {
    fn of(delta: &Delta, observer: &dyn Observer) -> Result<Self> {
        let cluster = delta.header.cluster_size.bytes();
        let data_offset =
            Layout::new(delta.header.cluster_size, delta.header.virtual_bytes).data_offset;
        let mut extents = vec![Extent { offset: 0, bytes: data_offset, is_packed: false }];
        let file_bytes = delta.file.len()?;
        let blocks = delta.header.cluster_size.count(delta.header.virtual_bytes);
        let mut next = BlockIndex(0);
        while let Some(held) = delta.next_held_block(next, BlockIndex(blocks))? {
            progress::check(observer)?;
            let step = WALK_ENTRIES.min(blocks.saturating_sub(held.0));
            for raw in delta.raw_entries(held, step)? {
                // An entry that means nothing is what the search is for.
                let said = decode_entry(raw, delta.header.cluster_size, file_bytes);
                let said = kept_offset(raw).map_or(said, |offset| Ok(Cluster::Plain { offset }));
                extents.extend(match said {
                    Ok(Cluster::Plain { offset }) => {
                        Some(Extent { offset, bytes: cluster, is_packed: false })
                    }
                    Ok(Cluster::Compressed { offset, max_bytes }) => {
                        Some(Extent { offset, bytes: max_bytes, is_packed: true })
                    }
                    Ok(Cluster::Unallocated | Cluster::Zero) | Err(_) => None,
                });
            }
            next = held.plus(step);
        }
        extents.sort_unstable_by_key(|extent| extent.offset);
        Ok(Known { extents })
    }

    /// The last extent that begins at or before `offset`, and the first one that begins after it.
    fn around(&self, offset: u64) -> (Option<Extent>, Option<Extent>) {
        let after = self.extents.partition_point(|extent| extent.offset <= offset);
        let before = after.checked_sub(1).and_then(|before| self.extents.get(before));
        (before.copied(), self.extents.get(after).copied())
    }

    /// Whether a whole cluster at `offset` lies where nothing is known to be.
    fn is_free_cluster(&self, offset: u64, cluster: u64) -> bool {
        let (before, after) = self.around(offset);
        before.is_none_or(|before| before.offset + before.bytes <= offset)
            && after.is_none_or(|after| offset + cluster <= after.offset)
    }
}

struct Search<'a> {
    delta: &'a Delta,
    known: Known,
    wanted: &'a HashSet<[u8; 32]>,
    last_bytes: usize,
    decompressor: Decompressor,
    content: Vec<u8>,
    found: HashMap<[u8; 32], Vec<Cluster>>,
    tries_left: u64,
}

impl Search<'_> {
    /// Examines what begins in the first `len` of these bytes, which are at `at`, a cluster boundary.
    fn look(&mut self, bytes: &[u8], at: u64, len: usize) -> Result<()> {
        let cluster = self.content.len();
        for (whole, offset) in bytes.chunks(cluster).zip((at..at + len as u64).step_by(cluster)) {
            if whole.len() == cluster
                && !is_zero(whole)
                && self.known.is_free_cluster(offset, cluster as u64)
            {
                let digest = matching(whole, self.last_bytes, self.wanted);
                self.take(digest, Cluster::Plain { offset });
            }
        }
        for (start, offset) in (0..len).zip(at..) {
            let Some(rest) = bytes.get(start..).filter(|rest| rest.starts_with(&FRAME_MAGIC))
            else {
                continue;
            };
            self.try_frame(rest, offset)?;
        }
        Ok(())
    }

    /// Tries bytes that may be a frame.
    fn try_frame(&mut self, rest: &[u8], offset: u64) -> Result<()> {
        let (before, after) = self.known.around(offset);
        let is_known = |extent: Extent| match extent.is_packed {
            true => extent.offset == offset,
            false => offset < extent.offset + extent.bytes,
        };
        if before.is_some_and(is_known) || self.tries_left == 0 {
            return Ok(());
        }
        self.tries_left -= 1;
        let Some(length) = frame_bytes(rest) else { return Ok(()) };
        if self.decompressor.decompress(rest, &mut self.content).is_err() {
            return Ok(());
        }
        let digest = matching(&self.content, self.last_bytes, self.wanted);
        if digest.is_none() || after.is_some_and(|after| offset + length as u64 > after.offset) {
            return Ok(());
        }
        // For the previous cluster only the last sector is known; its frame gives the exact end.
        if let Some(before) = before.filter(|b| b.is_packed && b.offset + b.bytes > offset) {
            let mut stored = vec![0; before.bytes as usize];
            self.delta.file.read_padded_at(&mut stored, before.offset)?;
            if frame_bytes(&stored).is_none_or(|exact| before.offset + exact as u64 > offset) {
                return Ok(());
            }
        }
        self.take(digest, Cluster::Compressed { offset, max_bytes: length as u64 });
        Ok(())
    }

    fn take(&mut self, digest: Option<[u8; 32]>, cluster: Cluster) {
        if let Some(digest) = digest {
            self.found.entry(digest).or_default().push(cluster);
        }
    }
}

/// The wanted digest that matches this content, as a whole block or, padded with zeros, as the last one.
fn matching(content: &[u8], last_bytes: usize, wanted: &HashSet<[u8; 32]>) -> Option<[u8; 32]> {
    let whole = Digest::of(content).0;
    if wanted.contains(&whole) {
        return Some(whole);
    }
    let (last, padding) = content.split_at_checked(last_bytes)?;
    if padding.is_empty() || !is_zero(padding) {
        return None;
    }
    let last = Digest::of(last).0;
    wanted.contains(&last).then_some(last)
}
