//! An archive's folder with one file in it, whose content is the input.

use std::io;
use std::path::PathBuf;

use backy_lib::storage::{Access, FileName, Storage, StorageFile, StorageLock};
use backy_lib::{Error, Result, extent::Extent};
use jiff::Timestamp;

/// A folder that holds the same bytes under every name. Read-only.
pub struct OneFile(pub Vec<u8>);

impl Storage for OneFile {
    fn path(&self, name: FileName) -> PathBuf {
        self.folder().join(name.to_string())
    }

    fn folder(&self) -> PathBuf {
        PathBuf::from("/fuzz")
    }

    fn open(&self, _name: FileName, _access: Access) -> Result<Box<dyn StorageFile>> {
        Ok(Box::new(Content(self.0.clone())))
    }

    fn create(&self, name: FileName) -> Result<Box<dyn StorageFile>> {
        read_only(self.path(name))
    }

    fn clone_file(
        &self,
        _from: FileName,
        _to: FileName,
        _skip_bytes: u64,
    ) -> Result<Option<Box<dyn StorageFile>>> {
        Ok(None)
    }

    fn rename(&self, from: FileName, _to: FileName) -> Result<()> {
        read_only(self.path(from))
    }

    fn remove(&self, name: FileName) -> Result<()> {
        read_only(self.path(name))
    }

    fn list(&self) -> Result<Vec<FileName>> {
        Ok(Vec::new())
    }

    fn sync_folder(&self) -> Result<()> {
        Ok(())
    }

    fn lock(&self, _holder: &str) -> Result<Box<dyn StorageLock>> {
        read_only(self.folder())
    }

    fn lock_holder(&self) -> Result<Option<String>> {
        Ok(None)
    }
}

struct Content(Vec<u8>);

impl StorageFile for Content {
    fn path(&self) -> PathBuf {
        PathBuf::from("/fuzz/input")
    }

    fn is_in_place(&self) -> Result<bool> {
        Ok(true)
    }

    fn len(&self) -> Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn modified(&self) -> Result<Timestamp> {
        Ok(Timestamp::UNIX_EPOCH)
    }

    fn allocated_bytes(&self) -> Result<u64> {
        self.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let rest =
            usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or(&[]);
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, _data: &[u8], _offset: u64) -> Result<()> {
        read_only(self.path())
    }

    fn set_len(&self, _len: u64) -> Result<()> {
        read_only(self.path())
    }

    fn allocate(&self, _bytes: u64) -> Result<()> {
        read_only(self.path())
    }

    fn punch_hole(&self, _extent: Extent) -> Result<()> {
        read_only(self.path())
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        let len = self.0.len() as u64;
        Ok((offset < len).then(|| Extent::new(offset, len - offset)))
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

fn read_only<T>(path: PathBuf) -> Result<T> {
    Err(Error::io(path, "write to it")(io::Error::from(io::ErrorKind::ReadOnlyFilesystem)))
}
