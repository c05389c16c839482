//! `backy check`

use std::ffi::OsString;

use backy_lib::check::Checked;
use backy_lib::escape;
use backy_lib::health::display_age;
use backy_lib::monitoring::{nagios_host, prometheus};
use backy_lib::progress::Silent;
use backy_lib::{HostReport, SystemClock};
use clap::ValueHint;
use jiff::Timestamp;

use crate::Session;
use crate::commands::run::Fleet;
use crate::errors::Failure;
use crate::output::{Colour, Output, level_colour, level_word, problem_line, size};
use crate::table::{Column, Table};

/// Report the health of many archives
///
/// Each DIR is an archive, a folder that holds archives, such as /srv/backup, or a pattern in quotes, such as
/// '/srv/*/backup'. Without one, /etc/backy/fleet.toml names them, and an expected archive that is missing, has another
/// source or was never backed up is critical. Prints a row for each archive, worst first, then each problem and what to
/// do about it. Takes no lock and changes nothing.
///
/// Reports as unknown whatever it cannot read: a folder without permission, a dead disk, an empty folder, a dangling
/// link, a pattern that matches nothing. Exits like a Nagios plugin: 0 ok, 1 warning, 2 critical, 3 unknown.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Archives, or folders that hold archives; without any, what fleet.toml names
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    folders: Vec<OsString>,

    #[command(flatten)]
    fleet: Fleet,

    /// Print the report as JSON
    #[arg(long, group = "form")]
    json: bool,

    /// Print one line as a Nagios plugin
    #[arg(long, group = "form")]
    nagios: bool,

    /// Print the figures in the text format of Prometheus, labelled by archive
    #[arg(long, group = "form")]
    prometheus: bool,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let request = args.fleet.request(&args.folders, session)?;
    let report = request.check(false, &SystemClock, &Silent)?;
    if args.json {
        session.output.json(&report)?;
    } else {
        let text = match () {
            () if args.nagios => nagios_host(&report),
            () if args.prometheus => prometheus(&report.archives),
            () => describe(&report, &session.output),
        };
        session.output.result(text.as_bytes())?;
    }
    Err(Failure::Verdict(report.level.exit_status()))
}

fn describe(report: &HostReport, output: &Output) -> String {
    let mut lines = table(report, output);
    let problems = report.archives.iter().flat_map(|checked| {
        let archive = escape::line(&checked.archive);
        let problems = checked.health.problems.iter();
        problems.map(move |problem| format!("{archive}: {}", problem_line(problem, output)))
    });
    let shared = report.problems.iter().map(|problem| problem_line(problem, output));
    let said: Vec<String> = problems.chain(shared).collect();
    if !said.is_empty() {
        lines.push(String::new());
        lines.extend(said);
    }
    lines.join("\n") + "\n"
}

fn table(report: &HostReport, output: &Output) -> Vec<String> {
    let mut table = Table::new(vec![
        Column::Left("verdict"),
        Column::Right("revisions"),
        Column::Right("last backup"),
        Column::Right("stored"),
        Column::Right("free"),
        Column::Left("archive"),
    ]);
    for checked in &report.archives {
        table.row(row(checked, report.checked));
    }
    // A path is never broken.
    let (heading, rows) = table.lines(None);
    let rows = rows.into_iter().zip(&report.archives).map(|(row, checked)| {
        let level = checked.health.level;
        row.replacen(level_word(level), &output.paint(level_colour(level), level_word(level)), 1)
    });
    [output.paint(Colour::Bold, &heading)].into_iter().chain(rows).collect()
}

fn row(checked: &Checked, now: Timestamp) -> Vec<String> {
    let unknown = || "-".to_owned();
    let status = checked.status.as_ref();
    let newest = status.and_then(|status| status.newest.as_ref());
    let space = status.and_then(|status| status.space.as_ref());
    vec![
        level_word(checked.health.level).to_owned(),
        status.map_or_else(unknown, |status| status.revision_count.to_string()),
        newest.map_or_else(unknown, |newest| {
            display_age(now.as_second() - newest.started.as_second())
        }),
        space.map_or_else(unknown, |space| size(space.used_bytes)),
        space.map_or_else(unknown, |space| size(space.free_bytes)),
        escape::line(&checked.archive).into_owned(),
    ]
}
