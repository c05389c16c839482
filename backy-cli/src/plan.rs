//! Plans of `maintenance` and `rm` as text, and their results.

use backy_lib::plan::Step;
use backy_lib::retention::Verdict;
use backy_lib::{Error, ErrorKind, MaintenancePlan, MaintenanceReport, Revision, RevisionId};

use crate::errors::Failure;
use crate::output::{Colour, Output, duration, local_minute, signed_size};
use crate::table::{self, Column, Table};
use crate::words;

/// The whole plan: a row for each revision, the steps, and the bytes that it frees.
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
        (true, _) if expires => "Only tags expire; no revision is deleted.".to_owned(),
        (true, _) => "Nothing to do.".to_owned(),
        (false, frees @ 0..) => format!("This frees about {}.", signed_size(frees)),
        (false, needs) => format!("This needs about {} more.", signed_size(needs.saturating_neg())),
    });
    lines.join("\n") + "\n"
}

/// Says that nothing expires, and why.
pub(crate) fn warn_of_freeze(plan: &MaintenancePlan, output: &Output) {
    let Some(first) = plan.frozen.first() else { return };
    let more = match plan.frozen.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let advice = "look into it ('backy status' shows how), then run 'backy maintenance --confirm'";
    output.warning(&format!("nothing expires: {}{more}; {advice}", first.message));
}

/// Says why the archive keeps far more than the schedule.
pub(crate) fn warn_of_excess(plan: &MaintenancePlan, output: &Output) {
    if let Some(message) = &plan.excess {
        output.warning(&format!("{message}; 'backy maintenance -n' shows why for each"));
    }
}

fn table(verdicts: &[Verdict], revisions: &[Revision], output: &Output) -> Vec<String> {
    let mut table = Table::new(vec![
        Column::Right("#"),
        Column::Left("started"),
        Column::Left("revision"),
        Column::Left("action"),
        Column::Left("reason"),
    ]);
    let length = words::telling_length(revisions.iter().map(|revision| &revision.uuid));
    for verdict in verdicts {
        let revision = revisions.get(verdict.number);
        // The reason of one that is deleted names them.
        let expired = match verdict.keep && !verdict.expired_tags.is_empty() {
            true => format!("; expired: {}", words::list(&verdict.expired_tags)),
            false => String::new(),
        };
        table.row(vec![
            verdict.number.to_string(),
            revision.map_or_else(String::new, |revision| local_minute(revision.started)),
            words::short(verdict.uuid, length),
            if verdict.keep { "keep" } else { "delete" }.to_owned(),
            format!("{}{expired}", verdict.reason),
        ]);
    }
    let (heading, rows) = table.lines(Some(table::width()));
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
    let them = |ids: &[RevisionId]| if ids.len() == 1 { "it" } else { "them" };
    match step {
        Step::Remove { revisions } => {
            format!("Delete {}: no other revision needs {}.", named(revisions), them(revisions))
        }
        Step::Merge { revisions, into } => {
            let (gone, them) = (named(revisions), them(revisions));
            format!("Merge {gone} into {}, then delete {them}.", one(into))
        }
        Step::RollBack { revision, to } => {
            format!("Delete {}: {} becomes the newest.", one(revision), one(to))
        }
        Step::Standalone { revision, reason } => {
            format!("Make {} standalone: {reason}.", one(revision))
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
            0 => format!("nothing to delete ({})", words::count(left, "revision")),
            _ => format!("tags expired; nothing to delete ({})", words::count(left, "revision")),
        };
    }
    let space = match report.freed_bytes {
        freed @ 0.. => format!("{} freed", signed_size(freed)),
        taken => format!("{} more stored", signed_size(taken.saturating_neg())),
    };
    let standalone = report.plan.steps.iter().filter(|s| matches!(s, Step::Standalone { .. }));
    let removed = |count| format!("deleted {}", words::count(count, "revision"));
    let made = |count| format!("made {} standalone", words::count(count, "revision"));
    let done = match (gone, standalone.count()) {
        (gone, 0) => removed(gone),
        (0, count) => made(count),
        (gone, count) => format!("{}, {}", removed(gone), made(count)),
    };
    format!("{done} in {}, {space}; {left} left", duration(report.seconds))
}

/// An interruption: the engine knows one step, this knows the whole plan.
pub(crate) fn explain(error: Error, next: &str) -> Failure {
    match error.kind() {
        ErrorKind::Interrupted => {
            Failure::interrupted(format!("interrupted; finished steps stay done: {next}"))
        }
        _ => error.into(),
    }
}
