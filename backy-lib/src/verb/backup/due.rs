//! Whether a backup is due. A caller that asks often gets one at its hour; the history shows that somebody asks
//! often.

use jiff::Timestamp;

use crate::archive::Archive;
use crate::archive::history;
use crate::base::clock::Clock;
use crate::base::error::{Error, Result};
use crate::base::progress::Silent;
use crate::policy::config::Config;
use crate::policy::room::Estimate;
use crate::policy::schedule::{self, Past};
use crate::source::Source;
use crate::verb::backup::{self, BackupOptions, BackupPlan};

/// The name of such a question in the history.
const ASKED: &str = "asked";

impl Archive {
    /// What a backup would do now.
    ///
    /// # Errors
    /// Also [`Error::Specification`] when a tag to be given as scheduled is not in the schedule, or when a backup
    /// would be made and its tags would be refused; and an error for an undo archive.
    pub fn plan_backup(&self, options: &BackupOptions, clock: &dyn Clock) -> Result<BackupPlan> {
        self.plan_backup_by(&self.config()?, options, clock)
    }

    /// The same by a config that has already been read.
    pub(crate) fn plan_backup_by(
        &self,
        config: &Config,
        options: &BackupOptions,
        clock: &dyn Clock,
    ) -> Result<BackupPlan> {
        self.check_no_undo()?;
        let now = clock.now();
        let plan = backup::plan(&self.past(config, now, clock), config, options, now)?;
        if plan.due {
            backup::tags::check(options, &plan.tags)?;
        }
        Ok(plan)
    }

    /// Records in the history that somebody asked for a backup when none was due, if that decides when the next one
    /// is made; once before each backup. If this cannot be recorded, the next one may be made a little early.
    pub fn note_asked(&self, holder: &str, clock: &dyn Clock) {
        if let Ok(config) = self.config() {
            self.note_asked_by(&config, holder, clock);
        }
    }

    /// The same by a config that has already been read.
    pub(crate) fn note_asked_by(&self, config: &Config, holder: &str, clock: &dyn Clock) {
        let now = clock.now();
        if !schedule::notes_asking(&self.past(config, now, clock), config, now) {
            return;
        }
        let Ok(_lock) = self.trusted().and_then(|own| own.storage().lock(holder)) else { return };
        let outcome: std::result::Result<&(), &Error> = Ok(&());
        history::record(self.storage(), ASKED, (now, now), outcome, &Silent);
    }

    /// What determines the next due time. Reads the history only if it makes a difference.
    fn past(&self, config: &Config, now: Timestamp, clock: &dyn Clock) -> Past<'_> {
        let past = Past::of_manifest(self.manifest(), clock.zone());
        let asked = match schedule::minds_asking(&past, config, now) {
            true => history::last(self.storage(), ASKED).unwrap_or_default(),
            false => None,
        };
        Past { asked, ..past }
    }

    /// Refuses to back up to an undo archive: the state to go back to would be one revision further away, and what it
    /// left out would be lost.
    pub(crate) fn check_no_undo(&self) -> Result<()> {
        if !self.manifest().is_undo() {
            return Ok(());
        }
        let folder = self.folder();
        let message = format!(
            "{}: an undo archive takes no backups: it holds only what a restore overwrote; 'restore' brings that back",
            folder.display()
        );
        Err(Error::Specification { message })
    }

    /// The space that a backup of `source` would take; without `source`, that of one as large as the newest revision.
    pub fn estimate_backup(
        &self,
        source: Option<&dyn Source>,
        options: &BackupOptions,
    ) -> Result<Estimate> {
        backup::estimate_for(self.storage(), self.manifest(), source, options.update)
    }
}
