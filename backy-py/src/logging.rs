//! Messages of the engine reach Python's `logging`, in the logger `backy`.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::outcall::call_method;

static LOGGER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Something for the log.
#[derive(Debug)]
pub(crate) enum Line {
    /// A problem with stored data.
    Warning(String),
    /// Something worth knowing.
    Info(String),
}

/// The logger, if there is one.
pub(crate) fn logger(py: Python<'_>) -> Option<Py<PyAny>> {
    LOGGER.get(py).map(|logger| logger.clone_ref(py))
}

/// Writes to the log; returns the exception of its filters and handlers.
pub(crate) fn log(py: Python<'_>, line: Line) -> PyResult<()> {
    let logger = LOGGER.get_or_try_init(py, || {
        let logging = py.import("logging")?;
        let logger = logging.call_method1("getLogger", ("backy",))?;
        // Without any handler, Python prints warnings to standard error.
        logger.call_method1("addHandler", (logging.call_method0("NullHandler")?,))?;
        PyResult::Ok(logger.unbind())
    })?;
    let (level, text) = match line {
        Line::Warning(text) => ("warning", text),
        Line::Info(text) => ("info", text),
    };
    call_method(logger.bind(py), level, ("%s", text)).map(|_| ())
}
