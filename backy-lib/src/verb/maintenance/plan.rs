//! What maintenance, or deleting revisions by hand, would do: the steps, and the space that they free and need.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::{MaintenanceOptions, MaintenancePlan};
use crate::archive::Archive;
use crate::archive::recover::room;
use crate::archive::reserve;
use crate::base::clock::Clock;
use crate::base::error::{Error, Result};
use crate::base::progress::{self, Observer};
use crate::base::revision::RevisionId;
use crate::format::manifest::{Findings, Manifest, Revision};
use crate::image::damage;
use crate::image::taken;
use crate::policy::config::Config;
use crate::policy::health::{self, Freeze};
use crate::policy::plan::{self, Step};
use crate::policy::retention::{Pins, Rule, Verdict, excess, retention};
use crate::storage::{FileName, Storage};
use crate::verb::merge;

/// What the schedule as it is now, or a number of revisions to keep, says of each revision, and the steps to that.
struct Decided {
    frozen: Vec<Freeze>,
    verdicts: Vec<Verdict>,
    steps: Vec<Step>,
}

fn decide(
    storage: &dyn Storage,
    manifest: &Manifest,
    config: &Config,
    options: &MaintenanceOptions,
    now: Timestamp,
) -> Result<Decided> {
    let unreadable = damage::unreadable(storage, manifest)?;
    let bad_blocks: Vec<u64> = unreadable.iter().map(Findings::bad_block_count).collect();
    let revisions = manifest.revisions.iter().zip(&bad_blocks);
    let damaged = revisions.filter(|&(revision, &bad)| bad > 0 || !revision.flaws.is_empty());
    let damaged = damaged.map(|(revision, _)| revision.uuid);
    let damaged: HashSet<RevisionId> = damaged.collect();
    let frozen = match config.monitoring.freeze && !options.confirm {
        true => health::freezes(&health::as_of(manifest, now).0, &bad_blocks),
        false => Vec::new(),
    };
    let rule = match options.keep {
        Some(keep) => Rule::Newest(keep),
        None => Rule::Schedule(&config.schedule),
    };
    let mut verdicts = retention(&manifest.revisions, &damaged, &rule);
    if !frozen.is_empty() {
        verdicts.iter_mut().for_each(Verdict::freeze);
    }
    let goes = verdicts.iter().filter(|verdict| !verdict.keep).map(|verdict| verdict.uuid);
    let goes: HashSet<RevisionId> = goes.collect();
    let mut steps = plan::removal(&manifest.revisions, &goes);
    let stay: Vec<Revision> = verdicts
        .iter()
        .zip(&manifest.revisions)
        .filter(|(verdict, _)| verdict.keep)
        .map(|(verdict, revision)| {
            let mut revision = revision.clone();
            revision.tags.retain(|tag| !verdict.expired_tags.contains(tag));
            revision
        })
        .collect();
    steps.extend(plan::standalone(&stay, config));
    Ok(Decided { frozen, verdicts, steps })
}

/// The plan by the schedule as it is now, or by a number of revisions to keep.
pub(crate) fn plan(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    config: &Config,
    options: &MaintenanceOptions,
    now: Timestamp,
    observer: &dyn Observer,
) -> Result<MaintenancePlan> {
    let Decided { frozen, verdicts, steps } = decide(&**storage, manifest, config, options, now)?;
    let excess = match options.keep {
        Some(_) => None,
        None => excess(&manifest.revisions, &config.schedule, Pins::All),
    };
    let estimated = estimate(storage, manifest, verdicts, steps, observer)?;
    Ok(MaintenancePlan { frozen, excess, ..estimated })
}

/// Work that maintenance by the schedule would do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Work {
    /// How many revisions it would delete.
    pub(crate) deletions: usize,
    /// How many revisions it would make standalone.
    pub(crate) standalone: usize,
}

impl Archive {
    /// What maintenance would do now, without an estimate of the space; `None` if nothing.
    pub(crate) fn maintenance_due(
        &self,
        config: &Config,
        clock: &dyn Clock,
    ) -> Result<Option<Work>> {
        let (storage, manifest) = (self.storage(), self.manifest());
        let options = MaintenanceOptions::default();
        let Decided { verdicts, steps, .. } =
            decide(storage, manifest, config, &options, clock.now())?;
        let deletions = verdicts.iter().filter(|verdict| !verdict.keep).count();
        let standalone =
            steps.iter().filter(|step| matches!(step, Step::Standalone { .. })).count();
        let expires = verdicts.iter().any(|verdict| !verdict.expired_tags.is_empty());
        let has_work = expires || !steps.is_empty();
        Ok(has_work.then_some(Work { deletions, standalone }))
    }
}

