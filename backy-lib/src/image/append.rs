//! Appending blocks to a delta and to its digest file.
//!
//! A backup fills its overlay and a merge extends a delta in the same order: the content of blocks, synced; then the
//! entries that refer to it, synced; at the end the reference counts, and last the header. So a reader, including
//! QEMU, sees each block whole or not at all, and a crash leaves at most content that nothing refers to.
//!
//! When others already read a delta ([`DeltaExtension`]), the digest of a block is durable before the block's entry.
//! The digest file of a new delta ([`NewDelta`]) has no header before everything is in place, so nobody reads it and
//! one sync at the end is enough.
//!
//! The caller decides what is appended, and what commits it.

use crate::base::block_ranges::{BlockRange, Ranges};
use crate::base::canary::{Bug, planted};
use crate::base::digest::TableEntry;
use crate::base::error::Result;
use crate::base::limits::limits;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::digests::DigestsHeader;
use crate::format::manifest::Revision;
use crate::format::qcow2::Backing;
use crate::image::delta::{Delta, DeltaWriter, OldBlock};
use crate::image::digests::DigestWriter;
use crate::storage::{DigestsKind, Storage};

/// The most ranges in [`Appended::blocks`].
const MAX_RANGES: usize = 1024;

/// The common part of both ways.
struct Appender {
    writer: DeltaWriter,
    digests: DigestWriter,
    /// Whether somebody may already read the digest file.
    has_readers: bool,
    batch: Vec<OldBlock>,
    batch_bytes: usize,
    bad_blocks: Vec<BlockIndex>,
}

impl Appender {
    fn new(writer: DeltaWriter, digests: DigestWriter, has_readers: bool) -> Self {
        let (batch, bad_blocks) = (Vec::new(), Vec::new());
        Appender { writer, digests, has_readers, batch, batch_bytes: 0, bad_blocks }
    }

    fn push(&mut self, block: OldBlock, entry: TableEntry, bad: bool) -> Result<()> {
        self.digests.push(block.block, entry)?;
        if bad && !planted(Bug::LostFindings) {
            self.bad_blocks.push(block.block);
        }
        self.batch_bytes += block.content.bytes();
        self.batch.push(block);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.writer.append(&self.batch)?;
        self.batch.clear();
        self.batch_bytes = 0;
        if planted(Bug::EntriesFirst) {
            self.writer.enter()?;
        }
        if self.has_readers {
            self.digests.sync()?;
        }
        self.writer.sync()?;
        self.writer.enter()?;
        if planted(Bug::SkippedSync) {
            return Ok(());
        }
        self.writer.sync()
    }
}

/// A delta that is being made together with its digest file: the overlay of a backup.
pub(crate) struct NewDelta(Appender);

impl NewDelta {
    /// Creates the delta of a revision, which holds nothing yet and reads through to `last.raw`. The names of both
    /// files are not durable before the folder is synced.
    pub(crate) fn create(
        storage: &dyn Storage,
        revision: &Revision,
        block_size: BlockSize,
    ) -> Result<Self> {
        let (id, size_bytes) = (revision.uuid, revision.size_bytes);
        let writer = DeltaWriter::create(storage, id, block_size, size_bytes)?;
        let blocks = block_size.count(size_bytes);
        let digests = DigestWriter::create(storage, (id, DigestsKind::Delta), blocks)?;
        Ok(NewDelta(Appender::new(writer, digests, false)))
    }

    /// Takes the next block, in ascending order. `bad`: its content is known to differ from what was backed up.
    pub(crate) fn push(&mut self, block: OldBlock, entry: TableEntry, bad: bool) -> Result<()> {
        self.0.push(block, entry, bad)
    }

    /// Bytes of content that [`NewDelta::flush`] would write.
    pub(crate) fn batch_bytes(&self) -> usize {
        self.0.batch_bytes
    }

    /// Makes the taken blocks part of the delta. They are durable when this returns.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }

    /// Completes both files. Returns the delta, the bytes that both take on disk, and the blocks that are bad.
    pub(crate) fn finish(
        mut self,
        header: &DigestsHeader,
    ) -> Result<(Delta, u64, Vec<BlockIndex>)> {
        self.0.flush()?;
        let digests_bytes = self.0.digests.finish(header)?;
        let delta = self.0.writer.finish()?;
        let stored_bytes = digests_bytes + delta.stored_bytes()?;
        Ok((delta, stored_bytes, self.0.bad_blocks))
    }
}

/// A committed delta that takes over blocks which it has so far read from newer revisions. It reads the same at every
/// moment.
pub(crate) struct DeltaExtension {
    appender: Appender,
    blocks: Ranges,
}

/// The blocks that a delta has taken over.
#[derive(Debug, Default)]
pub(crate) struct Appended {
    /// Blocks that are known to be bad, or did not read right.
    pub(crate) bad_blocks: Vec<BlockIndex>,
    /// All of them, in few ranges, which may include some in between.
    pub(crate) blocks: Vec<BlockRange>,
    /// Whether some of the bad blocks have entries that nothing proves, so that the digest of the revision no longer
    /// comes out.
    pub(crate) is_unproved: bool,
}

impl DeltaExtension {
    /// Opens the delta of a revision and its digest file. The delta is dirty from now on.
    pub(crate) fn open(
        storage: &dyn Storage,
        revision: &Revision,
        block_size: BlockSize,
    ) -> Result<Self> {
        let (id, size_bytes) = (revision.uuid, revision.size_bytes);
        let digests = DigestWriter::reopen(storage, id)?;
        let writer = DeltaWriter::reopen(storage, id, block_size, size_bytes)?;
        let appender = Appender::new(writer, digests, true);
        Ok(DeltaExtension { appender, blocks: Ranges::with_limit(MAX_RANGES) })
    }

    /// Takes the next block, in ascending order. `bad`: its content is known to differ from what was backed up.
    pub(crate) fn push(&mut self, block: OldBlock, entry: TableEntry, bad: bool) -> Result<()> {
        self.blocks.push(BlockRange::one(block.block));
        self.appender.push(block, entry, bad)?;
        // Blocks without content also take memory.
        let batch = &self.appender.batch;
        let memory_bytes = self.appender.batch_bytes + size_of_val(batch.as_slice());
        if memory_bytes >= limits().batch_bytes { self.appender.flush() } else { Ok(()) }
    }

    /// Completes the delta, and gives it this backing file.
    pub(crate) fn finish(mut self, backing: Option<Backing>) -> Result<Appended> {
        self.appender.flush()?;
        self.appender.writer.finish_with(backing)?;
        let bad_blocks = self.appender.bad_blocks;
        Ok(Appended { bad_blocks, blocks: self.blocks.finish(), is_unproved: false })
    }
}
