//! Restoring a revision of an archive: to a path, to what is open already, to a stream; and what that would overwrite.

use std::io::Write;
use std::path::Path;

use crate::archive::Archive;
use crate::base::clock::Clock;
use crate::base::error::{Result, judged};
use crate::base::progress::Observer;
use crate::verb::restore::{self, Guard, RestoreOptions, RestoreReport, Target, TargetLook};

impl Archive {
    /// Writes a revision to a file or device, `path`, after the checks that keep it from destroying something.
    pub fn restore(
        &self,
        number: usize,
        path: &Path,
        options: &RestoreOptions,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<RestoreReport> {
        let force = options.force || options.confirmed.is_some();
        if !force {
            self.check_known(path)?;
        }
        let chain = self.open_chain(number, options.keep_going)?;
        let source = judged(self.trusted_source())?.ok();
        let folder = self.folder();
        let guard = Guard {
            archive: &folder,
            source: source.as_deref(),
            size_bytes: chain.revision().size_bytes,
            force,
            observer,
        };
        restore::to_path(&chain, &guard, path, options, clock)
    }

    /// What a restore of a revision to a file or device, `path`, would overwrite, for a person who is asked; `None` when that is nothing.
    ///
    /// # Errors
    /// [`crate::Error::Target`] when the restore would be refused, even with `force`.
    pub fn look_at_target(
        &self,
        number: usize,
        path: &Path,
        observer: &dyn Observer,
    ) -> Result<Option<TargetLook>> {
        let known = self.check_known(path);
        // How much differs is told by the digests alone: damage is found by the restore.
        let chain = self.open_chain(number, true)?;
        let source = judged(self.trusted_source())?.ok();
        let folder = self.folder();
        let guard = Guard {
            archive: &folder,
            source: source.as_deref(),
            size_bytes: chain.revision().size_bytes,
            force: false,
            observer,
        };
        restore::look(&chain, &guard, path, known)
    }

    /// That a target which is the configured source is the one that was backed up. What others may have written is neither looked up nor an
    /// excuse for overwriting.
    fn check_known(&self, target: &Path) -> Result<()> {
        match judged(self.trusted().and_then(|archive| archive.config()))? {
            Ok(config) => restore::known::check(self.manifest(), &config, target),
            Err(_) => Ok(()),
        }
    }

    /// Writes a revision to a target that is open already. `force` and `undo` are about paths and mean nothing here.
    pub fn restore_to(
        &self,
        number: usize,
        target: &dyn Target,
        options: &RestoreOptions,
        observer: &dyn Observer,
    ) -> Result<RestoreReport> {
        restore::to_target(&self.open_chain(number, options.keep_going)?, target, options, observer)
    }

    /// Writes a revision to a stream.
    pub fn restore_to_stream(
        &self,
        number: usize,
        stream: &mut dyn Write,
        options: &RestoreOptions,
        observer: &dyn Observer,
    ) -> Result<RestoreReport> {
        restore::to_stream(&self.open_chain(number, options.keep_going)?, stream, options, observer)
    }
}
