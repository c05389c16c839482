//! What is backed up: a regular file, a block device, or anything that returns bytes at offsets.
//!
//! A [`Source`] is only read. Its size is the one when it was opened: a backup of a source that changes its size fails.

#[cfg(feature = "testing")]
pub mod answers;
mod backing;
mod device;
pub(crate) mod hint_program;
pub mod hooks;
mod identity;
pub mod libvirt;
pub(crate) mod meeting;
pub mod nbd;
pub(crate) mod output;
mod program;
pub(crate) mod qcow2;
mod qemu_nbd;
pub mod qmp;
pub mod rbd;
pub mod reflink;
mod reported;
mod running;
mod scratch;
mod served;
mod slot;
pub mod thin;
pub mod tracking;

use std::path::PathBuf;

use crate::base::digest::TableEntry;
use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::base::units::BlockIndex;
use crate::format::manifest::{BlockRange, SourceIdentity};

pub use device::DeviceSource;
pub use meeting::Meeting;
pub use tracking::{Marked, Opened, Tracker};

/// Something to back up. Several threads read it at once; nothing writes to it.
pub trait Source: Sync {
    /// Its identity, for the manifest.
    fn identity(&self) -> SourceIdentity;

    /// Where it is and what kind of source: its identity as far as nothing has to be read for it.
    fn place(&self) -> SourceIdentity {
        self.identity()
    }

    /// Size in bytes when the source was opened.
    fn size_bytes(&self) -> u64;

    /// Size in bytes now.
    fn current_size_bytes(&self) -> Result<u64>;

    /// Reads until `buffer` is full or the source ends; returns the number of bytes.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;

    /// The first extent at or after `offset` that may hold data; `None` if only holes follow.
    fn next_data(&self, offset: u64) -> Result<Option<Extent>>;

    /// Whether [`Source::next_data`] leaves out what is zero. A hole is then zero even where nothing has changed
    /// according to [`Source::next_changed`].
    fn knows_holes(&self) -> bool {
        false
    }

    /// Whether [`Source::next_changed`] is only a hint, which a backup checks from time to time.
    fn gives_hints(&self) -> bool {
        false
    }

    /// The first extent at or after `offset` that may differ from the previous backup; `None` if nothing
    /// does. Bytes between such extents are not read. By default, everything may differ.
    fn next_changed(&self, offset: u64) -> Result<Option<Extent>> {
        let size_bytes = self.size_bytes();
        Ok((offset < size_bytes).then(|| Extent::between(offset, size_bytes)))
    }

    /// Extents with unknown content, ascending: damage that is older than the backup. Blocks that overlap one
    /// are stored as found and marked, so that no reader gets them as correct data.
    fn lost(&self) -> &[Extent] {
        &[]
    }

    /// What the source itself knows of blocks of the archive, ascending. Called once for blocks that were read, after
    /// that.
    fn take_known(&self, _blocks: BlockRange) -> Vec<KnownBlock> {
        Vec::new()
    }
}

/// What a source knows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownBlock {
    /// Which block.
    pub block: BlockIndex,
    /// The entry that it should have; [`TableEntry::LOST`] as far as nobody knows it.
    pub entry: TableEntry,
    /// Whether reading it has shown that its content is lost.
    pub is_lost: bool,
}

/// A borrowed source.
impl<S: Source + ?Sized> Source for &S {
    fn identity(&self) -> SourceIdentity {
        (**self).identity()
    }

    fn place(&self) -> SourceIdentity {
        (**self).place()
    }

    fn size_bytes(&self) -> u64 {
        (**self).size_bytes()
    }

    fn current_size_bytes(&self) -> Result<u64> {
        (**self).current_size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        (**self).read_at(buffer, offset)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        (**self).next_data(offset)
    }

    fn knows_holes(&self) -> bool {
        (**self).knows_holes()
    }

    fn gives_hints(&self) -> bool {
        (**self).gives_hints()
    }

    fn next_changed(&self, offset: u64) -> Result<Option<Extent>> {
        (**self).next_changed(offset)
    }

    fn lost(&self) -> &[Extent] {
        (**self).lost()
    }

    fn take_known(&self, blocks: BlockRange) -> Vec<KnownBlock> {
        (**self).take_known(blocks)
    }
}

/// Fills `buffer`; a source that ends earlier has changed its size.
pub(crate) fn read_exact(source: &dyn Source, buffer: &mut [u8], offset: u64) -> Result<()> {
    let found = source.read_at(buffer, offset)?;
    if found == buffer.len() { Ok(()) } else { Err(size_changed(source, offset + found as u64)) }
}

/// Fails if the size has changed since the source was opened.
pub(crate) fn check_size(source: &dyn Source) -> Result<()> {
    let now = source.current_size_bytes()?;
    if now == source.size_bytes() { Ok(()) } else { Err(size_changed(source, now)) }
}

/// Fails if there is nothing to back up: an empty source was truncated, or is not the right one.
///
/// # Errors
/// [`Error::Source`].
pub fn check_not_empty(source: &dyn Source) -> Result<()> {
    if source.size_bytes() > 0 {
        return Ok(());
    }
    let message = "it is empty: found 0 bytes; no backup was made, all revisions stay".to_owned();
    Err(Error::Source { path: PathBuf::from(source.place().path), message })
}

pub(crate) fn size_changed(source: &dyn Source, now: u64) -> Error {
    Error::Source {
        path: PathBuf::from(source.place().path),
        message: format!(
            "its size changed while it was read: found {now} bytes, expected {}",
            source.size_bytes()
        ),
    }
}
