//! `backy.run`, and requests for many archives.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use backy_lib::fleet::{
    FleetEvent, FleetObserver, FleetReport, FleetRequest, Job, JobReport, JobResult, Severity,
    parse_until,
};
use backy_lib::health::display_age;
use backy_lib::progress::{Event, Observer};
use backy_lib::{Clock, Error, Result, SystemClock, Trust};
use jiff::Timestamp;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDateTime, PyString, PyTuple, PyTzInfo};

use crate::archive::absolute;
use crate::cancel::{Cancel, Control};
use crate::error::wrong;
use crate::named::{self, GivenPath};
use crate::operations;
use crate::report::ToPython;
use crate::watch::{self, Watch};

/// Does what is due in many archives: makes the backup, the maintenance and the scrub that are due in each, the most
/// overdue backup first, and makes archives that fleet.toml declares and that do not exist. Returns a FleetReport;
/// with `dry_run` the FleetPlan, which only lists the jobs.
///
/// Each job is a process of its own. One that fails is tried again, at most twice, after all others; a job that still
/// fails raises nothing: `is_ok` of the report is False then. Failed jobs, problems and messages of jobs go to the
/// logger "backy".
///
/// `folders`: archives, folders that hold archives, or patterns such as '/srv/*/backup'; without any, what fleet.toml
/// names. `fleet`: that file, by default /etc/backy/fleet.toml if there are no `folders`. `jobs`: how many run at a
/// time; by default as many as fleet.toml sets, or one for each core, at most four. `until`: nothing starts after
/// this time of day, such as "06:00", or after this datetime. `trust`: also for archives and a fleet.toml that others
/// than the caller and root can change.
///
/// `cancel`: a CancelToken that stops it, as Ctrl-C does: all jobs end in order, what is done stays done, and the
/// attribute `report` of the exception is the FleetReport.
#[pyfunction]
#[pyo3(
    name = "run",
    signature = (*folders, fleet=None, jobs=None, until=None, dry_run=false, trust=false, cancel=None)
)]
#[expect(clippy::too_many_arguments, reason = "keyword arguments")]
pub(crate) fn run_fleet<'py>(
    py: Python<'py>,
    folders: &Bound<'py, PyTuple>,
    #[pyo3(from_py_with = named::fleet)] fleet: Option<GivenPath>,
    #[pyo3(from_py_with = named::jobs)] jobs: Option<NonZeroUsize>,
    #[pyo3(from_py_with = named::until)] until: Option<Until>,
    #[pyo3(from_py_with = named::dry_run)] dry_run: bool,
    #[pyo3(from_py_with = named::trust)] trust: bool,
    cancel: Option<Cancel>,
) -> PyResult<Bound<'py, PyAny>> {
    let trust = if trust { Trust::Given } else { Trust::Checked };
    let given = Given::of(folders, fleet)?;
    let request = || {
        let until = until.map(|Until(time)| time);
        Ok(FleetRequest { jobs, until, ..given.request(trust)? })
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let control = Control::new(None, cancel);
    if dry_run {
        return watch::run(py, control, |_| request()?.plan(&clock))?.to_python(py);
    }
    let itself = operations::itself(py)?;
    if itself.is_empty() {
        let message = "cannot start processes for the jobs: sys.executable names no Python; run it with a Python \
                       interpreter, or use the command 'backy run'";
        return Err(PyRuntimeError::new_err(message));
    }
    let stopped = Mutex::new(None);
    // The system stops a job when the thread that started it ends. That thread is the one of this operation, which
    // lives until the last job has ended.
    let done = watch::run(py, control, |watch| {
        let report = run_jobs(&request()?, &itself, &clock, watch)?;
        if !report.interrupted {
            return Ok(report);
        }
        *stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
        Err(Error::Interrupted)
    });
    match done {
        Ok(finished) => finished.to_python(py),
        Err(error) => {
            let report = stopped.into_inner().unwrap_or_else(PoisonError::into_inner);
            if let Some(report) = report {
                // An exception may refuse attributes.
                let _ = error.value(py).setattr("report", report.to_python(py)?);
            }
            Err(error)
        }
    }
}

