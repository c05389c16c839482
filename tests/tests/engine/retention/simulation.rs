//! Ten years of cron: a backup each night and maintenance after it, with what happens to machines in ten years.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use backy_lib::format::manifest::Series;
use backy_lib::retention::{Rule, retention};
use backy_lib::schedule::{self, Due, Past};
use backy_lib::storage::sim::Random;
use backy_lib::{Config, Revision, RevisionId, Tag};
use backy_tests::retention::{apply, keep, revision, tag};
use jiff::{SignedDuration, Timestamp};

use super::documented;

const SEED: u64 = 2026;
const FIRST_NIGHT: &str = "2026-01-01T02:00:00Z";
const DAYS: i64 = 3652;
/// How many the template says it keeps, in all.
const SUM_OF_KEEP: usize = 9 + 5 + 4;

/// What fails, or is done by hand, and on which day.
struct Events {
    missed: BTreeSet<i64>,
    /// First days of outages, and how many.
    outages: [(i64, i64); 2],
    set_back: i64,
    years_ahead: i64,
    before_upgrade: i64,
    by_force: [i64; 2],
}

impl Events {
    fn draw(random: &mut Random) -> Self {
        let mut from = |first: i64, within: u64| first + random.below(within).cast_signed();
        let outages = [(from(500, 200), 14), (from(1300, 200), 91)];
        let (set_back, years_ahead) = (from(2000, 100), from(2700, 100));
        let before_upgrade = from(3000, 200);
        let by_force = [from(900, 100), DAYS - 4];
        let not_missed = [set_back, years_ahead, before_upgrade, by_force[0]];
        let missed = (1..DAYS - 60)
            .filter(|day| random.below(60) == 0 && !not_missed.contains(day))
            .chain(outages.iter().flat_map(|&(first, days)| first..first + days))
            .collect();
        Events { missed, outages, set_back, years_ahead, before_upgrade, by_force }
    }

    /// Whether for a year before `day` at most single days were missed and the clock was right.
    fn calm(&self, day: i64) -> bool {
        let clocks = [(0, 1), (self.set_back, 1), (self.years_ahead, 1)];
        let mut troubles = self.outages.into_iter().chain(clocks);
        troubles.all(|(first, days)| !(first..first + days + 365).contains(&day))
    }
}

/// The archive, and what a witness with a right clock records about it.
struct Simulation {
    config: Config,
    events: Events,
    random: Random,
    revisions: Vec<Revision>,
    series: Vec<Series>,
    /// The true day on which each revision was made.
    made_on: HashMap<RevisionId, i64>,
    /// The last true day with each tag. Revisions from a clock in the future do not count, as in `due`.
    last_with: BTreeMap<Tag, i64>,
    /// Rows of the table of troubles.
    troubles: Vec<String>,
}

impl Simulation {
    fn new() -> Self {
        let mut random = Random(SEED);
        let text = Config::template(None).expect("the template");
        Simulation {
            config: Config::parse(&text, Path::new("backy.toml")).expect("a config"),
            events: Events::draw(&mut random),
            random,
            revisions: Vec::new(),
            series: Vec::new(),
            made_on: HashMap::new(),
            last_with: BTreeMap::new(),
            troubles: Vec::new(),
        }
    }

    fn run(&mut self) {
        for day in 0..DAYS {
            if !self.events.missed.contains(&day) {
                self.night(day);
            }
            if self.events.by_force.contains(&day) {
                let made = self.backup(day, at(day, 13 * 60), true, &[]).expect("a forced one");
                assert!(made.is_empty(), "nothing was due");
            }
            if self.events.before_upgrade == day {
                let made = self.backup(day, at(day, 9 * 60), true, &["before-upgrade"]);
                assert_eq!(made.map(|tags| tags.len()), Some(1));
            }
            self.check(day);
        }
        let outages: i64 = self.events.outages.iter().map(|(_, days)| days).sum();
        let single = self.events.missed.len() as i64 - outages;
        self.troubles.push(format!("| in all | {single} other nights on which nothing ran | |"));
    }

    /// What cron does at 02:00, some minutes late.
    fn night(&mut self, day: i64) {
        let late = self.random.below(10).cast_signed();
        if day == self.events.years_ahead {
            let all = self.backup(day, at(day + 3 * 365, late), false, &[]).expect("all is due");
            assert_eq!(all.len(), 3);
            self.note(day, "the clock is three years ahead for one run", &all);
            return;
        }
        let expected: BTreeSet<Tag> = self.missing(day);
        let late = if day == self.events.set_back { 20 } else { late };
        let made = self.backup(day, at(day, late), false, &[]).unwrap_or_default();
        assert_eq!(made, expected, "day {day}: one run makes up for all that was missed");
        for tag in &made {
            self.last_with.insert(tag.clone(), day);
        }
        if day == self.events.set_back {
            // At 02:30 the clock is set back by an hour, so that cron runs again.
            let again = self.backup(day, at(day, late - 15), false, &[]).expect("one more");
            assert_eq!(again, made, "those from after now do not count as made");
            self.note(day, "the clock is set back by an hour, and cron runs twice", &again);
        } else if day == self.events.years_ahead + 1 {
            self.note(day, "the clock is right again", &made);
        }
        for (first, days) in self.events.outages {
            if day == first + days {
                self.note(day, &format!("nothing had run for {days} days"), &made);
            }
        }
    }

    /// Tags of which a slot has passed since the last revision, by the true calendar: each series began on the first
    /// day.
    fn missing(&self, day: i64) -> BTreeSet<Tag> {
        let over = |tag: &Tag, days: i64| {
            self.last_with.get(tag).is_none_or(|last| (last / days + 1) * days <= day)
        };
        let schedule = self.config.schedule.iter();
        schedule
            .filter(|(tag, each)| over(tag, each.interval.as_hours() / 24))
            .map(|(tag, _)| tag.clone())
            .collect()
    }

