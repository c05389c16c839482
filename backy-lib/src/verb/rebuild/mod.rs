//! `scrub --rebuild`: a lost or damaged manifest is made anew from the digest files and the headers of the deltas.
//!
//! The manifest can be lost in the middle of any operation. What the newest revision is follows from which image can be read in
//! full ([`newest`]); the order of the older ones from what their headers say and from their digests, which prove it
//! ([`order`]). An operation that was under way is entered as such, so that the next writer undoes it.
//!
//! Nothing is destroyed: before the new manifest is published, deltas that read the same either way are pointed to their base,
//! and an image that is complete takes its place; that is all. Files that nothing can be made of are set aside in the manifest,
//! which keeps them from being swept up. What only the old manifest knew is said to be unknown.

mod newest;
mod order;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::archive::left_overs;
use crate::archive::moment;
use crate::base::digest;
use crate::base::error::{Error, ErrorKind, Result, judged};
use crate::base::progress::{Event, Observer};
use crate::base::revision::RevisionId;
use crate::base::units::BlockSize;
use crate::format::digests::{HEADER_BYTES, Identity};
use crate::format::manifest::{InProgress, Manifest, Operation, Revision, Statistics};
use crate::format::qcow2::{Backing, Layout};
use crate::format::readme::block_size_of;
use crate::image::delta::{self, Delta};
use crate::image::digests::DigestTable;
use crate::storage::manifest;
use crate::storage::{Access, DigestsKind, FileName, Published, Storage, staged};

pub(crate) use newest::wrong_blocks;

use newest::Newest;
use order::Ordered;

/// What the new manifest has, and what it lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RebuildReport {
    /// The revisions, newest first.
    pub revisions: Vec<RevisionId>,
    /// What could not be known, in sentences.
    pub unknown: Vec<String>,
}

/// What no file but the manifest says.
const NEVER_KNOWN: [&str; 4] = [
    "the statistics of the backups are lost",
    "the findings and dates of scrubs and drills are lost",
    "tags added or removed after the backup of a revision are lost; each has the tags of its backup",
    "the identity of the source is lost: the next backup trusts the configured source",
];

/// That the manifest has to be made anew, or may be, and that this is an archive.
pub(crate) fn check_needed(storage: &dyn Storage, force: bool) -> Result<()> {
    match manifest::read(storage) {
        Ok(_) if force => {}
        // It reads fine, but not of these files.
        Ok(manifest) if !is_of_these_files(storage, &manifest)? => {}
        Ok(_) => {
            let path = storage.path(FileName::MANIFEST);
            let message = format!("{}: is readable; nothing to rebuild", path.display());
            return Err(Error::Specification { message });
        }
        // It may be a newer program's, or be damaged just there.
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

/// Whether what a manifest says is about the files beside it.
fn is_of_these_files(storage: &dyn Storage, manifest: &Manifest) -> Result<bool> {
    if moment::find(storage, manifest)?.is_some() {
        return Ok(false);
    }
    let at_rest = !manifest.revisions.is_empty() && manifest.in_progress.is_none();
    Ok(!at_rest || manifest.image_file.is_none() || moment::is_as_recorded(storage, manifest)?)
}

/// Makes the manifest anew. The lock is held.
pub(crate) fn rebuild(
    storage: &Arc<dyn Storage>,
    force: bool,
    observer: &dyn Observer,
) -> Result<RebuildReport> {
    check_needed(&**storage, force)?;
    let survey = Survey::take(&**storage)?;
    let mut unknown = Vec::new();
    let mut manifest = match newest::find(storage, &survey, observer)? {
        Some(newest) => with_newest(storage, &survey, newest, &mut unknown, observer)?,
        None => without_newest(&**storage, &survey, &mut unknown)?,
    };
    manifest.removable.extend(deleted_before(&**storage)?);
    for (id, flaw) in &survey.flaws {
        if manifest.set_aside.iter().any(|name| revision_of(*name) == Some(*id)) {
            unknown.push(format!("{flaw}; revision {id} is not among the revisions"));
        }
    }
    unknown.extend(manifest.set_aside.iter().map(|name| {
        format!("{name} is set aside: copy it before the next backup if you may need it")
    }));
    unknown.extend(NEVER_KNOWN.map(str::to_owned));
    // A manifest that would not be read again must not take the place of anything.
    let flawed = |flaw| Error::flawed(storage.path(FileName::MANIFEST))(flaw);
    let encoded = manifest.encode().map_err(flawed)?;
    Manifest::parse(&encoded).map_err(|flaw| flawed(format!("made anew: {flaw:?}")))?;
    publish(&**storage, &manifest)?;
    for sentence in &unknown {
        observer.event(&Event::Note(sentence.clone()));
    }
    let revisions = manifest.revisions.iter().map(|revision| revision.uuid).collect();
    Ok(RebuildReport { revisions, unknown })
}

/// Files that the manifest before lists as removable and that are gone. After a sync that failed they may only look so.
fn deleted_before(storage: &dyn Storage) -> Result<Vec<FileName>> {
    let Ok(before) = judged(manifest::read(storage))? else { return Ok(Vec::new()) };
    let present = storage.list()?;
    Ok(before.removable.into_iter().filter(|name| !present.contains(name)).collect())
}

/// Puts the manifest in its place, whatever is there.
fn publish(storage: &dyn Storage, manifest: &Manifest) -> Result<()> {
    match judged(manifest::begin_writing(storage))? {
        // The name under which the next one is written stays the same.
        Ok(before) => {
            let token = before.staging_token();
            manifest::publish(storage, &manifest.clone().with_staging_token(token))
        }
        Err(_) => {
            // One that was being written when the archive lost its manifest has the token of the archive in its name.
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
            "the digest of revision {} of {} does not come out of its digest files: it is damaged, or something it reads \
             through to is; what is right in it can be had",
            revision.uuid, revision.started
        )
    }));
    let mut manifest = Manifest::new(block_size);
    manifest.revisions = revisions;
    point_to_bases(&**storage, &manifest, survey, &unproved, newest.undo)?;
    if let Some(operation) = in_progress(&manifest, survey, newest.undo) {
        left_overs::enter(&mut manifest, operation);
    } else if let Some(operation) = untidy(&**storage, &manifest)? {
        manifest.in_progress = Some(operation);
    }
    // What is wrong in it is among the findings; undoing says again what it is.
    manifest.image_file = moment::image_file(&**storage)?.filter(|_| !newest.undo);
    // Digests of an image that is not there are left over from what was under way, unless it is in doubt which one is there.
    let is_left_over =
        |id| !newest.doubt && survey.is_image_only(id) && (newest.undo || !survey.is_flawed(id));
    manifest.set_aside = set_aside(survey, &manifest, is_left_over);
    manifest.removable.extend(left_over(&**storage, survey, &manifest)?);
    Ok(manifest)
}

