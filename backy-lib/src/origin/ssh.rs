//! The program that reaches another machine: a child with pipes, which never outlives its connection.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::address::SshAddress;
use super::wire::{
    FdReader, FdWriter, Hello, Patience, Push, REPORTS, Role, VERSIONS, WireOrigin, call,
};
use super::{Fetched, Listing, Origin, TablePiece};
use crate::base::error::{Error, Result};
use crate::base::escape;
use crate::base::revision::RevisionId;
use crate::base::units::BlockIndex;
use crate::origin::wire::Connection;

/// How long a child may take to end by itself, once its input has ended.
const PARTING: Duration = Duration::from_secs(3);

/// How much of what it prints to keep for an error.
const MOST_LINES: usize = 3;
const MOST_LINE_BYTES: u64 = 1000;

/// Takes the lines that ssh and the other side print on standard error.
pub type Lines = Arc<dyn Fn(&str) + Send + Sync>;

/// How to reach another machine.
#[derive(Clone)]
pub struct SshOptions {
    /// The program and its first arguments.
    pub program: Vec<String>,
    /// Whether nobody is there who could answer a question, such as for a password.
    pub batch: bool,
    /// What this program calls itself.
    pub name: String,
    /// How long to wait for the other side.
    pub patience: Patience,
    /// Takes what is printed while the connection lasts; an error has the last lines anyway.
    pub lines: Option<Lines>,
}

impl std::fmt::Debug for SshOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let SshOptions { program, batch, name, patience, lines: _ } = self;
        write!(f, "SshOptions({program:?}, {batch}, {name:?}, {patience:?})")
    }
}

impl Default for SshOptions {
    fn default() -> Self {
        SshOptions {
            program: vec!["ssh".to_owned()],
            batch: true,
            name: "backy".to_owned(),
            patience: Patience::default(),
            lines: None,
        }
    }
}

/// The streams to another machine.
pub(crate) type SshConnection<'a> = Connection<FdReader<'a>, FdWriter>;

/// A running ssh.
pub(crate) struct SshChild {
    child: Child,
    program: String,
    last: Arc<Mutex<Last>>,
    thread: Option<JoinHandle<()>>,
}

/// What it printed last, and whether to pass on what it prints.
#[derive(Default)]
struct Last {
    lines: VecDeque<String>,
    /// Lines from before the connection, which are passed on once there is one.
    early: Vec<String>,
    passes: bool,
}

impl SshChild {
    /// Calls backy on another machine: it serves an archive there if `push` is `None`, and otherwise takes a push.
    pub(crate) fn call<'a>(
        address: &SshAddress,
        options: &SshOptions,
        push: Option<Push>,
        stopped: impl Fn() -> bool + Send + 'a,
    ) -> Result<(Self, SshConnection<'a>)> {
        let (verb, role) = match push {
            None => ("serve", Role::Ask),
            Some(_) => ("receive", Role::Answer),
        };
        let name = address.to_string();
        let arguments =
            address.arguments(options.batch, &["backy", verb, "--stdio", &address.path]);
        let unknown = || Error::Specification { message: "no program for ssh".to_owned() };
        let (program, first) = options.program.split_first().ok_or_else(unknown)?;
        let mut command = Command::new(program);
        command.args(first).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(Error::io(program, "run the command"))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let last = Arc::new(Mutex::new(Last::default()));
        let mut own = SshChild { child, program: program.clone(), last, thread: None };
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else { return Err(unknown()) };
        let (last, lines) = (Arc::clone(&own.last), options.lines.clone());
        let attend = move || attend(stderr, &last, lines.as_ref());
        let thread = std::thread::Builder::new().spawn(attend);
        own.thread = Some(thread.map_err(Error::io("backy", "start a thread"))?);
        let silence = options.patience.silence;
        let reader = FdReader::new(OwnedFd::from(stdout), silence, stopped);
        let writer = FdWriter::new(OwnedFd::from(stdin), silence);
        let hello = Hello {
            versions: VERSIONS.to_vec(),
            role,
            archive: address.path.clone(),
            program: options.name.clone(),
            push,
        };
        match call((reader, writer), &name, &hello, options.patience) {
            Ok(connection) => {
                own.pass_on(options.lines.as_ref());
                Ok((own, connection))
            }
            Err(error) => Err(own.explain(error)),
        }
    }

    fn pass_on(&self, lines: Option<&Lines>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.passes = true;
        let early = std::mem::take(&mut last.early);
        if let Some(lines) = lines {
            early.iter().for_each(|line| lines(line));
        }
    }

    /// The error of a connection with what ssh has to say about it.
    pub(crate) fn explain(&mut self, error: Error) -> Error {
        let Error::Origin { name, mut message } = error else { return error };
        // What the other side has reported says it all.
        if message.starts_with(REPORTS) {
            return Error::Origin { name, message };
        }
        // What it prints last comes with its end.
        let status = self.wait(Duration::from_secs(1));
        if status.is_some()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let printed: Vec<&str> = last.lines.iter().map(String::as_str).collect();
        let program = &self.program;
        if let Some(status) = status.filter(|status| !status.success()) {
            message.push_str(&format!("; {program} ended with {status}"));
        }
        if !printed.is_empty() {
            message.push_str(&format!("; it printed: {}", printed.join(" / ")));
        }
        Error::Origin { name, message }
    }

    fn wait(&mut self, within: Duration) -> Option<std::process::ExitStatus> {
        let until = Instant::now() + within;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                _ => return None,
            }
        }
    }
}

