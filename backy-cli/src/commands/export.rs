//! `backy export`

use std::path::PathBuf;

use backy_lib::export::{ExportOptions, export};
use backy_lib::{Error, ErrorKind, RevisionSpec};
use clap::ValueHint;

use crate::Session;
use crate::cli::{REVISION_HELP, check_file_name, revision};
use crate::errors::Failure;
use crate::output::{duration, size};

/// Write a revision as one self-contained qcow2 file
///
/// Use it to hand a revision on: zstd compresses the file, and QEMU reads it without the archive. Verifies every
/// block.
#[derive(clap::Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Args {
    /// Which revision [default: the newest]
    #[arg(short, long, value_name = "REV", value_parser = revision, long_help = REVISION_HELP)]
    revision: Option<RevisionSpec>,

    /// Compression from 1 (fast) to 19 (small) [default: as in backy.toml]
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=19))]
    level: Option<i32>,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,

    /// Revision, without -r
    #[arg(value_name = "REV", value_parser = revision, conflicts_with = "revision")]
    named: Option<RevisionSpec>,

    /// File to create
    #[arg(value_name = "FILE.qcow2", value_hint = ValueHint::FilePath)]
    file: PathBuf,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    if args.file.as_os_str() == "-" {
        let message = "'-': standard output cannot hold a qcow2 file; name a file (./- is one)";
        return Err(Failure::message(message));
    }
    check_file_name(&args.file)?;
    let wanted = args.revision.as_ref().or(args.named.as_ref()).unwrap_or(&RevisionSpec::Latest);
    let archive = session.archive()?;
    let id = wanted.resolve(archive.revisions())?;
    let options = ExportOptions { level: args.level, threads: None };
    let reporter = session.reporter();
    let exported = export(&archive, id, &args.file, &options, &reporter);
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
        ErrorKind::Interrupted => Failure::interrupted("interrupted; no file was created"),
        ErrorKind::Target => Failure::advised(error, "choose another file"),
        _ => error.into(),
    }
}
