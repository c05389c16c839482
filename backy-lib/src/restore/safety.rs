//! Whether a restore may write to a target: refuses what would destroy something.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Mode, OFlags, SeekFrom, major, minor, seek};
use rustix::io::{Errno, retry_on_intr};

use super::FileTarget;
use super::target::folder_of;
use crate::digest::is_zero;
use crate::error::{Error, Result};
use crate::progress::{self, Observer, Phase};
use crate::storage::dir::{next_data, read_full};

/// What has to be known to judge a target.
pub struct Guard<'a> {
    /// The archive's folder.
    pub archive: &'a Path,
    /// The configured source, which may be overwritten without `force`.
    pub source: Option<&'a Path>,
    /// Size of the revision in bytes.
    pub size_bytes: u64,
    /// Overwrite what is there.
    pub force: bool,
    /// Watches the search for data on a device.
    pub observer: &'a dyn Observer,
}

impl Guard<'_> {
    /// Opens a target that is there for writing, or refuses it; `None` when there is nothing yet and a file may be made.
    /// Nothing is written here.
    pub fn check(&self, path: &Path) -> Result<Option<FileTarget>> {
        let refuse = |message: String| refused(path, message, false);
        // A link is followed once, here: what is checked is what is written to.
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return self.check_new(path).map(|()| None);
            }
            Err(error) => return Err(Error::io(path, "look up")(error)),
        };
        let found = real.metadata().map_err(Error::io(path, "look up"))?;
        if found.is_dir() {
            return Err(refuse("it is a folder; expected a file or a block device".to_owned()));
        }
        self.check_not_archive(path, &real, Some((found.dev(), found.ino())))?;
        if found.file_type().is_block_device() {
            return self.open_device(path, &real, found.rdev()).map(Some);
        }
        if !found.is_file() {
            return Err(refuse("it is neither a regular file nor a block device".to_owned()));
        }
        if let Some(user) = user_of_file(&real) {
            return Err(refuse(format!("it is in use as {user}")));
        }
        if !self.force && !self.is_source(&real) {
            let message = "it exists already and is not the source".to_owned();
            return Err(refused(path, message, true));
        }
        let file = open_for_writing(path, &real, OFlags::empty())?;
        Ok(Some(FileTarget::existing(path, file, found.len())))
    }

    fn check_new(&self, path: &Path) -> Result<()> {
        let refuse = |message: &str| refused(path, message.to_owned(), false);
        if path.file_name().is_none() || path.symlink_metadata().is_ok() {
            return Err(refuse("it is a symbolic link to nowhere, or no file name"));
        }
        let folder = folder_of(path);
        let real = folder.canonicalize().map_err(Error::io(folder, "look up the folder"))?;
        self.check_not_archive(path, &real, None)?;
        rustix::fs::access(&real, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|errno| Error::io(path, "create")(errno.into()))
    }

    fn check_not_archive(
        &self,
        path: &Path,
        real: &Path,
        identity: Option<(u64, u64)>,
    ) -> Result<()> {
        let archive =
            self.archive.canonicalize().map_err(Error::io(self.archive, "look up the folder"))?;
        let linked = identity.is_some_and(|identity| {
            let entries = archive.read_dir().into_iter().flatten().flatten();
            entries
                .filter_map(|entry| entry.metadata().ok())
                .any(|found| (found.dev(), found.ino()) == identity)
        });
        if linked || real.starts_with(&archive) {
            let message = format!("it is in the archive {}", self.archive.display());
            return Err(refused(path, message, false));
        }
        Ok(())
    }

    fn is_source(&self, real: &Path) -> bool {
        self.source.and_then(|source| source.canonicalize().ok()).as_deref() == Some(real)
    }

    fn open_device(&self, path: &Path, real: &Path, device: u64) -> Result<FileTarget> {
        let number = format!("{}:{}", major(device), minor(device));
        if let Some(mountpoint) = mountpoint_of(&number) {
            let message = format!("it is mounted at {mountpoint}; unmount it first");
            return Err(refused(path, message, false));
        }
        if let Some(user) = user_of_file(real) {
            return Err(refused(path, format!("it is in use as {user}"), false));
        }
        // Opening it for writing works all the same; only the first write would fail.
        let read_only = read_system_file(Path::new(&format!("/sys/dev/block/{number}/ro")));
        if read_only.is_some_and(|flag| flag.trim_end() == "1") {
            return Err(refused(path, "it is read-only".to_owned(), false));
        }
        // The kernel gives a block device exclusively only if nobody else holds it.
        let file = open_for_writing(path, real, OFlags::EXCL)?;
        let len = seek(&file, SeekFrom::End(0))
            .map_err(|errno| Error::io(path, "look up its size")(errno.into()))?;
        if len < self.size_bytes {
            let message =
                format!("it is too small: found {len} bytes, expected {} or more", self.size_bytes);
            return Err(refused(path, message, false));
        }
        if !self.force
            && !self.is_source(real)
            && let Some(offset) = self.first_data(path, &file, len)?
        {
            let message = format!("it is not blank: there is data at offset {offset}");
            return Err(refused(path, message, true));
        }
        Ok(FileTarget::device(path, file, len))
    }

    /// Where the first byte other than zero is. The whole device is read if need be: guessing could cost a disk.
    fn first_data(&self, path: &Path, file: &File, len: u64) -> Result<Option<u64>> {
        let counters = progress::begin(self.observer, Phase::CheckTarget, len);
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        let failed = |error| Error::io(path, "search for data")(error);
        while let Some(data) = next_data(file, len, offset).map_err(failed)? {
            progress::check(self.observer)?;
            let step = data.len.min(buffer.len() as u64);
            let part = buffer.get_mut(..step as usize).unwrap_or_default();
            let found = read_full(file, part, data.offset).map_err(failed)?;
            let part = part.get(..found).unwrap_or_default();
            if !is_zero(part) {
                let at = part.iter().position(|&byte| byte != 0).unwrap_or_default();
                return Ok(Some(data.offset + at as u64));
            }
            counters.add(data.offset + step - offset);
            offset = data.offset + step;
        }
        Ok(None)
    }
}

