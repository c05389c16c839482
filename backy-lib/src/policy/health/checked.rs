//! How long some stored data has not been verified.

use jiff::Timestamp;

use crate::format::manifest::{Manifest, Revision};

/// The earliest time at which some stored data was last verified by a scrub, or written if it was never
/// verified. `None` without revisions.
///
/// Data that a backup replaced since its verification counts from that verification. Data that was never
/// verified counts from the latest time at which it can have been written. For a delta, that is the backup of
/// the next newer revision that still exists. For the image, it is the oldest revision since which it has
/// been that long, because the manifest does not record which of its blocks later backups replaced. So a
/// scrub is never demanded without need.
pub fn unchecked_since(manifest: &Manifest) -> Option<Timestamp> {
    let revisions = &manifest.revisions;
    let since = |(number, revision): (usize, &Revision)| {
        let oldest = revision.read_at().map(|range| range.at).min();
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
    for range in revision.read_at() {
        if range.blocks.first.0 > next {
            break;
        }
        next = next.max(range.blocks.end().0);
    }
    (next < blocks).then_some(next)
}

/// Since when every revision up to the newest has contained this block.
pub(crate) fn long_as(manifest: &Manifest, block: u64) -> Option<Timestamp> {
    let has = |revision: &&Revision| manifest.block_size.count(revision.size_bytes) > block;
    manifest.revisions.iter().take_while(has).last().map(|revision| revision.finished)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Digest;
    use crate::base::revision::RevisionId;
    use crate::base::units::{BlockIndex, BlockSize};
    use crate::format::manifest::{BlockRange, Statistics};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// One revision for each size in blocks, made at seconds 1, 2 and so on.
    fn manifest(sizes: &[u64]) -> Manifest {
        let mut manifest = Manifest::new(BlockSize::MIN);
        for (&blocks, second) in sizes.iter().zip(1..) {
            let (time, size) = (at(second), blocks * BlockSize::MIN.bytes());
            let (id, digest) = (RevisionId::new(time), Digest::of(b""));
            let statistics = Statistics::default();
            manifest.push_newest(Revision::newest(id, time, time, size, digest, statistics));
        }
        manifest
    }

    fn verify(manifest: &mut Manifest, number: usize, count: u64, second: i64) {
        let blocks = BlockRange { first: BlockIndex(0), count };
        manifest.revisions[number].set_verified(blocks, at(second));
    }

    #[test]
    fn unverified_data_counts_from_when_it_was_written() {
        assert_eq!(unchecked_since(&manifest(&[])), None);
        assert_eq!(unchecked_since(&manifest(&[5])), Some(at(1)));
        let mut manifest = manifest(&[5, 5, 5]);
        assert_eq!(unchecked_since(&manifest), Some(at(1)));
        // The image was verified; the second backup wrote the older delta.
        verify(&mut manifest, 0, 5, 100);
        assert_eq!(unchecked_since(&manifest), Some(at(2)));
        verify(&mut manifest, 2, 5, 90);
        assert_eq!(unchecked_since(&manifest), Some(at(3)));
        verify(&mut manifest, 1, 5, 95);
        assert_eq!(unchecked_since(&manifest), Some(at(90)));
    }

    #[test]
    fn a_part_that_a_scrub_left_out_counts_and_a_new_part_counts_as_new() {
        let mut part = manifest(&[5]);
        verify(&mut part, 0, 4, 100);
        assert_eq!(unchecked_since(&part), Some(at(1)));
        let mut grown = manifest(&[5, 5, 8, 9]);
        for (number, blocks) in [(3, 5), (2, 5), (1, 8), (0, 8)] {
            verify(&mut grown, number, blocks, 100);
        }
        assert_eq!(unchecked_since(&grown), Some(at(4)));
        grown.revisions[0].verified[0].blocks.count = 6;
        assert_eq!(unchecked_since(&grown), Some(at(3)));
    }
}
