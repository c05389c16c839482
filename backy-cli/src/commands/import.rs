//! `backy import`

use std::path::PathBuf;

use backy_lib::escape;
use backy_lib::import::{ImportReport, prepare};
use backy_lib::{ArchiveWriter, BlockSize, Error, ErrorKind, SystemClock};
use clap::ValueHint;

use super::init::block_size;
use crate::Session;
use crate::cli::Verbosity;
use crate::errors::Failure;
use crate::output::local_minute;
use crate::waiting::Waiting;

/// Import an archive that backy made in 2014
///
/// Brings its revisions over, oldest first, with their names and times; the old archive is only read. The archive is made
/// if there is none; one with other revisions is refused. Everything is checked against the MD5s of the old archive: what
/// is right comes over, the rest is named and makes the exit status 1. An import that was interrupted goes on where it was.
/// What the old archive says of its source is taken over unless other users can change it.
///
/// Imported revisions have the tag 'imported', which only goes by hand.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the old archive
    #[arg(value_hint = ValueHint::DirPath)]
    old: PathBuf,

    /// Unit of comparison and storage of an archive that is made: a power of two from 4K to 2M [default: 64K]
    #[arg(long, value_name = "SIZE", value_parser = block_size)]
    block_size: Option<BlockSize>,

    #[command(flatten)]
    waiting: Waiting,

    /// Print a report for programs
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let archive =
        prepare(&args.old, &session.folder, args.block_size, session.trust).map_err(|error| {
            match error.kind() {
                ErrorKind::Specification if args.block_size.is_some() => {
                    let advice = "leave --block-size out, or name another folder with -b";
                    Failure::advised(error, advice)
                }
                _ => explain(error),
            }
        })?;
    let reporter = session.reporter();
    let holder = Session::holder("import");
    let wait = args.waiting.duration();
    let mut writer = ArchiveWriter::open_within(archive, &holder, wait, &reporter)?;
    let imported = writer.import(&args.old, None, &SystemClock, &reporter);
    drop(reporter);
    let report = imported.map_err(explain)?;
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
        "{}: not all of it could be imported; the warnings say what is missing, the rest is in {}",
        args.old.display(),
        session.folder.display()
    )))
}

fn explain(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::Interrupted => Failure::interrupted(
            "interrupted; the revisions that were imported are complete: run it again to go on",
        ),
        ErrorKind::Source => {
            Failure::advised(error, "name the folder of an archive of 2014 that nobody changes")
        }
        ErrorKind::Specification => Failure::advised(error, "name another folder with -b"),
        _ => error.into(),
    }
}

fn summary(report: &ImportReport, args: &Args) -> String {
    let old = args.old.to_string_lossy();
    let mut text = match (report.imported.first(), report.imported.last()) {
        (Some(first), Some(last)) => format!(
            "Imported {} of {}, from {} to {}",
            count(report.imported.len()),
            escape::line(&old),
            local_minute(first.started),
            local_minute(last.started)
        ),
        _ => format!("Imported nothing of {}", escape::line(&old)),
    };
    let revisions = || report.present.iter().chain(&report.imported);
    let damaged = revisions().filter(|revision| !revision.damaged.is_empty()).count();
    for (number, what) in [
        (report.present.len(), "there before"),
        (damaged, "damaged"),
        (report.skipped.len(), "left out"),
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
