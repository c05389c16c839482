//! What has arrived, in case the pull is interrupted: `pull.spool`, each block at its place in the image.
//!
//! It needs no index, and no sync: a block is used only if its digest is the wanted one. At the first revision of an
//! archive, the image that is being made takes this role.

use std::collections::HashSet;

use super::source::Missing;
use crate::base::digest::{TableEntry, is_zero};
use crate::base::error::{ErrorKind, Result};
use crate::base::units::{BlockIndex, BlockSize};
use crate::storage::{Access, FileName, Storage, StorageFile};

/// What has arrived of the image of a revision.
pub(super) struct Spool<'a> {
    storage: &'a dyn Storage,
    /// What has arrived before.
    file: Option<Box<dyn StorageFile>>,
    /// Whether an earlier attempt may have left something.
    has_content: bool,
    /// Whether to add what arrives: the engine does so itself for the first revision.
    adds: bool,
}

impl<'a> Spool<'a> {
    /// Opens it, when the engine has begun with the revision.
    pub(super) fn open(storage: &'a dyn Storage, is_first: bool) -> Result<Self> {
        let (name, access) = match is_first {
            true => (FileName::STAGED_IMAGE, Access::Read),
            false => (FileName::Spool, Access::Write),
        };
        let file = match storage.list()?.contains(&name) {
            true => Some(storage.open(name, access)?),
            false => None,
        };
        Ok(Spool { storage, has_content: file.is_some(), file, adds: !is_first })
    }

    /// Reads the blocks that have arrived before into their places in the buffer; returns which.
    pub(super) fn take(
        &self,
        missing: &[Missing],
        (size, size_bytes): (BlockSize, u64),
        buffer: &mut [u8],
    ) -> Result<HashSet<BlockIndex>> {
        let mut taken = HashSet::new();
        let Some(file) = self.file.as_ref().filter(|_| self.has_content) else { return Ok(taken) };
        for missing in missing {
            let extent = size.extent(missing.block, size_bytes);
            let part = buffer.get_mut(missing.start..);
            let part = part.and_then(|part| part.get_mut(..extent.len as usize));
            let Some(part) = part else { continue };
            // What cannot be read is asked for again.
            let read = file.read_padded_at(part, extent.offset).is_ok() && !is_zero(part);
            if read && TableEntry::matching([(missing.entry, &*part)])? == [true] {
                taken.insert(missing.block);
            } else {
                part.fill(0);
            }
        }
        Ok(taken)
    }

    /// Adds a block. Without space it gives up what it has: the revision itself needs the space.
    pub(super) fn add(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        if !self.adds {
            return Ok(());
        }
        match self.write(bytes, offset) {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                (self.adds, self.has_content) = (false, false);
                self.file.take().map_or(Ok(()), |file| file.set_len(0))
            }
            written => written,
        }
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => self.storage.create(FileName::Spool)?,
        };
        self.file.insert(file).write_at(bytes, offset)
    }
}
