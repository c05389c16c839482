//! A backup from beginning to end, as a writer makes it.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{BackupOptions, BackupReport, Context, Order, backup_held, pins_scheduled};
use crate::archive::reserve;
use crate::archive::{Archive, ArchiveWriter};
use crate::base::clock::Clock;
use crate::base::error::{Error, Result};
use crate::base::progress::{Event, Observer};
use crate::policy::config::Config;
use crate::source::Source;
use crate::source::hooks::{CommandHooks, Held, Hooks, NoHooks, Occasion};

impl ArchiveWriter {
    /// Makes a revision of `source`, which is open already, if one is due or asked for. No hooks are run; see
    /// [`ArchiveWriter::backup_from`].
    pub fn backup(
        &mut self,
        source: &dyn Source,
        options: &BackupOptions,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<Option<BackupReport>> {
        let mut none = NoHooks;
        self.backup_from(|_| Ok(Box::new(source)), &mut none, options, clock, observer)
    }

    /// The hooks of the config that this writer works by. `source` gets that config and names the source for their environment;
    /// `guard` is the program that becomes their guard, and its arguments.
    pub fn hooks(
        &self,
        source: impl FnOnce(&Config) -> Option<PathBuf>,
        guard: Vec<OsString>,
    ) -> Result<CommandHooks> {
        let config = self.archive().config()?;
        let source = source(&config);
        Ok(CommandHooks::new(config.hooks, source, guard))
    }

    /// Makes a revision, if one is due or asked for, of the source that `open` gives. That is called after the first of the
    /// hooks, and the source is closed before the second: as soon as it has been read, before the revision is committed.
    ///
    /// # Errors
    /// [`Error::Hook`] with `before`: there is no revision, and the archive is as it was. [`Error::Hook`] with `after` when only
    /// that has failed: the revision is there, and the message says so.
    pub fn backup_from<'s>(
        &mut self,
        open: impl FnOnce(&Archive) -> Result<Box<dyn Source + 's>>,
        hooks: &mut dyn Hooks,
        options: &BackupOptions,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<Option<BackupReport>> {
        self.archive().check_no_undo()?;
        self.recover_from_failure(observer)?;
        let config = self.archive().config()?;
        let plan = self.archive().plan_backup_by(&config, options, clock)?;
        if !plan.due {
            return Ok(None);
        }
        if let Some(warning) = pins_scheduled(&config, options) {
            observer.event(&Event::Finding(warning));
        }
        let started = clock.now();
        let order = Order::new(options, plan.tags, None, started);
        let done = self.make(open, hooks, order, &config, (clock, observer));
        self.record("backup", started, &done, clock, observer);
        let report = done?;
        reserve::keep(self.archive().storage());
        Ok(Some(report))
    }

    fn make<'s>(
        &mut self,
        open: impl FnOnce(&Archive) -> Result<Box<dyn Source + 's>>,
        hooks: &mut dyn Hooks,
        order: Order<'_>,
        config: &Config,
        (clock, observer): (&dyn Clock, &dyn Observer),
    ) -> Result<BackupReport> {
        let lock = self.share_lock();
        let archive = self.archive().clone();
        let (storage, manifest) = self.parts();
        let folder = storage.folder();
        let occasion = Occasion { archive: &folder, revision: order.uuid, lock };
        let held = Held::open(hooks, occasion, observer, || open(&archive))?;
        let context = Context { storage, config, clock, observer };
        match backup_held(&context, manifest, held, order)? {
            (report, None) => Ok(report),
            (report, Some(first)) => {
                let also = format!("revision {} was made nevertheless", report.revision.uuid);
                Err(Error::Besides { first: first.into(), also })
            }
        }
    }
}
