//! A revision of another archive as a source.
//!
//! What the origin says decides only what is asked for: the engine computes the digest of the revision over all
//! entries, and commits it only if that is the one that was offered.
//!
//! A thread of its own asks the origin ahead of the engine, in the order of the image ([`PulledSource::feed`]), so that
//! neither waits for the other. The blocks that are ready for the engine are bounded. An engine with a single thread
//! asks itself, so that everything happens in a fixed order.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::fetcher::{Brought, Fetcher, Pulling};
use super::table::{Table, Wanted, Wish};
use crate::base::digest::TableEntry;
use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::pipeline;
use crate::base::progress;
use crate::base::units::BlockIndex;
use crate::format::manifest::{BlockRange, BlockRanges, SourceIdentity};
use crate::origin::Origin;
use crate::source::{KnownBlock, Source};

/// The kind of source that the manifest records for another archive.
pub(super) const KIND: &str = "archive";

/// Blocks that are asked for together: the way to the origin may be long, and is empty for a moment between two
/// questions.
const ASKED_BLOCKS: usize = 32768;

/// Pieces of a table that wait for the engine.
const READY_PIECES: usize = 4;

/// How often somebody who waits looks whether to stop.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// The most lost extents to report one by one.
const MAX_LOST: usize = 1024;

/// What a pull of a revision received.
pub(super) struct Figures {
    /// Bytes of blocks that the origin sent.
    pub received_bytes: u64,
    /// Bytes of blocks that had arrived with an earlier attempt.
    pub reused_bytes: u64,
    /// Blocks that the origin has lost.
    pub lost: BlockRanges,
}

/// A revision of an origin as a source.
pub(super) struct PulledSource<'a> {
    pulling: Pulling<'a>,
    state: Mutex<State<'a>>,
    /// For threads of the engine: there is more to read, or there will never be.
    arrived: Condvar,
    /// For the thread that asks the origin: there is space, or somebody waits.
    needed: Condvar,
}

#[derive(Default)]
struct State<'a> {
    /// For an engine that asks itself.
    fetcher: Option<Fetcher<'a>>,
    /// Opened with the first question: until then the engine may still repair the digests here.
    table: Option<Table>,
    /// Blocks that were read, until the engine asks what is known of them.
    known: BTreeMap<BlockIndex, KnownBlock>,
    all_lost: BlockRanges,
    received_bytes: u64,
    reused_bytes: u64,
    /// Everything before this block has been asked for.
    fed_to: BlockIndex,
    /// Blocks that nobody has read yet; `None` for a lost one.
    ready: BTreeMap<BlockIndex, Brought>,
    ready_bytes: u64,
    /// How many threads wait for what is not ready.
    waiting: usize,
    /// Why the thread that asks the origin has ended; `None` inside if it has brought everything.
    ended: Option<Option<Error>>,
    /// Nobody reads any more.
    is_over: bool,
}

impl<'a> PulledSource<'a> {
    /// For an engine that asks the origin itself.
    pub(super) fn asking(pulling: Pulling<'a>, origin: &'a mut dyn Origin) -> Self {
        let source = Self::fed(pulling);
        let mut state = source.state();
        state.fetcher = Some(Fetcher::new(pulling, origin));
        state.fed_to = BlockIndex(u64::MAX);
        drop(state);
        source
    }

    /// For an engine that [`PulledSource::feed`] feeds.
    pub(super) fn fed(pulling: Pulling<'a>) -> Self {
        let (arrived, needed) = (Condvar::new(), Condvar::new());
        PulledSource { pulling, state: Mutex::default(), arrived, needed }
    }

    /// What has been received, at the end.
    pub(super) fn figures(self) -> Figures {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(fetcher) = &state.fetcher {
            state.received_bytes = fetcher.received_bytes;
            state.reused_bytes = fetcher.reused_bytes;
        }
        state.all_lost.join_to(MAX_LOST);
        let State { received_bytes, reused_bytes, all_lost: lost, .. } = state;
        Figures { received_bytes, reused_bytes, lost }
    }

    /// Asks the origin for what the engine is going to read, until that has all of it or ends.
    pub(super) fn feed(&self, origin: &mut dyn Origin) {
        // Shorter than that of the source, as the thread is.
        let mut fetcher = Fetcher::new(self.pulling, origin);
        let done = pipeline::caught(|| self.feed_from(&mut fetcher));
        let mut state = self.state();
        state.received_bytes = fetcher.received_bytes;
        state.reused_bytes = fetcher.reused_bytes;
        state.ended = Some(done.err());
        self.arrived.notify_all();
    }

    /// The engine has ended: so does whoever feeds it.
    pub(super) fn end(&self) {
        self.state().is_over = true;
        self.needed.notify_all();
    }

