//! The command of a drill, run on a restored revision by a guard. The guard ends it with all its descendants
//! when its time is up, when it exits, when the user stops the drill, and when the drill is killed.
//!
//! All its descendants are in its process group, or become children of the guard when their own parent exits:
//! the guard is their subreaper. Its output goes where the guard's goes, its input is empty, and signals from
//! a terminal do not reach it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper, wait,
};
use serde::{Deserialize, Serialize};

use super::process::{self, end_group};
use super::wire::{FromGuard, Next, ToGuard, Wire};
use super::{GUARD_START, TICK, guard};
use crate::base::error::{Error, Result, describe_io};
use crate::base::progress::Observer;

/// How often to poll a running command.
const POLL: Duration = Duration::from_millis(20);
/// How long to wait after SIGTERM, and again after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);
/// Only backy itself reports to the service manager.
const NOTIFY: &str = "NOTIFY_SOCKET";

/// A command and its time limit.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    words: Vec<Vec<u8>>,
    timeout: Option<Duration>,
    /// The process that it runs for.
    parent: i32,
}

/// How a command ended.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ended {
    /// It could not be started; with the system's error number.
    NotStarted(Option<i32>),
    /// It exited; with the reason if it failed.
    Well(Option<String>),
}

/// The words of a command, with `path` in place of every `{}`, or appended if there is none.
pub fn words_on(given: &[OsString], path: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> =
        given.iter().map(|word| replace(word, path.as_os_str())).collect();
    if words == given {
        words.push(path.into());
    }
    words
}

