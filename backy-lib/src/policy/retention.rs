//! Which revisions to keep and which to delete: a pure function of the revisions, the known damage, and a rule.
//!
//! Whatever clocks and schedules say, three things always stay: the newest revision, the newest one known to
//! be good, and pinned ones. Tags expire by the number of newer revisions that have them, never by age. The
//! verdicts can be carried out in any order and in part: later decisions are the same.
//!
//! Taking a revision out of the chain is left to `plan` and maintenance. `doc/retention.md` has the rules in
//! an operator's words.

mod excess;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::base::revision::{RevisionId, Tag};
use crate::format::manifest::Revision;
use crate::policy::config::Interval;

pub use excess::{Pins, excess};

/// The rule.
#[derive(Debug, Clone, Copy)]
pub enum Rule<'a> {
    /// The schedule of the config. If it is empty, nothing expires.
    Schedule(&'a BTreeMap<Tag, Interval>),
    /// This many of the newest stay, whatever their tags; 0 counts as 1.
    Newest(u32),
}

/// Whether to keep one revision, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Counted from the newest, which is 0.
    pub number: usize,
    /// Its name.
    pub uuid: RevisionId,
    /// Whether it stays.
    pub keep: bool,
    /// What keeps it, or what has expired, in one line.
    pub reason: String,
    /// Tags that it loses, even if it stays.
    pub expired_tags: BTreeSet<Tag>,
}

impl Verdict {
    /// Keeps everything, and reports what would have expired.
    pub fn freeze(&mut self) {
        if !self.keep {
            self.keep = true;
            self.reason = format!("frozen; it would expire: {}", self.reason);
        }
        self.expired_tags.clear();
    }
}

/// The verdict on every revision, in the same order.
///
/// `revisions` are newest first, in the order of the manifest: clocks do not decide which is newer. `damaged`
/// are those known not to be fully readable.
pub fn retention(
    revisions: &[Revision],
    damaged: &HashSet<RevisionId>,
    rule: &Rule<'_>,
) -> Vec<Verdict> {
    let mut cases = match rule {
        Rule::Schedule(schedule) => by_schedule(revisions, schedule),
        Rule::Newest(count) => by_number(revisions, *count),
    };
    if let Some(newest) = cases.first_mut() {
        newest.stays.insert(0, "the newest".to_owned());
    }
    let last_good = revisions.iter().position(|revision| !damaged.contains(&revision.uuid));
    if let Some(case) = last_good.filter(|&number| number > 0).and_then(|n| cases.get_mut(n)) {
        case.stays.push("the last that is known to be good".to_owned());
    }
    let verdict = |(number, (revision, case)): (usize, (&Revision, Case))| {
        let keep = !case.stays.is_empty();
        let reasons = if keep { case.stays } else { case.goes };
        let expired_tags = case.expired_tags;
        Verdict { number, uuid: revision.uuid, keep, reason: reasons.join(", "), expired_tags }
    };
    revisions.iter().zip(cases).enumerate().map(verdict).collect()
}

/// The reasons about one revision. One reason to stay is enough.
#[derive(Debug, Clone, Default)]
struct Case {
    stays: Vec<String>,
    goes: Vec<String>,
    expired_tags: BTreeSet<Tag>,
}

fn by_number(revisions: &[Revision], count: u32) -> Vec<Case> {
    let count = usize::try_from(count).unwrap_or(usize::MAX).max(1);
    let case = |(number, revision): (usize, &Revision)| {
        let mut case = Case::default();
        match number {
            0 => {}
            _ if number < count => case.stays.push(format!("one of the {count} newest")),
            _ if count == 1 => case.goes.push("not the newest".to_owned()),
            _ => case.goes.push(format!("not one of the {count} newest")),
        }
        case.stays.extend(revision.pinned_tags.iter().map(pinned));
        case
    };
    revisions.iter().enumerate().map(case).collect()
}

fn by_schedule(revisions: &[Revision], schedule: &BTreeMap<Tag, Interval>) -> Vec<Case> {
    let mut cases = vec![Case::default(); revisions.len()];
    // Of two equally short intervals the one that keeps more.
    let shortest = schedule.iter().min_by_key(|(_, each)| (each.interval, Reverse(each.keep)));
    for (tag, interval) in schedule {
        let stands_for_none = shortest.is_some_and(|(shortest, _)| shortest == tag);
        let concerned = revisions.iter().zip(&mut cases).filter_map(|(revision, case)| {
            let role = Role::of(revision, tag, stands_for_none)?;
            Some((Place::new(revision.started, role), case))
        });
        let (mut places, cases): (Vec<Place>, Vec<&mut Case>) = concerned.unzip();
        let standings = standings(&mut places, interval);
        for ((place, newer), case) in places.iter().zip(standings).zip(cases) {
            place.role.judge(tag, interval.keep, newer, case);
        }
    }
    for (revision, case) in revisions.iter().zip(&mut cases) {
        case.stays.extend(revision.pinned_tags.iter().map(pinned));
        if schedule.is_empty() {
            case.stays.push("nothing expires without a schedule".to_owned());
            continue;
        }
        let by_itself =
            |tag: &&Tag| schedule.contains_key(tag) || revision.pinned_tags.contains(tag);
        let left_over = revision.tags.iter().filter(|tag| !by_itself(tag));
        case.stays.extend(left_over.map(|tag| {
            format!("{tag}: not in the schedule any more; remove the tag to let it expire")
        }));
    }
    cases
}

