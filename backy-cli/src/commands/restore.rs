//! `backy restore`

use std::path::{Path, PathBuf};

use backy_lib::escape;
use backy_lib::restore::{Content, TargetKind, TargetLook};
use backy_lib::{
    Archive, Error, ErrorKind, RestoreOptions, RestoreReport, RevisionId, RevisionSpec, SystemClock,
};
use clap::ValueHint;

use crate::Session;
use crate::cli::{REVISION_HELP, check_file_name, revision};
use crate::errors::Failure;
use crate::output::{duration, local_minute, size};
use crate::stream::to_stdout;
use crate::words;

/// Restore a revision to a file, a device or the source
///
/// Verifies every block, and writes only blocks that differ. backy refuses a target that is mounted or in use, too
/// small, or inside the archive.
///
/// On a terminal, backy shows what it would overwrite and asks; --yes answers. In a script, it overwrites the source
/// only if that is the disk that was backed up and nobody has it open. Anything else that exists and is not blank
/// needs --force.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which revision [default: the newest]
    #[arg(short, long, value_name = "REV", value_parser = revision, long_help = REVISION_HELP)]
    revision: Option<RevisionSpec>,

    /// Overwrite an existing file or a device that is not blank
    #[arg(long)]
    force: bool,

    /// On a terminal, overwrite the target without asking
    #[arg(long)]
    yes: bool,

    /// Write nothing; report what would be written, or why it would be refused
    #[arg(long)]
    dry_run: bool,

    /// Fill unreadable blocks with zeros, list them, and continue
    ///
    /// Use it to get what is left out of a damaged archive. The exit status is 1 if a block was unreadable.
    #[arg(long)]
    keep_going: bool,

    /// Save what is overwritten in DIR, a new archive
    ///
    /// 'backy -b DIR restore' brings the target back, even if the restore was interrupted.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    undo: Option<PathBuf>,

    /// Start even if the target seems to have too little space
    #[arg(long)]
    no_space_check: bool,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,

    /// File or block device, or - for standard output [default: the source]; ./1 is a file named 1
    #[arg(value_hint = ValueHint::FilePath)]
    target: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let is_stdout = args.target.as_deref() == Some(Path::new("-"));
    if is_stdout {
        check_stdout(args, session)?;
    }
    if let Some(target) = &args.target {
        check_file_name(target)?;
    }
    let archive = session.archive()?;
    let wanted = args.revision.as_ref().unwrap_or(&RevisionSpec::Latest);
    let id = wanted.resolve(archive.revisions())?;
    let mut options = RestoreOptions {
        force: args.force,
        confirmed: None,
        dry_run: args.dry_run,
        keep_going: args.keep_going,
        undo: undo_folder(args)?,
        trust: session.trust,
        ignore_space: args.no_space_check,
        threads: None,
    };
    if is_stdout {
        let report = to_stream(&archive, id, &options, session)?;
        tell(&report, "standard output", session);
        return judge(&report, session);
    }
    let target = match &args.target {
        Some(target) => target.clone(),
        None => configured_source(&archive)?,
    };
    if session.output.can_ask() {
        // Without a write there is no question, and --yes is the answer.
        options.force |= args.yes || args.dry_run;
        if !args.yes && !args.dry_run {
            options.confirmed = confirm(&archive, id, &target, session)?;
        }
    }
    let reporter = session.reporter();
    let restored = archive.restore(id, &target, &options, &SystemClock, &reporter);
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

/// Shows what a restore would overwrite, and asks whether it may. `None` when it would overwrite nothing.
fn confirm(
    archive: &Archive,
    id: RevisionId,
    target: &Path,
    session: &Session,
) -> Result<Option<TargetLook>, Failure> {
    let reporter = session.reporter();
    let looked = archive.look_at_target(id, target, &reporter);
    drop(reporter);
    let Some(look) = looked? else { return Ok(None) };
    let mut numbered = archive.revisions().iter().enumerate();
    let found = numbered.find(|(_, revision)| revision.uuid == id);
    let Some((number, revision)) = found else { return Ok(None) };
    if look.is_revision(revision.size_bytes) {
        return Ok(None);
    }
    let made = local_minute(revision.started);
    let target = escape::line(&look.target).into_owned();
    session.output.note(&format!("this overwrites {target} with revision {number} of {made}:"));
    for line in describe(&look, revision.size_bytes) {
        session.output.note(&format!("  {line}"));
    }
    match session.output.ask(&format!("Overwrite {target}?"))? {
        true => Ok(Some(look)),
        false => Err(Failure::message(format!(
            "{target}: not restored, nothing was written; answer 'y' or use --yes"
        ))),
    }
}

/// The content of a target, a line for each thing.
fn describe(look: &TargetLook, revision_bytes: u64) -> Vec<String> {
    let kind = match look.target_kind {
        TargetKind::BlockDevice => "block device",
        _ => "file",
    };
    let mut lines = vec![match &look.objection {
        None => format!("a {kind} of {}, the source of this archive", size(look.size_bytes)),
        Some(why) => format!("a {kind} of {}; warning: {why}", size(look.size_bytes)),
    }];
    lines.extend(look.contents.iter().map(content));
    if look.contents.is_empty() {
        lines.push("no known file system".to_owned());
    }
    lines.extend(look.changed.map(|time| format!("last changed {}", local_minute(time))));
    lines.push(difference(look));
    if look.target_kind != TargetKind::BlockDevice && look.size_bytes != revision_bytes {
        lines.push(format!("its size changes to {}", size(revision_bytes)));
    }
    lines
}

