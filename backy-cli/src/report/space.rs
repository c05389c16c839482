//! How full the file systems of the archives are, and when they will be full: one bar for each, which its archives
//! share.

use backy_lib::check::Checked;
use backy_lib::health::{SharedSpace, Space};
use backy_lib::{HostReport, escape};
use jiff::Timestamp;
use maud::{Markup, html};

use super::charts;
use super::text::{day, name, path, until};
use crate::output::{signed_size, size};
use crate::words;

/// How far the forecast reaches, in days, and its words.
const AHEAD: [(i64, &str); 3] = [(30, "in 30 days"), (90, "in 90 days"), (365, "in a year")];

/// How many archives are named beside a bar.
const MAX_NAMES: usize = 5;

/// A card with all file systems.
pub(super) fn card(host: &HostReport) -> Markup {
    let shared: Vec<(&SharedSpace, Vec<(&Checked, &Space)>)> =
        host.file_systems.iter().map(|shared| (shared, members(host, shared))).collect();
    html! {
        @if !shared.is_empty() {
            section.card aria-labelledby="space" {
                h2 #space { "Space" }
                @for (shared, members) in &shared { (file_system(shared, members, host.checked)) }
                p.legend aria-hidden="true" {
                    (charts::key("other", "other files")) (charts::key("fill", "archives"))
                }
            }
        }
    }
}

/// The archives on a file system, that with most on it first.
fn members<'a>(host: &'a HostReport, shared: &SharedSpace) -> Vec<(&'a Checked, &'a Space)> {
    let of = |checked: &'a Checked| Some((checked, checked.status.as_ref()?.space.as_ref()?));
    let all = host.archives.iter().filter_map(of);
    let mut found: Vec<_> = all.filter(|(_, space)| space.device == shared.device).collect();
    found.sort_by_key(|(_, space)| std::cmp::Reverse(space.used_bytes));
    found
}

fn file_system(shared: &SharedSpace, members: &[(&Checked, &Space)], now: Timestamp) -> Markup {
    let parts: Vec<f64> = members.iter().map(|(_, space)| space.used_bytes as f64).collect();
    let is_full = share(shared, 0) >= 1.0;
    let folders: Vec<&str> = members.iter().map(|(checked, _)| checked.archive.as_str()).collect();
    let above = common(&folders);
    let label = format!("{}: {}", escape::line(&above), said(shared, 0));
    html! {
        div.file-system {
            p.path {
                strong { (path(&above)) }
                @if members.len() > 1 { ", " (words::count(members.len(), "archive")) }
            }
            (charts::stacked(&parts, others(shared), shared.size_bytes as f64, is_full, &label))
            p {
                strong.bad[is_full] { (said(shared, 0)) } ": "
                (size(shared.used_bytes)) " in archives, " (size(shared.free_bytes)) " free of "
                (size(shared.size_bytes)) "."
            }
            (growth(shared, now))
            @if members.len() > 1 { (shares(members)) }
        }
    }
}

/// Bytes of other files. Free is what backy may write; the reserve for root counts as used.
fn others(shared: &SharedSpace) -> f64 {
    let used = shared.size_bytes.saturating_sub(shared.free_bytes);
    used.saturating_sub(shared.used_bytes) as f64
}

/// How full it will be in so many days, if the archives keep growing like this and nothing else changes.
fn share(shared: &SharedSpace, days: i64) -> f64 {
    let grown = shared.growth_bytes_per_day.unwrap_or(0) as f64 * days as f64;
    let archives = (shared.used_bytes as f64 + grown).max(0.0);
    (archives + others(shared)) / shared.size_bytes.max(1) as f64
}

fn said(shared: &SharedSpace, days: i64) -> String {
    match share(shared, days) {
        full if full >= 1.0 => "full".to_owned(),
        // Not 100 while there is a rest.
        part => format!("{} % full", (part * 100.0).round().min(99.0)),
    }
}

fn growth(shared: &SharedSpace, now: Timestamp) -> Markup {
    html! {
        p {
            @match (shared.growth_bytes_per_day, shared.full_at) {
                (None, _) => span.muted { "Too few backups to forecast its growth." },
                (Some(bytes), Some(full)) => {
                    "Grows by " (signed_size(bytes)) " a day: "
                    strong { "full on " (day(full)) } ", in " (until(full, now)) "."
                },
                (Some(bytes), None) if bytes > 0 => {
                    "Grows by " (signed_size(bytes)) " a day: space for more than ten years."
                },
                (Some(bytes), None) => { "Does not grow: " (signed_size(bytes)) " a day." },
            }
        }
        @if shared.full_at.is_some() {
            ul.ahead {
                @for (days, when) in AHEAD {
                    li { (when) " " span.bad[share(shared, days) >= 1.0] { (said(shared, days)) } }
                }
            }
        }
    }
}

/// What each archive takes of it; of many only the largest.
fn shares(members: &[(&Checked, &Space)]) -> Markup {
    let rest = members.get(MAX_NAMES..).unwrap_or_default();
    html! {
        p.note {
            @for (number, (checked, space)) in members.iter().take(MAX_NAMES).enumerate() {
                @if number > 0 { ", " }
                (path(name(&checked.archive))) " " (size(space.used_bytes))
            }
            @if !rest.is_empty() {
                ", and " (words::count(rest.len(), "more archive")) " with "
                (size(rest.iter().map(|(_, space)| space.used_bytes).sum()))
            }
            "."
        }
    }
}

/// The folder that all of these are in, or the only one.
fn common(folders: &[&str]) -> String {
    let Some((first, rest)) = folders.split_first() else { return String::new() };
    let mut parts: Vec<&str> = first.split('/').collect();
    for folder in rest {
        let same = parts.iter().zip(folder.split('/')).take_while(|(a, b)| **a == *b).count();
        parts.truncate(same);
    }
    match parts.join("/") {
        above if above.is_empty() && first.starts_with('/') => "/".to_owned(),
        above if above.is_empty() => ".".to_owned(),
        above => above,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_named_by_the_folder_that_its_archives_share() {
        for (folders, expected) in [
            (&["/srv/backup/a"][..], "/srv/backup/a"),
            (&["/srv/backup/a", "/srv/backup/ab"], "/srv/backup"),
            (&["/srv/a", "/mnt/b"], "/"),
            (&["a", "b"], "."),
        ] {
            assert_eq!(common(folders), expected);
        }
    }

    /// A nearly full disk is not called full, and one without space is.
    #[test]
    fn full_is_said_only_of_what_is_full() {
        let shared = |free_bytes, growth_bytes_per_day| SharedSpace {
            archives: 1,
            used_bytes: 400,
            free_bytes,
            size_bytes: 1000,
            growth_bytes_per_day,
            ..SharedSpace::default()
        };
        assert_eq!(said(&shared(500, None), 0), "50 % full");
        assert_eq!(said(&shared(1, None), 0), "99 % full");
        assert_eq!(said(&shared(0, None), 0), "full");
        assert_eq!(said(&shared(500, Some(10)), 30), "80 % full");
        assert_eq!(said(&shared(500, Some(10)), 90), "full");
    }
}
