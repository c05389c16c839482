//! Calls of foreign Python code, with frames of Rust below them.
//!
//! When the interpreter ends, up to Python 3.13, it ends each other thread that wants to continue in Python: by
//! `pthread_exit`, which unwinds the stack. Frames of Rust abort the process then. So a thread that is ended in such
//! a call stays here forever instead, as in Python 3.14, and the process ends without it.

use std::ptr::null_mut;

use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

/// Calls it. The thread may not come back, as when it is in here when the interpreter ends.
pub(crate) fn call<'py, A>(
    callable: &Bound<'py, PyAny>,
    arguments: A,
) -> PyResult<Bound<'py, PyAny>>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>>,
{
    let py = callable.py();
    let arguments = arguments.into_pyobject(py).map_err(Into::into)?;
    #[expect(unsafe_code, reason = "it is the unwinding of this call that has to stop here")]
    // SAFETY: both are objects that live until it returns, the second a tuple; what is returned is ours, or an
    // exception is set.
    unsafe {
        let result =
            or_stay(|| raw::PyObject_Call(callable.as_ptr(), arguments.as_ptr(), null_mut()));
        Bound::from_owned_ptr_or_err(py, result)
    }
}

/// What an object has under a name, which may be computed by code of its own.
pub(crate) fn get<'py>(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    let py = object.py();
    let name = PyString::new(py, name);
    #[expect(unsafe_code, reason = "it is the unwinding of this call that has to stop here")]
    // SAFETY: both are objects that live until it returns; what is returned is ours, or an exception is set.
    unsafe {
        let result = or_stay(|| raw::PyObject_GetAttr(object.as_ptr(), name.as_ptr()));
        Bound::from_owned_ptr_or_err(py, result)
    }
}

/// Calls a method.
pub(crate) fn call_method<'py, A>(
    object: &Bound<'py, PyAny>,
    name: &str,
    arguments: A,
) -> PyResult<Bound<'py, PyAny>>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>>,
{
    call(&get(object, name)?, arguments)
}

/// Calls `what`, in which nothing has to be dropped; stays for ever when the stack is unwound.
fn or_stay(what: impl FnOnce() -> *mut PyObject) -> *mut PyObject {
    let stay = Stay;
    let result = what();
    std::mem::forget(stay);
    result
}

struct Stay;

impl Drop for Stay {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

/// The same functions as in `pyo3::ffi`, but declared as what they are: they may unwind.
#[expect(unsafe_code, reason = "pyo3 declares them as functions that never unwind")]
mod raw {
    use pyo3::ffi::PyObject;

    unsafe extern "C-unwind" {
        pub(super) fn PyObject_Call(
            callable: *mut PyObject,
            arguments: *mut PyObject,
            keywords: *mut PyObject,
        ) -> *mut PyObject;
        pub(super) fn PyObject_GetAttr(object: *mut PyObject, name: *mut PyObject)
        -> *mut PyObject;
    }
}
