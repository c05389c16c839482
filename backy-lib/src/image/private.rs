//! A clone of the image that only one reader has, so that no writer can reach it. It has no name, and disappears with
//! the reader.

use std::fs::File;
use std::sync::OnceLock;

use crate::base::digest;
use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::base::units::BlockIndex;
use crate::image::chain::{Chain, Place};
use crate::image::walk::Walk;
use crate::storage::dir::DirFile;
use crate::storage::{FileName, Storage, StorageFile};

/// Bytes to look through at a time.
const STEP_BYTES: u64 = 1 << 20;

pub(super) struct PrivateImage {
    file: File,
    image: DirFile,
    /// How many blocks of the revision are not zero, once counted.
    data_blocks: OnceLock<u64>,
    /// Set once all of it has been found right.
    is_whole: OnceLock<()>,
}

impl PrivateImage {
    /// `None` if the file system cannot clone, or this program may not.
    pub(super) fn of(storage: &dyn Storage) -> Result<Option<Self>> {
        let Some(file) = storage.clone_unnamed(FileName::IMAGE)? else { return Ok(None) };
        let image = Self::open(storage, &file)?;
        Ok(Some(PrivateImage {
            file,
            image,
            data_blocks: OnceLock::new(),
            is_whole: OnceLock::new(),
        }))
    }

    fn open(storage: &dyn Storage, file: &File) -> Result<DirFile> {
        let path = storage.path(FileName::IMAGE);
        let again = file.try_clone().map_err(Error::io(&path, "open a clone of it again"))?;
        Ok(DirFile::over(path, again))
    }

    /// The same file for a chain to read.
    pub(super) fn for_chain(&self, storage: &dyn Storage) -> Result<Box<dyn StorageFile>> {
        Ok(Box::new(Self::open(storage, &self.file)?))
    }

    /// The file, if it has all bytes of the chain's revision. `checked_blocks` of its blocks were found right.
    pub(super) fn whole(&self, chain: &Chain, checked_blocks: u64) -> Result<Option<&File>> {
        if self.is_whole.get().is_none() {
            let checked_bytes = chain.block_size().bytes().saturating_mul(checked_blocks);
            // Most of it was not even read, so there is no need to count.
            let is_far = checked_bytes < self.image.allocated_bytes()? / 2;
            if is_far || self.image.len()? != chain.revision().size_bytes {
                return Ok(None);
            }
            let data_blocks = match self.data_blocks.get() {
                Some(count) => *count,
                None => {
                    let count = count_data_blocks(chain)?;
                    *self.data_blocks.get_or_init(|| count)
                }
            };
            if checked_blocks < data_blocks || !self.has_zeros(chain)? {
                return Ok(None);
            }
            _ = self.is_whole.set(());
        }
        Ok(Some(&self.file))
    }

    /// Whether the file has zeros where the revision has zero blocks.
    fn has_zeros(&self, chain: &Chain) -> Result<bool> {
        let size = chain.block_size();
        let mut buffer = Vec::new();
        let mut offset = 0;
        while let Some(data) = self.image.next_data(offset)? {
            let first = size.index(data.offset);
            let end = data.end().min(size.offset(first) + STEP_BYTES.max(size.bytes()));
            let blocks = size.index(end - 1).0 - first.0 + 1;
            for (located, block) in chain.locate(first, blocks)?.into_iter().zip(first.0..) {
                let extent = size.extent(BlockIndex(block), chain.revision().size_bytes);
                if located.place == Place::Zero && !self.is_zero(extent, &mut buffer)? {
                    return Ok(false);
                }
            }
            offset = end;
        }
        Ok(true)
    }

    fn is_zero(&self, extent: Extent, buffer: &mut Vec<u8>) -> Result<bool> {
        buffer.resize(extent.len as usize, 0);
        let image: &dyn StorageFile = &self.image;
        image.read_exact_at(buffer, extent.offset)?;
        Ok(digest::is_zero(buffer))
    }
}

fn count_data_blocks(chain: &Chain) -> Result<u64> {
    let mut count = 0;
    let mut walk = Walk::new(chain);
    while let Some(piece) = walk.next_window()? {
        count += piece.located.iter().filter(|block| block.place != Place::Zero).count() as u64;
    }
    Ok(count)
}
