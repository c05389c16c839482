//! Regular files and block devices, read-only.
//!
//! A block device is read past its page cache, which may be stale: data that a file system on the device
//! wrote and synced never passes through that cache.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Advice, FileType, OFlags, SeekFrom, fadvise, seek};
use rustix::io::{Errno, retry_on_intr};

use super::Source;
use super::identity::identify;
use crate::base::error::{Error, Result, limit};
use crate::base::extent::Extent;
use crate::base::fork::Withheld;
use crate::format::manifest::SourceIdentity;
use crate::storage::cache::PageCache;
use crate::storage::device::Device;
use crate::storage::dir::next_data;
use crate::storage::follow::{Place, Refusal, describe_open};
use crate::storage::image_lock::{self, Use};

/// An open file or block device.
#[derive(Debug)]
pub struct DeviceSource {
    path: PathBuf,
    medium: Medium,
    size_bytes: u64,
    is_made: bool,
    /// Asked for several times in a backup, and read once: an open source stays the same one.
    identity: OnceLock<SourceIdentity>,
}

#[derive(Debug)]
enum Medium {
    File { file: Withheld<File>, cache: PageCache },
    Device(Device),
}

impl DeviceSource {
    /// Opens the file or device at `path`. Follows symbolic links that belong to root or the caller.
    ///
    /// # Errors
    /// [`Error::Source`] if it is missing, unreadable, behind someone else's link, or neither a file nor a
    /// block device.
    pub fn open(path: &Path) -> Result<Self> {
        let error = |message: String| Error::Source { path: path.to_owned(), message };
        // A limit of this process says nothing about the source.
        let limited = |errno: io::Error| Error::io(path, "open it")(errno);
        let place = Place::find_by_own_links(path).map_err(|refusal| match refusal {
            Refusal::Io(found) if limit(&found).is_some() => limited(found),
            refusal => error(refusal.sentence("open it")),
        })?;
        // Opening a FIFO would block, and some devices act as soon as they are opened.
        let is_file = match place.kind() {
            FileType::RegularFile => true,
            FileType::BlockDevice => false,
            found => {
                let found = if found == FileType::Directory { "a folder" } else { "neither" };
                let expected = "expected a block device or a regular file";
                return Err(error(format!("{expected}, found {found}")));
            }
        };
        let file = place.open(OFlags::RDONLY | OFlags::NONBLOCK).map_err(|errno| match errno {
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => limited(errno.into()),
            errno => error(format!("cannot open it: {}", describe_open(errno))),
        })?;
        image_lock::take(&file, Use::Read).map_err(|user| {
            error(format!(
                "{user} has it open and is changing it; run it again when that has ended"
            ))
        })?;
        let size_bytes = size_of(&file).map_err(|e| error(describe(e)))?;
        if size_bytes == 0 && !is_file {
            let message = "the device has no size; check that it is attached and has a medium";
            return Err(error(message.to_owned()));
        }
        let medium = match is_file {
            true => Medium::file(file),
            false => Medium::device(file).map_err(|e| {
                error(format!("cannot read it past the page cache: {}", describe(e)))
            })?,
        };
        let (path, identity) = (path.to_owned(), OnceLock::new());
        Ok(DeviceSource { path, medium, size_bytes, is_made: false, identity })
    }

    /// As [`DeviceSource::open`], but `None` if nothing is at `path` or a link leads nowhere.
    ///
    /// # Errors
    /// As for [`DeviceSource::open`].
    pub fn open_if_there(path: &Path) -> Result<Option<Self>> {
        match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => Self::open(path).map(Some),
        }
    }

    /// The open file, if it is no device.
    pub(super) fn file(&self) -> Option<&File> {
        match &self.medium {
            Medium::File { file, .. } => Some(file),
            Medium::Device(_) => None,
        }
    }

    /// A file that is already open. `path` is for messages.
    pub(super) fn of_file(path: &Path, file: File) -> Result<Self> {
        let size_bytes = size_of(&file).map_err(Error::io(path, "look up its size"))?;
        let (path, identity) = (path.to_owned(), OnceLock::new());
        Ok(DeviceSource { path, medium: Medium::file(file), size_bytes, is_made: false, identity })
    }

    /// For a source that is created or attached anew for each backup: only its content identifies it.
    #[must_use]
    pub fn made_anew(self) -> Self {
        DeviceSource { is_made: true, identity: OnceLock::new(), ..self }
    }
}

impl Medium {
    fn file(file: File) -> Self {
        // Only advice: reading works as well without it.
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        let cache = PageCache::new();
        cache.bypass(&file);
        Medium::File { file: Withheld::new(file), cache }
    }

    fn device(file: File) -> io::Result<Self> {
        let device = Device::over(file)?;
        device.sync_relatives();
        Ok(Medium::Device(device))
    }

    fn kind(&self) -> &'static str {
        match self {
            Medium::File { .. } => "file",
            Medium::Device(_) => "block device",
        }
    }

    fn open_file(&self) -> &File {
        match self {
            Medium::File { file, .. } => file,
            Medium::Device(device) => device.file(),
        }
    }

    fn read_full(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Medium::File { file, cache } => cache.read_full(file, buffer, offset),
            Medium::Device(device) => device.read_full(buffer, offset),
        }
    }
}

impl Source for DeviceSource {
    fn identity(&self) -> SourceIdentity {
        let named = (&*self.path, self.medium.kind());
        let read = || identify(self, self.medium.open_file(), named, self.is_made);
        self.identity.get_or_init(read).clone()
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn current_size_bytes(&self) -> Result<u64> {
        size_of(self.medium.open_file()).map_err(Error::io(&self.path, "look up its size"))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.medium.read_full(buffer, offset).map_err(|error| Error::Source {
            path: self.path.clone(),
            message: format!(
                "cannot read {} bytes at offset {offset}: {}",
                buffer.len(),
                describe(error)
            ),
        })
    }

    fn knows_holes(&self) -> bool {
        matches!(self.medium, Medium::File { .. })
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        next_data(self.medium.open_file(), self.size_bytes, offset)
            .map_err(Error::io(&self.path, format!("seek data from offset {offset}")))
    }
}

fn size_of(file: &File) -> io::Result<u64> {
    // Seeks to the end, which also works for a block device, whose metadata has no length.
    Ok(retry_on_intr(|| seek(file, SeekFrom::End(0)))?)
}

fn describe(error: io::Error) -> String {
    crate::base::error::describe_io(&error)
}
