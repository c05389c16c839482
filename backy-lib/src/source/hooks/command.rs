//! The command of a drill: run on a restored revision by a guard, so that it ends, with all that it has started, when
//! its time is over, when it has ended itself, when somebody asks to stop, and when the drill is killed.
//!
//! Whatever it starts is in its process group, or becomes a child of the guard when its own parent ends: the guard is
//! the reaper of its descendants. Its output goes where the guard's goes, its input is empty, and no signal from a
//! terminal reaches it.

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

/// How often a command that runs is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How long what was asked to end is waited for, and how long what was killed.
const PATIENCE: Duration = Duration::from_secs(5);
/// The service manager is told what backy does, by backy.
const NOTIFY: &str = "NOTIFY_SOCKET";

/// What a command is, and how long it may take.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    words: Vec<Vec<u8>>,
    timeout: Option<Duration>,
    /// The process that it is run for.
    parent: i32,
}

/// What became of a command.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ended {
    /// It could not be started; the system's code for why.
    NotStarted(Option<i32>),
    /// It ended; why it was not content, if so.
    Well(Option<String>),
}

/// The words of a command with `path` in the place of every `{}`, or as the last one.
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

/// Runs a command to its end, for `timeout` at most; nothing if it was content, else why not. What it prints goes to
/// standard error.
///
/// `guard` is the program that becomes its guard, and its arguments, as that of hooks. Without one the command is run
/// by this process, and what it has started elsewhere than in its process group, or what is left when this process is
/// killed, goes on.
///
/// # Errors
/// [`Error::Io`] when it cannot be started; [`Error::Interrupted`] when somebody asked to stop.
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
        // It has nothing to run, or does not answer any more.
        let _ = child.kill();
    }
    let _ = child.wait();
    match ended {
        Some(ended) => Ok(ended),
        None if observer.cancelled() => Err(Error::Interrupted),
        None => Err(failed()(io::ErrorKind::BrokenPipe.into())),
    }
}

/// Gives a guard its job and waits for the end; none when it never was there.
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
                // One that has gone is noticed next.
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

/// What a guard does with a command: runs it, and ends it when the drill has gone.
pub(super) fn serve(wire: &mut Wire, job: &Job) {
    // What is orphaned becomes a child of this process. Where the system cannot, the process group is all that is
    // ended.
    let _ = set_child_subreaper(Some(getpid()));
    let mut told = false;
    let ended = run(job, true, &mut |group| {
        if !told {
            told = true;
            // Whoever has gone is noticed soon enough.
            let _ = wire.send(&FromGuard::Started(group));
        }
        !matches!(guard::next(wire, job.parent, Duration::ZERO), Next::Nothing)
    });
    // Whoever has gone hears nothing.
    let _ = wire.send(&FromGuard::Command(ended));
}

/// Runs it in a process group of its own, of which `stop` is asked all the time. With `adopts` this process is the
/// reaper of all that it starts.
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

/// Waits for the command; ends it when its time is over or it is to stop, and says so then.
fn attend(
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
        // It may just have ended.
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

/// Ends what a command that has ended itself has left behind: what is in its process group and, where this process
/// adopts it, the rest.
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

/// Sends a signal to all children of this process, and reaps those that have ended; whether there are any left.
fn end_adopted(signal: Signal) -> bool {
    let own = getpid();
    for process in children_of(own) {
        // It may just have ended.
        let _ = kill_process(process, signal);
    }
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    // An error: there are none.
    matches!(wait(WaitOptions::NOHANG), Ok(None))
}

/// The children of a process, as far as this one may see them.
fn children_of(parent: Pid) -> Vec<Pid> {
    let processes = Path::new("/proc").read_dir().into_iter().flatten().flatten();
    let child = |entry: std::fs::DirEntry| {
        let process: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name, in brackets, may hold anything; after it the state and the parent.
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

    /// The path takes the place of every `{}`, or comes last.
    #[test]
    fn the_path_has_its_place_in_the_command() {
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

    /// Also without a guard a command has its time limit, and what is in its process group ends with it.
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
        assert!(!mark.exists(), "a child went on");
        let none = run_command(&["/no/such/program".into()], None, &[], &Silent).unwrap_err();
        assert!(none.to_string().contains("/no/such/program"), "{none}");
    }
}
