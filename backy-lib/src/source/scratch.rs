//! The folder of a backup point of a virtual machine: QEMU copies what the guest overwrites to a scratch file there,
//! and serves the disk at a socket beside it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, flock, openat, statat, statvfs, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::nbd::{NbdAddress, NbdOptions, NbdSource, open_unix};
use crate::base::error::{Error, describe_io};
use crate::base::mark::{ArchiveId, MarkName};
use crate::base::units::display_size;
use crate::storage::system;

/// What may be in a folder.
const SCRATCH: &str = "scratch.qcow2";
const SOCKET: &str = "nbd";

/// Permissions of that folder.
const MODE: u32 = 0o700;

/// Longest path of a socket, `sun_path` of unix(7) without the zero at its end.
const MOST_PATH_BYTES: usize = 107;

/// What has to be free for the scratch file when a point begins, if the disk is that large.
const FREE_BYTES: u64 = 1 << 30;

/// How often to look whether there still is half of that.
const LOOK: Duration = Duration::from_millis(500);

/// How long others may take to end a point.
const TO_LOCK: Duration = Duration::from_secs(2 * 60);

/// How often to look whether they have.
const TICK: Duration = Duration::from_millis(20);

/// `__SO_ACCEPTCON`: a socket that takes connections; `linux/net.h`.
const ACCEPTS: u32 = 1 << 16;

/// How long our own server may take to accept a connection.
const TO_CONNECT: Duration = Duration::from_secs(10);

/// The folder of one point, below the configured one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folder {
    scratch: PathBuf,
    path: PathBuf,
}

/// The user and the group that run QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub user: u32,
    pub group: u32,
}

impl Folder {
    pub(super) fn of(scratch: &Path, name: MarkName) -> Self {
        Folder { scratch: scratch.to_owned(), path: scratch.join(name.to_string()) }
    }

    /// The scratch file.
    pub(super) fn file(&self) -> PathBuf {
        self.path.join(SCRATCH)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.path.join(SOCKET)
    }

    /// Makes it, if there is place for a socket and space for the scratch file of a disk of this size. As long as what
    /// it returns lives, the folder is in use.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn make(&self, size_bytes: u64) -> Result<InUse, String> {
        let length = self.socket().as_os_str().len();
        if length > MOST_PATH_BYTES {
            return Err(format!(
                "the path of a socket in it would be {length} bytes long, expected at most {MOST_PATH_BYTES}; set a \
                 shorter scratch in [tracking]: {}",
                self.scratch.display()
            ));
        }
        let floor_bytes = size_bytes.min(FREE_BYTES);
        check_free(&self.scratch, floor_bytes)?;
        rustix::fs::mkdir(&self.path, Mode::from_raw_mode(MODE))
            .map_err(|errno| self.failed(&errno.into()))?;
        let lock = open_folder(&self.path)
            .and_then(|opened| {
                flock(&opened, FlockOperation::NonBlockingLockExclusive).map(|()| opened)
            })
            .map_err(|errno| self.failed(&errno.into()))?;
        let looked = Mutex::new(Instant::now());
        Ok(InUse { scratch: self.scratch.clone(), floor_bytes, looked, _lock: lock })
    }

    /// Gives it, with what is in it by now, to the user who runs QEMU.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn give(&self, owner: Owner) -> Result<(), String> {
        let own = geteuid();
        if !own.is_root() || owner.user == own.as_raw() {
            return Ok(());
        }
        for path in [&self.file(), &self.path] {
            match std::os::unix::fs::chown(path, Some(owner.user), Some(owner.group)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && path != &self.path => {}
                given => given.map_err(|error| self.failed(&error))?,
            }
        }
        Ok(())
    }

    /// Connects to the socket.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn connect(
        &self,
        export: &str,
        bitmap: Option<String>,
    ) -> Result<NbdSource, String> {
        let socket = self.socket();
        let stream = self.open().map_err(|error| {
            format!("cannot connect to {}: {}", socket.display(), describe_io(&error))
        })?;
        let address = NbdAddress::parse(&format!("nbd+unix:///{export}?socket=/nbd"))?;
        let options = NbdOptions { bitmap, ..NbdOptions::default() };
        NbdSource::over_unix(stream, &address, &options).map_err(|error| match error {
            Error::Source { message, .. } => message,
            other => other.to_string(),
        })
    }

    /// Whether somebody listens at the socket, also if its file is gone.
    pub(super) fn is_served(&self) -> bool {
        self.open().is_ok() || listening().contains(&self.socket())
    }

    fn open(&self) -> io::Result<UnixStream> {
        open_unix(&self.socket(), TO_CONNECT)
    }

    /// Removes it with what was put there for the backup, if there is one. Nobody may use it any more.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn remove(&self) -> Result<(), String> {
        remove(&self.path).map_err(|error| {
            format!("cannot remove {}: {}", self.path.display(), describe_io(&error))
        })
    }

    fn failed(&self, error: &io::Error) -> String {
        format!("cannot make {}: {}", self.path.display(), describe_io(error))
    }
}

/// The names of the points of an archive that have a folder.
///
/// # Errors
/// A sentence.
pub(super) fn names(scratch: &Path, archive: ArchiveId) -> Result<Vec<MarkName>, String> {
    let entries = match fs::read_dir(scratch) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| {
            format!("cannot list {}: {}", scratch.display(), describe_io(&error))
        })?,
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(names.filter(|name: &MarkName| name.archive == archive).collect())
}

