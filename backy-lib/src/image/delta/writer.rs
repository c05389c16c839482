//! Writing a delta, new or extended.
//!
//! The delta can be read at every moment, also by QEMU: data first, then sync, then the entries that refer to it.
//! Only the reference counts wait for the end; until they are right, the dirty bit is set. The caller decides when to
//! sync; [`append`](crate::image::append) has the order for backups and merges.

use super::{Delta, OldBlock, StoredBlock};
use crate::base::error::{Error, Result};
use crate::base::limits::limits;
use crate::base::revision::RevisionId;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::qcow2::{Backing, Cluster, ENTRY_BYTES, Header, Layout, encode_entry};
use crate::image::refcounts::NewCounts;
use crate::storage::{Access, FileName, Storage, StorageFile};

/// Creates a delta, or appends to one.
pub struct DeltaWriter {
    pub(super) delta: Delta,
    pub(super) end: u64,
    pub(super) appended: Vec<(BlockIndex, Cluster)>,
    counts: NewCounts,
}

impl DeltaWriter {
    /// Creates the delta of a revision, which holds nothing yet and reads through to `last.raw`. Synced, but its name
    /// is not durable before the folder is synced.
    pub fn create(
        storage: &dyn Storage,
        revision: RevisionId,
        block_size: BlockSize,
        size_bytes: u64,
    ) -> Result<Self> {
        let file = storage.create(FileName::Delta(revision))?;
        Self::create_in(file, block_size, size_bytes, Some(Backing::IMAGE))
    }

    /// The same in an empty file, with any backing file or none. Synced.
    pub fn create_in(
        file: Box<dyn StorageFile>,
        block_size: BlockSize,
        size_bytes: u64,
        backing: Option<Backing>,
    ) -> Result<Self> {
        let layout = Layout::new(block_size, size_bytes);
        let header = Header::new(&layout, backing);
        file.set_len(layout.data_offset)?;
        file.write_at(&layout.l1_table(), layout.l1_offset)?;
        file.write_at(&header.encode(), 0)?;
        file.sync()?;
        let delta = Delta::of(file, header);
        let end = layout.data_offset;
        Ok(DeltaWriter {
            counts: NewCounts::after_tables(&delta, end),
            delta,
            end,
            appended: Vec::new(),
        })
    }

    /// Opens the delta of a revision to append to it. It is dirty from now on. Synced.
    pub fn reopen(
        storage: &dyn Storage,
        revision: RevisionId,
        block_size: BlockSize,
        size_bytes: u64,
    ) -> Result<Self> {
        let mut delta = Delta::open(storage, revision, block_size, size_bytes)?;
        if delta.header.dirty {
            let expected = "clear: nothing was being written";
            return Err(Error::damaged(delta.path(), "dirty bit", "set", expected));
        }
        delta.check_layout(size_bytes)?;
        delta.file = storage.open(FileName::Delta(revision), Access::Write)?;
        delta.write_header(true, delta.header.backing)?;
        let end = delta.file.len()?.next_multiple_of(block_size.bytes());
        Ok(DeltaWriter {
            delta,
            end,
            appended: Vec::new(),
            counts: NewCounts::from_end(end, block_size),
        })
    }

    /// Appends blocks in ascending order: compressed ones packed, then plain ones. They are not yet part of the delta
    /// and not synced.
    pub fn append(&mut self, blocks: &[OldBlock]) -> Result<()> {
        let cluster = self.delta.header.cluster_size.bytes();
        self.check_room(blocks)?;
        let mut run = Vec::with_capacity(limits().append_bytes);
        for old in blocks {
            match &old.content {
                StoredBlock::Zero => self.appended.push((old.block, Cluster::Zero)),
                StoredBlock::Compressed(frame) => {
                    let offset = self.end + run.len() as u64;
                    run.extend_from_slice(frame);
                    let max_bytes = frame.len() as u64;
                    self.appended.push((old.block, Cluster::Compressed { offset, max_bytes }));
                    if run.len() >= limits().append_bytes {
                        self.append_run(&mut run)?;
                    }
                }
                StoredBlock::Plain(_) => {}
            }
        }
        // A reader may take whole sectors.
        run.resize(run.len().next_multiple_of(512), 0);
        self.append_run(&mut run)?;
        self.end = self.end.next_multiple_of(cluster);
        for old in blocks {
            if let StoredBlock::Plain(content) = &old.content {
                self.delta.file.write_at(content, self.end)?;
                self.appended.push((old.block, Cluster::Plain { offset: self.end }));
                self.end += cluster;
            }
        }
        self.delta.file.set_len(self.end)
    }

