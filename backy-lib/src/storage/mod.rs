//! The only layer that touches the archive's files.
//!
//! [`Storage`] is the archive's folder, [`StorageFile`] one open file in it. There are two of them: the real
//! folder (`dir::DirStorage`) and a simulated disk for tests (`sim::SimStorage`), which loses what was
//! not synced. What a power cut may do is therefore written down once, here:
//!
//! - Data, length and holes of a file are durable when [`StorageFile::sync`] has returned. Before that, any subset of
//!   the changes may survive; a write may be torn at a multiple of 512 bytes.
//! - A name (created, renamed, deleted) is durable when [`Storage::sync_folder`] has returned. Before that, any
//!   subset of the changes may survive; a rename that replaces a file is atomic.
//! - A file that was created is only found again after both.
//!
//! Anybody who has the folder could change it without the lock, so `dir` and `staged` are public only with the
//! feature `testing`: a program changes an archive through [`ArchiveWriter`](crate::ArchiveWriter), which holds the
//! lock.

pub(crate) mod cache;
pub(crate) mod device;
#[cfg(feature = "testing")]
pub mod dir;
#[cfg(not(feature = "testing"))]
#[expect(unreachable_pub, reason = "public for tests")]
pub(crate) mod dir;
pub(crate) mod follow;
mod holders;
mod identity;
pub(crate) mod image_lock;
mod included;
mod links;
mod lock;
pub(crate) mod manifest;
mod many;
pub(crate) mod mounts;
mod pinned;
mod seen;
#[cfg(feature = "testing")]
#[expect(clippy::indexing_slicing, reason = "a simulation may panic; it never sees foreign input")]
pub mod sim;
#[cfg(feature = "testing")]
pub mod staged;
#[cfg(not(feature = "testing"))]
#[expect(unreachable_pub, reason = "public for tests")]
pub(crate) mod staged;
pub(crate) mod system;
mod trust;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::base::error::{Error, Result};
use crate::base::extent::Extent;

pub use crate::format::name::{DigestsKind, FileName, Published, StagingToken};
pub use identity::{FolderIdentity, Stamp};
pub use included::{AskBehalf, Behalf, Included};
pub use lock::{holder_note, is_note};
pub use many::take_many_descriptors;
pub use seen::Seen;
pub(crate) use trust::who_can_swap;
pub use trust::{Trust, other_owner};

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    Write,
}

/// The folder of an archive.
pub trait Storage: Send + Sync {
    /// Where a file is, for messages and for `find`.
    fn path(&self, name: FileName) -> PathBuf;

    /// The folder, for messages.
    fn folder(&self) -> PathBuf;

    /// Opens a file that exists; for writing only if it has no other name. Never follows a symbolic link; refuses
    /// anything but a regular file. While `last.raw` is open for writing, QEMU's image locks are held on it, so that
    /// no program of QEMU relies on its old content.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is none; [`crate::Error::Locked`] if `last.raw` is to be written to
    /// and another program relies on it.
    fn open(&self, name: FileName, access: Access) -> Result<Box<dyn StorageFile>>;

    /// Opens a file for reading that is one of many to be read side by side. It may be closed while nobody reads, and
    /// opened again: it is an error if it is then another file, or missing.
    fn open_among_many(&self, name: FileName) -> Result<Box<dyn StorageFile>> {
        self.open(name, Access::Read)
    }

    /// Creates a file that does not exist, empty, for reading and writing.
    fn create(&self, name: FileName) -> Result<Box<dyn StorageFile>>;

    /// Creates `to` as a copy of `from` that shares its blocks, at a cost that does not depend on its size, but for the
    /// first `skip_bytes`, which are zero. `None`, and no file, if the file system cannot, or `from` is shorter.
    fn clone_file(
        &self,
        from: FileName,
        to: FileName,
        skip_bytes: u64,
    ) -> Result<Option<Box<dyn StorageFile>>>;

    /// A copy that shares the blocks of `from`, has no name and disappears when it is closed. `None` if that is not
    /// possible.
    fn clone_unnamed(&self, from: FileName) -> Result<Option<File>> {
        let _ = from;
        Ok(None)
    }

