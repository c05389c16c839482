//! The table of all archives: the verdict on each, the reason, and the link to its section.

use backy_lib::check::Checked;
use backy_lib::status::StatusReport;
use backy_lib::{HostReport, Level, escape};
use jiff::Timestamp;
use maud::{Markup, html};

use super::damage::Damage;
use super::text::{name, path, percent, since};
use super::{charts, pill};
use crate::output::size;

/// The columns after those with the verdict and the archive, and whether they have figures. On a narrow page each name
/// stands before its cell.
const COLUMNS: [(&str, bool); 7] = [
    ("Source", false),
    ("Size", true),
    ("Last backup", true),
    ("Revisions", true),
    ("Stored", true),
    ("Verified", true),
    ("Changed", false),
];

/// A row for each archive.
pub(super) fn table(host: &HostReport) -> Markup {
    html! {
        section.card aria-labelledby="archives" {
            h2 #archives { "Archives" }
            div.scroll tabindex="0" role="region" aria-labelledby="archives" {
                table.stack.overview {
                    thead { tr {
                        th scope="col" { "Verdict" }
                        th scope="col" { "Archive" }
                        @for (name, is_figure) in COLUMNS { th.number[is_figure] scope="col" { (name) } }
                    } }
                    tbody {
                        @for (number, checked) in host.archives.iter().enumerate() {
                            tr {
                                td.verdict-of { (pill(checked.health.level)) }
                                th.text scope="row" {
                                    a href={ "#archive-" (number) } { (escape::line(name(&checked.archive))) }
                                    span.path { (path(&checked.archive)) }
                                    (reason(checked))
                                }
                                @match &checked.status {
                                    Some(status) => (figures(status, host.checked)),
                                    None => td.none.muted colspan=(COLUMNS.len()) { "not readable" },
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The worst problem, where there is one.
fn reason(checked: &Checked) -> Markup {
    let is_bad = checked.health.level == Level::Critical;
    html! {
        @if checked.health.level > Level::Ok {
            @let summary = &checked.health.summary;
            // The path stands above it.
            @let own = summary.strip_prefix(checked.archive.as_str()).and_then(|rest| rest.strip_prefix(": "));
            span.reason.bad[is_bad] { (path(own.unwrap_or(summary))) }
        }
    }
}

fn figures(status: &StatusReport, now: Timestamp) -> Markup {
    let newest = status.newest.as_ref();
    let figures = [
        newest.map(|newest| size(newest.size_bytes)),
        newest.map(|newest| format!("{} ago", since(newest.started, now))),
        Some(status.revision_count.to_string()),
        status.space.as_ref().map(|space| size(space.used_bytes)),
    ];
    let names = COLUMNS.map(|(name, _)| name);
    html! {
        td.text data-label=(names[0]) {
            @match (&status.source, &status.origin) {
                (Some(source), _) => (path(source)),
                (None, Some(origin)) => { "copy of " (escape::line(&origin.url)) },
                (None, None) => "–",
            }
        }
        @for (figure, name) in figures.iter().zip(&names[1..]) {
            td.number data-label=(name) { (figure.as_deref().unwrap_or("–")) }
        }
        td.number.verified data-label=(names[5]) {
            @match Damage::of(status) {
                Some(damage) => strong.bad { (damage.short()) },
                None => (percent(status.coverage.verified_share)),
            }
        }
        td.sparks data-label=(names[6]) {
            (charts::spark(status))
        }
    }
}
