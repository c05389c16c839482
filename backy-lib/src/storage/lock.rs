//! The archive's exclusive lock: `flock` on the file `lock`, and on the folder itself.
//!
//! The file is for people and scripts (`flock /srv/backup/x/lock cp …`) and names the holder. Anybody may delete it
//! at any time, even while it is held, which would let a second writer lock a new one; therefore backy also locks the
//! folder, which cannot be deleted. On file systems that cannot lock folders (NFS) the file alone has to do, and if
//! there is no space for the file, the folder alone. The kernel drops both locks when the process ends, however it
//! ends. A child that the process forks does not get them.
//!
//! Anybody who can open a file or folder can lock it, even only to read. So the lock file is for the archive's owner
//! alone ([`file`]). If others can open the folder, their locks on it keep nobody out.
//!
//! On some network file systems `flock` only separates processes on one machine. There the note in the file decides:
//! a writer empties it when it ends, so a note that remains means that its writer is at work, or was killed. For a
//! process of this machine the note shows which of the two ([`note`]); the note of another machine counts as held
//! until somebody deletes the file. CephFS separates processes on all machines: there the lock alone decides.

mod file;
mod note;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, flock,
    fstat, futimens, openat, statat,
};
use rustix::io::{Errno, retry_on_intr};

use super::StorageLock;
use super::dir::read_full;
use super::holders::{Kind, Who, takers, takers_within_limits, who};
use crate::base::error::{Error, Result, limit};
use crate::base::fork::{Maker, Withheld};

pub use note::is_note;
use note::{Note, Reach};

/// The name of the file.
const NAME: &str = "lock";

/// Longest note of a holder that is read back.
const HOLDER_LIMIT_BYTES: usize = 1024;

/// How often to look for a note that its holder is about to write, and how long to wait in between.
const NOTE_ATTEMPTS: u32 = 100;
const NOTE_PAUSE: Duration = Duration::from_millis(5);

/// How often the kernel's table is read before a lock counts as free.
const TABLE_ATTEMPTS: u32 = 3;

/// At least one of the two is held.
struct HeldLock {
    file: Option<Withheld<File>>,
    // Keeps it open: closing it would drop the folder's lock.
    folder: Option<Withheld<OwnedFd>>,
    /// Held as well, against others who may lock it under another name.
    replaced: Option<Withheld<File>>,
    maker: Maker,
    is_shared: AtomicBool,
}

impl StorageLock for HeldLock {
    fn share(&self) -> Option<OwnedFd> {
        let file = self.file.as_ref().map(AsFd::as_fd);
        let shared = file.or(self.folder.as_ref().map(AsFd::as_fd))?.try_clone_to_owned().ok();
        self.is_shared.fetch_or(shared.is_some(), Relaxed);
        shared
    }

    fn touch(&self) {
        if let Some(file) = &self.file {
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            // Only what others see depends on it.
            let _ = futimens(file, &Timestamps { last_access: now, last_modification: now });
        }
    }
}

