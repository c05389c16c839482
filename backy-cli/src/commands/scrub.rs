//! `backy scrub`

use std::path::Path;

use backy_lib::escape;
use backy_lib::scrub::{Affected, Finding};
use backy_lib::select::{names, numbers};
use backy_lib::{
    ArchiveWriter, Budget, Clock, ErrorKind, RebuildReport, RevisionsSpec, ScrubOptions,
    ScrubReport, SystemClock,
};

use serde::Serialize;

use crate::Session;
use crate::cli::{REVISIONS_HELP, Verbosity, revisions};
use crate::errors::Failure;
use crate::output::{duration, size};
use crate::progress::Reporter;
use crate::waiting::Waiting;
use crate::words;

/// Check what is stored, and mend what can be mended
///
/// Reads every stored block once and compares it with its digest; checks files, headers and tables as well. Prints what is
/// wrong and which bytes of which revisions that costs, and exits with 1 when there is anything, mended or not. What was
/// found is recorded: 'status' is critical until it has been mended. A block is mended when its right bytes are elsewhere in
/// the archive; a file that was brought back from a copy of the archive is found to be right by the next scrub.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing and record nothing; needs no lock
    #[arg(short = 'n', long)]
    checkonly: bool,

    /// Stop reading after this time (30m, 4h) or this share of the stored bytes (10%); what waits longest comes first
    ///
    /// What was read waits since then, what never was since it was written. With a share of P % everything is read
    /// within 100 / P runs, rounded up, and one more.
    #[arg(long, value_name = "TIME|SHARE")]
    budget: Option<Budget>,

    /// First make a lost or damaged manifest.json anew, from the digest files and the deltas
    ///
    /// What only the manifest knew is lost, such as tags that were given later; it is said what.
    #[arg(long, conflicts_with = "checkonly")]
    rebuild: bool,

    /// With --rebuild: also when the manifest can be read
    #[arg(long, requires = "rebuild")]
    force: bool,

    #[command(flatten)]
    waiting: Waiting,

    /// Print a report for programs
    #[arg(long)]
    json: bool,

    /// Which revisions to read, together with the newer ones that they read through
    #[arg(default_value = "all", value_parser = revisions, long_help = REVISIONS_HELP)]
    revisions: RevisionsSpec,
}

impl Args {
    /// Whether nothing is changed.
    pub(crate) fn only_checks(&self) -> bool {
        self.checkonly
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let rebuilt = if args.rebuild { Some(rebuild(args, session)?) } else { None };
    let archive = session.archive()?;
    let archive = if args.checkonly { archive } else { archive.trusted()? };
    let chosen = args.revisions.resolve(archive.revisions())?;
    let names = names(archive.revisions(), &chosen);
    let mut options = ScrubOptions { budget: args.budget, ..ScrubOptions::default() };
    let is_all = args.revisions == RevisionsSpec::all();
    // Findings are the result, and are printed as such.
    let reporter = session.reporter().without_findings();
    let report = if args.checkonly {
        options.revisions = (!is_all).then_some(chosen);
        archive.check(&options, &SystemClock, &reporter)
    } else {
        let mut writer = session.writer(archive, "scrub", args.waiting, &session.reporter())?;
        if !is_all {
            options.revisions = Some(numbers(writer.archive().revisions(), &names)?);
        }
        writer.scrub(&options, &SystemClock, &reporter)
    };
    drop(reporter);
    let report = report.map_err(|error| match error.kind() {
        ErrorKind::Interrupted if args.checkonly => {
            Failure::interrupted("interrupted; nothing was changed")
        }
        ErrorKind::Interrupted => {
            Failure::interrupted("interrupted; what had been read until then is recorded")
        }
        _ => error.into(),
    })?;
    tell(args, &report, rebuilt, session)
}

/// What `--json` prints.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    report: &'a ScrubReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    rebuilt: Option<RebuildReport>,
}

