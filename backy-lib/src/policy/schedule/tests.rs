//! When tags are due: at their hour, early or late, in their window, and after clock errors.

use std::path::Path;

use super::*;
use crate::base::digest::Digest;
use crate::base::revision::RevisionId;
use crate::format::manifest::Statistics;

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

/// Setting a clock back by a minute makes nothing due again.
#[test]
fn a_small_step_back_makes_nothing_due() {
    let last = [revision("2026-01-02T02:00:00Z", &["daily", "weekly"])];
    assert!(due_tags(&last, "2026-01-02T01:58:30Z").is_empty());
    assert!(due_tags(&last, "2026-01-02T01:55:00Z").is_empty());
    assert_eq!(due_tags(&last, "2026-01-02T01:54:59Z"), ["daily", "weekly"]);
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

/// A caller that asks rarely may come an hour and a quarter early, and not a second more.
#[test]
fn a_tag_is_due_early_if_nobody_asks_often() {
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

/// If a caller asked shortly before and will ask again, the revision is made exactly on time; the request is
/// recorded once.
#[test]
fn a_tag_is_due_at_its_time_if_somebody_asks_often() {
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

/// After an outage a backup is made at once, and the next one at the old hour: late backups move nothing.
#[test]
fn a_missed_backup_is_made_at_once_and_the_next_at_the_old_hour() {
    let first = revision("2026-01-01T02:00:00Z", &["daily", "weekly"]);
    let late = revision("2026-01-05T21:30:00Z", &["daily"]);
    let revisions = [late, first];
    assert!(due_tags(&revisions, "2026-01-05T21:45:00Z").is_empty());
    assert!(due_tags(&revisions, "2026-01-06T00:30:00Z").is_empty());
    assert_eq!(due_tags(&revisions, "2026-01-06T02:00:00Z"), ["daily"]);
    assert_eq!(due_tags(&revisions, "2026-01-08T02:00:00Z"), ["daily", "weekly"]);
    // Shortly before its time, it fills the next slot.
    let near = [revision("2026-01-06T01:00:00Z", &["daily"]), revisions[1].clone()];
    assert!(due_tags(&near, "2026-01-06T02:00:00Z").is_empty());
    assert_eq!(due_tags(&near, "2026-01-07T02:00:00Z"), ["daily"]);
}

/// A series keeps its recorded beginning after its first revisions are deleted; revisions made by hand, from
/// the future or without the tag do not affect it.
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
    assert_eq!(after(&past, &scheduled, "2026-01-03T02:00:00Z"), ["daily 2026-01-02T02:00:00Z"]);
    let past = Past::of(&mixed[1..]);
    assert_eq!(after(&past, &scheduled, "2026-01-03T02:00:00Z"), ["daily 2026-01-03T02:00:00Z"]);
    assert!(after(&past, &BTreeSet::new(), "2026-01-03T02:00:00Z").is_empty());
    // Known series stay; those from the future and those of unknown tags are dropped.
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

/// A time of day and a window are in the time zone of the tag. A missed backup waits for the next window,
/// unless a whole interval was missed. The very first revision is made at once.
#[test]
fn a_tag_is_made_in_its_window() {
    let text = "at = \"02:00\"\nwindow = \"01:00-05:00\"\ntimezone = \"Europe/Berlin\"";
    let config = one(text);
    let is_due =
        |revisions: &[Revision], now: &str| due(&Past::of(revisions), &config, at(now)).is_due();
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

/// When summer time begins, the window from two to three does not exist and moves by an hour.
#[test]
fn a_window_that_the_clock_skips_is_later() {
    let config = one("at = \"02:30\"\nwindow = \"02:00-03:00\"\ntimezone = \"Europe/Berlin\"");
    let last = [revision("2026-03-28T01:30:00Z", &["daily"])];
    for (now, expected) in [
        ("2026-03-29T00:59:59Z", false),
        ("2026-03-29T01:29:59Z", false),
        ("2026-03-29T01:30:00Z", true),
        ("2026-03-29T02:29:59Z", true),
        ("2026-03-29T02:30:00Z", false),
    ] {
        assert_eq!(due(&Past::of(&last), &config, at(now)).is_due(), expected, "{now}");
    }
}

/// A new tag with a time of day waits for it; without one it is due at once.
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

/// The latest revision with a tag counts, wherever it is in the list, and one that begins right now is not
/// from the future.
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
    assert!(due(&Past::of(&revisions[..1]), &config(), at(now)).is_due() && Due::Always.is_due());
}
