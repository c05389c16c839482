//! Sets of blocks as ranges.
//!
//! [`BlockRanges`] is a set of blocks: findings, blocks that a file holds, blocks that were repaired. [`Ranges`]
//! collects blocks in bounded memory and may include some that lie between them. Neither knows how many blocks an image
//! has.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

use super::units::BlockIndex;

/// `count` blocks from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRange {
    /// The first block.
    pub first: BlockIndex,
    /// How many blocks.
    pub count: u64,
}

impl BlockRange {
    /// From `first` up to, not including, `end`; empty when `end` is not after it.
    pub fn between(first: BlockIndex, end: BlockIndex) -> Self {
        BlockRange { first, count: end.0.saturating_sub(first.0) }
    }

    /// One block.
    pub fn one(block: BlockIndex) -> Self {
        BlockRange { first: block, count: 1 }
    }

    /// The block after the last one.
    pub fn end(self) -> BlockIndex {
        self.first.plus(self.count)
    }

    /// Whether it has this block.
    pub fn contains(self, block: BlockIndex) -> bool {
        self.first <= block && block < self.end()
    }

    /// The blocks that are in both; may be empty.
    pub fn overlap(self, other: BlockRange) -> Self {
        BlockRange::between(self.first.max(other.first), self.end().min(other.end()))
    }

    /// The same blocks in order, in ranges of at most `blocks`.
    pub(crate) fn steps(self, blocks: u64) -> impl Iterator<Item = BlockRange> {
        let end = self.end();
        let mut next = self.first;
        std::iter::from_fn(move || {
            let step = BlockRange::between(next, BlockIndex(next.plus(blocks).0.min(end.0)));
            next = step.end();
            (step.count > 0).then_some(step)
        })
    }
}

/// A set of blocks. As a slice it is its ranges: in ascending order, none empty, none that overlaps another.
///
/// Adding or removing in ascending order takes constant time. A single change anywhere else is a binary search and a
/// move in memory. Many changes at a time ([`BlockRanges::add_all`], [`BlockRanges::subtract`]) are one pass.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockRanges {
    ranges: Vec<BlockRange>,
}

impl BlockRanges {
    /// The ranges of a file as they are. Whoever reads the file checks their order.
    pub(crate) fn as_written(ranges: Vec<BlockRange>) -> Self {
        BlockRanges { ranges }
    }

    /// How many blocks there are.
    pub fn block_count(&self) -> u64 {
        self.ranges.iter().fold(0, |sum, range| sum.saturating_add(range.count))
    }

    /// Whether the block is in it.
    pub fn contains(&self, block: BlockIndex) -> bool {
        self.ranges.get(self.first_ending_after(block)).is_some_and(|range| range.contains(block))
    }

    /// The first blocks at or after `from`, as far as they follow each other.
    pub fn next(&self, from: BlockIndex) -> Option<BlockRange> {
        let range = self.ranges.get(self.first_ending_after(from))?;
        Some(BlockRange::between(range.first.max(from), range.end()))
    }

    /// The blocks of `window`, ascending.
    pub fn within(&self, window: BlockRange) -> impl Iterator<Item = BlockRange> {
        let near = self.ranges.iter().skip(self.first_ending_after(window.first));
        let near = near.take_while(move |range| range.first < window.end());
        near.map(move |range| range.overlap(window)).filter(|range| range.count > 0)
    }

    /// Adds a range of blocks.
    pub fn add(&mut self, added: BlockRange) {
        if added.count == 0 {
            return;
        }
        // As a rule blocks come in ascending order.
        if self.ranges.last().is_none_or(|last| last.end() < added.first) {
            return self.ranges.push(added);
        }
        let from = self.ranges.partition_point(|range| range.end() < added.first);
        let to = self.ranges.partition_point(|range| range.first <= added.end()).max(from);
        let touched = self.ranges.get(from..to).unwrap_or_default();
        let first = touched.first().map_or(added.first, |range| range.first.min(added.first));
        let end = touched.last().map_or(added.end(), |range| range.end().max(added.end()));
        drop(self.ranges.splice(from..to, [BlockRange::between(first, end)]));
    }

