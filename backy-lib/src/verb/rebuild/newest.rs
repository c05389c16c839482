//! Which revision is in `last.raw`.
//!
//! During a backup, after it, and while the newest revision is being removed, there are digests of two images. The one that
//! can be read in full is it; where both can, the one that does not cost the other. An overlay counts as part of its image, as
//! long as undoing can bring it back.
//!
//! When no digests of an image are left, or only those of a revision that has become a delta since, the image is taken as it
//! is: it gets a name and digests of what is in it now.

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;

use super::Survey;
use crate::archive::proof;
use crate::base::digest::{Digest, RevisionHasher, TableEntry};
use crate::base::error::{Error, ErrorKind, Result, judged};
use crate::base::limits::limits;
use crate::base::pipeline;
use crate::base::progress::{self, Observer, Phase};
use crate::base::revision::RevisionId;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::digests::{DigestsHeader, Identity};
use crate::format::manifest::{BlockRange, Findings, Revision};
use crate::format::qcow2::{Cluster, Decompressor, Layout};
use crate::image::damage;
use crate::image::delta::{Delta, read_cut};
use crate::image::digests::{DigestTable, DigestWriter};
use crate::storage::{Access, DigestsKind, FileName, Storage, StorageFile};

/// The revision that `last.raw` is, or is to be brought back to.
pub(super) struct Newest {
    pub(super) identity: Identity,
    /// Blocks that cannot be read right.
    pub(super) bad: Findings,
    /// Whether the image has to be brought back from the overlay, or to its length.
    pub(super) undo: bool,
    /// Whether it may be another one.
    pub(super) doubt: bool,
    pub(super) notes: Vec<String>,
}

/// How much of a revision can be read from an image and its overlay.
struct Reading {
    bad: Findings,
    digests_right: bool,
    /// All of it, in an image of the right length.
    in_image: bool,
    /// All of it.
    in_full: bool,
}

/// Finds the newest revision; none when there is no image.
pub(super) fn find(
    storage: &Arc<dyn Storage>,
    survey: &Survey,
    observer: &dyn Observer,
) -> Result<Option<Newest>> {
    let storage = &**storage;
    let mut candidates: Vec<&Identity> = survey.images.iter().collect();
    let has_delta = |id| survey.present.contains(&FileName::Delta(id));
    // Whoever has a delta or an overlay was there before one that has none, whatever the clock said.
    candidates.sort_by_key(|c| (has_delta(c.uuid), Reverse((c.started, c.uuid))));
    if !survey.present.contains(&FileName::IMAGE)
        && !put_in_place(storage, survey, &candidates, observer)?
    {
        candidates.retain(|candidate| !has_delta(candidate.uuid));
        let lost = candidates.first().filter(|_| !survey.nodes.is_empty());
        return Ok(lost.map(|identity| missing(storage, identity)));
    }
    let mut readings = Vec::new();
    for candidate in &candidates {
        // Where there is a choice it must not depend on a read that happens to fail.
        let lenient = candidates.len() == 1;
        readings.push(read(storage, FileName::IMAGE, candidate, lenient, observer)?);
    }
    let costs_nobody = |at: usize| {
        let others = candidates.iter().zip(&readings).skip(at + 1);
        others
            .into_iter()
            .all(|(other, reading)| !reading.in_full || survey.is_finished(other.uuid))
    };
    let all = candidates.iter().zip(&readings).enumerate();
    let in_full = all.clone().find(|(at, (_, reading))| reading.in_full && costs_nobody(*at));
    let best = || all.clone().min_by_key(|(_, (_, r))| (!r.digests_right, r.bad.bad_block_count()));
    let Some((_, (identity, reading))) = in_full.or_else(best) else {
        return adopt(storage, survey, observer).map(Some);
    };
    // Its delta is complete, so another image was, too, whose digests are not there.
    if candidates.len() == 1 && !reading.in_image && survey.is_finished(identity.uuid) {
        return adopt(storage, survey, observer).map(Some);
    }
    let len = storage.open(FileName::IMAGE, Access::Read)?.len()?;
    Ok(Some(Newest {
        identity: (*identity).clone(),
        bad: reading.bad.clone(),
        undo: has_delta(identity.uuid) || len != identity.size_bytes,
        doubt: !reading.in_full,
        notes: notes(storage, identity, reading),
    }))
}

fn notes(storage: &dyn Storage, identity: &Identity, reading: &Reading) -> Vec<String> {
    let mut notes = Vec::new();
    if !reading.digests_right {
        let file = FileName::Digests(identity.uuid, DigestsKind::Image);
        let path = storage.path(file);
        notes.push(format!(
            "{}: damaged: its digests are not those of the revision",
            path.display()
        ));
    }
    let bad = reading.bad.bad_block_count();
    if bad > 0 {
        notes.push(format!(
            "{}: {bad} blocks differ from revision {}, the closest match",
            storage.path(FileName::IMAGE).display(),
            identity.uuid
        ));
    }
    notes
}

/// A newest revision without an image: standalone ones behind it can be read all the same.
fn missing(storage: &dyn Storage, identity: &Identity) -> Newest {
    let blocks = BlockIndex(identity.block_size.count(identity.size_bytes));
    let mut bad = Findings::default();
    bad.add(BlockRange::between(BlockIndex(0), blocks));
    let path = storage.path(FileName::IMAGE);
    let note = format!("{}: missing: revision {} is lost", path.display(), identity.uuid);
    Newest { identity: identity.clone(), bad, undo: false, doubt: true, notes: vec![note] }
}

