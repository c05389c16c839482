//! Which blocks of a file are known to be bad.

use serde::{Deserialize, Serialize};

use crate::units::BlockIndex;

/// What is known to be wrong with the blocks of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Findings {
    /// Blocks that its own file holds with a content that is not what was backed up.
    #[serde(default)]
    pub bad_blocks: Vec<BlockRange>,
}

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

    /// The block after the last one.
    pub fn end(self) -> BlockIndex {
        self.first.plus(self.count)
    }

    /// Whether it has this block.
    pub fn contains(self, block: BlockIndex) -> bool {
        self.first <= block && block < self.end()
    }
}

impl Findings {
    /// Whether this block of the revision's own file is known to be bad.
    pub fn is_bad(&self, block: BlockIndex) -> bool {
        let at = self.bad_blocks.partition_point(|range| range.end() <= block);
        self.bad_blocks.get(at).is_some_and(|range| range.contains(block))
    }

    /// The first block at or after `from` that is known to be bad.
    pub fn next_bad_block(&self, from: BlockIndex) -> Option<BlockIndex> {
        let at = self.bad_blocks.partition_point(|range| range.end() <= from);
        self.bad_blocks.get(at).map(|range| range.first.max(from))
    }

    /// Adds a block, if it is not there.
    pub fn add_bad_block(&mut self, block: BlockIndex) {
        match self.bad_blocks.last_mut() {
            // As a rule blocks come in ascending order.
            Some(last) if last.end() == block => last.count += 1,
            _ => self.add(BlockRange { first: block, count: 1 }),
        }
    }

    /// Adds a range of blocks.
    pub fn add(&mut self, added: BlockRange) {
        let touches = |range: &BlockRange| range.first <= added.end() && added.first <= range.end();
        let mut first = added.first;
        let mut end = added.end();
        self.bad_blocks.retain(|range| {
            if touches(range) {
                first = first.min(range.first);
                end = end.max(range.end());
            }
            !touches(range)
        });
        let at = self.bad_blocks.partition_point(|range| range.first < first);
        if end > first {
            self.bad_blocks.insert(at, BlockRange::between(first, end));
        }
    }

    /// Forgets what was known of a range of blocks.
    pub fn clear(&mut self, cleared: BlockRange) {
        let parts = self.bad_blocks.iter().flat_map(|range| {
            let before = BlockRange::between(range.first, range.end().min(cleared.first));
            let after = BlockRange::between(range.first.max(cleared.end()), range.end());
            [before, after]
        });
        self.bad_blocks = parts.filter(|range| range.count > 0).collect();
    }

    /// How many blocks are bad.
    pub fn bad_block_count(&self) -> u64 {
        self.bad_blocks.iter().fold(0, |sum, blocks| sum.saturating_add(blocks.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_bad_blocks_become_one_range() {
        let mut findings = Findings::default();
        [9, 4, 3, 5, 3, 7].into_iter().for_each(|n| findings.add_bad_block(BlockIndex(n)));
        assert_eq!(findings.bad_blocks.len(), 3);
        assert_eq!(findings.bad_block_count(), 5);
        assert!(findings.is_bad(BlockIndex(5)) && !findings.is_bad(BlockIndex(6)));
        assert_eq!(findings.next_bad_block(BlockIndex(6)), Some(BlockIndex(7)));
        findings.add_bad_block(BlockIndex(6));
        assert_eq!(findings.bad_blocks.len(), 2);
        findings.clear(BlockRange { first: BlockIndex(4), count: 2 });
        assert_eq!(findings.bad_block_count(), 4);
        assert!(findings.is_bad(BlockIndex(3)) && !findings.is_bad(BlockIndex(5)));
    }

    /// Whatever is added and cleared, in any order: the same blocks are bad as in a plain list, the ranges are ascending with good
    /// blocks between them, and every question is answered as the list would.
    #[test]
    fn ranges_say_the_same_as_a_list_of_blocks() {
        const BLOCKS: u64 = 24;
        let mut state = 1u64;
        let mut below = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % limit
        };
        let mut findings = Findings::default();
        let mut list = vec![false; BLOCKS as usize];
        for _ in 0..2_000 {
            let (first, kind) = (below(BLOCKS), below(3));
            let count = if kind == 2 { 1 } else { (1 + below(4)).min(BLOCKS - first) };
            let range = BlockRange { first: BlockIndex(first), count };
            match kind {
                0 => findings.add(range),
                1 => findings.clear(range),
                _ => findings.add_bad_block(range.first),
            }
            list[first as usize..(first + count) as usize].fill(kind != 1);
            let bad = |block: &u64| list[*block as usize];
            for block in 0..BLOCKS {
                assert_eq!(findings.is_bad(BlockIndex(block)), bad(&block));
                let next = (block..BLOCKS).find(bad).map(BlockIndex);
                assert_eq!(findings.next_bad_block(BlockIndex(block)), next);
            }
            assert!(!findings.is_bad(BlockIndex(BLOCKS)));
            assert_eq!(findings.next_bad_block(BlockIndex(BLOCKS)), None);
            assert_eq!(findings.bad_block_count(), (0..BLOCKS).filter(bad).count() as u64);
            let mut pairs = findings.bad_blocks.windows(2);
            assert!(pairs.all(|pair| pair[0].end() < pair[1].first), "{findings:?}");
            assert!(findings.bad_blocks.iter().all(|range| range.count > 0), "{findings:?}");
        }
    }
}
