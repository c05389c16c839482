//! The words that properties can have, for a test of the stub, where type checkers find them.

use backy_lib::fleet::{JobResult, Operation as JobOperation};
use backy_lib::format::manifest::Operation;
use backy_lib::health::{RUN_RESULTS, RUNS};
use backy_lib::progress::Phase;
use backy_lib::restore::TargetKind;
use backy_lib::{ErrorKind, Level, ProblemKind};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::kind;
use crate::report::word;

/// For each Literal of the stub, all its words.
#[pyfunction]
pub(crate) fn _words(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let levels = [Level::Ok, Level::Warning, Level::Unknown, Level::Critical];
    let targets =
        [TargetKind::NewFile, TargetKind::File, TargetKind::BlockDevice, TargetKind::Stream];
    let operations = [Operation::Backup, Operation::Remove, Operation::Merge];
    let all = PyDict::new(py);
    all.set_item("Level", levels.iter().filter_map(word).collect::<Vec<_>>())?;
    all.set_item("ProblemKind", ProblemKind::ALL.map(ProblemKind::as_str))?;
    all.set_item(
        "FreezeKind",
        [ProblemKind::UnusualChange, ProblemKind::Damage].map(|k| k.as_str()),
    )?;
    all.set_item("Phase", Phase::ALL.map(Phase::name))?;
    all.set_item("TargetKind", targets.iter().filter_map(word).collect::<Vec<_>>())?;
    all.set_item("Operation", operations.iter().filter_map(word).collect::<Vec<_>>())?;
    all.set_item("JobOperation", JobOperation::ALL.map(JobOperation::name))?;
    all.set_item("JobResult", JobResult::ALL.map(JobResult::as_str))?;
    all.set_item("RunOperation", RUNS)?;
    all.set_item("RunResult", RUN_RESULTS)?;
    all.set_item("ErrorKind", ErrorKind::ALL.map(kind))?;
    Ok(all)
}
