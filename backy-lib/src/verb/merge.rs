//! Appending to a delta what it has read from newer ones so far, so that these can go.
//!
//! Neutral at every step: the delta reads the same before a block is entered and after it. Data and digests are durable
//! before the entries that refer to them. Only when all is in place does the header name another backing file, and only then
//! does the manifest follow; until it does, the newer revisions are untouched.
//!
//! Blocks are copied in the form in which they are stored, without unpacking them (unless QEMU has made one of the deltas
//! anew with another compression), and with their digests: rot stays what it is and can be told. The cost is that of the deltas that go, whatever the size of the others, with one exception: where a
//! standalone revision goes, or one that was shorter than its neighbours, the images before and after it are compared by
//! their digests.

use std::sync::Arc;

use crate::base::canary::{Bug, planted};
use crate::base::digest::{RevisionHasher, TableEntry};
use crate::base::error::{ErrorKind, Result};
use crate::base::limits::limits;
use crate::base::pipeline;
use crate::base::progress::{self, Observer, Phase};
use crate::base::revision::RevisionId;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::{BlockRange, Flaw, Manifest, Ranges, Revision};
use crate::format::qcow2::{Backing, Cluster, Compression, Compressor, Decompressor};
use crate::image::chain::{Chain, Located, Place};
use crate::image::delta::{Delta, DeltaWriter, OldBlock, StoredBlock, Tables, read_cut};
use crate::image::digests::{DigestTable, DigestWriter};
use crate::policy::plan::{self, Run};
use crate::storage::{DigestsKind, Storage};

/// Stretches of blocks that are told apart, at most.
const MAX_RANGES: usize = 1024;

/// Appends to the delta of revision `into` what it reads from those that are gone afterwards, newest first, and points it to
/// the one before these.
///
/// # Errors
/// [`Error::Plan`](crate::Error::Plan) when the chain says otherwise.
pub(crate) fn absorb(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    gone: &[RevisionId],
    into: RevisionId,
    observer: &dyn Observer,
) -> Result<Appended> {
    let merge = Merge::open(storage, manifest, gone, into, observer)?;
    let mut appender = Appender::open(&**storage, &merge.older, manifest.block_size)?;
    merge.run(&mut appender, observer)?;
    let appended = appender.finish(Some(merge.backing))?;
    Ok(Appended { is_unproved: merge.trust == Trust::Nothing, ..appended })
}

/// About how many bytes the same would append.
pub(crate) fn needed_bytes(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    gone: &[RevisionId],
    into: RevisionId,
    observer: &dyn Observer,
) -> Result<u64> {
    let merge = Merge::open(storage, manifest, gone, into, observer)?;
    let mut bytes = 0;
    merge.for_each_step(|_, moved| {
        progress::check(observer)?;
        let stored = moved.into_iter().flatten().map(|moved| match moved.from {
            Some((goer, Cluster::Compressed { .. })) if merge.unpacks(goer) => merge.size.bytes(),
            Some((_, cluster)) => stored_bytes(merge.size, cluster),
            None if moved.entry.is_zero_block() => 0,
            None => LOST_FRAME_BYTES,
        });
        bytes += stored.sum::<u64>();
        Ok(())
    })?;
    Ok(bytes)
}

/// About how many bytes would be appended to make a revision standalone; blocks of the image count in full.
pub(crate) fn standalone_bytes(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    number: usize,
    observer: &dyn Observer,
) -> Result<u64> {
    let chain = Chain::open(storage, manifest, number)?;
    let size = manifest.block_size;
    let mut windows = Windows { chain: &chain, next: BlockIndex(0), located: Vec::new() };
    let mut bytes = 0;
    while let Some((_, located)) = windows.next_piece()? {
        progress::check(observer)?;
        let stored = located.iter().map(|located| match located.place {
            Place::Zero | Place::Layer(0, _) | Place::Lost => 0,
            Place::Layer(_, cluster) => stored_bytes(size, cluster),
            Place::Image => size.bytes(),
        });
        bytes += stored.sum::<u64>();
    }
    Ok(bytes)
}

