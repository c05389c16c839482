//! The revisions that a merge deletes, and what they hold of each block.

use crate::base::canary::{Bug, planted};
use crate::base::digest::TableEntry;
use crate::base::error::Result;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::{Flaw, Revision};
use crate::format::qcow2::{Cluster, Decompressor};
use crate::image::delta::{Delta, Tables, read_cut};
use crate::image::digests::DigestTable;
use crate::storage::{DigestsKind, Storage};

/// A revision that the merge deletes. A file of it that cannot be opened is lost; the other file shows, as far as
/// possible, what it held.
pub(super) struct Goer {
    pub(super) delta: Option<Delta>,
    pub(super) digests: Option<DigestTable>,
    pub(super) revision: Revision,
    pub(super) blocks: u64,
    pub(super) standalone: bool,
    /// Somebody has confirmed damage of its delta: blocks that its tables no longer show are lost.
    pub(super) given_up: bool,
}

impl Goer {
    pub(super) fn open(
        storage: &dyn Storage,
        revision: &Revision,
        block_size: BlockSize,
    ) -> Result<Self> {
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

    pub(super) fn is_lost(&self) -> bool {
        self.delta.is_none() || self.digests.is_none()
    }

    /// Where `count` blocks of its delta are; `None` for one whose entry is invalid and has been given up.
    pub(super) fn clusters(
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

pub(super) fn unless_damaged<T>(opened: Result<T>) -> Result<Option<T>> {
    match opened {
        Err(error) if error.is_damage() => Ok(None),
        opened => opened.map(Some),
    }
}

/// A block that the remaining delta takes over.
#[derive(Clone, Copy)]
pub(super) struct Moved {
    pub(super) entry: TableEntry,
    /// The goer that holds it, and where; `None` if it is zero without being held, or lost.
    pub(super) from: Option<(usize, Cluster)>,
}

impl Moved {
    pub(super) const ZERO: Moved = Moved { entry: TableEntry::ZERO_BLOCK, from: None };
    pub(super) const LOST: Moved = Moved { entry: TableEntry::LOST, from: None };
}

/// The digest of the content of a block of a delta; `None` when it cannot be read.
pub(super) fn entry_of(
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
pub(super) enum Slot {
    /// No goer so far holds it.
    Open,
    /// The same, but a lost goer may have held it: as zeros only, or as anything.
    Doubtful {
        maybe_zero: bool,
    },
    /// The remaining delta holds it.
    Held,
    Found(Moved),
}

impl Slot {
    /// Takes what the next goer has, if the slot is open.
    pub(super) fn fill(&mut self, moved: Moved) {
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

    /// A lost goer may have held it, as zeros only or as any content.
    pub(super) fn doubt(&mut self, zero: bool) {
        *self = match *self {
            Slot::Open => Slot::Doubtful { maybe_zero: zero },
            Slot::Doubtful { maybe_zero } => Slot::Doubtful { maybe_zero: maybe_zero && zero },
            closed => closed,
        };
    }

    /// Whether to look into the next goer.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Slot::Open | Slot::Doubtful { .. })
    }
}

/// Fills the open slots with what a goer holds.
pub(super) fn look_into(
    number: usize,
    goer: &Goer,
    (delta, digests): (&Delta, &DigestTable),
    first: BlockIndex,
    slots: &mut [Slot],
) -> Result<()> {
    let inside = goer.blocks.saturating_sub(first.0).min(slots.len() as u64);
    let (within, past) = slots.split_at_mut(inside as usize);
    // Everything past the end of a backing file is zero, however long the next one is.
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
    // Only the digests of blocks that move are read: the table of a large image is long.
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
                // A block that the delta does not hold also has the digest of zeros.
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
