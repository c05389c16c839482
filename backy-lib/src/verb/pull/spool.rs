//! What has arrived, in case the pull is interrupted: `pull.spool`, each block at its place in the image.
//!
//! It needs no index, and no sync: a block is used only if its digest is the wanted one. At the first revision of an
//! archive, the image that is being made takes this role.

use super::table::Wish;
use crate::base::digest::{TableEntry, is_zero};
use crate::base::error::{ErrorKind, Result};
use crate::storage::{Access, FileName, Storage, StorageFile};

/// What has arrived of the image of a revision.
pub(super) struct Spool<'a> {
    storage: &'a dyn Storage,
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

    /// Whether something may have arrived at or after this offset.
    pub(super) fn has_content(&self, offset: u64) -> Result<bool> {
        match self.file.as_ref().filter(|_| self.has_content) {
            Some(file) => Ok(file.next_data(offset)?.is_some()),
            None => Ok(false),
        }
    }

    /// Reads a block, if it has arrived. What cannot be read is asked for again.
    pub(super) fn take(&self, wish: Wish, offset: u64, bytes: &mut [u8]) -> Result<bool> {
        let Some(file) = self.file.as_ref().filter(|_| self.has_content) else { return Ok(false) };
        let is_read = file.read_padded_at(bytes, offset).is_ok() && !is_zero(bytes);
        Ok(is_read && TableEntry::matching([(wish.entry, &*bytes)])? == [true])
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
