//! QEMU's image locks, by which programs announce how they use an image.
//!
//! Source: `block/file-posix.c` of QEMU. A program holds a read lock of its open file description on byte 100 + N for
//! each permission N that it uses, and on byte 200 + N for each that it does not share with others. It fails if
//! somebody else holds the counterpart. If the file system has no such locks, nobody holds one, and there is nothing
//! to take.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::holders::{Holder as Process, Kind, holders};
use super::system;

const USED_BASE: libc::off_t = 100;
const UNSHARED_BASE: libc::off_t = 200;

/// The permission to rely on reading the same at every moment.
const CONSISTENT_READ: libc::off_t = 0;
const WRITE: libc::off_t = 1;
const RESIZE: libc::off_t = 3;

/// How an image is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Read it. Others may do what they like, as long as they share reading.
    Read,
    /// Overwrite it. Meanwhile nobody else may write to it, or rely on its content.
    Overwrite,
}

impl Use {
    fn used(self) -> &'static [libc::off_t] {
        match self {
            Use::Read => &[CONSISTENT_READ],
            Use::Overwrite => &[WRITE, RESIZE],
        }
    }

    fn unshared(self) -> &'static [libc::off_t] {
        match self {
            Use::Read => &[],
            Use::Overwrite => &[CONSISTENT_READ, WRITE, RESIZE],
        }
    }

    /// The bytes on which nobody else may hold a lock.
    fn conflicts(self) -> impl Iterator<Item = libc::off_t> {
        let others_use = self.unshared().iter().map(|bit| USED_BASE + bit);
        others_use.chain(self.used().iter().map(|bit| UNSHARED_BASE + bit))
    }
}

/// How long to wait for a lock that no other process seems to hold: whoever had it may just be closing the image, or be
/// a child of this process that nobody can look for, because this process may open no more files. On a busy machine
/// both take a while.
const PASSING: Duration = Duration::from_secs(3);
/// How long to wait for a child of this process to start its own program. Until then it shares our open files, and with
/// them locks that we have given up. On a busy machine, or from a slow disk, that can take seconds.
const STARTING: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);

/// Who holds a lock.
enum Holder {
    /// Another program, in words.
    Program(String),
    /// A child of this process that is being started, or ends.
    Child,
    /// Nobody that can be found.
    Unknown,
}

/// Takes the locks, which are held until the file is closed.
///
/// # Errors
/// Who has the image open in a conflicting way. Then no lock is held.
pub(crate) fn take(file: &File, what: Use) -> Result<(), String> {
    patiently(|| try_take(file, what))
}

/// Tries again while the holder of the lock is only passing.
fn patiently(attempt: impl Fn() -> Result<(), Holder>) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Err(Holder::Unknown) if begun.elapsed() < PASSING => std::thread::sleep(PAUSE),
            Err(Holder::Child) if begun.elapsed() < STARTING => std::thread::sleep(PAUSE),
            done => return done.map_err(named),
        }
    }
}

/// Takes them without waiting.
fn try_take(file: &File, what: Use) -> Result<(), Holder> {
    let used = what.used().iter().map(|bit| USED_BASE + bit);
    let unshared = what.unshared().iter().map(|bit| UNSHARED_BASE + bit);
    for at in used.chain(unshared) {
        match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&byte(libc::F_RDLCK, at))) {
            Ok(_) => {}
            // Somebody has locked the whole file, or this byte, in another way.
            Err(Errno::EAGAIN | Errno::EACCES) => {
                release(file);
                return Err(holder(file));
            }
            Err(_) => {
                release(file);
                return Ok(());
            }
        }
    }
    // Checked while holding one's own locks: of two that begin at once, at least one sees the other.
    if is_used(file, what) {
        release(file);
        return Err(holder(file));
    }
    Ok(())
}

/// Who has the image open in a way that conflicts with this use.
pub(crate) fn user(file: &File, what: Use) -> Option<String> {
    let ask = || if is_used(file, what) { Err(holder(file)) } else { Ok(()) };
    patiently(ask).err()
}

fn is_used(file: &File, what: Use) -> bool {
    what.conflicts().any(|at| is_held(file, at))
}

fn named(holder: Holder) -> String {
    match holder {
        Holder::Program(name) => name,
        Holder::Child | Holder::Unknown => "another program".to_owned(),
    }
}

fn release(file: &File) {
    let mut all = byte(libc::F_UNLCK, USED_BASE);
    all.l_len = 2 * (UNSHARED_BASE - USED_BASE);
    let _ = fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&all));
}

/// Whether another open file has a lock on a byte.
fn is_held(file: &File, at: libc::off_t) -> bool {
    let mut found = byte(libc::F_WRLCK, at);
    fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut found)).is_ok()
        && libc::c_int::from(found.l_type) != libc::F_UNLCK
}

