//! An old archive as its files describe it: its revisions, and which data file has which of their old blocks.
//!
//! Files that cannot be understood are left out with a reason; the rest has no loops. Whether the old blocks
//! are correct is checked elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use super::Skipped;
use super::folder::OldFolder;
use super::unplaced::why_not_placed;
use crate::base::error::{Error, Result};
use crate::base::revision::RevisionId;
use crate::format::legacy::{
    CONFIG_LIMIT_BYTES, DEFAULT_OLD_BLOCK_BYTES, MAX_OLD_BLOCKS, OldConfig, OldKind, OldRevision,
    OldSum, REV_LIMIT_BYTES,
};

/// An old archive.
pub(super) struct OldArchive {
    pub folder: OldFolder,
    /// The old source.
    pub source: Option<String>,
    /// Size of an old block in bytes.
    pub block_bytes: u64,
    /// Each after its parent.
    pub files: Vec<DataFile>,
    /// What was left out, and why.
    pub skipped: Vec<Skipped>,
    /// Other notes, as sentences.
    pub notes: Vec<String>,
}

/// A data file, and the content of its `.rev`.
pub(super) struct DataFile {
    pub uuid: RevisionId,
    /// Without its checksums, which are in the slots. `None` for a data file without a usable `.rev`: it may
    /// serve as a parent, but is not a revision.
    pub revision: Option<OldRevision>,
    /// `None` if it is missing.
    pub file: Option<File>,
    pub len: u64,
    /// The file that it reads through to.
    pub parent: Option<usize>,
    /// The old blocks that it has or should have, in ascending order, which is also their order in the file.
    /// In a full one, the stored blocks are numbered without gaps.
    pub slots: Vec<Slot>,
    /// Place and length of an old block that is shorter than its place in the file.
    pub short: Option<(usize, u64)>,
}

/// An old block in a data file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub sum: OldSum,
    pub state: State,
}

impl Slot {
    /// A block marked as bad stays bad, whatever is found.
    fn recorded(sum: OldSum) -> Self {
        Slot { sum, state: if sum.md5.is_some() { State::Unread } else { State::Wrong } }
    }

    fn unproven(number: u64) -> Self {
        Slot { sum: OldSum { number, md5: None }, state: State::Unread }
    }
}

/// The state of an old block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not read yet.
    Unread,
    /// It has the recorded MD5.
    Right,
    /// No MD5 was recorded; the found one is recorded now.
    Unproven,
    /// It does not have the recorded MD5, is marked as bad, or cannot be read.
    Wrong,
}

/// Where an old block is: number of the file, place in it.
pub(super) type Place = (usize, usize);

impl OldArchive {
    /// Reads the description of the archive.
    ///
    /// # Errors
    /// If there is no such archive, or its folder cannot be read. A problem with a single file is not an error.
    pub(super) fn load(path: &Path) -> Result<Self> {
        let folder = OldFolder::open(path)?;
        let mut names = names(&folder)?;
        let mut notes = Vec::new();
        let config = read_config(&folder, &mut notes)?;
        let mut skipped = Vec::new();
        let revisions = read_revisions(&folder, &names.revisions, &mut skipped)?;
        let has_rev =
            |uuid: &RevisionId| names.revisions.binary_search(&format!("{uuid}.rev")).is_ok();
        for uuid in names.data.iter().filter(|uuid| !has_rev(uuid)) {
            let why = "it has no .rev, which would have its MD5s".to_owned();
            skipped.push(Skipped { what: uuid.to_string().into(), why });
        }
        names.data.extend(revisions.keys());
        let mut archive = OldArchive {
            folder,
            source: config.source,
            block_bytes: config.block_bytes.unwrap_or(DEFAULT_OLD_BLOCK_BYTES),
            files: Vec::new(),
            skipped,
            notes,
        };
        archive.arrange(revisions, names.data)?;
        archive.note_what_is_odd();
        Ok(archive)
    }

