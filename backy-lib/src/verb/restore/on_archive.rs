//! Restores a revision of an archive to a path, an open target or a stream, and shows what that would overwrite.

use std::io::Write;
use std::path::Path;

use crate::archive::Archive;
use crate::base::clock::Clock;
use crate::base::error::{Error, Result, judged};
use crate::base::progress::Observer;
use crate::base::revision::RevisionId;
use crate::image::chain::Chain;
use crate::verb::restore::{self, Guard, RestoreOptions, RestoreReport, Target, TargetLook};

impl Archive {
    /// Writes a revision to the file or device at `path`, after the safety checks.
    pub fn restore(
        &self,
        id: RevisionId,
        path: &Path,
        options: &RestoreOptions,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<RestoreReport> {
        let force = options.force || options.confirmed.is_some();
        if !force {
            self.check_known(path)?;
        }
        let chain = self.open_chain(id, options.keep_going)?;
        if !options.dry_run {
            self.drop_marks(path)?;
        }
        self.guarded(&chain, force, observer, |guard| {
            restore::to_path(&chain, guard, path, options, clock)
        })
    }

    /// What restoring a revision to the file or device at `path` would overwrite, for a confirmation; `None`
    /// if nothing.
    ///
    /// # Errors
    /// [`crate::Error::Target`] if the restore would be refused even with `force`.
    pub fn look_at_target(
        &self,
        id: RevisionId,
        path: &Path,
        observer: &dyn Observer,
    ) -> Result<Option<TargetLook>> {
        let known = self.check_known(path);
        // The digests alone show how much differs; the restore itself finds damage.
        let chain = self.open_chain(id, true)?;
        self.guarded(&chain, false, observer, |guard| restore::look(&chain, guard, path, known))
    }

    /// Acts with the facts by which a target is judged. Only a source that this archive may name needs no `force`.
    fn guarded<T>(
        &self,
        chain: &Chain,
        force: bool,
        observer: &dyn Observer,
        act: impl FnOnce(&Guard<'_>) -> Result<T>,
    ) -> Result<T> {
        let source = judged(self.trusted_source())?.ok();
        let (archive, size_bytes) = (&*self.folder(), chain.revision().size_bytes);
        act(&Guard { archive, source: source.as_deref(), size_bytes, force, observer })
    }

    /// Checks that a target that is the configured source is the one that was backed up. If others may have
    /// changed the archive, its record is not used and does not permit overwriting.
    fn check_known(&self, target: &Path) -> Result<()> {
        match judged(self.trusted().and_then(|archive| archive.config()))? {
            Ok(config) => restore::known::check(self.manifest(), &config, target),
            Err(_) => Ok(()),
        }
    }

    /// Removes the marks that a hint program keeps, if the target is the source: it may not see what is written to
    /// that. So the next backup reads everything.
    fn drop_marks(&self, target: &Path) -> Result<()> {
        let Ok(config) = judged(self.trusted().and_then(|archive| archive.config()))? else {
            return Ok(());
        };
        let is_hinted = config.tracking.command.is_some();
        let (Some(archive), true, true) =
            (self.manifest().archive, is_hinted, restore::known::is_source(target, &config))
        else {
            return Ok(());
        };
        let settled = match self.open_tracked()?.tracker {
            Some(mut tracker) => tracker.settle(archive, None),
            None => Ok(()),
        };
        settled.map_err(|error| Error::Source {
            path: target.to_owned(),
            message: format!(
                "it has marks, after which a restore may not show, and they cannot be removed: {error}; restore to \
                 another path, or take 'command' out of [tracking] and run 'backy backup --read-all' after the restore"
            ),
        })
    }

    /// Writes a revision to an open target. `force` and `undo` concern paths and have no effect here.
    pub fn restore_to(
        &self,
        id: RevisionId,
        target: &dyn Target,
        options: &RestoreOptions,
        observer: &dyn Observer,
    ) -> Result<RestoreReport> {
        restore::to_target(&self.open_chain(id, options.keep_going)?, target, options, observer)
    }

    /// Writes a revision to a stream.
    pub fn restore_to_stream(
        &self,
        id: RevisionId,
        stream: &mut dyn Write,
        options: &RestoreOptions,
        observer: &dyn Observer,
    ) -> Result<RestoreReport> {
        restore::to_stream(&self.open_chain(id, options.keep_going)?, stream, options, observer)
    }
}