fn stored_bytes(size: BlockSize, cluster: Cluster) -> u64 {
    match cluster {
        Cluster::Unallocated | Cluster::Zero => 0,
        Cluster::Plain { .. } => size.bytes(),
        Cluster::Compressed { max_bytes, .. } => max_bytes,
    }
}

/// What the stored form of a block without content takes.
const LOST_FRAME_BYTES: u64 = 64;

/// A delta that is to go. What of it cannot be opened is lost, and what it held is found out from the rest, as far as that goes.
struct Goer {
    delta: Option<Delta>,
    digests: Option<DigestTable>,
    revision: Revision,
    blocks: u64,
    standalone: bool,
    /// Somebody has confirmed that there is something wrong with its delta: what the tables do not say any more is lost.
    given_up: bool,
}

impl Goer {
    fn open(storage: &dyn Storage, revision: &Revision, block_size: BlockSize) -> Result<Self> {
        let (id, bytes) = (revision.uuid, revision.size_bytes);
        let file = revision.file().to_string();
        let is_confirmed = |flaw: &Flaw| flaw.confirmed.is_some() && flaw.file == file;
        Ok(Goer {
            delta: unless_damaged(Delta::open(storage, id, block_size, bytes))?,
            digests: unless_damaged(DigestTable::open(storage, id, DigestsKind::Delta))?,
            revision: revision.clone(),
            blocks: block_size.count(bytes),
            standalone: revision.is_standalone(),
            given_up: revision.flaws.iter().any(is_confirmed),
        })
    }

    fn is_lost(&self) -> bool {
        self.delta.is_none() || self.digests.is_none()
    }

    /// Where `count` blocks of its delta are; none for one whose entry makes no sense and has been given up.
    fn clusters(
        &self,
        delta: &Delta,
        first: BlockIndex,
        count: u64,
    ) -> Result<Vec<Option<Cluster>>> {
        if !self.given_up {
            return Ok(delta.clusters(first, count)?.into_iter().map(Some).collect());
        }
        let mut clusters = vec![Some(Cluster::Unallocated); count as usize];
        for (block, cluster) in delta.held_leniently(Tables::AsFound, first, count)? {
            if let Some(slot) = clusters.get_mut((block.0 - first.0) as usize) {
                *slot = cluster;
            }
        }
        Ok(clusters)
    }
}

fn unless_damaged<T>(opened: Result<T>) -> Result<Option<T>> {
    match opened {
        Err(error) if error.is_damage() => Ok(None),
        opened => opened.map(Some),
    }
}

/// What is believed of goers that are lost in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// A delta that is gone held what its digests name and no zeros, and a delta without digests holds what was backed up: the digest
    /// of the revision that stays comes out then.
    Remains,
    /// It does not. What one of them may have held is lost.
    Nothing,
}

struct Merge {
    size: BlockSize,
    /// The revision that stays, and its delta.
    older: Revision,
    delta: Delta,
    /// Those that go, the nearest first.
    goers: Vec<Goer>,
    /// What it will read through to.
    backing: Backing,
    /// The same as a chain, when it has to be compared.
    base: Option<Chain>,
    blocks: BlockIndex,
    trust: Trust,
}

/// A block that has to be appended.
#[derive(Clone, Copy)]
struct Moved {
    entry: TableEntry,
    /// Which goer holds it where; none when it is zero without being held, or lost.
    from: Option<(usize, Cluster)>,
}

impl Moved {
    const ZERO: Moved = Moved { entry: TableEntry::ZERO_BLOCK, from: None };
    const LOST: Moved = Moved { entry: TableEntry::LOST, from: None };
}

