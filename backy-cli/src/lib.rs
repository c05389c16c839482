//! The `backy` command: turns arguments into calls of the engine, and its reports into text.
//!
//! Results are written to standard output, everything else to standard error. The exit status is 0 on success, 1 on
//! failure, 130 when Ctrl-C stopped it. For the monitoring commands it is the verdict. This crate computes nothing
//! that `backy_lib` does not report.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod background;
mod cli;
mod commands;
mod errors;
mod fleet_display;
mod fleet_job;
mod guard;
mod help;
mod hints;
mod interrupt;
mod log;
mod mount_helper;
mod notify;
mod output;
mod owner;
mod plan;
mod probe;
mod progress;
mod report;
mod stream;
mod table;
mod tilde;
mod waiting;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use backy_lib::backup::Meeting;
use backy_lib::fleet::{JOB_MARK, JobMark};
use backy_lib::monitoring::write_textfile;
use backy_lib::progress::Observer;
use backy_lib::storage::take_many_descriptors;
use backy_lib::{Archive, Caller, Clock, Level, OperationId, SystemClock, Trust};
use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::cli::{Cli, Command, Verbosity};
use crate::errors::Failure;
use crate::interrupt::Interrupt;
use crate::log::{Ending, Event, LogFormat, Operation, Style};
use crate::notify::Notifier;
use crate::output::Output;
use crate::progress::Reporter;
use crate::waiting::Waiting;

/// The context of every command.
pub(crate) struct Session {
    /// The archive's folder, absolute, so that messages say where it is.
    folder: PathBuf,
    /// Whether to act on the archive when others can change it.
    trust: Trust,
    verbosity: Verbosity,
    output: Output,
    interrupt: Interrupt,
    /// Names this run of the command.
    operation: OperationId,
    /// The command's own name.
    command: &'static str,
    /// The requested log format.
    log_format: Option<LogFormat>,
    /// The service manager, if it started this process.
    notifier: Option<Arc<Notifier>>,
    /// Whether another process of this command waits for this one to be ready.
    is_background_half: bool,
    /// What `backy run` says, if it started this process.
    job: Option<JobMark>,
    /// The backups of the other disks of a machine, which that has started together with this one.
    meeting: Option<Meeting>,
    /// Whether the log has a line about the beginning.
    has_begun: AtomicBool,
    /// The program that starts this command once more, and its first arguments.
    itself: Vec<OsString>,
}

impl Session {
    /// Watches an operation of the engine.
    fn reporter(&self) -> Reporter<'_> {
        Reporter::new(self, self.verbosity)
    }

    /// Opens the archive for reading.
    fn archive(&self) -> Result<Archive, Failure> {
        Ok(Archive::open_with(&self.folder, self.trust)?)
    }

    /// The caller of a request that changes an archive.
    fn caller<'a>(&self, waiting: Waiting, observer: &'a dyn Observer) -> Caller<'a> {
        Caller { program: None, wait: waiting.duration(), clock: &SystemClock, observer }
    }

    /// Notifies the service manager, if there is one.
    fn notify(&self, tell: impl FnOnce(&Notifier)) {
        if let Some(manager) = &self.notifier {
            tell(manager);
        }
    }

    /// How to write lines for a log other than standard error: as on that, or as text.
    fn style(&self) -> Arc<Style> {
        let format = self.log_format.filter(|format| *format == LogFormat::Json);
        Arc::new(Style {
            format: format.unwrap_or(LogFormat::Text),
            to_journal: false,
            operation: self.log_operation(),
        })
    }

    fn log_operation(&self) -> Operation {
        let archive = self.folder.display().to_string();
        Operation::begin(self.operation, Some(self.command.to_owned()), Some(archive))
    }

    /// Reports to the log, with -v, that the command begins. Then its end is reported, too.
    fn begins(&self) {
        // The background process reports the beginning and the end for both.
        let tells = self.verbosity == Verbosity::Verbose && !self.is_background_half;
        if tells && !self.has_begun.swap(true, Relaxed) {
            self.output.log(Event::Start, &format!("{} begins", self.command));
        }
    }

    /// Whether the command prints what is not a problem but has to be known.
    fn prints_facts(&self) -> bool {
        self.verbosity != Verbosity::Quiet
    }

    /// Whether a successful command reports what it did: with -v, or to a person who waits for it.
    fn tells(&self) -> bool {
        match self.verbosity {
            Verbosity::Quiet => false,
            Verbosity::Normal => self.output.stderr_is_terminal(),
            Verbosity::Verbose => true,
        }
    }
}