/// The manifest of an archive without an image: no revision can be in it.
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
    manifest.removable.extend(left_over(storage, survey, &manifest)?);
    Ok(manifest)
}

/// A backup that was committed and has not come to cut the image.
fn untidy(storage: &dyn Storage, manifest: &Manifest) -> Result<Option<InProgress>> {
    let [newest, before, ..] = manifest.revisions.as_slice() else { return Ok(None) };
    let is_longer = match storage.open(FileName::IMAGE, Access::Read) {
        Err(error) if error.is_loss() => false,
        image => image?.len()? > newest.size_bytes,
    };
    let (operation, revision, started) = (Operation::Merge, before.uuid, newest.finished);
    Ok(is_longer.then_some(InProgress { operation, revision, started }))
}

/// What has to be undone or repaired by the next writer.
fn in_progress(manifest: &Manifest, survey: &Survey, undo: bool) -> Option<InProgress> {
    let newest = manifest.revisions.first()?;
    if undo {
        let in_result = |id| manifest.revisions.iter().any(|revision| revision.uuid == id);
        let other = survey.images.iter().find(|identity| !in_result(identity.uuid));
        let (revision, started) = match other {
            Some(other) => (other.uuid, other.started),
            None => (RevisionId::new(newest.finished), newest.finished),
        };
        return Some(InProgress { operation: Operation::Backup, revision, started });
    }
    let dirty = |revision: &&Revision| survey.nodes.get(&revision.uuid).is_some_and(|n| n.dirty);
    let merged = manifest.revisions.iter().skip(1).find(dirty)?;
    let (operation, revision) = (Operation::Merge, merged.uuid);
    Some(InProgress { operation, revision, started: newest.finished })
}

