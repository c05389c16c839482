//! How much room a backup takes: what is to be expected from those before, and the most that it can be.
//!
//! Pure: what the archive, the source and the file system are like is handed in.

use serde::{Deserialize, Serialize};

use crate::base::units::BlockSize;
use crate::format::manifest::Revision;

/// Revisions that are looked back at.
const LOOK_BACK: usize = 14;

/// Bytes of an entry in a digest file; of a block's entry there and in the tables of a delta, with its reference count.
const DIGEST_BYTES: u64 = 32;
const HELD_BYTES: u64 = DIGEST_BYTES + 8 + 2;

/// Headers, the manifest, the history, and what a file system rounds up.
const MARGIN_BYTES: u64 = 256 << 10;

/// The source of a backup and the archive that it goes to.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    /// Unit of comparison.
    pub block_size: BlockSize,
    /// Size of the source.
    pub source_bytes: u64,
    /// At most so much of the source is data, the rest holes.
    pub data_bytes: u64,
    /// Whether the source is a file, which says where its holes are.
    pub knows_holes: bool,
    /// At most so much may have changed, when the source knows.
    pub changed_bytes: Option<u64>,
    /// The newest revision; none at the first backup.
    pub newest: Option<Newest>,
    /// Whether the image is updated on a clone, which takes room besides the old one until it has replaced it.
    pub clones: bool,
}

/// The newest revision.
#[derive(Debug, Clone, Copy)]
pub struct Newest {
    /// Its size.
    pub size_bytes: u64,
    /// What the image takes on disk.
    pub image_bytes: u64,
}

/// How much room a backup takes while it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Estimate {
    /// What is to be expected; `None` when there is nothing to go by.
    pub expected_bytes: Option<u64>,
    /// The most that it can be.
    pub most_bytes: u64,
    /// What is free; `None` where nobody can say.
    pub free_bytes: Option<u64>,
}

impl Estimate {
    /// Bytes that are missing for what is expected.
    pub fn missing_bytes(&self) -> Option<u64> {
        let missing = self.expected_bytes?.saturating_sub(self.free_bytes?);
        (missing > 0).then_some(missing)
    }
}

/// The estimate for a backup; `revisions` are those that there are, newest first.
pub fn estimate(situation: &Situation, revisions: &[Revision], free: Option<u64>) -> Estimate {
    let most_bytes = most(situation);
    let expected = match situation.newest {
        // The first: of a device nobody knows what is zero.
        None => situation.knows_holes.then_some(most_bytes),
        Some(_) => expected(situation, revisions),
    };
    let expected_bytes = expected.map(|bytes| bytes.min(most_bytes));
    Estimate { expected_bytes, most_bytes, free_bytes: free }
}

/// Every block that may change does, its old content does not shrink, and its new content has no place yet.
fn most(situation: &Situation) -> u64 {
    let (new, block) = (situation.source_bytes, situation.block_size.bytes());
    // A change of one byte is one of a whole block.
    let data = rounded(situation.data_bytes.min(new), block);
    let tables = situation.block_size.count(new).saturating_mul(DIGEST_BYTES);
    let Some(newest) = situation.newest else {
        return data.saturating_add(tables).saturating_add(MARGIN_BYTES);
    };
    let old = newest.size_bytes;
    let (grown, shrunk) = (new.saturating_sub(old), old.saturating_sub(new));
    let same = old.min(new);
    let changed = situation.changed_bytes.map_or(same, |bytes| bytes.min(same));
    // Where the shorter one ends within a block, that one has changed as well.
    let edge = if grown > 0 || shrunk > 0 { block } else { 0 };
    let changed = rounded(changed, block).saturating_add(edge);
    let saved = changed.saturating_add(rounded(shrunk, block));
    // What the image has no room for on disk was zero, and is saved without its content.
    let old_blocks = saved.min(rounded(newest.image_bytes, block));
    let written = changed.saturating_add(rounded(grown, block)).min(data);
    let allocated = match situation.clones {
        true => written,
        false => {
            // In place only holes take room; those past the new end do not count.
            let kept = newest.image_bytes.saturating_sub(shrunk);
            written.min(rounded(new, block).saturating_sub(kept.min(new)))
        }
    };
    let held = (saved / block).saturating_mul(HELD_BYTES);
    [old_blocks, allocated, held, tables, MARGIN_BYTES].into_iter().fold(0, u64::saturating_add)
}

