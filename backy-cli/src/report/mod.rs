//! The page of `backy report`: HTML that needs no other file and no network.
//!
//! Every text goes through `maud`, which escapes it, and control characters are shown as such: paths and tags may hold anything.
//! There is no script in the page, and its own policy forbids any. Charts are drawn without text, so that they may be stretched
//! to any width; what they say is in titles and tables as well. Nothing is computed that the library does not report.

mod archive;
mod charts;
mod forecast;

use backy_lib::check::Checked;
use backy_lib::escape;
use backy_lib::health::{Problem, display_age};
use backy_lib::status::StatusReport;
use backy_lib::{HostReport, Level};
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::output::{local_minute, size};

const STYLE: &str = include_str!("style.css");
/// Nothing may be fetched or run. The icon is none.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// The whole page.
pub(crate) fn page(host: &HostReport) -> String {
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let title = format!("Backups on {}", escape::line(&machine));
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
                    p.muted { "As of " (moment(host.checked)) }
                }
                main {
                    (summary(host))
                    @if host.archives.len() > 1 { (overview(host)) }
                    @for (number, checked) in host.archives.iter().enumerate() {
                        (archive::section(number, checked, host.checked))
                    }
                }
                footer {
                    p {
                        "Made by backy " (env!("CARGO_PKG_VERSION")) " from the files of the archives alone. "
                        "Times are local to the machine that made it."
                    }
                }
            }
        }
    };
    page.into_string()
}

/// The verdict on all, and what is wrong with several archives together.
fn summary(host: &HostReport) -> Markup {
    let statuses = || host.archives.iter().filter_map(|checked| checked.status.as_ref());
    let stored: u64 = host.file_systems.iter().map(|shared| shared.used_bytes).sum();
    let free: u64 = host.file_systems.iter().map(|shared| shared.free_bytes).sum();
    let revisions: usize = statuses().map(|status| status.revision_count).sum();
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
                (tile("Stored", &size(stored), ""))
                (tile("Free", &size(free), &full.map_or_else(String::new, |full| {
                    format!("full in {}", until(full, host.checked))
                })))
            }
            (problems(&host.problems))
        }
    }
}

fn headline(level: Level) -> &'static str {
    match level {
        Level::Ok => "All backups are well",
        Level::Warning => "Somebody should look at the backups",
        Level::Critical => "Backups need attention now",
        Level::Unknown => "Not all backups can be judged",
    }
}

/// A row for each archive, with the way to its section.
fn overview(host: &HostReport) -> Markup {
    html! {
        section.card aria-labelledby="archives" {
            h2 #archives { "Archives" }
            div.scroll tabindex="0" role="region" aria-labelledby="archives" {
                table {
                    thead { tr {
                        th scope="col" { "Verdict" }
                        th scope="col" { "Archive" }
                        th.number scope="col" { "Last backup" }
                        th.number.wide scope="col" { "Revisions" }
                        th.number.wide scope="col" { "Stored" }
                        th.number.wide scope="col" { "Verified" }
                    } }
                    tbody {
                        @for (number, checked) in host.archives.iter().enumerate() {
                            tr {
                                td { (pill(checked.health.level)) }
                                th.text scope="row" { a href={ "#archive-" (number) } { (escape::line(&checked.archive)) } }
                                (overview_figures(checked.status.as_ref(), host.checked))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn overview_figures(status: Option<&StatusReport>, now: Timestamp) -> Markup {
    let newest = status.and_then(|status| status.newest.as_ref());
    let space = status.and_then(|status| status.space.as_ref());
    let figure =
        |text: Option<String>| html! { td.number.wide { (text.as_deref().unwrap_or("–")) } };
    let last = newest.map(|newest| format!("{} ago", since(newest.started, now)));
    html! {
        td.number { (last.as_deref().unwrap_or("–")) }
        (figure(status.map(|status| status.revision_count.to_string())))
        (figure(space.map(|space| size(space.used_bytes))))
        (figure(status.map(|status| percent(status.coverage.verified_share))))
    }
}

/// What is wrong, and what to do about it.
fn problems(problems: &[Problem]) -> Markup {
    html! {
        @if !problems.is_empty() {
            ul.problems {
                @for problem in problems {
                    li class=(class(problem.level)) {
                        p { (pill(problem.level)) " " strong { (escape::line(&problem.message)) } }
                        p.advice { (escape::line(&problem.advice)) }
                    }
                }
            }
        }
    }
}

/// A verdict as a sign and a word: colour alone says nothing to many.
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

/// A figure with its name, and what there is to say of it.
fn tile(name: &str, figure: &str, remark: &str) -> Markup {
    html! {
        div { dt { (name) } dd { span.figure { (figure) } @if !remark.is_empty() { span.muted { (remark) } } } }
    }
}

/// A point in time that programs can read as well.
fn moment(time: Timestamp) -> Markup {
    html! { time datetime=(time.strftime("%Y-%m-%dT%H:%M:%SZ")) { (local_minute(time)) } }
}

/// The date where the reader is.
fn day(time: Timestamp) -> String {
    local_minute(time).split(' ').next().unwrap_or_default().to_owned()
}

/// `3 days`, without a word for the past.
fn since(time: Timestamp, now: Timestamp) -> String {
    display_age((now.as_second() - time.as_second()).max(0))
}

fn until(time: Timestamp, now: Timestamp) -> String {
    since(now, time)
}

/// Never rounded up to all.
fn percent(share: f64) -> String {
    let share = share.clamp(0.0, 1.0);
    match (share * 100.0) as u32 {
        0 if share > 0.0 => "< 1 %".to_owned(),
        whole => format!("{whole} %"),
    }
}

#[cfg(test)]
mod tests;