    /// Checks that an entry and the reference counts can name every place that the blocks would take. Nothing has
    /// been written yet.
    pub(super) fn check_room(&self, blocks: &[OldBlock]) -> Result<()> {
        let Header { cluster_size, refcount_table_clusters, .. } = self.delta.header;
        let (mut packed, mut plain) = (0, 0);
        for old in blocks {
            match &old.content {
                StoredBlock::Zero => {}
                StoredBlock::Compressed(frame) => packed += frame.len() as u64,
                StoredBlock::Plain(_) => plain += cluster_size.bytes(),
            }
        }
        // Readers take whole sectors, and plain clusters begin at boundaries.
        let end = self.end.saturating_add(packed).saturating_add(plain + cluster_size.bytes());
        let limit = Layout::max_file_bytes(cluster_size, refcount_table_clusters);
        if end <= limit {
            return Ok(());
        }
        let action = format!("append to it up to byte {end}: a delta like this ends at {limit}");
        let too_large = std::io::Error::from(std::io::ErrorKind::FileTooLarge);
        Err(Error::io(self.delta.path(), action)(too_large))
    }

    /// Takes content that is already in the file for a block, to be entered with what was appended.
    pub(crate) fn adopt(&mut self, block: BlockIndex, cluster: Cluster) {
        self.appended.push((block, cluster));
    }

    fn append_run(&mut self, run: &mut Vec<u8>) -> Result<()> {
        if !run.is_empty() {
            self.delta.file.write_at(run, self.end)?;
            self.end += run.len() as u64;
            run.clear();
        }
        Ok(())
    }

    /// Enters the appended blocks, in runs. The caller has synced before, and syncs afterwards.
    pub fn enter(&mut self) -> Result<()> {
        let mut appended = std::mem::take(&mut self.appended);
        appended.iter().for_each(|(_, cluster)| self.counts.add(*cluster));
        appended.sort_unstable_by_key(|(block, _)| *block);
        let per_table = self.delta.blocks_per_table();
        let size = self.delta.header.cluster_size;
        let same_run = |(a, _): &(BlockIndex, Cluster), (b, _): &(BlockIndex, Cluster)| {
            a.plus(1) == *b && b.0 % per_table != 0
        };
        for run in appended.chunk_by(same_run) {
            let Some((first, _)) = run.first() else { continue };
            let table = first.0 / per_table;
            let offset = self
                .delta
                .table_offset(table, self.end)?
                .ok_or_else(|| self.delta.flaw(format!("L1 entry {table}: found none")))?;
            let raw: Vec<u8> = run
                .iter()
                .flat_map(|(_, cluster)| encode_entry(*cluster, size).to_be_bytes())
                .collect();
            self.delta.file.write_at(&raw, offset + (first.0 % per_table) * ENTRY_BYTES as u64)?;
        }
        Ok(())
    }

    /// Makes everything written so far durable.
    pub fn sync(&self) -> Result<()> {
        self.delta.file.sync()
    }

    /// Writes the reference counts, then clears the dirty bit; synced after each.
    pub fn finish(self) -> Result<Delta> {
        let backing = self.delta.header.backing;
        self.finish_with(backing)
    }

    /// The same, and gives the delta another backing file or none, with the dirty bit, in one write.
    pub fn finish_with(self, backing: Option<Backing>) -> Result<Delta> {
        let mut delta = self.delta;
        self.counts.write(&delta)?;
        delta.file.sync()?;
        // Nobody else changes the header while the lock is held.
        delta.write_header(false, backing)?;
        Ok(delta)
    }

    /// The delta as far as it has been entered.
    #[cfg(any(test, feature = "testing"))]
    pub fn delta(&self) -> &Delta {
        &self.delta
    }
}

impl Delta {
    /// Checks that the tables are where backy puts them, and not in the data: writers rely on that.
    pub(super) fn check_layout(&self, size_bytes: u64) -> Result<()> {
        let layout = Layout::new(self.header.cluster_size, size_bytes);
        let ours = Header { dirty: self.header.dirty, ..Header::new(&layout, self.header.backing) };
        let differs = |place| {
            let expected = "that of a delta of this size; it is not written to";
            Err(Error::damaged(self.path(), place, "another one", expected))
        };
        if self.header != ours {
            return differs("header");
        }
        let expected = layout.l1_table();
        let mut found = vec![0; expected.len()];
        self.file.read_exact_at(&mut found, layout.l1_offset)?;
        if found == expected { Ok(()) } else { differs("L1 table") }
    }

    /// Writes the header, synced.
    pub(super) fn write_header(&mut self, dirty: bool, backing: Option<Backing>) -> Result<()> {
        self.header.dirty = dirty;
        self.header.backing = backing;
        self.file.write_at(&self.header.encode(), 0)?;
        self.file.sync()
    }
}
