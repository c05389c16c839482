//! The command under `strace`, which kills it or makes a system call fail at a chosen place.
//!
//! `strace` counts the calls of each name and of each thread by itself, so one name is injected at a time;
//! syncs all come from one thread. Not with `--seccomp-bpf`, which is faster but makes strace 6.1 inject no
//! signals.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use backy_tests::qemu;

use crate::site::run;

/// Whether `strace` is here and may trace. Prints `SKIPPED` when not.
pub(crate) fn available() -> bool {
    let trial = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let found = trial.is_ok_and(|status| status.success());
    if !found {
        qemu::skipped("strace is not installed, or may not trace");
    }
    found
}

/// The result of a command, and whether something was injected.
pub(crate) struct Injected {
    pub(crate) output: Output,
    pub(crate) happened: bool,
}

/// `command` under `strace -e inject=CALL:WHAT`, which writes its log to `place`.
pub(crate) fn tracing(command: &Command, call: &str, what: &str, log: &Path) -> Command {
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-o"])
        .arg(log)
        .args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:{what}")])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null());
    strace
}

/// Runs `command` under `strace -e inject=CALL:WHAT`.
pub(crate) fn inject(command: &Command, call: &str, what: &str, place: &Path) -> Injected {
    let log = place.join("strace.log");
    let output = run(&mut tracing(command, call, what, &log));
    let log = fs::read_to_string(&log).expect("read the log of strace");
    let happened = log.contains("(INJECTED)") || log.contains("killed by SIGKILL");
    Injected { output, happened }
}