/// When the holder of a lock last showed progress. `None` without a note of backy.
pub(super) fn progress(folder: impl AsFd) -> rustix::io::Result<Option<Timestamp>> {
    let found = match retry_on_intr(|| statat(&folder, NAME, AtFlags::SYMLINK_NOFOLLOW)) {
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile => found,
        Ok(_) | Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let has_note = found.st_size > 0;
    let nanoseconds = i32::try_from(found.st_mtime_nsec).unwrap_or_default();
    Ok(Timestamp::new(found.st_mtime, nanoseconds).ok().filter(|_| has_note))
}

impl Drop for HeldLock {
    /// Empties the note, so that nobody reads of a holder that has ended, and releases the locks.
    fn drop(&mut self) {
        if !self.maker.is_this() {
            return;
        }
        // Failing to empty a note is no reason to fail an operation that has succeeded.
        if let Some(file) = &self.file {
            let _ = file.set_len(0);
        }
        if self.is_shared.load(Relaxed) {
            return;
        }
        // Closing is not enough if another process has a copy, such as a child that was forked at the very moment of
        // opening.
        let files = [&self.file, &self.replaced].into_iter().flatten().map(AsFd::as_fd);
        for held in files.chain(self.folder.as_ref().map(AsFd::as_fd)) {
            let _ = flock(held, FlockOperation::Unlock);
        }
    }
}

/// The note for others who find the archive locked: `who` works in this process, on this machine, since `since`.
pub fn holder_note(who: &str, since: Timestamp) -> String {
    let process = rustix::process::getpid();
    let host = note::host();
    format!("{who} (process {process} on {host}, since {})", since.strftime("%Y-%m-%d %H:%M:%SZ"))
}

/// Takes the lock of the folder `folder_fd`, whose path is `folder`, or fails at once. A holder without a note may be
/// about to write one, or to release the lock: this waits a moment for that.
pub(super) fn take(
    folder_fd: impl AsFd,
    folder: &Path,
    holder: &str,
) -> Result<Box<dyn StorageLock>> {
    let began = Instant::now();
    loop {
        let other = match try_take(&folder_fd, folder, holder)? {
            Taken::Held(lock) => return Ok(Box::new(lock)),
            Taken::Busy(other) => other,
        };
        let is_at_work = other.holder.is_some() && !other.may_be_ending;
        if is_at_work || began.elapsed() > NOTE_PAUSE * NOTE_ATTEMPTS {
            let holder = other.holder.unwrap_or_else(anonymous);
            return Err(Error::Locked { path: folder.to_owned(), holder });
        }
        std::thread::sleep(NOTE_PAUSE);
    }
}

/// Why a lock could not be taken.
#[derive(Default)]
struct Busy {
    /// Who has it, if the note names them.
    holder: Option<String>,
    /// Whether no process seems to have it, as just after one was killed.
    may_be_ending: bool,
}

enum Taken {
    Held(HeldLock),
    Busy(Busy),
}

/// The folder of a lock.
struct Place<'a> {
    fd: BorrowedFd<'a>,
    path: &'a Path,
    found: Stat,
    reach: Reach,
}

fn try_take(folder_fd: impl AsFd, folder: &Path, holder: &str) -> Result<Taken> {
    let fd = folder_fd.as_fd();
    let found = retry_on_intr(|| fstat(fd))
        .map_err(|errno| Error::io(folder, "look up the folder")(errno.into()))?;
    let place = Place { fd, path: folder, found, reach: Reach::of(fd) };
    let (file, replaced) = match file::take(&place)? {
        file::Taken::Busy(other) => return Ok(Taken::Busy(other)),
        file::Taken::Held { file, replaced } => (file, replaced),
    };
    let folder_lock = match lock_folder(fd) {
        Ok(held) => held,
        Err(Errno::WOULDBLOCK) if is_held_by_readers(&place) => None,
        Err(Errno::WOULDBLOCK) => return Ok(Taken::Busy(Busy::default())),
        Err(errno) => return Err(Error::io(folder, "lock")(errno.into())),
    };
    let path = folder.join(NAME);
    match &file {
        Some(file) => {
            write_note(file, holder, place.reach).map_err(Error::io(&path, "write"))?;
        }
        None if folder_lock.is_none() => {
            return Err(Error::io(&path, "create")(io::ErrorKind::StorageFull.into()));
        }
        None => {}
    }
    let (maker, is_shared) = (Maker::this(), AtomicBool::new(false));
    Ok(Taken::Held(HeldLock { file, folder: folder_lock, replaced, maker, is_shared }))
}

impl Place<'_> {
    /// Whether only this machine uses the file system.
    fn is_local(&self) -> bool {
        self.reach == Reach::ThisMachine
    }

    /// Whether those who hold a lock may only read the archive.
    fn are_readers(&self, who: Who) -> bool {
        who == Who::Strangers && self.has_one_writer()
    }

    /// If others may write to the archive, users whom its owner does not know may be its writers.
    fn has_one_writer(&self) -> bool {
        !self.is_open_for(Mode::WGRP | Mode::WOTH)
    }

    /// Whether anybody except the owner has one of these rights to the folder.
    fn is_open_for(&self, rights: Mode) -> bool {
        Mode::from_raw_mode(self.found.st_mode).intersects(rights)
    }
}

