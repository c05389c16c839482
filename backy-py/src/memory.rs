//! Returns large pieces of memory to the system as soon as they are not needed.
//!
//! The C library would keep them: once one of some size has been freed, it takes later ones from the heaps of its
//! threads, and those do not shrink at their ends. Each mount has a buffer of 16 MiB for each of its threads, so a
//! process which mounts again and again would grow by as much for every heap.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::{NonNull, null_mut};

/// Pieces that are at least as large are mapped by themselves. Smaller than the buffers of a mount, larger than what
/// is allocated often.
const LARGE_BYTES: usize = 8 << 20;

/// Every page begins at a multiple of that.
const PAGE_BYTES: usize = 4096;

/// Takes large pieces from the system, and others as usual.
pub(crate) struct Memory;

fn is_large(layout: Layout) -> bool {
    layout.size() >= LARGE_BYTES && layout.align() <= PAGE_BYTES
}

#[expect(
    unsafe_code,
    reason = "the trait is unsafe, and so are the calls of the system for memory"
)]
// SAFETY: a layout decides alone who has given a piece, and the caller gives the same one back. What `mmap` gives is
// as large as was asked for, at the beginning of a page, zeroed, and nobody else's.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) { map(layout.size()) } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) { map(layout.size()) } else { unsafe { System.alloc_zeroed(layout) } }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        if is_large(layout) {
            // It cannot fail for a mapping as a whole.
            unsafe { libc::munmap(piece.cast(), layout.size()) };
        } else {
            unsafe { System.dealloc(piece, layout) }
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller has made sure of that, as the trait wants it.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_large(layout), is_large(wanted)) {
            (false, false) => unsafe { System.realloc(piece, layout, size) },
            (true, true) => {
                let may_move = libc::MREMAP_MAYMOVE;
                let moved = unsafe { libc::mremap(piece.cast(), layout.size(), size, may_move) };
                mapped(moved)
            }
            _ => unsafe {
                let Some(new) = NonNull::new(self.alloc(wanted)) else { return null_mut() };
                let common = layout.size().min(size);
                std::ptr::copy_nonoverlapping(piece, new.as_ptr(), common);
                self.dealloc(piece, layout);
                new.as_ptr()
            },
        }
    }
}

#[expect(unsafe_code, reason = "it is a call of the system for memory")]
fn map(bytes: usize) -> *mut u8 {
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, wherever the system likes to have it, touches no other.
    mapped(unsafe { libc::mmap(null_mut(), bytes, access, kind, -1, 0) })
}

fn mapped(found: *mut libc::c_void) -> *mut u8 {
    if found == libc::MAP_FAILED { null_mut() } else { found.cast() }
}
