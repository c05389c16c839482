//! Finds blocks of a delta whose table entries are lost, by their digests.
//!
//! Eight bytes of an L2 table that become zero make a block look as if the delta did not hold it. Its content
//! is still in the file, and its digest in the digest file. Which blocks these are is only believed if the
//! digest of the revision then matches. Their content is then searched for in unreferenced clusters
//! ([`orphans`]) and entered again; at that point the digests and the data are durable. A block whose content
//! is not found is entered as unreadable: that costs this block and not the whole revision.

use std::collections::{HashMap, HashSet};

use super::Scrub;
use super::stored::StoredFile;
use crate::base::digest::{RevisionHasher, TableEntry};
use crate::base::error::Result;
use crate::base::limits::limits;
use crate::base::progress;
use crate::base::units::BlockIndex;
use crate::format::manifest::{BlockRange, Revision};
use crate::format::qcow2::{Cluster, Compressor, Decompressor, Layout};
use crate::image::chain::Chain;
use crate::image::delta::{Delta, DeltaWriter, OldBlock, StoredBlock};
use crate::image::digests::DigestTable;
use crate::image::orphans;
use crate::image::walk;
use crate::storage::DigestsKind;

/// Maximum number of lost entries to search for in one delta.
const MAX_LOST: usize = 1 << 20;
/// Maximum number of entries to digest to find the one block that was zero: about a second.
const MAX_TRIED_ENTRIES: u64 = 1 << 25;
/// A revision with more blocks is not held in memory for that.
const MAX_TRIED_BLOCKS: u64 = 1 << 18;

/// A block with a lost entry, and its digest.
#[derive(Clone, Copy)]
struct Lost {
    block: BlockIndex,
    entry: TableEntry,
}

/// Positions of blocks, by their digests.
type Places = HashMap<[u8; 32], Vec<Cluster>>;

/// What the files say about one block of a delta.
struct Said {
    block: BlockIndex,
    /// Its digest, assuming that the delta's tables are correct.
    entry: TableEntry,
    /// Whether the tables contradict the digests, or say nothing.
    is_lost: bool,
    /// Whether it may be a zero block with a lost entry: the digest file knows nothing about that.
    may_be_zero: bool,
}

/// The evidence: the delta, its digests, and what it reads through to.
struct Evidence {
    delta: Delta,
    table: DigestTable,
    base: Option<Chain>,
    /// The same delta, if the digests of its blocks are computed from the data.
    data: Option<StoredFile>,
}

