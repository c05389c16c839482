//! A scrub as the command and Python ask for one: of revisions by name.

use super::due::PART;
use super::{Budget, ScrubOptions, ScrubReport};
use crate::archive::Archive;
use crate::base::error::Result;
use crate::policy::select::RevisionsSpec;
use crate::verb::caller::{Caller, WithoutFindings, interrupted};

/// What an interruption leaves.
const STATE: &str = "what was read until then is recorded";

/// A scrub of revisions.
#[derive(Debug, Clone)]
pub struct ScrubRequest {
    /// The revisions to verify, with the newer ones that they need.
    pub revisions: RevisionsSpec,
    /// Change and record nothing.
    pub check_only: bool,
    /// How much to read.
    pub budget: Option<Budget>,
}

impl ScrubRequest {
    /// Verifies what is stored. Unless it only checks, it takes the lock, repairs what can be repaired, and records
    /// the findings.
    ///
    /// # Errors
    /// As those of [`Archive::check`] and [`ArchiveWriter::scrub`](crate::ArchiveWriter::scrub); findings are no error.
    pub fn run(&self, archive: &Archive, caller: &Caller<'_>) -> Result<ScrubReport> {
        let archive = if self.check_only { archive.clone() } else { archive.trusted()? };
        let chosen = self.revisions.resolve(archive.revisions())?;
        let is_all = self.revisions.is_all();
        let mut options = ScrubOptions {
            check_only: self.check_only,
            budget: self.budget,
            ..ScrubOptions::default()
        };
        // The report lists them.
        let observer = WithoutFindings(caller.observer);
        if self.check_only {
            options.revisions = (!is_all).then_some(chosen);
            let checked = archive.check(&options, caller.clock, &observer);
            return checked.map_err(interrupted("nothing was changed"));
        }
        let mut writer = if is_all {
            caller.writer(archive, "scrub")?
        } else {
            let writer = caller.writer_for(archive, "scrub", &chosen)?;
            options.revisions = Some(chosen);
            writer
        };
        writer.scrub(&options, caller.clock, &observer).map_err(interrupted(STATE))
    }

    /// Verifies a tenth of what is stored if that is due by `scrub_within`; what was verified longest ago comes first.
    /// `None` if another process has just done so, or is at it.
    ///
    /// # Errors
    /// As those of [`ArchiveWriter::scrub`](crate::ArchiveWriter::scrub).
    pub fn run_if_due(archive: &Archive, caller: &Caller<'_>) -> Result<Option<ScrubReport>> {
        let archive = archive.trusted()?;
        if archive.scrub_due(&archive.config()?, caller.clock).is_none() {
            return Ok(None);
        }
        let mut writer = caller.writer(archive, "scrub")?;
        // Whoever held the lock until now may have scrubbed.
        let locked = writer.archive();
        if locked.scrub_due(&locked.config()?, caller.clock).is_none() {
            return Ok(None);
        }
        let options = ScrubOptions { budget: Some(PART), ..ScrubOptions::default() };
        let done = writer.scrub(&options, caller.clock, &WithoutFindings(caller.observer));
        done.map(Some).map_err(interrupted(STATE))
    }
}
