//! Blocks as few ranges, in bounded memory.

use super::BlockRange;

/// Ranges of blocks that are added in ascending order; where they would be too many, with the gaps between the closest.
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
    use crate::base::units::BlockIndex;

    /// Every block that was added is in one of the ranges, which are no more than allowed, and the closest have grown together.
    #[test]
    fn too_many_ranges_grow_together() {
        let mut ranges = Ranges::with_limit(4);
        let added = [0, 2, 4, 5, 100, 102, 1000, 2000, 3000];
        added.iter().for_each(|&n| ranges.push(BlockRange { first: BlockIndex(n), count: 1 }));
        let found = ranges.finish();
        assert!(found.len() <= 4, "{found:?}");
        assert!(added.iter().all(|&n| found.iter().any(|range| range.contains(BlockIndex(n)))));
        assert_eq!(found.first(), Some(&BlockRange { first: BlockIndex(0), count: 103 }));
    }

    #[test]
    fn ranges_that_overlap_are_one() {
        let mut ranges = Ranges::with_limit(4);
        for (first, count) in [(3, 10), (4, 2), (13, 1)] {
            ranges.push(BlockRange { first: BlockIndex(first), count });
        }
        assert_eq!(ranges.finish(), [BlockRange { first: BlockIndex(3), count: 11 }]);
    }
}
