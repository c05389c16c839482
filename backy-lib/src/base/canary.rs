//! Bugs planted on purpose, one of each kind that the tests are there to find; `doc/safety.md` says which test finds which.
//!
//! Read `if !planted(…)` as if the question were not there: it is answered at compile time, always with no. Only with the
//! feature `canary` are the bugs compiled in, all of them and asleep, and a test program wakes one of them with `plant`. Without
//! debug assertions the feature does not compile, so no release can have it.
//!
//! A bug is planted in exactly one place. Planting is for the whole process and for good.

#[cfg(all(feature = "canary", not(debug_assertions)))]
compile_error!("the feature `canary` plants bugs; it is for tests, and no release may have it");

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A backup overwrites the image when the entries of the old blocks may not be durable yet.
    SkippedSync,
    /// A backup overwrites the image before the old blocks are in the overlay.
    SwappedOrder,
    /// A backup is committed when the image may not be durable yet.
    EarlyCommit,
    /// A manifest has been renamed into its place, which may not be durable yet.
    UnsyncedFolder,
    /// What was undone may not be durable when the overlay goes.
    UnsyncedUndo,
    /// A merge enters blocks whose data and digests may not be durable yet.
    EntriesFirst,
    /// A removal removes files before the manifest that no longer names them is durable.
    FilesFirst,
    /// A merge leaves out what a shorter revision hid.
    ForgottenEnd,
    /// A delta reads one block past the end of a shorter backing file.
    PastTheEnd,
    /// A reader does not look for a block in the manifest of today.
    StaleManifest,
    /// A block of a delta is given out without a look at its digest.
    UncheckedBlock,
    /// A digest that is not the expected one is not computed again.
    UnaskedDigest,
    /// The digests of a revision are taken as they are.
    UncheckedDigests,
    /// A backup does not check the old block that it moves to the overlay.
    UncheckedOldBlock,
    /// The offset of a write to a file or a target has only its lower 32 bits.
    CutWrite,
    /// So has that of a read.
    CutRead,
    /// A merge forgets which of the blocks that it takes over are bad.
    LostFindings,
    /// A history that has become too long is begun anew without the old one being put aside.
    LostHistory,
    /// A textfile gets its name when its figures may not be durable yet.
    UnsyncedTextfile,
}

impl Bug {
    /// All that there are.
    pub const ALL: [Bug; 19] = [
        Bug::SkippedSync,
        Bug::SwappedOrder,
        Bug::EarlyCommit,
        Bug::UnsyncedFolder,
        Bug::UnsyncedUndo,
        Bug::EntriesFirst,
        Bug::FilesFirst,
        Bug::ForgottenEnd,
        Bug::PastTheEnd,
        Bug::StaleManifest,
        Bug::UncheckedBlock,
        Bug::UnaskedDigest,
        Bug::UncheckedDigests,
        Bug::UncheckedOldBlock,
        Bug::CutWrite,
        Bug::CutRead,
        Bug::LostFindings,
        Bug::LostHistory,
        Bug::UnsyncedTextfile,
    ];

    /// Its name in `doc/safety.md` and for `tests/canary`.
    pub fn name(self) -> &'static str {
        match self {
            Bug::SkippedSync => "skipped-sync",
            Bug::SwappedOrder => "swapped-order",
            Bug::EarlyCommit => "early-commit",
            Bug::UnsyncedFolder => "unsynced-folder",
            Bug::UnsyncedUndo => "unsynced-undo",
            Bug::EntriesFirst => "entries-first",
            Bug::FilesFirst => "files-first",
            Bug::ForgottenEnd => "forgotten-end",
            Bug::PastTheEnd => "past-the-end",
            Bug::StaleManifest => "stale-manifest",
            Bug::UncheckedBlock => "unchecked-block",
            Bug::UnaskedDigest => "unasked-digest",
            Bug::UncheckedDigests => "unchecked-digests",
            Bug::UncheckedOldBlock => "unchecked-old-block",
            Bug::CutWrite => "cut-write",
            Bug::CutRead => "cut-read",
            Bug::LostFindings => "lost-findings",
            Bug::LostHistory => "lost-history",
            Bug::UnsyncedTextfile => "unsynced-textfile",
        }
    }
}

/// Whether the bug is to happen here.
#[cfg(not(feature = "canary"))]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "canary")]
static PLANTED: std::sync::OnceLock<Bug> = std::sync::OnceLock::new();

/// Whether the bug is to happen here.
#[cfg(feature = "canary")]
pub(crate) fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(&bug)
}

/// Plants a bug in this process, for as long as it lives. Whether it did: only the first one is planted.
#[cfg(feature = "canary")]
pub fn plant(bug: Bug) -> bool {
    PLANTED.set(bug).is_ok()
}
