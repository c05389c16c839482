//! Which revisions expire, implemented a second time and without haste, and what the tests of that share.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use backy_lib::config::{Config, Interval};
use backy_lib::digest::Digest;
use backy_lib::format::manifest::Statistics;
use backy_lib::retention::{Rule, Verdict, retention};
use backy_lib::{Revision, RevisionId, Tag};
use jiff::Timestamp;

/// An archive in any state, whatever its clock has shown.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Its schedule.
    pub config: Config,
    /// Newest first.
    pub revisions: Vec<Revision>,
    /// Those known not to be readable in full.
    pub damaged: HashSet<RevisionId>,
}

impl Archive {
    /// What the library says.
    pub fn verdicts(&self) -> Vec<Verdict> {
        retention(&self.revisions, &self.damaged, &Rule::Schedule(&self.config.schedule))
    }

    /// What is left of it, with the tags.
    pub fn left(&self) -> Vec<(RevisionId, BTreeSet<Tag>)> {
        self.revisions.iter().map(|each| (each.uuid, each.tags.clone())).collect()
    }
}

/// Whether each revision stays and what expires on it, as `doc/retention.md` has it, one rule after the other.
pub fn by_the_book(archive: &Archive) -> Vec<(bool, BTreeSet<Tag>)> {
    let Archive { config, revisions, damaged } = archive;
    let apart = |a: &Revision, b: &Revision, nanoseconds: i128| {
        (a.started.as_nanosecond() - b.started.as_nanosecond()).abs() * 2 >= nanoseconds
    };
    // What each tag says: has it expired, for the revision that has it or is to be treated so.
    let expired = |name: &Tag| -> Vec<bool> {
        let interval = &config.schedule[name];
        let nanoseconds = interval.interval.as_nanos();
        let mut expired: Vec<bool> = Vec::new();
        for (number, own) in revisions.iter().enumerate() {
            let mut counted = vec![own];
            for newer in (0..number).rev() {
                let other = &revisions[newer];
                let holds = other.pinned_tags.contains(name)
                    || other.tags.contains(name) && !expired[newer];
                if holds && counted.iter().all(|each| apart(each, other, nanoseconds)) {
                    counted.push(other);
                }
            }
            expired.push(counted.len() > keep(interval));
        }
        expired
    };
    let tables: Vec<(&Tag, Vec<bool>)> =
        config.schedule.keys().map(|name| (name, expired(name))).collect();
    let shortest = config.schedule.values().map(|each| each.interval).min();
    let most = config.schedule.values().filter(|each| Some(each.interval) == shortest);
    let most = most.map(|each| each.keep).max();
    let stand_in = tables.iter().find(|(name, _)| {
        let interval = &config.schedule[*name];
        Some(interval.interval) == shortest && Some(interval.keep) == most
    });
    let first_good = revisions.iter().position(|each| !damaged.contains(&each.uuid));
    let verdict = |(number, own): (usize, &Revision)| {
        let gone: BTreeSet<Tag> = tables
            .iter()
            .filter(|(name, expired)| has_scheduled(own, name) && expired[number])
            .map(|(name, _)| (*name).clone())
            .collect();
        let untagged = own.tags.is_empty();
        let stays = config.schedule.is_empty()
            || number == 0
            || first_good == Some(number)
            || own.tags.iter().any(|name| !gone.contains(name))
            || untagged && stand_in.is_some_and(|(_, expired)| !expired[number]);
        (stays, gone)
    };
    revisions.iter().enumerate().map(verdict).collect()
}

/// A revision as a backup makes it: with the tags that were due, and those given by hand.
pub fn revision(
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

/// Carries out the verdicts that `wanted` picks, each as a whole.
pub fn apply(revisions: &mut Vec<Revision>, verdicts: &[Verdict], wanted: impl Fn(usize) -> bool) {
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

/// The tag with this name.
///
/// # Panics
/// When that is none.
pub fn tag(text: &str) -> Tag {
    text.parse().expect("a tag")
}

/// A config with a schedule of tags with intervals in hours.
pub fn config(entries: &[(&str, u32, u32)]) -> Config {
    let entry = |(tag, hours, keep): &(&str, u32, u32)| {
        format!("[schedule.{tag}]\ninterval = \"{hours}h\"\nkeep = {keep}\n")
    };
    let text: String = entries.iter().map(entry).collect();
    Config::parse(&text, Path::new("backy.toml")).expect("a config")
}

/// Whether the revision has the tag because it was due.
pub fn has_scheduled(revision: &Revision, tag: &Tag) -> bool {
    revision.tags.contains(tag) && !revision.pinned_tags.contains(tag)
}

/// How many revisions keep the tag.
pub fn keep(interval: &Interval) -> usize {
    usize::try_from(interval.keep).expect("a small number")
}
