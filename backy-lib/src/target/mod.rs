//! Where a restore goes: a new file, an existing one, or a block device.

pub(crate) mod in_use;
pub(crate) mod safety;
pub(crate) mod space;
pub(crate) mod unfinished;

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extent::Extent;
use crate::base::fork::Withheld;
use crate::storage::cache::PageCache;
use crate::storage::device::Device;
use crate::storage::dir::{next_data, punch_hole, read_full};
use crate::target::unfinished::{Folder, Unfinished, name_of};

/// The kind of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKind {
    /// A file that does not exist yet.
    NewFile,
    /// An existing file; it gets the size of the revision.
    File,
    /// A block device; nothing past the end of the revision is written.
    BlockDevice,
    /// Standard output.
    Stream,
}

/// Something to write a revision to. Several threads use it at once.
pub trait Target: Sync {
    /// Its path, for messages.
    fn path(&self) -> PathBuf;

    /// Its kind.
    fn kind(&self) -> TargetKind;

    /// Length in bytes when it was opened.
    fn size_bytes(&self) -> u64;

    /// Whether it is all zero, so that comparing is pointless.
    fn is_new(&self) -> bool {
        self.kind() == TargetKind::NewFile
    }

    /// Prepares it for an image of `size_bytes`.
    fn prepare(&self, size_bytes: u64) -> Result<()>;

    /// Fills `buffer`; bytes past the end read as zeros.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// Writes all of `data`.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;

    /// Makes an extent read as zeros.
    fn clear(&self, extent: Extent) -> Result<()>;

    /// The first extent at or after `offset` that may hold data.
    fn next_data(&self, offset: u64) -> Result<Option<Extent>>;

    /// Makes it durable, with its final size and name.
    fn finish(&self, size_bytes: u64) -> Result<()>;
}

/// A file or block device.
pub struct FileTarget {
    path: PathBuf,
    medium: Medium,
    len: u64,
}

enum Medium {
    /// Has no name until it is complete.
    New {
        file: Withheld<File>,
        cache: PageCache,
        unfinished: Unfinished,
    },
    File(Withheld<File>),
    /// Reads and writes the device itself, past its page cache.
    Device(Device),
}

impl FileTarget {
    /// A file that does not exist yet. Until it is complete it has no name, or a temporary one in the same
    /// folder. If it never becomes complete it disappears, even if this process is killed.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let folder = Folder::open(folder_of(path)).map_err(Error::io(path, "create"))?;
        Self::create_in(folder, path)
    }

    /// The same in its folder, which is already open.
    pub(crate) fn create_in(folder: Folder, path: &Path) -> Result<Self> {
        let made = Unfinished::create(folder);
        let (file, unfinished) = made.map_err(Error::io(path, "create"))?;
        let cache = PageCache::new();
        // Each block is written once, in order.
        cache.bypass(&file);
        let file = Withheld::new(file);
        let medium = Medium::New { file, cache, unfinished };
        Ok(FileTarget { path: path.to_owned(), medium, len: 0 })
    }

    /// An existing file.
    pub(super) fn existing(path: &Path, file: File, len: u64) -> Self {
        FileTarget { path: path.to_owned(), medium: Medium::File(Withheld::new(file)), len }
    }

    /// A block device.
    pub(super) fn device(path: &Path, device: Device) -> Self {
        let len = device.len();
        FileTarget { path: path.to_owned(), medium: Medium::Device(device), len }
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        match &self.medium {
            Medium::New { file, .. } | Medium::File(file) => file,
            Medium::Device(device) => device.file(),
        }
    }

    /// The sector size of a device.
    pub(super) fn sector_bytes(&self) -> Option<u64> {
        match &self.medium {
            Medium::Device(device) => Some(device.sector_bytes()),
            Medium::New { .. } | Medium::File(_) => None,
        }
    }

    /// Adds to an error that an existing target may be restored in part. A new one disappears, and the caller
    /// reports an interruption.
    pub(super) fn half_restored(&self, error: Error) -> Error {
        if self.is_new() || error.kind() == ErrorKind::Interrupted {
            return error;
        }
        let path = self.path.display();
        let also = format!("{path} may be restored in part: run the restore again to complete it");
        Error::Besides { first: error.into(), also }
    }

    fn io(&self, action: String) -> impl FnOnce(std::io::Error) -> Error {
        Error::io(&self.path, action)
    }
}

