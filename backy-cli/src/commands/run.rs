//! `backy run`

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backy_lib::escape;
use backy_lib::fleet::{FleetPlan, FleetRequest, Job, parse_until};
use backy_lib::{Clock, ErrorKind, SystemClock};
use clap::ValueHint;
use jiff::Timestamp;

use crate::Session;
use crate::commands::absolute;
use crate::errors::{FAILURE_STATUS, Failure};
use crate::fleet_display::Display;
use crate::output::{Colour, Output, duration, local_minute};
use crate::table::{Column, Table};
use crate::words;

/// Do what is due in many archives
///
/// Each DIR is an archive, a folder that holds archives, or a pattern in quotes, such as '/srv/*/backup'; without one,
/// what /etc/backy/fleet.toml names. Looks at every archive, and runs the backup, the maintenance and the scrub that
/// are due, each as a process of its own, the most overdue backup first. Retries what failed, at most twice, after
/// all others. Makes archives that fleet.toml declares and that do not exist.
///
/// Prints nothing when nothing fails; otherwise a line for each failure, and exits with 1. An archive that another
/// process works on is no failure. A timer starts this; see fleet.md.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Archives, folders that hold archives, or patterns
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    folders: Vec<OsString>,

    /// Do at most N jobs at a time (default: one for each core, at most 4)
    #[arg(short, long, value_name = "N")]
    jobs: Option<NonZeroUsize>,

    /// Start nothing after this time of day, such as 06:00
    #[arg(long, value_name = "TIME", value_parser = until)]
    until: Option<Timestamp>,

    #[command(flatten)]
    fleet: Fleet,

    /// Only print what would be done and why, in the order in which it would start
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Print the report as JSON (with --dry-run the plan)
    #[arg(long)]
    json: bool,
}

fn until(text: &str) -> Result<Timestamp, String> {
    parse_until(text, &SystemClock)
}

/// `--fleet`, which every command has that works on many archives.
#[derive(clap::Args)]
pub(crate) struct Fleet {
    /// File with the settings for many archives [default: /etc/backy/fleet.toml]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    fleet: Option<PathBuf>,
}

impl Fleet {
    /// Whether the arguments name a file.
    pub(crate) fn is_given(&self) -> bool {
        self.fleet.is_some()
    }

    /// The archives that the arguments name, and the settings for all of them.
    pub(crate) fn request(
        &self,
        folders: &[OsString],
        session: &Session,
    ) -> Result<FleetRequest, Failure> {
        let given = folders.iter().map(|given| absolute("DIR", Path::new(given)));
        let folders = given.collect::<Result<Vec<_>, _>>()?;
        let fleet = self.fleet.as_ref().map(|path| absolute("--fleet", path)).transpose()?;
        let request = FleetRequest::of(folders, fleet.as_deref(), session.trust);
        request.map_err(|error| match error.kind() {
            // It says what to do itself.
            ErrorKind::Specification => Failure::message(error.to_string()),
            _ => error.into(),
        })
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let request = args.fleet.request(&args.folders, session)?;
    let request = FleetRequest { jobs: args.jobs, until: args.until, ..request };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    if args.dry_run {
        let plan = request.plan(&clock)?;
        return show_plan(&plan, args.json, session);
    }
    let display = Display::new(session);
    let report = request.run(&session.itself, &clock, &display);
    drop(display);
    let report = report?;
    // Whoever asks to stop does not wait for a verdict. The next run writes it.
    if !report.interrupted
        && let Err(error) = request.write_textfile(&report, &SystemClock)
    {
        let advice = "correct textfile in fleet.toml, or create its folder";
        session.output.warning(&format!("{error}; {advice}"));
    }
    if args.json {
        session.output.json(&report)?;
    }
    for problem in &report.problems {
        session.output.failure(&problem.to_string());
    }
    if report.interrupted {
        return Err(Failure::interrupted("stopped on request; what was finished stays done"));
    }
    if report.is_ok() { Ok(()) } else { Err(Failure::Verdict(FAILURE_STATUS)) }
}

fn show_plan(plan: &FleetPlan, json: bool, session: &Session) -> Result<(), Failure> {
    if json {
        session.output.json(plan)?;
    } else {
        session.output.result(describe(plan, &session.output).as_bytes())?;
    }
    for problem in &plan.problems {
        session.output.failure(&problem.to_string());
    }
    if plan.problems.is_empty() { Ok(()) } else { Err(Failure::Verdict(FAILURE_STATUS)) }
}

fn describe(plan: &FleetPlan, output: &Output) -> String {
    let mut lines = Vec::new();
    if !plan.jobs.is_empty() {
        let mut table = Table::new(vec![
            Column::Left("operation"),
            Column::Right("takes"),
            Column::Left("archive"),
            Column::Left("why"),
        ]);
        plan.jobs.iter().for_each(|job| table.row(row(job)));
        let (heading, rows) = table.lines(Some(crate::table::width()));
        lines.push(output.paint(Colour::Bold, &heading));
        lines.extend(rows);
        lines.push(String::new());
    }
    let due = match plan.jobs.len() {
        0 => "nothing is due".to_owned(),
        count => format!("{}, at most {} at a time", words::count(count, "job"), plan.limits.jobs),
    };
    let idle = words::count(plan.idle.len(), "archive");
    let next = plan.idle.iter().filter_map(|idle| Some((idle.next_due?, &idle.archive))).min();
    lines.push(match plan.idle.len() {
        0 => due,
        _ => format!("{due}; nothing to do in {idle}"),
    });
    lines.extend(next.map(|(time, archive)| {
        let archive = escape::line(archive);
        format!("the next backup is due at {}: {archive}", local_minute(time))
    }));
    lines.join("\n") + "\n"
}

fn row(job: &Job) -> Vec<String> {
    vec![
        job.operation.name().to_owned(),
        job.expected_seconds.map_or_else(|| "?".to_owned(), duration),
        escape::line(&job.archive).into_owned(),
        job.why.clone(),
    ]
}
