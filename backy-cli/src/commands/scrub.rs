//! `backy scrub`

use std::path::Path;

use backy_lib::escape;
use backy_lib::scrub::{Affected, Finding, ScrubRequest};
use backy_lib::{
    Archive, ArchiveWriter, Budget, Clock, ErrorKind, RebuildReport, RevisionsSpec, ScrubReport,
    SystemClock,
};
use serde::Serialize;

use crate::Session;
use crate::cli::{REVISIONS_HELP, Verbosity, revisions};
use crate::errors::Failure;
use crate::output::{duration, size};
use crate::progress::Reporter;
use crate::waiting::Waiting;
use crate::words;

/// Verify stored data and repair what can be repaired
///
/// Reads every stored block, compares it with its digest, and checks files, headers and tables. Prints each finding
/// with the bytes that revisions lose by it, and exits with 1 if there are findings, repaired or not. Records them:
/// 'status' is critical until they are repaired. backy repairs a block if the archive has its right bytes elsewhere.
/// If you restore a file from a copy of the archive, scrub again.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change and record nothing; needs no lock
    #[arg(short = 'n', long)]
    checkonly: bool,

    /// Stop after this time (30m, 4h) or share of the stored bytes (10%)
    ///
    /// Blocks that were not verified for the longest time come first. With a share of P %, 100 / P runs, rounded up,
    /// and one more verify everything.
    #[arg(long, value_name = "TIME|SHARE")]
    budget: Option<Budget>,

    /// Verify a tenth, if that is due for 'scrub_within' in backy.toml
    #[arg(long, conflicts_with_all = ["checkonly", "budget", "rebuild", "revisions"])]
    when_due: bool,

    /// First rebuild a lost or damaged manifest.json from the other files
    ///
    /// What only the manifest knew is lost, such as tags added later; backy prints what.
    #[arg(long, conflicts_with = "checkonly")]
    rebuild: bool,

    /// With --rebuild: even if the manifest is readable
    #[arg(long, requires = "rebuild")]
    force: bool,

    #[command(flatten)]
    waiting: Waiting,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,

    /// Which revisions to verify, with the newer ones that they need
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
    if args.when_due {
        return run_when_due(args, &archive, session);
    }
    let request = ScrubRequest {
        revisions: args.revisions.clone(),
        check_only: args.checkonly,
        budget: args.budget,
    };
    let reporter = session.reporter();
    let report = request.run(&archive, &session.caller(args.waiting, &reporter));
    drop(reporter);
    let report = report?;
    tell(args, &report, rebuilt, session)
}

fn run_when_due(args: &Args, archive: &Archive, session: &Session) -> Result<(), Failure> {
    let reporter = session.reporter();
    let done = ScrubRequest::run_if_due(archive, &session.caller(args.waiting, &reporter));
    drop(reporter);
    match done? {
        Some(report) => tell(args, &report, None, session),
        None => {
            if session.tells() {
                session.output.note("no scrub is due");
            }
            if args.json { session.output.json(&()) } else { Ok(()) }
        }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    report: &'a ScrubReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    rebuilt: Option<RebuildReport>,
}

/// Rebuilds the manifest, and lists what could not be determined.
fn rebuild(args: &Args, session: &Session) -> Result<RebuildReport, Failure> {
    // The unknown facts are printed below, also without -v.
    let verbosity = session.verbosity.min(Verbosity::Normal);
    let reporter = Reporter::new(session, verbosity);
    let caller = session.caller(args.waiting, &reporter);
    let rebuilt = ArchiveWriter::rebuild_within(
        &session.folder,
        session.trust,
        &caller.holder("scrub --rebuild"),
        args.force,
        caller.wait,
        &reporter,
    );
    drop(reporter);
    let report = rebuilt.map_err(|error| match error.kind() {
        ErrorKind::Specification => Failure::advised(
            error,
            "--force rebuilds it anyway, and loses what only the manifest knows",
        ),
        _ => error.into(),
    })?;
    for sentence in &report.unknown {
        session.output.warning(sentence);
    }
    if session.tells() {
        let count = words::count(report.revisions.len(), "revision");
        session.output.note(&format!("rebuilt manifest.json with {count}"));
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

/// Reports that there is a problem, and the remedy.
fn failure(checkonly: bool, report: &ScrubReport, folder: &Path) -> String {
    let count = words::count(report.findings.len(), "finding");
    let repaired = report.findings.iter().filter(|finding| finding.repaired).count();
    let folder = folder.display();
    let open = || report.findings.iter().filter(|finding| !finding.repaired);
    let in_image = |finding: &Finding| finding.blocks.is_some() && finding.file == "last.raw";
    let advice = match open().any(|finding| !finding.affected.is_empty()) {
        true if open().all(in_image) => {
            "the next backup repairs what the source still has; or restore the file from a copy of the archive \
             and scrub again; everything not named above can be restored"
        }
        true => {
            "restore the files from a copy of the archive and scrub again; everything not named above can be \
             restored"
        }
        false => "no revision is affected; correct what is named above and scrub again",
    };
    match repaired {
        _ if checkonly => {
            format!("{folder}: {count}; 'backy scrub' without -n records and repairs them")
        }
        all if all == report.findings.len() => {
            format!("{folder}: {count}, repaired; the disk may be failing: check it")
        }
        0 => format!("{folder}: {count}; {advice}"),
        some => format!("{folder}: {count}, {some} of them repaired; {advice}"),
    }
}

pub(crate) fn summary(report: &ScrubReport) -> String {
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

/// How many revisions are shown of one finding.
const MAX_AFFECTED: usize = 8;

/// A finding with a line for each revision that it costs something.
fn describe(finding: &Finding) -> String {
    let done = if finding.repaired { "; repaired" } else { "" };
    let mut text =
        format!("{}: {}{done}\n", escape::line(&finding.file), escape::line(&finding.message));
    for Affected { revision, number, extents, .. } in finding.affected.iter().take(MAX_AFFECTED) {
        let bytes = words::bytes(extents);
        text.push_str(&format!("  revision {number} ({revision}): {bytes} unreadable\n"));
    }
    match finding.affected.len().saturating_sub(MAX_AFFECTED) {
        0 => {}
        more => text.push_str(&format!("  … and {more} more; --json lists all\n")),
    }
    text
}
