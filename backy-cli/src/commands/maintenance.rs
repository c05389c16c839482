//! `backy maintenance`

use backy_lib::MaintenanceOptions;
use backy_lib::maintenance::MaintenanceRequest;

use crate::Session;
use crate::errors::Failure;
use crate::plan;
use crate::progress::Planning;
use crate::waiting::Waiting;

/// Delete revisions that the schedule no longer keeps
///
/// A tag expires when as many newer revisions have it as 'keep' in backy.toml says. A revision without tags is
/// deleted, after its blocks that older revisions need were merged into the next older one. backy always keeps the
/// newest revision, pinned ones, and the newest one without damage. Prints nothing when it succeeds (on a terminal,
/// or with -v, one line).
///
/// Nothing expires while an unusually large change or damage is unconfirmed; standard error and 'status' say so. 'rm'
/// still works.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only print the plan: what happens to each revision and why, and the steps
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Keep the N newest and the pinned revisions, whatever the schedule says
    #[arg(short, long, value_name = "N")]
    keep: Option<u32>,

    /// First confirm all alarms and all damage that 'status' reports
    ///
    /// Revisions expire again then. The next unusual backup or new damage stops that again.
    #[arg(long)]
    confirm: bool,

    #[command(flatten)]
    waiting: Waiting,

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

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let archive = session.archive()?;
    let (keep, confirm) = (args.keep, args.confirm);
    let options = MaintenanceOptions { keep, confirm, ..MaintenanceOptions::default() };
    let request = MaintenanceRequest { options };
    if args.dry_run {
        let planning = Planning(session);
        let planned = request.plan(&archive, &session.caller(args.waiting, &planning))?;
        plan::warn_of_freeze(&planned, &session.output);
        plan::warn_of_excess(&planned, &session.output);
        if args.json {
            return session.output.json(&planned);
        }
        let text = plan::describe(&planned, archive.revisions(), &session.output);
        return session.output.result(text.as_bytes());
    }
    let reporter = session.reporter();
    let done = request.run(&archive, &session.caller(args.waiting, &reporter));
    drop(reporter);
    let report =
        done.map_err(|error| plan::explain(error, "the next 'backy maintenance' does the rest"))?;
    plan::warn_of_freeze(&report.plan, &session.output);
    plan::warn_of_excess(&report.plan, &session.output);
    if args.json {
        session.output.json(&report)?;
    }
    if session.tells() {
        session.output.note(&plan::summary(&report));
    }
    Ok(())
}
