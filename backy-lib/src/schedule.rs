//! Which tags are due: a pure function of the revisions, the config and the time.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::config::{Config, Interval};
use crate::format::manifest::Revision;
use crate::revision::Tag;

/// The most by which a backup may come early.
const MAX_TOLERANCE: SignedDuration = SignedDuration::from_hours(2);

/// What the schedule says at a given time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// There is no schedule: a backup is always due.
    Always,
    /// These tags are due; none when it is empty.
    Tags(BTreeSet<Tag>),
}

impl Due {
    /// Whether a backup should be made.
    pub fn is_due(&self) -> bool {
        match self {
            Due::Always => true,
            Due::Tags(tags) => !tags.is_empty(),
        }
    }
}

/// Which tags are due at `now`.
pub fn due(revisions: &[Revision], config: &Config, now: Timestamp) -> Due {
    if config.schedule.is_empty() {
        return Due::Always;
    }
    let due = |(tag, interval): &(&Tag, &Interval)| {
        next_due(revisions, tag, interval, now).is_none_or(|next| next <= now)
    };
    Due::Tags(config.schedule.iter().filter(due).map(|(tag, _)| tag.clone()).collect())
}

/// From when on a tag is due again; `None` when no revision up to `now` has it, so that it is due at once.
///
/// Earlier than a whole interval after the last one, by a tolerance for the jitter of cron: a job that runs every
/// day at 02:00 must not skip a day because yesterday's started a second later. Revisions from the future are left
/// out: a clock that was wrong once must not stop the backups until it would be right.
pub fn next_due(
    revisions: &[Revision],
    tag: &Tag,
    interval: &Interval,
    now: Timestamp,
) -> Option<Timestamp> {
    let started = revisions
        .iter()
        .filter(|revision| revision.started <= now && revision.tags.contains(tag))
        .map(|revision| revision.started)
        .max()?;
    let wait = interval.interval - tolerance(interval.interval);
    Some(started.saturating_add(wait).unwrap_or(Timestamp::MAX))
}

/// By how much a backup may come early or late without anybody's being at fault.
pub(crate) fn tolerance(interval: SignedDuration) -> SignedDuration {
    (interval / 20).min(MAX_TOLERANCE)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::digest::Digest;
    use crate::format::manifest::Statistics;
    use crate::revision::RevisionId;

    fn config() -> Config {
        let text = "[schedule.daily]\ninterval = \"1d\"\nkeep = 9\n[schedule.weekly]\ninterval = \"7d\"\nkeep = 5";
        Config::parse(text, Path::new("x")).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn revision(started: &str, tags: &[&str]) -> Revision {
        let (time, statistics) = (at(started), Statistics::default());
        let mut revision =
            Revision::newest(RevisionId::new(time), time, time, 0, Digest::of(b""), statistics);
        revision.tags = tags.iter().map(|tag| tag.parse().unwrap()).collect();
        revision
    }

    fn due_tags(revisions: &[Revision], now: &str) -> Vec<String> {
        match due(revisions, &config(), at(now)) {
            Due::Always => vec!["always".to_owned()],
            Due::Tags(tags) => tags.iter().map(Tag::to_string).collect(),
        }
    }

    #[test]
    fn all_tags_are_due_at_first_and_each_again_after_its_interval() {
        assert_eq!(due_tags(&[], "2026-01-01T02:00:00Z"), ["daily", "weekly"]);
        let first = [revision("2026-01-01T02:00:00Z", &["daily", "weekly"])];
        assert!(due_tags(&first, "2026-01-01T20:00:00Z").is_empty());
        assert_eq!(due_tags(&first, "2026-01-02T02:00:00Z"), ["daily"]);
        assert_eq!(due_tags(&first, "2026-01-08T02:00:00Z"), ["daily", "weekly"]);
    }

    #[test]
    fn a_daily_job_never_skips_a_day_because_yesterdays_was_late() {
        let late = [revision("2026-01-01T02:59:59Z", &["daily", "weekly"])];
        assert_eq!(due_tags(&late, "2026-01-02T02:00:00Z"), ["daily"]);
    }

    #[test]
    fn revisions_from_the_future_do_not_stop_backups() {
        let future = [revision("2099-01-01T00:00:00Z", &["daily", "weekly"])];
        assert_eq!(due_tags(&future, "2026-01-02T02:00:00Z"), ["daily", "weekly"]);
    }

    #[test]
    fn without_a_schedule_a_backup_is_always_due() {
        let config = Config::parse("", Path::new("x")).unwrap();
        assert_eq!(due(&[], &config, Timestamp::UNIX_EPOCH), Due::Always);
    }

    #[test]
    fn a_revision_without_the_tag_does_not_count() {
        let manual = [revision("2026-01-01T02:00:00Z", &["manual"])];
        assert_eq!(due_tags(&manual, "2026-01-01T02:00:01Z"), ["daily", "weekly"]);
    }

    /// A tag is due again a twentieth of its interval early, at most two hours, and not a second before that.
    #[test]
    fn a_tag_is_due_again_as_early_as_its_tolerance_allows() {
        let last = [revision("2026-01-01T00:00:00Z", &["daily", "weekly"])];
        for (now, due) in [
            ("2026-01-01T22:47:59Z", &[][..]),
            ("2026-01-01T22:48:00Z", &["daily"]),
            ("2026-01-07T21:59:59Z", &["daily"]),
            ("2026-01-07T22:00:00Z", &["daily", "weekly"]),
        ] {
            assert_eq!(due_tags(&last, now), due, "{now}");
        }
    }

    /// The latest revision with a tag counts, wherever it stands, and one that begins at this moment is not from the future.
    #[test]
    fn the_latest_revision_with_the_tag_counts() {
        let now = "2026-01-02T00:00:00Z";
        let revisions = [
            revision("2025-12-01T00:00:00Z", &["daily", "weekly"]),
            revision(now, &["daily", "weekly"]),
            revision("2025-12-02T00:00:00Z", &["daily", "weekly"]),
        ];
        assert!(due_tags(&revisions, now).is_empty());
        assert!(!due(&revisions, &config(), at(now)).is_due());
        assert!(due(&revisions[..1], &config(), at(now)).is_due() && Due::Always.is_due());
    }
}
