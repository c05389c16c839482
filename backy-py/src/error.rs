//! Errors of the engine as Python exceptions: the kind decides the class, the text stays.

use backy_lib::{Error, ErrorKind};
use pyo3::PyErr;

mod python {
    pyo3::import_exception!(backy.errors, BackyError);
    pyo3::import_exception!(backy.errors, ArchiveNotFoundError);
    pyo3::import_exception!(backy.errors, ArchiveAccessError);
    pyo3::import_exception!(backy.errors, ArchiveDamagedError);
    pyo3::import_exception!(backy.errors, ArchiveUnsupportedError);
}

/// For `map_err`.
pub(crate) fn exception(error: Error) -> PyErr {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::NoArchive => python::ArchiveNotFoundError::new_err(text),
        ErrorKind::NotFound | ErrorKind::Permission | ErrorKind::Io => {
            python::ArchiveAccessError::new_err(text)
        }
        ErrorKind::Damaged => python::ArchiveDamagedError::new_err(text),
        ErrorKind::Unsupported => python::ArchiveUnsupportedError::new_err(text),
        _ => python::BackyError::new_err(text),
    }
}
