//! How old the last backup of each tag is, and how old it may be.
//!
//! A tag is overdue once it has been due for longer than a tolerance, and critical half an interval after it
//! was due. The rule only asks for what a running cron would have made: a tag other than the one with the
//! shortest interval may have become due just after a run, so it gets another shortest interval; a tag that
//! no revision has yet will come with the next run.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Cause, Level, Problem, display_age};
use crate::base::revision::Tag;
use crate::format::manifest::Revision;
use crate::policy::config::{Config, Interval};
use crate::policy::schedule::{self, Past};

/// The state of one tag of the schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagStatus {
    /// The tag.
    pub tag: Tag,
    /// Seconds between revisions with it.
    pub interval_seconds: i64,
    /// How many revisions keep it.
    pub keep: u32,
    /// How many revisions have it.
    pub revisions: usize,
    /// Start of the last revision with it; null if there is none.
    pub last: Option<Timestamp>,
    /// When it is or was due; null if it is due because no revision has it, and in a copy, which has no backups.
    pub due_at: Option<Timestamp>,
    /// When it becomes overdue.
    pub overdue_at: Option<Timestamp>,
    /// When being overdue becomes critical.
    pub critical_at: Option<Timestamp>,
    /// Its level now.
    pub level: Level,
}

/// The state of each tag of the schedule, shortest interval first. Revisions from the future do not count.
pub fn tags(past: &Past<'_>, config: &Config, now: Timestamp) -> Vec<TagStatus> {
    let mut schedule: Vec<_> = config.schedule.iter().collect();
    schedule.sort_by_key(|(_, interval)| interval.interval);
    if config.origin.is_some() {
        return schedule
            .into_iter()
            .map(|(tag, interval)| of_copy(past, tag, interval, now))
            .collect();
    }
    let Some(shortest) = schedule.first().map(|(_, interval)| interval.interval) else {
        return Vec::new();
    };
    let status = |(tag, interval): (&Tag, &Interval)| {
        let with = past.revisions.iter().filter(|revision| revision.tags.contains(tag));
        let before = with.clone().filter(|revision| schedule::has_begun(revision.started, now));
        let last = before.map(|revision| revision.started).max();
        let length = interval.interval;
        let wait = if length == shortest { SignedDuration::ZERO } else { shortest };
        let patience = schedule::tolerance(length) + wait;
        let limit = (length / 2).max(patience);
        let due_at = schedule::next_due(past, tag, interval, now);
        // A tag that no revision has yet will come with the next run.
        let after =
            |time: SignedDuration| due_at.filter(|_| last.is_some()).map(|due| later(due, time));
        let (overdue_at, critical_at) = (after(patience), after(limit));
        TagStatus {
            tag: tag.clone(),
            interval_seconds: length.as_secs(),
            keep: interval.keep,
            revisions: with.count(),
            last,
            due_at,
            overdue_at,
            critical_at,
            level: cause(now, overdue_at, critical_at).map_or(Level::Ok, Cause::level),
        }
    };
    schedule.into_iter().map(status).collect()
}

/// A tag of a copy: it decides what expires. Pulls are due, and no backups.
fn of_copy(past: &Past<'_>, tag: &Tag, interval: &Interval, now: Timestamp) -> TagStatus {
    let with = past.revisions.iter().filter(|revision| revision.tags.contains(tag));
    let begun = with.clone().map(|revision| revision.started);
    TagStatus {
        tag: tag.clone(),
        interval_seconds: interval.interval.as_secs(),
        keep: interval.keep,
        revisions: with.count(),
        last: begun.filter(|started| schedule::has_begun(*started, now)).max(),
        due_at: None,
        overdue_at: None,
        critical_at: None,
        level: cause(now, None, None).map_or(Level::Ok, Cause::level),
    }
}