impl Merge {
    fn open(
        storage: &Arc<dyn Storage>,
        manifest: &Manifest,
        gone: &[RevisionId],
        into: RevisionId,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let revisions = &manifest.revisions;
        let run = plan::run(revisions, gone, into)?;
        let Run { into: (number, older), base: (base_number, base) } = run;
        let size = manifest.block_size;
        let mut goers = Vec::new();
        for revision in revisions.get(base_number + 1..number).unwrap_or_default().iter().rev() {
            goers.push(Goer::open(&**storage, revision, size)?);
            if revision.is_standalone() {
                break;
            }
        }
        let blocks = size.count(older.size_bytes);
        let shared = blocks.min(size.count(base.size_bytes));
        let is_lost = goers.iter().any(Goer::is_lost);
        let compared = is_lost || goers.iter().any(|goer| goer.standalone || goer.blocks < shared);
        let backing = if base.is_image() { Backing::IMAGE } else { Backing::delta(base.uuid) };
        let base = match compared.then(|| Chain::open(storage, manifest, base_number)) {
            // Then nothing is said of what lies behind the goers.
            Some(Err(error)) if is_lost && error.is_damage() => None,
            base => base.transpose()?,
        };
        let mut merge = Merge {
            size,
            older: older.clone(),
            delta: Delta::open(&**storage, older.uuid, size, older.size_bytes)?,
            goers,
            backing,
            base,
            blocks: BlockIndex(blocks),
            trust: Trust::Remains,
        };
        if is_lost && !merge.comes_out(&**storage, observer)? {
            merge.trust = Trust::Nothing;
        }
        Ok(merge)
    }

    /// Whether the digest of the revision that stays comes out with what is left of the goers.
    fn comes_out(&self, storage: &dyn Storage, observer: &dyn Observer) -> Result<bool> {
        let own = unless_damaged(DigestTable::open(storage, self.older.uuid, DigestsKind::Delta))?;
        let (Some(own), Some(base)) = (own, &self.base) else { return Ok(false) };
        let mut hasher = RevisionHasher::new(self.size, self.older.size_bytes);
        let mut next = BlockIndex(0);
        while next < self.blocks {
            progress::check(observer)?;
            let count = limits().step_blocks.min(self.blocks.0 - next.0);
            let clusters = self.delta.clusters(next, count)?;
            let entries = own.read(next, count)?;
            let mut behind = base.locate(next, count)?;
            behind.resize(count as usize, Located::ZERO);
            let moved = self.found(next, count)?;
            for (((cluster, own), behind), slot) in
                clusters.into_iter().zip(entries).zip(behind).zip(moved)
            {
                hasher.push(match (cluster, slot) {
                    (Cluster::Unallocated, Slot::Found(moved)) => moved.entry,
                    (Cluster::Unallocated, _) => behind.entry,
                    _ => own,
                });
            }
            next = next.plus(count);
        }
        Ok(hasher.finish() == self.older.expected_digest())
    }

    /// Whether blocks that come from a goer are stored as they are, because one of the two is of another compression.
    fn unpacks(&self, goer: usize) -> bool {
        let packed = |delta: &Delta| delta.header().compression == Compression::Zstd;
        let goer = self.goers.get(goer).and_then(|goer| goer.delta.as_ref());
        !packed(&self.delta) || !goer.is_some_and(packed)
    }

    fn run(&self, appender: &mut Appender, observer: &dyn Observer) -> Result<()> {
        let counters = progress::begin_work(observer, Phase::Merge, self.older.size_bytes)?;
        self.for_each_step(|first, moved| {
            progress::check(observer)?;
            let end = first.plus(moved.len() as u64);
            for (moved, block) in moved.into_iter().zip(first.0..) {
                if let Some(moved) = moved {
                    self.append(appender, BlockIndex(block), moved)?;
                }
            }
            counters.add(self.size.offset(end).saturating_sub(counters.done_bytes()));
            Ok(())
        })?;
        counters.finish();
        Ok(())
    }

