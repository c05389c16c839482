//! What the archive's disk holds now and later.

use backy_lib::health::Space;
use backy_lib::status::StatusReport;
use jiff::Timestamp;
use maud::{Markup, html};

use super::{charts, day, until};
use crate::output::{signed_size, size};

/// How far is looked ahead, in days, and how that is said.
const AHEAD: [(i64, &str); 4] =
    [(0, "now"), (30, "in 30 days"), (90, "in 90 days"), (365, "in a year")];

pub(super) fn space(status: &StatusReport, now: Timestamp) -> Markup {
    let Some(space) = &status.space else {
        return html! { p.muted { "The file system does not say how much room there is." } };
    };
    html! {
        ul.forecast {
            @for (days, when) in AHEAD.into_iter().filter(|(days, _)| *days == 0 || space.growth_bytes_per_day.is_some()) {
                (row(space, days, when))
            }
        }
        p.legend aria-hidden="true" {
            (charts::key("other", "other files"))
            (charts::key("fill", "this archive"))
        }
        p { (size(space.used_bytes)) " here, " (size(space.free_bytes)) " free of " (size(space.size_bytes)) "." }
        (growth(space, now))
    }
}

fn growth(space: &Space, now: Timestamp) -> Markup {
    html! {
        p {
            @match (space.growth_bytes_per_day, space.full_at) {
                (None, _) => span.muted { "Too few backups to say how fast it grows." },
                (Some(bytes), Some(full)) => {
                    "Grows by " (signed_size(bytes)) " a day: "
                    strong { "full in " (until(full, now)) } ", on " (day(full)) "."
                },
                (Some(bytes), None) if bytes > 0 => { "Grows by " (signed_size(bytes)) " a day: room for more than ten years." },
                (Some(bytes), None) => { "Does not grow: " (signed_size(bytes)) " a day." },
            }
        }
    }
}

/// How full the file system will be, if the archive goes on as it does and nothing else changes.
fn row(space: &Space, days: i64, when: &str) -> Markup {
    let whole = space.size_bytes.max(1) as f64;
    let grown = space.growth_bytes_per_day.unwrap_or(0) as f64 * days as f64;
    let own = (space.used_bytes as f64 + grown).max(0.0);
    // Free is what backy may write; what is kept for root counts as used.
    let others = space.size_bytes.saturating_sub(space.free_bytes).saturating_sub(space.used_bytes);
    let used = (own + others as f64) / whole;
    let is_over = used >= 1.0;
    let said = match is_over {
        true => "full".to_owned(),
        false => format!("{} % full", (used * 100.0).round()),
    };
    html! {
        li {
            span.label { (when) }
            (charts::stacked(own / whole, others as f64 / whole, is_over, &format!("{when}: {said}")))
            span.value { @if is_over { strong.bad { (said) } } @else { (said) } }
        }
    }
}
