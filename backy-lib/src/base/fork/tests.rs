//! What a child inherits from its parent, and what it leaves alone.

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nix::libc;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{WaitOptions, waitpid};

use super::*;

/// A child inherits whatever file other tests have open at that moment, and its locks.
static FORKING: RwLock<()> = RwLock::new(());

/// Exclusive use in this process. A child that forks skips it, because it holds a copy that nobody releases.
pub(crate) fn alone() -> Option<RwLockWriteGuard<'static, ()>> {
    static TESTS: OnceLock<Maker> = OnceLock::new();
    let is_own = TESTS.get_or_init(Maker::this).is_this();
    is_own.then(|| FORKING.write().unwrap_or_else(PoisonError::into_inner))
}

/// For tests of locks on files that are not withheld from children: while it lives, no test has a child.
pub(crate) fn without_children() -> RwLockReadGuard<'static, ()> {
    FORKING.read().unwrap_or_else(PoisonError::into_inner)
}

/// Forks. The child runs `what` and reports the result as its exit status.
#[expect(unsafe_code, reason = "tests of children have to fork")]
pub(crate) fn fork(what: impl FnOnce() -> bool) -> Pid {
    // SAFETY: the child does nothing that needs another thread, and exits without running anything of the test program.
    match unsafe { libc::fork() } {
        0 => {
            let is_right = std::panic::catch_unwind(std::panic::AssertUnwindSafe(what));
            unsafe { libc::_exit(i32::from(!is_right.unwrap_or(false))) }
        }
        child => Pid::from_raw(child).expect("a child"),
    }
}

/// Whether `what` is true in a child.
pub(crate) fn in_child(what: impl FnOnce() -> bool) -> bool {
    let _alone = alone();
    let (_, status) = waitpid(Some(fork(what)), WaitOptions::empty()).expect("wait").expect("one");
    status.exit_status() == Some(0)
}

/// Runs `what` while a child lives.
pub(crate) fn beside_a_child<T>(what: impl FnOnce() -> T) -> T {
    let _alone = alone();
    let (mut end, alive) = pipe().expect("a pipe");
    let (mut there, mut ready) = pipe().expect("a pipe");
    let child = fork(|| {
        // Otherwise the child would wait for itself.
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

/// A child cannot use a withheld file, and no other file gets its number. It can use every other file. The
/// parent notices nothing.
#[test]
fn a_child_cannot_use_a_withheld_file() {
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

/// Any number of files can be withheld, and a child of a child does not get them either.
#[test]
fn any_number_of_files_is_withheld_from_children_and_their_children() {
    let withheld: Vec<_> = (0..3 * TABLE_LEN).map(|_| Withheld::new(file("lock"))).collect();
    let is_right = || withheld.iter().all(|file| leads_nowhere(file));
    assert!(in_child(|| is_right() && in_child(is_right)));
}

/// A child inherits a file that reuses the number of a withheld file that was closed.
#[test]
fn a_reused_descriptor_number_is_inherited() {
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

/// A child has a lock of its own, whoever holds the parent's; all threads of the parent share one.
#[test]
fn a_per_process_lock_is_free_in_a_child() {
    static LOCK: PerProcess<Mutex<()>> = PerProcess::new();
    let held = LOCK.get(Mutex::default).lock().expect("lock");
    assert!(LOCK.get(Mutex::default).try_lock().is_err());
    let is_free = || LOCK.get(Mutex::default).try_lock().is_ok();
    assert!(in_child(|| is_free() && in_child(is_free)));
    drop(held);
}

/// A file that is not withheld stays locked while a child lives, which is why files are withheld.
#[test]
fn a_lock_that_is_not_withheld_lasts_while_a_child_lives() {
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
