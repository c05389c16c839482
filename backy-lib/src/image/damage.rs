//! Which blocks of which revisions cannot be read, from what is known about the files.
//!
//! A bad block in a file costs the revision of that file and every older one that reads through to it there; a
//! revision that holds its own copy shields those behind it.

use crate::base::block_ranges::{BlockRange, BlockRanges};
use crate::base::error::Result;
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::progress::{self, Observer};
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::{Findings, Manifest, Revision};
use crate::format::qcow2::Cluster;
use crate::image::delta::Delta;
use crate::image::digests::DigestTable;
use crate::storage::{Access, DigestsKind, FileName, Storage};

/// The most ranges of all revisions together before close ones are joined: a range in the newest may cost every older
/// revision.
const MAX_RANGES: usize = 4 << 20;

/// How many ranges a revision may have in any case.
const FEW_RANGES: usize = 16;

/// For each revision, newest first, the blocks that do not read right. If there are too many ranges, the closest ones
/// are joined, with the blocks between them. Reads tables only where a problem is known.
pub(crate) fn unreadable(storage: &dyn Storage, manifest: &Manifest) -> Result<Vec<Findings>> {
    let present = storage.list()?;
    let mut all: Vec<Findings> = Vec::with_capacity(manifest.revisions.len());
    let mut left = MAX_RANGES;
    for revision in &manifest.revisions {
        let blocks = manifest.block_size.count(revision.size_bytes);
        let there = |name| present.binary_search(&name).is_ok();
        let mut findings = revision.findings.clone();
        let is_flawed = !revision.flaws.is_empty();
        if !there(revision.file())
            || !there(revision.digests_file())
            || is_flawed && !can_be_opened(storage, manifest, revision)?
        {
            findings = whole(blocks);
        } else if let Some(newer) = all.last().filter(|_| !revision.is_standalone()) {
            read_through(storage, manifest.block_size, revision, newer, &mut findings)?;
        }
        findings.bad_blocks.join_to(left.max(FEW_RANGES));
        left = left.saturating_sub(findings.bad_blocks.len());
        all.push(findings);
    }
    Ok(all)
}

/// Which of the bad blocks of the image are damage. In an undo archive these are the ones that it holds, if there are
/// more bad blocks than it left out when it was made; in any other archive all.
pub(crate) fn besides_left_out(
    storage: &dyn Storage,
    manifest: &Manifest,
    bad: &Findings,
) -> Result<Findings> {
    let Some(revision) = manifest.revisions.first().filter(|_| manifest.is_undo()) else {
        return Ok(bad.clone());
    };
    let left_out = manifest.confirmed_damage().get(&revision.uuid).copied().unwrap_or(0);
    if bad.bad_block_count() <= left_out {
        return Ok(Findings::default());
    }
    let image = match storage.open(FileName::IMAGE, Access::Read) {
        Err(error) if error.is_damage() => return Ok(bad.clone()),
        image => image?,
    };
    let (size, mut damaged) = (manifest.block_size, Findings::default());
    for range in &bad.bad_blocks {
        let all = extent(*range, size, revision.size_bytes);
        let mut next = all.offset;
        while let Some(data) = image.next_data(next)?.filter(|data| data.offset < all.end()) {
            let first = size.index(data.offset.max(next));
            let end = BlockIndex(size.count(data.end().min(all.end())));
            damaged.add(BlockRange::between(first, end));
            next = data.end().max(next + 1);
        }
    }
    Ok(damaged)
}

/// The cost of bad blocks in the file of revision `number`: which revisions, by their numbers, cannot be read where;
/// at most `most` of them.
pub(crate) fn costs(
    storage: &dyn Storage,
    manifest: &Manifest,
    number: usize,
    bad: &Findings,
    most: usize,
    observer: &dyn Observer,
) -> Result<Vec<(usize, Findings)>> {
    let mut costs = vec![(number, bad.clone())];
    for (number, revision) in manifest.revisions.iter().enumerate().skip(number + 1) {
        progress::check(observer)?;
        let reads_through = costs.len() < most && !revision.is_standalone();
        let Some((_, newer)) = costs.last().filter(|_| reads_through) else { break };
        let mut findings = Findings::default();
        read_through(storage, manifest.block_size, revision, newer, &mut findings)?;
        if findings.bad_blocks.is_empty() {
            break;
        }
        costs.push((number, findings));
    }
    Ok(costs)
}

