//! Reading a whole revision in order: the common part of restore, drill and export.

use crate::base::error::Result;
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::pipeline::{self, BufferPool};
use crate::base::progress::{self, Event, Observer, Phase};
use crate::base::units::BlockIndex;
use crate::format::qcow2::Decompressor;
use crate::image::chain::{Chain, Located};
use crate::image::walk::{Blocks, Walk};

/// Checks the digests of a revision as a whole; returns whether they are right. Wrong ones are an error, or a finding
/// if the chain tolerates losses.
pub(crate) fn check_digests(
    chain: &Chain,
    keep_going: bool,
    observer: &dyn Observer,
) -> Result<bool> {
    if let Some(error) = chain.broken() {
        observer.event(&Event::Finding(error.to_string()));
    }
    match chain.verify_digests(observer) {
        Ok(()) => Ok(true),
        Err(error) if keep_going && error.is_loss() => {
            observer.event(&Event::Finding(format!(
                "{error}; going on with the digests of single blocks: a block that comes out as zero, or as that of a \
                 newer revision, may be wrong without being listed"
            )));
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// A piece of a revision.
pub(crate) enum Chunk {
    /// Blocks that may hold data.
    Data(Blocks),
    /// All zero.
    Void {
        /// Where in the revision.
        extent: Extent,
    },
}

impl Chunk {
    /// Where it is in the revision.
    pub(crate) fn extent(&self, chain: &Chain) -> Extent {
        match self {
            Chunk::Void { extent } => *extent,
            Chunk::Data(piece) => {
                let size = chain.block_size();
                let end = size.offset(piece.end()).min(chain.revision().size_bytes);
                Extent::between(size.offset(piece.first), end)
            }
        }
    }
}

/// Bytes in those of the located blocks that are not zero.
pub(crate) fn data_bytes(chain: &Chain, first: BlockIndex, located: &[Located]) -> u64 {
    let size_bytes = chain.revision().size_bytes;
    let blocks = located.iter().zip(first.0..).filter(|(block, _)| !block.entry.is_zero_block());
    blocks.map(|(_, at)| chain.block_size().extent(BlockIndex(at), size_bytes).len).sum()
}

/// Cuts a revision into chunks.
pub(crate) struct Chunks<'a> {
    chain: &'a Chain,
    observer: &'a dyn Observer,
    max_void_blocks: u64,
    chunk_blocks: usize,
    next: BlockIndex,
    walk: Walk<'a>,
}

impl<'a> Chunks<'a> {
    pub(crate) fn new(chain: &'a Chain, max_void_bytes: u64, observer: &'a dyn Observer) -> Self {
        chain.bypass_cache();
        let block_bytes = chain.block_size().bytes();
        Chunks {
            chain,
            observer,
            max_void_blocks: (max_void_bytes / block_bytes).max(1),
            chunk_blocks: (limits().chunk_bytes / block_bytes).max(1) as usize,
            next: BlockIndex(0),
            walk: Walk::new(chain),
        }
    }

    /// The next chunk; first checks whether to continue.
    pub(crate) fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        progress::check(self.observer)?;
        let end = BlockIndex(self.chain.blocks());
        let first = self.next;
        if first >= end {
            return Ok(None);
        }
        let data = self.walk.next_data()?.unwrap_or(end);
        if data > first {
            self.next = data.min(first.plus(self.max_void_blocks));
            let size = self.chain.block_size();
            let end = size.offset(self.next).min(self.chain.revision().size_bytes);
            return Ok(Some(Chunk::Void { extent: Extent::between(size.offset(first), end) }));
        }
        let Some(piece) = self.walk.next_piece(self.chunk_blocks)? else { return Ok(None) };
        self.next = piece.end();
        Ok(Some(Chunk::Data(piece)))
    }
}

/// Reads located blocks; with `keep_going`, those that do not read right become zero, and this returns them.
pub(crate) fn read_blocks(
    chain: &Chain,
    first: BlockIndex,
    located: &[Located],
    keep_going: bool,
    decompressor: &mut Decompressor,
    buffer: &mut [u8],
) -> Result<Vec<BlockIndex>> {
    match keep_going {
        true => chain.read_tolerant(first, located, decompressor, buffer),
        false => chain.read(first, located, decompressor, buffer).map(|()| Vec::new()),
    }
}

/// How a revision is read from its first byte to its last.
pub(crate) struct Reading<'a> {
    /// The revision.
    pub(crate) chain: &'a Chain,
    /// The phase to announce.
    pub(crate) phase: Phase,
    /// Longest piece without data.
    pub(crate) max_void_bytes: u64,
    /// Whether blocks that do not read right become zero.
    pub(crate) keep_going: bool,
    /// Threads that read and digest; `None` for one per core.
    pub(crate) threads: Option<usize>,
}

/// What was read.
pub(crate) struct Piece<'a> {
    /// Where in the revision.
    pub(crate) extent: Extent,
    /// The bytes; `None` when all are zero.
    pub(crate) bytes: Option<&'a [u8]>,
    /// Bytes in blocks that are not zero.
    pub(crate) data_bytes: u64,
    /// Blocks that did not read right, ascending.
    pub(crate) unreadable: &'a [BlockIndex],
}

impl Reading<'_> {
    /// Reads the whole revision on several threads, checks every block against its digest, and passes the pieces to
    /// `sink` in order.
    pub(crate) fn run(
        &self,
        observer: &dyn Observer,
        mut sink: impl FnMut(Piece<'_>) -> Result<()>,
    ) -> Result<()> {
        let chain = self.chain;
        let counters = progress::begin_work(observer, self.phase, chain.revision().size_bytes)?;
        let buffers = BufferPool::new();
        let mut chunks = Chunks::new(chain, self.max_void_bytes, observer);
        let threads = 0..pipeline::threads(self.threads);
        pipeline::run(
            threads.map(|_| Decompressor::new()).collect::<Result<Vec<_>>>()?,
            || chunks.next_chunk(),
            |decompressor, chunk| {
                let extent = chunk.extent(chain);
                let Chunk::Data(Blocks { first, located }) = chunk else {
                    return Ok((extent, None, 0, Vec::new()));
                };
                let data_bytes = data_bytes(chain, first, &located);
                let mut buffer = buffers.take(extent.len as usize);
                let keep_going = self.keep_going;
                let unreadable =
                    read_blocks(chain, first, &located, keep_going, decompressor, &mut buffer)?;
                Ok((extent, Some(buffer), data_bytes, unreadable))
            },
            |(extent, buffer, data_bytes, unreadable)| {
                let bytes = buffer.as_deref();
                sink(Piece { extent, bytes, data_bytes, unreadable: &unreadable })?;
                buffer.into_iter().for_each(|buffer| buffers.give(buffer));
                counters.add(extent.len);
                Ok(())
            },
        )
    }
}

/// Adds an extent after all others, joined with the last one if it follows that.
pub(crate) fn push_joined(extents: &mut Vec<Extent>, extent: Extent) {
    match extents.last_mut() {
        Some(last) if last.end() == extent.offset => last.len += extent.len,
        _ => extents.push(extent),
    }
}
