//! Repairs blocks whose correct bytes are elsewhere in the archive: a block with the same digest is the same
//! block. Only digests that are verified as a whole prove what a block has to contain; others would cause a
//! good block to be overwritten.

use std::collections::{HashMap, HashSet};

use super::report::describe;
use super::{Finding, Scrub};
use crate::base::digest::{Digest, TableEntry};
use crate::base::error::{Error, Result, judged};
use crate::base::limits::limits;
use crate::base::progress::{self, Event};
use crate::base::units::BlockIndex;
use crate::format::manifest::{BlockRange, BlockRanges};
use crate::format::qcow2::{Compressor, Decompressor};
use crate::image::delta::{DeltaWriter, OldBlock, StoredBlock};
use crate::storage::{Access, FileName};

/// How many bad blocks are searched for at a time.
const MAX_WANTED: usize = 65536;

/// Blocks to repair, by the digest that they must have.
type Wanted = HashMap<[u8; 32], Vec<(usize, BlockIndex)>>;

/// Blocks found elsewhere, in ascending order for each revision.
type Found = Vec<(usize, BlockIndex, Vec<u8>)>;

impl Scrub<'_> {
    /// Repairs bad blocks where possible.
    pub(super) fn mend_blocks(&mut self) -> Result<()> {
        let mut wanted = self.wanted()?;
        if wanted.is_empty() {
            return Ok(());
        }
        let mut found = Found::new();
        // A zero block is known without a copy.
        for (number, block) in wanted.remove(&TableEntry::ZERO_BLOCK.0).unwrap_or_default() {
            found.push((number, block, Vec::new()));
        }
        for number in 0..self.manifest.revisions.len() {
            if wanted.is_empty() {
                break;
            }
            self.search(number, &mut wanted, &mut found)?;
        }
        self.search_unreferenced(&mut wanted, &mut found)?;
        found.sort_unstable_by_key(|(number, block, _)| (*number, *block));
        for repairs in found.chunk_by(|a, b| a.0 == b.0) {
            if let Some((number, _, _)) = repairs.first() {
                self.write(*number, repairs)?;
            }
        }
        Ok(())
    }

    /// The bad blocks, by the digests that they must have.
    fn wanted(&self) -> Result<Wanted> {
        let mut wanted = Wanted::new();
        let mut count = 0;
        for (number, revision) in self.manifest.revisions.iter().enumerate() {
            if revision.findings.bad_blocks.is_empty() || !self.vouched.contains(&number) {
                continue;
            }
            let Some(file) = self.stored_file(number)? else { continue };
            for range in &revision.findings.bad_blocks {
                if count >= MAX_WANTED {
                    break;
                }
                let entries = match file.held_entries(*range) {
                    Ok(entries) => entries,
                    Err(error) if error.is_damage() => continue,
                    Err(error) => return Err(error),
                };
                for (entry, block) in entries.into_iter().zip(range.first.0..) {
                    let Some(entry) = entry.filter(|_| count < MAX_WANTED) else { continue };
                    wanted.entry(entry.0).or_default().push((number, BlockIndex(block)));
                    count += 1;
                }
            }
        }
        Ok(wanted)
    }

    /// Searches the digests of one file for wanted blocks.
    fn search(&self, number: usize, wanted: &mut Wanted, found: &mut Found) -> Result<()> {
        let (Some(file), Some(revision)) =
            (self.stored_file(number)?, self.manifest.revisions.get(number))
        else {
            return Ok(());
        };
        let all = self.all(revision);
        let mut decompressor = Decompressor::new()?;
        let mut next = all.first;
        while let Ok(Some(first)) = judged(file.next_stored_block(next, all.end()))? {
            progress::check(self.context.observer)?;
            let end = BlockIndex(first.plus(limits().window_blocks).0.min(all.end().0));
            next = end;
            let held = file.held_entries(BlockRange::between(first, end));
            let Ok(entries) = judged(held)? else { continue };
            for (entry, block) in entries.into_iter().zip(first.0..) {
                let block = BlockIndex(block);
                let Some(entry) = entry.filter(|entry| wanted.contains_key(&entry.0)) else {
                    continue;
                };
                if revision.findings.is_bad(block) {
                    continue;
                }
                let read = file.read_block(block, &mut decompressor);
                let Ok(bytes) = judged(read)? else { continue };
                if entry.matches(&bytes) {
                    for (number, block) in wanted.remove(&entry.0).unwrap_or_default() {
                        found.push((number, block, bytes.clone()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Searches unreferenced clusters for wanted blocks: a wrong entry leaves its block there.
    fn search_unreferenced(&self, wanted: &mut Wanted, found: &mut Found) -> Result<()> {
        let size = self.manifest.block_size;
        for (number, revision) in self.manifest.revisions.iter().enumerate().skip(1) {
            let is_own = |places: &Vec<(usize, BlockIndex)>| places.iter().any(|p| p.0 == number);
            let own = wanted.iter().filter(|(_, places)| is_own(places));
            let own: HashSet<[u8; 32]> = own.map(|(digest, _)| *digest).collect();
            if own.is_empty() {
                continue;
            }
            let blocks = match self.unreferenced_blocks(revision, &own) {
                Ok(blocks) => blocks,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            };
            for (digest, content) in blocks {
                for (number, block) in wanted.remove(&digest).unwrap_or_default() {
                    let Some(revision) = self.manifest.revisions.get(number) else { continue };
                    let bytes = size.extent(block, revision.size_bytes).len as usize;
                    let own = content.get(..bytes).unwrap_or_default();
                    if Digest::of(own).0 == digest {
                        found.push((number, block, own.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes the correct bytes in place of bad ones in the file of one revision.
    fn write(&mut self, number: usize, repairs: &[(usize, BlockIndex, Vec<u8>)]) -> Result<()> {
        let Some(revision) = self.manifest.revisions.get(number).cloned() else { return Ok(()) };
        match revision.is_image() {
            true => match self.write_image(revision.size_bytes, repairs) {
                // They stay bad until the next scrub.
                Err(error @ Error::Locked { .. }) => {
                    self.context
                        .observer
                        .event(&Event::Note(format!("left for the next scrub: {error}")));
                    return Ok(());
                }
                written => written?,
            },
            false => {
                self.begin_repair(&revision)?;
                match self.write_delta(number, repairs) {
                    Ok(()) => {}
                    // backy does not write to a delta with QEMU's layout.
                    Err(error) if error.is_damage() => return self.end_repair(),
                    Err(error) => return Err(error),
                }
            }
        }
        let repaired: BlockRanges =
            repairs.iter().map(|(_, block, _)| BlockRange::one(*block)).collect();
        if let Some(revision) = self.manifest.revisions.get_mut(number) {
            revision.findings.clear_all(&repaired);
            revision.note_rewritten(repaired.iter().copied());
        }
        if !revision.is_image() {
            // The clusters of the bad blocks are unreferenced now.
            self.recount(number, &revision)?;
        }
        for range in repaired {
            self.findings.push(Finding {
                file: revision.file().to_string(),
                blocks: Some(range),
                message: describe(range),
                affected: Vec::new(),
                repaired: true,
            });
        }
        Ok(())
    }

    fn write_image(&self, size_bytes: u64, repairs: &[(usize, BlockIndex, Vec<u8>)]) -> Result<()> {
        let image = self.context.storage.open(FileName::IMAGE, Access::Write)?;
        for (_, block, bytes) in repairs {
            let extent = self.manifest.block_size.extent(*block, size_bytes);
            match bytes.is_empty() {
                true => image.punch_hole(extent)?,
                false => image.write_at(bytes, extent.offset)?,
            }
        }
        image.sync()
    }

    fn write_delta(&self, number: usize, repairs: &[(usize, BlockIndex, Vec<u8>)]) -> Result<()> {
        let Some(revision) = self.manifest.revisions.get(number) else { return Ok(()) };
        let size = self.manifest.block_size;
        let mut writer =
            DeltaWriter::reopen(&**self.context.storage, revision.uuid, size, revision.size_bytes)?;
        let mut compressor = Compressor::new(1)?;
        for (_, block, bytes) in repairs {
            let mut cluster = bytes.clone();
            let content = match cluster.is_empty() {
                true => StoredBlock::Zero,
                false => {
                    cluster.resize(size.len(), 0);
                    compressor.store(&cluster)
                }
            };
            writer.append(&[OldBlock { block: *block, content }])?;
        }
        writer.sync()?;
        writer.enter()?;
        writer.sync()
    }
}
