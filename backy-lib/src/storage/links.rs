//! A file that the archive shares with somebody. If it has several names, as after `cp -al`, writing to it would
//! change what the other names lead to, which may be a copy of the archive. Another user may have an image open and
//! locked, and keep it so. So backy writes to a file only if it is the archive's alone: otherwise the archive gets a
//! copy first.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, Stat, Timespec, Timestamps, fchmod, fstatvfs, ftruncate, futimens,
    ioctl_ficlone, linkat, openat, renameat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};

use super::FileName;
use super::dir::{give_to_owner, next_data, read_full};
use crate::base::error::{Error, Result};
use crate::base::units::display_size;

/// Bytes to copy at a time.
const STEP_BYTES: u64 = 1 << 20;

/// Gives `name` a copy of its own, durable and with the same time, and opens that. Others who have the file keep it.
/// Errors include `why` a copy is needed.
///
/// # Errors
/// If there is no space for it, or the file system cannot create a file without a name, which leaves nothing behind.
pub(super) fn own_copy(
    folder: &OwnedFd,
    path: &Path,
    name: FileName,
    (shared, found): (&File, &Stat),
    why: &str,
) -> Result<File> {
    let error = |errno: Errno| {
        let action = format!(
            "write to it, for {why}: give the archive a copy of its own with \
             'cp -p {name} {name}.own && mv {name}.own {name}'"
        );
        Error::io(path, action)(errno.into())
    };
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let copy =
        retry_on_intr(|| openat(folder, ".", flags, Mode::RUSR | Mode::WUSR)).map_err(|errno| {
            match errno {
                Errno::ISDIR | Errno::NOENT | Errno::INVAL => error(Errno::OPNOTSUPP),
                errno => error(errno),
            }
        })?;
    let copy = File::from(copy);
    give_to_owner(folder, &copy);
    if ioctl_ficlone(&copy, shared).is_err() {
        check_room(folder, path, found, why)?;
        copy_data(shared, &copy, found.st_size.unsigned_abs())
            .map_err(|error| Error::io(path, format!("make a copy of it, for {why}"))(error))?;
    }
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(found.st_atime, found.st_atime_nsec as i64),
        last_modification: time(found.st_mtime, found.st_mtime_nsec as i64),
    };
    fchmod(&copy, Mode::from_raw_mode(found.st_mode & 0o777))
        .and_then(|()| futimens(&copy, &times))
        .and_then(|()| rustix::fs::fsync(&copy))
        .and_then(|()| put_in_place(folder, &copy, name))
        .map_err(error)?;
    Ok(copy)
}

/// Checks that a copy of all its data fits: a disk that becomes full halfway would stop others as well.
fn check_room(folder: impl AsFd, path: &Path, found: &Stat, why: &str) -> Result<()> {
    let Ok(room) = fstatvfs(folder) else { return Ok(()) };
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    let needed = u64::try_from(found.st_blocks).unwrap_or(0).saturating_mul(512);
    // Some network file systems report 0 for everything.
    if room.f_blocks == 0 || needed <= free {
        return Ok(());
    }
    let action = format!(
        "write to it, for {why}; a copy takes {}, and {} are free",
        display_size(needed),
        display_size(free)
    );
    Err(Error::io(path, action)(io::ErrorKind::StorageFull.into()))
}

fn copy_data(from: &File, to: &File, len: u64) -> io::Result<()> {
    ftruncate(to, len)?;
    let mut buffer = vec![0; STEP_BYTES as usize];
    let mut offset = 0;
    while let Some(data) = next_data(from, len, offset)? {
        let step = data.len.min(STEP_BYTES) as usize;
        let part = buffer.get_mut(..step).unwrap_or_default();
        let found = read_full(from, part, data.offset)?;
        to.write_all_at(part.get(..found).unwrap_or_default(), data.offset)?;
        offset = data.offset + step as u64;
    }
    Ok(())
}

/// Links a file without a name, and renames that over `name`.
fn put_in_place(folder: &OwnedFd, copy: &File, name: FileName) -> rustix::io::Result<()> {
    let own = format!("/proc/self/fd/{}", copy.as_raw_fd());
    // Nobody else uses this name, and nothing that has it is replaced.
    let aside = format!(".{name}.{}.own", rustix::process::getpid());
    retry_on_intr(|| linkat(CWD, own.as_str(), folder, &aside, AtFlags::SYMLINK_FOLLOW))?;
    retry_on_intr(|| renameat(folder, &aside, folder, name.to_string())).inspect_err(|_| {
        let _ = unlinkat(folder, &aside, AtFlags::empty());
    })?;
    rustix::fs::fsync(folder)
}