/// `word` with every `{}` replaced.
fn replace(word: &OsStr, by: &OsStr) -> OsString {
    let mut out = Vec::new();
    let mut rest = word.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        match rest.strip_prefix(b"{}") {
            Some(after) => {
                out.extend_from_slice(by.as_bytes());
                rest = after;
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

/// Runs a command to its end, for at most `timeout`. The inner result is `Err` with the reason if the command
/// failed. Its output goes to standard error.
///
/// `guard` is the program, with its arguments, that becomes the guard, as for hooks. Without one, this
/// process runs the command. Then descendants outside of its process group live on, and so does everything if
/// this process is killed.
///
/// # Errors
/// [`Error::Io`] if it cannot be started; [`Error::Interrupted`] if the observer asks to stop.
pub fn run_command(
    words: &[OsString],
    timeout: Option<Duration>,
    guard: &[OsString],
    observer: &dyn Observer,
) -> Result<std::result::Result<(), String>> {
    let program = words.first().cloned().unwrap_or_default();
    let parent = getpid().as_raw_nonzero().get();
    let bytes = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    let job = Job { words: bytes, timeout, parent };
    let ended = match guard.is_empty() {
        true => run(&job, false, &mut |_| observer.cancelled()),
        false => guarded(guard, job, observer)?,
    };
    if observer.cancelled() {
        return Err(Error::Interrupted);
    }
    match ended {
        Ended::Well(None) => Ok(Ok(())),
        Ended::Well(Some(why)) => Ok(Err(why)),
        Ended::NotStarted(code) => {
            let why = code
                .map_or_else(|| io::ErrorKind::InvalidInput.into(), io::Error::from_raw_os_error);
            Err(Error::io(program, "run the command")(why))
        }
    }
}

/// Has a guard run it.
fn guarded(guard: &[OsString], job: Job, observer: &dyn Observer) -> Result<Ended> {
    let Some((program, arguments)) = guard.split_first() else {
        return Ok(Ended::NotStarted(None));
    };
    let failed = || Error::io(program, "start the process that guards the command");
    let (ours, theirs) = UnixStream::pair().map_err(failed())?;
    let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(failed())?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(OwnedFd::from(theirs))
        .stdout(stderr)
        .spawn()
        .map_err(failed())?;
    let ended = converse(Wire::new(ours), job, observer);
    if ended.is_none() {
        // The guard has nothing to run, or no longer answers.
        let _ = child.kill();
    }
    let _ = child.wait();
    match ended {
        Some(ended) => Ok(ended),
        None if observer.cancelled() => Err(Error::Interrupted),
        None => Err(failed()(io::ErrorKind::BrokenPipe.into())),
    }
}

/// Gives a guard its job and waits for the end; `None` if the guard never started.
fn converse(mut wire: Wire, job: Job, observer: &dyn Observer) -> Option<Ended> {
    let began = Instant::now();
    loop {
        match wire.next(TICK) {
            Next::Message(FromGuard::Ready) => break,
            Next::Nothing if !observer.cancelled() && began.elapsed() < GUARD_START => {}
            _ => return None,
        }
    }
    wire.send(&ToGuard::Command(job)).ok()?;
    let (mut group, mut asked) = (None, false);
    loop {
        match wire.next(TICK) {
            Next::Message(FromGuard::Command(ended)) => return Some(ended),
            Next::Message(FromGuard::Started(found)) => group = Some(found),
            Next::Nothing if observer.cancelled() && !asked => {
                asked = true;
                // The next message shows if the guard has gone.
                let _ = wire.send(&ToGuard::Stop);
            }
            Next::Nothing => {}
            Next::Message(_) | Next::End => {
                end_group(group);
                return Some(Ended::Well(Some("the process that ran it was killed".to_owned())));
            }
        }
    }
}

/// The guard's part: runs a command, and ends it when the drill has gone.
pub(super) fn serve(wire: &mut Wire, job: &Job) {
    // Orphans become children of this process. If the system does not support that, only the process group is ended.
    let _ = set_child_subreaper(Some(getpid()));
    let mut told = false;
    let ended = run(job, true, &mut |group| {
        if !told {
            told = true;
            // If the drill has gone, the next message shows it.
            let _ = wire.send(&FromGuard::Started(group));
        }
        !matches!(guard::next(wire, job.parent, Duration::ZERO), Next::Nothing)
    });
    // If the drill has gone, nobody needs the result.
    let _ = wire.send(&FromGuard::Command(ended));
}

/// Runs it in a process group of its own and polls `stop` with that group. With `adopts`, this process reaps
/// all its descendants.
fn run(job: &Job, adopts: bool, stop: &mut dyn FnMut(i32) -> bool) -> Ended {
    let words: Vec<&OsStr> = job.words.iter().map(|word| OsStr::from_bytes(word)).collect();
    let Some((program, arguments)) = words.split_first() else { return Ended::NotStarted(None) };
    let spawned = io::stderr().as_fd().try_clone_to_owned().and_then(|stderr| {
        Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stderr)
            .env_remove(NOTIFY)
            .process_group(0)
            .spawn()
    });
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return Ended::NotStarted(error.raw_os_error()),
    };
    let group = i32::try_from(child.id()).unwrap_or(0);
    let (status, why) = attend(&mut child, job.timeout, &mut || stop(group));
    end_descendants(Pid::from_raw(group), adopts);
    let name = program.to_string_lossy();
    Ended::Well(match (why, status) {
        (Some(why), _) => Some(format!("'{name}' {why}")),
        (None, Ok(status)) if status.success() => None,
        (None, Ok(status)) => Some(format!("'{name}' ended with {status}")),
        (None, Err(error)) => {
            Some(format!("'{name}' cannot be waited for: {}", describe_io(&error)))
        }
    })
}

/// Waits for the command. Ends it, with the reason, when its time is up or `stop` says so.
pub(crate) fn attend(
    child: &mut Child,
    timeout: Option<Duration>,
    stop: &mut dyn FnMut() -> bool,
) -> (io::Result<ExitStatus>, Option<String>) {
    let began = Instant::now();
    let why = loop {
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => return (Ok(status), None),
            Err(error) => return (Err(error), None),
        }
        match timeout.filter(|timeout| began.elapsed() > *timeout) {
            Some(timeout) => {
                break format!("did not end within {} and was stopped", process::time(timeout));
            }
            None if stop() => break "was stopped".to_owned(),
            None => std::thread::sleep(POLL),
        }
    };
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    for signal in [Signal::TERM, Signal::KILL] {
        // It may have exited just now.
        let _ = group.map(|group| kill_process_group(group, signal));
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            if let Ok(Some(status)) = child.try_wait() {
                return (Ok(status), Some(why));
            }
            std::thread::sleep(POLL);
        }
    }
    (Err(io::ErrorKind::TimedOut.into()), Some(format!("{why}, but cannot be killed")))
}

