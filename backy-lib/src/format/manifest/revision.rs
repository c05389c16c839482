//! One revision as the manifest has it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BlockRange, Findings, Flaw, Unknown};
use crate::digest::Digest;
use crate::format::qcow2::Backing;
use crate::revision::{RevisionId, Tag};
use crate::storage::{DigestsKind, FileName};
use crate::units::{BlockIndex, BlockSize};

/// One committed revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Its name.
    pub uuid: RevisionId,
    /// When its backup began.
    pub started: Timestamp,
    /// When its backup was committed.
    pub finished: Timestamp,
    /// Exact size of the image in bytes.
    pub size_bytes: u64,
    /// Digest of the revision; never changes.
    pub digest: Digest,
    /// The file that holds it: `last.raw` or `<uuid>.qcow2`.
    pub image: String,
    /// The next newer revision, which a delta reads through to.
    pub base: Option<RevisionId>,
    /// Why it exists: schedules that were due, and words given by hand.
    pub tags: BTreeSet<Tag>,
    /// Those of the tags that were given by hand and only go by hand.
    #[serde(default)]
    pub pinned_tags: BTreeSet<Tag>,
    /// What its backup did.
    pub statistics: Statistics,
    /// What is known to be wrong with it.
    #[serde(default)]
    pub findings: Findings,
    /// What is wrong with its files other than single blocks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flaws: Vec<Flaw>,
    /// Digest over the entries of its blocks as they are, since some of them were lost: what has to come out of the digest files
    /// instead of `digest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_digest: Option<Digest>,
    /// When the blocks in its own file were last read and found right: ranges in ascending order that do not overlap. Blocks
    /// in none of them have never been.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verified: Vec<Verified>,
    #[serde(flatten)]
    unknown: Unknown,
}

/// When a range of blocks was last read and found right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The blocks.
    #[serde(flatten)]
    pub blocks: BlockRange,
    /// When.
    pub at: Timestamp,
    #[serde(flatten)]
    unknown: Unknown,
}

