//! Reads an archive of 2014 as it is: its revisions and their old blocks, with restores.
//!
//! For programs that still have such archives, which are only read; [`crate::ArchiveWriter::import`] converts
//! them. An old block is returned if it has its recorded MD5. A restore checks the whole image before it
//! writes.

use std::fmt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use md5::{Digest, Md5};

use super::Skipped;
use super::check::settle_short_blocks;
use super::old::{OldArchive, Slot, State};
use crate::base::digest::is_zero;
use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::base::progress::{self, Observer, Phase};
use crate::base::revision::RevisionId;
use crate::format::legacy::{Md5Sum, OldKind};
use crate::storage::dir::read_full;
use crate::target::safety::Guard;
use crate::target::{FileTarget, Target};

/// An archive of 2014, open for reading.
pub struct OldReader {
    old: OldArchive,
    entries: Vec<OldEntry>,
}

/// A revision of 2014.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldEntry {
    /// Its name, also that of its data file.
    pub uuid: RevisionId,
    /// When it was made.
    pub time: Timestamp,
    /// MD5 of its image, if one is recorded.
    pub checksum: Option<Md5Sum>,
    /// The newer revision that a delta reads through to.
    pub parent: Option<RevisionId>,
    /// What its data file is.
    pub kind: OldKind,
    /// How many old blocks its image has.
    pub blocks: u64,
    /// Size of its image in bytes.
    pub size_bytes: u64,
    /// The numbers of the old blocks that are, or should be, in its own data file, ascending.
    pub own_blocks: Vec<u64>,
    /// The index of its file.
    file: usize,
}

/// The entry of a `.rev` for one old block, as written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldRecord {
    /// The MD5 of the block.
    Md5(Md5Sum),
    /// A mark that the block is bad, with its recorded MD5, if any.
    Bad(Option<Md5Sum>),
}

impl fmt::Display for OldRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OldRecord::Md5(md5) => md5.fmt(f),
            OldRecord::Bad(Some(md5)) => write!(f, "bad:{md5}"),
            OldRecord::Bad(None) => f.write_str("bad:"),
        }
    }
}

impl OldReader {
    /// Opens the archive of 2014 in a folder.
    ///
    /// # Errors
    /// [`Error::Source`] if there is none, or if it claims too much. A file that cannot be used is not an
    /// error: see [`OldReader::skipped`].
    pub fn open(folder: &Path, observer: &dyn Observer) -> Result<Self> {
        let mut old = OldArchive::load(folder)?;
        settle_short_blocks(&mut old, observer)?;
        let mut entries: Vec<OldEntry> =
            (0..old.files.len()).filter_map(|file| entry(&old, file)).collect();
        // Parents have lower numbers than their children, and are newer.
        entries.sort_by_key(|entry| (entry.time, std::cmp::Reverse(entry.file)));
        Ok(OldReader { old, entries })
    }

    /// The archive's folder.
    pub fn folder(&self) -> &Path {
        &self.old.folder.path
    }

    /// The old source as written; a relative path starts at the archive's folder.
    pub fn source(&self) -> Option<&str> {
        self.old.source.as_deref()
    }

    /// Size of an old block in bytes.
    pub fn block_bytes(&self) -> u64 {
        self.old.block_bytes
    }

    /// The revisions, oldest first.
    pub fn entries(&self) -> &[OldEntry] {
        &self.entries
    }

    /// What cannot be used, and why.
    pub fn skipped(&self) -> &[Skipped] {
        &self.old.skipped
    }

    /// The recorded entries for the old blocks in a revision's own data file, by number, ascending.
    ///
    /// # Errors
    /// [`Error::NoSuchRevision`] if it does not exist.
    pub fn records(&self, uuid: RevisionId) -> Result<Vec<(u64, OldRecord)>> {
        let entry = self.entry(uuid)?;
        let Some(data) = self.old.files.get(entry.file) else { return Ok(Vec::new()) };
        let marks = data.revision.as_ref().map_or(&[][..], |revision| &revision.marks);
        let record = |slot: &Slot| match (slot.state, slot.sum.md5) {
            // Nothing is recorded for these: the MD5 is the one that was found.
            (State::Unproven, _) => None,
            (State::Wrong, None) => {
                let at = marks.binary_search_by_key(&slot.sum.number, |(number, _)| *number);
                Some(OldRecord::Bad(at.ok().and_then(|at| marks.get(at)).map(|(_, md5)| *md5)))
            }
            (_, md5) => md5.map(OldRecord::Md5),
        };
        let of = |slot: &Slot| record(slot).map(|record| (slot.sum.number, record));
        let slots = data.slots.iter().filter(|slot| slot.sum.number < entry.blocks);
        Ok(slots.filter_map(of).collect())
    }

    /// The old block with this number in a revision's image.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it does not have its recorded MD5, has none, or is marked as bad.
    pub fn read_block(&self, uuid: RevisionId, number: u64) -> Result<Vec<u8>> {
        let entry = self.entry(uuid)?;
        if number >= entry.blocks {
            let message = format!(
                "{}: revision {uuid} has no block {number}, only {} blocks",
                self.folder().display(),
                entry.blocks
            );
            return Err(Error::Specification { message });
        }
        let (bytes, is_proven) = self.read(entry, number)?;
        if is_proven {
            return Ok(bytes);
        }
        let place = format!("block {number}");
        Err(Error::damaged(self.file_path(uuid), place, "no MD5 recorded for it", "one"))
    }

