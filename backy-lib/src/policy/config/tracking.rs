//! `[tracking]`: how far a backup relies on what the source reports about changes.

use std::path::PathBuf;

use jiff::SignedDuration;
use serde::Deserialize;
use toml::Spanned;

use super::source::absolute;
use super::{Flaw, flaw, parse_time};

/// When to rely on what the source reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrackingMode {
    /// Whenever it can be trusted; otherwise read everything.
    #[default]
    Auto,
    /// Never: always read everything.
    Off,
    /// Fail instead of reading everything, except for the first backup.
    Require,
}

impl TrackingMode {
    /// As in `backy.toml`.
    pub fn as_str(self) -> &'static str {
        match self {
            TrackingMode::Auto => "auto",
            TrackingMode::Off => "off",
            TrackingMode::Require => "require",
        }
    }
}

/// How far a backup relies on what the source reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracking {
    /// When.
    pub mode: TrackingMode,
    /// The longest time that a block may go without being compared with the source.
    pub verify_within: SignedDuration,
    /// The folder for what a running virtual machine overwrites during a backup.
    pub scratch: PathBuf,
}

impl Default for Tracking {
    fn default() -> Self {
        let verify_within = SignedDuration::from_hours(30 * 24);
        Tracking { mode: TrackingMode::default(), verify_within, scratch: "/var/tmp".into() }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, expecting = "a section [tracking] with settings")]
pub(super) struct RawTracking {
    mode: Option<Spanned<String>>,
    verify_within: Option<Spanned<String>>,
    scratch: Option<Spanned<String>>,
}

pub(super) fn check(raw: RawTracking) -> Result<Tracking, Flaw> {
    let default = Tracking::default();
    let all = [TrackingMode::Auto, TrackingMode::Off, TrackingMode::Require];
    let mode = raw.mode.map(|text| {
        let found = text.get_ref();
        all.into_iter().find(|mode| mode.as_str() == found).ok_or_else(|| {
            let message =
                format!("mode: found {found:?}, expected \"auto\", \"off\" or \"require\"");
            flaw(&text, message)
        })
    });
    let within = raw.verify_within.map(|text| {
        parse_time("verify_within", text.get_ref()).map_err(|message| flaw(&text, message))
    });
    let scratch = raw.scratch.map(|text| {
        absolute(text.get_ref()).map_err(|message| flaw(&text, format!("scratch: {message}")))
    });
    Ok(Tracking {
        mode: mode.transpose()?.unwrap_or(default.mode),
        verify_within: within.transpose()?.unwrap_or(default.verify_within),
        scratch: scratch.transpose()?.unwrap_or(default.scratch),
    })
}
