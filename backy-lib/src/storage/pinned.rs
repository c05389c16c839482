//! Files that stay readable without a descriptor, even after their names have disappeared.
//!
//! The system keeps a file for as long as anybody has it open *or mapped*. A process may have few descriptors, but
//! 65,530 mappings. So one page of a file is mapped, and nobody looks at it: it only keeps the file. When the file is
//! needed and its name no longer leads to it, backy extends the mapping and asks the system to copy from it
//! (`process_vm_readv`). Copying unreadable data is an error, whereas accessing the same memory would end the
//! process.

use std::collections::HashMap;
use std::ffi::c_void;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::errno::Errno;
use nix::sys::mman::{MRemapFlags, MapFlags, ProtFlags, mmap, mremap, munmap};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use super::identity::Identity;
use crate::base::fork::PerProcess;

/// The most files that are kept like this at a time: a quarter of the mappings that Linux allows a process.
const MOST: usize = 16_384;

/// The smallest page size. Every other page size is a multiple of it.
const PAGE: u64 = 4096;

/// How much longer than needed to make a mapping, so that it is seldom extended.
const STEP: u64 = 1 << 20;

/// How many files are kept now.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// The files that have an identity: however many readers have such a file, it is mapped once.
static SHARED: PerProcess<Shared> = PerProcess::new();

type Shared = Mutex<HashMap<Identity, Weak<Pin>>>;

fn shared() -> MutexGuard<'static, HashMap<Identity, Weak<Pin>>> {
    lock(SHARED.get(Shared::default))
}

/// A file that is kept.
pub(super) struct Pin {
    map: Mutex<Map>,
    identity: Option<Identity>,
}

struct Map {
    /// The address. A number and no pointer: nothing here ever looks at that memory.
    at: NonZeroUsize,
    bytes: usize,
}

impl Pin {
    /// Keeps an open file. `None` if the system does not map it, does not copy from mappings, or already keeps too
    /// many.
    pub(super) fn of(file: &File, identity: Option<Identity>) -> Option<Arc<Self>> {
        let Some(identity) = identity else { return Self::new(file).map(Arc::new) };
        let mut shared = shared();
        if let Some(pin) = shared.get(&identity).and_then(Weak::upgrade) {
            return Some(pin);
        }
        // Only now: if it were dropped earlier, it would wait for the list.
        let pin = Arc::new(Self::new(file)?.known_as(identity));
        shared.insert(identity, Arc::downgrade(&pin));
        Some(pin)
    }

    fn known_as(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    fn new(file: &File) -> Option<Self> {
        if KEPT.fetch_add(1, Relaxed) >= MOST {
            KEPT.fetch_sub(1, Relaxed);
            return None;
        }
        let at = map_page(file);
        if at.is_err() {
            KEPT.fetch_sub(1, Relaxed);
        }
        let pin = Pin { map: Mutex::new(Map { at: at.ok()?, bytes: 1 }), identity: None };
        // An empty file has nothing to copy, and nothing to keep.
        matches!(pin.read_at(&mut [0], 0), Ok(1)).then_some(pin)
    }

    /// Reads until `buffer` is full, the file ends, or nothing more can be read; returns the number of bytes. Past
    /// the end of the file, its last page reads as zeros.
    ///
    /// # Errors
    /// If the system copies nothing at all, whatever the place.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        // While one thread extends the mapping, it may move under another.
        let mut map = lock(&self.map);
        map.extend(offset.saturating_add(buffer.len() as u64))?;
        let start = map.at.get().saturating_add(usize::try_from(offset).unwrap_or(usize::MAX));
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let from = RemoteIoVec { base: start.saturating_add(done), len: rest.len() };
            match process_vm_readv(Pid::this(), &mut [IoSliceMut::new(rest)], &[from]) {
                Ok(0) | Err(Errno::EFAULT) => break,
                Ok(count) => done += count,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(done)
    }

    /// Where the file ends, rounded up to a page, if it has had at least `known` bytes.
    pub(super) fn len(&self, known: u64) -> io::Result<u64> {
        let there = |at: u64| self.read_at(&mut [0], at).map(|count| count == 1);
        let mut low = known.next_multiple_of(PAGE);
        let mut step = PAGE;
        while there(low.saturating_add(step - PAGE))? {
            low = low.saturating_add(step);
            step = step.saturating_mul(2);
        }
        // It ends in one of the pages of the last step.
        let mut high = low.saturating_add(step - PAGE);
        while low < high {
            let middle = low + (high - low) / 2 / PAGE * PAGE;
            if there(middle)? {
                low = middle + PAGE;
            } else {
                high = middle;
            }
        }
        Ok(low.max(known))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        KEPT.fetch_sub(1, Relaxed);
        if let Some(identity) = &self.identity {
            let mut shared = shared();
            // Another entry may have taken its place since nobody used this one.
            if shared.get(identity).is_some_and(|pin| pin.strong_count() == 0) {
                shared.remove(identity);
            }
        }
        let map = lock(&self.map);
        unmap(map.at, map.bytes);
    }
}

impl Map {
    /// Makes the mapping reach to `end`.
    fn extend(&mut self, end: u64) -> io::Result<()> {
        let too_large = |_| io::Error::from(Errno::EOVERFLOW);
        if usize::try_from(end).map_err(too_large)? <= self.bytes {
            return Ok(());
        }
        let end = end.checked_next_multiple_of(STEP).unwrap_or(u64::MAX);
        let bytes = usize::try_from(end).map_err(too_large)?;
        self.at = remap(self.at, self.bytes, bytes)?;
        self.bytes = bytes;
        Ok(())
    }
}

#[expect(
    unsafe_code,
    reason = "mapping is the system's only way to keep a file without a descriptor"
)]
fn map_page(file: &File) -> io::Result<NonZeroUsize> {
    // Private, because some network file systems allow no shared mapping. It shows the content of the file all the
    // same, as nobody writes to the memory.
    let (protection, flags) = (ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE);
    // SAFETY: the system chooses a place that is free, and no reference is ever made to it.
    let mapped = unsafe { mmap(None, NonZeroUsize::MIN, protection, flags, file, 0) };
    Ok(mapped?.addr())
}

