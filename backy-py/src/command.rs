//! The command, for machines that have backy only from its wheel.

use std::ffi::OsString;

use pyo3::prelude::*;

/// Run the command with these arguments, the first of which is its own name; the exit status.
///
/// `itself` are the words that start the command once more, for what continues in the background.
#[pyfunction]
#[pyo3(signature = (arguments, itself, /))]
pub(crate) fn main(py: Python<'_>, arguments: Vec<OsString>, itself: Vec<OsString>) -> u8 {
    py.detach(|| backy_cli::run(arguments, itself))
}
