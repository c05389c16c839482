//! Reading every stored block once, and comparing it with its digest.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::budget::Group;
use super::{Finding, Scrub};
use crate::base::digest::TableEntry;
use crate::base::error::{Result, judged};
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::pipeline;
use crate::base::progress::{self, Observer, Phase};
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::{BlockRange, Findings, Manifest, Revision};
use crate::format::qcow2::{Cluster, Decompressor};
use crate::image::chain::Chain;
use crate::image::damage;
use crate::image::delta::{Delta, read_cut};
use crate::image::digests::DigestTable;
use crate::storage::{Access, DigestsKind, FileName, Storage, StorageFile};

/// How much of what is stored has been read and found right, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Coverage {
    /// The longest time ago that the place of a block was last read; null when some never were.
    pub oldest: Option<Timestamp>,
    /// Share of the blocks of all revisions' files that have been verified since they were written, from 0 to 1.
    pub verified_share: f64,
}

/// From what the manifest remembers.
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

/// What one thread reads.
struct Piece {
    number: usize,
    file: Arc<StoredFile>,
    blocks: BlockRange,
    /// Bytes of the group up to its end, with what takes no room before it.
    done_bytes: u64,
    /// The group that is complete with this piece.
    completes: Option<Group>,
}

/// What one thread works with, used again for each piece.
struct Tools {
    decompressor: Decompressor,
    buffer: Vec<u8>,
}

impl Tools {
    fn new() -> Result<Self> {
        Ok(Tools { decompressor: Decompressor::new()?, buffer: Vec::new() })
    }
}

/// What was found out about a piece.
struct Checked {
    number: usize,
    bad: Vec<BlockIndex>,
    read_bytes: u64,
    done_bytes: u64,
    completes: Option<Group>,
}

/// One revision's own file with its digests.
pub(super) struct StoredFile {
    content: Content,
    /// None when they are being made anew.
    digests: Option<DigestTable>,
    block_size: BlockSize,
    size_bytes: u64,
    /// The stretch of data of the image that was found last: looking for its end can cost as much as reading it.
    data: Mutex<Extent>,
}

enum Content {
    Image(Box<dyn StorageFile>),
    Delta(Delta),
}

impl StoredFile {
    pub(super) fn open(
        storage: &dyn Storage,
        revision: &Revision,
        block_size: BlockSize,
    ) -> Result<Self> {
        let kind = if revision.is_image() { DigestsKind::Image } else { DigestsKind::Delta };
        let digests = DigestTable::open(storage, revision.uuid, kind)?;
        let file = Self::open_content(storage, revision, block_size)?;
        Ok(StoredFile { digests: Some(digests), ..file })
    }

    /// The file alone; none when it cannot be read.
    pub(super) fn without_digests(
        storage: &dyn Storage,
        revision: &Revision,
        block_size: BlockSize,
    ) -> Result<Option<Self>> {
        match Self::open_content(storage, revision, block_size) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open_content(
        storage: &dyn Storage,
        revision: &Revision,
        block_size: BlockSize,
    ) -> Result<Self> {
        let size_bytes = revision.size_bytes;
        let content = match revision.is_image() {
            true => {
                let image = storage.open(FileName::IMAGE, Access::Read)?;
                image.bypass_cache();
                Content::Image(image)
            }
            false => Content::Delta(Delta::open(storage, revision.uuid, block_size, size_bytes)?),
        };
        let data = Mutex::new(Extent::new(0, 0));
        Ok(StoredFile { content, digests: None, block_size, size_bytes, data })
    }

    fn entries(&self, blocks: BlockRange) -> Result<Vec<TableEntry>> {
        self.digests.as_ref().map_or(Ok(Vec::new()), |table| table.read(blocks.first, blocks.count))
    }

    /// Which of the blocks the file holds itself.
    pub(super) fn holds(&self, blocks: BlockRange) -> Result<Vec<bool>> {
        match &self.content {
            Content::Image(_) => Ok(vec![true; blocks.count as usize]),
            Content::Delta(delta) => {
                let clusters = delta.clusters(blocks.first, blocks.count)?;
                Ok(clusters.into_iter().map(|c| c != Cluster::Unallocated).collect())
            }
        }
    }

    /// The first block at or after `from`, up to `end`, that takes room.
    pub(super) fn next_stored_block(
        &self,
        from: BlockIndex,
        end: BlockIndex,
    ) -> Result<Option<BlockIndex>> {
        let next = match &self.content {
            Content::Delta(delta) => return delta.next_held_block(from, end),
            Content::Image(image) => {
                let entry = match &self.digests {
                    Some(table) => table.next_data_block(from)?,
                    None => None,
                };
                let data = self.next_image_data(&**image, self.block_size.offset(from))?;
                let data = data.map(|offset| self.block_size.index(offset).max(from));
                match (entry, data) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                }
            }
        };
        Ok(next.filter(|block| *block < end))
    }

