//! A revision as a file for reading at any place, for as long as the caller likes, while writers change the archive.
//!
//! The returned bytes are right because their digest is, as with a [`Chain`], which this uses. It adds:
//!
//! - *It checks a block of the image once*, on file systems that only this kernel works on. Before a writer touches
//!   the image it publishes a manifest, and any program that writes to it, backy or not, changes its times. So a
//!   block that was right is still right after it has been read again, if the manifest and the times are still the
//!   same afterwards. Such a block is read without its neighbours, and not digested again. If the file system can
//!   clone, the newest revision is read from a clone without a name, which no writer can reach: there neither check
//!   is needed. On network and FUSE file systems nothing proves that a file is still the same: there every block is
//!   digested whenever it is read.
//! - *It stays readable.* After the manifest has been replaced, the reader opens the files that now hold what the
//!   revision needs, before the next operation can delete them. It has to look in time: every read does, and
//!   [`RevisionReader::refresh`].
//! - *It remembers* where blocks are, and blocks that it had to check and will not trust again, up to the limit of a
//!   [`ReadCache`].

mod cache;
mod held;

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::base::digest::TableEntry;
use crate::base::error::{Error, Result};
use crate::base::limits::limits;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::Revision;
use crate::format::qcow2::Decompressor;
use crate::image::chain::{Chain, Located, Place};
use crate::image::private::PrivateImage;
use crate::storage::Storage;

pub use cache::ReadCache;
use cache::{Block, Window};
use held::{Checked, Held};

/// A revision, open for reading at any offset, from any number of threads.
pub struct RevisionReader {
    storage: Arc<dyn Storage>,
    revision: Revision,
    size: BlockSize,
    cache: Arc<ReadCache>,
    held: RwLock<Arc<Held>>,
    refreshing: Mutex<()>,
    private: Option<PrivateImage>,
    workspaces: Mutex<Vec<Workspace>>,
}

struct Workspace {
    decompressor: Decompressor,
    block: Vec<u8>,
}

impl RevisionReader {
    pub(crate) fn new(
        storage: &Arc<dyn Storage>,
        mut chain: Chain,
        cache: &Arc<ReadCache>,
    ) -> Result<Self> {
        let (revision, size) = (chain.revision().clone(), chain.block_size());
        let private = if chain.is_image() { PrivateImage::of(&**storage)? } else { None };
        let held = match &private {
            Some(image) => {
                chain.set_image_file(image.for_chain(&**storage)?);
                let mut held = Held::new(chain, cache)?;
                held.checked = Some(Checked::new(&held.chain, None));
                held
            }
            None => Held::first(&**storage, chain, cache)?,
        };
        Ok(RevisionReader {
            storage: Arc::clone(storage),
            revision,
            size,
            cache: Arc::clone(cache),
            held: RwLock::new(Arc::new(held)),
            refreshing: Mutex::default(),
            private,
            workspaces: Mutex::default(),
        })
    }