impl Target for FileTarget {
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    fn kind(&self) -> TargetKind {
        match self.medium {
            Medium::New { .. } => TargetKind::NewFile,
            Medium::File(_) => TargetKind::File,
            Medium::Device(_) => TargetKind::BlockDevice,
        }
    }

    fn size_bytes(&self) -> u64 {
        self.len
    }

    fn prepare(&self, size_bytes: u64) -> Result<()> {
        match &self.medium {
            Medium::Device(_) => Ok(()),
            Medium::New { file, .. } | Medium::File(file) => {
                file.set_len(size_bytes).map_err(self.io(format!("set its length to {size_bytes}")))
            }
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let action = format!("read {} bytes at offset {offset}", buffer.len());
        let found = match &self.medium {
            Medium::Device(device) => device.read_full(buffer, offset),
            Medium::New { file, .. } | Medium::File(file) => read_full(file, buffer, offset),
        };
        let found = found.map_err(self.io(action))?;
        if let Some(rest) = buffer.get_mut(found..) {
            rest.fill(0);
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let action = format!("write {} bytes at offset {offset}", data.len());
        let written = match &self.medium {
            Medium::Device(device) => device.write_all(data, offset),
            Medium::New { file, cache, .. } => cache.write_all(file, data, offset),
            Medium::File(file) => PageCache::new().write_all(file, data, offset),
        };
        written.map_err(self.io(action))
    }

    fn clear(&self, extent: Extent) -> Result<()> {
        let action = format!("clear {} bytes at offset {}", extent.len, extent.offset);
        let cleared = match &self.medium {
            Medium::Device(device) => device.clear(extent),
            Medium::New { file, .. } | Medium::File(file) => punch_hole(file, extent),
        };
        cleared.map_err(self.io(action))
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        let action = format!("seek data from offset {offset}");
        next_data(self.file(), self.len, offset).map_err(self.io(action))
    }

    fn finish(&self, _size_bytes: u64) -> Result<()> {
        let sync = |error| Error::io(&self.path, "sync")(error);
        match &self.medium {
            Medium::File(file) => file.sync_all().map_err(sync),
            Medium::Device(device) => {
                device.sync().map_err(sync)?;
                device.drop_relatives();
                Ok(())
            }
            Medium::New { file, unfinished, .. } => {
                file.sync_all().map_err(sync)?;
                let named = unfinished.give_name(file, name_of(&self.path));
                named.map_err(self.io("give it its name".to_owned()))?;
                let synced = unfinished.sync_folder();
                synced.map_err(Error::io(folder_of(&self.path), "sync the folder"))
            }
        }
    }
}

/// A target that is only read.
pub(super) struct DryRun<'a> {
    path: PathBuf,
    target: Option<&'a dyn Target>,
}

impl<'a> DryRun<'a> {
    /// A file that does not exist yet.
    pub(super) fn new_file(path: &Path) -> Self {
        DryRun { path: path.to_owned(), target: None }
    }

    /// An existing target.
    pub(super) fn over(target: &'a dyn Target) -> Self {
        DryRun { path: target.path(), target: Some(target) }
    }
}

impl Target for DryRun<'_> {
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    fn kind(&self) -> TargetKind {
        self.target.map_or(TargetKind::NewFile, Target::kind)
    }

    fn size_bytes(&self) -> u64 {
        self.target.map_or(0, Target::size_bytes)
    }

    fn prepare(&self, _size_bytes: u64) -> Result<()> {
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        match self.target {
            Some(target) => target.read_at(buffer, offset),
            None => {
                buffer.fill(0);
                Ok(())
            }
        }
    }

    fn write_at(&self, _data: &[u8], _offset: u64) -> Result<()> {
        Ok(())
    }

    fn clear(&self, _extent: Extent) -> Result<()> {
        Ok(())
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        self.target.map_or(Ok(None), |target| target.next_data(offset))
    }

    fn finish(&self, _size_bytes: u64) -> Result<()> {
        Ok(())
    }
}

/// The folder of a file, `.` for a bare name.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
