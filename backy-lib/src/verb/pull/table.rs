//! The part of the wanted revision's table that is known: which blocks differ from the newest revision here, and how.
//!
//! It comes piece by piece and is forgotten once it has been used, so that memory does not depend on the size of the
//! image.

use std::collections::VecDeque;

use crate::base::digest::TableEntry;
use crate::base::error::Result;
use crate::base::limits::limits;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::{BlockRange, BlockRanges, Findings, Revision};
use crate::image::digests::DigestTable;
use crate::origin::{Entries, Runs, TablePiece, TableRun};
use crate::storage::{DigestsKind, Storage};

/// The newest revision here.
pub(super) struct Own {
    digests: DigestTable,
    /// Blocks up to here have the same length in the wanted revision.
    same_end: BlockIndex,
    known: Findings,
}

impl Own {
    pub(super) fn open(
        storage: &dyn Storage,
        newest: &Revision,
        size: BlockSize,
        wanted_bytes: u64,
    ) -> Result<Self> {
        Ok(Own {
            digests: DigestTable::open(storage, newest.uuid, DigestsKind::Image)?,
            same_end: size.same_length_end(newest.size_bytes, wanted_bytes),
            known: newest.findings.clone(),
        })
    }

    /// Blocks up to here have the same length in the wanted revision.
    pub(super) fn same_end(&self) -> BlockIndex {
        self.same_end
    }

    /// How many of these blocks are the same, and known to be bad here.
    fn bad_besides(&self, first: BlockIndex, end: BlockIndex, differing: &[TableRun]) -> u64 {
        let same = BlockRange::between(first, end.min(self.same_end).max(first));
        let mut bad: BlockRanges = self.known.bad_blocks.within(same).collect();
        if !bad.is_empty() {
            let listed = differing.iter().map(|run| BlockRange::between(run.first, run.end()));
            bad.subtract(&listed.collect::<Vec<_>>());
        }
        bad.block_count()
    }

    /// Leaves out what is the same here.
    fn differing(&self, runs: Vec<TableRun>) -> Result<Vec<TableRun>> {
        let mut differing = Runs::default();
        for run in runs {
            match run.entries {
                Entries::Zero(count) => {
                    let all = BlockRange { first: run.first, count };
                    self.differing_zeros(all, &mut differing)?;
                }
                Entries::Each(entries) => {
                    let step = limits().walk_blocks as usize;
                    for (number, part) in entries.chunks(step).enumerate() {
                        let first = run.first.plus((number * step) as u64);
                        let own = self.digests.read(first, part.len() as u64)?;
                        for (at, entry) in part.iter().enumerate() {
                            let block = first.plus(at as u64);
                            if block >= self.same_end || own.get(at) != Some(entry) {
                                differing.push(block, *entry);
                            }
                        }
                    }
                }
            }
        }
        Ok(differing.finish())
    }

    /// Of blocks that become zeros: those that are not zeros, or have another length.
    fn differing_zeros(&self, blocks: BlockRange, differing: &mut Runs) -> Result<()> {
        let (mut next, end) = (blocks.first, blocks.end().min(self.same_end));
        while next < end {
            let Some(data) = self.digests.next_data_block(next)?.filter(|data| *data < end) else {
                break;
            };
            let count = limits().walk_blocks.min(end.0 - data.0);
            let own = self.digests.read(data, count)?;
            for (entry, at) in own.iter().zip(data.0..) {
                if !entry.is_zero_block() {
                    differing.push_zeros(BlockIndex(at), 1);
                }
            }
            next = data.plus(count);
        }
        let rest = blocks.first.max(self.same_end);
        differing.push_zeros(rest, blocks.end().0.saturating_sub(rest.0));
        Ok(())
    }
}

/// What has to be known of a block to make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Zeros, or the same as here.
    Nothing,
    /// A block with this entry.
    Entry(TableEntry),
}

/// The table as far as it is known and not used up.
pub(super) struct Table {
    own: Option<Own>,
    end: BlockIndex,
    known: BlockIndex,
    pieces: VecDeque<Piece>,
}

struct Piece {
    first: BlockIndex,
    end: BlockIndex,
    runs: Vec<TableRun>,
    /// How many blocks nobody has taken yet, of those with an entry and of bad ones that are the same.
    left: u64,
}

impl Table {
    /// Of a revision of so many blocks.
    pub(super) fn new(own: Option<Own>, blocks: u64) -> Self {
        let zero = BlockIndex(0);
        Table { own, end: BlockIndex(blocks), known: zero, pieces: VecDeque::new() }
    }

    /// Everything before this block is known.
    pub(super) fn known(&self) -> BlockIndex {
        self.known
    }

    /// The end of the revision.
    pub(super) fn end(&self) -> BlockIndex {
        self.end
    }

    /// From which block on the origin must name all, if it names what differs from the newest revision here.
    pub(super) fn same_end(&self) -> BlockIndex {
        self.own.as_ref().map_or(BlockIndex(0), Own::same_end)
    }

