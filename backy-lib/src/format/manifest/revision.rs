//! One revision in the manifest.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::unknown::keeps_unknown;
use super::verified::{self, joined, within, without};
use super::{BlockRange, Bookmark, Findings, Flaw, Hints, Ranges, Unknown, Verified, bounded};
use crate::base::digest::Digest;
use crate::base::revision::{RevisionId, Tag};
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::name::{DigestsKind, FileName};
use crate::format::qcow2::Backing;

/// The most rewritten ranges to keep apart, so that the manifest stays small.
const MAX_REWRITTEN: usize = 1024;

/// One committed revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
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
    #[serde(deserialize_with = "bounded::tags")]
    pub tags: BTreeSet<Tag>,
    /// Those tags that were given by hand and are only removed by hand.
    #[serde(default, deserialize_with = "bounded::tags")]
    pub pinned_tags: BTreeSet<Tag>,
    /// Those pinned tags that the schedule had given before somebody gave them by hand: when they are no longer
    /// pinned, they are the schedule's again. Other tags in it mean nothing.
    #[serde(
        default,
        skip_serializing_if = "BTreeSet::is_empty",
        deserialize_with = "bounded::tags"
    )]
    pub scheduled_tags: BTreeSet<Tag>,
    /// The figures of its backup.
    pub statistics: Statistics,
    /// Known problems of its blocks.
    #[serde(default)]
    pub findings: Findings,
    /// Problems of its files other than single blocks.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "bounded::flaws")]
    pub flaws: Vec<Flaw>,
    /// Digest over the entries of its blocks as they are, after some of them were lost: the digest files must give
    /// this instead of `digest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_digest: Option<Digest>,
    /// When the blocks in its own file were last read and found right: ranges in ascending order that do not overlap.
    /// Blocks in none of them have never been read back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verified: Vec<Verified>,
    /// The same for ranges in which blocks have been written since, and not read back. Together with `verified` they
    /// give the time when each place was last read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewritten: Vec<Verified>,
    /// The state of the source that it holds, as the source knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bookmark: Option<Bookmark>,
    /// What the source reported about changes when it was made; none if it does not report any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hints: Option<Hints>,
    /// When blocks of the newest revision were last compared with the source: ranges in ascending order that do not
    /// overlap. Of interest only if `hints` were used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compared: Vec<Verified>,
    #[serde(flatten, skip_deserializing)]
    unknown: Unknown,
}

/// What a backup did.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Statistics {
    /// Bytes read from the source; holes are not read.
    pub read_bytes: u64,
    /// Bytes in blocks that differed from the previous revision, including those that were cut off.
    pub changed_bytes: u64,
    /// How many more bytes the files of the archive take on disk than before.
    pub stored_bytes: i64,
    /// Bytes of data of the previous revision that are zero in this one, or lie behind its end.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_bytes: u64,
    /// Time from start to commit.
    pub seconds: f64,
    /// Fields of newer programs.
    #[serde(flatten, skip_deserializing)]
    pub unknown: Unknown,
}

