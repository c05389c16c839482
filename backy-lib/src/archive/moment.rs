//! Whether the manifest and the files next to it belong to the same moment.
//!
//! Each file of a folder may be right, and yet they do not belong together: somebody brought the manifest back from
//! an older copy, a copy of the archive stopped in the middle, or an image or a digest file is of another time. A
//! writer that believes such a manifest would overwrite or delete what the files hold. So every writer looks first
//! ([`check`]): at the names of the files and, where one is unexpected or missing, also at the headers. As long as
//! everything fits, that costs no more than listing the folder.
//!
//! `last.raw` has no header. The manifest records its time instead; if that differs, a writer that is going to change
//! the image first reads it in full ([`check_image`]).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::archive::compare;
use crate::archive::left_overs;
use crate::base::error::{Error, ErrorKind, Result, judged};
use crate::base::progress::{Event, Observer};
use crate::base::revision::RevisionId;
use crate::base::units::BlockIndex;
use crate::format::manifest::{Findings, ImageFile, Manifest, Operation};
use crate::image::chain::Chain;
use crate::image::delta::Delta;
use crate::image::digests::DigestTable;
use crate::storage::manifest::{self, Look};
use crate::storage::{Access, DigestsKind, FileName, Storage};

/// The most bad blocks to compare with older revisions.
const SAMPLE_BLOCKS: usize = 256;

/// The most older revisions to compare them with.
const SAMPLE_REVISIONS: usize = 32;

/// This many bad blocks may be rot, whatever the size of the image.
const ROT_BLOCKS: u64 = 16;

/// The most names of revisions in a message.
const MAX_NAMES: usize = 8;

/// Checks that the manifest and the files belong together, as far as names and headers show.
///
/// # Errors
/// [`Error::OtherMoment`].
pub(crate) fn check(storage: &dyn Storage, manifest: &Manifest) -> Result<()> {
    match find(storage, manifest)? {
        None => Ok(()),
        Some(message) => Err(Error::OtherMoment { path: storage.folder(), message }),
    }
}

/// Why the manifest and the files do not belong together, and which revisions each of them has.
pub(crate) fn find(storage: &dyn Storage, manifest: &Manifest) -> Result<Option<String>> {
    let folder = Folder::look_at(storage, manifest)?;
    let Some(why) = folder.evidence()? else { return Ok(None) };
    let held = folder.held();
    let named: BTreeSet<RevisionId> = manifest.revisions.iter().map(|r| r.uuid).collect();
    let only = |a: &BTreeSet<RevisionId>, b: &BTreeSet<RevisionId>| {
        let mut only: Vec<String> = a.difference(b).map(RevisionId::to_string).collect();
        only.reverse();
        match only.len() {
            0 => "none".to_owned(),
            count if count <= MAX_NAMES => only.join(", "),
            count => {
                let first = only.get(..MAX_NAMES).unwrap_or_default().join(", ");
                format!("{first} and {} more", count - MAX_NAMES)
            }
        }
    };
    Ok(Some(format!(
        "the files and manifest.json belong to different moments: {why}; the files hold {} revisions and \
         the manifest names {}; \
         only in the files: {}; only in the manifest: {}; restore the manifest.json that belongs to the files, or \
         run 'backy scrub --rebuild', which rebuilds it from them",
        held.len(),
        named.len(),
        only(&held, &named),
        only(&named, &held)
    )))
}

/// What reports say about a file that the manifest does not know.
pub(crate) const UNKNOWN: &str = "no revision needs this file, and backy cannot prove that it made it: it \
    stays; delete it yourself if nobody needs it";

/// What an archive holds besides its revisions.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// Files with a name that an archive uses and that the manifest does not know; without the folder.
    pub(crate) unknown: Vec<String>,
    /// Why the manifest and the files do not belong together.
    pub(crate) mismatch: Option<String>,
}

