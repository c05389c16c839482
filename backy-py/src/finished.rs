//! What an operation that has finished returns, whatever was raised meanwhile: a result is never lost.

use backy_lib::Error;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

use crate::error::{exception, in_context};
use crate::report::ToPython;

/// Something that was raised while an operation was at work.
pub(crate) struct Raised {
    pub(crate) error: PyErr,
    /// Whose exception it is: the callback, the logger, the source, the target; `None` for a signal handler's.
    pub(crate) by: Option<Py<PyAny>>,
}

impl Raised {
    /// Ctrl-C, another signal handler's exception, or a wish to end the process: nothing may swallow it.
    fn is_urgent(&self, py: Python<'_>) -> bool {
        self.by.is_none() || !self.error.is_instance_of::<PyException>(py)
    }

    /// The exception of an operation that has failed with `error`.
    pub(crate) fn instead_of(self, py: Python<'_>, error: Error) -> PyErr {
        let raised = in_context(py, self.error);
        if matches!(error, Error::UndoFailed { .. }) {
            raised.set_cause(py, Some(exception(error)));
        }
        raised
    }
}

/// The result of an operation.
pub(crate) struct Finished<T> {
    value: T,
    /// Came too late to stop it, and has to come out all the same.
    late: Option<PyErr>,
}

impl<T> Finished<T> {
    pub(crate) fn new(value: T) -> Self {
        Finished { value, late: None }
    }

    pub(crate) fn has_late(&self) -> bool {
        self.late.is_some()
    }

    /// Notes an exception that came too late: an urgent one is raised with the result, the rest go to
    /// sys.unraisablehook.
    pub(crate) fn note(&mut self, py: Python<'_>, raised: Raised) {
        if self.late.is_none() && raised.is_urgent(py) {
            self.late = Some(in_context(py, raised.error));
        } else {
            raised.error.write_unraisable(py, raised.by.as_ref().map(|by| by.bind(py)));
        }
    }

    /// The result of a step that nobody needs unless the next one is made.
    pub(crate) fn value(self) -> PyResult<T> {
        self.late.map_or(Ok(self.value), Err)
    }

    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Finished<U> {
        Finished { value: change(self.value), late: self.late }
    }
}

impl<T: ToPython> Finished<T> {
    /// The report; or what was raised, with the report as its attribute `report`.
    pub(crate) fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let report = self.value.to_python(py)?;
        // As late as can be: once this has returned, the interpreter's handler comes before the caller has the report.
        let signal = match &self.late {
            None => py.check_signals().err().map(|error| in_context(py, error)),
            Some(_) => None,
        };
        let Some(late) = self.late.as_ref().or(signal.as_ref()) else { return Ok(report) };
        let note = "backy had finished: what the call would have returned is the attribute 'report' of this exception";
        // An exception may refuse attributes, and Python before 3.11 has no notes.
        let _ = late.value(py).setattr("report", report);
        let _ = late.value(py).call_method1("add_note", (note,));
        Err(late.clone_ref(py))
    }
}
