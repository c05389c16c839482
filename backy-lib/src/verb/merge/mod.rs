//! Appending to a delta what it reads from newer revisions, so that these can be deleted.
//!
//! Each step is neutral: the delta reads the same before a block is entered and after it. Data and digests are
//! durable before the entries that refer to them ([`append`](crate::image::append)). Only when everything is in place
//! does the header name another backing file, and only then does the caller publish the manifest. Until then the
//! newer revisions are untouched.
//!
//! Blocks are copied in their stored form, without unpacking them (unless QEMU has rewritten one of the deltas with
//! another compression), and with their digests: a rotten block stays rotten, and a scrub finds it.
//!
//! The cost depends on the deltas that are deleted, not on the size of the others. There is one exception: if a
//! standalone revision is deleted, or one that was shorter than its neighbours, the images before and after it are
//! compared by their digests.

mod goer;
mod standalone;

use std::sync::Arc;

use crate::base::block_ranges::BlockRange;
use crate::base::digest::{RevisionHasher, TableEntry};
use crate::base::error::Result;
use crate::base::limits::limits;
use crate::base::progress::{self, Observer, Phase};
use crate::base::revision::RevisionId;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::{Manifest, Revision};
use crate::format::qcow2::{Backing, Cluster, Compression, Compressor, Decompressor};
use crate::image::append::DeltaExtension;
use crate::image::chain::Chain;
use crate::image::delta::{Delta, OldBlock, StoredBlock, Tables};
use crate::image::digests::DigestTable;
use crate::image::walk;
use crate::policy::plan::{self, Run};
use crate::storage::{DigestsKind, Storage};

pub(crate) use crate::image::append::Appended;
pub(crate) use standalone::{make_standalone, standalone_bytes};

use goer::{Goer, Moved, Slot, entry_of, look_into, unless_damaged};

/// Appends to the delta of revision `into` what it reads from the revisions `gone`, newest first, and points it to
/// the next newer one.
///
/// # Errors
/// [`Error::Plan`](crate::Error::Plan) when `gone` is not the run of revisions between these two: nothing has been
/// written then.
pub(crate) fn absorb(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    gone: &[RevisionId],
    into: RevisionId,
    observer: &dyn Observer,
) -> Result<Appended> {
    let merge = Merge::open(storage, manifest, gone, into, observer)?;
    let mut extension = DeltaExtension::open(&**storage, &merge.older, manifest.block_size)?;
    merge.run(&mut extension, observer)?;
    let appended = extension.finish(Some(merge.backing))?;
    Ok(Appended { is_unproved: merge.trust == Trust::Nothing, ..appended })
}

/// About how many bytes [`absorb`] would append.
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

fn stored_bytes(size: BlockSize, cluster: Cluster) -> u64 {
    match cluster {
        Cluster::Unallocated | Cluster::Zero => 0,
        Cluster::Plain { .. } => size.bytes(),
        Cluster::Compressed { max_bytes, .. } => max_bytes,
    }
}

/// The stored size of a block without content.
const LOST_FRAME_BYTES: u64 = 64;

/// What the merge assumes about goers of which a file is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// A missing delta held the blocks that its digest file names and no zero blocks; a delta without digests holds
    /// what was backed up. With this assumption the digest of the remaining revision comes out.
    Remains,
    /// It does not come out. Blocks that one of them may have held are lost.
    Nothing,
}

struct Merge {
    size: BlockSize,
    /// The revision that remains, and its delta.
    older: Revision,
    delta: Delta,
    /// The revisions that are deleted, the nearest first.
    goers: Vec<Goer>,
    /// The file that it will read through to.
    backing: Backing,
    /// The same as a chain, if digests must be compared with it.
    base: Option<Chain>,
    blocks: BlockIndex,
    trust: Trust,
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
            // Then nobody knows what lies behind the goers.
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