    fn feed_from(&self, fetcher: &mut Fetcher<'_>) -> Result<()> {
        let mut next = BlockIndex(0);
        loop {
            let mut state = self.wait_until(|state| {
                let pieces = state.table.as_ref().map(Table::pieces);
                pieces.is_some_and(|pieces| pieces <= READY_PIECES || state.waiting > 0)
            })?;
            let Some(table) = &state.table else { continue };
            let (wishes, after) = table.wishes(next, ASKED_BLOCKS)?;
            let (known, end) = (table.known(), table.end());
            let complete = self.pulling.complete_from(table);
            (next, state.fed_to) = (after, after);
            drop(state);
            if !wishes.is_empty() {
                fetcher.bring(&wishes, &mut |brought| self.make_ready(brought))?;
            } else if known < end {
                let piece = fetcher.ask(known, end, complete)?;
                let mut state = self.state();
                state.table.as_mut().map_or(Ok(()), |table| table.add(piece))?;
                self.arrived.notify_all();
            } else {
                return Ok(());
            }
        }
    }

    fn make_ready(&self, brought: Vec<(Wish, Brought)>) -> Result<()> {
        // Who waits for a block that is not ready gets it, however much is ready.
        let mut state =
            self.wait_until(|state| state.ready_bytes < limits().ready_bytes || state.waiting > 0)?;
        for (wish, bytes) in brought {
            state.ready_bytes += bytes.as_ref().map_or(0, Vec::len) as u64;
            state.ready.insert(wish.block, bytes);
        }
        // Waking somebody for each block costs more than the block.
        if state.waiting > 0 {
            self.arrived.notify_all();
        }
        Ok(())
    }

    /// Waits on the side of the origin.
    fn wait_until(
        &self,
        is_time: impl Fn(&State<'_>) -> bool,
    ) -> Result<MutexGuard<'_, State<'a>>> {
        let mut state = self.state();
        loop {
            if state.is_over {
                return Err(Error::Interrupted);
            }
            progress::check(self.pulling.observer)?;
            if is_time(&state) {
                return Ok(state);
            }
            state = wait(&self.needed, state);
        }
    }

    /// Waits on the side of the engine for something that is not ready yet.
    fn wait_for_origin<'s>(
        &self,
        mut state: MutexGuard<'s, State<'a>>,
    ) -> Result<MutexGuard<'s, State<'a>>> {
        match &state.ended {
            Some(Some(error)) => return Err(again(error, self.pulling.origin)),
            Some(None) => return Err(self.pulling.error("found no answer for a block of it")),
            None => {}
        }
        progress::check(self.pulling.observer)?;
        state.waiting += 1;
        self.needed.notify_all();
        let mut state = wait(&self.arrived, state);
        state.waiting -= 1;
        Ok(state)
    }

    fn state(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, with the table open.
    fn begun(&self) -> Result<MutexGuard<'_, State<'a>>> {
        let mut state = self.state();
        if state.table.is_none() {
            state.table = Some(self.pulling.open_table()?);
            self.needed.notify_all();
        }
        Ok(state)
    }

    /// Gets the next piece of the table; false if all of it is known.
    fn more<'s>(
        &self,
        mut state: MutexGuard<'s, State<'a>>,
    ) -> Result<(MutexGuard<'s, State<'a>>, bool)> {
        let State { fetcher, table: Some(table), .. } = &mut *state else {
            return Ok((state, false));
        };
        let (known, end) = (table.known(), table.end());
        if known >= end {
            return Ok((state, false));
        }
        match fetcher {
            Some(fetcher) => {
                let complete = self.pulling.complete_from(table);
                table.add(fetcher.ask(known, end, complete)?)?;
            }
            None => state = self.wait_for_origin(state)?,
        }
        Ok((state, true))
    }

    fn extent(&self, blocks: BlockRange) -> Extent {
        let Pulling { block_size, revision, .. } = self.pulling;
        let end = block_size.offset(blocks.end()).min(revision.size_bytes);
        Extent::between(block_size.offset(blocks.first), end)
    }

    /// Reads blocks into the buffer, which begins at `offset`.
    fn read(&self, wishes: &[Wish], offset: u64, buffer: &mut [u8]) -> Result<()> {
        let size = self.pulling.block_size;
        let mut put = |block: BlockIndex, bytes: &[u8]| {
            let start = (size.offset(block) - offset) as usize;
            let part = buffer.get_mut(start..).and_then(|rest| rest.get_mut(..bytes.len()));
            part.into_iter().for_each(|part| part.copy_from_slice(bytes));
        };
        let mut state = self.state();
        if let Some(mut fetcher) = state.fetcher.take() {
            let mut lost = Vec::new();
            let brought = fetcher.bring(wishes, &mut |brought| {
                for (wish, bytes) in brought {
                    match bytes {
                        Some(bytes) => put(wish.block, &bytes),
                        None => lost.push(wish),
                    }
                }
                Ok(())
            });
            state.fetcher = Some(fetcher);
            lost.into_iter().for_each(|wish| state.lose(wish));
            return brought;
        }
        for &wish in wishes {
            let ready = loop {
                match state.ready.remove(&wish.block) {
                    Some(ready) => break ready,
                    None => state = self.wait_for_origin(state)?,
                }
            };
            match ready {
                Some(bytes) => {
                    put(wish.block, &bytes);
                    state.ready_bytes -= bytes.len() as u64;
                }
                None => state.lose(wish),
            }
        }
        self.needed.notify_all();
        Ok(())
    }
}

