//! `init`: creates an archive, after a look at what it is to back up: a mistake shows now, and not in the first night.

use std::path::{Path, PathBuf};

use super::Content;
use crate::archive::{Archive, is_inside};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::units::BlockSize;
use crate::source::{DeviceSource, Source};
use crate::storage::{FileName, Trust};

/// An archive to create.
#[derive(Debug, Clone)]
pub struct InitRequest {
    /// Its folder, which is created if it does not exist.
    pub folder: PathBuf,
    /// The device or file to back up; `None` to set it in `backy.toml` later.
    pub source: Option<PathBuf>,
    /// The archive to copy, in place of a source: an absolute path, or a URL `ssh://HOST/PATH`. Nobody looks for it
    /// now.
    pub origin: Option<String>,
    /// Files with settings that its `backy.toml` includes, instead of having settings of its own. They are checked
    /// now.
    pub include: Vec<PathBuf>,
    /// Unit of comparison and storage.
    pub block_size: BlockSize,
    /// Whether to create it where others can change it.
    pub trust: Trust,
}

/// A new archive.
#[non_exhaustive]
pub struct Created {
    /// The archive.
    pub archive: Archive,
    /// Size of the source; `None` without one, and when it does not exist yet.
    pub source_bytes: Option<u64>,
    /// A sentence about the source that whoever set it should read: it does not exist yet, or holds an image in
    /// another format.
    pub warning: Option<String>,
}

impl InitRequest {
    /// Creates the archive.
    ///
    /// # Errors
    /// As those of [`Archive::init`]; [`Error::Source`] when the source cannot be backed up, or is inside the
    /// archive; [`Error::Config`] and [`Error::Untrusted`] when a file cannot be included. Then nothing was created.
    pub fn run(&self) -> Result<Created> {
        refuse_archive(&self.folder)?;
        let found = self.source.as_deref().map(|path| look(path, &self.folder)).transpose()?;
        let path = found.as_ref().map(|found| found.path.as_path());
        let absolute = |path: &PathBuf| {
            std::path::absolute(path).map_err(Error::io(path, "find the folder of"))
        };
        let include: Vec<PathBuf> = self.include.iter().map(absolute).collect::<Result<_>>()?;
        let origin = self.origin.as_deref().map(absolute_origin).transpose()?;
        let origin = origin.as_deref();
        let content = Content { source: path, origin, include: &include };
        // Refuses what cannot stand in the config, and files that cannot be included, before anything is created.
        let open = |path: &Path, behalf| self.trust.open_included(path, behalf);
        content.checked(&self.folder.join(FileName::CONFIG.to_string()), &open)?;
        let archive = Archive::create(&self.folder, content, self.block_size, self.trust)?;
        let (source_bytes, warning) =
            found.map_or((None, None), |found| (found.size_bytes, found.warning));
        Ok(Created { archive, source_bytes, warning })
    }
}

/// A path becomes absolute. Anything with a colon before the first '/' is no path, but a URL or a mistake.
fn absolute_origin(origin: &str) -> Result<String> {
    let first = origin.split('/').next().unwrap_or_default();
    if origin.is_empty() || first.contains(':') {
        return Ok(origin.to_owned());
    }
    let path = std::path::absolute(origin).map_err(Error::io(origin, "find the folder of"))?;
    let not_text = |_| Error::Specification {
        message: format!(
            "{}: its path is not UTF-8, so it cannot stand in backy.toml",
            path.display()
        ),
    };
    path.clone().into_os_string().into_string().map_err(not_text)
}

/// `Archive::init` refuses, too, but only after it has created its lock file.
fn refuse_archive(folder: &Path) -> Result<()> {
    match Archive::open(folder) {
        Err(error) if error.kind() == ErrorKind::NoArchive => Ok(()),
        Err(error) if !matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Unsupported) => {
            Err(error)
        }
        _ => Err(Error::ArchiveExists { path: folder.to_owned() }),
    }
}

/// A source that can be backed up, or that may exist later.
struct Found {
    /// Absolute.
    path: PathBuf,
    size_bytes: Option<u64>,
    warning: Option<String>,
}

fn look(path: &Path, folder: &Path) -> Result<Found> {
    let absolute = std::path::absolute(path).map_err(Error::io(path, "find the folder of"))?;
    let source = DeviceSource::open_if_there(&absolute)?;
    if is_inside(&absolute, folder) {
        let message = format!("it is inside the archive {}", folder.display());
        return Err(Error::Source { path: path.to_owned(), message });
    }
    let warning = match &source {
        None => Some(format!(
            "source {}: does not exist yet; backups fail until it does",
            absolute.display()
        )),
        Some(source) => source.identity().container_note(),
    };
    let size_bytes = source.map(|source| source.size_bytes());
    Ok(Found { path: absolute, size_bytes, warning })
}