    /// Adds the next piece, which has been checked.
    pub(super) fn add(&mut self, piece: TablePiece) -> Result<()> {
        let runs = match &self.own {
            Some(own) => own.differing(piece.runs)?,
            None => piece.runs,
        };
        let (first, end) = (self.known, piece.next);
        let bad = self.own.as_ref().map_or(0, |own| own.bad_besides(first, end, &runs));
        let left = runs.iter().map(entries).sum::<u64>() + bad;
        self.known = end;
        self.pieces.push_back(Piece { first, end, runs, left });
        Ok(())
    }

    /// Forgets pieces that end before `block` and are used up.
    pub(super) fn forget_before(&mut self, block: BlockIndex) {
        while self.pieces.front().is_some_and(|piece| piece.end <= block && piece.left == 0) {
            self.pieces.pop_front();
        }
    }

    /// The next known blocks, from `from` on, that differ from the newest revision here.
    pub(super) fn next_changed(&self, from: BlockIndex) -> Option<BlockRange> {
        self.next_run(from, |_| true)
    }

    /// The same for blocks that have to be read.
    pub(super) fn next_data(&self, from: BlockIndex) -> Option<BlockRange> {
        let data = self.next_run(from, |run| matches!(run.entries, Entries::Each(_)));
        let bad = self.own.as_ref().and_then(|own| own.known.next_bad(from));
        let bad = bad.map(|bad| {
            BlockRange::between(bad.first.max(from).min(self.known), bad.end().min(self.known))
        });
        let all = data.into_iter().chain(bad).filter(|range| range.count > 0);
        all.min_by_key(|range| range.first)
    }

    fn next_run(
        &self,
        from: BlockIndex,
        is_meant: impl Fn(&TableRun) -> bool,
    ) -> Option<BlockRange> {
        let at = self.pieces.partition_point(|piece| piece.end <= from);
        self.pieces.range(at..).find_map(|piece| {
            let at = piece.runs.partition_point(|run| run.end() <= from);
            let run = piece.runs.get(at..)?.iter().find(|run| is_meant(run))?;
            Some(BlockRange::between(run.first.max(from), run.end()))
        })
    }

    /// What a block has to be. The engine asks once for each block that it reads.
    pub(super) fn take(&mut self, block: BlockIndex) -> Result<Wanted> {
        let (wanted, piece) = self.find(block)?;
        if let Some(piece) = piece.and_then(|at| self.pieces.get_mut(at)) {
            piece.left = piece.left.saturating_sub(1);
        }
        Ok(wanted)
    }

    /// Up to `count` known blocks from `from` on that the origin has to give, and from where to go on.
    pub(super) fn wishes(&self, from: BlockIndex, count: usize) -> Result<(Vec<Wish>, BlockIndex)> {
        let (mut wishes, mut next) = (Vec::new(), from);
        while let Some(data) = self.next_data(next) {
            for block in (data.first.0..data.end().0).map(BlockIndex) {
                if wishes.len() >= count {
                    return Ok((wishes, block));
                }
                match self.find(block)?.0 {
                    Wanted::Entry(entry) if entry != TableEntry::LOST => {
                        wishes.push(Wish { block, entry });
                    }
                    _ => {}
                }
            }
            next = data.end();
        }
        Ok((wishes, self.known.max(next)))
    }

    /// What a block has to be, and the piece that counts it.
    fn find(&self, block: BlockIndex) -> Result<(Wanted, Option<usize>)> {
        let at = self.pieces.partition_point(|piece| piece.end <= block);
        let Some(piece) = self.pieces.get(at).filter(|piece| piece.first <= block) else {
            // A piece is only forgotten when nothing is left of it.
            return Ok((Wanted::Nothing, None));
        };
        let run = piece.runs.partition_point(|run| run.end() <= block);
        let run = piece.runs.get(run).filter(|run| run.first <= block);
        match run.map(|run| (run.first, &run.entries)) {
            Some((first, Entries::Each(entries))) => {
                let entry = entries.get((block.0 - first.0) as usize).copied();
                return Ok((entry.map_or(Wanted::Nothing, Wanted::of), Some(at)));
            }
            Some((_, Entries::Zero(_))) => return Ok((Wanted::Nothing, None)),
            None => {}
        }
        // It has not changed, but what is stored here is bad.
        match self.own.as_ref().filter(|own| own.known.is_bad(block) && block < own.same_end) {
            Some(own) => {
                let entry = own.digests.read(block, 1)?.first().copied();
                Ok((entry.map_or(Wanted::Nothing, Wanted::of), Some(at)))
            }
            None => Ok((Wanted::Nothing, None)),
        }
    }

    /// How many pieces are not used up.
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }
}

/// A block to ask for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub block: BlockIndex,
    /// What it has to be.
    pub entry: TableEntry,
}

impl Wanted {
    fn of(entry: TableEntry) -> Self {
        if entry.is_zero_block() { Wanted::Nothing } else { Wanted::Entry(entry) }
    }
}

fn entries(run: &TableRun) -> u64 {
    match &run.entries {
        Entries::Zero(_) => 0,
        Entries::Each(entries) => entries.len() as u64,
    }
}
