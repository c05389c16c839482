//! Writes a revision to a target: only what differs, compared on all cores, written by one thread.

use super::{RestoreOptions, RestoreReport, Target, check_whole, push_blocks};
use crate::base::digest::TableEntry;
use crate::base::error::{ErrorKind, Result};
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::pipeline::{self, BufferPool};
use crate::base::progress::{self, Observer, Phase};
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::qcow2::Decompressor;
use crate::image::chain::{Chain, Located};
use crate::image::sequential::{Chunk, Chunks, read_blocks};
use crate::image::walk;

/// Bytes of a target that are examined at a time where the revision is zero.
const VOID_BYTES: u64 = 64 << 20;

/// The tools of one thread.
struct Worker {
    decompressor: Decompressor,
    found: Vec<u8>,
}

/// The work for a chunk.
#[derive(Default)]
struct Work {
    rewrites: Vec<Rewrite>,
    buffer: Vec<u8>,
    unreadable: Vec<BlockIndex>,
    /// Blocks that stay, because an undo archive does not hold them.
    changed_since: Vec<BlockIndex>,
}

/// An extent of the target to write.
struct Rewrite {
    extent: Extent,
    /// Where its bytes are in the chunk's buffer; `None` if they are zero.
    from: Option<usize>,
}

pub(super) fn write(
    chain: &Chain,
    target: &dyn Target,
    digests_checked: bool,
    options: &RestoreOptions,
    observer: &dyn Observer,
) -> Result<RestoreReport> {
    let mut report =
        RestoreReport::new(chain, target.path().into(), target.kind(), digests_checked);
    if target.is_new() && !options.keep_going {
        check_whole(chain)?;
    }
    let counters = progress::begin_work(observer, Phase::Restore, report.size_bytes)?;
    target.prepare(report.size_bytes)?;
    let buffers = BufferPool::new();
    let void_bytes = if target.is_new() { u64::MAX } else { VOID_BYTES };
    let mut chunks = Chunks::new(chain, void_bytes, observer);
    let mut written_end = None;
    // Only one thread writes: several writers to one file just wait for each other and waste CPU time.
    pipeline::run(
        (0..pipeline::threads(options.threads))
            .map(|_| Ok(Worker { decompressor: Decompressor::new()?, found: Vec::new() }))
            .collect::<Result<Vec<_>>>()?,
        || chunks.next_chunk(),
        |worker, chunk| {
            let bytes = chunk.extent(chain).len;
            let work = match chunk {
                Chunk::Void { extent } => {
                    Work { rewrites: find_data(target, extent)?, ..Work::default() }
                }
                Chunk::Data(walk::Blocks { first, located }) => {
                    let buffer = buffers.take(bytes as usize);
                    let compare = Compare { chain, target, keep_going: options.keep_going };
                    compare.run(worker, first, &located, buffer)?
                }
            };
            Ok((bytes, work))
        },
        |(bytes, work)| {
            for rewrite in work.rewrites {
                let extent = rewrite.extent;
                report.written_bytes += extent.len;
                report.written_extents += u64::from(written_end != Some(extent.offset));
                written_end = Some(extent.end());
                match rewrite.from {
                    None => target.clear(extent)?,
                    Some(from) => {
                        let part = work.buffer.get(from..from + extent.len as usize);
                        target.write_at(part.unwrap_or_default(), extent.offset)?;
                    }
                }
            }
            report.push_unreadable(chain, &work.unreadable);
            push_blocks(&mut report.changed_since, chain, &work.changed_since);
            buffers.give(work.buffer);
            counters.add(bytes);
            Ok(())
        },
    )?;
    target.finish(report.size_bytes)?;
    Ok(report)
}

/// Finds where the target differs from a revision.
struct Compare<'a> {
    chain: &'a Chain,
    target: &'a dyn Target,
    keep_going: bool,
}

/// What a block of the target has to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    AsItIs,
    Zero,
    Data,
}

