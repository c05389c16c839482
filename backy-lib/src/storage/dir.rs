//! The real folder of an archive.
//!
//! All files are opened relative to a handle of the folder, never through a symbolic link, and never in a way
//! that could block (a FIFO in the place of a file is refused, not waited for). A call that a signal interrupts is made again:
//! on network and FUSE file systems that happens to calls that a local disk never interrupts.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{
    Access as Permission, Advice, AtFlags, FallocateFlags, Gid, Mode, OFlags, Uid, accessat,
    fadvise, fallocate, fchown, fstat, fstatvfs, ftruncate, ioctl_ficlone, openat, renameat, seek,
    statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::geteuid;

use super::cache::PageCache;
use super::holders::{Kind, Who, who};
use super::identity::{FolderIdentity, Stamp, is_local};
use super::image_lock::{self, Use};
use super::many::ManyFiles;
use super::trust::{Keepers, Trust, WithoutPermissions};
use super::{Access, FileName, FileSystem, Seen, Storage, StorageFile, StorageLock, links, lock};
use crate::base::error::{Error, ErrorKind, Result, judged};
use crate::base::extent::Extent;
use crate::base::fork::{Maker, Withheld};

/// How long an opening waits until another program has given back its lease. The system takes it away after
/// `/proc/sys/fs/lease-break-time`, which is 45 seconds unless somebody has changed it.
const LEASE_PATIENCE: Duration = Duration::from_secs(60);
/// How often it tries meanwhile.
const LEASE_TICK: Duration = Duration::from_millis(20);

/// An archive's folder in the file system.
#[derive(Debug)]
pub struct DirStorage {
    folder: PathBuf,
    fd: Arc<OwnedFd>,
    file_mode: AtomicU32,
    trust: Trust,
    seen: Seen,
    /// The process that has last taken the lock by this handle; 0 when none has.
    locked_by: AtomicI32,
}

impl DirStorage {
    /// Opens a folder that is there. Whether it can be trusted is asked before it is acted on, not here.
    ///
    /// # Errors
    /// [`Error::NoArchive`] when it is not.
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

    /// Makes the folder (mode 0700) and those above it as needed, then opens it.
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
        // Each new name has to survive in the folder above it, the outermost first.
        for above in made.iter().rev().filter_map(|path| path.parent()) {
            File::open(above)
                .and_then(|above| above.sync_all())
                .map_err(Error::io(above, "sync the folder"))?;
        }
        Self::open(folder)
    }

    /// The same, with what the caller says of whom to trust.
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

    /// The image, when nobody relies on it as it is. Strangers keep what they have, and the archive gets a copy.
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

    /// Whether whoever has locked the image may only read the archive.
    fn is_used_by_strangers(&self, image: &File) -> bool {
        let owner = fstat(&self.fd).map(|found| found.st_uid);
        owner.is_ok_and(|owner| who(image, Kind::Fcntl, owner) == Who::Strangers)
    }

    fn error(&self, name: FileName, action: &str, errno: Errno) -> Error {
        Error::io(self.path(name), action)(errno.into())
    }
}

impl DirStorage {
    /// Whether the folder belongs to whoever asks.
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