/// Looks without the lock. Finds nothing while a writer is at work, because that one may be about to delete files
/// that the manifest no longer names.
pub(crate) fn look(storage: &dyn Storage) -> Result<Beside> {
    manifest::look(storage, manifest::read(storage)?, |now| {
        let unknown = left_overs::unknown(storage, now)?;
        let mismatch = find(storage, now)?;
        if unknown.is_empty() && mismatch.is_none() || storage.lock_holder()?.is_some() {
            return Ok(Look::Sure(Beside::default()));
        }
        let unknown = unknown.iter().map(FileName::to_string).collect();
        Ok(Look::IfCurrent(Beside { unknown, mismatch }))
    })
}

/// What the folder holds besides a manifest.
struct Folder<'a> {
    storage: &'a dyn Storage,
    manifest: &'a Manifest,
    present: BTreeSet<FileName>,
    /// The revisions of the manifest, by their names.
    numbers: HashMap<RevisionId, usize>,
    /// Files that are listed as removable.
    removable: BTreeSet<FileName>,
    /// Files that no revision needs and that are not being made. If it is in doubt which files may be deleted, also
    /// those: a list of another moment may name files that are needed now.
    others: BTreeSet<FileName>,
}

impl<'a> Folder<'a> {
    fn look_at(storage: &'a dyn Storage, manifest: &'a Manifest) -> Result<Self> {
        let present: BTreeSet<FileName> = storage.list()?.into_iter().collect();
        let mut others = BTreeSet::from_iter(left_overs::unknown(storage, manifest)?);
        let newest = manifest.revisions.first();
        let is_in_doubt = newest.is_none_or(|newest| !present.contains(&newest.digests_file()));
        if manifest.in_progress.is_none() {
            let named = manifest.named_files();
            let listed = manifest.removable.iter().filter(|name| present.contains(name));
            let listed = listed.filter(|name| !named.contains(name));
            // If a delta is to be deleted, the headers show whether another one needs it.
            others.extend(listed.filter(|name| is_in_doubt || matches!(name, FileName::Delta(_))));
        }
        let named = manifest.revisions.iter().enumerate();
        let numbers = named.map(|(number, revision)| (revision.uuid, number)).collect();
        let removable = manifest.removable.iter().copied().collect();
        Ok(Folder { storage, manifest, present, numbers, removable, others })
    }

    fn is_missing(&self, name: FileName) -> bool {
        !self.present.contains(&name)
    }

    fn number(&self, id: RevisionId) -> Option<usize> {
        self.numbers.get(&id).copied()
    }

    /// The first thing that does not fit.
    fn evidence(&self) -> Result<Option<String>> {
        let images = self.others.iter().filter_map(|name| match name {
            FileName::Digests(id, DigestsKind::Image) => Some(*id),
            _ => None,
        });
        for id in images {
            if let Some(why) = self.unknown_image(id)? {
                return Ok(Some(why));
            }
        }
        let newest = self.manifest.revisions.first().map(|newest| newest.uuid);
        let under_way = self.manifest.in_progress.as_ref().map(|operation| operation.revision);
        let is_older = |id: &RevisionId| Some(*id) == newest || Some(*id) == under_way;
        for name in self.others.iter().filter(|name| !self.is_left_behind(**name)) {
            match name {
                FileName::Delta(id) if is_older(id) => {
                    return Ok(Some(format!(
                        "{name} says that revision {id} is an older one, but no newer one is in the manifest"
                    )));
                }
                name if *name == FileName::IMAGE && self.has_unlisted() => {
                    return Ok(Some(format!(
                        "there is {name} with other files, but the manifest has no revision"
                    )));
                }
                _ => {}
            }
        }
        match self.committed()? {
            None => {}
            committed => return Ok(committed),
        }
        match self.merged()? {
            None => self.read_through(),
            merged => Ok(merged),
        }
    }

    /// Whether there is a file that no list explains.
    fn has_unlisted(&self) -> bool {
        !self.others.is_subset(&self.removable)
    }

