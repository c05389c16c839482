//! A run of bytes: `(offset, length)`.

use serde::{Deserialize, Serialize};

/// `len` bytes starting at `offset`. The end never passes `u64::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// Position of the first byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Extent {
    /// Shortens `len` if the end would pass `u64::MAX`.
    pub fn new(offset: u64, len: u64) -> Self {
        Extent { offset, len: len.min(u64::MAX - offset) }
    }

    /// From `start` to `end`, exclusive; empty if `end` is before `start`.
    pub fn between(start: u64, end: u64) -> Self {
        Extent { offset: start, len: end.saturating_sub(start) }
    }

    /// Offset after the last byte.
    pub fn end(self) -> u64 {
        self.offset + self.len
    }
}

/// The first of these extents, which ascend, that ends after `offset`.
pub(crate) fn first_after(extents: &[Extent], offset: u64) -> Option<Extent> {
    extents.get(extents.partition_point(|extent| extent.end() <= offset)).copied()
}

/// The same without what is before `offset`.
pub fn rest_after(extents: &[Extent], offset: u64) -> Option<Extent> {
    let found = first_after(extents, offset)?;
    Some(Extent::between(found.offset.max(offset), found.end()))
}

/// What lies between these extents, which ascend, up to `end`.
pub fn gaps(extents: &[Extent], end: u64) -> Vec<Extent> {
    let starts = std::iter::once(0).chain(extents.iter().map(|extent| extent.end()));
    let ends = extents.iter().map(|extent| extent.offset).chain([end]);
    let gaps = starts.zip(ends).map(|(start, stop)| Extent::between(start, stop.min(end)));
    gaps.filter(|gap| gap.len > 0).collect()
}
