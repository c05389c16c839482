//! Predicts when the file system will be full, from the growth of the archive.
//!
//! The history records what each backup added and what each maintenance freed; the last [`WINDOW_DAYS`]
//! count. Counting starts after the first backup in that window, so that the first image of a new archive
//! does not count as growth. Revisions deleted by hand are left out, because that will not happen again.
//! There is no prediction with fewer than [`MIN_BACKUPS`] more backups, or less than [`MIN_DAYS`].

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Cause, Problem, Space, display_age};
use crate::base::units::display_size;
use crate::policy::config::Monitoring;

/// Older figures say nothing about tomorrow.
pub const WINDOW_DAYS: i64 = 30;
/// Fewer backups allow no prediction.
pub const MIN_BACKUPS: usize = 4;
/// A shorter time allows no prediction.
pub const MIN_DAYS: i64 = 3;
/// One part in this many of `full_within` and `min_free_percent` is critical.
pub(super) const CRITICAL_PART: u8 = 5;
/// Ten years: a later date is not reported.
const MAX_DAYS: f64 = 3653.0;

/// A change of the archive's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Movement {
    /// When it ended.
    pub at: Timestamp,
    /// Whether it was a backup.
    pub is_backup: bool,
    /// Bytes by which the archive's size on disk changed.
    pub bytes: i64,
}

/// How fast an archive grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// Negative if it shrinks.
    pub bytes_per_day: i64,
}

/// The growth that `movements`, oldest first, show; `None` if there are too few.
pub fn growth(movements: &[Movement], now: Timestamp) -> Option<Growth> {
    let window = now.checked_sub(SignedDuration::from_hours(24 * WINDOW_DAYS)).ok()?;
    let mut recent = movements.iter().filter(|movement| (window..=now).contains(&movement.at));
    let first = recent.find(|movement| movement.is_backup)?;
    let (mut backups, mut bytes, mut last) = (0, 0_i128, first.at);
    for movement in recent {
        backups += usize::from(movement.is_backup);
        bytes += i128::from(movement.bytes);
        last = last.max(movement.at);
    }
    let seconds = last.as_second() - first.at.as_second();
    if backups < MIN_BACKUPS || seconds < MIN_DAYS * 86400 {
        return None;
    }
    i64::try_from(bytes * 86400 / i128::from(seconds))
        .ok()
        .map(|bytes_per_day| Growth { bytes_per_day })
}

/// When this many free bytes will be used up; `None` if that takes more than ten years.
pub fn full_at(free_bytes: u64, bytes_per_day: i64, now: Timestamp) -> Option<Timestamp> {
    if bytes_per_day <= 0 {
        return None;
    }
    let days = free_bytes as f64 / bytes_per_day as f64;
    let seconds = (days <= MAX_DAYS).then_some((days * 86400.0) as i64)?;
    now.checked_add(SignedDuration::from_secs(seconds)).ok()
}

/// A file system with all examined archives on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedSpace {
    /// Number of archives.
    pub archives: usize,
    /// Bytes that their files take up on disk.
    pub used_bytes: u64,
    /// Bytes that can still be written there.
    pub free_bytes: u64,
    /// Size of the file system.
    pub size_bytes: u64,
    /// Bytes by which they grow per day, those whose growth is known; null if there are none.
    pub growth_bytes_per_day: Option<i64>,
    /// When it will be full at this rate.
    pub full_at: Option<Timestamp>,
    /// Identifies the file system on this machine; see [`Space::device`].
    #[serde(skip)]
    pub device: u64,
}

impl SharedSpace {
    /// Adds an archive.
    pub fn add(&mut self, space: &Space) {
        self.device = space.device;
        self.archives += 1;
        self.used_bytes = self.used_bytes.saturating_add(space.used_bytes);
        (self.free_bytes, self.size_bytes) = (space.free_bytes, space.size_bytes);
        let growth = space.growth_bytes_per_day;
        let sum = |sum: i64| growth.map_or(sum, |growth| sum.saturating_add(growth));
        self.growth_bytes_per_day = self.growth_bytes_per_day.map_or(growth, |own| Some(sum(own)));
    }

    /// Computes when it will be full, once all archives are added.
    pub fn foretold(mut self, now: Timestamp) -> Self {
        let growth = self.growth_bytes_per_day;
        self.full_at = growth.and_then(|growth| full_at(self.free_bytes, growth, now));
        self
    }
}

