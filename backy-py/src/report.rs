//! Reports as Python objects: the engine's structs with a property for each field, and in the form that `--json`
//! prints.
//!
//! A class is declared with [`report!`], once, and nothing is written twice: `to_dict` is the JSON of the engine's
//! struct, and so are equality, hash and the content of a pickle. `read` reads a report back, `show` shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use backy_lib::report_path::exactly;
use backy_lib::units::BlockIndex;
use backy_lib::{BlockSize, Digest, ReportPath, RevisionId, Tag};
use jiff::Timestamp;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};
use serde::Serialize;

use crate::show;

use crate::ending::Call;

/// What an operation found out: properties, and `to_dict()` with what the command prints with `--json`.
///
/// Cannot be changed. Two are equal when all they say is equal. Can be pickled and copied, and taken apart by
/// `match`, with its properties in their order.
#[pyclass(module = "backy", frozen, subclass)]
pub(crate) struct Report {
    json: String,
    /// What equal ones have in common.
    identity: Option<String>,
}

impl Report {
    pub(crate) fn of(value: &impl Serialize) -> PyResult<Self> {
        let json = text_of(value)?;
        // In JSON, paths that are no UTF-8 may look the same.
        let is_lossy = json.contains(char::REPLACEMENT_CHARACTER);
        let identity = is_lossy.then(|| exact_text_of(value)).transpose()?;
        Ok(Report { json, identity })
    }

    pub(crate) fn identified_by(self, identity: String) -> Self {
        Report { identity: Some(identity), ..self }
    }

    fn identity(&self) -> &str {
        self.identity.as_deref().unwrap_or(&self.json)
    }
}

fn text_of(value: &impl Serialize) -> PyResult<String> {
    serde_json::to_string(value)
        .map_err(|error| PyRuntimeError::new_err(format!("no JSON can be made: {error}")))
}

/// The JSON that loses nothing, for a pickle.
pub(crate) fn exact_text_of(value: &impl Serialize) -> PyResult<String> {
    exactly(|| text_of(value))
}

#[pymethods]
impl Report {
    /// Makes a report of what `to_dict()` gave, or of what the command prints with --json.
    ///
    /// `fields`: a dict. Fields that this version does not know are ignored, so that what a newer version printed can
    /// be read. Raises SpecificationError, which names the field, where one is missing or cannot be what it is. A
    /// path that is no UTF-8 does not come back from JSON; a pickle keeps it.
    #[classmethod]
    fn from_dict(class: &Bound<'_, PyType>, fields: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let _ = fields;
        let name = class.name()?;
        let message = format!("backy.{name} is no report; use a class such as backy.Status");
        Err(PyTypeError::new_err(message))
    }

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
        show::report(slf.as_any())
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

impl<V: ToPython> ToPython for BTreeMap<&str, V> {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let map = PyDict::new(py);
        self.iter().try_for_each(|(key, value)| map.set_item(key, value.to_python(py)?))?;
        Ok(map.into_any())
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
    OsStr: |value| value;
    Path: |value| value;
    ReportPath: |value| value.as_path();
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

/// Declares the class of a report: its name, the engine's struct, and its properties, each with what it shows of
/// that; then, after `also`, other names of properties; also what equal ones have in common and its `repr`, where
/// that is not all of it.
macro_rules! report {
    (
        $(#[$doc:meta])*
        $name:ident of $inner:ty {
            $($(#[$property_doc:meta])* $property:ident($this:ident) = $shown:expr;)*
        }
        $(also {
            $($(#[$alias_doc:meta])* $alias:ident($that:ident) = $same_shown:expr;)*
        })?
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
            /// The properties in their order, for `match`.
            #[classattr]
            fn __match_args__<'py>(
                py: pyo3::Python<'py>,
            ) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::types::PyTuple>> {
                pyo3::types::PyTuple::new(py, [$(stringify!($property)),*])
            }

            /// Makes a report of what `to_dict()` gave, or of what the command prints with --json.
            ///
            /// `fields`: a dict. Fields that this version does not know are ignored, so that what a newer version
            /// printed can be read. Raises SpecificationError, which names the field, where one is missing or cannot
            /// be what it is. A path that is no UTF-8 does not come back from JSON; a pickle keeps it.
            #[classmethod]
            fn from_dict<'py>(
                class: &pyo3::Bound<'py, pyo3::types::PyType>,
                fields: &pyo3::Bound<'py, pyo3::PyAny>,
            ) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                let read: $inner = crate::read::from_dict(stringify!($name), fields)?;
                crate::report::ToPython::to_python(&read, class.py())
            }

            /// For pickles.
            #[staticmethod]
            fn _from_exact<'py>(
                py: pyo3::Python<'py>,
                text: &str,
            ) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                let read: $inner = crate::read::from_exact(stringify!($name), text)?;
                crate::report::ToPython::to_python(&read, py)
            }

            fn __reduce__<'py>(
                slf: &pyo3::Bound<'py, Self>,
            ) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                let exact = crate::report::exact_text_of(&slf.get().0)?;
                crate::read::reduced("report", slf.py(), (slf.py().get_type::<$name>(), exact))
            }

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

            $($(
                $(#[$alias_doc])*
                #[getter]
                fn $alias<'py>(
                    &self,
                    py: pyo3::Python<'py>,
                ) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                    let $that = &self.0;
                    crate::report::ToPython::to_python(&($same_shown), py)
                }
            )*)?

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
