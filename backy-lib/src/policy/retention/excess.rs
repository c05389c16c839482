//! Why far more revisions stay than the schedule keeps. Nothing else would report it, because each of them
//! stays for a good reason.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Rule, retention};
use crate::base::revision::Tag;
use crate::format::manifest::Revision;
use crate::policy::config::Interval;

/// Fewer than this many extra revisions are not reported.
const MIN_BEYOND: u64 = 5;

/// Which pins count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pins {
    /// All pins.
    All,
    /// Only pins of scheduled tags: a pin with a tag of one's own is intended.
    OfSchedule,
}

/// One sentence, without a full stop, if far more revisions stay than the schedule keeps: half as many more,
/// and at least five.
pub fn excess(
    revisions: &[Revision],
    schedule: &BTreeMap<Tag, Interval>,
    pins: Pins,
) -> Option<String> {
    if schedule.is_empty() {
        return None;
    }
    let verdicts = retention(revisions, &HashSet::new(), &Rule::Schedule(schedule));
    let is_meant = |revision: &Revision| {
        let mut pinned = revision.pinned_tags.iter();
        !revision.pinned_tags.is_empty() && pinned.all(|tag| !schedule.contains_key(tag))
    };
    let stay: Vec<(usize, &Revision)> = revisions
        .iter()
        .enumerate()
        .zip(&verdicts)
        .filter(|((_, revision), verdict)| {
            verdict.keep && (pins == Pins::All || !is_meant(revision))
        })
        .map(|(numbered, _)| numbered)
        .collect();
    let (count, wanted) = (stay.len() as u64, schedule.values().map(|i| u64::from(i.keep)).sum());
    if count < MIN_BEYOND.saturating_add(wanted) || count <= wanted.saturating_add(wanted / 2) {
        return None;
    }
    let reasons = Reasons::of(revisions, &stay, schedule).sentences();
    let why = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
    Some(format!("{count} revisions stay, and the schedule keeps {wanted}{why}"))
}

/// How many stay for which reason; each counts once.
#[derive(Default)]
struct Reasons {
    pinned: Tagged,
    pinned_with_scheduled: Tagged,
    unscheduled: Tagged,
    untagged: usize,
    wrong_clock: usize,
    /// By tag, how many have it because it was due.
    by_tag: BTreeMap<Tag, u64>,
    crowded: u64,
}

#[derive(Default)]
struct Tagged {
    count: usize,
    tags: BTreeSet<Tag>,
}

impl Tagged {
    fn add<'a>(&mut self, tags: impl Iterator<Item = &'a Tag>) {
        self.count += 1;
        self.tags.extend(tags.cloned());
    }

    fn names(&self) -> String {
        self.tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(", ")
    }
}

impl Reasons {
    fn of(
        revisions: &[Revision],
        stay: &[(usize, &Revision)],
        schedule: &BTreeMap<Tag, Interval>,
    ) -> Self {
        let mut reasons = Reasons::default();
        let mut oldest_newer = None;
        let mut are_late = Vec::with_capacity(revisions.len());
        for revision in revisions {
            // Newer revisions began earlier, so this one's clock was ahead.
            are_late.push(oldest_newer.is_some_and(|newer| revision.started > newer));
            oldest_newer = Some(oldest_newer.map_or(revision.started, |o| revision.started.min(o)));
        }
        for &(number, revision) in stay {
            let is_scheduled = |tag: &&Tag| schedule.contains_key(*tag);
            let pinned = &revision.pinned_tags;
            let mut gone =
                revision.tags.iter().filter(|tag| !schedule.contains_key(*tag)).peekable();
            if pinned.iter().any(|tag| is_scheduled(&tag)) {
                reasons.pinned_with_scheduled.add(pinned.iter().filter(is_scheduled));
            } else if !pinned.is_empty() {
                reasons.pinned.add(pinned.iter());
            } else if gone.peek().is_some() {
                reasons.unscheduled.add(gone);
            } else if are_late.get(number) == Some(&true) {
                reasons.wrong_clock += 1;
            } else if revision.tags.is_empty() {
                reasons.untagged += 1;
            } else {
                for tag in &revision.tags {
                    *reasons.by_tag.entry(tag.clone()).or_default() += 1;
                }
            }
        }
        let beyond = |(tag, interval): (&Tag, &Interval)| {
            let count = reasons.by_tag.get(tag).copied().unwrap_or(0);
            count.saturating_sub(u64::from(interval.keep))
        };
        reasons.crowded = schedule.iter().map(beyond).sum();
        reasons
    }

