//! `backy maintenance`

use backy_lib::{MaintenanceOptions, SystemClock};

use crate::Session;
use crate::errors::Failure;
use crate::plan;
use crate::waiting::Waiting;

/// Let go what the schedule no longer keeps
///
/// A tag expires on a revision when as many newer ones as 'keep' in backy.toml says have it; a revision that has lost its
/// last tag goes. What others read from it is merged into them first. The newest revision always stays, so do pinned
/// ones, and the newest one without known damage. When it worked, nothing is printed (on a terminal, or with -v, it is
/// said in a line).
///
/// While a backup of which unusually much had changed, or damage, has not been confirmed, nothing goes and no
/// tag expires: that is told on standard error, and by 'status'. 'rm' works all the same. When far more
/// revisions stay than the schedule keeps, a warning says why.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say what would be done: for each revision whether it stays and why, then the steps
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Keep the N newest revisions, whatever the schedule says; those that are pinned stay as well
    #[arg(short, long, value_name = "N")]
    keep: Option<u32>,

    /// Confirm first that all alarms and all damage that 'status' tells of are seen to, so that revisions go again
    ///
    /// For those alone: the next unusual backup, or more damage, holds everything back again.
    #[arg(long)]
    confirm: bool,

    #[command(flatten)]
    waiting: Waiting,

    /// Print a report for programs: what was done (with --dry-run the plan)
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
    let archive = if args.dry_run { archive } else { archive.trusted()? };
    let (keep, confirm) = (args.keep, args.confirm);
    let options = MaintenanceOptions { keep, confirm, ..MaintenanceOptions::default() };
    // Before the lock: a config that cannot be read changes nothing at all.
    let planned = archive.plan_maintenance_at(&options, &SystemClock)?;
    if args.dry_run {
        plan::warn_of_freeze(&planned, &session.output);
        plan::warn_of_excess(&planned, &session.output);
        if args.json {
            return session.output.json(&planned);
        }
        let text = plan::describe(&planned, archive.revisions(), &session.output);
        return session.output.result(text.as_bytes());
    }
    let reporter = session.reporter();
    let mut writer = session.writer(archive, "maintenance", args.waiting, &reporter)?;
    let done = writer.maintain(&options, &SystemClock, &reporter);
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