/// `partition 2: ext4 'root'`
fn content(content: &Content) -> String {
    let place = content.partition.map(|number| format!("partition {number}: "));
    let label = content.file_system.label.as_ref().map(|label| format!(" '{label}'"));
    let (place, label) =
        (place.unwrap_or_default(), label.unwrap_or(" without a label".to_owned()));
    format!("{place}{}{label}", content.file_system.kind)
}

fn difference(look: &TargetLook) -> String {
    let (differing, compared) = (look.differing_bytes, look.compared_bytes);
    match differing {
        0 => format!("all {} that were compared are the same", size(compared)),
        _ => {
            let share = match u128::from(differing) * 100 / u128::from(compared.max(1)) {
                0 => "less than 1 %".to_owned(),
                percent => format!("{percent} %"),
            };
            format!(
                "{} of the {} that were compared differ ({share})",
                size(differing),
                size(compared)
            )
        }
    }
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
        () if args.json => "--json and the target '-' both need standard output; use one of them",
        () if args.force => "the target '-' overwrites nothing; omit --force",
        () if args.undo.is_some() => "the target '-' overwrites nothing; omit --undo",
        () if args.dry_run => "the target '-' has nothing to compare with; omit --dry-run",
        () if session.output.stdout_is_terminal() => {
            "standard output is a terminal; redirect it, or name a file"
        }
        () => return Ok(()),
    };
    Err(Failure::message(problem))
}

fn to_stream(
    archive: &Archive,
    id: RevisionId,
    options: &RestoreOptions,
    session: &Session,
) -> Result<RestoreReport, Failure> {
    to_stdout(session, "standard output has only part of the image", |stream, reporter| {
        archive.restore_to_stream(id, stream, options, reporter)
    })
}

fn configured_source(archive: &Archive) -> Result<PathBuf, Failure> {
    archive.trusted_source().map_err(|error| match error {
        Error::NoSource { .. } => Failure::advised(error, "name a TARGET, or set it there"),
        error => error.into(),
    })
}

/// The state of the target, where the engine only knows of the archive; and whether the restore can be undone.
fn explain(error: Error, target: &Path, options: &RestoreOptions) -> Failure {
    // A refusal changes nothing, and the archive in DIR may be another one.
    match error.kind() {
        ErrorKind::Target => return error.into(),
        ErrorKind::ArchiveExists | ErrorKind::Specification => {
            return Failure::advised(error, "name another folder for --undo, or omit it");
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
    // A new file is deleted again; an existing one stays and holds a mixture.
    match (target.exists() && !options.dry_run, way_back) {
        (true, Some(way_back)) => Failure::interrupted(format!(
            "interrupted; {} may be half restored: run it again without --undo to complete it; {way_back}",
            target.display()
        )),
        (true, None) if options.undo.is_some() => {
            Failure::interrupted(format!("interrupted; {} is as it was", target.display()))
        }
        (true, None) => Failure::interrupted(format!(
            "interrupted; {} is restored in part: run it again to complete it",
            target.display()
        )),
        (false, _) if options.dry_run => Failure::interrupted("interrupted; nothing was written"),
        (false, _) => Failure::interrupted("interrupted; no target was created"),
    }
}

/// The result of a dry run.
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

/// How many extents are listed one by one.
const MAX_NAMED: usize = 100;

/// Lists what could not be read. Returns an error if there is anything.
fn judge(report: &RestoreReport, session: &Session) -> Result<(), Failure> {
    name_changed(report, session);
    if report.is_complete() {
        return Ok(());
    }
    for extent in report.unreadable.iter().take(MAX_NAMED) {
        let bytes = words::bytes(std::slice::from_ref(extent));
        session.output.warning(&format!("{bytes} are unreadable and were filled with zeros"));
    }
    if let Some(more) = report.unreadable.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
        session.output.warning(&format!("and {more} more stretches; --json names them all"));
    }
    let lost: u64 = report.unreadable.iter().map(|extent| extent.len).sum();
    let what = match lost {
        0 => "its digests are damaged, so backy cannot tell whether all of it is right".to_owned(),
        lost => format!("{} are unreadable and were filled with zeros", size(lost)),
    };
    Err(Failure::message(format!(
        "revision {}: {what}; 'backy status' shows what else is damaged",
        report.revision
    )))
}

/// Lists where a target has been changed since a restore that is being undone.
fn name_changed(report: &RestoreReport, session: &Session) {
    for extent in report.changed_since.iter().take(MAX_NAMED) {
        let bytes = words::bytes(std::slice::from_ref(extent));
        session.output.warning(&format!(
            "{bytes} changed after the restore, which had not overwritten them; not touched"
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
        0 if report.size_bytes > 0 => "nothing differed, nothing written".to_owned(),
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
            "the overwritten data is in {} ({}); 'backy -b {} restore' brings it back",
            undo.archive,
            size(undo.saved_bytes),
            undo.archive
        ));
    }
}
