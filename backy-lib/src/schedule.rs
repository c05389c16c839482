//! Which tags are due: a pure function of what there is, the config and the time.
//!
//! A tag is due at slots: its series keeps the hour and the weekday at which it was first made, or has those of the config
//! ([`slots`]). A revision stands for the slot before it, or for the next one if that is near. So nothing drifts, whatever asks
//! and however often: what was missed is made as soon as somebody asks, and the one after it is due at the old hour.
//!
//! Whoever asks once a night asks some minutes, or with summer time an hour, too early or too late. So a tag is due early where
//! nobody is known to ask often, and at its time where somebody does. `doc/decisions/22-the-hour-of-a-series.md` has the reasons.

mod slots;

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::config::{Config, Interval};
use crate::format::manifest::{Manifest, Revision, Series};
use crate::revision::Tag;

use slots::{DAY, Slots};

/// The most by which a backup may come late without anybody's being at fault.
const MAX_TOLERANCE: SignedDuration = SignedDuration::from_hours(2);

/// The most by which a backup is made early where nobody is known to ask often: an hour of summer time, and jitter.
const MAX_EARLY: SignedDuration = SignedDuration::from_mins(75);

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

/// What the next due time follows from.
#[derive(Debug, Clone)]
pub struct Past<'a> {
    /// The revisions, in any order.
    pub revisions: &'a [Revision],
    /// When series began; without an entry, a series began with the oldest revision of it.
    pub series: &'a [Series],
    /// The system's time zone.
    pub zone: TimeZone,
    /// When somebody last asked for a backup in vain, as far as that is known.
    pub asked: Option<Timestamp>,
}

impl<'a> Past<'a> {
    /// Of revisions alone, in UTC.
    pub fn of(revisions: &'a [Revision]) -> Self {
        Past { revisions, series: &[], zone: TimeZone::UTC, asked: None }
    }

    /// Of a manifest.
    pub fn of_manifest(manifest: &'a Manifest, zone: TimeZone) -> Self {
        Past { zone, series: &manifest.series, ..Past::of(&manifest.revisions) }
    }
}

/// Which tags are due at `now`.
pub fn due(past: &Past<'_>, config: &Config, now: Timestamp) -> Due {
    if config.schedule.is_empty() {
        return Due::Always;
    }
    let due = |(tag, interval): &(&Tag, &Interval)| {
        Turn::of(past, tag, interval, now).is_none_or(|turn| turn.is_due(past.asked, now))
    };
    Due::Tags(config.schedule.iter().filter(due).map(|(tag, _)| tag.clone()).collect())
}

/// At which time a tag is due next, or since when it is; `None` when it is due at once, because no revision up to `now` has it and the
/// config has no time of the day for it.
///
/// Revisions from the future are left out: a clock that was wrong once must not stop the backups until it would be right.
pub fn next_due(
    past: &Past<'_>,
    tag: &Tag,
    interval: &Interval,
    now: Timestamp,
) -> Option<Timestamp> {
    Turn::of(past, tag, interval, now).map(|turn| turn.next)
}

/// When the next revision is made if somebody asks then, and the tag that it has; `None` when one is due at once, and without a
/// schedule. What was missed outside of its window waits for the next one.
pub fn next(past: &Past<'_>, config: &Config, now: Timestamp) -> Option<(Timestamp, Tag)> {
    let turn = |(tag, interval)| {
        let turn = Turn::of(past, tag, interval, now)?;
        Some((turn.made_from(now), Tag::clone(tag)))
    };
    config.schedule.iter().map(turn).collect::<Option<Vec<_>>>()?.into_iter().min()
}

/// Whether it makes a difference for `due` when somebody last asked in vain.
pub fn minds_asking(past: &Past<'_>, config: &Config, now: Timestamp) -> bool {
    turns(past, config, now).any(|turn| turn.asks_from() <= now && now < turn.opens(true))
}

/// Whether it should be noted that somebody asks in vain now: shortly before a tag is due, and once for that time.
pub fn notes_asking(past: &Past<'_>, config: &Config, now: Timestamp) -> bool {
    let known = past.asked.filter(|asked| *asked <= now);
    turns(past, config, now).any(|turn| {
        let from = turn.asks_from();
        from <= now && now < turn.opens(false) && known.is_none_or(|asked| asked < from)
    })
}

