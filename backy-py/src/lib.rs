//! The native half of the `backy` Python module: the engine's objects, as Python sees them.
//!
//! Converts and nothing else: what a value means is decided in `backy_lib`, what an exception is called in
//! `python/backy/errors.py`. The doc comments here are the docstrings; `_backy.pyi` has the types.

mod archive;
mod error;
mod old;
mod revision;

#[pyo3::pymodule]
mod _backy {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::archive::Archive;
    #[pymodule_export]
    use crate::old::{OldArchive, OldRevision, own_chunks};
    #[pymodule_export]
    use crate::revision::Revision;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