/// The bytes of a revision that a range of blocks covers.
pub(crate) fn extent(range: BlockRange, block_size: BlockSize, size_bytes: u64) -> Extent {
    let offset = |block| block_size.offset(block).min(size_bytes);
    Extent::between(offset(range.first), offset(range.end()))
}

/// The most ranges of a file to list one by one.
const MAX_LISTED: usize = 1000;

/// The first ranges; also the number of blocks in the other ranges, and the number of those ranges.
pub(crate) fn listed(bad: &Findings) -> (&[BlockRange], (u64, usize)) {
    let all: &[BlockRange] = &bad.bad_blocks;
    let (listed, others) = all.split_at_checked(MAX_LISTED).unwrap_or((all, &[]));
    let blocks = others.iter().fold(0, |sum: u64, range| sum.saturating_add(range.count));
    (listed, (blocks, others.len()))
}

/// `block 3` or `blocks 3 to 5`.
pub(crate) fn name(range: BlockRange) -> String {
    match range.count {
        1 => format!("block {}", range.first),
        _ => format!("blocks {} to {}", range.first, range.end().0.saturating_sub(1)),
    }
}

/// Whether the headers of a revision's files are whole, so that some of it may be readable.
fn can_be_opened(storage: &dyn Storage, manifest: &Manifest, revision: &Revision) -> Result<bool> {
    let kind = if revision.is_image() { DigestsKind::Image } else { DigestsKind::Delta };
    let opened =
        DigestTable::open(storage, revision.uuid, kind).and_then(|_| match revision.is_image() {
            true => Ok(()),
            false => Delta::open(storage, revision.uuid, manifest.block_size, revision.size_bytes)
                .map(|_| ()),
        });
    match opened {
        Ok(()) => Ok(true),
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error),
    }
}

fn whole(blocks: u64) -> Findings {
    let mut findings = Findings::default();
    findings.add(BlockRange { first: BlockIndex(0), count: blocks });
    findings
}

/// Adds blocks that are bad in the next newer revision and that this one does not hold.
fn read_through(
    storage: &dyn Storage,
    block_size: BlockSize,
    revision: &Revision,
    newer: &Findings,
    findings: &mut Findings,
) -> Result<()> {
    let blocks = block_size.count(revision.size_bytes);
    let all = BlockRange { first: BlockIndex(0), count: blocks };
    let mut inherited: BlockRanges = newer.bad_blocks.within(all).collect();
    if inherited.is_empty() {
        return Ok(());
    }
    let held = match held_blocks(storage, block_size, revision, &inherited) {
        Ok(held) => held,
        Err(error) if error.is_damage() => {
            *findings = whole(blocks);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    inherited.subtract(&held);
    findings.add_all(inherited);
    Ok(())
}

/// Which of the blocks `among` others the file of a revision holds itself. Reads each table once, however many ranges
/// there are.
fn held_blocks(
    storage: &dyn Storage,
    block_size: BlockSize,
    revision: &Revision,
    among: &BlockRanges,
) -> Result<BlockRanges> {
    let delta = Delta::open(storage, revision.uuid, block_size, revision.size_bytes)?;
    let mut held = BlockRanges::default();
    let end = BlockIndex(block_size.count(revision.size_bytes));
    let mut next = BlockIndex(0);
    while let Some(range) = among.next(next) {
        let Some(from) = delta.next_held_block(range.first, end)? else { break };
        let Some(BlockRange { first, .. }) = among.next(from) else { break };
        let window = BlockRange { first, count: limits().walk_blocks };
        let last = among.within(window).last().map_or(first, BlockRange::end);
        let window = BlockRange::between(first, last);
        for (cluster, block) in delta.clusters(first, window.count)?.into_iter().zip(first.0..) {
            if cluster != Cluster::Unallocated && among.contains(BlockIndex(block)) {
                held.add(BlockRange::one(BlockIndex(block)));
            }
        }
        next = window.end();
    }
    Ok(held)
}
