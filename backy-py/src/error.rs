//! Errors of the engine as Python exceptions: the kind decides the class, the text stays.

use backy_lib::{Error, ErrorKind};
use pyo3::prelude::*;

/// For `map_err`.
pub(crate) fn exception(error: Error) -> PyErr {
    Python::attach(|py| build(py, &error).unwrap_or_else(|failed| failed))
}

/// For `map_err`: a malformed argument, with a sentence about what was found and expected.
pub(crate) fn wrong(message: String) -> PyErr {
    exception(Error::Specification { message })
}

/// Gives an exception the one that the caller is handling as its context, as `raise` does: Python sets that for
/// exceptions that are raised where it is handled, and not for those of other threads.
pub(crate) fn in_context(py: Python<'_>, error: PyErr) -> PyErr {
    let set = || -> PyResult<()> {
        let errors = py.import("backy.errors")?;
        errors.getattr("_in_context")?.call1((error.value(py),)).map(|_| ())
    };
    // It only affects what a traceback shows in addition.
    let _ = set();
    error
}

fn build(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let unreadable = error.unreadable();
    let arguments = (
        kind(error.kind()),
        error.to_string(),
        error.path(),
        unreadable.map(|bytes| bytes.extent.offset),
        unreadable.map(|bytes| bytes.revision.to_string()),
        error.system_number(),
    );
    let made = py.import("backy.errors")?.getattr("_make")?.call1(arguments)?;
    Ok(PyErr::from_value(made))
}

/// The names by which `errors.py` knows the kinds.
pub(crate) fn kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Io | ErrorKind::Limit | ErrorKind::Miscomputed | ErrorKind::Panic => "io",
        ErrorKind::NotFound => "not-found",
        ErrorKind::Permission => "permission",
        ErrorKind::Untrusted => "untrusted",
        ErrorKind::NoSpace => "no-space",
        ErrorKind::NoArchive => "no-archive",
        ErrorKind::ArchiveExists => "archive-exists",
        ErrorKind::Locked => "locked",
        ErrorKind::Config => "config",
        ErrorKind::Specification => "specification",
        ErrorKind::NoSuchRevision => "no-such-revision",
        ErrorKind::Source => "source",
        ErrorKind::Target => "target",
        ErrorKind::Mount => "mount",
        ErrorKind::Damaged => "damaged",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Hook => "hook",
        ErrorKind::Interrupted => "interrupted",
        // A kind of a newer library: the base class.
        _ => "error",
    }
}
