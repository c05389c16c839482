//! The rules on random revisions, tags, schedules and clocks.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use backy_lib::config::Interval;
use backy_lib::retention::{Rule, retention};
use backy_lib::schedule::{self, Due, Past};
use backy_lib::{Config, Revision, RevisionId, Tag};
use backy_tests::retention::{Archive, apply, by_the_book, config, keep, revision, tag};
use jiff::Timestamp;
use proptest::prelude::*;

use super::documented;

const WORDS: [&str; 5] = ["often", "daily", "weekly", "gone", "mine"];

/// Some of the first words, by the bits of a number.
fn words(bits: u8, count: usize) -> BTreeSet<Tag> {
    let chosen = WORDS.iter().take(count).enumerate().filter(|(at, _)| bits >> at & 1 == 1);
    chosen.map(|(_, word)| tag(word)).collect()
}

fn any_config() -> impl Strategy<Value = Config> {
    let entry = || prop::option::weighted(0.8, (1..40u32, 1..5u32));
    (entry(), entry(), entry()).prop_map(|(often, daily, weekly)| {
        let entries: Vec<(&str, u32, u32)> = [often, daily, weekly]
            .into_iter()
            .zip(WORDS)
            .filter_map(|(entry, word)| entry.map(|(hours, keep)| (word, hours, keep)))
            .collect();
        config(&entries)
    })
}

/// Steps of some hours, jumps back and forth, and times that are centuries away.
fn any_clock() -> impl Strategy<Value = Timestamp> {
    let hour = |hour: i64| Timestamp::from_second(1_767_225_600 + hour * 1800).expect("a time");
    prop_oneof![
        8 => (0..200i64).prop_map(hour),
        1 => (-1_000_000..1_000_000i64).prop_map(hour),
        1 => prop_oneof![Just(Timestamp::MIN), Just(Timestamp::MAX)],
    ]
}

fn any_archive() -> impl Strategy<Value = Archive> {
    // Most tags are scheduled ones, so that some expire.
    let by_hand = prop_oneof![4 => Just(0u8), 1 => any::<u8>()];
    let one = (any_clock(), any::<u8>(), by_hand, prop::bool::weighted(0.3));
    (any_config(), prop::collection::vec(one, 0..25)).prop_map(|(config, drawn)| {
        let mut damaged = HashSet::new();
        let mut revisions = Vec::new();
        for (number, (started, due, by_hand, bad)) in drawn.into_iter().enumerate() {
            // The tag without a schedule is rare, since it keeps everything.
            let due = if number % 5 == 0 { words(due, 4) } else { words(due, 3) };
            let made = revision(number as u128, started, due, words(by_hand, 5));
            damaged.extend(bad.then_some(made.uuid));
            revisions.push(made);
        }
        Archive { config, revisions, damaged }
    })
}

/// A history with a right clock: due backups at random times, and some manual ones.
fn sane_history(config: &Config, steps: &[(i64, u8)]) -> Vec<Revision> {
    let mut revisions = Vec::new();
    let mut second = 1_767_225_600;
    for (number, (minutes, by_hand)) in steps.iter().enumerate() {
        second += minutes * 60;
        let now = Timestamp::from_second(second).expect("a time");
        let Due::Tags(due) = schedule::due(&Past::of(&revisions), config, now) else { continue };
        let by_hand = match by_hand {
            0 => BTreeSet::from([tag("mine")]),
            1 => BTreeSet::new(),
            _ if due.is_empty() => continue,
            _ => BTreeSet::new(),
        };
        revisions.insert(0, revision(number as u128, now, due, by_hand));
    }
    revisions
}

/// Whether the revisions with a tag are so far apart that each of them counts. After an outage they may not be.
fn is_regular(revisions: &[Revision], name: &Tag, interval: &Interval) -> bool {
    let with = revisions.iter().filter(|each| each.tags.contains(name));
    let times: Vec<Timestamp> = with.map(|each| each.started).collect();
    let mut gaps = times.windows(2).map(|pair| pair[0].duration_since(pair[1]));
    gaps.all(|gap| gap * 2 >= interval.interval)
}