/// The problem that several archives together fill their file system.
pub fn shared_space(shared: &SharedSpace, now: Timestamp) -> Option<Problem> {
    let limits = Monitoring::default();
    let full_in = shared.full_at?.duration_since(now);
    let cause = cause(full_in, limits.full_within)?;
    let message = format!(
        "a file system will be full in {}: {} free, and {} archives on it grow by {} a day",
        display_age(full_in.as_secs()),
        display_size(shared.free_bytes),
        shared.archives,
        display_size(shared.growth_bytes_per_day.unwrap_or(0).unsigned_abs())
    );
    (shared.archives > 1)
        .then(|| cause.problem(message, "free some space there, or keep fewer revisions"))
}

/// The cause, if a file system that will be full in this time is a problem.
pub(super) fn cause(full_in: SignedDuration, full_within: SignedDuration) -> Option<Cause> {
    match () {
        () if full_in <= full_within / i32::from(CRITICAL_PART) => Some(Cause::LastSpace),
        () if full_in <= full_within => Some(Cause::Space),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 86400;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    /// A movement this many days ago.
    fn movement(days: i64, is_backup: bool, bytes: i64) -> Movement {
        let at = Timestamp::from_second(now().as_second() - days * DAY).unwrap();
        Movement { at, is_backup, bytes }
    }

    #[test]
    fn growth_is_what_backups_add_minus_what_maintenance_frees() {
        let mut movements = vec![movement(8, true, 5_000_000), movement(8, false, -70)];
        for days in (0..8).rev() {
            movements.push(movement(days, true, 110));
            movements.push(movement(days, false, -10));
        }
        let found = growth(&movements, now()).unwrap();
        assert_eq!(found.bytes_per_day, (8 * 100 - 70) / 8);
        let full = full_at(1000, 100, now()).unwrap();
        assert_eq!(full.as_second(), now().as_second() + 10 * DAY);
    }

    #[test]
    fn little_data_allows_no_prediction() {
        let backups = |ages: &[i64]| {
            let movements: Vec<_> = ages.iter().map(|&days| movement(days, true, 100)).collect();
            growth(&movements, now())
        };
        assert_eq!(backups(&[]), None);
        assert_eq!(backups(&[9, 6, 3, 0]), None);
        assert_eq!(backups(&[2, 2, 1, 1, 0]), None);
        assert_eq!(backups(&[9, 6, 3, 1, 0]), Some(Growth { bytes_per_day: 44 }));
        // Too old to count.
        assert_eq!(backups(&[50, 40, 35, 33, 3, 0]), None);
        assert_eq!(full_at(1000, 0, now()), None);
        assert_eq!(full_at(1000, -5, now()), None);
        assert_eq!(full_at(u64::MAX, 1, now()), None);
    }

    /// Two archives that are harmless alone are reported if they fill the disk together.
    #[test]
    fn archives_on_one_file_system_are_added_up() {
        let space = |growth: Option<i64>| Space {
            used_bytes: 10,
            free_bytes: 2000,
            size_bytes: 5000,
            growth_bytes_per_day: growth,
            full_at: None,
            device: 1,
        };
        let mut shared = SharedSpace::default();
        for growth in [Some(90), None, Some(110)] {
            shared.add(&space(growth));
        }
        let shared = shared.foretold(now());
        assert_eq!((shared.archives, shared.growth_bytes_per_day), (3, Some(200)));
        let problem = shared_space(&shared, now()).unwrap();
        assert_eq!(problem.level, Cause::Space.level());
        assert!(problem.message.contains("full in 10 days"), "{}", problem.message);
    }

    proptest! {
        /// Any history gets an answer, and a prediction lies in the future.
        #[test]
        fn any_history_gets_an_answer(
            movements in prop::collection::vec(
                (-40_000_000_i64..40_000_000, any::<bool>(), any::<i64>()), 0..50),
            free in any::<u64>(),
        ) {
            let mut movements: Vec<Movement> = movements.into_iter().map(|(second, is_backup, bytes)| {
                let at = Timestamp::from_second(now().as_second() + second).unwrap();
                Movement { at, is_backup, bytes }
            }).collect();
            movements.sort_by_key(|movement| movement.at);
            let found = growth(&movements, now());
            let full = found.and_then(|growth| full_at(free, growth.bytes_per_day, now()));
            let grows = found.is_some_and(|growth| growth.bytes_per_day > 0);
            prop_assert!(full.is_none_or(|full| full >= now() && grows));
        }
    }
}
