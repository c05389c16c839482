//! The clones beside a file: making, finding and removing them.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, IFlags, Mode, OFlags, Stat, fchmod, fstat, fstatvfs, fsync,
    ioctl_ficlone, ioctl_getflags, ioctl_setflags, linkat, openat, statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};

use crate::base::error::{Error, Result, describe_io};
use crate::base::mark::{ArchiveId, MarkName};

/// Permissions of a clone: nobody writes to it.
pub(super) const MODE: u32 = 0o400;

/// Why there is no clone, and where there would be.
pub(super) const CANNOT_CLONE: &str =
    "its file system cannot clone it, as XFS with reflink=1 and btrfs can";

/// The folder of a file.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) fd: OwnedFd,
}

impl Folder {
    /// The folder of a file whose path has no symbolic links.
    pub(super) fn above(file: &Path) -> Result<Self> {
        let path = file.parent().unwrap_or(Path::new("/")).to_owned();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| rustix::fs::open(&path, flags, Mode::empty()))
            .map_err(|errno| Error::io(&path, "open the folder")(errno.into()))?;
        Ok(Folder { path, fd })
    }

    pub(super) fn path(&self, name: MarkName) -> PathBuf {
        self.path.join(name.to_string())
    }

    /// Unit in which the file system stores files, in bytes.
    pub(super) fn block_bytes(&self) -> u64 {
        fstatvfs(&self.fd).map_or(4096, |found| found.f_frsize)
    }

    /// Makes a clone with this name; or says why there is none.
    ///
    /// # Errors
    /// When it was made, and cannot be made durable; when there is something with that name.
    pub(super) fn clone_of(
        &self,
        live: &File,
        name: MarkName,
    ) -> Result<std::result::Result<File, String>> {
        let made = match self.unnamed_clone(live) {
            Ok(made) => made,
            Err(
                errno @ (Errno::OPNOTSUPP
                | Errno::NOTTY
                | Errno::INVAL
                | Errno::XDEV
                | Errno::NOSYS),
            ) => {
                return Ok(Err(format!("{CANNOT_CLONE} ({})", describe_io(&errno.into()))));
            }
            Err(errno) => {
                return Ok(Err(format!(
                    "cannot clone it to {}: {}",
                    self.path.display(),
                    describe_io(&errno.into())
                )));
            }
        };
        let linked = (|| {
            fsync(&made)?;
            let own = format!("/proc/self/fd/{}", made.as_raw_fd());
            linkat(rustix::fs::CWD, own, &self.fd, name.to_string(), AtFlags::SYMLINK_FOLLOW)?;
            fsync(&self.fd)
        })();
        linked.map_err(|errno| Error::io(self.path(name), "make the clone")(errno.into()))?;
        Ok(Ok(made))
    }

    /// Whether the file system can clone at all, tried with an empty file.
    pub(super) fn can_clone(&self, live: &File) -> bool {
        let same_device = fstat(live).ok().zip(fstat(&self.fd).ok());
        let same_device = same_device.is_some_and(|(file, folder)| file.st_dev == folder.st_dev);
        same_device
            && self
                .unnamed()
                .is_ok_and(|from| self.unnamed().is_ok_and(|to| ioctl_ficlone(to, from).is_ok()))
    }

    /// An empty file without a name.
    fn unnamed(&self) -> rustix::io::Result<File> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        retry_on_intr(|| openat(&self.fd, ".", flags, Mode::from_raw_mode(MODE))).map(File::from)
    }

    fn unnamed_clone(&self, live: &File) -> rustix::io::Result<File> {
        let made = self.unnamed()?;
        // On btrfs both have to agree on this, and it can only be set while the file is empty.
        if let Ok(flags) = ioctl_getflags(live)
            && flags.contains(IFlags::NOCOW)
        {
            let own = ioctl_getflags(&made)?;
            ioctl_setflags(&made, own | IFlags::NOCOW)?;
        }
        retry_on_intr(|| ioctl_ficlone(&made, live))?;
        // The umask may have taken something away, but nothing may have been added.
        fchmod(&made, Mode::from_raw_mode(MODE))?;
        Ok(made)
    }

    /// Opens a clone; `None` if there is none.
    pub(super) fn open(&self, name: MarkName) -> Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match retry_on_intr(|| openat(&self.fd, name.to_string(), flags, Mode::empty())) {
            Ok(fd) => Ok(Some(File::from(fd)).filter(is_file)),
            Err(Errno::NOENT | Errno::LOOP) => Ok(None),
            Err(errno) => Err(Error::io(self.path(name), "open the clone")(errno.into())),
        }
    }

    /// The clones of an archive.
    pub(super) fn marks(&self, archive: ArchiveId) -> Result<Vec<MarkName>> {
        let names = self.entries()?.into_iter().filter_map(|name| name.parse::<MarkName>().ok());
        Ok(names.filter(|name| name.archive == archive).collect())
    }

    /// What is in the folder, as far as its name is text.
    pub(super) fn entries(&self) -> Result<Vec<String>> {
        let error = |errno: Errno| Error::io(&self.path, "list the folder")(errno.into());
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(error)? {
            let entry = entry.map_err(error)?;
            names.extend(entry.file_name().to_str().ok().map(str::to_owned));
        }
        Ok(names)
    }

    /// Removes all clones of an archive but one, and what they were compared in.
    pub(super) fn settle(&self, archive: ArchiveId, keep: Option<MarkName>) -> Result<()> {
        let mut left = self.remove_subvolumes(archive).err();
        for name in self.marks(archive)?.into_iter().filter(|name| Some(*name) != keep) {
            if let Err(error) = self.remove(name) {
                left.get_or_insert(error);
            }
        }
        left.map_or(Ok(()), Err)
    }

    fn remove(&self, name: MarkName) -> Result<()> {
        let error = |errno: Errno| Error::io(self.path(name), "remove the clone")(errno.into());
        let text = name.to_string();
        let found = match statat(&self.fd, &text, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            found => found.map_err(error)?,
        };
        if !is_clone(&found) {
            let message = format!(
                "{text} beside it is not the clone that backy made: found mode {:o}, expected a file of mode {MODE:o}; \
                 it stays; delete it yourself if nobody needs it",
                found.st_mode
            );
            return Err(Error::Source { path: self.path.clone(), message });
        }
        match retry_on_intr(|| unlinkat(&self.fd, &text, AtFlags::empty())) {
            Err(Errno::NOENT) => Ok(()),
            done => done.map_err(error),
        }
    }
}

fn is_file(file: &File) -> bool {
    fstat(file).is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile)
}

/// Whether it may be a clone that backy has made.
pub(super) fn is_clone(found: &Stat) -> bool {
    let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
    is_file && found.st_mode & 0o7777 == MODE
}

/// What distinguishes a clone from any other file, and from itself after somebody has written to it.
pub(super) fn id(clone: &File) -> io::Result<String> {
    let found = clone.metadata()?;
    Ok(format!(
        "inode {}, {} bytes, changed at {}.{:09}",
        found.ino(),
        found.len(),
        found.ctime(),
        found.ctime_nsec()
    ))
}