    fn append(&self, appender: &mut Appender, block: BlockIndex, moved: Moved) -> Result<()> {
        let from = moved.from.and_then(|(goer, cluster)| Some((self.goers.get(goer)?, cluster)));
        let (content, bad) = match from {
            Some((Goer { delta: Some(delta), revision, .. }, cluster)) => {
                (delta.read_stored(cluster)?, revision.findings.is_bad(block))
            }
            _ if moved.entry.is_zero_block() => (StoredBlock::Zero, false),
            _ => {
                let frame = Compressor::new(1)?.compress_as_bad(&vec![0; self.size.len()])?;
                (StoredBlock::Compressed(frame), true)
            }
        };
        appender.push(OldBlock { block, content }, moved.entry, bad)
    }

    /// Hands out what has to move, a step at a time, with the first block of the step.
    fn for_each_step(
        &self,
        mut take: impl FnMut(BlockIndex, Vec<Option<Moved>>) -> Result<()>,
    ) -> Result<()> {
        let mut next = BlockIndex(0);
        while let Some(first) = self.next_block(next)? {
            let count = limits().step_blocks.min(self.blocks.0 - first.0);
            take(first, self.moved(first, count)?)?;
            next = first.plus(count);
        }
        Ok(())
    }

    /// The first block at or after `from` that may have to move.
    fn next_block(&self, from: BlockIndex) -> Result<Option<BlockIndex>> {
        if self.looks_at_all() {
            return Ok((from < self.blocks).then_some(from));
        }
        let mut next = None;
        for goer in &self.goers {
            // Where one is lost all blocks are looked at, see `Merge::open`.
            let Some(delta) = &goer.delta else { return Ok(Some(from)) };
            let end = next.unwrap_or(self.blocks);
            next = match goer.given_up {
                true => delta.next_held_leniently(Tables::AsFound, from, end)?,
                false => delta.next_held_block(from, end)?,
            }
            .or(next);
        }
        Ok(next)
    }

    /// Whether there is more to look at than what the goers hold.
    fn looks_at_all(&self) -> bool {
        self.base.is_some() || self.goers.iter().any(Goer::is_lost)
    }

    /// Which of `count` blocks have to move.
    fn moved(&self, first: BlockIndex, count: u64) -> Result<Vec<Option<Moved>>> {
        let slots = self.found(first, count)?;
        let base = match &self.base {
            Some(base) => Some(base.locate(first, count)?),
            None => None,
        };
        let moved = |(at, slot): (usize, Slot)| {
            let there = base.as_ref().map(|located| {
                located.get(at).map_or(TableEntry::ZERO_BLOCK, |located: &Located| located.entry)
            });
            match slot {
                // What the new base has at the same place need not be stored.
                Slot::Found(moved) => (there != Some(moved.entry)).then_some(moved),
                // It may have been held as zeros, which does not matter if it is zero behind.
                Slot::Doubtful { maybe_zero: true } if there == Some(TableEntry::ZERO_BLOCK) => {
                    None
                }
                Slot::Doubtful { .. } => Some(Moved::LOST),
                Slot::Open | Slot::Held => None,
            }
        };
        Ok(slots.into_iter().enumerate().map(moved).collect())
    }

    /// What the goers say of `count` blocks.
    fn found(&self, first: BlockIndex, count: u64) -> Result<Vec<Slot>> {
        let mut slots: Vec<Slot> = vec![Slot::Open; count as usize];
        let held = self.delta.clusters(first, count)?;
        for (slot, cluster) in slots.iter_mut().zip(held) {
            if cluster != Cluster::Unallocated {
                *slot = Slot::Held;
            }
        }
        for (number, goer) in self.goers.iter().enumerate() {
            match (&goer.delta, &goer.digests) {
                (Some(delta), Some(digests)) => {
                    look_into(number, goer, (delta, digests), first, &mut slots)?;
                }
                _ => self.look_into_lost(number, goer, first, &mut slots)?,
            }
        }
        Ok(slots)
    }

