//! Dates in the future come from a wrong clock and count as never. Otherwise a verification, confirmation or
//! backup from a time when the clock was years ahead would count for years.
//!
//! Up to five minutes ahead counts as now: the clocks of machines that share an archive differ, and time
//! servers set clocks back a little.

use std::borrow::Cow;

use jiff::Timestamp;

use super::{Cause, Problem, display_age};
use crate::base::clock::latest;
use crate::format::manifest::Manifest;

/// Something with a date in the future.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ahead {
    /// A few words on what it is.
    pub what: String,
    /// Its date.
    pub at: Timestamp,
}

impl Ahead {
    pub(crate) fn new(what: impl Into<String>, at: Timestamp) -> Self {
        Ahead { what: what.into(), at }
    }
}

/// The manifest without dates in the future, and what had them, the latest of each sort. Revisions stay, and
/// so does a failed drill.
pub(crate) fn as_of(manifest: &Manifest, now: Timestamp) -> (Cow<'_, Manifest>, Vec<Ahead>) {
    let latest = latest(now);
    let is_ahead = |time: &Timestamp| *time > latest;
    let newest = |times: &mut dyn Iterator<Item = Timestamp>| times.filter(is_ahead).max();
    let mut found = Vec::new();
    // Nothing counts from an older one any more.
    let started = manifest.revisions.first().map(|newest| newest.started);
    if let Some(started) = started.filter(is_ahead) {
        found.push(Ahead::new("the newest revision", started));
    }
    let ranges = manifest.revisions.iter().flat_map(|r| r.verified.iter().chain(&r.rewritten));
    let scrub = newest(&mut ranges.map(|range| range.at));
    let drill = newest(&mut manifest.drill.iter().map(|drill| drill.started));
    let flaws = manifest.revisions.iter().flat_map(|revision| &revision.flaws);
    let confirmed = manifest.alarms.iter().filter_map(|alarm| alarm.confirmed);
    let confirmed = confirmed.chain(flaws.filter_map(|flaw| flaw.confirmed));
    let confirmed =
        newest(&mut confirmed.chain(manifest.known_damage.iter().map(|known| known.confirmed)));
    found.extend(scrub.map(|at| Ahead::new("a scrub", at)));
    found.extend(drill.map(|at| Ahead::new("the last drill", at)));
    found.extend(confirmed.map(|at| Ahead::new("a confirmation", at)));
    if scrub.or(drill).or(confirmed).is_none() {
        return (Cow::Borrowed(manifest), found);
    }
    let mut manifest = manifest.clone();
    for revision in &mut manifest.revisions {
        revision.verified.retain(|range| !is_ahead(&range.at));
        revision.rewritten.retain(|range| !is_ahead(&range.at));
    }
    if manifest.drill.as_ref().is_some_and(|drill| drill.passed && is_ahead(&drill.started)) {
        manifest.drill = None;
    }
    manifest.forget_confirmations_after(latest);
    (Cow::Owned(manifest), found)
}

/// The problem that something is dated in the future.
pub(super) fn problem(ahead: &[Ahead], now: Timestamp) -> Option<Problem> {
    let named = ahead.iter().map(|Ahead { what, at }| {
        format!("{what} ({} ahead)", display_age(at.as_second() - now.as_second()))
    });
    let named: Vec<String> = named.collect();
    let message = match named.as_slice() {
        [] => return None,
        [one] => format!("{one} is from the future and counts as never"),
        _ => format!("from the future and counted as never: {}", named.join(", ")),
    };
    let advice = "set the clock, and check whether it was wrong then; the next backup, scrub, drill or \
                  'maintenance --confirm' replaces each of these dates";
    Some(Cause::Clock.problem(message, advice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Digest;
    use crate::base::revision::RevisionId;
    use crate::base::units::{BlockIndex, BlockSize};
    use crate::format::manifest::{Alarm, BlockRange, DrillReport, Revision, Statistics};
    use crate::storage::FileName;

    const NOW: i64 = 1_800_000_000;

    fn at(later: i64) -> Timestamp {
        Timestamp::from_second(NOW + later).unwrap()
    }

    /// A manifest in which everything has this date.
    fn manifest(time: Timestamp, passed: bool) -> Manifest {
        let mut manifest = Manifest::new(BlockSize::MIN);
        let (id, digest) = (RevisionId::new(time), Digest::of(b""));
        let mut revision = Revision::newest(id, time, time, 4096, digest, Statistics::default());
        revision.set_verified(BlockRange { first: BlockIndex(0), count: 1 }, time);
        revision.set_flaws(vec![(FileName::IMAGE, "x".to_owned())], time);
        manifest.push_newest(revision);
        manifest.alarms.push(Alarm::new(id, time, 1, 1));
        manifest.confirm(&[(id, 1)], time);
        manifest.drill = Some(DrillReport {
            revision: id,
            started: time,
            seconds: 1.0,
            size_bytes: 1,
            read_bytes: 1,
            bytes_per_second: 1,
            command: None,
            passed,
            message: String::new(),
            unknown: Default::default(),
        });
        manifest
    }

    /// Five minutes ahead is not the future. Anything dated further ahead is listed and counts as never.
    #[test]
    fn a_date_in_the_future_counts_as_never() {
        let near = manifest(at(300), true);
        let (same, found) = as_of(&near, at(0));
        assert!(matches!(same, Cow::Borrowed(_)) && found.is_empty(), "{found:?}");
        let far = manifest(at(301), true);
        let (kept, found) = as_of(&far, at(0));
        let named: Vec<&str> = found.iter().map(|ahead| ahead.what.as_str()).collect();
        assert_eq!(named, ["the newest revision", "a scrub", "the last drill", "a confirmation"]);
        let revision = &kept.revisions[0];
        assert!(revision.read_at().next().is_none() && kept.drill.is_none());
        assert_eq!(revision.open_flaws().count(), 1);
        assert_eq!((kept.open_alarms().count(), kept.known_damage.len()), (1, 0));
        let problem = problem(&found, at(0)).unwrap();
        assert!(named.iter().all(|what| problem.message.contains(what)), "{}", problem.message);
        assert_eq!(problem.level, Cause::Clock.level());
    }

    /// A failed drill stays failed, whatever its date.
    #[test]
    fn a_failed_drill_counts_even_with_a_date_in_the_future() {
        let failed = manifest(at(9999), false);
        assert!(as_of(&failed, at(0)).0.drill.as_ref().is_some_and(|drill| !drill.passed));
    }
}
