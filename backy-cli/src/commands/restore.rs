//! `backy restore`

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use backy_lib::escape;
use backy_lib::restore::TargetKind;
use backy_lib::{
    Archive, Error, ErrorKind, RestoreOptions, RestoreReport, RevisionSpec, SystemClock,
};
use clap::ValueHint;

use crate::Session;
use crate::cli::REVISION_HELP;
use crate::errors::Failure;
use crate::output::{duration, size};
use crate::words;

/// Restore a revision to a file, a device, the source or standard output
///
/// To a target that exists, only blocks that differ are written. Every block is checked against its digest before it is
/// written. Refused are targets that are mounted or otherwise in use, too small, or in the archive. With --undo DIR there
/// is a way back: 'backy -b DIR restore'.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which revision
    #[arg(short, long, value_name = "REV", default_value = "latest", long_help = REVISION_HELP)]
    revision: RevisionSpec,

    /// Overwrite a file that exists, or a device that is not blank, also when it is not the source
    #[arg(long)]
    force: bool,

    /// Do everything but write: say what would be written, or why it would be refused
    #[arg(long)]
    dry_run: bool,

    /// Where a block cannot be read right, write zeros, say where, and go on; the exit status is 1 then
    ///
    /// For getting out of a damaged archive what there still is.
    #[arg(long)]
    keep_going: bool,

    /// Before anything is overwritten, save what is going to be, in DIR
    ///
    /// DIR becomes an archive of its own, which must not be there yet. 'backy -b DIR restore' brings the target back to what
    /// it was, also when the restore was interrupted.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    undo: Option<PathBuf>,

    /// Begin even if the target seems to lack the space
    #[arg(long)]
    no_space_check: bool,

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
    let archive = session.archive()?;
    let number = args.revision.resolve(archive.revisions())?;
    let options = RestoreOptions {
        force: args.force,
        dry_run: args.dry_run,
        keep_going: args.keep_going,
        undo: undo_folder(args)?,
        trust: session.trust,
        ignore_space: args.no_space_check,
        threads: None,
    };
    if to_stdout {
        let report = to_stream(&archive, number, &options, session)?;
        tell(&report, "standard output", session);
        return judge(&report, session);
    }
    let target = match &args.target {
        Some(target) => target.clone(),
        None => configured_source(&archive)?,
    };
    let reporter = session.reporter();
    let restored = archive.restore(number, &target, &options, &SystemClock, &reporter);
    drop(reporter);
    let report = restored.map_err(|error| explain(error, &target, &options))?;
    if args.json {
        session.output.json(&report)?;
    }
    match report.dry_run {
        true if args.json => {}
        true => session.output.result(format!("{}\n", plan(&report)).as_bytes())?,
        false => tell(&report, &report.target, session),
    }
    judge(&report, session)
}

/// The folder for undoing, absolute, so that messages say where it is.
fn undo_folder(args: &Args) -> Result<Option<PathBuf>, Failure> {
    let absolute = |folder| {
        std::path::absolute(folder)
            .map_err(|error| Failure::message(format!("--undo: {error}; give a folder")))
    };
    args.undo.as_ref().map(absolute).transpose()
}

fn check_stdout(args: &Args, session: &Session) -> Result<(), Failure> {
    let problem = match () {
        () if args.json => {
            "both --json and the target '-' need standard output; leave one of them out"
        }
        () if args.force => "the target '-' overwrites nothing; leave --force out",
        () if args.undo.is_some() => "the target '-' overwrites nothing; leave --undo out",
        () if args.dry_run => "the target '-' has nothing to compare with; leave --dry-run out",
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
    options: &RestoreOptions,
    session: &Session,
) -> Result<RestoreReport, Failure> {
    // Past the standard library's buffer, which looks for ends of lines.
    let stdout = std::io::stdout().lock();
    let descriptor = stdout.as_fd().try_clone_to_owned().map_err(Failure::Output)?;
    let mut stream = File::from(descriptor);
    let reporter = session.reporter();
    let part = || Failure::interrupted("interrupted; standard output has only a part of the image");
    // Whoever reads it may have stopped to.
    let report = session.interrupt.or_give_up(
        || archive.restore_to_stream(number, &mut stream, options, &reporter),
        || {
            let status = part().report(&session.output, session.interrupt.by_ctrl_c());
            std::process::exit(status.into());
        },
    );
    drop(reporter);
    report.map_err(|error| match &error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe => {
            Failure::advised(error, "whoever read it has ended before all was written")
        }
        _ if error.kind() == ErrorKind::Interrupted => part(),
        _ => error.into(),
    })
}

