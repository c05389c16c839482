//! The end of the interpreter while other threads are in calls, and children that are forked meanwhile.
//!
//! Only daemon threads are still at work then. Before the interpreter ends, in a function registered with the
//! `atexit` module, their operations are asked to stop. The interpreter waits until the archive is in order, but not
//! for longer than [`PATIENCE`]. Their threads do not return to Python: nobody asked for the exceptions that they
//! would raise there. They stay where they are until the process ends.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

/// How long operations may take to stop. The engine puts an archive in order within half a second, or leaves that to
/// the next one; an object in Python may be in anything.
const PATIENCE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(2);

static HAS_BEGUN: AtomicBool = AtomicBool::new(false);
/// Calls that are to be waited for.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// Has the interpreter say when it ends, and when it has been forked.
pub(crate) fn arrange(py: Python<'_>) -> PyResult<()> {
    let atexit = py.import("atexit")?;
    atexit.call_method1("register", (wrap_pyfunction!(end_calls, py)?,))?;
    let forked = [("after_in_child", wrap_pyfunction!(begin_as_child, py)?)];
    let forked = pyo3::types::IntoPyDict::into_py_dict(forked, py)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&forked))?;
    Ok(())
}

/// Stops what other threads are doing, and waits for that.
#[pyfunction]
fn end_calls(py: Python<'_>) {
    HAS_BEGUN.store(true, SeqCst);
    let began = Instant::now();
    while UNDER_WAY.load(SeqCst) > 0 && began.elapsed() < PATIENCE {
        py.detach(|| std::thread::sleep(TICK));
    }
}

/// None of the parent's calls is under way here.
#[pyfunction]
fn begin_as_child() {
    UNDER_WAY.store(0, SeqCst);
    HAS_BEGUN.store(false, SeqCst);
}

/// A call that the end of the interpreter stops.
pub(crate) struct Call {
    /// `None` of one that began when the interpreter was ending already, as by a function that `atexit` calls: nobody
    /// stops that.
    counted: Option<Counted>,
}

impl Call {
    /// Does not return in a daemon thread while the interpreter ends.
    pub(crate) fn begin(py: Python<'_>) -> PyResult<Self> {
        Self::begin_with(py, ()).map(|(call, ())| call)
    }

    /// The same; what is `held` is dropped when it does not return.
    pub(crate) fn begin_with<T>(py: Python<'_>, held: T) -> PyResult<(Self, T)> {
        if let Some(counted) = Counted::new() {
            return Ok((Call { counted: Some(counted) }, held));
        }
        let thread = py.import("threading")?.call_method0("current_thread")?;
        if thread.getattr("daemon")?.is_truthy()? {
            drop(held);
            stay(py);
        }
        Ok((Call { counted: None }, held))
    }

    /// Whether it has to stop, and must not go back to Python.
    pub(crate) fn is_over(&self) -> bool {
        self.counted.is_some() && HAS_BEGUN.load(SeqCst)
    }

    /// Does something in Python; `None` when the interpreter has ended.
    pub(crate) fn attach<T>(&self, what: impl FnOnce(Python<'_>) -> T) -> Option<T> {
        if self.is_over() { None } else { Python::try_attach(what) }
    }

    /// Waits until the process ends, for an operation that was stopped.
    pub(crate) fn stay(self, py: Python<'_>) -> ! {
        drop(self);
        stay(py)
    }
}

/// Does something in Python that is waited for when the interpreter ends; `None` when it does.
pub(crate) fn attach<T>(what: impl FnOnce(Python<'_>) -> T) -> Option<T> {
    let _counted = Counted::new()?;
    Python::try_attach(what)
}

/// Waits until the process ends, without the interpreter.
fn stay(py: Python<'_>) -> ! {
    py.detach(|| {
        loop {
            std::thread::park();
        }
    })
}

struct Counted;

impl Counted {
    /// `None` when the interpreter ends.
    fn new() -> Option<Self> {
        // In this order: whoever ends it sees this one, or this one sees that.
        UNDER_WAY.fetch_add(1, SeqCst);
        let counted = Counted;
        (!HAS_BEGUN.load(SeqCst)).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // A child that was forked in a call no longer counts it.
        let _ = UNDER_WAY.fetch_update(SeqCst, SeqCst, |calls| calls.checked_sub(1));
    }
}
