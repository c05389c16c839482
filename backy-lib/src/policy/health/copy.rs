//! How old the last pull of a copy is, and how old it may be: as for the last backup of a tag.
//!
//! The tags of a copy are those of its origin, so their age says when the origin made backups, and nothing about pulls.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::age::{cause, later};
use super::{Cause, Level, PULL, Problem, display_age};
use crate::format::manifest::Revision;
use crate::policy::config::OriginConfig;
use crate::policy::schedule;

/// A pull may begin this much earlier than an interval after the last one: cron and timers are not exact.
const MAX_EARLY: SignedDuration = SignedDuration::from_mins(5);

/// A pull that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastPull {
    /// When it began.
    pub started: Timestamp,
    /// The times of the revisions that it left out; `None` if the history no longer has them.
    pub left_out: Option<Vec<Timestamp>>,
}

/// Where a copy comes from, and whether it is up to date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginStatus {
    /// The path or URL of the origin.
    pub url: String,
    /// Seconds between pulls.
    pub interval_seconds: i64,
    /// When the last successful pull began; null if the history has none.
    pub last_pull: Option<Timestamp>,
    /// How many revisions of the origin it left out that are newer than the newest one here; null if not known.
    pub left_out: Option<usize>,
    /// Seconds since the newest revision began; null without revisions.
    pub behind_seconds: Option<i64>,
    /// When the next pull is or was due; null if it is due because there was none.
    pub due_at: Option<Timestamp>,
    /// When it becomes overdue.
    pub overdue_at: Option<Timestamp>,
    /// When being overdue becomes critical.
    pub critical_at: Option<Timestamp>,
    /// The level now.
    pub level: Level,
}

impl OriginStatus {
    /// The state of a copy with these revisions.
    pub fn of(
        origin: &OriginConfig,
        last: Option<&LastPull>,
        revisions: &[Revision],
        now: Timestamp,
    ) -> Self {
        let last = last.filter(|last| schedule::has_begun(last.started, now));
        let starts = revisions.iter().map(|revision| revision.started);
        let newest = starts.filter(|started| schedule::has_begun(*started, now)).max();
        let left_out = last.and_then(|last| last.left_out.as_ref());
        let interval = origin.interval;
        // No pull can have brought the newest revision before its backup began.
        let since = last.map(|last| last.started).or(newest);
        let after = |time: SignedDuration| since.map(|since| later(since, interval + time));
        let patience = schedule::tolerance(interval);
        let overdue_at = after(patience);
        let critical_at = after((interval / 2).max(patience));
        OriginStatus {
            url: origin.url.clone(),
            interval_seconds: interval.as_secs(),
            last_pull: last.map(|last| last.started),
            left_out: left_out.map(|all| all.iter().filter(|one| Some(**one) > newest).count()),
            behind_seconds: newest.map(|newest| (now.as_second() - newest.as_second()).max(0)),
            due_at: last.map(|last| later(last.started, interval - early(interval))),
            overdue_at,
            critical_at,
            level: cause(now, overdue_at, critical_at).map_or(Level::Ok, Cause::level),
        }
    }

    /// Whether a pull is due.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.due_at.is_none_or(|due| due <= now)
    }

    /// A pull that is overdue.
    pub(super) fn problem(&self, now: Timestamp) -> Option<Problem> {
        let cause = cause(now, self.overdue_at, self.critical_at)?;
        let every = display_age(self.interval_seconds);
        let message = match (self.last_pull, self.behind_seconds) {
            (Some(last), _) => {
                let age = display_age(now.as_second() - last.as_second());
                format!(
                    "the last {PULL} is overdue: it began {age} ago, and one is due every {every}"
                )
            }
            (None, behind) => {
                let age = display_age(behind.unwrap_or_default());
                format!(
                    "a {PULL} is overdue: none is recorded, the newest revision is {age} old, and one is due every \
                     {every}"
                )
            }
        };
        Some(cause.problem(message, format!("find out why 'backy {PULL}' does not run or fails")))
    }
}

fn early(interval: SignedDuration) -> SignedDuration {
    (interval / 20).min(MAX_EARLY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Digest;
    use crate::base::revision::RevisionId;
    use crate::format::manifest::Statistics;

    const HOUR: i64 = 3600;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn ago(seconds: i64) -> Timestamp {
        Timestamp::from_second(now().as_second() - seconds).unwrap()
    }

    fn revision(seconds: i64) -> Revision {
        let time = ago(seconds);
        let (id, digest) = (RevisionId::new(time), Digest::of(b""));
        Revision::newest(id, time, time, 1, digest, Statistics::default())
    }

    fn status(pulled: Option<i64>, revisions: &[i64]) -> OriginStatus {
        let interval = SignedDuration::from_hours(24);
        let url = "/srv/a".to_owned();
        let origin = OriginConfig { url, interval, ssh: None, limit_rate: None };
        let last = pulled.map(|seconds| LastPull {
            started: ago(seconds),
            left_out: Some(vec![ago(1000 * HOUR), ago(HOUR), ago(0)]),
        });
        let revisions: Vec<Revision> = revisions.iter().copied().map(revision).collect();
        OriginStatus::of(&origin, last.as_ref(), &revisions, now())
    }

    fn level(status: &OriginStatus) -> Option<Level> {
        let problem = status.problem(now());
        assert_eq!(problem.as_ref().map_or(Level::Ok, |problem| problem.level), status.level);
        problem.map(|problem| problem.level)
    }

    /// The same hours as for a daily tag, however old the revisions are: they are those of the origin.
    #[test]
    fn overdue_after_an_interval_and_critical_after_one_and_a_half() {
        for (hours, due, expected) in [
            (23, false, None),
            (24, true, None),
            (25, true, None),
            (26, true, Some(Level::Warning)),
            (36, true, Some(Level::Warning)),
            (37, true, Some(Level::Critical)),
        ] {
            let status = status(Some(hours * HOUR), &[500 * HOUR]);
            assert_eq!((status.is_due(now()), level(&status)), (due, expected), "{hours}");
            assert_eq!(status.behind_seconds, Some(500 * HOUR));
            assert_eq!(status.left_out, Some(2));
        }
    }

    /// A timer that starts pulls every day does not skip one because it was late the day before.
    #[test]
    fn a_pull_may_begin_a_little_early() {
        assert!(status(Some(24 * HOUR - 299), &[]).is_due(now()));
        assert!(!status(Some(24 * HOUR - 301), &[]).is_due(now()));
    }

    /// Without a record a pull is due, and it is overdue if the newest revision is old.
    #[test]
    fn without_a_record_the_newest_revision_counts() {
        let recent = status(None, &[HOUR, 90 * HOUR]);
        assert!(recent.is_due(now()) && recent.last_pull.is_none());
        assert_eq!(level(&recent), None);
        let old = status(None, &[40 * HOUR]);
        assert_eq!(level(&old), Some(Level::Critical));
        assert!(old.problem(now()).unwrap().message.contains("none is recorded"));
        assert_eq!(level(&status(None, &[])), None);
    }

    /// A pull from the future counts as none.
    #[test]
    fn a_pull_from_the_future_hides_nothing() {
        assert_eq!(status(Some(-301), &[40 * HOUR]).last_pull, None);
        assert_eq!(level(&status(Some(-301), &[40 * HOUR])), Some(Level::Critical));
        assert!(status(Some(-300), &[]).last_pull.is_some());
    }
}
