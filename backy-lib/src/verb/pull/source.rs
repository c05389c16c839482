//! A revision of another archive as a source.
//!
//! What the origin says decides only what is asked for: the engine computes the digest of the revision over all
//! entries, and commits it only if that is the one that was offered.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::spool::Spool;
use super::table::{Own, Table, Wanted};
use crate::base::digest::TableEntry;
use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::base::progress::{self, Observer};
use crate::base::revision::RevisionId;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::{BlockRange, BlockRanges, Ranges, Revision, SourceIdentity};
use crate::origin::{Fetched, Offered, Origin};
use crate::source::Source;
use crate::storage::Storage;

/// The kind of source that the manifest records for another archive.
pub(super) const KIND: &str = "archive";

/// The most lost extents to report one by one.
const MAX_LOST: usize = 1024;

/// The most blocks to announce at a time.
const MOST_ANNOUNCED: usize = 1024;

/// The revision to pull.
#[derive(Clone, Copy)]
pub(super) struct Pulling<'a> {
    pub origin: &'a str,
    pub revision: &'a Offered,
    /// The newest revision here, if the origin has it, too, with the same table.
    pub since: Option<RevisionId>,
    pub newest: Option<&'a Revision>,
    pub block_size: BlockSize,
    /// Whether what arrives is kept for the next attempt.
    pub spools: bool,
    pub storage: &'a dyn Storage,
    pub observer: &'a dyn Observer,
}

/// What came over.
pub(super) struct Figures {
    /// Bytes of blocks that the origin sent.
    pub received_bytes: u64,
    /// Bytes of blocks that had arrived with an earlier attempt.
    pub reused_bytes: u64,
    /// Blocks that it has lost.
    pub lost: BlockRanges,
}

/// A revision of an origin as a source.
pub(super) struct PulledSource<'a> {
    pulling: Pulling<'a>,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    origin: &'a mut dyn Origin,
    /// Opened with the first question: until then the engine may still repair the digests here.
    table: Option<Table>,
    /// Lost blocks that were read, with the entries that they should have.
    lost: Vec<(BlockIndex, TableEntry)>,
    all_lost: Ranges,
    spool: Option<Spool<'a>>,
    received_bytes: u64,
    /// Everything before this block has been fetched or announced.
    announced: BlockIndex,
    reused_bytes: u64,
}

/// A block to fetch, and its place in the buffer.
pub(super) struct Missing {
    pub block: BlockIndex,
    pub entry: TableEntry,
    pub start: usize,
}

impl<'a> PulledSource<'a> {
    pub(super) fn new(pulling: Pulling<'a>, origin: &'a mut dyn Origin) -> Self {
        let state = State {
            origin,
            table: None,
            lost: Vec::new(),
            all_lost: Ranges::with_limit(MAX_LOST),
            spool: None,
            received_bytes: 0,
            announced: BlockIndex(0),
            reused_bytes: 0,
        };
        PulledSource { pulling, state: Mutex::new(state) }
    }

    /// What came over, at the end.
    pub(super) fn figures(self) -> Figures {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let lost = state.all_lost.finish().into_iter().collect();
        let State { received_bytes, reused_bytes, .. } = state;
        Figures { received_bytes, reused_bytes, lost }
    }

    fn state(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn extent(&self, blocks: BlockRange) -> Extent {
        let Pulling { block_size, revision, .. } = self.pulling;
        let end = block_size.offset(blocks.end()).min(revision.size_bytes);
        Extent::between(block_size.offset(blocks.first), end)
    }
}

impl Pulling<'_> {
    fn open_table(&self) -> Result<Table> {
        let (size, size_bytes) = (self.block_size, self.revision.size_bytes);
        let own = self.newest.map(|newest| Own::open(self.storage, newest, size, size_bytes));
        Ok(Table::new(own.transpose()?, size.count(size_bytes)))
    }

    fn error(&self, message: &str) -> Error {
        let uuid = self.revision.uuid;
        let message = format!("revision {uuid}: {message}; this revision was not stored");
        Error::Source { path: self.origin.into(), message }
    }
}

impl<'a> State<'a> {
    fn table(&mut self, pulling: &Pulling<'_>) -> Result<&mut Table> {
        let table = match self.table.take() {
            Some(table) => table,
            None => pulling.open_table()?,
        };
        Ok(self.table.insert(table))
    }