    /// Where the image's data goes on, at or after `offset`.
    fn next_image_data(&self, image: &dyn StorageFile, offset: u64) -> Result<Option<u64>> {
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        if data.offset <= offset && offset < data.end() {
            return Ok(Some(offset));
        }
        let Some(found) = image.next_data(offset)? else { return Ok(None) };
        *data = found;
        Ok(Some(found.offset.max(offset)))
    }

    /// Blocks of a piece.
    fn piece_blocks(&self) -> u64 {
        let bytes = match self.content {
            Content::Image(_) => limits().scrub_piece_bytes,
            Content::Delta(_) => limits().scrub_delta_piece_bytes,
        };
        (bytes / self.block_size.bytes()).max(1)
    }

    /// Bytes that are read to check these blocks: what is stored of them.
    pub(super) fn stored_bytes(&self, blocks: BlockRange) -> Result<u64> {
        let end = blocks.end();
        let mut bytes = 0;
        match &self.content {
            Content::Image(image) => {
                let all = damage::extent(blocks, self.block_size, self.size_bytes);
                let mut next = all.offset;
                while let Some(data) = image.next_data(next)?.filter(|data| data.offset < all.end())
                {
                    let to = data.end().min(all.end());
                    bytes += to.saturating_sub(data.offset.max(next));
                    next = to;
                }
            }
            Content::Delta(delta) => {
                let mut next = blocks.first;
                while let Some(first) = delta.next_held_block(next, end)? {
                    let count = limits().walk_blocks.min(end.0 - first.0);
                    let clusters = delta.clusters(first, count)?;
                    bytes +=
                        clusters.into_iter().map(|c| c.stored_bytes(self.block_size)).sum::<u64>();
                    next = first.plus(count);
                }
            }
        }
        Ok(bytes)
    }

    /// The entries of those of the blocks that the file holds.
    pub(super) fn held_entries(&self, blocks: BlockRange) -> Result<Vec<Option<TableEntry>>> {
        let held = self.holds(blocks)?;
        let entries = self.entries(blocks)?.into_iter().zip(held);
        Ok(entries.map(|(entry, held)| held.then_some(entry)).collect())
    }

    /// The content of a block that the file holds, at its true length, right or not.
    pub(super) fn read_block(
        &self,
        block: BlockIndex,
        decompressor: &mut Decompressor,
    ) -> Result<Vec<u8>> {
        let extent = self.block_size.extent(block, self.size_bytes);
        let mut bytes = vec![0; extent.len as usize];
        match &self.content {
            Content::Image(image) => image.read_padded_at(&mut bytes, extent.offset)?,
            Content::Delta(delta) => {
                let cluster = delta.clusters(block, 1)?.first().copied();
                let cluster = cluster.unwrap_or(Cluster::Unallocated);
                read_cut(delta, cluster, self.block_size, decompressor, &mut bytes)?;
            }
        }
        Ok(bytes)
    }

