//! What `backy.io.RevisionFile` reads from.

use backy_lib::Result;
use backy_lib::image::reader::RevisionReader;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::exception;
use crate::position::Position;

/// Bytes read without looking after signals.
const STRETCH_BYTES: usize = 8 << 20;

/// A revision that is open for reading; see backy.io.RevisionFile, which is made of it.
#[pyclass(module = "backy._backy", frozen)]
pub(crate) struct Reader {
    reader: RevisionReader,
    position: Position,
}

impl Reader {
    pub(crate) fn new(reader: RevisionReader) -> Self {
        Reader { reader, position: Position::default() }
    }

    /// Fills `buffer` up to the end of the revision; how many bytes that were.
    fn fill(&self, py: Python<'_>, buffer: &mut [u8], offset: u64) -> PyResult<usize> {
        let mut done = 0;
        for part in buffer.chunks_mut(STRETCH_BYTES) {
            let at = offset.saturating_add(done as u64);
            let read: Result<usize> = py.detach(|| self.reader.read_at(part, at));
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
        self.reader.size_bytes()
    }

    /// UUID of the revision.
    #[getter]
    fn uuid(&self) -> String {
        self.reader.revision().uuid.to_string()
    }

    /// Where read() and fill_memory() go on.
    #[getter]
    fn position(&self) -> u64 {
        self.position.get()
    }

    /// Moves the position; where it is then.
    #[pyo3(signature = (offset, whence, /))]
    fn seek(&self, offset: i64, whence: i32) -> PyResult<u64> {
        self.position.seek(offset, whence, self.reader.size_bytes())
    }

    /// Up to `size` bytes from the position on, all that are left if it is negative or None.
    #[pyo3(signature = (size, /))]
    fn read<'py>(&self, py: Python<'py>, size: Option<i64>) -> PyResult<Bound<'py, PyBytes>> {
        let wanted = size.and_then(|size| u64::try_from(size).ok()).unwrap_or(u64::MAX);
        let taken @ (start, len) = self.position.take(wanted, self.reader.size_bytes());
        self.read_at(py, start, len).inspect_err(|_| self.position.give_back(taken))
    }

    /// As fill_memory_at, from the position on.
    #[pyo3(signature = (address, size, /))]
    fn fill_memory(&self, py: Python<'_>, address: usize, size: usize) -> PyResult<usize> {
        let taken @ (start, _) = self.position.take(size as u64, self.reader.size_bytes());
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
        let size = size.min(self.reader.size_bytes().saturating_sub(offset));
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
        // neither be freed nor resized. The memory is initialised, as that of every Python buffer. That no other
        // thread writes to it is what whoever calls readinto() has to see to with any file, too.
        let buffer = unsafe { std::slice::from_raw_parts_mut(start, size) };
        self.fill(py, buffer, offset)
    }
}
