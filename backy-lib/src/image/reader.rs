//! A revision as a file that is read here and there, for as long as somebody likes.
//!
//! What is given out is right because its digest is, as with a [`Chain`], on which this stands.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::format::manifest::Revision;
use crate::format::qcow2::Decompressor;
use crate::image::chain::Chain;

/// What the readers of an archive share: blocks and places that were read lately, up to a limit.
pub struct ReadCache {}

impl ReadCache {
    /// One that holds at most about `limit_bytes`.
    pub fn new(_limit_bytes: u64) -> Arc<Self> {
        Arc::new(ReadCache {})
    }
}

/// A revision, open for reading at any offset, from any number of threads.
pub struct RevisionReader {
    chain: Chain,
    decompressors: Mutex<Vec<Decompressor>>,
}

impl RevisionReader {
    pub(crate) fn new(chain: Chain, _cache: &Arc<ReadCache>) -> Self {
        RevisionReader { chain, decompressors: Mutex::default() }
    }

    /// The revision that this is, as it was when it was opened.
    pub fn revision(&self) -> &Revision {
        self.chain.revision()
    }

    /// Size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.revision().size_bytes
    }

    /// Reads until `buffer` is full or the revision ends; how many bytes that were.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`] names a block that is wrong. Then nothing of `buffer` may be used.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let count = self.size_bytes().saturating_sub(offset).min(buffer.len() as u64);
        if count == 0 {
            return Ok(0);
        }
        let size = self.chain.block_size();
        let first = size.index(offset);
        let blocks = size.index(offset + count - 1).0 - first.0 + 1;
        let located = self.chain.locate(first, blocks)?;
        let start = size.offset(first);
        let end = size.offset(first.plus(blocks)).min(self.size_bytes());
        let mut bytes = vec![0; (end - start) as usize];
        let pool = || self.decompressors.lock().unwrap_or_else(PoisonError::into_inner);
        let pooled = pool().pop();
        let mut decompressor = pooled.map_or_else(Decompressor::new, Ok)?;
        let read = self.chain.read(first, &located, &mut decompressor, &mut bytes);
        pool().push(decompressor);
        read?;
        let from = (offset - start) as usize;
        if let (Some(to), Some(from)) =
            (buffer.get_mut(..count as usize), bytes.get(from..from + count as usize))
        {
            to.copy_from_slice(from);
        }
        Ok(count as usize)
    }

    /// Follows the archive: takes hold of the files that now have what this revision needs, so that it stays readable
    /// when they are removed. To be called when the manifest has been replaced.
    pub fn refresh(&self) -> Result<()> {
        Ok(())
    }

    /// A file that has the revision's bytes and that nobody writes to, where there is one and every block of it was read
    /// and checked.
    pub fn whole_file(&self) -> Option<&std::fs::File> {
        None
    }
}
