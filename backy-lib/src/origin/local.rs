//! An archive in a folder of this machine as an origin.
//!
//! Reads without a lock, as every reader does: a revision that was opened stays readable while writers change the
//! archive. Differences between two revisions come from their digest tables, and stretches in which neither has data
//! are skipped without looking at each block.

use std::sync::Arc;

use rustix::io::Errno;

use super::runs::Runs;
use super::{Fetched, Listing, Offered, Origin, TablePiece};
use crate::archive::Archive;
use crate::base::error::{Error, Result};
use crate::base::limits::limits;
use crate::base::revision::RevisionId;
use crate::base::units::{BlockIndex, BlockSize};
use crate::image::reader::{ReadCache, RevisionReader};

/// Memory for places and blocks that were looked up lately.
const CACHE_BYTES: u64 = 4 << 20;

/// A revision and the one that it is compared with.
const OPEN_READERS: usize = 2;

/// Bytes to read at a time.
const READ_BYTES: u64 = 1 << 20;

/// The most blocks to compare for one piece, so that nobody waits long for an answer.
const COMPARED_BLOCKS: u64 = 1 << 20;

/// An archive that can be read here.
pub struct LocalOrigin {
    archive: Archive,
    cache: Arc<ReadCache>,
    /// Those used last, the latest at the end.
    readers: Vec<Arc<RevisionReader>>,
}

impl LocalOrigin {
    /// Takes no lock; the archive may change meanwhile.
    pub fn new(archive: Archive) -> Self {
        LocalOrigin { archive, cache: ReadCache::new(CACHE_BYTES), readers: Vec::new() }
    }

    /// A revision, open for reading. The digests of all its blocks give its digest.
    fn reader(&mut self, id: RevisionId) -> Result<Arc<RevisionReader>> {
        let open = self.readers.iter().position(|reader| reader.revision().uuid == id);
        let reader = match open {
            Some(at) => self.readers.remove(at),
            None => Arc::new(self.archive.open_reader(id, &self.cache)?),
        };
        if let Some(doubt) = reader.doubt() {
            return Err(doubtful(&doubt, &self.archive));
        }
        if self.readers.len() >= OPEN_READERS {
            self.readers.remove(0);
        }
        self.readers.push(Arc::clone(&reader));
        Ok(reader)
    }

    /// Checks that revisions still exist.
    fn check_there(&mut self, ids: &[RevisionId]) -> Result<()> {
        (self.archive, _) = self.archive.reload()?;
        self.archive.check_there(ids)
    }

    /// The error of reading revisions; that they are gone, if they are.
    fn explained(&mut self, error: Error, ids: &[RevisionId]) -> Error {
        match error.is_loss() {
            true => self.check_there(ids).err().unwrap_or(error),
            false => error,
        }
    }

