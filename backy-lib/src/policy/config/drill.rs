//! `[drill]`: how a revision is restored as a test.

use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::{Flaw, flaw, parse_time};

/// No limit.
const NONE: &str = "none";

/// How long the command of a drill may take; `None` for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimit(pub Option<Duration>);

impl Default for TimeLimit {
    /// A day, so that the drill of one night has ended before the next.
    fn default() -> Self {
        TimeLimit(Some(Duration::from_secs(24 * 3600)))
    }
}

impl FromStr for TimeLimit {
    type Err = String;

    /// `90s`, `30m`, `4h`, or `none`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            NONE => Ok(TimeLimit(None)),
            _ => match parse_time("timeout", text) {
                Ok(time) => Ok(TimeLimit(Some(time.unsigned_abs()))),
                Err(why) => Err(format!("{why}, or \"{NONE}\"")),
            },
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, expecting = "a section [drill] with timeout")]
pub(super) struct RawDrill {
    timeout: Option<Spanned<String>>,
}

pub(super) fn check(raw: RawDrill) -> Result<TimeLimit, Flaw> {
    let Some(text) = raw.timeout else { return Ok(TimeLimit::default()) };
    text.get_ref().parse().map_err(|message| flaw(&text, message))
}