    fn clone_file(&self, from: FileName, to: FileName) -> Result<Option<Box<dyn StorageFile>>> {
        self.check_process()?;
        let source = open_regular(&self.fd, self.path(from), from, OFlags::RDONLY, Mode::empty())?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let copy = retry_on_intr(|| openat(&self.fd, to.to_string(), flags, self.file_mode()))
            .map_err(|errno| self.error(to, "create", errno))?;
        give_to_owner(&self.fd, &copy);
        let copy = Withheld::new(File::from(copy));
        match retry_on_intr(|| ioctl_ficlone(&copy, &source)) {
            Ok(()) => Ok(Some(Box::new(DirFile::of_writer(self.path(to), copy)))),
            // What a file system without clones answers; NOTTY and NOSYS come from old or stacked ones.
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL | Errno::XDEV) => {
                self.remove(to)?;
                Ok(None)
            }
            Err(errno) => {
                self.remove(to)?;
                Err(self.error(to, "clone last.raw to this file", errno))
            }
        }
    }

    fn clone_unnamed(&self, from: FileName) -> Result<Option<File>> {
        let source = open_regular(&self.fd, self.path(from), from, OFlags::RDONLY, Mode::empty())?;
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        // On another machine's disk nobody knows who else writes to what has no name here.
        if !is_local(&source) {
            return Ok(None);
        }
        // Whoever may only read the archive, or has it on a file system that cannot, does without.
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
        // From the beginning: a reading that was interrupted does not say where it was.
        retry_on_intr(list).map_err(error)
    }

    fn sync_folder(&self) -> Result<()> {
        retry_on_intr(|| rustix::fs::fsync(&self.fd))
            .map_err(|errno| Error::io(&self.folder, "sync the folder")(errno.into()))
    }

    fn stored_bytes(&self, name: FileName) -> Result<u64> {
        let look = || statat(&self.fd, name.to_string(), AtFlags::SYMLINK_NOFOLLOW);
        let found = retry_on_intr(look).map_err(|errno| self.error(name, "look up", errno))?;
        Ok(u64::try_from(found.st_blocks).unwrap_or(0).saturating_mul(512))
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
                // Of others' rights it says nothing.
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

    fn exposed(&self, accepts_no_permissions: bool) -> Result<Option<Error>> {
        // What cannot be looked up is reported by whoever needs it.
        let Ok(found) = retry_on_intr(|| fstat(&self.fd)) else { return Ok(None) };
        let keepers = Keepers::of(found.st_uid);
        let keepers = match accepts_no_permissions {
            true => keepers.on(WithoutPermissions::Accepted),
            false => keepers,
        };
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

/// Opens `name` in the folder without following it; anything but a regular file is refused. It waits for nobody but for a program
/// that holds a lease on the file (knfsd and Samba take them for their clients), and for that one no longer than a minute.
pub(super) fn open_regular(
    folder: impl AsFd,
    path: PathBuf,
    name: FileName,
    flags: OFlags,
    mode: Mode,
) -> Result<File> {
    let refused = |found: &str| Err(Error::damaged(&path, "type", found, "a regular file"));
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = || open_in_time(|| openat(&folder, name.to_string(), flags, mode));
    let opened = match open() {
        // What is only open because it may be needed again is in the way of what is needed now.
        Err(Errno::MFILE | Errno::NFILE) if ManyFiles::of_this_process().close_all() => open(),
        opened => opened,
    };
    let file = match opened {
        Ok(fd) => File::from(fd),
        Err(Errno::LOOP) => return refused("a symbolic link"),
        Err(Errno::ISDIR) => return refused("a folder"),
        Err(Errno::NXIO | Errno::NODEV) => return refused("a socket, or a device"),
        Err(errno) => return Err(Error::io(path, "open")(not_in_time(errno))),
    };
    let kind = metadata(&file).map_err(Error::io(&path, "look up its type"))?.file_type();
    match () {
        () if kind.is_file() => Ok(file),
        () if kind.is_dir() => refused("a folder"),
        () if kind.is_fifo() => refused("a FIFO"),
        () => refused("a device"),
    }
}

/// Gives a file that was just made to the owner of the archive's folder: what root makes there, that owner's next backup has to be
/// able to change. Where the file system has no owners, or refuses, the file stays as it is.
pub(super) fn give_to_owner(folder: impl AsFd, made: impl AsFd) {
    if !geteuid().is_root() {
        return;
    }
    if let Ok(owner) = retry_on_intr(|| fstat(&folder)).map(|found| (found.st_uid, found.st_gid))
        && owner.0 != 0
    {
        let (user, group) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        let _ = retry_on_intr(|| fchown(&made, Some(user), Some(group)));
    }
}

/// Opens a file with `NONBLOCK`, such that a lease that another program holds on it is waited for.
///
/// # Errors
/// `AGAIN`, for [`not_in_time`], when it is not given back.
pub(crate) fn open_in_time(
    open: impl Fn() -> rustix::io::Result<OwnedFd>,
) -> rustix::io::Result<OwnedFd> {
    let began = Instant::now();
    loop {
        match retry_on_intr(&open) {
            // Only a regular file can have a lease, and trying to open it has asked its holder to give it back.
            Err(Errno::AGAIN) if began.elapsed() < LEASE_PATIENCE => std::thread::sleep(LEASE_TICK),
            opened => return opened,
        }
    }
}

/// Why a file could not be opened.
pub(crate) fn not_in_time(errno: Errno) -> io::Error {
    match errno {
        Errno::AGAIN => {
            io::Error::other("another program has a lease on it and does not release it")
        }
        errno => errno.into(),
    }
}

/// A file, and whether children of this process get it.
enum Opened {
    Handed(File),
    Withheld(Withheld<File>),
}

impl Deref for Opened {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Opened::Handed(file) => file,
            Opened::Withheld(file) => file,
        }
    }
}

