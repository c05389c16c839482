//! Comparing blocks that the source reports as unchanged: nothing is believed for ever.
//!
//! Runs before anything is written, so that a wrong report costs no more than reading the rest as well.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::chunks::RateLimit;
use super::{Chunks, Scan};
use crate::base::digest::TableEntry;
use crate::base::error::Result;
use crate::base::pipeline;
use crate::base::progress::{self, Counters, Observer};
use crate::base::units::BlockIndex;
use crate::format::manifest::{BlockRange, BlockRanges};
use crate::source;

/// What comparing has shown.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::verb::backup) struct Compared {
    /// Bytes that were read.
    pub bytes: u64,
    /// A block that differs although the source reports no change.
    pub wrong: Option<BlockIndex>,
}

impl Scan<'_> {
    /// Reads the blocks of `chosen` that the backup would not read, and compares them with the newest revision. Ends
    /// at the first that differs.
    pub(in crate::verb::backup) fn compare_unread(
        &self,
        chosen: &BlockRanges,
        threads: usize,
        (counters, rate): (&Counters, Option<&RateLimit>),
        observer: &dyn Observer,
    ) -> Result<Compared> {
        let mut compared = Compared::default();
        let mut chunks = Chunks::new(self, observer);
        let mut ranges = chosen.iter().copied().peekable();
        let is_over = AtomicBool::new(false);
        let next = || loop {
            let Some(range) = ranges.peek().copied() else { return Ok(None) };
            if is_over.load(Relaxed) {
                return Ok(None);
            }
            chunks.skip_to(range.first);
            let Some(found) = chunks.next_unread(range.end().min(self.same_end()))? else {
                ranges.next();
                continue;
            };
            progress::check(observer)?;
            if let Some(rate) = rate {
                rate.wait(self.extent_of(found).len, observer)?;
            }
            return Ok(Some(found));
        };
        let workers = vec![(); threads];
        pipeline::run(
            workers,
            next,
            |(), range| self.differing(range),
            |(bytes, differing)| {
                counters.add(bytes);
                compared.bytes += bytes;
                compared.wrong = compared.wrong.or(differing);
                is_over.store(compared.wrong.is_some(), Relaxed);
                Ok(())
            },
        )?;
        Ok(compared)
    }

    /// How many bytes these blocks have, and the first one that is not that of the newest revision.
    fn differing(&self, range: BlockRange) -> Result<(u64, Option<BlockIndex>)> {
        let Some(old) = self.old else { return Ok((0, None)) };
        let extent = self.extent_of(range);
        let mut bytes = self.buffers.take(extent.len as usize);
        source::read_exact(self.source, &mut bytes, extent.offset)?;
        let entries = old.digests.read(range.first, range.count)?;
        let blocks = bytes.chunks(self.block_size.len());
        let matching = TableEntry::matching(entries.into_iter().zip(blocks))?;
        self.buffers.give(bytes);
        let differing = matching.iter().position(|matches| !matches);
        Ok((extent.len, differing.map(|at| range.first.plus(at as u64))))
    }
}
