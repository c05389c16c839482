//! Adds up what the workers found, in the order of the image.

use super::{ChunkKind, Outcome, Scan};
use crate::base::digest::{DIGEST_BYTES, Digest, RevisionHasher, TableEntry};
use crate::base::error::{Error, Result};
use crate::base::progress::Observer;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::digests::HEADER_BYTES;
use crate::format::manifest::{BlockRange, BlockRanges, Findings, Revision};
use crate::storage::{DigestsKind, FileName, Storage};

/// The total result of a scan.
pub(in crate::verb::backup) struct Scanned {
    /// Digest of the new revision.
    pub digest: Digest,
    /// What it would be with the entries that lost blocks should have.
    pub claimed_digest: Digest,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// Bytes of data that were not read, because the source reports that they have not changed.
    pub skipped_bytes: u64,
    /// Bytes in changed blocks, including those that were cut off.
    pub changed_bytes: u64,
    /// What happened to the data of the newest revision.
    pub fate: Fate,
    /// How many more bytes of data the image and its digests have than before, in whole blocks.
    pub growth_bytes: i64,
    /// Problems of the new image: blocks whose right content the source does not know, and those that were known to
    /// be bad in the newest revision and are not replaced.
    pub findings: Findings,
}

/// What became of the data of a revision in the next one.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::verb::backup) struct Fate {
    /// Bytes in blocks that were not zero.
    pub had_bytes: u64,
    /// Those whose blocks now have other content.
    pub replaced_bytes: u64,
    /// Those that are now zero, or behind the new end.
    pub lost_bytes: u64,
}

/// Adds up the outcomes, in order. Also checks that the digests of the newest revision are those recorded, because
/// they decide what counts as changed.
pub(in crate::verb::backup) struct Tally {
    new: RevisionHasher,
    /// The newest revision's digest so far, from the first entry on in which it differs.
    old: Option<RevisionHasher>,
    has_old: bool,
    /// The digest with the entries that lost blocks should have, from the first of them on.
    claimed: Option<RevisionHasher>,
    new_blocks: u64,
    old_blocks: u64,
    read_bytes: u64,
    skipped_bytes: u64,
    changed_bytes: u64,
    block_size: BlockSize,
    fate: Fate,
    /// Bytes in blocks of the new revision that are not zero.
    data_bytes: u64,
    known_bad: BlockRanges,
    findings: Findings,
}

impl Tally {
    pub(in crate::verb::backup) fn new(scan: &Scan<'_>) -> Self {
        let new_bytes = scan.source.size_bytes();
        let old_bytes = scan.old.map(|old| old.size_bytes);
        let same_size = old_bytes == Some(new_bytes);
        Tally {
            new: RevisionHasher::new(scan.block_size, new_bytes),
            old: old_bytes
                .filter(|_| !same_size)
                .map(|bytes| RevisionHasher::new(scan.block_size, bytes)),
            has_old: old_bytes.is_some(),
            claimed: None,
            new_blocks: scan.new_blocks,
            old_blocks: scan.old.map_or(0, |old| old.blocks),
            read_bytes: 0,
            skipped_bytes: 0,
            changed_bytes: 0,
            block_size: scan.block_size,
            fate: Fate::default(),
            data_bytes: 0,
            known_bad: scan.old.map(|old| old.known.bad_blocks.clone()).unwrap_or_default(),
            findings: Findings::default(),
        }
    }