pub use guard::words as guard_words;

/// Runs the command with the arguments of this process.
pub fn main() -> ExitCode {
    // What continues in the background, or guards a backup, is started again.
    let itself =
        std::env::current_exe().map_or_else(|_| Vec::new(), |program| vec![program.into()]);
    ExitCode::from(run(std::env::args_os().collect(), itself))
}

/// Runs the command with these arguments, the first of which is its own name. Returns the exit status.
///
/// `itself` is the program, and its first arguments, that starts the command once more. From here on the process
/// handles signals, for as long as it lives.
pub fn run(args: Vec<OsString>, itself: Vec<OsString>) -> u8 {
    let mut args = args;
    interrupt::survive_size_limit();
    std::panic::set_hook(Box::new(output::tell_panic));
    if guard::is_guard(&args) {
        return guard::run(&Output::detect());
    }
    if let Some(words) = commands::complete::asked(&args) {
        return commands::complete::run(words, &Output::detect());
    }
    let half_of = background::take_mark(&mut args, background::MARK);
    let job = background::take_mark::<JobMark>(&mut args, JOB_MARK);
    let id = half_of.unwrap_or_else(|| OperationId::new(SystemClock.now()));
    let to_journal = log::stderr_is_journal();
    let on_stderr = |format: Option<LogFormat>, operation: Operation| {
        let format = format.or(to_journal.then_some(LogFormat::Journal))?;
        Some(Arc::new(Style { format, to_journal, operation }))
    };
    let unknown = on_stderr(LogFormat::guess(&args), Operation::begin(id, None, None));
    let output = Output::detect().logging(unknown);
    let args = match mount_helper::translate(args) {
        Ok(Some(args)) => args,
        Ok(None) => return 0,
        Err(message) => return Failure::message(message).report(&output, false),
    };
    let is_probe = probe::is_probe(&args);
    if let Err(message) = tilde::check(&args) {
        let failure = Failure::message(message);
        return if is_probe {
            probe::unknown(&output, &failure)
        } else {
            failure.report(&output, false)
        };
    }
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return errors::usage(&output, &error, args, is_probe),
    };
    raise_file_limit();
    let is_background_half = half_of.is_some();
    let meeting = match job.filter(|job| job.meets).map(|_| fleet_job::meeting()).transpose() {
        Ok(meeting) => meeting,
        Err(message) => return Failure::message(message).report(&output, false),
    };
    let start = Start { operation: id, is_probe, is_background_half, job, meeting, itself };
    let mut session = match prepare(&cli, output.clone(), start) {
        Ok(session) => session,
        Err(failure) if is_probe => return probe::unknown(&output, &failure),
        Err(failure) => return failure.report(&output, false),
    };
    let style = on_stderr(cli.log_format, session.log_operation());
    session.output = output.logging(style);
    if session.trust == Trust::Checked && cli.command.only_changes_the_archive() {
        match owner::take_on(&session.folder) {
            Ok(Some(who)) if session.verbosity == Verbosity::Verbose => {
                session
                    .output
                    .note(&format!("this archive belongs to {who}; working as that user"));
            }
            Ok(_) => {}
            Err(failure) => return failure.report(&session.output, false),
        }
    }
    if let Some(Err(message)) = job.map(|job| fleet_job::follow(job.run)) {
        return Failure::message(message).report(&session.output, false);
    }
    perform(cli.command, &session, is_probe)
}