fn byte(kind: libc::c_int, at: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at,
        l_len: 1,
        l_pid: 0,
    }
}

/// Who else holds a lock on the file. The kernel's table of such locks does not name them.
fn holder(file: &File) -> Holder {
    let own = std::process::id();
    let others = || holders(file, Kind::Fcntl).filter(|holder| holder.process != own);
    // A child that has started its own program since it was found has closed our files.
    let is_other = |holder: &Process| {
        !is_passing_child(holder.process, own) && holder.still_holds(file, Kind::Fcntl)
    };
    match others().find(is_other) {
        Some(other) => Holder::Program(format!("{} (process {})", other.name(), other.process)),
        None if others().next().is_some() => Holder::Child,
        None => Holder::Unknown,
    }
}

/// Whether a process only shares the open files of this one: it has not started its own program yet, or is about to
/// end.
fn is_passing_child(process: u32, own: u32) -> bool {
    let program = |process: u32| std::fs::read_link(format!("/proc/{process}/exe")).ok();
    let is_ours = || program(process).is_none_or(|its| Some(its) == program(own));
    parent_of(process) == Some(own) && is_ours()
}

fn parent_of(process: u32) -> Option<u32> {
    let status = system::read(Path::new(&format!("/proc/{process}/status")))?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> File {
        File::options().read(true).write(true).open(path).expect("open it")
    }

    /// Several readers can use an image together, a writer cannot share it, and a closed file holds no lock.
    #[test]
    fn readers_share_an_image_and_a_writer_does_not() {
        let _alone = crate::base::fork::tests::without_children();
        let file = tempfile::NamedTempFile::new().expect("a file");
        let (first, second, third) = (open(file.path()), open(file.path()), open(file.path()));
        assert_eq!(take(&first, Use::Read), Ok(()));
        assert_eq!(take(&second, Use::Read), Ok(()));
        assert!(take(&third, Use::Overwrite).is_err(), "over two readers");
        drop((first, second));
        assert_eq!(take(&third, Use::Overwrite), Ok(()));
        let (reader, writer) = (open(file.path()), open(file.path()));
        assert!(user(&reader, Use::Read).is_some(), "asking");
        assert!(take(&reader, Use::Read).is_err(), "reading what is overwritten");
        assert!(take(&writer, Use::Overwrite).is_err(), "two writers");
        drop(third);
        assert_eq!(take(&writer, Use::Overwrite), Ok(()), "a refusal leaves no lock behind");
    }

    /// A running machine uses everything and does not share writing: it can be backed up, but not overwritten.
    #[test]
    fn a_running_machine_is_no_obstacle_to_reading() {
        let _alone = crate::base::fork::tests::without_children();
        let file = tempfile::NamedTempFile::new().expect("a file");
        let machine = open(file.path());
        for at in [100, 101, 103, 201, 203] {
            let lock = byte(libc::F_RDLCK, at);
            fcntl(machine.as_fd(), FcntlArg::F_OFD_SETLK(&lock)).expect("lock it");
        }
        assert_eq!(take(&open(file.path()), Use::Read), Ok(()));
        assert!(take(&open(file.path()), Use::Overwrite).is_err());
    }

    /// A lock of the old kind on the whole file counts as well.
    #[test]
    fn a_lock_on_the_whole_file_is_in_the_way() {
        let _alone = crate::base::fork::tests::without_children();
        let file = tempfile::NamedTempFile::new().expect("a file");
        let other = open(file.path());
        let whole = libc::flock { l_len: 0, ..byte(libc::F_WRLCK, 0) };
        fcntl(other.as_fd(), FcntlArg::F_OFD_SETLK(&whole)).expect("lock it");
        assert!(take(&open(file.path()), Use::Overwrite).is_err());
    }

    /// A program that another thread is starting has our locks for a moment: backy waits for that, and reports no
    /// error.
    #[test]
    fn a_child_that_is_being_started_is_waited_for() {
        let _alone = crate::base::fork::tests::alone();
        let file = tempfile::NamedTempFile::new().expect("a file");
        let held = open(file.path());
        assert_eq!(take(&held, Use::Overwrite), Ok(()));
        let child = crate::base::fork::tests::fork(|| {
            std::thread::sleep(Duration::from_millis(300));
            true
        });
        drop(held);
        let again = open(file.path());
        let begun = Instant::now();
        assert_eq!(user(&again, Use::Overwrite), None, "asking");
        assert!(begun.elapsed() > Duration::from_millis(100), "the child did not have the lock");
        assert_eq!(take(&again, Use::Overwrite), Ok(()));
        rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty()).expect("wait");
    }
}
