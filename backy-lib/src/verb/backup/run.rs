//! A backup from beginning to end, as a writer makes it.

use std::ffi::OsString;
use std::path::PathBuf;

use jiff::Timestamp;

use super::{BackupOptions, BackupPlan, BackupReport, Order, backup_held, pins_scheduled};
use crate::archive::operation::{Context, Request};
use crate::archive::reserve;
use crate::archive::{Archive, ArchiveWriter};
use crate::base::clock::Clock;
use crate::base::error::{Error, Result};
use crate::base::progress::{Event, Observer};
use crate::policy::config::Config;
use crate::source::hooks::{CommandHooks, Held, Hooks, NoHooks, Occasion};
use crate::source::{Opened, Source};
use crate::storage::Storage;

impl ArchiveWriter {
    /// Makes a revision of `source`, which is already open, if one is due or asked for. Runs no hooks; see
    /// [`ArchiveWriter::backup_from`].
    pub fn backup(
        &mut self,
        source: &dyn Source,
        options: &BackupOptions,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<Option<BackupReport>> {
        let mut none = NoHooks;
        let open = |_: &Archive| Ok(Opened::untracked(source));
        self.backup_from(open, &mut none, options, clock, observer)
    }

    /// The hooks of this writer's config. `source` gets that config and names the source for their environment;
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

    /// If a revision is due or asked for, makes one of the source that `open` returns. The first hook runs before
    /// `open` is called. The source is closed as soon as it has been read, then the second hook runs, and then the
    /// revision is committed.
    ///
    /// # Errors
    /// [`Error::Hook`] with `before`: there is no revision, and the archive is as it was. [`Error::Hook`] with
    /// `after` if only that hook has failed: the revision exists, and the message says so.
    pub fn backup_from<'s>(
        &mut self,
        open: impl FnOnce(&Archive) -> Result<Opened<'s>>,
        hooks: &mut dyn Hooks,
        options: &BackupOptions,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<Option<BackupReport>> {
        self.archive().check_no_undo()?;
        self.operation(Backup { open, hooks, options }, clock, observer)
    }
}

struct Backup<'a, F> {
    open: F,
    hooks: &'a mut dyn Hooks,
    options: &'a BackupOptions,
}

impl<'s, F> Request for Backup<'_, F>
where
    F: FnOnce(&Archive) -> Result<Opened<'s>>,
{
    const NAME: &'static str = "backup";
    type Plan = BackupPlan;
    /// `None` when no backup was due.
    type Report = Option<BackupReport>;

    fn threads(&self) -> Option<usize> {
        self.options.threads
    }

    fn plan(&self, writer: &mut ArchiveWriter, context: &Context<'_>) -> Result<BackupPlan> {
        writer.archive().plan_backup_by(context.config, self.options, context.clock)
    }

    fn run(
        self,
        writer: &mut ArchiveWriter,
        context: &Context<'_>,
        plan: BackupPlan,
        started: Timestamp,
    ) -> Result<Option<BackupReport>> {
        if !plan.due {
            return Ok(None);
        }
        if let Some(warning) = pins_scheduled(context.config, self.options) {
            context.observer.event(&Event::Finding(warning));
        }
        let order = Order::new(self.options, plan.tags, None, started);
        let lock = writer.share_lock();
        let archive = writer.archive().clone();
        let folder = context.storage.folder();
        let occasion = Occasion { archive: &folder, revision: order.uuid, lock };
        let open = self.open;
        let mut tracker = None;
        let held = Held::open(self.hooks, occasion, context.observer, || {
            let opened = open(&archive)?;
            tracker = opened.tracker;
            Ok(opened.source)
        })?;
        match backup_held(context, writer.manifest_mut(), held, tracker, order)? {
            (report, None) => Ok(Some(report)),
            (report, Some(first)) => {
                let also = format!("revision {} was made nevertheless", report.revision.uuid);
                Err(Error::Besides { first: first.into(), also })
            }
        }
    }

    fn is_recorded(done: &Result<Option<BackupReport>>) -> bool {
        !matches!(done, Ok(None))
    }

    fn finish(storage: &dyn Storage, done: &Result<Option<BackupReport>>) {
        if let Ok(Some(_)) = done {
            reserve::keep(storage);
        }
    }
}
