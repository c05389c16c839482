//! `backy.toml`: source, schedule, options. The only file of an archive that people edit.
//!
//! Unknown keys, wrong types and impossible values are errors with line and column. The settings may be in several
//! files, which `files` holds and `include` merges; `archive::settings` reads them.

mod default;
mod drill;
mod encoding;
pub(crate) mod files;
mod fleet;
mod fleet_keys;
mod group;
mod hooks;
pub(crate) mod include;
pub mod keys;
mod monitoring;
mod origin;
mod schedule;
pub(crate) mod setting;
mod source;
mod tracking;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;

use crate::base::error::{Error, Result};
use crate::base::escape;
use crate::base::revision::Tag;
use crate::format::manifest::MAX_TAGS;

use files::Files;
use hooks::RawHooks;

pub use drill::TimeLimit;
pub(crate) use fleet::DEFAULT_STALL;
pub use fleet::{Declared, FLEET_PATH, FleetSettings};
pub use fleet_keys::{FLEET_KEYS, FLEET_TABLES};
pub use group::Group;
pub use hooks::{HookCommand, HooksConfig};
#[cfg(feature = "testing")]
pub use include::of_texts;
pub use monitoring::Monitoring;
pub use origin::OriginConfig;
pub use schedule::{Interval, Window};
pub use source::SourceAddress;
pub use tracking::{Quiesce, Tracking, TrackingMode};

/// A longer config is not read.
pub const CONFIG_LIMIT_BYTES: u64 = 1 << 20;

/// A checked config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What to back up; `None` until somebody fills it in.
    pub source: Option<SourceAddress>,
    /// The file with the passphrase of an encrypted qcow2 image.
    pub secret_file: Option<PathBuf>,
    /// The archive that this one is a copy of; never set together with a source.
    pub origin: Option<OriginConfig>,
    /// The archives with which it shares a limit of `backy run`.
    pub group: Option<Group>,
    /// The files that `backy.toml` includes, directly or through another one, in the order in which they were read.
    pub includes: Vec<PathBuf>,
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
    /// How far to rely on what the source reports about changes.
    pub tracking: Tracking,
    /// Thresholds for problems.
    pub monitoring: Monitoring,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "settings and sections")]
struct RawConfig {
    // Gone before this is read, but known.
    #[serde(rename = "include")]
    _include: Option<IgnoredAny>,
    #[serde(rename = "without")]
    _without: Option<IgnoredAny>,
    source: Option<Spanned<String>>,
    secret_file: Option<Spanned<String>>,
    group: Option<Spanned<String>>,
    max_chain: Option<Spanned<i64>>,
    compression_level: Option<Spanned<i64>>,
    file_mode: Option<Spanned<String>>,
    #[serde(default)]
    schedule: BTreeMap<Spanned<String>, schedule::RawInterval>,
    #[serde(default)]
    hooks: RawHooks,
    #[serde(default)]
    origin: origin::RawOrigin,
    #[serde(default)]
    drill: drill::RawDrill,
    #[serde(default)]
    tracking: tracking::RawTracking,
    #[serde(default)]
    monitoring: monitoring::RawMonitoring,
}

