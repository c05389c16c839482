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
        case.stays.push("the newest known to be good".to_owned());
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
            format!("{tag}: no longer in the schedule; remove the tag to let it expire")
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
mod tests;
