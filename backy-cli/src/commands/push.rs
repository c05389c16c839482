//! `backy push`

use backy_lib::RevisionsSpec;
use backy_lib::origin::Address;
use backy_lib::pull::PullReport;
use backy_lib::push::PushRequest;
use backy_lib::units::parse_rate;

use super::far::Far;
use super::pull::{complete, describe};
use crate::Session;
use crate::cli::{self, REVISIONS_HELP, Verbosity};
use crate::errors::Failure;
use crate::output::{duration, size};
use crate::progress::Planning;
use crate::waiting::Waiting;
use crate::words::count;

/// Push revisions of this archive to its copy on another machine
///
/// The copy pulls them, as 'backy pull' there would: see there. For hosts that the copy cannot reach. Makes the copy if
/// there is none. Can only add revisions: what is deleted here stays there.
///
/// Over ssh this runs 'backy receive --stdio PATH' on the other machine. Exits with 1 if anything is missing there.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the copy is: a folder, or ssh://[USER@]HOST[:PORT]/PATH
    to: Address,

    #[command(flatten)]
    far: Far,

    #[arg(
        short,
        long,
        value_name = "REVISIONS",
        value_parser = cli::revisions,
        help = "Which revisions [default: all that the schedule of the copy keeps]",
        long_help = REVISIONS_HELP
    )]
    revisions: Option<RevisionsSpec>,

    #[command(flatten)]
    waiting: Waiting,

    /// Only report which revisions would be pushed, and which not
    #[arg(long)]
    dry_run: bool,

    /// Send at most this many bytes of blocks per second, such as 100M
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    limit_rate: Option<u64>,

    /// Print the report as JSON (with --dry-run the plan)
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args, session: &Session) -> Result<(), Failure> {
    let request = PushRequest {
        folder: session.folder.clone(),
        ssh: args.far.options(session)?,
        to: args.to,
        trust: session.trust,
        revisions: args.revisions,
        limit_rate: args.limit_rate,
    };
    if args.dry_run {
        let planning = Planning(session);
        let plan = request.plan(&session.caller(args.waiting, &planning))?;
        return match args.json {
            true => session.output.json(&plan),
            false => session.output.result(describe(&plan).as_bytes()),
        };
    }
    session.begins();
    let reporter = session.reporter();
    let pushed = request.run(&session.caller(args.waiting, &reporter));
    drop(reporter);
    let report = pushed?;
    if args.json {
        session.output.json(&report)?;
    } else if session.verbosity == Verbosity::Verbose || session.tells() {
        session.output.note(&summary(&report, &request.to));
    }
    complete(&report, session)
}

fn summary(report: &PullReport, to: &Address) -> String {
    let pulled = &report.pulled;
    if pulled.is_empty() {
        return format!("nothing to push to {to}");
    }
    let received = pulled.iter().map(|pulled| pulled.received_bytes).sum();
    let seconds = pulled.iter().map(|pulled| pulled.seconds).sum();
    let revisions = count(pulled.len(), "revision");
    format!("pushed {revisions} to {to}: {} sent in {}", size(received), duration(seconds))
}
