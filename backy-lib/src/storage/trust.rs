//! Whether somebody else could change what backy acts on.
//!
//! Anybody who can write to an archive, or rename a folder above it, decides what is read, where a restore writes and
//! which programs run, often as root. So before backy acts on an archive, its folder, every folder above it, every
//! symbolic link on the way and `backy.toml` must belong to the caller or to root, and nobody else may be able to
//! write to them; the same for each file that `backy.toml` includes. sshd (`StrictModes`), sudo and git
//! (`safe.directory`) require the same. `doc/decisions/18-trust.md` gives the reason for each rule.
//!
//! Who may *read* does not matter here, and backy checks nothing of this before it reads an archive.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat, fgetxattr, fstat, openat};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{getegid, geteuid};

use super::FileName;
use super::follow::{Place, Refusal};
use super::mounts::{Mount, mounts};
use crate::base::error::{Error, Result};

/// Whether backy acts on an archive that others can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trust {
    /// Only on one that nobody but the caller and root can change.
    #[default]
    Checked,
    /// On any. Only the caller may decide this, never an archive's config or the environment.
    Given,
}

impl Trust {
    /// Checks that nobody but the caller and root can change a file of another program, or put another one in its
    /// place.
    ///
    /// # Errors
    /// [`Error::Untrusted`].
    pub(crate) fn check_file(self, path: &Path) -> Result<()> {
        if self == Trust::Given {
            return Ok(());
        }
        Keepers::caller().check_path(path)
    }

    /// Checks that a folder that is to become an archive, whose last parts need not exist, is in a trusted place.
    ///
    /// # Errors
    /// [`Error::Untrusted`].
    pub(crate) fn check_new(self, folder: &Path) -> Result<()> {
        if self == Trust::Given {
            return Ok(());
        }
        let absolute = std::path::absolute(folder).map_err(Error::io(folder, "look up"))?;
        let is_there = |path: &&Path| path.symlink_metadata().is_ok();
        let there = absolute.ancestors().find(is_there).unwrap_or(Path::new("/"));
        let keepers = Keepers::caller().on(WithoutPermissions::Accepted);
        let is_made = there != absolute;
        let judge = &mut |place: &Place, is_last| keepers.judge(place, is_last && !is_made);
        Place::find(there, judge).map(drop).map_err(|refusal| keepers.error(folder, refusal))
    }
}

/// What it means that every user may write to a file on a file system without permissions (FAT, exFAT, NTFS). That
/// was decided when the file system was mounted, and `chmod` changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WithoutPermissions {
    /// The same as elsewhere.
    Refused,
    /// Nothing: people keep backups on such disks. But backy does not run or write anything that their config names.
    Accepted,
}

/// The owner of the archive in a folder, if it is another user's alone: the folder and the manifest belong to that
/// user, and nobody else but root can change the folder or put another one in its place.
pub fn other_owner(folder: &Path) -> Option<u32> {
    let open = File::open(folder).ok()?;
    let user = open.metadata().ok()?.uid();
    let manifest = folder.join(FileName::MANIFEST.to_string()).symlink_metadata().ok()?;
    if user == 0 || user == geteuid().as_raw() || manifest.uid() != user {
        return None;
    }
    Keepers::of(user).check_folder(folder, open).ok().map(|()| user)
}

/// Who, other than root and the caller, can replace a file that the caller makes in an open folder, in a sentence
/// about the folder; `None` if nobody can.
pub(crate) fn who_can_swap(folder: impl AsFd) -> rustix::io::Result<Option<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = retry_on_intr(|| fstat(&folder))?;
    let open = || openat(&folder, ".", flags, Mode::empty());
    Keepers::caller().stranger_to_names(&found, open)
}

/// The users who may be able to change things: root, and one user with a group of their own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keepers {
    user: u32,
    group: Option<u32>,
    without_permissions: WithoutPermissions,
}

impl Keepers {
    /// Root and the user of this process.
    pub(super) fn caller() -> Self {
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        let group = (group == user).then_some(group);
        Keepers { user, group, without_permissions: WithoutPermissions::Refused }
    }

