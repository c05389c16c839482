//! Whether a part of an archive should be verified now, so that all of it is within the time that `scrub_within`
//! allows.
//!
//! A part is a tenth, which takes eleven runs for everything. Runs begin a twenty-fourth of that time apart, so there
//! is as much time again for runs that are missed.

use jiff::{SignedDuration, Timestamp};

use super::Budget;
use crate::archive::Archive;
use crate::base::clock::Clock;
use crate::format::manifest::{Manifest, Revision};
use crate::policy::config::Config;
use crate::policy::health;

/// The share of the stored bytes that one run verifies.
pub(super) const PART: Budget = Budget::Share(0.1);

/// How many runs there are within `scrub_within`.
const RUNS: i32 = 24;

/// A scrub that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// Since when; `None` if that is not known, because a clock was wrong.
    pub(crate) since: Option<Timestamp>,
    /// The time between runs.
    pub(crate) interval: SignedDuration,
    /// The earliest time at which some of the data was last verified.
    pub(crate) unverified_since: Timestamp,
}

impl Archive {
    /// The scrub that is due; `None` if there is nothing to verify yet.
    pub(crate) fn scrub_due(&self, config: &Config, clock: &dyn Clock) -> Option<Due> {
        due(self.manifest(), config.monitoring.scrub_within, clock.now())
    }
}

fn due(manifest: &Manifest, within: SignedDuration, now: Timestamp) -> Option<Due> {
    let interval = within / RUNS;
    let unverified_since = health::unchecked_since(manifest)?;
    let last = last_read(manifest).filter(|last| *last <= now);
    // A run that is too early would find nothing to do but what the last one did.
    let from = last.map_or(unverified_since, |last| last.max(unverified_since));
    let since = from.saturating_add(interval).unwrap_or(Timestamp::MAX);
    let is_future = unverified_since > now;
    (since <= now || is_future).then_some(Due {
        since: (!is_future).then_some(since),
        interval,
        unverified_since,
    })
}

/// When a scrub last read anything.
pub(crate) fn last_read(manifest: &Manifest) -> Option<Timestamp> {
    manifest.revisions.iter().flat_map(Revision::read_at).map(|range| range.at).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Digest;
    use crate::base::revision::RevisionId;
    use crate::base::units::{BlockIndex, BlockSize};
    use crate::format::manifest::{BlockRange, Statistics};

    const DAY: i64 = 86400;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// One revision of a hundred blocks, made at second 0.
    fn manifest() -> Manifest {
        let mut manifest = Manifest::new(BlockSize::MIN);
        let (time, size) = (at(0), 100 * BlockSize::MIN.bytes());
        let (id, digest) = (RevisionId::new(time), Digest::of(b""));
        manifest.push_newest(Revision::newest(id, time, time, size, digest, Statistics::default()));
        manifest
    }

    fn due_at(manifest: &Manifest, second: i64) -> bool {
        due(manifest, SignedDuration::from_hours(60 * 24), at(second)).is_some()
    }

    /// New data waits for a twenty-fourth of the time that is allowed, and so does the next run after each.
    #[test]
    fn runs_are_a_twenty_fourth_of_the_time_apart() {
        let mut manifest = manifest();
        assert!(!due_at(&manifest, 2 * DAY) && due_at(&manifest, 3 * DAY));
        let part = BlockRange { first: BlockIndex(0), count: 10 };
        manifest.revisions[0].set_verified(part, at(3 * DAY));
        assert!(!due_at(&manifest, 5 * DAY) && due_at(&manifest, 6 * DAY));
    }

    /// Run as often as that is due, a tenth at a time, everything is verified long before the time is up.
    #[test]
    fn everything_is_verified_in_time() {
        let mut manifest = manifest();
        let (mut next, mut latest) = (0, 0);
        for hour in 0..24 * 365 {
            let now = hour * 3600;
            if due_at(&manifest, now) {
                let part = BlockRange { first: BlockIndex(next), count: 10 };
                manifest.revisions[0].set_verified(part, at(now));
                next = (next + 10) % 100;
            }
            let since = health::unchecked_since(&manifest).unwrap();
            latest = latest.max(now - since.as_second());
        }
        assert!(latest < 30 * DAY, "some data waited {} days", latest / DAY);
    }

    /// A time from the future says nothing, so a part is due at once.
    #[test]
    fn a_verification_from_the_future_does_not_count() {
        let mut manifest = manifest();
        let all = BlockRange { first: BlockIndex(0), count: 100 };
        manifest.revisions[0].set_verified(all, at(900 * DAY));
        assert!(due_at(&manifest, 10 * DAY));
    }

    #[test]
    fn without_revisions_nothing_is_due() {
        assert!(!due_at(&Manifest::new(BlockSize::MIN), 900 * DAY));
    }
}
