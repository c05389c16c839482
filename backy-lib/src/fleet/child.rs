//! The process of one job: the command itself, with a mark that makes it report its progress.
//!
//! It writes lines in JSON on standard error, which `doc/scripting.md` describes, and its report on standard output.
//! With the mark it also writes lines about its progress, and ends in order if this process ends.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::base::error::ErrorKind;
use crate::source::meeting::{self, Reply, Word};

/// The first argument of such a process: this, and a [`JobMark`].
pub const JOB_MARK: &str = "--fleet-job";
/// The event of a line about progress.
pub const PROGRESS: &str = "progress";
/// Only backy itself reports to the service manager.
const NOTIFY: &str = "NOTIFY_SOCKET";
/// How long a process may take to read a reply of its meeting.
const TO_TELL: Duration = Duration::from_secs(1);
/// A longer line is no message.
const MOST_LINE_BYTES: u64 = 1 << 20;
/// A longer report is no report.
const MOST_REPORT_BYTES: u64 = 1 << 30;

/// What a run says to the process of a job; as text, three words with colons in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobMark {
    /// The process of the run.
    pub run: i32,
    /// How many jobs may run at a time, with this one.
    pub at_once: usize,
    /// Whether its backup meets others. Its standard input is then the connection to the run,
    /// [`crate::source::Meeting`].
    pub meets: bool,
}

impl fmt::Display for JobMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.run, self.at_once, self.meets)
    }
}

impl FromStr for JobMark {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let mut words = text.split(':');
        let mut word = || words.next().ok_or(());
        let mark = JobMark {
            run: word()?.parse().map_err(drop)?,
            at_once: word()?.parse().map_err(drop)?,
            meets: word()?.parse().map_err(drop)?,
        };
        words.next().is_none().then_some(mark).ok_or(())
    }
}

/// How important a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Why something failed.
    Error,
    /// A problem that does not stop the job.
    Warning,
    /// What was or is done.
    Info,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    /// The phase, by its name for programs; empty before the first one.
    pub(super) phase: String,
    /// Bytes done in this phase.
    pub(super) done_bytes: u64,
    /// Bytes to do in this phase.
    pub(super) total_bytes: u64,
    /// When there was last any progress.
    pub(super) at: Instant,
}

/// What a process reports.
pub(super) enum Report {
    /// A line about something else than progress.
    Message(Severity, String),
    /// What it says to the others of its meeting.
    Word(Word),
    /// Its standard error has ended.
    Closed {
        /// Its last line, if that says why it failed.
        failure: Option<Failure>,
        /// What it printed on standard output.
        printed: Vec<u8>,
    },
}

/// Why a command failed, in its own words.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    pub(super) message: String,
    pub(super) kind: Option<ErrorKind>,
}

/// A line of the log.
#[derive(Deserialize)]
struct Line {
    level: Severity,
    event: String,
    message: String,
    phase: Option<String>,
    done_bytes: Option<u64>,
    total_bytes: Option<u64>,
    kind: Option<ErrorKind>,
}

/// A running job.
pub(super) struct JobProcess {
    child: Child,
    /// For the replies of its meeting.
    meeting: Option<UnixStream>,
    progress: Arc<Mutex<Progress>>,
}