    /// Root and another user.
    pub(super) fn of(user: u32) -> Self {
        let caller = Keepers::caller();
        if user == caller.user { caller } else { Keepers { user, group: Some(user), ..caller } }
    }

    /// The same, on a file system without permissions.
    pub(super) fn on(self, without_permissions: WithoutPermissions) -> Self {
        Keepers { without_permissions, ..self }
    }

    /// Checks that nobody else can change the open folder, or put another one in its place.
    pub(super) fn check_folder(&self, folder: &Path, open: impl AsFd) -> Result<()> {
        let place = Place::find(folder, &mut |place, is_last| self.judge(place, is_last))
            .map_err(|refusal| self.error(folder, refusal))?;
        let opened = retry_on_intr(|| fstat(&open))
            .map_err(|errno| Error::io(folder, "look up the folder")(errno.into()))?;
        let found = place.found();
        if (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino) {
            return Ok(());
        }
        Err(self.untrusted(folder.to_owned(), "it was replaced by another folder meanwhile"))
    }

    /// Checks that nobody else can change what a path leads to, or make it lead elsewhere.
    pub(super) fn check_path(&self, path: &Path) -> Result<()> {
        Place::find(path, &mut |place, is_last| self.judge(place, is_last))
            .map(drop)
            .map_err(|refusal| self.error(path, refusal))
    }

    /// Checks that nobody else can change a file that is open for reading. The code that opened it must know that its
    /// name leads to it.
    pub(super) fn check_file(&self, path: &Path, file: &File) -> Result<()> {
        let found = retry_on_intr(|| fstat(file))
            .map_err(|errno| Error::io(path, "look up its owner")(errno.into()))?;
        let stranger = self.stranger(&found, || Ok(file));
        match stranger
            .map_err(|errno| Error::io(path, "look up who may write to it")(errno.into()))?
        {
            None => Ok(()),
            Some(stranger) => Err(self.untrusted(path.to_owned(), &stranger)),
        }
    }

    /// The problem with a step on the way to what is to be trusted.
    pub(super) fn judge(&self, place: &Place, is_last: bool) -> std::result::Result<(), Refusal> {
        let refuse = |found: String| Err(Refusal::Foreign { part: place.path().to_owned(), found });
        if place.is_beyond_proc() {
            return refuse("cannot check the folders above the target of this link".into());
        }
        let open = || place.open(OFlags::RDONLY | OFlags::NONBLOCK);
        let stranger = match is_last || place.kind() != FileType::Directory {
            true => self.stranger(place.found(), open),
            false => self.stranger_to_names(place.found(), open),
        };
        stranger?.map_or(Ok(()), refuse)
    }

    /// Who else can change what the names in a folder lead to. In a folder with the sticky bit only the owners of
    /// those files can, so the caller has to check them next.
    fn stranger_to_names<F: AsFd>(
        &self,
        folder: &Stat,
        open: impl FnOnce() -> rustix::io::Result<F>,
    ) -> rustix::io::Result<Option<String>> {
        match Mode::from_raw_mode(folder.st_mode).contains(Mode::SVTX) {
            true => Ok(self.foreign_owner(folder)),
            false => self.stranger(folder, open),
        }
    }

