//! Detects that far more has changed than usual: encryption by an intruder, a wrong disk, a job out of control.
//!
//! The *share* of a revision is the bytes in blocks that differ from the previous revision, divided by its
//! size. A revision is unusual if all of this holds:
//!
//! 1. At least [`MIN_EARLIER`] earlier revisions are known; the [`MAX_EARLIER`] newest of them count. The
//!    oldest one in the archive does not: if it was the first backup, all of it was new.
//! 2. Its share is more than [`MIN_PERCENT`] percent.
//! 3. Its share is more than `change_factor` times the median of theirs. If more time than usual has passed
//!    since the previous revision (the median again, at least an hour), the limit grows in proportion: a
//!    week's changes may have taken a week.
//!
//! Four things are unusual with any number of revisions: more than half of the data of the previous revision
//! is gone, that is, zero now or past the new end ([`Observed::lost_bytes`], at least [`MIN_LOST_BYTES`]);
//! the source is another one; the source has shrunk: a block device at all, a file by more than a tenth,
//! since files such as dumps get a little shorter now and then; or the source has not reported a change.
//!
//! Single large changes do not move the median, so one unusual revision does not make the next one usual.

use serde::{Deserialize, Serialize};

use crate::base::units::display_size;
use crate::format::manifest::{Alarm, BlockRanges, Revision, Unreported};

/// With fewer earlier revisions, nothing is known about what is usual.
pub const MIN_EARLIER: usize = 5;
/// Revisions further back say nothing about today.
pub const MAX_EARLIER: usize = 30;
/// A smaller share is never unusual, however quiet the image was before.
pub const MIN_PERCENT: u64 = 10;

/// Losing less data than this raises no alarm.
pub const MIN_LOST_BYTES: u64 = 64 << 10;

/// A file may shrink by one part in this many without an alarm.
const MAX_SHRINK_PART: u64 = 10;

/// Gaps shorter than this, as between backups by hand, count as this long.
const MIN_GAP_SECONDS: f64 = 3600.0;

/// How much changed in a revision, and how much is usual.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Share of the image, from 0 to 1.
    pub share: f64,
    /// The median of the earlier shares.
    pub usual_share: f64,
    /// A larger share is unusual.
    pub limit_share: f64,
}

impl Change {
    /// For the first of `revisions`, newest first; `None` if there are too few.
    pub fn of(revisions: &[Revision], change_factor: u32) -> Option<Self> {
        let newest = revisions.first()?;
        let known = revisions.len().saturating_sub(1);
        let earlier = revisions.get(1..known).filter(|earlier| earlier.len() >= MIN_EARLIER)?;
        let earlier = earlier.get(..MAX_EARLIER).unwrap_or(earlier);
        let usual_share = median(earlier.iter().map(changed_share).collect());
        let gaps = revisions.windows(2).map(|pair| match pair {
            [newer, older] => (newer.started.as_second() - older.started.as_second()).max(0) as f64,
            _ => 0.0,
        });
        let gaps: Vec<f64> = gaps.take(earlier.len() + 1).collect();
        let own_gap = gaps.first().copied().unwrap_or(0.0);
        let usual_gap = median(gaps.into_iter().skip(1).collect());
        let longer = (own_gap / usual_gap.max(MIN_GAP_SECONDS)).max(1.0);
        let least = MIN_PERCENT as f64 / 100.0;
        let limit_share = (usual_share * f64::from(change_factor) * longer).max(least);
        Some(Change { share: changed_share(newest), usual_share, limit_share })
    }

    /// Whether the share is above the limit.
    pub fn is_unusual(&self) -> bool {
        self.share > self.limit_share
    }
}

/// Share of a revision's blocks that differ from the previous revision, from 0 to 1.
pub fn changed_share(revision: &Revision) -> f64 {
    match revision.size_bytes {
        0 => 0.0,
        size => (revision.statistics.changed_bytes as f64 / size as f64).min(1.0),
    }
}