fn configured_source(archive: &Archive) -> Result<PathBuf, Failure> {
    // Others must not say what is overwritten.
    archive.trusted()?.config()?.source.ok_or_else(|| {
        let path = archive.folder().join("backy.toml");
        Failure::advised(Error::NoSource { path }, "name a TARGET, or set it there")
    })
}

/// What has become of the target, where the engine only knows of the archive; and whether there is a way back.
fn explain(error: Error, target: &Path, options: &RestoreOptions) -> Failure {
    // A refusal changes nothing, and the archive in DIR may be another one.
    match error.kind() {
        ErrorKind::Target => return error.into(),
        ErrorKind::ArchiveExists | ErrorKind::Specification => {
            return Failure::advised(error, "name another folder for --undo, or leave it out");
        }
        _ => {}
    }
    let undo = options.undo.as_deref().filter(|folder| Archive::open(folder).is_ok());
    let way_back = undo.map(|folder| {
        let folder = folder.display();
        format!("'backy -b {folder} restore' brings back what it was")
    });
    if error.kind() != ErrorKind::Interrupted {
        return match way_back {
            Some(way_back) => Failure::advised(error, way_back),
            None => error.into(),
        };
    }
    // A new file is gone again; an existing one is there and holds a mixture.
    match (target.exists() && !options.dry_run, way_back) {
        (true, Some(way_back)) => Failure::interrupted(format!(
            "interrupted; {} may be half restored: run it again without --undo to complete it; {way_back}",
            target.display()
        )),
        (true, None) if options.undo.is_some() => {
            Failure::interrupted(format!("interrupted; {} is as it was", target.display()))
        }
        (true, None) => Failure::interrupted(format!(
            "interrupted; {} may be half restored: run it again to complete it",
            target.display()
        )),
        (false, _) if options.dry_run => Failure::interrupted("interrupted; nothing was written"),
        (false, _) => Failure::interrupted("interrupted; no target was made"),
    }
}

/// What a dry run has found out.
fn plan(report: &RestoreReport) -> String {
    let stretches = match report.written_extents {
        1 => "1 stretch".to_owned(),
        count => format!("{count} stretches"),
    };
    let what = match report.written_bytes {
        0 => "nothing".to_owned(),
        bytes => format!("{} in {stretches}", size(bytes)),
    };
    let to = match report.target_kind {
        TargetKind::NewFile => "to a new file, ",
        TargetKind::File => "to the file ",
        TargetKind::BlockDevice => "to the block device ",
        TargetKind::Stream => "to ",
    };
    format!(
        "A restore of revision {} would write {what} of {} {to}{}.",
        report.revision,
        size(report.size_bytes),
        escape::line(&report.target)
    )
}

/// Stretches that are named one by one.
const MAX_NAMED: usize = 100;

/// Says what could not be read; an error when there is anything.
fn judge(report: &RestoreReport, session: &Session) -> Result<(), Failure> {
    name_changed(report, session);
    if report.is_complete() {
        return Ok(());
    }
    for extent in report.unreadable.iter().take(MAX_NAMED) {
        let bytes = words::bytes(std::slice::from_ref(extent));
        session.output.warning(&format!("{bytes} could not be read; they are zero"));
    }
    if let Some(more) = report.unreadable.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
        session.output.warning(&format!("and {more} more stretches; --json names them all"));
    }
    let lost: u64 = report.unreadable.iter().map(|extent| extent.len).sum();
    let what = match lost {
        0 => "its digests are damaged, so that it cannot be said whether all of it is right"
            .to_owned(),
        lost => format!("{} of it could not be read and are zero", size(lost)),
    };
    Err(Failure::message(format!(
        "revision {}: {what}; 'backy status' says what is known of the archive",
        report.revision
    )))
}

/// Says where a target has been changed since a restore that is being undone.
fn name_changed(report: &RestoreReport, session: &Session) {
    for extent in report.changed_since.iter().take(MAX_NAMED) {
        let bytes = words::bytes(std::slice::from_ref(extent));
        session.output.warning(&format!(
            "{bytes} have changed since the restore, which did not overwrite them; they stay as they are"
        ));
    }
    if let Some(more) = report.changed_since.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
        session.output.warning(&format!("and {more} more stretches; --json names them all"));
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
    if let Some(undo) = &report.undo {
        session.output.note(&format!(
            "what it was is in {} ({}); 'backy -b {} restore' brings it back",
            undo.archive,
            size(undo.saved_bytes),
            undo.archive
        ));
    }
}
