//! Which blocks of a file are known to be bad: a [set of blocks](BlockRanges), with the fields that newer programs
//! have added to some of them.

use serde::{Deserialize, Serialize};

use super::Unknown;
use super::unknown::keeps_unknown;
use crate::base::block_ranges::{BlockRange, BlockRanges, without};
use crate::base::units::BlockIndex;

/// The known problems of a revision's blocks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Findings {
    /// Blocks that its own file holds with other content than was backed up.
    pub bad_blocks: BlockRanges,
    /// What newer programs have recorded about blocks, ascending. It stays with a block as long as the block is bad.
    fields: Vec<(BlockRange, Unknown)>,
    unknown: Unknown,
}

impl Findings {
    /// Findings of these blocks.
    pub fn new(bad_blocks: impl IntoIterator<Item = BlockRange>) -> Self {
        Findings { bad_blocks: bad_blocks.into_iter().collect(), ..Findings::default() }
    }

    /// Whether this block of the revision's own file is known to be bad.
    pub fn is_bad(&self, block: BlockIndex) -> bool {
        self.bad_blocks.contains(block)
    }

    /// The first blocks at or after `from` that are known to be bad, as far as they are consecutive.
    pub fn next_bad(&self, from: BlockIndex) -> Option<BlockRange> {
        self.bad_blocks.next(from)
    }

    /// The first block at or after `from` that is known to be bad.
    pub fn next_bad_block(&self, from: BlockIndex) -> Option<BlockIndex> {
        Some(self.next_bad(from)?.first)
    }

    /// Adds a block, if it is not there.
    pub fn add_bad_block(&mut self, block: BlockIndex) {
        self.add(BlockRange::one(block));
    }

    /// Adds a range of blocks.
    pub fn add(&mut self, added: BlockRange) {
        self.bad_blocks.add(added);
    }

    /// Adds many ranges, in any order.
    pub fn add_all(&mut self, added: impl IntoIterator<Item = BlockRange>) {
        self.bad_blocks.add_all(added);
    }

    /// Forgets the findings in a range of blocks.
    pub fn clear(&mut self, cleared: BlockRange) {
        self.bad_blocks.remove(cleared);
        self.forget_fields();
    }

    /// Forgets the findings in many ranges of blocks, which ascend.
    pub fn clear_all(&mut self, cleared: &[BlockRange]) {
        if !cleared.is_empty() && !self.bad_blocks.is_empty() {
            self.bad_blocks.subtract(cleared);
            self.forget_fields();
        }
    }

    /// Records the result of a check of `checked`, ascending: these blocks are `bad`, and no others there.
    pub fn replace(&mut self, checked: &[BlockRange], bad: impl IntoIterator<Item = BlockRange>) {
        self.bad_blocks.subtract(checked);
        self.add_all(bad);
        self.forget_fields();
    }

    /// Takes over what newer programs have recorded about the same blocks in other findings.
    pub fn inherit(&mut self, other: &Findings) {
        let own: Vec<BlockRange> = self.fields.iter().map(|(range, _)| *range).collect();
        for (range, unknown) in &other.fields {
            let others = without(&[*range], &own);
            self.fields.extend(others.into_iter().map(|range| (range, unknown.clone())));
        }
        self.fields.sort_by_key(|(range, _)| range.first);
        self.forget_fields();
    }

    /// How many blocks are bad.
    pub fn bad_block_count(&self) -> u64 {
        self.bad_blocks.block_count()
    }

    /// Only bad blocks have fields.
    fn forget_fields(&mut self) {
        for (range, unknown) in std::mem::take(&mut self.fields) {
            let left = self.bad_blocks.within(range);
            self.fields.extend(left.map(|range| (range, unknown.clone())));
        }
    }
}

