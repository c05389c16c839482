//! Runs one hook or another program in a process group of its own, with a time limit, and keeps the end of its output.

use std::collections::VecDeque;
use std::io::{self, PipeReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde::{Deserialize, Serialize};

use crate::base::error::describe_io;
use crate::policy::config::HookCommand;

/// How often to poll a running hook.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// How soon to retry a hook that could not be started.
const AGAIN: Duration = Duration::from_millis(200);
/// How long to wait after SIGTERM, and again after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many bytes at the end of a hook's output are kept.
const OUTPUT_BYTES: usize = 16 << 10;
/// Longest quotation of output in a message.
const QUOTED_CHARS: usize = 300;

/// How a hook ended.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Ran {
    /// Whether it was started.
    pub started: bool,
    /// Why it counts as failed.
    pub failure: Option<String>,
    /// The last lines of its output.
    pub output: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

impl Ran {
    /// The result of a hook that is not configured.
    pub(super) fn nothing() -> Self {
        Ran { started: true, ..Ran::default() }
    }
}

/// What a hook needs apart from its command.
pub(super) struct Conditions<'a> {
    /// Added to the environment.
    pub environment: &'a [(String, std::ffi::OsString)],
    /// Its time limit.
    pub timeout: Duration,
    /// Whether to retry until the time limit if the system has no resources for another process right now:
    /// otherwise the source would stay frozen.
    pub persistent: bool,
    /// Polled with its process group: whether to end it.
    pub stop: &'a mut dyn FnMut(i32) -> bool,
}

/// Runs a hook to its end. A hook that takes too long, or has to stop, is ended with all its descendants:
/// SIGTERM, and SIGKILL for those that are left after some seconds.
pub(super) fn run(command: &HookCommand, conditions: Conditions<'_>) -> Ran {
    let began = Instant::now();
    let mut output = Tail::default();
    let spawned = loop {
        match spawn(command, conditions.environment) {
            Err(error)
                if conditions.persistent
                    && is_passing(&error)
                    && began.elapsed() < conditions.timeout =>
            {
                std::thread::sleep(AGAIN);
            }
            spawned => break spawned,
        }
    };
    let ended = spawned.map(|(mut child, pipe)| {
        let (timeout, stop) = (conditions.timeout, conditions.stop);
        attend(&mut child, pipe, Instant::now(), timeout, stop, &mut output)
    });
    let program = command.program();
    let output: Vec<_> = output.lines().iter().map(|line| command.without_values(line)).collect();
    let (started, failure) = match ended {
        Err(error) => (false, Some(format!("cannot run '{program}': {}", describe_io(&error)))),
        Ok(None) => (true, None),
        Ok(Some(how)) => {
            let last = output.iter().rev().find(|line| !line.trim().is_empty());
            let said = last.map(|line| format!(": {}", shorten(line))).unwrap_or_default();
            (true, Some(format!("'{program}' {how}{said}")))
        }
    };
    Ran { started, failure, output, seconds: began.elapsed().as_secs_f64() }
}

/// Whether the system may be able to start a process soon: at the moment there are too many, or not enough memory.
fn is_passing(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE))
}

/// Ends a process group whose leader this process did not start.
pub(in crate::source) fn end_group(group: Option<i32>) {
    let Some(group) = group.and_then(Pid::from_raw) else { return };
    // It may have exited long ago; no other error could be reported.
    let _ = kill_process_group(group, Signal::TERM);
    let asked = Instant::now();
    while asked.elapsed() < PATIENCE && rustix::process::test_kill_process_group(group).is_ok() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = kill_process_group(group, Signal::KILL);
}

fn spawn(
    command: &HookCommand,
    environment: &[(String, std::ffi::OsString)],
) -> io::Result<(Child, PipeReader)> {
    let (program, arguments) = command.words().split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let (reader, writer) = io::pipe()?;
    let child = Command::new(program)
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        // A fixed folder: cron and a person start backups in different ones.
        .current_dir("/")
        // Only backy itself reports to the service manager.
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()?;
    Ok((child, reader))
}