/// Whether the locks of others on the folder do not count. The file is locked, so a writer can only be at work there
/// if somebody has deleted its file, and that writer can be seen unless it is in another container.
fn is_held_by_readers(place: &Place<'_>) -> bool {
    match who(&place.fd, Kind::Flock, place.found.st_uid) {
        Who::Unknown => {
            let may_be_readers = place.is_open_for(Mode::RGRP | Mode::ROTH);
            place.is_local() && may_be_readers && place.has_one_writer()
        }
        seen => place.are_readers(seen),
    }
}

/// Who holds the lock now. Asks the kernel's table of locks, because trying to take the lock could make a writer
/// fail.
///
/// # Errors
/// If this process lacks descriptors or memory to find out. If anything else cannot be looked up, nobody holds the
/// lock.
pub(super) fn holder(folder_fd: impl AsFd) -> io::Result<Option<String>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(&folder_fd, NAME, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(errno) if limit(&errno.into()).is_some() => return Err(errno.into()),
        Err(_) => return Ok(None),
    };
    let Ok(found) = fstat(&file) else { return Ok(None) };
    // The kernel returns the table in pieces, and may skip an entry while others appear and disappear.
    for _ in 0..TABLE_ATTEMPTS {
        let takers = takers_within_limits(found.st_ino, Kind::Flock)?;
        if takers.iter().any(|taker| taker.is_exclusive) {
            return Ok(Some(wait_for_holder(&file)));
        }
    }
    let note = read_note(&file).map(|note| Note::parse(&note));
    // Not having tried to get the lock, this cannot tell whether a process elsewhere holds it.
    let reach = match Reach::of(folder_fd) {
        Reach::Everywhere => Reach::Unknown,
        reach => reach,
    };
    Ok(note.ok().and_then(|note| note.held_by(reach)))
}

/// Whether a backup holds the lock now: the note says so, and the process that it names exists and has taken the
/// kernel's lock on the file. A note alone proves nothing, because a killed backup leaves one behind.
pub(super) fn is_held_by_backup(folder_fd: impl AsFd) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = openat(&folder_fd, NAME, flags, Mode::empty()).map(File::from) else {
        return false;
    };
    let Ok(found) = fstat(&file) else { return false };
    (0..TABLE_ATTEMPTS).any(|_| {
        let note = Note::parse(&read_note(&file).unwrap_or_default());
        let process = note.backup_process();
        process.is_some_and(|process| {
            let takers = takers(found.st_ino, Kind::Flock);
            takers.iter().any(|taker| taker.is_exclusive && taker.process == process)
        })
    })
}