/// What a backup saw of its source, apart from what the revisions record.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Bytes of data in the previous revision.
    pub had_bytes: u64,
    /// How many of them are zero now, or past the new end.
    pub lost_bytes: u64,
    /// How the source differs from the one of the previous backup, if it is another one.
    pub other_source: Option<String>,
    /// Size of the previous revision in bytes; zero if there is none.
    pub old_size_bytes: u64,
    /// Whether the source is a block device.
    pub is_device: bool,
    /// Changes that the source has not reported.
    pub unreported: Option<Unreported>,
}

impl Observed {
    /// Whether a source of `size_bytes` counts as shrunk.
    fn shrank_to(&self, size_bytes: u64) -> bool {
        let may_lack = if self.is_device { 0 } else { self.old_size_bytes / MAX_SHRINK_PART };
        size_bytes < self.old_size_bytes - may_lack
    }

    fn lost_most(&self) -> bool {
        self.lost_bytes > self.had_bytes / 2 && self.lost_bytes >= MIN_LOST_BYTES
    }
}

/// The alarm about the first of `revisions`, newest first, if any.
pub fn unusual(revisions: &[Revision], change_factor: u32, observed: Observed) -> Option<Alarm> {
    let newest = revisions.first()?;
    let change = Change::of(revisions, change_factor);
    let lost_most = observed.lost_most();
    let shrank = observed.shrank_to(newest.size_bytes);
    if !change.is_some_and(|change| change.is_unusual())
        && !lost_most
        && !shrank
        && observed.other_source.is_none()
        && observed.unreported.is_none()
    {
        return None;
    }
    let usual_share = change.map_or(0.0, |change| change.usual_share);
    let usual_bytes = (usual_share * newest.size_bytes as f64).round() as u64;
    let changed_bytes = newest.statistics.changed_bytes;
    let mut alarm = Alarm::new(newest.uuid, newest.finished, changed_bytes, usual_bytes);
    alarm.other_source = observed.other_source;
    alarm.shrunk_from_bytes = Some(observed.old_size_bytes).filter(|_| shrank);
    alarm.unreported = observed.unreported;
    if lost_most {
        alarm.lost_bytes = Some(observed.lost_bytes);
        alarm.had_bytes = Some(observed.had_bytes);
    }
    Some(alarm)
}

/// `revision 3 is unusual: 81 % changed (32.4 GiB); usually 2 %`
pub(super) fn sentence(number: usize, alarm: &Alarm, size_bytes: u64) -> String {
    let other = alarm.other_source.as_ref().map(|how| {
        format!(
            "revision {number} has another source than the previous revision: {}",
            how.escape_debug()
        )
    });
    let lost = alarm.lost_bytes.zip(alarm.had_bytes).map(|(lost, had)| {
        let (lost, had) = (display_size(lost), display_size(had));
        format!("revision {number} lacks {lost} of the {had} of data in the previous revision")
    });
    let shrunk = alarm.shrunk_from_bytes.map(|from| {
        let (from, to) = (display_size(from), display_size(size_bytes));
        format!("revision {number} is shorter than the previous revision: {to} instead of {from}")
    });
    let unreported = alarm.unreported.as_ref().map(|unreported| {
        let blocks = unreported.blocks.iter().copied().collect::<BlockRanges>().block_count();
        let (are, since) = (if blocks == 1 { "block" } else { "blocks" }, unreported.since);
        format!(
            "revision {number} has changes in {blocks} {are} that the source did not report; revisions made after \
             {since} may hold older content there"
        )
    });
    let found = [other, shrunk, lost, unreported];
    let most: Vec<String> = found.into_iter().flatten().collect();
    if !most.is_empty() {
        return most.join("; ");
    }
    let percent = |bytes: u64| match size_bytes {
        0 => 0,
        size => (u128::from(bytes) * 100 / u128::from(size)).min(100),
    };
    format!(
        "revision {number} is unusual: {} % changed ({}); usually {} %",
        percent(alarm.changed_bytes),
        display_size(alarm.changed_bytes),
        percent(alarm.usual_bytes)
    )
}

