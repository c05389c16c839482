//! What a child gets of its parent, and what it leaves alone.

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nix::libc;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{WaitOptions, waitpid};

use super::*;

/// A child has whatever file any other test has open at that moment, with its locks.
static FORKING: RwLock<()> = RwLock::new(());

/// Of this process only: a child that forks is in a copy of it, which nobody gives back.
fn alone() -> Option<RwLockWriteGuard<'static, ()>> {
    static TESTS: OnceLock<Maker> = OnceLock::new();
    let is_own = TESTS.get_or_init(Maker::this).is_this();
    is_own.then(|| FORKING.write().unwrap_or_else(PoisonError::into_inner))
}

/// For tests of locks on files that are not withheld from children: as long as it lives, no test has one.
pub(crate) fn without_children() -> RwLockReadGuard<'static, ()> {
    FORKING.read().unwrap_or_else(PoisonError::into_inner)
}

/// Forks. The child does what it is given, and ends with whether that was true.
#[expect(unsafe_code, reason = "whoever tests children has to make some")]
fn fork(what: impl FnOnce() -> bool) -> Pid {
    // SAFETY: the child does nothing that another thread would be needed for, and ends without anything of the test
    // program.
    match unsafe { libc::fork() } {
        0 => {
            let is_right = std::panic::catch_unwind(std::panic::AssertUnwindSafe(what));
            unsafe { libc::_exit(i32::from(!is_right.unwrap_or(false))) }
        }
        child => Pid::from_raw(child).expect("a child"),
    }
}

/// Whether something is true in a child.
pub(crate) fn in_child(what: impl FnOnce() -> bool) -> bool {
    let _alone = alone();
    let (_, status) = waitpid(Some(fork(what)), WaitOptions::empty()).expect("wait").expect("one");
    status.exit_status() == Some(0)
}

/// Does something while a child lives.
pub(crate) fn beside_a_child<T>(what: impl FnOnce() -> T) -> T {
    let _alone = alone();
    let (mut end, alive) = pipe().expect("a pipe");
    let (mut there, mut ready) = pipe().expect("a pipe");
    let child = fork(|| {
        // Else it would wait for itself.
        let _ = nix::unistd::close(alive.as_raw_fd());
        ready.write_all(b"!").is_ok() && end.read(&mut [0]).is_ok()
    });
    there.read_exact(&mut [0]).expect("the child is there");
    let done = what();
    drop(alive);
    waitpid(Some(child), WaitOptions::empty()).expect("wait");
    done
}

fn file(content: &str) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(content.as_bytes()).expect("write");
    file
}

fn reads(file: &File, expected: &str) -> bool {
    let mut found = vec![0; expected.len()];
    file.read_exact_at(&mut found, 0).is_ok() && found == expected.as_bytes()
}

fn leads_nowhere(file: &File) -> bool {
    let error = file.read_at(&mut [0], 0).expect_err("it was read");
    error.raw_os_error() == Some(libc::EBADF)
}

/// A child cannot use what is withheld, and its number is no other file's; everything else it can use. The parent
/// notices nothing.
#[test]
fn a_withheld_file_leads_nowhere_in_a_child() {
    let (withheld, other) = (Withheld::new(file("lock")), file("other"));
    assert!(in_child(|| {
        let number = withheld.as_raw_fd();
        let is_nowhere = leads_nowhere(&withheld);
        let new = file("new");
        let is_apart = new.as_raw_fd() != number;
        drop(withheld);
        is_nowhere && is_apart && reads(&new, "new") && reads(&other, "other")
    }));
    let withheld = Withheld::new(file("lock"));
    assert!(in_child(|| leads_nowhere(&withheld)) && reads(&withheld, "lock"));
}

/// There may be any number of such files, and a child of a child has none of them either.
#[test]
fn any_number_of_files_is_withheld_from_all_that_come_after() {
    let withheld: Vec<_> = (0..3 * TABLE_LEN).map(|_| Withheld::new(file("lock"))).collect();
    let is_right = || withheld.iter().all(|file| leads_nowhere(file));
    assert!(in_child(|| is_right() && in_child(is_right)));
}

/// A child gets the file that has the number of one that was withheld and has been closed.
#[test]
fn a_number_that_is_used_again_is_another_file() {
    let first = file("first");
    let other = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty()).expect("open");
    let entry = Entry::of_another(other.as_fd());
    let number = other.as_raw_fd();
    // No other thread can get the number in between.
    let mut other = other;
    rustix::io::dup2(&first, &mut other).expect("put it in its place");
    let other = File::from(other);
    assert_eq!(other.as_raw_fd(), number);
    assert!(in_child(|| reads(&other, "first")));
    drop(entry);
    let withheld = Withheld::new(other);
    let Withheld { _entry, file } = withheld;
    drop(_entry);
    assert!(in_child(|| reads(&file, "first")));
}

/// The child has a lock of its own, whoever holds that of the parent; a thread of the parent finds the same one each
/// time.
#[test]
fn a_lock_of_each_process_is_free_in_a_child() {
    static LOCK: PerProcess<Mutex<()>> = PerProcess::new();
    let held = LOCK.get(Mutex::default).lock().expect("lock");
    assert!(LOCK.get(Mutex::default).try_lock().is_err());
    let is_free = || LOCK.get(Mutex::default).try_lock().is_ok();
    assert!(in_child(|| is_free() && in_child(is_free)));
    drop(held);
}

/// What is not withheld stays locked for as long as a child lives: that is what all this is for.
#[test]
fn a_lock_that_is_not_withheld_lasts_as_long_as_a_child() {
    let locked = tempfile::NamedTempFile::new().expect("a file");
    let is_free = || {
        let again = File::open(locked.path()).expect("open");
        flock(&again, FlockOperation::NonBlockingLockExclusive).is_ok()
    };
    for is_withheld in [false, true] {
        let file = File::open(locked.path()).expect("open");
        flock(&file, FlockOperation::NonBlockingLockExclusive).expect("lock");
        let (mut plain, mut withheld) = (None, None);
        match is_withheld {
            true => withheld = Some(Withheld::new(file)),
            false => plain = Some(file),
        }
        let was_free = beside_a_child(|| {
            drop((plain.take(), withheld.take()));
            is_free()
        });
        assert_eq!(was_free, is_withheld);
    }
}
