//! What a scrub with a budget reads, and in which order.
//!
//! Stored data is divided into groups: parts of the image, and whole deltas. Each has a time: when it was
//! last read or, if never, since when it has existed. The oldest are read first. Data written later gets a
//! later time, so that no group waits for long, however small the budget is and however many deltas are new.
//!
//! A budget counts the stored bytes that have to be read: holes cost nothing, nor do blocks that a delta does not hold.

use std::str::FromStr;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::stored::StoredFile;
use super::{Budget, Scrub};
use crate::base::error::Result;
use crate::base::limits::limits;
use crate::base::progress;
use crate::base::units::BlockIndex;
use crate::format::manifest::{BlockRange, Manifest, Revision};
use crate::policy::config::parse_interval;
use crate::policy::health::long_as;

/// Maximum number of parts of an image with separate verification records. A delta has only one.
const MAX_GROUPS: u64 = 1024;

/// A part of one revision's own file: the unit in which a budget is spent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub(super) number: usize,
    pub(super) blocks: BlockRange,
    /// The cost of reading it; only known if the budget is a share.
    pub(super) stored_bytes: u64,
}

impl FromStr for Budget {
    type Err = String;

    /// `90s`, `30m`, `4h`, or a share such as `10%`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || {
            format!("'{text}' is neither a time, such as 90s, 30m or 4h, nor a share, such as 10%")
        };
        if let Some(number) = text.strip_suffix('%') {
            let percent: f64 = number.parse().map_err(|_| wrong())?;
            let some = percent > 0.0 && percent <= 100.0;
            return some.then_some(Budget::Share(percent / 100.0)).ok_or_else(wrong);
        }
        let time = parse_interval(text).map_err(|_| wrong())?;
        Duration::try_from(time).map(Budget::Time).map_err(|_| wrong())
    }
}

impl Scrub<'_> {
    /// What there is to read, in order; with a budget, the longest waiting first.
    pub(super) fn groups(&self) -> Result<Vec<Group>> {
        let size = self.manifest.block_size;
        let mut groups = Vec::new();
        for number in self.numbers() {
            let Some(revision) = self.manifest.revisions.get(number) else { continue };
            let blocks = size.count(revision.size_bytes);
            let group_blocks = match revision.is_image() {
                true => {
                    (limits().group_bytes / size.bytes()).max(blocks.div_ceil(MAX_GROUPS)).max(1)
                }
                false => blocks.max(1),
            };
            let file = self.file_to_measure(revision)?;
            for first in (0..blocks).step_by(group_blocks as usize) {
                progress::check(self.context.observer)?;
                let first = BlockIndex(first);
                let end = BlockIndex(first.plus(group_blocks).0.min(blocks));
                let blocks = BlockRange::between(first, end);
                let stored_bytes = file.as_ref().map_or(Ok(0), |file| stored_in(file, blocks))?;
                groups.push(Group { number, blocks, stored_bytes });
            }
        }
        if self.options.budget.is_some() {
            // Stable: groups with the same time stay in order.
            groups.sort_by_cached_key(|group| {
                waiting_since(self.manifest, group.number, group.blocks, self.now)
            });
        }
        Ok(groups)
    }

    /// The file of a revision whose bytes have to be counted; `None` if it cannot be opened, and then nothing
    /// of it is read.
    fn file_to_measure(&self, revision: &Revision) -> Result<Option<StoredFile>> {
        match self.options.budget {
            Some(Budget::Share(_)) => {
                let (storage, size) = (&**self.context.storage, self.manifest.block_size);
                let Some(zeros) = self.written_zeros.as_ref().filter(|_| revision.is_image())
                else {
                    return StoredFile::without_digests(storage, revision, size);
                };
                StoredFile::open_knowing(storage, revision, size, Some(zeros)).map(Some)
            }
            Some(Budget::Time(_)) | None => Ok(None),
        }
    }

    /// How many stored bytes of the groups may be read. Recorded in the report if the budget is a share.
    pub(super) fn allow(&mut self, groups: &[Group]) -> u64 {
        let Some(Budget::Share(share)) = self.options.budget else { return u64::MAX };
        let stored: u64 = groups.iter().map(|group| group.stored_bytes).sum();
        let budget_bytes = (stored as f64 * share.clamp(0.0, 1.0)).ceil() as u64;
        self.budget_bytes = Some(budget_bytes);
        budget_bytes
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.options.budget {
            Some(Budget::Time(time)) => Instant::now().checked_add(time),
            _ => None,
        }
    }
}

/// Bytes to read for these blocks; none for tables that cannot be read.
fn stored_in(file: &StoredFile, blocks: BlockRange) -> Result<u64> {
    match file.stored_bytes(blocks) {
        Err(error) if error.is_unreadable() || error.is_damage() => Ok(0),
        counted => counted,
    }
}

/// Since when blocks of a revision's own file have waited to be read: the earliest time at which one was last
/// read or, if never, may have been written. `None`, which comes first, if a clock was wrong, because a time
/// in the future says nothing. The flag says whether all of it was ever read: at the same time, blocks that
/// were never read come first, so that a clock that stands still delays nothing.
///
/// A delta that was never read counts from the commit of its own revision, just before it was written: that
/// time stays the same whatever newer revisions are merged into it.
fn waiting_since(
    manifest: &Manifest,
    number: usize,
    blocks: BlockRange,
    now: Timestamp,
) -> (Option<Timestamp>, bool) {
    let Some(revision) = manifest.revisions.get(number) else { return (None, false) };
    let mut next = blocks.first;
    let mut unread = None;
    let mut oldest: Option<Timestamp> = None;
    let mut wait = |at: Timestamp| oldest = Some(oldest.map_or(at, |oldest| oldest.min(at)));
    let mut is_future = false;
    for range in revision.read_at() {
        if range.blocks.end() <= blocks.first || range.blocks.first >= blocks.end() {
            continue;
        }
        if range.blocks.first > next {
            unread = unread.or(Some(next));
        }
        next = range.blocks.end();
        is_future |= range.at > now;
        wait(range.at);
    }
    if next < blocks.end() {
        unread = unread.or(Some(next));
    }
    if let Some(block) = unread {
        let written = match revision.is_image() {
            true => long_as(manifest, block.0).unwrap_or(revision.finished),
            false => revision.finished,
        };
        is_future |= written > now;
        wait(written);
    }
    (oldest.filter(|_| !is_future), unread.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_time_or_a_share() {
        for (text, expected) in [
            ("90s", Budget::Time(Duration::from_secs(90))),
            ("30m", Budget::Time(Duration::from_secs(1800))),
            ("2d", Budget::Time(Duration::from_secs(172_800))),
            ("10%", Budget::Share(0.1)),
            ("100%", Budget::Share(1.0)),
            ("2.5%", Budget::Share(0.025)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for bad in ["", "%", "0%", "101%", "-5%", "NaN%", "30", "m", "30 m", "1h30m", "0s", "-1m"] {
            assert!(bad.parse::<Budget>().expect_err(bad).contains("10%"), "{bad}");
        }
    }
}
