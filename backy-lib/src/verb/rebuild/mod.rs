//! `scrub --rebuild`: rebuilds a lost or damaged manifest from the digest files and the headers of the deltas.
//!
//! The manifest can be lost in the middle of any operation, also of one whose undoing has failed as well. Which
//! revision is the newest follows from which image can be read in full ([`newest`]). The order of the older ones
//! follows from what their headers say, and their digests prove it ([`order`]). The new manifest lists an operation
//! that was under way, so that the next writer undoes it.
//!
//! A rebuild reads the disk, not memory: what a failed sync has lost must not be listed. It destroys nothing. Before
//! it publishes the new manifest it only points deltas to their base that read the same either way, and moves a
//! complete image to its place. Files that it cannot place are set aside in the manifest, and writers keep them. The
//! report lists what only the old manifest knew.

mod newest;
mod order;
mod run;
mod survey;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::archive::left_overs;
use crate::archive::moment;
use crate::base::error::{Error, ErrorKind, Result, judged};
use crate::base::progress::{Event, Observer};
use crate::base::revision::RevisionId;
use crate::format::digests::Identity;
use crate::format::manifest::{InProgress, Manifest, Operation, Revision, Statistics};
use crate::image::delta;
use crate::storage::manifest;
use crate::storage::{DigestsKind, FileName, Published, Storage, cache};

use newest::Newest;
use order::Ordered;
use survey::Survey;

/// What the new manifest contains, and what it lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RebuildReport {
    /// The revisions, newest first.
    pub revisions: Vec<RevisionId>,
    /// What is unknown, in sentences.
    pub unknown: Vec<String>,
}

/// What only the manifest records.
const NEVER_KNOWN: [&str; 4] = [
    "the statistics of the backups are lost",
    "the findings and dates of scrubs and drills are lost",
    "tags added or removed after the backup of a revision are lost; each has the tags of its backup",
    "the identity of the source is lost: the next backup trusts the configured source",
];

/// Checks that the manifest has to be rebuilt, or may be, and that this is an archive.
fn check_needed(storage: &dyn Storage, force: bool) -> Result<()> {
    match manifest::read(storage) {
        Ok(_) if force => {}
        // It is readable, but belongs to other files.
        Ok(manifest) if !is_of_these_files(storage, &manifest)? => {}
        Ok(_) => {
            let path = storage.path(FileName::MANIFEST);
            let message = format!("{}: is readable; nothing to rebuild", path.display());
            return Err(Error::Specification { message });
        }
        // A newer program may have written it, or this part of it is damaged.
        Err(error) if error.kind() == ErrorKind::Unsupported && !force => return Err(error),
        Err(error) => match error.kind() {
            ErrorKind::Damaged | ErrorKind::NoArchive | ErrorKind::Unsupported => {}
            _ => return Err(error),
        },
    }
    let present = storage.list()?;
    let is_data = |name: &FileName| matches!(name, FileName::Delta(_) | FileName::Digests(..));
    let is_new = [FileName::README, FileName::CONFIG].iter().all(|name| present.contains(name));
    let named = [FileName::MANIFEST, FileName::IMAGE];
    if is_new || present.iter().any(|name| is_data(name) || named.contains(name)) {
        Ok(())
    } else {
        Err(Error::NoArchive { path: storage.folder() })
    }
}

/// Whether a manifest belongs to the files next to it.
fn is_of_these_files(storage: &dyn Storage, manifest: &Manifest) -> Result<bool> {
    if moment::find(storage, manifest)?.is_some() {
        return Ok(false);
    }
    let at_rest = !manifest.revisions.is_empty() && manifest.in_progress.is_none();
    Ok(!at_rest || manifest.image_file.is_none() || moment::is_as_recorded(storage, manifest)?)
}

