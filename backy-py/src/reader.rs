//! What `backy.io.RevisionFile` reads from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backy_lib::fork::Maker;
use backy_lib::image::reader::{ReadCache, RevisionReader};
use backy_lib::{Archive, Error, Result, RevisionId};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::exception;
use crate::operations::Folder;
use crate::position::Position;

/// What open files of an archive share to remember blocks of deltas.
const CACHE_BYTES: u64 = 64 << 20;

/// Bytes read without looking after signals.
const STRETCH_BYTES: usize = 8 << 20;

/// What the files of one archive share: in each process something of its own. Only locked with the interpreter.
pub(crate) struct Caches(Mutex<(Maker, Arc<ReadCache>)>);

impl Caches {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Caches(Mutex::new((Maker::this(), ReadCache::new(CACHE_BYTES)))))
    }

    fn get(&self) -> Arc<ReadCache> {
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !own.0.is_this() {
            let copied = std::mem::replace(&mut *own, (Maker::this(), ReadCache::new(CACHE_BYTES)));
            // A thread of the parent may have been at work in it.
            std::mem::forget(copied);
        }
        Arc::clone(&own.1)
    }
}

/// A revision that is open for reading; see backy.io.RevisionFile, which is made of it.
#[pyclass(module = "backy._backy", frozen)]
pub(crate) struct Reader {
    folder: Folder,
    cache: Arc<Caches>,
    size_bytes: u64,
    revision: RevisionId,
    /// Only locked with the interpreter, so that nobody has it locked when this process is forked.
    opened: Mutex<Opened>,
    position: Position,
}

/// Where a revision has been opened. A child opens it anew: threads that it does not have may hold the locks in there.
struct Opened {
    maker: Maker,
    reader: Arc<RevisionReader>,
}

impl Reader {
    pub(crate) fn open(
        py: Python<'_>,
        folder: &Folder,
        cache: &Arc<Caches>,
        which: impl FnOnce(&Archive) -> Result<RevisionId> + Send,
    ) -> PyResult<Self> {
        let shared = cache.get();
        let open = || {
            let archive = folder.open()?;
            archive.open_reader(which(&archive)?, &shared)
        };
        let reader = py.detach(open).map_err(exception)?;
        let (size_bytes, revision) = (reader.size_bytes(), reader.revision().uuid);
        let opened = Mutex::new(Opened { maker: Maker::this(), reader: Arc::new(reader) });
        Ok(Reader {
            folder: folder.clone(),
            cache: Arc::clone(cache),
            size_bytes,
            revision,
            opened,
            position: Position::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to read from in this process.
    fn reader(&self, py: Python<'_>) -> PyResult<Arc<RevisionReader>> {
        let opened = self.lock();
        if opened.maker.is_this() {
            return Ok(Arc::clone(&opened.reader));
        }
        drop(opened);
        let revision = self.revision;
        let missing = move |_| Error::NoSuchRevision {
            message: format!("revision {revision} was deleted before this process opened it"),
        };
        let find = move |archive: &Archive| {
            archive.revision(revision).map(|found| found.uuid).map_err(missing)
        };
        let anew = Self::open(py, &self.folder, &self.cache, find)?;
        let anew = anew.opened.into_inner().unwrap_or_else(PoisonError::into_inner);
        let reader = Arc::clone(&anew.reader);
        let copied = std::mem::replace(&mut *self.lock(), anew);
        if !copied.maker.is_this() {
            // The parent's: closing it takes its locks.
            std::mem::forget(copied.reader);
        }
        Ok(reader)
    }

    /// Fills `buffer` up to the end of the revision; how many bytes that were.
    fn fill(&self, py: Python<'_>, buffer: &mut [u8], offset: u64) -> PyResult<usize> {
        let reader = self.reader(py)?;
        let mut done = 0;
        for part in buffer.chunks_mut(STRETCH_BYTES) {
            let at = offset.saturating_add(done as u64);
            let read: Result<usize> = py.detach(|| reader.read_at(part, at));
            done += read.map_err(exception)?;
            py.check_signals()?;
        }
        Ok(done)
    }
}

#[pymethods]
impl Reader {
    /// Size of the revision in bytes.
    #[getter]
    fn size(&self) -> u64 {
        self.size_bytes
    }

    /// UUID of the revision.
    #[getter]
    fn uuid(&self) -> String {
        self.revision.to_string()
    }

    /// Where the next read() or fill_memory() begins.
    #[getter]
    fn position(&self) -> u64 {
        self.position.get()
    }

    /// Moves the position; where it is then.
    #[pyo3(signature = (offset, whence, /))]
    fn seek(&self, offset: i64, whence: i32) -> PyResult<u64> {
        self.position.seek(offset, whence, self.size_bytes)
    }

    /// Up to `size` bytes from the position on, all that are left if it is negative or None.
    #[pyo3(signature = (size, /))]
    fn read<'py>(&self, py: Python<'py>, size: Option<i64>) -> PyResult<Bound<'py, PyBytes>> {
        let wanted = size.and_then(|size| u64::try_from(size).ok()).unwrap_or(u64::MAX);
        let taken @ (start, len) = self.position.take(wanted, self.size_bytes);
        self.read_at(py, start, len).inspect_err(|_| self.position.give_back(taken))
    }

    /// As fill_memory_at, from the position on.
    #[pyo3(signature = (address, size, /))]
    fn fill_memory(&self, py: Python<'_>, address: usize, size: usize) -> PyResult<usize> {
        let taken @ (start, _) = self.position.take(size as u64, self.size_bytes);
        let filled = self.fill_memory_at(py, start, address, size);
        filled.inspect_err(|_| self.position.give_back(taken))
    }

    /// Up to `size` bytes at `offset`; fewer only at the end of the revision.
    #[pyo3(signature = (offset, size, /))]
    fn read_at<'py>(
        &self,
        py: Python<'py>,
        offset: u64,
        size: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let size = size.min(self.size_bytes.saturating_sub(offset));
        PyBytes::new_with(py, usize::try_from(size)?, |buffer| {
            self.fill(py, buffer, offset).map(|_| ())
        })
    }

    /// Fills `size` bytes of memory from `address` on, which nobody else may use meanwhile; how many bytes that were.
    #[pyo3(signature = (offset, address, size, /))]
    fn fill_memory_at(
        &self,
        py: Python<'_>,
        offset: u64,
        address: usize,
        size: usize,
    ) -> PyResult<usize> {
        let start = std::ptr::with_exposed_provenance_mut::<u8>(address);
        if start.is_null() || size == 0 {
            return Ok(0);
        }
        #[expect(unsafe_code, reason = "the stable ABI of Python 3.9 has no buffers")]
        // SAFETY: the only callers are RevisionFile.readinto and readinto_at. They take address and size from a
        // ctypes array over a writable buffer, and keep that array until this returns; while it lives, the buffer can
        // neither be freed nor resized. The memory is initialised, as that of every Python buffer. The caller of
        // readinto() has to ensure, as with any file, that no other thread writes to it.
        let buffer = unsafe { std::slice::from_raw_parts_mut(start, size) };
        self.fill(py, buffer, offset)
    }
}
