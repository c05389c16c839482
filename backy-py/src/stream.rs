//! Targets of a restore: paths, and binary files of Python, which are written from beginning to end.

use std::io::{self, Write};
use std::path::PathBuf;

use backy_lib::Error;
use pyo3::exceptions::{PyBlockingIOError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::error::exception;
use crate::named::GivenPath;
use crate::outcall::{self, call_method};
use crate::watch::Watch;

/// Nobody reads this: it stays in a thread that does not come back.
const ENDS: &str = "the interpreter ends";

/// The target of a restore. A file is checked here, before anything begins.
pub(crate) enum Target {
    /// A file or device.
    Path(PathBuf),
    /// An object with a `write`.
    File(Py<PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for Target {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let helpers = object.py().import("backy._target")?;
        if helpers.call_method1("is_file", (object,))?.extract()? {
            helpers.call_method1("check", (object,))?;
            return Ok(Target::File(object.to_owned().unbind()));
        }
        let is_path = object.is_instance_of::<PyString>()
            || object.is_instance_of::<PyBytes>()
            || object.hasattr("__fspath__")?;
        if !is_path {
            let kind = object.get_type();
            return Err(PyTypeError::new_err(format!(
                "{kind} is no target; expected a path, or a binary file that is open for writing"
            )));
        }
        object.extract().map(|GivenPath(path)| Target::Path(path))
    }
}

/// Something with a `write`.
pub(crate) struct Stream<'a> {
    file: Py<PyAny>,
    watch: &'a Watch,
}

impl<'a> Stream<'a> {
    pub(crate) fn new(file: Py<PyAny>, watch: &'a Watch) -> Self {
        Stream { file, watch }
    }

    /// An exception of write() stops the operation, and is raised unchanged.
    fn call<T>(&self, call: impl FnOnce(Python<'_>) -> PyResult<T>) -> io::Result<T> {
        let Some(called) = self.watch.attach(call) else { return Err(io::Error::other(ENDS)) };
        called.map_err(|error| {
            let text = error.to_string();
            self.watch.raise_by(error, &self.file);
            io::Error::other(text)
        })
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.call(|py| {
            let file = self.file.bind(py);
            let answer = call_method(file, "write", (PyBytes::new(py, bytes),))?;
            match answer.extract::<usize>() {
                Ok(count) if (1..=bytes.len()).contains(&count) => Ok(count),
                _ => Err(wrong_answer(file, &answer, bytes.len())),
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.call(|py| match self.file.bind(py).getattr_opt("flush")? {
            Some(flush) => outcall::call(&flush, ()).map(|_| ()),
            None => Ok(()),
        })
    }
}

/// The exception for a `write` that returned something that is no count of written bytes.
fn wrong_answer(file: &Bound<'_, PyAny>, answer: &Bound<'_, PyAny>, expected: usize) -> PyErr {
    let py = file.py();
    if answer.is_none() {
        let message = "the target does not block, and takes no more at this moment: its write() returned None";
        return PyBlockingIOError::new_err((libc::EAGAIN, message, 0));
    }
    let describe = |function| -> PyResult<String> {
        py.import("backy._target")?.call_method1(function, (file, answer))?.extract()
    };
    let path = describe("name").unwrap_or_else(|_| "file object".to_owned()).into();
    let found = describe("answer").unwrap_or_else(|_| "something else".to_owned());
    let message = format!(
        "its write() returned {found}; expected how many of the {expected} bytes it wrote, at least 1"
    );
    exception(Error::Target { path, message, forcible: false })
}