/// The cause, if one of these times has passed.
pub(super) fn cause(
    now: Timestamp,
    overdue_at: Option<Timestamp>,
    critical_at: Option<Timestamp>,
) -> Option<Cause> {
    match () {
        () if critical_at.is_some_and(|time| now > time) => Some(Cause::LongOverdue),
        () if overdue_at.is_some_and(|time| now > time) => Some(Cause::Overdue),
        () => None,
    }
}

pub(super) fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.saturating_add(by).unwrap_or(Timestamp::MAX)
}

/// An overdue backup: of a tag, of the schedule as a whole if no revision has any of its tags, or by `max_age`.
pub(super) fn overdue(
    revisions: &[Revision],
    config: &Config,
    tags: &[TagStatus],
    now: Timestamp,
) -> Option<Problem> {
    let newest = revisions.iter().map(|revision| revision.started);
    let newest = newest.filter(|time| schedule::has_begun(*time, now));
    let newest = newest.max()?;
    let by_tag = tags.iter().filter_map(|tag| {
        let which = match tag.last == Some(newest) {
            true => "the last backup".to_owned(),
            false => format!("the last backup with the tag {}", tag.tag),
        };
        let cause = cause(now, tag.overdue_at, tag.critical_at);
        Some((cause, which, tag.last?, tag.interval_seconds))
    });
    let untagged = tags.first().filter(|_| tags.iter().all(|tag| tag.last.is_none()));
    let limits = untagged.map(|tag| SignedDuration::from_secs(tag.interval_seconds));
    let limits = limits.into_iter().chain(config.monitoring.max_age).map(|limit| {
        let patience = later(newest, limit + schedule::tolerance(limit));
        let cause = cause(now, Some(patience), Some(later(newest, limit + limit / 2)));
        (cause, "the last backup".to_owned(), newest, limit.as_secs())
    });
    // Of equally bad ones the first, which has the shortest interval.
    let late = by_tag.chain(limits);
    let (cause, which, last, seconds) = late.reduce(|a, b| if b.0 > a.0 { b } else { a })?;
    let message = format!(
        "{which} is overdue: it began {} ago, and one is due every {}",
        display_age(now.as_second() - last.as_second()),
        display_age(seconds)
    );
    Some(cause?.problem(message, "find out why 'backy backup' does not run or fails"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::base::digest::Digest;
    use crate::base::revision::RevisionId;
    use crate::format::manifest::Statistics;

    const HOUR: i64 = 3600;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn config(more: &str) -> Config {
        let schedule = "[schedule.daily]\ninterval = \"1d\"\nkeep = 9\n\
                        [schedule.weekly]\ninterval = \"7d\"\nkeep = 5\n";
        Config::parse(&format!("{schedule}{more}"), Path::new("x")).unwrap()
    }

    /// A revision that began this many seconds ago.
    fn revision(seconds: i64, names: &[&str]) -> Revision {
        let time = Timestamp::from_second(now().as_second() - seconds).unwrap();
        let (id, digest) = (RevisionId::new(time), Digest::of(b""));
        let mut revision = Revision::newest(id, time, time, 1, digest, Statistics::default());
        revision.tags = names.iter().map(|name| name.parse().unwrap()).collect();
        revision
    }

    fn verdict(revisions: &[Revision], config: &Config) -> Option<(Level, String)> {
        let problem =
            overdue(revisions, config, &tags(&Past::of(revisions), config, now()), now())?;
        Some((problem.level, problem.message))
    }

    fn level(revisions: &[Revision], config: &Config) -> Option<Level> {
        verdict(revisions, config).map(|(level, _)| level)
    }

    #[test]
    fn overdue_after_an_interval_and_critical_after_one_and_a_half() {
        for (hours, expected) in [
            (24, None),
            (25, None),
            (26, Some(Level::Warning)),
            (36, Some(Level::Warning)),
            (37, Some(Level::Critical)),
        ] {
            let last = [revision(hours * HOUR, &["daily", "weekly"])];
            assert_eq!(level(&last, &config("")), expected, "{hours}");
        }
    }

    #[test]
    fn a_backup_by_hand_does_not_hide_that_cron_is_dead() {
        let revisions = [revision(HOUR, &["manual"]), revision(40 * HOUR, &["daily", "weekly"])];
        let (level, message) = verdict(&revisions, &config("")).unwrap();
        assert_eq!(level, Level::Critical);
        assert!(message.starts_with("the last backup with the tag daily is overdue"), "{message}");
    }

    #[test]
    fn a_longer_tag_waits_for_the_next_run() {
        let with_weekly =
            |hours: i64| [revision(HOUR, &["daily"]), revision(hours * HOUR, &["daily", "weekly"])];
        assert_eq!(level(&with_weekly(7 * 24 + 23), &config("")), None);
        assert_eq!(level(&with_weekly(8 * 24 + 3), &config("")), Some(Level::Warning));
        assert_eq!(level(&with_weekly(11 * 24), &config("")), Some(Level::Critical));
    }

    #[test]
    fn a_new_tag_in_the_schedule_is_no_problem_but_having_no_tag_at_all_is() {
        let new = "[schedule.hourly]\ninterval = \"1h\"\nkeep = 9";
        let recent = [revision(2 * HOUR, &["daily", "weekly"])];
        assert_eq!(level(&recent, &config(new)), None);
        let by_hand = [revision(37 * HOUR, &["manual"])];
        assert_eq!(level(&by_hand, &config("")), Some(Level::Critical));
        assert_eq!(level(&[revision(HOUR, &[])], &config("")), None);
    }

    #[test]
    fn without_a_schedule_max_age_is_the_limit() {
        let old = [revision(80 * HOUR, &[])];
        let without = Config::parse("", Path::new("x")).unwrap();
        assert_eq!(level(&old, &without), None);
        let with = Config::parse("[monitoring]\nmax_age = \"3d\"", Path::new("x")).unwrap();
        assert_eq!(level(&old, &with), Some(Level::Warning));
        assert_eq!(level(&[revision(109 * HOUR, &[])], &with), Some(Level::Critical));
    }

    #[test]
    fn a_revision_from_the_future_hides_nothing_and_a_small_step_back_of_the_clock_raises_no_alarm()
    {
        let ahead = |seconds: i64| {
            [revision(-seconds, &["daily"]), revision(40 * HOUR, &["daily", "weekly"])]
        };
        assert_eq!(level(&ahead(301), &config("")), Some(Level::Critical));
        assert_eq!(level(&ahead(300), &config("")), None);
        let ahead = ahead(300);
        let daily = &tags(&Past::of(&ahead), &config(""), now())[0];
        assert!(daily.last > Some(now()) && daily.due_at > Some(now()), "{daily:?}");
    }

    proptest! {
        /// An older archive never has a better verdict, and what `schedule::due` calls not due is never overdue.
        #[test]
        fn the_verdict_only_gets_worse_with_age(
            ages in prop::collection::vec((0_i64..40 * 86400, any::<bool>(), any::<bool>()), 1..20),
            // The time of a series is rounded to five minutes.
            later in (0_i64..40 * 288).prop_map(|fives| fives * 300),
        ) {
            let config = config("");
            let made = |by: i64| -> Vec<Revision> {
                let tags = |daily, weekly| match (daily, weekly) {
                    (true, true) => vec!["daily", "weekly"],
                    (true, false) => vec!["daily"],
                    (false, true) => vec!["weekly"],
                    _ => vec![],
                };
                ages.iter().map(|&(age, daily, weekly)| revision(age + by, &tags(daily, weekly))).collect()
            };
            prop_assert!(level(&made(later), &config) >= level(&made(0), &config));
            for tag in tags(&Past::of(&made(0)), &config, now()) {
                let due = tag.due_at.is_none_or(|due| due <= now());
                prop_assert!(due || tag.level == Level::Ok);
                prop_assert!(tag.overdue_at <= tag.critical_at && tag.due_at < tag.overdue_at || tag.last.is_none());
            }
        }
    }
}
