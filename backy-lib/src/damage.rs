//! Which blocks of which revisions cannot be read, from what is known of the files.
//!
//! A bad block in a file costs the revision that the file is of and every older one that reads through to it there; one that
//! holds its own copy shields those behind it.

use crate::error::Result;
use crate::extent::Extent;
use crate::format::manifest::{BlockRange, Findings, Manifest, Revision};
use crate::format::qcow2::Cluster;
use crate::image::delta::Delta;
use crate::limits::limits;
use crate::storage::Storage;
use crate::units::{BlockIndex, BlockSize};

/// For each revision, newest first, the blocks that cannot be read right. Reads tables only where something is known to be
/// wrong.
pub(crate) fn unreadable(storage: &dyn Storage, manifest: &Manifest) -> Result<Vec<Findings>> {
    let present = storage.list()?;
    let mut all: Vec<Findings> = Vec::with_capacity(manifest.revisions.len());
    for revision in &manifest.revisions {
        let blocks = manifest.block_size.count(revision.size_bytes);
        let there = |name| present.binary_search(&name).is_ok();
        let mut findings = revision.findings.clone();
        if !there(revision.file()) || !there(revision.digests_file()) {
            findings = whole(blocks);
        } else if let Some(newer) = all.last().filter(|_| !revision.is_standalone()) {
            read_through(storage, manifest.block_size, revision, newer, &mut findings)?;
        }
        all.push(findings);
    }
    Ok(all)
}

/// What bad blocks in the file of revision `number` cost: which revisions, by their numbers, cannot be read where.
pub(crate) fn costs(
    storage: &dyn Storage,
    manifest: &Manifest,
    number: usize,
    bad: &Findings,
) -> Result<Vec<(usize, Findings)>> {
    let mut costs = vec![(number, bad.clone())];
    for (number, revision) in manifest.revisions.iter().enumerate().skip(number + 1) {
        let Some((_, newer)) = costs.last().filter(|_| !revision.is_standalone()) else { break };
        let mut findings = Findings::default();
        read_through(storage, manifest.block_size, revision, newer, &mut findings)?;
        if findings.bad_blocks.is_empty() {
            break;
        }
        costs.push((number, findings));
    }
    Ok(costs)
}

/// The bytes of a revision that a range of blocks stands for.
pub(crate) fn extent(range: BlockRange, block_size: BlockSize, size_bytes: u64) -> Extent {
    let offset = |block| block_size.offset(block).min(size_bytes);
    Extent::between(offset(range.first), offset(range.end()))
}

fn whole(blocks: u64) -> Findings {
    let range = BlockRange { first: BlockIndex(0), count: blocks };
    Findings { bad_blocks: if blocks > 0 { vec![range] } else { Vec::new() } }
}

/// Adds what is bad in the next newer revision and not held by this one.
fn read_through(
    storage: &dyn Storage,
    block_size: BlockSize,
    revision: &Revision,
    newer: &Findings,
    findings: &mut Findings,
) -> Result<()> {
    let blocks = block_size.count(revision.size_bytes);
    let inherited = newer.bad_blocks.iter().map(|range| {
        let end = BlockIndex(range.end().0.min(blocks));
        BlockRange::between(range.first, end)
    });
    let inherited: Vec<BlockRange> = inherited.filter(|range| range.count > 0).collect();
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
    let mut open = Findings { bad_blocks: inherited };
    held.into_iter().for_each(|range| open.clear(range));
    for range in open.bad_blocks {
        findings.add(range);
    }
    Ok(())
}

fn held_blocks(
    storage: &dyn Storage,
    block_size: BlockSize,
    revision: &Revision,
    ranges: &[BlockRange],
) -> Result<Vec<BlockRange>> {
    let delta = Delta::open(storage, revision.uuid, block_size, revision.size_bytes)?;
    let mut held = Findings::default();
    for range in ranges {
        let mut next = range.first;
        while let Some(first) = delta.next_held_block(next, range.end())? {
            let count = limits().walk_blocks.min(range.end().0 - first.0);
            for (cluster, block) in delta.clusters(first, count)?.into_iter().zip(first.0..) {
                if cluster != Cluster::Unallocated {
                    held.add_bad_block(BlockIndex(block));
                }
            }
            next = first.plus(count);
        }
    }
    Ok(held.bad_blocks)
}
