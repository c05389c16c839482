//! The `backy` command: turns arguments into calls of the engine, and its reports into text.
//!
//! Results go to standard output, everything else to standard error. The exit status is 0 when it worked, 1 when it did
//! not, 130 when it was stopped by Ctrl-C. Nothing is computed here that `backy_lib` does not report.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod background;
mod cli;
mod commands;
mod errors;
mod guard;
mod interrupt;
mod log;
mod mount_helper;
mod output;
mod plan;
mod progress;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use backy_lib::progress::Observer;
use backy_lib::storage::holder_note;
use backy_lib::{Archive, ArchiveWriter, Clock, SystemClock};
use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::cli::{Cli, Command, Verbosity};
use crate::errors::Failure;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::progress::Reporter;

/// What every command is given.
pub(crate) struct Session {
    /// The archive's folder, absolute, so that messages say where it is.
    folder: PathBuf,
    verbosity: Verbosity,
    output: Output,
    interrupt: Interrupt,
    /// Whether another process of this command waits for this one to be ready.
    is_background_half: bool,
    /// The program by which this command is started once more, and its first arguments.
    itself: Vec<OsString>,
}

impl Session {
    /// Watches an operation of the engine.
    fn reporter(&self) -> Reporter<'_> {
        Reporter::new(&self.output, self.verbosity, &self.interrupt)
    }

    /// What whoever finds the archive locked by a command is told.
    fn holder(command: &str) -> String {
        holder_note(&format!("'{command}'"), SystemClock.now())
    }

    /// Opens an archive for changing.
    fn writer(
        &self,
        archive: Archive,
        command: &str,
        observer: &dyn Observer,
    ) -> Result<ArchiveWriter, Failure> {
        Ok(ArchiveWriter::open(archive, &Self::holder(command), observer)?)
    }

    /// Whether a command that worked says what it did: when asked to, or to a person who waits for it.
    fn tells(&self) -> bool {
        match self.verbosity {
            Verbosity::Quiet => false,
            Verbosity::Normal => self.output.stderr_is_terminal(),
            Verbosity::Verbose => true,
        }
    }
}

/// Runs the command with the arguments of this process.
pub fn main() -> ExitCode {
    // What goes on in the background, or guards a backup, has to be started again.
    let itself =
        std::env::current_exe().map_or_else(|_| Vec::new(), |program| vec![program.into()]);
    ExitCode::from(run(std::env::args_os().collect(), itself))
}

/// Runs the command with these arguments, the first of which is its own name; the exit status.
///
/// `itself` is the program, and its first arguments, by which the command is started once more. Signals are listened to
/// from here on, for as long as the process lives.
pub fn run(args: Vec<OsString>, itself: Vec<OsString>) -> u8 {
    let output = Output::detect();
    if guard::is_guard(&args) {
        return guard::run(&output);
    }
    let mut args = args;
    let is_background_half = background::take_mark(&mut args);
    let args = match mount_helper::translate(args) {
        Ok(Some(args)) => args,
        Ok(None) => return 0,
        Err(message) => return Failure::message(message).report(&output, false),
    };
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return errors::usage(&output, &error, args),
    };
    raise_file_limit();
    let interrupt = Interrupt::default();
    let session = match prepare(&cli, output, interrupt, is_background_half, itself) {
        Ok(session) => session,
        Err(failure) => return failure.report(&output, false),
    };
    match dispatch(cli.command, &session) {
        Ok(()) => 0,
        Err(failure) => failure.report(&session.output, session.interrupt.by_ctrl_c()),
    }
}

fn prepare(
    cli: &Cli,
    output: Output,
    interrupt: Interrupt,
    is_background_half: bool,
    itself: Vec<OsString>,
) -> Result<Session, Failure> {
    let verbosity = cli.verbosity();
    let folder = std::path::absolute(&cli.backupdir).map_err(|error| {
        Failure::message(format!(
            "--backupdir '{}': {error}; give a folder",
            cli.backupdir.display()
        ))
    })?;
    interrupt
        .listen()
        .map_err(|error| Failure::message(format!("cannot listen for signals: {error}")))?;
    Ok(Session { folder, verbosity, output, interrupt, is_background_half, itself })
}

fn dispatch(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Init(args) => commands::init::run(&args, session),
        Command::Backup(args) => commands::backup::run(args, session),
        Command::Status(args) => commands::status::run(&args, session),
        Command::Restore(args) => commands::restore::run(&args, session),
        Command::Drill(args) => commands::drill::run(&args, session),
        Command::Export(args) => commands::export::run(&args, session),
        Command::Find(args) => commands::find::run(&args, session),
        Command::Import(args) => commands::import::run(&args, session),
        Command::Maintenance(args) => commands::maintenance::run(&args, session),
        Command::Scrub(args) => commands::scrub::run(&args, session),
        Command::Mount(args) => commands::mount::run(&args, session),
        Command::Tag(args) => commands::tag::run(&args, session),
        Command::Rm(args) => commands::rm::run(&args, session),
        Command::Completions(args) => commands::completions::run(&args, session),
        Command::Man => commands::man::run(session),
    }
}

/// A long chain of deltas needs more open files than the usual soft limit of 1024 allows.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it, only very long chains fail, with an error that says why.
    let _ = setrlimit(Resource::Nofile, limit);
}