    /// Which of the blocks are not what was backed up, and how many bytes were read.
    fn check(&self, blocks: BlockRange, tools: &mut Tools) -> Result<(Vec<BlockIndex>, u64)> {
        let entries = self.entries(blocks)?;
        match &self.content {
            Content::Image(image) => {
                self.check_image(&**image, blocks, &entries, &mut tools.buffer)
            }
            Content::Delta(delta) => self.check_delta(delta, blocks, &entries, tools),
        }
    }

    fn check_image(
        &self,
        image: &dyn StorageFile,
        blocks: BlockRange,
        entries: &[TableEntry],
        bytes: &mut Vec<u8>,
    ) -> Result<(Vec<BlockIndex>, u64)> {
        let extent = damage::extent(blocks, self.block_size, self.size_bytes);
        bytes.resize(extent.len as usize, 0);
        if judged(image.read_padded_at(bytes, extent.offset))?.is_err() {
            if blocks.count == 1 {
                return Ok((vec![blocks.first], extent.len));
            }
            // One by one, to know which of them cannot be read.
            let mut bad = Vec::new();
            for (entry, block) in entries.iter().zip(blocks.first.0..) {
                let one = BlockRange { first: BlockIndex(block), count: 1 };
                bad.extend(self.check_image(image, one, std::slice::from_ref(entry), bytes)?.0);
            }
            return Ok((bad, extent.len));
        }
        let pairs = entries.iter().copied().zip(bytes.chunks(self.block_size.len()));
        let bad = TableEntry::matching(pairs)?.into_iter().zip(blocks.first.0..);
        let bad = bad.filter(|(right, _)| !right).map(|(_, block)| BlockIndex(block));
        Ok((bad.collect(), extent.len))
    }

    fn check_delta(
        &self,
        delta: &Delta,
        blocks: BlockRange,
        entries: &[TableEntry],
        tools: &mut Tools,
    ) -> Result<(Vec<BlockIndex>, u64)> {
        let (mut bad, mut read_bytes) = (Vec::new(), 0);
        let clusters = delta.clusters(blocks.first, blocks.count)?;
        let held = clusters.into_iter().zip(entries).zip(blocks.first.0..);
        let held = held.filter(|((cluster, _), _)| *cluster != Cluster::Unallocated);
        let held: Vec<_> = held.collect();
        let Tools { decompressor, buffer } = tools;
        let block_bytes = self.block_size.len();
        let together = (limits().scrub_piece_bytes / block_bytes as u64).max(1) as usize;
        for group in held.chunks(together) {
            buffer.resize(group.len() * block_bytes, 0);
            let mut pairs = Vec::with_capacity(group.len());
            for (((cluster, entry), block), part) in
                group.iter().zip(buffer.chunks_mut(block_bytes))
            {
                let extent = self.block_size.extent(BlockIndex(*block), self.size_bytes);
                let part = part.get_mut(..extent.len as usize).unwrap_or_default();
                read_bytes += extent.len;
                let read = read_cut(delta, *cluster, self.block_size, decompressor, part);
                // No content matches the other one.
                let entry = judged(read)?.map_or(TableEntry::LOST, |()| **entry);
                pairs.push((entry, &*part));
            }
            let right = TableEntry::matching(pairs)?.into_iter().zip(group);
            let wrong = right.filter(|(right, _)| !right);
            bad.extend(wrong.map(|(_, (_, block))| BlockIndex(*block)));
        }
        Ok((bad, read_bytes))
    }
}