keeps_unknown!(Revision, Statistics);

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
            scheduled_tags: BTreeSet::new(),
            statistics,
            findings: Findings::default(),
            flaws: Vec::new(),
            table_digest: None,
            verified: Vec::new(),
            rewritten: Vec::new(),
            bookmark: None,
            hints: None,
            compared: Vec::new(),
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

    /// The backing file that its delta must have; none for the newest and for a standalone one.
    pub fn backing(&self, base: Option<&Revision>) -> Option<Backing> {
        let base = base.filter(|base| Some(base.uuid) == self.base)?;
        Some(if base.is_image() { Backing::IMAGE } else { Backing::delta(base.uuid) })
    }

    /// Gives it a tag by hand.
    pub fn pin_tag(&mut self, tag: &Tag) {
        let is_new = self.tags.insert(tag.clone());
        let is_newly_pinned = self.pinned_tags.insert(tag.clone());
        if is_newly_pinned {
            match is_new {
                true => self.scheduled_tags.remove(tag),
                false => self.scheduled_tags.insert(tag.clone()),
            };
        }
    }

    /// Removes a tag. If the schedule had given it before it was pinned, it is only no longer pinned.
    pub fn remove_tag(&mut self, tag: &Tag) {
        let was_pinned = self.pinned_tags.remove(tag);
        let was_scheduled = self.scheduled_tags.remove(tag);
        if !(was_pinned && was_scheduled) {
            self.tags.remove(tag);
        }
    }

    /// Records that blocks of its own file were read at `at`.
    pub fn set_verified(&mut self, blocks: BlockRange, at: Timestamp) {
        self.verified = verified::set(&self.verified, blocks, at);
        self.rewritten = without(&self.rewritten, &[blocks]);
    }

    /// Records that blocks of its own file, in ascending order, have been written since they were last read.
    pub fn note_rewritten(&mut self, blocks: impl IntoIterator<Item = BlockRange>) {
        let known: Vec<Verified> =
            joined(self.verified.iter().chain(&self.rewritten).cloned().collect());
        let mut all: Vec<BlockRange> = self.rewritten.iter().map(|range| range.blocks).collect();
        all.extend(blocks);
        all.sort_unstable_by_key(|range| range.first);
        let mut cuts = Ranges::with_limit(MAX_REWRITTEN);
        all.into_iter().filter(|range| range.count > 0).for_each(|range| cuts.push(range));
        let cuts = cuts.finish();
        self.verified = without(&known, &cuts);
        self.rewritten = joined(within(&known, &cuts));
    }

    /// Forgets when its own file was read, because it is now another file.
    pub fn forget_verified(&mut self) {
        self.verified.clear();
        self.rewritten.clear();
    }

    /// Everything known about when its own file was last read, in ascending order.
    pub fn read_at(&self) -> impl Iterator<Item = Verified> {
        joined(self.verified.iter().chain(&self.rewritten).cloned().collect()).into_iter()
    }

    /// Checks the ranges of blocks in the file: returns the field and the first range that is wrong.
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
        if let Some(found) = wrong(&mut self.verified.iter().map(|range| range.blocks)) {
            return Err(("verified", found));
        }
        if let Some(found) = wrong(&mut self.rewritten.iter().map(|range| range.blocks)) {
            return Err(("rewritten", found));
        }
        match wrong(&mut self.compared.iter().map(|range| range.blocks)) {
            Some(found) => Err(("compared", found)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::block_ranges::BlockRanges;

    /// A tag of the schedule that was pinned is the schedule's again once it is no longer pinned, and is removed by a
    /// second removal; one that was only pinned is removed at once.
    #[test]
    fn an_unpinned_tag_is_what_it_was_before() {
        let (time, digest) = (Timestamp::UNIX_EPOCH, Digest::of(b""));
        let id = RevisionId::new(time);
        let mut revision = Revision::newest(id, time, time, 0, digest, Statistics::default());
        let tag = |text: &str| text.parse::<Tag>().unwrap();
        revision.tags = BTreeSet::from([tag("weekly")]);
        let before = revision.clone();
        for name in ["weekly", "monthly"] {
            revision.pin_tag(&tag(name));
            revision.pin_tag(&tag(name));
            assert!(
                revision.tags.contains(&tag(name)) && revision.pinned_tags.contains(&tag(name))
            );
            revision.remove_tag(&tag(name));
            assert_eq!(revision, before, "{name}");
        }
        revision.remove_tag(&tag("weekly"));
        assert!(revision.tags.is_empty());
        // What an older program left behind when it removed the tag means nothing.
        revision.scheduled_tags = BTreeSet::from([tag("weekly")]);
        revision.pin_tag(&tag("weekly"));
        revision.remove_tag(&tag("weekly"));
        assert!(revision.tags.is_empty());
    }

    /// A delta reads through to its base and to nothing else, and to `last.raw` if that holds the base.
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
            revision.findings.bad_blocks = BlockRanges::as_written(ranges.clone());
            let bad = revision.check_ranges(BlockSize::DEFAULT).is_ok();
            revision.findings = Findings::default();
            revision.verified =
                ranges.into_iter().map(|blocks| Verified::new(blocks, time)).collect();
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

    /// Blocks that have been written since are no longer verified; the time when their place was last read stays
    /// known until it is read again.
    #[test]
    fn what_is_rewritten_is_not_verified_until_it_is_read_again() {
        let (time, digest) = (Timestamp::UNIX_EPOCH, Digest::of(b""));
        let id = RevisionId::new(time);
        let mut revision = Revision::newest(id, time, time, 0, digest, Statistics::default());
        let range = |first, count| BlockRange { first: BlockIndex(first), count };
        let at = |second| Timestamp::from_second(second).unwrap();
        let told = |ranges: &[Verified]| -> Vec<_> {
            ranges.iter().map(|v| (v.blocks.first.0, v.blocks.count, v.at.as_second())).collect()
        };
        revision.set_verified(range(0, 10), at(1));
        revision.set_verified(range(10, 10), at(2));
        revision.note_rewritten([range(2, 1), range(8, 4), range(30, 5)]);
        assert_eq!(told(&revision.verified), [(0, 2, 1), (3, 5, 1), (12, 8, 2)]);
        assert_eq!(told(&revision.rewritten), [(2, 1, 1), (8, 2, 1), (10, 2, 2)]);
        revision.note_rewritten([range(2, 2)]);
        assert_eq!(told(&revision.verified), [(0, 2, 1), (4, 4, 1), (12, 8, 2)]);
        let all: Vec<_> = revision.read_at().collect();
        assert_eq!(told(&all), [(0, 10, 1), (10, 10, 2)]);
        revision.set_verified(range(0, 10), at(3));
        assert_eq!(told(&revision.verified), [(0, 10, 3), (12, 8, 2)]);
        assert_eq!(told(&revision.rewritten), [(10, 2, 2)]);
    }

    /// However scattered the writes are, the manifest does not grow without bound, and no written block stays
    /// verified.
    #[test]
    fn scattered_writing_costs_few_ranges() {
        let (time, digest) = (Timestamp::UNIX_EPOCH, Digest::of(b""));
        let id = RevisionId::new(time);
        let mut revision = Revision::newest(id, time, time, 0, digest, Statistics::default());
        revision.set_verified(BlockRange { first: BlockIndex(0), count: 1 << 20 }, time);
        for shift in 0..3 {
            let one = |n: u64| BlockRange { first: BlockIndex(n * 97 + shift), count: 1 };
            revision.note_rewritten((0..10_000).map(one));
        }
        let ranges = revision.verified.len() + revision.rewritten.len();
        assert!(ranges <= 2 * MAX_REWRITTEN + 1, "{ranges}");
        let hit = |v: &Verified| (0..10_000).any(|n| v.blocks.contains(BlockIndex(n * 97)));
        assert!(!revision.verified.iter().any(hit));
    }
}