    /// Who else can change something, in a sentence about it. `open` opens it for reading.
    ///
    /// # Errors
    /// Only if this process lacks descriptors or memory to open it: that makes nobody a stranger.
    fn stranger<F: AsFd>(
        &self,
        found: &Stat,
        open: impl FnOnce() -> rustix::io::Result<F>,
    ) -> rustix::io::Result<Option<String>> {
        if let Some(owner) = self.foreign_owner(found) {
            return Ok(Some(owner));
        }
        // A user who may write to a link could only replace it, which depends on its folder.
        if FileType::from_raw_mode(found.st_mode) == FileType::Symlink {
            return Ok(None);
        }
        let mode = Mode::from_raw_mode(found.st_mode);
        if self.without_permissions == WithoutPermissions::Accepted
            && mode.intersects(Mode::WOTH | Mode::WGRP)
            && !has_permissions(found.st_dev)
        {
            return Ok(None);
        }
        if mode.contains(Mode::WOTH) {
            return Ok(Some("every user may write to it".to_owned()));
        }
        // With an access control list these are the bits of its mask: without them, nobody else has them.
        if !mode.contains(Mode::WGRP) {
            return Ok(None);
        }
        let group = Writer::Group(found.st_gid);
        let writers = match open().and_then(|file| acl_writers(file, found.st_gid)) {
            Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => return Err(errno),
            // An unreadable list might let somebody in.
            writers => writers.unwrap_or_else(|_| vec![group, Writer::Unknown]),
        };
        let stranger = writers.into_iter().find(|writer| !self.includes(*writer));
        Ok(stranger.map(|stranger| format!("{stranger} may write to it")))
    }

    fn foreign_owner(&self, found: &Stat) -> Option<String> {
        let owner = Writer::User(found.st_uid);
        (!self.includes(owner)).then(|| format!("it belongs to {owner}"))
    }

    fn includes(&self, writer: Writer) -> bool {
        match writer {
            Writer::User(user) => user == 0 || user == self.user,
            Writer::Group(group) => group == 0 || Some(group) == self.group,
            Writer::Unknown => false,
        }
    }

    pub(super) fn error(&self, path: &Path, refusal: Refusal) -> Error {
        match refusal {
            Refusal::Io(error) => Error::io(path, "look up the folders above it")(error),
            Refusal::Foreign { part, found } => self.untrusted(part, &found),
        }
    }

    fn untrusted(&self, path: PathBuf, found: &str) -> Error {
        let expected = match self.user {
            0 => "only root".to_owned(),
            user => format!("only root and user {user}"),
        };
        Error::Untrusted { path, found: found.to_owned(), expected }
    }
}

/// Whether `chmod` has an effect on the file system with this device number. One that is not known to lack
/// permissions has them.
fn has_permissions(device: u64) -> bool {
    // ntfs-3g and exfat-fuse appear as `fuseblk`, or as `fuse` over an image file; with this option they have
    // permissions after all.
    let is_without = |mount: &Mount| match mount.kind.as_str() {
        "vfat" | "msdos" | "exfat" => true,
        "fuseblk" | "fuse" => !mount.has_option("default_permissions"),
        _ => false,
    };
    let mounts = mounts().unwrap_or_default();
    !mounts.iter().any(|mount| mount.device == device && is_without(mount))
}

/// Somebody who can write to something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    User(u32),
    Group(u32),
    /// Anybody, because the access control list cannot be read.
    Unknown,
}

impl std::fmt::Display for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Writer::User(user) => write!(f, "user {user}"),
            Writer::Group(group) => write!(f, "group {group}"),
            Writer::Unknown => f.write_str("somebody whom its access control list names"),
        }
    }
}

/// A list is never longer: `XATTR_SIZE_MAX` of Linux.
const MAX_ACL_BYTES: usize = 65536;

/// Who can write to an open file whose group has the right to, besides its owner: that group, unless an access
/// control list says otherwise, and everybody whom that list names.
fn acl_writers(file: impl AsFd, group: u32) -> rustix::io::Result<Vec<Writer>> {
    let mut list = vec![0; MAX_ACL_BYTES];
    let len = fgetxattr(&file, "system.posix_acl_access", list.as_mut_slice());
    match len {
        Ok(len) => parse_acl(list.get(..len).unwrap_or_default(), group).ok_or(Errno::INVAL),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(vec![Writer::Group(group)]),
        Err(errno) => Err(errno),
    }
}

