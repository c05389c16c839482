//! A backup as the command and Python ask for one: whether it is due, what it would take, and the backup itself, with
//! its hooks.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{BackupOptions, BackupPlan, BackupReport, pins_scheduled};
use crate::archive::{Archive, ArchiveWriter};
use crate::base::error::{Error, ErrorKind, Result, judged};
use crate::base::progress::Event;
use crate::policy::config::{Config, SourceAddress};
use crate::source::{DeviceSource, Meeting, Opened, Source};
use crate::storage::FileName;
use crate::verb::caller::{Caller, interrupted};

const VERB: &str = "backup";

/// Opens a source that is neither a file nor a device.
pub type OpenSource<'s> = Box<dyn FnOnce(&Archive) -> Result<Opened<'s>> + 's>;

/// What to back up.
pub enum BackupSource<'s> {
    /// The source in `backy.toml`.
    Config,
    /// A file or device.
    Path(PathBuf),
    /// Anything else that provides bytes.
    Other(OpenSource<'s>),
}

/// The result of asking for a backup.
#[derive(Debug)]
pub enum BackupOutcome {
    /// There is a new revision.
    Made(Box<BackupReport>),
    /// No backup is due; the plan has the time of the next one.
    NotDue(Box<BackupPlan>),
    /// Another backup of this archive is running, and makes the revision that is due.
    Running,
    /// Another backup made the revision that was due, just before this one got the lock.
    JustMade,
}

impl BackupOutcome {
    /// The report of the new revision, if there is one.
    pub fn report(self) -> Option<BackupReport> {
        match self {
            BackupOutcome::Made(report) => Some(*report),
            BackupOutcome::NotDue(_) | BackupOutcome::Running | BackupOutcome::JustMade => None,
        }
    }
}

/// A backup of a source.
pub struct BackupRequest<'s> {
    /// The source.
    pub source: BackupSource<'s>,
    /// When, and how.
    pub options: BackupOptions,
    /// The backups of other disks of the same machine that are read as they were at the same moment; `None` if there
    /// are none.
    pub meeting: Option<Meeting>,
}

impl<'s> BackupRequest<'s> {
    /// What the backup would do now, and how much space it would take. Runs no hooks and takes no lock.
    ///
    /// # Errors
    /// As those of [`Archive::plan_backup`]; [`Error::Source`](crate::Error::Source) when the source cannot be read
    /// and no hook creates it.
    pub fn plan(&self, archive: &Archive, caller: &Caller<'_>) -> Result<BackupPlan> {
        self.source.check_no_copy(archive)?;
        let mut plan = archive.plan_backup(&self.options, caller.clock)?;
        if let Some(warning) = pins_scheduled(&archive.config()?, &self.options) {
            caller.observer.event(&Event::Finding(warning));
        }
        if plan.due {
            let source = match (&self.source, archive.trusted()) {
                // Others may have written a path into the config: backy does not open it.
                (BackupSource::Config, Err(error)) if error.kind() == ErrorKind::Untrusted => None,
                (BackupSource::Config, trusted) => self.open_for_estimate(&trusted?)?,
                _ => self.open_for_estimate(archive)?,
            };
            let source = source.as_ref().map(|source| source as &dyn Source);
            plan.room = Some(archive.estimate_backup(source, &self.options)?);
        }
        Ok(plan)
    }

    /// Makes a revision if one is due or asked for. `guard` returns the program that guards the hooks, and its
    /// arguments; backy calls it only when a backup begins.
    ///
    /// # Errors
    /// As those of [`ArchiveWriter::backup_from`]. An unreadable source is an error before the lock, and recorded in
    /// the history.
    pub fn run(
        self,
        archive: &Archive,
        guard: impl FnOnce() -> Result<Vec<OsString>>,
        caller: &Caller<'_>,
    ) -> Result<BackupOutcome> {
        self.perform(archive, guard, caller).map_err(interrupted("the archive is as it was before"))
    }

