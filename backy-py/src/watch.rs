//! Long calls: the operation works in a thread of its own, without the interpreter; the thread that called waits, and
//! looks after signals and the callback meanwhile.
//!
//! Whatever is raised there (Ctrl-C, an exception of the callback, one of a source or a target in Python) stops the
//! operation, which puts the archive in order; then it is raised as it is.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use backy_lib::progress::{Counters, Event, Observer, Phase};
use backy_lib::{Error, Result};
use pyo3::prelude::*;

use crate::error::{exception, wrong};
use crate::logging::{Line, log};
use crate::read::reduced;

/// How often signals are looked after.
const TICK: Duration = Duration::from_millis(50);
/// Shortest time between two calls of the callback.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// How far an operation is: what a progress callback is given, at most ten times a second, and once at the end.
#[pyclass(module = "backy", frozen, eq, hash)]
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Progress {
    phase: &'static str,
    bytes_done: u64,
    bytes_total: u64,
}

#[pymethods]
impl Progress {
    /// What is being done: "backup", "scrub", "restore", "merge", "recover", "export", "drill", "save-target",
    /// "check-target" or "check-old-archive". An operation may have several phases, each with bytes of its own.
    #[getter]
    fn phase(&self) -> &str {
        self.phase
    }

    /// Bytes done so far in this phase.
    #[getter]
    fn bytes_done(&self) -> u64 {
        self.bytes_done
    }

    /// Bytes that this phase has to do.
    #[getter]
    fn bytes_total(&self) -> u64 {
        self.bytes_total
    }

    /// The properties in their order, for `match`.
    #[classattr]
    fn __match_args__() -> (&'static str, &'static str, &'static str) {
        ("phase", "bytes_done", "bytes_total")
    }

    /// For pickles.
    #[staticmethod]
    fn _of(phase: &str, bytes_done: u64, bytes_total: u64) -> PyResult<Self> {
        let known = Phase::ALL.into_iter().map(Phase::name).find(|name| *name == phase);
        let phase = known.ok_or_else(|| wrong(format!("'{phase}' is no phase of this version")))?;
        Ok(Progress { phase, bytes_done, bytes_total })
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let Progress { phase, bytes_done, bytes_total } = *self;
        reduced("progress", py, (phase, bytes_done, bytes_total))
    }

    fn __repr__(&self) -> String {
        let Progress { phase, bytes_done, bytes_total } = self;
        format!(
            "<backy.Progress phase='{phase}' bytes_done={bytes_done} bytes_total={bytes_total}>"
        )
    }
}

/// Watches an operation on behalf of the thread that waits for it.
#[derive(Default)]
pub(crate) struct Watch {
    stop: AtomicBool,
    phase: Mutex<Option<(Phase, Arc<Counters>)>>,
    lines: Mutex<Vec<Line>>,
    raised: Mutex<Option<PyErr>>,
    /// Whether the log may be on a file system that is frozen.
    held_back: AtomicBool,
    findings_are_results: bool,
}

impl Watch {
    /// Stops the operation; `error` is what is raised in the end, if it is the first.
    pub(crate) fn raise(&self, error: PyErr) {
        lock(&self.raised).get_or_insert(error);
        self.stop.store(true, Relaxed);
    }

    fn progress(&self) -> Option<Progress> {
        let phase = lock(&self.phase);
        let (phase, counters) = phase.as_ref()?;
        let (bytes_done, bytes_total) = (counters.done_bytes(), counters.total_bytes());
        Some(Progress { phase: phase.name(), bytes_done, bytes_total })
    }
}

impl Observer for Watch {
    fn event(&self, event: &Event) {
        match event {
            Event::Begin { phase, counters } => {
                *lock(&self.phase) = Some((*phase, Arc::clone(counters)));
            }
            Event::Finding(_) if self.findings_are_results => {}
            Event::Finding(text) => lock(&self.lines).push(Line::Warning(text.clone())),
            Event::Note(text) => lock(&self.lines).push(Line::Info(text.clone())),
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Relaxed)
    }

    fn hold_back(&self, held: bool) {
        self.held_back.store(held, Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs an operation; findings go to the log.
pub(crate) fn run<T: Send>(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    operation: impl FnOnce(&Watch) -> Result<T> + Send,
) -> PyResult<T> {
    run_watched(py, progress, Watch::default(), operation)
}

/// Runs an operation whose result the findings are.
pub(crate) fn run_for_findings<T: Send>(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    operation: impl FnOnce(&Watch) -> Result<T> + Send,
) -> PyResult<T> {
    let watch = Watch { findings_are_results: true, ..Watch::default() };
    run_watched(py, progress, watch, operation)
}

fn run_watched<T: Send>(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    watch: Watch,
    operation: impl FnOnce(&Watch) -> Result<T> + Send,
) -> PyResult<T> {
    let done = py.detach(|| {
        std::thread::scope(|scope| {
            let (until_its_end, ended) = channel::<()>();
            let work = || {
                let _until_its_end = until_its_end;
                operation(&watch)
            };
            let worker = std::thread::Builder::new()
                .name("backy".to_owned())
                .spawn_scoped(scope, work)
                .map_err(Error::io("backy", "start a thread"))?;
            wait(&ended, &watch, progress.as_ref());
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    });
    let raised = lock(&watch.raised).take();
    match (raised, done) {
        (None, done) => done.map_err(exception),
        (Some(raised), done) => {
            if let Err(error @ Error::UndoFailed { .. }) = done {
                raised.set_cause(py, Some(exception(error)));
            }
            Err(raised)
        }
    }
}

/// Waits for the end of the operation, which is when the other end of `ended` goes.
fn wait(ended: &Receiver<()>, watch: &Watch, progress: Option<&Py<PyAny>>) {
    let mut called: Option<Instant> = None;
    while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        let due = called.is_none_or(|called| called.elapsed() >= PROGRESS_INTERVAL);
        if due {
            called = Some(Instant::now());
        }
        // What has been asked to stop is not asked again.
        if !watch.cancelled() {
            attend(watch, progress.filter(|_| due));
        }
    }
    if !watch.cancelled() {
        attend(watch, progress);
    }
}

/// Looks after signals, the log and the callback.
fn attend(watch: &Watch, progress: Option<&Py<PyAny>>) {
    let attended = Python::attach(|py| {
        py.check_signals()?;
        if !watch.held_back.load(Relaxed) {
            log(py, std::mem::take(&mut *lock(&watch.lines)))?;
        }
        let Some((callback, state)) = progress.zip(watch.progress()) else { return Ok(()) };
        callback.call1(py, (state,)).map(|_| ())
    });
    if let Err(error) = attended {
        watch.raise(error);
    }
}