impl Config {
    /// Parses one file, without those that it includes. `path` is only for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let mut files = Files::default();
        files.add_text(path, text, None)?;
        include::includes(&files, 0)?;
        Config::of_files(&files)
    }

    /// The same for a file as it is on disk.
    ///
    /// # Errors
    /// [`Error::Config`] with line and column, also if the bytes are not UTF-8.
    pub fn parse_bytes(bytes: &[u8], path: &Path) -> Result<Self> {
        let mut files = Files::default();
        files.add(path, bytes, None)?;
        include::includes(&files, 0)?;
        Config::of_files(&files)
    }

    /// Whether the config runs programs, writes a file outside of the archive, or names what to take into it.
    pub(crate) fn acts_outside(&self) -> bool {
        !self.hooks.is_empty()
            || self.tracking.command.is_some()
            || self.monitoring.textfile.is_some()
            || self.origin.is_some()
    }

    /// The text of the config of a new archive.
    pub fn template(source: Option<&SourceAddress>) -> Result<String> {
        Ok(TEMPLATE
            .replace(SOURCE_PLACE, &format!("{ABOUT_SOURCE}{}", Self::source_lines(source)?)))
    }

    /// The same for one that takes everything but the source from files that it includes, or that is a copy of an
    /// origin, and has no source.
    ///
    /// # Errors
    /// [`Error::Specification`], if the path of an included file is not UTF-8, or the origin has no such path or URL.
    pub fn template_with(
        source: Option<&SourceAddress>,
        origin: Option<&str>,
        include: &[PathBuf],
    ) -> Result<String> {
        let Some(origin) = origin else { return Self::template_of_source(source, include) };
        origin::check_url("origin", origin).map_err(|message| Error::Specification { message })?;
        if source.is_some() {
            let message = "a copy has no source; name a source or an origin".to_owned();
            return Err(Error::Specification { message });
        }
        let text = match include {
            [] => TEMPLATE.to_owned(),
            include => Self::including(include)?,
        };
        let lines = format!("\n[origin]\nurl = {}\n# interval = \"1d\"\n", toml_string(origin));
        Ok(text.replace(SOURCE_PLACE, ABOUT_ORIGIN) + &lines)
    }

    fn template_of_source(source: Option<&SourceAddress>, include: &[PathBuf]) -> Result<String> {
        if include.is_empty() {
            return Self::template(source);
        }
        let lines = format!("{ABOUT_SOURCE}{}", Self::source_lines(source)?);
        Ok(Self::including(include)?.replace(SOURCE_PLACE, &lines))
    }

    fn including(include: &[PathBuf]) -> Result<String> {
        let mut lines = Vec::new();
        for path in include {
            let text = path.to_str().ok_or_else(|| Error::Specification {
                message: format!(
                    "include {}: its name is not UTF-8, so it cannot stand in backy.toml",
                    path.display()
                ),
            })?;
            lines.push(toml_string(text));
        }
        let include = match lines.as_slice() {
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        Ok(INCLUDING.replace("@INCLUDE@", &include))
    }

    fn source_lines(source: Option<&SourceAddress>) -> Result<String> {
        match source {
            None => Ok("# The block device or file to back up; remove the '#':\n\
                        # source = \"/dev/vg0/mynode\"\n"
                .to_owned()),
            Some(source) => Self::source_line(source),
        }
    }

    /// The line that sets the source.
    pub(crate) fn source_line(source: &SourceAddress) -> Result<String> {
        let written = source.written();
        let text = written.to_str().ok_or_else(|| Error::Source {
            path: source.written(),
            message: "its name is not UTF-8, so it cannot stand in backy.toml".to_owned(),
        })?;
        Ok(format!("source = {}\n", toml_string(text)))
    }
}

const TEMPLATE: &str = include_str!("../config_template.toml");
const INCLUDING: &str = include_str!("../config_template_including.toml");

/// The line of a template that the source, or a note in its place, replaces.
const SOURCE_PLACE: &str = "@SOURCE@\n";
const ABOUT_SOURCE: &str = "# What to back up: the absolute path of a block device or a file. If it is a symbolic \
                            link, every backup follows it.\n# Other kinds: doc/sources.md\n";
const ABOUT_ORIGIN: &str = "# A copy of another archive, which [origin] at the end names: 'backy pull' takes over its \
                            revisions.\n# They stay as long as the schedule here says, whatever the origin deletes.\n";

/// The default zstd level.
pub(crate) const DEFAULT_LEVEL: i32 = 1;

/// Permissions where none are set.
const OWNER_MODE: u32 = 0o600;

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
    let origin = origin::check(raw.origin, raw.source.as_ref())?;
    let source = raw.source.map(check_source).transpose()?;
    let hooks = hooks::check(raw.hooks)?;
    Ok(Config {
        tracking: tracking::check(raw.tracking, source.as_ref(), &hooks)?,
        origin,
        group: raw.group.map(check_group).transpose()?,
        includes: Vec::new(),
        source,
        secret_file: raw.secret_file.map(|path| check_absolute("secret_file", path)).transpose()?,
        schedule,
        max_chain: raw.max_chain.map(|count| at_least_one("max_chain", &count)).transpose()?,
        compression_level: check_level(raw.compression_level)?,
        file_mode: check_mode(raw.file_mode)?,
        hooks,
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
    source::absolute(text.get_ref()).map_err(|message| flaw(&text, format!("{key}: {message}")))
}

fn check_source(text: Spanned<String>) -> std::result::Result<SourceAddress, Flaw> {
    SourceAddress::parse(text.get_ref())
        .map_err(|message| flaw(&text, format!("source: {message}")))
}

fn check_group(text: Spanned<String>) -> std::result::Result<Group, Flaw> {
    text.get_ref().parse().map_err(|message| flaw(&text, message))
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
    let Some(mode) = mode else { return Ok(OWNER_MODE) };
    let parsed = u32::from_str_radix(mode.get_ref(), 8).ok();
    // The owner must be able to read and write; nobody else may write, nobody may execute.
    parsed.filter(|bits| bits & !0o044 == OWNER_MODE).ok_or_else(|| {
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

#[cfg(test)]
mod tests;