/// The first image of an archive, or a clone, that is complete but had not been renamed.
fn put_in_place(
    storage: &dyn Storage,
    survey: &Survey,
    candidates: &[&Identity],
    observer: &dyn Observer,
) -> Result<bool> {
    if !survey.present.contains(&FileName::STAGED_IMAGE) {
        return Ok(false);
    }
    for candidate in candidates {
        if read(storage, FileName::STAGED_IMAGE, candidate, false, observer)?.in_image {
            storage.open(FileName::STAGED_IMAGE, Access::Write)?.sync()?;
            storage.rename(FileName::STAGED_IMAGE, FileName::IMAGE)?;
            storage.sync_folder()?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// The blocks of `last.raw` that are not those of the newest revision; `None` when its digests cannot say so.
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

/// Reads all of a revision from an image and its overlay. `lenient`: what the system cannot read counts as bad.
fn read(
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
    // A committed backup may not have come to cut it.
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

/// An image beside the digests that it should have.
struct Compared {
    image: Box<dyn StorageFile>,
    table: DigestTable,
    overlay: Option<Delta>,
    size: BlockSize,
    size_bytes: u64,
    lenient: bool,
}

/// What was found in a piece.
struct Outcome {
    bad: Vec<BlockIndex>,
    only_in_overlay: bool,
}

impl Compared {
    /// The next stretch at or after `from` that may be other than zero.
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
            // One by one, to know which of them cannot be read.
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

/// Takes the image as it is for a revision that nothing else is known of.
fn adopt(storage: &dyn Storage, survey: &Survey, observer: &dyn Observer) -> Result<Newest> {
    let is_overlay = |name: &&FileName| match name {
        FileName::Delta(id) => !survey.nodes.contains_key(id),
        _ => false,
    };
    if let Some(overlay) = survey.present.iter().find(is_overlay) {
        return Err(Error::damaged(
            storage.path(FileName::IMAGE),
            "content",
            format!(
                "an image that may belong in part to another revision, with the rest in {overlay}"
            ),
            "an image with a readable digest file",
        ));
    }
    let mut notes = Vec::new();
    let block_size = survey.block_size(storage, &mut notes)?;
    let image = storage.open(FileName::IMAGE, Access::Read)?;
    let size_bytes = image.len()?;
    let limit = Layout::max_image_bytes(block_size);
    if size_bytes > limit {
        let expected = format!("at most {limit}");
        return Err(Error::damaged(image.path(), "length", size_bytes, expected));
    }
    let time = time_of_image(survey);
    let mut identity = Identity {
        uuid: RevisionId::new(time),
        started: time,
        finished: time,
        block_size,
        size_bytes,
        digest: Digest::of(b""),
        tags: Default::default(),
        pinned_tags: Default::default(),
    };
    let mut digests = DigestWriter::create(storage, identity.uuid, DigestsKind::Image)?;
    identity.digest = digest_image(&*image, &identity, &mut digests, observer)?;
    digests.finish(&DigestsHeader { kind: DigestsKind::Image, identity: identity.clone() })?;
    storage.sync_folder()?;
    notes.push(format!(
        "{}: its digest file is lost: backy takes it as it is for revision {}, without proof; its tags and its \
         time are unknown",
        image.path().display(),
        identity.uuid
    ));
    Ok(Newest { identity, bad: Findings::default(), undo: false, doubt: true, notes })
}

/// The best guess: what the name of its damaged digest file says, or that of the revision before it.
fn time_of_image(survey: &Survey) -> Timestamp {
    let flawed = survey.flaws.iter().filter_map(|(id, _)| id.time());
    let before = survey.nodes.values().map(|node| node.identity.finished);
    flawed.chain(before).max().unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Enters the digests of all blocks that an image has; gives the digest of the revision.
fn digest_image(
    image: &dyn StorageFile,
    identity: &Identity,
    digests: &mut DigestWriter,
    observer: &dyn Observer,
) -> Result<Digest> {
    let (size, size_bytes) = (identity.block_size, identity.size_bytes);
    let counters = progress::begin_work(observer, Phase::Scrub, size_bytes)?;
    let mut hasher = RevisionHasher::new(size, size_bytes);
    let end = size.count(size_bytes);
    let mut next = BlockIndex(0);
    while let Some(data) = image.next_data(size.offset(next))? {
        progress::check(observer)?;
        let first = size.index(data.offset).max(next);
        if first.0 >= end {
            break;
        }
        hasher.push_zero_blocks(first.0 - next.0, observer)?;
        let count = (limits().chunk_bytes / size.bytes()).max(1).min(end - first.0);
        let extent = damage::extent(BlockRange { first, count }, size, size_bytes);
        let mut bytes = vec![0; extent.len as usize];
        image.read_exact_at(&mut bytes, extent.offset)?;
        for (bytes, block) in bytes.chunks(size.len()).zip(first.0..) {
            let entry = TableEntry::of_block(bytes);
            hasher.push(entry);
            digests.push(BlockIndex(block), entry)?;
        }
        next = first.plus(count);
        counters.add(extent.end().saturating_sub(counters.done_bytes()));
    }
    hasher.push_zero_blocks(end - next.0, observer)?;
    counters.add(size_bytes.saturating_sub(counters.done_bytes()));
    Ok(hasher.finish())
}