    /// The program that relies on `last.raw` as it is, so that it cannot be opened for writing.
    fn image_user(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Renames a file, replacing any file with that name.
    fn rename(&self, from: FileName, to: FileName) -> Result<()>;

    /// Deletes a file; a missing one is no error.
    fn remove(&self, name: FileName) -> Result<()>;

    /// The archive's files that exist. Omits, and never touches, names that an archive does not use.
    fn list(&self) -> Result<Vec<FileName>>;

    /// Makes all names durable.
    fn sync_folder(&self) -> Result<()>;

    /// Bytes that a file takes on disk.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is none.
    fn stored_bytes(&self, name: FileName) -> Result<u64> {
        self.open(name, Access::Read)?.allocated_bytes()
    }

    /// The length of a file, and the bytes that it takes on disk if the file system reports them.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is none.
    fn taken(&self, name: FileName) -> Result<Taken> {
        let file = self.open(name, Access::Read)?;
        Ok(Taken { len_bytes: file.len()?, bytes: file.taken_bytes()? })
    }

    /// The file system that the folder is on. `None` if there is none.
    fn file_system(&self) -> Result<Option<FileSystem>> {
        Ok(None)
    }

    /// Takes the exclusive lock of the archive, or fails at once.
    ///
    /// # Errors
    /// [`crate::Error::Locked`] with the text that the holder gave as its `holder`.
    fn lock(&self, holder: &str) -> Result<Box<dyn StorageLock>>;

    /// Who holds the lock at this moment, without taking it.
    fn lock_holder(&self) -> Result<Option<String>>;

    /// When the holder of the lock last showed progress, by the file system's time. `None` if nobody shows any.
    fn lock_progress(&self) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    /// Whether a backup is known to hold the lock at this moment. One that cannot be seen does not count.
    fn is_backup_at_work(&self) -> bool {
        false
    }

    /// What distinguishes the folder from another one in its place. `None` if nothing does.
    fn folder_identity(&self) -> Option<FolderIdentity> {
        None
    }

    /// What the writer with this handle knows about the manifest. `None` if nothing is ever written.
    fn seen(&self) -> Option<&Seen> {
        None
    }

    /// Checks that nobody but the caller and root can change the content of the folder, or put another one in its
    /// place; or that the caller has decided that this does not matter ([`Trust`]). On a file system without
    /// permissions (FAT, exFAT, NTFS), on which people keep backups as well, checks this only as far as it has
    /// owners.
    ///
    /// # Errors
    /// [`crate::Error::Untrusted`].
    fn check_trust(&self) -> Result<()> {
        Ok(())
    }

    /// The same, before backy runs or writes something outside of the folder because the archive's config names it:
    /// there, a file system without permissions is no excuse.
    ///
    /// # Errors
    /// [`crate::Error::Untrusted`].
    fn check_trust_outside(&self) -> Result<()> {
        Ok(())
    }

    /// Opens a file for reading that nobody but the caller and root can change, as far as the file system has
    /// permissions.
    ///
    /// # Errors
    /// [`crate::Error::Untrusted`]; those of [`Storage::open`].
    fn open_trusted(&self, name: FileName) -> Result<Box<dyn StorageFile>> {
        self.open(name, Access::Read)
    }

    /// Opens `backy.toml` for reading, whoever can change it. Also returns how to find out on whose behalf backy opens
    /// what it includes: most include nothing, and then nobody need ask.
    fn open_config(&self) -> Result<(Box<dyn StorageFile>, AskBehalf<'_>)> {
        let file = self.open(FileName::CONFIG, Access::Read)?;
        Ok((file, Box::new(|| Ok(Behalf::Reading))))
    }

    /// Opens a file for reading that a config includes.
    ///
    /// # Errors
    /// [`crate::Error::Untrusted`], on behalf of somebody who acts on it; also if it is not a regular file.
    fn open_included(&self, path: &Path, behalf: Behalf) -> Result<Included> {
        let _ = behalf;
        Err(Error::io(path, "open")(std::io::ErrorKind::NotFound.into()))
    }

    /// [`Storage::check_trust_outside`] for a file that a config includes.
    ///
    /// # Errors
    /// [`crate::Error::Untrusted`].
    fn check_included_outside(&self, path: &Path) -> Result<()> {
        let _ = path;
        Ok(())
    }

    /// [`Storage::exposed`] for a file that the config includes.
    ///
    /// # Errors
    /// Those of the process alone.
    fn exposed_included(&self, path: &Path, accepts_no_permissions: bool) -> Result<Option<Error>> {
        let _ = (path, accepts_no_permissions);
        Ok(None)
    }

    /// What others than root and the owner of the folder can change: of the folder and those above it, and of
    /// `backy.toml`. `None` if there is nothing, or no owner. Without permissions that is everything, unless the
    /// caller accepts it.
    ///
    /// # Errors
    /// Those of the process alone.
    fn exposed(&self, accepts_no_permissions: bool) -> Result<Option<Error>> {
        let _ = accepts_no_permissions;
        Ok(None)
    }

    /// Why nobody can write to the folder: it is mounted read-only, immutable, or its owner, who calls this, may not
    /// write. `None` if that is not so, or not known.
    fn unwritable(&self) -> Option<String> {
        None
    }

    /// Permissions of files made from now on; 0600 by default. Changes nothing if there are no permissions.
    fn set_file_mode(&self, mode: u32) {
        let _ = mode;
    }
}

/// The size of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Its length.
    pub len_bytes: u64,
    /// Bytes that it takes on disk; `None` if the file system may keep holes and reports only the length, as CephFS.
    pub bytes: Option<u64>,
}

/// A file system, and its space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// Distinguishes it from others of this machine, until it is mounted again.
    pub device: u64,
    /// Its capacity in bytes.
    pub size_bytes: u64,
    /// What users other than root may still write, as `df` shows it.
    pub free_bytes: u64,
}