    /// The revision that this is, as it was when it was opened.
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// Size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.revision.size_bytes
    }

    /// The problem with the digests of the revision as a whole, if blocks that are not zero can be proved right
    /// nevertheless.
    pub fn doubt(&self) -> Option<Arc<Error>> {
        self.held().doubt.clone()
    }

    /// Reads until `buffer` is full or the revision ends; returns the number of bytes.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`] names a bad block. Then nothing of `buffer` may be used.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let count = self.size_bytes().saturating_sub(offset).min(buffer.len() as u64) as usize;
        let held = self.current();
        let mut workspace = self.workspace()?;
        let mut rest = buffer.get_mut(..count).unwrap_or_default();
        let mut offset = offset;
        let mut result = Ok(count);
        while !rest.is_empty() {
            match self.read_some(&held, &mut workspace, rest, offset) {
                Ok(done) => {
                    offset += done as u64;
                    rest = rest.get_mut(done..).unwrap_or_default();
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        self.workspaces().push(workspace);
        result
    }

    /// Reads into the beginning of `buffer`; returns how much.
    fn read_some(
        &self,
        held: &Held,
        workspace: &mut Workspace,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<usize> {
        let block = self.size.index(offset);
        let window = self.window(held, block.0 / limits().reader_window_blocks)?;
        let located =
            window.get((block.0 % limits().reader_window_blocks) as usize..).unwrap_or_default();
        let Some(first) = located.first() else { return Ok(buffer.len()) };
        let extent = self.size.extent(block, self.size_bytes());
        let skipped = (offset - extent.offset) as usize;
        if skipped > 0 || (buffer.len() as u64) < extent.len {
            let len = buffer.len().min(extent.len as usize - skipped);
            let part = buffer.get_mut(..len).unwrap_or_default();
            self.read_part(held, workspace, block, first, skipped..skipped + len, part)?;
            return Ok(len);
        }
        // Blocks that fit into the buffer as a whole.
        let end =
            (offset + buffer.len() as u64).min(offset.saturating_add(limits().reader_run_bytes));
        let end = if end < self.size_bytes() {
            self.size.index(end)
        } else {
            BlockIndex(held.chain.blocks())
        };
        let whole = (end.0 - block.0).clamp(1, located.len() as u64) as usize;
        let same = |other: &&Located| other.place == Place::Image;
        let run = match first.place {
            Place::Image => located.iter().take(whole).take_while(same).count(),
            _ => 1,
        };
        let len = (run as u64 * self.size.bytes()).min(self.size_bytes() - offset) as usize;
        let part = buffer.get_mut(..len).unwrap_or_default();
        match first.place {
            Place::Image => {
                self.read_run(
                    held,
                    workspace,
                    block,
                    located.get(..run).unwrap_or_default(),
                    part,
                )?;
            }
            _ => {
                let located = std::slice::from_ref(first);
                held.chain.read(block, located, &mut workspace.decompressor, part)?;
            }
        }
        Ok(len)
    }

    /// Reads whole blocks that the image holds.
    fn read_run(
        &self,
        held: &Held,
        workspace: &mut Workspace,
        first: BlockIndex,
        located: &[Located],
        buffer: &mut [u8],
    ) -> Result<()> {
        held.chain.read_image(buffer, self.size.offset(first))?;
        if held.has_checked(first.0..first.0 + located.len() as u64) && held.is_as_checked() {
            return Ok(());
        }
        let entries = located.iter().map(|located| located.entry);
        let right = TableEntry::matching(entries.zip(buffer.chunks(self.size.len())))?;
        let parts = buffer.chunks_mut(self.size.len());
        for (((located, part), right), block) in located.iter().zip(parts).zip(right).zip(first.0..)
        {
            let block = BlockIndex(block);
            if held.doubt.is_some() && located.entry.is_zero_block() {
                return Err(held.chain.doubtful_block(block));
            }
            if right {
                held.set_checked(block);
            } else {
                let located = std::slice::from_ref(located);
                held.chain.read(block, located, &mut workspace.decompressor, part)?;
            }
        }
        Ok(())
    }

    /// Reads a part of one block.
    fn read_part(
        &self,
        held: &Held,
        workspace: &mut Workspace,
        block: BlockIndex,
        located: &Located,
        within: Range<usize>,
        part: &mut [u8],
    ) -> Result<()> {
        match located.place {
            Place::Zero => part.fill(0),
            Place::Image if held.checked.is_some() => {
                if held.has_checked(block.0..block.0 + 1) {
                    held.chain.read_image(part, self.size.offset(block) + within.start as u64)?;
                    if held.is_as_checked() {
                        return Ok(());
                    }
                }
                let mut whole = std::mem::take(&mut workspace.block);
                whole.resize(self.size.extent(block, self.size_bytes()).len as usize, 0);
                let located = std::slice::from_ref(located);
                let read = self.read_run(held, workspace, block, located, &mut whole);
                part.copy_from_slice(whole.get(within).unwrap_or_default());
                workspace.block = whole;
                read?;
            }
            Place::Image | Place::Layer(..) | Place::Lost => {
                let bytes = self.cached_block(held, workspace, block, located)?;
                part.copy_from_slice(bytes.get(within).unwrap_or_default());
            }
        }
        Ok(())
    }

    /// A whole block, which the next read is likely to need, too.
    fn cached_block(
        &self,
        held: &Held,
        workspace: &mut Workspace,
        block: BlockIndex,
        located: &Located,
    ) -> Result<Block> {
        let key = located.entry.0;
        if let Some(bytes) = self.cache.blocks.get(&key) {
            return Ok(bytes);
        }
        let mut bytes = vec![0; self.size.extent(block, self.size_bytes()).len as usize];
        let in_image = located.place == Place::Image;
        let located = std::slice::from_ref(located);
        match in_image {
            true => self.read_run(held, workspace, block, located, &mut bytes)?,
            false => held.chain.read(block, located, &mut workspace.decompressor, &mut bytes)?,
        }
        let bytes = Block::from(bytes);
        self.cache.blocks.insert(key, Arc::clone(&bytes));
        Ok(bytes)
    }

    /// Where the blocks of a window are.
    fn window(&self, held: &Held, number: u64) -> Result<Window> {
        let locate = || {
            let mut located = held.chain.locate(
                BlockIndex(number * limits().reader_window_blocks),
                limits().reader_window_blocks,
            )?;
            if held.doubt.is_some() {
                located.iter_mut().for_each(|block| block.place = Place::Image);
            }
            Ok(Window::from(located))
        };
        self.cache.windows.get_or_insert_with(&(held.number, number), locate)
    }

    /// The digests of up to `count` blocks from `first` on, fewer at the end. If there is a [`doubt`](Self::doubt),
    /// they prove nothing.
    pub(crate) fn entries(&self, first: BlockIndex, count: u64) -> Result<Vec<TableEntry>> {
        let located = self.current().chain.locate(first, count)?;
        Ok(located.into_iter().map(|block| block.entry).collect())
    }

    /// The first block at or after `from` whose digest may be other than that of zeros.
    pub(crate) fn next_data_block(&self, from: BlockIndex) -> Result<Option<BlockIndex>> {
        match from.0 < self.size.count(self.size_bytes()) {
            true => self.current().chain.next_data_block(from),
            false => Ok(None),
        }
    }

    /// The first byte at or after `offset` that may be other than zero; `None` when only zeros follow.
    pub fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        let held = self.current();
        if held.doubt.is_some() {
            return Ok((offset < self.size_bytes()).then_some(offset));
        }
        let mut block = self.size.index(offset);
        while let Some(next) = held.chain.next_data_block(block)? {
            // A delta also holds blocks as zeros.
            match self.next_in_window(&held, next, |place| place != Place::Zero)? {
                (_, Some(found)) => return Ok(Some(self.size.offset(found).max(offset))),
                (end, None) => block = end,
            }
        }
        Ok(None)
    }

    /// The first byte at or after `offset` where at least one block of zeros begins; the end of the revision if there
    /// is none.
    pub fn next_hole(&self, offset: u64) -> Result<u64> {
        let held = self.current();
        let mut block = self.size.index(offset);
        while block.0 < held.chain.blocks() {
            match self.next_in_window(&held, block, |place| place == Place::Zero)? {
                (_, Some(found)) => return Ok(self.size.offset(found).max(offset)),
                (end, None) => block = end,
            }
        }
        Ok(self.size_bytes())
    }

    /// The first byte at or after `offset` that is in the revision's own file; `None` if nothing follows. The file of
    /// an older revision holds what has changed since, that of the newest holds everything.
    pub fn next_own(&self, offset: u64) -> Result<Option<u64>> {
        if offset >= self.size_bytes() {
            return Ok(None);
        }
        let next = self.current().chain.next_own_block(self.size.index(offset))?;
        Ok(next.map(|block| self.size.offset(block).max(offset)))
    }

    /// The first block from `block` on whose place is `wanted`, or the end of the window, whichever comes first.
    fn next_in_window(
        &self,
        held: &Held,
        block: BlockIndex,
        wanted: impl Fn(Place) -> bool,
    ) -> Result<(BlockIndex, Option<BlockIndex>)> {
        let number = block.0 / limits().reader_window_blocks;
        let window = self.window(held, number)?;
        let from = (block.0 % limits().reader_window_blocks) as usize;
        let located = window.get(from..).unwrap_or_default();
        let found = located.iter().position(|located| wanted(located.place));
        let end = BlockIndex((number + 1) * limits().reader_window_blocks);
        Ok((end, found.map(|at| block.plus(at as u64))))
    }

    /// Follows the archive: opens the files that now hold what this revision needs, so that it stays readable when
    /// they are deleted. Call it after the manifest has been replaced.
    ///
    /// # Errors
    /// Errors of opening the files; try again soon. The files that were open before still are.
    pub fn refresh(&self) -> Result<()> {
        let _one_at_a_time = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.held();
        if held.is_current() {
            return Ok(());
        }
        let now = Held::take(&*self.storage, held.again(), &self.cache)?;
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
        Ok(())
    }

    /// The newest available state.
    fn current(&self) -> Arc<Held> {
        let held = self.held();
        // Blocks from open files are checked against their digests, whatever the archive is like now.
        if held.is_current() || self.refresh().is_err() { held } else { self.held() }
    }

    fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn workspaces(&self) -> MutexGuard<'_, Vec<Workspace>> {
        self.workspaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn workspace(&self) -> Result<Workspace> {
        let pooled = self.workspaces().pop();
        let new = || Ok(Workspace { decompressor: Decompressor::new()?, block: Vec::new() });
        pooled.map_or_else(new, Ok)
    }

    /// A file that has the revision's bytes and that nobody writes to, if there is one and every block of it was read
    /// and found right. For a kernel that reads it without asking again.
    pub fn whole_file(&self) -> Option<&File> {
        let held = self.held();
        if held.doubt.is_some() {
            return None;
        }
        let checked_blocks = held.checked.as_ref()?.count.load(Relaxed);
        self.private.as_ref()?.whole(&held.chain, checked_blocks).ok().flatten()
    }
}