/// Those whom a list lets write. Source: `linux/posix_acl_xattr.h`: a version of four bytes, then for each entry a
/// tag and rights of two bytes each, and a number of four; all little-endian.
fn parse_acl(list: &[u8], group: u32) -> Option<Vec<Writer>> {
    const VERSION: u32 = 2;
    const WRITE: u16 = 2;
    const USER: u16 = 0x02;
    const OWN_GROUP: u16 = 0x04;
    const GROUP: u16 = 0x08;
    let (version, entries) = list.split_first_chunk::<4>()?;
    let (entries, rest) = entries.as_chunks::<8>();
    if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
        return None;
    }
    let writer = |entry: &[u8; 8]| {
        let [tag, tag2, rights, rights2, id @ ..] = *entry;
        let (tag, id) = (u16::from_le_bytes([tag, tag2]), u32::from_le_bytes(id));
        let may_write = u16::from_le_bytes([rights, rights2]) & WRITE != 0;
        match tag {
            USER => Some(Writer::User(id)),
            GROUP => Some(Writer::Group(id)),
            OWN_GROUP => Some(Writer::Group(group)),
            // The owner, the mask and everybody else are in the permissions as well.
            _ => None,
        }
        .filter(|_| may_write)
    };
    Some(entries.iter().filter_map(writer).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An access control list as Linux stores it.
    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(rights.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    /// Finds users, groups and the owning group that a list lets write; not those who may only read, nor owner, mask
    /// and others.
    #[test]
    fn a_list_names_those_who_may_write() {
        const NONE: u32 = u32::MAX;
        let written = [
            (0x01, 7, NONE),
            (0x02, 7, 1001),
            (0x02, 5, 1002),
            (0x04, 6, NONE),
            (0x08, 2, 50),
            (0x08, 4, 51),
            (0x10, 7, NONE),
            (0x20, 5, NONE),
        ];
        let found = parse_acl(&list(&written), 9).expect("a list");
        assert_eq!(found, [Writer::User(1001), Writer::Group(9), Writer::Group(50)]);
        assert_eq!(parse_acl(&list(&[(0x01, 7, NONE), (0x04, 5, NONE)]), 9), Some(vec![]));
    }

    /// A list of another version, or one that is cut short, does not count as letting nobody in.
    #[test]
    fn a_list_that_is_not_understood_is_none() {
        let whole = list(&[(0x02, 7, 1001)]);
        for len in [0, 3, 11] {
            assert_eq!(parse_acl(&whole[..len], 0), None, "{len} bytes");
        }
        let newer = [&3u32.to_le_bytes(), &whole[4..]].concat();
        assert_eq!(parse_acl(&newer, 0), None);
    }

    /// Root and the user are trusted, with root's group and the user's own; nobody else is.
    #[test]
    fn others_are_strangers() {
        let without_permissions = WithoutPermissions::Refused;
        let keepers = Keepers { user: 1000, group: Some(1000), without_permissions };
        for own in [Writer::User(0), Writer::User(1000), Writer::Group(0), Writer::Group(1000)] {
            assert!(keepers.includes(own), "{own}");
        }
        for other in [Writer::User(1001), Writer::Group(100), Writer::Unknown] {
            assert!(!keepers.includes(other), "{other}");
        }
        let shared = Keepers { group: None, ..keepers };
        assert!(!shared.includes(Writer::Group(1000)));
    }

    /// Users other than root and this one can swap files where they may write, unless the folder has the sticky bit.
    #[test]
    fn who_could_swap_a_file_is_known() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().unwrap();
        for (mode, named) in [
            (0o700, None),
            (0o755, None),
            (0o1777, None),
            (0o777, Some("every user may write to it")),
        ] {
            std::fs::set_permissions(temp.path(), PermissionsExt::from_mode(mode)).unwrap();
            let others = who_can_swap(File::open(temp.path()).unwrap()).unwrap();
            assert_eq!(others.as_deref(), named, "{mode:o}");
        }
        if geteuid().is_root() {
            std::os::unix::fs::chown(temp.path(), Some(4711), None).unwrap();
            let others = who_can_swap(File::open(temp.path()).unwrap()).unwrap();
            assert!(others.is_some_and(|others| others.contains("4711")));
        }
    }
}
