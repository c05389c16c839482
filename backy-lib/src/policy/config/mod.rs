//! `backy.toml`: source, schedule, options. The only file of an archive that people edit.
//!
//! Unknown keys, wrong types and impossible values are errors with line and column.

mod drill;
mod encoding;
mod hooks;
pub mod keys;
mod monitoring;
mod schedule;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;
use toml::Spanned;

use crate::base::error::{Error, Result};
use crate::base::escape;
use crate::base::revision::Tag;
use crate::format::manifest::MAX_TAGS;

use hooks::RawHooks;

pub use drill::TimeLimit;
pub use hooks::{HookCommand, HooksConfig};
pub use monitoring::Monitoring;
pub use schedule::{Interval, Window};

/// A longer config is not read.
pub const CONFIG_LIMIT_BYTES: u64 = 1 << 20;

/// A checked config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What to back up; `None` until somebody fills it in.
    pub source: Option<PathBuf>,
    /// Tags with their intervals. If empty, a backup is always due.
    pub schedule: BTreeMap<Tag, Interval>,
    /// Largest number of deltas in a chain before one is made standalone; `None` for no limit.
    pub max_chain: Option<u32>,
    /// zstd level for the blocks of deltas.
    pub compression_level: i32,
    /// Permissions of new files in the archive.
    pub file_mode: u32,
    /// Programs that run before and after the source is read.
    pub hooks: HooksConfig,
    /// How long the command of a drill may take.
    pub drill_timeout: TimeLimit,
    /// Thresholds for problems.
    pub monitoring: Monitoring,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "settings and sections")]
struct RawConfig {
    source: Option<Spanned<String>>,
    max_chain: Option<Spanned<i64>>,
    compression_level: Option<Spanned<i64>>,
    file_mode: Option<Spanned<String>>,
    #[serde(default)]
    schedule: BTreeMap<Spanned<String>, schedule::RawInterval>,
    #[serde(default)]
    hooks: RawHooks,
    #[serde(default)]
    drill: drill::RawDrill,
    #[serde(default)]
    monitoring: monitoring::RawMonitoring,
}

impl Config {
    /// Parses a config. `path` is only for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let at = |offset: usize, message: String| {
            let (line, column) = line_and_column(text, offset);
            Error::Config { path: path.to_owned(), line, column, message }
        };
        let raw: RawConfig = toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            at(offset, plain(&without_value(error.message())).replace('\n', "; "))
        })?;
        check(raw).map_err(|flaw| at(flaw.offset, flaw.message))
    }

    /// Whether the config runs programs, or writes a file outside of the archive.
    pub(crate) fn acts_outside(&self) -> bool {
        !self.hooks.is_empty() || self.monitoring.textfile.is_some()
    }

    /// The text of the config of a new archive.
    pub fn template(source: Option<&Path>) -> Result<String> {
        let source = match source {
            None => "# The block device or file to back up; remove the '#':\n\
                     # source = \"/dev/vg0/mynode\"\n"
                .to_owned(),
            Some(path) => Self::source_line(path)?,
        };
        Ok(TEMPLATE.replace("@SOURCE@\n", &source))
    }

    /// The line that sets the source.
    pub(crate) fn source_line(path: &Path) -> Result<String> {
        let text = path.to_str().ok_or_else(|| Error::Source {
            path: path.to_owned(),
            message: "its name is not UTF-8, so it cannot stand in backy.toml".to_owned(),
        })?;
        Ok(format!("source = {}\n", toml_string(text)))
    }
}

const TEMPLATE: &str = include_str!("../config_template.toml");

/// The default zstd level.
pub(crate) const DEFAULT_LEVEL: i32 = 1;

/// `text` as a TOML string.
fn toml_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if escape::is_unsafe(c) => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out + "\""
}

/// A message about a misplaced string, without the string: it may be a hook with a password.
fn without_value(message: &str) -> String {
    match (message.split_once("string \""), message.rsplit_once("\", expected")) {
        (Some((before, _)), Some((_, after))) => format!("{before}string, expected{after}"),
        _ => message.to_owned(),
    }
}