impl JobProcess {
    /// Starts the program `itself` with the arguments of a job, and passes on what it reports. `at_once`: how many jobs
    /// may run at a time. `meets`: whether its backup meets others.
    pub(super) fn start(
        itself: &[OsString],
        arguments: impl Iterator<Item = OsString>,
        (at_once, meets): (usize, bool),
        report: impl Fn(Report) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let unknown = || io::Error::new(io::ErrorKind::NotFound, "no program to start");
        let (program, first) = itself.split_first().ok_or_else(unknown)?;
        let run = rustix::process::getpid().as_raw_nonzero().get();
        let mark = JobMark { run, at_once, meets };
        let mut command = Command::new(program);
        command.args(first).arg(JOB_MARK).arg(mark.to_string());
        let mut meeting = None;
        command.stdin(Stdio::null());
        if meets {
            let (own, given) = UnixStream::pair()?;
            own.set_write_timeout(Some(TO_TELL))?;
            command.stdin(OwnedFd::from(given));
            meeting = Some(own);
        }
        let heard = meeting.as_ref().map(UnixStream::try_clone).transpose()?;
        command.args(["--log-format", "json"]).args(arguments).env_remove(NOTIFY);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        // With its end of the connection, which is closed when the process ends.
        drop(command);
        let at = Instant::now();
        let progress = Progress { phase: String::new(), done_bytes: 0, total_bytes: 0, at };
        let progress = Arc::new(Mutex::new(progress));
        let outputs = Outputs { stdout: child.stdout.take(), stderr: child.stderr.take(), heard };
        let shared = Arc::clone(&progress);
        let thread = std::thread::Builder::new();
        let started = thread.spawn(move || attend(outputs, &shared, &report));
        let mut process = JobProcess { child, meeting, progress };
        if let Err(error) = started {
            process.end();
            process.child.wait()?;
            return Err(error);
        }
        Ok(process)
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a reply of its meeting. One that does not read it gets no more. A reply counts as progress: before it, the
    /// process may have had to wait.
    pub(super) fn tell(&self, reply: &Reply) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).at = Instant::now();
        if let Some(stream) = &self.meeting
            && meeting::write(stream, reply).is_err()
        {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Asks it to stop and leave everything in order.
    pub(super) fn end(&self) {
        if let Some(stream) = &self.meeting {
            // It waits for nobody any more.
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(process) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may just have ended. Nobody has waited for it, so its number is still its own.
            let _ = kill_process(process, Signal::TERM);
        }
    }

    /// Its exit status, once it has closed its standard error.
    pub(super) fn wait(mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

/// What comes from a process.
struct Outputs {
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    heard: Option<UnixStream>,
}

/// Reads all outputs to their ends.
fn attend(outputs: Outputs, progress: &Mutex<Progress>, report: &(impl Fn(Report) + Sync)) {
    let Outputs { stdout, stderr, heard } = outputs;
    let mut failure = None;
    let printed = std::thread::scope(|scope| {
        if let Some(stream) = heard {
            let listen = move || listen(stream, |word| report(Report::Word(word)));
            let _ = std::thread::Builder::new().spawn_scoped(scope, listen);
        }
        let read = || stdout.map(read_report).unwrap_or_default();
        let reader = std::thread::Builder::new().spawn_scoped(scope, read);
        if let Some(pipe) = stderr {
            read_lines(pipe, |line| match parse(line) {
                Some(line) if line.event == PROGRESS => note(progress, &line),
                Some(line) if line.event == "end" => {
                    let failed = line.level == Severity::Error;
                    failure = failed.then_some(Failure { message: line.message, kind: line.kind });
                }
                Some(line) if line.event == "start" || line.event == "phase" => {}
                Some(line) => report(Report::Message(line.level, line.message)),
                None if line.is_empty() => {}
                None => {
                    let text = String::from_utf8_lossy(line).into_owned();
                    report(Report::Message(Severity::Warning, text));
                }
            });
        }
        reader.ok().and_then(|reader| reader.join().ok()).unwrap_or_default()
    });
    report(Report::Closed { failure, printed });
}

/// Passes on what a process says to its meeting. One that says anything else gets no more replies.
fn listen(stream: UnixStream, mut sink: impl FnMut(Word)) {
    let mut stream = BufReader::new(stream);
    while let Ok(Some(word)) = meeting::read(&mut stream) {
        sink(word);
    }
    let _ = stream.get_ref().shutdown(Shutdown::Both);
}

/// Reads to the end; what is too long is no report, and is thrown away.
fn read_report(mut pipe: ChildStdout) -> Vec<u8> {
    let mut text = Vec::new();
    let read = pipe.by_ref().take(MOST_REPORT_BYTES).read_to_end(&mut text);
    if read.is_err() || text.len() as u64 == MOST_REPORT_BYTES {
        text.clear();
    }
    // Otherwise the process would wait for a reader.
    let _ = io::copy(&mut pipe, &mut io::sink());
    text
}

fn read_lines(pipe: ChildStderr, mut sink: impl FnMut(&[u8])) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        match pipe.by_ref().take(MOST_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => sink(line.strip_suffix(b"\n").unwrap_or(&line)),
        }
    }
}

fn parse(line: &[u8]) -> Option<Line> {
    serde_json::from_slice(line).ok()
}

fn note(progress: &Mutex<Progress>, line: &Line) {
    let mut known = progress.lock().unwrap_or_else(PoisonError::into_inner);
    *known = Progress {
        phase: line.phase.clone().unwrap_or_default(),
        done_bytes: line.done_bytes.unwrap_or_default(),
        total_bytes: line.total_bytes.unwrap_or_default(),
        at: Instant::now(),
    };
}

/// For [`JobProcess::start`]: sends what the job with this number reports.
pub(super) fn to_channel(
    number: usize,
    sender: Sender<(usize, Report)>,
) -> impl Fn(Report) + Send + Sync + 'static {
    move |report| {
        // A run that has ended does not listen any more.
        let _ = sender.send((number, report));
    }
}
