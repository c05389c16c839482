//! `backy rm`

use backy_lib::select::{check_unpinned, names, numbers};
use backy_lib::{ErrorKind, Revision, RevisionsSpec, SystemClock};

use crate::Session;
use crate::cli::{REVISIONS_HELP, revisions};
use crate::errors::Failure;
use crate::plan;
use crate::waiting::Waiting;

/// Delete the revisions that you name
///
/// Merges blocks that older revisions need into the next older one first, as maintenance does. Prints nothing when it
/// succeeds (on a terminal, or with -v, one line). You cannot delete the only revision.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only print the plan
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Also delete pinned revisions
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    waiting: Waiting,

    /// Print the report as JSON (with --dry-run the plan)
    #[arg(long)]
    json: bool,

    /// Which revisions
    #[arg(value_parser = revisions, long_help = REVISIONS_HELP)]
    revisions: RevisionsSpec,
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
    let chosen = args.revisions.resolve(archive.revisions())?;
    let planned = archive.plan_removal(&chosen).map_err(|error| match error.kind() {
        // It says what to do itself.
        ErrorKind::Specification => Failure::advised(error, ""),
        _ => error.into(),
    })?;
    if !args.force {
        check_pins(archive.revisions(), &chosen)?;
    }
    if args.dry_run {
        if args.json {
            return session.output.json(&planned);
        }
        let text = plan::describe(&planned, archive.revisions(), &session.output);
        return session.output.result(text.as_bytes());
    }
    let names = names(archive.revisions(), &chosen);
    let reporter = session.reporter();
    let mut writer = session.writer(archive, "rm", args.waiting, &reporter)?;
    let chosen = numbers(writer.archive().revisions(), &names)?;
    if !args.force {
        check_pins(writer.archive().revisions(), &chosen)?;
    }
    let done = writer.remove(&chosen, &SystemClock, &reporter);
    drop(reporter);
    let report = done.map_err(|error| plan::explain(error, "'backy status' lists what is left"))?;
    if args.json {
        session.output.json(&report)?;
    }
    if session.tells() {
        session.output.note(&plan::summary(&report));
    }
    Ok(())
}

/// Whoever has pinned a revision wants it kept.
fn check_pins(revisions: &[Revision], chosen: &[usize]) -> Result<(), Failure> {
    let advice = "use --force to delete pinned revisions, too, or unpin it with 'backy tag'";
    check_unpinned(revisions, chosen).map_err(|error| Failure::advised(error, advice))
}
