//! `[hooks]`: programs that run before and after the source is read.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{Flaw, check_absolute, flaw, parse_time};

/// Default limit of the time a hook may take.
const TIMEOUT: &str = "5m";

/// Default limits of the time a source may be held: for a source that stands still itself, and for one with a snapshot.
const MAX_HOLD: Duration = Duration::from_secs(3600);
const MAX_HOLD_OF_SNAPSHOT: Duration = Duration::from_secs(24 * 3600);
/// No limit.
const NO_LIMIT: &str = "none";

/// The hooks of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HooksConfig {
    /// Runs before the source is opened.
    pub before: Option<HookCommand>,
    /// Runs once the source has been read, or could not be read.
    pub after: Option<HookCommand>,
    /// Longest time that each hook may take.
    pub timeout: Duration,
    /// Longest time from the start of `before` to the start of `after`, whatever the backup is doing; `None`
    /// for no limit.
    pub max_hold: Option<Duration>,
    /// What `before` creates from the source, and backy reads in its place.
    pub snapshot: Option<PathBuf>,
}

impl Default for HooksConfig {
    fn default() -> Self {
        let timeout = Duration::from_secs(300);
        HooksConfig { before: None, after: None, timeout, max_hold: None, snapshot: None }
    }
}

impl HooksConfig {
    /// Whether there are no hooks.
    pub fn is_empty(&self) -> bool {
        self.before.is_none() && self.after.is_none()
    }
}

/// A program and its arguments, or a line for the shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookCommand {
    /// The program, then its arguments; at least one.
    words: Vec<String>,
}

impl HookCommand {
    /// A program and its arguments; `None` if `words` is empty.
    pub fn of_words(words: Vec<String>) -> Option<Self> {
        (!words.is_empty()).then_some(HookCommand { words })
    }

    /// A line for the shell.
    pub fn of_line(line: &str) -> Self {
        HookCommand { words: ["/bin/sh", "-c", line].map(str::to_owned).to_vec() }
    }

    /// The program, then its arguments.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The name of the program, for messages. Messages leave out its arguments, which may be secret: messages
    /// appear in logs, reports and the archive's history.
    pub fn program(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// An output line of the program, without the values of `NAME=VALUE` arguments that it repeats. Programs
    /// do that when they complain about an option, and so do shells that trace.
    pub fn without_values(&self, line: &str) -> String {
        let arguments = self.words.iter().skip(1).map(String::as_str);
        let is_between = |c: char| c.is_whitespace() || "'\"`;&|()".contains(c);
        let parts = arguments.clone().flat_map(|argument| argument.split(is_between));
        let mut settings: Vec<&str> = arguments.chain(parts).collect();
        // Longest first, so that a setting is replaced before its own prefix.
        settings.sort_unstable_by_key(|setting| std::cmp::Reverse(setting.len()));
        settings.iter().fold(line.to_owned(), |line, setting| match setting.split_once('=') {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => {
                line.replace(setting, &format!("{name}=…"))
            }
            _ => line,
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, expecting = "a section [hooks] with before and after")]
pub(super) struct RawHooks {
    before: Option<Spanned<RawCommand>>,
    after: Option<Spanned<RawCommand>>,
    timeout: Option<Spanned<String>>,
    max_hold: Option<Spanned<String>>,
    snapshot: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a line for the shell, or a list of a program and its arguments"
)]
pub(super) enum RawCommand {
    Line(String),
    Words(Vec<String>),
}

pub(super) fn check(raw: RawHooks) -> Result<HooksConfig, Flaw> {
    let (after, max_hold, snapshot) = (&raw.after, &raw.max_hold, &raw.snapshot);
    let before = check_command("before", raw.before.as_ref())?;
    let after = check_command("after", after.as_ref())?;
    if let (None, Some(max_hold)) = (&after, max_hold) {
        let message = "max_hold: there is no hook 'after' to run when that time has passed";
        return Err(flaw(max_hold, message.to_owned()));
    }
    if let (None, Some(snapshot)) = (&before, snapshot) {
        let message = "snapshot: there is no hook 'before' to make it";
        return Err(flaw(snapshot, message.to_owned()));
    }
    let time = |key, text: &Spanned<String>| {
        let time = parse_time(key, text.get_ref()).map_err(|message| flaw(text, message))?;
        Ok::<_, Flaw>(time.unsigned_abs())
    };
    let max_hold = match max_hold {
        Some(text) if text.get_ref() == NO_LIMIT => None,
        Some(text) => Some(time("max_hold", text)?),
        None if after.is_none() => None,
        None if snapshot.is_some() => Some(MAX_HOLD_OF_SNAPSHOT),
        None => Some(MAX_HOLD),
    };
    let timeout = raw.timeout.unwrap_or_else(|| Spanned::new(0..0, TIMEOUT.to_owned()));
    Ok(HooksConfig {
        before,
        after,
        timeout: time("timeout", &timeout)?,
        max_hold,
        snapshot: raw.snapshot.map(|path| check_absolute("snapshot", path)).transpose()?,
    })
}

/// `None` also for an empty line, which is a way to disable a hook.
pub(super) fn check_command(
    name: &str,
    raw: Option<&Spanned<RawCommand>>,
) -> Result<Option<HookCommand>, Flaw> {
    let Some(raw) = raw else { return Ok(None) };
    let command = match raw.get_ref() {
        RawCommand::Line(line) if line.trim().is_empty() => return Ok(None),
        RawCommand::Line(line) => HookCommand::of_line(line),
        RawCommand::Words(words) => {
            let program = words.first().filter(|program| !program.is_empty());
            let named = program.and_then(|_| HookCommand::of_words(words.clone()));
            named.ok_or_else(|| {
                let example = r#"["/usr/sbin/fsfreeze", "-f", "/mnt"]"#;
                flaw(
                    raw,
                    format!(
                        "{name}: found no program, expected a program and its arguments, like {example}"
                    ),
                )
            })?
        }
    };
    if command.words.iter().any(|word| word.contains('\0')) {
        return Err(flaw(
            raw,
            format!("{name}: found a NUL character, which arguments cannot contain"),
        ));
    }
    Ok(Some(command))
}
