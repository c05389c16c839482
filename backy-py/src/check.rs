//! `backy.check`.

use backy_lib::{SystemClock, Trust};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::cancel::{Cancel, Control};
use crate::fleet::Given;
use crate::named::{self, GivenPath};
use crate::watch::{Watch, run};

/// The verdict on many archives: each folder is one, or has some directly below it, or is a pattern such as
/// '/srv/*/backup'. Without folders, on those that fleet.toml names; one that it expects and that is missing, has
/// another source or was never backed up is critical.
///
/// Nothing is locked or changed. What cannot be read is "unknown", and hides no other. `folders`: paths or
/// patterns. `fleet`: a fleet.toml, by default /etc/backy/fleet.toml if there are no `folders`. `cancel`: a
/// CancelToken that stops it.
#[pyfunction]
#[pyo3(signature = (*folders, fleet=None, cancel=None))]
pub(crate) fn check<'py>(
    py: Python<'py>,
    folders: &Bound<'py, PyTuple>,
    #[pyo3(from_py_with = named::fleet)] fleet: Option<GivenPath>,
    cancel: Option<Cancel>,
) -> PyResult<Bound<'py, PyAny>> {
    let given = Given::of(folders, fleet)?;
    let check = |watch: &Watch| given.request(Trust::Checked)?.check(false, &SystemClock, watch);
    run(py, Control::new(None, cancel), check)?.to_python(py)
}
