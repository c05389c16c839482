//! Long calls: the operation works in a thread of its own, without the interpreter. Meanwhile the calling thread
//! waits, and handles signals and the callback.
//!
//! Any exception there (Ctrl-C, one of the callback, one of a source or a target in Python) stops the operation,
//! which puts the archive in order. Then it is raised unchanged. An exception that comes too late, because the
//! operation has finished, never hides the result: see `finished`.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use backy_lib::fork::Maker;
use backy_lib::progress::{Counters, Event, Observer, Phase};
use backy_lib::{Error, Result};
use pyo3::prelude::*;

use crate::cancel::Control;
use crate::ending::Call;
use crate::error::{exception, wrong};
use crate::finished::{Finished, Raised};
use crate::interrupt::Interrupt;
use crate::logging::{Line, log, logger};
use crate::outcall;
use crate::read::reduced;

/// How often signals are handled.
const TICK: Duration = Duration::from_millis(50);
/// Shortest time between two calls of the callback.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// How long an operation waits for its first call, before it does anything: a callback that does not work stops also
/// one that would have finished in no time. Not for ever: the callback may be waiting for the operation.
const FIRST_CALL: Duration = Duration::from_secs(1);

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
    /// "compare-source", "compare-target", "check-target" or "check-old-archive". An operation may have several
    /// phases, each with bytes of its own.
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

/// What the thread that called is woken up by.
enum News {
    /// The first phase begins.
    Begun,
    /// The operation has ended.
    Ended,
}

/// Sends the news of the end, however that comes.
struct UntilItsEnd(Sender<News>);

impl Drop for UntilItsEnd {
    fn drop(&mut self) {
        // The waiting thread is only gone when there is nobody to wait for.
        let _ = self.0.send(News::Ended);
    }
}

/// Watches an operation on behalf of the thread that waits for it.
pub(crate) struct Watch {
    call: Call,
    control: Control,
    stop: AtomicBool,
    phase: Mutex<Option<(Phase, Arc<Counters>)>>,
    lines: Arc<Mutex<Vec<Line>>>,
    raised: Mutex<Option<Raised>>,
    /// Whether the log may be on a file system that is frozen.
    held_back: AtomicBool,
    news: Sender<News>,
    /// Whether the callback has been called, or need not be waited for any more.
    called: Mutex<bool>,
    call_came: Condvar,
}

impl Watch {
    fn new(py: Python<'_>, control: Control, news: Sender<News>) -> PyResult<Self> {
        Ok(Watch {
            call: Call::begin(py)?,
            called: Mutex::new(control.progress.is_none()),
            control,
            stop: AtomicBool::default(),
            phase: Mutex::default(),
            lines: Arc::default(),
            raised: Mutex::default(),
            held_back: AtomicBool::default(),
            news,
            call_came: Condvar::new(),
        })
    }

    /// Does something in Python on behalf of the operation; `None` when the interpreter ends, and the operation with
    /// it.
    pub(crate) fn attach<T>(
        &self,
        what: impl FnOnce(Python<'_>) -> PyResult<T>,
    ) -> Option<PyResult<T>> {
        let process = Maker::this();
        self.call.attach(|py| {
            let done = what(py);
            if !process.is_this() {
                end_child(py, done.err());
            }
            done
        })
    }

    /// Stops the operation; `error` of `by` is what is raised in the end, if it is the first.
    pub(crate) fn raise(&self, error: PyErr, by: Option<Py<PyAny>>) {
        lock(&self.raised).get_or_insert(Raised { error, by });
        self.stop();
    }

    /// The same, of an object that the operation works with.
    pub(crate) fn raise_by(&self, error: PyErr, object: &Py<PyAny>) {
        let by = self.attach(|py| Ok(object.clone_ref(py)));
        self.raise(error, by.and_then(PyResult::ok));
    }

    fn stop(&self) {
        self.stop.store(true, Relaxed);
        self.need_not_wait();
    }

    fn need_not_wait(&self) {
        *lock(&self.called) = true;
        self.call_came.notify_all();
    }

    /// Waits until the callback has been called once.
    fn wait_for_first_call(&self) {
        let called = lock(&self.called);
        if *called || self.news.send(News::Begun).is_err() {
            return;
        }
        let waited = self.call_came.wait_timeout_while(called, FIRST_CALL, |called| !*called);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = true;
    }

    fn progress(&self) -> Option<Progress> {
        let phase = lock(&self.phase);
        let (phase, counters) = phase.as_ref()?;
        let (bytes_done, bytes_total) = (counters.done_bytes(), counters.total_bytes());
        Some(Progress { phase: phase.name(), bytes_done, bytes_total })
    }

    /// What writes to the log, also from a thread that does not know how long the operation takes.
    pub(crate) fn noting(&self) -> impl Fn(&str) + Send + Sync + 'static {
        let lines = Arc::clone(&self.lines);
        move |line| lock(&lines).push(Line::Info(line.to_owned()))
    }

    fn take_lines(&self) -> Vec<Line> {
        std::mem::take(&mut *lock(&self.lines))
    }
}

impl Observer for Watch {
    fn event(&self, event: &Event) {
        match event {
            Event::Begin { phase, counters } => {
                *lock(&self.phase) = Some((*phase, Arc::clone(counters)));
                // A frozen file system must not wait.
                if !self.held_back.load(Relaxed) {
                    self.wait_for_first_call();
                }
            }
            Event::Finding(text) => lock(&self.lines).push(Line::Warning(text.clone())),
            Event::Note(text) => lock(&self.lines).push(Line::Info(text.clone())),
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Relaxed) || self.control.is_cancelled() || self.call.is_over()
    }

