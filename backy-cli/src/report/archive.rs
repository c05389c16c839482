//! The section on one archive.

use backy_lib::Level;
use backy_lib::check::Checked;
use backy_lib::escape;
use backy_lib::format::manifest::DrillReport;
use backy_lib::health::{OriginStatus, Run, TagStatus};
use backy_lib::status::{RevisionStatus, StatusReport};
use jiff::Timestamp;
use maud::{Markup, html};

use super::damage::Damage;
use super::problems::problems;
use super::text::{moment, name, path, percent, since, until};
use super::{charts, class, pill, tile, tile_of};
use crate::output::{duration, interval, signed_size, size};
use crate::words;

/// With `folded`, a healthy archive takes one line until somebody opens it.
pub(super) fn section(number: usize, checked: &Checked, folded: bool, now: Timestamp) -> Markup {
    let is_healthy = checked.health.level == Level::Ok;
    html! {
        @if folded && is_healthy {
            details.card.archive {
                summary {
                    (heading(number, checked))
                    @if let Some(status) = &checked.status { span.brief { (brief(status, now)) } }
                }
                // When somebody follows a link to folded content, the browser opens it.
                div.folded id={ "archive-" (number) } { (inside(number, checked, now)) }
            }
        } @else {
            section.card.archive id={ "archive-" (number) } aria-labelledby={ "name-" (number) } {
                (heading(number, checked))
                (inside(number, checked, now))
            }
        }
    }
}

fn heading(number: usize, checked: &Checked) -> Markup {
    html! {
        span.heading {
            h2 id={ "name-" (number) } { (escape::line(name(&checked.archive))) }
            (pill(checked.health.level))
        }
    }
}

/// Useful facts about a healthy archive.
fn brief(status: &StatusReport, now: Timestamp) -> String {
    let last = status
        .newest
        .as_ref()
        .map(|newest| format!("last backup {} ago", since(newest.started, now)));
    let stored = status.space.as_ref().map(|space| size(space.used_bytes));
    let revisions = words::count(status.revision_count, "revision");
    [last, Some(revisions), stored].into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

/// Everything but the heading. An archive that could not be examined has problems and nothing else.
fn inside(number: usize, checked: &Checked, now: Timestamp) -> Markup {
    html! {
        p.path { (path(&checked.archive)) }
        @if let Some(source) = checked.status.as_ref().and_then(|status| status.source.as_ref()) {
            p.path { "backs up " (path(source)) }
        }
        @if let Some(origin) = checked.status.as_ref().and_then(|status| status.origin.as_ref()) {
            p.path { "copy of " (escape::line(&origin.url)) ", " (pulled(origin, now)) }
        }
        @if checked.health.problems.is_empty() {
            p.well { (escape::line(&checked.health.summary)) "." }
        }
        (problems(&checked.health.problems, Some(&checked.archive)))
        @if let Some(status) = &checked.status { (body(number, status, now)) }
    }
}

/// When a copy was last pulled, and what it lacks.
fn pulled(origin: &OriginStatus, now: Timestamp) -> String {
    let last = match origin.last_pull {
        Some(last) => format!("pulled {} ago", since(last, now)),
        None => "no pull recorded".to_owned(),
    };
    match origin.left_out {
        Some(count) if count > 0 => {
            format!("{last}, {} newer left out", words::count(count, "revision"))
        }
        _ => last,
    }
}

fn body(number: usize, status: &StatusReport, now: Timestamp) -> Markup {
    html! {
        (tiles(status, now))
        @if let Some(holder) = &status.lock_holder {
            p.note { "In use at this moment by " (escape::line(holder)) "." }
        }
        @if status.revision_count > 0 {
            h3 { "Changes and revisions" }
            (charts::history(status, now))
        }
        h3 { "Verified" }
        div.verified { (verified(status, now)) }
        h3 { "Schedule" }
        (schedule(status, now))
        (runs(&status.last_runs))
        (revisions(number, &status.revisions))
    }
}

fn tiles(status: &StatusReport, now: Timestamp) -> Markup {
    let newest = status.newest.as_ref();
    let oldest = status.revisions.last();
    let reach =
        oldest.map_or_else(String::new, |oldest| format!("back {}", since(oldest.started, now)));
    let took =
        newest.map_or_else(String::new, |newest| format!("took {}", duration(newest.seconds)));
    let last = newest.map_or_else(
        || "none yet".to_owned(),
        |newest| format!("{} ago", since(newest.started, now)),
    );
    let used = status.space.as_ref().map(|space| size(space.used_bytes));
    let growth =
        status.space.as_ref().and_then(|space| space.growth_bytes_per_day).map(signed_size);
    html! {
        dl.tiles {
            (tile("Last backup", &last, &took))
            (tile("Revisions", &status.revision_count.to_string(), &reach))
            @if let Some(newest) = newest { (tile("Image", &size(newest.size_bytes), "")) }
            @if let Some(used) = used { (tile("Stored", &used, "")) }
            @if let Some(growth) = growth { (tile("Grows by", &growth, "a day")) }
            @if status.damaged_count > 0 {
                (tile_of("bad", "Damaged", &status.damaged_count.to_string(), "revisions"))
            }
        }
    }
}

/// What scrubs and drills have shown. Damage comes first, however much has been verified.
fn verified(status: &StatusReport, now: Timestamp) -> Markup {
    let share = status.coverage.verified_share.clamp(0.0, 1.0);
    let label = format!("{} of the stored data verified", percent(share));
    let damage = Damage::of(status);
    html! {
        @if status.revision_count == 0 {
            p.muted { "Nothing is stored yet." }
        } @else if let Some(damage) = damage {
            (charts::meter(1.0, true, &damage.long()))
            p { strong.bad { (words::sentence(&damage.long())) } }
            p.muted { "Of what is stored, " (percent(share)) " has been verified." }
        } @else {
            (charts::meter(share, false, &label))
            p { (words::sentence(&words::coverage(&status.coverage, now))) }
        }
        p {
            @match status.last_scrub {
                Some(time) => { "Last scrub " (moment(time)) ", " (since(time, now)) " ago." },
                None => { "No scrub yet." },
            }
        }
        (drill(status.drill.as_ref(), now))
    }
}

fn drill(drill: Option<&DrillReport>, now: Timestamp) -> Markup {
    html! {
        @if let Some(drill) = drill {
            p {
                "Last test restore " (moment(drill.started)) ", " (since(drill.started, now)) " ago: "
                @if drill.passed {
                    "passed in " (duration(drill.seconds)) ", " (size(drill.bytes_per_second)) "/s."
                } @else {
                    strong.bad { "failed" } ": " (escape::line(&drill.message)) "."
                }
            }
        } @else {
            p.muted { "No test restore yet: run 'backy drill'." }
        }
    }
}

fn schedule(status: &StatusReport, now: Timestamp) -> Markup {
    html! {
        @if status.schedule.is_empty() {
            p.muted { "There is no schedule: every run of 'backy backup' makes a backup." }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Schedule" {
                table.stack {
                    thead { tr {
                        th scope="col" { "Tag" }
                        th scope="col" { "Every" }
                        th.number scope="col" { "Keeps" }
                        th.number scope="col" { "Has" }
                        th scope="col" { "Last" }
                        th scope="col" { "Next" }
                        th scope="col" { "State" }
                    } }
                    tbody { @for tag in &status.schedule { (scheduled(tag, status.origin.is_some(), now)) } }
                }
            }
        }
    }
}

