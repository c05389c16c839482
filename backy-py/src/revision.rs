//! `backy.Revision`.

use jiff::Timestamp;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// The state of the source at one time. Equal to another one if all they say is equal.
#[pyclass(module = "backy", frozen, eq, hash)]
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct Revision {
    uuid: String,
    timestamp: Timestamp,
    size_bytes: u64,
    tags: Vec<String>,
    digest: String,
}

impl From<&backy_lib::Revision> for Revision {
    fn from(revision: &backy_lib::Revision) -> Self {
        Revision {
            uuid: revision.uuid.to_string(),
            timestamp: revision.started,
            size_bytes: revision.size_bytes,
            tags: revision.tags.iter().map(ToString::to_string).collect(),
            digest: revision.digest.to_string(),
        }
    }
}

#[pymethods]
impl Revision {
    /// Its name, in lower case with hyphens.
    #[getter]
    fn uuid(&self) -> &str {
        &self.uuid
    }

    /// When its backup began, with zone UTC.
    #[getter]
    fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Size of the image in bytes.
    #[getter]
    fn size(&self) -> u64 {
        self.size_bytes
    }

    /// Why it exists, sorted: schedules that were due, and words given by hand.
    #[getter]
    fn tags<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.tags)
    }

    /// SHA-256 over the SHA-256s of its blocks, 64 hex digits; the README in the archive says how to check it.
    #[getter]
    fn digest(&self) -> &str {
        &self.digest
    }

    fn __repr__(&self) -> String {
        format!(
            "<backy.Revision {} of {:.0}, {} bytes, tags: {}>",
            self.uuid,
            self.timestamp,
            self.size_bytes,
            self.tags.join(", ")
        )
    }
}