/// Rebuilds the manifest. The caller holds the lock.
fn rebuild(
    storage: &Arc<dyn Storage>,
    force: bool,
    observer: &dyn Observer,
) -> Result<RebuildReport> {
    check_needed(&**storage, force)?;
    cache::drop_all(&**storage, observer)?;
    let survey = Survey::take(&**storage)?;
    let before = judged(manifest::read(&**storage))?.ok();
    let mut unknown = Vec::new();
    let mut manifest = match newest::find(storage, &survey, observer)? {
        Some(newest) => with_newest(storage, &survey, newest, &mut unknown, observer)?,
        None => without_newest(&**storage, &survey, &mut unknown)?,
    };
    manifest.removable.extend(left_over(&survey, &manifest, before.is_none()));
    if let Some(before) = before {
        manifest.removable.extend(deleted_before(&**storage, before)?);
    }
    for (id, flaw) in &survey.flaws {
        if manifest.set_aside.iter().any(|name| revision_of(*name) == Some(*id)) {
            unknown.push(format!("{flaw}; revision {id} is not among the revisions"));
        }
    }
    unknown.extend(manifest.set_aside.iter().map(|name| {
        format!("{name} is set aside: copy it before the next backup if you may need it")
    }));
    unknown.extend(NEVER_KNOWN.map(str::to_owned));
    // A manifest that backy could not read again must not replace anything.
    let flawed = |flaw| Error::flawed(storage.path(FileName::MANIFEST))(flaw);
    let encoded = manifest.encode().map_err(flawed)?;
    Manifest::parse(&encoded).map_err(|flaw| flawed(format!("rebuilt: {flaw:?}")))?;
    publish(&**storage, &manifest)?;
    for sentence in &unknown {
        observer.event(&Event::Note(sentence.clone()));
    }
    let revisions = manifest.revisions.iter().map(|revision| revision.uuid).collect();
    Ok(RebuildReport { revisions, unknown })
}

/// Files that the previous manifest lists as removable and that are gone. After a failed sync they may come back.
fn deleted_before(storage: &dyn Storage, before: Manifest) -> Result<Vec<FileName>> {
    let present = storage.list()?;
    Ok(before.removable.into_iter().filter(|name| !present.contains(name)).collect())
}

/// Publishes the manifest, whatever has its name now.
fn publish(storage: &dyn Storage, manifest: &Manifest) -> Result<()> {
    match judged(manifest::begin_writing(storage))? {
        // The name under which the next one is written stays the same.
        Ok(before) => {
            let token = before.staging_token();
            manifest::publish(storage, &manifest.clone().with_staging_token(token))
        }
        Err(_) => {
            // A manifest that was being written when the archive lost its own has the archive's token in its name.
            let token = storage.list()?.into_iter().find_map(|name| match name {
                FileName::Aside(Published::Manifest, token) => Some(token),
                _ => None,
            });
            match token {
                Some(token) => {
                    manifest::publish(storage, &manifest.clone().with_staging_token(token))
                }
                None => manifest::publish_first(storage, manifest),
            }
        }
    }
}

/// The manifest of an archive with an image.
fn with_newest(
    storage: &Arc<dyn Storage>,
    survey: &Survey,
    newest: Newest,
    unknown: &mut Vec<String>,
    observer: &dyn Observer,
) -> Result<Manifest> {
    let block_size = newest.identity.block_size;
    unknown.extend(newest.notes);
    let mut head = image_revision(&newest.identity);
    head.findings = newest.bad;
    let Ordered { revisions, unproved } =
        order::order(storage, head, block_size, &survey.nodes, observer)?;
    let unproved_ones = revisions.iter().filter(|revision| unproved.contains(&revision.uuid));
    unknown.extend(unproved_ones.map(|revision| {
        format!(
            "the digest of revision {} of {} does not come out of its digest files: it is damaged, or \
             something it reads through to is; the rest of it can be restored",
            revision.uuid, revision.started
        )
    }));
    let mut manifest = Manifest::new(block_size);
    manifest.revisions = revisions;
    point_to_bases(&**storage, &manifest, survey, &unproved, newest.undo)?;
    if let Some(operation) = in_progress(&manifest, survey, newest.undo, newest.is_longer) {
        left_overs::enter(&mut manifest, operation);
    }
    // Undoing records it again.
    manifest.image_file = moment::image_file(&**storage)?.filter(|_| !newest.undo);
    // If the image of these digests does not exist, they are left over from an interrupted operation, unless it is in
    // doubt which image exists.
    let is_left_over =
        |id| !newest.doubt && survey.is_image_only(id) && (newest.undo || !survey.is_flawed(id));
    manifest.set_aside = set_aside(survey, &manifest, is_left_over);
    Ok(manifest)
}

/// The manifest of an archive without an image: it has no revisions.
fn without_newest(
    storage: &dyn Storage,
    survey: &Survey,
    unknown: &mut Vec<String>,
) -> Result<Manifest> {
    if !survey.nodes.is_empty() || !survey.images.is_empty() {
        unknown.push(format!(
            "{} is missing, and no revision is readable without it; bring back a copy and rebuild again",
            storage.path(FileName::IMAGE).display()
        ));
    }
    let mut manifest = Manifest::new(survey.block_size(storage, unknown)?);
    manifest.set_aside = set_aside(survey, &manifest, |_| false);
    Ok(manifest)
}

