//! Bugs planted on purpose, one of each kind that the tests must catch; `doc/safety.md` says which test catches which.
//!
//! Read `if !planted(…)` as if the condition were absent: it is always false, and known at compile time. Only
//! the feature `canary` compiles the bugs in. They stay inactive until a test program activates one of them
//! with `plant`. The feature does not compile without debug assertions, so no release can contain it.
//!
//! Each bug is planted in exactly one place. `plant` acts on the whole process and cannot be undone.

#[cfg(all(feature = "canary", not(debug_assertions)))]
compile_error!("the feature `canary` plants bugs; it is for tests, and no release may have it");

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A backup overwrites the image while the entries of the old blocks may not be durable yet.
    SkippedSync,
    /// A backup overwrites the image before the old blocks are in the overlay.
    SwappedOrder,
    /// A backup is committed while the image may not be durable yet.
    EarlyCommit,
    /// A writer continues while the rename that published a manifest may not be durable yet.
    UnsyncedFolder,
    /// The overlay is deleted while what was undone may not be durable yet.
    UnsyncedUndo,
    /// A merge writes entries of blocks whose data and digests may not be durable yet.
    EntriesFirst,
    /// Files are deleted before the manifest that no longer names them is durable.
    FilesFirst,
    /// A merge leaves out what a shorter revision hid.
    ForgottenEnd,
    /// A delta reads one block past the end of a shorter backing file.
    PastTheEnd,
    /// A reader does not look a block up in the current manifest.
    StaleManifest,
    /// A reader returns a block of a delta without checking its digest.
    UncheckedBlock,
    /// A digest that differs from the expected one is not computed again.
    UnaskedDigest,
    /// The digests of a revision are not checked.
    UncheckedDigests,
    /// A backup does not check the old block that it moves to the overlay.
    UncheckedOldBlock,
    /// The offset of a write to a file or a target is cut to 32 bits.
    CutWrite,
    /// The offset of a read is cut to 32 bits.
    CutRead,
    /// A merge forgets which of the blocks that it copies are bad.
    LostFindings,
    /// A history that has grown too long is started anew, and the old one is not kept.
    LostHistory,
    /// A textfile is renamed into place while its figures may not be durable yet.
    UnsyncedTextfile,
    /// Where the file system reports no holes, a scrub does not read the blocks that backy has emptied.
    UnreadZeros,
    /// A pull commits a revision whose digest is not the one that the origin offered.
    UncheckedCopy,
    /// A caller may name a folder that is not below the one that is served.
    LeavesTheRoot,
    /// A hole where nothing has changed according to the source is not compared with the newest revision.
    UnseenHoles,
    /// Two marks at a source have the same name.
    MarkWithoutUuid,
    /// Marks at a source are removed before the revision that needs no others is committed.
    SettledFirst,
    /// A map of a file's extents is used although the file system has moved them since.
    RememberedMap,
    /// A place of compressed data in a file system is taken for that of its bytes.
    TrustedEncoding,
    /// A mark that was made again under its name is taken for the one of a bookmark.
    RemadeMark,
    /// Another source under the same name is believed what it reports.
    OtherSource,
    /// The backing files of an image are not compared with those at the mark.
    UnseenBacking,
    /// A backup does not notice that its point has ended before it.
    EndedPoint,
    /// What a thin volume has from an external origin is taken for holes.
    ForgottenOrigin,
    /// An answer of a hint program is taken for a whole one without its end.
    CutAnswer,
}

impl Bug {
    /// All bugs.
    pub const ALL: [Bug; 33] = [
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
        Bug::UnreadZeros,
        Bug::UncheckedCopy,
        Bug::LeavesTheRoot,
        Bug::UnseenHoles,
        Bug::MarkWithoutUuid,
        Bug::SettledFirst,
        Bug::RememberedMap,
        Bug::TrustedEncoding,
        Bug::RemadeMark,
        Bug::OtherSource,
        Bug::UnseenBacking,
        Bug::EndedPoint,
        Bug::ForgottenOrigin,
        Bug::CutAnswer,
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
            Bug::UnreadZeros => "unread-zeros",
            Bug::UncheckedCopy => "unchecked-copy",
            Bug::LeavesTheRoot => "leaves-the-root",
            Bug::UnseenHoles => "unseen-holes",
            Bug::MarkWithoutUuid => "mark-without-uuid",
            Bug::SettledFirst => "settled-first",
            Bug::RememberedMap => "remembered-map",
            Bug::TrustedEncoding => "trusted-encoding",
            Bug::RemadeMark => "remade-mark",
            Bug::OtherSource => "other-source",
            Bug::UnseenBacking => "unseen-backing",
            Bug::EndedPoint => "ended-point",
            Bug::ForgottenOrigin => "forgotten-origin",
            Bug::CutAnswer => "cut-answer",
        }
    }
}

/// Whether the bug should happen here.
#[cfg(not(feature = "canary"))]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "canary")]
static PLANTED: std::sync::OnceLock<Bug> = std::sync::OnceLock::new();

/// Whether the bug should happen here.
#[cfg(feature = "canary")]
pub(crate) fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(&bug)
}

/// Plants a bug in this process for as long as it lives. False if another one is planted already: only the
/// first counts.
#[cfg(feature = "canary")]
pub fn plant(bug: Bug) -> bool {
    PLANTED.set(bug).is_ok()
}