impl Scrub<'_> {
    /// Reads the stored blocks, as far as the budget goes; notes in the manifest which are bad and which were verified when.
    /// Gives the bytes that were read.
    pub(super) fn check_content(&mut self) -> Result<u64> {
        let groups = self.groups()?;
        let left_bytes = self.allow(&groups);
        let total: u64 = groups.iter().map(|group| group.blocks.count).sum();
        let total_bytes = total.saturating_mul(self.manifest.block_size.bytes());
        let counters = progress::begin_work(self.observer, Phase::Scrub, total_bytes)?;
        let threads = pipeline::threads(self.options.threads);
        let workers = (0..threads).map(|_| Tools::new()).collect::<Result<Vec<_>>>()?;
        let storage = Arc::clone(self.storage);
        let manifest = self.manifest.clone();
        let observer = self.observer;
        let mut pieces = Pieces {
            storage: &storage,
            manifest: &manifest,
            groups: groups.into(),
            current: None,
            file: None,
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
        // Also what was found before it was stopped.
        self.note(found);
        done.map(|()| read_bytes)
    }

    fn note(&mut self, found: Vec<Checked>) {
        let mut noted: BTreeMap<usize, (Findings, Vec<BlockRange>)> = BTreeMap::new();
        for checked in found {
            let (complete, bad) = noted.entry(checked.number).or_default();
            bad.extend(checked.bad.into_iter().map(|first| BlockRange { first, count: 1 }));
            let Some(group) = checked.completes else { continue };
            complete.add(group.blocks);
            if let Some(revision) = self.manifest.revisions.get_mut(group.number) {
                revision.set_verified(group.blocks, self.now);
            }
        }
        for (number, (complete, bad)) in noted {
            if let Some(revision) = self.manifest.revisions.get_mut(number) {
                // What was bad and is right now has been mended by somebody.
                revision.findings.replace(&complete.bad_blocks, bad);
            }
        }
    }
}

fn check_piece(tools: &mut Tools, piece: Piece) -> Result<Checked> {
    let extent = damage::extent(piece.blocks, piece.file.block_size, piece.file.size_bytes);
    let (bad, read_bytes) = match piece.file.check(piece.blocks, tools) {
        Ok(checked) => checked,
        // Tables that say nothing: nothing of it can be read.
        Err(error) if error.is_unreadable() => {
            let all = (piece.blocks.first.0..piece.blocks.end().0).map(BlockIndex).collect();
            (all, extent.len)
        }
        Err(error) => return Err(error),
    };
    let Piece { number, done_bytes, completes, .. } = piece;
    Ok(Checked { number, bad, read_bytes, done_bytes, completes })
}

/// Cuts the groups into pieces, leaving out what takes no room.
struct Pieces<'a> {
    storage: &'a Arc<dyn Storage>,
    manifest: &'a Manifest,
    groups: VecDeque<Group>,
    /// The group being cut, with the next block in it.
    current: Option<(Group, BlockIndex)>,
    file: Option<(usize, Arc<StoredFile>)>,
    deadline: Option<Instant>,
    /// Stored bytes that may still be read.
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
        // What costs nothing is read along.
        let fits = |group: &Group| self.left_bytes > 0 || group.stored_bytes == 0;
        let group = self.groups.pop_front().filter(|group| !over && fits(group))?;
        self.left_bytes = self.left_bytes.saturating_sub(group.stored_bytes);
        Some(group)
    }

    /// The next piece of a group; it is complete with the last one, which may be empty.
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

    /// The file of a revision; none when it cannot be opened, which the structure has told of.
    fn file(&mut self, number: usize) -> Result<Option<Arc<StoredFile>>> {
        if let Some((open, file)) = &self.file
            && *open == number
        {
            return Ok(Some(Arc::clone(file)));
        }
        let Some(revision) = self.manifest.revisions.get(number) else { return Ok(None) };
        match StoredFile::open(&**self.storage, revision, self.manifest.block_size) {
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

/// Whether what a finding says cannot be read still cannot, with the archive as it is now.
pub(super) fn is_unreadable(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    finding: &Finding,
    observer: &dyn Observer,
) -> Result<bool> {
    let size = manifest.block_size;
    let mut decompressor = Decompressor::new()?;
    for affected in &finding.affected {
        let number = manifest.revisions.iter().position(|r| r.uuid == affected.revision);
        let Some(number) = number else { continue };
        let chain = match Chain::open(storage, manifest, number) {
            Ok(chain) => chain,
            Err(error) if error.is_unreadable() => return Ok(true),
            Err(error) => return Err(error),
        };
        // A block that digests which are not right as a whole call zero would seem to be read.
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
