//! The steps that delete revisions, in the order that is safe and needs the least space.
//!
//! A plan is a value: `--dry-run` prints exactly what would be executed.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Result};
use crate::base::revision::RevisionId;
use crate::format::manifest::Revision;
use crate::policy::config::Config;

/// A step that is committed on its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// Deletes files that no remaining revision reads through to. Needs no space.
    Remove {
        /// The revisions to delete.
        revisions: Vec<RevisionId>,
    },
    /// Appends to the next older revision's delta whatever it reads from these revisions, then deletes them.
    Merge {
        /// The revisions to delete, adjacent, newest first.
        revisions: Vec<RevisionId>,
        /// The revision that takes over their blocks.
        into: RevisionId,
    },
    /// Deletes the newest revision: the image becomes that of an older one.
    RollBack {
        /// The revision to delete.
        revision: RevisionId,
        /// The newest revision afterwards.
        to: RevisionId,
    },
    /// Makes a revision independent of all others.
    Standalone {
        /// The revision.
        revision: RevisionId,
        /// Why, in words.
        reason: String,
    },
}

/// The steps that delete the revisions in `goes`: first those that free space without needing any, then
/// merges, last the change of the image. Empty if no revision would be left; the caller has to refuse that.
pub fn removal(revisions: &[Revision], goes: &HashSet<RevisionId>) -> Vec<Step> {
    let mut removed = Vec::new();
    let mut merges = Vec::new();
    let mut roll_back = None;
    let mut run: Vec<RevisionId> = Vec::new();
    for revision in revisions {
        if goes.contains(&revision.uuid) {
            run.push(revision.uuid);
            continue;
        }
        let mut run = std::mem::take(&mut run);
        if revisions.first().map(|newest| newest.uuid) == run.first().copied() && !run.is_empty() {
            let newest = run.remove(0);
            roll_back = Some(Step::RollBack { revision: newest, to: revision.uuid });
        }
        match revision.is_standalone() {
            true => removed.extend(run),
            false if run.is_empty() => {}
            false => merges.push(Step::Merge { revisions: run, into: revision.uuid }),
        }
    }
    if run.len() == revisions.len() {
        return Vec::new();
    }
    // The oldest ones: no revision reads through to them.
    removed.extend(run);
    let remove = (!removed.is_empty()).then_some(Step::Remove { revisions: removed });
    remove.into_iter().chain(merges).chain(roll_back).collect()
}

/// A run of revisions that are to be merged, by number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    /// The one that takes over their blocks. They are those between it and `base`.
    pub(crate) into: (usize, &'a Revision),
    /// The one that it reads through to afterwards.
    pub(crate) base: (usize, &'a Revision),
}

/// Where in the chain a run of revisions is, newest first, that will be merged into the next older one.
///
/// # Errors
/// [`Error::Plan`] when they are not such a run: merging would lose what the others hold.
pub(crate) fn run<'a>(
    revisions: &'a [Revision],
    gone: &[RevisionId],
    into: RevisionId,
) -> Result<Run<'a>> {
    let older = revisions.iter().enumerate().find(|(_, revision)| revision.uuid == into);
    let base = older.and_then(|(number, _)| number.checked_sub(gone.len() + 1));
    let base = base.and_then(|base| Some((base, revisions.get(base)?)));
    let (Some(older), Some(base), Some(last)) = (older, base, gone.last()) else {
        return refuse(
            into,
            "no such run of revisions before it",
            "those to merge, and a newer one",
        );
    };
    let between = revisions.get(base.0 + 1..older.0).unwrap_or_default();
    if !between.iter().map(|revision| revision.uuid).eq(gone.iter().copied()) {
        return refuse(into, "other revisions before it", "those to merge");
    }
    match older.1.base {
        Some(next) if next == *last => Ok(Run { into: older, base }),
        _ => refuse(into, "one that does not read through to the last of them", "one that does"),
    }
}

fn refuse<T>(id: RevisionId, found: &str, expected: &str) -> Result<T> {
    let message = format!("revision {id}: found {found}, expected {expected}");
    Err(Error::Plan { message })
}

