//! `init`: creates an archive, after a look at what it is to back up: a mistake shows now, and not in the first night.

use std::path::{Path, PathBuf};

use super::{Content, typed};
use crate::archive::{Archive, is_inside};
use crate::base::error::{Error, ErrorKind, Result, judged};
use crate::base::units::BlockSize;
use crate::policy::config::SourceAddress;
use crate::source::qcow2::ImageFile;
use crate::source::{DeviceSource, Source, rbd, reflink, thin};
use crate::storage::{FileName, Trust};

/// An archive to create.
#[derive(Debug, Clone)]
pub struct InitRequest {
    /// Its folder, which is created if it does not exist.
    pub folder: PathBuf,
    /// What to back up, as in `backy.toml`; a relative path begins in the current folder. `None` to set it there
    /// later.
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
    /// A sentence about another way to write the source, with which backups would read only what has changed.
    pub advice: Option<String>,
}

impl InitRequest {
    /// Creates the archive.
    ///
    /// # Errors
    /// As those of [`Archive::init`]; [`Error::Source`] when the source cannot be backed up, or is inside the
    /// archive; [`Error::Config`] and [`Error::Untrusted`] when a file cannot be included. Then nothing was created.
    pub fn run(&self) -> Result<Created> {
        refuse_archive(&self.folder)?;
        let source = typed(self.source.as_deref())?;
        let found = source.as_ref().map(|source| look(source, &self.folder)).transpose()?;
        let absolute = |path: &PathBuf| {
            std::path::absolute(path).map_err(Error::io(path, "find the folder of"))
        };
        let include: Vec<PathBuf> = self.include.iter().map(absolute).collect::<Result<_>>()?;
        let origin = self.origin.as_deref().map(absolute_origin).transpose()?;
        let origin = origin.as_deref();
        let content = Content { source: source.as_ref(), origin, include: &include };
        // Refuses what cannot stand in the config, and files that cannot be included, before anything is created.
        let open = |path: &Path, behalf| self.trust.open_included(path, behalf);
        content.checked(&self.folder.join(FileName::CONFIG.to_string()), &open)?;
        let archive = Archive::create(&self.folder, content, self.block_size, self.trust)?;
        let Found { size_bytes: source_bytes, warning, advice } = found.unwrap_or_default();
        Ok(Created { archive, source_bytes, warning, advice })
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
#[derive(Default)]
struct Found {
    size_bytes: Option<u64>,
    warning: Option<String>,
    advice: Option<String>,
}

fn look(address: &SourceAddress, folder: &Path) -> Result<Found> {
    let path = match address {
        // A server is not asked: `qemu-nbd` ends after the first who does.
        SourceAddress::Nbd(_) => return Ok(Found::default()),
        // The virtual machine need not run now.
        SourceAddress::Libvirt(_) | SourceAddress::Qmp(_) => return Ok(Found::default()),
        SourceAddress::Rbd(address) => return look_at(rbd::size_bytes(address)),
        SourceAddress::Thin(address) => return look_at(thin::size_bytes(address)),
        SourceAddress::Path(path) | SourceAddress::Reflink(path) | SourceAddress::Qcow2(path) => {
            path
        }
    };
    let source = DeviceSource::open_if_there(path)?;
    if is_inside(path, folder) {
        let message = format!("it is inside the archive {}", folder.display());
        return Err(Error::Source { path: path.to_owned(), message });
    }
    let warning = match &source {
        None => Some(format!(
            "source {}: does not exist yet; backups fail until it does",
            path.display()
        )),
        Some(_) if matches!(address, SourceAddress::Qcow2(_)) => None,
        Some(source) => source.identity().container_note(),
    };
    if let (SourceAddress::Reflink(_), Some(source)) = (address, &source) {
        reflink::check(path, source)?;
    }
    let can_be_tracked = |source: &DeviceSource| reflink::is_possible(path, source);
    let advice = match (address, &source) {
        (SourceAddress::Path(_), Some(source)) if can_be_tracked(source) => Some(format!(
            "this file system can tell what has changed: with source = \"reflink:{}\" in backy.toml, backups read \
             only that",
            path.display()
        )),
        _ => None,
    };
    if let (SourceAddress::Qcow2(path), Some(_)) = (address, &source) {
        // A virtual machine may have it open now, and none when it is backed up.
        let size_bytes = ImageFile::new(path.clone(), None).size_bytes()?;
        let warning = size_bytes.is_none().then(|| {
            format!(
                "source {}: a virtual machine or another program has it open for writing; backups fail while it has",
                path.display()
            )
        });
        return Ok(Found { size_bytes, warning, advice: None });
    }
    let size_bytes = source.map(|source| source.size_bytes());
    Ok(Found { size_bytes, warning, advice })
}

/// An image or a volume, which may exist later, or be out of reach for now.
fn look_at(size_bytes: Result<u64>) -> Result<Found> {
    Ok(match judged(size_bytes)? {
        Ok(size_bytes) => Found { size_bytes: Some(size_bytes), ..Found::default() },
        Err(error) => Found {
            warning: Some(format!("{error}; backups fail until that has changed")),
            ..Found::default()
        },
    })
}
