//! The only layer that touches the archive's files.
//!
//! [`Storage`] is the archive's folder, [`StorageFile`] one open file in it. There are two of them: the real
//! folder (`dir::DirStorage`) and a simulated disk for tests (`sim::SimStorage`), which loses what was
//! not synced. What a power cut may do is therefore written down once, here:
//!
//! - Data, length and holes of a file are durable when [`StorageFile::sync`] has returned. Before that, any subset of
//!   the changes may survive; a write may be torn at a multiple of 512 bytes.
//! - A name (created, renamed, removed) is durable when [`Storage::sync_folder`] has returned. Before that, any subset
//!   of the changes may survive; a rename that replaces a file is atomic.
//! - A file that was created is found only with both.
//!
//! Whoever has the folder can change it without the lock, so `dir` and `staged` are public only with the feature
//! `testing`: a program changes an archive through [`ArchiveWriter`](crate::ArchiveWriter), which holds the lock.

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
use std::path::PathBuf;

use jiff::Timestamp;

use crate::base::error::{Error, Result};
use crate::base::extent::Extent;

pub use crate::format::name::{DigestsKind, FileName, Published, StagingToken};
pub use identity::{FolderIdentity, Stamp};
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

    /// Opens a file that is there; for writing only as one that has no other name. Never follows a symbolic link;
    /// anything but a regular file is refused. While `last.raw` is open for writing, QEMU's image locks are held on it,
    /// so that no program of QEMU takes it for what it was.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when there is none; [`crate::Error::Locked`] when `last.raw` is to be written to
    /// and another program relies on it.
    fn open(&self, name: FileName, access: Access) -> Result<Box<dyn StorageFile>>;

    /// Opens a file for reading that is one of many that are read side by side. It may be closed while nobody reads,
    /// and opened again: when it is not the same file then, or has gone, that is an error.
    fn open_among_many(&self, name: FileName) -> Result<Box<dyn StorageFile>> {
        self.open(name, Access::Read)
    }

    /// Makes a file that is not there, empty, for reading and writing.
    fn create(&self, name: FileName) -> Result<Box<dyn StorageFile>>;

    /// Makes `to` as a copy of `from` that shares its blocks, at a cost that does not depend on its size.
    /// `None`, and no file, where the file system cannot.
    fn clone_file(&self, from: FileName, to: FileName) -> Result<Option<Box<dyn StorageFile>>>;

    /// A copy that shares the blocks of `from`, has no name and goes when it is closed. `None` where that cannot be
    /// had.
    fn clone_unnamed(&self, from: FileName) -> Result<Option<File>> {
        let _ = from;
        Ok(None)
    }

    /// The program that relies on `last.raw` as it is, so that it cannot be opened for writing.
    fn image_user(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Gives a file another name, replacing what had that name.
    fn rename(&self, from: FileName, to: FileName) -> Result<()>;

    /// Removes a file; one that is not there is no error.
    fn remove(&self, name: FileName) -> Result<()>;

    /// The archive's files that are there. Names that an archive does not use are left out and left alone.
    fn list(&self) -> Result<Vec<FileName>>;

    /// Makes all names durable.
    fn sync_folder(&self) -> Result<()>;

    /// Bytes that a file takes on disk.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when there is none.
    fn stored_bytes(&self, name: FileName) -> Result<u64> {
        self.open(name, Access::Read)?.allocated_bytes()
    }

    /// The file system that the folder is on. `None` where there is none.
    fn file_system(&self) -> Result<Option<FileSystem>> {
        Ok(None)
    }

    /// Takes the exclusive lock of the archive, or fails at once.
    ///
    /// # Errors
    /// [`crate::Error::Locked`] with what the holder gave as its `holder`.
    fn lock(&self, holder: &str) -> Result<Box<dyn StorageLock>>;

    /// Who holds the lock at this moment, found out without taking it.
    fn lock_holder(&self) -> Result<Option<String>>;

    /// Whether a backup is known to hold the lock at this moment. Whatever cannot be seen is none.
    fn is_backup_at_work(&self) -> bool {
        false
    }

    /// What tells the folder from another one in its place. `None` where there is no such thing.
    fn folder_identity(&self) -> Option<FolderIdentity> {
        None
    }

    /// What the writer that has this handle knows of the manifest. `None` where nothing is ever written.
    fn seen(&self) -> Option<&Seen> {
        None
    }

    /// That nobody but the caller and root can change what is in the folder, or put another one in its place; or that
    /// this does not matter, as somebody has said ([`Trust`]). On a file system without permissions (FAT, exFAT, NTFS),
    /// which backups are kept on as well, only as far as it has owners.
    ///
    /// # Errors
    /// [`crate::Error::Untrusted`].
    fn check_trust(&self) -> Result<()> {
        Ok(())
    }

    /// The same, before something outside of the folder is run or written because the archive's config names it: there,
    /// a file system without permissions is no excuse.
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

    /// What others than root and the owner of the folder can change: of the folder and those above it, and of
    /// `backy.toml`. `None` when there is nothing, or no such thing as an owner. Without permissions that is
    /// everything, unless somebody accepts it.
    ///
    /// # Errors
    /// Those of the process alone.
    fn exposed(&self, accepts_no_permissions: bool) -> Result<Option<Error>> {
        let _ = accepts_no_permissions;
        Ok(None)
    }

    /// Why nobody can write to the folder: it is mounted read-only, immutable, or its owner, who asks, may not. `None`
    /// where that is not so, or not known.
    fn unwritable(&self) -> Option<String> {
        None
    }

    /// Permissions of files made from now on; 0600 unless told otherwise. Where there are none, nothing changes.
    fn set_file_mode(&self, mode: u32) {
        let _ = mode;
    }
}

