//! Executes a plan step by step. Each step is committed by itself with a manifest of its own.

use std::time::Instant;

use super::{Maintainer, MaintenancePlan, MaintenanceReport};
use crate::archive::reserve;
use crate::base::canary::{Bug, planted};
use crate::base::error::{Error, Result};
use crate::base::progress;
use crate::base::revision::RevisionId;
use crate::format::manifest::{InProgress, Manifest};
use crate::image::taken;
use crate::policy::plan::{self, Step};
use crate::storage::{DigestsKind, FileName};

/// The files of an older revision.
fn files_of(id: RevisionId) -> [FileName; 2] {
    [FileName::Delta(id), FileName::Digests(id, DigestsKind::Delta)]
}

impl Maintainer<'_> {
    /// Executes a plan step by step.
    ///
    /// # Errors
    /// The error of the first step that fails; the steps before it stay done. A step that fails because stored data
    /// is damaged does not prevent the others.
    pub(super) fn execute(&mut self, plan: MaintenancePlan) -> Result<MaintenanceReport> {
        let clock = Instant::now();
        let before = self.stored_bytes()?;
        for verdict in &plan.verdicts {
            let named = self.manifest.revisions.iter_mut().find(|r| r.uuid == verdict.uuid);
            if let Some(revision) = named.filter(|_| verdict.keep) {
                revision.tags.retain(|tag| !verdict.expired_tags.contains(tag));
            }
        }
        let expired = plan.verdicts.iter().any(|v| v.keep && !v.expired_tags.is_empty());
        if expired && plan.steps.is_empty() {
            reserve::publish(&**self.context.storage, self.manifest)?;
        }
        let mut damage = None;
        for step in &plan.steps {
            progress::check(self.context.observer)?;
            match self.step(step) {
                Err(error) if error.is_damage() && self.manifest.in_progress.is_none() => {
                    damage.get_or_insert(error);
                }
                done => done?,
            }
        }
        if let Some(error) = damage {
            return Err(error);
        }
        let freed_bytes = before as i64 - self.stored_bytes()? as i64;
        let (confirmed, seconds) = (Vec::new(), clock.elapsed().as_secs_f64());
        Ok(MaintenanceReport { plan, freed_bytes, confirmed, seconds })
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        plan::check(step, &self.manifest.revisions)?;
        match step {
            Step::Remove { revisions } => self.commit_without(revisions),
            Step::Merge { revisions, into } => self.merge(revisions, *into),
            Step::RollBack { .. } => self.roll_back(),
            Step::Standalone { revision, .. } => self.make_standalone(*revision),
        }
    }

    /// Commits what has been done, takes revisions out of the manifest, then deletes their files.
    pub(super) fn commit_without(&mut self, ids: &[RevisionId]) -> Result<()> {
        self.commit(self.without(ids, None), ids)
    }

    /// The same while an operation is under way that cannot be undone because there is too little space: nothing
    /// reads through to these revisions, and undoing needs none of them.
    pub(super) fn remove_oldest(&mut self, ids: &[RevisionId]) -> Result<()> {
        plan::check(&Step::Remove { revisions: ids.to_vec() }, &self.manifest.revisions)?;
        let under_way = self.manifest.in_progress.clone();
        let under_way = under_way.filter(|operation| !ids.contains(&operation.revision));
        self.commit(self.without(ids, under_way), ids)
    }

    /// The manifest without revisions.
    pub(super) fn without(&self, ids: &[RevisionId], under_way: Option<InProgress>) -> Manifest {
        let mut after = self.manifest.clone();
        after.in_progress = under_way;
        for id in ids {
            after.remove(*id);
            after.removable.extend(files_of(*id));
        }
        after
    }

    pub(super) fn commit(&mut self, after: Manifest, ids: &[RevisionId]) -> Result<()> {
        if planted(Bug::FilesFirst) {
            self.remove_files(ids)?;
        }
        reserve::publish(&**self.context.storage, &after)?;
        *self.manifest = after;
        self.remove_files(ids)
    }

    fn remove_files(&self, ids: &[RevisionId]) -> Result<()> {
        for id in ids {
            for name in files_of(*id) {
                self.context.storage.remove(name)?;
            }
        }
        Ok(())
    }

    pub(super) fn number(&self, id: RevisionId) -> Result<usize> {
        let number = self.manifest.number_of(id);
        number.ok_or_else(|| Error::Plan { message: format!("revision {id}: there is none") })
    }

    fn stored_bytes(&self) -> Result<u64> {
        let size = self.manifest.block_size;
        let bytes = |revision| taken::revision_bytes(&**self.context.storage, revision, size);
        self.manifest.revisions.iter().map(bytes).sum()
    }
}
