//! What the engine says while it works goes to Python's `logging`, to the logger `backy`.

use pyo3::prelude::*;

use crate::outcall::call_method;

/// Something for the log.
#[derive(Debug)]
pub(crate) enum Line {
    /// Something is wrong with stored data.
    Warning(String),
    /// Something worth knowing.
    Info(String),
}

/// Writes to the log; what its handlers raise comes back.
pub(crate) fn log(py: Python<'_>, lines: impl IntoIterator<Item = Line>) -> PyResult<()> {
    for line in lines {
        let logger = py.import("logging")?.call_method1("getLogger", ("backy",))?;
        let (level, text) = match line {
            Line::Warning(text) => ("warning", text),
            Line::Info(text) => ("info", text),
        };
        call_method(&logger, level, ("%s", text))?;
    }
    Ok(())
}
