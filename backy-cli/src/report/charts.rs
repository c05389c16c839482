//! Charts without text: they are stretched to the available width, and their values are beside them.
//!
//! However many revisions there are, a chart has only as many marks as are distinguishable. Changes and revision
//! times share one axis of time, one below the other.

use std::collections::{BTreeMap, BTreeSet};

use backy_lib::status::{RevisionStatus, StatusReport};
use jiff::Timestamp;
use maud::{Markup, html};

use super::text::day;
use crate::output::{local_minute, size};
use crate::words;

/// Width of a chart in its own units.
const WIDTH: f64 = 1000.0;
/// Marks that fit beside each other in a row of the time line.
const PLACES: usize = 160;
/// Rows of the time line; further tags share the last one.
const MAX_ROWS: usize = 8;
/// Bars that fit beside each other, on the same axis.
const BARS: usize = 80;
const BAR_HEIGHT: f64 = 100.0;
/// Up to this span, in seconds, the axis has times of day.
const SHORT_SPAN_S: i64 = 3 * 86400;
/// Backups in the small chart of an overview.
const SPARKS: usize = 24;

/// The time from the first revision until now, or until the newest if that is later.
struct Axis {
    first: Timestamp,
    last: Timestamp,
}

impl Axis {
    /// `None` without revisions.
    fn of(revisions: &[RevisionStatus], now: Timestamp) -> Option<Self> {
        let times = || revisions.iter().map(|revision| revision.started);
        Some(Axis { first: times().min()?, last: times().max()?.max(now) })
    }

    /// Which of `places` places, from left to right, a time falls on.
    fn place(&self, time: Timestamp, places: usize) -> usize {
        let span = (self.last.as_millisecond() - self.first.as_millisecond()).max(1) as f64;
        let share = (time.as_millisecond() - self.first.as_millisecond()) as f64 / span;
        ((share * places as f64) as usize).min(places - 1)
    }

    /// The labels below the axis at its start, its middle and its end.
    fn labels(&self, now: Timestamp) -> [String; 3] {
        let (first, last) = (self.first.as_second(), self.last.as_second());
        let middle = Timestamp::from_second(first + (last - first) / 2).unwrap_or(now);
        let is_short = last - first <= SHORT_SPAN_S;
        let say = |time| if is_short { local_minute(time) } else { day(time) };
        [
            say(self.first),
            say(middle),
            if self.last > now { say(self.last) } else { "now".to_owned() },
        ]
    }
}

/// How much had changed in each backup, and below it, on the same axis, a row with the revisions of each tag.
pub(super) fn history(status: &StatusReport, now: Timestamp) -> Markup {
    let Some(axis) = Axis::of(&status.revisions, now) else {
        return html! { p.muted { "There are no revisions yet." } };
    };
    let bars = bars(status, &axis);
    let limit = limit(bars.values().map(|bar| bar.bytes));
    let usual = status
        .change
        .zip(status.newest.as_ref())
        .map(|(change, newest)| (change.usual_share * newest.size_bytes as f64) as u64)
        .filter(|usual| *usual <= limit);
    let labels = axis.labels(now);
    html! {
        div.timeline role="group" aria-label="What changed, and when revisions were made" {
            div.row {
                span.label.scale aria-hidden="true" { span { (size(limit)) } span { "changed" } span { "0" } }
                (plot(&bars, limit, usual, status.revisions.len()))
                span {}
            }
            @for (name, members) in rows(&status.revisions, status) {
                div.row {
                    span.label { (name) }
                    (marks(&name, &members, &axis))
                    span.count { (members.len()) }
                }
            }
            div.row aria-hidden="true" {
                span {}
                div.axis { @for label in &labels { span { (label) } } }
                span {}
            }
        }
        p.legend {
            (key("mark", "revision"))
            @if status.revisions.iter().any(|revision| !revision.pinned_tags.is_empty()) { (key("pinned", "pinned")) }
            @if status.damaged_count > 0 { (key("damaged", "damaged")) }
            @if bars.values().any(|bar| bar.is_alarming) { (key("alarming", "unusually large change")) }
            @if let Some(cut) = bars.values().map(|bar| bar.bytes).filter(|bytes| *bytes > limit).max() {
                (key("cut", &format!("cut off, up to {}", size(cut))))
            }
            @if let Some(usual) = usual { (key("usual", &format!("usual: {}", size(usual)))) }
            @if bars.values().any(|bar| bar.backups.len() > 1) {
                "A bar that stands for several backups shows the largest."
            }
        }
    }
}

/// The tags of the schedule in its order, then manual ones, then revisions without tags.
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
fn marks(name: &str, members: &[&RevisionStatus], axis: &Axis) -> Markup {
    let mut places: BTreeMap<usize, Vec<&RevisionStatus>> = BTreeMap::new();
    for revision in members {
        places.entry(axis.place(revision.started, PLACES)).or_default().push(revision);
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

/// Backups that fall on the same place, as one bar.
#[derive(Default)]
struct Bar<'a> {
    /// Newest first.
    backups: Vec<&'a RevisionStatus>,
    /// Most that one of them changed.
    bytes: u64,
    is_alarming: bool,
    is_damaged: bool,
}

/// What a colour means.
pub(super) fn key(class: &str, meaning: &str) -> Markup {
    html! { span.item { span class={ "key " (class) } {} (meaning) } " " }
}

/// By their place on the axis.
fn bars<'a>(status: &'a StatusReport, axis: &Axis) -> BTreeMap<usize, Bar<'a>> {
    let alarming: BTreeSet<_> = status.alarms.iter().map(|alarm| alarm.revision).collect();
    let mut bars: BTreeMap<usize, Bar<'a>> = BTreeMap::new();
    for revision in &status.revisions {
        let bar = bars.entry(axis.place(revision.started, BARS)).or_default();
        bar.backups.push(revision);
        bar.bytes = bar.bytes.max(revision.changed_bytes);
        bar.is_alarming |= alarming.contains(&revision.uuid);
        bar.is_damaged |= !revision.damaged.is_empty();
    }
    bars
}

