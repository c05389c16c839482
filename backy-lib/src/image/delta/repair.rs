//! Repairing the tables and the header of a delta.

use super::{Delta, read_header};
use crate::base::error::Result;
use crate::base::extent::Extent;
use crate::base::revision::RevisionId;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::qcow2::{Backing, Header, Layout};
use crate::image::refcounts::{self, Unreferenced};
use crate::storage::{Access, FileName, Storage};

/// Gives a delta another backing file, or none: one sector, written at once. The delta reads the same before and
/// after only if the caller has ensured that. Synced.
pub fn rebase(storage: &dyn Storage, revision: RevisionId, backing: Option<Backing>) -> Result<()> {
    let file = storage.open(FileName::Delta(revision), Access::Write)?;
    let header = read_header(&*file)?;
    // Even if it looks right: after a failed sync, what a program sees is not what is durable.
    file.write_at(&Header { backing, ..header }.encode(), 0)?;
    file.sync()
}

/// Repairs a delta to which blocks were being appended, whatever its backing file. Makes the entered blocks durable,
/// frees clusters that nothing refers to if the caller allows that, rewrites the reference counts and clears the
/// dirty bit. Synced.
pub fn repair(
    storage: &dyn Storage,
    revision: RevisionId,
    block_size: BlockSize,
    size_bytes: u64,
    backing: Option<Backing>,
    unreferenced: Unreferenced,
) -> Result<()> {
    let mut delta = Delta::open(storage, revision, block_size, size_bytes)?;
    delta.check_layout(size_bytes)?;
    delta.file = storage.open(FileName::Delta(revision), Access::Write)?;
    delta.write_header(true, backing)?;
    delta.rewrite_tables()?;
    refcounts::rebuild(&delta, unreferenced)?;
    delta.file.sync()?;
    delta.write_header(false, backing)
}

/// Rewrites header and L1 table, both of which follow from the revision's size; [`repair`] deals with the reference
/// counts. Synced.
pub fn write_tables(
    storage: &dyn Storage,
    revision: RevisionId,
    block_size: BlockSize,
    size_bytes: u64,
    backing: Option<Backing>,
) -> Result<()> {
    let file = storage.open(FileName::Delta(revision), Access::Write)?;
    let layout = Layout::new(block_size, size_bytes);
    if file.len()? < layout.data_offset {
        file.set_len(layout.data_offset)?;
    }
    file.write_at(&layout.l1_table(), layout.l1_offset)?;
    file.write_at(&Header::new(&layout, backing).encode(), 0)?;
    file.sync()
}

impl Delta {
    /// Rewrites the L2 tables as they look: after a failed sync, what a program sees is not what is durable. Only
    /// those that exist, because there may be no space for more.
    fn rewrite_tables(&self) -> Result<()> {
        let blocks = BlockIndex(self.header.cluster_size.count(self.header.virtual_bytes));
        let per_table = self.blocks_per_table();
        let mut next = BlockIndex(0);
        while let Some(held) = self.next_held_block(next, blocks)? {
            let number = held.0 / per_table;
            if let Some(offset) = self.table_offset(number, self.file.len()?)? {
                self.rewrite(Extent::new(offset, self.header.cluster_size.bytes()))?;
            }
            next = BlockIndex((number + 1) * per_table);
        }
        Ok(())
    }

    /// Rewrites the data in an extent of the file, and leaves its holes.
    fn rewrite(&self, extent: Extent) -> Result<()> {
        let mut offset = extent.offset;
        while let Some(data) = self.file.next_data(offset)?.filter(|d| d.offset < extent.end()) {
            let part = Extent::between(data.offset, data.end().min(extent.end()));
            let mut bytes = vec![0; part.len as usize];
            self.file.read_exact_at(&mut bytes, part.offset)?;
            self.file.write_at(&bytes, part.offset)?;
            offset = part.end();
        }
        Ok(())
    }
}