fn steps() -> impl Strategy<Value = Vec<(i64, u8)>> {
    prop::collection::vec((1..1500i64, 0..12u8), 1..80)
}

/// Every reason that the document explains is given, in these words.
#[test]
fn the_reasons_are_those_in_the_document() {
    let hour = |number: i64| Timestamp::from_second(number * 3600).expect("a time");
    let make = |number: u8, due: &str, by_hand: &str| {
        let tags = |text: &str| text.split_whitespace().map(tag).collect();
        revision(number.into(), hour(-24 * i64::from(number)), tags(due), tags(by_hand))
    };
    let mut revisions: Vec<Revision> = (0..9).map(|number| make(number, "daily", "")).collect();
    revisions.insert(2, make(102, "", ""));
    revisions.extend([
        make(10, "hourly", ""),
        make(11, "daily", "before-upgrade"),
        make(12, "", ""),
        make(13, "daily", ""),
        make(14, "daily", ""),
    ]);
    let damaged = revisions[..13].iter().map(|each| each.uuid).collect();
    let (daily, none) = (config(&[("daily", 24, 9)]).schedule, BTreeMap::new());
    let rules = [Rule::Schedule(&daily), Rule::Schedule(&none), Rule::Newest(3), Rule::Newest(1)];
    let said: Vec<String> = rules
        .iter()
        .flat_map(|rule| retention(&revisions, &damaged, rule))
        .flat_map(|mut verdict| {
            let goes = verdict.clone();
            verdict.freeze();
            [goes, verdict]
        })
        .flat_map(|verdict| {
            let fate = if verdict.keep { "keep" } else { "delete" };
            verdict.reason.split(", ").map(|each| format!("{fate}: {each}")).collect::<Vec<_>>()
        })
        .collect();
    let rows = documented("## Reasons");
    assert_eq!(rows.len(), 13);
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let wanted = format!("{}: {}", cells[1], cells[2]);
        assert!(said.contains(&wanted), "{wanted} is not in {said:#?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The verdicts follow the rules of the document.
    #[test]
    fn the_verdicts_are_those_of_the_book(archive in any_archive()) {
        let found: Vec<(bool, BTreeSet<Tag>)> =
            archive.verdicts().into_iter().map(|verdict| (verdict.keep, verdict.expired_tags)).collect();
        prop_assert_eq!(found, by_the_book(&archive));
    }

    /// With a plain number the newest, the pinned and the last good one stay, nothing else, and no tag expires.
    #[test]
    fn a_plain_number_is_exact(archive in any_archive(), count in 0..30u32) {
        let Archive { revisions, damaged, .. } = &archive;
        let first_good = revisions.iter().position(|each| !damaged.contains(&each.uuid));
        for verdict in retention(revisions, damaged, &Rule::Newest(count)) {
            let number = verdict.number;
            let expected = number < (count.max(1) as usize)
                || first_good == Some(number)
                || !revisions[number].pinned_tags.is_empty();
            prop_assert_eq!(verdict.keep, expected, "{}", number);
            prop_assert!(verdict.expired_tags.is_empty());
        }
    }

    /// Whatever the clock says: the newest stays, pinned revisions stay with their tags, a good one stays if there
    /// was one, and of each scheduled tag the newest `keep` stay.
    #[test]
    fn what_must_stay_stays(archive in any_archive()) {
        let before = archive.revisions.clone();
        let mut after = archive.clone();
        apply(&mut after.revisions, &archive.verdicts(), |_| true);
        let left = |uuid: RevisionId| after.revisions.iter().find(|each| each.uuid == uuid);
        prop_assert_eq!(before.first().map(|each| each.uuid), after.revisions.first().map(|each| each.uuid));
        for pinned in before.iter().filter(|each| !each.pinned_tags.is_empty()) {
            let pinned_tags = left(pinned.uuid).map(|each| &each.pinned_tags & &each.tags);
            prop_assert_eq!(pinned_tags.as_ref(), Some(&pinned.pinned_tags));
        }
        let good = |revisions: &[Revision]| revisions.iter().any(|each| !archive.damaged.contains(&each.uuid));
        prop_assert_eq!(good(&before), good(&after.revisions));
        for (name, interval) in &archive.config.schedule {
            for carrier in before.iter().filter(|each| each.tags.contains(name)).take(keep(interval)) {
                prop_assert!(left(carrier.uuid).is_some_and(|each| each.tags.contains(name)), "{}", name);
            }
        }
    }

    /// Carrying out a part of the verdicts, and then those on what is left, ends where carrying them out at once
    /// does. Nothing more is to do there.
    #[test]
    fn it_does_not_matter_how_far_one_got(archive in any_archive(), done in any::<u32>()) {
        let mut whole = archive.clone();
        apply(&mut whole.revisions, &archive.verdicts(), |_| true);
        for verdict in whole.verdicts() {
            prop_assert!(verdict.keep && verdict.expired_tags.is_empty(), "{:?}", verdict);
        }
        let mut part = archive.clone();
        apply(&mut part.revisions, &archive.verdicts(), |number| done >> number & 1 == 1);
        let verdicts = part.verdicts();
        apply(&mut part.revisions, &verdicts, |_| true);
        prop_assert_eq!(part.left(), whole.left());
    }

    /// When the clock is right, each tag stays on the `keep` newest that have it, and on no other unless some
    /// were made shortly before others.
    #[test]
    fn with_a_clock_that_is_right_keep_is_exact(config in any_config(), steps in steps()) {
        let revisions = sane_history(&config, &steps);
        let verdicts = retention(&revisions, &HashSet::new(), &Rule::Schedule(&config.schedule));
        for (name, interval) in &config.schedule {
            let carriers = revisions.iter().zip(&verdicts).filter(|(each, _)| each.tags.contains(name));
            let is_regular = is_regular(&revisions, name, interval);
            for (place, (_, verdict)) in carriers.enumerate() {
                let (expired, is_beyond) = (verdict.expired_tags.contains(name), place >= keep(interval));
                prop_assert!(expired == is_beyond || !expired && !is_regular, "{} {}", name, place);
            }
        }
    }

    /// When nothing was left to do and one revision is added, a tag expires only if the new one has it; and on one
    /// revision at most, if the clock is right.
    #[test]
    fn one_more_expires_at_most_one_of_each_tag(config in any_config(), steps in steps()) {
        let mut newest_first = sane_history(&config, &steps);
        newest_first.reverse();
        let rule = Rule::Schedule(&config.schedule);
        let mut revisions: Vec<Revision> = Vec::new();
        for added in newest_first {
            revisions.insert(0, added.clone());
            let verdicts = retention(&revisions, &HashSet::new(), &rule);
            for (name, interval) in &config.schedule {
                let expired = verdicts.iter().filter(|each| each.expired_tags.contains(name)).count();
                let is_regular = is_regular(&revisions, name, interval);
                prop_assert!(expired == 0 || added.tags.contains(name), "{} {}", name, expired);
                prop_assert!(expired <= 1 || !is_regular, "{} {}", name, expired);
            }
            apply(&mut revisions, &verdicts, |_| true);
        }
    }

    /// Whatever the clock says: a new revision expires only the tags that it has.
    #[test]
    fn one_more_expires_no_tag_that_it_has_not(archive in any_archive(), started in any_clock(), tags in any::<u8>()) {
        let mut archive = archive;
        let verdicts = archive.verdicts();
        apply(&mut archive.revisions, &verdicts, |_| true);
        let added = revision(1000, started, words(tags, 3), BTreeSet::new());
        archive.revisions.insert(0, added.clone());
        for verdict in archive.verdicts() {
            prop_assert!(verdict.expired_tags.is_subset(&added.tags), "{:?}", verdict);
        }
    }
}
