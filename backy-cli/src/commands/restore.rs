//! `backy restore`

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use backy_lib::{Archive, Error, ErrorKind, RestoreReport, RevisionSpec};
use clap::ValueHint;

use crate::Session;
use crate::cli::REVISION_HELP;
use crate::errors::Failure;
use crate::output::{duration, size};

/// Restore a revision to a file, a device, the source or standard output
///
/// To a target that exists, only blocks that differ are written. Every block is checked against its digest before it is
/// written. Refused are targets that are mounted or otherwise in use, too small, or in the archive.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which revision
    #[arg(short, long, value_name = "REV", default_value = "latest", long_help = REVISION_HELP)]
    revision: RevisionSpec,

    /// Overwrite a file that exists, or a device that is not blank, also when it is not the source
    #[arg(long)]
    force: bool,

    /// Print a report for programs
    #[arg(long)]
    json: bool,

    /// File or block device to write to, '-' for standard output; without it, the source
    #[arg(value_hint = ValueHint::FilePath)]
    target: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let to_stdout = args.target.as_deref() == Some(Path::new("-"));
    if to_stdout {
        check_stdout(args, session)?;
    }
    let archive = Archive::open(&session.folder)?;
    let number = args.revision.resolve(archive.revisions())?;
    if to_stdout {
        let report = to_stream(&archive, number, session)?;
        tell(&report, "standard output", session);
        return Ok(());
    }
    let target = match &args.target {
        Some(target) => target.clone(),
        None => configured_source(&archive)?,
    };
    let reporter = session.reporter();
    let restored = archive.restore(number, &target, args.force, None, &reporter);
    drop(reporter);
    let report = restored.map_err(|error| explain(error, &target))?;
    if args.json {
        session.output.json(&report)?;
    }
    tell(&report, &report.target, session);
    Ok(())
}

fn check_stdout(args: &Args, session: &Session) -> Result<(), Failure> {
    let problem = match () {
        () if args.json => {
            "both --json and the target '-' need standard output; leave one of them out"
        }
        () if args.force => "the target '-' overwrites nothing; leave --force out",
        () if session.output.stdout_is_terminal() => {
            "standard output is a terminal, which cannot show an image; redirect it, or name a file"
        }
        () => return Ok(()),
    };
    Err(Failure::message(problem))
}

fn to_stream(
    archive: &Archive,
    number: usize,
    session: &Session,
) -> Result<RestoreReport, Failure> {
    // Past the standard library's buffer, which looks for ends of lines.
    let stdout = std::io::stdout().lock();
    let descriptor = stdout.as_fd().try_clone_to_owned().map_err(Failure::Output)?;
    let mut stream = File::from(descriptor);
    let reporter = session.reporter();
    let report = archive.restore_to_stream(number, &mut stream, None, &reporter);
    drop(reporter);
    report.map_err(|error| match &error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe => {
            Failure::advised(error, "whoever read it has ended before all was written")
        }
        _ if error.kind() == ErrorKind::Interrupted => {
            Failure::interrupted("interrupted; standard output has only a part of the image")
        }
        _ => error.into(),
    })
}

fn configured_source(archive: &Archive) -> Result<PathBuf, Failure> {
    archive.config()?.source.ok_or_else(|| {
        let path = archive.folder().join("backy.toml");
        Failure::advised(Error::NoSource { path }, "name a TARGET, or set it there")
    })
}

/// What has become of the target, where the engine only knows of the archive.
fn explain(error: Error, target: &Path) -> Failure {
    if error.kind() != ErrorKind::Interrupted {
        return error.into();
    }
    // A new file is gone again; an existing one is there and holds a mixture.
    match target.exists() {
        true => Failure::interrupted(format!(
            "interrupted; {} may be half restored: run it again to complete it",
            target.display()
        )),
        false => Failure::interrupted("interrupted; no target was made"),
    }
}

fn tell(report: &RestoreReport, target: &str, session: &Session) {
    if !session.tells() {
        return;
    }
    let written = match report.written_bytes {
        0 if report.size_bytes > 0 => "nothing differed".to_owned(),
        bytes => format!("{} written", size(bytes)),
    };
    session.output.note(&format!(
        "restored revision {} to {target}: {} in {}, {written}",
        report.revision,
        size(report.size_bytes),
        duration(report.seconds),
    ));
}
