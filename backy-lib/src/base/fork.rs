//! Children of this process: what `fork` must not hand on to them, and what they must not undo.
//!
//! A child begins as a copy of its parent, with all open files and all objects, but with none of the threads that
//! work with them. Three things keep the two apart:
//!
//! - A lock of the kernel belongs to an open file, and lasts until its last copy is closed. So do the exclusive use
//!   of a device and a FUSE file system that nobody serves. Such files are `Withheld`: in a child, their
//!   descriptors lead nowhere.
//! - What acts on the world when it is dropped, such as a mount or a temporary file, knows its [`Maker`], and does
//!   nothing elsewhere.
//! - A lock among threads may be held by one that the child does not have. Those that everybody uses are
//!   `PerProcess`.
//!
//! A program that is started instead of forked inherits nothing, because every file is opened with `O_CLOEXEC`.

#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use nix::libc::pthread_atfork;
use rustix::fs::{Mode, OFlags, fstat};
use rustix::io::DupFlags;
use rustix::process::{Pid, getpid};

/// The process that made something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maker(Pid);

impl Maker {
    /// This process.
    pub fn this() -> Self {
        Maker(getpid())
    }

    /// Whether that is this process, and not one that it was forked from.
    pub fn is_this(self) -> bool {
        self == Self::this()
    }

    /// What `/proc` and `kill` call it.
    pub fn number(self) -> i32 {
        self.0.as_raw_nonzero().get()
    }
}

impl fmt::Display for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

/// Something that each process has one of, such as a lock: that of the parent may be held by a thread that a child
/// does not have.
pub(crate) struct PerProcess<T: 'static> {
    own: OnceLock<(Maker, T)>,
    of_child: OnceLock<Box<PerProcess<T>>>,
}

impl<T> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        PerProcess { own: OnceLock::new(), of_child: OnceLock::new() }
    }

    /// That of this process.
    pub(crate) fn get(&'static self, make: fn() -> T) -> &'static T {
        let mut one = self;
        loop {
            let (maker, own) = one.own.get_or_init(|| (Maker::this(), make()));
            if maker.is_this() {
                return own;
            }
            one = one.of_child.get_or_init(|| Box::new(PerProcess::new()));
        }
    }
}

/// An open file that children do not get. In a child, whatever is done with it fails with `EBADF`; there is nothing
/// to take care of when it is dropped there.
#[derive(Debug)]
pub(crate) struct Withheld<T> {
    // Dropped first: the number may be another file's as soon as this one is closed.
    _entry: Entry,
    file: T,
}

impl<T: AsFd> Withheld<T> {
    pub(crate) fn new(file: T) -> Self {
        Withheld { _entry: Entry::of(file.as_fd()), file }
    }
}

impl<T> Deref for Withheld<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.file
    }
}

