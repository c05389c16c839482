//! Opening what is backed up: the configured source, its snapshot, or another device.

use std::path::Path;

use super::Archive;
use crate::base::error::{Error, Result};
use crate::policy::config::{SourceAddress, Tracking};
use crate::source::libvirt::{self, LibvirtOptions};
use crate::source::nbd::{NbdOptions, NbdSource};
use crate::source::qcow2::ImageFile;
use crate::source::{self, DeviceSource, Meeting, Opened, hint_program, qmp, rbd, reflink, thin};
use crate::storage::FileName;

impl Archive {
    /// Opens the configured source, or the snapshot of it that the hooks make.
    ///
    /// # Errors
    /// [`Error::NoSource`] when none is configured; [`Error::Source`] also when it is one of the archive's own files.
    pub fn open_source(&self) -> Result<DeviceSource> {
        let config = self.config()?;
        let no_source = || Error::NoSource { path: self.storage.path(FileName::CONFIG) };
        let source = config.source.ok_or_else(no_source)?;
        let opened = match &config.hooks.snapshot {
            None => self.open_device(plain(&source)?)?,
            Some(snapshot) => self.open_device(snapshot).map_err(of_hook)?,
        };
        Ok(if config.hooks.before.is_some() { opened.made_anew() } else { opened })
    }

    /// Opens the configured source with what keeps its marks, if anything does. A snapshot of hooks has none.
    ///
    /// # Errors
    /// As for [`Archive::open_source`].
    pub fn open_tracked(&self) -> Result<Opened<'static>> {
        self.open_meeting(None)
    }

    /// The same, for a backup that meets those of the other disks of a machine.
    pub(crate) fn open_meeting(&self, meeting: Option<Meeting>) -> Result<Opened<'static>> {
        let config = self.config()?;
        if let (Some(SourceAddress::Path(path)), Some(command)) =
            (&config.source, config.tracking.command)
        {
            let archive = self.clone();
            let open = Box::new(move |path: &Path| archive.open_device(path));
            return Ok(hint_program::tracked(self.open_source()?, path.clone(), command, open));
        }
        let is_made = config.hooks.snapshot.is_some() || config.hooks.before.is_some();
        match config.source {
            Some(SourceAddress::Reflink(path)) if !is_made => {
                reflink::open(&path, self.open_device(&path)?)
            }
            Some(SourceAddress::Qcow2(path)) if config.hooks.snapshot.is_none() => {
                let container = self.open_device(&path)?;
                ImageFile::new(path, config.secret_file).open(&container)
            }
            Some(SourceAddress::Libvirt(address)) if config.hooks.snapshot.is_none() => {
                let Tracking { scratch, quiesce, .. } = config.tracking;
                let secret = config.secret_file;
                let options = LibvirtOptions { scratch, quiesce, secret, meeting };
                libvirt::open(address, options, self.manifest().archive)
            }
            Some(SourceAddress::Qmp(address)) if config.hooks.snapshot.is_none() => {
                qmp::open(address, config.tracking.scratch, self.manifest().archive)
            }
            Some(SourceAddress::Nbd(address)) if config.hooks.snapshot.is_none() => {
                NbdSource::open(&address, &NbdOptions::default()).map(Opened::untracked)
            }
            Some(SourceAddress::Rbd(address)) if config.hooks.snapshot.is_none() => {
                rbd::open(address, config.tracking.fast_diff)
            }
            Some(SourceAddress::Thin(address)) if config.hooks.snapshot.is_none() => {
                thin::open(address)
            }
            _ => self.open_source().map(Opened::untracked),
        }
    }

    /// Whether the configured source is no file or device that is read as it is.
    pub(crate) fn reads_from_server(&self) -> Result<bool> {
        let config = self.config()?;
        let is_served = |source: &SourceAddress| source.path().is_none();
        Ok(config.hooks.snapshot.is_none() && config.source.as_ref().is_some_and(is_served))
    }

    /// Opens another file or device to back up.
    ///
    /// # Errors
    /// [`Error::Source`] also when it is one of the archive's own files, and when it is empty.
    pub fn open_device(&self, path: &Path) -> Result<DeviceSource> {
        let source = DeviceSource::open(path)?;
        if is_inside(path, &self.folder()) {
            let path = path.to_owned();
            return Err(Error::Source { path, message: "it is inside the archive".to_owned() });
        }
        source::check_not_empty(&source)?;
        Ok(source)
    }
}

/// The path of a source that is a file or a device.
fn plain(source: &SourceAddress) -> Result<&Path> {
    source.path().ok_or_else(|| Error::Specification {
        message: format!("{source}: it is not a file or device"),
    })
}

/// Whether a path leads into a folder, as far as both exist.
pub(crate) fn is_inside(path: &Path, folder: &Path) -> bool {
    let real = |path: &Path| path.ancestors().find_map(|above| above.canonicalize().ok());
    folder
        .canonicalize()
        .is_ok_and(|folder| real(path).is_some_and(|real| real.starts_with(folder)))
}

/// Adds which hook has to create the snapshot to the error of one that cannot be read.
fn of_hook(error: Error) -> Error {
    match error {
        Error::Source { path, message } => {
            let message =
                format!("{message}; the hook 'before' of backy.toml must create this snapshot");
            Error::Source { path, message }
        }
        other => other,
    }
}