    /// Asks for the next piece of the table; false if all of it is known.
    fn ask(&mut self, pulling: &Pulling<'_>) -> Result<bool> {
        let table = self.table(pulling)?;
        let (known, end) = (table.known(), table.end());
        let complete = match pulling.since {
            Some(_) => table.same_end(),
            None => BlockIndex(0),
        };
        if known >= end {
            return Ok(false);
        }
        progress::check(pulling.observer)?;
        let piece = self.origin.table(pulling.revision.uuid, pulling.since, known)?;
        let checked = piece.check(known, end, complete);
        checked.map_err(|flaw| pulling.error(&format!("its table of digests: found {flaw}")))?;
        self.table(pulling)?.add(piece)?;
        Ok(true)
    }

    /// Brings blocks into their places: from the spool, or from the origin.
    fn bring(
        &mut self,
        pulling: &Pulling<'a>,
        mut missing: Vec<Missing>,
        buffer: &mut [u8],
    ) -> Result<()> {
        let (size, size_bytes) = (pulling.block_size, pulling.revision.size_bytes);
        let mut spool = match self.spool.take() {
            None if pulling.spools => Some(Spool::open(pulling.storage, pulling.newest.is_none())?),
            spool => spool,
        };
        if let Some(spool) = &spool {
            let taken = spool.take(&missing, (size, size_bytes), buffer)?;
            let bytes = |block: &BlockIndex| size.extent(*block, size_bytes).len;
            self.reused_bytes += taken.iter().map(bytes).sum::<u64>();
            missing.retain(|missing| !taken.contains(&missing.block));
        }
        if !missing.is_empty() {
            let lost = self.fetch(pulling, &missing, buffer)?;
            for Missing { block, start, .. } in &missing {
                let extent = size.extent(*block, size_bytes);
                let bytes = buffer.get(*start..).and_then(|rest| rest.get(..extent.len as usize));
                if let (Some(spool), Some(bytes), false) = (&mut spool, bytes, lost.contains(block))
                {
                    spool.add(bytes, extent.offset)?;
                }
            }
        }
        self.spool = spool;
        Ok(())
    }

    /// Fetches blocks into their places. Returns those that the origin has lost; they stay zeros.
    fn fetch(
        &mut self,
        pulling: &Pulling<'_>,
        missing: &[Missing],
        buffer: &mut [u8],
    ) -> Result<HashSet<BlockIndex>> {
        let wanted: Vec<BlockIndex> = missing.iter().map(|missing| missing.block).collect();
        self.announce(pulling, wanted.last().copied().unwrap_or(BlockIndex(0)))?;
        let mut left = missing.iter();
        let mut lost = Vec::new();
        let mut received_bytes = 0;
        let (size, size_bytes) = (pulling.block_size, pulling.revision.size_bytes);
        let mut take = |block: BlockIndex, fetched: Fetched<'_>| {
            progress::check(pulling.observer)?;
            let Some(next) = left.next().filter(|next| next.block == block) else {
                return Err(pulling.error(&format!("found block {block}, which nobody asked for")));
            };
            let len = size.extent(block, size_bytes).len as usize;
            let part = buffer.get_mut(next.start..).and_then(|rest| rest.get_mut(..len));
            match (fetched, part) {
                (Fetched::Bad, _) => lost.push((block, next.entry)),
                (Fetched::Data(bytes), Some(part)) if bytes.len() == len => {
                    received_bytes += len as u64;
                    part.copy_from_slice(bytes);
                }
                (Fetched::Data(bytes), _) => {
                    let found = bytes.len();
                    let flaw = format!("block {block}: found {found} bytes, expected {len}");
                    return Err(pulling.error(&flaw));
                }
            }
            Ok(())
        };
        self.origin.fetch(pulling.revision.uuid, &wanted, &mut take)?;
        if let Some(next) = left.next() {
            return Err(pulling.error(&format!("found no answer for block {}", next.block)));
        }
        self.received_bytes += received_bytes;
        let all: HashSet<BlockIndex> = lost.iter().map(|(block, _)| *block).collect();
        let came = missing.iter().filter(|missing| !all.contains(&missing.block));
        check_blocks(pulling, came, buffer)?;
        lost.into_iter().for_each(|(block, entry)| self.lose(block, entry));
        Ok(all)
    }

    /// Announces what comes after block `last`, so that it is on its way before the engine asks for it.
    fn announce(&mut self, pulling: &Pulling<'_>, last: BlockIndex) -> Result<()> {
        let from = self.announced.max(last.plus(1));
        let upcoming = self.table(pulling)?.upcoming(from, MOST_ANNOUNCED);
        self.announced = upcoming.last().map_or(from, |last| last.plus(1));
        self.origin.announce(pulling.revision.uuid, &upcoming)
    }

    fn lose(&mut self, block: BlockIndex, entry: TableEntry) {
        self.lost.push((block, entry));
        self.all_lost.push(BlockRange::one(block));
    }
}