/// A message in plain words: names of Rust types mean nothing to the author of a config.
fn plain(message: &str) -> String {
    let words = [
        ("i64", "a whole number"),
        ("u64", "a whole number"),
        ("u32", "a whole number"),
        ("i128", "a whole number"),
        ("u128", "a whole number"),
        ("a map", "a section"),
        ("map", "section"),
        ("a sequence", "a list"),
        ("sequence", "list"),
        ("a boolean", "true or false"),
        ("boolean", "true or false"),
    ];
    // "integer `9223372036854775808` as i128, expected i64"
    let mut text = message.replace(" as i128", "").replace(" as u64", "");
    for place in ["expected ", "invalid type: ", "invalid value: "] {
        for (word, plain) in words {
            let (from, to) = (format!("{place}{word}"), format!("{place}{plain}"));
            let is_whole = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric());
            let ends = text.split_once(&from).is_some_and(|(_, rest)| is_whole(rest));
            if ends {
                text = text.replacen(&from, &to, 1);
            }
        }
    }
    text
}

struct Flaw {
    offset: usize,
    message: String,
}

fn flaw<T>(value: &Spanned<T>, message: String) -> Flaw {
    Flaw { offset: value.span().start, message }
}

fn check(raw: RawConfig) -> std::result::Result<Config, Flaw> {
    let mut schedule = BTreeMap::new();
    check_count(&raw.schedule)?;
    for (name, raw) in &raw.schedule {
        let tag: Tag = name.get_ref().parse().map_err(|message| flaw(name, message))?;
        schedule.insert(tag, schedule::check(raw)?);
    }
    Ok(Config {
        source: raw.source.map(|path| check_absolute("source", path)).transpose()?,
        schedule,
        max_chain: raw.max_chain.map(|count| at_least_one("max_chain", &count)).transpose()?,
        compression_level: check_level(raw.compression_level)?,
        file_mode: check_mode(raw.file_mode)?,
        hooks: hooks::check(raw.hooks)?,
        drill_timeout: drill::check(raw.drill)?,
        monitoring: monitoring::check(raw.monitoring)?,
    })
}

/// The limit exists because the first backup gets all tags of the schedule.
fn check_count(
    schedule: &BTreeMap<Spanned<String>, schedule::RawInterval>,
) -> std::result::Result<(), Flaw> {
    let mut names: Vec<&Spanned<String>> = schedule.keys().collect();
    names.sort_unstable_by_key(|name| name.span().start);
    match names.get(MAX_TAGS) {
        None => Ok(()),
        Some(name) => {
            let found = names.len();
            let message = format!("schedule: found {found} tags, expected at most {MAX_TAGS}");
            Err(flaw(name, message))
        }
    }
}

fn check_absolute(key: &str, text: Spanned<String>) -> std::result::Result<PathBuf, Flaw> {
    let path = PathBuf::from(text.get_ref());
    if path.is_absolute() {
        return Ok(path);
    }
    let message = format!(
        "{key}: found {:?}, expected an absolute path, since cron and you start in different folders",
        text.get_ref()
    );
    Err(flaw(&text, message))
}

fn at_least_one(key: &str, count: &Spanned<i64>) -> std::result::Result<u32, Flaw> {
    let found = *count.get_ref();
    u32::try_from(found)
        .ok()
        .filter(|&count| count > 0)
        .ok_or_else(|| flaw(count, format!("{key}: found {found}, expected 1 to {}", u32::MAX)))
}

fn check_level(level: Option<Spanned<i64>>) -> std::result::Result<i32, Flaw> {
    let Some(level) = level else { return Ok(DEFAULT_LEVEL) };
    i32::try_from(*level.get_ref()).ok().filter(|level| (1..=19).contains(level)).ok_or_else(|| {
        flaw(&level, format!("compression_level: found {}, expected 1 to 19", level.get_ref()))
    })
}

fn check_mode(mode: Option<Spanned<String>>) -> std::result::Result<u32, Flaw> {
    const OWNER: u32 = 0o600;
    let Some(mode) = mode else { return Ok(OWNER) };
    let parsed = u32::from_str_radix(mode.get_ref(), 8).ok();
    // The owner must be able to read and write; nobody else may write, nobody may execute.
    parsed.filter(|bits| bits & !0o044 == OWNER).ok_or_else(|| {
        let found = mode.get_ref();
        flaw(&mode, format!("file_mode: found {found:?}, expected \"0600\", \"0640\" or \"0644\""))
    })
}

/// `90m`, `1d`, `2w` and so on: a whole number and s, m, h, d or w; at least a second, at most ten years.
pub fn parse_interval(text: &str) -> std::result::Result<SignedDuration, String> {
    parse_time("interval", text)
}

/// How long to wait for another writer; same syntax as an interval.
pub fn parse_wait(text: &str) -> std::result::Result<Duration, String> {
    parse_time("wait", text).map(SignedDuration::unsigned_abs)
}

