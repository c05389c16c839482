//! Ctrl-C for operations in other threads than the main one, in which alone Python runs signal handlers.
//!
//! While such an operation is at work, a function of ours counts SIGINT and passes it on to Python's own, which it
//! precedes; `signal.getsignal` and all handlers stay as they are. Python decides whether it stops the operation: a
//! program with a handler of its own decides for itself, and cancels by token.

use std::ffi::{c_int, c_void};
use std::mem::{MaybeUninit, transmute};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;

/// Times that SIGINT has come while somebody counted.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// The function that ours passes the signal on to; 0 before there is one.
static NEXT: AtomicUsize = AtomicUsize::new(0);
static NEXT_TAKES_INFO: AtomicBool = AtomicBool::new(false);
/// How many count at this moment.
static COUNTING: Mutex<usize> = Mutex::new(0);

type Plain = extern "C" fn(c_int);
type WithInfo = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Knows whether Ctrl-C is meant for an operation.
pub(crate) struct Interrupt {
    /// How many have come before; `None` in the main thread, where Python raises KeyboardInterrupt.
    counted: Option<usize>,
    /// Asks Python. Looked up once: what is ending imports nothing any more.
    stops: Py<PyAny>,
}

impl Interrupt {
    /// For an operation that begins in this thread.
    pub(crate) fn begin(py: Python<'_>) -> PyResult<Self> {
        let python = py.import("backy._interrupt")?;
        let stops = python.getattr("stops_threads")?.unbind();
        if python.call_method0("is_main")?.extract()? {
            return Ok(Interrupt { counted: None, stops });
        }
        *lock() += 1;
        let interrupt = Interrupt { counted: Some(COUNT.load(SeqCst)), stops };
        stand_in_front();
        Ok(interrupt)
    }

    /// Whether the operation has to stop.
    pub(crate) fn has_come(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(counted) = self.counted else { return Ok(false) };
        let has_come = COUNT.load(SeqCst) != counted;
        if !has_come {
            // Python has installed its own function again, if the program has set a handler meanwhile.
            stand_in_front();
        }
        self.stops.call1(py, (has_come,))?.extract(py)
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        if self.counted.is_some() {
            let mut counting = lock();
            *counting -= 1;
            if *counting == 0 {
                step_back();
            }
        }
    }
}

fn lock() -> std::sync::MutexGuard<'static, usize> {
    COUNTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Only what a signal handler may do: atomics, and the function that would have been called without this one.
extern "C" fn count(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    COUNT.fetch_add(1, SeqCst);
    let next = NEXT.load(SeqCst);
    if next == libc::SIG_DFL || next == libc::SIG_IGN {
        return;
    }
    #[expect(unsafe_code, reason = "the kernel knows signal handlers by their addresses")]
    // SAFETY: the address is that of the handler which was in place, and its flags said which of the two kinds it is.
    unsafe {
        match NEXT_TAKES_INFO.load(SeqCst) {
            true => transmute::<usize, WithInfo>(next)(signal, info, context),
            false => transmute::<usize, Plain>(next)(signal),
        }
    }
}

fn ours() -> usize {
    count as *const () as usize
}

/// Puts our function in front of Python's. Not in front of another library's that has come later: that may lead to
/// ours.
fn stand_in_front() {
    let Some(mut action) = current() else { return };
    let found = action.sa_sigaction;
    let next = NEXT.load(SeqCst);
    let is_foreign = next != 0 && found != next;
    if found == ours() || found == libc::SIG_DFL || found == libc::SIG_IGN || is_foreign {
        return;
    }
    NEXT.store(found, SeqCst);
    NEXT_TAKES_INFO.store(action.sa_flags & libc::SA_SIGINFO != 0, SeqCst);
    action.sa_sigaction = ours();
    action.sa_flags |= libc::SA_SIGINFO;
    install(&action);
}

/// Puts back what ours stood in front of, if it still does.
fn step_back() {
    let Some(mut action) = current().filter(|action| action.sa_sigaction == ours()) else { return };
    action.sa_sigaction = NEXT.load(SeqCst);
    if !NEXT_TAKES_INFO.load(SeqCst) {
        action.sa_flags &= !libc::SA_SIGINFO;
    }
    install(&action);
}

fn current() -> Option<libc::sigaction> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    #[expect(unsafe_code, reason = "std cannot ask for a signal handler")]
    // SAFETY: the kernel fills the struct when the call succeeds, and all-zero is a valid one.
    unsafe {
        (libc::sigaction(libc::SIGINT, std::ptr::null(), action.as_mut_ptr()) == 0)
            .then(|| action.assume_init())
    }
}

fn install(action: &libc::sigaction) {
    #[expect(unsafe_code, reason = "std cannot set a signal handler")]
    // SAFETY: the struct is the one that the kernel gave, with another function of the kind that its flags say. On
    // failure, which is not possible for SIGINT, all stays as it was.
    unsafe {
        libc::sigaction(libc::SIGINT, action, null_mut());
    }
}
