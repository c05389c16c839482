//! The config of an archive, and whether backy may act on it.
//!
//! To read an archive, backy reads its config whoever has written it. To act on the archive, it takes a
//! [`trusted`](Archive::trusted) one. Such an archive reads the config once, from a file that is checked after it was
//! opened, and everything follows that one reading. A writer reads it again under its lock.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::Archive;
use super::settings::Settings;
use crate::base::error::{Error, ErrorKind, Result, judged};
use crate::policy::config::{Config, OriginConfig};
use crate::storage::{Behalf, FileName, Storage};

/// What a config said when it was first needed.
pub(super) type Held = Arc<OnceLock<Config>>;

impl Archive {
    /// The same archive, for acting on it or on what its config names. Nobody but the caller and root can change its
    /// folder, those above it, `backy.toml`, or the files that this includes; or the caller has decided that this does
    /// not matter.
    ///
    /// # Errors
    /// [`Error::Untrusted`]. A config that cannot be read for another reason is an error only of [`Archive::config`].
    pub fn trusted(&self) -> Result<Self> {
        self.storage.check_trust()?;
        let archive = Archive { held: Some(Held::default()), ..self.clone() };
        take_file_mode(&*self.storage, archive.config())?;
        Ok(archive)
    }

    /// The source, for a restore back to it.
    ///
    /// # Errors
    /// [`Error::NoSource`] when none is configured; [`Error::Untrusted`] when others could make the config name a
    /// target that they want overwritten.
    pub fn trusted_source(&self) -> Result<PathBuf> {
        let archive = self.trusted()?;
        let config = archive.config()?;
        check_outside(&*archive.storage, &config)?;
        let no_source = || Error::NoSource { path: self.storage.path(FileName::CONFIG) };
        let source = config.source.ok_or_else(no_source)?;
        source.path().map(Path::to_owned).ok_or_else(|| Error::Specification {
            message: format!("{source}: backy cannot write to this kind of source; name a target"),
        })
    }

    /// The origin of a copy, for a pull from it.
    ///
    /// # Errors
    /// [`Error::Specification`] when none is configured; [`Error::Untrusted`] when others could make the config name
    /// an origin of theirs.
    pub fn trusted_origin(&self) -> Result<OriginConfig> {
        let archive = self.trusted()?;
        let config = archive.config()?;
        check_outside(&*archive.storage, &config)?;
        config.origin.ok_or_else(|| Error::Specification {
            message: format!(
                "{}: no origin is configured; name the archive to pull from, or set url in [origin] there",
                self.storage.path(FileName::CONFIG).display()
            ),
        })
    }

    /// What `backy.toml` says: now, or for a [`trusted`](Archive::trusted) archive when it was first read.
    pub fn config(&self) -> Result<Config> {
        let Some(held) = &self.held else {
            return self.settings()?.config();
        };
        if let Some(config) = held.get() {
            return Ok(config.clone());
        }
        let config = trusted_config(&*self.storage)?;
        Ok(held.get_or_init(|| config).clone())
    }

    /// What `backy.toml` and the files that it includes say now, as far as they can be read.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let (file, behalf) = self.storage.open_config()?;
        Settings::read(&*self.storage, &*file, behalf)
    }
}

/// Gives new files of the archive the mode in its config, if that can be trusted.
pub(crate) fn take_file_mode(storage: &dyn Storage, config: Result<Config>) -> Result<()> {
    match judged(config)? {
        Err(error) if error.kind() == ErrorKind::Untrusted => return Err(error),
        // If the config cannot be read, the strictest mode is right.
        Err(_) => {}
        Ok(config) => storage.set_file_mode(config.file_mode),
    }
    Ok(())
}

/// What `backy.toml` says, if nobody but the caller and root can change it or what it includes.
pub(crate) fn trusted_config(storage: &dyn Storage) -> Result<Config> {
    let file = storage.open_trusted(FileName::CONFIG)?;
    let config = Settings::read(storage, &*file, || Ok(Behalf::Acting))?.config()?;
    if config.acts_outside() {
        check_outside(storage, &config)?;
    }
    Ok(config)
}

/// Checks whether backy may run or write what a config names outside of the archive.
fn check_outside(storage: &dyn Storage, config: &Config) -> Result<()> {
    storage.check_trust_outside()?;
    config.includes.iter().try_for_each(|path| storage.check_included_outside(path))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an operator edits the config")]
mod tests {
    use super::*;
    use crate::archive::ArchiveWriter;
    use crate::base::progress::Silent;
    use crate::base::units::BlockSize;

    /// A writer follows the config as it was under its lock, not as it was before or as it becomes meanwhile.
    #[test]
    fn a_writer_reads_the_config_once_under_its_lock() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("a");
        let level = |level: u32| {
            let text = format!("compression_level = {level}\n[hooks]\nbefore = \"true {level}\"\n");
            std::fs::write(folder.join("backy.toml"), text).unwrap();
        };
        Archive::init(&folder, None, BlockSize::DEFAULT).unwrap();
        level(2);
        let archive = Archive::open(&folder).unwrap().trusted().unwrap();
        assert_eq!(archive.config().unwrap().compression_level, 2);
        level(3);
        assert_eq!(archive.config().unwrap().compression_level, 2, "it was read again");
        let writer = ArchiveWriter::open(archive, "a test", &Silent).unwrap();
        level(4);
        let held = writer.archive().config().unwrap();
        assert_eq!(held.compression_level, 3);
        let mut of_hooks = None;
        let source = |config: &Config| {
            of_hooks = Some(config.clone());
            None
        };
        writer.hooks(source, Vec::new()).unwrap();
        assert_eq!(of_hooks, Some(held), "the hooks are of another reading");
        assert_eq!(Archive::open(&folder).unwrap().config().unwrap().compression_level, 4);
    }
}