impl AsFd for Opened {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (**self).as_fd()
    }
}

/// An open file.
pub(crate) struct DirFile {
    path: PathBuf,
    file: Opened,
    cache: PageCache,
    is_local: OnceLock<bool>,
}

impl DirFile {
    /// One that has been opened, be it an archive's or not.
    pub(crate) fn over(path: PathBuf, file: File) -> Self {
        Self::with(path, Opened::Handed(file))
    }

    /// One that is written to.
    fn of_writer(path: PathBuf, file: Withheld<File>) -> Self {
        Self::with(path, Opened::Withheld(file))
    }

    fn with(path: PathBuf, file: Opened) -> Self {
        DirFile { path, file, cache: PageCache::new(), is_local: OnceLock::new() }
    }

    pub(super) fn descriptor(&self) -> &File {
        &self.file
    }

    fn metadata(&self) -> Result<std::fs::Metadata> {
        metadata(&self.file).map_err(Error::io(&self.path, "look up its length"))
    }

    fn error(&self, action: String, errno: Errno) -> Error {
        Error::io(&self.path, action)(errno.into())
    }
}

impl StorageFile for DirFile {
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    fn is_in_place(&self) -> Result<bool> {
        let own = self.metadata()?;
        match rustix::fs::lstat(&self.path) {
            Ok(named) => Ok((named.st_dev, named.st_ino) == (own.dev(), own.ino())),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.error("look up".to_owned(), errno)),
        }
    }

    fn stamp(&self) -> Result<Option<Stamp>> {
        if !*self.is_local.get_or_init(|| is_local(&self.file)) {
            return Ok(None);
        }
        let found = self.metadata()?;
        let (modified, changed) =
            ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
        Ok(Some(Stamp { len: found.len(), modified, changed }))
    }

    fn len(&self) -> Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn allocated_bytes(&self) -> Result<u64> {
        Ok(self.metadata()?.blocks() * 512)
    }

    fn modified(&self) -> Result<Timestamp> {
        let found = self.metadata()?;
        let time = Timestamp::new(found.mtime(), found.mtime_nsec() as i32);
        // A time that no clock shows is as good as any other: it only has to stay the same.
        Ok(time.unwrap_or(Timestamp::MIN))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.cache.read_full(&self.file, buffer, offset).map_err(|error| {
            Error::io(&self.path, format!("read {} bytes at offset {offset}", buffer.len()))(error)
        })
    }

    fn bypass_cache(&self) {
        self.cache.bypass(&self.file);
    }

    fn drop_cache(&self) {
        // What cannot be written is what the medium does not have: whoever reads it finds that out.
        let _ = rustix::fs::fdatasync(&self.file);
        let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.cache.write_all(&self.file, data, offset).map_err(|error| {
            Error::io(&self.path, format!("write {} bytes at offset {offset}", data.len()))(error)
        })
    }

    fn set_len(&self, len: u64) -> Result<()> {
        retry_on_intr(|| ftruncate(&self.file, len))
            .map_err(|errno| self.error(format!("set its length to {len} bytes"), errno))
    }

    fn allocate(&self, bytes: u64) -> Result<()> {
        retry_on_intr(|| fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, bytes))
            .map_err(|errno| self.error(format!("allocate {bytes} bytes"), errno))
    }

    fn punch_hole(&self, extent: Extent) -> Result<()> {
        punch_hole(&self.file, extent).map_err(|error| {
            let action = format!("clear {} bytes at offset {}", extent.len, extent.offset);
            Error::io(&self.path, action)(error)
        })
    }

    fn zero(&self, extent: Extent) -> Result<()> {
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        let zeroed = match extent.len {
            0 => Ok(()),
            len => match retry_on_intr(|| fallocate(&self.file, flags, extent.offset, len)) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL) => {
                    write_zeros(&self.file, extent)
                }
                done => done.map_err(io::Error::from),
            },
        };
        zeroed.map_err(|error| {
            let action = format!("clear {} bytes at offset {}", extent.len, extent.offset);
            Error::io(&self.path, action)(error)
        })
    }

    fn make_room(&self, extent: Extent) -> Result<()> {
        let flags = FallocateFlags::KEEP_SIZE;
        match retry_on_intr(|| fallocate(&self.file, flags, extent.offset, extent.len)) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL) => Ok(()),
            Err(errno) => {
                let action = format!("allocate {} bytes at offset {}", extent.len, extent.offset);
                Err(self.error(action, errno))
            }
        }
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        next_data(&self.file, self.len()?, offset).map_err(|error| {
            Error::io(&self.path, format!("seek data from offset {offset}"))(error)
        })
    }

    fn sync(&self) -> Result<()> {
        retry_on_intr(|| rustix::fs::fdatasync(&self.file))
            .map_err(|errno| self.error("sync".to_owned(), errno))
    }
}

