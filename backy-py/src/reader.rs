//! What `backy.io.RevisionFile` reads from.

use backy_lib::Result;
use backy_lib::image::reader::RevisionReader;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::exception;

/// Bytes read without looking after signals.
const STRETCH_BYTES: usize = 8 << 20;

/// A revision that is open for reading; see backy.io.RevisionFile, which is made of it.
#[pyclass(module = "backy._backy", frozen)]
pub(crate) struct Reader {
    reader: RevisionReader,
}

impl Reader {
    pub(crate) fn new(reader: RevisionReader) -> Self {
        Reader { reader }
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
        // SAFETY: the only caller is RevisionFile.readinto_at. It takes address and size from a ctypes array over a writable
        // buffer, and keeps that array until this returns; while it lives, the buffer can neither be freed nor resized.
        // The memory is initialised, as that of every Python buffer. That no other thread writes to it is what whoever calls
        // readinto() has to see to with any file, too.
        let buffer = unsafe { std::slice::from_raw_parts_mut(start, size) };
        self.fill(py, buffer, offset)
    }
}
