//! Compares an image and its overlay with the digests that they should have.

use crate::archive::proof;
use crate::base::digest::TableEntry;
use crate::base::error::{ErrorKind, Result, judged};
use crate::base::limits::limits;
use crate::base::pipeline;
use crate::base::progress::{self, Observer, Phase};
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::digests::{DigestsHeader, Identity};
use crate::format::manifest::{BlockRange, Findings, Revision};
use crate::format::qcow2::{Cluster, Decompressor};
use crate::image::damage;
use crate::image::delta::{Delta, read_cut};
use crate::image::digests::DigestTable;
use crate::storage::{Access, DigestsKind, FileName, Storage, StorageFile};

/// How much of a revision is readable from an image and its overlay.
pub(crate) struct Reading {
    pub(crate) bad: Findings,
    pub(crate) digests_right: bool,
    /// All of it is readable from an image of the right length.
    pub(crate) in_image: bool,
    /// All of it is readable.
    pub(crate) in_full: bool,
}

/// The blocks of `last.raw` that differ from the newest revision; `None` if its digests cannot show that.
pub(crate) fn wrong_blocks(
    storage: &dyn Storage,
    newest: &Revision,
    block_size: BlockSize,
    observer: &dyn Observer,
) -> Result<Option<Findings>> {
    let identity = DigestsHeader::new(DigestsKind::Image, newest, block_size).identity;
    match read(storage, FileName::IMAGE, &identity, true, observer) {
        Ok(reading) => Ok(reading.digests_right.then_some(reading.bad)),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads all of a revision from an image and its overlay. `lenient`: data that the system cannot read counts as bad.
pub(crate) fn read(
    storage: &dyn Storage,
    image: FileName,
    identity: &Identity,
    lenient: bool,
    observer: &dyn Observer,
) -> Result<Reading> {
    let (size, size_bytes) = (identity.block_size, identity.size_bytes);
    let table = DigestTable::open(storage, identity.uuid, DigestsKind::Image)?;
    let digests_right =
        proof::digest_of(&table, identity.block_size, identity.size_bytes, observer)?
            == identity.digest;
    let overlay = match Delta::open(storage, identity.uuid, size, size_bytes) {
        Ok(overlay) => Some(overlay),
        Err(error) if error.is_damage() => None,
        Err(error) => return Err(error),
    };
    let image = storage.open(image, Access::Read)?;
    let length = image.len()?;
    // A committed backup may have been interrupted before it cut the image.
    let length_right = length == size_bytes;
    let length_enough = length >= size_bytes;
    let compared = Compared { image, table, overlay, size, size_bytes, lenient };
    let counters = progress::begin_work(observer, Phase::Scrub, size_bytes)?;
    let workers = (0..pipeline::threads(None)).map(|_| Decompressor::new());
    let (mut bad, mut only_in_overlay) = (Findings::default(), false);
    let mut next = BlockIndex(0);
    pipeline::run(
        workers.collect::<Result<Vec<_>>>()?,
        || {
            progress::check(observer)?;
            let piece = compared.next_piece(next)?;
            next = piece.map_or(next, BlockRange::end);
            Ok(piece)
        },
        |decompressor, piece| Ok((piece, compared.compare(decompressor, piece)?)),
        |(piece, outcome)| {
            outcome.bad.into_iter().for_each(|block| bad.add_bad_block(block));
            only_in_overlay |= outcome.only_in_overlay;
            let done = size.offset(piece.end()).min(size_bytes);
            counters.add(done.saturating_sub(counters.done_bytes()));
            Ok(())
        },
    )?;
    counters.add(size_bytes.saturating_sub(counters.done_bytes()));
    let right = digests_right && bad.bad_block_count() == 0;
    Ok(Reading {
        digests_right,
        in_image: right && length_right && !only_in_overlay,
        in_full: right && (length_enough || compared.overlay.is_some()),
        bad,
    })
}

/// An image and the digests that it should have.
struct Compared {
    image: Box<dyn StorageFile>,
    table: DigestTable,
    overlay: Option<Delta>,
    size: BlockSize,
    size_bytes: u64,
    lenient: bool,
}

/// The result for a piece.
struct Outcome {
    bad: Vec<BlockIndex>,
    only_in_overlay: bool,
}

impl Compared {
    /// The next stretch at or after `from` that may not be zero.
    fn next_piece(&self, from: BlockIndex) -> Result<Option<BlockRange>> {
        let end = self.size.count(self.size_bytes);
        let entry = self.table.next_data_block(from)?;
        let data = self.image.next_data(self.size.offset(from))?;
        let data = data.map(|data| self.size.index(data.offset).max(from));
        let first = entry.into_iter().chain(data).min().filter(|first| first.0 < end);
        let count = (limits().chunk_bytes / self.size.bytes()).max(1);
        Ok(first.map(|first| BlockRange { first, count: count.min(end - first.0) }))
    }

    fn compare(&self, decompressor: &mut Decompressor, piece: BlockRange) -> Result<Outcome> {
        let entries = self.table.read(piece.first, piece.count)?;
        let extent = damage::extent(piece, self.size, self.size_bytes);
        let mut bytes = vec![0; extent.len as usize];
        let all = self.image.read_padded_at(&mut bytes, extent.offset);
        let mut outcome = Outcome { bad: Vec::new(), only_in_overlay: false };
        let blocks = bytes.chunks_mut(self.size.len()).zip(entries).zip(piece.first.0..);
        for ((bytes, entry), block) in blocks {
            let block = BlockIndex(block);
            // One by one, to find out which of them are unreadable.
            let read = match &all {
                Ok(()) => Ok(()),
                Err(_) => self.image.read_padded_at(bytes, self.size.offset(block)),
            };
            match judged(read)? {
                Ok(()) if entry.matches(bytes) => continue,
                Err(error) if !self.lenient => return Err(error),
                _ => {}
            }
            if self.is_in_overlay(block, entry, decompressor, bytes)? {
                outcome.only_in_overlay = true;
            } else {
                outcome.bad.push(block);
            }
        }
        Ok(outcome)
    }

    fn is_in_overlay(
        &self,
        block: BlockIndex,
        entry: TableEntry,
        decompressor: &mut Decompressor,
        bytes: &mut [u8],
    ) -> Result<bool> {
        let Some(overlay) = &self.overlay else { return Ok(false) };
        let read = overlay.clusters(block, 1).and_then(|clusters| {
            let cluster = clusters.first().copied().unwrap_or(Cluster::Unallocated);
            if cluster == Cluster::Unallocated && overlay.header().backing.is_some() {
                return Ok(false);
            }
            read_cut(overlay, cluster, self.size, decompressor, bytes)?;
            Ok(entry.matches(bytes))
        });
        match read {
            Err(error) if error.is_damage() => Ok(false),
            Err(error) if self.lenient && error.kind() == ErrorKind::Io => Ok(false),
            other => other,
        }
    }
}
