//! `backy.check`.

use std::path::PathBuf;

use backy_lib::SystemClock;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::error::exception;
use crate::named::{self, GivenPath};
use crate::report::ToPython;

/// The verdict on many archives: each folder is one, or has some right below it, or is a pattern such as '/srv/*/backup'.
///
/// Nothing is locked or changed. What cannot be looked at is "unknown", and hides no other. `folders`: paths or patterns.
#[pyfunction]
#[pyo3(signature = (*folders))]
pub(crate) fn check<'py>(
    py: Python<'py>,
    folders: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let path = |given: Bound<'_, PyAny>| {
        named::extract::<GivenPath>("folders", &given).map(|GivenPath(path)| path)
    };
    let folders = folders.iter().map(path).collect::<PyResult<Vec<PathBuf>>>()?;
    let report = py.detach(|| backy_lib::check::check(&folders, &SystemClock));
    report.map_err(exception)?.to_python(py)
}
