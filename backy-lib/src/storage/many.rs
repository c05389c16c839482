//! Files of which there may be more than a process may have open: the deltas and digests of a chain of thousands.
//!
//! Half of what the process may have open is for them, and those that come first stay open. Of the others only the few that were
//! used last are open; one is opened again when it is read. It has to be the very file then that it was before: in
//! another one under the same name, made meanwhile, a delta could seem not to hold what it does, and a newer revision's block be
//! taken for an older one's. Where the file system tells nothing that proves it, files stay open all the same, until the
//! system says that there are too many.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, getrlimit};

use super::dir::{DirFile, open_regular};
use super::identity::{Identity, Stamp};
use super::{FileName, StorageFile};
use jiff::Timestamp;

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::fork::PerProcess;

/// The most files beyond those that stay open that are open at a time, when nobody is just reading them.
const USED_LAST: usize = 16;

/// The files of this process, whichever archives they are of: its limit is one.
pub(super) struct ManyFiles {
    staying: AtomicUsize,
    used_last: Mutex<VecDeque<Weak<Reopened>>>,
}

static OF_THIS_PROCESS: PerProcess<ManyFiles> = PerProcess::new();

impl ManyFiles {
    fn new() -> Self {
        ManyFiles { staying: AtomicUsize::new(0), used_last: Mutex::new(VecDeque::new()) }
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
        let most = most_open().map_or(usize::MAX, |most| most / 2);
        self.open_within(most, folder, path, name)
    }

    fn open_within(
        &'static self,
        most: usize,
        folder: &Arc<OwnedFd>,
        path: PathBuf,
        name: FileName,
    ) -> Result<Box<dyn StorageFile>> {
        let file = open_regular(folder, path.clone(), name, OFlags::RDONLY, Mode::empty())?;
        let staying = Staying::new(self);
        let identity = if staying.before < most { None } else { Identity::of(&file) };
        let Some(identity) = identity else {
            let file = DirFile::over(path, file);
            return Ok(Box::new(OneOfMany::Staying { file, _staying: staying }));
        };
        let reopened = Arc::new(Reopened {
            many: self,
            folder: Arc::clone(folder),
            path,
            name,
            identity,
            open: Mutex::default(),
        });
        reopened.take(file);
        Ok(Box::new(OneOfMany::Reopened(reopened)))
    }

    /// Closes those that were used before the last ones.
    fn used(&self, file: &Arc<Reopened>) {
        let most = most_open().map_or(USED_LAST, |most| (most / 8).clamp(1, USED_LAST));
        let mut used_last = lock(&self.used_last);
        used_last.push_back(Arc::downgrade(file));
        let over = used_last.len().saturating_sub(most);
        let over: Vec<_> = used_last.drain(..over).collect();
        drop(used_last);
        for file in over.into_iter().filter_map(|file| file.upgrade()) {
            let closed = lock(&file.open).take();
            drop(closed);
        }
    }
}

/// How many files this process may have open; `None` without a limit.
fn most_open() -> Option<usize> {
    getrlimit(Resource::Nofile).current.map(|most| usize::try_from(most).unwrap_or(usize::MAX))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place among the files that stay open, given back when it goes.
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

/// A file that is closed when others are used, and then opened again.
struct Reopened {
    many: &'static ManyFiles,
    folder: Arc<OwnedFd>,
    path: PathBuf,
    name: FileName,
    identity: Identity,
    open: Mutex<Option<Arc<DirFile>>>,
}

impl Reopened {
    fn take(self: &Arc<Self>, file: File) -> Arc<DirFile> {
        let file = Arc::new(DirFile::over(self.path.clone(), file));
        *lock(&self.open) = Some(Arc::clone(&file));
        self.many.used(self);
        file
    }

    /// The file, open for as long as the caller has it.
    fn file(self: &Arc<Self>) -> Result<Arc<DirFile>> {
        if let Some(file) = &*lock(&self.open) {
            return Ok(Arc::clone(file));
        }
        let path = self.path.clone();
        match open_regular(&self.folder, path, self.name, OFlags::RDONLY, Mode::empty()) {
            Ok(file) if Identity::of(&file) == Some(self.identity) => Ok(self.take(file)),
            Err(error) if error.kind() != crate::ErrorKind::NotFound => Err(error),
            Ok(_) | Err(_) => Err(self.gone()),
        }
    }

    fn gone(&self) -> Error {
        let limit = most_open().map(|most| format!(" of {most}")).unwrap_or_default();
        let message = format!(
            "it was deleted or replaced while it was closed, because more files are needed than the limit{limit} \
             allows to keep open; raise the limit (ulimit -n)"
        );
        Error::Limit { path: self.path.clone(), message }
    }
}

/// One of the files.
enum OneOfMany {
    Staying { file: DirFile, _staying: Staying },
    Reopened(Arc<Reopened>),
}

/// One of the files, open.
enum Open<'a> {
    Staying(&'a DirFile),
    Reopened(Arc<DirFile>),
}

impl std::ops::Deref for Open<'_> {
    type Target = DirFile;

    fn deref(&self) -> &DirFile {
        match self {
            Open::Staying(file) => file,
            Open::Reopened(file) => file,
        }
    }
}