/// The operation that the next writer has to undo or to finish.
fn in_progress(
    manifest: &Manifest,
    survey: &Survey,
    undo: bool,
    is_longer: bool,
) -> Option<InProgress> {
    let newest = manifest.revisions.first()?;
    let started = newest.finished;
    let merge =
        |into: &Revision| InProgress { operation: Operation::Merge, revision: into.uuid, started };
    let dirty = |revision: &&Revision| survey.nodes.get(&revision.uuid).is_some_and(|n| n.dirty);
    let (dirty, before) =
        (manifest.revisions.iter().skip(1).find(dirty), manifest.revisions.get(1));
    match (undo, dirty, before) {
        (false, Some(dirty), _) => return Some(merge(dirty)),
        // A committed backup that was interrupted before it cut the image.
        (false, None, Some(before)) if is_longer => return Some(merge(before)),
        (false, None, _) if !is_longer => return None,
        _ => {}
    }
    let in_result = |id| manifest.revisions.iter().any(|revision| revision.uuid == id);
    let other = survey.images.iter().find(|identity| !in_result(identity.uuid));
    let (revision, started) = match other {
        Some(other) => (other.uuid, other.started),
        None => (RevisionId::new(started), started),
    };
    Some(InProgress { operation: Operation::Backup, revision, started })
}

/// Points the deltas to the bases that the manifest lists, as far as their digests prove that they read the same.
fn point_to_bases(
    storage: &dyn Storage,
    manifest: &Manifest,
    survey: &Survey,
    unproved: &BTreeSet<RevisionId>,
    undo: bool,
) -> Result<()> {
    for (number, revision) in manifest.revisions.iter().enumerate().skip(1) {
        // Undoing does that once the image is back.
        if unproved.contains(&revision.uuid) || (undo && number == 1) {
            continue;
        }
        let backing = revision.backing(manifest.newer(number));
        if survey.nodes.get(&revision.uuid).is_some_and(|node| node.backing != backing) {
            delta::rebase(storage, revision.uuid, backing)?;
        }
    }
    Ok(())
}

/// The files of revisions that are not in the manifest, without those that are left over.
fn set_aside(
    survey: &Survey,
    manifest: &Manifest,
    is_left_over: impl Fn(RevisionId) -> bool,
) -> Vec<FileName> {
    let is_kept = |name: &FileName| {
        let Some(id) = revision_of(*name) else { return false };
        let in_result = manifest.revisions.iter().any(|revision| revision.uuid == id);
        let unfinished = survey.unfinished.contains(name) && survey.is_image_only(id);
        !in_result && !unfinished && !is_left_over(id)
    };
    survey.present.iter().filter(|name| is_kept(name)).copied().collect()
}

/// The files of a backup or a deletion that never ended: digests of an image whose revision has its blocks elsewhere
/// or never got them, and the unfinished image. Also those that the last operation may have deleted, the overlay of
/// the newest revision and the digests of the image before it: if the deletion is not durable, a crash brings them
/// back.
fn left_over(survey: &Survey, manifest: &Manifest, is_lost: bool) -> Vec<FileName> {
    let named = manifest.named_files();
    let is_left = |name: &FileName| matches!(name, FileName::Digests(..)) && !named.contains(name);
    let mut left: Vec<FileName> =
        survey.present.iter().filter(|name| is_left(name)).copied().collect();
    // A readable manifest shows whether an image was being made.
    if is_lost || !left.is_empty() || manifest.in_progress.is_some() {
        left.push(FileName::STAGED_IMAGE);
    }
    if is_lost {
        let newest = manifest.revisions.first().map(|newest| newest.uuid);
        let overlay =
            newest.map(|id| [FileName::Delta(id), FileName::Digests(id, DigestsKind::Delta)]);
        let before = manifest.revisions.get(1).map(|before| before.uuid);
        let replaced = before.map(|id| FileName::Digests(id, DigestsKind::Image));
        let names = overlay.into_iter().flatten().chain(replaced);
        left.extend(names.filter(|name| !survey.present.contains(name)));
    }
    left
}

fn revision_of(name: FileName) -> Option<RevisionId> {
    match name {
        FileName::Delta(id) | FileName::Digests(id, _) => Some(id),
        _ => None,
    }
}

/// A revision as its digest file describes it, as the newest one.
fn image_revision(identity: &Identity) -> Revision {
    let mut revision = Revision::newest(
        identity.uuid,
        identity.started,
        identity.finished,
        identity.size_bytes,
        identity.digest,
        Statistics::default(),
    );
    revision.tags = identity.tags.clone();
    revision.pinned_tags = identity.pinned_tags.clone();
    revision
}