impl Compare<'_> {
    /// Reads the blocks of a chunk that are wrong in the target into their places in `buffer`.
    fn run(
        &self,
        worker: &mut Worker,
        first: BlockIndex,
        located: &[Located],
        mut buffer: Vec<u8>,
    ) -> Result<Work> {
        let block_bytes = self.chain.block_size().len();
        let offset = self.chain.block_size().offset(first);
        let mut wanted = self.compare(worker, offset, located, buffer.len())?;
        let changed_since = self.keep_left_out(first, &mut wanted)?;
        let mut unreadable = Vec::new();
        for (from, to) in runs(&wanted, Wanted::Data) {
            let end = (to * block_bytes).min(buffer.len());
            let part = buffer.get_mut(from * block_bytes..end).unwrap_or_default();
            let blocks = located.get(from..to).unwrap_or_default();
            let at = first.plus(from as u64);
            let decompressor = &mut worker.decompressor;
            unreadable.extend(read_blocks(
                self.chain,
                at,
                blocks,
                self.keep_going,
                decompressor,
                part,
            )?);
        }
        let empty = if self.target.is_new() { Wanted::AsItIs } else { Wanted::Zero };
        for block in &unreadable {
            if let Some(wanted) = wanted.get_mut((block.0 - first.0) as usize) {
                *wanted = empty;
            }
        }
        let mut rewrites = Vec::new();
        for kind in [Wanted::Zero, Wanted::Data] {
            rewrites.extend(runs(&wanted, kind).into_iter().map(|(from, to)| {
                let (start, end) = (from * block_bytes, (to * block_bytes).min(buffer.len()));
                let extent = Extent::new(offset + start as u64, (end - start) as u64);
                Rewrite { extent, from: (kind == Wanted::Data).then_some(start) }
            }));
        }
        rewrites.sort_unstable_by_key(|rewrite| rewrite.extent.offset);
        Ok(Work { rewrites, buffer, unreadable, changed_since })
    }

    /// Keeps blocks that an undo archive does not hold; returns those that changed.
    fn keep_left_out(&self, first: BlockIndex, wanted: &mut [Wanted]) -> Result<Vec<BlockIndex>> {
        let mut kept = Vec::new();
        if self.chain.is_partial() && !self.target.is_new() {
            for (wanted, at) in wanted.iter_mut().zip(first.0..) {
                if *wanted == Wanted::Data && self.chain.leaves_out(BlockIndex(at))? {
                    *wanted = Wanted::AsItIs;
                    kept.push(BlockIndex(at));
                }
            }
        }
        Ok(kept)
    }

    fn compare(
        &self,
        worker: &mut Worker,
        offset: u64,
        located: &[Located],
        bytes: usize,
    ) -> Result<Vec<Wanted>> {
        let content =
            |block: &Located| if block.entry.is_zero_block() { Wanted::Zero } else { Wanted::Data };
        if self.target.is_new() {
            let wanted = |block: &Located| match content(block) {
                Wanted::Zero => Wanted::AsItIs,
                wanted => wanted,
            };
            return Ok(located.iter().map(wanted).collect());
        }
        worker.found.resize(bytes, 0);
        let size = self.chain.block_size();
        let unreadable = read_target(self.target, size, &mut worker.found, offset)?;
        let found = worker.found.chunks(self.chain.block_size().len());
        let right = TableEntry::matching(located.iter().map(|block| block.entry).zip(found))?;
        let wanted = |((block, right), at)| match right && !unreadable.contains(&at) {
            true => Wanted::AsItIs,
            false => content(block),
        };
        Ok(located.iter().zip(right).zip(0..).map(wanted).collect())
    }
}

/// Reads the target. Blocks that cannot be read count as different, and their numbers in the buffer are
/// returned: an unreadable sector can often still be written.
pub(super) fn read_target(
    target: &dyn Target,
    size: BlockSize,
    buffer: &mut [u8],
    offset: u64,
) -> Result<Vec<usize>> {
    match target.read_at(buffer, offset) {
        Err(error) if error.kind() == ErrorKind::Io => {}
        read => return read.map(|()| Vec::new()),
    }
    let mut unreadable = Vec::new();
    for (number, block) in buffer.chunks_mut(size.len()).enumerate() {
        match target.read_at(block, offset + size.offset(BlockIndex(number as u64))) {
            Err(error) if error.kind() == ErrorKind::Io => unreadable.push(number),
            read => read?,
        }
    }
    Ok(unreadable)
}

/// Where the runs of one kind begin and end.
fn runs(wanted: &[Wanted], kind: Wanted) -> Vec<(usize, usize)> {
    let mut at = 0;
    let mut found = Vec::new();
    for run in wanted.chunk_by(|a, b| a == b) {
        if run.first() == Some(&kind) {
            found.push((at, at + run.len()));
        }
        at += run.len();
    }
    found
}

/// Finds the bytes other than zero in an extent of the target that has to be zero.
fn find_data(target: &dyn Target, extent: Extent) -> Result<Vec<Rewrite>> {
    let mut wrong = Vec::new();
    if target.is_new() {
        return Ok(wrong);
    }
    let mut buffer = Vec::new();
    let mut offset = extent.offset;
    while let Some(data) = target.next_data(offset)?.filter(|data| data.offset < extent.end()) {
        let piece = Extent::between(data.offset, data.end().min(extent.end()));
        let piece = Extent::new(piece.offset, piece.len.min(limits().chunk_bytes));
        buffer.resize(piece.len as usize, 0);
        let zero = match target.read_at(&mut buffer, piece.offset) {
            Ok(()) => crate::base::digest::is_zero(&buffer),
            // It can often still be written.
            Err(error) if error.kind() == ErrorKind::Io => false,
            Err(error) => return Err(error),
        };
        if !zero {
            wrong.push(Rewrite { extent: piece, from: None });
        }
        offset = piece.end();
    }
    Ok(wrong)
}