/// `None` if the file system cannot lock a folder.
fn lock_folder(folder_fd: impl AsFd) -> rustix::io::Result<Option<Withheld<OwnedFd>>> {
    // A new open file description: `flock` belongs to it, not to the process.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = Withheld::new(retry_on_intr(|| openat(&folder_fd, ".", flags, Mode::empty()))?);
    match retry_on_intr(|| flock(&fd, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => Ok(Some(fd)),
        Err(Errno::BADF | Errno::OPNOTSUPP | Errno::NOLCK | Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn anonymous() -> String {
    "another process".to_owned()
}

/// The note of the lock's holder, which may just have taken the lock and be about to write the note.
fn wait_for_holder(file: &File) -> String {
    for _ in 0..NOTE_ATTEMPTS {
        match read_note(file) {
            Ok(text) if text.is_empty() => std::thread::sleep(NOTE_PAUSE),
            Ok(text) => return Note::parse(&text).holder,
            Err(_) => break,
        }
    }
    anonymous()
}

fn read_note(file: &File) -> io::Result<String> {
    let mut bytes = vec![0; HOLDER_LIMIT_BYTES];
    let found = read_full(file, &mut bytes, 0)?;
    Ok(String::from_utf8_lossy(bytes.get(..found).unwrap_or_default()).into_owned())
}

fn write_note(file: &File, holder: &str, reach: Reach) -> io::Result<()> {
    // When a quota is used up, even cutting an empty file fails.
    let cut = if file.metadata()?.len() > 0 { file.set_len(0) } else { Ok(()) };
    let note = Note::own(holder, reach).to_string();
    // At its place, even if a signal interrupts it.
    let written = cut.and_then(|()| file.write_all_at(note.as_bytes(), 0));
    // Other machines see it once it has been written out.
    let written = written.and_then(|()| match reach {
        Reach::ThisMachine => Ok(()),
        Reach::Everywhere | Reach::Unknown => file.sync_data(),
    });
    match written {
        // The note is a courtesy; a full disk must not keep maintenance from making space.
        Err(error) if Error::is_want_of_space(&error) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::super::dir::DirStorage;
    use super::super::{FileName, Storage};
    use super::*;
    use crate::base::error::ErrorKind;
    use crate::base::fork::tests::{beside_a_child, in_child};

    fn lock(folder: &Path) -> Result<Box<dyn StorageLock>> {
        take(File::open(folder).expect("open it"), folder, "somebody")
    }

    fn held(folder: &Path) -> HeldLock {
        match try_take(File::open(folder).expect("open it"), folder, "somebody").expect("try") {
            Taken::Held(lock) => lock,
            Taken::Busy(_) => panic!("nobody else has it"),
        }
    }

    /// A copy that another process got by chance, such as a child that was forked before backy could prevent it,
    /// locks nothing once the writer has ended.
    #[test]
    fn a_copy_of_the_open_files_does_not_outlive_the_lock() {
        let folder = tempfile::tempdir().expect("a folder");
        let lock_of_writer = held(folder.path());
        let file = lock_of_writer.file.as_ref().expect("locked").try_clone().expect("copy it");
        let copied = lock_of_writer.folder.as_ref().expect("locked").try_clone().expect("copy it");
        drop(lock_of_writer);
        assert!(lock(folder.path()).is_ok());
        drop((file, copied));
    }

    /// A copy that was handed on keeps the archive locked, as the guard of the hooks needs it.
    #[test]
    fn a_lock_that_is_shared_lasts_as_long_as_the_copy() {
        let folder = tempfile::tempdir().expect("a folder");
        let lock_of_writer = held(folder.path());
        let shared = lock_of_writer.share().expect("share it");
        drop(lock_of_writer);
        assert!(lock(folder.path()).is_err());
        drop(shared);
        assert!(lock(folder.path()).is_ok());
    }

    /// An archive is free as soon as its writer ends, although a child that was forked meanwhile lives on.
    #[test]
    fn a_child_does_not_keep_the_lock() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = DirStorage::open(folder.path()).expect("open");
        let lock = storage.lock("the parent").expect("lock");
        let again = beside_a_child(|| {
            drop(lock);
            storage.lock("the parent again").map(drop)
        });
        assert!(again.is_ok(), "{again:?}");
    }

    /// A child that ends and drops its copy of a lock changes nothing: the archive stays locked, and the note names
    /// the holder.
    #[test]
    fn a_child_does_not_give_up_the_lock_of_its_parent() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = DirStorage::open(folder.path()).expect("open");
        let mut lock = storage.lock("the parent").ok();
        assert!(in_child(|| lock.take().is_some()));
        let another = DirStorage::open(folder.path()).expect("open").lock("another");
        let error = another.err().expect("the parent's copy is still there");
        assert!(error.to_string().contains("the parent"), "{error}");
    }

    /// A writer that was copied into a child writes nothing there. The child can write to an archive that it opens
    /// itself.
    #[test]
    fn a_child_does_not_write_without_a_lock() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = DirStorage::open(folder.path()).expect("open");
        let lock = storage.lock("the parent").expect("lock");
        let made = storage.create(FileName::History).expect("make a file");
        assert!(in_child(|| {
            let kinds = [
                storage.create(FileName::README).err().map(|error| error.kind()),
                storage.remove(FileName::History).err().map(|error| error.kind()),
                storage.rename(FileName::History, FileName::README).err().map(|error| error.kind()),
            ];
            kinds == [Some(ErrorKind::Locked); 3] && made.write_at(b"!", 0).is_err()
        }));
        drop((made, lock));
        assert!(in_child(|| {
            let own = DirStorage::open(folder.path()).expect("open");
            own.lock("the child").is_ok() && own.create(FileName::README).is_ok()
        }));
    }
}