/// What a backup did.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Statistics {
    /// Bytes read from the source; holes are not read.
    pub read_bytes: u64,
    /// Bytes in blocks that differed from the revision before, those that were cut off among them.
    pub changed_bytes: u64,
    /// Bytes that the files of the archive take on disk more than before.
    pub stored_bytes: i64,
    /// Bytes of data of the revision before that are zero in this one, or lie behind its end.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_bytes: u64,
    /// Time from start to commit.
    pub seconds: f64,
    /// Fields of newer programs.
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Revision {
    /// A revision that has just been backed up, the newest.
    pub fn newest(
        uuid: RevisionId,
        started: Timestamp,
        finished: Timestamp,
        size_bytes: u64,
        digest: Digest,
        statistics: Statistics,
    ) -> Self {
        Revision {
            uuid,
            started,
            finished,
            size_bytes,
            digest,
            image: FileName::IMAGE.to_string(),
            base: None,
            tags: BTreeSet::new(),
            pinned_tags: BTreeSet::new(),
            statistics,
            findings: Findings::default(),
            flaws: Vec::new(),
            table_digest: None,
            verified: Vec::new(),
            unknown: Unknown::new(),
        }
    }

    /// The digest that the entries of its blocks must give.
    pub fn expected_digest(&self) -> Digest {
        self.table_digest.unwrap_or(self.digest)
    }

    /// Whether the plain image `last.raw` holds it.
    pub fn is_image(&self) -> bool {
        self.image == FileName::IMAGE.to_string()
    }

    /// Whether it is an older revision that reads through to no other.
    pub fn is_standalone(&self) -> bool {
        self.base.is_none() && !self.is_image()
    }

    /// The file that holds it.
    pub fn file(&self) -> FileName {
        if self.is_image() { FileName::IMAGE } else { FileName::Delta(self.uuid) }
    }

    /// The file with the digests of the blocks that its own file holds.
    pub fn digests_file(&self) -> FileName {
        let kind = if self.is_image() { DigestsKind::Image } else { DigestsKind::Delta };
        FileName::Digests(self.uuid, kind)
    }

    /// What its delta has to read through to; none for the newest and for a standalone one.
    pub fn backing(&self, base: Option<&Revision>) -> Option<Backing> {
        let base = base.filter(|base| Some(base.uuid) == self.base)?;
        Some(if base.is_image() { Backing::IMAGE } else { Backing::delta(base.uuid) })
    }

    /// Takes note that blocks of its own file were read at `at`.
    pub fn set_verified(&mut self, blocks: BlockRange, at: Timestamp) {
        let mut ranges: Vec<Verified> = Vec::with_capacity(self.verified.len() + 2);
        for old in std::mem::take(&mut self.verified) {
            let before = BlockRange::between(old.blocks.first, old.blocks.end().min(blocks.first));
            let after = BlockRange::between(old.blocks.first.max(blocks.end()), old.blocks.end());
            ranges.push(Verified { blocks: before, ..old.clone() });
            ranges.push(Verified { blocks: after, ..old });
        }
        ranges.push(Verified { blocks, at, unknown: Unknown::new() });
        ranges.retain(|range| range.blocks.count > 0);
        ranges.sort_unstable_by_key(|range| range.blocks.first);
        for range in ranges {
            let joins = |last: &&mut Verified| {
                last.blocks.end() == range.blocks.first
                    && last.at == range.at
                    && last.unknown == range.unknown
            };
            match self.verified.last_mut().filter(joins) {
                Some(last) => last.blocks.count += range.blocks.count,
                None => self.verified.push(range),
            }
        }
    }

    /// Ranges of blocks that a file claims: the field and the first range that is wrong.
    pub(super) fn check_ranges(&self, block_size: BlockSize) -> Result<(), (&'static str, String)> {
        let blocks = block_size.count(self.size_bytes);
        let wrong = |mut ranges: &mut dyn Iterator<Item = BlockRange>| {
            let mut next = BlockIndex(0);
            (&mut ranges).find_map(|range| {
                let right = range.first >= next && range.count > 0 && range.end().0 <= blocks;
                next = range.end();
                (!right).then(|| format!("{} from {} on", range.count, range.first))
            })
        };
        if let Some(found) = wrong(&mut self.findings.bad_blocks.iter().copied()) {
            return Err(("findings", found));
        }
        match wrong(&mut self.verified.iter().map(|verified| verified.blocks)) {
            Some(found) => Err(("verified", found)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A delta reads through to its base and to nothing else, and to `last.raw` where that holds the base.
    #[test]
    fn a_delta_reads_through_to_its_base() {
        let (time, digest) = (Timestamp::UNIX_EPOCH, Digest::of(b""));
        let new = || {
            let id = RevisionId::new(time);
            Revision::newest(id, time, time, 0, digest, Statistics::default())
        };
        let (newest, mut base, mut older) = (new(), new(), new());
        base.image = "base.qcow2".to_owned();
        older.image = "older.qcow2".to_owned();
        assert_eq!(older.backing(Some(&base)), None);
        older.base = Some(base.uuid);
        assert_eq!(older.backing(Some(&base)), Some(Backing::delta(base.uuid)));
        assert_eq!([older.backing(Some(&newest)), older.backing(None)], [None, None]);
        older.base = Some(newest.uuid);
        assert_eq!(older.backing(Some(&newest)), Some(Backing::IMAGE));
    }

    /// Ranges ascend, none is empty, and none ends behind the last block.
    #[test]
    fn ranges_ascend_within_the_revision() {
        let (time, digest) = (Timestamp::UNIX_EPOCH, Digest::of(b""));
        let size = BlockSize::DEFAULT.bytes() * 10;
        let id = RevisionId::new(time);
        let mut revision = Revision::newest(id, time, time, size, digest, Statistics::default());
        let mut is_right = |ranges: &[(u64, u64)]| {
            let range = |&(first, count)| BlockRange { first: BlockIndex(first), count };
            let ranges: Vec<_> = ranges.iter().map(range).collect();
            revision.findings.bad_blocks.clone_from(&ranges);
            let bad = revision.check_ranges(BlockSize::DEFAULT).is_ok();
            revision.findings = Findings::default();
            revision.verified = ranges
                .into_iter()
                .map(|blocks| Verified { blocks, at: time, unknown: Unknown::new() })
                .collect();
            let verified = revision.check_ranges(BlockSize::DEFAULT).is_ok();
            revision.verified.clear();
            assert_eq!(bad, verified);
            bad
        };
        for right in [&[][..], &[(0, 10)], &[(9, 1)], &[(0, 3), (3, 1)], &[(0, 3), (5, 5)]] {
            assert!(is_right(right), "{right:?}");
        }
        for wrong in [&[(0, 11)][..], &[(10, 1)], &[(3, 0)], &[(0, 3), (2, 1)], &[(5, 1), (0, 1)]] {
            assert!(!is_right(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn a_later_verification_replaces_what_it_covers_and_nothing_else() {
        let (time, digest) = (Timestamp::UNIX_EPOCH, Digest::of(b""));
        let id = RevisionId::new(time);
        let mut revision = Revision::newest(id, time, time, 0, digest, Statistics::default());
        let range = |first, count| BlockRange { first: BlockIndex(first), count };
        let at = |second| Timestamp::from_second(second).unwrap();
        revision.set_verified(range(0, 10), at(1));
        revision.set_verified(range(3, 2), at(2));
        revision.set_verified(range(5, 1), at(2));
        let found: Vec<_> =
            revision.verified.iter().map(|v| (v.blocks.first.0, v.blocks.count, v.at)).collect();
        assert_eq!(found, [(0, 3, at(1)), (3, 3, at(2)), (6, 4, at(1))]);
    }
}