    /// Fills the open slots with what is left of a goer of which a file is lost.
    fn look_into_lost(
        &self,
        number: usize,
        goer: &Goer,
        first: BlockIndex,
        slots: &mut [Slot],
    ) -> Result<()> {
        let trusted = self.trust == Trust::Remains;
        let inside = goer.blocks.saturating_sub(first.0).min(slots.len() as u64);
        let clusters = match &goer.delta {
            Some(delta) => goer.clusters(delta, first, inside)?,
            None => vec![Some(Cluster::Unallocated); inside as usize],
        };
        let entries = match &goer.digests {
            Some(digests) => digests.read(first, inside)?,
            None => vec![TableEntry::ZERO_BLOCK; inside as usize],
        };
        let mut decompressor = Decompressor::new()?;
        let (within, past) = slots.split_at_mut(inside as usize);
        // Past the end of a backing file everything is zero.
        past.iter_mut().for_each(|slot| slot.fill(Moved::ZERO));
        let known = clusters.into_iter().zip(entries);
        for ((slot, (cluster, entry)), block) in within.iter_mut().zip(known).zip(first.0..) {
            if !slot.is_open() {
                continue;
            }
            match (&goer.delta, cluster) {
                (Some(_), Some(Cluster::Unallocated)) => {}
                // Its content is believed if the digest comes out with it.
                (Some(delta), Some(cluster)) if trusted => {
                    let size_bytes = goer.revision.size_bytes;
                    let extent = self.size.extent(BlockIndex(block), size_bytes);
                    let entry = entry_of(delta, cluster, self.size, extent.len, &mut decompressor)?;
                    slot.fill(match entry {
                        Some(entry) => Moved { entry, from: Some((number, cluster)) },
                        None => Moved::LOST,
                    });
                }
                (Some(_), _) => slot.fill(Moved::LOST),
                // What has a digest was held.
                (None, _) if !entry.is_zero_block() => slot.fill(Moved { entry, from: None }),
                (None, _) if trusted || goer.standalone && goer.digests.is_some() => {}
                (None, _) => slot.doubt(goer.digests.is_some()),
            }
            if goer.standalone {
                // What a standalone revision does not hold is zero.
                slot.fill(Moved::ZERO);
            }
        }
        Ok(())
    }
}

/// The digest of the content of a block of a delta; none when it cannot be read.
fn entry_of(
    delta: &Delta,
    cluster: Cluster,
    size: BlockSize,
    bytes: u64,
    decompressor: &mut Decompressor,
) -> Result<Option<TableEntry>> {
    let mut content = vec![0; bytes as usize];
    match read_cut(delta, cluster, size, decompressor, &mut content) {
        Ok(()) => Ok(Some(TableEntry::of_block(&content))),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    }
}

#[derive(Clone, Copy)]
enum Slot {
    /// Not held by those looked at so far.
    Open,
    /// The same, but one of them that is lost may have held it: as zeros, or whatever it was.
    Doubtful {
        maybe_zero: bool,
    },
    /// Held by the one that stays.
    Held,
    Found(Moved),
}

impl Slot {
    /// Takes what is found behind, if it is open.
    fn fill(&mut self, moved: Moved) {
        *self = match *self {
            Slot::Open => Slot::Found(moved),
            // Held as zeros or not, it is zero.
            Slot::Doubtful { maybe_zero: true } if moved.entry.is_zero_block() => {
                Slot::Found(moved)
            }
            Slot::Doubtful { .. } => Slot::Found(Moved::LOST),
            closed => closed,
        };
    }

    /// One that is lost may have held it, as zeros or as anything.
    fn doubt(&mut self, zero: bool) {
        *self = match *self {
            Slot::Open => Slot::Doubtful { maybe_zero: zero },
            Slot::Doubtful { maybe_zero } => Slot::Doubtful { maybe_zero: maybe_zero && zero },
            closed => closed,
        };
    }

    /// Whether those behind have to be asked.
    fn is_open(self) -> bool {
        matches!(self, Slot::Open | Slot::Doubtful { .. })
    }
}

