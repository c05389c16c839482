//! The page of `backy report`: HTML that needs no other file and no network.
//!
//! Every text passes through `maud`, which escapes it, and control characters are shown as such: paths and tags may
//! hold anything. The page has no script, and its own policy forbids any. Charts have no text, so that they can
//! stretch to any width; titles and tables have their values as well. The page computes nothing that the library does
//! not report.

mod archive;
mod charts;
mod damage;
mod overview;
mod problems;
mod space;
mod text;

use backy_lib::check::Checked;
use backy_lib::escape;
use backy_lib::{HostReport, Level};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::output::size;
use damage::Damage;
use problems::problems;
use text::{moment, until, zone};

const STYLE: &str = include_str!("style.css");
/// The page may fetch or run nothing. The icon is empty.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// The whole page.
pub(crate) fn page(host: &HostReport) -> String {
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let title = format!("Backups on {}", escape::line(&machine));
    let are_many = host.archives.len() > 1;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="generator" content={ "backy " (env!("CARGO_PKG_VERSION")) };
                link rel="icon" href="data:,";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header.page {
                    p.brand { "backy" }
                    h1 { (title) }
                    p.muted { "As of " (moment(host.checked)) ", " (zone(host.checked)) }
                }
                main {
                    (summary(host))
                    @if are_many { (overview::table(host)) }
                    (space::card(host))
                    @for (number, checked) in host.archives.iter().enumerate() {
                        (archive::section(number, checked, are_many, host.checked))
                    }
                }
                footer {
                    p {
                        "Made by backy " (env!("CARGO_PKG_VERSION")) " from the files of the archives alone. "
                        "Times are those of " (zone(host.checked)) "."
                    }
                }
            }
        }
    };
    page.into_string()
}

/// The verdict on all, and the problems that several archives share.
fn summary(host: &HostReport) -> Markup {
    let statuses = || host.archives.iter().filter_map(|checked| checked.status.as_ref());
    let stored: u64 = host.file_systems.iter().map(|shared| shared.used_bytes).sum();
    let free: u64 = host.file_systems.iter().map(|shared| shared.free_bytes).sum();
    let revisions: usize = statuses().map(|status| status.revision_count).sum();
    let damaged = statuses().filter(|status| Damage::of(status).is_some()).count();
    let full = host.file_systems.iter().filter_map(|shared| shared.full_at).min();
    let counts = [Level::Critical, Level::Unknown, Level::Warning, Level::Ok].map(|level| {
        let has = |checked: &&Checked| checked.health.level == level;
        (level, host.archives.iter().filter(has).count())
    });
    html! {
        section class={ "card verdict " (class(host.level)) } aria-labelledby="verdict" {
            h2 #verdict { (pill(host.level)) " " (headline(host.level)) }
            @if host.archives.len() > 1 {
                ul.counts {
                    @for (level, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
                        li { (pill(level)) " " strong { (count) } }
                    }
                }
            }
            dl.tiles {
                @if host.archives.len() > 1 { (tile("Archives", &host.archives.len().to_string(), "")) }
                (tile("Revisions", &revisions.to_string(), ""))
                @if damaged > 0 {
                    (tile_of("bad", "Damaged", &damaged.to_string(), if damaged == 1 { "archive" } else { "archives" }))
                }
                (tile("Stored", &size(stored), ""))
                (tile("Free", &size(free), &full.map_or_else(String::new, |full| {
                    format!("full in {}", until(full, host.checked))
                })))
            }
            (problems(&host.problems, None))
        }
    }
}

fn headline(level: Level) -> &'static str {
    match level {
        Level::Ok => "All backups are healthy",
        Level::Warning => "Somebody should look at the backups",
        Level::Critical => "Backups need attention now",
        Level::Unknown => "The state of some backups is unknown",
    }
}

/// A verdict as a sign and a word: many people cannot rely on colour alone.
fn pill(level: Level) -> Markup {
    let (sign, word) = match level {
        Level::Ok => ("✓", "OK"),
        Level::Warning => ("!", "Warning"),
        Level::Critical => ("✕", "Critical"),
        Level::Unknown => ("?", "Unknown"),
    };
    html! { span class={ "pill " (class(level)) } { span aria-hidden="true" { (sign) } " " (word) } }
}

fn class(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Warning => "warning",
        Level::Critical => "critical",
        Level::Unknown => "unknown",
    }
}

/// A figure with its name and its description.
fn tile(name: &str, figure: &str, remark: &str) -> Markup {
    tile_of("", name, figure, remark)
}

/// The same, in the colour of a class.
fn tile_of(class: &str, name: &str, figure: &str, remark: &str) -> Markup {
    html! {
        div {
            dt { (name) }
            dd { span class={ "figure " (class) } { (figure) } @if !remark.is_empty() { span.muted { (remark) } } }
        }
    }
}

#[cfg(test)]
mod tests;