/// Whether a step keeps every remaining revision readable, in an archive with these revisions.
///
/// Called again right before each step is executed, because the plan may have been made from another manifest.
///
/// # Errors
/// [`Error::Plan`], which names the revision.
pub(crate) fn check(step: &Step, revisions: &[Revision]) -> Result<()> {
    let number_of = |id: RevisionId| revisions.iter().position(|revision| revision.uuid == id);
    match step {
        Step::Remove { revisions: gone } => {
            for &id in gone {
                match number_of(id) {
                    Some(0) => return refuse(id, "the newest", "an older one to remove"),
                    Some(_) => {}
                    None => return refuse(id, "none such", "one to remove"),
                }
            }
            let reads_through = |revision: &&Revision| {
                !gone.contains(&revision.uuid)
                    && revision.base.is_some_and(|base| gone.contains(&base))
            };
            match revisions.iter().find(reads_through) {
                Some(left) => {
                    refuse(left.uuid, "one that reads through to what is removed", "none")
                }
                None => Ok(()),
            }
        }
        Step::Merge { revisions: gone, into } => run(revisions, gone, *into).map(|_| ()),
        Step::RollBack { revision, to } => {
            let found: Vec<RevisionId> = revisions.iter().take(2).map(|each| each.uuid).collect();
            match found == [*revision, *to] {
                true => Ok(()),
                false => {
                    refuse(*revision, "other revisions as the newest two", "it and the one before")
                }
            }
        }
        Step::Standalone { revision, .. } => match number_of(*revision) {
            None | Some(0) => refuse(*revision, "the newest or none such", "an older one"),
            Some(number) if revisions.get(number).is_some_and(Revision::is_standalone) => {
                refuse(*revision, "a standalone one", "one that reads through to another")
            }
            Some(_) => Ok(()),
        },
    }
}

/// The steps that make remaining revisions standalone: those with a tag whose schedule has `full`, and enough
/// others to keep chains within the limit.
pub fn standalone(stay: &[Revision], config: &Config) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut piece: Vec<&Revision> = Vec::new();
    let mut on_image = true;
    for revision in stay.iter().skip(1) {
        let full =
            revision.tags.iter().find(|tag| config.schedule.get(*tag).is_some_and(|i| i.full));
        if !revision.is_standalone() && full.is_none() {
            piece.push(revision);
            continue;
        }
        steps.extend(cuts(&piece, on_image, config));
        if let Some(tag) = full.filter(|_| !revision.is_standalone()) {
            let reason = format!("revisions with the tag {tag} are kept in full");
            steps.push(Step::Standalone { revision: revision.uuid, reason });
        }
        piece.clear();
        on_image = false;
    }
    steps.extend(cuts(&piece, on_image, config));
    steps
}

/// Where to cut a piece of the chain, newest first, so that no piece is too long.
///
/// The piece on the image grows with every backup: its newest delta is made standalone, so that the next ones
/// can build on that for as long again. Any other piece only needs a cut after two became one or the limit
/// changed: it is cut from its old end, so that everything past the new end stays as it is.
fn cuts(piece: &[&Revision], on_image: bool, config: &Config) -> Vec<Step> {
    let Some(limit) = config.max_chain else { return Vec::new() };
    let mut rest = piece;
    let mut cut = Vec::new();
    if let Some((newest, behind)) = rest.split_first().filter(|_| on_image && too_long(rest, limit))
    {
        cut.push(*newest);
        rest = behind;
    }
    while too_long(rest, limit) {
        let at = rest.len().saturating_sub(limit as usize + 1);
        cut.extend(rest.get(at));
        rest = rest.get(..at).unwrap_or_default();
    }
    let reason = format!("a chain of {} deltas, longer than max_chain ({limit})", piece.len());
    let step =
        |revision: &Revision| Step::Standalone { revision: revision.uuid, reason: reason.clone() };
    cut.into_iter().map(step).collect()
}

