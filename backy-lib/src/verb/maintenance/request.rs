//! `maintenance` and `rm` as the command and Python ask for them.

use super::{MaintenanceOptions, MaintenancePlan, MaintenanceReport};
use crate::archive::Archive;
use crate::base::error::Result;
use crate::base::revision::RevisionId;
use crate::policy::select::{RevisionsSpec, check_unpinned};
use crate::verb::caller::{Caller, interrupted};

/// What an interruption leaves: each step is committed by itself.
const STATE: &str = "finished steps stay done";

/// A maintenance by the schedule.
#[derive(Debug, Clone, Default)]
pub struct MaintenanceRequest {
    /// How to maintain.
    pub options: MaintenanceOptions,
}

impl MaintenanceRequest {
    /// What it would do now.
    pub fn plan(&self, archive: &Archive, caller: &Caller<'_>) -> Result<MaintenancePlan> {
        archive.plan_maintenance_at(&self.options, caller.clock)
    }

    /// Deletes the revisions that the schedule no longer keeps.
    pub fn run(&self, archive: &Archive, caller: &Caller<'_>) -> Result<MaintenanceReport> {
        let archive = archive.trusted()?;
        // Before the lock: an unreadable config then changes nothing at all.
        self.plan(&archive, caller)?;
        let mut writer = caller.writer(archive, "maintenance")?;
        writer.maintain(&self.options, caller.clock, caller.observer).map_err(interrupted(STATE))
    }
}

/// Revisions to delete by hand.
#[derive(Debug, Clone)]
pub struct RemovalRequest {
    /// The revisions.
    pub revisions: RevisionsSpec,
    /// Delete pinned ones, too.
    pub force: bool,
}

impl RemovalRequest {
    /// What it would do now.
    ///
    /// # Errors
    /// [`Error::Specification`](crate::Error::Specification) when no revision would be left;
    /// [`Error::Pinned`](crate::Error::Pinned).
    pub fn plan(&self, archive: &Archive) -> Result<MaintenancePlan> {
        self.choose(archive).map(|(_, plan)| plan)
    }

    /// Deletes them, whatever the schedule says.
    ///
    /// # Errors
    /// As those of [`RemovalRequest::plan`], and [`Error::NoSuchRevision`](crate::Error::NoSuchRevision) when
    /// somebody deleted one meanwhile.
    pub fn run(&self, archive: &Archive, caller: &Caller<'_>) -> Result<MaintenanceReport> {
        let archive = archive.trusted()?;
        let (chosen, _) = self.choose(&archive)?;
        let mut writer = caller.writer_for(archive, "rm", &chosen)?;
        self.check_pins(writer.archive(), &chosen)?;
        writer.remove(&chosen, caller.clock, caller.observer).map_err(interrupted(STATE))
    }

    fn choose(&self, archive: &Archive) -> Result<(Vec<RevisionId>, MaintenancePlan)> {
        let chosen = self.revisions.resolve(archive.revisions())?;
        let plan = archive.plan_removal(&chosen)?;
        self.check_pins(archive, &chosen)?;
        Ok((chosen, plan))
    }

    fn check_pins(&self, archive: &Archive, chosen: &[RevisionId]) -> Result<()> {
        if self.force { Ok(()) } else { check_unpinned(archive.revisions(), chosen) }
    }
}
