//! How much space a backup takes: what to expect from earlier ones, and the maximum.
//!
//! Pure: the caller passes in the facts about archive, source and file system.

use serde::{Deserialize, Serialize};

use crate::base::units::BlockSize;
use crate::format::manifest::Revision;

/// Revisions that the expectation is based on.
const LOOK_BACK: usize = 14;

/// Bytes per block of an entry in a digest file; of that entry plus those in the tables of a delta, with its
/// reference count.
const DIGEST_BYTES: u64 = 32;
const HELD_BYTES: u64 = DIGEST_BYTES + 8 + 2;

/// Headers, the manifest, the history, and what the file system rounds up.
const MARGIN_BYTES: u64 = 256 << 10;

/// The source of a backup and its archive.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    /// Unit of comparison.
    pub block_size: BlockSize,
    /// Size of the source.
    pub source_bytes: u64,
    /// At most this much of the source is data; the rest is holes.
    pub data_bytes: u64,
    /// Whether the source is a file, which reports its holes.
    pub knows_holes: bool,
    /// At most this much has changed, if the source knows.
    pub changed_bytes: Option<u64>,
    /// The newest revision; `None` for the first backup.
    pub newest: Option<Newest>,
    /// Whether the image is updated on a clone, which takes space beside the old image until it replaces it.
    pub clones: bool,
}

/// The newest revision.
#[derive(Debug, Clone, Copy)]
pub struct Newest {
    /// Its size.
    pub size_bytes: u64,
    /// Bytes that the image takes up on disk.
    pub image_bytes: u64,
}

/// How much space a backup needs while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Estimate {
    /// What to expect; `None` if there is nothing to base it on.
    pub expected_bytes: Option<u64>,
    /// The maximum.
    pub most_bytes: u64,
    /// Free space; `None` if unknown.
    pub free_bytes: Option<u64>,
}

impl Estimate {
    /// How many bytes are missing for the expected size.
    pub fn missing_bytes(&self) -> Option<u64> {
        let missing = self.expected_bytes?.saturating_sub(self.free_bytes?);
        (missing > 0).then_some(missing)
    }
}

/// The estimate for a backup. `revisions` are the existing ones, newest first.
pub fn estimate(situation: &Situation, revisions: &[Revision], free: Option<u64>) -> Estimate {
    let most_bytes = most(situation);
    let expected = match situation.newest {
        // The first backup: a device does not report which of its blocks are zero.
        None => situation.knows_holes.then_some(most_bytes),
        Some(_) => expected(situation, revisions),
    };
    let expected_bytes = expected.map(|bytes| bytes.min(most_bytes));
    Estimate { expected_bytes, most_bytes, free_bytes: free }
}

/// Assumes that every block that may have changed did, that its old content does not compress, and that its
/// new content has no space yet.
fn most(situation: &Situation) -> u64 {
    let (new, block) = (situation.source_bytes, situation.block_size.bytes());
    // A change of one byte changes a whole block.
    let data = rounded(situation.data_bytes.min(new), block);
    let tables = situation.block_size.count(new).saturating_mul(DIGEST_BYTES);
    let Some(newest) = situation.newest else {
        return data.saturating_add(tables).saturating_add(MARGIN_BYTES);
    };
    let old = newest.size_bytes;
    let (grown, shrunk) = (new.saturating_sub(old), old.saturating_sub(new));
    let same = old.min(new);
    let changed = situation.changed_bytes.map_or(same, |bytes| bytes.min(same));
    // If the shorter size ends within a block, that block has changed as well.
    let edge = if grown > 0 || shrunk > 0 { block } else { 0 };
    let changed = rounded(changed, block).saturating_add(edge);
    let saved = changed.saturating_add(rounded(shrunk, block));
    // Blocks that are holes in the image were zero, and are saved without content.
    let old_blocks = saved.min(rounded(newest.image_bytes, block));
    let written = changed.saturating_add(rounded(grown, block)).min(data);
    let allocated = match situation.clones {
        true => written,
        false => {
            // In place, only filling holes takes space; those past the new end do not count.
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

/// The median of what earlier backups took; in proportion to the changes, if the source knows them.
fn expected(situation: &Situation, revisions: &[Revision]) -> Option<u64> {
    // The oldest may be a first backup, which took everything.
    let (_, later) = revisions.split_last()?;
    let needed = later.iter().take(LOOK_BACK).filter_map(|revision| {
        let statistics = &revision.statistics;
        let stored = u64::try_from(statistics.stored_bytes).unwrap_or(0);
        // On a clone, the new blocks need space beside the old ones for some time.
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

    /// A block of the image and of the source, with details that the estimate does not see.
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

    /// What a backup of these blocks takes if nothing compresses.
    fn actual_bytes(blocks: &[Block], clones: bool) -> u64 {
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
                // A hole that became data has changed, and vice versa.
                new: (at < new).then_some(if changed { new_data } else { old_data }),
                changed,
            };
            all.into_iter().enumerate().map(block).collect()
        })
    }

    proptest! {
        /// No backup takes more than the estimated maximum, in place or on a clone, whether the source knows
        /// its changes or not.
        #[test]
        fn no_backup_takes_more_than_the_maximum(blocks in any_blocks(), clones: bool, knows: bool) {
            let estimate = estimate(&situation(&blocks, clones, knows), &[], None);
            let really = actual_bytes(&blocks, clones);
            prop_assert!(really <= estimate.most_bytes, "{really} > {estimate:?}");
        }

        /// For any input there is no overflow, the expectation is at most the maximum, and knowing the
        /// changes never raises the maximum.
        #[test]
        fn any_figures_give_a_sound_estimate(
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

    /// The expectation is the median of the earlier backups without the oldest. A clone adds the changed
    /// blocks, and known changes scale it.
    #[test]
    fn the_expectation_is_the_median() {
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

    /// For a first backup, only a file allows an expectation; an unchanged source that knows it takes next to nothing.
    #[test]
    fn a_first_backup_and_an_unchanged_source_are_estimated() {
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
