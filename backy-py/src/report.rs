//! Reports as Python objects: the engine's structs with a property for each field, and as what `--json` prints.
//!
//! A class is declared with [`report!`], once, and nothing is written twice: `to_dict` is the JSON of the engine's struct,
//! and so are equality, hash and `repr`.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use backy_lib::units::BlockIndex;
use backy_lib::{BlockSize, Digest, RevisionId, Tag};
use jiff::Timestamp;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use serde::Serialize;
use serde_json::Value;

use crate::ending::Call;

/// What an operation found out: properties, and `to_dict()` with what the command prints with `--json`.
///
/// Cannot be changed. Two are equal when all they say is equal.
#[pyclass(module = "backy", frozen, subclass)]
pub(crate) struct Report {
    json: String,
    /// What equal ones have in common.
    identity: Option<String>,
}

impl Report {
    pub(crate) fn of(value: &impl Serialize) -> PyResult<Self> {
        let json = serde_json::to_string(value)
            .map_err(|error| PyRuntimeError::new_err(format!("no JSON can be made: {error}")))?;
        Ok(Report { json, identity: None })
    }

    pub(crate) fn identified_by(self, identity: String) -> Self {
        Report { identity: Some(identity), ..self }
    }

    fn identity(&self) -> &str {
        self.identity.as_deref().unwrap_or(&self.json)
    }
}

#[pymethods]
impl Report {
    /// All of it as dicts, lists, numbers and strings: what the command prints with --json.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let _call = Call::begin(py)?;
        py.import("json")?.call_method1("loads", (&self.json,))
    }

    fn __eq__(slf: &Bound<'_, Self>, other: &Bound<'_, PyAny>) -> bool {
        let same_type = slf.get_type().is(other.get_type());
        let same = |other: &Bound<'_, Self>| slf.get().identity() == other.get().identity();
        same_type && other.cast::<Self>().is_ok_and(same)
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.identity().hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let name = slf.get_type().name()?;
        let Ok(Value::Object(fields)) = serde_json::from_str(&slf.get().json) else {
            return Ok(format!("<backy.{name}>"));
        };
        let shown = |(field, value): (&String, &Value)| match value {
            Value::Array(items) if !items.is_empty() => format!(" {field}=[{} items]", items.len()),
            Value::Object(inner) => match inner.get("uuid").and_then(Value::as_str) {
                Some(uuid) => format!(" {field}={uuid}"),
                None => format!(" {field}={{…}}"),
            },
            value => format!(" {field}={value}"),
        };
        let fields: String = fields.iter().map(shown).collect();
        Ok(format!("<backy.{name}{fields}>"))
    }
}

/// What has a form in Python.
pub(crate) trait ToPython {
    /// That form.
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>>;
}

impl<T: ToPython + ?Sized> ToPython for &T {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        (**self).to_python(py)
    }
}

impl<T: ToPython> ToPython for Option<T> {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.as_ref().map_or_else(|| Ok(py.None().into_bound(py)), |value| value.to_python(py))
    }
}

impl<T: ToPython> ToPython for [T] {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let items = self.iter().map(|item| item.to_python(py)).collect::<PyResult<Vec<_>>>()?;
        Ok(PyTuple::new(py, items)?.into_any())
    }
}

impl<T: ToPython> ToPython for Vec<T> {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.as_slice().to_python(py)
    }
}

impl<T: ToPython> ToPython for BTreeSet<T> {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.iter().collect::<Vec<_>>().to_python(py)
    }
}

/// Values that PyO3 can convert, or what is left of ours when they are made such.
macro_rules! plain {
    ($($kind:ty: |$value:ident| $expression:expr;)*) => { $(
        impl ToPython for $kind {
            fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                let $value = self;
                Ok($expression.into_pyobject(py)?.to_owned().into_any())
            }
        }
    )* };
}

plain! {
    bool: |value| value;
    u64: |value| value;
    usize: |value| value;
    i64: |value| value;
    f64: |value| value;
    str: |value| value;
    String: |value| value;
    Path: |value| value;
    Timestamp: |value| value;
    RevisionId: |value| value.to_string();
    Digest: |value| value.to_string();
    Tag: |value| value.as_str();
    BlockSize: |value| value.bytes();
    BlockIndex: |value| value.0;
}

/// A value that serializes to a word, as that word.
pub(crate) fn word(value: &impl Serialize) -> Option<String> {
    serde_json::to_value(value).ok()?.as_str().map(str::to_owned)
}

/// Declares the class of a report: its name, the engine's struct, and its properties, each with what it shows of that; also
/// what equal ones have in common and its `repr`, where that is not all of it.
macro_rules! report {
    (
        $(#[$doc:meta])*
        $name:ident of $inner:ty {
            $($(#[$property_doc:meta])* $property:ident($this:ident) = $shown:expr;)*
        }
        $(
            identity($same:ident) = $identity:expr;
            repr($itself:ident) = $repr:expr;
        )?
    ) => {
        $(#[$doc])*
        #[pyo3::pyclass(module = "backy", frozen, extends = crate::report::Report)]
        pub(crate) struct $name($inner);

        #[pyo3::pymethods]
        impl $name {
            $(
                $(#[$property_doc])*
                #[getter]
                fn $property<'py>(
                    &self,
                    py: pyo3::Python<'py>,
                ) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                    let $this = &self.0;
                    let _call = crate::ending::Call::begin(py)?;
                    crate::report::ToPython::to_python(&($shown), py)
                }
            )*

            $(
                fn __repr__(&self) -> String {
                    let $itself = &self.0;
                    $repr
                }
            )?
        }

        impl crate::report::ToPython for $inner {
            fn to_python<'py>(
                &self,
                py: pyo3::Python<'py>,
            ) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                let whole = crate::report::Report::of(self)?;
                $(
                    let $same = self;
                    let whole = whole.identified_by($identity);
                )?
                let report = pyo3::PyClassInitializer::from(whole).add_subclass($name(self.clone()));
                Ok(pyo3::Bound::new(py, report)?.into_any())
            }
        }
    };
}

pub(crate) use report;
