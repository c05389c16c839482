//! `backy.Archive`.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;

use crate::error::exception;
use crate::revision::Revision;

/// The directory of one source's backups, opened for reading.
///
/// Needs no lock: a backup may run meanwhile.
///
/// Raises ArchiveNotFoundError where no archive is, another BackyError where it cannot be read.
#[pyclass(module = "backy", frozen)]
pub(crate) struct Archive {
    path: PathBuf,
}

#[pymethods]
impl Archive {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        open(py, &path)?;
        Ok(Archive { path })
    }

    /// The directory, as it was given.
    #[getter]
    fn path(&self) -> &Path {
        &self.path
    }

    /// The revisions that there are at this moment, newest first.
    ///
    /// Read from the archive each time, so that a backup made meanwhile shows.
    #[getter]
    fn revisions(&self, py: Python<'_>) -> PyResult<Vec<Revision>> {
        Ok(open(py, &self.path)?.revisions().iter().map(Revision::from).collect())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let path = self.path.as_os_str().into_pyobject(py)?;
        Ok(format!("backy.Archive({})", path.repr()?))
    }
}

/// Other Python threads go on while the archive is read.
fn open(py: Python<'_>, path: &Path) -> PyResult<backy_lib::Archive> {
    py.detach(|| backy_lib::Archive::open(path)).map_err(exception)
}
