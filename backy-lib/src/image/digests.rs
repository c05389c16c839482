//! Digest files: a table that is read and written in runs, and never held as a whole.

use std::sync::{Mutex, PoisonError};

use crate::base::digest::{DIGEST_BYTES, TableEntry};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::revision::RevisionId;
use crate::base::units::BlockIndex;
use crate::format::digests::{DigestsHeader, HEADER_BYTES, Identity, entry_offset};
use crate::storage::{Access, DigestsKind, FileName, Storage, StorageFile};

/// The most parts of a table from which the number of data blocks is estimated: 4 MiB of it.
const ESTIMATE_PARTS: u64 = 32;

/// A digest file that is open for reading.
pub struct DigestTable {
    file: Box<dyn StorageFile>,
    identity: Identity,
    blocks: u64,
    /// The stretch of the file that was last found to have data. Entries there are read whatever is written since.
    stretch: Mutex<Extent>,
}

impl DigestTable {
    /// Opens the digest file of a revision and checks that its header names that revision.
    pub fn open(storage: &dyn Storage, revision: RevisionId, kind: DigestsKind) -> Result<Self> {
        let file = storage.open_among_many(FileName::Digests(revision, kind))?;
        let mut header = vec![0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0)?;
        let header = DigestsHeader::parse(&header).map_err(Error::flawed(file.path()))?;
        let found = (header.identity.uuid, header.kind);
        if found != (revision, kind) {
            let name = FileName::Digests(found.0, found.1);
            return Err(Error::damaged(
                file.path(),
                "header",
                format!("that of {name}"),
                "its own",
            ));
        }
        let blocks = header.identity.block_size.count(header.identity.size_bytes);
        let (len, expected) = (file.final_len()?, entry_offset(BlockIndex(blocks)));
        if len != expected {
            return Err(Error::damaged(file.path(), "length", len, format!("{expected} bytes")));
        }
        let stretch = Mutex::new(Extent::new(0, 0));
        Ok(DigestTable { file, identity: header.identity, blocks, stretch })
    }

    /// What the header says about the revision.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The entries of `count` blocks from `first` on, fewer at the end of the table.
    pub fn read(&self, first: BlockIndex, count: u64) -> Result<Vec<TableEntry>> {
        let count = count.min(self.blocks.saturating_sub(first.0));
        let mut raw = vec![0; count as usize * DIGEST_BYTES];
        self.file.read_exact_at(&mut raw, entry_offset(first))?;
        let (entries, _) = raw.as_chunks::<DIGEST_BYTES>();
        Ok(entries.iter().map(|raw| TableEntry(*raw)).collect())
    }

    /// Bytes that the file takes on disk; `None` if the file system does not report that.
    pub(crate) fn taken_bytes(&self) -> Result<Option<u64>> {
        self.file.taken_bytes()
    }

    /// The first block at or after `from` that is not zero.
    pub fn next_data_block(&self, from: BlockIndex) -> Result<Option<BlockIndex>> {
        let mut next = from;
        // The kernel takes longer to find the end of a stretch the more extents the stretch has.
        let stretch = || self.stretch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut data = *stretch();
        let mut count = limits().search_entries;
        // Holes of the file first, which are whole pages; then the entries themselves, more at a time the longer there
        // is nothing but zeros.
        loop {
            let at = entry_offset(next);
            if !(data.offset <= at && at < data.end()) {
                let Some(found) = self.file.next_data(at)? else { return Ok(None) };
                let in_table = found.offset.saturating_sub(HEADER_BYTES as u64);
                next = next.max(BlockIndex(in_table / DIGEST_BYTES as u64));
                data = found;
                *stretch() = data;
            }
            let entries = self.read(next, count)?;
            if entries.is_empty() {
                return Ok(None);
            }
            if let Some(at) = entries.iter().position(|entry| !entry.is_zero_block()) {
                return Ok(Some(next.plus(at as u64)));
            }
            next = next.plus(entries.len() as u64);
            count = (count * 2).min(limits().walk_blocks);
        }
    }

    /// How many blocks are not zero: exactly, or for a long table an estimate from parts that are evenly spread over
    /// it, so that the cost is bounded.
    pub(crate) fn estimate_data_blocks(&self) -> Result<u64> {
        let parts = self.blocks.div_ceil(limits().walk_blocks).max(1);
        let step = parts.div_ceil(ESTIMATE_PARTS);
        let (mut found, mut looked_at) = (0, 0);
        for part in (0..parts).step_by(step as usize) {
            let entries =
                self.read(BlockIndex(part * limits().walk_blocks), limits().walk_blocks)?;
            looked_at += entries.len() as u64;
            found += entries.iter().filter(|entry| !entry.is_zero_block()).count() as u64;
        }
        let share = u128::from(found) * u128::from(self.blocks);
        Ok(share.checked_div(u128::from(looked_at)).map_or(0, |blocks| blocks as u64))
    }
}

/// A digest file that is being created, or extended.
///
/// A new one is not readable before [`DigestWriter::finish`], because its header is written last.
pub struct DigestWriter {
    file: Box<dyn StorageFile>,
    name: FileName,
    run_first: BlockIndex,
    run: Vec<u8>,
    /// How many entries were taken.
    entries: u64,
}

