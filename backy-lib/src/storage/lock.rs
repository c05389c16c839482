//! The archive's exclusive lock: `flock` on the file `lock`, and on the folder itself.
//!
//! The file is for people and scripts (`flock /srv/backup/x/lock cp …`) and says who holds it. It may be
//! deleted at any time, even while held, which would let a second writer lock a new one; therefore the folder, which
//! cannot be deleted, is locked as well. File systems that cannot lock folders (NFS) do with the file.
//! The kernel drops both locks when the process ends, however it ends.

use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::{Errno, retry_on_intr};

use super::dir::open_regular;
use super::{FileName, StorageLock};
use crate::error::{Error, ErrorKind, Result};

/// Longest note of a holder that is read back.
const HOLDER_LIMIT_BYTES: u64 = 1024;

struct HeldLock {
    file: std::fs::File,
    // Held open: closing would drop the folder's lock.
    _folder: Option<OwnedFd>,
}

/// The lock of the folder, where there is no room for the file.
struct HeldFolder(OwnedFd);

impl StorageLock for HeldFolder {
    fn share(&self) -> Option<OwnedFd> {
        self.0.try_clone().ok()
    }
}

impl StorageLock for HeldLock {
    fn share(&self) -> Option<OwnedFd> {
        self.file.try_clone().ok().map(OwnedFd::from)
    }
}

impl Drop for HeldLock {
    /// Takes the note away, so that nobody reads of a holder that has gone.
    fn drop(&mut self) {
        // Failing to tidy up a note is no reason to fail the operation that has succeeded.
        let _ = self.file.set_len(0);
    }
}

/// What whoever finds the archive locked is told: that `who` works in this process, on this machine, since `since`.
pub fn holder_note(who: &str, since: Timestamp) -> String {
    let process = rustix::process::getpid();
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    format!("{who} (process {process} on {host}, since {})", since.strftime("%Y-%m-%d %H:%M:%SZ"))
}

/// Takes the lock of the folder `folder_fd`, whose path is `folder`, or fails at once.
pub(super) fn take(
    folder_fd: impl AsFd,
    folder: &Path,
    holder: &str,
) -> Result<Box<dyn StorageLock>> {
    let path = folder.join("lock");
    let flags = OFlags::RDWR | OFlags::CREATE;
    let mode = Mode::RUSR | Mode::WUSR;
    let opened = open_regular(&folder_fd, path.clone(), FileName::Lock, flags, mode);
    let mut file = match opened {
        // It was deleted, and there is no room for a new one: then the folder alone is locked.
        Err(error) if error.kind() == ErrorKind::NoSpace => return take_folder(&folder_fd, folder),
        opened => opened?,
    };
    let busy = |file: &mut std::fs::File| {
        Err(Error::Locked { path: folder.to_owned(), holder: read_holder(file) })
    };
    match retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return busy(&mut file),
        Err(errno) => return Err(Error::io(&path, "lock")(errno.into())),
    }
    let folder_lock = match lock_folder(&folder_fd) {
        Ok(held) => held,
        Err(Errno::WOULDBLOCK) => return busy(&mut file),
        Err(errno) => return Err(Error::io(folder, "lock")(errno.into())),
    };
    write_holder(&file, holder).map_err(Error::io(&path, "write"))?;
    Ok(Box::new(HeldLock { file, _folder: folder_lock }))
}

/// The lock of the folder alone.
fn take_folder(folder_fd: impl AsFd, folder: &Path) -> Result<Box<dyn StorageLock>> {
    match lock_folder(folder_fd) {
        Ok(Some(fd)) => Ok(Box::new(HeldFolder(fd))),
        Ok(None) => Err(Error::io(folder, "lock")(Errno::NOSPC.into())),
        Err(Errno::WOULDBLOCK) => {
            let holder = "another process".to_owned();
            Err(Error::Locked { path: folder.to_owned(), holder })
        }
        Err(errno) => Err(Error::io(folder, "lock")(errno.into())),
    }
}

/// Who holds the lock now. Asks the kernel's table of locks, since trying to take it could make a writer fail.
pub(super) fn holder(folder_fd: impl AsFd) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(openat(folder_fd, "lock", flags, Mode::empty()).ok()?);
    // By inode number alone: the device number there is that of the file system, which is not always that of the file.
    let inode = format!(":{}", std::os::unix::fs::MetadataExt::ino(&file.metadata().ok()?));
    let mut table = String::new();
    std::fs::File::open("/proc/locks").ok()?.read_to_string(&mut table).ok()?;
    let held =
        table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|fields| {
            fields.contains(&"FLOCK")
                && fields.contains(&"WRITE")
                && fields.iter().any(|field| field.ends_with(&inode))
        });
    held.then(|| read_holder(&mut file))
}

/// `None` where the file system cannot lock a folder.
fn lock_folder(folder_fd: impl AsFd) -> rustix::io::Result<Option<OwnedFd>> {
    // A new open file description: `flock` belongs to it, not to the process.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = retry_on_intr(|| openat(&folder_fd, ".", flags, Mode::empty()))?;
    match retry_on_intr(|| flock(&fd, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => Ok(Some(fd)),
        Err(Errno::BADF | Errno::OPNOTSUPP | Errno::NOLCK | Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn read_holder(file: &mut std::fs::File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(HOLDER_LIMIT_BYTES).read_to_string(&mut text));
    let line: String = text.chars().filter(|c| !c.is_control()).collect();
    if read.is_err() || line.is_empty() { "another process".to_owned() } else { line }
}

fn write_holder(file: &std::fs::File, holder: &str) -> io::Result<()> {
    let cleared = file.set_len(0);
    match cleared.and_then(|()| file.write_all_at(holder.as_bytes(), 0)) {
        // The note is a courtesy; a full disk, or a quota that is used up, must not keep maintenance from making room.
        Err(error) if Error::is_want_of_space(&error) => Ok(()),
        done => done,
    }
}
