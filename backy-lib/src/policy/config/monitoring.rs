//! `[monitoring]`: thresholds for problems, and where to write metrics. Every key has a default that suits
//! most archives.

use std::path::PathBuf;

use jiff::SignedDuration;
use serde::Deserialize;
use toml::Spanned;

use super::{Flaw, at_least_one, flaw, parse_time};

/// Thresholds for problems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitoring {
    /// Prometheus file that each command that changes the archive writes.
    pub textfile: Option<PathBuf>,
    /// Largest age of the newest revision, in addition to the schedule.
    pub max_age: Option<SignedDuration>,
    /// Longest time that any stored data may go without being verified by a scrub.
    pub scrub_within: SignedDuration,
    /// Longest time between drills; `None` for no limit.
    pub drill_within: Option<SignedDuration>,
    /// A chain with more deltas than this is long. `None`: a few more than `max_chain`, or a default.
    pub long_chain: Option<u32>,
    /// Less free space than this percentage of the file system is little.
    pub min_free_percent: u32,
    /// A file system that will be full within this time is nearly full.
    pub full_within: SignedDuration,
    /// A backup is unusual if this many times more has changed than usual.
    pub change_factor: u32,
    /// Whether nothing expires while an alarm is unconfirmed.
    pub freeze: bool,
    /// Whether the user accepts that the archive's file system has no permissions, so that every user of the
    /// host can write to it.
    pub accept_no_permissions: bool,
}

impl Default for Monitoring {
    fn default() -> Self {
        Monitoring {
            textfile: None,
            max_age: None,
            scrub_within: SignedDuration::from_hours(60 * 24),
            drill_within: None,
            long_chain: None,
            min_free_percent: 5,
            full_within: SignedDuration::from_hours(14 * 24),
            change_factor: 5,
            freeze: true,
            accept_no_permissions: false,
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, expecting = "a section [monitoring] with settings")]
pub(super) struct RawMonitoring {
    textfile: Option<Spanned<String>>,
    max_age: Option<Spanned<String>>,
    scrub_within: Option<Spanned<String>>,
    drill_within: Option<Spanned<String>>,
    long_chain: Option<Spanned<i64>>,
    min_free_percent: Option<Spanned<i64>>,
    full_within: Option<Spanned<String>>,
    change_factor: Option<Spanned<i64>>,
    freeze: Option<bool>,
    accept_no_permissions: Option<bool>,
}

pub(super) fn check(raw: RawMonitoring) -> Result<Monitoring, Flaw> {
    let default = Monitoring::default();
    let time = |key: &str, text: Option<Spanned<String>>| {
        let parse = |text: Spanned<String>| {
            parse_time(key, text.get_ref()).map_err(|message| flaw(&text, message))
        };
        text.map(parse).transpose()
    };
    let number = |key: &str, found: Option<Spanned<i64>>, from: u32, to: u32| {
        let check = |found: Spanned<i64>| {
            let value = u32::try_from(*found.get_ref()).ok();
            value.filter(|value| (from..=to).contains(value)).ok_or_else(|| {
                let message = format!("{key}: found {}, expected {from} to {to}", found.get_ref());
                flaw(&found, message)
            })
        };
        found.map(check).transpose()
    };
    Ok(Monitoring {
        textfile: raw.textfile.map(check_textfile).transpose()?,
        max_age: time("max_age", raw.max_age)?,
        scrub_within: time("scrub_within", raw.scrub_within)?.unwrap_or(default.scrub_within),
        drill_within: time("drill_within", raw.drill_within)?,
        long_chain: raw.long_chain.map(|n| at_least_one("long_chain", &n)).transpose()?,
        min_free_percent: number("min_free_percent", raw.min_free_percent, 0, 99)?
            .unwrap_or(default.min_free_percent),
        full_within: time("full_within", raw.full_within)?.unwrap_or(default.full_within),
        change_factor: number("change_factor", raw.change_factor, 2, 1_000_000)?
            .unwrap_or(default.change_factor),
        freeze: raw.freeze.unwrap_or(default.freeze),
        accept_no_permissions: raw.accept_no_permissions.unwrap_or(default.accept_no_permissions),
    })
}

/// The path must be absolute, because a relative one would depend on who runs backy, and end with `.prom`,
/// because the collector reads no other names.
pub(super) fn check_textfile(textfile: Spanned<String>) -> Result<PathBuf, Flaw> {
    let path = PathBuf::from(textfile.get_ref());
    if path.is_absolute() && path.extension().is_some_and(|extension| extension == "prom") {
        return Ok(path);
    }
    let message = format!(
        "textfile: found {:?}, expected an absolute path whose name ends with .prom",
        textfile.get_ref()
    );
    Err(flaw(&textfile, message))
}
