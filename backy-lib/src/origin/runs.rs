//! The runs of a piece of a table, block by block.

use super::{Entries, PIECE_ENTRIES, PIECE_RUNS, TablePiece, TableRun};
use crate::base::digest::TableEntry;
use crate::base::units::BlockIndex;

/// Runs in ascending order, neighbours together.
#[derive(Default)]
pub(crate) struct Runs {
    runs: Vec<TableRun>,
    entries: usize,
}

impl Runs {
    /// How many blocks may follow in a piece, even if each of them begins a run.
    pub(crate) fn left_entries(&self) -> u64 {
        let entries = PIECE_ENTRIES.saturating_sub(self.entries);
        entries.min(PIECE_RUNS.saturating_sub(self.runs.len())) as u64
    }

    /// Adds blocks of zeros.
    pub(crate) fn push_zeros(&mut self, first: BlockIndex, count: u64) {
        match self.runs.last_mut() {
            _ if count == 0 => {}
            Some(TableRun { first: begin, entries: Entries::Zero(zeros) })
                if begin.plus(*zeros) == first =>
            {
                *zeros += count;
            }
            _ => self.runs.push(TableRun { first, entries: Entries::Zero(count) }),
        }
    }

    /// Adds a block.
    pub(crate) fn push(&mut self, block: BlockIndex, entry: TableEntry) {
        if entry.is_zero_block() {
            return self.push_zeros(block, 1);
        }
        self.entries += 1;
        match self.runs.last_mut() {
            Some(TableRun { first, entries: Entries::Each(entries) })
                if first.plus(entries.len() as u64) == block =>
            {
                entries.push(entry);
            }
            _ => self.runs.push(TableRun { first: block, entries: Entries::Each(vec![entry]) }),
        }
    }

    /// The runs.
    pub(crate) fn finish(self) -> Vec<TableRun> {
        self.runs
    }
}

impl TableRun {
    /// The block after its last one.
    pub fn end(&self) -> BlockIndex {
        self.first.plus(match &self.entries {
            Entries::Zero(count) => *count,
            Entries::Each(entries) => entries.len() as u64,
        })
    }
}

impl TablePiece {
    /// Checks what came from another archive: the piece begins at `from` or later, goes on, and ends at `end` at the
    /// latest; its runs ascend and do not overlap; it is not too large; and it has every block from `complete` on.
    ///
    /// # Errors
    /// A sentence: what was found, what was expected.
    pub fn check(
        &self,
        from: BlockIndex,
        end: BlockIndex,
        complete: BlockIndex,
    ) -> Result<(), String> {
        let next = self.next;
        if next > end || next <= from {
            let found = format!("a piece from block {from} up to {next}");
            return Err(format!(
                "{found}, expected one that ends after {from} and at most at {end}"
            ));
        }
        let (mut at, mut entries) = (from, 0);
        for run in &self.runs {
            if let Entries::Each(each) = &run.entries {
                entries += each.len();
            }
            let last = run.end();
            if run.first < at || last <= run.first || last > next {
                let first = run.first;
                return Err(format!(
                    "blocks {first} to {last}, expected some from {at} up to {next}"
                ));
            }
            if run.first > at.max(complete) {
                return Err(format!("no block {}, expected all of them", at.max(complete)));
            }
            at = last;
        }
        if at.max(complete) < next {
            return Err(format!("no block {}, expected all of them", at.max(complete)));
        }
        if entries > PIECE_ENTRIES || self.runs.len() > PIECE_RUNS {
            let runs = self.runs.len();
            let expected = format!("at most {PIECE_ENTRIES} in {PIECE_RUNS}");
            return Err(format!("{entries} digests in {runs} runs, expected {expected}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeros(first: u64, count: u64) -> TableRun {
        TableRun { first: BlockIndex(first), entries: Entries::Zero(count) }
    }

    fn each(first: u64, count: usize) -> TableRun {
        let entries = Entries::Each(vec![TableEntry::LOST; count]);
        TableRun { first: BlockIndex(first), entries }
    }

    /// Accepts exactly pieces that go on, ascend, stay within the revision and leave out nothing that must be there.
    #[test]
    fn only_sound_pieces_are_accepted() {
        let check = |runs: &[TableRun], next: u64, complete: u64| {
            let piece = TablePiece { runs: runs.to_vec(), next: BlockIndex(next) };
            piece.check(BlockIndex(10), BlockIndex(20), BlockIndex(complete))
        };
        assert_eq!(check(&[], 20, 20), Ok(()));
        assert_eq!(check(&[zeros(10, 3), each(13, 7)], 20, 0), Ok(()));
        assert_eq!(check(&[zeros(12, 3), each(17, 3)], 20, 17), Ok(()));
        for (runs, next, complete) in [
            (vec![], 10, 20),
            (vec![], 21, 21),
            (vec![], 20, 19),
            (vec![zeros(9, 2)], 20, 20),
            (vec![each(12, 3), zeros(14, 2)], 20, 20),
            (vec![each(14, 1), zeros(12, 1)], 20, 20),
            (vec![each(12, 0)], 20, 20),
            (vec![zeros(12, 9)], 20, 20),
            (vec![zeros(12, u64::MAX)], 20, 20),
            (vec![zeros(10, 3), each(14, 6)], 20, 0),
            (vec![zeros(12, 3), each(18, 2)], 20, 17),
            (vec![zeros(10, 3), each(13, 6)], 20, 0),
        ] {
            assert!(check(&runs, next, complete).is_err(), "{runs:?} {next} {complete}");
        }
    }

    /// Neighbours of one kind become one run.
    #[test]
    fn neighbours_come_together() {
        let mut runs = Runs::default();
        runs.push(BlockIndex(1), TableEntry::ZERO_BLOCK);
        runs.push_zeros(BlockIndex(2), 2);
        runs.push_zeros(BlockIndex(4), 0);
        runs.push(BlockIndex(4), TableEntry::LOST);
        runs.push(BlockIndex(5), TableEntry::LOST);
        runs.push(BlockIndex(7), TableEntry::LOST);
        assert_eq!(runs.left_entries(), PIECE_ENTRIES as u64 - 3);
        assert_eq!(runs.finish(), [zeros(1, 3), each(4, 2), each(7, 1)]);
    }
}
