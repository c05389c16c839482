//! What distinguishes one file from another, and whether somebody has written to it; only where that is reliable.
//!
//! Inode numbers of network and FUSE file systems are no identity: sshfs gives the next file under a name the number
//! of the previous one, and what they report about a file may be seconds old. So this module only asks file systems
//! that are known to be this kernel's own. It reports nothing about all others but of which type they are, and its
//! callers do without.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, StatxFlags, fstat, fstatfs, statx};
use rustix::io::retry_on_intr;

use super::mounts;

/// File systems that only this kernel works on, with inode numbers and times of their own: ext2 to ext4, XFS, btrfs,
/// tmpfs, F2FS, ZFS, bcachefs. Source: `statfs(2)`, and the file systems themselves.
const LOCAL: [u32; 7] =
    [0x0000_ef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0xf2f5_2010, 0x2fc1_2fc1, 0xca45_1a4e];

/// Whether an open file is on a file system of this kernel's own.
pub(super) fn is_local(file: impl AsFd) -> bool {
    kind(file).is_some_and(|kind| LOCAL.contains(&kind))
}

/// File systems with holes that a client may not see: CephFS, NFS, FUSE. Source: `statfs(2)`.
const HIDING: [u32; 3] = [CEPH, 0x0000_6969, FUSE];
pub(super) const CEPH: u32 = 0x00c3_6400;
const FUSE: u32 = 0x6573_5546;

/// Whether an open file may have holes that its file system does not report. FAT and its like have none: what was never
/// written is stored as zeros there. The same holds for those that FUSE serves from a block device, such as NTFS.
pub(super) fn may_hide_holes(file: impl AsFd) -> bool {
    let kind = kind(&file).unwrap_or_default();
    let is_on_device = || {
        let found = retry_on_intr(|| fstat(&file));
        found.is_ok_and(|found| rustix::fs::major(found.st_dev) != 0)
    };
    HIDING.contains(&kind) && (kind != FUSE || !is_on_device())
}

/// Whether an open file is on a FUSE file system that is listed under this type, such as `fuse.sshfs`.
pub(super) fn is_fuse(file: impl AsFd, listed_as: &str) -> bool {
    if kind(&file) != Some(FUSE) {
        return false;
    }
    let Ok(found) = retry_on_intr(|| fstat(&file)) else { return false };
    let mounts = mounts::mounts().unwrap_or_default();
    let mut here = mounts.iter().filter(|mount| mount.device == found.st_dev).peekable();
    here.peek().is_some() && here.all(|mount| mount.kind == listed_as)
}

/// The type of the file system that an open file is on.
pub(super) fn kind(file: impl AsFd) -> Option<u32> {
    // All of these numbers have 32 bits, which some systems sign-extend.
    retry_on_intr(|| fstatfs(&file)).ok().map(|found| found.f_type as u32)
}

/// An identity that no two files share, however soon one takes the name and the number of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    device: (u32, u32),
    inode: u64,
    born: (i64, u32),
}

impl Identity {
    /// `None` if nothing is reliable.
    pub(super) fn of(file: impl AsFd) -> Option<Self> {
        Self::found(&file).filter(|_| is_local(&file))
    }

    /// Whether another opened file is this one.
    pub(super) fn is_of(self, file: impl AsFd) -> bool {
        // A file on the same device is on the same file system.
        Self::found(file) == Some(self)
    }

    fn found(file: impl AsFd) -> Option<Self> {
        let wanted = StatxFlags::INO | StatxFlags::BTIME;
        let found = retry_on_intr(|| statx(&file, "", AtFlags::EMPTY_PATH, wanted)).ok()?;
        let told = StatxFlags::from_bits_retain(found.stx_mask).contains(wanted);
        told.then_some(Identity {
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            born: (found.stx_btime.tv_sec, found.stx_btime.tv_nsec),
        })
    }
}

/// What distinguishes an archive's folder from another one in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FolderIdentity {
    device: u64,
    folder: Option<Identity>,
}

impl FolderIdentity {
    /// `None` if the folder cannot be looked up.
    pub(super) fn of(folder: impl AsFd) -> Option<Self> {
        let device = retry_on_intr(|| fstat(&folder)).ok()?.st_dev;
        Some(FolderIdentity { device, folder: Identity::of(&folder) })
    }

    /// Whether no other folder can have the same identity. On network and FUSE file systems another folder may have
    /// it.
    pub(crate) fn is_certain(self) -> bool {
        self.folder.is_some()
    }
}

/// A value that changes when anybody writes to the file, backy or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub(super) len: u64,
    pub(super) modified: (i64, i64),
    pub(super) changed: (i64, i64),
}
