//! Any revisions, tags, schedule and clocks: what must stay stays, the verdicts follow the rules of the document,
//! carrying them out in part changes nothing, and the plan leaves a chain after each of its steps.

use std::collections::{BTreeSet, HashSet};

use arbitrary::{Arbitrary, Unstructured};
use backy_lib::config::Config;
use backy_lib::plan::{self, Step};
use backy_lib::retention::{Rule, retention};
use backy_lib::{BlockSize, Manifest, Revision, RevisionId, Tag};
use jiff::Timestamp;

use crate::retention::{Archive, apply, by_the_book, revision, tag};

const WORDS: [&str; 6] = ["often", "daily", "weekly", "monthly", "gone", "mine"];
/// How many of the words may have a schedule.
const SCHEDULED: usize = 4;
const MAX_REVISIONS: usize = 40;

#[derive(Debug, Arbitrary)]
struct Entry {
    interval: u8,
    unit: u8,
    keep: u8,
    full: bool,
}

#[derive(Debug, Arbitrary)]
struct Made {
    clock: Clock,
    due: u8,
    by_hand: u8,
    damaged: bool,
    standalone: bool,
}

/// What the clock showed: a little later, somewhere near, or anything.
#[derive(Debug, Arbitrary)]
enum Clock {
    Later(u16),
    Near(i32),
    Any(i64),
    Same,
}

#[derive(Debug, Arbitrary)]
struct Input {
    schedule: [Option<Entry>; SCHEDULED],
    max_chain: Option<u8>,
    count: u8,
    done: u64,
    made: Vec<Made>,
}

