//! Which revision is in `last.raw`.
//!
//! During a backup, after it, and while the newest revision is being deleted, there are digests of two images. The
//! newest revision is the one that can be read in full; if both can, the one that does not cost the other. An overlay
//! counts as part of its image, as long as undoing can bring it back.
//!
//! If no digests of an image are left, or only those of a revision that has become a delta since, the rebuild takes
//! the image as it is: it gives the image a name, and digests of its present content.

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;

use super::{Survey, order};
use crate::archive::compare::{Reading, read};
use crate::base::digest::{Digest, RevisionHasher, TableEntry};
use crate::base::error::{Error, Result};
use crate::base::limits::limits;
use crate::base::progress::{self, Observer, Phase};
use crate::base::revision::RevisionId;
use crate::base::units::BlockIndex;
use crate::format::digests::{DigestsHeader, Identity};
use crate::format::manifest::{BlockRange, Findings};
use crate::format::qcow2::Layout;
use crate::image::damage;
use crate::image::digests::DigestWriter;
use crate::storage::{Access, DigestsKind, FileName, Storage, StorageFile};

/// The revision that `last.raw` holds, or that undoing brings it back to.
pub(super) struct Newest {
    pub(super) identity: Identity,
    /// Blocks that do not read right.
    pub(super) bad: Findings,
    /// Whether the next writer must bring the image back from the overlay, or restore its length.
    pub(super) undo: bool,
    /// Whether the image is longer than the revision.
    pub(super) is_longer: bool,
    /// Whether the image may be that of another revision.
    pub(super) doubt: bool,
    pub(super) notes: Vec<String>,
}

/// Finds the newest revision; `None` when there is no image.
pub(super) fn find(
    storage: &Arc<dyn Storage>,
    survey: &Survey,
    observer: &dyn Observer,
) -> Result<Option<Newest>> {
    let (shared, storage) = (storage, &**storage);
    let mut candidates: Vec<&Identity> = survey.images.iter().collect();
    let has_delta = |id| survey.present.contains(&FileName::Delta(id));
    // A revision with a delta or an overlay is older than one without, whatever the clock said.
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
        // A read that happens to fail must not decide between two candidates.
        let lenient = candidates.len() == 1;
        readings.push(read(storage, FileName::IMAGE, candidate, lenient, observer)?);
    }
    let all = candidates.iter().zip(&readings).enumerate();
    let mut in_full = None;
    for (at, found) in all.clone().filter(|(_, (_, reading))| reading.in_full) {
        let others = candidates.iter().zip(&readings).skip(at + 1);
        let mut costs_nobody = true;
        for (other, _) in others.filter(|(_, other)| other.in_full) {
            costs_nobody &= stays_readable(shared, survey, found.0, other, observer)?;
        }
        if costs_nobody {
            in_full = Some((at, found));
            break;
        }
    }
    let best = || all.min_by_key(|(_, (_, r))| (!r.digests_right, r.bad.bad_block_count()));
    let Some((_, (identity, reading))) = in_full.or_else(best) else {
        return adopt(storage, survey, observer).map(Some);
    };
    // Its delta is complete, so another image was complete as well, whose digests are missing.
    if candidates.len() == 1 && !reading.in_image && survey.is_finished(identity.uuid) {
        return adopt(storage, survey, observer).map(Some);
    }
    let len = storage.open(FileName::IMAGE, Access::Read)?.len()?;
    let undo = has_delta(identity.uuid) || len < identity.size_bytes;
    // The signs of a backup that may not have been committed.
    let may_be_renamed = candidates.len() > 1 || survey.nodes.is_empty();
    if may_be_renamed && reading.in_image && !undo {
        renew_name(storage, survey)?;
    }
    Ok(Some(Newest {
        identity: (*identity).clone(),
        bad: reading.bad.clone(),
        undo,
        is_longer: len > identity.size_bytes,
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

/// A newest revision without an image: standalone revisions behind it are readable all the same.
fn missing(storage: &dyn Storage, identity: &Identity) -> Newest {
    let blocks = BlockIndex(identity.block_size.count(identity.size_bytes));
    let mut bad = Findings::default();
    bad.add(BlockRange::between(BlockIndex(0), blocks));
    let path = storage.path(FileName::IMAGE);
    let note = format!("{}: missing: revision {} is lost", path.display(), identity.uuid);
    Newest {
        identity: identity.clone(),
        bad,
        undo: false,
        is_longer: false,
        doubt: true,
        notes: vec![note],
    }
}

/// Whether a candidate is still readable if another one is the newest. Its delta may have the dirty bit, if a backup
/// was interrupted just before its commit or just after: then its digest decides.
fn stays_readable(
    storage: &Arc<dyn Storage>,
    survey: &Survey,
    newest: &Identity,
    other: &Identity,
    observer: &dyn Observer,
) -> Result<bool> {
    // Digests that an earlier rebuild has set aside, of an image that never was in its place: the later revision
    // replaced it.
    let is_same = newest.digest == other.digest && newest.size_bytes == other.size_bytes;
    if is_same && !survey.present.contains(&FileName::Delta(other.uuid)) {
        return Ok(true);
    }
    match survey.nodes.get(&other.uuid) {
        None => Ok(false),
        Some(node) if !node.dirty => Ok(true),
        Some(node) => order::comes_out_behind(storage, newest, &node.identity, observer),
    }
}

/// Makes the name of a complete image durable. If a backup renamed the image and then could not sync the folder, a
/// crash may take the name back, and another sync does not help. If that happens in between, [`put_in_place`] finds
/// the image.
fn renew_name(storage: &dyn Storage, survey: &Survey) -> Result<()> {
    if survey.present.contains(&FileName::STAGED_IMAGE) {
        return Ok(());
    }
    storage.rename(FileName::IMAGE, FileName::STAGED_IMAGE)?;
    storage.rename(FileName::STAGED_IMAGE, FileName::IMAGE)?;
    storage.sync_folder()
}

/// Renames a complete image that does not have its name yet: the first one of an archive, or a clone.
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

/// Takes the image as it is for a revision about which nothing else is known.
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
    renew_name(storage, survey)?;
    let mut digests = DigestWriter::create(
        storage,
        (identity.uuid, DigestsKind::Image),
        block_size.count(size_bytes),
    )?;
    identity.digest = digest_image(&*image, &identity, &mut digests, observer)?;
    digests.finish(&DigestsHeader { kind: DigestsKind::Image, identity: identity.clone() })?;
    storage.sync_folder()?;
    notes.push(format!(
        "{}: its digest file is lost: backy takes it as it is for revision {}, without proof; its tags and its \
         time are unknown",
        image.path().display(),
        identity.uuid
    ));
    Ok(Newest {
        identity,
        bad: Findings::default(),
        undo: false,
        is_longer: false,
        doubt: true,
        notes,
    })
}

/// The best guess: the time in the name of its damaged digest file, or that of the previous revision.
fn time_of_image(survey: &Survey) -> Timestamp {
    let flawed = survey.flaws.iter().filter_map(|(id, _)| id.time());
    let before = survey.nodes.values().map(|node| node.identity.finished);
    flawed.chain(before).max().unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Writes the digests of all blocks of an image, and returns the digest of the revision.
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