/// Makes the manifest anew, and says what could not be known.
fn rebuild(args: &Args, session: &Session) -> Result<RebuildReport, Failure> {
    // What is unknown is told below, also without -v.
    let verbosity = session.verbosity.min(Verbosity::Normal);
    let reporter = Reporter::new(session, verbosity);
    let holder = Session::holder("scrub --rebuild");
    let rebuilt = ArchiveWriter::rebuild_within(
        &session.folder,
        session.trust,
        &holder,
        args.force,
        args.waiting.duration(),
        &reporter,
    );
    drop(reporter);
    let report = rebuilt.map_err(|error| match error.kind() {
        ErrorKind::Specification => Failure::advised(
            error,
            "--force makes it anew all the same, and loses what only the manifest knows",
        ),
        _ => error.into(),
    })?;
    for sentence in &report.unknown {
        session.output.warning(sentence);
    }
    if session.tells() {
        let count = words::count(report.revisions.len(), "revision");
        session.output.note(&format!("made manifest.json anew, with {count}"));
    }
    Ok(report)
}

fn tell(
    args: &Args,
    report: &ScrubReport,
    rebuilt: Option<RebuildReport>,
    session: &Session,
) -> Result<(), Failure> {
    if args.json {
        session.output.json(&Whole { report, rebuilt })?;
    } else {
        let text: String = report.findings.iter().map(describe).collect();
        session.output.result(text.as_bytes())?;
    }
    if session.tells() {
        session.output.note(&summary(report));
    }
    if report.findings.is_empty() {
        return Ok(());
    }
    Err(Failure::message(failure(args.checkonly, report, &session.folder)))
}

/// That there is something wrong, and what to do.
fn failure(checkonly: bool, report: &ScrubReport, folder: &Path) -> String {
    let count = words::count(report.findings.len(), "finding");
    let mended = report.findings.iter().filter(|finding| finding.repaired).count();
    let folder = folder.display();
    let open = || report.findings.iter().filter(|finding| !finding.repaired);
    let in_image = |finding: &Finding| finding.blocks.is_some() && finding.file == "last.raw";
    let advice = match open().any(|finding| !finding.affected.is_empty()) {
        true if open().all(in_image) => {
            "the next backup heals what the source still has; or get the file back from a copy of the archive and scrub again; what is not named above can be restored"
        }
        true => {
            "get the files back from a copy of the archive and scrub again; what is not named above can be restored"
        }
        false => "no revision is affected; put right what is named above, and scrub again",
    };
    match mended {
        _ if checkonly => format!(
            "{folder}: {count}; 'backy scrub' without -n records that and mends what it can"
        ),
        all if all == report.findings.len() => format!(
            "{folder}: {count}, mended; what was wrong once may be so again: look at the disk"
        ),
        0 => format!("{folder}: {count}; {advice}"),
        some => format!("{folder}: {count}, {some} of them mended; {advice}"),
    }
}

fn summary(report: &ScrubReport) -> String {
    let rate = match report.read_bytes as f64 / report.seconds {
        rate if rate.is_finite() => format!(", {}/s", size(rate as u64)),
        _ => String::new(),
    };
    format!(
        "read {} in {}{rate}; {}",
        size(report.read_bytes),
        duration(report.seconds),
        words::coverage(&report.coverage, SystemClock.now())
    )
}

/// Revisions that are shown of one finding.
const MAX_AFFECTED: usize = 8;

/// A finding with a line for each revision that it costs something.
fn describe(finding: &Finding) -> String {
    let done = if finding.repaired { "; mended" } else { "" };
    let mut text =
        format!("{}: {}{done}\n", escape::line(&finding.file), escape::line(&finding.message));
    for Affected { revision, number, extents } in finding.affected.iter().take(MAX_AFFECTED) {
        let bytes = words::bytes(extents);
        text.push_str(&format!("  revision {number} ({revision}) cannot be read at {bytes}\n"));
    }
    match finding.affected.len().saturating_sub(MAX_AFFECTED) {
        0 => {}
        more => text.push_str(&format!("  … and {more} more; --json has all\n")),
    }
    text
}