fn too_long(piece: &[&Revision], limit: u32) -> bool {
    piece.len() > limit as usize
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jiff::Timestamp;

    use super::*;
    use crate::base::digest::Digest;
    use crate::base::units::BlockSize;
    use crate::format::manifest::{Manifest, Statistics};

    /// Revisions, newest first: `s` for a standalone one.
    fn revisions(kinds: &str) -> Vec<Revision> {
        let mut manifest = Manifest::new(BlockSize::DEFAULT);
        for number in (0..kinds.len()).rev() {
            let time = Timestamp::from_second(1_000_000 - number as i64).unwrap();
            let (id, digest) = (RevisionId::new(time), Digest::of(b""));
            let statistics = Statistics::default();
            manifest.push_newest(Revision::newest(id, time, time, 0, digest, statistics));
        }
        for (revision, kind) in manifest.revisions.iter_mut().zip(kinds.chars()) {
            revision.base = revision.base.filter(|_| kind != 's');
        }
        manifest.revisions
    }

    /// The steps as text, with revision numbers: `remove 1 2`.
    fn said(revisions: &[Revision], steps: &[Step]) -> Vec<String> {
        let number = |id: &RevisionId| revisions.iter().position(|r| r.uuid == *id).unwrap();
        let numbers = |ids: &[RevisionId]| -> String {
            ids.iter().map(|id| format!(" {}", number(id))).collect()
        };
        let say = |step: &Step| match step {
            Step::Remove { revisions } => format!("remove{}", numbers(revisions)),
            Step::Merge { revisions, into } => {
                format!("merge{} into {}", numbers(revisions), number(into))
            }
            Step::RollBack { revision, to } => {
                format!("roll back {} to {}", number(revision), number(to))
            }
            Step::Standalone { revision, reason } => {
                format!("standalone {}: {reason}", number(revision))
            }
        };
        steps.iter().map(say).collect()
    }

    /// First the steps that free space, then those that need it, last the one that changes the image.
    /// Neighbours are merged together. A merge is not needed before a standalone revision, nor behind all
    /// remaining ones.
    #[test]
    fn revisions_are_deleted_in_the_safe_order() {
        for (kinds, goes, steps) in [
            ("dddd", &[][..], &[][..]),
            ("dddd", &[3], &["remove 3"]),
            ("dddd", &[1], &["merge 1 into 2"]),
            ("dddddd", &[1, 2, 4], &["merge 1 2 into 3", "merge 4 into 5"]),
            ("dddd", &[0], &["roll back 0 to 1"]),
            ("ddddd", &[0, 1, 3, 4], &["remove 3 4", "merge 1 into 2", "roll back 0 to 2"]),
            ("ddsdd", &[1, 3], &["remove 1", "merge 3 into 4"]),
            ("ddsd", &[0, 1], &["remove 1", "roll back 0 to 2"]),
            ("dsdd", &[1], &["merge 1 into 2"]),
            ("ddd", &[0, 1, 2], &[]),
        ] {
            let all = revisions(kinds);
            let goes: HashSet<RevisionId> = goes.iter().map(|&n: &usize| all[n].uuid).collect();
            assert_eq!(said(&all, &removal(&all, &goes)), *steps, "{kinds} {goes:?}");
        }
    }

    /// The manifest after a step.
    fn after(revisions: &[Revision], step: &Step) -> Vec<Revision> {
        let mut manifest = Manifest::new(BlockSize::DEFAULT);
        manifest.revisions = revisions.to_vec();
        let gone: Vec<RevisionId> = match step {
            Step::Remove { revisions } | Step::Merge { revisions, .. } => revisions.clone(),
            Step::RollBack { revision, .. } => vec![*revision],
            Step::Standalone { revision, .. } => {
                manifest.revisions.iter_mut().find(|r| r.uuid == *revision).unwrap().base = None;
                Vec::new()
            }
        };
        for id in gone {
            assert!(manifest.revision(id).is_some());
            manifest.remove(id);
        }
        manifest.revisions
    }

    /// Every step of every plan is accepted in its turn. With another archive or another run of revisions, it
    /// is refused.
    #[test]
    fn only_steps_that_fit_the_chain_are_executed() {
        let kinds = ["dddd", "ddsdd", "dsddsd", "dddddd", "dss"];
        for kinds in kinds {
            let all = revisions(kinds);
            for gone in 1..(1_u32 << kinds.len()) - 1 {
                let is_gone = |number: usize| gone & (1 << number) != 0;
                let goes = all.iter().enumerate().filter(|(number, _)| is_gone(*number));
                let goes: HashSet<RevisionId> = goes.map(|(_, revision)| revision.uuid).collect();
                let mut now = all.clone();
                for step in removal(&all, &goes) {
                    check(&step, &now).unwrap_or_else(|error| panic!("{kinds} {gone:b}: {error}"));
                    for wrong in altered(&step) {
                        assert!(check(&wrong, &now).is_err(), "{kinds} {gone:b}: {wrong:?}");
                    }
                    let then = after(&now, &step);
                    assert!(check(&step, &then).is_err(), "{kinds} {gone:b}: twice {step:?}");
                    now = then;
                }
            }
        }
    }

    /// The same step with revisions left out, reordered or added.
    fn altered(step: &Step) -> Vec<Step> {
        let other = RevisionId::new(Timestamp::from_second(5).unwrap());
        match step {
            Step::Remove { revisions } => {
                let besides = revisions.iter().copied().chain([other]).collect();
                vec![Step::Remove { revisions: besides }]
            }
            Step::Merge { revisions, into } => {
                let into = *into;
                let merge = |revisions: Vec<RevisionId>, into| Step::Merge { revisions, into };
                let besides = revisions.iter().copied().chain([other]).collect();
                let mut wrong = vec![
                    merge(revisions.clone(), other),
                    merge(besides, into),
                    merge(Vec::new(), into),
                    merge(revisions.clone(), revisions[0]),
                    Step::Remove { revisions: revisions.clone() },
                ];
                if revisions.len() > 1 {
                    wrong.push(merge(revisions.iter().rev().copied().collect(), into));
                    wrong.push(merge(revisions[..revisions.len() - 1].to_vec(), into));
                }
                wrong
            }
            Step::RollBack { revision, to } => vec![
                Step::RollBack { revision: *to, to: *revision },
                Step::RollBack { revision: *revision, to: other },
            ],
            Step::Standalone { reason, .. } => {
                vec![Step::Standalone { revision: other, reason: reason.clone() }]
            }
        }
    }

    const LIMIT: usize = 3;

    fn config(limit: usize) -> Config {
        let text = format!(
            "max_chain = {limit}\n[schedule.full]\ninterval = \"1d\"\nkeep = 1\nfull = true\n\
             [schedule.part]\ninterval = \"1d\"\nkeep = 1"
        );
        Config::parse(&text, Path::new("x")).unwrap()
    }

    /// Revisions with a tag that is kept in full become standalone, which cuts the chain; the newest revision
    /// stays the image.
    #[test]
    fn tags_that_are_kept_in_full_make_revisions_standalone() {
        let reason = "revisions with the tag full are kept in full";
        for (kinds, full, steps) in [
            ("dddd", 2, vec![format!("standalone 2: {reason}")]),
            ("ddddddd", 4, vec![format!("standalone 4: {reason}")]),
            ("dddd", 0, vec![]),
            ("ddsd", 2, vec![]),
        ] {
            let mut stay = revisions(kinds);
            stay.iter_mut().for_each(|r| r.tags = ["part".parse().unwrap()].into());
            stay[full].tags.insert("full".parse().unwrap());
            assert_eq!(said(&stay, &standalone(&stay, &config(LIMIT))), steps, "{kinds} {full}");
        }
    }

    /// A chain of exactly the limit is left alone. In the chain on the image the newest delta is cut off,
    /// other chains are cut at their old ends.
    #[test]
    fn chains_that_are_too_long_are_cut() {
        for (kinds, cut) in [
            ("d", &[][..]),
            ("dddd", &[]),
            ("ddddd", &[1]),
            ("dddddddddddd", &[1, 8, 4]),
            ("dddsddd", &[]),
            ("ddsdddd", &[3]),
            ("dsdddddd", &[4]),
        ] {
            let stay = revisions(kinds);
            let steps = standalone(&stay, &config(LIMIT));
            let found = steps.iter().map(|step| {
                let Step::Standalone { revision, .. } = step else { panic!("{step:?}") };
                stay.iter().position(|r| r.uuid == *revision).unwrap()
            });
            assert_eq!(found.collect::<Vec<usize>>(), cut, "{kinds}");
        }
        let unlimited = Config::parse("", Path::new("x")).unwrap();
        assert_eq!(standalone(&revisions("ddddd"), &unlimited), []);
    }

    /// One round of cuts is enough for any chain as long as nothing else happens. With a backup before each
    /// round, one more revision becomes standalone after as many backups as the limit allows.
    #[test]
    fn no_more_revisions_become_standalone_than_necessary() {
        let execute = |stay: &mut Vec<Revision>| {
            let steps = standalone(stay, &config(LIMIT));
            for step in &steps {
                let Step::Standalone { revision, .. } = step else { panic!("{step:?}") };
                stay.iter_mut().find(|r| r.uuid == *revision).unwrap().base = None;
            }
            steps.len()
        };
        for length in 1..60 {
            for standalone_at in [0, length / 3, length / 2] {
                let mut kinds = "d".repeat(length);
                kinds.replace_range(standalone_at..=standalone_at, "s");
                let mut stay = revisions(&kinds);
                execute(&mut stay);
                let pieces: Vec<_> = stay[1..].split(|r| r.is_standalone()).collect();
                assert!(pieces.iter().all(|piece| piece.len() <= LIMIT), "{kinds}");
                assert_eq!(execute(&mut stay), 0, "{kinds}: a second round");
                let mut made = 0;
                for backup in 0..4 * (LIMIT + 1) {
                    let time = Timestamp::from_second(2_000_000 + backup as i64).unwrap();
                    let mut manifest = Manifest::new(BlockSize::DEFAULT);
                    manifest.revisions = stay;
                    let (id, statistics) = (RevisionId::new(time), Statistics::default());
                    let digest = Digest::of(b"");
                    manifest.push_newest(Revision::newest(id, time, time, 0, digest, statistics));
                    stay = manifest.revisions;
                    made += execute(&mut stay);
                }
                assert!(made <= 4, "{kinds}: {made} in {} backups", 4 * (LIMIT + 1));
            }
        }
    }
}
