//! Undoes an operation that was interrupted.
//!
//! `undo.rs` brings the image back. It may itself be interrupted anywhere and started again: it deletes the overlay
//! only when the image is durable as it was, and until then overlay over image reads as the newest revision. Deleting
//! the newest revision means undoing its backup: that operation publishes a manifest that lists the backup as under
//! way, and this module does the rest. `tidy.rs` frees the space of the image that a committed backup no longer
//! needs.

pub(crate) mod room;
pub(crate) mod tidy;
mod undo;

use std::sync::Arc;

use crate::archive::left_overs::{self, has_any, made_by, sweep};
use crate::archive::moment;
use crate::archive::reserve;
use crate::base::error::{ErrorKind, Result, judged};
use crate::base::limits::limits;
use crate::base::progress::{Event, Observer};
use crate::base::revision::RevisionId;
use crate::base::units::BlockIndex;
use crate::format::manifest::{BlockRange, InProgress, Manifest, Operation, Ranges};
use crate::format::qcow2::Cluster;
use crate::image::chain::Chain;
use crate::image::delta::{self, Delta};
use crate::image::refcounts::Unreferenced;
use crate::storage::manifest;
use crate::storage::{Access, DigestsKind, FileName, Storage};

pub(crate) use undo::{image_is_missing, make_image};

/// What to do if the image is missing and blocks must be written back to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LostImage {
    /// Fail: the image may be somewhere else, and may come back.
    Refuse,
    /// Create it again. What only the old image held is lost.
    MakeAnew,
}

/// The most ranges of blocks that are kept separately.
const MAX_RANGES: usize = 1024;

const ALL_BLOCKS: BlockRange = BlockRange { first: BlockIndex(0), count: u64::MAX };

/// Brings the archive to the state that its manifest describes.
pub(crate) fn recover(
    storage: &Arc<dyn Storage>,
    manifest: &mut Manifest,
    observer: &dyn Observer,
) -> Result<()> {
    recover_with(storage, manifest, LostImage::Refuse, observer)
}

/// The same, with what to do when the image is missing.
pub(crate) fn recover_with(
    storage: &Arc<dyn Storage>,
    manifest: &mut Manifest,
    lost_image: LostImage,
    observer: &dyn Observer,
) -> Result<()> {
    let shared = storage;
    let storage = &**storage;
    manifest::check_ours(storage)?;
    let Some(operation) = manifest.in_progress.clone() else {
        if has_any(storage, manifest)? {
            make_durable(storage, manifest)?;
        }
        return left_overs::tidy(storage, manifest);
    };
    // An older program did not list them.
    let made = made_by(manifest, &operation);
    manifest.removable.extend(made);
    make_durable(storage, manifest)?;
    match operation.operation {
        Operation::Backup => observer.event(&Event::Note(format!(
            "undoing the backup {} that was interrupted; it began at {}",
            operation.revision, operation.started
        ))),
        Operation::Remove | Operation::Merge => {}
    }
    let known = manifest.clone();
    match operation.operation {
        Operation::Backup | Operation::Remove => {
            let written = written_back(storage, manifest)?;
            undo::roll_back(storage, manifest, &operation, lost_image, observer)?;
            empty_digests(storage, manifest, operation.revision)?;
            if let Some(newest) = manifest.revisions.first_mut() {
                newest.note_rewritten(written);
            }
        }
        Operation::Merge => {
            repair_delta(shared, manifest, &operation, observer)?;
            tidy::finish_image(storage, manifest)?;
            // Nothing distinguishes appended blocks from those that were there.
            let mut revisions = manifest.revisions.iter_mut();
            if let Some(into) = revisions.find(|revision| revision.uuid == operation.revision) {
                into.note_rewritten([ALL_BLOCKS]);
            }
        }
    }
    if *manifest != known {
        // The findings must be durable before the deletion of the files that would show them again.
        make_durable(storage, manifest)?;
    }
    left_overs::keep_received(storage, manifest, &operation)?;
    // First, because publishing may need the space.
    sweep(storage, manifest)?;
    if operation.operation != Operation::Merge {
        manifest.image_file = moment::image_file(storage)?;
    }
    manifest.in_progress = None;
    reserve::publish(storage, manifest)
}