    /// Whether a file is listed as removable and nothing else shows that it is needed.
    fn is_left_behind(&self, name: FileName) -> bool {
        let newest = self.manifest.revisions.first();
        let has_newest = newest.is_some_and(|newest| !self.is_missing(newest.digests_file()));
        has_newest && self.removable.contains(&name)
    }

    /// By the manifest no revision needs this delta, but another one reads through to it.
    fn read_through(&self) -> Result<Option<String>> {
        let is_delta = |name: &&FileName| matches!(name, FileName::Delta(_));
        if !self.others.iter().any(|name| is_delta(&name)) {
            return Ok(None);
        }
        for revision in self.manifest.revisions.iter().skip(1) {
            let size = self.manifest.block_size;
            let delta = match Delta::open(self.storage, revision.uuid, size, revision.size_bytes) {
                Ok(delta) => delta,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            };
            let backing = delta.header().backing.map(|backing| backing.file);
            if let Some(backing) = backing.filter(|backing| self.others.contains(backing)) {
                return Ok(Some(format!(
                    "{} reads through to {backing}, which no revision of the manifest needs",
                    revision.file()
                )));
            }
        }
        Ok(None)
    }

    /// What the digests of an image prove that the manifest does not name.
    fn unknown_image(&self, id: RevisionId) -> Result<Option<String>> {
        let name = FileName::Digests(id, DigestsKind::Image);
        if !self.is_sound(id)? {
            return Ok(None);
        }
        let Some(number) = self.number(id) else {
            return Ok(Some(format!("{name} is of a revision that is not in the manifest")));
        };
        // Left over from the backup after it, or the newest one of an older copy of the files.
        let newest = self.manifest.revisions.first().map(|newest| newest.digests_file());
        let own = self.manifest.revisions.get(number).map(|own| [own.file(), own.digests_file()]);
        let needed = newest.into_iter().chain(own.into_iter().flatten());
        let missing: Vec<FileName> = needed.filter(|name| self.is_missing(*name)).collect();
        Ok(missing.first().map(|missing| {
            format!("{name} says that {id} is the newest revision, and {missing} is missing")
        }))
    }

