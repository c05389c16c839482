//! Arguments by their names: an error about one names it.
//!
//! PyO3 adds the name as a note, which `str()` of the error does not have, nor Python before 3.11.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use backy_lib::origin::Address;
use backy_lib::origin::address::split_words;
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::error::{exception, wrong};

/// An argument as `T`.
pub(crate) fn extract<'a, 'py, T>(name: &str, given: &'a Bound<'py, PyAny>) -> PyResult<T>
where
    T: FromPyObject<'a, 'py>,
{
    given.extract::<T>().map_err(|error| about(given.py(), name, error.into()))
}

/// The same error, with the name in its text.
fn about(py: Python<'_>, name: &str, error: PyErr) -> PyErr {
    let is_value = error.is_instance_of::<PyValueError>(py);
    let is_value = is_value || error.is_instance_of::<PyOverflowError>(py);
    let is_type = error.is_instance_of::<PyTypeError>(py);
    // An exception of code of the caller, such as an iterator of tags, is raised unchanged.
    if error.traceback(py).is_some() || !(is_value || is_type) {
        return error;
    }
    let text = error.value(py).to_string();
    let is_named = text.strip_prefix(name).is_some_and(|rest| rest.starts_with([':', ' ']));
    let text = if is_named { text } else { format!("{name}: {text}") };
    if is_type { PyTypeError::new_err(text) } else { wrong(text) }
}

macro_rules! arguments {
    ($($name:ident)*) => { $(
        /// For `from_py_with`.
        pub(crate) fn $name<'a, 'py, T>(given: &'a Bound<'py, PyAny>) -> PyResult<T>
        where
            T: FromPyObject<'a, 'py>,
        {
            extract(stringify!($name), given)
        }
    )* };
}

arguments! {
    add allow_other as_ block_size budget buffered cache check_only check_space confirm dir dry_run
    fleet force gid include jobs keep keep_going lazy level limit_rate mountpoint old origin
    path read_all remove revision revisions since source ssh tags target timeout to trust undo until wait
    writable
}

/// A path as `pathlib` takes it: `str`, or an `os.PathLike` of `str`.
#[derive(Debug, Clone)]
pub(crate) struct GivenPath(pub(crate) PathBuf);

impl<'py> FromPyObject<'_, 'py> for GivenPath {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let given = object.py().import("os")?.call_method1("fspath", (object,))?;
        if given.is_instance_of::<PyBytes>() {
            let message = "a path is a str or an os.PathLike of str, not bytes; see os.fsdecode()";
            return Err(PyTypeError::new_err(message));
        }
        let path: OsString = given.extract()?;
        if path.is_empty() {
            return Err(wrong("the path is empty".to_owned()));
        }
        if path.as_bytes().contains(&0) {
            return Err(wrong("the path has a NUL character in it, as no file has".to_owned()));
        }
        Ok(GivenPath(path.into()))
    }
}

/// Where another archive is: text as the command takes it, or an `os.PathLike` of a folder of this machine.
#[derive(Debug, Clone)]
pub(crate) struct GivenAddress(pub(crate) Address);

impl<'py> FromPyObject<'_, 'py> for GivenAddress {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let GivenPath(path) = object.extract()?;
        // A URL is UTF-8.
        let text = path.to_str().filter(|_| object.is_instance_of::<PyString>());
        let address = match text {
            Some(text) => text.parse().map_err(exception)?,
            None => Address::Folder(path),
        };
        Ok(GivenAddress(address))
    }
}

/// The program that connects to another machine: text as the command takes it, or a sequence of its words.
#[derive(Debug, Clone)]
pub(crate) struct Ssh(pub(crate) Vec<String>);

impl<'py> FromPyObject<'_, 'py> for Ssh {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = object.cast::<PyString>() {
            return split_words(&text.to_cow()?).map(Ssh).map_err(exception);
        }
        let words: Vec<String> = object.extract()?;
        let is_program = |word: &String| !word.is_empty();
        if !words.first().is_some_and(is_program) || words.iter().any(|word| word.contains('\0')) {
            let expected = "expected a program and its arguments, such as [\"ssh\", \"-4\"]";
            return Err(wrong(format!("found {words:?}, {expected}")));
        }
        Ok(Ssh(words))
    }
}

/// Several paths: an iterable of them.
#[derive(Debug, Default)]
pub(crate) struct Paths(pub(crate) Vec<PathBuf>);

impl<'py> FromPyObject<'_, 'py> for Paths {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if object.is_instance_of::<PyString>() || object.is_instance_of::<PyBytes>() {
            let message = "paths are an iterable of them, such as [\"/etc/backy/standard.toml\"]";
            return Err(PyTypeError::new_err(message));
        }
        let path = |item: PyResult<Bound<'py, PyAny>>| Ok(item?.extract::<GivenPath>()?.0);
        object.try_iter()?.map(path).collect::<PyResult<_>>().map(Paths)
    }
}