/// What the height of a chart stands for. One bar that is far above all others does not hide them.
fn limit(heights: impl Iterator<Item = u64>) -> u64 {
    let mut heights: Vec<u64> = heights.collect();
    heights.sort_unstable_by_key(|bytes| std::cmp::Reverse(*bytes));
    match heights[..] {
        [first, second, ..] if second > 0 && first / 4 > second => second + second / 4,
        [first, ..] => first.max(1),
        [] => 1,
    }
}

/// How high a bar is.
fn height(bytes: u64, limit: u64) -> f64 {
    (bytes.min(limit) as f64 / limit as f64 * BAR_HEIGHT).max(2.0)
}

fn plot(bars: &BTreeMap<usize, Bar<'_>>, limit: u64, usual: Option<u64>, backups: usize) -> Markup {
    let step = WIDTH / BARS as f64;
    let most = bars.values().map(|bar| bar.bytes).max().unwrap_or(0);
    let label =
        format!("Bytes changed by {}, at most {}", words::count(backups, "backup"), size(most));
    html! {
        svg.bars viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label=(label) {
            @for y in ["0.5", "50", "99.5"] { line.rail x1="0" y1=(y) x2="1000" y2=(y) {} }
            @for (place, bar) in bars {
                @let high = height(bar.bytes, limit);
                rect class={ "bar" (shade(bar, limit)) }
                    x=(format!("{:.1}", *place as f64 * step + step * 0.1)) width=(format!("{:.1}", step * 0.8))
                    y=(format!("{:.1}", BAR_HEIGHT - high)) height=(format!("{high:.1}")) {
                    title { (bar_caption(bar)) }
                }
            }
            @if let Some(usual) = usual {
                @let y = format!("{:.1}", BAR_HEIGHT - height(usual, limit));
                line.usual x1="0" y1=(y) x2="1000" y2=(y) {}
            }
        }
    }
}

/// The colour of a bar: that of its worst part.
fn shade(bar: &Bar<'_>, limit: u64) -> &'static str {
    match () {
        () if bar.is_damaged => " damaged",
        () if bar.is_alarming => " alarming",
        () if bar.bytes > limit => " cut",
        () => "",
    }
}

/// How much had changed in the last backups, as a small chart for a row of a table.
pub(super) fn spark(status: &StatusReport) -> Markup {
    let last: Vec<&RevisionStatus> = status.revisions.iter().take(SPARKS).collect();
    let limit = limit(last.iter().map(|revision| revision.changed_bytes));
    let label = format!("Changed by the last {}", words::count(last.len(), "backup"));
    let step = WIDTH / SPARKS as f64;
    html! {
        svg.spark viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label=(label) {
            line.rail x1="0" y1="99.5" x2="1000" y2="99.5" {}
            @for (number, revision) in last.iter().rev().enumerate() {
                @let high = height(revision.changed_bytes, limit).max(6.0);
                @let at = SPARKS - last.len() + number;
                rect class={ "tick" @if !revision.damaged.is_empty() { " damaged" } }
                    x=(format!("{:.1}", at as f64 * step + step * 0.1)) width=(format!("{:.1}", step * 0.8))
                    y=(format!("{:.1}", BAR_HEIGHT - high)) height=(format!("{high:.1}")) {}
            }
        }
    }
}

fn bar_caption(bar: &Bar<'_>) -> String {
    match bar.backups[..] {
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

/// A share from 0 to 1 as a bar that is filled so far, in red where some of it is damaged.
pub(super) fn meter(share: f64, is_damaged: bool, label: &str) -> Markup {
    html! {
        svg.meter viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label=(label) {
            rect.track width="1000" height="10" {}
            rect class=(if is_damaged { "over" } else { "fill" })
                width=(format!("{:.1}", share.clamp(0.0, 1.0) * WIDTH)) height="10" {}
        }
    }
}

/// Parts of a whole beside each other, such as what archives and everything else take of a disk. `others` come first.
pub(super) fn stacked(
    parts: &[f64],
    others: f64,
    whole: f64,
    is_over: bool,
    label: &str,
) -> Markup {
    let scale = |part: f64| part / whole.max(1.0) * WIDTH;
    let mut at = scale(others).clamp(0.0, WIDTH);
    let mut placed = Vec::new();
    for part in parts {
        let width = scale(*part).clamp(0.0, WIDTH - at);
        placed.push((at, width));
        at += width;
    }
    html! {
        svg.meter viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label=(label) {
            rect.track width="1000" height="10" {}
            rect.other width=(format!("{:.1}", scale(others).clamp(0.0, WIDTH))) height="10" {}
            @for (number, (x, width)) in placed.iter().enumerate() {
                rect class={ (if is_over { "over" } else { "fill" }) @if number % 2 == 1 { " next" } }
                    x=(format!("{x:.1}")) width=(format!("{width:.1}")) height="10" {}
            }
        }
    }
}
