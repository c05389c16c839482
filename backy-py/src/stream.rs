//! Binary files of Python, as a target that is written from its beginning to its end.

use std::io::{self, Write};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::outcall::{self, call_method};
use crate::watch::Watch;

/// Nobody reads that: what is told of it stays in a thread that does not come back.
const ENDS: &str = "the interpreter ends";

/// Something with a `write`.
pub(crate) struct Stream<'a> {
    file: Py<PyAny>,
    watch: &'a Watch,
}

impl<'a> Stream<'a> {
    pub(crate) fn new(file: Py<PyAny>, watch: &'a Watch) -> Self {
        Stream { file, watch }
    }

    /// What is raised there stops the operation, and comes out as it is.
    fn call<T>(&self, call: impl FnOnce(Python<'_>) -> PyResult<T>) -> io::Result<T> {
        let Some(called) = self.watch.attach(call) else { return Err(io::Error::other(ENDS)) };
        called.map_err(|error| {
            let text = error.to_string();
            self.watch.raise(error);
            io::Error::other(text)
        })
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.call(|py| {
            let written = call_method(self.file.bind(py), "write", (PyBytes::new(py, bytes),))?;
            written.extract::<Option<usize>>()
        })?;
        match written {
            Some(count) if count <= bytes.len() => Ok(count),
            // It would block.
            None => Err(io::ErrorKind::WouldBlock.into()),
            Some(count) => Err(io::Error::other(format!(
                "its write() says {count} bytes of {}; expected no more than those",
                bytes.len()
            ))),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.call(|py| match self.file.bind(py).getattr_opt("flush")? {
            Some(flush) => outcall::call(&flush, ()).map(|_| ()),
            None => Ok(()),
        })
    }
}