    /// Where old block `number` of the image that begins with file `file` is.
    pub(super) fn place(&self, file: usize, number: u64) -> Option<Place> {
        let mut next = Some(file);
        while let Some(at) = next {
            let data = self.files.get(at)?;
            if let Some(slot) = data.slot(number) {
                return Some((at, slot));
            }
            next = data.parent;
        }
        None
    }

    /// Length of the old block at a place in bytes; 0 past the end of the file.
    pub(super) fn len(&self, (file, slot): Place) -> u64 {
        let Some(data) = self.files.get(file) else { return 0 };
        match data.short {
            Some((short, len)) if short == slot => len,
            _ => self.room(data, slot),
        }
    }

    /// The same, judged only by the length of the file.
    fn room(&self, data: &DataFile, slot: usize) -> u64 {
        let offset = self.offset((0, slot));
        data.len.saturating_sub(offset).min(self.block_bytes)
    }

    /// Where the old block at a place begins in its file.
    pub(super) fn offset(&self, place: Place) -> u64 {
        (place.1 as u64).saturating_mul(self.block_bytes)
    }

    /// Size of the image of `blocks` old blocks that begins with file `file`. If its last old block is not
    /// stored, it counts as a whole one, and the second value is `false`.
    pub(super) fn size_bytes(&self, file: usize, blocks: u64) -> (u64, bool) {
        let Some(last) = blocks.checked_sub(1) else { return (0, true) };
        let len = self.place(file, last).map_or(0, |place| self.len(place));
        let last_bytes = if len == 0 { self.block_bytes } else { len };
        (last.saturating_mul(self.block_bytes).saturating_add(last_bytes), len > 0)
    }

    /// The state of the old block at a place.
    pub(super) fn state(&self, (file, slot): Place) -> State {
        let slot = self.files.get(file).and_then(|data| data.slots.get(slot));
        slot.map_or(State::Wrong, |slot| slot.state)
    }

    /// The data file that an image reads through to and that has no `.rev`.
    pub(super) fn base_without_rev(&self, file: usize) -> Option<RevisionId> {
        let mut data = self.files.get(file)?;
        while let Some(parent) = data.parent {
            data = self.files.get(parent)?;
        }
        data.revision.is_none().then_some(data.uuid)
    }

    /// The path of a data file, for messages.
    pub(super) fn path(&self, file: usize) -> PathBuf {
        let name = self.files.get(file).map(|data| data.uuid.to_string());
        self.folder.file_path(&name.unwrap_or_default())
    }

    /// Sorts the files, parents first, and leaves out those without one.
    fn arrange(
        &mut self,
        mut revisions: BTreeMap<RevisionId, OldRevision>,
        mut data: BTreeSet<RevisionId>,
    ) -> Result<()> {
        let mut slots = Slots::default();
        let mut place_of: BTreeMap<RevisionId, usize> = BTreeMap::new();
        // Data files without a revision come first: they have no parents.
        data.retain(|uuid| !revisions.contains_key(uuid));
        for uuid in data {
            let file = self.open_data(uuid, None, None, &mut slots)?;
            place_of.insert(uuid, self.files.len());
            self.files.push(file);
        }
        let mut ready = Vec::new();
        let mut children: BTreeMap<RevisionId, Vec<RevisionId>> = BTreeMap::new();
        for (&uuid, revision) in &revisions {
            match (revision.kind, revision.parent) {
                (OldKind::Full, _) => ready.push(uuid),
                (OldKind::Delta, Some(parent)) if place_of.contains_key(&parent) => {
                    ready.push(uuid);
                }
                (OldKind::Delta, Some(parent)) => children.entry(parent).or_default().push(uuid),
                (OldKind::Delta, None) => {}
            }
        }
        while !ready.is_empty() {
            let mut next = Vec::new();
            for uuid in ready {
                let Some(revision) = revisions.remove(&uuid) else { continue };
                let parent = revision.parent.filter(|_| revision.kind == OldKind::Delta);
                let parent = parent.and_then(|id| place_of.get(&id).copied());
                let file = self.open_data(uuid, Some(revision), parent, &mut slots)?;
                place_of.insert(uuid, self.files.len());
                self.files.push(file);
                next.extend(children.remove(&uuid).unwrap_or_default());
            }
            next.sort_unstable();
            ready = next;
        }
        for (uuid, why) in why_not_placed(&revisions) {
            self.skipped.push(Skipped { what: uuid.to_string().into(), why });
        }
        Ok(())
    }

