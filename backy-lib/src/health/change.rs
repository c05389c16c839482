//! Whether far more has changed than usual: encryption by an intruder, a wrong disk, a job gone wild.
//!
//! The *share* of a revision is the bytes in blocks that differed from the revision before, of its size. A revision is unusual
//! when all of this holds:
//!
//! 1. At least [`MIN_EARLIER`] earlier revisions are known, of which the [`MAX_EARLIER`] newest count. The oldest one in the
//!    archive does not: all of it is new where it was the first.
//! 2. Its share is more than [`MIN_PERCENT`] percent.
//! 3. Its share is more than `change_factor` times the median of theirs, and as many times more as it lies further from
//!    the revision before than is usual (the median again): what changes in a week may have taken a week.
//!
//! The median does not follow single large changes, so what was unusual once does not make the next one usual.

use serde::Serialize;

use crate::format::manifest::{Alarm, Revision};
use crate::units::display_size;

/// With fewer earlier revisions nothing is known of what is usual.
pub const MIN_EARLIER: usize = 5;
/// More earlier revisions say nothing of today.
pub const MAX_EARLIER: usize = 30;
/// What changes less of the image is not unusual, however quiet it was before.
pub const MIN_PERCENT: u64 = 10;

/// How much has changed in a revision, and how much is usual.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Change {
    /// Share of the image, from 0 to 1.
    pub share: f64,
    /// The median of the earlier ones.
    pub usual_share: f64,
    /// Above this it is unusual.
    pub limit_share: f64,
}

impl Change {
    /// What is known of the first of `revisions`, newest first; `None` when there are too few.
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
        let longer = if usual_gap > 0.0 { (own_gap / usual_gap).max(1.0) } else { 1.0 };
        let least = MIN_PERCENT as f64 / 100.0;
        let limit_share = (usual_share * f64::from(change_factor) * longer).max(least);
        Some(Change { share: changed_share(newest), usual_share, limit_share })
    }

    /// Whether that is far more than usual.
    pub fn is_unusual(&self) -> bool {
        self.share > self.limit_share
    }
}

/// Share of a revision's blocks that differed from the revision before, from 0 to 1.
pub fn changed_share(revision: &Revision) -> f64 {
    match revision.size_bytes {
        0 => 0.0,
        size => (revision.statistics.changed_bytes as f64 / size as f64).min(1.0),
    }
}

/// The alarm about the first of `revisions`, newest first, if it is unusual.
pub fn unusual(revisions: &[Revision], change_factor: u32) -> Option<Alarm> {
    let newest = revisions.first()?;
    let change = Change::of(revisions, change_factor).filter(Change::is_unusual)?;
    let usual_bytes = (change.usual_share * newest.size_bytes as f64) as u64;
    let changed_bytes = newest.statistics.changed_bytes;
    Some(Alarm::new(newest.uuid, newest.finished, changed_bytes, usual_bytes))
}

/// `revision 3 is unusual: 81 % of it (32.4 GiB) had changed, where 2 % is usual`
pub(super) fn sentence(number: usize, alarm: &Alarm, size_bytes: u64) -> String {
    let percent = |bytes: u64| match size_bytes {
        0 => 0,
        size => (u128::from(bytes) * 100 / u128::from(size)).min(100),
    };
    format!(
        "revision {number} is unusual: {} % of it ({}) had changed, where {} % is usual",
        percent(alarm.changed_bytes),
        display_size(alarm.changed_bytes),
        percent(alarm.usual_bytes)
    )
}

/// The middle one, or the mean of the two in the middle; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
    match values.len() % 2 {
        1 => at(middle),
        _ => (at(middle.saturating_sub(1)) + at(middle)) / 2.0,
    }
}
