//! Charts without text: they are stretched to the width that there is, and what they say is beside them.
//!
//! However many revisions there are, a chart has as many marks as can be told from each other.

use std::collections::{BTreeMap, BTreeSet};

use backy_lib::status::{RevisionStatus, StatusReport};
use jiff::Timestamp;
use maud::{Markup, html};

use super::day;
use crate::output::{local_minute, size};
use crate::words;

/// Width of a chart in its own units.
const WIDTH: f64 = 1000.0;
/// Marks that fit beside each other in a row of the time line.
const PLACES: usize = 160;
/// Rows of the time line; further tags share the last one.
const MAX_ROWS: usize = 8;
/// Bars that fit beside each other.
const MAX_BARS: usize = 60;
const BAR_HEIGHT: f64 = 100.0;

/// When revisions were made: a row for each tag, and marks from left to right.
pub(super) fn time_line(status: &StatusReport, now: Timestamp) -> Markup {
    let revisions = &status.revisions;
    let Some(first) = revisions.iter().map(|revision| revision.started).min() else {
        return html! { p.muted { "There are no revisions yet." } };
    };
    let newest = revisions.iter().map(|revision| revision.started).max().unwrap_or(now).max(now);
    let span = (newest.as_second() - first.as_second()).max(1) as f64;
    let place = |time: Timestamp| {
        let share = (time.as_second() - first.as_second()) as f64 / span;
        ((share * (PLACES - 1) as f64).round() as usize).min(PLACES - 1)
    };
    let middle = Timestamp::from_second(first.as_second() + (span / 2.0) as i64).unwrap_or(now);
    html! {
        div.timeline role="group" aria-label="When revisions were made, by tag" {
            @for (name, members) in rows(revisions, status) {
                div.row {
                    span.label { (name) }
                    (marks(&name, &members, place))
                    span.count { (members.len()) }
                }
            }
            div.axis aria-hidden="true" {
                span { (day(first)) }
                span { (day(middle)) }
                span { "now" }
            }
        }
        p.legend aria-hidden="true" {
            (key("mark", "revision"))
            @if revisions.iter().any(|revision| !revision.pinned_tags.is_empty()) { (key("pinned", "pinned")) }
            @if status.damaged_count > 0 { (key("damaged", "damaged")) }
        }
    }
}

/// The tags of the schedule in its order, then those given by hand; then what has no tag.
fn rows<'a>(
    revisions: &'a [RevisionStatus],
    status: &StatusReport,
) -> Vec<(String, Vec<&'a RevisionStatus>)> {
    let scheduled = status.schedule.iter().map(|tag| tag.tag.to_string());
    let found: BTreeSet<String> =
        revisions.iter().flat_map(|revision| &revision.tags).map(ToString::to_string).collect();
    let mut names: Vec<String> = scheduled.filter(|name| found.contains(name)).collect();
    names.extend(found.iter().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>());
    let others = if names.len() > MAX_ROWS { names.split_off(MAX_ROWS - 1) } else { Vec::new() };
    let with = |wanted: &[String]| -> Vec<&'a RevisionStatus> {
        let has = |revision: &&RevisionStatus| {
            revision.tags.iter().any(|tag| wanted.iter().any(|name| name == tag.as_str()))
        };
        revisions.iter().filter(has).collect()
    };
    let mut rows: Vec<_> =
        names.into_iter().map(|name| (name.clone(), with(std::slice::from_ref(&name)))).collect();
    if !others.is_empty() {
        rows.push((format!("{} other tags", others.len()), with(&others)));
    }
    let untagged: Vec<_> = revisions.iter().filter(|revision| revision.tags.is_empty()).collect();
    if !untagged.is_empty() {
        rows.push(("no tag".to_owned(), untagged));
    }
    rows
}

/// One mark for all revisions that fall on the same place.
fn marks(name: &str, members: &[&RevisionStatus], place: impl Fn(Timestamp) -> usize) -> Markup {
    let mut places: BTreeMap<usize, Vec<&RevisionStatus>> = BTreeMap::new();
    for revision in members {
        places.entry(place(revision.started)).or_default().push(revision);
    }
    let title = format!("{name}: {}", words::count(members.len(), "revision"));
    let step = WIDTH / PLACES as f64;
    html! {
        svg viewBox="0 0 1000 20" preserveAspectRatio="none" role="img" aria-label=(title) {
            line.rail x1="0" y1="10" x2="1000" y2="10" {}
            @for (at, here) in places {
                @let x = format!("{:.1}", (at as f64 + 0.5) * step);
                line class=(kind(&here)) x1=(x) y1="5" x2=(x) y2="15" { title { (caption(&here)) } }
            }
        }
    }
}

fn kind(here: &[&RevisionStatus]) -> &'static str {
    if here.iter().any(|revision| !revision.damaged.is_empty()) {
        "mark damaged"
    } else if here.iter().any(|revision| !revision.pinned_tags.is_empty()) {
        "mark pinned"
    } else {
        "mark"
    }
}

fn caption(here: &[&RevisionStatus]) -> String {
    match here {
        [revision] => format!("{}, revision {}", local_minute(revision.started), revision.number),
        [newest, .., oldest] => format!(
            "{} to {}, {}",
            local_minute(oldest.started),
            local_minute(newest.started),
            words::count(here.len(), "revision")
        ),
        [] => String::new(),
    }
}

/// Some backups in a row, as one bar.
struct Bar<'a> {
    /// Newest first.
    backups: &'a [RevisionStatus],
    /// Most that one of them changed.
    bytes: u64,
    is_alarming: bool,
}