impl DigestWriter {
    /// Creates the file, for so many blocks.
    pub fn create(
        storage: &dyn Storage,
        (revision, kind): (RevisionId, DigestsKind),
        blocks: u64,
    ) -> Result<Self> {
        let name = FileName::Digests(revision, kind);
        Self::begin(storage.create(name)?, name, blocks)
    }

    /// Creates the digest file of an image as a clone of another one's: only entries that differ need be entered, by
    /// [`DigestWriter::replace`]. `None`, and no file, if the file system cannot.
    pub fn create_like(
        storage: &dyn Storage,
        like: RevisionId,
        revision: RevisionId,
        blocks: u64,
    ) -> Result<Option<Self>> {
        let [from, name] = [like, revision].map(|id| FileName::Digests(id, DigestsKind::Image));
        // Without its header, as it is not readable yet.
        let clone = storage.clone_file(from, name, HEADER_BYTES as u64)?;
        clone.map(|file| Self::begin(file, name, blocks)).transpose()
    }

    fn begin(file: Box<dyn StorageFile>, name: FileName, blocks: u64) -> Result<Self> {
        // First of all: otherwise XFS allocates ahead in a growing file, and omitted entries are not holes.
        file.set_len(entry_offset(BlockIndex(blocks)))?;
        let run = Vec::with_capacity(limits().run_entries * DIGEST_BYTES);
        Ok(DigestWriter { file, name, run_first: BlockIndex(0), run, entries: 0 })
    }

    /// Opens the file of a delta that blocks are being appended to.
    pub fn reopen(storage: &dyn Storage, revision: RevisionId) -> Result<Self> {
        // Checks that it is the right file.
        DigestTable::open(storage, revision, DigestsKind::Delta)?;
        let name = FileName::Digests(revision, DigestsKind::Delta);
        let file = storage.open(name, Access::Write)?;
        Ok(DigestWriter { file, name, run_first: BlockIndex(0), run: Vec::new(), entries: 0 })
    }

    /// Makes the entered digests durable.
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.file.sync()
    }

    /// Enters a block. Blocks come in ascending order; omitted blocks and zero blocks stay holes.
    pub fn push(&mut self, block: BlockIndex, entry: TableEntry) -> Result<()> {
        if entry.is_zero_block() { Ok(()) } else { self.replace(block, entry) }
    }

    /// The same where the file may have another entry.
    pub fn replace(&mut self, block: BlockIndex, entry: TableEntry) -> Result<()> {
        let entries = self.run.len() / DIGEST_BYTES;
        if self.run_first.plus(entries as u64) != block || entries == limits().run_entries {
            self.flush()?;
            self.run_first = block;
        }
        self.run.extend(entry.0);
        self.entries += 1;
        Ok(())
    }

    /// Writes the header and syncs. Returns the bytes that the file takes on disk: if the file system does not report
    /// them, those of the header and the entries.
    pub fn finish(mut self, header: &DigestsHeader) -> Result<u64> {
        debug_assert_eq!(self.name, FileName::Digests(header.identity.uuid, header.kind));
        self.flush()?;
        let path = self.file.path();
        let encoded = header.encode().map_err(|message| Error::Specification { message })?;
        let blocks = header.identity.block_size.count(header.identity.size_bytes);
        let len = entry_offset(BlockIndex(blocks));
        let found = self.file.len()?;
        if found != len {
            return Err(Error::damaged(path, "length", found, format!("{len} bytes")));
        }
        self.file.write_at(&encoded, 0)?;
        self.file.sync()?;
        Ok(self
            .file
            .taken_bytes()?
            .unwrap_or(HEADER_BYTES as u64 + self.entries * DIGEST_BYTES as u64))
    }

    fn flush(&mut self) -> Result<()> {
        if !self.run.is_empty() {
            self.file.write_at(&self.run, entry_offset(self.run_first))?;
            self.run.clear();
        }
        Ok(())
    }
}

/// A digest file that is rebuilt in its place, because it is damaged.
pub struct DigestRewriter {
    file: Box<dyn StorageFile>,
    header: Vec<u8>,
    len: u64,
}

/// Opens the digest file of a revision, whatever it contains, or creates it.
pub fn rewrite(storage: &dyn Storage, header: &DigestsHeader) -> Result<DigestRewriter> {
    let name = FileName::Digests(header.identity.uuid, header.kind);
    let file = match storage.open(name, Access::Write) {
        Err(error) if error.kind() == ErrorKind::NotFound => storage.create(name)?,
        other => other?,
    };
    let encoded = header.encode().map_err(|message| Error::Specification { message })?;
    let blocks = header.identity.block_size.count(header.identity.size_bytes);
    Ok(DigestRewriter { file, header: encoded, len: entry_offset(BlockIndex(blocks)) })
}

impl DigestRewriter {
    /// Enters a block, unless that entry is already there.
    pub fn set(&mut self, block: BlockIndex, entry: TableEntry) -> Result<()> {
        let mut found = [0; DIGEST_BYTES];
        self.file.read_padded_at(&mut found, entry_offset(block))?;
        if found == entry.0 { Ok(()) } else { self.file.write_at(&entry.0, entry_offset(block)) }
    }

    /// Writes the header, gives the table its length and syncs.
    pub fn finish(self) -> Result<()> {
        self.file.set_len(self.len)?;
        self.file.write_at(&self.header, 0)?;
        self.file.sync()
    }
}
