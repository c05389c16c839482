//! Which blocks of a revision differ from another one: the digests of both decide, and no content is read.
//!
//! Where neither revision holds anything, the walk skips whole stretches without looking at each block.

use crate::base::block_ranges::BlockRange;
use crate::base::digest::TableEntry;
use crate::base::error::Result;
use crate::base::limits::limits;
use crate::base::progress::{self, Observer};
use crate::base::units::BlockIndex;
use crate::image::chain::{Chain, Located};
use crate::image::walk::entries_behind;

/// What a reader of the other revision needs for a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing: it has the block.
    Same,
    /// It has other content than zeros there.
    Zero,
    /// The content.
    Data,
}

/// Consecutive blocks; the first one has changed.
pub(super) struct Piece {
    pub(super) first: BlockIndex,
    pub(super) blocks: Vec<(Located, Change)>,
}

impl Piece {
    /// The block after the last one.
    pub(super) fn end(&self) -> BlockIndex {
        self.first.plus(self.blocks.len() as u64)
    }
}

/// A walk over the blocks of a revision that have changed.
pub(super) struct Changes<'a> {
    chain: &'a Chain,
    /// The other revision; `None` stands for one that is all zero.
    since: Option<&'a Chain>,
    observer: &'a dyn Observer,
    next: BlockIndex,
    /// Blocks whose entries are known, and the first of them.
    window: Vec<(Located, Change)>,
    window_first: BlockIndex,
}

impl<'a> Changes<'a> {
    pub(super) fn new(
        chain: &'a Chain,
        since: Option<&'a Chain>,
        observer: &'a dyn Observer,
    ) -> Self {
        let start = BlockIndex(0);
        Changes { chain, since, observer, next: start, window: Vec::new(), window_first: start }
    }

    /// The next piece; first checks whether to continue.
    pub(super) fn next_piece(&mut self) -> Result<Option<Piece>> {
        let piece_blocks = (limits().chunk_bytes / self.chain.block_size().bytes()).max(1) as usize;
        loop {
            progress::check(self.observer)?;
            let known = self.next.0.saturating_sub(self.window_first.0) as usize;
            let rest = self.window.get(known..).unwrap_or_default();
            let Some(skipped) = rest.iter().position(|(_, change)| *change != Change::Same) else {
                self.next = self.next.plus(rest.len() as u64);
                let Some(data) = self.next_data_block()? else { return Ok(None) };
                self.next = data;
                self.load_window()?;
                continue;
            };
            let first = self.next.plus(skipped as u64);
            let blocks: Vec<_> = rest.iter().skip(skipped).take(piece_blocks).copied().collect();
            let piece = Piece { first, blocks };
            self.next = piece.end();
            return Ok(Some(piece));
        }
    }

    /// The first block from `next` on that may be other than zero in either revision.
    fn next_data_block(&self) -> Result<Option<BlockIndex>> {
        let own = self.chain.next_data_block(self.next)?;
        let before = match self.since {
            Some(since) => since.next_data_block(self.next)?,
            None => None,
        };
        let end = self.chain.blocks();
        Ok(own.into_iter().chain(before).min().filter(|block| block.0 < end))
    }

    /// Compares the entries from `next` on.
    fn load_window(&mut self) -> Result<()> {
        let located = self.chain.locate(self.next, limits().window_blocks)?;
        let range = BlockRange { first: self.next, count: located.len() as u64 };
        let before = entries_behind(self.since, range)?;
        self.window_first = self.next;
        self.window = located
            .into_iter()
            .zip(before)
            .map(|(block, entry)| (block, change(block, entry)))
            .collect();
        Ok(())
    }
}

/// A lost block never counts as unchanged: its content is not known, so reading it has to fail.
fn change(block: Located, before: TableEntry) -> Change {
    match block.entry {
        entry if entry == before && entry != TableEntry::LOST => Change::Same,
        entry if entry.is_zero_block() => Change::Zero,
        _ => Change::Data,
    }
}
