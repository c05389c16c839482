//! Ctrl-C and its relatives: the first one asks the operation to stop and leave everything in order, a second Ctrl-C
//! ends the process at once (which loses nothing either: the next writing command cleans up).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Exit status after Ctrl-C: 128 and the number of the signal, as shells have it.
pub(crate) const CTRL_C_STATUS: u8 = 130;

/// Whether somebody asked to stop, and how.
#[derive(Debug, Default)]
pub(crate) struct Interrupt {
    requested: Arc<AtomicBool>,
    by_ctrl_c: Arc<AtomicBool>,
}

impl Interrupt {
    /// From now on SIGINT, SIGTERM and SIGHUP only ask to stop. Those that were ignored stay so, for `nohup`.
    pub(crate) fn listen(&self) -> io::Result<()> {
        let ignored = ignored_signals();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if ignored & (1 << (signal - 1)) != 0 {
                continue;
            }
            if signal == SIGINT {
                // Before the flag is set, or the first Ctrl-C would already find it so.
                let status = i32::from(CTRL_C_STATUS);
                flag::register_conditional_shutdown(signal, status, Arc::clone(&self.requested))?;
                flag::register(signal, Arc::clone(&self.by_ctrl_c))?;
            }
            flag::register(signal, Arc::clone(&self.requested))?;
        }
        Ok(())
    }

    /// Whether to stop.
    pub(crate) fn requested(&self) -> bool {
        self.requested.load(Relaxed)
    }

    /// Whether it was Ctrl-C.
    pub(crate) fn by_ctrl_c(&self) -> bool {
        self.by_ctrl_c.load(Relaxed)
    }
}

/// The signals that this process was started to ignore, signal 1 in the lowest bit. Source: `proc_pid_status(5)`.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
