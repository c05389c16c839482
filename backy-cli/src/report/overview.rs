//! The table of all archives: how each stands, why, and the way to its section.

use backy_lib::check::Checked;
use backy_lib::status::StatusReport;
use backy_lib::{HostReport, Level, escape};
use jiff::Timestamp;
use maud::{Markup, html};

use super::damage::Damage;
use super::text::{name, path, percent, since};
use super::{charts, pill};
use crate::output::size;

/// The columns after those with the verdict and the archive, and whether they have figures. On a narrow page each name stands
/// before its cell.
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
                                (figures(checked.status.as_ref(), host.checked))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What is worst, where something is wrong.
fn reason(checked: &Checked) -> Markup {
    let is_bad = checked.health.level == Level::Critical;
    html! {
        @if checked.health.level > Level::Ok {
            span.reason.bad[is_bad] { (escape::line(&checked.health.summary)) }
        }
    }
}

fn figures(status: Option<&StatusReport>, now: Timestamp) -> Markup {
    let newest = status.and_then(|status| status.newest.as_ref());
    let space = status.and_then(|status| status.space.as_ref());
    let source = status.and_then(|status| status.source.as_ref());
    let damage = status.and_then(Damage::of);
    let figures = [
        newest.map(|newest| size(newest.size_bytes)),
        newest.map(|newest| format!("{} ago", since(newest.started, now))),
        status.map(|status| status.revision_count.to_string()),
        space.map(|space| size(space.used_bytes)),
    ];
    let names = COLUMNS.map(|(name, _)| name);
    html! {
        td.text data-label=(names[0]) { @match source { Some(source) => (path(source)), None => "–" } }
        @for (figure, name) in figures.iter().zip(&names[1..]) {
            td.number data-label=(name) { (figure.as_deref().unwrap_or("–")) }
        }
        td.number.verified data-label=(names[5]) {
            @match (damage, status) {
                (Some(damage), _) => strong.bad { (damage.short()) },
                (None, Some(status)) => (percent(status.coverage.verified_share)),
                (None, None) => "–",
            }
        }
        td.sparks data-label=(names[6]) {
            @match status { Some(status) => (charts::spark(status)), None => "–" }
        }
    }
}
