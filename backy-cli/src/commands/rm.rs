//! `backy rm`

use backy_lib::maintenance::RemovalRequest;
use backy_lib::{Error, RevisionsSpec};

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
    let request = RemovalRequest { revisions: args.revisions.clone(), force: args.force };
    if args.dry_run {
        let planned = request.plan(&archive).map_err(explain)?;
        if args.json {
            return session.output.json(&planned);
        }
        let text = plan::describe(&planned, archive.revisions(), &session.output);
        return session.output.result(text.as_bytes());
    }
    let reporter = session.reporter();
    let done = request.run(&archive, &session.caller(args.waiting, &reporter));
    drop(reporter);
    let report = done.map_err(explain)?;
    if args.json {
        session.output.json(&report)?;
    }
    if session.tells() {
        session.output.note(&plan::summary(&report));
    }
    Ok(())
}

fn explain(error: Error) -> Failure {
    match &error {
        Error::Pinned { .. } => Failure::advised(
            error,
            "use --force to delete pinned revisions, too, or unpin it with 'backy tag'",
        ),
        // The error says what to do itself.
        Error::Specification { .. } => Failure::advised(error, ""),
        _ => plan::explain(error, "'backy status' lists what is left"),
    }
}