    /// Whether the remains of the goers give the digest of the remaining revision.
    fn comes_out(&self, storage: &dyn Storage, observer: &dyn Observer) -> Result<bool> {
        let own = unless_damaged(DigestTable::open(storage, self.older.uuid, DigestsKind::Delta))?;
        let (Some(own), Some(base)) = (own, &self.base) else { return Ok(false) };
        let mut hasher = RevisionHasher::new(self.size, self.older.size_bytes);
        let all = BlockRange::between(BlockIndex(0), self.blocks);
        for step in all.steps(limits().step_blocks) {
            progress::check(observer)?;
            let clusters = self.delta.clusters(step.first, step.count)?;
            let entries = own.read(step.first, step.count)?;
            let behind = walk::entries_behind(Some(base), step)?;
            let moved = self.found(step)?;
            for (((cluster, own), behind), slot) in
                clusters.into_iter().zip(entries).zip(behind).zip(moved)
            {
                hasher.push(match (cluster, slot) {
                    (Cluster::Unallocated, Slot::Found(moved)) => moved.entry,
                    (Cluster::Unallocated, _) => behind,
                    _ => own,
                });
            }
        }
        Ok(hasher.finish() == self.older.expected_digest())
    }

    /// Whether blocks from a goer are stored unpacked, because one of the two deltas has another compression.
    fn unpacks(&self, goer: usize) -> bool {
        let packed = |delta: &Delta| delta.header().compression == Compression::Zstd;
        let goer = self.goers.get(goer).and_then(|goer| goer.delta.as_ref());
        !packed(&self.delta) || !goer.is_some_and(packed)
    }

    fn run(&self, extension: &mut DeltaExtension, observer: &dyn Observer) -> Result<()> {
        let counters = progress::begin_work(observer, Phase::Merge, self.older.size_bytes)?;
        self.for_each_step(|first, moved| {
            progress::check(observer)?;
            let end = first.plus(moved.len() as u64);
            for (moved, block) in moved.into_iter().zip(first.0..) {
                if let Some(moved) = moved {
                    self.append(extension, BlockIndex(block), moved)?;
                }
            }
            counters.add(self.size.offset(end).saturating_sub(counters.done_bytes()));
            Ok(())
        })?;
        counters.finish();
        Ok(())
    }

    fn append(
        &self,
        extension: &mut DeltaExtension,
        block: BlockIndex,
        moved: Moved,
    ) -> Result<()> {
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
        extension.push(OldBlock { block, content }, moved.entry, bad)
    }

    /// Calls back with the blocks that have to move, a step at a time, with the first block of the step.
    fn for_each_step(
        &self,
        mut take: impl FnMut(BlockIndex, Vec<Option<Moved>>) -> Result<()>,
    ) -> Result<()> {
        let mut next = BlockIndex(0);
        while let Some(first) = self.next_block(next)? {
            let rest = BlockRange::between(first, self.blocks);
            let step = BlockRange { count: rest.count.min(limits().step_blocks), ..rest };
            take(first, self.moved(step)?)?;
            next = step.end();
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
            // If a delta is lost, the merge looks at all blocks.
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

    /// Whether blocks that no goer holds may have to move as well.
    fn looks_at_all(&self) -> bool {
        self.base.is_some() || self.goers.iter().any(Goer::is_lost)
    }

    /// Which of these blocks have to move.
    fn moved(&self, blocks: BlockRange) -> Result<Vec<Option<Moved>>> {
        let slots = self.found(blocks)?;
        let base = match &self.base {
            Some(base) => Some(walk::entries_behind(Some(base), blocks)?),
            None => None,
        };
        let moved = |(at, slot): (usize, Slot)| {
            let there = base.as_ref().and_then(|entries| entries.get(at)).copied();
            match slot {
                // A block that the new base has at the same place need not be stored.
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

    /// What the goers hold of these blocks.
    fn found(&self, blocks: BlockRange) -> Result<Vec<Slot>> {
        let BlockRange { first, count } = blocks;
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

    /// Fills the open slots with the remains of a goer of which a file is lost.
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
                // The digest of the revision proves its content.
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
                // The delta held every block that has a digest.
                (None, _) if !entry.is_zero_block() => slot.fill(Moved { entry, from: None }),
                (None, _) if trusted || goer.standalone && goer.digests.is_some() => {}
                (None, _) => slot.doubt(goer.digests.is_some()),
            }
            if goer.standalone {
                // A block that a standalone revision does not hold is zero.
                slot.fill(Moved::ZERO);
            }
        }
        Ok(())
    }
}
