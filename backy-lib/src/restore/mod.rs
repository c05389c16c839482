//! `restore`: writes a revision to a target.
//!
//! The digests of the revision are checked as a whole before anything is written, and every block against its digest
//! before it is. To a target that exists, only blocks that differ are written.

mod safety;
mod target;

use std::io::Write;
use std::time::Instant;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::format::qcow2::Decompressor;
use crate::image::chain::{Chain, Located, WINDOW_BLOCKS};
use crate::pipeline::{self, BufferPool};
use crate::progress::{self, Observer, Phase};
use crate::revision::RevisionId;
use crate::units::BlockIndex;

pub use safety::Guard;
pub use target::{FileTarget, Target};

/// Bytes worked on at a time.
const CHUNK_BYTES: u64 = 1 << 20;
/// Bytes of a target that are looked through at a time where the revision is zero.
const VOID_BYTES: u64 = 64 << 20;

/// What a restore did.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreReport {
    /// The revision.
    pub revision: RevisionId,
    /// Where it was written; `-` for a stream.
    pub target: String,
    /// Size of the revision in bytes.
    pub size_bytes: u64,
    /// Bytes that were written; the others were right already.
    pub written_bytes: u64,
    /// Time that it took.
    pub seconds: f64,
}

/// A piece of the revision.
enum Chunk {
    /// Blocks that may hold data.
    Data { first: BlockIndex, located: Vec<Located> },
    /// All zero.
    Void { extent: Extent },
}

struct Worker {
    decompressor: Decompressor,
    found: Vec<u8>,
}

/// Writes the revision to a file or device.
pub(crate) fn to_target(
    chain: &Chain,
    target: &dyn Target,
    threads: Option<usize>,
    observer: &dyn Observer,
) -> Result<RestoreReport> {
    let clock = Instant::now();
    chain.verify_digests()?;
    let revision = chain.revision();
    let counters = progress::begin(observer, Phase::Restore, revision.size_bytes);
    target.prepare(revision.size_bytes)?;
    let buffers = BufferPool::new();
    let mut written_bytes = 0;
    let void_bytes = if target.is_new() { u64::MAX } else { VOID_BYTES };
    let mut chunks = Chunks::new(chain, void_bytes, observer);
    // One thread writes: several that write to one file only wait for each other, and burn time at it.
    pipeline::run(
        workers(pipeline::threads(threads))?,
        || chunks.next_chunk(),
        |worker, chunk| {
            let bytes = chunk_bytes(chain, &chunk);
            let (writes, buffer) = match chunk {
                Chunk::Void { extent } => (find_data(target, extent)?, Vec::new()),
                Chunk::Data { first, located } => {
                    let mut buffer = buffers.take(bytes as usize);
                    let writes = read_wrong(chain, target, worker, first, &located, &mut buffer)?;
                    (writes, buffer)
                }
            };
            Ok((bytes, writes, buffer))
        },
        |(bytes, writes, buffer)| {
            for write in writes {
                written_bytes += write.extent.len;
                match write.from {
                    None => target.clear(write.extent)?,
                    Some(from) => {
                        let end = from + write.extent.len as usize;
                        let part = buffer.get(from..end).unwrap_or_default();
                        target.write_at(part, write.extent.offset)?;
                    }
                }
            }
            buffers.give(buffer);
            counters.add(bytes);
            Ok(())
        },
    )?;
    target.finish(revision.size_bytes)?;
    Ok(report(chain, target.path().display().to_string(), written_bytes, clock))
}

/// Writes the revision to a stream, from its first byte to its last.
pub(crate) fn to_stream(
    chain: &Chain,
    stream: &mut dyn Write,
    threads: Option<usize>,
    observer: &dyn Observer,
) -> Result<RestoreReport> {
    let clock = Instant::now();
    chain.verify_digests()?;
    let size_bytes = chain.revision().size_bytes;
    let counters = progress::begin(observer, Phase::Restore, size_bytes);
    let buffers = BufferPool::new();
    let mut chunks = Chunks::new(chain, CHUNK_BYTES, observer);
    pipeline::run(
        workers(pipeline::threads(threads))?,
        || chunks.next_chunk(),
        |worker, chunk| {
            let mut buffer = buffers.take(chunk_bytes(chain, &chunk) as usize);
            match chunk {
                Chunk::Void { .. } => buffer.fill(0),
                Chunk::Data { first, located } => {
                    chain.read(first, &located, &mut worker.decompressor, &mut buffer)?;
                }
            }
            Ok(buffer)
        },
        |buffer| {
            let action = format!("write {} bytes", buffer.len());
            stream.write_all(&buffer).map_err(Error::io("standard output", action))?;
            counters.add(buffer.len() as u64);
            buffers.give(buffer);
            Ok(())
        },
    )?;
    stream.flush().map_err(Error::io("standard output", "flush"))?;
    Ok(report(chain, "-".to_owned(), size_bytes, clock))
}

fn report(chain: &Chain, target: String, written_bytes: u64, clock: Instant) -> RestoreReport {
    RestoreReport {
        revision: chain.revision().uuid,
        target,
        size_bytes: chain.revision().size_bytes,
        written_bytes,
        seconds: clock.elapsed().as_secs_f64(),
    }
}

fn workers(threads: usize) -> Result<Vec<Worker>> {
    (0..threads)
        .map(|_| Ok(Worker { decompressor: Decompressor::new()?, found: Vec::new() }))
        .collect()
}