/// Waits for the end of a program in a process group of its own; returns the reason if it failed. A program that takes
/// too long, or has to stop, is ended.
pub(in crate::source) fn attend(
    child: &mut Child,
    pipe: PipeReader,
    began: Instant,
    timeout: Duration,
    stop: &mut dyn FnMut(i32) -> bool,
    output: &mut Tail,
) -> Option<String> {
    let mut reader = Some(pipe);
    let group = i32::try_from(child.id()).unwrap_or(0);
    let why = loop {
        read_some(&mut reader, output);
        // Background processes may hold the pipe open for ever, so there is no waiting for them.
        if has_ended(child) {
            read_rest(&mut reader, output);
            break None;
        }
        if stop(group) {
            break Some("was stopped".to_owned());
        }
        if began.elapsed() > timeout {
            break Some(format!("did not end within {} and was stopped", time(timeout)));
        }
    };
    if why.is_some() && !end(child, &mut reader, output) {
        return why.map(|why| format!("{why}, but cannot be killed"));
    }
    match (why, child.wait()) {
        (Some(why), _) => Some(why),
        (None, Ok(status)) if status.success() => None,
        (None, Ok(status)) => Some(format!("ended with {status}")),
        (None, Err(error)) => Some(format!("cannot be waited for: {}", describe_io(&error))),
    }
}

/// Ends the hook and everything in its group; true if its own process has exited. It is not reaped before, so
/// that no other group can get the number.
fn end(child: &Child, reader: &mut Option<PipeReader>, output: &mut Tail) -> bool {
    let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return false };
    for signal in [Signal::TERM, Signal::KILL] {
        // It may have exited just now.
        let _ = kill_process_group(group, signal);
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE && !has_ended(child) {
            read_some(reader, output);
        }
    }
    read_rest(reader, output);
    has_ended(child)
}

fn has_ended(child: &Child) -> bool {
    let Some(process) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return true };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // A process that cannot be waited for has been reaped.
    !matches!(waitid(WaitId::Pid(process), options), Ok(None) | Err(Errno::INTR))
}

/// Waits for a moment and reads the output so far.
fn read_some(reader: &mut Option<PipeReader>, output: &mut Tail) {
    match reader {
        None => std::thread::sleep(Duration::from_millis(20)),
        Some(_) => {
            read_within(reader, output, &TICK);
        }
    }
}

/// Reads what is already there and no more: a background process may keep printing.
fn read_rest(reader: &mut Option<PipeReader>, output: &mut Tail) {
    let mut pieces = 0;
    while pieces < 64 && read_within(reader, output, &Timespec { tv_sec: 0, tv_nsec: 0 }) {
        pieces += 1;
    }
}

fn read_within(reader: &mut Option<PipeReader>, output: &mut Tail, wait: &Timespec) -> bool {
    let Some(pipe) = reader else { return false };
    match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(wait)) {
        Ok(0) | Err(Errno::INTR) => return false,
        Ok(_) | Err(_) => {}
    }
    let mut piece = [0; 4096];
    match pipe.read(&mut piece) {
        Ok(count) if count > 0 => {
            output.push(piece.get(..count).unwrap_or_default());
            true
        }
        _ => {
            *reader = None;
            false
        }
    }
}

/// The last bytes of a stream.
#[derive(Default)]
pub(in crate::source) struct Tail {
    bytes: VecDeque<u8>,
    is_cut: bool,
}

impl Tail {
    pub(in crate::source) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let over = self.bytes.len().saturating_sub(OUTPUT_BYTES);
        self.is_cut |= over > 0;
        self.bytes.drain(..over);
    }

    pub(in crate::source) fn lines(self) -> Vec<String> {
        let bytes: Vec<u8> = self.bytes.into();
        let text = String::from_utf8_lossy(&bytes);
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if let (true, Some(first)) = (self.is_cut, lines.first_mut()) {
            *first = "… (the beginning is left out)".to_owned();
        }
        lines
    }
}

/// One line of limited length.
pub(in crate::source) fn shorten(text: &str) -> String {
    let line = text.trim().replace('\n', "; ");
    match line.char_indices().nth(QUOTED_CHARS) {
        None => line,
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
    }
}

