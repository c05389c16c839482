//! More files than a process may have open: the deltas and digests of a chain of thousands.
//!
//! Only the files that were opened last are open: a few dozen in the whole process, whichever archives they belong
//! to. Another one is opened again when it is read. Then it must be exactly the same file as before. In another file
//! under the same name, made meanwhile, a delta could seem not to hold a block that it does hold, and a newer
//! revision's block would be taken for an older one's. A file that was deleted or replaced meanwhile is kept without
//! a descriptor ([`Pin`]) and read from there. So is one whose file system cannot prove that it is the same. If the
//! system keeps nothing, files stay open all the same, as far as the limit allows.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags, lstat, openat};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Resource, getrlimit};

use super::dir::{DirFile, open_in_time, open_regular};
use super::identity::{Identity, Stamp};
use super::pinned::Pin;
use super::{FileName, StorageFile};
use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::base::fork::PerProcess;

/// The most files that are open at a time, besides those that are being read.
const MOST_OPEN: usize = 48;

/// The same, if the process was allowed more.
static MOST: AtomicUsize = AtomicUsize::new(MOST_OPEN);

/// From now on files of chains may take an eighth of the files that this process may have open, even if that is more
/// than a few dozen. For a process that does nothing else: opening a file again takes time.
pub fn take_many_descriptors() {
    MOST.store(usize::MAX, Relaxed);
}

/// The files of this process, whichever archives they belong to: the limit is per process.
pub(super) struct ManyFiles {
    /// How many files must not be closed.
    staying: AtomicUsize,
    /// The open files that may be closed, in the order in which they were opened.
    open: Mutex<VecDeque<Weak<Closable>>>,
}

static OF_THIS_PROCESS: PerProcess<ManyFiles> = PerProcess::new();

impl ManyFiles {
    fn new() -> Self {
        ManyFiles { staying: AtomicUsize::new(0), open: Mutex::new(VecDeque::new()) }
    }

    pub(super) fn of_this_process() -> &'static Self {
        OF_THIS_PROCESS.get(ManyFiles::new)
    }

    /// Opens a file of the folder for reading.
    pub(super) fn open(
        &'static self,
        folder: &Arc<OwnedFd>,
        path: PathBuf,
        name: FileName,
    ) -> Result<Box<dyn StorageFile>> {
        self.open_kept(folder, path, name, Kept::of)
    }

    fn open_kept(
        &'static self,
        folder: &Arc<OwnedFd>,
        path: PathBuf,
        name: FileName,
        keep: fn(&File) -> Kept,
    ) -> Result<Box<dyn StorageFile>> {
        let file = open_regular(folder, path.clone(), name, OFlags::RDONLY, Mode::empty())?;
        let closable = Arc::new(Closable {
            many: self,
            folder: Arc::clone(folder),
            path,
            name,
            keep,
            kept: OnceLock::new(),
            stays: OnceLock::new(),
            has_gone: AtomicBool::new(false),
            known_bytes: AtomicU64::new(0),
            open: Mutex::default(),
        });
        closable.take(file);
        Ok(Box::new(OneOfMany(closable)))
    }

    /// Closes the files that were opened before the last ones.
    fn opened(&self, file: &Arc<Closable>) {
        let most = most_open();
        let mut open = lock(&self.open);
        open.push_back(Arc::downgrade(file));
        let over = open.len().saturating_sub(most);
        let over: Vec<_> = open.drain(..over).collect();
        drop(open);
        close(over);
    }

    /// Closes all files that nobody is reading, for a caller that needs a descriptor; returns whether there were any.
    pub(super) fn close_all(&self) -> bool {
        let open = std::mem::take(&mut *lock(&self.open));
        close(open)
    }
}

fn close(files: impl IntoIterator<Item = Weak<Closable>>) -> bool {
    let files = files.into_iter().filter_map(|file| file.upgrade());
    files.filter(|file| file.close()).count() > 0
}

/// How many files this process may have open.
fn limit() -> usize {
    let most = getrlimit(Resource::Nofile).current;
    most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
}

fn most_open() -> usize {
    (limit() / 8).clamp(1, MOST.load(Relaxed))
}

