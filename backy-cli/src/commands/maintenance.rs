//! `backy maintenance`

use backy_lib::{Archive, MaintenanceOptions, SystemClock};

use crate::Session;
use crate::errors::Failure;
use crate::plan;

/// Let go what the schedule no longer keeps
///
/// A tag expires on a revision when as many newer ones as 'keep' in backy.toml says have it; a revision that has lost its
/// last tag goes. What others read from it is merged into them first. The newest revision always stays, so do pinned
/// ones, and the newest one without known damage. When it worked, nothing is printed (on a terminal, or with -v, it is
/// said in a line).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say what would be done: for each revision whether it stays and why, then the steps
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Keep the N newest revisions, whatever the schedule says; those that are pinned stay as well
    #[arg(short, long, value_name = "N")]
    keep: Option<u32>,

    /// Print a report for programs: what was done (with --dry-run the plan)
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let archive = Archive::open(&session.folder)?;
    let options = MaintenanceOptions { keep: args.keep, ..MaintenanceOptions::default() };
    // Before the lock: a config that cannot be read changes nothing at all.
    let planned = archive.plan_maintenance(&options)?;
    if args.dry_run {
        if args.json {
            return session.output.json(&planned);
        }
        let text = plan::describe(&planned, archive.revisions(), &session.output);
        return session.output.result(text.as_bytes());
    }
    let reporter = session.reporter();
    let mut writer = session.writer(archive, "maintenance", &reporter)?;
    let done = writer.maintain(&options, &SystemClock, &reporter);
    drop(reporter);
    let report =
        done.map_err(|error| plan::explain(error, "the next 'backy maintenance' does the rest"))?;
    if args.json {
        session.output.json(&report)?;
    }
    if session.tells() {
        session.output.note(&plan::summary(&report));
    }
    Ok(())
}