impl Drop for SshChild {
    fn drop(&mut self) {
        if self.wait(PARTING).is_none() {
            // Nobody has waited for it, so its number is still its own.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // A program that ssh left behind may have the pipe open, so nobody waits for the thread.
    }
}

/// Keeps and passes on what the child prints.
fn attend(stderr: ChildStderr, last: &Mutex<Last>, lines: Option<&Lines>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match stderr.by_ref().take(MOST_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = escape::line(text.trim_end()).into_owned();
        if text.is_empty() {
            continue;
        }
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.lines.len() == MOST_LINES {
            last.lines.pop_front();
        }
        last.lines.push_back(text.clone());
        if !last.passes {
            if last.early.len() < MOST_LINES {
                last.early.push(text);
            }
            continue;
        }
        drop(last);
        if let Some(lines) = lines {
            lines(&text);
        }
    }
}

/// An archive that ssh reaches.
pub(crate) struct SshOrigin<'a> {
    /// Dropped first, which ends the input of the child.
    wire: Option<WireOrigin<FdReader<'a>, FdWriter>>,
    child: SshChild,
    name: String,
    stopped: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> SshOrigin<'a> {
    pub(crate) fn open(
        address: &SshAddress,
        options: &SshOptions,
        stopped: &'a (dyn Fn() -> bool + Sync),
    ) -> Result<Self> {
        let (child, connection) = SshChild::call(address, options, None, stopped)?;
        let name = address.to_string();
        let wire = Some(WireOrigin::new(connection, &name, options.patience)?);
        Ok(SshOrigin { wire, child, name, stopped })
    }

    fn ask<T>(
        &mut self,
        call: impl FnOnce(&mut WireOrigin<FdReader<'a>, FdWriter>) -> Result<T>,
    ) -> Result<T> {
        let Some(wire) = &mut self.wire else {
            let message = "the connection has ended".to_owned();
            return Err(Error::Origin { name: self.name.clone(), message });
        };
        let result = call(wire);
        // What ends it as well, such as Ctrl-C, may have ended the child a little earlier.
        if result.is_err() && (self.stopped)() {
            return Err(Error::Interrupted);
        }
        if !wire.is_broken() {
            return result;
        }
        // The child ends when its input does.
        self.wire = None;
        result.map_err(|error| self.child.explain(error))
    }
}

impl Origin for SshOrigin<'_> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn listing(&mut self) -> Result<Listing> {
        self.ask(|wire| wire.listing())
    }

    fn table(
        &mut self,
        revision: RevisionId,
        since: Option<RevisionId>,
        from: BlockIndex,
    ) -> Result<TablePiece> {
        self.ask(|wire| wire.table(revision, since, from))
    }

    fn fetch(
        &mut self,
        revision: RevisionId,
        wanted: &[BlockIndex],
        take: &mut dyn FnMut(BlockIndex, Fetched<'_>) -> Result<()>,
    ) -> Result<()> {
        self.ask(|wire| wire.fetch(revision, wanted, take))
    }
}

impl Drop for SshOrigin<'_> {
    fn drop(&mut self) {
        if let Some(wire) = self.wire.take() {
            // The other side also notices that the connection ends.
            let _ = wire.finish();
        }
    }
}