    fn hold_back(&self, held: bool) {
        self.held_back.store(held, Relaxed);
    }
}

/// Ends a child that somebody has forked in there, and that has come back. It has none of the threads that the
/// operation needs, and must not do any of its work.
fn end_child(py: Python<'_>, error: Option<PyErr>) -> ! {
    let end = py.import("backy._child").and_then(|child| child.getattr("end"));
    // It does not return.
    let _ = end.and_then(|end| end.call1((error.map(|error| error.into_value(py)),)));
    std::process::exit(1)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs an operation; findings go to the log.
pub(crate) fn run<T: Send>(
    py: Python<'_>,
    control: Control,
    operation: impl FnOnce(&Watch) -> Result<T> + Send,
) -> PyResult<Finished<T>> {
    let interrupt = Interrupt::begin(py)?;
    if control.is_cancelled() || interrupt.has_come(py)? {
        return Err(exception(Error::Interrupted));
    }
    let (news, to_come) = channel();
    let watch = Watch::new(py, control, news.clone())?;
    let (shared, interrupt) = (&watch, &interrupt);
    let done = py.detach(move || {
        std::thread::scope(|scope| {
            let until_its_end = UntilItsEnd(news);
            let work = move || {
                let _until_its_end = until_its_end;
                operation(shared)
            };
            let worker = std::thread::Builder::new()
                .name("backy".to_owned())
                .spawn_scoped(scope, work)
                .map_err(Error::io("backy", "start a thread"))?;
            wait(&to_come, shared, interrupt);
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    });
    if done.is_err() && watch.call.is_over() {
        watch.call.stay(py);
    }
    match done {
        Ok(value) => Ok(finish(py, value, &watch)),
        Err(error) => Err(fail(py, error, &watch)),
    }
}

/// Waits for the end of the operation.
fn wait(to_come: &Receiver<News>, watch: &Watch, interrupt: &Interrupt) {
    let mut called: Option<Instant> = None;
    loop {
        match to_come.recv_timeout(TICK) {
            Ok(News::Ended) | Err(RecvTimeoutError::Disconnected) => return,
            Ok(News::Begun) | Err(RecvTimeoutError::Timeout) => {}
        }
        let due = called.is_none_or(|called| called.elapsed() >= PROGRESS_INTERVAL);
        if due && lock(&watch.phase).is_some() {
            called = Some(Instant::now());
        }
        // An operation that was asked to stop is not asked again.
        if !watch.cancelled() {
            attend(watch, interrupt, due);
        }
    }
}

/// Handles signals, the log and, when that is due, the callback.
///
/// Each is a step of its own: a child that is forked in one ends there, and takes no lock that a thread of its parent
/// had.
fn attend(watch: &Watch, interrupt: &Interrupt, due: bool) {
    let asked = watch.attach(|py| {
        py.check_signals()?;
        interrupt.has_come(py)
    });
    match asked {
        Some(Ok(true)) => return watch.stop(),
        Some(Err(error)) => return watch.raise(error, None),
        Some(Ok(false)) | None => {}
    }
    if !watch.held_back.load(Relaxed) {
        for line in watch.take_lines() {
            if let Some(Err(error)) = watch.attach(|py| log(py, line)) {
                let by = watch.attach(|py| Ok(logger(py)));
                return watch.raise(error, by.and_then(PyResult::ok).flatten());
            }
        }
    }
    if !due {
        return;
    }
    match call(watch) {
        // Only now the operation continues, and sees whether it has to stop.
        Some(Ok(())) => watch.need_not_wait(),
        Some(Err(error)) => watch.raise(error.error, error.by),
        None => {}
    }
}

/// Calls the callback, if there is one and some progress.
fn call(watch: &Watch) -> Option<std::result::Result<(), Raised>> {
    let (callback, state) = watch.control.progress.as_ref().zip(watch.progress())?;
    let called = watch.attach(|py| outcall::call(callback.bind(py), (state,)).map(|_| ()))?;
    Some(called.map_err(|error| {
        let by = watch.attach(|py| Ok(callback.clone_ref(py)));
        Raised { error, by: by.and_then(PyResult::ok) }
    }))
}

/// The operation has finished: the rest goes to the log, and the callback is called for the last time.
fn finish<T>(py: Python<'_>, value: T, watch: &Watch) -> Finished<T> {
    let mut finished = Finished::new(value);
    let raised = lock(&watch.raised).take();
    let was_stopped = raised.is_some();
    if let Some(raised) = raised {
        finished.note(py, raised);
    }
    // Before the rest, in which its handler would run as well. Python handles those that come after one that is
    // raised.
    if !finished.has_late()
        && let Err(error) = py.check_signals()
    {
        finished.note(py, Raised { error, by: None });
    }
    for line in watch.take_lines() {
        if let Some(Err(error)) = watch.attach(|py| log(py, line)) {
            finished.note(py, Raised { error, by: logger(py) });
        }
    }
    if !was_stopped && let Some(Err(raised)) = call(watch) {
        finished.note(py, raised);
    }
    finished
}

/// The exception for an operation that has failed, or was stopped. Its last messages go to the log.
fn fail(py: Python<'_>, error: Error, watch: &Watch) -> PyErr {
    let raised = lock(&watch.raised).take();
    for line in watch.take_lines() {
        if let Some(Err(error)) = watch.attach(|py| log(py, line)) {
            error.write_unraisable(py, logger(py).as_ref().map(|logger| logger.bind(py)));
        }
    }
    if let Some(raised) = raised {
        return raised.instead_of(py, error);
    }
    let failed = exception(error);
    match py.check_signals() {
        Ok(()) => failed,
        Err(signal) => {
            signal.set_context(py, Some(failed));
            signal
        }
    }
}