/// Fills the open slots with what a goer says of them.
fn look_into(
    number: usize,
    goer: &Goer,
    (delta, digests): (&Delta, &DigestTable),
    first: BlockIndex,
    slots: &mut [Slot],
) -> Result<()> {
    let inside = goer.blocks.saturating_sub(first.0).min(slots.len() as u64);
    let (within, past) = slots.split_at_mut(inside as usize);
    // Past the end of a backing file everything is zero, however long the next one is.
    let close = |slots: &mut [Slot]| slots.iter_mut().for_each(|slot| slot.fill(Moved::ZERO));
    if !planted(Bug::ForgottenEnd) {
        close(past);
    }
    let clusters = goer.clusters(delta, first, inside)?;
    let wanted = |(slot, cluster): (&Slot, &Option<Cluster>)| {
        slot.is_open() && *cluster != Some(Cluster::Unallocated)
    };
    let wanted: Vec<bool> = within.iter().zip(&clusters).map(wanted).collect();
    let mut at = 0;
    // Digests only of what moves: the table of a large image is not read for a few blocks.
    for run in wanted.chunk_by(|a, b| a == b) {
        let (from, to) = (at, at + run.len());
        at = to;
        if run.first() != Some(&true) {
            continue;
        }
        let entries = digests.read(first.plus(from as u64), run.len() as u64)?;
        let slots = within.get_mut(from..to).unwrap_or_default();
        let clusters = clusters.get(from..to).unwrap_or_default();
        for ((slot, cluster), entry) in slots.iter_mut().zip(clusters).zip(entries) {
            slot.fill(match cluster {
                Some(cluster) => Moved { entry, from: Some((number, *cluster)) },
                // Blocks that the delta does not hold have the digest of zeros, too.
                None if entry.is_zero_block() => Moved::LOST,
                None => Moved { entry, from: None },
            });
        }
    }
    if goer.standalone {
        close(within);
    }
    Ok(())
}

/// Appends to the delta of revision `number` all that it reads from newer ones, so that it needs none of them.
pub(crate) fn make_standalone(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    number: usize,
    level: i32,
    threads: Option<usize>,
    observer: &dyn Observer,
) -> Result<Appended> {
    let chain = Chain::open(storage, manifest, number)?;
    chain.verify_digests(observer)?;
    let size = manifest.block_size;
    let counters = progress::begin_work(observer, Phase::Merge, chain.revision().size_bytes)?;
    let mut appender = Appender::open(&**storage, chain.revision(), size)?;
    let workers = (0..pipeline::threads(threads))
        .map(|_| Ok((Compressor::new(level)?, Decompressor::new()?)))
        .collect::<Result<Vec<_>>>()?;
    let mut windows = Windows { chain: &chain, next: BlockIndex(0), located: Vec::new() };
    pipeline::run(
        workers,
        || {
            progress::check(observer)?;
            windows.next_piece()
        },
        |(compressor, decompressor), (first, located)| {
            let stored = store_piece(&chain, first, &located, compressor, decompressor)?;
            Ok((first.plus(located.len() as u64), stored))
        },
        |(end, stored)| {
            for (block, entry, bad) in stored {
                appender.push(block, entry, bad)?;
            }
            let done = size.offset(end).min(chain.revision().size_bytes);
            counters.add(done.saturating_sub(counters.done_bytes()));
            Ok(())
        },
    )?;
    counters.finish();
    appender.finish(None)
}

/// Cuts a chain into pieces, leaving out what is zero.
struct Windows<'a> {
    chain: &'a Chain,
    next: BlockIndex,
    located: Vec<Located>,
}

impl Windows<'_> {
    fn next_piece(&mut self) -> Result<Option<(BlockIndex, Vec<Located>)>> {
        if self.located.is_empty() {
            let Some(first) = self.chain.next_data_block(self.next)? else { return Ok(None) };
            self.next = first;
            self.located = self.chain.locate(first, limits().window_blocks)?;
        }
        let first = self.next;
        let rest = self.located.split_off(limits().piece_blocks.min(self.located.len()));
        let piece = std::mem::replace(&mut self.located, rest);
        self.next = first.plus(piece.len() as u64);
        Ok(Some((first, piece)))
    }
}