    /// # Errors
    /// [`Error::Interrupted`].
    pub(in crate::verb::backup) fn take(
        &mut self,
        outcome: &Outcome,
        observer: &dyn Observer,
    ) -> Result<()> {
        self.read_bytes += outcome.read_bytes;
        self.changed_bytes += outcome.changed_bytes;
        let data_bytes = |entries: &[TableEntry]| {
            let data = entries.iter().filter(|entry| !entry.is_zero_block()).count();
            data as u64 * self.block_size.bytes()
        };
        self.fate.had_bytes += data_bytes(&outcome.old_entries);
        self.data_bytes += data_bytes(&outcome.entries);
        self.fate.replaced_bytes += outcome.replaced_bytes;
        self.fate.lost_bytes += outcome.lost_bytes;
        let chunk = outcome.chunk;
        if chunk.kind == ChunkKind::Unchanged {
            self.skipped_bytes += outcome.data_bytes;
        }
        if chunk.kind == ChunkKind::Void {
            let within = |blocks: u64| blocks.saturating_sub(chunk.first.0).min(chunk.blocks);
            self.new.push_zero_blocks(within(self.new_blocks), observer)?;
            if let Some(claimed) = &mut self.claimed {
                claimed.push_zero_blocks(within(self.new_blocks), observer)?;
            }
            if let Some(old) = &mut self.old {
                old.push_zero_blocks(within(self.old_blocks), observer)?;
            }
            return Ok(());
        }
        if self.has_old && self.old.is_none() && outcome.entries != outcome.old_entries {
            // Up to here both are the same.
            self.old = Some(self.new.clone());
        }
        self.take_claimed(outcome);
        outcome.entries.iter().for_each(|entry| self.new.push(*entry));
        self.take_findings(outcome);
        if let Some(old) = &mut self.old {
            outcome.old_entries.iter().for_each(|entry| old.push(*entry));
        }
        Ok(())
    }

    fn take_claimed(&mut self, outcome: &Outcome) {
        if self.claimed.is_none() && !outcome.claimed.is_empty() {
            self.claimed = Some(self.new.clone());
        }
        let Some(hasher) = &mut self.claimed else { return };
        let mut claimed = outcome.claimed.iter().peekable();
        for (entry, at) in outcome.entries.iter().zip(outcome.chunk.first.0..) {
            let known = claimed.next_if(|(block, _)| block.0 == at);
            hasher.push(known.map_or(*entry, |(_, known)| *known));
        }
    }

    fn take_findings(&mut self, outcome: &Outcome) {
        let chunk = outcome.chunk;
        let end = chunk.first.plus(chunk.blocks);
        let near = self.known_bad.within(BlockRange::between(chunk.first, end));
        let known: BlockRanges = near.collect();
        for (entry, at) in outcome.entries.iter().zip(chunk.first.0..) {
            let block = BlockIndex(at);
            let replaced = || outcome.changed.binary_search_by_key(&block, |c| c.block).is_ok();
            if *entry == TableEntry::LOST || known.contains(block) && !replaced() {
                self.findings.add_bad_block(block);
            }
        }
    }

    /// # Errors
    /// [`Error::Damaged`] when the digests of the newest revision are not those that were recorded.
    pub(in crate::verb::backup) fn finish(
        self,
        storage: &dyn Storage,
        newest: Option<&Revision>,
    ) -> Result<Scanned> {
        let digest = self.new.finish();
        if let Some(newest) = newest {
            let found = self.old.map_or(digest, RevisionHasher::finish);
            let expected = newest.expected_digest();
            if found != expected {
                let name = FileName::Digests(newest.uuid, DigestsKind::Image);
                let place = format!("digest of revision {} from this file", newest.uuid);
                return Err(Error::damaged(storage.path(name), place, found, expected));
            }
        }
        let mut growth_bytes = self.data_bytes as i64 - self.fate.had_bytes as i64;
        growth_bytes += growth_bytes / self.block_size.bytes() as i64 * DIGEST_BYTES as i64;
        if !self.has_old {
            growth_bytes += HEADER_BYTES as i64;
        }
        let claimed_digest = self.claimed.map_or(digest, RevisionHasher::finish);
        Ok(Scanned {
            digest,
            claimed_digest,
            read_bytes: self.read_bytes,
            skipped_bytes: self.skipped_bytes,
            changed_bytes: self.changed_bytes,
            fate: self.fate,
            growth_bytes,
            findings: self.findings,
        })
    }
}
