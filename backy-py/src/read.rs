//! Reports from the output of `to_dict()`, from the command's output, and from pickles.

use backy_lib::report_path::exactly;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use serde::de::DeserializeOwned;

use crate::error::wrong;

/// How deep dicts and lists may be in each other; the engine's JSON is read no deeper.
const MAX_DEPTH: usize = 100;

/// A struct of the engine, from a dict; `class` is what it is for in Python.
pub(crate) fn from_dict<T: DeserializeOwned>(
    class: &str,
    fields: &Bound<'_, PyAny>,
) -> PyResult<T> {
    if !fields.is_instance_of::<PyDict>() {
        let found = fields.get_type().name()?;
        let message = format!("fields: found {found}, expected a dict such as to_dict() gives");
        return Err(PyTypeError::new_err(message));
    }
    let mut text = String::new();
    write(fields, &mut text, &mut Place { class, names: Vec::new() })?;
    parse(class, &text)
}

/// A struct of the engine, from a pickle.
pub(crate) fn from_exact<T: DeserializeOwned>(class: &str, text: &str) -> PyResult<T> {
    exactly(|| parse(class, text))
}

/// For `__reduce__`: the function of `backy._pickle` that makes the object again, with what it takes.
pub(crate) fn reduced<'py, A>(kind: &str, py: Python<'py>, given: A) -> PyResult<Bound<'py, PyAny>>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
{
    let function = py.import("backy._pickle")?.getattr(kind)?;
    let given = given.into_pyobject(py)?.into_any();
    Ok(PyTuple::new(py, [function, given])?.into_any())
}

fn parse<T: DeserializeOwned>(class: &str, text: &str) -> PyResult<T> {
    let mut parser = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut parser).map_err(|error| {
        let place = error.path().to_string();
        let why = error.inner().to_string();
        // The position in the text means nothing to somebody who passed a dict.
        let why = why.split(" at line ").next().unwrap_or(&why);
        match place.as_str() {
            "." => wrong(format!("{class}.from_dict: {why}")),
            place => wrong(format!("{class}.from_dict: {place}: {why}")),
        }
    })
}

/// Where something is in what was given.
struct Place<'a> {
    class: &'a str,
    names: Vec<String>,
}

impl Place<'_> {
    fn wrong(&self, why: &str) -> PyErr {
        let place = self.names.concat();
        wrong(format!("{}.from_dict: {}: {why}", self.class, place.trim_start_matches('.')))
    }

    /// Does something one step further in.
    fn within<T>(
        &mut self,
        name: String,
        what: impl FnOnce(&mut Self) -> PyResult<T>,
    ) -> PyResult<T> {
        if self.names.len() == MAX_DEPTH {
            return Err(wrong(format!("{}.from_dict: nested too deep", self.class)));
        }
        self.names.push(name);
        let done = what(self)?;
        self.names.pop();
        Ok(done)
    }
}

/// Writes a value as JSON; numbers as they are, however long.
fn write(value: &Bound<'_, PyAny>, text: &mut String, place: &mut Place<'_>) -> PyResult<()> {
    if value.is_none() {
        text.push_str("null");
    } else if let Ok(flag) = value.cast::<PyBool>() {
        text.push_str(if flag.is_true() { "true" } else { "false" });
    } else if value.is_instance_of::<PyInt>() {
        // The digits, also of a subclass with another representation.
        let digits = value.call_method1("__format__", ("d",))?;
        text.push_str(&digits.extract::<String>()?);
    } else if let Ok(float) = value.cast::<PyFloat>() {
        if !float.value().is_finite() {
            return Err(place.wrong(&format!("found {}, expected a finite number", float.value())));
        }
        text.push_str(&serde_json::json!(float.value()).to_string());
    } else if let Ok(string) = value.cast::<PyString>() {
        text.push_str(&quoted(string, place)?);
    } else if let Ok(fields) = value.cast::<PyDict>() {
        text.push('{');
        for (at, (key, inner)) in fields.iter().enumerate() {
            let Ok(key) = key.cast::<PyString>() else {
                let found = key.get_type().name()?;
                return Err(place.wrong(&format!("found a key that is {found}, expected str")));
            };
            if at > 0 {
                text.push(',');
            }
            text.push_str(&quoted(key, place)?);
            text.push(':');
            place.within(format!(".{key}"), |place| write(&inner, text, place))?;
        }
        text.push('}');
    } else if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        text.push('[');
        for (at, inner) in value.try_iter()?.enumerate() {
            if at > 0 {
                text.push(',');
            }
            let inner = inner?;
            place.within(format!("[{at}]"), |place| write(&inner, text, place))?;
        }
        text.push(']');
    } else {
        let found = value.get_type().name()?;
        let message = format!("found {found}, expected what JSON has: text, a number, a list");
        return Err(place.wrong(&message));
    }
    Ok(())
}

fn quoted(string: &Bound<'_, PyString>, place: &Place<'_>) -> PyResult<String> {
    let text = string.to_cow().map_err(|_| place.wrong("the text cannot be written as UTF-8"))?;
    serde_json::to_string(&*text).map_err(|error| place.wrong(&error.to_string()))
}
