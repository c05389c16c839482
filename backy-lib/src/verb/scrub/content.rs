//! Reads every stored block once and compares it with its digest.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::budget::Group;
use super::stored::{StoredFile, Tools};
use super::{Finding, Scrub};
use crate::base::error::{Result, judged};
use crate::base::pipeline;
use crate::base::progress::{self, Observer, Phase};
use crate::base::units::BlockIndex;
use crate::format::manifest::{BlockRange, BlockRanges, Manifest};
use crate::format::qcow2::Decompressor;
use crate::image::chain::Chain;
use crate::image::damage;
use crate::storage::Storage;

/// How much of the stored data was read and found correct, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// The earliest time at which the place of some block was last read; null if some were never read.
    pub oldest: Option<Timestamp>,
    /// Share of the blocks of all revisions' files that have been verified since they were written, from 0 to 1.
    pub verified_share: f64,
}

/// From the records of the manifest.
pub(crate) fn coverage(manifest: &Manifest) -> Coverage {
    let (mut total, mut read, mut verified, mut oldest) = (0, 0, 0, None::<Timestamp>);
    for revision in &manifest.revisions {
        total += manifest.block_size.count(revision.size_bytes);
        verified += revision.verified.iter().map(|range| range.blocks.count).sum::<u64>();
        for range in revision.read_at() {
            read += range.blocks.count;
            oldest = Some(oldest.map_or(range.at, |oldest| oldest.min(range.at)));
        }
    }
    let verified_share = if total == 0 { 0.0 } else { verified as f64 / total as f64 };
    Coverage { oldest: oldest.filter(|_| read == total), verified_share }
}

/// The work of one thread.
struct Piece {
    number: usize,
    file: Arc<StoredFile>,
    blocks: BlockRange,
    /// Bytes of the group up to the end of this piece, including bytes before it that take no space.
    done_bytes: u64,
    /// The group that this piece completes.
    completes: Option<Group>,
}

/// The result of checking a piece.
struct Checked {
    number: usize,
    bad: Vec<BlockIndex>,
    read_bytes: u64,
    done_bytes: u64,
    completes: Option<Group>,
}

impl Scrub<'_> {
    /// Reads the stored blocks within the budget, and records in the manifest which are bad and which were
    /// verified when. Returns the bytes read.
    pub(super) fn check_content(&mut self) -> Result<u64> {
        let groups = self.groups()?;
        let left_bytes = self.allow(&groups);
        let total: u64 = groups.iter().map(|group| group.blocks.count).sum();
        let total_bytes = total.saturating_mul(self.manifest.block_size.bytes());
        let counters = progress::begin_work(self.context.observer, Phase::Scrub, total_bytes)?;
        let threads = pipeline::threads(self.context.threads);
        let workers = (0..threads).map(|_| Tools::new()).collect::<Result<Vec<_>>>()?;
        let storage = Arc::clone(self.context.storage);
        let manifest = self.manifest.clone();
        let observer = self.context.observer;
        let mut pieces = Pieces {
            storage: &storage,
            manifest: &manifest,
            groups: groups.into(),
            current: None,
            file: None,
            written_zeros: self.written_zeros.as_ref(),
            deadline: self.deadline(),
            left_bytes,
        };
        let (mut read_bytes, mut found) = (0, Vec::new());
        let done = pipeline::run(
            workers,
            || {
                progress::check(observer)?;
                pieces.next_piece()
            },
            check_piece,
            |checked| {
                read_bytes += checked.read_bytes;
                counters.add(checked.done_bytes);
                if checked.completes.is_some() || !checked.bad.is_empty() {
                    found.push(checked);
                }
                Ok(())
            },
        );
        // Includes what was found before the scrub was stopped.
        self.note(found);
        done.map(|()| read_bytes)
    }

    fn note(&mut self, found: Vec<Checked>) {
        let mut noted: BTreeMap<usize, (BlockRanges, Vec<BlockRange>)> = BTreeMap::new();
        for checked in found {
            let (complete, bad) = noted.entry(checked.number).or_default();
            bad.extend(checked.bad.into_iter().map(BlockRange::one));
            let Some(group) = checked.completes else { continue };
            complete.add(group.blocks);
            if let Some(revision) = self.manifest.revisions.get_mut(group.number) {
                revision.set_verified(group.blocks, self.now);
            }
        }
        for (number, (complete, bad)) in noted {
            if let Some(revision) = self.manifest.revisions.get_mut(number) {
                // A block that was bad and is correct now was repaired by someone.
                revision.findings.replace(&complete, bad);
            }
        }
    }
}

