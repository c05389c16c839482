//! The folder of an old archive. It is only read; links to files are not followed, and opening a file never blocks.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use crate::base::error::{Error, Result, describe_io, limit};
use crate::storage::dir::read_full;
use crate::storage::dir::{not_in_time, open_in_time};

/// A folder with more names is not an archive.
const MAX_NAMES: usize = 1 << 20;

/// The content of a file, or a sentence on why it cannot be used.
type Usable<T> = std::result::Result<T, String>;

/// An old archive's folder.
pub(super) struct OldFolder {
    pub path: PathBuf,
    fd: OwnedFd,
}

impl OldFolder {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::io(path, "open the folder")(errno.into()))?;
        Ok(OldFolder { path: path.to_owned(), fd })
    }

    /// All names in it, sorted, except those that are not text, which no archive has.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let error = |errno: Errno| Error::io(&self.path, "list the folder")(errno.into());
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(error)? {
            names.extend(entry.map_err(error)?.file_name().to_str().ok().map(str::to_owned));
            if names.len() > MAX_NAMES {
                let expected = format!("at most {MAX_NAMES} files in an archive of 2014");
                return Err(Error::damaged(&self.path, "folder", "more names", expected));
            }
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn file_path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a regular file. `None` if it does not exist.
    ///
    /// The reason why it cannot be used is a sentence: what was found, or the system's message.
    ///
    /// # Errors
    /// Only errors of the process, which say nothing about the file.
    pub(super) fn open_file(&self, name: &str) -> Result<Usable<Option<File>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match open_in_time(|| openat(&self.fd, name, flags, Mode::empty())) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Ok(None)),
            Err(Errno::LOOP) => {
                return Ok(Err("found a symbolic link, expected a file".to_owned()));
            }
            Err(errno) => return self.unusable(name, "open", not_in_time(errno)),
        };
        let stat = match rustix::fs::fstat(&fd) {
            Ok(stat) => stat,
            Err(errno) => return self.unusable(name, "look at", errno.into()),
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            Ok(Ok(Some(File::from(fd))))
        } else {
            Ok(Err("found something else than a regular file".to_owned()))
        }
    }

    fn unusable<T>(&self, name: &str, action: &str, error: io::Error) -> Result<Usable<T>> {
        if limit(&error).is_some() {
            return Err(Error::io(self.file_path(name), action)(error));
        }
        Ok(Err(format!("cannot {action} it: {}", describe_io(&error))))
    }

    /// The whole content of a small file. `None` if it does not exist.
    ///
    /// A file longer than `limit_bytes` cannot be used either.
    ///
    /// # Errors
    /// Only errors of the process, which say nothing about the file.
    pub(super) fn read_whole(
        &self,
        name: &str,
        limit_bytes: u64,
    ) -> Result<Usable<Option<Vec<u8>>>> {
        let file = match self.open_file(name)? {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(Ok(None)),
            Err(flaw) => return Ok(Err(flaw)),
        };
        let len = match file.metadata() {
            Ok(metadata) => metadata.len(),
            Err(error) => return self.unusable(name, "read", error),
        };
        if len > limit_bytes {
            return Ok(Err(format!("length: found {len} bytes, expected at most {limit_bytes}")));
        }
        let mut content = vec![0; len as usize];
        match read_full(&file, &mut content, 0) {
            Ok(found) => content.truncate(found),
            Err(error) => return self.unusable(name, "read", error),
        }
        Ok(Ok(Some(content)))
    }

    /// The last name in the target of a symbolic link; `None` if there is no such link.
    pub(super) fn link(&self, name: &str) -> Option<String> {
        let target = readlinkat(&self.fd, name, Vec::new()).ok()?;
        let target = target.to_string_lossy().into_owned();
        Some(target.rsplit('/').next().unwrap_or_default().to_owned())
    }
}
