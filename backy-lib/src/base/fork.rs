//! Forked children: what they must not inherit, and what they must not undo.
//!
//! A child starts as a copy of its parent, with all open files and objects but none of the threads that use
//! them. Three things keep the two apart:
//!
//! - A kernel lock belongs to an open file and lasts until its last copy is closed. The same holds for
//!   exclusive use of a device, and for a FUSE file system that nobody serves. Such files are `Withheld`: in
//!   a child, their descriptors lead nowhere.
//! - An object with an effect on drop, such as a mount or a temporary file, knows its [`Maker`] and does
//!   nothing in other processes.
//! - A lock between threads may be held by a thread that the child does not have. Process-wide locks are
//!   therefore `PerProcess`.
//!
//! A program started with `exec` inherits nothing, because every file is opened with `O_CLOEXEC`.

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

/// The process that made an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maker(Pid);

impl Maker {
    /// This process.
    pub fn this() -> Self {
        Maker(getpid())
    }

    /// Whether this process is the maker, and not a child of it.
    pub fn is_this(self) -> bool {
        self == Self::this()
    }

    /// The process ID.
    pub fn number(self) -> i32 {
        self.0.as_raw_nonzero().get()
    }
}

impl fmt::Display for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

/// One value per process, such as a lock: a thread that the child does not have may hold the parent's.
pub(crate) struct PerProcess<T: 'static> {
    own: OnceLock<(Maker, T)>,
    of_child: OnceLock<Box<PerProcess<T>>>,
}

impl<T> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        PerProcess { own: OnceLock::new(), of_child: OnceLock::new() }
    }

    /// The value of this process.
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

/// An open file that children do not inherit. In a child, every use of it fails with `EBADF`, and dropping it
/// is harmless.
#[derive(Debug)]
pub(crate) struct Withheld<T> {
    // Drop the entry first: once the file is closed, another file may get its number.
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

/// Withholds a descriptor until it is dropped.
#[derive(Debug)]
pub(crate) struct Entry(&'static Place);

impl Entry {
    /// For a file that stays open until the entry is dropped.
    fn of(file: BorrowedFd<'_>) -> Self {
        Self::new(file, ANY_INODE)
    }

    /// For a file whose owner may close it earlier. Once another file has its number, that file is left alone.
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

/// The withheld descriptors. A child reads the table without a lock, because a thread that it does not have
/// may hold one.
static WITHHELD: Table = Table::new();

/// A slot without a descriptor.
const FREE: i32 = -1;
/// A slot that is being filled.
const TAKEN: i32 = -2;

/// Stands for any file with that number.
const ANY_INODE: u64 = 0;

/// More than one operation has open at a time.
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

    /// The descriptors that must lead nowhere.
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

/// Registers [`in_child`] with the C library, which calls it in every child, whichever code forks.
#[expect(
    unsafe_code,
    reason = "only this handler learns of a fork; no crate offers it in a safe form"
)]
fn arrange_for_children() {
    // SAFETY: the handler does only what is allowed between `fork` and `exec`, see there. The only possible
    // error is lack of memory; children then inherit the files.
    let _ = unsafe { pthread_atfork(None, None, Some(in_child)) };
}

/// Replaces the withheld files before `fork` returns in the child. It only makes system calls and reads
/// atomics: other threads of the parent may have been anywhere, even in the middle of an allocation.
///
/// The numbers stay taken, so that code which still uses or closes such a file does not hit another one.
extern "C" fn in_child() {
    let mut nothing: Option<ManuallyDrop<OwnedFd>> = None;
    let mut is_withheld = false;
    for number in WITHHELD.numbers() {
        let Some(nothing) = &nothing else {
            // Makes space for the new one; a process at its limit has none.
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
    // SAFETY: nothing else runs in this process now, so whatever file has the number keeps it.
    fstat(unsafe { BorrowedFd::borrow_raw(number) }).ok().map(|found| found.st_ino)
}

#[expect(unsafe_code, reason = "a number of the table has to become a descriptor")]
fn replace(number: i32, nothing: &OwnedFd) {
    // SAFETY: its owner is a copy in this process, or was on the stack of a thread that this process does not
    // have. It stays the owner: nothing is closed here, and the number stays a descriptor.
    let mut file = unsafe { ManuallyDrop::new(OwnedFd::from_raw_fd(number)) };
    let _ = rustix::io::dup3(nothing, &mut file, DupFlags::CLOEXEC);
}