/// Findings as in the file: a range with fields of its own stands alone.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Self")]
struct Stored {
    #[serde(default)]
    bad_blocks: Vec<StoredRange>,
    #[serde(flatten, skip_deserializing)]
    unknown: Unknown,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Self")]
struct StoredRange {
    first: BlockIndex,
    count: u64,
    #[serde(flatten, skip_deserializing)]
    unknown: Unknown,
}

keeps_unknown!(Stored, StoredRange);

impl From<Stored> for Findings {
    fn from(stored: Stored) -> Self {
        let mut bad_blocks = Vec::with_capacity(stored.bad_blocks.len());
        let mut fields = Vec::new();
        for StoredRange { first, count, unknown } in stored.bad_blocks {
            let range = BlockRange { first, count };
            bad_blocks.push(range);
            if !unknown.is_empty() {
                fields.push((range, unknown));
            }
        }
        // `Revision::check_ranges` refuses those that do not ascend.
        let bad_blocks = BlockRanges::as_written(bad_blocks);
        Findings { bad_blocks, fields, unknown: stored.unknown }
    }
}

impl From<Findings> for Stored {
    fn from(mut findings: Findings) -> Self {
        // So that each field is about only one range.
        findings.forget_fields();
        let Findings { bad_blocks: ranges, fields, unknown } = findings;
        let mut bad_blocks: Vec<StoredRange> = Vec::with_capacity(ranges.len());
        let push = |bad_blocks: &mut Vec<StoredRange>, range: BlockRange, unknown| {
            let BlockRange { first, count } = range;
            if count > 0 {
                bad_blocks.push(StoredRange { first, count, unknown });
            }
        };
        let mut fields = fields.into_iter().peekable();
        for range in ranges {
            let mut next = range.first;
            if fields.peek().is_none() {
                bad_blocks.push(StoredRange {
                    first: next,
                    count: range.count,
                    unknown: Unknown::new(),
                });
                continue;
            }
            while let Some((own, _)) = fields.peek().filter(|(own, _)| own.first < range.end()) {
                let own = own.overlap(BlockRange::between(next, range.end()));
                let Some((_, unknown)) = fields.next() else { break };
                push(&mut bad_blocks, BlockRange::between(next, own.first), Unknown::new());
                next = next.max(own.end());
                push(&mut bad_blocks, own, unknown);
            }
            push(&mut bad_blocks, BlockRange::between(next, range.end()), Unknown::new());
        }
        Stored { bad_blocks, unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever is added and cleared, in any order: the same blocks are bad as in a plain list, the ranges ascend
    /// with good blocks between them, and every question gets the answer that the list would give.
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
            let (first, kind) = (below(BLOCKS), below(6));
            let count = if kind == 2 { 1 } else { (1 + below(4)).min(BLOCKS - first) };
            let range = BlockRange { first: BlockIndex(first), count };
            let second = BlockRange::between(
                BlockIndex((range.end().0 + below(3)).min(BLOCKS)),
                BlockIndex((range.end().0 + 3 + below(3)).min(BLOCKS)),
            );
            let mut set = |range: BlockRange, bad| {
                list[range.first.0 as usize..range.end().0 as usize].fill(bad);
            };
            match kind {
                0 => findings.add(range),
                1 => findings.clear(range),
                2 => findings.add_bad_block(range.first),
                3 => findings.add_all([second, range]),
                4 => findings.clear_all(&[range, second]),
                _ => findings.replace(&[range, second], [range]),
            }
            set(range, kind != 1 && kind != 4);
            match kind {
                3 => set(second, true),
                4 | 5 => set(second, false),
                _ => {}
            }
            let bad = |block: &u64| list[*block as usize];
            for block in 0..BLOCKS {
                assert_eq!(findings.is_bad(BlockIndex(block)), bad(&block));
                let next = (block..BLOCKS).find(bad).map(BlockIndex);
                assert_eq!(findings.next_bad_block(BlockIndex(block)), next);
                let window = BlockRange { first: BlockIndex(block), count: 5 };
                let inside = findings.bad_blocks.within(window);
                let inside: Vec<u64> = inside.flat_map(|r| r.first.0..r.end().0).collect();
                let expected = (block..(block + 5).min(BLOCKS)).filter(bad);
                assert_eq!(inside, expected.collect::<Vec<_>>());
            }
            assert!(!findings.is_bad(BlockIndex(BLOCKS)));
            assert_eq!(findings.next_bad_block(BlockIndex(BLOCKS)), None);
            assert_eq!(findings.bad_block_count(), (0..BLOCKS).filter(bad).count() as u64);
            let mut pairs = findings.bad_blocks.windows(2);
            assert!(pairs.all(|pair| pair[0].end() < pair[1].first), "{findings:?}");
            assert!(findings.bad_blocks.iter().all(|range| range.count > 0), "{findings:?}");
        }
    }

