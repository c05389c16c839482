//! `maintenance` and `rm` from beginning to end: recovery, plan, execution, history.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{
    Maintainer, MaintenanceOptions, MaintenancePlan, MaintenanceReport, confirm, plan, plan_removal,
};
use crate::archive::operation::{Context, Request};
use crate::archive::{Archive, ArchiveWriter, left_overs, reserve, waits};
use crate::base::clock::Clock;
use crate::base::error::Result;
use crate::base::progress::{Observer, Silent};
use crate::base::revision::RevisionId;
use crate::format::manifest::Manifest;
use crate::policy::config::Config;
use crate::policy::health::Freeze;
use crate::policy::plan::Step;
use crate::storage::Storage;

impl Archive {
    /// What maintenance would do now.
    pub fn plan_maintenance(&self, options: &MaintenanceOptions) -> Result<MaintenancePlan> {
        self.planned(options, Timestamp::MAX, &Silent)
    }

    /// The same at a given time: a confirmation with a later date, from a wrong clock, does not count.
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

    /// What deleting revisions would do.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchRevision`]. [`crate::Error::Specification`] when no revision would be left.
    pub fn plan_removal(&self, ids: &[RevisionId]) -> Result<MaintenancePlan> {
        self.check_there(ids)?;
        let ids = ids.iter().copied().collect();
        plan_removal(self.shared_storage(), self.manifest(), &ids, &Silent)
    }
}

impl ArchiveWriter {
    /// Deletes the revisions that the schedule no longer keeps.
    pub fn maintain(
        &mut self,
        options: &MaintenanceOptions,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<MaintenanceReport> {
        let started = clock.now();
        self.operation(Maintain { options, started }, clock, observer)
    }

    /// Deletes revisions, whatever the schedule says.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchRevision`]. [`crate::Error::Specification`] when no revision would be left.
    pub fn remove(
        &mut self,
        ids: &[RevisionId],
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<MaintenanceReport> {
        self.archive().check_there(ids)?;
        let revisions = ids.iter().copied().collect();
        let started = clock.now();
        self.operation(Remove { revisions, started }, clock, observer)
    }
}

/// How long what has arrived of an incomplete revision is kept after the last pull.
const SPOOL_AGE: SignedDuration = SignedDuration::from_hours(30 * 24);

struct Maintain<'a> {
    options: &'a MaintenanceOptions,
    started: Timestamp,
}

impl Request for Maintain<'_> {
    const NAME: &'static str = "maintenance";
    type Plan = (MaintenancePlan, Vec<Freeze>);
    type Report = MaintenanceReport;

    fn threads(&self) -> Option<usize> {
        self.options.threads
    }

    fn planned_since(&self) -> Option<Timestamp> {
        Some(self.started)
    }

    fn recover(
        &self,
        writer: &mut ArchiveWriter,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<()> {
        let plan = |archive: &Archive| archive.planned(self.options, self.started, observer);
        recover_or_make_room(writer, plan, clock, observer)
    }

    fn plan(&self, writer: &mut ArchiveWriter, context: &Context<'_>) -> Result<Self::Plan> {
        let Context { storage, config, observer, .. } = *context;
        let plan = |manifest: &Manifest| {
            plan(storage, manifest, config, self.options, self.started, observer)
        };
        // Confirm nothing if the rest cannot be planned.
        let planned = plan(writer.archive().manifest())?;
        if !self.options.confirm {
            return Ok((planned, Vec::new()));
        }
        let confirmed = confirm(&**storage, writer.manifest_mut(), context.clock)?;
        Ok((plan(writer.archive().manifest())?, confirmed))
    }

    fn run(
        self,
        writer: &mut ArchiveWriter,
        context: &Context<'_>,
        (plan, confirmed): Self::Plan,
        _: Timestamp,
    ) -> Result<MaintenanceReport> {
        let manifest = writer.manifest_mut();
        let kept_since = manifest.spool.as_ref().map(|spool| spool.started);
        if kept_since.is_some_and(|since| self.started.duration_since(since) > SPOOL_AGE) {
            left_overs::delete_spool(&**context.storage, manifest)?;
        }
        let report = Maintainer { context, manifest }.execute(plan)?;
        Ok(MaintenanceReport { confirmed, ..report })
    }

    fn finish(storage: &dyn Storage, _: &Result<MaintenanceReport>) {
        reserve::keep(storage);
    }
}

struct Remove {
    /// Those that recovery had to delete no longer exist.
    revisions: HashSet<RevisionId>,
    started: Timestamp,
}

impl Remove {
    fn planned(&self, archive: &Archive, observer: &dyn Observer) -> Result<MaintenancePlan> {
        plan_removal(archive.shared_storage(), archive.manifest(), &self.revisions, observer)
    }
}

impl Request for Remove {
    const NAME: &'static str = "rm";
    type Plan = MaintenancePlan;
    type Report = MaintenanceReport;

    fn planned_since(&self) -> Option<Timestamp> {
        Some(self.started)
    }

    fn recover(
        &self,
        writer: &mut ArchiveWriter,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<()> {
        let plan = |archive: &Archive| self.planned(archive, observer);
        recover_or_make_room(writer, plan, clock, observer)
    }

    /// An unreadable config is no reason to refuse a deletion by hand.
    fn config(archive: &Archive) -> Result<Config> {
        Ok(archive.config().unwrap_or_default())
    }

    fn plan(&self, writer: &mut ArchiveWriter, context: &Context<'_>) -> Result<MaintenancePlan> {
        self.planned(writer.archive(), context.observer)
    }

    fn run(
        self,
        writer: &mut ArchiveWriter,
        context: &Context<'_>,
        plan: MaintenancePlan,
        _: Timestamp,
    ) -> Result<MaintenanceReport> {
        let manifest = writer.manifest_mut();
        Maintainer { context, manifest }.execute(plan)
    }

    fn finish(storage: &dyn Storage, _: &Result<MaintenanceReport>) {
        reserve::keep(storage);
    }
}

/// Recovers before deleting revisions. If there is too little space for that, deletes the oldest revisions of `plan`
/// all the same, which no other reads through to, and then tries again.
fn recover_or_make_room(
    writer: &mut ArchiveWriter,
    plan: impl Fn(&Archive) -> Result<MaintenancePlan>,
    clock: &dyn Clock,
    observer: &dyn Observer,
) -> Result<()> {
    let Err(error) = writer.recover_from_failure(observer) else { return Ok(()) };
    if !waits(&error) {
        return Err(error);
    }
    let steps = plan(writer.archive())?.steps.into_iter();
    let mut oldest = steps.filter_map(|step| match step {
        Step::Remove { revisions } => Some(revisions),
        _ => None,
    });
    let Some(oldest) = oldest.next() else { return Err(error) };
    let (storage, config) = (Arc::clone(writer.archive().shared_storage()), Config::default());
    let context = Context { storage: &storage, config: &config, clock, observer, threads: None };
    let manifest = writer.manifest_mut();
    Maintainer { context: &context, manifest }.remove_oldest(&oldest)?;
    writer.recover_from_failure(observer)
}