    fn open_data(
        &mut self,
        uuid: RevisionId,
        mut revision: Option<OldRevision>,
        parent: Option<usize>,
        taken: &mut Slots,
    ) -> Result<DataFile> {
        let name = uuid.to_string();
        let opened = self.folder.open_file(&name)?;
        if let (Some(_), Err(flaw)) = (&revision, &opened) {
            self.note(&name, flaw);
        } else if let (Some(_), Ok(None)) = (&revision, &opened) {
            self.note(&name, "the data file is missing");
        }
        let file = opened.ok().flatten();
        let len = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |data| data.len());
        let stored = len.div_ceil(self.block_bytes).min(MAX_OLD_BLOCKS);
        let recorded = revision.as_ref().map_or(0, |revision| revision.sums.len() as u64);
        let implied = match &revision {
            Some(OldRevision { kind: OldKind::Delta, .. }) => 0,
            Some(revision) => stored.min(revision.blocks),
            None => stored,
        };
        taken.take(implied.max(recorded), &self.folder.path)?;
        let slots = match &mut revision {
            Some(revision) => take_slots(revision, stored),
            None => (0..stored).map(Slot::unproven).collect(),
        };
        Ok(DataFile { uuid, revision, file, len, parent, slots, short: None })
    }

    fn note(&mut self, name: &str, what: &str) {
        self.notes.push(format!("{}: {what}", self.folder.file_path(name).display()));
    }

    fn note_what_is_odd(&mut self) {
        let fulls = self.files.iter().filter(|data| data.is_full()).count();
        if fulls > 1 {
            self.notes.push(format!("{}: {fulls} full revisions", self.folder.path.display()));
        }
        let mut notes = Vec::new();
        for data in &self.files {
            let Some(revision) = &data.revision else { continue };
            let beyond = |slot: &&Slot| slot.sum.number >= revision.blocks;
            if let Some(slot) = data.slots.iter().find(beyond) {
                let (number, blocks) = (slot.sum.number, revision.blocks);
                let what = format!("it holds block {number} of an image of {blocks}; left out");
                notes.push((data.uuid, what));
            }
            let room = self.block_bytes.saturating_mul(data.slots.len() as u64);
            if data.len > room {
                let what = format!("found {} bytes, expected {room} at most", data.len);
                notes.push((data.uuid, what));
            }
        }
        for (uuid, what) in notes {
            self.note(&uuid.to_string(), &what);
        }
        self.note_last();
    }

    /// `last` should lead to the newest full revision.
    fn note_last(&mut self) {
        let Some(target) = self.folder.link("last") else { return };
        let data = self.files.iter().find(|data| data.uuid.to_string() == target);
        let what = match data {
            Some(data) if data.is_full() => return,
            Some(data) if data.revision.is_some() => "a delta",
            Some(_) => "a data file without .rev",
            None => "no revision",
        };
        self.note("last", &format!("it leads to {what}, {target:?}"));
    }
}

impl DataFile {
    /// Whether it is the raw image of a revision.
    pub(super) fn is_full(&self) -> bool {
        self.revision.as_ref().is_some_and(|revision| revision.kind == OldKind::Full)
    }

    /// The place of an old block.
    fn slot(&self, number: u64) -> Option<usize> {
        self.slots.binary_search_by_key(&number, |slot| slot.sum.number).ok()
    }
}

/// The meaning of the names in the folder.
#[derive(Default)]
struct Names {
    revisions: Vec<String>,
    data: BTreeSet<RevisionId>,
}