/// The most files that stay open because the system does not keep them.
fn most_staying() -> usize {
    limit() / 4
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place among the files that stay open, given back when dropped.
struct Staying {
    many: &'static ManyFiles,
    before: usize,
}

impl Staying {
    fn new(many: &'static ManyFiles) -> Self {
        Staying { many, before: many.staying.fetch_add(1, Relaxed) }
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        self.many.staying.fetch_sub(1, Relaxed);
    }
}

/// What is kept of a closed file.
struct Kept {
    identity: Option<Identity>,
    pin: Option<Arc<Pin>>,
}

impl Kept {
    fn of(file: &File) -> Self {
        let identity = Identity::of(file);
        Kept { identity, pin: Pin::of(file, identity) }
    }
}

/// A file that is closed when others are opened.
struct Closable {
    many: &'static ManyFiles,
    folder: Arc<OwnedFd>,
    path: PathBuf,
    name: FileName,
    keep: fn(&File) -> Kept,
    /// Set when it was to be closed for the first time.
    kept: OnceLock<Kept>,
    /// Set if nothing could be kept of it, so that it stays open.
    stays: OnceLock<Staying>,
    /// Whether its name no longer leads to it.
    has_gone: AtomicBool,
    /// Its length when it was closed; files of a chain only grow.
    known_bytes: AtomicU64,
    open: Mutex<Option<Arc<DirFile>>>,
}

impl Closable {
    fn take(self: &Arc<Self>, file: File) -> Arc<DirFile> {
        let file = Arc::new(DirFile::over(self.path.clone(), file));
        *lock(&self.open) = Some(Arc::clone(&file));
        self.many.opened(self);
        file
    }

    /// Closes the file, if it is open and need not stay so; returns whether that freed a descriptor.
    fn close(&self) -> bool {
        let mut open = lock(&self.open);
        let Some(file) = open.as_ref() else { return false };
        let kept = self.kept.get_or_init(|| (self.keep)(file.descriptor()));
        if kept.pin.is_none() {
            let staying = Staying::new(self.many);
            if kept.identity.is_none() || staying.before < most_staying() {
                let _ = self.stays.set(staying);
                return false;
            }
        }
        if let Ok(bytes) = file.len() {
            self.known_bytes.fetch_max(bytes, Relaxed);
        }
        let file = open.take();
        drop(open);
        // Unless somebody is reading it.
        file.is_some_and(|file| Arc::into_inner(file).is_some())
    }

    /// The file, open for as long as the caller has it.
    fn file(self: &Arc<Self>) -> Result<Open<'_>> {
        if let Some(file) = &*lock(&self.open) {
            return Ok(Open::File(Arc::clone(file)));
        }
        let kept = self.kept.get();
        let opened = match kept.and_then(|kept| kept.identity) {
            Some(identity) if !self.has_gone.load(Relaxed) => self.open_again(identity),
            _ => Ok(None),
        };
        match (opened, kept.and_then(|kept| kept.pin.as_deref())) {
            (Ok(Some(file)), _) => Ok(Open::File(self.take(file))),
            // Whatever prevents opening it, its content is here.
            (_, Some(pin)) => Ok(Open::Pinned(Pinned { pin, file: self })),
            (Ok(None), None) => Err(self.gone()),
            (Err(error), None) => Err(error),
        }
    }

    /// `None` if the file no longer has its name.
    fn open_again(&self, identity: Identity) -> Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open =
            || open_in_time(|| openat(&self.folder, self.name.to_string(), flags, Mode::empty()));
        let opened = match open() {
            Err(Errno::MFILE | Errno::NFILE) if self.many.close_all() => open(),
            opened => opened,
        };
        match opened {
            Ok(file) if identity.is_of(&file) => return Ok(Some(File::from(file))),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(Error::io(&self.path, "open")(errno.into())),
        }
        self.has_gone.store(true, Relaxed);
        Ok(None)
    }

    fn gone(&self) -> Error {
        let limit = limit();
        let message = format!(
            "it was deleted or replaced while it was closed, because more files are needed than \
             the limit of {limit} allows to keep open; raise the limit (ulimit -n)"
        );
        Error::Limit { path: self.path.clone(), message }
    }
}