/// The stored form of those blocks that are not in the revision's own delta.
fn store_piece(
    chain: &Chain,
    first: BlockIndex,
    located: &[Located],
    compressor: &mut Compressor,
    decompressor: &mut Decompressor,
) -> Result<Vec<(OldBlock, TableEntry, bool)>> {
    let size = chain.block_size();
    let mut stored = Vec::new();
    for (located, block) in located.iter().zip(first.0..) {
        let block = BlockIndex(block);
        if matches!(located.place, Place::Zero | Place::Layer(0, _)) {
            continue;
        }
        let mut cluster = vec![0; size.len()];
        let bytes = size.extent(block, chain.revision().size_bytes).len as usize;
        let part = cluster.get_mut(..bytes).unwrap_or_default();
        let read = chain.read(block, std::slice::from_ref(located), decompressor, part);
        let (content, bad) = match read {
            Ok(()) => (compressor.store(&cluster), false),
            Err(error) if error.kind() == ErrorKind::Damaged => {
                (StoredBlock::Compressed(compressor.compress_as_bad(&cluster)?), true)
            }
            Err(error) => return Err(error),
        };
        stored.push((OldBlock { block, content }, located.entry, bad));
    }
    Ok(stored)
}

/// Appends blocks to a delta and its digests, batch by batch, each durable before the next begins.
pub(crate) struct Appender {
    writer: DeltaWriter,
    digests: DigestWriter,
    batch: Vec<OldBlock>,
    batch_bytes: usize,
    bad_blocks: Vec<BlockIndex>,
    blocks: Ranges,
}

/// The blocks that came over.
#[derive(Debug, Default)]
pub(crate) struct Appended {
    /// Those that are known to be bad, or could not be read right.
    pub(crate) bad_blocks: Vec<BlockIndex>,
    /// All of them, as few ranges, and maybe some in between.
    pub(crate) blocks: Vec<BlockRange>,
    /// Whether entries are among the bad ones that nothing proves, so that the digest of the revision no longer comes out.
    pub(crate) is_unproved: bool,
}

impl Appender {
    pub(crate) fn open(
        storage: &dyn Storage,
        revision: &Revision,
        block_size: BlockSize,
    ) -> Result<Self> {
        Ok(Appender {
            digests: DigestWriter::reopen(storage, revision.uuid)?,
            writer: DeltaWriter::reopen(storage, revision.uuid, block_size, revision.size_bytes)?,
            batch: Vec::new(),
            batch_bytes: 0,
            bad_blocks: Vec::new(),
            blocks: Ranges::with_limit(MAX_RANGES),
        })
    }

    /// Takes the next block, in ascending order. `bad`: its content is known not to be what was backed up.
    pub(crate) fn push(&mut self, block: OldBlock, entry: TableEntry, bad: bool) -> Result<()> {
        self.digests.push(block.block, entry)?;
        self.blocks.push(BlockRange { first: block.block, count: 1 });
        if bad && !planted(Bug::LostFindings) {
            self.bad_blocks.push(block.block);
        }
        // An entry of eight bytes has its cost as well.
        self.batch_bytes += block.content.bytes() + size_of::<OldBlock>();
        self.batch.push(block);
        if self.batch_bytes >= limits().batch_bytes { self.flush() } else { Ok(()) }
    }

    /// Data and digests, durable; then the entries, durable.
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
        self.digests.sync()?;
        self.writer.sync()?;
        self.writer.enter()?;
        self.writer.sync()
    }

    /// Completes the delta, with this backing file from now on.
    pub(crate) fn finish(mut self, backing: Option<Backing>) -> Result<Appended> {
        self.flush()?;
        self.writer.finish_with(backing)?;
        let blocks = self.blocks.finish();
        Ok(Appended { bad_blocks: self.bad_blocks, blocks, is_unproved: false })
    }
}
