//! Chooses one of two entries for each disputed block, so that the digest of the revision comes out.
//!
//! Damage comes in stretches: a sector of the table, an extent of the image. So the search first tries the choices
//! that seldom change between table and image from one disputed block to the next: never, once, twice and so on. With
//! few blocks it tries every choice in the end; a limit bounds the effort.

use super::RawTable;
use crate::base::digest::{Digest, RevisionHasher, TableEntry};
use crate::base::error::Result;
use crate::base::limits::limits;
use crate::base::progress::{self, Observer};
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::Revision;

/// The most entries to digest: some seconds.
const MAX_ENTRIES: u64 = 1 << 27;

/// A block whose entry does not match its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disputed {
    pub(super) block: BlockIndex,
    pub(super) table: TableEntry,
    /// The entry of the content; `None` if it cannot be read.
    pub(super) image: Option<TableEntry>,
}

/// The digest, one of those wanted, and for each disputed block whether its entry is that of the image. `None` if no
/// choice gives such a digest, or if trying all choices would take too long.
pub(super) fn search(
    table: &RawTable,
    revision: &Revision,
    size: BlockSize,
    disputed: &[Disputed],
    wanted: &[Digest],
    observer: &dyn Observer,
) -> Result<Option<(Digest, Vec<bool>)>> {
    let mut search = Search { table, disputed, wanted, left_entries: MAX_ENTRIES, observer };
    let start = RevisionHasher::new(size, revision.size_bytes);
    for changes in 0..disputed.len().max(1) {
        for from_image in [true, false] {
            let mut chosen = Vec::with_capacity(disputed.len());
            let found = search.stretch(start.clone(), from_image, changes, &mut chosen)?;
            if let Some(digest) = found {
                return Ok(Some((digest, chosen)));
            }
        }
        if search.left_entries == 0 {
            break;
        }
    }
    Ok(None)
}

struct Search<'a> {
    table: &'a RawTable,
    disputed: &'a [Disputed],
    wanted: &'a [Digest],
    left_entries: u64,
    observer: &'a dyn Observer,
}

impl Search<'_> {
    /// Chooses the blocks from one of the two, starting at the first that has no choice yet, and changes sides this
    /// many times after it.
    fn stretch(
        &mut self,
        mut hasher: RevisionHasher,
        from_image: bool,
        changes: usize,
        chosen: &mut Vec<bool>,
    ) -> Result<Option<Digest>> {
        let begun = chosen.len();
        while let Some(block) = self.disputed.get(chosen.len()).copied() {
            progress::check(self.observer)?;
            self.feed(&mut hasher, block.block)?;
            hasher.push(block.image.filter(|_| from_image).unwrap_or(block.table));
            chosen.push(from_image);
            let left = self.disputed.len() - chosen.len();
            if self.left_entries == 0 || changes > left {
                break;
            }
            if changes > 0
                && let Some(digest) =
                    self.stretch(hasher.clone(), !from_image, changes - 1, chosen)?
            {
                return Ok(Some(digest));
            }
        }
        if changes == 0 && chosen.len() == self.disputed.len() && self.left_entries > 0 {
            self.feed(&mut hasher, BlockIndex(self.table.blocks))?;
            let digest = hasher.finish();
            if self.wanted.contains(&digest) {
                return Ok(Some(digest));
            }
        }
        chosen.truncate(begun);
        Ok(None)
    }

    /// Feeds the entries up to a block to the hasher.
    fn feed(&mut self, hasher: &mut RevisionHasher, to: BlockIndex) -> Result<()> {
        let mut next = BlockIndex(hasher.blocks());
        self.left_entries = self.left_entries.saturating_sub(to.0.saturating_sub(next.0) + 1);
        while next < to {
            let data = self.table.next_data(next)?.unwrap_or(to).min(to);
            progress::check(self.observer)?;
            hasher.push_zero_blocks(data.0 - next.0, self.observer)?;
            let entries = self.table.read(data, limits().walk_blocks.min(to.0 - data.0))?;
            next = data.plus(entries.len() as u64);
            entries.into_iter().for_each(|entry| hasher.push(entry));
        }
        Ok(())
    }
}