/// The names of the points of an archive at whose socket somebody listens, also if their folder is gone.
pub(super) fn served(scratch: &Path, archive: ArchiveId) -> Vec<MarkName> {
    let folders = listening().into_iter().filter(|path| path.ends_with(SOCKET));
    let folders = folders.filter_map(|path| path.parent().map(Path::to_owned));
    let names = folders.filter(|folder| folder.parent() == Some(scratch)).filter_map(|folder| {
        folder.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok())
    });
    names.filter(|name: &MarkName| name.archive == archive).collect()
}

/// The paths of all sockets at which somebody listens; `/proc/net/unix` of proc(5).
fn listening() -> Vec<PathBuf> {
    let listed = system::read(Path::new("/proc/net/unix")).unwrap_or_default();
    listed.lines().filter_map(listens_at).collect()
}

/// Of a line: number, references, protocol, flags, type, state, inode, path.
fn listens_at(line: &str) -> Option<PathBuf> {
    let (fields, path) = line.split_at_checked(line.find(" /")? + 1)?;
    let flags = u32::from_str_radix(fields.split_whitespace().nth(3)?, 16).ok()?;
    (flags & ACCEPTS != 0).then(|| PathBuf::from(path))
}

/// Whether a process of backy uses the folder of a point, whichever archive's. That of a process that was killed, and
/// one that is gone, is not in use.
pub(super) fn is_in_use(folder: &Path) -> bool {
    match open_folder(folder) {
        Ok(opened) => flock(opened, FlockOperation::NonBlockingLockShared).is_err(),
        Err(errno) => errno != Errno::NOENT,
    }
}

/// As long as this lives, no other process of backy ends a point below the same folder for scratch files.
pub(super) struct Ending {
    _lock: OwnedFd,
}

impl Ending {
    /// # Errors
    /// A sentence.
    pub(super) fn begin(scratch: &Path) -> Result<Self, String> {
        let failed = |errno: Errno| {
            format!("cannot lock {}: {}", scratch.display(), describe_io(&errno.into()))
        };
        let opened = open_folder(scratch).map_err(failed)?;
        let began = Instant::now();
        loop {
            match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Ending { _lock: opened }),
                Err(Errno::WOULDBLOCK) if began.elapsed() < TO_LOCK => std::thread::sleep(TICK),
                Err(errno) => return Err(failed(errno)),
            }
        }
    }
}

/// A folder in use: nobody takes what is in it for left over. It also watches that the scratch file has space: without,
/// the guest could not write any more.
pub(super) struct InUse {
    scratch: PathBuf,
    floor_bytes: u64,
    looked: Mutex<Instant>,
    _lock: OwnedFd,
}

impl InUse {
    /// From time to time, it looks.
    ///
    /// # Errors
    /// A sentence, if there may soon be none.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.elapsed() < LOOK {
            return Ok(());
        }
        *looked = Instant::now();
        check_free(&self.scratch, self.floor_bytes / 2)
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    let opened = match open_folder(folder) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    for name in [SCRATCH, SOCKET] {
        match statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno.into()),
            Ok(found) => match FileType::from_raw_mode(found.st_mode) {
                FileType::RegularFile | FileType::Socket => {}
                _ => {
                    return Err(io::Error::other(format!(
                        "it has a {name} that backy did not make"
                    )));
                }
            },
        }
        unlinkat(&opened, name, AtFlags::empty())?;
    }
    fs::remove_dir(folder)
}

fn open_folder(folder: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(rustix::fs::CWD, folder, flags, Mode::empty())
}

fn check_free(folder: &Path, expected: u64) -> Result<(), String> {
    let found = statvfs(folder).map_err(|errno| {
        format!(
            "cannot use {} for the scratch file: {}",
            folder.display(),
            describe_io(&errno.into())
        )
    })?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free >= expected {
        return Ok(());
    }
    Err(format!(
        "{} has too little space for what the guest overwrites during the backup: found {} free, expected at least {}; \
         free some, or set another scratch in [tracking]",
        folder.display(),
        display_size(free),
        display_size(expected)
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use jiff::Timestamp;

    use super::*;
    use crate::base::revision::RevisionId;

    /// Who listens at the socket of a point is found, also when its folder is gone; connections to it do not count, nor
    /// what is called otherwise.
    #[test]
    fn who_still_listens_is_found() {
        let place = tempfile::tempdir().unwrap();
        let scratch = place.path().join("a b");
        let time = Timestamp::from_second(1).unwrap();
        let [archive, other] = [1, 2].map(|_| ArchiveId::new(time));
        let name = MarkName { archive, revision: RevisionId::new(time) };
        let folder = Folder::of(&scratch, name);
        assert!(!folder.is_served());
        fs::create_dir_all(&folder.path).unwrap();
        let listener = UnixListener::bind(folder.socket()).unwrap();
        let _connected = folder.open().unwrap();
        let _accepted = listener.accept().unwrap();
        fs::remove_dir_all(&folder.path).unwrap();
        assert!(folder.is_served());
        assert_eq!(served(&scratch, archive), [name]);
        assert_eq!((served(&scratch, other), served(place.path(), archive)), (vec![], vec![]));
        drop(listener);
        assert!(!folder.is_served() && served(&scratch, archive).is_empty());
    }
}
