//! Walking over a chain from its first block to its last.
//!
//! Blocks are located a window at a time, so that the tables of a long chain are read once for all of them. A walk
//! skips stretches where no file holds anything without looking at each block: blocks that it omits are zero. A walk
//! does not read content, and does not ask its observer: the caller does that before each piece.

use crate::base::block_ranges::BlockRange;
use crate::base::digest::TableEntry;
use crate::base::error::Result;
use crate::base::limits::limits;
use crate::base::units::BlockIndex;
use crate::image::chain::{Chain, Located};

/// Consecutive located blocks. Some of them may be zero.
pub(crate) struct Blocks {
    /// The first of them.
    pub(crate) first: BlockIndex,
    /// Where they are; at least one.
    pub(crate) located: Vec<Located>,
}

impl Blocks {
    /// The block after the last one.
    pub(crate) fn end(&self) -> BlockIndex {
        self.first.plus(self.located.len() as u64)
    }

    /// The blocks with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (BlockIndex, &Located)> {
        (self.first.0..).map(BlockIndex).zip(&self.located)
    }
}

/// A walk over the blocks of a chain that may not be zero.
pub(crate) struct Walk<'a> {
    chain: &'a Chain,
    next: BlockIndex,
    /// Whether the walk has found that there may be data at `next`.
    is_at_data: bool,
    window: Window<'a>,
}

impl<'a> Walk<'a> {
    /// Begins at the first block.
    pub(crate) fn new(chain: &'a Chain) -> Self {
        Walk { chain, next: BlockIndex(0), is_at_data: false, window: Window::new(chain) }
    }

    /// Where the next piece begins; `None` when only zeros follow.
    pub(crate) fn next_data(&mut self) -> Result<Option<BlockIndex>> {
        if !self.is_at_data && !self.window.covers(self.next) {
            let Some(data) = self.chain.next_data_block(self.next)? else { return Ok(None) };
            self.next = data;
        }
        self.is_at_data = true;
        Ok(Some(self.next))
    }

    /// The next piece, of at most `max_blocks`, which is one or more; `None` when only zeros follow.
    pub(crate) fn next_piece(&mut self, max_blocks: usize) -> Result<Option<Blocks>> {
        let Some(first) = self.next_data()? else { return Ok(None) };
        let located = self.window.blocks(first, max_blocks)?.to_vec();
        let piece = Blocks { first, located };
        self.next = piece.end();
        self.is_at_data = false;
        Ok(Some(piece))
    }

    /// The next piece, as long as a window.
    pub(crate) fn next_window(&mut self) -> Result<Option<Blocks>> {
        self.next_piece(usize::MAX)
    }
}

/// Where the blocks of a revision are, looked up a window at a time. For callers that ask for certain blocks, in
/// ascending order.
pub(crate) struct Window<'a> {
    chain: &'a Chain,
    first: BlockIndex,
    located: Vec<Located>,
}

impl<'a> Window<'a> {
    pub(crate) fn new(chain: &'a Chain) -> Self {
        Window { chain, first: BlockIndex(0), located: Vec::new() }
    }

    /// Whether a block is in the window.
    fn covers(&self, block: BlockIndex) -> bool {
        (self.first..self.first.plus(self.located.len() as u64)).contains(&block)
    }

    /// Up to `count` blocks from `first` on; none past the end of the revision, and at least one before it.
    pub(crate) fn blocks(&mut self, first: BlockIndex, count: usize) -> Result<&[Located]> {
        if !self.covers(first) {
            self.located = self.chain.locate(first, limits().window_blocks)?;
            self.first = first;
        }
        let from = (first.0 - self.first.0) as usize;
        let to = from.saturating_add(count).min(self.located.len());
        Ok(self.located.get(from..to).unwrap_or_default())
    }
}

/// What a delta reads from the revision behind it: one digest for each block of a range. Everything is zero past the
/// end of that revision, and if there is none.
pub(crate) fn entries_behind(base: Option<&Chain>, blocks: BlockRange) -> Result<Vec<TableEntry>> {
    let mut entries = match base {
        Some(base) => base.locate(blocks.first, blocks.count)?,
        None => Vec::new(),
    };
    entries.resize(blocks.count as usize, Located::ZERO);
    Ok(entries.into_iter().map(|located| located.entry).collect())
}