/// Ends what a command left behind when it exited: the rest of its process group and, with `adopts`, its
/// other descendants.
fn end_descendants(group: Option<Pid>, adopts: bool) {
    for signal in [Signal::TERM, Signal::KILL] {
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            let in_group = group.is_some_and(|group| kill_process_group(group, signal).is_ok());
            let adopted = if adopts { end_adopted(signal) } else { false };
            if !in_group && !adopted {
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Sends a signal to all children of this process and reaps those that have exited. True if any are left.
fn end_adopted(signal: Signal) -> bool {
    let own = getpid();
    for process in children_of(own) {
        // It may have exited just now.
        let _ = kill_process(process, signal);
    }
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    // An error means that there are none.
    matches!(wait(WaitOptions::NOHANG), Ok(None))
}

/// The children of a process that this one can see.
fn children_of(parent: Pid) -> Vec<Pid> {
    let processes = Path::new("/proc").read_dir().into_iter().flatten().flatten();
    let child = |entry: std::fs::DirEntry| {
        let process: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name, in brackets, may hold anything; the state and the parent follow it.
        let (_, fields) = stat.rsplit_once(')')?;
        let found: i32 = fields.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Pid::from_raw(process).filter(|_| found == parent.as_raw_nonzero().get())
    };
    processes.filter_map(child).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::progress::Silent;

    /// The path replaces every `{}`, or comes last.
    #[test]
    fn the_path_replaces_braces_in_the_command_or_comes_last() {
        for (given, expected) in [
            (&["ls"][..], "ls /x"),
            (&["ls", "-l"], "ls -l /x"),
            (&["ls", "{}", "-l"], "ls /x -l"),
            (&["sh", "-c", "file {}; ls {}"], "sh -c file /x; ls /x"),
            (&["{}", "if={}}"], "/x if=/x}"),
        ] {
            let given: Vec<OsString> = given.iter().map(OsString::from).collect();
            let words = words_on(&given, Path::new("/x"));
            assert_eq!(words.join(OsStr::new(" ")), expected);
        }
    }

    fn run_line(line: &str, timeout: Duration) -> Result<std::result::Result<(), String>> {
        let words = ["sh", "-c", line].map(OsString::from);
        run_command(&words, Some(timeout), &[], &Silent)
    }

    /// Without a guard, too, a command has its time limit, and its process group ends with it.
    #[test]
    fn a_command_without_a_guard_ends_with_its_group() {
        let minute = Duration::from_secs(60);
        assert_eq!(run_line("exit 0", minute).unwrap(), Ok(()));
        let failed = run_line("exit 3", minute).unwrap().unwrap_err();
        assert_eq!(failed, "'sh' ended with exit status: 3");
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("alive");
        let line = format!("(sleep 3; echo late > {}) & exit 0", mark.display());
        assert_eq!(run_line(&line, minute).unwrap(), Ok(()));
        let late = run_line("sleep 30", Duration::from_millis(200)).unwrap().unwrap_err();
        assert_eq!(late, "'sh' did not end within 0.2 s and was stopped");
        std::thread::sleep(Duration::from_secs(3));
        assert!(!mark.exists(), "a child is still running");
        let none = run_command(&["/no/such/program".into()], None, &[], &Silent).unwrap_err();
        assert!(none.to_string().contains("/no/such/program"), "{none}");
    }
}