/// The middle value, or the mean of the middle two; 0 if there are none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
    match values.len() % 2 {
        1 => at(middle),
        _ => (at(middle.saturating_sub(1)) + at(middle)) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::base::digest::Digest;
    use crate::base::revision::RevisionId;
    use crate::format::manifest::Statistics;

    const SIZE: u64 = 1_000_000;

    /// Revisions, newest first, each with its start in hours ago and its changed bytes.
    fn revisions(changes: &[(i64, u64)]) -> Vec<Revision> {
        let revision = |&(hours, changed_bytes): &(i64, u64)| {
            let time = Timestamp::from_second(1_800_000_000 - hours * 3600).unwrap();
            let statistics = Statistics { changed_bytes, ..Statistics::default() };
            Revision::newest(RevisionId::new(time), time, time, SIZE, Digest::of(b""), statistics)
        };
        changes.iter().map(revision).collect()
    }

    fn nightly(newest: u64, earlier: &[u64]) -> Vec<Revision> {
        let all = std::iter::once(&newest).chain(earlier).zip(0..);
        revisions(&all.map(|(&changed, night)| (24 * night, changed)).collect::<Vec<_>>())
    }

    #[test]
    fn far_more_than_the_median_is_unusual_but_a_busy_day_is_not() {
        let first = SIZE;
        let usual = [30_000, 20_000, 300_000, 20_000, 25_000, first];
        for (newest, expected) in [(0, false), (99_000, false), (126_000, true), (SIZE, true)] {
            assert_eq!(
                unusual(&nightly(newest, &usual), 5, Observed::default()).is_some(),
                expected,
                "{newest}"
            );
        }
        let alarm = unusual(&nightly(700_000, &usual), 5, Observed::default()).unwrap();
        assert_eq!((alarm.changed_bytes, alarm.usual_bytes), (700_000, 25_000));
        let text = "revision 0 is unusual: 70 % changed (683.6 KiB); usually 2 %";
        assert_eq!(sentence(0, &alarm, SIZE), text);
    }

    /// Losing most of the data, or being another source, is unusual with any number of revisions.
    #[test]
    fn a_source_that_lost_most_of_its_data_or_is_another_one_is_unusual() {
        let few = nightly(0, &[SIZE]);
        let seen =
            |had_bytes, lost_bytes| Observed { had_bytes, lost_bytes, ..Observed::default() };
        for (had, lost, expected) in [
            (SIZE, SIZE / 2, false),
            (SIZE, SIZE / 2 + 1, true),
            (SIZE, SIZE, true),
            (MIN_LOST_BYTES, MIN_LOST_BYTES, true),
            (MIN_LOST_BYTES - 1, MIN_LOST_BYTES - 1, false),
            (0, 0, false),
        ] {
            assert_eq!(unusual(&few, 5, seen(had, lost)).is_some(), expected, "{lost} of {had}");
        }
        let alarm = unusual(&few, 5, seen(SIZE, SIZE)).unwrap();
        let text = "revision 0 lacks 976.6 KiB of the 976.6 KiB of data in the previous revision";
        assert_eq!(sentence(0, &alarm, SIZE), text);
        let other =
            Observed { other_source: Some("serial\nnumber".to_owned()), ..Observed::default() };
        let alarm = unusual(&few, 5, other).unwrap();
        let text = "revision 0 has another source than the previous revision: serial\\nnumber";
        assert_eq!(sentence(0, &alarm, SIZE), text);
        assert!(unusual(&few, 5, Observed::default()).is_none());
    }

    /// Any shrinking of a device is unusual; a file may be a tenth shorter.
    #[test]
    fn a_source_that_shrank_is_unusual() {
        let few = nightly(0, &[SIZE]);
        let shrank = |old_size_bytes, is_device| {
            let observed = Observed { old_size_bytes, is_device, ..Observed::default() };
            unusual(&few, 5, observed).and_then(|alarm| alarm.shrunk_from_bytes)
        };
        assert_eq!([0, SIZE - 1, SIZE].map(|size| shrank(size, true)), [None; 3]);
        assert_eq!(shrank(SIZE + 1, true), Some(SIZE + 1));
        assert_eq!([SIZE + 1, SIZE + SIZE / 10].map(|size| shrank(size, false)), [None; 2]);
        assert_eq!(shrank(SIZE + SIZE / 8, false), Some(SIZE + SIZE / 8));
        let observed = Observed { old_size_bytes: 2 * SIZE, ..Observed::default() };
        let alarm = unusual(&few, 5, observed).unwrap();
        let text = "revision 0 is shorter than the previous revision: 976.6 KiB instead of 1.9 MiB";
        assert_eq!(sentence(0, &alarm, SIZE), text);
    }

    #[test]
    fn a_tenth_is_never_unusual() {
        let quiet = [0, 0, 0, 0, 0, SIZE];
        assert!(unusual(&nightly(100_000, &quiet), 5, Observed::default()).is_none());
        assert!(unusual(&nightly(100_001, &quiet), 5, Observed::default()).is_some());
    }

    #[test]
    fn few_earlier_revisions_raise_no_alarm() {
        // Four that count, plus the oldest.
        assert!(unusual(&nightly(SIZE, &[0, 0, 0, 0, 0]), 5, Observed::default()).is_none());
        assert!(unusual(&nightly(SIZE, &[0, 0, 0, 0, 0, 0]), 5, Observed::default()).is_some());
        assert!(Change::of(&[], 5).is_none());
    }

    #[test]
    fn the_limit_grows_with_the_time_since_the_previous_revision() {
        let late = |hours: i64, changed: u64| {
            let earlier = (0..7).map(|night| (hours + 24 * night, 30_000));
            let all: Vec<(i64, u64)> = std::iter::once((0, changed)).chain(earlier).collect();
            unusual(&revisions(&all), 5, Observed::default()).is_some()
        };
        assert!(late(24, 160_000));
        assert!(!late(96, 160_000));
        assert!(late(96, 610_000));
    }

    #[test]
    fn one_unusual_revision_does_not_make_the_next_one_usual() {
        let mut earlier = vec![20_000; 6];
        earlier.insert(0, 900_000);
        assert!(unusual(&nightly(850_000, &earlier), 5, Observed::default()).is_some());
    }

    proptest! {
        /// More change never clears an alarm, a larger factor never raises one, and all shares lie between 0 and 1.
        #[test]
        fn alarms_are_monotonic(
            earlier in prop::collection::vec((1_i64..100, 0..=2 * SIZE), 0..40),
            newest in 0..=2 * SIZE,
            more in 0..=SIZE,
            factor in 2_u32..100,
        ) {
            let mut hours = 0;
            let earlier: Vec<(i64, u64)> = earlier.into_iter().map(|(gap, changed)| {
                hours += gap;
                (hours, changed)
            }).collect();
            let with = |changed| {
                let all: Vec<(i64, u64)> = std::iter::once((0, changed)).chain(earlier.clone()).collect();
                revisions(&all)
            };
            let is = |changed, factor| unusual(&with(changed), factor, Observed::default()).is_some();
            prop_assert!(!is(newest, factor) || is(newest.saturating_add(more), factor));
            prop_assert!(!is(newest, factor + 1) || is(newest, factor));
            prop_assert!(newest > SIZE / 10 || !is(newest, factor));
            prop_assert_eq!(Change::of(&with(newest), factor).is_some(), earlier.len() > MIN_EARLIER);
            if let Some(change) = Change::of(&with(newest), factor) {
                for share in [change.share, change.usual_share] {
                    prop_assert!((0.0..=1.0).contains(&share));
                }
                prop_assert!(change.limit_share >= 0.1);
            }
        }
    }
}
