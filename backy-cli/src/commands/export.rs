//! `backy export`

use std::path::{Path, PathBuf};

use backy_lib::export::{
    ExportOptions, RbdDiffOptions, RbdDiffReport, export, rbd_diff, rbd_diff_to_stream,
};
use backy_lib::{Archive, Error, ErrorKind, RevisionId, RevisionSpec};
use clap::ValueHint;

use crate::Session;
use crate::cli::{REVISION_HELP, check_file_name, revision};
use crate::errors::Failure;
use crate::output::{duration, size};
use crate::stream::to_stdout;

/// Write a revision as one self-contained qcow2 file, or for Ceph
///
/// Use it to hand a revision on: zstd compresses the file, and QEMU reads it without the archive. Verifies every
/// block.
///
/// With --rbd-diff, 'rbd import-diff FILE POOL/IMAGE' makes a snapshot of it, named by its UUID. Begin with an empty
/// image and the first revision; then export each one --from the previous one. Such a file has no checksum of its
/// own: backy prints its SHA-256 on standard error.
#[derive(clap::Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Args {
    /// Which revision [default: the newest]
    #[arg(short, long, value_name = "REV", value_parser = revision, long_help = REVISION_HELP)]
    revision: Option<RevisionSpec>,

    /// Compression from 1 (fast) to 19 (small) [default: as in backy.toml]
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=19))]
    level: Option<i32>,

    /// Write Ceph's format 'rbd diff v1' instead; FILE may be - for standard output
    #[arg(long, conflicts_with = "level")]
    rbd_diff: bool,

    /// With --rbd-diff, write only what differs from this revision
    #[arg(long, value_name = "REV", value_parser = revision, requires = "rbd_diff")]
    from: Option<RevisionSpec>,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,

    /// Revision, without -r
    #[arg(value_name = "REV", value_parser = revision, conflicts_with = "revision")]
    named: Option<RevisionSpec>,

    /// File to create
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let is_stdout = args.file == Path::new("-");
    if is_stdout {
        check_stdout(args, session)?;
    }
    check_file_name(&args.file)?;
    let wanted = args.revision.as_ref().or(args.named.as_ref()).unwrap_or(&RevisionSpec::Latest);
    let archive = session.archive()?;
    let id = wanted.resolve(archive.revisions())?;
    if args.rbd_diff {
        return run_rbd_diff(args, &archive, id, session);
    }
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

fn check_stdout(args: &Args, session: &Session) -> Result<(), Failure> {
    let problem = match () {
        () if !args.rbd_diff => {
            "'-': standard output cannot hold a qcow2 file; name a file (./- is one)"
        }
        () if args.json => "--json and the file '-' both need standard output; use one of them",
        () if session.output.stdout_is_terminal() => {
            "standard output is a terminal; redirect it, or name a file"
        }
        () => return Ok(()),
    };
    Err(Failure::message(problem))
}

fn run_rbd_diff(
    args: &Args,
    archive: &Archive,
    id: RevisionId,
    session: &Session,
) -> Result<(), Failure> {
    let since = args.from.as_ref().map(|from| from.resolve(archive.revisions())).transpose()?;
    let options = RbdDiffOptions { since, threads: None };
    let report = if args.file == Path::new("-") {
        to_stdout(session, "standard output has only part of the stream", |stream, reporter| {
            rbd_diff_to_stream(archive, id, stream, &options, reporter)
        })?
    } else {
        let reporter = session.reporter();
        let exported = rbd_diff(archive, id, &args.file, &options, &reporter);
        drop(reporter);
        exported.map_err(explain)?
    };
    if args.json {
        session.output.json(&report)?;
    } else if session.prints_facts() {
        session.output.note(&format!("sha256 {}  {}", report.sha256, report.file));
    }
    if session.tells() {
        session.output.note(&summary(&report));
    }
    Ok(())
}

fn summary(report: &RbdDiffReport) -> String {
    let since = report.since.map(|since| format!(" since {since}")).unwrap_or_default();
    format!(
        "exported revision {}{since} to {} for Ceph: {} of {} in {}",
        report.revision,
        report.file,
        size(report.data_bytes),
        size(report.size_bytes),
        duration(report.seconds),
    )
}

fn explain(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::Interrupted => Failure::interrupted("interrupted; no file was created"),
        ErrorKind::Target => Failure::advised(error, "choose another file"),
        _ => error.into(),
    }
}
