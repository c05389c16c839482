//! `backy pull`

use std::fmt::Write as _;

use backy_lib::origin::Address;
use backy_lib::pull::{LeftOut, PullPlan, PullReport, PullRequest};
use backy_lib::units::parse_rate;
use backy_lib::{Error, ErrorKind, PullOptions, RevisionsSpec, SpaceCheck};

use super::far::Far;
use crate::Session;
use crate::cli::{self, REVISIONS_HELP, Verbosity};
use crate::errors::Failure;
use crate::output::{duration, local_minute, signed_size, size};
use crate::progress::Planning;
use crate::waiting::Waiting;
use crate::words::count;

/// Pull revisions of another archive into this one, its copy
///
/// Adds the revisions of the archive ORIGIN that are newer than the newest one here, oldest first, with their names,
/// times and tags. Creates the copy if there is none. Reads only blocks that differ, and stores a revision only if its
/// digest is the one that the origin has. The copy expires revisions by its own schedule.
///
/// Never blocks or changes the origin. An interrupted pull continues when you run it again. Exits with 1 if anything is
/// missing: a block that the origin has lost, or a revision of -r. Over ssh it runs 'backy serve --stdio PATH' there.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Archive to pull from: a folder, or ssh://[USER@]HOST[:PORT]/PATH [default: the url in [origin] of backy.toml]
    origin: Option<Address>,

    #[command(flatten)]
    far: Far,

    #[arg(
        short,
        long,
        value_name = "REVISIONS",
        value_parser = cli::revisions,
        help = "Which revisions of the origin [default: all that the schedule here keeps]",
        long_help = REVISIONS_HELP
    )]
    revisions: Option<RevisionsSpec>,

    #[command(flatten)]
    waiting: Waiting,

    /// Only report which revisions it would pull, and which not
    #[arg(long)]
    dry_run: bool,

    /// Start even if a revision is expected not to fit on the disk
    #[arg(long)]
    no_space_check: bool,

    /// Read at most this many bytes of blocks per second, such as 100M
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    limit_rate: Option<u64>,

    /// Pull only if that is due by the interval in [origin] of backy.toml
    #[arg(long, hide = true, conflicts_with_all = ["origin", "revisions", "dry_run"])]
    when_due: bool,

    /// Print the report as JSON (with --dry-run the plan)
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Whether nothing is changed.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run
    }
}

pub(crate) fn run(args: Args, session: &Session) -> Result<(), Failure> {
    let options = PullOptions {
        revisions: args.revisions,
        limit_rate: args.limit_rate,
        space: match args.no_space_check {
            true => SpaceCheck::Explain,
            false => SpaceCheck::Require,
        },
        ..PullOptions::default()
    };
    let (folder, trust) = (session.folder.clone(), session.trust);
    let ssh = args.far.options(session)?;
    let request = match args.origin {
        Some(origin) => PullRequest { origin, ssh, folder, remember: true, trust, options },
        None => PullRequest::configured(folder, trust, ssh, options)?,
    };
    if args.dry_run {
        let planning = Planning(session);
        let plan = request.plan(&session.caller(args.waiting, &planning)).map_err(explain)?;
        return match args.json {
            true => session.output.json(&plan),
            false => session.output.result(describe(&plan).as_bytes()),
        };
    }
    session.begins();
    let reporter = session.reporter();
    let caller = session.caller(args.waiting, &reporter);
    let pulled = match args.when_due {
        true => request.run_if_due(&caller),
        false => request.run(&caller).map(Some),
    };
    drop(reporter);
    let Some(report) = pulled.map_err(explain)? else {
        if session.tells() {
            session.output.note("no pull is due");
        }
        return if args.json { session.output.json(&()) } else { Ok(()) };
    };
    if args.json {
        session.output.json(&report)?;
    } else if session.verbosity == Verbosity::Verbose || session.tells() {
        session.output.note(&summary(&report));
    }
    complete(&report, session)
}

/// An error if anything is missing, with a warning for each revision.
pub(super) fn complete(report: &PullReport, session: &Session) -> Result<(), Failure> {
    if report.is_complete() {
        return Ok(());
    }
    let missing = report.left_out.iter().filter(|left_out| left_out.requested);
    for LeftOut { uuid, why, .. } in missing {
        session
            .output
            .warning(&format!("{}: revision {uuid} was not pulled: {why}", report.origin));
    }
    Err(Failure::message(format!(
        "{}: pulled in part; the warnings name what is missing",
        report.origin
    )))
}

fn explain(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::Interrupted => Failure::interrupted(
            "interrupted; the pulled revisions are complete: run it again to continue",
        ),
        // The archive that is missing is the origin: advice on how to create it would mislead.
        ErrorKind::NoArchive => Failure::message(format!("{error}; name the archive to pull from")),
        ErrorKind::Source if !matches!(error, Error::Origin { .. }) => {
            Failure::message(error.to_string())
        }
        _ => error.into(),
    }
}

/// What a pull would do.
pub(super) fn describe(plan: &PullPlan) -> String {
    let mut text = String::new();
    for wanted in &plan.pull {
        let (uuid, when) = (wanted.uuid, local_minute(wanted.started));
        let _ = writeln!(text, "pull     {uuid}  {when}  {}", size(wanted.size_bytes));
    }
    for LeftOut { uuid, started, why, .. } in &plan.left_out {
        let _ = writeln!(text, "leave    {uuid}  {}  {why}", local_minute(*started));
    }
    for note in &plan.notes {
        let _ = writeln!(text, "{note}");
    }
    let here = count(plan.present, "revision");
    let _ = match plan.pull.len() {
        0 => writeln!(text, "Nothing to pull; {here} of the origin already here."),
        pull => writeln!(text, "{} to pull; {here} already here.", count(pull, "revision")),
    };
    text
}

pub(crate) fn summary(report: &PullReport) -> String {
    let pulled = &report.pulled;
    if pulled.is_empty() {
        return format!("nothing to pull from {}", report.origin);
    }
    let received = pulled.iter().map(|pulled| pulled.received_bytes).sum();
    let stored = pulled.iter().map(|pulled| pulled.stored_bytes).sum();
    let seconds = pulled.iter().map(|pulled| pulled.seconds).sum();
    format!(
        "pulled {} from {}: {} received in {}, {} more stored",
        count(pulled.len(), "revision"),
        report.origin,
        size(received),
        duration(seconds),
        signed_size(stored)
    )
}
