//! `maintenance` and `rm` from beginning to end: recovery, plan, execution, history.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::{
    Maintainer, MaintenanceOptions, MaintenancePlan, MaintenanceReport, confirm, plan, plan_removal,
};
use crate::archive::{Archive, ArchiveWriter, reserve, waits};
use crate::base::clock::Clock;
use crate::base::error::{Error, Result};
use crate::base::progress::{Observer, Silent};
use crate::base::revision::RevisionId;
use crate::policy::config::DEFAULT_LEVEL;
use crate::policy::health::Freeze;
use crate::policy::plan::Step;

impl Archive {
    /// What maintenance would do now.
    pub fn plan_maintenance(&self, options: &MaintenanceOptions) -> Result<MaintenancePlan> {
        self.planned(options, Timestamp::MAX, &Silent)
    }

    /// The same at a given time: what was confirmed later than that, by a clock that was wrong, is not confirmed.
    pub fn plan_maintenance_at(
        &self,
        options: &MaintenanceOptions,
        clock: &dyn Clock,
    ) -> Result<MaintenancePlan> {
        self.planned(options, clock.now(), &Silent)
    }

    fn planned(
        &self,
        options: &MaintenanceOptions,
        now: Timestamp,
        observer: &dyn Observer,
    ) -> Result<MaintenancePlan> {
        plan(self.shared_storage(), self.manifest(), &self.config()?, options, now, observer)
    }

    /// What the removal of revisions, by their numbers from the newest, would do.
    ///
    /// # Errors
    /// [`Error::Specification`] when none would be left.
    pub fn plan_removal(&self, numbers: &[usize]) -> Result<MaintenancePlan> {
        plan_removal(self.shared_storage(), self.manifest(), numbers, &Silent)
    }
}

impl ArchiveWriter {
    /// Lets go what the schedule no longer keeps.
    pub fn maintain(
        &mut self,
        options: &MaintenanceOptions,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<MaintenanceReport> {
        let started = clock.now();
        let plan = |archive: &Archive| archive.planned(options, started, observer);
        // What cannot be planned, as for want of a config, is not confirmed either.
        let planned =
            self.recover_or_make_room(plan, clock, observer).and_then(|_| plan(self.archive()));
        self.unless_stopped("maintenance", started, planned, clock, observer)?;
        let confirmed = match options.confirm {
            true => {
                let storage = Arc::clone(self.archive().shared_storage());
                confirm(&*storage, self.manifest_mut(), clock)?
            }
            false => Vec::new(),
        };
        let plan = self.archive().planned(options, started, observer)?;
        self.execute("maintenance", plan, confirmed, options.threads, clock, observer)
    }

    /// Removes revisions, by their numbers from the newest, whatever the schedule says.
    pub fn remove(
        &mut self,
        numbers: &[usize],
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<MaintenanceReport> {
        let revisions = self.archive().revisions();
        let named = numbers.iter().filter_map(|&number| revisions.get(number));
        let goes: HashSet<RevisionId> = named.map(|revision| revision.uuid).collect();
        let plan = |archive: &Archive| {
            let there = archive.revisions().iter().enumerate();
            let numbers: Vec<usize> =
                there.filter(|(_, r)| goes.contains(&r.uuid)).map(|(number, _)| number).collect();
            plan_removal(archive.shared_storage(), archive.manifest(), &numbers, observer)
        };
        let started = clock.now();
        let planned =
            self.recover_or_make_room(plan, clock, observer).and_then(|_| plan(self.archive()));
        let plan = self.unless_stopped("rm", started, planned, clock, observer)?;
        self.execute("rm", plan, Vec::new(), None, clock, observer)
    }

    /// The same before revisions are removed. When it fails for want of room, those of `plan` go all the same that nothing
    /// reads through to, and then it is tried again.
    fn recover_or_make_room(
        &mut self,
        plan: impl Fn(&Archive) -> Result<MaintenancePlan>,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<()> {
        let Err(error) = self.recover_from_failure(observer) else { return Ok(()) };
        if !waits(&error) {
            return Err(error);
        }
        let steps = plan(self.archive())?.steps.into_iter();
        let mut oldest = steps.filter_map(|step| match step {
            Step::Remove { revisions } => Some(revisions),
            _ => None,
        });
        let Some(oldest) = oldest.next() else { return Err(error) };
        let storage = Arc::clone(self.archive().shared_storage());
        let (manifest, level, threads) = (self.manifest_mut(), 1, None);
        Maintainer { storage: &storage, manifest, level, threads, clock, observer }
            .remove_oldest(&oldest)?;
        self.recover_from_failure(observer)
    }

    /// Takes note in the history that an operation was stopped while it was being planned.
    fn unless_stopped(
        &self,
        operation: &str,
        started: Timestamp,
        planned: Result<MaintenancePlan>,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<MaintenancePlan> {
        if matches!(planned, Err(Error::Interrupted)) {
            self.record(operation, started, &planned, clock, observer);
        }
        planned
    }

    fn execute(
        &mut self,
        operation: &str,
        plan: MaintenancePlan,
        confirmed: Vec<Freeze>,
        threads: Option<usize>,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<MaintenanceReport> {
        // A config that cannot be read is no reason not to remove by hand.
        let level =
            self.archive().config().map_or(DEFAULT_LEVEL, |config| config.compression_level);
        let storage = Arc::clone(self.archive().shared_storage());
        let manifest = self.manifest_mut();
        let mut maintainer =
            Maintainer { storage: &storage, manifest, level, threads, clock, observer };
        let started = clock.now();
        let done = maintainer.execute(plan);
        let done = done.map(|report| MaintenanceReport { confirmed, ..report });
        self.record(operation, started, &done, clock, observer);
        reserve::keep(&*storage);
        done
    }
}
