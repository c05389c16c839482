//! Since when something stored has not been checked.

use jiff::Timestamp;

use crate::format::manifest::{Manifest, Revision};

/// The longest time ago that anything stored was checked by a scrub or, where it never was, written. `None` without revisions.
///
/// What was never checked counts from the latest time at which it can have been written: a delta from the backup of the next
/// newer revision that is still there; the image from the oldest revision since which it has been as long as that, for the
/// manifest does not say which of its blocks later backups have replaced. So a scrub that is asked for is never needless.
pub fn unchecked_since(manifest: &Manifest) -> Option<Timestamp> {
    let revisions = &manifest.revisions;
    let since = |(number, revision): (usize, &Revision)| {
        let oldest = revision.verified.iter().map(|range| range.at).min();
        let written = first_unverified(manifest, revision).map(|block| {
            match number.checked_sub(1).and_then(|newer| revisions.get(newer)) {
                Some(newer) => newer.finished,
                None => long_as(manifest, block).unwrap_or(revision.finished),
            }
        });
        oldest.into_iter().chain(written).min()
    };
    revisions.iter().enumerate().filter_map(since).min()
}

/// The first block that no verification covers.
fn first_unverified(manifest: &Manifest, revision: &Revision) -> Option<u64> {
    let blocks = manifest.block_size.count(revision.size_bytes);
    let mut next = 0;
    for range in &revision.verified {
        if range.blocks.first.0 > next {
            break;
        }
        next = next.max(range.blocks.end().0);
    }
    (next < blocks).then_some(next)
}

/// Since when, without interruption, all revisions have had this block.
fn long_as(manifest: &Manifest, block: u64) -> Option<Timestamp> {
    let has = |revision: &&Revision| manifest.block_size.count(revision.size_bytes) > block;
    manifest.revisions.iter().take_while(has).last().map(|revision| revision.finished)
}