/// A file system, and the room in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// Tells it from others of this machine, until it is mounted anew.
    pub device: u64,
    /// All that fits into it.
    pub size_bytes: u64,
    /// What may still be written by those who are not root, as `df` has it.
    pub free_bytes: u64,
}

/// Holds the archive's exclusive lock until dropped.
pub trait StorageLock: Send + Sync {
    /// A handle that keeps the lock held for as long as it, or a copy of it in another process, is open. `None` where
    /// there is no such thing.
    fn share(&self) -> Option<OwnedFd> {
        None
    }
}

/// How often something is read before it counts as what cannot be read.
pub(crate) const READ_ATTEMPTS: u32 = 3;

/// An open file of an archive. Positions are bytes from its start.
pub trait StorageFile: Send + Sync {
    /// Where the file is, for messages.
    fn path(&self) -> PathBuf;

    /// Whether its name still leads to this very file, and not to one that has replaced it.
    fn is_in_place(&self) -> Result<bool>;

    /// What is another one after anybody has written to the file, backy or not. `None` where that cannot be told.
    fn stamp(&self) -> Result<Option<Stamp>> {
        Ok(None)
    }

    /// Length in bytes.
    fn len(&self) -> Result<u64>;

    /// Bytes that the file takes on disk.
    fn allocated_bytes(&self) -> Result<u64>;

    /// When its content was last changed, as the file system has it.
    fn modified(&self) -> Result<Timestamp>;

    /// Reads until `buffer` is full or the file ends; how many bytes that were.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;

    /// From now on, what is read or written is not left in the page cache unless it was there before: a file that is
    /// gone through once, from one end to the other, would only drive out what others need. Where the system cannot,
    /// nothing changes. No byte may be written twice: early kernels that know this could lose the second write.
    fn bypass_cache(&self) {}

    /// Drops what memory has of the file, when that is durable, so that what is read from now on is what the disk has.
    /// Memory may be right where the disk is not. Where the system cannot, nothing changes.
    fn drop_cache(&self) {}

    /// Writes all of `data`; the file grows as needed.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;

    /// Cuts the file or extends it with a hole.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Sees to it that the file takes at least this many bytes on disk, beyond its length, which stays.
    fn allocate(&self, bytes: u64) -> Result<()>;

    /// Makes an extent read as zeros and take no space, where the file system can. The length stays.
    fn punch_hole(&self, extent: Extent) -> Result<()>;

    /// Makes an extent within the file read as zeros and keeps its room on disk, so that writing there needs none.
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

    /// Gives the holes of an extent room on disk, beyond the length of the file as well. It goes on reading as zeros.
    /// Where the system cannot, nothing changes.
    fn make_room(&self, extent: Extent) -> Result<()> {
        let _ = extent;
        Ok(())
    }

    /// The first stretch at or after `offset` that may hold data; `None` when only holes follow.
    fn next_data(&self, offset: u64) -> Result<Option<Extent>>;

    /// Makes data and length durable.
    fn sync(&self) -> Result<()>;
}

impl dyn StorageFile + '_ {
    /// Reads all of `buffer`, or fails with what is missing.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`] when the file ends before.
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

    /// Reads as [`StorageFile::read_at`] does, but takes no for an answer only when it is given again: what cannot be
    /// read now and could a moment later must not count as lost.
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

    /// Reads into all of `buffer`; what lies past the end of the file reads as zeros.
    pub fn read_padded_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let found = self.read_at(buffer, offset)?;
        if let Some(rest) = buffer.get_mut(found..) {
            rest.fill(0);
        }
        Ok(())
    }
}