    /// Reads one block, if it can be read and is right.
    fn fetch_one(
        &mut self,
        reader: &RevisionReader,
        block: BlockIndex,
        buffer: &mut Vec<u8>,
    ) -> Result<bool> {
        let size = self.archive.manifest().block_size;
        let extent = size.extent(block, reader.size_bytes());
        buffer.resize(extent.len as usize, 0);
        match reader.read_at(buffer, extent.offset) {
            Ok(_) => Ok(true),
            Err(error) if is_bad(&error) => {
                // The same error comes of a revision that has been deleted, or of a folder that is gone.
                self.check_there(&[reader.revision().uuid])?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

impl Origin for LocalOrigin {
    fn name(&self) -> String {
        self.archive.folder().display().to_string()
    }

    fn listing(&mut self) -> Result<Listing> {
        (self.archive, _) = self.archive.reload()?;
        let manifest = self.archive.manifest();
        if manifest.is_undo() {
            let message =
                "it has only what a restore overwrote, and no whole revision; name another archive";
            return Err(Error::Source { path: self.archive.folder(), message: message.to_owned() });
        }
        let revisions = manifest.revisions.iter().map(Offered::from).collect();
        Ok(Listing { block_size: manifest.block_size, revisions })
    }

    fn table(
        &mut self,
        revision: RevisionId,
        since: Option<RevisionId>,
        from: BlockIndex,
    ) -> Result<TablePiece> {
        let before = since.map(|since| self.reader(since));
        let opened = before.transpose().and_then(|before| Ok((before, self.reader(revision)?)));
        let size = self.archive.manifest().block_size;
        let compared =
            opened.and_then(|(before, reader)| compare(&reader, before.as_deref(), from, size));
        let ids: Vec<RevisionId> = since.into_iter().chain([revision]).collect();
        compared.map_err(|error| self.explained(error, &ids))
    }

    fn fetch(
        &mut self,
        revision: RevisionId,
        wanted: &[BlockIndex],
        take: &mut dyn FnMut(BlockIndex, Fetched<'_>) -> Result<()>,
    ) -> Result<()> {
        let reader = self.reader(revision).map_err(|error| self.explained(error, &[revision]))?;
        let (size, size_bytes) = (self.archive.manifest().block_size, reader.size_bytes());
        let piece_blocks = (READ_BYTES / size.bytes()).max(1) as usize;
        let mut buffer = Vec::new();
        let runs = wanted.chunk_by(|a, b| a.plus(1) == *b);
        for piece in runs.flat_map(|run| run.chunks(piece_blocks)) {
            let (Some(&first), Some(&last)) = (piece.first(), piece.last()) else { continue };
            let (offset, end) = (size.offset(first), size.extent(last, size_bytes).end());
            if end <= offset {
                return Err(past_the_end(&reader, last, size));
            }
            buffer.resize((end - offset) as usize, 0);
            match reader.read_at(&mut buffer, offset) {
                Ok(_) => {
                    for (block, bytes) in piece.iter().zip(buffer.chunks(size.len())) {
                        take(*block, Fetched::Data(bytes))?;
                    }
                }
                Err(error) if error.is_loss() => {
                    for &block in piece {
                        match self.fetch_one(&reader, block, &mut buffer)? {
                            true => take(block, Fetched::Data(&buffer))?,
                            false => take(block, Fetched::Bad)?,
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether only a block is lost, as opposed to the way to all of them.
fn is_bad(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => source.raw_os_error() == Some(Errno::IO.raw_os_error()),
        error => error.is_damage(),
    }
}

fn doubtful(doubt: &Error, archive: &Archive) -> Error {
    let flaw = match doubt {
        Error::Damaged { flaw, .. } => flaw.clone(),
        other => other.to_string(),
    };
    let flaw = format!("{flaw}; it cannot be copied; 'backy scrub' of this archive may repair it");
    Error::Damaged { path: archive.folder(), flaw, costs: None }
}

fn past_the_end(reader: &RevisionReader, block: BlockIndex, size: BlockSize) -> Error {
    let (id, blocks) = (reader.revision().uuid, size.count(reader.size_bytes()));
    let message = format!("revision {id}: asked for block {block}, expected one of its {blocks}");
    Error::Specification { message }
}

/// The piece from block `from` on.
fn compare(
    new: &RevisionReader,
    old: Option<&RevisionReader>,
    from: BlockIndex,
    size: BlockSize,
) -> Result<TablePiece> {
    let end = BlockIndex(size.count(new.size_bytes()));
    let same_end =
        old.map_or(BlockIndex(0), |old| size.same_length_end(new.size_bytes(), old.size_bytes()));
    let mut runs = Runs::default();
    let mut next = from;
    let mut left = COMPARED_BLOCKS;
    while next < end && left > 0 && runs.left_entries() > 0 {
        let old_data = old.map(|old| old.next_data_block(next)).transpose()?.flatten();
        let data = new.next_data_block(next)?.into_iter().chain(old_data).min();
        let data = data.unwrap_or(end).min(end);
        if next < data {
            let first = next.max(same_end);
            runs.push_zeros(first, data.0.saturating_sub(first.0));
            next = data;
            continue;
        }
        let count = limits().window_blocks.min(end.0 - next.0).min(runs.left_entries());
        let entries = new.entries(next, count)?;
        let before = old.map_or(Ok(Vec::new()), |old| old.entries(next, count))?;
        for (at, entry) in entries.iter().enumerate() {
            let block = next.plus(at as u64);
            if block >= same_end || before.get(at) != Some(entry) {
                runs.push(block, *entry);
            }
        }
        next = next.plus(entries.len().max(1) as u64);
        left = left.saturating_sub(count);
    }
    Ok(TablePiece { runs: runs.finish(), next })
}