#[expect(unsafe_code, reason = "see `map_page`")]
fn remap(at: NonZeroUsize, old: usize, new: usize) -> io::Result<NonZeroUsize> {
    let place = NonNull::<c_void>::with_exposed_provenance(at);
    // SAFETY: `at` and `old` are of a mapping that only the caller knows, and no reference to it exists.
    let moved = unsafe { mremap(place, old, new, MRemapFlags::MREMAP_MAYMOVE, None) };
    Ok(moved?.addr())
}

#[expect(unsafe_code, reason = "see `map_page`")]
fn unmap(at: NonZeroUsize, bytes: usize) {
    let place = NonNull::<c_void>::with_exposed_provenance(at);
    // SAFETY: `at` and `bytes` are of a mapping that only the caller knows, and no reference to it exists.
    let _ = unsafe { munmap(place, bytes) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    /// A file of this many bytes, none of them zero, that no longer has a name.
    fn unnamed(bytes: usize) -> (File, Vec<u8>) {
        let content: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8 + 1).collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&content, 0).unwrap();
        (file, content)
    }

    /// A file without a name and without a descriptor is read from any place, up to its end.
    #[test]
    fn a_pinned_file_is_read_after_it_was_closed() {
        for bytes in [1, 4096, 4097, 100_000, 3 << 20] {
            let (file, content) = unnamed(bytes);
            let pin = Pin::of(&file, None).unwrap();
            drop(file);
            for offset in [0, bytes / 2, bytes - 1] {
                let mut found = vec![0; bytes - offset];
                assert_eq!(pin.read_at(&mut found, offset as u64).unwrap(), found.len());
                assert!(found == content[offset..], "{bytes} bytes from {offset}");
            }
            let end = (bytes as u64).next_multiple_of(PAGE);
            assert_eq!(pin.len(0).unwrap() % PAGE, 0);
            for known in [0, 1, bytes as u64 / 2, bytes as u64] {
                let len = pin.len(known).unwrap();
                assert!((bytes as u64..=end.max(64 << 10)).contains(&len), "{bytes}: {len}");
            }
            let mut past = [0; 10];
            assert_eq!(pin.read_at(&mut past, 4 << 20).unwrap(), 0);
        }
    }

    /// Reads what a writer appends to a kept file.
    #[test]
    fn a_pinned_file_may_grow() {
        let (file, _) = unnamed(5000);
        let pin = Pin::of(&file, None).unwrap();
        file.write_all_at(&[7; 100_000], 1 << 20).unwrap();
        let mut found = [0; 100];
        assert_eq!(pin.read_at(&mut found, (1 << 20) + 5).unwrap(), 100);
        assert_eq!(found, [7; 100]);
        assert!(pin.len(5000).unwrap() >= (1 << 20) + 100_000);
    }

    /// A file that was cut short under its reader returns fewer bytes; the process continues.
    #[test]
    fn a_pinned_file_that_was_cut_short_ends_there() {
        let (file, _) = unnamed(1 << 20);
        let pin = Pin::of(&file, None).unwrap();
        file.set_len(0).unwrap();
        assert_eq!(pin.read_at(&mut [0; 100], 0).unwrap(), 0);
    }

    /// Readers of one file share its mapping, and the last one removes it.
    #[test]
    fn a_file_is_pinned_once_for_all_readers() {
        let named = tempfile::NamedTempFile::new().unwrap();
        named.as_file().write_all_at(b"content", 0).unwrap();
        let open = || {
            let file = named.reopen().unwrap();
            Pin::of(&file, Identity::of(&file)).unwrap()
        };
        let first = open();
        if first.identity.is_none() {
            return;
        }
        let second = open();
        assert!(Arc::ptr_eq(&first, &second));
        let is_known = |identity: &Identity| shared().contains_key(identity);
        let identity = first.identity.unwrap();
        drop(first);
        assert!(is_known(&identity));
        drop(second);
        assert!(!is_known(&identity));
    }
}