/// Parses the value of `key` as a length of time.
fn parse_time(key: &str, text: &str) -> std::result::Result<SignedDuration, String> {
    const MAX_SECONDS: i64 = 10 * 366 * 86400;
    let wrong = || {
        format!("{key}: found {text:?}, expected a whole number and s, m, h, d or w, like \"1d\"")
    };
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86400,
        'w' => 7 * 86400,
        _ => return Err(wrong()),
    };
    let number = text.strip_suffix(unit).unwrap_or_default();
    let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: i64 = number.parse().ok().filter(|_| plain).ok_or_else(wrong)?;
    number
        .checked_mul(seconds)
        .filter(|seconds| (1..=MAX_SECONDS).contains(seconds))
        .map(SignedDuration::from_secs)
        .ok_or_else(|| format!("{key}: found {text:?}, expected 1s to 10 years"))
}

/// Line and column, both from 1, of a byte offset.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before: String =
        text.char_indices().take_while(|(at, _)| *at < offset).map(|(_, c)| c).collect();
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (before.matches('\n').count() + 1, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text, Path::new("backy.toml"))
    }

    #[test]
    fn the_template_is_valid_and_holds_the_source_whatever_its_name() {
        let config = parse(&Config::template(None).unwrap()).unwrap();
        assert_eq!(config.source, None);
        assert_eq!(config.schedule.len(), 3);
        for name in ["/dev/vg0/x", "/a \"quoted\\ name", "/tab\t", "/ü"] {
            let config = parse(&Config::template(Some(Path::new(name))).unwrap()).unwrap();
            assert_eq!(config.source, Some(PathBuf::from(name)));
        }
    }

    #[test]
    fn full_and_max_chain_are_off_by_default() {
        let plain = parse("[schedule.daily]\ninterval = \"1d\"\nkeep = 9").unwrap();
        assert_eq!(plain.max_chain, None);
        assert!(plain.schedule.values().all(|interval| !interval.full));
        let text = "max_chain = 1\n[schedule.daily]\ninterval = \"1d\"\nkeep = 9\nfull = false\n\
                    [schedule.monthly]\ninterval = \"30d\"\nkeep = 4\nfull = true";
        let config = parse(text).unwrap();
        assert_eq!(config.max_chain, Some(1));
        let full: Vec<bool> = config.schedule.values().map(|interval| interval.full).collect();
        assert_eq!(full, [false, true]);
    }

    #[test]
    fn the_commented_settings_of_the_template_are_valid() {
        let template = Config::template(None).unwrap();
        let mut shown = 0;
        let text: String = template
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(table) if table.starts_with('[') => format!("{table}\n"),
                Some(setting) if setting.contains(" = ") => {
                    shown += 1;
                    format!("{setting}\n")
                }
                _ => format!("{line}\n"),
            })
            .collect();
        let config = parse(&text).unwrap();
        assert_eq!((shown, config.max_chain), (12, Some(50)));
        assert!(config.hooks.before.is_some() && config.hooks.max_hold.is_some());
        assert_eq!(config.source, Some(PathBuf::from("/dev/vg0/mynode")));
        let full = config.schedule.iter().filter(|(_, interval)| interval.full);
        assert_eq!(full.map(|(tag, _)| tag.as_str()).collect::<Vec<_>>(), ["monthly"]);
    }

    #[test]
    fn every_mistake_is_reported_with_line_and_column() {
        for (text, line, column, word) in [
            ("sauce = \"/x\"", 1, 1, "sauce"),
            ("source = 5", 1, 10, "string"),
            ("source = \"x\"", 1, 10, "absolute"),
            ("source = \"/x\n", 1, 13, ""),
            ("[schedule.daily]\ninterval = \"1d\"", 1, 1, "keep"),
            ("[schedule.daily]\ninterval = \"1 day\"\nkeep = 1", 2, 12, "1 day"),
            ("[schedule.daily]\ninterval = \"0d\"\nkeep = 1", 2, 12, "0d"),
            ("[schedule.daily]\ninterval = \"+1d\"\nkeep = 1", 2, 12, "+1d"),
            ("[schedule.daily]\ninterval = \"99999999999w\"\nkeep = 1", 2, 12, "10 years"),
            ("[schedule.daily]\ninterval = \"1d\"\nkeep = 0", 3, 8, "keep"),
            ("[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nkeeep = 2", 4, 1, "keeep"),
            ("[schedule.daily]\ninterval = \"1d\"\nkeep = 4294967296", 3, 8, "4294967295"),
            (
                "[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nfull = \"yes\"",
                4,
                8,
                "true or false",
            ),
            ("[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nfull = 1", 4, 8, "true or false"),
            ("[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nmax_chain = 9", 4, 1, "max_chain"),
            ("[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nat = \"2:00\"", 4, 6, "02:00"),
            ("[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nat = \"24:00\"", 4, 6, "02:00"),
            ("[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nat = 2", 4, 6, "string"),
            ("[schedule.daily]\ninterval = \"36h\"\nkeep = 1\nat = \"02:00\"", 4, 6, "whole days"),
            ("[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nwindow = \"01:00\"", 4, 10, "05:00"),
            (
                "[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nwindow = \"01:00-01:00\"",
                4,
                10,
                "two times",
            ),
            (
                "[schedule.x]\ninterval = \"1d\"\nkeep = 1\nat = \"06:00\"\nwindow = \"01:00-05:00\"",
                4,
                6,
                "window",
            ),
            (
                "[schedule.daily]\ninterval = \"1d\"\nkeep = 1\ntimezone = \"Mars/X\"",
                4,
                12,
                "Europe/Berlin",
            ),
            ("max_chain = 0", 1, 13, "max_chain"),
            ("\n  max_chain = -1", 2, 15, "max_chain"),
            ("max_chain = 4294967296", 1, 13, "4294967295"),
            ("max_chain = \"9\"", 1, 13, "string"),
            ("full = true", 1, 1, "full"),
            ("[schedule.\"a b\"]\ninterval = \"1d\"\nkeep = 1", 1, 11, "tag"),
            ("compression_level = 20", 1, 21, "19"),
            ("file_mode = \"0666\"", 1, 13, "0640"),
            ("[hooks]\nbefore = 7", 2, 10, "line for the shell"),
            ("[hooks]\nbefore = []", 2, 10, "no program"),
            ("[hooks]\nafter = [\"\", \"x\"]", 2, 9, "no program"),
            ("[hooks]\nafter = [\"x\", 7]", 2, 9, "list of a program"),
            ("[hooks]\nafter = \"a\\u0000b\"", 2, 9, "NUL"),
            ("[hooks]\nbefor = \"true\"", 2, 1, "befor"),
            ("[hooks]\nbefore = \"true\"\ntimeout = \"5\"", 3, 11, "timeout"),
            ("[hooks]\nbefore = \"true\"\ntimeout = \"0s\"", 3, 11, "10 years"),
            ("[hooks]\nbefore = \"true\"\nmax_hold = \"1m\"", 3, 12, "'after'"),
            ("[hooks]\nafter = \"true\"\nmax_hold = \"1x\"", 3, 12, "max_hold"),
            ("[hooks]\nafter = \"true\"\nsnapshot = \"/x\"", 3, 12, "'before'"),
            ("[hooks]\nbefore = \"true\"\nsnapshot = \"x\"", 3, 12, "absolute"),
            ("[drill]\ntime = \"1h\"", 2, 1, "time"),
            ("[drill]\ntimeout = 5", 2, 11, "string"),
            ("[drill]\ntimeout = \"never\"", 2, 11, "\"none\""),
            ("[drill]\ntimeout = \"0s\"", 2, 11, "10 years"),
            ("[monitoring]\ntext_file = \"/x\"", 2, 1, "text_file"),
            ("[monitoring]\ntextfile = \"x.prom\"", 2, 12, "absolute"),
            ("[monitoring]\ntextfile = \"/x\"", 2, 12, ".prom"),
            ("[monitoring]\nscrub_within = \"60\"", 2, 16, "scrub_within"),
            ("[monitoring]\nfull_within = 14", 2, 15, "string"),
            ("[monitoring]\nlong_chain = 0", 2, 14, "long_chain"),
            ("[monitoring]\nmin_free_percent = 100", 2, 20, "99"),
            ("[monitoring]\nchange_factor = 1", 2, 17, "2 to"),
            ("[monitoring]\nfreeze = \"no\"", 2, 10, "true or false"),
            ("[schedule]\ndaily = \"1d\"", 2, 9, "expected a section such as [schedule.daily]"),
            ("schedule = 5", 1, 12, "section"),
            ("max_chain = \"9\"", 1, 13, "expected a whole number"),
            ("max_chain = 9223372036854775808", 1, 13, "a whole number"),
            ("max_chain = 1.5", 1, 13, "expected a whole number"),
            ("hooks = 5", 1, 9, "[hooks]"),
            ("monitoring = []", 1, 14, "[monitoring]"),
            ("source = [\"/x\"]", 1, 10, "string"),
        ] {
            let error = parse(text).expect_err(text);
            let message = error.to_string();
            let Error::Config { line: l, column: c, .. } = error else { panic!("{message}") };
            assert!(message.contains(word), "{text}: {message}");
            assert_eq!((l, c), (line, column), "{text}: {message}");
            assert!(!message.contains('\n'), "{message}");
            for word in ["Raw", "i64", "i128", "u64", "u32", "struct", "map", "sequence"] {
                assert!(!message.contains(word), "{word}: {message}");
            }
        }
    }

    /// A schedule with more tags than a revision can hold fails at the first tag too many, in the order of the file.
    #[test]
    fn a_schedule_of_more_tags_than_a_revision_holds_is_a_mistake() {
        let schedule = |count: usize| -> String {
            let one = |n: usize| format!("[schedule.t{n}]\ninterval = \"{}d\"\nkeep = 1\n", n + 1);
            (0..count).map(one).collect()
        };
        assert_eq!(parse(&schedule(MAX_TAGS)).unwrap().schedule.len(), MAX_TAGS);
        let error = parse(&schedule(MAX_TAGS + 2)).expect_err("too many");
        let Error::Config { line, column, ref message, .. } = error else { panic!("{error}") };
        assert_eq!((line, column), (3 * MAX_TAGS + 1, 11), "{message}");
        assert!(message.contains("26 tags, expected at most 24"), "{message}");
    }

    /// A hook is a line, a list of words, or absent; its time limits are as configured.
    #[test]
    fn hooks_are_lines_or_words() {
        assert_eq!(parse("").unwrap().hooks, HooksConfig::default());
        let empty = parse("[hooks]\nbefore = \"\"\nafter = \" \"").unwrap().hooks;
        assert!(empty.is_empty());
        let text = "[hooks]\nbefore = [\"fsfreeze\", \"-f\", \"/a b\"]\nafter = \"sync; true\"\n\
                    timeout = \"90s\"\nmax_hold = \"2m\"\nsnapshot = \"/dev/x\"";
        let hooks = parse(text).unwrap().hooks;
        let words = |hook: &Option<HookCommand>| hook.as_ref().unwrap().words().to_vec();
        assert_eq!(words(&hooks.before), ["fsfreeze", "-f", "/a b"]);
        assert_eq!(words(&hooks.after), ["/bin/sh", "-c", "sync; true"]);
        assert_eq!(hooks.after.as_ref().unwrap().words(), ["/bin/sh", "-c", "sync; true"]);
        assert_eq!((hooks.timeout.as_secs(), hooks.max_hold.unwrap().as_secs()), (90, 120));
        assert_eq!(hooks.snapshot, Some(PathBuf::from("/dev/x")));
    }

    /// The command of a drill has a day, or the configured time, or no limit.
    #[test]
    fn the_command_of_a_drill_has_a_time_limit() {
        for (text, seconds) in [
            ("", Some(86400)),
            ("[drill]", Some(86400)),
            ("[drill]\ntimeout = \"90m\"", Some(5400)),
            ("[drill]\ntimeout = \"none\"", None),
        ] {
            let found = parse(text).unwrap().drill_timeout.0;
            assert_eq!(found.map(|limit| limit.as_secs()), seconds, "{text}");
        }
    }

    /// A source is held for a limited time unless the config says otherwise; a snapshot may be read for
    /// longer than a frozen source.
    #[test]
    fn a_source_is_held_for_a_limited_time() {
        for (text, limit) in [
            ("after = \"x\"", Some(3600)),
            ("before = \"x\"\nafter = \"x\"\nsnapshot = \"/x\"", Some(24 * 3600)),
            ("after = \"x\"\nmax_hold = \"3d\"", Some(3 * 24 * 3600)),
            ("after = \"x\"\nmax_hold = \"none\"", None),
            ("before = \"x\"", None),
        ] {
            let hooks = parse(&format!("[hooks]\n{text}")).unwrap().hooks;
            assert_eq!(hooks.max_hold.map(|limit| limit.as_secs()), limit, "{text}");
        }
    }

    #[test]
    fn intervals_have_five_units() {
        for (text, seconds) in
            [("1s", 1), ("90m", 5400), ("36h", 129_600), ("1d", 86400), ("2w", 1_209_600)]
        {
            assert_eq!(parse_interval(text), Ok(SignedDuration::from_secs(seconds)));
        }
    }
}
