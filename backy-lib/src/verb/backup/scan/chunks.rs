//! Cutting the source into chunks: which blocks must be read, which are holes, and which cannot have changed.
//!
//! What has not changed is only a hint. Where the source has a hole, the block is zero: if the newest revision has data
//! there, it has changed, whatever the source reports. (QEMU's bitmaps miss what is lost when a disk shrinks and grows
//! again.) Blocks that are known to be bad in the newest revision are read whatever it reports as unchanged, and lost
//! ones whatever it reports as holes.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Chunk, ChunkKind, Scan};
use crate::base::canary::{Bug, planted};
use crate::base::error::Result;
use crate::base::extent::{Extent, first_after};
use crate::base::limits::limits;
use crate::base::progress::{self, Observer};
use crate::base::units::BlockIndex;
use crate::format::manifest::BlockRange;
use crate::source::Source;

/// The first lost stretch of the source that ends after `offset`.
pub(super) fn next_lost(source: &dyn Source, offset: u64) -> Option<Extent> {
    first_after(source.lost(), offset)
}

/// Blocks from `first` up to, not including, `end`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretch {
    pub first: BlockIndex,
    pub end: BlockIndex,
}

impl Stretch {
    /// Past every block.
    const NONE: Stretch = Stretch { first: BlockIndex(u64::MAX), end: BlockIndex(u64::MAX) };
}

