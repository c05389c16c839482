//! `backy.check`.

use std::path::PathBuf;

use backy_lib::SystemClock;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::cancel::{Cancel, Control};
use crate::named::{self, GivenPath};
use crate::watch::{Watch, run};

/// The verdict on many archives: each folder is one, or has some right below it, or is a pattern such as
/// '/srv/*/backup'.
///
/// Nothing is locked or changed. What cannot be looked at is "unknown", and hides no other. `folders`: paths or
/// patterns. `cancel`: a CancelToken that stops it.
#[pyfunction]
#[pyo3(signature = (*folders, cancel=None))]
pub(crate) fn check<'py>(
    py: Python<'py>,
    folders: &Bound<'py, PyTuple>,
    cancel: Option<Cancel>,
) -> PyResult<Bound<'py, PyAny>> {
    let path = |given: Bound<'_, PyAny>| {
        named::extract::<GivenPath>("folders", &given).map(|GivenPath(path)| path)
    };
    let folders = folders.iter().map(path).collect::<PyResult<Vec<PathBuf>>>()?;
    let check = |watch: &Watch| backy_lib::check::check_watched(&folders, &SystemClock, watch);
    run(py, Control::new(None, cancel), check)?.to_python(py)
}