fn check_piece(tools: &mut Tools, piece: Piece) -> Result<Checked> {
    let extent = damage::extent(piece.blocks, piece.file.block_size, piece.file.size_bytes);
    let (bad, read_bytes) = match piece.file.check(piece.blocks, tools) {
        Ok(checked) => checked,
        // Its tables are damaged: none of it can be read.
        Err(error) if error.is_unreadable() => {
            let all = (piece.blocks.first.0..piece.blocks.end().0).map(BlockIndex).collect();
            (all, extent.len)
        }
        Err(error) => return Err(error),
    };
    let Piece { number, done_bytes, completes, .. } = piece;
    Ok(Checked { number, bad, read_bytes, done_bytes, completes })
}

/// Divides the groups into pieces, leaving out blocks that take no space.
struct Pieces<'a> {
    storage: &'a Arc<dyn Storage>,
    manifest: &'a Manifest,
    groups: VecDeque<Group>,
    /// The group being divided, with its next block.
    current: Option<(Group, BlockIndex)>,
    file: Option<(usize, Arc<StoredFile>)>,
    written_zeros: Option<&'a Arc<BlockRanges>>,
    deadline: Option<Instant>,
    /// Stored bytes left in the budget.
    left_bytes: u64,
}

impl Pieces<'_> {
    fn next_piece(&mut self) -> Result<Option<Piece>> {
        loop {
            let Some((group, next)) = self.current.take() else {
                match self.next_group() {
                    Some(group) => self.current = Some((group, group.blocks.first)),
                    None => return Ok(None),
                }
                continue;
            };
            let Some(file) = self.file(group.number)? else { continue };
            if let Some(piece) = self.cut(group, next, file)? {
                return Ok(Some(piece));
            }
        }
    }

    fn next_group(&mut self) -> Option<Group> {
        let over = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        // Groups that cost nothing are read as well.
        let fits = |group: &Group| self.left_bytes > 0 || group.stored_bytes == 0;
        let group = self.groups.pop_front().filter(|group| !over && fits(group))?;
        self.left_bytes = self.left_bytes.saturating_sub(group.stored_bytes);
        Some(group)
    }

    /// The next piece of a group; the last one, possibly empty, completes it.
    fn cut(
        &mut self,
        group: Group,
        next: BlockIndex,
        file: Arc<StoredFile>,
    ) -> Result<Option<Piece>> {
        let end = group.blocks.end();
        let piece_blocks = file.piece_blocks();
        let first = match file.next_stored_block(next, end) {
            Ok(first) => first.unwrap_or(end),
            Err(error) if error.is_unreadable() => next,
            Err(error) => return Err(error),
        };
        let to = BlockIndex(first.plus(piece_blocks).0.min(end.0));
        let completes = (to == end).then_some(group);
        if completes.is_none() {
            self.current = Some((group, to));
        }
        let blocks = BlockRange::between(first, to);
        let done_bytes = (to.0 - next.0) * self.manifest.block_size.bytes();
        Ok(Some(Piece { number: group.number, file, blocks, done_bytes, completes }))
    }

    /// The file of a revision; `None` if it cannot be opened, which the structure check has reported.
    fn file(&mut self, number: usize) -> Result<Option<Arc<StoredFile>>> {
        if let Some((open, file)) = &self.file
            && *open == number
        {
            return Ok(Some(Arc::clone(file)));
        }
        let Some(revision) = self.manifest.revisions.get(number) else { return Ok(None) };
        let (storage, size) = (&**self.storage, self.manifest.block_size);
        match StoredFile::open_knowing(storage, revision, size, self.written_zeros) {
            Ok(file) => {
                let file = Arc::new(file);
                self.file = Some((number, Arc::clone(&file)));
                Ok(Some(file))
            }
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether the blocks of a finding still cannot be read, with the archive as it is now.
pub(super) fn is_unreadable(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    finding: &Finding,
    observer: &dyn Observer,
) -> Result<bool> {
    let size = manifest.block_size;
    let mut decompressor = Decompressor::new()?;
    for affected in &finding.affected {
        let Some(number) = manifest.number_of(affected.revision) else { continue };
        let chain = match Chain::open(storage, manifest, number) {
            Ok(chain) => chain,
            Err(error) if error.is_unreadable() => return Ok(true),
            Err(error) => return Err(error),
        };
        // A block that wrong digests call zero would seem to be readable.
        match chain.verify_digests(observer) {
            Err(error) if error.is_unreadable() => return Ok(true),
            verified => verified?,
        }
        for extent in &affected.extents {
            for block in size.index(extent.offset).0..size.count(extent.end()) {
                progress::check(observer)?;
                let block = BlockIndex(block);
                let located = chain.locate(block, 1)?;
                let mut bytes =
                    vec![0; size.extent(block, chain.revision().size_bytes).len as usize];
                if judged(chain.read(block, &located, &mut decompressor, &mut bytes))?.is_err() {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}
