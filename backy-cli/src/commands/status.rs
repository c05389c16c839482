//! `backy status`

use backy_lib::check::Checked;
use backy_lib::escape;
use backy_lib::format::manifest::{DrillReport, Operation};
use backy_lib::health::{OriginStatus, Space, display_age};
use backy_lib::monitoring::{nagios, prometheus};
use backy_lib::status::{RevisionStatus, StatusReport, status};
use backy_lib::{Clock, RevisionsSpec, SystemClock};
use jiff::Timestamp;

use crate::Session;
use crate::cli::{REVISIONS_HELP, Verbosity, revisions};
use crate::errors::Failure;
use crate::output::{
    Colour, Output, duration, local_minute, local_second, problem_line, signed_size, size, verdict,
};
use crate::table::{self, Column, Table};
use crate::words;

/// List the revisions and report the health of the backups
///
/// Needs no lock: it works while a backup runs. The columns: number, local time at which the backup started,
/// beginning of the UUID, changed bytes, bytes added on disk, and tags. With -v: whole UUIDs, seconds, size,
/// duration, and the bytes that a damaged revision has lost.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print the report as JSON
    #[arg(long, group = "form")]
    json: bool,

    /// Print one line as a Nagios plugin and exit with its status
    ///
    /// The status is 0 ok, 1 warning, 2 critical or 3 unknown. Unknown means that backy could not find out: no
    /// archive, an unreadable manifest, wrong arguments. doc/scripting.md describes the figures, their limits and
    /// every problem.
    #[arg(long, group = "form")]
    check: bool,

    /// Print the figures in the text format of Prometheus
    ///
    /// For an archive that cannot be opened, backy_status is 3 and the exit status is 1. To have every command that
    /// changes the archive write these figures to a file, set textfile in [monitoring] of backy.toml.
    #[arg(long, group = "form")]
    prometheus: bool,

    /// Which revisions to show
    #[arg(default_value = "all", value_parser = revisions, long_help = REVISIONS_HELP)]
    revisions: RevisionsSpec,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let archive = known(session.archive(), args, session)?;
    let shown = args.revisions.resolve(archive.revisions())?;
    let looked = status(&archive, &shown, &SystemClock).map_err(Failure::from);
    let report = known(looked, args, session)?;
    if args.json {
        return session.output.json(&report);
    }
    if args.check {
        session.output.result(nagios(&report).as_bytes())?;
        return Err(Failure::Verdict(report.health.level.exit_status()));
    }
    if args.prometheus {
        return session.output.result(prometheus([&Checked::of(report)]).as_bytes());
    }
    let all = archive.revisions().iter().map(|revision| &revision.uuid);
    let shown = Shown {
        output: &session.output,
        verbosity: session.verbosity,
        name_length: words::telling_length(all),
    };
    let text = describe(&report, &shown, SystemClock.now());
    session.output.result(text.as_bytes())
}

/// What could be examined. Otherwise the figures say that it is unknown: with an empty file all series of the archive
/// would end, and with them their alerts.
fn known<T>(looked: Result<T, Failure>, args: &Args, session: &Session) -> Result<T, Failure> {
    if let (Err(Failure::Engine { error, .. }), true) = (&looked, args.prometheus) {
        let unknown = Checked::unreadable(&session.folder, error);
        session.output.result(prometheus([&unknown]).as_bytes())?;
    }
    looked
}

/// How a report is shown.
struct Shown<'a> {
    output: &'a Output,
    verbosity: Verbosity,
    /// Characters of a UUID that tell all revisions of the archive apart.
    name_length: usize,
}

fn describe(report: &StatusReport, shown: &Shown<'_>, now: Timestamp) -> String {
    let Shown { output, verbosity, .. } = *shown;
    let mut lines = vec![heading(report), String::new()];
    if !report.revisions.is_empty() {
        lines.extend(table(&report.revisions, shown));
        if verbosity == Verbosity::Verbose {
            lines.extend(report.revisions.iter().filter_map(damage));
        }
        lines.push(String::new());
        lines.push(words::sentence(&words::coverage(&report.coverage, now)));
    }
    lines.extend(read_everything(report));
    lines.extend(report.drill.as_ref().map(drill));
    lines.extend(report.space.as_ref().map(|space| room(space, now)));
    lines.extend(report.origin.as_ref().map(|origin| pulls(origin, now)));
    lines.extend(next_backup(report));
    lines.extend(at_work(report));
    lines.extend(health(report, output));
    lines.join("\n") + "\n"
}

/// Why the newest revision did not rely on what the source reports about changes, if it does.
fn read_everything(report: &StatusReport) -> Option<String> {
    let reason = report.newest.as_ref()?.hints.as_ref()?.reason.as_ref()?;
    let is_first = report.revision_count == 1;
    (!is_first).then(|| format!("The newest backup read everything: {}.", escape::line(reason)))
}

fn heading(report: &StatusReport) -> String {
    let source = match (&report.source, &report.origin) {
        (Some(source), _) => format!("source {}", escape::line(source)),
        (None, Some(origin)) => format!("copy of {}", escape::line(&origin.url)),
        (None, None) => match report.last_source.as_ref().filter(|last| last.is_archive()) {
            Some(last) => format!("copy of {}", escape::line(&last.path)),
            None => "no source".to_owned(),
        },
    };
    let blocks = size(report.block_size.bytes()).replace(".0 ", " ");
    let revisions = match &report.newest {
        Some(newest) => format!(", {}", size(newest.size_bytes)),
        None => ", no revisions yet".to_owned(),
    };
    format!("{}: {source}{revisions}, blocks of {blocks}", escape::line(&report.archive))
}

