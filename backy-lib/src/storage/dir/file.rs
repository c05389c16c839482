//! One open file.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use jiff::Timestamp;
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, ftruncate};
use rustix::io::{Errno, retry_on_intr};

use super::calls::write_zeros;
use super::{metadata, next_data, punch_hole};
use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::base::fork::Withheld;
use crate::storage::StorageFile;
use crate::storage::cache::PageCache;
use crate::storage::identity::{Stamp, is_local, may_hide_holes};

/// A file, and whether children of this process inherit it.
enum Opened {
    Handed(File),
    Withheld(Withheld<File>),
}

impl Deref for Opened {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Opened::Handed(file) => file,
            Opened::Withheld(file) => file,
        }
    }
}

impl AsFd for Opened {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (**self).as_fd()
    }
}

/// An open file.
pub(crate) struct DirFile {
    path: PathBuf,
    file: Opened,
    cache: PageCache,
    is_local: OnceLock<bool>,
}

impl DirFile {
    /// Takes over an open file, an archive's or not.
    pub(crate) fn over(path: PathBuf, file: File) -> Self {
        Self::with(path, Opened::Handed(file))
    }

    /// Takes over a file that is written to.
    pub(super) fn of_writer(path: PathBuf, file: Withheld<File>) -> Self {
        Self::with(path, Opened::Withheld(file))
    }

    fn with(path: PathBuf, file: Opened) -> Self {
        DirFile { path, file, cache: PageCache::new(), is_local: OnceLock::new() }
    }

    pub(in crate::storage) fn descriptor(&self) -> &File {
        &self.file
    }

    fn metadata(&self) -> Result<std::fs::Metadata> {
        metadata(&self.file).map_err(Error::io(&self.path, "look up its length"))
    }

    fn error(&self, action: String, errno: Errno) -> Error {
        Error::io(&self.path, action)(errno.into())
    }
}

impl StorageFile for DirFile {
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    fn is_in_place(&self) -> Result<bool> {
        let own = self.metadata()?;
        match rustix::fs::lstat(&self.path) {
            Ok(named) => Ok((named.st_dev, named.st_ino) == (own.dev(), own.ino())),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.error("look up".to_owned(), errno)),
        }
    }

    fn stamp(&self) -> Result<Option<Stamp>> {
        if !*self.is_local.get_or_init(|| is_local(&self.file)) {
            return Ok(None);
        }
        let found = self.metadata()?;
        let (modified, changed) =
            ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
        Ok(Some(Stamp { len: found.len(), modified, changed }))
    }

    fn len(&self) -> Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn allocated_bytes(&self) -> Result<u64> {
        Ok(self.metadata()?.blocks() * 512)
    }

    fn modified(&self) -> Result<Timestamp> {
        let found = self.metadata()?;
        let time = Timestamp::new(found.mtime(), found.mtime_nsec() as i32);
        // A time that no clock shows is as good as any other: it only has to stay the same.
        Ok(time.unwrap_or(Timestamp::MIN))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.cache.read_full(&self.file, buffer, offset).map_err(|error| {
            Error::io(&self.path, format!("read {} bytes at offset {offset}", buffer.len()))(error)
        })
    }

    fn bypass_cache(&self) {
        self.cache.bypass(&self.file);
    }

    fn drop_cache(&self) {
        // Data that cannot be written is not on the medium: whoever reads it finds out.
        let _ = rustix::fs::fdatasync(&self.file);
        let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.cache.write_all(&self.file, data, offset).map_err(|error| {
            Error::io(&self.path, format!("write {} bytes at offset {offset}", data.len()))(error)
        })
    }

    fn set_len(&self, len: u64) -> Result<()> {
        retry_on_intr(|| ftruncate(&self.file, len))
            .map_err(|errno| self.error(format!("set its length to {len} bytes"), errno))
    }

    fn allocate(&self, bytes: u64) -> Result<()> {
        retry_on_intr(|| fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, bytes))
            .map_err(|errno| self.error(format!("allocate {bytes} bytes"), errno))
    }

    fn punch_hole(&self, extent: Extent) -> Result<()> {
        punch_hole(&self.file, extent).map_err(|error| {
            let action = format!("clear {} bytes at offset {}", extent.len, extent.offset);
            Error::io(&self.path, action)(error)
        })
    }

    fn zero(&self, extent: Extent) -> Result<()> {
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        let zeroed = match extent.len {
            0 => Ok(()),
            len => match retry_on_intr(|| fallocate(&self.file, flags, extent.offset, len)) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL) => {
                    write_zeros(&self.file, extent)
                }
                done => done.map_err(io::Error::from),
            },
        };
        zeroed.map_err(|error| {
            let action = format!("clear {} bytes at offset {}", extent.len, extent.offset);
            Error::io(&self.path, action)(error)
        })
    }

    fn make_room(&self, extent: Extent) -> Result<()> {
        let flags = FallocateFlags::KEEP_SIZE;
        match retry_on_intr(|| fallocate(&self.file, flags, extent.offset, extent.len)) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL) => Ok(()),
            Err(errno) => {
                let action = format!("allocate {} bytes at offset {}", extent.len, extent.offset);
                Err(self.error(action, errno))
            }
        }
    }

    fn hides_holes(&self) -> Result<bool> {
        if !may_hide_holes(&self.file) {
            return Ok(false);
        }
        let all = Extent::new(0, self.len()?);
        Ok(self.next_data(0)?.is_none_or(|data| data == all))
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        next_data(&self.file, self.len()?, offset).map_err(|error| {
            Error::io(&self.path, format!("seek data from offset {offset}"))(error)
        })
    }

    fn sync(&self) -> Result<()> {
        retry_on_intr(|| rustix::fs::fdatasync(&self.file))
            .map_err(|errno| self.error("sync".to_owned(), errno))
    }
}
