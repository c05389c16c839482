//! What may exist after a failure.

use std::collections::BTreeSet;

use backy_lib::RevisionId;
use backy_lib::storage::sim::Unsynced;

use super::{Model, Verb, verb};
use crate::world::{self, Expected};

/// What a command may have done when it was interrupted: all of it, or a part.
#[derive(Debug, Clone, Default)]
pub(super) struct Effects {
    /// Revisions that may be deleted.
    goes: BTreeSet<RevisionId>,
    /// Content of new revisions that may exist.
    comes: Vec<Vec<u8>>,
}

impl Effects {
    /// Those of two commands, one after the other.
    fn and(&self, other: &Effects) -> Effects {
        Effects {
            goes: self.goes.union(&other.goes).copied().collect(),
            comes: self.comes.iter().chain(&other.comes).cloned().collect(),
        }
    }
}

impl Model {
    /// What a command may do.
    pub(super) fn effects(&self, verb: Verb) -> Effects {
        let uuid = |number: usize| self.world.expected[number].uuid;
        match verb {
            Verb::Backup { .. } => {
                Effects { comes: vec![self.source.clone()], ..Effects::default() }
            }
            Verb::Import => Effects { comes: verb::sample_contents().into(), ..Effects::default() },
            Verb::Remove { which } => Effects {
                goes: self.chosen(which).into_iter().map(uuid).collect(),
                ..Effects::default()
            },
            Verb::Maintain { keep } => {
                Effects { goes: self.expiring(keep).into_iter().collect(), ..Effects::default() }
            }
            _ => Effects::default(),
        }
    }

    /// A command has failed, or the power was cut. Then a subset of the unsynced changes is left that depends on
    /// `cut`.
    pub(super) fn interrupted(&mut self, verb: Verb, effects: Effects, cut: Option<u64>) {
        self.unfinished.extend(effects.comes.iter().cloned());
        self.going.extend(&effects.goes);
        match cut {
            Some(seed) if !matches!(verb, Verb::Rebuild { .. }) => {
                self.cut(Unsynced::Subset(seed), &effects);
            }
            Some(seed) => self.world.disk = self.world.disk.crash(Unsynced::Subset(seed)),
            None => {
                let before = self.world.expected.clone();
                if !matches!(verb, Verb::Rebuild { .. }) {
                    self.adopt(&[(before.clone(), effects.clone())], &format!("{verb:?} failed"));
                }
                self.otherwise.push((before, effects));
            }
        }
        if matches!(verb, Verb::Rebuild { .. }) {
            // A manifest may have been published already.
            self.lose_manifest(verb);
            let done = self.attempt(verb).expect("a manifest that is made anew");
            self.done(verb, done);
        }
    }

    /// The power fails: what was durable is left, and of the rest what `unsynced` says.
    pub(super) fn cut(&mut self, unsynced: Unsynced, effects: &Effects) {
        self.readers.clear();
        self.world.disk = self.world.disk.crash(unsynced);
        let seen = (self.world.expected.clone(), Effects::default());
        let mut bases = vec![seen];
        bases.append(&mut self.otherwise);
        bases.iter_mut().for_each(|(_, each)| *each = each.and(effects));
        self.adopt(&bases, &format!("after a power cut, {unsynced:?}"));
    }

    /// Accepts the current state as the expected one, if it is one of `bases` with its effects.
    fn adopt(&mut self, bases: &[(Vec<Expected>, Effects)], place: &str) {
        let archive =
            world::open(&self.world.disk).unwrap_or_else(|error| panic!("{place}: open: {error}"));
        let found: Vec<RevisionId> = archive.revisions().iter().map(|r| r.uuid).collect();
        let read = |number: usize| world::read_revision(&archive, number).ok();
        let adopted = bases.iter().find_map(|(base, effects)| explain(&found, base, effects, read));
        let Some(adopted) = adopted else {
            let uuids = |base: &[Expected]| base.iter().map(|e| e.uuid).collect::<Vec<_>>();
            let bases: Vec<_> = bases.iter().map(|(base, _)| uuids(base)).collect();
            panic!("{place}: found revisions {found:?}, expected something like {bases:?}");
        };
        self.world.expected = adopted;
        self.remember();
        self.check(place);
    }

    /// A manifest was rebuilt: every existing revision is there, in order, and nothing that never existed.
    pub(super) fn rebuilt(&mut self, revisions: &[RevisionId]) {
        let expected = &self.world.expected;
        let was = expected.iter().map(|e| e.uuid).filter(|uuid| revisions.contains(uuid));
        let is = revisions.iter().copied().filter(|uuid| expected.iter().any(|e| e.uuid == *uuid));
        assert!(was.eq(is), "a rebuild gave another order: {revisions:?}");
        for Expected { uuid, .. } in expected {
            let there = revisions.contains(uuid) || self.going.contains(uuid);
            assert!(there, "a rebuild lost revision {uuid}");
        }
        let archive = world::open(&self.world.disk).expect("open");
        let rebuilt = revisions.iter().enumerate().map(|(number, uuid)| {
            let bytes = self.known.get(uuid).cloned().unwrap_or_else(|| {
                let bytes = world::read_revision(&archive, number)
                    .unwrap_or_else(|error| panic!("a revision that was being made: {error}"));
                assert!(self.unfinished.contains(&bytes), "a rebuild made up revision {uuid}");
                bytes
            });
            Expected { uuid: *uuid, bytes }
        });
        self.world.expected = rebuilt.collect();
    }

    pub(super) fn remember(&mut self) {
        for expected in &self.world.expected {
            self.known.entry(expected.uuid).or_insert_with(|| expected.bytes.clone());
        }
    }
}

/// The current revisions, if they are `base` except for what may be deleted, with new revisions on top whose content
/// may exist.
fn explain(
    found: &[RevisionId],
    base: &[Expected],
    effects: &Effects,
    read: impl Fn(usize) -> Option<Vec<u8>>,
) -> Option<Vec<Expected>> {
    let is_new = |uuid: &&RevisionId| base.iter().all(|expected| expected.uuid != **uuid);
    let new = found.iter().take_while(is_new).enumerate();
    let new: Option<Vec<Expected>> = new
        .map(|(number, uuid)| {
            let bytes = read(number).filter(|bytes| effects.comes.contains(bytes))?;
            Some(Expected { uuid: *uuid, bytes })
        })
        .collect();
    let mut all = new?;
    let stays = |e: &&Expected| found.contains(&e.uuid) || !effects.goes.contains(&e.uuid);
    all.extend(base.iter().filter(stays).cloned());
    all.iter().map(|expected| expected.uuid).eq(found.iter().copied()).then_some(all)
}