/// Empties the digests of the image that was being made before they are deleted. A crash may bring back a file whose
/// deletion is not durable, and complete digests would then vouch for a revision that does not exist.
fn empty_digests(storage: &dyn Storage, manifest: &Manifest, revision: RevisionId) -> Result<()> {
    let name = FileName::Digests(revision, DigestsKind::Image);
    if manifest.named_files().contains(&name) {
        return Ok(());
    }
    // A file with a second name cannot be opened for writing. It is deleted as it is.
    let Ok(digests) = judged(storage.open(name, Access::Write))? else { return Ok(()) };
    digests.set_len(0)?;
    digests.sync()
}

/// The blocks of the image that undoing is going to write: those that the overlay holds, in few ranges, or all if the
/// overlay is unreadable.
fn written_back(storage: &dyn Storage, manifest: &Manifest) -> Result<Vec<BlockRange>> {
    let Some(newest) = manifest.revisions.first() else { return Ok(Vec::new()) };
    if storage.list()?.contains(&FileName::STAGED_IMAGE) {
        return Ok(Vec::new());
    }
    let held = || -> Result<Vec<BlockRange>> {
        let (size, size_bytes) = (manifest.block_size, newest.size_bytes);
        let overlay = Delta::open(storage, newest.uuid, size, size_bytes)?;
        let end = BlockIndex(size.count(size_bytes));
        let mut ranges = Ranges::with_limit(MAX_RANGES);
        let mut next = BlockIndex(0);
        while let Some(first) = overlay.next_held_block(next, end)? {
            let count = limits().walk_blocks.min(end.0 - first.0);
            for (cluster, at) in overlay.clusters(first, count)?.into_iter().zip(first.0..) {
                if cluster != Cluster::Unallocated {
                    ranges.push(BlockRange { first: BlockIndex(at), count: 1 });
                }
            }
            next = first.plus(count);
        }
        Ok(ranges.finish())
    };
    match held() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) if error.is_unreadable() => Ok(vec![ALL_BLOCKS]),
        held => held,
    }
}

/// Repairs a delta to which blocks were being appended. Blocks with an entry stay: they changed nothing. Appended
/// blocks without an entry are freed if the digest of the delta is right without them. Otherwise they may be the
/// missing ones.
fn repair_delta(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    operation: &InProgress,
    observer: &dyn Observer,
) -> Result<()> {
    let number = manifest.number_of(operation.revision);
    let Some((number, revision)) =
        number.and_then(|number| Some((number, manifest.revisions.get(number)?)))
    else {
        return Ok(());
    };
    let backing = revision.backing(manifest.newer(number));
    let (block_size, size_bytes) = (manifest.block_size, revision.size_bytes);
    let verified =
        Chain::open(storage, manifest, number).and_then(|chain| chain.verify_digests(observer));
    let unreferenced = match verified {
        Ok(()) => Unreferenced::Free,
        Err(error) if error.is_damage() => Unreferenced::Keep,
        Err(error) => return Err(error),
    };
    let storage = &**storage;
    match delta::repair(storage, revision.uuid, block_size, size_bytes, backing, unreferenced) {
        // Something else has damaged it. The rest is still readable, and a scrub reports how much.
        Err(error) if error.is_damage() => {
            observer.event(&Event::Finding(error.to_string()));
            Ok(())
        }
        other => other,
    }
}

/// Publishes the manifest as it was read. After a failed sync, programs may see another manifest than the durable
/// one, and files that the durable one names must not be deleted.
fn make_durable(storage: &dyn Storage, manifest: &Manifest) -> Result<()> {
    match manifest::publish(storage, manifest) {
        // The deletion that follows makes space. A failed sync and a full disk together are not covered.
        Err(error) if error.kind() == ErrorKind::NoSpace => Ok(()),
        done => done,
    }
}