impl Scrub<'_> {
    /// Enters the lost blocks of a delta again; returns whether there were any. The digest of the revision
    /// then matches, as far as its entries decide that.
    pub(super) fn enter_lost_blocks(&mut self, number: usize, revision: &Revision) -> Result<bool> {
        let lost = match self.lost_blocks(number, revision) {
            Ok(lost) => lost,
            // There is no evidence then.
            Err(error) if error.is_damage() => return Ok(false),
            Err(error) => return Err(error),
        };
        if lost.is_empty() {
            return Ok(false);
        }
        let wanted = lost.iter().map(|lost| lost.entry);
        let wanted = wanted.filter(|entry| !entry.is_zero_block() && *entry != TableEntry::LOST);
        let places = self.find_places(revision, &wanted.map(|entry| entry.0).collect())?;
        self.begin_repair(revision)?;
        let entered = self.enter(revision, &lost, places).and_then(|missing| {
            self.repair_delta(number, revision)?;
            Ok(missing)
        });
        let missing = match entered {
            Ok(missing) => missing,
            // backy does not write to a delta with QEMU's layout.
            Err(error) if error.is_damage() => {
                self.end_repair()?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        if let Some(revision) = self.manifest.revisions.get_mut(number) {
            missing.iter().for_each(|block| revision.findings.add_bad_block(*block));
        }
        self.end_repair()?;
        let name = revision.file().to_string();
        // Problems with its entries, if the entries had any content, were reported already.
        for finding in self.findings.iter_mut().filter(|finding| finding.file == name) {
            finding.repaired = true;
            finding.affected.clear();
        }
        let (all, found) = (lost.len(), lost.len() - missing.len());
        let blocks = if all == 1 { "block" } else { "blocks" };
        let message = format!(
            "L2 table: found no entries of {all} {blocks} that the digests name; entered {found} again by their digests"
        );
        self.find(revision.file(), message, None, true)?;
        Ok(true)
    }

    /// The blocks with lost entries; none if the digest of the revision does not match with them.
    fn lost_blocks(&self, number: usize, revision: &Revision) -> Result<Vec<Lost>> {
        let (size, bytes) = (self.manifest.block_size, revision.size_bytes);
        if revision.is_image() {
            return Ok(Vec::new());
        }
        let base = number.checked_sub(1).filter(|_| revision.base.is_some());
        let mut evidence = Evidence {
            delta: Delta::open(&**self.context.storage, revision.uuid, size, bytes)?,
            table: DigestTable::open(&**self.context.storage, revision.uuid, DigestsKind::Delta)?,
            base: base
                .map(|base| Chain::open(self.context.storage, self.manifest, base))
                .transpose()?,
            data: None,
        };
        for from_data in [false, true] {
            if from_data {
                evidence.data =
                    StoredFile::without_digests(&**self.context.storage, revision, size)?;
            }
            let mut lost = Vec::new();
            let mut hasher = RevisionHasher::new(size, bytes);
            let read = self.for_each_said(&evidence, revision, |said| {
                hasher.push(said.entry);
                if said.is_lost && lost.len() <= MAX_LOST {
                    lost.push(Lost { block: said.block, entry: said.entry });
                }
            });
            match read {
                // An unreadable block has no digest to try.
                Err(error) if from_data && error.is_damage() => break,
                read => read?,
            }
            if lost.len() > MAX_LOST {
                return Ok(Vec::new());
            }
            if hasher.finish() == revision.digest {
                return Ok(lost);
            }
        }
        evidence.data = None;
        self.lost_zero_block(&evidence, revision)
    }

    /// The same for a single lost entry of a zero block, which the digest file knows nothing about: tries
    /// each possible block, unless there are too many.
    fn lost_zero_block(&self, evidence: &Evidence, revision: &Revision) -> Result<Vec<Lost>> {
        let size = self.manifest.block_size;
        let blocks = size.count(revision.size_bytes);
        if blocks > MAX_TRIED_BLOCKS {
            return Ok(Vec::new());
        }
        let mut all = Vec::with_capacity(blocks as usize);
        self.for_each_said(evidence, revision, |said| all.push(said))?;
        let mut left = MAX_TRIED_ENTRIES;
        let mut before = RevisionHasher::new(size, revision.size_bytes);
        for (at, said) in all.iter().enumerate() {
            if said.may_be_zero {
                let rest = all.get(at + 1..).unwrap_or_default();
                let Some(less) = left.checked_sub(rest.len() as u64) else { break };
                left = less;
                progress::check(self.context.observer)?;
                let mut hasher = before.clone();
                hasher.push(TableEntry::ZERO_BLOCK);
                rest.iter().for_each(|said| hasher.push(said.entry));
                if hasher.finish() == revision.digest {
                    let zero = Lost { block: said.block, entry: TableEntry::ZERO_BLOCK };
                    let lost = all.iter().filter(|said| said.is_lost);
                    let lost = lost.map(|said| Lost { block: said.block, entry: said.entry });
                    let mut lost: Vec<Lost> = lost.chain([zero]).collect();
                    lost.sort_unstable_by_key(|lost| lost.block);
                    return Ok(lost);
                }
            }
            before.push(said.entry);
        }
        Ok(Vec::new())
    }

    fn for_each_said(
        &self,
        evidence: &Evidence,
        revision: &Revision,
        mut take: impl FnMut(Said),
    ) -> Result<()> {
        let all = self.all(revision);
        let mut decompressor = Decompressor::new()?;
        for window in all.steps(limits().window_blocks) {
            progress::check(self.context.observer)?;
            let BlockRange { first: next, count } = window;
            let inherited = walk::entries_behind(evidence.base.as_ref(), window)?;
            let entries = evidence.table.read(next, count)?;
            let clusters = evidence.delta.each_entry(next, count)?;
            for ((at, cluster), own) in clusters.into_iter().enumerate().zip(entries) {
                let block = next.plus(at as u64);
                let inherited = inherited.get(at).copied().unwrap_or(TableEntry::ZERO_BLOCK);
                let is_open = cluster == Ok(Cluster::Unallocated);
                // Leftovers of an interrupted merge in the digest file equal what the delta reads anyway.
                let is_lost = match is_open {
                    true => !own.is_zero_block() && own != inherited,
                    false => cluster.is_err(),
                };
                let entry = match (is_open && !is_lost, &evidence.data) {
                    (true, _) => inherited,
                    (false, Some(data)) if !is_lost => {
                        TableEntry::of_block(&data.read_block(block, &mut decompressor)?)
                    }
                    (false, _) => own,
                };
                let may_be_zero = is_open && !is_lost && !inherited.is_zero_block();
                take(Said { block, entry, is_lost, may_be_zero });
            }
        }
        Ok(())
    }

    /// Where the unreferenced clusters of the delta's file contain blocks with these digests.
    fn find_places(&self, revision: &Revision, wanted: &HashSet<[u8; 32]>) -> Result<Places> {
        let (size, bytes) = (self.manifest.block_size, revision.size_bytes);
        let delta = Delta::open(&**self.context.storage, revision.uuid, size, bytes)?;
        let is_ours = delta.header().is_laid_out_as(&Layout::new(size, bytes));
        if wanted.is_empty() || !is_ours {
            return Ok(Places::new());
        }
        let last = BlockIndex(size.count(bytes).saturating_sub(1));
        let last_bytes = size.extent(last, bytes).len as usize;
        orphans::find(&delta, wanted, last_bytes, self.context.observer)
    }

    /// The content of unreferenced blocks with these digests in a revision's delta.
    pub(super) fn unreferenced_blocks(
        &self,
        revision: &Revision,
        wanted: &HashSet<[u8; 32]>,
    ) -> Result<Vec<([u8; 32], Vec<u8>)>> {
        let (size, bytes) = (self.manifest.block_size, revision.size_bytes);
        let mut decompressor = Decompressor::new()?;
        let mut found = Vec::new();
        let delta = Delta::open(&**self.context.storage, revision.uuid, size, bytes)?;
        for (digest, places) in self.find_places(revision, wanted)? {
            let Some(place) = places.first() else { continue };
            let mut content = vec![0; size.len()];
            delta.read_cluster(*place, &mut decompressor, &mut content)?;
            found.push((digest, content));
        }
        Ok(found)
    }

    /// Enters lost blocks at their positions. Returns those that were not found, which are entered as bad.
    fn enter(
        &self,
        revision: &Revision,
        lost: &[Lost],
        mut places: Places,
    ) -> Result<Vec<BlockIndex>> {
        let size = self.manifest.block_size;
        let mut writer =
            DeltaWriter::reopen(&**self.context.storage, revision.uuid, size, revision.size_bytes)?;
        let mut missing = Vec::new();
        for Lost { block, entry } in lost {
            let place = match entry.is_zero_block() {
                true => Some(Cluster::Zero),
                false => places.get_mut(&entry.0).and_then(Vec::pop),
            };
            match place {
                Some(place) => writer.adopt(*block, place),
                None => missing.push(*block),
            }
        }
        if !missing.is_empty() {
            let bad = Compressor::new(1)?.compress_as_bad(&vec![0; size.len()])?;
            let old = |block: &BlockIndex| OldBlock {
                block: *block,
                content: StoredBlock::Compressed(bad.clone()),
            };
            writer.append(&missing.iter().map(old).collect::<Vec<_>>())?;
        }
        writer.sync()?;
        writer.enter()?;
        writer.sync()?;
        Ok(missing)
    }
}