    fn perform(
        self,
        archive: &Archive,
        guard: impl FnOnce() -> Result<Vec<OsString>>,
        caller: &Caller<'_>,
    ) -> Result<BackupOutcome> {
        let BackupRequest { source, options, meeting } = self;
        let archive = archive.trusted()?;
        source.check_no_copy(&archive)?;
        let plan = archive.plan_backup(&options, caller.clock)?;
        if !plan.due {
            archive.note_asked(&caller.holder(VERB), caller.clock);
            return Ok(BackupOutcome::NotDue(plan.into()));
        }
        if archive.config()?.hooks.before.is_none() {
            // Before the lock: an unreadable source then changes nothing at all.
            source.device(&archive).inspect_err(|error| {
                archive.record_failure(VERB, &caller.holder(VERB), error, caller.clock);
            })?;
        }
        let guard = guard()?;
        let Some(mut writer) = open_writer(archive, &options, caller)? else {
            return Ok(BackupOutcome::Running);
        };
        let mut hooks = writer.hooks(|config| source.path(config), guard)?;
        let open = |archive: &Archive| source.open(archive, meeting);
        let made = writer.backup_from(open, &mut hooks, &options, caller.clock, caller.observer)?;
        Ok(made.map_or(BackupOutcome::JustMade, |report| BackupOutcome::Made(report.into())))
    }

    /// The source as it is now. The snapshot that a hook creates does not exist yet, and has the size of the source.
    fn open_for_estimate(&self, archive: &Archive) -> Result<Option<DeviceSource>> {
        let config = archive.config()?;
        let hooks = &config.hooks;
        if hooks.before.is_none() {
            return self.source.device(archive);
        }
        let opened = match (&self.source, &hooks.snapshot, &config.source) {
            (BackupSource::Config, Some(_), Some(source)) => {
                source.path().map(|path| archive.open_device(path)).transpose()
            }
            _ => self.source.device(archive),
        };
        Ok(judged(opened)?.unwrap_or_default())
    }
}

/// `None` if another backup already makes the revision that is due. A backup asked for by hand is always made.
fn open_writer(
    archive: Archive,
    options: &BackupOptions,
    caller: &Caller<'_>,
) -> Result<Option<ArchiveWriter>> {
    match options.is_wanted_now() {
        true => caller.writer(archive, VERB).map(Some),
        false => ArchiveWriter::open_for_due_backup(
            archive,
            &caller.holder(VERB),
            caller.wait,
            caller.observer,
        ),
    }
}

impl<'s> BackupSource<'s> {
    /// The file or device, opened; `None` for anything else. A server is asked once: `qemu-nbd` ends after that.
    fn device(&self, archive: &Archive) -> Result<Option<DeviceSource>> {
        match self {
            BackupSource::Config if archive.reads_from_server()? => Ok(None),
            BackupSource::Config => archive.open_source().map(Some),
            BackupSource::Path(path) => archive.open_device(path).map(Some),
            BackupSource::Other(_) => Ok(None),
        }
    }

    /// Refuses the configured source of a copy, which has none: a revision of its own would keep it from pulling.
    fn check_no_copy(&self, archive: &Archive) -> Result<()> {
        match (self, archive.config()?.origin) {
            (BackupSource::Config, Some(origin)) => {
                let path = archive.folder().join(FileName::CONFIG.to_string());
                Err(Error::IsCopy { path, origin: origin.url })
            }
            _ => Ok(()),
        }
    }

    /// The path of the source in the environment of hooks.
    fn path(&self, config: &Config) -> Option<PathBuf> {
        match self {
            BackupSource::Config => config.source.as_ref().map(SourceAddress::hooked),
            BackupSource::Path(path) => Some(path.clone()),
            BackupSource::Other(_) => None,
        }
    }

    fn open(self, archive: &Archive, meeting: Option<Meeting>) -> Result<Opened<'s>> {
        match self {
            BackupSource::Config => archive.open_meeting(meeting),
            BackupSource::Path(path) => archive.open_device(&path).map(Opened::untracked),
            BackupSource::Other(open) => open(archive),
        }
    }
}