/// Cuts the source into chunks.
pub(in crate::verb::backup) struct Chunks<'a> {
    scan: &'a Scan<'a>,
    observer: &'a dyn Observer,
    next: BlockIndex,
    /// The blocks at or after `next` that may have changed, once backy has looked for them.
    changed: Option<Stretch>,
    /// The same for the source's data.
    data: Option<Stretch>,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(scan: &'a Scan<'a>, observer: &'a dyn Observer) -> Self {
        Chunks { scan, observer, next: BlockIndex(0), changed: None, data: None }
    }

    /// The next chunk; first checks whether to continue, and waits for the rate limit.
    pub(in crate::verb::backup) fn next_chunk(
        &mut self,
        rate: Option<&RateLimit>,
    ) -> Result<Option<Chunk>> {
        progress::check(self.observer)?;
        let chunk = self.cut()?;
        if let (Some(rate), Some(chunk)) = (rate, chunk.filter(|c| c.kind == ChunkKind::Data)) {
            rate.wait(self.scan.source_extent(chunk).len, self.observer)?;
        }
        Ok(chunk)
    }

    fn cut(&mut self) -> Result<Option<Chunk>> {
        let scan = self.scan;
        let end = BlockIndex(scan.new_blocks.max(scan.old.map_or(0, |old| old.blocks)));
        let first = self.next;
        if first >= end {
            return Ok(None);
        }
        let changed = self.next_changed()?;
        let (to, kind) = if first < changed.first {
            let to = changed.first.min(end);
            let data = match scan.source.knows_holes() && !planted(Bug::UnseenHoles) {
                true => self.next_data()?,
                false => Stretch { first, end: to },
            };
            match first < data.first {
                true => self.cut_old(data.first.min(to), ChunkKind::Hole, scan.chunk_blocks)?,
                false => {
                    let to = data.end.min(to);
                    self.cut_old(to, ChunkKind::Unchanged, limits().unchanged_blocks)?
                }
            }
        } else {
            let data = self.next_data()?;
            let to = changed.end.min(end);
            if first >= data.first {
                (data.end.min(to).min(first.plus(scan.chunk_blocks)), ChunkKind::Data)
            } else {
                self.cut_old(data.first.min(to), ChunkKind::Hole, scan.chunk_blocks)?
            }
        };
        // A chunk lies within the source or past its end, never both.
        let source_end = BlockIndex(scan.new_blocks);
        let to = if first < source_end { to.min(source_end) } else { to };
        self.next = to;
        Ok(Some(Chunk { first, blocks: to.0 - first.0, kind }))
    }

    /// A chunk that ends at `end` or before, of which the source need not be read: void as far as the newest revision
    /// is zero.
    fn cut_old(
        &self,
        end: BlockIndex,
        kind: ChunkKind,
        max_blocks: u64,
    ) -> Result<(BlockIndex, ChunkKind)> {
        let first = self.next;
        let old_data = match self.scan.old {
            Some(old) => {
                let bad = old.known.next_bad_block(first);
                let data = old.digests.next_data_block(first)?;
                data.into_iter().chain(bad).min()
            }
            None => None,
        };
        Ok(match old_data.filter(|&old_data| old_data < end) {
            None => (end, ChunkKind::Void),
            Some(at) if at > first => (at, ChunkKind::Void),
            Some(_) => (end.min(first.plus(max_blocks)), kind),
        })
    }

    /// The next blocks before `end` that a backup does not read: the source reports neither a change nor a hole, and
    /// nothing is known to be bad. No more than a chunk at a time.
    pub(super) fn next_unread(&mut self, end: BlockIndex) -> Result<Option<BlockRange>> {
        while self.next < end {
            let changed = self.next_changed()?;
            if self.next >= changed.first {
                self.next = changed.end.min(end);
                continue;
            }
            let mut to = changed.first.min(end);
            if self.scan.source.knows_holes() {
                let data = self.next_data()?;
                if self.next < data.first {
                    self.next = data.first.min(to);
                    continue;
                }
                to = to.min(data.end);
            }
            let range =
                BlockRange::between(self.next, to.min(self.next.plus(self.scan.chunk_blocks)));
            self.next = range.end();
            return Ok(Some(range));
        }
        Ok(None)
    }

    /// Continues at a later block.
    pub(super) fn skip_to(&mut self, block: BlockIndex) {
        self.next = self.next.max(block);
    }

    /// The next blocks that may differ from the newest revision, or whose content in it is unknown.
    fn next_changed(&mut self) -> Result<Stretch> {
        let (scan, next) = (self.scan, self.next);
        if !scan.uses_hints {
            return Ok(Stretch { first: next, end: Stretch::NONE.end });
        }
        if let Some(changed) = self.changed.filter(|changed| next < changed.end) {
            return Ok(changed);
        }
        let same_end = scan.same_end();
        let rest = Stretch { first: same_end.max(next), end: Stretch::NONE.end };
        let mut earliest = rest;
        if next < same_end {
            let offset = scan.block_size.offset(next);
            let bad = scan.old.and_then(|old| old.known.next_bad(next));
            let bad = bad.map(|bad| Stretch { first: bad.first, end: bad.end() });
            let changed = scan.source.next_changed(offset)?.map(|e| scan.touched(e, next));
            let lost = next_lost(scan.source, offset).map(|e| scan.touched(e, next));
            let all = [bad, changed, lost, Some(rest)].into_iter().flatten();
            earliest = all.min_by_key(|stretch| stretch.first).unwrap_or(rest);
        }
        self.changed = Some(earliest);
        Ok(earliest)
    }

    /// The source's next stretch of data, or of lost blocks: those are stored as they are found.
    fn next_data(&mut self) -> Result<Stretch> {
        let (scan, next) = (self.scan, self.next);
        if let Some(data) = self.data.filter(|data| next < data.end) {
            return Ok(data);
        }
        let mut earliest = Stretch::NONE;
        if next.0 < scan.new_blocks {
            let offset = scan.block_size.offset(next);
            let data = scan.source.next_data(offset)?.map(|e| scan.touched(e, next));
            let lost = next_lost(scan.source, offset).map(|e| scan.touched(e, next));
            let all = [data, lost].into_iter().flatten();
            earliest = all.min_by_key(|stretch| stretch.first).unwrap_or(earliest);
        }
        self.data = Some(earliest);
        Ok(earliest)
    }
}

/// Limits how many bytes per second are read from the source.
pub(crate) struct RateLimit {
    bytes_per_second: u64,
    next: Mutex<Option<Instant>>,
}

/// Longest sleep at a time, so that Ctrl-C is noticed soon.
const MAX_SLEEP: Duration = Duration::from_millis(100);

impl RateLimit {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        RateLimit { bytes_per_second: bytes_per_second.max(1), next: Mutex::new(None) }
    }

    /// Waits until `bytes` more may be read.
    pub(super) fn wait(&self, bytes: u64, observer: &dyn Observer) -> Result<()> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let until = next.unwrap_or(now).max(now);
        *next = Some(until + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64));
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero())
        {
            progress::check(observer)?;
            std::thread::sleep(left.min(MAX_SLEEP));
        }
        Ok(())
    }
}