/// The plan to delete those of these revisions that exist, whatever the schedule says.
///
/// # Errors
/// [`Error::Specification`] when no revision would be left.
pub(crate) fn plan_removal(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    ids: &HashSet<RevisionId>,
    observer: &dyn Observer,
) -> Result<MaintenancePlan> {
    let goes = |revision: &Revision| ids.contains(&revision.uuid);
    if !manifest.revisions.is_empty() && manifest.revisions.iter().all(goes) {
        let all = match manifest.revisions.len() {
            1 => "this is the only revision".to_owned(),
            count => format!("these are all {count} revisions"),
        };
        let message = format!(
            "{}: {all}, and one must stay; to delete all, delete the folder",
            storage.folder().display()
        );
        return Err(Error::Specification { message });
    }
    let verdict = |(number, revision): (usize, &Revision)| Verdict {
        number,
        uuid: revision.uuid,
        keep: !goes(revision),
        reason: if goes(revision) { "deleted by hand" } else { "not named" }.to_owned(),
        expired_tags: Default::default(),
    };
    let verdicts: Vec<Verdict> = manifest.revisions.iter().enumerate().map(verdict).collect();
    let going = verdicts.iter().filter(|verdict| !verdict.keep).map(|verdict| verdict.uuid);
    let steps = plan::removal(&manifest.revisions, &going.collect());
    estimate(storage, manifest, verdicts, steps, observer)
}

/// Adds the space that the plan frees, and puts the merges that need the least space first.
fn estimate(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    verdicts: Vec<Verdict>,
    steps: Vec<Step>,
    observer: &dyn Observer,
) -> Result<MaintenancePlan> {
    let mut weighed = Vec::new();
    for step in steps {
        progress::check(observer)?;
        let (frees, needs) = weigh(storage, manifest, &step, observer)?;
        let order = match step {
            Step::Remove { .. } => 0,
            Step::Merge { .. } => 1,
            Step::RollBack { .. } => 2,
            Step::Standalone { .. } => 3,
        };
        weighed.push((order, needs, frees - needs, step));
    }
    weighed.sort_by_key(|(order, needs, _, _)| (*order, *needs));
    let frees_bytes = weighed.iter().map(|(_, _, frees, _)| frees).sum();
    let steps = weighed.into_iter().map(|(_, _, _, step)| step).collect();
    Ok(MaintenancePlan { verdicts, steps, frees_bytes, frozen: Vec::new(), excess: None })
}

/// Bytes on disk that a step frees and needs. A file that cannot be read counts as nothing: executing the step
/// reports it.
fn weigh(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    step: &Step,
    observer: &dyn Observer,
) -> Result<(i64, i64)> {
    let size_of = |ids: &[RevisionId]| {
        let ids: HashSet<&RevisionId> = ids.iter().collect();
        let named = manifest.revisions.iter().filter(|revision| ids.contains(&revision.uuid));
        let bytes = |revision: &Revision| match revision.is_image() {
            true => [FileName::Delta(revision.uuid), revision.digests_file()]
                .into_iter()
                .map(|file| reserve::allocated_bytes(&**storage, file))
                .sum(),
            false => taken::revision_bytes(&**storage, revision, manifest.block_size),
        };
        named.map(bytes).sum::<Result<u64>>()
    };
    let zero_if_damaged = |result: Result<u64>| match result {
        Err(error) if error.is_damage() => Ok(0),
        other => other.map(|bytes| bytes as i64),
    };
    Ok(match step {
        Step::Remove { revisions } => (zero_if_damaged(size_of(revisions))?, 0),
        Step::Merge { revisions, into } => {
            let needs = merge::needed_bytes(storage, manifest, revisions, *into, observer);
            (zero_if_damaged(size_of(revisions))?, zero_if_damaged(needs)?)
        }
        // The delta of the revision that becomes the newest is deleted; the image needs space for its content.
        Step::RollBack { to, .. } => {
            let needs = room::needed_bytes(&**storage, manifest);
            (zero_if_damaged(size_of(std::slice::from_ref(to)))?, zero_if_damaged(needs)?)
        }
        Step::Standalone { revision, .. } => {
            let needs = match manifest.number_of(*revision) {
                Some(number) => merge::standalone_bytes(storage, manifest, number, observer),
                None => Ok(0),
            };
            (0, zero_if_damaged(needs)?)
        }
    })
}