/// Holds the archive's exclusive lock until dropped.
pub trait StorageLock: Send + Sync {
    /// A handle that keeps the lock held for as long as it, or a copy of it in another process, is open. `None` if
    /// there is no such handle.
    fn share(&self) -> Option<OwnedFd> {
        None
    }

    /// Shows others that the holder makes progress now. A failure is no reason to fail.
    fn touch(&self) {}
}

/// How often to try a read before it counts as failed.
pub(crate) const READ_ATTEMPTS: u32 = 3;

/// An open file of an archive. Positions are bytes from its start.
pub trait StorageFile: Send + Sync {
    /// Where the file is, for messages.
    fn path(&self) -> PathBuf;

    /// Whether its name still leads to this very file, and not to one that has replaced it.
    fn is_in_place(&self) -> Result<bool>;

    /// A value that changes when anybody writes to the file, backy or not. `None` if that cannot be determined.
    fn stamp(&self) -> Result<Option<Stamp>> {
        Ok(None)
    }

    /// Length in bytes. One of many files that is kept without a descriptor may be said to be up to a page longer.
    fn len(&self) -> Result<u64>;

    /// Length in bytes of a file that no longer grows. It is exact however the file is kept.
    fn final_len(&self) -> Result<u64> {
        self.len()
    }

    /// Bytes that the file takes on disk.
    fn allocated_bytes(&self) -> Result<u64>;

    /// When its content was last changed, by the file system's time.
    fn modified(&self) -> Result<Timestamp>;

    /// Reads until `buffer` is full or the file ends; returns the number of bytes.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;

    /// From now on, reads and writes leave nothing in the page cache that was not there before: a file that is read
    /// once from one end to the other would only evict what others need. Changes nothing if the system cannot. No
    /// byte may be written twice: early kernels with this feature could lose the second write.
    fn bypass_cache(&self) {}

    /// Drops what memory holds of the file, once that is durable, so that later reads return what the disk has.
    /// Memory may be right where the disk is not. Changes nothing if the system cannot.
    fn drop_cache(&self) {}

    /// Writes all of `data`; the file grows as needed.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;

    /// Cuts the file or extends it with a hole.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Makes the file take at least this many bytes on disk, beyond its length, which stays.
    fn allocate(&self, bytes: u64) -> Result<()>;

    /// Makes an extent read as zeros and take no space, if the file system can. The length stays.
    fn punch_hole(&self, extent: Extent) -> Result<()>;

    /// Makes an extent within the file read as zeros and keeps its space on disk, so that writing there needs none.
    fn zero(&self, extent: Extent) -> Result<()> {
        static ZEROS: [u8; 65536] = [0; 65536];
        let mut offset = extent.offset;
        while offset < extent.end() {
            let step = (extent.end() - offset).min(ZEROS.len() as u64);
            self.write_at(ZEROS.get(..step as usize).unwrap_or(&ZEROS), offset)?;
            offset += step;
        }
        Ok(())
    }

    /// Allocates space on disk for the holes of an extent, also beyond the length of the file. It still reads as
    /// zeros. Changes nothing if the system cannot.
    fn make_room(&self, extent: Extent) -> Result<()> {
        let _ = extent;
        Ok(())
    }

    /// Whether the file system is one that does not report holes, as CephFS and NFS: then only the digest tables know
    /// which blocks are zero, and a stretch that was never written takes no space all the same.
    fn hides_holes(&self) -> Result<bool> {
        Ok(false)
    }

    /// The first stretch at or after `offset` that may hold data; `None` when only holes follow.
    fn next_data(&self, offset: u64) -> Result<Option<Extent>>;

    /// Makes data and length durable.
    fn sync(&self) -> Result<()>;
}

impl dyn StorageFile + '_ {
    /// Bytes that the file takes on disk; `None` if the file system only reports its length.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub(crate) fn taken_bytes(&self) -> Result<Option<u64>> {
        let bytes = self.allocated_bytes()?;
        let is_known = bytes < self.len()? || !self.hides_holes()?;
        Ok(is_known.then_some(bytes))
    }

    /// Reads all of `buffer`, or fails with what is missing.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`] if the file ends before.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let found = self.read_at(buffer, offset)?;
        if found == buffer.len() {
            return Ok(());
        }
        Err(Error::damaged(
            self.path(),
            format!("offset {offset}"),
            format!("{found} bytes up to the end of the file"),
            format!("{} bytes", buffer.len()),
        ))
    }

    /// Reads as [`StorageFile::read_at`] does, but fails only if repeated attempts fail: data that can be read a
    /// moment later must not count as lost.
    pub(crate) fn read_persistently(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut read = self.read_at(buffer, offset);
        for _ in 1..READ_ATTEMPTS {
            if read.is_ok() {
                break;
            }
            read = self.read_at(buffer, offset);
        }
        read
    }

    /// Reads into all of `buffer`; bytes past the end of the file read as zeros.
    pub fn read_padded_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let found = self.read_at(buffer, offset)?;
        if let Some(rest) = buffer.get_mut(found..) {
            rest.fill(0);
        }
        Ok(())
    }
}