/// How much had changed in each backup, oldest on the left.
pub(super) fn changes(status: &StatusReport) -> Markup {
    let bars = bars(status);
    if bars.is_empty() {
        return html! { p.muted { "There are no backups yet." } };
    }
    let limit = limit(&bars);
    let cut = bars.iter().map(|bar| bar.bytes).filter(|bytes| *bytes > limit).max();
    let usual = status
        .change
        .zip(status.newest.as_ref())
        .map(|(change, newest)| (change.usual_share * newest.size_bytes as f64) as u64);
    let per_bar = bars.first().map_or(1, |bar| bar.backups.len());
    let label = format!(
        "Bytes changed by {}, at most {}",
        words::count(status.revisions.len(), "backup"),
        size(bars.iter().map(|bar| bar.bytes).max().unwrap_or(0))
    );
    html! {
        div.bars {
            div.scale aria-hidden="true" { span { (size(limit)) } span { (size(limit / 2)) } span { "0" } }
            (plot(&bars, limit, usual, &label))
        }
        div.axis.of-bars aria-hidden="true" {
            span { (bars.first().and_then(|bar| bar.backups.last()).map_or_else(String::new, |r| day(r.started))) }
            span { (bars.last().and_then(|bar| bar.backups.first()).map_or_else(String::new, |r| day(r.started))) }
        }
        p.legend {
            @if per_bar > 1 {
                "Each bar is the largest of up to " (per_bar) " backups in a row. "
            }
            @if let Some(usual) = usual.filter(|usual| *usual <= limit) {
                (key("usual", &format!("usual: {}", size(usual))))
            }
            @if bars.iter().any(|bar| bar.is_alarming) { (key("alarming", "unusually much")) }
            @if let Some(cut) = cut { (key("cut", &format!("cut off, up to {}", size(cut)))) }
        }
    }
}

/// What a colour means.
pub(super) fn key(class: &str, meaning: &str) -> Markup {
    html! { span.item { span class={ "key " (class) } {} (meaning) } " " }
}

fn bars(status: &StatusReport) -> Vec<Bar<'_>> {
    let alarming: BTreeSet<_> = status.alarms.iter().map(|alarm| alarm.revision).collect();
    let per_bar = status.revisions.len().div_ceil(MAX_BARS).max(1);
    let bars = status.revisions.chunks(per_bar).map(|backups| Bar {
        backups,
        bytes: backups.iter().map(|revision| revision.changed_bytes).max().unwrap_or(0),
        is_alarming: backups.iter().any(|revision| alarming.contains(&revision.uuid)),
    });
    let mut bars: Vec<_> = bars.collect();
    bars.reverse();
    bars
}

/// What the height of the chart stands for. One bar that is far above all others does not make them invisible.
fn limit(bars: &[Bar<'_>]) -> u64 {
    let mut heights: Vec<u64> = bars.iter().map(|bar| bar.bytes).collect();
    heights.sort_unstable_by_key(|bytes| std::cmp::Reverse(*bytes));
    match heights[..] {
        [first, second, ..] if second > 0 && first / 4 > second => second + second / 4,
        [first, ..] => first.max(1),
        [] => 1,
    }
}

fn plot(bars: &[Bar<'_>], limit: u64, usual: Option<u64>, label: &str) -> Markup {
    // Few bars are not made wider than they are high.
    let step = WIDTH / bars.len().max(12) as f64;
    let height = |bytes: u64| (bytes.min(limit) as f64 / limit as f64 * BAR_HEIGHT).max(0.8);
    html! {
        svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label=(label) {
            @for y in ["0.5", "50", "99.5"] { line.rail x1="0" y1=(y) x2="1000" y2=(y) {} }
            @for (number, bar) in bars.iter().enumerate() {
                @let high = height(bar.bytes);
                rect class={ "bar" @if bar.is_alarming { " alarming" } @if bar.bytes > limit { " cut" } }
                    x=(format!("{:.1}", number as f64 * step + step * 0.1)) width=(format!("{:.1}", step * 0.8))
                    y=(format!("{:.1}", BAR_HEIGHT - high)) height=(format!("{high:.1}")) {
                    title { (bar_caption(bar)) }
                }
            }
            @if let Some(usual) = usual.filter(|usual| *usual <= limit) {
                @let y = format!("{:.1}", BAR_HEIGHT - height(usual));
                line.usual x1="0" y1=(y) x2="1000" y2=(y) {}
            }
        }
    }
}

fn bar_caption(bar: &Bar<'_>) -> String {
    match bar.backups {
        [one] => format!("{}: {} changed", local_minute(one.started), size(one.changed_bytes)),
        [newest, .., oldest] => format!(
            "{} to {}: at most {} changed",
            local_minute(oldest.started),
            local_minute(newest.started),
            size(bar.bytes)
        ),
        [] => String::new(),
    }
}

/// A share from 0 to 1 as a bar that is filled so far.
pub(super) fn meter(share: f64, label: &str) -> Markup {
    html! {
        svg.meter viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label=(label) {
            rect.track width="1000" height="10" {}
            rect.fill width=(format!("{:.1}", share.clamp(0.0, 1.0) * WIDTH)) height="10" {}
        }
    }
}

/// Two shares of a whole beside each other, such as what an archive and everything else takes of a disk.
pub(super) fn stacked(first: f64, second: f64, is_over: bool, label: &str) -> Markup {
    let second = second.clamp(0.0, 1.0);
    let first = first.clamp(0.0, 1.0 - second);
    html! {
        svg.meter viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label=(label) {
            rect.track width="1000" height="10" {}
            rect.other width=(format!("{:.1}", second * WIDTH)) height="10" {}
            rect class=(if is_over { "over" } else { "fill" }) x=(format!("{:.1}", second * WIDTH))
                width=(format!("{:.1}", first * WIDTH)) height="10" {}
        }
    }
}
