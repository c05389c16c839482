//! Opening and creating files in a folder, without following links and without waiting forever.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, fstat, openat};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::geteuid;

use super::metadata;
use crate::base::error::{Error, Result};
use crate::storage::FileName;
use crate::storage::many::ManyFiles;

/// How long to wait until another program gives back its lease. The system takes the lease away after
/// `/proc/sys/fs/lease-break-time`, which is 45 seconds by default.
const LEASE_PATIENCE: Duration = Duration::from_secs(60);
/// How often to try meanwhile.
const LEASE_TICK: Duration = Duration::from_millis(20);

/// Opens `name` in the folder without following it; refuses anything but a regular file. Waits only for a program
/// that holds a lease on the file (knfsd and Samba take them for their clients), and at most a minute.
pub(in crate::storage) fn open_regular(
    folder: impl AsFd,
    path: PathBuf,
    name: FileName,
    flags: OFlags,
    mode: Mode,
) -> Result<File> {
    let refused = |found: &str| Err(Error::damaged(&path, "type", found, "a regular file"));
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = || open_in_time(|| openat(&folder, name.to_string(), flags, mode));
    let opened = match open() {
        // Files that are only open because they may be needed again take descriptors that are needed now.
        Err(Errno::MFILE | Errno::NFILE) if ManyFiles::of_this_process().close_all() => open(),
        opened => opened,
    };
    let file = match opened {
        Ok(fd) => File::from(fd),
        Err(Errno::LOOP) => return refused("a symbolic link"),
        Err(Errno::ISDIR) => return refused("a folder"),
        Err(Errno::NXIO | Errno::NODEV) => return refused("a socket, or a device"),
        Err(errno) => return Err(Error::io(path, "open")(not_in_time(errno))),
    };
    let kind = metadata(&file).map_err(Error::io(&path, "look up its type"))?.file_type();
    match () {
        () if kind.is_file() => Ok(file),
        () if kind.is_dir() => refused("a folder"),
        () if kind.is_fifo() => refused("a FIFO"),
        () => refused("a device"),
    }
}

/// Gives a file that was just created to the owner of the archive's folder: that owner's next backup must be able to
/// change what root creates there. If the file system has no owners, or refuses, the file stays as it is.
pub(in crate::storage) fn give_to_owner(folder: impl AsFd, made: impl AsFd) {
    if !geteuid().is_root() {
        return;
    }
    if let Ok(owner) = retry_on_intr(|| fstat(&folder)).map(|found| (found.st_uid, found.st_gid))
        && owner.0 != 0
    {
        let (user, group) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        let _ = retry_on_intr(|| fchown(&made, Some(user), Some(group)));
    }
}

/// Opens a file with `NONBLOCK`, but waits for a lease that another program holds on it.
///
/// # Errors
/// `AGAIN`, for [`not_in_time`], if the lease is not given back.
pub(crate) fn open_in_time(
    open: impl Fn() -> rustix::io::Result<OwnedFd>,
) -> rustix::io::Result<OwnedFd> {
    let began = Instant::now();
    loop {
        match retry_on_intr(&open) {
            // Only a regular file can have a lease, and trying to open it has asked its holder to give the lease
            // back.
            Err(Errno::AGAIN) if began.elapsed() < LEASE_PATIENCE => std::thread::sleep(LEASE_TICK),
            opened => return opened,
        }
    }
}

/// Why a file could not be opened.
pub(crate) fn not_in_time(errno: Errno) -> io::Error {
    match errno {
        Errno::AGAIN => {
            io::Error::other("another program has a lease on it and does not release it")
        }
        errno => errno.into(),
    }
}