/// A time limit as the config probably has it.
pub(super) fn time(limit: Duration) -> String {
    let seconds = limit.as_secs();
    match seconds {
        _ if seconds > 0 && seconds.is_multiple_of(3600) => format!("{} h", seconds / 3600),
        _ if seconds > 0 && seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        _ if limit.subsec_millis() == 0 => format!("{seconds} s"),
        _ => format!("{:.1} s", limit.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_line(line: &str, timeout: Duration, stop: &mut dyn FnMut() -> bool) -> Ran {
        let environment = [("BACKY_TEST".to_owned(), "a b".into())];
        let conditions = Conditions {
            environment: &environment,
            timeout,
            persistent: false,
            stop: &mut |_| stop(),
        };
        run(&HookCommand::of_line(line), conditions)
    }

    /// The output of a hook is kept from both streams; its exit status and last line are reported.
    #[test]
    fn the_result_and_output_of_a_hook_are_reported() {
        let minute = Duration::from_secs(60);
        let ran = run_line("echo \"$BACKY_TEST\"; pwd >&2", minute, &mut || false);
        assert_eq!((ran.started, ran.failure), (true, None));
        assert_eq!(ran.output, ["a b", "/"]);
        let ran = run_line("echo one; echo two; echo; exit 3", minute, &mut || false);
        let failure = ran.failure.unwrap();
        assert!(failure.ends_with("ended with exit status: 3: two"), "{failure}");
        let none = HookCommand::of_words(vec!["/no/such/program".to_owned()]).unwrap();
        let stop = &mut |_| false;
        let conditions = Conditions { environment: &[], timeout: minute, persistent: false, stop };
        let ran = run(&none, conditions);
        assert!(!ran.started, "{ran:?}");
        assert!(ran.failure.unwrap().contains("'/no/such/program': No such file"));
    }

    /// A hook that hangs is ended with its children, even if they ignore SIGTERM. There is no waiting for
    /// background processes of a hook that succeeds.
    #[test]
    fn a_hook_that_hangs_is_ended_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("alive");
        let line = format!(
            "(trap '' TERM; sleep 8; echo late > {}) & echo waiting; wait; sleep 60",
            mark.display()
        );
        let began = Instant::now();
        let ran = run_line(&line, Duration::from_millis(300), &mut || false);
        let failure = ran.failure.unwrap();
        assert!(failure.contains("did not end within 0.3 s and was stopped: waiting"), "{failure}");
        std::thread::sleep(Duration::from_secs(9).saturating_sub(began.elapsed()));
        assert!(!mark.exists(), "a child is still running");

        let began = Instant::now();
        let ran = run_line("sleep 30 & echo done", Duration::from_secs(20), &mut || false);
        assert_eq!((ran.failure, ran.output), (None, vec!["done".to_owned()]));
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());

        let mut asked = 0;
        let ran = run_line("sleep 30", Duration::from_secs(20), &mut || {
            asked += 1;
            asked > 3
        });
        assert!(ran.failure.unwrap().contains("'/bin/sh' was stopped"));
    }

    /// However a hook ends, the message names its program and contains none of its arguments, even if the
    /// hook prints them.
    #[test]
    fn messages_about_a_hook_contain_none_of_its_arguments() {
        let words = |words: &[&str]| {
            HookCommand::of_words(words.iter().map(|word| (*word).to_owned()).collect()).unwrap()
        };
        let secret = "hunter2 secret";
        let option = format!("--password={secret}");
        for (command, program, said) in [
            (words(&["/usr/bin/env", &option, "false"]), "/usr/bin/env", ""),
            (words(&["/no/such/program", &option]), "/no/such/program", ""),
            (words(&["sleep", "60", &option]), "sleep", "--password=…"),
            (words(&["sh", "-c", "exec sleep 60", &option]), "sh", ""),
            (HookCommand::of_line(&format!("A='{secret}'; exit 3")), "/bin/sh", ""),
            (HookCommand::of_line("set -x; A=hunter2 B=hunter22secret false"), "/bin/sh", "B=…"),
        ] {
            // Only this one does not end by itself.
            let timeout = match program {
                "sh" => Duration::from_millis(300),
                _ => Duration::from_secs(60),
            };
            let stop = &mut |_| false;
            let ran =
                run(&command, Conditions { environment: &[], timeout, persistent: false, stop });
            let message = format!("{} {}", ran.failure.clone().unwrap(), ran.output.join(" "));
            assert!(!message.contains("hunter2") && !message.contains("secret"), "{message}");
            assert!(
                message.contains(&format!("'{program}'")) && message.contains(said),
                "{message}"
            );
        }
        let freeze = words(&["fsfreeze", "-f", "/mnt"]);
        let line = "fsfreeze: /mnt: freeze failed: a=b";
        assert_eq!(freeze.without_values(line), line, "only those values are replaced");
    }

    /// Endless output costs no memory, and its end is kept.
    #[test]
    fn only_the_end_of_the_output_is_kept() {
        let line = "yes | head -c 3000000; echo; echo last";
        let ran = run_line(line, Duration::from_secs(60), &mut || false);
        assert_eq!(ran.failure, None);
        assert_eq!(ran.output.last().unwrap(), "last");
        assert!(ran.output.iter().map(String::len).sum::<usize>() <= OUTPUT_BYTES + 64);
    }
}
