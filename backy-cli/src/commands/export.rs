//! `backy export`

use std::path::PathBuf;

use backy_lib::export::{ExportOptions, export};
use backy_lib::{Error, ErrorKind, RevisionSpec};
use clap::ValueHint;

use crate::Session;
use crate::cli::{REVISION_HELP, check_file_name, revision};
use crate::errors::Failure;
use crate::output::{duration, size};

/// Write a revision as one qcow2 file that needs no other
///
/// For handing a revision on: the file is compressed with zstd, and QEMU reads it without the archive. Every block is
/// checked against its digest before it is written.
#[derive(clap::Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Args {
    /// Which revision; the newest without it
    #[arg(short, long, value_name = "REV", value_parser = revision, long_help = REVISION_HELP)]
    revision: Option<RevisionSpec>,

    /// How hard to compress, from 1, which is fast, to 19, which is small; that of backy.toml without it
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=19))]
    level: Option<i32>,

    /// Print a report for programs
    #[arg(long)]
    json: bool,

    /// The same without -r
    #[arg(value_name = "REV", value_parser = revision, conflicts_with = "revision")]
    named: Option<RevisionSpec>,

    /// The file to make, which must not be there yet
    #[arg(value_name = "FILE.qcow2", value_hint = ValueHint::FilePath)]
    file: PathBuf,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    if args.file.as_os_str() == "-" {
        let message =
            "'-': a qcow2 file cannot be written to standard output; name a file (./- is one)";
        return Err(Failure::message(message));
    }
    check_file_name(&args.file)?;
    let wanted = args.revision.as_ref().or(args.named.as_ref()).unwrap_or(&RevisionSpec::Latest);
    let archive = session.archive()?;
    let number = wanted.resolve(archive.revisions())?;
    let options = ExportOptions { level: args.level, threads: None };
    let reporter = session.reporter();
    let exported = export(&archive, number, &args.file, &options, &reporter);
    drop(reporter);
    let report = exported.map_err(explain)?;
    if args.json {
        session.output.json(&report)?;
    }
    if session.tells() {
        session.output.note(&format!(
            "exported revision {} to {}: {} as {} in {}",
            report.revision,
            report.file,
            size(report.size_bytes),
            size(report.stored_bytes),
            duration(report.seconds),
        ));
    }
    Ok(())
}

fn explain(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::Interrupted => Failure::interrupted("interrupted; no file was made"),
        ErrorKind::Target => Failure::advised(error, "choose another file"),
        _ => error.into(),
    }
}
