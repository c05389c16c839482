//! `backy import`

use std::path::PathBuf;

use backy_lib::escape;
use backy_lib::import::{ImportReport, ImportRequest};
use backy_lib::{BlockSize, Error, ErrorKind};
use clap::ValueHint;

use super::init::block_size;
use crate::Session;
use crate::cli::Verbosity;
use crate::errors::Failure;
use crate::output::local_minute;
use crate::waiting::Waiting;

/// Import an archive that backy made in 2014
///
/// Imports its revisions, oldest first, with their names and times, and verifies every block against its MD5. Lists
/// what it could
/// not import and then exits with 1. Only reads the old archive. Creates the new archive if needed, and refuses one
/// that has other
/// revisions. An interrupted import continues when you run it again.
///
/// Takes over the old archive's source, unless other users can change the old archive. Imported revisions keep the
/// tag 'imported'
/// until you remove it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the old archive
    #[arg(value_hint = ValueHint::DirPath)]
    old: PathBuf,

    /// Block size of a new archive: a power of two from 4K to 2M [default: 64K]
    #[arg(long, value_name = "SIZE", value_parser = block_size)]
    block_size: Option<BlockSize>,

    #[command(flatten)]
    waiting: Waiting,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let request = ImportRequest {
        old: args.old.clone(),
        folder: session.folder.clone(),
        block_size: args.block_size,
        trust: session.trust,
    };
    let reporter = session.reporter();
    let imported = request.run(&session.caller(args.waiting, &reporter));
    drop(reporter);
    let report = imported.map_err(|error| match error.kind() {
        ErrorKind::Specification if args.block_size.is_some() => {
            Failure::advised(error, "omit --block-size, or name another folder with -b")
        }
        _ => explain(error),
    })?;
    if session.verbosity == Verbosity::Verbose {
        report.notes.iter().for_each(|note| session.output.note(note));
    }
    if args.json {
        session.output.json(&report)?;
    } else if session.verbosity > Verbosity::Quiet {
        session.output.result(format!("{}\n", summary(&report, args)).as_bytes())?;
    }
    if report.is_complete() {
        return Ok(());
    }
    // The warnings have named each of them.
    Err(Failure::message(format!(
        "{}: imported in part; the warnings name what is missing, the rest is in {}",
        args.old.display(),
        session.folder.display()
    )))
}

fn explain(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::Interrupted => Failure::interrupted(
            "interrupted; the imported revisions are complete: run it again to continue",
        ),
        ErrorKind::Source => {
            Failure::advised(error, "name the folder of an archive of 2014 that nobody is changing")
        }
        ErrorKind::Specification => Failure::advised(error, "name another folder with -b"),
        _ => error.into(),
    }
}

fn summary(report: &ImportReport, args: &Args) -> String {
    let old = args.old.to_string_lossy();
    let mut text = match (report.imported.first(), report.imported.last()) {
        (Some(first), Some(last)) => format!(
            "Imported {} from {}, made {} to {}",
            count(report.imported.len()),
            escape::line(&old),
            local_minute(first.started),
            local_minute(last.started)
        ),
        _ => format!("Imported nothing from {}", escape::line(&old)),
    };
    let revisions = || report.present.iter().chain(&report.imported);
    let damaged = revisions().filter(|revision| !revision.damaged.is_empty()).count();
    for (number, what) in [
        (report.present.len(), "already imported"),
        (damaged, "damaged"),
        (report.skipped.len(), "skipped"),
    ] {
        if number > 0 {
            text.push_str(&format!("; {number} {what}"));
        }
    }
    text + "."
}

fn count(revisions: usize) -> String {
    if revisions == 1 { "1 revision".to_owned() } else { format!("{revisions} revisions") }
}