/// When the series of the tags of the schedule began, once a revision that began at `started` has `scheduled` because they were due.
/// A series that is known keeps its beginning, unless that is in the future.
pub fn series_after(
    past: &Past<'_>,
    config: &Config,
    scheduled: &BTreeSet<Tag>,
    started: Timestamp,
) -> Vec<Series> {
    let is_needed = |series: &&Series| {
        let tag = &series.tag;
        let is_carried = past.revisions.iter().any(|revision| revision.tags.contains(tag));
        let is_scheduled = config.schedule.contains_key(tag);
        is_scheduled && series.began <= started || !is_scheduled && is_carried
    };
    let mut all: Vec<Series> = past.series.iter().filter(is_needed).cloned().collect();
    for tag in config.schedule.keys() {
        if all.iter().any(|series| series.tag == *tag) {
            continue;
        }
        let own = scheduled.contains(tag).then_some(started);
        let began = first_scheduled(past.revisions, tag, started).or(own);
        all.extend(began.map(|began| Series::new(tag.clone(), began)));
    }
    all
}

/// By how much a backup may come late without anybody's being at fault.
pub(crate) fn tolerance(interval: SignedDuration) -> SignedDuration {
    (interval / 20).min(MAX_TOLERANCE)
}

fn turns<'a>(
    past: &'a Past<'_>,
    config: &'a Config,
    now: Timestamp,
) -> impl Iterator<Item = Turn> + 'a {
    config.schedule.iter().filter_map(move |(tag, interval)| Turn::of(past, tag, interval, now))
}

/// The oldest revision that has a tag because it was due.
fn first_scheduled(revisions: &[Revision], tag: &Tag, now: Timestamp) -> Option<Timestamp> {
    let with = revisions.iter().filter(|revision| {
        revision.started <= now
            && revision.tags.contains(tag)
            && !revision.pinned_tags.contains(tag)
    });
    with.map(|revision| revision.started).min()
}

/// The slot of a tag that no revision stands for yet.
struct Turn {
    slots: Slots,
    length: SignedDuration,
    /// When the last revision with the tag began.
    last: Option<Timestamp>,
    next: Timestamp,
}

impl Turn {
    fn of(past: &Past<'_>, tag: &Tag, interval: &Interval, now: Timestamp) -> Option<Self> {
        let there = || past.revisions.iter().filter(|revision| revision.started <= now);
        let with = || there().filter(|revision| revision.tags.contains(tag));
        let length = interval.interval;
        let Some(last) = with().map(|revision| revision.started).max() else {
            return Turn::first(past, interval, there().map(|revision| revision.started).max()?);
        };
        let stored = past.series.iter().find(|series| series.tag == *tag);
        let stored = stored.map(|series| series.began).filter(|began| *began <= now);
        let began = stored
            .or_else(|| first_scheduled(past.revisions, tag, now))
            .or_else(|| with().map(|revision| revision.started).min())?;
        let slots = Slots::new(interval, began, &past.zone);
        // One that was made so early stands for the next slot.
        let next = slots.after(later(last, early(length)));
        Some(Turn { slots, length, last: Some(last), next })
    }

    /// Of a tag that no revision has, in an archive whose newest revision began at `newest`: at the first time of the day that is right.
    fn first(past: &Past<'_>, interval: &Interval, newest: Timestamp) -> Option<Self> {
        if interval.at.is_none() && interval.window.is_none() {
            return None;
        }
        let length = interval.interval.min(SignedDuration::from_secs(DAY));
        let daily = Interval { interval: length, ..interval.clone() };
        let slots = Slots::new(&daily, newest, &past.zone);
        let next = slots.after(newest);
        Some(Turn { slots, length, last: None, next })
    }

    /// Outside of its window only when another slot has passed: then a whole interval was missed.
    fn is_due(&self, asked: Option<Timestamp>, now: Timestamp) -> bool {
        let from = self.asks_from();
        // Whoever has made the last one asks as well.
        let mut asks = asked.into_iter().chain(self.last).filter(|asked| *asked <= now);
        let is_polled = asks.any(|asked| asked >= from);
        now >= self.opens(is_polled)
            && (self.slots.is_in_window(now) || now >= self.slots.after(self.next))
    }

    /// When it is made if somebody asks then.
    fn made_from(&self, now: Timestamp) -> Timestamp {
        if self.next > now || self.slots.is_in_window(now) {
            return self.next;
        }
        self.slots.window_begin_after(now).min(self.slots.after(self.next))
    }

    /// From when on it is due, by whether somebody asks often.
    fn opens(&self, is_polled: bool) -> Timestamp {
        if is_polled { self.next } else { later(self.next, -early(self.length)) }
    }

    /// Whoever has asked since then asks often.
    fn asks_from(&self) -> Timestamp {
        later(self.next, -2 * early(self.length))
    }
}

fn early(interval: SignedDuration) -> SignedDuration {
    (interval / 4).min(MAX_EARLY)
}

fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    let end = if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX };
    time.checked_add(by).unwrap_or(end)
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
        match due(&Past::of(revisions), &config(), at(now)) {
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
        assert_eq!(due(&Past::of(&[]), &config, Timestamp::UNIX_EPOCH), Due::Always);
    }

    #[test]
    fn a_revision_without_the_tag_does_not_count() {
        let manual = [revision("2026-01-01T02:00:00Z", &["manual"])];
        assert_eq!(due_tags(&manual, "2026-01-01T02:00:01Z"), ["daily", "weekly"]);
    }

    /// Who asks rarely may come an hour and a quarter early, and not a second more.
    #[test]
    fn a_tag_is_due_early_where_nobody_asks_often() {
        let last = [revision("2026-01-01T02:00:07Z", &["daily", "weekly"])];
        for (now, due) in [
            ("2026-01-02T00:44:59Z", &[][..]),
            ("2026-01-02T00:45:00Z", &["daily"]),
            ("2026-01-08T00:44:59Z", &["daily"]),
            ("2026-01-08T00:45:00Z", &["daily", "weekly"]),
        ] {
            assert_eq!(due_tags(&last, now), due, "{now}");
        }
    }

    /// Where somebody asked shortly before, and will ask again, it is made at its time; that he did is noted once.
    #[test]
    fn a_tag_is_due_at_its_time_where_somebody_asks_often() {
        let last = [revision("2026-01-01T02:00:07Z", &["daily", "weekly"])];
        let asked = |text: Option<&str>| Past { asked: text.map(at), ..Past::of(&last) };
        let is_due = |asked: &Past<'_>, now: &str| due(asked, &config(), at(now)).is_due();
        let notes = |asked: &Past<'_>, now: &str| notes_asking(asked, &config(), at(now));
        for (now, noted) in [
            ("2026-01-01T23:29:59Z", false),
            ("2026-01-01T23:30:00Z", true),
            ("2026-01-02T00:44:59Z", true),
            ("2026-01-02T00:45:00Z", false),
        ] {
            assert_eq!(notes(&asked(None), now), noted, "{now}");
            assert_eq!(notes(&asked(Some("2026-01-01T23:29:59Z")), now), noted, "{now}");
            assert!(!notes(&asked(Some("2026-01-01T23:30:00Z")), now), "{now}");
        }
        let often = asked(Some("2026-01-01T23:30:00Z"));
        assert!(!is_due(&often, "2026-01-02T01:59:59Z"));
        assert!(is_due(&often, "2026-01-02T02:00:00Z"));
        // Too long ago, and in the future.
        for other in ["2026-01-01T23:29:59Z", "2026-01-02T01:00:01Z"] {
            assert!(is_due(&asked(Some(other)), "2026-01-02T01:00:00Z"), "{other}");
        }
        assert!(minds_asking(&often, &config(), at("2026-01-01T23:30:00Z")));
        assert!(!minds_asking(&often, &config(), at("2026-01-01T12:00:00Z")));
    }

    /// After an outage one is made at once, and the next at the old hour: late ones move nothing.
    #[test]
    fn what_was_missed_is_made_at_once_and_the_next_at_the_old_hour() {
        let first = revision("2026-01-01T02:00:00Z", &["daily", "weekly"]);
        let late = revision("2026-01-05T21:30:00Z", &["daily"]);
        let revisions = [late, first];
        assert!(due_tags(&revisions, "2026-01-05T21:45:00Z").is_empty());
        assert!(due_tags(&revisions, "2026-01-06T00:30:00Z").is_empty());
        assert_eq!(due_tags(&revisions, "2026-01-06T02:00:00Z"), ["daily"]);
        assert_eq!(due_tags(&revisions, "2026-01-08T02:00:00Z"), ["daily", "weekly"]);
        // Shortly before its time it stands for the next one.
        let near = [revision("2026-01-06T01:00:00Z", &["daily"]), revisions[1].clone()];
        assert!(due_tags(&near, "2026-01-06T02:00:00Z").is_empty());
        assert_eq!(due_tags(&near, "2026-01-07T02:00:00Z"), ["daily"]);
    }

    /// The beginning of a series is what was recorded, when all of its first revisions are gone; what was made by hand, what is
    /// from the future and what has no tag decides nothing.
    #[test]
    fn a_series_keeps_the_hour_at_which_it_began() {
        let daily: Tag = "daily".parse().unwrap();
        let last = [revision("2026-03-01T09:00:00Z", &["daily"])];
        let next = |series: &[Series], now: &str| {
            let past = Past { series, ..Past::of(&last) };
            next_due(&past, &daily, &config().schedule[&daily], at(now)).unwrap().to_string()
        };
        let began = [Series::new(daily.clone(), at("2026-01-01T02:00:00Z"))];
        assert_eq!(next(&began, "2026-03-01T10:00:00Z"), "2026-03-02T02:00:00Z");
        assert_eq!(next(&[], "2026-03-01T10:00:00Z"), "2026-03-02T09:00:00Z");
        let future = [Series::new(daily.clone(), at("2099-01-01T02:00:00Z"))];
        assert_eq!(next(&future, "2026-03-01T10:00:00Z"), "2026-03-02T09:00:00Z");

        let mut by_hand = revision("2026-01-01T17:00:00Z", &["daily"]);
        by_hand.pinned_tags = by_hand.tags.clone();
        let mixed = [revision("2026-01-02T02:00:00Z", &["daily"]), by_hand];
        let scheduled = [daily.clone()].into();
        let after = |past: &Past<'_>, tags: &BTreeSet<Tag>, started: &str| {
            let series = series_after(past, &config(), tags, at(started));
            series.iter().map(|s| format!("{} {}", s.tag, s.began)).collect::<Vec<_>>()
        };
        let past = Past::of(&mixed);
        assert_eq!(
            after(&past, &scheduled, "2026-01-03T02:00:00Z"),
            ["daily 2026-01-02T02:00:00Z"]
        );
        let past = Past::of(&mixed[1..]);
        assert_eq!(
            after(&past, &scheduled, "2026-01-03T02:00:00Z"),
            ["daily 2026-01-03T02:00:00Z"]
        );
        assert!(after(&past, &BTreeSet::new(), "2026-01-03T02:00:00Z").is_empty());
        // Known ones stay, those of the future and those that nobody knows any more go.
        let gone = Series::new("hourly".parse().unwrap(), at("2026-01-01T02:00:00Z"));
        for (series, expected) in [
            (&began[..], "daily 2026-01-01T02:00:00Z"),
            (&[gone, began[0].clone()], "daily 2026-01-01T02:00:00Z"),
            (&future, "daily 2026-01-02T02:00:00Z"),
        ] {
            let past = Past { series, ..Past::of(&mixed) };
            assert_eq!(after(&past, &scheduled, "2026-01-03T02:00:00Z"), [expected]);
        }
    }

    fn one(more: &str) -> Config {
        let text = format!("[schedule.daily]\ninterval = \"1d\"\nkeep = 9\n{more}");
        Config::parse(&text, Path::new("x")).unwrap()
    }

    /// A time of the day and a window are those of the time zone of the tag; what was missed waits for the next window, unless a
    /// whole interval was missed; the first revision of all is made at once.
    #[test]
    fn a_tag_is_made_in_its_window() {
        let text = "at = \"02:00\"\nwindow = \"01:00-05:00\"\ntimezone = \"Europe/Berlin\"";
        let config = one(text);
        let is_due = |revisions: &[Revision], now: &str| {
            due(&Past::of(revisions), &config, at(now)).is_due()
        };
        assert!(is_due(&[], "2026-07-01T12:00:00Z"));
        let last = [revision("2026-07-01T12:00:00Z", &["daily"])];
        for (now, expected) in [
            ("2026-07-01T22:59:59Z", false),
            ("2026-07-01T23:00:00Z", true),
            ("2026-07-02T00:00:00Z", true),
            ("2026-07-02T02:59:59Z", true),
            ("2026-07-02T03:00:00Z", false),
            ("2026-07-02T22:59:59Z", false),
            ("2026-07-02T23:00:00Z", true),
            ("2026-07-03T12:00:00Z", true),
        ] {
            assert_eq!(is_due(&last, now), expected, "{now}");
        }
        let missed = next(&Past::of(&last), &config, at("2026-07-02T03:00:00Z"));
        assert_eq!(missed.unwrap().0, at("2026-07-02T23:00:00Z"));
    }

    /// A tag that is new in the schedule, with a time of the day, waits for that; without one it is due at once.
    #[test]
    fn a_new_tag_waits_for_its_time() {
        let other = [revision("2026-07-01T12:00:00Z", &["weekly"])];
        let is_due = |more: &str, now: &str| due(&Past::of(&other), &one(more), at(now)).is_due();
        assert!(is_due("", "2026-07-01T12:15:00Z"));
        for more in ["at = \"02:00\"", "window = \"02:00-05:00\""] {
            assert!(!is_due(more, "2026-07-01T12:15:00Z"), "{more}");
            assert!(is_due(more, "2026-07-02T02:00:00Z"), "{more}");
            assert!(is_due(more, "2026-07-03T12:00:00Z"), "{more}");
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
        assert!(!due(&Past::of(&revisions), &config(), at(now)).is_due());
        assert!(
            due(&Past::of(&revisions[..1]), &config(), at(now)).is_due() && Due::Always.is_due()
        );
    }
}
