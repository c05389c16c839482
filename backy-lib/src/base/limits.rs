//! Sizes of the units of work: batches, windows, pieces.
//!
//! None of these numbers affects what is stored. In a normal build they are constants. With the feature
//! `testing`, [`use_small`] makes them so small that an image of a few blocks has many batches, windows and
//! pieces.

use std::time::Duration;

/// The sizes. Names end in the unit: bytes, blocks or entries.
#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "public for tests"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Old and new blocks that a backup or a merge collects before it makes them durable.
    pub batch_bytes: usize,
    /// Blocks of a table that a backup, or undoing one, handles together.
    pub walk_blocks: u64,
    /// Blocks of a table that a merge handles together: the entries of one page.
    pub step_blocks: u64,
    /// Blocks that one thread stores when a revision becomes standalone.
    pub piece_blocks: usize,
    /// Blocks that a chain locates at a time, so that it reads the tables of a long chain once for all of them.
    pub window_blocks: u64,
    /// The same for a reader with random access.
    pub reader_window_blocks: u64,
    /// Bytes of the image that such a reader reads at a time.
    pub reader_run_bytes: u64,
    /// Bytes of the source or of a revision that one thread handles at a time. A multiple of every block size up to it.
    pub chunk_bytes: u64,
    /// Unchanged blocks that are passed on together: 1 MiB of digests.
    pub unchanged_blocks: u64,
    /// Digests collected before they are written.
    pub run_entries: usize,
    /// Digests searched at a time: those of a page.
    pub search_entries: u64,
    /// L1 entries read at a time.
    pub l1_read_entries: u64,
    /// Compressed clusters collected before they are written.
    pub append_bytes: usize,
    /// Smallest part of an image whose verification is recorded as one.
    pub group_bytes: u64,
    /// Bytes of an image that a scrub handles at a time.
    pub scrub_piece_bytes: u64,
    /// The same for a delta. A delta holds few of them, and this many allow some digests to be computed together.
    pub scrub_delta_piece_bytes: u64,
    /// A block that claims to be zero is not believed this close to one whose digest and content are both wrong.
    pub doubt_blocks: u64,
    /// Bytes of blocks that a pull has asked for and that the engine has not read yet.
    pub ready_bytes: u64,
    /// How long undoing a stopped operation may take before it is left to the next writer.
    pub undo_patience: Duration,
}

/// The sizes in a normal build.
const NORMAL: Limits = Limits {
    batch_bytes: 16 << 20,
    walk_blocks: 4096,
    step_blocks: 512,
    piece_blocks: 16,
    window_blocks: 4096,
    reader_window_blocks: 512,
    reader_run_bytes: 1 << 20,
    chunk_bytes: 1 << 20,
    unchanged_blocks: 1 << 15,
    run_entries: 2048,
    search_entries: 128,
    l1_read_entries: 512,
    append_bytes: 1 << 20,
    group_bytes: 64 << 20,
    scrub_piece_bytes: 1 << 20,
    scrub_delta_piece_bytes: 16 << 20,
    doubt_blocks: 4096,
    ready_bytes: 8 << 20,
    undo_patience: Duration::from_millis(500),
};

/// For blocks of 4 KiB and images of a few dozen blocks. Hardly any of the numbers divides another, so that
/// their ends do not coincide.
#[cfg(feature = "testing")]
const SMALL: Limits = Limits {
    batch_bytes: 2 * 4096,
    walk_blocks: 3,
    step_blocks: 4,
    piece_blocks: 2,
    window_blocks: 5,
    reader_window_blocks: 3,
    reader_run_bytes: 2 * 4096,
    chunk_bytes: 3 * 4096,
    unchanged_blocks: 3,
    run_entries: 3,
    search_entries: 2,
    l1_read_entries: 1,
    append_bytes: 700,
    group_bytes: 3 * 4096,
    scrub_piece_bytes: 2 * 4096,
    scrub_delta_piece_bytes: 3 * 4096,
    doubt_blocks: 4096,
    ready_bytes: 4 * 4096,
    undo_patience: Duration::ZERO,
};

/// The sizes in this process.
#[cfg(not(feature = "testing"))]
pub(crate) const fn limits() -> Limits {
    NORMAL
}

#[cfg(feature = "testing")]
static SMALL_ONES: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// The sizes in this process.
#[cfg(feature = "testing")]
pub fn limits() -> Limits {
    match SMALL_ONES.load(std::sync::atomic::Ordering::Relaxed) {
        true => SMALL,
        false => NORMAL,
    }
}

/// Switches this process to the small sizes for good.
#[cfg(feature = "testing")]
pub fn use_small() {
    SMALL_ONES.store(true, std::sync::atomic::Ordering::Relaxed);
}
