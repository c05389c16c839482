//! Where a restore goes: a new file, an existing one, or a block device.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, RenameFlags, renameat_with};
use rustix::io::{Errno, retry_on_intr};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::storage::cache::PageCache;
use crate::storage::dir::{next_data, punch_hole, read_full};

/// What a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKind {
    /// A file that is not there yet.
    NewFile,
    /// A file that is there; it gets the size of the revision.
    File,
    /// A block device; what is past the end of the revision is left alone.
    BlockDevice,
    /// Standard output.
    Stream,
}

/// Something that a revision can be written to. Used by several threads at once.
pub trait Target: Sync {
    /// Where it is, for messages.
    fn path(&self) -> PathBuf;

    /// What it is.
    fn kind(&self) -> TargetKind;

    /// How long it was when it was opened, in bytes.
    fn size_bytes(&self) -> u64;

    /// Whether it is all zero, so that there is nothing to compare with.
    fn is_new(&self) -> bool {
        self.kind() == TargetKind::NewFile
    }

    /// Makes it ready for an image of `size_bytes`.
    fn prepare(&self, size_bytes: u64) -> Result<()>;

    /// Reads into all of `buffer`; what lies past the end reads as zeros.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// Writes all of `data`.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;

    /// Makes an extent zero.
    fn clear(&self, extent: Extent) -> Result<()>;

    /// The first stretch at or after `offset` that may hold data.
    fn next_data(&self, offset: u64) -> Result<Option<Extent>>;

    /// Makes it durable, with its final size and name.
    fn finish(&self, size_bytes: u64) -> Result<()>;
}

/// A file or block device.
pub struct FileTarget {
    path: PathBuf,
    file: File,
    kind: Kind,
    len: u64,
    cache: PageCache,
}

enum Kind {
    /// Written under another name, which it loses at the end.
    New {
        written_as: PathBuf,
    },
    File,
    Device,
}

impl FileTarget {
    /// A file that is not there yet. Until it is complete it has another name in the same folder, and it is removed
    /// when it never is.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".backy-{}", rustix::process::getpid().as_raw_nonzero()));
        let written_as = path.with_file_name(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| rustix::fs::open(&written_as, flags, Mode::RUSR | Mode::WUSR))
            .map_err(|errno| Error::io(path, "create")(errno.into()))?;
        let target = Self::over(path, File::from(fd), Kind::New { written_as }, 0);
        // Each block is written once, in order.
        target.cache.bypass(&target.file);
        Ok(target)
    }

    /// A file that is there.
    pub(super) fn existing(path: &Path, file: File, len: u64) -> Self {
        Self::over(path, file, Kind::File, len)
    }

    /// A block device.
    pub(super) fn device(path: &Path, file: File, len: u64) -> Self {
        Self::over(path, file, Kind::Device, len)
    }

    fn over(path: &Path, file: File, kind: Kind, len: u64) -> Self {
        FileTarget { path: path.to_owned(), file, kind, len, cache: PageCache::new() }
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
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
        match self.kind {
            Kind::New { .. } => TargetKind::NewFile,
            Kind::File => TargetKind::File,
            Kind::Device => TargetKind::BlockDevice,
        }
    }

    fn size_bytes(&self) -> u64 {
        self.len
    }

    fn prepare(&self, size_bytes: u64) -> Result<()> {
        match self.kind {
            Kind::Device => Ok(()),
            Kind::New { .. } | Kind::File => self
                .file
                .set_len(size_bytes)
                .map_err(self.io(format!("set its length to {size_bytes}"))),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let action = format!("read {} bytes at offset {offset}", buffer.len());
        let found = read_full(&self.file, buffer, offset).map_err(self.io(action))?;
        if let Some(rest) = buffer.get_mut(found..) {
            rest.fill(0);
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let action = format!("write {} bytes at offset {offset}", data.len());
        self.cache.write_all(&self.file, data, offset).map_err(self.io(action))
    }

    fn clear(&self, extent: Extent) -> Result<()> {
        let action = format!("clear {} bytes at offset {}", extent.len, extent.offset);
        punch_hole(&self.file, extent).map_err(self.io(action))
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        let action = format!("seek data from offset {offset}");
        next_data(&self.file, self.len, offset).map_err(self.io(action))
    }

    fn finish(&self, _size_bytes: u64) -> Result<()> {
        self.file.sync_all().map_err(self.io("sync".to_owned()))?;
        let Kind::New { written_as } = &self.kind else { return Ok(()) };
        let cwd = rustix::fs::CWD;
        let rename = || renameat_with(cwd, written_as, cwd, &self.path, RenameFlags::NOREPLACE);
        let renamed = match retry_on_intr(rename) {
            // The file system does not know the flag.
            Err(Errno::INVAL | Errno::NOSYS) if !self.path.exists() => {
                rustix::fs::rename(written_as, &self.path)
            }
            other => other,
        };
        renamed.map_err(|errno| Error::io(&self.path, "give it its name")(errno.into()))?;
        let folder = folder_of(&self.path);
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(Error::io(folder, "sync the folder"))
    }
}

/// A target as it is, to which nothing is written.
pub(super) struct DryRun<'a> {
    path: PathBuf,
    target: Option<&'a dyn Target>,
}

impl<'a> DryRun<'a> {
    /// A file that is not there yet.
    pub(super) fn new_file(path: &Path) -> Self {
        DryRun { path: path.to_owned(), target: None }
    }

    /// One that is there.
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

/// The folder that a file is in, `.` for a bare name.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Drop for FileTarget {
    /// A file that never became complete is of no use to anybody.
    fn drop(&mut self) {
        if let Kind::New { written_as } = &self.kind {
            // After `finish` there is no such name any more.
            let _ = rustix::fs::unlink(written_as);
        }
    }
}
