//! Whether a part of an archive should be verified now, so that all of it is within the time that `scrub_within`
//! allows.
//!
//! A part is a tenth, which takes eleven runs for everything. Runs begin a twenty-fourth of that time apart, so there
//! is as much time again for runs that are missed.

use jiff::{SignedDuration, Timestamp};

use super::Budget;
use crate::archive::Archive;
use crate::base::clock::Clock;
use crate::base::error::Result;
use crate::format::manifest::{Manifest, Revision};
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
    pub(crate) fn scrub_due(&self, clock: &dyn Clock) -> Result<Option<Due>> {
        let within = self.config()?.monitoring.scrub_within;
        Ok(due(self.manifest(), within, clock.now()))
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