impl State<'_> {
    fn know(&mut self, Wish { block, entry }: Wish) {
        self.known.insert(block, KnownBlock { block, entry, is_lost: false });
    }

    fn lose(&mut self, Wish { block, entry }: Wish) {
        self.known.insert(block, KnownBlock { block, entry, is_lost: true });
        self.all_lost.add(BlockRange::one(block));
        if self.all_lost.len() > 2 * MAX_LOST {
            self.all_lost.join_to(MAX_LOST);
        }
    }
}

fn wait<'s, T>(changed: &Condvar, state: MutexGuard<'s, T>) -> MutexGuard<'s, T> {
    let waited = changed.wait_timeout(state, MAX_WAIT);
    waited.unwrap_or_else(PoisonError::into_inner).0
}

/// The same error for one more thread.
fn again(error: &Error, origin: &str) -> Error {
    match error {
        Error::Interrupted => Error::Interrupted,
        Error::Source { path, message } => {
            Error::Source { path: path.clone(), message: message.clone() }
        }
        Error::Origin { name, message } => {
            Error::Origin { name: name.clone(), message: message.clone() }
        }
        Error::NoSuchRevision { message } => Error::NoSuchRevision { message: message.clone() },
        Error::Damaged { path, flaw, .. } => {
            Error::Damaged { path: path.clone(), flaw: flaw.clone(), costs: None }
        }
        Error::Io { path, action, source } => {
            let source = match source.raw_os_error() {
                Some(errno) => std::io::Error::from_raw_os_error(errno),
                None => std::io::Error::new(source.kind(), source.to_string()),
            };
            Error::Io { path: path.clone(), action: action.clone(), source }
        }
        other => Error::Source { path: origin.into(), message: other.to_string() },
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
        let size = self.pulling.block_size;
        let count = self.size_bytes().saturating_sub(offset).min(buffer.len() as u64) as usize;
        let buffer = buffer.get_mut(..count).unwrap_or_default();
        buffer.fill(0);
        let first = size.index(offset);
        let end = BlockIndex(size.count(offset.saturating_add(count as u64)));
        let mut state = self.begun()?;
        let mut wishes = Vec::new();
        for block in (first.0..end.0).map(BlockIndex) {
            while state.table.as_ref().is_some_and(|table| table.known() <= block) {
                let is_more;
                (state, is_more) = self.more(state)?;
                if !is_more {
                    break;
                }
            }
            let Some(table) = &mut state.table else { continue };
            match table.take(block)? {
                Wanted::Nothing => {}
                Wanted::Entry(entry) if entry == TableEntry::LOST => {
                    state.lose(Wish { block, entry });
                }
                Wanted::Entry(entry) => wishes.push(Wish { block, entry }),
            }
        }
        wishes.iter().for_each(|wish| state.know(*wish));
        drop(state);
        if !wishes.is_empty() {
            self.read(&wishes, offset, buffer)?;
        }
        Ok(count)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        let from = self.pulling.block_size.index(offset);
        let mut state = self.begun()?;
        loop {
            let State { table: Some(table), fed_to, .. } = &mut *state else { return Ok(None) };
            let fed_to = *fed_to;
            table.forget_before(from.min(fed_to));
            if let Some(data) = table.next_data(from) {
                return Ok(Some(self.extent(data)));
            }
            let known = table.known();
            if known > from {
                // The next piece is asked for when it is its turn: a block of it may hold data.
                let is_end = known >= table.end();
                return Ok((!is_end).then(|| self.extent(BlockRange::one(known))));
            }
            let is_more;
            (state, is_more) = self.more(state)?;
            if !is_more {
                return Ok(None);
            }
        }
    }

    fn next_changed(&self, offset: u64) -> Result<Option<Extent>> {
        let from = self.pulling.block_size.index(offset);
        let mut state = self.begun()?;
        loop {
            let State { table: Some(table), fed_to, .. } = &mut *state else { return Ok(None) };
            let fed_to = *fed_to;
            table.forget_before(from.min(fed_to));
            if let Some(changed) = table.next_changed(from) {
                return Ok(Some(self.extent(changed)));
            }
            // Nothing that is known lies behind.
            table.forget_before(table.known().min(fed_to));
            let is_more;
            (state, is_more) = self.more(state)?;
            if !is_more {
                return Ok(None);
            }
        }
    }

    fn take_known(&self, blocks: BlockRange) -> Vec<KnownBlock> {
        let known = &mut self.state().known;
        // They were read in one piece.
        let mut taken = known.split_off(&blocks.first);
        known.append(&mut taken.split_off(&blocks.end()));
        taken.into_values().collect()
    }
}
