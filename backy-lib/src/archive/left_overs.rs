//! Files that no revision needs: backy deletes its own files and keeps all others.
//!
//! backy does not delete a file only because the manifest does not name it: somebody may have put it there, or the
//! manifest may be older than the files. A file is ours if the manifest says so. Either the manifest lists it in
//! `removable`: backy enters a file there before it makes the file, or when no revision needs it any more. Or the
//! operation under way makes it. Before backy enters an operation, no file may have these names ([`check_vacant`]).

use std::collections::BTreeSet;

use crate::archive::reserve;
use crate::base::error::{Error, Result};
use crate::format::manifest::{InProgress, Manifest, Operation};
use crate::storage::manifest;
use crate::storage::{DigestsKind, FileName, Published, Storage};

/// The files that an operation makes, starting from this manifest.
pub(crate) fn made_by(manifest: &Manifest, operation: &InProgress) -> Vec<FileName> {
    if operation.operation == Operation::Merge {
        return Vec::new();
    }
    let mut names =
        vec![FileName::STAGED_IMAGE, FileName::Digests(operation.revision, DigestsKind::Image)];
    match manifest.revisions.first() {
        Some(newest) => {
            let digests = FileName::Digests(newest.uuid, DigestsKind::Delta);
            names.extend([FileName::Delta(newest.uuid), digests]);
        }
        None => names.push(FileName::IMAGE),
    }
    names
}

/// Enters an operation and the files that it makes.
pub(crate) fn enter(manifest: &mut Manifest, operation: InProgress) {
    manifest.removable.extend(made_by(manifest, &operation));
    manifest.in_progress = Some(operation);
}

/// Checks that no file has a name that an operation is going to use. The caller has already tidied up.
///
/// # Errors
/// [`Error::InTheWay`] with the names.
pub(crate) fn check_vacant(storage: &dyn Storage, names: &[FileName]) -> Result<()> {
    let present = storage.list()?;
    let taken: Vec<String> =
        names.iter().filter(|name| present.contains(name)).map(FileName::to_string).collect();
    match taken.is_empty() {
        true => Ok(()),
        false => Err(Error::InTheWay { path: storage.folder(), names: taken.join(", ") }),
    }
}

/// The files that may be deleted once nothing remains to be undone.
fn removable(manifest: &Manifest) -> BTreeSet<FileName> {
    let mut names = BTreeSet::from_iter(manifest.removable.iter().copied());
    // The manifest of an older program has no list.
    names.extend(manifest.in_progress.iter().flat_map(|operation| made_by(manifest, operation)));
    names.insert(FileName::Aside(Published::Manifest, manifest.staging_token()));
    names.extend(manifest.spool.iter().map(|_| FileName::Spool));
    let named = manifest.named_files();
    names.retain(|name| !named.contains(name));
    names
}

/// Files with a name that an archive uses and that the manifest does not list.
pub(crate) fn unknown(storage: &dyn Storage, manifest: &Manifest) -> Result<Vec<FileName>> {
    let (named, ours) = (manifest.named_files(), removable(manifest));
    let mut present = storage.list()?;
    present.retain(|name| !named.contains(name) && !ours.contains(name));
    Ok(present)
}

/// Whether there is a file of ours that no revision needs.
pub(crate) fn has_any(storage: &dyn Storage, manifest: &Manifest) -> Result<bool> {
    let ours = removable(manifest);
    Ok(storage.list()?.iter().any(|name| ours.contains(name)))
}

/// Deletes those of our files that no revision needs, and returns whether there were any. The caller has already
/// undone any interrupted operation.
///
/// # Errors
/// [`Error::Overtaken`] when somebody else writes to the archive.
pub(crate) fn sweep(storage: &dyn Storage, manifest: &Manifest) -> Result<bool> {
    let ours = removable(manifest);
    let mut present = storage.list()?;
    present.retain(|name| ours.contains(name));
    if present.is_empty() {
        return Ok(false);
    }
    manifest::check_ours(storage)?;
    for name in &present {
        storage.remove(*name)?;
    }
    Ok(true)
}

/// Deletes what an operation has left after its end, and clears the list for the next manifest. Until that is
/// published the list stays on disk, because a crash may undo a deletion that is not durable.
pub(crate) fn tidy(storage: &dyn Storage, manifest: &mut Manifest) -> Result<()> {
    let gone = gone(storage, manifest)?;
    let swept = sweep(storage, manifest)?;
    if !swept && manifest.removable.is_empty() && !has_used_spool(manifest) {
        return Ok(());
    }
    // After a failed sync they may only look deleted.
    let deleted = gone.into_iter().try_for_each(|name| {
        storage.create(name).map(drop)?;
        storage.remove(name)
    });
    storage.sync_folder()?;
    // If there is no space for that, the list stays.
    if deleted.is_ok() {
        manifest.removable.clear();
        if has_used_spool(manifest) {
            manifest.spool = None;
        }
    }
    Ok(())
}

/// Whether the manifest still names a spool whose revision is complete.
fn has_used_spool(manifest: &Manifest) -> bool {
    manifest.spool.is_some() && !manifest.has_spool()
}

/// Deletes what has arrived of an incomplete revision, and publishes that.
pub(crate) fn delete_spool(storage: &dyn Storage, manifest: &mut Manifest) -> Result<()> {
    if manifest.spool.is_none() {
        return Ok(());
    }
    manifest::check_ours(storage)?;
    if storage.list()?.contains(&FileName::Spool) {
        storage.remove(FileName::Spool)?;
        storage.sync_folder()?;
    }
    let mut after = manifest.clone();
    after.spool = None;
    reserve::publish(storage, &after)?;
    *manifest = after;
    Ok(())
}

/// Keeps what has arrived for an archive's first revision, before its image is deleted.
pub(crate) fn keep_received(
    storage: &dyn Storage,
    manifest: &Manifest,
    operation: &InProgress,
) -> Result<()> {
    let is_pull = manifest.spool.as_ref().is_some_and(|spool| {
        spool.revision == operation.revision && operation.operation == Operation::Backup
    });
    if !is_pull || !manifest.revisions.is_empty() {
        return Ok(());
    }
    let present = storage.list()?;
    let mut images = [FileName::STAGED_IMAGE, FileName::IMAGE].into_iter();
    if let Some(image) = images.find(|name| present.contains(name)) {
        manifest::check_ours(storage)?;
        storage.rename(image, FileName::Spool)?;
    }
    Ok(())
}

/// Files that are listed as removable and missing. Omits an image: a listed image would count as that of another
/// moment.
fn gone(storage: &dyn Storage, manifest: &Manifest) -> Result<Vec<FileName>> {
    let (present, named) = (storage.list()?, manifest.named_files());
    let mut gone = manifest.removable.clone();
    gone.extend(manifest.spool.iter().map(|_| FileName::Spool));
    gone.retain(|name| !present.contains(name) && !named.contains(name));
    gone.retain(|name| *name != FileName::IMAGE);
    Ok(gone)
}