    fn sentences(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut say = |count: u64, what: String| {
            if count > 0 {
                let (are, have, were) =
                    if count == 1 { ("is", "has", "was") } else { ("are", "have", "were") };
                let what = what.replacen("@are", are, 1).replacen("@have", have, 1);
                all.push(format!("{count} {}", what.replacen("@were", were, 1)));
            }
        };
        let tagged = |tagged: &Tagged| (tagged.count as u64, tagged.names());
        let (count, names) = tagged(&self.pinned_with_scheduled);
        say(
            count,
            format!(
                "@are pinned by hand with a tag of the schedule ({names}), as 'backup --tag' does; use 'backup --as'"
            ),
        );
        let (count, names) = tagged(&self.pinned);
        say(count, format!("@are pinned by hand ({names})"));
        let (count, names) = tagged(&self.unscheduled);
        say(count, format!("@have a tag that is no longer in the schedule ({names})"));
        say(self.wrong_clock as u64, "@were made while the clock was ahead".to_owned());
        say(
            self.crowded,
            "@were made too close to others to count, for instance after an outage".to_owned(),
        );
        say(self.untagged as u64, "@have no tag, as 'backup --force' makes them".to_owned());
        all
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jiff::Timestamp;

    use super::*;
    use crate::base::digest::Digest;
    use crate::base::revision::RevisionId;
    use crate::format::manifest::Statistics;
    use crate::policy::config::Config;

    fn schedule() -> BTreeMap<Tag, Interval> {
        let text = "[schedule.daily]\ninterval = \"1d\"\nkeep = 4";
        Config::parse(text, Path::new("x")).unwrap().schedule
    }

    /// Revisions `hours` apart, newest first, with tags that were due and tags given by hand.
    fn made(count: usize, hours: i64, scheduled: &str, by_hand: &str) -> Vec<Revision> {
        let tags = |words: &str| words.split_whitespace().map(|tag| tag.parse().unwrap()).collect();
        let one = |number: usize| {
            let time =
                Timestamp::from_second(1_767_225_600 - number as i64 * hours * 3600).unwrap();
            let (id, digest) = (RevisionId::new(time), Digest::of(b""));
            let mut made = Revision::newest(id, time, time, 0, digest, Statistics::default());
            made.pinned_tags = tags(by_hand);
            made.tags = tags(scheduled);
            made.tags.extend(made.pinned_tags.clone());
            made
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn a_few_more_than_the_schedule_keeps_are_no_excess() {
        assert_eq!(excess(&made(30, 24, "daily", ""), &schedule(), Pins::All), None);
        assert_eq!(excess(&made(8, 24, "daily", "daily"), &schedule(), Pins::All), None);
        assert_eq!(excess(&made(30, 24, "daily", "mine"), &schedule(), Pins::OfSchedule), None);
        assert_eq!(excess(&made(30, 24, "", "daily"), &BTreeMap::new(), Pins::All), None);
    }

    #[test]
    fn each_reason_is_named_with_its_count() {
        let mut wrong_clock = made(1, 24, "daily", "");
        wrong_clock.extend(made(3, 24, "daily", "").into_iter().map(|mut late| {
            late.started = "2099-01-01T00:00:00Z".parse().unwrap();
            late
        }));
        wrong_clock.extend(made(6, 24, "", "mine"));
        for (revisions, expected) in [
            (made(9, 24, "", "daily"), "9 are pinned by hand with a tag of the schedule (daily)"),
            (made(9, 24, "daily", "mine"), "9 are pinned by hand (mine)"),
            (made(9, 24, "hourly", ""), "9 have a tag that is no longer in the schedule (hourly)"),
            (made(30, 1, "daily", ""), "26 were made too close to others"),
            (made(30, 1, "", ""), "30 have no tag"),
            (wrong_clock, "made while the clock was ahead"),
        ] {
            let said = excess(&revisions, &schedule(), Pins::All).expect(expected);
            assert!(said.contains(expected), "{said}");
            assert!(
                said.contains(&format!(
                    "{} revisions stay, and the schedule keeps 4",
                    revisions.len()
                )),
                "{said}"
            );
        }
    }
}