    /// Whether the digests of the image of a revision are complete.
    fn is_sound(&self, id: RevisionId) -> Result<bool> {
        match DigestTable::open(self.storage, id, DigestsKind::Image) {
            Ok(table) => Ok(table.identity().block_size == self.manifest.block_size),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the delta of a revision can be read, with reference counts that are right.
    fn is_complete(&self, id: RevisionId, size_bytes: u64) -> Result<bool> {
        match Delta::open(self.storage, id, self.manifest.block_size, size_bytes) {
            Ok(delta) => Ok(!delta.header().dirty),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The manifest lists a backup or a removal as under way that has been committed since: only then are the digests
    /// of the image deleted that it replaces.
    fn committed(&self) -> Result<Option<String>> {
        let operation = self.manifest.in_progress.as_ref();
        let operation = operation.filter(|o| o.operation != Operation::Merge);
        let (Some(operation), Some(newest)) = (operation, self.manifest.revisions.first()) else {
            return Ok(None);
        };
        let (old, new) = (newest.digests_file(), operation.revision);
        // Without a complete overlay nothing can have been committed: then the digests are lost.
        let has_overlay = operation.operation != Operation::Backup
            || self.is_complete(newest.uuid, newest.size_bytes)?;
        let committed = self.is_missing(old) && self.is_sound(new)? && has_overlay;
        Ok(committed.then(|| {
            let what = match operation.operation {
                Operation::Backup => "backup",
                _ => "removal",
            };
            format!("the manifest says that the {what} of {new} is running, but {old} was already deleted")
        }))
    }

    /// A revision of the manifest has been deleted since, and the next older one reads through to another.
    fn merged(&self) -> Result<Option<String>> {
        let pairs = self.manifest.revisions.iter().zip(self.manifest.revisions.iter().skip(1));
        for (gone, older) in pairs.skip(1).filter(|(gone, _)| self.is_missing(gone.file())) {
            let size = self.manifest.block_size;
            let delta = match Delta::open(self.storage, older.uuid, size, older.size_bytes) {
                Ok(delta) => delta,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            };
            let backing = delta.header().backing.map(|backing| backing.file);
            let reads_on = backing.is_none_or(|file| !self.is_missing(file));
            if !older.is_standalone() && backing != Some(gone.file()) && reads_on {
                let backing = backing.map_or("no other file".to_owned(), |file| file.to_string());
                return Ok(Some(format!(
                    "{} is missing, and {}, which read through to it, now reads through to {backing}",
                    gone.file(),
                    older.file()
                )));
            }
        }
        Ok(None)
    }

    /// The revisions that have files.
    fn held(&self) -> BTreeSet<RevisionId> {
        let held = self.present.iter().filter_map(|name| match name {
            FileName::Delta(id) => {
                let digests = FileName::Digests(*id, DigestsKind::Delta);
                self.present.contains(&digests).then_some(*id)
            }
            FileName::Digests(id, DigestsKind::Image) => Some(*id),
            _ => None,
        });
        held.collect()
    }
}

/// The identity of `last.raw` now; `None` if there is no such file.
pub(crate) fn image_file(storage: &dyn Storage) -> Result<Option<ImageFile>> {
    let image = match storage.open(FileName::IMAGE, Access::Read) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        image => image?,
    };
    Ok(Some(ImageFile::new(image.modified()?)))
}

/// Whether `last.raw` is the file that it was when the manifest was written.
pub(crate) fn is_as_recorded(storage: &dyn Storage, manifest: &Manifest) -> Result<bool> {
    let (Some(recorded), Some(found)) = (&manifest.image_file, image_file(storage)?) else {
        return Ok(false);
    };
    Ok(is_same(recorded, &found))
}

/// A file system, or one that the archive was copied to and back, may keep only part of a time.
fn is_same(recorded: &ImageFile, found: &ImageFile) -> bool {
    const UNITS: [i128; 6] = [1, 100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000];
    let (recorded_ns, found_ns) =
        (recorded.modified.as_nanosecond(), found.modified.as_nanosecond());
    let is_cut = |unit: i128| {
        found_ns.rem_euclid(unit) == 0 && recorded_ns - recorded_ns.rem_euclid(unit) == found_ns
    };
    UNITS.into_iter().any(is_cut)
}

/// Checks that `last.raw` is the newest revision's, for a caller that is going to write to it. An image that somebody
/// has replaced, copied or touched is read in full; a few wrong blocks are rot and become findings in the manifest in
/// memory.
///
/// # Errors
/// [`Error::OtherMoment`] when the image is that of another revision, or something else.
pub(crate) fn check_image(
    storage: &Arc<dyn Storage>,
    manifest: &mut Manifest,
    observer: &dyn Observer,
) -> Result<()> {
    let Some(newest) = manifest.revisions.first() else { return Ok(()) };
    let Some(found) = image_file(&**storage)? else { return Ok(()) };
    // Another length is an error of its own.
    let is_known = manifest.image_file.as_ref().is_some_and(|recorded| is_same(recorded, &found));
    let len = storage.open(FileName::IMAGE, Access::Read)?.len()?;
    if is_known || len != newest.size_bytes {
        return Ok(());
    }
    let path = storage.path(FileName::IMAGE);
    let path = path.display();
    observer.event(&Event::Note(format!(
        "{path}: its time, {}, is not the one that the manifest has: it may have been copied or replaced, \
         and is compared with its digests in full",
        found.modified
    )));
    let size = manifest.block_size;
    // Wrong digests prove nothing; a caller that needs them reports the problem.
    let Some(mut wrong) = compare::wrong_blocks(&**storage, newest, size, observer)? else {
        return Ok(());
    };
    for range in &newest.findings.bad_blocks {
        wrong.clear(*range);
    }
    let count = wrong.bad_block_count();
    if count > 0 {
        if let Some(whose) = whose_image(storage, manifest, &wrong)? {
            let message = format!(
                "last.raw and manifest.json belong to different moments: in last.raw {count} blocks are not \
                 those of revision \
                 {}, which the manifest names as the newest, but {whose}; restore the last.raw that belongs to \
                 it, or run 'backy scrub', which records what is lost",
                newest.uuid
            );
            return Err(Error::OtherMoment { path: storage.folder(), message });
        }
        for range in wrong.bad_blocks.iter().take(MAX_NAMES) {
            let blocks = match range.count {
                1 => format!("block {} of revision {} is", range.first, newest.uuid),
                count => format!(
                    "{count} blocks from {} on of revision {} are",
                    range.first, newest.uuid
                ),
            };
            observer.event(&Event::Finding(format!(
                "{path}: {blocks} not what was backed up; lost for this revision and older ones that share \
                 them, unless the source still has them"
            )));
        }
    }
    if let Some(newest) = manifest.revisions.first_mut() {
        wrong.bad_blocks.into_iter().for_each(|range| newest.findings.add(range));
    }
    manifest.image_file = Some(found);
    Ok(())
}

/// Which revision the wrong blocks of the image belong to, if they are too many for rot or all belong to an older
/// one.
fn whose_image(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    wrong: &Findings,
) -> Result<Option<String>> {
    let blocks = wrong.bad_blocks.iter().flat_map(|range| range.first.0..range.end().0);
    let sample: Vec<BlockIndex> = blocks.take(SAMPLE_BLOCKS).map(BlockIndex).collect();
    let image = storage.open(FileName::IMAGE, Access::Read)?;
    let size = manifest.block_size;
    for (number, revision) in manifest.revisions.iter().enumerate().skip(1).take(SAMPLE_REVISIONS) {
        // Unreadable parts prove nothing.
        let Ok(chain) = judged(Chain::open(storage, manifest, number))? else { break };
        let (mut has_data, mut is_its) = (false, true);
        for &block in &sample {
            let extent = size.extent(block, revision.size_bytes);
            let mut bytes = vec![0; extent.len as usize];
            let read = judged(image.read_padded_at(&mut bytes, extent.offset))?;
            let located = judged(chain.locate(block, 1))?.unwrap_or_default();
            let entry = located.first().map(|located| located.entry);
            has_data |= entry.is_some_and(|entry| !entry.is_zero_block());
            is_its = read.is_ok() && entry.is_some_and(|entry| entry.matches(&bytes));
            if !is_its {
                break;
            }
        }
        if is_its && has_data {
            return Ok(Some(format!("those of revision {}", revision.uuid)));
        }
    }
    let (count, all) = (wrong.bad_block_count(), manifest.revisions.first());
    let all = all.map_or(0, |newest| size.count(newest.size_bytes));
    let too_many = count > ROT_BLOCKS && count > all / 4;
    Ok(too_many.then(|| "of no revision that the manifest names".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time that a file system has cut counts as the same; any other time does not.
    #[test]
    fn a_time_that_was_cut_is_the_same() {
        let file = |ns: i128| ImageFile::new(jiff::Timestamp::from_nanosecond(ns).unwrap());
        let recorded = file(1_700_000_001_123_456_789);
        for same in [
            1_700_000_001_123_456_789,
            1_700_000_001_123_456_700,
            1_700_000_001_123_456_000,
            1_700_000_001_123_000_000,
            1_700_000_001_000_000_000,
            1_700_000_000_000_000_000,
        ] {
            assert!(is_same(&recorded, &file(same)), "{same}");
        }
        for other in [
            1_700_000_001_123_456_788,
            1_700_000_001_123_456_790,
            1_700_000_001_120_000_000,
            1_700_000_002_000_000_000,
            1_699_999_998_000_000_000,
        ] {
            assert!(!is_same(&recorded, &file(other)), "{other}");
        }
    }
}