    /// Writes a revision to the file or device at `path`, after the safety checks of a restore; returns its size.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a block or the image differs from the record. Nothing was written then.
    pub fn restore(
        &self,
        uuid: RevisionId,
        path: &Path,
        force: bool,
        observer: &dyn Observer,
    ) -> Result<u64> {
        let entry = self.entry(uuid)?;
        let size_bytes = entry.size_bytes;
        let source = self.source().map(|source| self.folder().join(source));
        let source = source.as_deref();
        let guard = Guard { archive: self.folder(), source, size_bytes, force, observer };
        let found = guard.check(path)?;
        self.check_image(entry, observer)?;
        let target = found.map_or_else(|| FileTarget::create(path), Ok)?;
        target.prepare(size_bytes)?;
        let counters = progress::begin_work(observer, Phase::Restore, size_bytes)?;
        for number in 0..entry.blocks {
            progress::check(observer)?;
            let (bytes, _) = self.read(entry, number)?;
            let extent = Extent::new(number * self.block_bytes(), bytes.len() as u64);
            if !is_zero(&bytes) {
                target.write_at(&bytes, extent.offset)?;
            } else if !target.is_new() {
                target.clear(extent)?;
            }
            counters.add(extent.len);
        }
        target.finish(size_bytes)?;
        Ok(size_bytes)
    }

    fn entry(&self, uuid: RevisionId) -> Result<&OldEntry> {
        let entry = self.entries.iter().find(|entry| entry.uuid == uuid);
        entry.ok_or_else(|| Error::NoSuchRevision {
            message: format!("{}: there is no revision {uuid}", self.folder().display()),
        })
    }

    fn file_path(&self, uuid: RevisionId) -> PathBuf {
        self.old.folder.file_path(&uuid.to_string())
    }

    /// Reads a whole image and checks the MD5 of every old block and of the image.
    fn check_image(&self, entry: &OldEntry, observer: &dyn Observer) -> Result<()> {
        let counters = progress::begin_work(observer, Phase::CheckOldArchive, entry.size_bytes)?;
        let mut whole = Md5::new();
        let mut unproven = None;
        for number in 0..entry.blocks {
            progress::check(observer)?;
            let (bytes, is_proven) = self.read(entry, number)?;
            unproven = unproven.or((!is_proven).then_some(number));
            whole.update(&bytes);
            counters.add(bytes.len() as u64);
        }
        let path = self.file_path(entry.uuid);
        match (entry.checksum, unproven, Md5Sum(whole.finalize().into())) {
            (Some(expected), _, found) if found != expected => {
                Err(Error::damaged(path, "image", format!("the MD5 {found}"), expected))
            }
            (None, Some(number), _) => {
                let found = format!("no MD5 of it, nor of block {number}");
                Err(Error::damaged(path, "image", found, "one of them"))
            }
            _ => Ok(()),
        }
    }

    /// An old block, and whether it is proven correct; a block known to be wrong is an error.
    fn read(&self, entry: &OldEntry, number: u64) -> Result<(Vec<u8>, bool)> {
        let old = &self.old;
        let wrong = |path: PathBuf, found: &str, expected: String| {
            Err(Error::damaged(path, format!("block {number}"), found, expected))
        };
        let place = old.place(entry.file, number).filter(|place| old.len(*place) > 0);
        let Some(place) = place else {
            let expected = "one in it or in what it reads through to".to_owned();
            return wrong(self.file_path(entry.uuid), "none", expected);
        };
        let (path, len) = (old.path(place.0), old.len(place));
        let data = old.files.get(place.0);
        let (Some(file), Some(slot)) =
            (data.and_then(|data| data.file.as_ref()), data.and_then(|d| d.slots.get(place.1)))
        else {
            return wrong(path, "no file", "a file".to_owned());
        };
        if slot.state == State::Wrong {
            return wrong(path, "a mark that it is bad", "its MD5".to_owned());
        }
        let is_last = number + 1 == entry.blocks;
        if !is_last && len != old.block_bytes {
            return wrong(path, &format!("{len} bytes"), format!("{}", old.block_bytes));
        }
        let mut bytes = vec![0; len as usize];
        let action = format!("read block {number}");
        let found =
            read_full(file, &mut bytes, old.offset(place)).map_err(Error::io(&path, action))?;
        let md5 = Md5Sum(Md5::digest(bytes.get(..found).unwrap_or_default()).into());
        match slot.sum.md5 {
            Some(expected) if expected != md5 => {
                wrong(path, &format!("the MD5 {md5}"), expected.to_string())
            }
            _ if found as u64 != len => wrong(path, &format!("{found} bytes"), format!("{len}")),
            recorded => Ok((bytes, recorded.is_some())),
        }
    }
}

fn entry(old: &OldArchive, file: usize) -> Option<OldEntry> {
    let data = old.files.get(file)?;
    let revision = data.revision.as_ref()?;
    Some(OldEntry {
        uuid: revision.uuid,
        time: revision.time,
        checksum: revision.checksum,
        parent: revision.parent,
        kind: revision.kind,
        blocks: revision.blocks,
        size_bytes: old.size_bytes(file, revision.blocks).0,
        own_blocks: data
            .slots
            .iter()
            .map(|slot| slot.sum.number)
            .filter(|number| *number < revision.blocks)
            .collect(),
        file,
    })
}