/// Gives the deltas the backing files that the manifest says. Only those that were proved to read the same.
fn point_to_bases(
    storage: &dyn Storage,
    manifest: &Manifest,
    survey: &Survey,
    unproved: &BTreeSet<RevisionId>,
    undo: bool,
) -> Result<()> {
    for (number, revision) in manifest.revisions.iter().enumerate().skip(1) {
        // Next to an image that has to be brought back: undoing does that when it is.
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

/// The files of revisions that are not in the manifest, but for what is left over.
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

/// Files of a backup or a removal that never came to an end, by what is in them: digests of an image whose revision holds
/// its blocks elsewhere or never got them, and the image that was to be.
fn left_over(storage: &dyn Storage, survey: &Survey, manifest: &Manifest) -> Result<Vec<FileName>> {
    let named = manifest.named_files();
    let is_left = |name: &FileName| matches!(name, FileName::Digests(..)) && !named.contains(name);
    let mut left: Vec<FileName> =
        survey.present.iter().filter(|name| is_left(name)).copied().collect();
    // With a manifest that can be read, that says whether an image was being made.
    let is_lost = judged(manifest::read(storage))?.is_err();
    if is_lost || !left.is_empty() || manifest.in_progress.is_some() {
        left.push(FileName::STAGED_IMAGE);
    }
    Ok(left)
}

fn revision_of(name: FileName) -> Option<RevisionId> {
    match name {
        FileName::Delta(id) | FileName::Digests(id, _) => Some(id),
        _ => None,
    }
}

/// A revision as its digest file describes it, in the place of the newest.
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

/// What there is.
struct Survey {
    present: Vec<FileName>,
    /// Of the readable digest files of images.
    images: Vec<Identity>,
    /// Deltas with their digests.
    nodes: BTreeMap<RevisionId, Node>,
    /// Digest files that never got a header.
    unfinished: BTreeSet<FileName>,
    /// What is wrong with the files of which revision.
    flaws: Vec<(RevisionId, String)>,
}

/// A delta whose header and digest file can be read.
struct Node {
    identity: Identity,
    /// What its header names.
    backing: Option<Backing>,
    /// Blocks were being appended to it.
    dirty: bool,
}

impl Survey {
    fn take(storage: &dyn Storage) -> Result<Self> {
        let mut survey = Survey {
            present: storage.list()?,
            images: Vec::new(),
            nodes: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            flaws: Vec::new(),
        };
        for name in survey.present.clone() {
            match name {
                FileName::Delta(id) => survey.look_at_delta(storage, id)?,
                FileName::Digests(id, kind) => survey.look_at_digests(storage, name, id, kind)?,
                _ => {}
            }
        }
        Ok(survey)
    }

    fn look_at_delta(&mut self, storage: &dyn Storage, id: RevisionId) -> Result<()> {
        let node = open_digests(storage, id, DigestsKind::Delta).and_then(|identity| {
            let delta = Delta::open(storage, id, identity.block_size, identity.size_bytes)?;
            let (backing, dirty) = (delta.header().backing, delta.header().dirty);
            Ok(Node { identity, backing, dirty })
        });
        match node {
            Ok(node) => _ = self.nodes.insert(id, node),
            Err(error) if error.is_damage() => self.flaws.push((id, error.to_string())),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn look_at_digests(
        &mut self,
        storage: &dyn Storage,
        name: FileName,
        id: RevisionId,
        kind: DigestsKind,
    ) -> Result<()> {
        match open_digests(storage, id, kind) {
            Ok(identity) if kind == DigestsKind::Image => self.images.push(identity),
            Ok(_) if !self.present.contains(&FileName::Delta(id)) => {
                let missing = storage.path(FileName::Delta(id));
                self.flaws.push((id, format!("{}: missing", missing.display())));
            }
            Ok(_) => {}
            Err(error) if error.is_damage() => {
                if is_unfinished(storage, name)? {
                    self.unfinished.insert(name);
                } else if kind == DigestsKind::Image {
                    self.flaws.push((id, error.to_string()));
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether nothing is there of a revision but digests of an image, or digests that were never complete.
    fn is_image_only(&self, id: RevisionId) -> bool {
        let digests = FileName::Digests(id, DigestsKind::Delta);
        let has_digests = self.present.contains(&digests) && !self.unfinished.contains(&digests);
        !has_digests && !self.present.contains(&FileName::Delta(id))
    }

    fn is_flawed(&self, id: RevisionId) -> bool {
        self.flaws.iter().any(|(flawed, _)| *flawed == id)
    }

    /// Whether the older state of a revision is complete in its delta.
    fn is_finished(&self, id: RevisionId) -> bool {
        self.nodes.get(&id).is_some_and(|node| !node.dirty)
    }

    /// The block size of the archive when no image says it.
    fn block_size(&self, storage: &dyn Storage, unknown: &mut Vec<String>) -> Result<BlockSize> {
        let latest = self.nodes.values().max_by_key(|node| node.identity.started);
        if let Some(node) = latest {
            return Ok(node.identity.block_size);
        }
        let text = match staged::read_whole(storage, FileName::README, 1 << 20) {
            Ok(text) => text,
            Err(error) if error.is_damage() => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(block_size_of(&text).unwrap_or_else(|| {
            unknown.push(format!(
                "the block size is unknown; assuming {} bytes",
                BlockSize::DEFAULT.bytes()
            ));
            BlockSize::DEFAULT
        }))
    }
}

fn open_digests(storage: &dyn Storage, id: RevisionId, kind: DigestsKind) -> Result<Identity> {
    let table = DigestTable::open(storage, id, kind)?;
    let identity = table.identity();
    let limit = Layout::max_image_bytes(identity.block_size);
    if identity.size_bytes > limit {
        let path = storage.path(FileName::Digests(id, kind));
        let expected = format!("at most {limit}");
        return Err(Error::damaged(path, "size_bytes", identity.size_bytes, expected));
    }
    Ok(identity.clone())
}

/// Whether a digest file never got its header, which is written last.
fn is_unfinished(storage: &dyn Storage, name: FileName) -> Result<bool> {
    let file = storage.open(name, Access::Read)?;
    let mut header = vec![0; HEADER_BYTES];
    file.read_padded_at(&mut header, 0)?;
    Ok(digest::is_zero(&header))
}