impl OneOfMany {
    fn file(&self) -> Result<Open<'_>> {
        match self {
            OneOfMany::Staying { file, .. } => Ok(Open::Staying(file)),
            OneOfMany::Reopened(file) => file.file().map(Open::Reopened),
        }
    }
}

impl StorageFile for OneOfMany {
    fn path(&self) -> PathBuf {
        match self {
            OneOfMany::Staying { file, .. } => file.path(),
            OneOfMany::Reopened(file) => file.path.clone(),
        }
    }

    fn is_in_place(&self) -> Result<bool> {
        self.file()?.is_in_place()
    }

    fn stamp(&self) -> Result<Option<Stamp>> {
        self.file()?.stamp()
    }

    fn len(&self) -> Result<u64> {
        self.file()?.len()
    }

    fn allocated_bytes(&self) -> Result<u64> {
        self.file()?.allocated_bytes()
    }

    fn modified(&self) -> Result<Timestamp> {
        self.file()?.modified()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.file()?.read_at(buffer, offset)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        self.file()?.next_data(offset)
    }

    // It is open for reading only: the system refuses what follows.

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.file()?.write_at(data, offset)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file()?.set_len(len)
    }

    fn allocate(&self, bytes: u64) -> Result<()> {
        self.file()?.allocate(bytes)
    }

    fn punch_hole(&self, extent: Extent) -> Result<()> {
        self.file()?.punch_hole(extent)
    }

    fn sync(&self) -> Result<()> {
        self.file()?.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::revision::RevisionId;
    use crate::storage::dir::DirStorage;
    use crate::storage::{Access, Storage};

    /// Files that may not stay open, opened side by side.
    struct Many {
        storage: DirStorage,
        names: Vec<FileName>,
        files: Vec<Box<dyn StorageFile>>,
        _folder: tempfile::TempDir,
    }

    impl Many {
        /// `None` on a file system that tells nothing of its files.
        fn open() -> Option<Self> {
            let folder = tempfile::tempdir().unwrap();
            let storage = DirStorage::create(&folder.path().join("a")).unwrap();
            let new_name = |_| FileName::Delta(RevisionId::new(jiff::Timestamp::UNIX_EPOCH));
            let names: Vec<_> = (0..3 * USED_LAST).map(new_name).collect();
            let many: &'static ManyFiles = Box::leak(Box::new(ManyFiles::new()));
            let fd = rustix::fs::open(storage.folder(), OFlags::RDONLY, Mode::empty()).unwrap();
            Identity::of(&fd)?;
            let fd = Arc::new(fd);
            let open = |&name: &FileName| {
                storage.create(name).unwrap().write_at(name.to_string().as_bytes(), 0).unwrap();
                many.open_within(0, &fd, storage.path(name), name).unwrap()
            };
            let files = names.iter().map(open).collect();
            assert_eq!(many.staying.load(Relaxed), 0);
            assert_eq!(lock(&many.used_last).len(), USED_LAST);
            Some(Many { storage, names, files, _folder: folder })
        }

        fn read(&self, number: usize) -> Result<String> {
            let file = &*self.files[number];
            let mut bytes = vec![0; file.len()? as usize];
            file.read_exact_at(&mut bytes, 0)?;
            Ok(String::from_utf8(bytes).unwrap())
        }
    }

    /// A file that was closed is read as if it had stayed open, also after it was written to in its place.
    #[test]
    fn a_file_that_was_closed_is_opened_again() {
        let Some(many) = Many::open() else { return };
        for (number, name) in many.names.iter().enumerate() {
            assert_eq!(many.read(number).unwrap(), name.to_string());
        }
        let first = many.storage.open(many.names[0], Access::Write).unwrap();
        first.write_at(b"other", 0).unwrap();
        assert!(many.read(0).unwrap().starts_with("other"));
    }

    /// One that was deleted or replaced while it was closed is an error that names the limit, and no damage; one that was open
    /// stays readable.
    #[test]
    fn a_file_that_was_replaced_while_it_was_closed_is_an_error() {
        let Some(many) = Many::open() else { return };
        let last = many.names.len() - 1;
        for number in [0, 1, last] {
            many.storage.remove(many.names[number]).unwrap();
        }
        many.storage.create(many.names[1]).unwrap().write_at(b"another", 0).unwrap();
        for number in [0, 1] {
            let error = many.read(number).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
            assert!(error.to_string().contains("ulimit -n"), "{error}");
        }
        assert_eq!(many.read(last).unwrap(), many.names[last].to_string());
    }

    /// No more files stay open than may; one that goes makes room for another.
    #[test]
    fn those_that_come_first_stay_open() {
        let Some(many) = Many::open() else { return };
        let pool: &'static ManyFiles = Box::leak(Box::new(ManyFiles::new()));
        let fd = rustix::fs::open(many.storage.folder(), OFlags::RDONLY, Mode::empty()).unwrap();
        let fd = Arc::new(fd);
        let open =
            |name: FileName| pool.open_within(2, &fd, many.storage.path(name), name).unwrap();
        let mut open: Vec<_> = many.names.iter().take(3).map(|&name| open(name)).collect();
        assert_eq!((pool.staying.load(Relaxed), lock(&pool.used_last).len()), (2, 1));
        open.remove(0);
        assert_eq!(pool.staying.load(Relaxed), 1);
    }
}
