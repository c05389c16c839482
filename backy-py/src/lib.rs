//! The native half of the `backy` Python module: the engine's objects, as Python sees them.
//!
//! It only converts: `backy_lib` decides what a value means, `python/backy/errors.py` what an exception is called.
//! The doc comments here are the docstrings; `_backy.pyi` has the types.

mod archive;
mod cancel;
mod check;
mod command;
mod copy_reports;
mod drill;
mod ending;
mod error;
mod exports;
mod finished;
mod fleet;
mod fleet_reports;
mod interrupt;
mod logging;
mod memory;
mod mount;
mod named;
mod old;
mod operations;
mod outcall;
mod position;
mod pull;
mod read;
mod reader;
mod report;
mod reports;
mod seen;
mod settings;
mod show;
mod source;
mod specification;
mod stream;
mod verdicts;
mod watch;
mod words;

#[global_allocator]
static MEMORY: memory::Memory = memory::Memory;

// Free-threaded Python runs without its lock: every class is frozen, and what changes in one is atomic or behind a
// Mutex.
#[pyo3::pymodule(gil_used = false)]
mod _backy {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::archive::Archive;
    #[pymodule_export]
    use crate::cancel::CancelToken;
    #[pymodule_export]
    use crate::check::check;
    #[pymodule_export]
    use crate::command::main;
    #[pymodule_export]
    use crate::copy_reports::{LeftOut, PullPlan, PullReport, Pulled, Wanted};
    #[pymodule_export]
    use crate::exports::{ExportReport, RbdDiffReport};
    #[pymodule_export]
    use crate::fleet::run_fleet;
    #[pymodule_export]
    use crate::fleet_reports::{
        FleetJob, FleetLimits, FleetPlan, FleetReport, IdleArchive, JobReport, Obstacle,
    };
    #[pymodule_export]
    use crate::mount::Mount;
    #[pymodule_export]
    use crate::old::{OldArchive, OldRevision, init_unseen, own_chunks};
    #[pymodule_export]
    use crate::pull::pull;
    #[pymodule_export]
    use crate::reader::Reader;
    #[pymodule_export]
    use crate::report::Report;
    #[pymodule_export]
    use crate::reports::{
        Affected, BackupPlan, BackupReport, BlockRange, Bookmark, Coverage, DrillReport, Estimate,
        Extent, Finding, Hints, ImportReport, Imported, MaintenancePlan, MaintenanceReport,
        RebuildReport, RestoreReport, Revision, ScrubReport, Skipped, Step, TargetContent,
        TargetLook, UndoReport, Verdict,
    };
    #[pymodule_export]
    use crate::settings::{ConfigFile, ConfigReport, FileLine, Setting};
    #[pymodule_export]
    use crate::verdicts::{
        Alarm, Change, Checked, Freeze, Health, HostReport, InProgress, OriginStatus, Problem,
        RevisionStatus, Run, SharedSpace, SourceIdentity, Space, Status, TagStatus, Unreported,
    };
    #[pymodule_export]
    use crate::watch::Progress;
    #[pymodule_export]
    use crate::words::_words;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // Before anything of the module can be called: raises where the files of two distributions are mixed.
        module.py().import("backy._alone")?;
        crate::ending::arrange(module.py())?;
        crate::mount::arrange();
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