/// What std's own function gives, which does not ask again when a signal comes between.
pub(crate) fn metadata(file: &File) -> io::Result<std::fs::Metadata> {
    loop {
        match file.metadata() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            found => return found,
        }
    }
}

/// Reads until `buffer` is full or the file ends.
pub(crate) fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    read_all(buffer, |rest, done| file.read_at(rest, offset + done))
}

/// Asks `read` for what is missing, with the count of bytes that are there, until nothing is or nothing more comes.
pub(super) fn read_all(
    buffer: &mut [u8],
    read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match read(rest, done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Frees an extent of a file or a block device; writes zeros where that is not supported. A file keeps its length.
pub(crate) fn punch_hole(file: &File, extent: Extent) -> io::Result<()> {
    if extent.len == 0 {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match retry_on_intr(|| fallocate(file, flags, extent.offset, extent.len)) {
        Ok(()) => Ok(()),
        // INVAL: not whole sectors of a block device, as the end of an image may be.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL) => {
            let found = file.metadata()?;
            // A block device has no length there, and none that could grow.
            let end = if found.is_file() { extent.end().min(found.len()) } else { extent.end() };
            write_zeros(file, Extent::between(extent.offset, end.max(extent.offset)))
        }
        Err(errno) => Err(errno.into()),
    }
}

fn write_zeros(file: &File, extent: Extent) -> io::Result<()> {
    static ZEROS: [u8; 65536] = [0; 65536];
    let mut offset = extent.offset;
    while offset < extent.end() {
        let step = (extent.end() - offset).min(ZEROS.len() as u64);
        file.write_all_at(ZEROS.get(..step as usize).unwrap_or(&ZEROS), offset)?;
        offset += step;
    }
    Ok(())
}

/// The first stretch of a file of `len` bytes, at or after `offset`, that may hold data.
pub(crate) fn next_data(file: &File, len: u64, offset: u64) -> io::Result<Option<Extent>> {
    if offset >= len {
        return Ok(None);
    }
    let start = match retry_on_intr(|| seek(file, rustix::fs::SeekFrom::Data(offset))) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // No support for holes: all of it is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(Extent::between(offset, len))),
        Err(errno) => return Err(errno.into()),
    };
    let end = match retry_on_intr(|| seek(file, rustix::fs::SeekFrom::Hole(start))) {
        Ok(end) => end,
        // Cut short by somebody else in between.
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    Ok((start < len).then(|| Extent::between(start, end.min(len))))
}