fn names(folder: &OldFolder) -> Result<Names> {
    let mut names = Names::default();
    let mut has_config = false;
    for name in folder.names()? {
        has_config |= name == "config";
        if name != "last.rev" && name.ends_with(".rev") {
            names.revisions.push(name);
        } else if let Ok(uuid) = name.parse() {
            names.data.insert(uuid);
        }
    }
    if names.revisions.is_empty() && !has_config {
        let message = "found neither config nor a file .rev, expected an archive of 2014";
        return Err(Error::Source { path: folder.path.clone(), message: message.to_owned() });
    }
    Ok(names)
}

/// An unusable config costs nothing: the MD5s show the same.
fn read_config(folder: &OldFolder, notes: &mut Vec<String>) -> Result<OldConfig> {
    let read = folder.read_whole("config", CONFIG_LIMIT_BYTES)?.and_then(|content| {
        OldConfig::parse(&content.ok_or_else(|| "the file is missing".to_owned())?)
    });
    let (config, why) = match read {
        Ok(config) if config.block_bytes.is_some() => return Ok(config),
        Ok(config) => (config, "it gives no chunksize".to_owned()),
        Err(why) => (OldConfig::default(), why),
    };
    let path = folder.file_path("config");
    notes.push(format!("{}: {why}; {DEFAULT_OLD_BLOCK_BYTES} is tried", path.display()));
    Ok(config)
}

/// Reads each `.rev`, and lists those that cannot be used.
fn read_revisions(
    folder: &OldFolder,
    names: &[String],
    skipped: &mut Vec<Skipped>,
) -> Result<BTreeMap<RevisionId, OldRevision>> {
    let mut revisions = BTreeMap::new();
    let mut sums = Slots::default();
    for name in names {
        let read = folder.read_whole(name, REV_LIMIT_BYTES)?.and_then(|content| {
            let revision =
                OldRevision::parse(&content.ok_or_else(|| "it was deleted meanwhile".to_owned())?)?;
            let expected = name.trim_end_matches(".rev");
            if revision.uuid.to_string() != expected {
                return Err(format!("uuid: found {}, expected {expected:?}", revision.uuid));
            }
            Ok(revision)
        });
        match read {
            Ok(revision) => {
                sums.take(revision.sums.len() as u64, &folder.path)?;
                revisions.insert(revision.uuid, revision);
            }
            Err(why) => skipped.push(Skipped { what: name.as_str().into(), why }),
        }
    }
    Ok(revisions)
}

/// Counts old blocks: files must not claim more memory than a real archive needs.
#[derive(Default)]
struct Slots(u64);

impl Slots {
    /// # Errors
    /// [`Error::Source`] if there are too many.
    fn take(&mut self, count: u64, folder: &Path) -> Result<()> {
        self.0 = self.0.saturating_add(count);
        if self.0 <= MAX_OLD_BLOCKS {
            return Ok(());
        }
        let message = format!(
            "found more than {MAX_OLD_BLOCKS} old blocks in its data files and .rev, expected at most that many"
        );
        Err(Error::Source { path: folder.to_owned(), message })
    }
}

/// Takes the old blocks of a data file out of its `.rev`. For a full one, first the stored ones without gaps,
/// as many as it has, then those that are only recorded: a number alone must not cost memory.
fn take_slots(revision: &mut OldRevision, stored: u64) -> Vec<Slot> {
    let sums = std::mem::take(&mut revision.sums);
    if revision.kind == OldKind::Delta {
        return sums.into_iter().map(Slot::recorded).collect();
    }
    let stored = revision.blocks.min(stored);
    let mut slots: Vec<Slot> = (0..stored).map(Slot::unproven).collect();
    for sum in sums.into_iter().filter(|sum| sum.number < revision.blocks) {
        match usize::try_from(sum.number).ok().and_then(|at| slots.get_mut(at)) {
            Some(slot) if sum.number < stored => *slot = Slot::recorded(sum),
            _ => slots.push(Slot::recorded(sum)),
        }
    }
    slots
}
