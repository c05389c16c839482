//! The real folder of an archive.
//!
//! All files are opened relative to a handle of the folder, never through a symbolic link, and never in a way that
//! could block (a FIFO in place of a file is refused). A call that a signal interrupts is repeated: network and FUSE
//! file systems interrupt calls that a local disk never interrupts.

mod calls;
mod file;
mod open;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use jiff::Timestamp;
use rustix::fs::{
    Access as Permission, AtFlags, Mode, OFlags, accessat, fstat, fstatvfs, ioctl_ficlone, openat,
    renameat, statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::geteuid;

use super::holders::{Kind, Who, who};
use super::identity::{FolderIdentity, is_local, may_hide_holes};
use super::image_lock::{self, Use};
use super::included::{AskBehalf, Behalf, Included};
use super::many::ManyFiles;
use super::trust::{Keepers, Trust, WithoutPermissions};
use super::{
    Access, FileName, FileSystem, Seen, Storage, StorageFile, StorageLock, Taken, links, lock,
};
use crate::base::error::{Error, ErrorKind, Result, judged};
use crate::base::fork::{Maker, Withheld};

pub(super) use calls::read_all;
pub(crate) use calls::{metadata, next_data, punch_hole, read_full};
pub(crate) use file::DirFile;
pub(super) use open::{give_to_owner, open_regular};
pub(crate) use open::{not_in_time, open_in_time};

/// An archive's folder in the file system.
#[derive(Debug)]
pub struct DirStorage {
    folder: PathBuf,
    fd: Arc<OwnedFd>,
    file_mode: AtomicU32,
    trust: Trust,
    seen: Seen,
    /// The process that last took the lock by this handle; 0 if none has.
    locked_by: AtomicI32,
}

impl DirStorage {
    /// Opens a folder that exists. Whether it can be trusted is checked before backy acts on it, not here.
    ///
    /// # Errors
    /// [`Error::NoArchive`] if it does not exist.
    pub fn open(folder: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match retry_on_intr(|| rustix::fs::open(folder, flags, Mode::empty())) {
            Ok(fd) => Arc::new(fd),
            Err(Errno::NOENT) => return Err(Error::NoArchive { path: folder.to_owned() }),
            Err(errno) => return Err(Error::io(folder, "open the folder")(errno.into())),
        };
        let file_mode = AtomicU32::new(0o600);
        let (folder, trust, seen) = (folder.to_owned(), Trust::default(), Seen::default());
        Ok(DirStorage { folder, fd, file_mode, trust, seen, locked_by: AtomicI32::new(0) })
    }

    /// Creates the folder (mode 0700) and those above it as needed, then opens it.
    #[expect(clippy::disallowed_methods, reason = "this is the layer that touches the file system")]
    pub fn create(folder: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        if folder.is_dir() {
            return Self::open(folder);
        }
        let absolute = std::path::absolute(folder).map_err(Error::io(folder, "look up"))?;
        let made: Vec<&Path> = absolute.ancestors().take_while(|path| !path.is_dir()).collect();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(Error::io(folder, "make the folder"))?;
        // Each new name must become durable in the folder above it, the outermost first.
        for above in made.iter().rev().filter_map(|path| path.parent()) {
            File::open(above)
                .and_then(|above| above.sync_all())
                .map_err(Error::io(above, "sync the folder"))?;
        }
        Self::open(folder)
    }

    /// The same, with the caller's decision about whom to trust.
    #[must_use]
    pub fn with_trust(self, trust: Trust) -> Self {
        DirStorage { trust, ..self }
    }

    fn check_folder(&self, keepers: Keepers) -> Result<()> {
        match self.trust {
            Trust::Checked => keepers.check_folder(&self.folder, &self.fd),
            Trust::Given => Ok(()),
        }
    }

    fn file_mode(&self) -> Mode {
        Mode::from_raw_mode(self.file_mode.load(Ordering::Relaxed))
    }

    /// The image, if nobody relies on it as it is. Strangers keep the file that they have, and the archive gets a
    /// copy.
    fn take_image(&self, image: Withheld<File>) -> Result<Withheld<File>> {
        let (name, path) = (FileName::IMAGE, self.path(FileName::IMAGE));
        let held = |user| Error::Locked { path: path.clone(), holder: user };
        let Err(user) = image_lock::take(&image, Use::Overwrite) else { return Ok(image) };
        if !self.is_used_by_strangers(&image) {
            return Err(held(user));
        }
        let found = fstat(&image).map_err(|errno| self.error(name, "look up", errno))?;
        let why = format!("{user} of a user who may only read the archive uses it");
        let copy = links::own_copy(&self.fd, &path, name, (&image, &found), &why)?;
        let copy = Withheld::new(copy);
        image_lock::take(&copy, Use::Overwrite).map_err(held)?;
        Ok(copy)
    }

    /// A writer that was copied into a child has no lock there.
    fn check_process(&self) -> Result<()> {
        let locked_by = self.locked_by.load(Ordering::Relaxed);
        if locked_by == 0 || locked_by == Maker::this().number() {
            return Ok(());
        }
        let holder = format!(
            "process {locked_by}, of which this one is a child; open the archive again here"
        );
        Err(Error::Locked { path: self.folder.clone(), holder })
    }

    /// Whether those who have locked the image may only read the archive.
    fn is_used_by_strangers(&self, image: &File) -> bool {
        let owner = fstat(&self.fd).map(|found| found.st_uid);
        owner.is_ok_and(|owner| who(image, Kind::Fcntl, owner) == Who::Strangers)
    }

    fn error(&self, name: FileName, action: &str, errno: Errno) -> Error {
        Error::io(self.path(name), action)(errno.into())
    }

    /// The length of a file, and its size on disk as the file system reports it.
    fn sizes(&self, name: FileName) -> Result<(u64, u64)> {
        let look = || statat(&self.fd, name.to_string(), AtFlags::SYMLINK_NOFOLLOW);
        let found = retry_on_intr(look).map_err(|errno| self.error(name, "look up", errno))?;
        let bytes = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok((bytes(found.st_size), bytes(found.st_blocks).saturating_mul(512)))
    }
}

impl DirStorage {
    /// Root and the owner of the folder. If that cannot be looked up, the code that needs it reports that.
    fn keepers_of_owner(&self, accepts_no_permissions: bool) -> Option<Keepers> {
        let found = retry_on_intr(|| fstat(&self.fd)).ok()?;
        let keepers = Keepers::of(found.st_uid);
        Some(match accepts_no_permissions {
            true => keepers.on(WithoutPermissions::Accepted),
            false => keepers,
        })
    }

    /// Whether the folder belongs to the calling user.
    fn is_own(&self) -> bool {
        fstat(&self.fd).is_ok_and(|found| found.st_uid == geteuid().as_raw())
    }
}

impl Storage for DirStorage {
    fn path(&self, name: FileName) -> PathBuf {
        self.folder.join(name.to_string())
    }

    fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    fn open(&self, name: FileName, access: Access) -> Result<Box<dyn StorageFile>> {
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::RDWR,
        };
        let file = open_regular(&self.fd, self.path(name), name, flags, Mode::empty())?;
        if access == Access::Read {
            return Ok(Box::new(DirFile::over(self.path(name), file)));
        }
        self.check_process()?;
        let mut file = Withheld::new(file);
        let found = fstat(&file).map_err(|errno| self.error(name, "look up", errno))?;
        if found.st_nlink > 1 {
            let names = found.st_nlink;
            let why = format!("it has {names} names (hard links) and all would change");
            let copy = links::own_copy(&self.fd, &self.path(name), name, (&file, &found), &why)?;
            file = Withheld::new(copy);
        }
        if name == FileName::IMAGE {
            file = self.take_image(file)?;
        }
        Ok(Box::new(DirFile::of_writer(self.path(name), file)))
    }

    fn open_among_many(&self, name: FileName) -> Result<Box<dyn StorageFile>> {
        ManyFiles::of_this_process().open(&self.fd, self.path(name), name)
    }

    fn create(&self, name: FileName) -> Result<Box<dyn StorageFile>> {
        self.check_process()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| openat(&self.fd, name.to_string(), flags, self.file_mode()))
            .map_err(|errno| self.error(name, "create", errno))?;
        give_to_owner(&self.fd, &fd);
        Ok(Box::new(DirFile::of_writer(self.path(name), Withheld::new(File::from(fd)))))
    }

    fn clone_file(
        &self,
        from: FileName,
        to: FileName,
        skip_bytes: u64,
    ) -> Result<Option<Box<dyn StorageFile>>> {
        self.check_process()?;
        let source = open_regular(&self.fd, self.path(from), from, OFlags::RDONLY, Mode::empty())?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let copy = retry_on_intr(|| openat(&self.fd, to.to_string(), flags, self.file_mode()))
            .map_err(|errno| self.error(to, "create", errno))?;
        give_to_owner(&self.fd, &copy);
        let copy = Withheld::new(File::from(copy));
        let cloned = match skip_bytes {
            0 => retry_on_intr(|| ioctl_ficlone(&copy, &source)),
            _ => calls::clone_behind(&copy, &source, skip_bytes),
        };
        match cloned {
            Ok(()) => Ok(Some(Box::new(DirFile::of_writer(self.path(to), copy)))),
            // The answers of file systems without clones; NOTTY and NOSYS come from old or stacked ones.
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL | Errno::XDEV) => {
                self.remove(to)?;
                Ok(None)
            }
            Err(errno) => {
                self.remove(to)?;
                Err(self.error(to, &format!("clone {from} to this file"), errno))
            }
        }
    }

    fn clone_unnamed(&self, from: FileName) -> Result<Option<File>> {
        let source = open_regular(&self.fd, self.path(from), from, OFlags::RDONLY, Mode::empty())?;
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        // On another machine's disk nobody knows who else writes to a file that has no name here.
        if !is_local(&source) {
            return Ok(None);
        }
        // A caller that may only read the archive, or a read-only file system, does without.
        let copy = retry_on_intr(|| openat(&self.fd, ".", flags, Mode::RUSR | Mode::WUSR));
        let Ok(copy) = copy else { return Ok(None) };
        let cloned = retry_on_intr(|| ioctl_ficlone(&copy, &source));
        Ok(cloned.is_ok().then(|| File::from(copy)))
    }

    fn image_user(&self) -> Result<Option<String>> {
        let name = FileName::IMAGE;
        let image = open_regular(&self.fd, self.path(name), name, OFlags::RDONLY, Mode::empty())?;
        let user = image_lock::user(&image, Use::Overwrite);
        Ok(user.filter(|_| !self.is_used_by_strangers(&image)))
    }

    fn rename(&self, from: FileName, to: FileName) -> Result<()> {
        self.check_process()?;
        retry_on_intr(|| renameat(&self.fd, from.to_string(), &self.fd, to.to_string()))
            .map_err(|errno| self.error(from, &format!("rename to {to}"), errno))
    }

    fn remove(&self, name: FileName) -> Result<()> {
        self.check_process()?;
        match retry_on_intr(|| unlinkat(&self.fd, name.to_string(), AtFlags::empty())) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.error(name, "remove", errno)),
        }
    }

    fn list(&self) -> Result<Vec<FileName>> {
        let error = |errno: Errno| Error::io(&self.folder, "list the folder")(errno.into());
        let list = || {
            let mut names = Vec::new();
            for entry in rustix::fs::Dir::read_from(&self.fd)? {
                names.extend(entry?.file_name().to_str().ok().and_then(FileName::parse));
            }
            names.sort();
            Ok(names)
        };
        // From the beginning: an interrupted listing does not know where it stopped.
        retry_on_intr(list).map_err(error)
    }

    fn sync_folder(&self) -> Result<()> {
        retry_on_intr(|| rustix::fs::fsync(&self.fd))
            .map_err(|errno| Error::io(&self.folder, "sync the folder")(errno.into()))
    }

    fn stored_bytes(&self, name: FileName) -> Result<u64> {
        Ok(self.sizes(name)?.1)
    }

    fn taken(&self, name: FileName) -> Result<Taken> {
        let (len_bytes, bytes) = self.sizes(name)?;
        let is_known = bytes < len_bytes || !may_hide_holes(&self.fd);
        Ok(Taken { len_bytes, bytes: is_known.then_some(bytes) })
    }

    fn file_system(&self) -> Result<Option<FileSystem>> {
        let error = |errno: Errno| Error::io(&self.folder, "ask for the free space")(errno.into());
        let room = retry_on_intr(|| fstatvfs(&self.fd)).map_err(error)?;
        let device = retry_on_intr(|| fstat(&self.fd)).map_err(error)?.st_dev;
        let bytes = |blocks: u64| blocks.saturating_mul(room.f_frsize);
        let (size_bytes, free_bytes) = (bytes(room.f_blocks), bytes(room.f_bavail));
        Ok(Some(FileSystem { device, size_bytes, free_bytes }))
    }

    fn unwritable(&self) -> Option<String> {
        let history = FileName::History.to_string();
        [".", history.as_str()].into_iter().find_map(|name| {
            let asked = accessat(&self.fd, name, Permission::WRITE_OK, AtFlags::empty());
            match asked.err()? {
                Errno::ROFS => Some("its file system is mounted read-only".to_owned()),
                Errno::PERM => Some(format!("'{name}' in it is immutable; see 'lsattr -d'")),
                // This says nothing about others' rights.
                Errno::ACCESS if self.is_own() => {
                    Some(format!("not even the owner of the folder may write to '{name}' in it"))
                }
                _ => None,
            }
        })
    }

    fn lock(&self, holder: &str) -> Result<Box<dyn StorageLock>> {
        let lock = lock::take(&self.fd, &self.folder, holder)?;
        self.locked_by.store(Maker::this().number(), Ordering::Relaxed);
        Ok(lock)
    }

    fn lock_holder(&self) -> Result<Option<String>> {
        let unknown = Error::io(&self.folder, "find out who uses the archive");
        lock::holder(&self.fd).map_err(unknown)
    }

    fn lock_progress(&self) -> Result<Option<Timestamp>> {
        let unknown = Error::io(&self.folder, "look up the lock");
        lock::progress(&self.fd).map_err(|errno| unknown(errno.into()))
    }

    fn is_backup_at_work(&self) -> bool {
        lock::is_held_by_backup(&self.fd)
    }

    fn folder_identity(&self) -> Option<FolderIdentity> {
        FolderIdentity::of(&self.fd)
    }

    fn seen(&self) -> Option<&Seen> {
        Some(&self.seen)
    }

    fn check_trust(&self) -> Result<()> {
        self.check_folder(Keepers::caller().on(WithoutPermissions::Accepted))
    }

    fn check_trust_outside(&self) -> Result<()> {
        self.check_folder(Keepers::caller())
    }

    fn open_trusted(&self, name: FileName) -> Result<Box<dyn StorageFile>> {
        let path = self.path(name);
        let file = open_regular(&self.fd, path.clone(), name, OFlags::RDONLY, Mode::empty())?;
        if self.trust == Trust::Checked {
            let keepers = Keepers::caller().on(WithoutPermissions::Accepted);
            keepers.check_file(&path, &file)?;
        }
        Ok(Box::new(DirFile::over(path, file)))
    }

    fn open_config(&self) -> Result<(Box<dyn StorageFile>, AskBehalf<'_>)> {
        let path = self.path(FileName::CONFIG);
        let flags = OFlags::RDONLY;
        let file = open_regular(&self.fd, path.clone(), FileName::CONFIG, flags, Mode::empty())?;
        let same = file.try_clone().map_err(Error::io(&path, "open"))?;
        let read = DirFile::over(path.clone(), file);
        let ask = move || {
            let keepers = Keepers::caller().on(WithoutPermissions::Accepted);
            let is_trusted = self.check_trust().and_then(|()| match self.trust {
                Trust::Checked => keepers.check_file(&path, &same),
                Trust::Given => Ok(()),
            });
            let owner = fstat(&same).map_or(0, |found| found.st_uid);
            Ok(Behalf::of_reader(owner, judged(is_trusted)?.is_ok()))
        };
        Ok((Box::new(read), Box::new(ask)))
    }

    fn open_included(&self, path: &Path, behalf: Behalf) -> Result<Included> {
        self.trust.open_included(path, behalf)
    }

    fn check_included_outside(&self, path: &Path) -> Result<()> {
        self.trust.check_file(path)
    }

    fn exposed_included(&self, path: &Path, accepts_no_permissions: bool) -> Result<Option<Error>> {
        let Some(keepers) = self.keepers_of_owner(accepts_no_permissions) else { return Ok(None) };
        let checked = judged(keepers.check_path(path))?;
        Ok(checked.err().filter(|error| error.kind() == ErrorKind::Untrusted))
    }

    fn exposed(&self, accepts_no_permissions: bool) -> Result<Option<Error>> {
        let Some(keepers) = self.keepers_of_owner(accepts_no_permissions) else { return Ok(None) };
        let path = self.path(FileName::CONFIG);
        let config = || {
            let flags = OFlags::RDONLY;
            open_regular(&self.fd, path.clone(), FileName::CONFIG, flags, Mode::empty())
        };
        let checked = keepers
            .check_folder(&self.folder, &self.fd)
            .and_then(|()| config().and_then(|file| keepers.check_file(&path, &file)));
        Ok(judged(checked)?.err().filter(|error| error.kind() == ErrorKind::Untrusted))
    }

    fn set_file_mode(&self, mode: u32) {
        self.file_mode.store(mode, Ordering::Relaxed);
    }
}