/// Runs the command, and reports its beginning and end to the log and the service manager. Returns the exit status.
fn perform(command: Command, session: &Session, is_probe: bool) -> u8 {
    let name = session.command;
    // The journal has nothing of what is not due; whatever begins then, says so itself.
    let may_be_idle =
        matches!(command, Command::Backup(_) | Command::Run(_)) && session.output.is_journal();
    if !may_be_idle {
        session.begins();
    }
    // A mount is ready when it is usable.
    if !matches!(command, Command::Mount(_)) {
        session.notify(|manager| manager.ready(&format!("{name} begins")));
    }
    let changes = command.changes();
    let done = dispatch(command, session);
    // Whoever asks to stop does not wait for a verdict. The next run writes it.
    if changes && !session.interrupt.requested() {
        write_figures(session);
    }
    let status = match done {
        Ok(()) => 0,
        // It worked, and found a problem.
        Err(Failure::Verdict(status)) => status,
        Err(failure) => {
            session.notify(|manager| manager.status(&failure.text()));
            return match is_probe {
                true => probe::unknown(&session.output, &failure),
                false => failure.report(&session.output, session.interrupt.by_ctrl_c()),
            };
        }
    };
    let text = format!("{name} finished");
    session.notify(|manager| manager.status(&text));
    if session.has_begun.load(Relaxed) {
        session.output.log(Event::End(Ending::Ok, status, None), &text);
    }
    status
}

/// Writes the file for node_exporter, if the archive has one, also when the command failed.
fn write_figures(session: &Session) {
    match write_textfile(&session.folder, session.trust, &SystemClock) {
        Ok(written) => {
            if let Some(warning) = written.warning() {
                session.output.warning(&warning);
            }
        }
        Err(error) => {
            let advice = "correct textfile in backy.toml, or create its folder";
            session.output.warning(&format!("{error}; {advice}"));
        }
    }
}

/// How this process was started.
struct Start {
    operation: OperationId,
    is_probe: bool,
    is_background_half: bool,
    job: Option<JobMark>,
    meeting: Option<Meeting>,
    itself: Vec<OsString>,
}

fn prepare(cli: &Cli, output: Output, start: Start) -> Result<Session, Failure> {
    let folder = std::path::absolute(&cli.backupdir).map_err(|error| {
        Failure::message(format!(
            "--backupdir '{}': {error}; give a folder",
            cli.backupdir.display()
        ))
    })?;
    let interrupt = Interrupt::default();
    // A probe that was ended does not know.
    let status = if start.is_probe { Level::Unknown.exit_status() } else { errors::FAILURE_STATUS };
    interrupt
        .listen(status)
        .map_err(|error| Failure::message(format!("cannot listen for signals: {error}")))?;
    Ok(Session {
        folder,
        trust: cli.trust(),
        verbosity: cli.verbosity(),
        output,
        interrupt,
        operation: start.operation,
        command: cli.command.name(),
        log_format: cli.log_format,
        notifier: Notifier::detect().map(Arc::new),
        is_background_half: start.is_background_half,
        job: start.job,
        meeting: start.meeting,
        has_begun: AtomicBool::new(false),
        itself: start.itself,
    })
}

fn dispatch(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Init(args) => commands::init::run(&args, session),
        Command::Backup(args) => commands::backup::run(args, session),
        Command::Status(args) => commands::status::run(&args, session),
        Command::Check(args) => commands::check::run(&args, session),
        Command::Report(args) => commands::report::run(&args, session),
        Command::Restore(args) => commands::restore::run(&args, session),
        Command::Drill(args) => commands::drill::run(&args, session),
        Command::Export(args) => commands::export::run(&args, session),
        Command::Find(args) => commands::find::run(&args, session),
        Command::Config(args) => commands::config::run(&args, session),
        Command::Import(args) => commands::import::run(&args, session),
        Command::Pull(args) => commands::pull::run(args, session),
        Command::Push(args) => commands::push::run(args, session),
        Command::Serve(args) => commands::serve::run(&args, session),
        Command::Source(args) => commands::source::run(&args, session),
        Command::Receive(args) => commands::receive::run(&args, session),
        Command::Maintenance(args) => commands::maintenance::run(&args, session),
        Command::Scrub(args) => commands::scrub::run(&args, session),
        Command::Mount(args) => commands::mount::run(&args, session),
        Command::Tag(args) => commands::tag::run(&args, session),
        Command::Rm(args) => commands::rm::run(&args, session),
        Command::Run(args) => commands::run::run(&args, session),
        Command::Completions(args) => commands::completions::run(&args, session),
        Command::Man(args) => commands::man::run(&args, session),
    }
}

/// A long chain of deltas may keep an eighth of the limit open, and the usual soft limit of 1024 is low. This process
/// does nothing else, so it may have more of them open than a few dozen.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it, files are closed and opened again, which is slower.
    let _ = setrlimit(Resource::Nofile, limit);
    take_many_descriptors();
}
