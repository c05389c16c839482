//! How much is worked on together: batches, windows, pieces.
//!
//! None of these numbers shows in what is stored. In a normal build they are constants. With the feature `testing` a test program
//! can make all of them so small that an image of a few blocks has many batches, windows and pieces: [`use_small`].

use std::time::Duration;

/// The numbers. Bytes, blocks and entries, as the names say.
#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "public for tests"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Old and new blocks that a backup or a merge gathers before it makes them durable.
    pub batch_bytes: usize,
    /// Blocks of a table that a backup, or the undoing of one, looks at together.
    pub walk_blocks: u64,
    /// Blocks of a table that a merge looks at together: entries of one page.
    pub step_blocks: u64,
    /// Blocks that one thread stores when a revision becomes standalone.
    pub piece_blocks: usize,
    /// Blocks that a chain locates at a time: the tables of a long chain are read once for all of them.
    pub window_blocks: u64,
    /// The same for a reader that reads here and there.
    pub reader_window_blocks: u64,
    /// Blocks of the image that such a reader reads at a time.
    pub reader_run_bytes: u64,
    /// Bytes of the source, or of a revision, that one thread works on. A multiple of every block size up to it.
    pub chunk_bytes: u64,
    /// Blocks that have not changed and are passed on together: 1 MiB of digests.
    pub unchanged_blocks: u64,
    /// Digests that are gathered before they are written.
    pub run_entries: usize,
    /// Digests that are looked through at a time: those of a page.
    pub search_entries: u64,
    /// L1 entries that are read at a time.
    pub l1_read_entries: u64,
    /// Compressed clusters that are gathered before they are written.
    pub append_bytes: usize,
    /// Parts of an image that verification is remembered for together, at least.
    pub group_bytes: u64,
    /// Bytes of an image that a scrub works on at a time.
    pub scrub_piece_bytes: u64,
    /// The same of a delta, which holds few of them: so many that some can be digested together.
    pub scrub_delta_piece_bytes: u64,
    /// A block that is said to be zero is not believed this near to one whose digest and content are both wrong.
    pub doubt_blocks: u64,
    /// How long the undoing of an operation that was stopped may take. Then it is left to the next writer.
    pub undo_patience: Duration,
}

/// The numbers of a normal build.
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
    undo_patience: Duration::from_millis(500),
};

/// For blocks of 4 KiB and images of some ten blocks: hardly any of the numbers divides another, so that their ends do not coincide.
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
    undo_patience: Duration::ZERO,
};

/// The numbers of this process.
#[cfg(not(feature = "testing"))]
pub(crate) const fn limits() -> Limits {
    NORMAL
}

#[cfg(feature = "testing")]
static SMALL_ONES: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// The numbers of this process.
#[cfg(feature = "testing")]
pub fn limits() -> Limits {
    match SMALL_ONES.load(std::sync::atomic::Ordering::Relaxed) {
        true => SMALL,
        false => NORMAL,
    }
}

/// From now on, in this process and for good, next to nothing is worked on together.
#[cfg(feature = "testing")]
pub fn use_small() {
    SMALL_ONES.store(true, std::sync::atomic::Ordering::Relaxed);
}
