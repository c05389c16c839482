//! When ranges of blocks were last read.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::unknown::keeps_unknown;
use super::{BlockRange, Unknown};
use crate::base::units::BlockIndex;

/// When a range of blocks was last read and found right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Verified {
    /// The blocks.
    pub blocks: BlockRange,
    /// When.
    pub at: Timestamp,
    unknown: Unknown,
}

impl Verified {
    /// Blocks that were read at `at`.
    pub fn new(blocks: BlockRange, at: Timestamp) -> Self {
        Verified { blocks, at, unknown: Unknown::new() }
    }

    /// The same for other blocks.
    fn of(&self, blocks: BlockRange) -> Self {
        Verified { blocks, ..self.clone() }
    }
}

/// The same as in the file.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Self")]
struct Stored {
    first: BlockIndex,
    count: u64,
    at: Timestamp,
    #[serde(flatten, skip_deserializing)]
    unknown: Unknown,
}

impl From<Stored> for Verified {
    fn from(Stored { first, count, at, unknown }: Stored) -> Self {
        Verified { blocks: BlockRange { first, count }, at, unknown }
    }
}

impl From<Verified> for Stored {
    fn from(Verified { blocks: BlockRange { first, count }, at, unknown }: Verified) -> Self {
        Stored { first, count, at, unknown }
    }
}

keeps_unknown!(Stored);

/// The same ranges after some blocks were read at `at`.
pub(crate) fn set(ranges: &[Verified], blocks: BlockRange, at: Timestamp) -> Vec<Verified> {
    let mut ranges = without(ranges, &[blocks]);
    ranges.push(Verified::new(blocks, at));
    joined(ranges)
}

/// The parts of ascending ranges that are in none of the cuts, which also ascend.
pub(crate) fn without(ranges: &[Verified], cuts: &[BlockRange]) -> Vec<Verified> {
    let mut left = Vec::with_capacity(ranges.len());
    let mut cuts = cuts.iter().copied().peekable();
    for range in ranges {
        let (mut next, end) = (range.blocks.first, range.blocks.end());
        while cuts.next_if(|cut| cut.end() <= next).is_some() {}
        let mut here = cuts.clone();
        while let Some(cut) = here.next_if(|cut| cut.first < end) {
            left.push(range.of(BlockRange::between(next, cut.first)));
            next = next.max(cut.end());
        }
        left.push(range.of(BlockRange::between(next, end)));
    }
    left.retain(|range| range.blocks.count > 0);
    left
}

/// The parts of ascending ranges that are in one of the cuts.
pub(super) fn within(ranges: &[Verified], cuts: &[BlockRange]) -> Vec<Verified> {
    let mut found = Vec::with_capacity(cuts.len());
    let mut cuts = cuts.iter().copied().peekable();
    for range in ranges {
        let (first, end) = (range.blocks.first, range.blocks.end());
        while cuts.next_if(|cut| cut.end() <= first).is_some() {}
        let mut here = cuts.clone();
        while let Some(cut) = here.next_if(|cut| cut.first < end) {
            let blocks = BlockRange::between(cut.first.max(first), cut.end().min(end));
            found.push(range.of(blocks));
        }
    }
    found.retain(|range| range.blocks.count > 0);
    found
}

/// Ranges in ascending order; joins neighbours with the same time.
pub(super) fn joined(mut ranges: Vec<Verified>) -> Vec<Verified> {
    ranges.retain(|range| range.blocks.count > 0);
    ranges.sort_unstable_by_key(|range| range.blocks.first);
    let mut together: Vec<Verified> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match together.last_mut() {
            Some(last)
                if last.blocks.end() == range.blocks.first && range.of(last.blocks) == *last =>
            {
                last.blocks.count += range.blocks.count;
            }
            _ => together.push(range),
        }
    }
    together
}
