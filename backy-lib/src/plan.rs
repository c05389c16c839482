//! What has to be done so that revisions can go: steps in the order in which they are safe and need the least room.
//!
//! A plan is a value: `--dry-run` prints what would be executed, word for word.

use std::collections::HashSet;

use serde::Serialize;

use crate::config::Config;
use crate::format::manifest::Revision;
use crate::revision::RevisionId;

/// A step that is committed by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// Files are removed that nothing which stays reads through to. Needs no room.
    Remove {
        /// The revisions that go.
        revisions: Vec<RevisionId>,
    },
    /// What the next older revision reads from them is appended to its delta, then they go.
    Merge {
        /// The revisions that go, neighbours, newest first.
        revisions: Vec<RevisionId>,
        /// The one that takes over their blocks.
        into: RevisionId,
    },
    /// The newest revision goes: the image becomes that of an older one.
    RollBack {
        /// The one that goes.
        revision: RevisionId,
        /// The one that is the newest afterwards.
        to: RevisionId,
    },
    /// A revision is made independent of all others.
    Standalone {
        /// Which.
        revision: RevisionId,
        /// Why, in words.
        reason: String,
    },
}

/// The steps by which the revisions in `goes` go: first what frees room without needing any, then merges, last what changes
/// the image. Empty when nobody would be left; that is for the caller to refuse.
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
    // The oldest ones: nothing reads through to them.
    removed.extend(run);
    let remove = (!removed.is_empty()).then_some(Step::Remove { revisions: removed });
    remove.into_iter().chain(merges).chain(roll_back).collect()
}

/// Which of the revisions that stay have to be made standalone: those with a tag whose schedule says `full`, and where the
/// chain would become too long, its newest delta, so that the next ones can lean on that for as long again.
pub fn standalone(stay: &[Revision], config: &Config) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut length = 0;
    let mut longest = 0;
    let mut newest_delta: Option<&Revision> = None;
    for revision in stay.iter().skip(1) {
        let full =
            revision.tags.iter().find(|tag| config.schedule.get(*tag).is_some_and(|i| i.full));
        match (revision.is_standalone(), full) {
            (true, _) => length = 0,
            (false, Some(tag)) => {
                let reason = format!("revisions with the tag {tag} are kept in full");
                steps.push(Step::Standalone { revision: revision.uuid, reason });
                length = 0;
            }
            (false, None) => {
                length += 1;
                newest_delta = newest_delta.or(Some(revision));
            }
        }
        longest = longest.max(length);
    }
    if let (Some(limit), Some(newest)) = (config.max_chain, newest_delta)
        && longest > limit
    {
        let reason = format!("{longest} deltas on each other, at most {limit} are wanted");
        steps.push(Step::Standalone { revision: newest.uuid, reason });
    }
    steps
}