fn scheduled(tag: &TagStatus, is_copy: bool, now: Timestamp) -> Markup {
    let is_due = tag.due_at.is_none_or(|due| due <= now);
    html! {
        tr {
            th scope="row" { (tag.tag) }
            td.short data-label="Every" { (interval(tag.interval_seconds)) }
            td.number data-label="Keeps" { (tag.keep) }
            td.number data-label="Has" { (tag.revisions) }
            td data-label="Last" { @match tag.last { Some(last) => (moment(last)), None => "–" } }
            td.short data-label="Next" {
                @match tag.due_at {
                    Some(due) if !is_due => { "in " (until(due, now)) },
                    None if is_copy => { "–" },
                    _ => "due",
                }
            }
            td data-label="State" { (pill(tag.level)) }
        }
    }
}

fn runs(runs: &[Run]) -> Markup {
    html! {
        @if !runs.is_empty() {
            h3 { "Last runs" }
            div.scroll tabindex="0" role="region" aria-label="Last runs" {
                table.stack {
                    thead { tr {
                        th scope="col" { "Command" }
                        th scope="col" { "Ended" }
                        th scope="col" { "Result" }
                    } }
                    tbody {
                        @for run in runs {
                            tr {
                                th scope="row" { (escape::line(&run.operation)) }
                                td data-label="Ended" { (moment(run.finished)) }
                                td.text data-label="Result" {
                                    @if run.result == "ok" { "worked" }
                                    @else { strong.bad { (escape::line(&run.result)) } }
                                    @if let Some(error) = &run.error { ": " (escape::line(error)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Every revision: what the charts show, in words.
fn revisions(number: usize, revisions: &[RevisionStatus]) -> Markup {
    html! {
        @if !revisions.is_empty() {
            details.revisions {
                summary id={ "revisions-" (number) } { "All " (words::count(revisions.len(), "revision")) }
                div.scroll tabindex="0" role="region" aria-labelledby={ "revisions-" (number) } {
                    table {
                        thead { tr {
                            th.number scope="col" { "#" }
                            th scope="col" { "Started" }
                            th scope="col" { "Tags" }
                            th.number scope="col" { "Changed" }
                            th.number scope="col" { "Stored" }
                            th.number scope="col" { "Took" }
                            th scope="col" { "UUID" }
                        } }
                        tbody { @for revision in revisions { (row(revision)) } }
                    }
                }
            }
        }
    }
}

fn row(revision: &RevisionStatus) -> Markup {
    let tags = words::marked(&revision.tags, |tag| revision.pinned_tags.contains(tag)).join(", ");
    html! {
        tr {
            td.number { (revision.number) }
            th scope="row" { (moment(revision.started)) }
            td {
                (tags)
                @if !revision.damaged.is_empty() {
                    " " span class={ "pill " (class(Level::Critical)) } { "✕ damaged" }
                }
            }
            td.number { (size(revision.changed_bytes)) }
            td.number { (signed_size(revision.stored_bytes)) }
            td.number { (duration(revision.seconds)) }
            td { code { (revision.uuid) } }
        }
    }
}
