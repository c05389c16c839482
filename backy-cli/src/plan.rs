//! Plans of `maintenance` and `rm` as text, and what has become of them.

use backy_lib::plan::Step;
use backy_lib::retention::Verdict;
use backy_lib::{Error, ErrorKind, MaintenancePlan, MaintenanceReport, Revision, RevisionId};

use crate::errors::Failure;
use crate::output::{Colour, Column, Output, Table, duration, local_minute, signed_size};
use crate::words;

/// The whole plan: a row for each revision, the steps, and the bytes that come free.
pub(crate) fn describe(plan: &MaintenancePlan, revisions: &[Revision], output: &Output) -> String {
    let mut lines = Vec::new();
    if !plan.verdicts.is_empty() {
        lines.extend(table(&plan.verdicts, revisions, output));
        lines.push(String::new());
    }
    let steps = plan.steps.iter().zip(1..);
    lines.extend(steps.map(|(step, number)| format!("{number}. {}", sentence(step, revisions))));
    let expires = plan.verdicts.iter().any(|verdict| !verdict.expired_tags.is_empty());
    lines.push(match (plan.steps.is_empty(), plan.frees_bytes) {
        (true, _) if expires => "Only tags expire; every revision stays.".to_owned(),
        (true, _) => "There is nothing to do.".to_owned(),
        (false, frees @ 0..) => format!("About {} come free.", signed_size(frees)),
        (false, needs) => format!("About {} more are needed.", signed_size(needs.saturating_neg())),
    });
    lines.join("\n") + "\n"
}

/// Says that nothing goes, and why.
pub(crate) fn warn_of_freeze(plan: &MaintenancePlan, output: &Output) {
    let Some(first) = plan.frozen.first() else { return };
    let more = match plan.frozen.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let advice =
        "see that it is in order ('backy status' says how), then 'backy maintenance --confirm'";
    output.warning(&format!("nothing expires: {}{more}; {advice}", first.message));
}

/// Says why far more stays than the schedule keeps.
pub(crate) fn warn_of_excess(plan: &MaintenancePlan, output: &Output) {
    if let Some(message) = &plan.excess {
        output.warning(&format!("{message}; 'backy maintenance -n' has the reason of each"));
    }
}

fn table(verdicts: &[Verdict], revisions: &[Revision], output: &Output) -> Vec<String> {
    let expires = verdicts.iter().any(|verdict| !verdict.expired_tags.is_empty());
    let mut columns = vec![
        Column::Right("#"),
        Column::Left("started"),
        Column::Left("UUID"),
        Column::Left("tags"),
        Column::Left("it"),
    ];
    columns.extend(expires.then_some(Column::Left("loses")));
    columns.push(Column::Left("reason"));
    let mut table = Table::new(columns);
    for verdict in verdicts {
        let revision = revisions.get(verdict.number);
        let mut row = vec![
            verdict.number.to_string(),
            revision.map_or_else(String::new, |revision| local_minute(revision.started)),
            verdict.uuid.to_string(),
            revision.map_or_else(String::new, |revision| words::tags(revision).join(", ")),
            if verdict.keep { "stays" } else { "goes" }.to_owned(),
        ];
        row.extend(expires.then(|| words::list(&verdict.expired_tags)));
        row.push(verdict.reason.clone());
        table.row(row);
    }
    let (heading, rows) = table.lines();
    let rows = rows
        .into_iter()
        .zip(verdicts)
        .map(|(row, verdict)| if verdict.keep { row } else { output.paint(Colour::Yellow, &row) });
    [output.paint(Colour::Bold, &heading)].into_iter().chain(rows).collect()
}

/// A step in words, with the numbers that the revisions have before all steps.
fn sentence(step: &Step, revisions: &[Revision]) -> String {
    let named = |ids: &[RevisionId]| {
        let mut numbers: Vec<usize> = ids
            .iter()
            .filter_map(|id| revisions.iter().position(|revision| revision.uuid == *id))
            .collect();
        numbers.sort_unstable();
        words::revisions(&numbers)
    };
    let one = |id: &RevisionId| named(std::slice::from_ref(id));
    match step {
        Step::Remove { revisions } => {
            format!("Remove {}, which nothing that stays reads through.", named(revisions))
        }
        Step::Merge { revisions, into } => {
            format!("Merge {} into {}, which reads through.", named(revisions), one(into))
        }
        Step::RollBack { revision, to } => {
            format!("Remove {}: the image becomes that of {}.", one(revision), one(to))
        }
        Step::Standalone { revision, reason } => {
            format!("Make {} independent of all others: {reason}.", one(revision))
        }
    }
}

/// What was done, in a line.
pub(crate) fn summary(report: &MaintenanceReport) -> String {
    let done = done(report);
    match report.confirmed.len() {
        0 => done,
        count => format!("confirmed {}; {done}", words::count(count, "alarm")),
    }
}

fn done(report: &MaintenanceReport) -> String {
    let gone = report.plan.verdicts.iter().filter(|verdict| !verdict.keep).count();
    let left = report.plan.verdicts.len() - gone;
    let expired = report.plan.verdicts.iter().filter(|v| v.keep && !v.expired_tags.is_empty());
    if report.plan.steps.is_empty() {
        return match expired.count() {
            0 => format!("nothing goes of {}", words::count(left, "revision")),
            _ => format!("tags expired; nothing goes of {}", words::count(left, "revision")),
        };
    }
    let room = match report.freed_bytes {
        freed @ 0.. => format!("{} freed", signed_size(freed)),
        taken => format!("{} more stored", signed_size(taken.saturating_neg())),
    };
    let standalone = report.plan.steps.iter().filter(|s| matches!(s, Step::Standalone { .. }));
    let removed = |count| format!("removed {}", words::count(count, "revision"));
    let made = |count| format!("made {} independent", words::count(count, "revision"));
    let done = match (gone, standalone.count()) {
        (gone, 0) => removed(gone),
        (0, count) => made(count),
        (gone, count) => format!("{}, {}", removed(gone), made(count)),
    };
    format!("{done} in {}, {room}; {left} left", duration(report.seconds))
}

/// What an interruption has left, where the engine only knows of one step.
pub(crate) fn explain(error: Error, next: &str) -> Failure {
    match error.kind() {
        ErrorKind::Interrupted => {
            Failure::interrupted(format!("interrupted; steps that were finished stay done: {next}"))
        }
        _ => error.into(),
    }
}
