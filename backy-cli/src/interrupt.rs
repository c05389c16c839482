//! Ctrl-C and the other signals. As long as a command only reads or prints, the first one ends the process at once.
//! While an operation is under way, it asks that to stop and leave everything in order, and a second Ctrl-C ends the
//! process at once (which loses nothing either: the next writing command cleans up).

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{SigId, flag, low_level};

/// Exit status after Ctrl-C: 128 and the number of the signal, as in shells.
pub(crate) const CTRL_C_STATUS: u8 = 130;

/// How often to check whether somebody asked to stop.
const POLL: Duration = Duration::from_millis(50);
/// How long a stopping operation may wait for somebody else.
const PATIENCE: Duration = Duration::from_millis(500);

/// Whether somebody asked to stop, and how.
#[derive(Debug)]
pub(crate) struct Interrupt {
    requested: Arc<AtomicBool>,
    /// Whether nothing would have to be left in order.
    only_looks: Arc<AtomicBool>,
    /// How many operations are under way.
    under_way: AtomicUsize,
    by_ctrl_c: Arc<AtomicBool>,
    /// What ends the process at the second Ctrl-C.
    at_once: Mutex<Option<SigId>>,
}

impl Default for Interrupt {
    fn default() -> Self {
        Interrupt {
            requested: Arc::default(),
            only_looks: Arc::new(AtomicBool::new(true)),
            under_way: AtomicUsize::new(0),
            by_ctrl_c: Arc::default(),
            at_once: Mutex::default(),
        }
    }
}

impl Interrupt {
    /// From now on SIGINT, SIGTERM and SIGHUP end the process, the last two with `status`, or, once something has
    /// [begun](Interrupt::begin), ask to stop. Signals that were ignored stay ignored, for `nohup`.
    pub(crate) fn listen(&self, status: u8) -> io::Result<()> {
        let ignored = ignored_signals();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if ignored & (1 << (signal - 1)) != 0 {
                continue;
            }
            let status = if signal == SIGINT { CTRL_C_STATUS } else { status };
            let only_looks = Arc::clone(&self.only_looks);
            flag::register_conditional_shutdown(signal, status.into(), only_looks)?;
            if signal == SIGINT {
                // Before the flag is set, or the first Ctrl-C would already see it.
                let asked = Arc::clone(&self.requested);
                let at_once = flag::register_conditional_shutdown(signal, status.into(), asked)?;
                *self.at_once.lock().unwrap_or_else(PoisonError::into_inner) = Some(at_once);
                flag::register(signal, Arc::clone(&self.by_ctrl_c))?;
            }
            flag::register(signal, Arc::clone(&self.requested))?;
        }
        Ok(())
    }

    /// While the returned value exists, a signal asks to stop: an operation is under way that checks for it.
    pub(crate) fn begin(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Relaxed);
        self.only_looks.store(false, Relaxed);
        UnderWay(self)
    }

    /// Runs what may have to wait for somebody else, such as a reader of standard output. If it is asked to stop and
    /// still waits, a thread calls `give_up`, which ends the process.
    pub(crate) fn or_give_up<T>(&self, work: impl FnOnce() -> T, give_up: impl Fn() + Sync) -> T {
        let (until_its_end, ended) = channel::<()>();
        let give_up = &give_up;
        let watch = move || {
            let mut asked: Option<Instant> = None;
            while ended.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
                if self.requested() && asked.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return give_up();
                }
            }
        };
        std::thread::scope(|scope| {
            // Without a thread nobody gives up, which is no reason to fail.
            let _ = std::thread::Builder::new().spawn_scoped(scope, watch);
            let done = work();
            drop(until_its_end);
            done
        })
    }

    /// The same, and a second Ctrl-C only asks as well: for a command that has its own file to delete.
    pub(crate) fn only_in_order(&self) {
        // Until the end of the process.
        std::mem::forget(self.begin());
        let at_once = self.at_once.lock().unwrap_or_else(PoisonError::into_inner).take();
        at_once.map(low_level::unregister);
    }

    /// Whether to stop.
    pub(crate) fn requested(&self) -> bool {
        self.requested.load(Relaxed)
    }

    /// Whether to stop; asked for the first time since the last call. Only after [`Interrupt::only_in_order`].
    pub(crate) fn take(&self) -> bool {
        self.requested.swap(false, Relaxed)
    }

    /// Whether it was Ctrl-C.
    pub(crate) fn by_ctrl_c(&self) -> bool {
        self.by_ctrl_c.load(Relaxed)
    }
}

/// An operation that leaves things in order when it is asked to stop.
#[must_use]
pub(crate) struct UnderWay<'a>(&'a Interrupt);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Relaxed) == 1 {
            self.0.only_looks.store(true, Relaxed);
        }
    }
}

/// From now on a file that becomes longer than allowed (`ulimit -f`) is a write error, as on a file system with a
/// smaller limit, and does not end this process. This does not affect child processes: it is a handler, which they do
/// not inherit, and does not ignore the signal. Python does the same by itself.
pub(crate) fn survive_size_limit() {
    // A failure here would only matter under such a limit.
    let _ = flag::register(SIGXFSZ, Arc::default());
}

/// The signals that this process was started to ignore, signal 1 in the lowest bit. Source: `proc_pid_status(5)`.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