/// Runs the target.
///
/// # Panics
/// When a promise is broken.
pub fn run(data: &[u8]) {
    let Ok(mut input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    input.made.truncate(MAX_REVISIONS);
    let archive = archive(&input);
    check_verdicts(&archive);
    check_parts(&archive, input.done);
    check_number(&archive, u32::from(input.count));
    check_plan(&archive);
}

fn archive(input: &Input) -> Archive {
    let mut now = 1_767_225_600;
    let mut archive =
        Archive { config: config(input), revisions: Vec::new(), damaged: HashSet::new() };
    for (number, made) in input.made.iter().enumerate() {
        now = match made.clock {
            Clock::Later(minutes) => now + i64::from(minutes) * 60,
            Clock::Near(seconds) => 1_767_225_600 + i64::from(seconds),
            Clock::Any(second) => second,
            Clock::Same => now,
        };
        now = now.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
        let started = Timestamp::from_second(now).expect("a time in range");
        // Manual tags only now and then, since those keep everything.
        let by_hand = if made.by_hand & 0xc0 == 0xc0 { words(made.by_hand) } else { words(0) };
        let mut one = revision(number as u128 + 1, started, words(made.due), by_hand);
        one.size_bytes = 4096;
        archive.damaged.extend(made.damaged.then_some(one.uuid));
        archive.revisions.insert(0, one);
    }
    link(&mut archive.revisions, &input.made);
    archive
}

/// Sets their images and bases as an archive has them.
fn link(revisions: &mut [Revision], made: &[Made]) {
    let names: Vec<RevisionId> = revisions.iter().map(|each| each.uuid).collect();
    for (number, (each, made)) in revisions.iter_mut().zip(made.iter().rev()).enumerate().skip(1) {
        each.image = format!("{}.qcow2", each.uuid);
        each.base = (!made.standalone).then(|| names[number - 1]);
    }
}

fn config(input: &Input) -> Config {
    let mut text = String::new();
    if let Some(max_chain) = input.max_chain {
        text.push_str(&format!("max_chain = {}\n", max_chain.max(1)));
    }
    for (word, entry) in WORDS.iter().zip(&input.schedule) {
        let Some(Entry { interval, unit, keep, full }) = entry else { continue };
        let unit = ["s", "m", "h", "d", "w"][usize::from(*unit) % 5];
        text.push_str(&format!(
            "[schedule.{word}]\ninterval = \"{}{unit}\"\nkeep = {}\nfull = {full}\n",
            (*interval).max(1),
            keep % 16 + 1
        ));
    }
    Config::parse(&text, std::path::Path::new("backy.toml")).expect("a config")
}

/// The words by the bits of a number.
fn words(bits: u8) -> BTreeSet<Tag> {
    let chosen = WORDS.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
    chosen.map(|(_, word)| tag(word)).collect()
}

/// What must stay stays; the document decides the rest.
fn check_verdicts(archive: &Archive) {
    let verdicts = archive.verdicts();
    let found: Vec<(bool, BTreeSet<Tag>)> =
        verdicts.iter().map(|each| (each.keep, each.expired_tags.clone())).collect();
    assert_eq!(found, by_the_book(archive));
    for (number, (verdict, own)) in verdicts.iter().zip(&archive.revisions).enumerate() {
        assert_eq!((verdict.number, verdict.uuid), (number, own.uuid));
        assert!(!verdict.reason.is_empty() && !verdict.reason.contains('\n'));
        assert!(verdict.keep || number > 0, "the newest goes");
        assert!(verdict.keep || own.pinned_tags.is_empty(), "a pinned one goes");
        assert!(verdict.expired_tags.is_disjoint(&own.pinned_tags), "a pinned tag expires");
        assert!(verdict.expired_tags.is_subset(&own.tags), "a tag expires that is not there");
    }
    let good = |keep: fn(bool) -> bool| {
        let both = verdicts.iter().zip(&archive.revisions);
        both.filter(|(verdict, _)| keep(verdict.keep))
            .find(|(_, own)| !archive.damaged.contains(&own.uuid))
            .map(|(verdict, _)| verdict.number)
    };
    assert_eq!(good(|_| true), good(|keep| keep), "the last good one goes");
}

/// A part and then the rest is the same as all at once, and after that nothing is left to do.
fn check_parts(archive: &Archive, done: u64) {
    let verdicts = archive.verdicts();
    let mut whole = archive.clone();
    apply(&mut whole.revisions, &verdicts, |_| true);
    for verdict in whole.verdicts() {
        assert!(verdict.keep && verdict.expired_tags.is_empty(), "not done at once: {verdict:?}");
    }
    let mut part = archive.clone();
    apply(&mut part.revisions, &verdicts, |number| done >> (number % 64) & 1 == 1);
    let rest = part.verdicts();
    apply(&mut part.revisions, &rest, |_| true);
    assert_eq!(part.left(), whole.left(), "in part it is not the same");
}

/// A plain number keeps so many, the pinned and the last good one.
fn check_number(archive: &Archive, count: u32) {
    let Archive { revisions, damaged, .. } = archive;
    let first_good = revisions.iter().position(|each| !damaged.contains(&each.uuid));
    for verdict in retention(revisions, damaged, &Rule::Newest(count)) {
        let number = verdict.number;
        let stays = number < count.max(1) as usize
            || first_good == Some(number)
            || !revisions[number].pinned_tags.is_empty();
        assert_eq!(verdict.keep, stays, "{number} with the {count} newest");
        assert!(verdict.expired_tags.is_empty());
    }
}

/// The steps delete what expires and nothing else, each once, starting with what needs no space. After each there is
/// a chain.
fn check_plan(archive: &Archive) {
    let verdicts = archive.verdicts();
    let goes: HashSet<RevisionId> =
        verdicts.iter().filter(|each| !each.keep).map(|each| each.uuid).collect();
    let mut manifest = Manifest::new(BlockSize::MIN);
    manifest.revisions.clone_from(&archive.revisions);
    check_chain(&manifest);
    let steps = plan::removal(&archive.revisions, &goes);
    let rank = |step: &Step| match step {
        Step::Remove { .. } => 0,
        Step::Merge { .. } => 1,
        Step::RollBack { .. } => 2,
        Step::Standalone { .. } => 3,
    };
    assert!(steps.is_sorted_by_key(rank), "{steps:?}");
    let mut gone = HashSet::new();
    for step in &steps {
        carry_out(&mut manifest, step, &mut gone);
        check_chain(&manifest);
    }
    assert_eq!(gone, goes);
    check_standalone(&manifest, &archive.config);
}

fn number(manifest: &Manifest, id: RevisionId) -> usize {
    manifest.revisions.iter().position(|each| each.uuid == id).expect("one that is there")
}

fn carry_out(manifest: &mut Manifest, step: &Step, gone: &mut HashSet<RevisionId>) {
    let going = match step {
        Step::Remove { revisions } => revisions.clone(),
        Step::Merge { revisions, into } => {
            // Neighbours, newest first, just before the one that takes over their blocks.
            let into = number(manifest, *into);
            assert!(!manifest.revisions[into].is_standalone(), "it reads nothing from them");
            let found = manifest.revisions[into - revisions.len()..into].iter();
            assert!(found.map(|each| each.uuid).eq(revisions.iter().copied()));
            revisions.clone()
        }
        Step::RollBack { revision, to } => {
            assert_eq!((number(manifest, *revision), number(manifest, *to)), (0, 1));
            vec![*revision]
        }
        Step::Standalone { .. } => panic!("not for a removal"),
    };
    assert!(!going.is_empty(), "a step that does nothing");
    if matches!(step, Step::Remove { .. }) {
        let stays = manifest.revisions.iter().filter(|each| !going.contains(&each.uuid));
        let bases: Vec<RevisionId> = stays.filter_map(|each| each.base).collect();
        assert!(!going.iter().any(|id| bases.contains(id)), "one that stays reads it: {step:?}");
    }
    for id in going {
        assert!(manifest.revision(id).is_some());
        manifest.remove(id);
        assert!(gone.insert(id), "{id} goes twice");
    }
}

fn check_chain(manifest: &Manifest) {
    let encoded = manifest.encode().expect("a JSON form");
    assert!(Manifest::parse(&encoded).is_ok(), "no chain: {:?}", manifest.revisions);
}

/// Only deltas are made standalone, each once: all those to be kept in full.
fn check_standalone(manifest: &Manifest, config: &Config) {
    let mut revisions = manifest.revisions.clone();
    let steps = plan::standalone(&revisions, config);
    let mut made = HashSet::new();
    for step in &steps {
        let Step::Standalone { revision, reason } = step else { panic!("{step:?}") };
        assert!(made.insert(*revision) && !reason.contains('\n'));
        let one = revisions.iter_mut().find(|each| each.uuid == *revision).expect("one of them");
        assert!(!one.is_image() && !one.is_standalone(), "there is nothing to do for {revision}");
        one.base = None;
    }
    for each in revisions.iter().skip(1) {
        let full = |tag: &Tag| config.schedule.get(tag).is_some_and(|entry| entry.full);
        assert!(
            each.is_standalone() || !each.tags.iter().any(full),
            "{} is not in full",
            each.uuid
        );
    }
}
