//! Which blocks a backup compares with the source although the source reports that they have not changed.
//!
//! Those that were compared longest ago come first, so that no block goes longer than `verify_within` without: a
//! wrong report is found within that time, whatever it is about. Each backup does its share, so that no single one
//! has to read everything. Afterwards, of all blocks at most the part `1 - (age + gap) / verify_within` is older than
//! any age; the gap is the time until the next backup, as far as the last one tells. Nothing is older than
//! `verify_within` then when the next backup begins.

use std::cmp::Reverse;

use jiff::{SignedDuration, Timestamp};

use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::{BlockRange, BlockRanges, Revision, Verified, verified};

/// A share smaller than one part in this many waits, so that the manifest has few ranges.
const SMALLEST_PART: u64 = 512;

/// The time is shortened by one part in this many, which makes up for shares that wait.
const EARLIER_PART: i128 = 64;

/// When blocks were last compared with the source, for each of those of the newest revision.
pub(crate) fn compared(newest: &Revision, block_size: BlockSize) -> Vec<Verified> {
    let blocks = block_size.count(newest.size_bytes);
    let all = BlockRange { first: BlockIndex(0), count: blocks };
    if newest.hints.as_ref().is_none_or(|hints| hints.since.is_none()) {
        // Its backup read everything.
        return vec![Verified::new(all, newest.started)];
    }
    let mut found = newest.compared.clone();
    let mut unknown: BlockRanges = [all].into_iter().collect();
    let known: Vec<BlockRange> = found.iter().map(|range| range.blocks).collect();
    unknown.subtract(&known);
    found.extend(unknown.into_iter().map(|range| Verified::new(range, Timestamp::MIN)));
    found
}

/// The earliest time at which some block was last compared; `None` if the newest revision read everything, or if it is
/// unknown.
pub(crate) fn oldest(newest: &Revision, block_size: BlockSize) -> Option<Timestamp> {
    newest.hints.as_ref()?.since?;
    compared(newest, block_size).iter().map(|range| range.at).min()
}

/// The blocks to compare in a backup at `now`, ascending. `last` is when the previous one began.
pub(crate) fn due(
    compared: &[Verified],
    last: Timestamp,
    now: Timestamp,
    within: SignedDuration,
) -> BlockRanges {
    let blocks = compared.iter().map(|range| range.blocks.count).sum::<u64>();
    let within = within.as_nanos().max(1);
    let within = (within - within / EARLIER_PART).max(1);
    let gap = now.duration_since(last).as_nanos().max(0);
    // A time in the future is wrong.
    let age = |range: &Verified| match now.duration_since(range.at).as_nanos() {
        age if age < 0 => within,
        age => age.min(within),
    };
    let mut oldest: Vec<(i128, BlockRange)> =
        compared.iter().map(|range| (age(range), range.blocks)).collect();
    oldest.sort_unstable_by_key(|(age, range)| (Reverse(*age), range.first));
    let (mut older, mut wanted, mut must) = (0, 0, 0);
    for (age, range) in &oldest {
        older += range.count;
        let part = (i128::from(blocks) * (age + gap) / within).min(i128::from(blocks));
        let allowed = blocks - u64::try_from(part).unwrap_or(blocks);
        wanted = wanted.max(older.saturating_sub(allowed));
        if age + gap >= within {
            must = older;
        }
    }
    if wanted < (blocks / SMALLEST_PART).max(1) {
        wanted = must;
    }
    let mut left = wanted;
    let chosen = oldest.into_iter().map(|(_, range)| {
        let count = range.count.min(left);
        left -= count;
        BlockRange { count, ..range }
    });
    chosen.filter(|range| range.count > 0).collect()
}