fn pinned(tag: &Tag) -> String {
    format!("pinned: {tag}")
}

/// How a revision relates to a scheduled tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It has the tag because the tag was due.
    Scheduled,
    /// The tag was given by hand.
    Pinned,
    /// It has no tag at all, and lives as long as if it had this one.
    Untagged,
}

impl Role {
    fn of(revision: &Revision, tag: &Tag, stands_for_none: bool) -> Option<Self> {
        if revision.pinned_tags.contains(tag) {
            Some(Role::Pinned)
        } else if revision.tags.contains(tag) {
            Some(Role::Scheduled)
        } else {
            let untagged = revision.tags.is_empty() && revision.pinned_tags.is_empty();
            (stands_for_none && untagged).then_some(Role::Untagged)
        }
    }

    /// Adds what it means for the revision that `newer` ones with the tag count.
    fn judge(self, tag: &Tag, keep: u32, newer: u32, case: &mut Case) {
        let place = u64::from(newer) + 1;
        let (ones, have) = if keep == 1 { ("one", "has") } else { ("ones", "have") };
        match (self, newer < keep) {
            (Role::Pinned, _) => {}
            (Role::Scheduled, true) => case.stays.push(format!("{tag}: {place} of {keep}")),
            (Role::Untagged, true) => {
                case.stays.push(format!("no tag (as if {tag}: {place} of {keep})"));
            }
            (Role::Scheduled, false) => {
                let expired = if case.goes.is_empty() { "expired: " } else { "" };
                case.goes.push(format!("{expired}{tag} ({keep} newer {ones} {have} it)"));
                case.expired_tags.insert(tag.clone());
            }
            (Role::Untagged, false) => {
                case.goes.push(format!("no tag ({keep} newer {ones} {have} {tag})"));
            }
        }
    }
}

/// The place of a revision in time among those with one tag.
#[derive(Debug, Clone)]
struct Place {
    role: Role,
    started: Timestamp,
    /// How many of them started earlier.
    rank: usize,
    /// Ranks of those that started too close to it to count beside it.
    close: Range<usize>,
}

impl Place {
    fn new(started: Timestamp, role: Role) -> Self {
        Place { role, started, rank: 0, close: 0..0 }
    }
}

/// For each place, newest first, how many newer revisions that keep the tag count; at most `keep`.
///
/// A revision that started less than half an interval from this one, or from one already counted, does not
/// count. A clock that jumps makes the tag due again and again, and must not expire in a day what took weeks
/// to collect. Without outages a correct clock leaves more than half an interval between revisions, so that
/// each one counts; a backup made up for after an outage may stay in addition.
///
/// Only those that keep the tag themselves count, so that the count does not change when others lose it.
fn standings(places: &mut [Place], interval: &Interval) -> Vec<u32> {
    rank(places, interval.interval / 2);
    let mut holders: Vec<&Place> = Vec::new();
    let mut standings = Vec::with_capacity(places.len());
    let mut near = vec![false; places.len()];
    for place in &*places {
        near.fill(false);
        mark(&mut near, &place.close);
        let mut newer = 0;
        for holder in holders.iter().rev() {
            if newer == interval.keep {
                break;
            }
            if near.get(holder.rank) == Some(&false) {
                newer += 1;
                mark(&mut near, &holder.close);
            }
        }
        standings.push(newer);
        match place.role {
            Role::Scheduled if newer < interval.keep => holders.push(place),
            Role::Pinned => holders.push(place),
            Role::Scheduled | Role::Untagged => {}
        }
    }
    standings
}

fn mark(near: &mut [bool], ranks: &Range<usize>) {
    if let Some(near) = near.get_mut(ranks.clone()) {
        near.fill(true);
    }
}

/// Sets the ranks. Revisions that started at the same time share one.
fn rank(places: &mut [Place], spacing: SignedDuration) {
    let spacing = spacing.as_nanos();
    let mut times: Vec<i128> = places.iter().map(|place| place.started.as_nanosecond()).collect();
    times.sort_unstable();
    for place in places {
        let own = place.started.as_nanosecond();
        place.rank = times.partition_point(|time| *time < own);
        let from = times.partition_point(|time| own - time >= spacing);
        let to = times.partition_point(|time| time - own < spacing);
        place.close = from..to;
    }
}

#[cfg(test)]
mod tests {
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
        let mut revision =
            Revision::newest(uuid, started, started, 0, digest, Statistics::default());
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
            let expired: String =
                verdict.expired_tags.iter().map(|tag| format!(" -{tag}")).collect();
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
        let verdicts = retention(
            &revisions,
            &HashSet::new(),
            &Rule::Schedule(&schedule(&[("daily", "1d", 1)])),
        );
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
            "keep hourly: not in the schedule any more; remove the tag to let it expire -daily"
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
        assert_eq!(found(&[0, 1])[2], "keep the last that is known to be good -daily");
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
                "keep the last that is known to be good",
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
}