fn rounded(bytes: u64, block: u64) -> u64 {
    bytes.checked_next_multiple_of(block).unwrap_or(bytes)
}

/// The median of what the backups before took; for a source that knows what has changed, in proportion to that.
fn expected(situation: &Situation, revisions: &[Revision]) -> Option<u64> {
    // The oldest may be a first backup, which took all there was.
    let (_, later) = revisions.split_last()?;
    let needed = later.iter().take(LOOK_BACK).filter_map(|revision| {
        let statistics = &revision.statistics;
        let stored = u64::try_from(statistics.stored_bytes).unwrap_or(0);
        // On a clone the new blocks have to have room beside the old ones for some time.
        let beside = if situation.clones { statistics.changed_bytes } else { 0 };
        let needed = stored.saturating_add(beside);
        let Some(changed) = situation.changed_bytes else { return Some(needed) };
        let share = u128::from(needed) * u128::from(changed);
        let share = share.checked_div(u128::from(statistics.changed_bytes))?;
        Some(u64::try_from(share).unwrap_or(u64::MAX))
    });
    let mut needed: Vec<u64> = needed.collect();
    needed.sort_unstable();
    needed.get(needed.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::digest::Digest;
    use crate::base::revision::RevisionId;
    use crate::format::manifest::Statistics;
    use jiff::Timestamp;

    fn revisions(needed: &[(u64, i64)]) -> Vec<Revision> {
        let revision = |&(changed_bytes, stored_bytes): &(u64, i64)| {
            let time = Timestamp::UNIX_EPOCH;
            let statistics = Statistics { changed_bytes, stored_bytes, ..Statistics::default() };
            Revision::newest(RevisionId::new(time), time, time, 0, Digest::of(b""), statistics)
        };
        needed.iter().map(revision).collect()
    }

    /// A block of the image and of the source, as the estimate does not see them.
    #[derive(Debug, Clone, Copy)]
    struct Block {
        old: Option<bool>,
        new: Option<bool>,
        changed: bool,
    }

    fn situation(blocks: &[Block], clones: bool, knows: bool) -> Situation {
        let block_size = BlockSize::MIN;
        let bytes = |count: usize| count as u64 * block_size.bytes();
        let count = |which: &dyn Fn(&&Block) -> bool| bytes(blocks.iter().filter(which).count());
        let both = |block: &&Block| block.changed && block.old.is_some() && block.new.is_some();
        Situation {
            block_size,
            source_bytes: count(&|block| block.new.is_some()),
            data_bytes: count(&|block| block.new == Some(true)),
            knows_holes: true,
            changed_bytes: knows.then(|| count(&both)),
            newest: Some(Newest {
                size_bytes: count(&|block| block.old.is_some()),
                image_bytes: count(&|block| block.old == Some(true)),
            }),
            clones,
        }
    }

    /// What a backup of these blocks takes when nothing shrinks by compression.
    fn really(blocks: &[Block], clones: bool) -> u64 {
        let size = BlockSize::MIN.bytes();
        let mut bytes = 0;
        for block in blocks {
            let differs = block.old.is_none() || block.new.is_none() || block.changed;
            if !differs {
                continue;
            }
            if let Some(was_data) = block.old {
                bytes += HELD_BYTES + if was_data { size } else { 0 };
            }
            if block.new == Some(true) && (clones || block.old != Some(true)) {
                bytes += size;
            }
        }
        bytes + blocks.iter().filter(|block| block.new.is_some()).count() as u64 * DIGEST_BYTES
    }

    fn any_blocks() -> impl Strategy<Value = Vec<Block>> {
        let pair = (any::<bool>(), any::<bool>(), any::<bool>());
        (prop::collection::vec(pair, 0..60), 0..60usize, 0..60usize).prop_map(|(all, old, new)| {
            let block = |(at, (old_data, new_data, changed)): (usize, (bool, bool, bool))| Block {
                old: (at < old).then_some(old_data),
                // What was a hole and is data has changed, and the other way round.
                new: (at < new).then_some(if changed { new_data } else { old_data }),
                changed,
            };
            all.into_iter().enumerate().map(block).collect()
        })
    }

    proptest! {
        /// No backup takes more than the most that is estimated, in place or on a clone, whether the source knows or not.
        #[test]
        fn no_backup_takes_more(blocks in any_blocks(), clones: bool, knows: bool) {
            let estimate = estimate(&situation(&blocks, clones, knows), &[], None);
            let really = really(&blocks, clones);
            prop_assert!(really <= estimate.most_bytes, "{really} > {estimate:?}");
        }

        /// Whatever is handed in: no overflow, what is expected is not more than the most, and knowing what has changed
        /// never makes the most larger.
        #[test]
        fn any_figures_are_taken(
            sizes in any::<[u64; 4]>(), changed in any::<Option<u64>>(), clones: bool, knows_holes: bool,
            first: bool, before in prop::collection::vec(any::<(u64, i64)>(), 0..5),
        ) {
            let newest = Newest { size_bytes: sizes[2], image_bytes: sizes[3] };
            let situation = Situation {
                block_size: BlockSize::MIN, source_bytes: sizes[0], data_bytes: sizes[1], knows_holes,
                changed_bytes: changed, newest: (!first).then_some(newest), clones,
            };
            let found = estimate(&situation, &revisions(&before), Some(5));
            prop_assert!(found.expected_bytes.is_none_or(|bytes| bytes <= found.most_bytes));
            let blind = estimate(&Situation { changed_bytes: None, ..situation }, &[], None);
            prop_assert!(found.most_bytes <= blind.most_bytes);
        }
    }

    /// What is expected is the median of the backups before, without the oldest; on a clone the changed blocks come on top;
    /// and in proportion to what has changed when that is known.
    #[test]
    fn the_median_is_expected() {
        let before = revisions(&[(10, 30), (10, -5), (40, 20), (1000, 1000)]);
        let huge = 1 << 40;
        let mut situation = Situation {
            block_size: BlockSize::MIN,
            source_bytes: huge,
            data_bytes: huge,
            knows_holes: false,
            changed_bytes: None,
            newest: Some(Newest { size_bytes: huge, image_bytes: huge }),
            clones: false,
        };
        let expected = |situation: &Situation| estimate(situation, &before, None).expected_bytes;
        assert_eq!(expected(&situation), Some(20));
        situation.clones = true;
        assert_eq!(expected(&situation), Some(40));
        situation.clones = false;
        situation.changed_bytes = Some(100);
        assert_eq!(expected(&situation), Some(50));
        assert_eq!(estimate(&situation, &before[3..], None).expected_bytes, None);
    }

    /// Of a first backup only a file says what is to be expected; an unchanged source that knows it takes next to nothing.
    #[test]
    fn first_and_unchanged() {
        let mut situation = situation(&[], false, true);
        (situation.source_bytes, situation.data_bytes) = (1 << 30, 1 << 20);
        situation.newest = None;
        let found = estimate(&situation, &[], Some(1 << 19));
        assert_eq!(found.expected_bytes, Some(found.most_bytes));
        assert!(found.missing_bytes() > Some(1 << 19), "{found:?}");
        situation.knows_holes = false;
        assert_eq!(estimate(&situation, &[], Some(0)).missing_bytes(), None);
        situation.newest = Some(Newest { size_bytes: 1 << 30, image_bytes: 1 << 20 });
        situation.changed_bytes = Some(0);
        let most = estimate(&situation, &[], None).most_bytes;
        assert_eq!(most, MARGIN_BYTES + (1 << 30) / 4096 * DIGEST_BYTES);
    }
}
