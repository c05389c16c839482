//! Which revisions stay, by tags, pins, clocks and damage.

use super::*;
use crate::base::digest::Digest;
use crate::format::manifest::Statistics;
use crate::policy::config::Config;

const DAY: i64 = 24;

fn tags(words: &str) -> BTreeSet<Tag> {
    words.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

/// A revision that started at `hour`, with tags that were due and tags given by hand.
fn revision(hour: i64, scheduled: &str, by_hand: &str) -> Revision {
    let started = Timestamp::from_second(1_767_225_600 + hour * 3600).unwrap();
    let uuid = RevisionId::new(started);
    let digest = Digest::of(b"");
    let mut revision = Revision::newest(uuid, started, started, 0, digest, Statistics::default());
    revision.pinned_tags = tags(by_hand);
    revision.tags = &tags(scheduled) | &revision.pinned_tags;
    revision
}

/// `count` revisions with one tag, a day apart, newest first.
fn days(count: i64, tag: &str) -> Vec<Revision> {
    (0..count).rev().map(|day| revision(day * DAY, tag, "")).collect()
}

/// `1d/2` and so on, by tag.
fn schedule(entries: &[(&str, &str, u32)]) -> BTreeMap<Tag, Interval> {
    let entry = |(tag, interval, keep): &(&str, &str, u32)| {
        format!("[schedule.{tag}]\ninterval = {interval:?}\nkeep = {keep}\n")
    };
    let text: String = entries.iter().map(entry).collect();
    Config::parse(&text, std::path::Path::new("x")).unwrap().schedule
}

/// `keep reason` or `go reason`, and the tags that expire.
fn said(verdicts: &[Verdict]) -> Vec<String> {
    let say = |verdict: &Verdict| {
        let expired: String = verdict.expired_tags.iter().map(|tag| format!(" -{tag}")).collect();
        format!("{} {}{expired}", if verdict.keep { "keep" } else { "go" }, verdict.reason)
    };
    verdicts.iter().map(say).collect()
}

fn by_schedule(revisions: &[Revision], entries: &[(&str, &str, u32)]) -> Vec<String> {
    said(&retention(revisions, &HashSet::new(), &Rule::Schedule(&schedule(entries))))
}

#[test]
fn a_tag_expires_when_enough_newer_revisions_have_it_and_the_revision_with_its_last_tag() {
    let mut revisions = days(5, "daily");
    revisions[2].tags = tags("daily weekly");
    revisions[4].tags = tags("daily weekly");
    let found = by_schedule(&revisions, &[("daily", "1d", 2), ("weekly", "2d", 1)]);
    assert_eq!(
        found,
        [
            "keep the newest, daily: 1 of 2",
            "keep daily: 2 of 2",
            "keep weekly: 1 of 1 -daily",
            "go expired: daily (2 newer ones have it) -daily",
            "go expired: daily (2 newer ones have it), weekly (1 newer one has it) -daily -weekly",
        ]
    );
}

#[test]
fn verdicts_name_the_revisions_in_their_order() {
    let revisions = days(3, "daily");
    let verdicts =
        retention(&revisions, &HashSet::new(), &Rule::Schedule(&schedule(&[("daily", "1d", 1)])));
    for (number, verdict) in verdicts.iter().enumerate() {
        assert_eq!((verdict.number, verdict.uuid), (number, revisions[number].uuid));
    }
}

#[test]
fn pinned_tags_never_expire_and_count_for_older_ones() {
    let mut revisions = days(3, "daily");
    revisions[1] = revision(DAY, "daily", "daily before-upgrade");
    let found = by_schedule(&revisions, &[("daily", "1d", 1)]);
    assert_eq!(
        found,
        [
            "keep the newest, daily: 1 of 1",
            "keep pinned: before-upgrade, pinned: daily",
            "go expired: daily (1 newer one has it) -daily",
        ]
    );
}

#[test]
fn the_scheduled_tag_of_a_pinned_revision_expires() {
    let revisions = [revision(DAY, "daily", ""), revision(0, "daily", "mine")];
    let found = by_schedule(&revisions, &[("daily", "1d", 1)]);
    assert_eq!(found[1], "keep pinned: mine -daily");
}

#[test]
fn a_tag_that_left_the_schedule_keeps_its_revision() {
    let revisions = [revision(DAY, "daily", ""), revision(0, "daily hourly", "")];
    let found = by_schedule(&revisions, &[("daily", "1d", 1)]);
    assert_eq!(
        found[1],
        "keep hourly: no longer in the schedule; remove the tag to let it expire -daily"
    );
}

#[test]
fn an_untagged_revision_lives_as_long_as_the_shortest_interval_and_counts_for_no_tag() {
    let entries = [("daily", "1d", 2), ("hourly", "1h", 1), ("often", "1h", 2)];
    let revisions = [
        revision(9, "often", ""),
        revision(8, "often", ""),
        revision(7, "", ""),
        revision(6, "", ""),
        revision(5, "often", ""),
    ];
    assert_eq!(
        by_schedule(&revisions[1..], &entries),
        [
            "keep the newest, often: 1 of 2",
            "keep no tag (as if often: 2 of 2)",
            "keep no tag (as if often: 2 of 2)",
            "keep often: 2 of 2",
        ]
    );
    assert_eq!(
        by_schedule(&revisions, &entries)[2..],
        [
            "go no tag (2 newer ones have often)",
            "go no tag (2 newer ones have often)",
            "go expired: often (2 newer ones have it) -often",
        ]
    );
}

#[test]
fn without_a_schedule_nothing_expires() {
    let revisions = [revision(2, "", ""), revision(1, "daily", ""), revision(0, "", "mine")];
    assert_eq!(
        by_schedule(&revisions, &[]),
        [
            "keep the newest, nothing expires without a schedule",
            "keep nothing expires without a schedule",
            "keep pinned: mine, nothing expires without a schedule",
        ]
    );
}

#[test]
fn the_newest_known_good_revision_stays() {
    let revisions = days(4, "daily");
    let schedule = schedule(&[("daily", "1d", 1)]);
    let found = |bad: &[usize]| {
        let damaged = bad.iter().map(|&number| revisions[number].uuid).collect();
        said(&retention(&revisions, &damaged, &Rule::Schedule(&schedule)))
    };
    assert_eq!(found(&[0, 1])[2], "keep the newest known to be good -daily");
    let kept = |bad: &[usize]| -> Vec<usize> {
        (0..4).filter(|&number| found(bad)[number].starts_with("keep")).collect()
    };
    assert_eq!(kept(&[]), [0]);
    assert_eq!(kept(&[0]), [0, 1]);
    assert_eq!(kept(&[1, 2]), [0]);
    assert_eq!(kept(&[0, 1, 2]), [0, 3]);
    assert_eq!(kept(&[0, 1, 2, 3]), [0]);
}

#[test]
fn a_plain_number_keeps_the_newest_and_expires_no_tags() {
    let mut revisions = days(5, "daily");
    revisions[4] = revision(0, "daily", "mine");
    let damaged: HashSet<RevisionId> = revisions[..3].iter().map(|each| each.uuid).collect();
    let found = |count| said(&retention(&revisions, &damaged, &Rule::Newest(count)));
    assert_eq!(
        found(2),
        [
            "keep the newest",
            "keep one of the 2 newest",
            "go not one of the 2 newest",
            "keep the newest known to be good",
            "keep pinned: mine",
        ]
    );
    assert_eq!(found(1)[1], "go not the newest");
    assert_eq!(found(0), found(1));
    assert!(found(u32::MAX).iter().all(|each| each.starts_with("keep")));
}

#[test]
fn a_schedule_that_runs_as_early_as_allowed_keeps_exactly_its_count() {
    let revisions: Vec<Revision> =
        (0..50).rev().map(|number| revision(number * 19, "often", "")).collect();
    let found = by_schedule(&revisions, &[("often", "20h", 9)]);
    let kept = found.iter().filter(|each| each.starts_with("keep")).count();
    assert_eq!(kept, 9);
}

#[test]
fn a_clock_that_jumps_back_and_forth_expires_nothing() {
    let mut revisions = days(9, "daily");
    for jump in 0..30 {
        revisions.insert(0, revision(9 * DAY + jump % 2 * 11, "daily", ""));
    }
    let found = by_schedule(&revisions, &[("daily", "1d", 9)]);
    let kept: Vec<bool> = found.iter().map(|each| each.starts_with("keep")).collect();
    assert_eq!(kept.iter().filter(|&&keep| keep).count(), 38);
    assert!(!kept[38], "the oldest has nine newer ones that count, one of them for thirty");
}

#[test]
fn half_an_interval_apart_is_enough_to_count() {
    for (hours, expires) in [(12, true), (11, false)] {
        let revisions = [revision(hours, "daily", ""), revision(0, "daily", "")];
        let found = by_schedule(&revisions, &[("daily", "1d", 1)]);
        assert_eq!(found[1].starts_with("go"), expires);
        let back = [revision(-hours, "daily", ""), revision(0, "daily", "")];
        let found = by_schedule(&back, &[("daily", "1d", 1)]);
        assert_eq!(found[1].starts_with("go"), expires);
    }
}

#[test]
fn a_revision_from_the_future_expires_like_any_other() {
    let mut revisions = days(6, "daily");
    revisions[3] = revision(1000 * DAY, "daily", "");
    let found = by_schedule(&revisions, &[("daily", "1d", 3)]);
    let kept: Vec<bool> = found.iter().map(|each| each.starts_with("keep")).collect();
    assert_eq!(kept, [true, true, true, false, false, false]);
    assert_eq!(found[3], "go expired: daily (3 newer ones have it) -daily");
    let found = by_schedule(&revisions[1..], &[("daily", "1d", 3)]);
    assert_eq!(found[2], "keep daily: 3 of 3");
}

/// A revision with some tag lives by that tag alone, and not also as one without a tag would, by the
/// shortest interval.
#[test]
fn a_revision_with_another_tag_is_not_one_without() {
    let revisions = [
        revision(9 * DAY, "daily weekly", ""),
        revision(8 * DAY, "daily", ""),
        revision(0, "weekly", ""),
    ];
    let found = by_schedule(&revisions, &[("daily", "1d", 3), ("weekly", "7d", 1)]);
    assert_eq!(found[2], "go expired: weekly (1 newer one has it) -weekly");
}

/// Only newer revisions that keep the tag count: whether others have lost it yet makes no difference. The
/// third was made right after the clock was set back; the second keeps no tag, so it cannot expire the
/// third.
#[test]
fn a_revision_that_lost_the_tag_does_not_count() {
    let all = [100, 50, 95].map(|hour| revision(hour, "daily", ""));
    let found = by_schedule(&all, &[("daily", "1d", 1)]);
    assert!(found[1].starts_with("go expired"), "{}", found[1]);
    assert_eq!(found[2], "keep daily: 1 of 1");
    let without = [all[0].clone(), all[2].clone()];
    assert_eq!(by_schedule(&without, &[("daily", "1d", 1)])[1], found[2]);
}

#[test]
fn a_thousand_revisions_with_ten_tags_are_fast() {
    let words: Vec<String> = (0..10).map(|number| format!("tag{number}")).collect();
    let entries: Vec<(&str, &str, u32)> =
        words.iter().map(|word| (word.as_str(), "1d", 500)).collect();
    let (schedule, all) = (schedule(&entries), words.join(" "));
    let revisions: Vec<Revision> =
        (0..1000).map(|number| revision(number * 7919 % 20_011, &all, "")).collect();
    let began = std::time::Instant::now();
    let verdicts = retention(&revisions, &HashSet::new(), &Rule::Schedule(&schedule));
    let seconds = began.elapsed().as_secs_f64();
    assert!(verdicts.iter().any(|verdict| !verdict.keep));
    assert!(seconds < 1.0, "{seconds} s");
}