/// Checks that blocks are those of their entries.
fn check_blocks<'m>(
    pulling: &Pulling<'_>,
    came: impl Iterator<Item = &'m Missing> + Clone,
    buffer: &[u8],
) -> Result<()> {
    let (size, size_bytes) = (pulling.block_size, pulling.revision.size_bytes);
    let bytes = |missing: &Missing| {
        let len = size.extent(missing.block, size_bytes).len as usize;
        buffer.get(missing.start..).and_then(|rest| rest.get(..len)).unwrap_or_default()
    };
    let pairs = came.clone().map(|missing| (missing.entry, bytes(missing)));
    let right = TableEntry::matching(pairs)?;
    match came.zip(right).find(|(_, right)| !right) {
        None => Ok(()),
        Some((wrong, _)) => Err(pulling.error(&format!(
            "block {}: found bytes with another digest than in its table; pull again",
            wrong.block
        ))),
    }
}

impl Source for PulledSource<'_> {
    fn identity(&self) -> SourceIdentity {
        SourceIdentity::new(self.pulling.origin, KIND)
    }

    fn size_bytes(&self) -> u64 {
        self.pulling.revision.size_bytes
    }

    fn current_size_bytes(&self) -> Result<u64> {
        Ok(self.size_bytes())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let Pulling { block_size, .. } = self.pulling;
        let count = self.size_bytes().saturating_sub(offset).min(buffer.len() as u64) as usize;
        let buffer = buffer.get_mut(..count).unwrap_or_default();
        buffer.fill(0);
        let first = block_size.index(offset);
        let end = block_size.count(offset.saturating_add(count as u64));
        let mut state = self.state();
        while state.table(&self.pulling)?.known().0 < end && state.ask(&self.pulling)? {}
        let mut missing = Vec::new();
        for block in (first.0..end).map(BlockIndex) {
            let start = (block_size.offset(block) - offset) as usize;
            match state.table(&self.pulling)?.take(block)? {
                Wanted::Nothing => {}
                Wanted::Entry(TableEntry::LOST) => state.lose(block, TableEntry::LOST),
                Wanted::Entry(entry) => missing.push(Missing { block, entry, start }),
            }
        }
        if !missing.is_empty() {
            state.bring(&self.pulling, missing, buffer)?;
        }
        Ok(count)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        let from = self.pulling.block_size.index(offset);
        let mut state = self.state();
        while state.table(&self.pulling)?.known() <= from && state.ask(&self.pulling)? {}
        let table = state.table(&self.pulling)?;
        table.forget_before(from);
        if let Some(data) = table.next_data(from) {
            return Ok(Some(self.extent(data)));
        }
        // The next piece is asked for when it is its turn: a block of it may hold data.
        let next = table.known();
        Ok((next < table.end()).then(|| self.extent(BlockRange::one(next))))
    }

    fn next_changed(&self, offset: u64) -> Result<Option<Extent>> {
        let from = self.pulling.block_size.index(offset);
        let mut state = self.state();
        loop {
            let table = state.table(&self.pulling)?;
            table.forget_before(from);
            if let Some(changed) = table.next_changed(from) {
                return Ok(Some(self.extent(changed)));
            }
            // Nothing that is known lies behind.
            let known = table.known();
            table.forget_before(known);
            if !state.ask(&self.pulling)? {
                return Ok(None);
            }
        }
    }

    fn lost_entry(&self, block: BlockIndex) -> Option<TableEntry> {
        let mut state = self.state();
        let at = state.lost.iter().position(|(lost, _)| *lost == block)?;
        Some(state.lost.swap_remove(at).1)
    }
}