/// What is known after a backup at `now` that compared these blocks of the `blocks` that it has; all after `known`
/// blocks were read for the first time.
pub(crate) fn after(
    mut before: Vec<Verified>,
    chosen: &BlockRanges,
    known: u64,
    blocks: u64,
    now: Timestamp,
) -> Vec<Verified> {
    before.retain(|range| range.at != Timestamp::MIN);
    let new = BlockRange::between(BlockIndex(known.min(blocks)), BlockIndex(blocks));
    let end = BlockRange::between(BlockIndex(blocks), BlockIndex(u64::MAX));
    let set = |ranges: Vec<Verified>, range| verified::set(&ranges, range, now);
    let after = chosen.iter().copied().chain([new]).fold(before, set);
    verified::without(&after, &[end])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn all(blocks: u64, second: i64) -> Vec<Verified> {
        vec![Verified::new(BlockRange { first: BlockIndex(0), count: blocks }, at(second))]
    }

    proptest! {
        /// With backups at regular times, no block is older than the promised time when a backup ends, no single
        /// backup compares everything, and there are few ranges.
        #[test]
        fn no_block_goes_longer_without(
            blocks in 1_u64..200_000, gap in 1_i64..90_000, times in 2_i64..300, shift in 0_i64..1000
        ) {
            let within = gap * times + shift.min(gap - 1);
            let mut known = all(blocks, 0);
            let mut most = 0;
            for run in 1..=3 * times.min(120) {
                let now = at(run * gap);
                let chosen = due(&known, at((run - 1) * gap), now, SignedDuration::from_secs(within));
                most = most.max(chosen.block_count());
                known = after(known, &chosen, blocks, blocks, now);
                let oldest = known.iter().map(|range| range.at).min().unwrap();
                let next = at((run + 1) * gap);
                prop_assert!(next.duration_since(oldest) <= SignedDuration::from_secs(within));
                prop_assert_eq!(known.iter().map(|range| range.blocks.count).sum::<u64>(), blocks);
                prop_assert!(known.len() <= 3 * SMALLEST_PART as usize, "{} ranges", known.len());
            }
            if times >= 8 && blocks >= 64 {
                prop_assert!(most <= blocks / 2, "{} of {}", most, blocks);
            }
        }
    }

    /// Runs close together compare nothing until their share is worth it; a long pause is made up for.
    #[test]
    fn shares_follow_the_time_that_passed() {
        let day = SignedDuration::from_hours(24);
        let month = day * 30;
        let known = all(100_000, 0);
        assert_eq!(due(&known, at(0), at(1), month).block_count(), 0);
        let share = due(&known, at(0), at(86_400), month).block_count();
        assert!((6_000..8_000).contains(&share), "{share}");
        assert_eq!(due(&known, at(0), at(86_400 * 31), month).block_count(), 100_000);
        // A clock that was wrong once.
        assert_eq!(due(&all(1000, 1 << 33), at(0), at(1), month).block_count(), 1000);
    }

    /// Blocks of which nothing is known come first, and stay unknown until they are compared.
    #[test]
    fn unknown_blocks_come_first() {
        let month = SignedDuration::from_hours(24 * 30);
        let mut known = all(500, 0);
        let rest = BlockRange { first: BlockIndex(500), count: 500 };
        known.push(Verified::new(rest, Timestamp::MIN));
        let chosen = due(&known, at(0), at(1), month);
        assert_eq!(chosen.iter().copied().collect::<Vec<_>>(), [rest]);
        assert_eq!(after(known.clone(), &BlockRanges::default(), 1000, 1000, at(1)), all(500, 0));
        let known = after(known, &chosen, 1000, 1000, at(1));
        assert_eq!(known.last().unwrap(), &Verified::new(rest, at(1)));
    }

    /// What is behind the end is forgotten, and what is new was read.
    #[test]
    fn the_end_may_move() {
        let none = BlockRanges::default();
        assert_eq!(after(all(100, 0), &none, 100, 40, at(9)), all(40, 0));
        let longer = after(all(100, 0), &none, 100, 140, at(9));
        let new = BlockRange { first: BlockIndex(100), count: 40 };
        assert_eq!(longer, [all(100, 0).remove(0), Verified::new(new, at(9))]);
    }
}
