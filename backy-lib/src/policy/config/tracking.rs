//! `[tracking]`: how far a backup relies on what the source reports about changes.

use std::path::PathBuf;

use jiff::SignedDuration;
use serde::Deserialize;
use toml::Spanned;

use super::hooks::{HookCommand, HooksConfig, RawCommand, check_command};
use super::source::{SourceAddress, absolute};
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

/// Whether the file systems of a guest are frozen for the moment at which its disk is backed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quiesce {
    /// If the guest agent is connected.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Fail if the guest agent is not connected.
    Require,
}

impl Quiesce {
    /// As in `backy.toml`.
    pub fn as_str(self) -> &'static str {
        match self {
            Quiesce::Auto => "auto",
            Quiesce::Off => "off",
            Quiesce::Require => "require",
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
    /// Whether the file systems of its guest are frozen.
    pub quiesce: Quiesce,
    /// Whether the object map of an image of Ceph RBD is believed about which of its objects have changed.
    pub fast_diff: bool,
    /// The program that keeps marks for a source that does not, and knows what has changed.
    pub command: Option<HookCommand>,
}

impl Default for Tracking {
    fn default() -> Self {
        Tracking {
            mode: TrackingMode::default(),
            verify_within: SignedDuration::from_hours(30 * 24),
            scratch: "/var/tmp".into(),
            quiesce: Quiesce::default(),
            fast_diff: false,
            command: None,
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, expecting = "a section [tracking] with settings")]
pub(super) struct RawTracking {
    mode: Option<Spanned<String>>,
    verify_within: Option<Spanned<String>>,
    scratch: Option<Spanned<String>>,
    quiesce: Option<Spanned<String>>,
    fast_diff: Option<bool>,
    command: Option<Spanned<RawCommand>>,
}

/// One of several words.
fn word<T: Copy>(
    key: &str,
    written: Option<Spanned<String>>,
    all: [(T, &str); 3],
) -> Result<Option<T>, Flaw> {
    let Some(written) = written else { return Ok(None) };
    let found = written.get_ref();
    if let Some((value, _)) = all.iter().find(|(_, word)| word == found) {
        return Ok(Some(*value));
    }
    let [first, second, third] = all.map(|(_, word)| word);
    let message = format!("{key}: found {found:?}, expected {first:?}, {second:?} or {third:?}");
    Err(flaw(&written, message))
}

pub(super) fn check(
    raw: RawTracking,
    source: Option<&SourceAddress>,
    hooks: &HooksConfig,
) -> Result<Tracking, Flaw> {
    let default = Tracking::default();
    let modes = [TrackingMode::Auto, TrackingMode::Off, TrackingMode::Require];
    let mode = word("mode", raw.mode, modes.map(|mode| (mode, mode.as_str())))?;
    let all = [Quiesce::Auto, Quiesce::Off, Quiesce::Require];
    let quiesce = word("quiesce", raw.quiesce, all.map(|quiesce| (quiesce, quiesce.as_str())))?;
    let within = raw.verify_within.map(|text| {
        parse_time("verify_within", text.get_ref()).map_err(|message| flaw(&text, message))
    });
    let scratch = raw.scratch.map(|text| {
        absolute(text.get_ref()).map_err(|message| flaw(&text, format!("scratch: {message}")))
    });
    Ok(Tracking {
        mode: mode.unwrap_or(default.mode),
        verify_within: within.transpose()?.unwrap_or(default.verify_within),
        scratch: scratch.transpose()?.unwrap_or(default.scratch),
        quiesce: quiesce.unwrap_or(default.quiesce),
        fast_diff: raw.fast_diff.unwrap_or(default.fast_diff),
        command: check_program(raw.command.as_ref(), source, hooks)?,
    })
}

/// A source has one that keeps its marks, and the program says itself what to read.
fn check_program(
    raw: Option<&Spanned<RawCommand>>,
    source: Option<&SourceAddress>,
    hooks: &HooksConfig,
) -> Result<Option<HookCommand>, Flaw> {
    let command = check_command("command", raw)?;
    let (Some(_), Some(at)) = (&command, raw) else { return Ok(command) };
    if let Some(source) = source.filter(|source| !matches!(source, SourceAddress::Path(_))) {
        let message = format!(
            "command: the source {:?} is no plain path of a block device or a file; omit one of the two",
            source.to_string()
        );
        return Err(flaw(at, message));
    }
    if hooks.snapshot.is_some() {
        let message =
            "command: [hooks] has a snapshot; let the program say where to read, and omit that one";
        return Err(flaw(at, message.to_owned()));
    }
    Ok(command)
}