    /// A million separate bad blocks are recorded, looked up and cleared within seconds, in any order.
    #[test]
    fn a_million_bad_blocks_take_linear_time() {
        const BLOCKS: u64 = 1_000_000;
        let began = std::time::Instant::now();
        let one = |block| BlockRange { first: BlockIndex(2 * block), count: 1 };
        let mut ascending = Findings::default();
        (0..BLOCKS).for_each(|block| ascending.add_bad_block(one(block).first));
        let mut descending = Findings::default();
        descending.add_all((0..BLOCKS).rev().map(one));
        assert_eq!(ascending, descending);
        let windows = (0..2 * BLOCKS).step_by(16);
        let window = |first| BlockRange { first: BlockIndex(first), count: 16 };
        let found = windows.map(|first| ascending.bad_blocks.within(window(first)).count());
        assert_eq!(found.sum::<usize>() as u64, BLOCKS);
        let all: Vec<BlockRange> = ascending.bad_blocks.to_vec();
        descending.replace(&all, all.iter().copied().step_by(2));
        assert_eq!(descending.bad_block_count(), BLOCKS / 2);
        ascending.clear_all(&all);
        assert_eq!(ascending, Findings::default());
        // A pass over all ranges for each block would take hours.
        assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
    }

    /// Fields of newer programs about blocks are written again for those blocks that are still bad, and for no
    /// others.
    #[test]
    fn fields_of_a_range_stay_with_its_blocks() {
        let read = |text: &str| serde_json::from_str::<Findings>(text).unwrap();
        let written = |findings: &Findings| serde_json::to_string(findings).unwrap();
        let text =
            r#"{"bad_blocks":[{"first":1,"count":2},{"first":3,"count":4,"x":{"y":[1]}}],"z":7}"#;
        let mut findings = read(text);
        assert_eq!(written(&findings), text);
        findings.add(BlockRange { first: BlockIndex(7), count: 1 });
        findings.clear(BlockRange { first: BlockIndex(4), count: 1 });
        findings.add_bad_block(BlockIndex(4));
        let split = [
            r#"{"bad_blocks":[{"first":1,"count":2},{"first":3,"count":1,"x":{"y":[1]}},"#,
            r#"{"first":4,"count":1},{"first":5,"count":2,"x":{"y":[1]}},"#,
            r#"{"first":7,"count":1}],"z":7}"#,
        ]
        .concat();
        assert_eq!(written(&findings), split);
        assert_eq!(written(&read(&split)), split);
        let mut moved = Findings::new(vec![BlockRange { first: BlockIndex(6), count: 5 }]);
        moved.inherit(&findings);
        let found = r#"{"bad_blocks":[{"first":6,"count":1,"x":{"y":[1]}},{"first":7,"count":4}]}"#;
        assert_eq!(written(&moved), found);
        let checked = BlockRange { first: BlockIndex(0), count: 99 };
        findings.replace(&[checked], [BlockRange { first: BlockIndex(5), count: 1 }]);
        assert_eq!(
            written(&findings),
            r#"{"bad_blocks":[{"first":5,"count":1,"x":{"y":[1]}}],"z":7}"#
        );
    }
}