/// A file that is read without a descriptor.
struct Pinned<'a> {
    pin: &'a Pin,
    file: &'a Closable,
}

impl Pinned<'_> {
    fn len(&self) -> Result<u64> {
        let known = self.file.known_bytes.load(Relaxed);
        self.pin.len(known).map_err(Error::io(&self.file.path, "look up its length"))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let action = || format!("read {} bytes at offset {offset}", buffer.len());
        let (wanted, action) = (buffer.len(), action());
        let path = &self.file.path;
        let found = self.pin.read_at(buffer, offset).map_err(Error::io(path, &*action))?;
        if found < wanted && offset.saturating_add(found as u64) < self.len()? {
            return Err(Error::io(path, action)(Errno::IO.into()));
        }
        Ok(found)
    }

    /// A pinned file does not show where its holes are: all of it may be data.
    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        let len = self.len()?;
        Ok((offset < len).then(|| Extent::between(offset, len)))
    }

    fn allocated_bytes(&self) -> Result<u64> {
        let named = retry_on_intr(|| lstat(&self.file.path));
        match named.ok().filter(|_| !self.file.has_gone.load(Relaxed)) {
            Some(found) => Ok(u64::try_from(found.st_blocks).unwrap_or(0).saturating_mul(512)),
            None => self.len(),
        }
    }
}

/// One of the files.
struct OneOfMany(Arc<Closable>);

/// One of the files, to be read.
enum Open<'a> {
    File(Arc<DirFile>),
    Pinned(Pinned<'a>),
}

impl OneOfMany {
    /// What the system answers for a descriptor of that kind: it is open for reading only.
    fn refuse(&self, action: &str) -> Error {
        Error::io(self.path(), action)(Errno::BADF.into())
    }
}

impl StorageFile for OneOfMany {
    fn path(&self) -> PathBuf {
        self.0.path.clone()
    }

    fn is_in_place(&self) -> Result<bool> {
        match self.0.file()? {
            Open::File(file) => file.is_in_place(),
            Open::Pinned(_) => Ok(false),
        }
    }

    fn stamp(&self) -> Result<Option<Stamp>> {
        match self.0.file()? {
            Open::File(file) => file.stamp(),
            Open::Pinned(_) => Ok(None),
        }
    }

    fn len(&self) -> Result<u64> {
        match self.0.file()? {
            Open::File(file) => file.len(),
            Open::Pinned(pinned) => pinned.len(),
        }
    }

    fn final_len(&self) -> Result<u64> {
        match self.0.file()? {
            Open::File(file) => file.len(),
            Open::Pinned(pinned) => match self.0.known_bytes.load(Relaxed) {
                0 => pinned.len(),
                known => Ok(known),
            },
        }
    }

    fn allocated_bytes(&self) -> Result<u64> {
        match self.0.file()? {
            Open::File(file) => file.allocated_bytes(),
            Open::Pinned(pinned) => pinned.allocated_bytes(),
        }
    }

    fn modified(&self) -> Result<Timestamp> {
        match self.0.file()? {
            Open::File(file) => file.modified(),
            Open::Pinned(_) => Err(self.refuse("look up its time")),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        match self.0.file()? {
            Open::File(file) => file.read_at(buffer, offset),
            Open::Pinned(pinned) => pinned.read_at(buffer, offset),
        }
    }

    fn hides_holes(&self) -> Result<bool> {
        match self.0.file()? {
            Open::File(file) => file.hides_holes(),
            Open::Pinned(_) => Ok(true),
        }
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        match self.0.file()? {
            Open::File(file) => file.next_data(offset),
            Open::Pinned(pinned) => pinned.next_data(offset),
        }
    }

    fn write_at(&self, _data: &[u8], _offset: u64) -> Result<()> {
        Err(self.refuse("write"))
    }

    fn set_len(&self, _len: u64) -> Result<()> {
        Err(self.refuse("set its length"))
    }

    fn allocate(&self, _bytes: u64) -> Result<()> {
        Err(self.refuse("allocate"))
    }

    fn punch_hole(&self, _extent: Extent) -> Result<()> {
        Err(self.refuse("clear"))
    }

    fn sync(&self) -> Result<()> {
        Err(self.refuse("sync"))
    }
}