    /// Adds many ranges, in any order.
    pub fn add_all(&mut self, added: impl IntoIterator<Item = BlockRange>) {
        let mut all = std::mem::take(&mut self.ranges);
        all.extend(added);
        // The sort takes linear time for what is in order already.
        all.sort_by_key(|range| range.first);
        self.ranges = Vec::with_capacity(all.len());
        for range in all.into_iter().filter(|range| range.count > 0) {
            match self.ranges.last_mut() {
                Some(last) if range.first <= last.end() => {
                    *last = BlockRange::between(last.first, last.end().max(range.end()));
                }
                _ => self.ranges.push(range),
            }
        }
    }

    /// Removes a range of blocks.
    pub fn remove(&mut self, removed: BlockRange) {
        let from = self.first_ending_after(removed.first);
        let to = self.ranges.partition_point(|range| range.first < removed.end());
        let Some(touched) = self.ranges.get(from..to).filter(|_| removed.count > 0) else {
            return;
        };
        let left = without(touched, &[removed]);
        drop(self.ranges.splice(from..to, left));
    }

    /// Removes the blocks of many ranges, which ascend.
    pub fn subtract(&mut self, removed: &[BlockRange]) {
        if !removed.is_empty() && !self.ranges.is_empty() {
            self.ranges = without(&self.ranges, removed);
        }
    }

    /// Joins ranges that have at most `gap` blocks between them, until `many` fewer are left or no more are that close.
    /// Returns how many fewer there are.
    pub(crate) fn join(&mut self, gap: u64, many: usize) -> usize {
        let mut joined = 0;
        let mut ranges: Vec<BlockRange> = Vec::with_capacity(self.ranges.len());
        for range in std::mem::take(&mut self.ranges) {
            match ranges.last_mut() {
                Some(last)
                    if joined < many && range.first.0.saturating_sub(last.end().0) <= gap =>
                {
                    *last = BlockRange::between(last.first, range.end());
                    joined += 1;
                }
                _ => ranges.push(range),
            }
        }
        self.ranges = ranges;
        joined
    }

    /// Joins the closest ranges, with the blocks between them, until there are at most `max`, which is one or more.
    pub(crate) fn join_to(&mut self, max: usize) {
        let mut gap = 1;
        while self.ranges.len() > max.max(1) {
            self.join(gap, self.ranges.len() - max.max(1));
            gap = gap.saturating_mul(2);
        }
    }

    /// Where the first range is that ends after a block.
    fn first_ending_after(&self, block: BlockIndex) -> usize {
        self.ranges.partition_point(|range| range.end() <= block)
    }
}

impl FromIterator<BlockRange> for BlockRanges {
    fn from_iter<I: IntoIterator<Item = BlockRange>>(ranges: I) -> Self {
        let mut all = BlockRanges::default();
        all.add_all(ranges);
        all
    }
}

impl IntoIterator for BlockRanges {
    type Item = BlockRange;
    type IntoIter = std::vec::IntoIter<BlockRange>;

    fn into_iter(self) -> Self::IntoIter {
        self.ranges.into_iter()
    }
}

impl<'a> IntoIterator for &'a BlockRanges {
    type Item = &'a BlockRange;
    type IntoIter = std::slice::Iter<'a, BlockRange>;

    fn into_iter(self) -> Self::IntoIter {
        self.ranges.iter()
    }
}

impl Deref for BlockRanges {
    type Target = [BlockRange];

    fn deref(&self) -> &[BlockRange] {
        &self.ranges
    }
}

/// `ranges` without the blocks of `removed`; both ascend.
pub(crate) fn without(ranges: &[BlockRange], removed: &[BlockRange]) -> Vec<BlockRange> {
    let mut left = Vec::with_capacity(ranges.len());
    let mut removed = removed.iter().peekable();
    for range in ranges {
        let mut next = range.first;
        while let Some(hole) = removed.peek().filter(|hole| hole.first < range.end()) {
            left.push(BlockRange::between(next, hole.first.min(range.end())));
            next = next.max(hole.end());
            if hole.end() > range.end() {
                break;
            }
            removed.next();
        }
        left.push(BlockRange::between(next, range.end()));
    }
    left.retain(|range| range.count > 0);
    left
}

/// Ranges of blocks that are added in ascending order. Where they would be too many, the closest grow together, with
/// the blocks between them.
#[derive(Debug)]
pub(crate) struct Ranges {
    ranges: Vec<BlockRange>,
    limit: usize,
    max_gap: u64,
}