impl<T: AsFd> AsFd for Withheld<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Has a descriptor withheld until it is dropped.
#[derive(Debug)]
pub(crate) struct Entry(&'static Place);

impl Entry {
    /// Of a file that is still open when this is dropped.
    fn of(file: BorrowedFd<'_>) -> Self {
        Self::new(file, ANY_INODE)
    }

    /// Of a file whose owner may close it earlier. Once its number is another file's, nothing happens to that.
    pub(crate) fn of_another(file: BorrowedFd<'_>) -> Self {
        Self::new(file, fstat(file).map_or(ANY_INODE, |found| found.st_ino))
    }

    fn new(file: BorrowedFd<'_>, inode: u64) -> Self {
        if !HAS_HANDLER.swap(true, Ordering::AcqRel) {
            arrange_for_children();
        }
        Entry(WITHHELD.take(file.as_raw_fd(), inode))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.number.store(FREE, Ordering::Release);
    }
}

static HAS_HANDLER: AtomicBool = AtomicBool::new(false);

/// What is withheld. A child reads it without any lock, which a thread may have had that it does not have.
static WITHHELD: Table = Table::new();

/// What no descriptor is.
const FREE: i32 = -1;
/// What a descriptor is until all about it is written down.
const TAKEN: i32 = -2;

/// Whatever file has the number.
const ANY_INODE: u64 = 0;

/// More than an operation has open at a time.
const TABLE_LEN: usize = 64;

#[derive(Debug)]
struct Place {
    number: AtomicI32,
    inode: AtomicU64,
}

impl Place {
    const fn free() -> Self {
        Place { number: AtomicI32::new(FREE), inode: AtomicU64::new(ANY_INODE) }
    }
}

struct Table {
    places: [Place; TABLE_LEN],
    more: OnceLock<Box<Table>>,
}

impl Table {
    const fn new() -> Self {
        Table { places: [const { Place::free() }; TABLE_LEN], more: OnceLock::new() }
    }

    fn take(&'static self, number: i32, inode: u64) -> &'static Place {
        let take = |place: &&Place| {
            let (taken, failed) = (Ordering::AcqRel, Ordering::Relaxed);
            place.number.compare_exchange(FREE, TAKEN, taken, failed).is_ok()
        };
        let Some(place) = self.places.iter().find(take) else {
            return self.more.get_or_init(|| Box::new(Table::new())).take(number, inode);
        };
        place.inode.store(inode, Ordering::Relaxed);
        place.number.store(number, Ordering::Release);
        place
    }

    /// Numbers of descriptors that are to lead nowhere.
    fn numbers(&'static self) -> impl Iterator<Item = i32> {
        let tables =
            std::iter::successors(Some(self), |table| table.more.get().map(|more| &**more));
        tables.flat_map(|table| &table.places).filter_map(|place| {
            let number = place.number.load(Ordering::Acquire);
            let inode = place.inode.load(Ordering::Relaxed);
            let is_meant = number >= 0 && (inode == ANY_INODE || inode_of(number) == Some(inode));
            is_meant.then_some(number)
        })
    }
}

/// Has the C library call [`in_child`] in every child, whoever forks.
#[expect(unsafe_code, reason = "nobody else is told of a fork; no crate has a safe form of it")]
fn arrange_for_children() {
    // SAFETY: the handler does only what is allowed between `fork` and `exec`, see there. Without memory for it,
    // which is the one error there is, children get what they got before.
    let _ = unsafe { pthread_atfork(None, None, Some(in_child)) };
}

/// Replaces what is withheld, before `fork` returns in the child. Only system calls and reads of atomics: other
/// threads of the parent may have been anywhere, even in the middle of an allocation.
///
/// The numbers stay taken. So whoever still has such a file, and uses or closes it, meets no other file.
extern "C" fn in_child() {
    let mut nothing: Option<ManuallyDrop<OwnedFd>> = None;
    let mut is_withheld = false;
    for number in WITHHELD.numbers() {
        let Some(nothing) = &nothing else {
            // Makes room for the new one, which a process at its limit has not.
            let _ = nix::unistd::close(number);
            let Ok(opened) = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            else {
                continue;
            };
            is_withheld = opened.as_raw_fd() == number;
            if !is_withheld {
                replace(number, &opened);
            }
            nothing = Some(ManuallyDrop::new(opened));
            continue;
        };
        replace(number, nothing);
    }
    if let Some(nothing) = nothing.filter(|_| !is_withheld) {
        drop(ManuallyDrop::into_inner(nothing));
    }
}

#[expect(unsafe_code, reason = "a number of the table has to become a descriptor")]
fn inode_of(number: i32) -> Option<u64> {
    // SAFETY: nothing else runs in this process now, so that what has the number keeps it, if anything has.
    fstat(unsafe { BorrowedFd::borrow_raw(number) }).ok().map(|found| found.st_ino)
}

#[expect(unsafe_code, reason = "a number of the table has to become a descriptor")]
fn replace(number: i32, nothing: &OwnedFd) {
    // SAFETY: its owner is a copy in this process, or was on the stack of a thread that this one does not have. It
    // stays the owner: nothing is closed here, and the number goes on to be a descriptor.
    let mut file = unsafe { ManuallyDrop::new(OwnedFd::from_raw_fd(number)) };
    let _ = rustix::io::dup3(nothing, &mut file, DupFlags::CLOEXEC);
}
