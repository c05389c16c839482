//! A command that continues in the background once its caller has the shell back.
//!
//! Nothing is forked: the command starts itself again, with a mark before its arguments, and waits until this second
//! process reports that it is ready or ends. Until then the second process is part of the caller's session, so that
//! Ctrl-C reaches it and its errors are visible. From then on it has a session of its own and holds nothing of the
//! caller's.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::RawFd;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::str::FromStr;

use backy_lib::OperationId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, chdir, kill_process, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::interrupt::Interrupt;

/// The mark, which the second process gets before all arguments, with the name of the operation. The rest of the
/// command does not know of it.
pub(crate) const MARK: &str = "--background-half";
/// What the second process sends when it is ready.
const READY: &[u8] = b"ready\n";
/// How often to check whether somebody asked to stop.
const POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The outcome of the second process.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It does its work.
    Ready,
    /// It ended, and has printed why if it could.
    Ended(ExitStatus),
    /// Somebody asked to stop, and it has ended.
    Interrupted,
}

/// What follows a mark, if this process was started with one: for a second process its operation. Removes both from the
/// arguments.
pub(crate) fn take_mark<T: FromStr>(args: &mut Vec<OsString>, mark: &str) -> Option<T> {
    let value = args.get(2)?.to_str()?.parse().ok()?;
    if args.get(1)? != mark {
        return None;
    }
    args.drain(1..3);
    Some(value)
}

/// Starts the program `itself` with `args` and waits until it is ready, or ends. Its standard error is ours until then.
pub(crate) fn start(
    itself: &[OsString],
    args: &[OsString],
    operation: OperationId,
    interrupt: &Interrupt,
) -> io::Result<Outcome> {
    let unknown =
        || io::Error::new(io::ErrorKind::NotFound, "cannot find out which program this is");
    let (program, first) = itself.split_first().ok_or_else(unknown)?;
    let mut command = Command::new(program);
    command.args(first).arg(MARK).arg(operation.to_string()).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let outcome = child
        .stdout
        .take()
        .map_or(Ok(Outcome::Interrupted), |pipe| wait(&mut child, pipe, interrupt));
    if outcome.is_err() {
        ask_to_end(&child);
    }
    outcome
}

fn wait(child: &mut Child, mut pipe: ChildStdout, interrupt: &Interrupt) -> io::Result<Outcome> {
    let mut asked = false;
    loop {
        match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&POLL)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => break,
            Err(error) => return Err(error.into()),
        }
        if interrupt.requested() && !asked {
            ask_to_end(child);
            asked = true;
        }
    }
    let mut said = Vec::new();
    pipe.by_ref().take(READY.len() as u64).read_to_end(&mut said)?;
    if said == READY && !interrupt.requested() {
        return Ok(Outcome::Ready);
    }
    if said == READY {
        // It may have become ready before the request to stop reached it.
        ask_to_end(child);
    }
    let status = child.wait()?;
    Ok(if interrupt.requested() { Outcome::Interrupted } else { Outcome::Ended(status) })
}

fn ask_to_end(child: &Child) {
    if let Some(process) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may just have ended.
        let _ = kill_process(process, Signal::TERM);
    }
}

/// In the second process, before it has opened anything: closes the files that the caller had open besides the
/// standard ones. Otherwise a lock on one of them, or the end of a pipe, would be held for as long as this process
/// runs.
pub(crate) fn close_inherited() -> io::Result<()> {
    let names = fs::read_dir("/proc/self/fd")?.map(|entry| entry.map(|entry| entry.file_name()));
    let names = names.collect::<io::Result<Vec<_>>>()?;
    let numbers = names.iter().filter_map(|name| name.to_str()?.parse::<RawFd>().ok());
    for number in numbers.filter(|&number| number > 2) {
        // The folder that was just listed is among them, and closed already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

/// In the second process: releases the caller and reports that all is ready.
///
/// # Errors
/// Also when the caller has ended, which nobody can be told.
pub(crate) fn let_go() -> io::Result<()> {
    setsid()?;
    chdir("/")?;
    let nothing = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&nothing)?;
    dup2_stderr(&nothing)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(READY)?;
    stdout.flush()?;
    Ok(dup2_stdout(&nothing)?)
}