fn chunk_bytes(chain: &Chain, chunk: &Chunk) -> u64 {
    match chunk {
        Chunk::Void { extent } => extent.len,
        Chunk::Data { first, located } => {
            let size = chain.block_size();
            let end = size.offset(first.plus(located.len() as u64));
            end.min(chain.revision().size_bytes) - size.offset(*first)
        }
    }
}

/// A stretch of the target that has to be written.
struct Rewrite {
    extent: Extent,
    /// Where its bytes are in the chunk's buffer; `None` when they are zero.
    from: Option<usize>,
}

/// Finds out which blocks of a chunk are wrong in the target, and reads those into their places in `buffer`.
fn read_wrong(
    chain: &Chain,
    target: &dyn Target,
    worker: &mut Worker,
    first: BlockIndex,
    located: &[Located],
    buffer: &mut [u8],
) -> Result<Vec<Rewrite>> {
    let block_bytes = chain.block_size().len();
    let offset = chain.block_size().offset(first);
    let wrong: Vec<Option<bool>> = if target.is_new() {
        let data = |block: &Located| (!block.entry.is_zero_block()).then_some(false);
        located.iter().map(data).collect()
    } else {
        worker.found.resize(buffer.len(), 0);
        target.read_at(&mut worker.found, offset)?;
        let found = worker.found.chunks(block_bytes);
        let wrong = |(block, found): (&Located, &[u8])| {
            (!block.entry.matches(found)).then_some(block.entry.is_zero_block())
        };
        located.iter().zip(found).map(wrong).collect()
    };
    let mut writes = Vec::new();
    let mut at = 0;
    for run in wrong.chunk_by(|a, b| a == b) {
        let (from, to) = (at, at + run.len());
        at = to;
        let Some(Some(zero)) = run.first() else { continue };
        let start = from * block_bytes;
        let end = (to * block_bytes).min(buffer.len());
        if !zero {
            let blocks = located.get(from..to).unwrap_or_default();
            let part = buffer.get_mut(start..end).unwrap_or_default();
            chain.read(first.plus(from as u64), blocks, &mut worker.decompressor, part)?;
        }
        let extent = Extent::new(offset + start as u64, (end - start) as u64);
        writes.push(Rewrite { extent, from: (!zero).then_some(start) });
    }
    Ok(writes)
}

/// Finds what is not zero in an extent of the target that has to be zero.
fn find_data(target: &dyn Target, extent: Extent) -> Result<Vec<Rewrite>> {
    let mut wrong = Vec::new();
    if target.is_new() {
        return Ok(wrong);
    }
    let mut buffer = Vec::new();
    let mut offset = extent.offset;
    while let Some(data) = target.next_data(offset)?.filter(|data| data.offset < extent.end()) {
        let piece = Extent::between(data.offset, data.end().min(extent.end()));
        let piece = Extent::new(piece.offset, piece.len.min(CHUNK_BYTES));
        buffer.resize(piece.len as usize, 0);
        target.read_at(&mut buffer, piece.offset)?;
        if !crate::digest::is_zero(&buffer) {
            wrong.push(Rewrite { extent: piece, from: None });
        }
        offset = piece.end();
    }
    Ok(wrong)
}

/// Cuts a revision into chunks, looking up where its blocks are a window at a time.
struct Chunks<'a> {
    chain: &'a Chain,
    observer: &'a dyn Observer,
    max_void_blocks: u64,
    chunk_blocks: usize,
    next: BlockIndex,
    window: Vec<Located>,
    window_first: BlockIndex,
}

impl<'a> Chunks<'a> {
    fn new(chain: &'a Chain, max_void_bytes: u64, observer: &'a dyn Observer) -> Self {
        let block_bytes = chain.block_size().bytes();
        Chunks {
            chain,
            observer,
            max_void_blocks: (max_void_bytes / block_bytes).max(1),
            chunk_blocks: (CHUNK_BYTES / block_bytes).max(1) as usize,
            next: BlockIndex(0),
            window: Vec::new(),
            window_first: BlockIndex(0),
        }
    }

    fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        progress::check(self.observer)?;
        let end = BlockIndex(self.chain.blocks());
        if self.next >= end {
            return Ok(None);
        }
        let window_end = self.window_first.plus(self.window.len() as u64);
        if self.next >= window_end {
            let data = self.chain.next_data_block(self.next)?.unwrap_or(end);
            if data > self.next {
                let to = data.min(self.next.plus(self.max_void_blocks));
                return Ok(Some(self.void(to)));
            }
            self.window = self.chain.locate(self.next, WINDOW_BLOCKS)?;
            self.window_first = self.next;
        }
        let from = (self.next.0 - self.window_first.0) as usize;
        let to = (from + self.chunk_blocks).min(self.window.len());
        let located = self.window.get(from..to).unwrap_or_default().to_vec();
        let first = self.next;
        self.next = first.plus(located.len() as u64);
        Ok(Some(Chunk::Data { first, located }))
    }

    fn void(&mut self, to: BlockIndex) -> Chunk {
        let size = self.chain.block_size();
        let from = size.offset(self.next);
        self.next = to;
        let end = size.offset(to).min(self.chain.revision().size_bytes);
        Chunk::Void { extent: Extent::between(from, end) }
    }
}