impl Ranges {
    /// At most so many.
    pub(crate) fn with_limit(limit: usize) -> Self {
        Ranges { ranges: Vec::new(), limit, max_gap: 0 }
    }

    /// Adds a range that begins no earlier than the last one.
    pub(crate) fn push(&mut self, range: BlockRange) {
        self.join(range);
        while self.ranges.len() > self.limit {
            self.max_gap = self.max_gap * 2 + 1;
            for range in std::mem::take(&mut self.ranges) {
                self.join(range);
            }
        }
    }

    fn join(&mut self, range: BlockRange) {
        match self.ranges.last_mut() {
            Some(last) if range.first.0.saturating_sub(last.end().0) <= self.max_gap => {
                let end = last.end().max(range.end());
                last.count = end.0.saturating_sub(last.first.0);
            }
            _ => self.ranges.push(range),
        }
    }

    /// What has been added.
    pub(crate) fn finish(self) -> Vec<BlockRange> {
        self.ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range((first, count): (u64, u64)) -> BlockRange {
        BlockRange { first: BlockIndex(first), count }
    }

    #[test]
    fn neighbouring_blocks_become_one_range() {
        let mut blocks = BlockRanges::default();
        [9, 4, 3, 5, 3, 7].into_iter().for_each(|n| blocks.add(BlockRange::one(BlockIndex(n))));
        assert_eq!((blocks.len(), blocks.block_count()), (3, 5));
        assert!(blocks.contains(BlockIndex(5)) && !blocks.contains(BlockIndex(6)));
        assert_eq!(blocks.next(BlockIndex(6)), Some(range((7, 1))));
        blocks.add(BlockRange::one(BlockIndex(6)));
        assert_eq!(blocks.len(), 2);
        blocks.remove(range((4, 2)));
        assert_eq!(blocks.block_count(), 4);
        assert!(blocks.contains(BlockIndex(3)) && !blocks.contains(BlockIndex(5)));
    }

    #[test]
    fn steps_cover_the_range_once() {
        for count in 0..9 {
            let steps: Vec<BlockRange> = range((3, count)).steps(4).collect();
            assert!(steps.iter().all(|step| (1..=4).contains(&step.count)), "{steps:?}");
            let blocks: Vec<u64> =
                steps.iter().flat_map(|step| step.first.0..step.end().0).collect();
            assert_eq!(blocks, (3..3 + count).collect::<Vec<_>>());
        }
    }

    /// Every block that was added is in one of the ranges, which are no more than allowed, and the closest have grown
    /// together.
    #[test]
    fn too_many_ranges_grow_together() {
        let mut ranges = Ranges::with_limit(4);
        let added = [0, 2, 4, 5, 100, 102, 1000, 2000, 3000];
        added.iter().for_each(|&n| ranges.push(BlockRange::one(BlockIndex(n))));
        let found = ranges.finish();
        assert!(found.len() <= 4, "{found:?}");
        assert!(added.iter().all(|&n| found.iter().any(|range| range.contains(BlockIndex(n)))));
        assert_eq!(found.first(), Some(&range((0, 103))));
    }

    #[test]
    fn ranges_that_overlap_are_one() {
        let mut ranges = Ranges::with_limit(4);
        [(3, 10), (4, 2), (13, 1)].into_iter().for_each(|added| ranges.push(range(added)));
        assert_eq!(ranges.finish(), [range((3, 11))]);
    }

    /// The closest ranges are joined until there are few enough: what was in the set still is, and no gap is filled
    /// that need not be.
    #[test]
    fn the_closest_ranges_are_joined() {
        let all = [(0, 1), (2, 1), (10, 1), (13, 2), (40, 1)].map(range);
        let join = |max| {
            let mut blocks = BlockRanges::from_iter(all);
            blocks.join_to(max);
            blocks.ranges
        };
        assert_eq!(join(9), all);
        assert_eq!(join(4), [(0, 3), (10, 1), (13, 2), (40, 1)].map(range));
        assert_eq!(join(3), [(0, 3), (10, 5), (40, 1)].map(range));
        assert_eq!(join(0), [(0, 41)].map(range));
    }
}
