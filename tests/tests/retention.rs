//! Which revisions go: against a rule written a second time and without haste, and over ten years of cron.

mod retention {
    mod rules;
    mod simulation;
}

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use backy_lib::config::{Config, Interval};
use backy_lib::digest::Digest;
use backy_lib::format::manifest::Statistics;
use backy_lib::retention::Verdict;
use backy_lib::{Revision, RevisionId, Tag};
use jiff::Timestamp;

/// A revision as a backup makes it: with the tags that were due, and those given by hand.
fn revision(
    name: u128,
    started: Timestamp,
    due: BTreeSet<Tag>,
    by_hand: BTreeSet<Tag>,
) -> Revision {
    let uuid = RevisionId::from(uuid::Uuid::from_u128(name));
    let statistics = Statistics::default();
    let mut revision = Revision::newest(uuid, started, started, 0, Digest::of(b""), statistics);
    revision.tags = &due | &by_hand;
    revision.pinned_tags = by_hand;
    revision
}

/// Carries out those verdicts that `wanted` picks, each as a whole.
fn apply(revisions: &mut Vec<Revision>, verdicts: &[Verdict], wanted: impl Fn(usize) -> bool) {
    let mut number = 0;
    revisions.retain_mut(|revision| {
        let verdict = &verdicts[number];
        assert_eq!((verdict.number, verdict.uuid), (number, revision.uuid));
        number += 1;
        if !wanted(verdict.number) {
            return true;
        }
        revision.tags.retain(|tag| !verdict.expired_tags.contains(tag));
        verdict.keep
    });
}

fn tag(text: &str) -> Tag {
    text.parse().expect("a tag")
}

/// A config with a schedule of tags with intervals in hours.
fn config(entries: &[(&str, u32, u32)]) -> Config {
    let entry = |(tag, hours, keep): &(&str, u32, u32)| {
        format!("[schedule.{tag}]\ninterval = \"{hours}h\"\nkeep = {keep}\n")
    };
    let text: String = entries.iter().map(entry).collect();
    Config::parse(&text, Path::new("backy.toml")).expect("a config")
}

/// Whether the revision has the tag because it was due.
fn has_scheduled(revision: &Revision, tag: &Tag) -> bool {
    revision.tags.contains(tag) && !revision.pinned_tags.contains(tag)
}

fn keep(interval: &Interval) -> usize {
    usize::try_from(interval.keep).expect("a small number")
}

/// The rows of the first table after `heading`, without its head.
fn documented(heading: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../doc/retention.md");
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (_, after) = text.split_once(heading).unwrap_or_else(|| panic!("no '{heading}'"));
    let rows = after.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    rows.take_while(|line| line.starts_with('|')).map(str::to_owned).collect()
}
