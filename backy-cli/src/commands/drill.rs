//! `backy drill`

use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;

use backy_lib::config::TimeLimit;
use backy_lib::drill;
use backy_lib::{Archive, DrillReport, Error, RevisionId, RevisionSpec, SystemClock};
use clap::ValueHint;

use crate::cli::{REVISION_HELP, revision};
use crate::commands::temporary_folder;
use crate::errors::Failure;
use crate::output::{duration, size};
use crate::waiting::Waiting;
use crate::{Session, guard};

/// Test a restore and report how long it took
///
/// Reads a whole revision and verifies every block. With COMMAND, backy also restores the revision to a temporary
/// file that only root could write to, and runs the command on it: '{}' in its arguments stands for the path, or the
/// path becomes the last argument. The output of the command goes to standard error. The file is deleted afterwards
/// in any case. Exits with 0 only if every block was right and the command exited with 0.
///
/// Example: backy drill -- sh -c 'fdisk -l {}'
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which revision [default: one at random]
    #[arg(short, long, value_name = "REV", value_parser = revision, long_help = revision_help())]
    revision: Option<RevisionSpec>,

    /// Revision, without -r
    #[arg(value_name = "REV", value_parser = revision, conflicts_with = "revision")]
    named: Option<RevisionSpec>,

    /// Folder for the temporary file [default: $TMPDIR or /tmp]
    ///
    /// backy refuses a folder in which other users could replace the file.
    #[arg(long, value_name = "DIR", requires = "command", value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,

    /// End the command after this time (90s, 30m, 4h, none) [default: backy.toml, or 1d]
    ///
    /// A command that is ended has failed. backy ends whatever it started, too.
    #[arg(long, value_name = "TIME", requires = "command")]
    timeout: Option<TimeLimit>,

    #[command(flatten)]
    waiting: Waiting,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,

    /// Command to run on the restored revision, with its arguments
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

fn revision_help() -> String {
    format!("{REVISION_HELP} [default: one at random]")
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    // It is recorded.
    let archive = session.archive()?.trusted()?;
    let named = args.revision.as_ref().or(args.named.as_ref());
    let id = drill::choose(&archive, named, RandomState::new().build_hasher().finish())?;
    let report = match args.command.split_first() {
        None => {
            let reporter = session.reporter();
            drill::read(&archive, id, None, &SystemClock, &reporter).map_err(explain)?
        }
        Some((program, rest)) => with_command(&archive, id, program, rest, args, session)?,
    };
    let reporter = session.reporter();
    drill::record(archive, &report, &session.caller(args.waiting, &reporter));
    drop(reporter);
    if args.json {
        session.output.json(&report)?;
    }
    if !report.passed {
        let advice = match report.command {
            Some(_) => "read its output, or restore the revision and look into it",
            None => "'backy restore --keep-going' restores what is left",
        };
        return Err(Failure::message(format!(
            "the drill of revision {} failed: {}; {advice}",
            report.revision, report.message
        )));
    }
    if !args.json {
        session.output.result(format!("{}\n", summary(&report)).as_bytes())?;
    }
    Ok(())
}

fn explain(error: Error) -> Failure {
    match error {
        Error::Interrupted => Failure::interrupted("interrupted; no drill was recorded"),
        error => error.into(),
    }
}

fn summary(report: &DrillReport) -> String {
    let content = if report.command.is_some() { "; the command succeeded" } else { "" };
    format!(
        "Revision {}: read {} ({} of data) in {}, {}/s; all blocks verified{content}.",
        report.revision,
        size(report.size_bytes),
        size(report.read_bytes),
        duration(report.seconds),
        size(report.bytes_per_second),
    )
}

fn with_command(
    archive: &Archive,
    id: RevisionId,
    program: &OsString,
    rest: &[OsString],
    args: &Args,
    session: &Session,
) -> Result<DrillReport, Failure> {
    let folder = temporary_folder(args.dir.as_deref())?;
    // A second Ctrl-C must not end the process before the file is deleted.
    session.interrupt.only_in_order();
    let reporter = session.reporter();
    let drilled = drill::assemble(archive, id, &folder, None, &SystemClock, &reporter);
    drop(reporter);
    let (report, assembled) = drilled.map_err(explain)?;
    let Some(assembled) = assembled else { return Ok(report) };
    let given: Vec<OsString> = std::iter::once(program.clone()).chain(rest.to_vec()).collect();
    let words = drill::words_on(&given, assembled.path());
    let TimeLimit(timeout) = args.timeout.unwrap_or_else(|| drill::timeout(archive));
    let guard = guard::words(&session.itself);
    let reporter = session.reporter();
    let verdict =
        drill::run_command(&words, timeout, &guard, &reporter).map_err(|error| match error {
            Error::Interrupted => {
                Failure::interrupted("interrupted; the temporary file was deleted")
            }
            error => error.into(),
        })?;
    Ok(report.judged(program.to_string_lossy().into_owned(), verdict))
}
