//! `backy.CancelToken`, and the parameters of every long call: a callback for its progress, and a token that stops
//! it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

/// Stops calls of backy from any thread: give it to them as `cancel`, and call cancel().
///
/// A call that is stopped puts the archive in order and raises CancelledError. One that has finished its work by then
/// returns its report. A token stays cancelled: a call that gets a cancelled one raises at once, before it begins.
///
/// One token may stop many calls. As a context manager it cancels when an exception, such as KeyboardInterrupt, leaves
/// the block. cancel() may be called in a signal handler.
#[pyclass(module = "backy", frozen)]
#[derive(Debug, Default)]
pub(crate) struct CancelToken {
    cancelled: Arc<AtomicBool>,
}

#[pymethods]
impl CancelToken {
    #[new]
    fn new() -> Self {
        CancelToken::default()
    }

    /// Stop every call that has this token, now and later. Returns at once; the calls end a moment later.
    fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// Whether cancel() has been called.
    #[getter]
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Cancels when an exception leaves the block.
    #[pyo3(signature = (*exception))]
    fn __exit__(&self, exception: &Bound<'_, pyo3::types::PyTuple>) {
        if exception.iter().any(|part| !part.is_none()) {
            self.cancel();
        }
    }

    fn __repr__(&self) -> &'static str {
        if self.is_cancelled() { "<backy.CancelToken cancelled>" } else { "<backy.CancelToken>" }
    }
}

/// What is called with the progress of an operation.
pub(crate) struct Callback(pub(crate) Py<PyAny>);

impl<'py> FromPyObject<'_, 'py> for Callback {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if !object.is_callable() {
            let found = object.get_type().name()?;
            let message = format!("progress: expected a callable or None, not {found}");
            return Err(PyTypeError::new_err(message));
        }
        Ok(Callback(object.to_owned().unbind()))
    }
}

/// A token, as an argument.
pub(crate) struct Cancel(Arc<AtomicBool>);

impl<'py> FromPyObject<'_, 'py> for Cancel {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match object.cast::<CancelToken>() {
            Ok(token) => Ok(Cancel(Arc::clone(&token.get().cancelled))),
            Err(_) => {
                let found = object.get_type().name()?;
                let message = format!("cancel: expected a backy.CancelToken or None, not {found}");
                Err(PyTypeError::new_err(message))
            }
        }
    }
}

/// How the caller follows a long call, and stops it.
#[derive(Default)]
pub(crate) struct Control {
    pub(crate) progress: Option<Py<PyAny>>,
    cancelled: Option<Arc<AtomicBool>>,
}

impl Control {
    pub(crate) fn new(progress: Option<Callback>, cancel: Option<Cancel>) -> Self {
        let (progress, cancelled) = (progress.map(|given| given.0), cancel.map(|given| given.0));
        Control { progress, cancelled }
    }

    /// The same token, for a step without progress.
    pub(crate) fn without_progress(&self) -> Self {
        Control { progress: None, cancelled: self.cancelled.clone() }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.as_ref().is_some_and(|cancelled| cancelled.load(Relaxed))
    }
}
