//! One line for Nagios and compatible systems: `BACKY OK - text | 'label'=value[unit];warn;crit;min;max …`.
//!
//! Source: Monitoring Plugins Development Guidelines, "Plugin Output for Nagios" and "Performance data". Thresholds are
//! ranges: `10` alarms above 10, `10:` below.

use std::fmt::Write;

use jiff::Timestamp;

use crate::base::escape::is_unsafe;
use crate::policy::health::{Cause, Level, ProblemKind};
use crate::verdict::check::{Checked, HostReport};
use crate::verdict::status::StatusReport;

/// Old transports cut after a kilobyte, and the figures need part of that.
const MAX_TEXT_CHARS: usize = 400;

/// The line of one archive, with a line end.
pub fn nagios(status: &StatusReport) -> String {
    line(status.health.level, &status.health.summary, &figures(status))
}

/// The line of many archives.
pub fn nagios_host(host: &HostReport) -> String {
    let mut figures = Figures::default();
    figures.add("archives", host.archives.len(), "", ["", "", "0", ""]);
    let count = |level| host.archives.iter().filter(|a: &&Checked| a.health.level == level).count();
    figures.add("ok", count(Level::Ok), "", ["", "", "0", ""]);
    figures.add("warning", count(Level::Warning), "", ["0", "", "0", ""]);
    figures.add("critical", count(Level::Critical), "", ["", "0", "0", ""]);
    figures.add("unknown", count(Level::Unknown), "", ["", "", "0", ""]);
    line(host.level, &host.summary, &figures)
}

/// The line if nothing can be determined.
pub fn nagios_unknown(why: &str) -> String {
    line(Level::Unknown, why, &Figures::default())
}

fn line(level: Level, text: &str, figures: &Figures) -> String {
    let word = match level {
        Level::Ok => "OK",
        Level::Warning => "WARNING",
        Level::Critical => "CRITICAL",
        Level::Unknown => "UNKNOWN",
    };
    let bar = if figures.0.is_empty() { "" } else { " |" };
    format!("BACKY {word} - {}{bar}{}\n", plain(text), figures.0)
}

/// Text without line ends, without bars, which begin the figures, without angle brackets, which would be tags
/// on Nagios' page, and of limited length.
fn plain(text: &str) -> String {
    let replaced = |c: char| match c {
        '|' => '/',
        '<' => '(',
        '>' => ')',
        c if is_unsafe(c) => ' ',
        c => c,
    };
    let mut short: String = text.chars().take(MAX_TEXT_CHARS).map(replaced).collect();
    if text.chars().nth(MAX_TEXT_CHARS).is_some() {
        short.push('…');
    }
    short
}

/// Performance data, each figure preceded by a space.
#[derive(Default)]
struct Figures(String);

impl Figures {
    /// Adds one; `limits` are warning, critical, minimum and maximum.
    fn add(&mut self, label: &str, value: impl ToString, unit: &str, limits: [&str; 4]) {
        let all = format!("{unit};{}", limits.join(";"));
        // Writing to a string does not fail.
        let _ = write!(self.0, " '{label}'={}{}", value.to_string(), all.trim_end_matches(';'));
    }
}

fn figures(status: &StatusReport) -> Figures {
    let mut figures = Figures::default();
    let now = status.checked;
    figures.add("revisions", status.revision_count, "", ["", "", "0", ""]);
    age(&mut figures, status);
    pulled(&mut figures, status);
    // Confirmed damage is a warning.
    let mut damage = status.health.problems.iter().filter(|p| p.kind == ProblemKind::Damage);
    let is_known = damage.clone().next().is_some()
        && damage.all(|problem| problem.level == Cause::KnownDamage.level());
    let limits = if is_known { ["0", "", "0", ""] } else { ["", "0", "0", ""] };
    figures.add("damaged", status.damaged_count, "", limits);
    let chain = status.long_chain.to_string();
    figures.add("chain", status.chain_length, "", [chain.as_str(), "", "0", ""]);
    let percent = (status.coverage.verified_share * 1000.0).floor() / 10.0;
    figures.add("checked", percent, "%", ["", "", "0", "100"]);
    if let Some(since) = status.unchecked_since {
        figures.add("unchecked", seconds(since, now), "s", ["", "", "0", ""]);
    }
    if let Some(newest) = &status.newest {
        figures.add("size", newest.size_bytes, "B", ["", "", "0", ""]);
        figures.add("changed", newest.changed_bytes, "B", ["", "", "0", ""]);
        figures.add("took", newest.seconds, "s", ["", "", "0", ""]);
    }
    if let Some(space) = &status.space {
        let size = space.size_bytes.to_string();
        figures.add("used", space.used_bytes, "B", ["", "", "0", size.as_str()]);
        figures.add("free", space.free_bytes, "B", ["", "", "0", size.as_str()]);
    }
    figures
}

/// Age of the last backup with the most frequent tag, and its limits; of the newest revision if there is no schedule.
fn age(figures: &mut Figures, status: &StatusReport) {
    let now = status.checked;
    let tag = status.schedule.first().filter(|tag| tag.last.is_some());
    let newest = status.newest.as_ref().map(|newest| newest.started);
    let Some(last) = tag.and_then(|tag| tag.last).or(newest) else { return };
    let limit = |time: Option<Timestamp>| {
        time.map(|time| (time.as_second() - last.as_second()).to_string()).unwrap_or_default()
    };
    let warning = limit(tag.and_then(|tag| tag.overdue_at));
    let critical = limit(tag.and_then(|tag| tag.critical_at));
    figures.add("age", seconds(last, now), "s", [warning.as_str(), critical.as_str(), "0", ""]);
}

/// Age of the last pull of a copy, and its limits.
fn pulled(figures: &mut Figures, status: &StatusReport) {
    let Some(origin) = &status.origin else { return };
    let Some(last) = origin.last_pull else { return };
    let limit = |time: Option<Timestamp>| {
        time.map(|time| (time.as_second() - last.as_second()).to_string()).unwrap_or_default()
    };
    let (warning, critical) = (limit(origin.overdue_at), limit(origin.critical_at));
    let age = seconds(last, status.checked);
    figures.add("pulled", age, "s", [warning.as_str(), critical.as_str(), "0", ""]);
}

fn seconds(since: Timestamp, now: Timestamp) -> i64 {
    (now.as_second() - since.as_second()).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the text contains, the result is one line with at most one bar and of limited length.
    #[test]
    fn a_text_cannot_break_the_line() {
        let text = format!("a|b\nc\u{1b}[31m<b>\u{202e}{}", "x".repeat(2000));
        let line = nagios_unknown(&text);
        assert!(line.starts_with("BACKY UNKNOWN - a/b c [31m(b) xxx") && line.ends_with("…\n"));
        assert!(line.matches('\n').count() == 1 && line.chars().count() < 430, "{line}");
    }

    /// Missing limits leave no semicolons at the end.
    #[test]
    fn missing_limits_leave_no_trailing_semicolons() {
        let mut figures = Figures::default();
        figures.add("age", 5, "s", ["7", "", "0", ""]);
        figures.add("free", 5, "B", ["", "", "", ""]);
        figures.add("used", 5, "", ["", "9:", "", "1"]);
        assert_eq!(figures.0, " 'age'=5s;7;;0 'free'=5B 'used'=5;;9:;;1");
    }
}