    /// Runs `backup` and then `maintenance`, with `now` on the clock. Returns the tags of the revision, if one was
    /// made.
    fn backup(
        &mut self,
        day: i64,
        now: Timestamp,
        force: bool,
        by_hand: &[&str],
    ) -> Option<BTreeSet<Tag>> {
        let past = Past { series: &self.series, ..Past::of(&self.revisions) };
        let Due::Tags(due) = schedule::due(&past, &self.config, now) else {
            panic!("there is a schedule")
        };
        let series = schedule::series_after(&past, &self.config, &due, now);
        if due.is_empty() && !force {
            return None;
        }
        let by_hand: BTreeSet<Tag> = by_hand.iter().map(|text| tag(text)).collect();
        self.series = series;
        let made = revision(self.made_on.len() as u128, now, due, by_hand);
        self.made_on.insert(made.uuid, day);
        self.revisions.insert(0, made.clone());
        let verdicts =
            retention(&self.revisions, &HashSet::new(), &Rule::Schedule(&self.config.schedule));
        apply(&mut self.revisions, &verdicts, |_| true);
        Some(made.tags)
    }

    fn note(&mut self, day: i64, what: &str, tags: &BTreeSet<Tag>) {
        let date = at(day, 0).strftime("%Y-%m-%d");
        self.troubles.push(format!("| {date} | {what} | {} |", list(tags)));
    }

    /// What has to hold on every day, and after a calm year.
    fn check(&self, day: i64) {
        let pinned = self.revisions.iter().filter(|each| !each.pinned_tags.is_empty()).count();
        assert_eq!(pinned, usize::from(day >= self.events.before_upgrade), "day {day}");
        let count = self.revisions.len() - pinned;
        // Beyond what the schedule keeps: a forced one, one that a clock set back has doubled; and after outages one
        // of each tag, made so shortly before the next that it does not count.
        let more = if self.events.calm(day) { 2 } else { 5 };
        assert!(count <= SUM_OF_KEEP + more, "day {day}: {count} revisions");
        for (name, interval) in &self.config.schedule {
            let keep = keep(interval);
            let carriers = self.revisions.iter().filter(|each| each.tags.contains(name));
            let ages: Vec<i64> = carriers.map(|each| day - self.made_on[&each.uuid]).collect();
            let days = interval.interval.as_hours() / 24;
            let reach = days * (interval.keep as i64 - 1);
            if day > 2 * reach + days {
                assert!(ages.len() >= keep, "day {day}, {name}: {ages:?}");
            }
            if self.events.calm(day) {
                assert_eq!(ages.len(), keep, "day {day}, {name}: {ages:?}");
                let oldest = ages[keep - 1];
                // The oldest may be late by a day or two that were missed, and so may the next one.
                let (least, most) = (reach - 3, reach + days + interval.keep as i64 * 3);
                assert!((least..=most).contains(&oldest), "day {day}, {name}: {ages:?}");
            } else if day > reach + 2 * days {
                // The revision of a wrong clock takes the place of one.
                assert!(ages.iter().any(|&age| age >= reach - days), "day {day}, {name}: {ages:?}");
            }
        }
    }

    /// The result at the end, as `doc/retention.md` shows it.
    fn table(&self) -> Vec<String> {
        let verdicts =
            retention(&self.revisions, &HashSet::new(), &Rule::Schedule(&self.config.schedule));
        let row = |(number, revision): (usize, &Revision)| {
            let (started, reason) =
                (revision.started.strftime("%Y-%m-%d %H:%M"), &verdicts[number].reason);
            format!("| {number} | {started} | {} | {reason} |", list(&revision.tags))
        };
        self.revisions.iter().enumerate().map(row).collect()
    }
}

/// Minutes after 02:00 on a day.
fn at(day: i64, minutes: i64) -> Timestamp {
    let first: Timestamp = FIRST_NIGHT.parse().expect("a time");
    first + SignedDuration::from_hours(24 * day) + SignedDuration::from_mins(minutes)
}

fn list(tags: &BTreeSet<Tag>) -> String {
    match tags.is_empty() {
        true => "none".to_owned(),
        false => tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(", "),
    }
}

/// The table in doc/retention.md is what ten years of cron leave, with bounds that hold on each of its days.
#[test]
fn ten_years_of_retention_match_the_document() {
    let mut simulation = Simulation::new();
    simulation.run();
    let calm = (0..DAYS).filter(|&day| simulation.events.calm(day)).count();
    assert!(calm > 1000, "{calm} days on which the bounds are exact");
    let table = simulation.table();
    let shown = table.join("\n");
    assert!(documented("## Ten years") == table, "the table should be:\n\n{shown}\n");
    let troubles = simulation.troubles.join("\n");
    assert!(
        documented("What happened meanwhile") == simulation.troubles,
        "the table should be:\n\n{troubles}\n"
    );
}

/// What a wrong clock made does not stay forever: in the end nothing is left of it.
#[test]
fn revisions_of_a_wrong_clock_expire_in_turn() {
    let mut simulation = Simulation::new();
    simulation.run();
    let Events { years_ahead, set_back, .. } = simulation.events;
    for (day, expected) in [(years_ahead, 1), (set_back, 2)] {
        let made: Vec<RevisionId> = simulation
            .made_on
            .iter()
            .filter(|(_, on)| **on == day)
            .map(|(uuid, _)| *uuid)
            .collect();
        assert_eq!(made.len(), expected);
        assert!(simulation.revisions.iter().all(|each| !made.contains(&each.uuid)));
    }
}