fn table(revisions: &[RevisionStatus], shown: &Shown<'_>) -> Vec<String> {
    let verbose = shown.verbosity == Verbosity::Verbose;
    // The heading has the size that all of them share.
    let sizes_differ = revisions.windows(2).any(|pair| match pair {
        [newer, older] => newer.size_bytes != older.size_bytes,
        _ => false,
    });
    let with_size = verbose || sizes_differ;
    let mut columns = vec![Column::Right("#"), Column::Left("started"), Column::Left("revision")];
    columns.extend(with_size.then_some(Column::Right("size")));
    columns.extend([Column::Right("changed"), Column::Right("stored")]);
    columns.extend(verbose.then_some(Column::Right("took")));
    columns.push(Column::Left("tags"));
    let mut table = Table::new(columns);
    for revision in revisions {
        let mut row = vec![revision.number.to_string()];
        row.extend(match verbose {
            true => [local_second(revision.started), revision.uuid.to_string()],
            false => {
                [local_minute(revision.started), words::short(revision.uuid, shown.name_length)]
            }
        });
        row.extend(with_size.then(|| size(revision.size_bytes)));
        row.extend([size(revision.changed_bytes), signed_size(revision.stored_bytes)]);
        row.extend(verbose.then(|| duration(revision.seconds)));
        row.push(tags(revision));
        table.row(row);
    }
    let (heading, rows) = table.lines((!verbose).then(table::width));
    let rows = rows.into_iter().zip(revisions).map(|(row, revision)| {
        if revision.damaged.is_empty() { row } else { shown.output.paint(Colour::Red, &row) }
    });
    [shown.output.paint(Colour::Bold, &heading)].into_iter().chain(rows).collect()
}

fn tags(revision: &RevisionStatus) -> String {
    let mut words =
        words::marked(&revision.tags, |tag| revision.pinned_tags.binary_search(tag).is_ok());
    if revision.base.is_none() && revision.number > 0 {
        words.push("[standalone]".to_owned());
    }
    if !revision.damaged.is_empty() {
        let bytes = revision.damaged.iter().map(|extent| extent.len).sum();
        words.push(format!("DAMAGED: {}", size(bytes)));
    }
    words.join(", ")
}

/// What cannot be read from a revision.
fn damage(revision: &RevisionStatus) -> Option<String> {
    let bytes = words::bytes(&revision.damaged);
    let number = revision.number;
    (!revision.damaged.is_empty()).then(|| format!("Revision {number}: {bytes} unreadable"))
}

/// The last test restore.
fn drill(drill: &DrillReport) -> String {
    let result = if drill.passed { "passed" } else { "FAILED" };
    format!(
        "Last drill: {}, revision {}: {result}, {} at {}/s",
        local_minute(drill.started),
        drill.revision,
        duration(drill.seconds),
        size(drill.bytes_per_second),
    )
}

/// Used and free space.
fn room(space: &Space, now: Timestamp) -> String {
    let growth = match (space.growth_bytes_per_day, space.full_at) {
        (Some(growth), Some(full)) => {
            let left = display_age(full.as_second() - now.as_second());
            format!("; it grows by {} a day, which leaves {left}", signed_size(growth))
        }
        (Some(growth), None) => format!("; it grows by {} a day", signed_size(growth)),
        (None, _) => String::new(),
    };
    format!(
        "The archive takes {}; {} of {} free{growth}.",
        size(space.used_bytes),
        size(space.free_bytes),
        size(space.size_bytes)
    )
}

/// When the copy was last pulled, what it lacks, and when the next pull is due.
fn pulls(origin: &OriginStatus, now: Timestamp) -> String {
    let last = match origin.last_pull {
        Some(last) => format!("Last pull: {}", local_minute(last)),
        None => "Last pull: none is recorded".to_owned(),
    };
    let behind = origin.behind_seconds.map(display_age);
    let behind =
        behind.map(|age| format!("; the newest revision is {age} old")).unwrap_or_default();
    let left_out = origin.left_out.filter(|count| *count > 0);
    let left_out =
        left_out.map(|count| format!("; {} newer left out", words::count(count, "revision")));
    let next = match origin.due_at {
        Some(due) if due > now => format!("the next is due at {}", local_minute(due)),
        Some(due) => format!("one has been due since {}", local_minute(due)),
        None => "one is due".to_owned(),
    };
    format!("{last}{behind}{}; {next}.", left_out.unwrap_or_default())
}

/// When the next backup is due according to the schedule.
fn next_backup(report: &StatusReport) -> Option<String> {
    if report.origin.is_some() {
        return None;
    }
    let next = report.schedule.iter().min_by_key(|tag| tag.due_at)?;
    report.newest.as_ref()?;
    Some(match next.due_at {
        None => format!("A backup is due: no revision has the tag {} yet.", next.tag),
        Some(time) if time <= report.checked => {
            format!("A backup has been due since {} ({}).", local_minute(time), next.tag)
        }
        Some(time) => format!("The next backup is due at {} ({}).", local_minute(time), next.tag),
    })
}

/// What is under way in the archive at this moment.
fn at_work(report: &StatusReport) -> Option<String> {
    let holder = escape::line(report.lock_holder.as_deref()?);
    Some(match &report.in_progress {
        Some(operation) if operation.operation == Operation::Backup => {
            format!("A backup has been running since {}: {holder}", local_minute(operation.started))
        }
        _ => format!("The archive is in use by {holder}"),
    })
}

/// The verdict, or each problem with its remedy, worst first.
fn health(report: &StatusReport, output: &Output) -> Vec<String> {
    let health = &report.health;
    if health.problems.is_empty() {
        return vec![verdict(health.level, &health.summary, output)];
    }
    health.problems.iter().map(|problem| problem_line(problem, output)).collect()
}