fn run_jobs(
    request: &FleetRequest,
    itself: &[OsString],
    clock: &Arc<dyn Clock>,
    watch: &Watch,
) -> Result<FleetReport> {
    let report = request.run(itself, clock, &Jobs(watch))?;
    for problem in &report.problems {
        watch.event(&Event::Finding(problem.to_string()));
    }
    // The next run writes it. Whoever stops one does not wait for a verdict.
    if !report.interrupted
        && let Err(error) = request.write_textfile(&report, &SystemClock)
    {
        watch.event(&Event::Finding(error.to_string()));
    }
    Ok(report)
}

/// The archives that a call names, as paths that do not depend on the current folder.
pub(crate) struct Given {
    folders: Vec<PathBuf>,
    fleet: Option<PathBuf>,
}

impl Given {
    pub(crate) fn of(folders: &Bound<'_, PyTuple>, fleet: Option<GivenPath>) -> PyResult<Self> {
        let folder = |given: Bound<'_, PyAny>| {
            let GivenPath(path) = named::extract::<GivenPath>("folders", &given)?;
            absolute(&path)
        };
        let folders = folders.iter().map(folder).collect::<PyResult<_>>()?;
        let fleet = fleet.map(|GivenPath(path)| absolute(&path)).transpose()?;
        Ok(Given { folders, fleet })
    }

    pub(crate) fn request(&self, trust: Trust) -> Result<FleetRequest> {
        FleetRequest::of(self.folders.clone(), self.fleet.as_deref(), trust)
    }
}

/// After which nothing starts: a time of day as text, or a `datetime`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Until(Timestamp);

impl<'py> FromPyObject<'_, 'py> for Until {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = object.cast::<PyString>() {
            return parse_until(&text.to_cow()?, &SystemClock).map(Until).map_err(wrong);
        }
        let Ok(time) = object.cast::<PyDateTime>() else {
            let found = object.get_type().name()?;
            let message = format!("found {found}, expected text such as '06:00', or a datetime");
            return Err(PyTypeError::new_err(message));
        };
        // Without a zone it is local, as it is everywhere in Python.
        let in_utc = time.call_method1("astimezone", (PyTzInfo::utc(object.py())?,))?;
        in_utc.extract::<Timestamp>().map(Until)
    }
}

/// Passes on what jobs report, and when to stop.
struct Jobs<'a>(&'a Watch);

impl Jobs<'_> {
    fn warn(&self, job: &Job, text: &str) {
        let text = format!("{}: {}: {text}", job.archive, job.operation.name());
        self.0.event(&Event::Finding(text));
    }

    fn note(&self, text: String) {
        self.0.event(&Event::Note(text));
    }

    fn ended(&self, report: &JobReport) {
        let JobReport { archive, attempts, .. } = report;
        let name = report.operation.name();
        let message = report.message.as_deref().unwrap_or_default();
        match report.result {
            JobResult::Failed => {
                let tries = match attempts {
                    0 | 1 => String::new(),
                    count => format!(" ({count} attempts)"),
                };
                let text = format!("{archive}: {name} failed{tries}: {message}");
                self.0.event(&Event::Finding(text));
            }
            JobResult::Skipped => self.note(format!("{archive}: {name} skipped: {message}")),
            JobResult::Ok => self.note(format!("{archive}: {name} finished")),
            _ => {}
        }
    }
}

impl FleetObserver for Jobs<'_> {
    fn event(&self, event: &FleetEvent<'_>) {
        match event {
            FleetEvent::Message { job, severity: Severity::Info, text } => {
                self.note(format!("{}: {text}", job.archive));
            }
            FleetEvent::Message { job, text, .. } => self.warn(job, text),
            FleetEvent::Stuck(running) => {
                let silent = i64::try_from(running.silent.as_secs()).unwrap_or(i64::MAX);
                let (silent, process) = (display_age(silent), running.process);
                let text =
                    format!("no progress for {silent} (process {process}); it is still running");
                self.warn(&running.job, &text);
            }
            FleetEvent::Again { job, why } => {
                let name = job.operation.name();
                self.note(format!("{}: {name} failed, and is tried again: {why}", job.archive));
            }
            FleetEvent::Ended(report, _) => self.ended(report),
            _ => {}
        }
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}