fn refused(path: &Path, message: String, forcible: bool) -> Error {
    Error::Target { path: path.to_owned(), message, forcible }
}

fn open_for_writing(path: &Path, real: &Path, flags: OFlags) -> Result<File> {
    let flags = flags | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match retry_on_intr(|| rustix::fs::open(real, flags, Mode::empty())) {
        Ok(fd) => Ok(File::from(fd)),
        Err(Errno::BUSY) => {
            let message = "the system holds it: it, or a part of it, is mounted, swap, RAID or LVM";
            Err(refused(path, message.to_owned(), false))
        }
        Err(errno) => Err(Error::io(path, "open for writing")(errno.into())),
    }
}

/// Where the device with this `major:minor` is mounted. Source: `proc_pid_mountinfo(5)`.
fn mountpoint_of(number: &str) -> Option<String> {
    let text = read_system_file(Path::new("/proc/self/mountinfo"))?;
    text.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.nth(2) == Some(number)).then(|| fields.nth(1).unwrap_or("?").to_owned())
    })
}

/// Who uses a file or device without mounting it: a loop device or the swap.
fn user_of_file(real: &Path) -> Option<String> {
    let text = real.to_str()?;
    let swaps = read_system_file(Path::new("/proc/swaps")).unwrap_or_default();
    if swaps.lines().skip(1).any(|line| line.split_whitespace().next() == Some(text)) {
        return Some("swap".to_owned());
    }
    let devices = PathBuf::from("/sys/block").read_dir().into_iter().flatten().flatten();
    devices
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("loop"))
        .find(|entry| {
            let backing = read_system_file(&entry.path().join("loop/backing_file"));
            backing.is_some_and(|backing| backing.trim_end_matches('\n') == text)
        })
        .map(|entry| format!("the loop device /dev/{}", entry.file_name().to_string_lossy()))
}

#[expect(clippy::disallowed_methods, reason = "kernel tables, no files of an archive")]
fn read_system_file(path: &Path) -> Option<String> {
    std::fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}
