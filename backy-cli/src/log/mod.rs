//! Lines for a log: what each line about a run of the command says, in which form, and how important it is.
//!
//! People get sentences without any of this; see `output`. The form for programs is a promise: `doc/scripting.md` has
//! its fields, and a test checks them.

mod daemon;

use std::io;
use std::time::Instant;

use backy_lib::escape;
use backy_lib::progress::Phase;
use backy_lib::{Clock, ErrorKind, OperationId, SystemClock};
use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;

pub(crate) use self::daemon::Log;
use crate::output::environment;

/// How much a line matters, with the numbers of RFC 3164.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Error = 3,
    Warning = 4,
    Info = 6,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Severity::Error => "error: ",
            Severity::Warning => "warning: ",
            Severity::Info => "",
        }
    }
}

/// The form of the lines on standard error, where it is not sentences for people. The manual page explains each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
    Journal,
}

impl LogFormat {
    /// What arguments that cannot be parsed as a whole ask for, as far as possible.
    pub(crate) fn guess(args: &[std::ffi::OsString]) -> Option<Self> {
        let mut words = args.iter().filter_map(|arg| arg.to_str()).take_while(|arg| *arg != "--");
        let value = words.find_map(|word| match word.strip_prefix("--log-format")? {
            "" => Some(None),
            value => value.strip_prefix('=').map(Some),
        })?;
        LogFormat::from_str(value.or_else(|| words.next())?, false).ok()
    }
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Event {
    Start,
    Phase(Phase, u64),
    Note,
    Finding,
    Warning,
    /// A job of a run has ended.
    Job,
    /// How far the present phase is: bytes done, and to do. Only for the run that started this job.
    Progress(Phase, u64, u64),
    /// With the kind of the engine's error, if it was one.
    End(Ending, u8, Option<ErrorKind>),
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ending {
    Ok,
    Failed,
    Interrupted,
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Event::Start => "start",
            Event::Phase(..) => "phase",
            Event::Note => "note",
            Event::Finding => "finding",
            Event::Warning => "warning",
            Event::Job => "job",
            Event::Progress(..) => backy_lib::fleet::PROGRESS,
            Event::End(..) => "end",
        }
    }
}

/// One run of the command, as each line names it.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) id: OperationId,
    /// None where the arguments were not understood.
    pub(crate) command: Option<String>,
    pub(crate) archive: Option<String>,
    began: Instant,
}

impl Operation {
    pub(crate) fn begin(
        id: OperationId,
        command: Option<String>,
        archive: Option<String>,
    ) -> Operation {
        Operation { id, command, archive, began: Instant::now() }
    }
}

/// How lines about an operation are written.
#[derive(Debug)]
pub(crate) struct Style {
    pub(crate) format: LogFormat,
    /// Whether standard error is the journal, which takes a priority before each line.
    pub(crate) to_journal: bool,
    pub(crate) operation: Operation,
}

/// A line for programs.
#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    level: Severity,
    operation: OperationId,
    command: Option<&'a str>,
    archive: Option<&'a str>,
    event: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<Option<ErrorKind>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Ending>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_status: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
}

impl Style {
    /// One line, without its end.
    pub(crate) fn line(&self, severity: Severity, event: Event, message: &str) -> String {
        let now = SystemClock.now();
        let line = match self.format {
            LogFormat::Text => self.text_line(severity, message, now),
            LogFormat::Json => self.json_line(severity, event, message, now),
            LogFormat::Journal => self.said(severity, message),
        };
        match self.to_journal || self.format == LogFormat::Journal {
            true => format!("<{}>{line}", severity as u32),
            false => line,
        }
    }

    /// What all forms for people share.
    fn said(&self, severity: Severity, message: &str) -> String {
        format!("{}: {}{}", self.operation.id, severity.word(), escape::line(message))
    }

    fn text_line(&self, severity: Severity, message: &str, now: Timestamp) -> String {
        let time = now.strftime("%Y-%m-%dT%H:%M:%SZ");
        let process = rustix::process::getpid();
        format!("{time} backy[{process}] {}", self.said(severity, message))
    }

    fn json_line(&self, severity: Severity, event: Event, message: &str, now: Timestamp) -> String {
        let mut line = JsonLine {
            time: now.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
            level: severity,
            operation: self.operation.id,
            command: self.operation.command.as_deref(),
            archive: self.operation.archive.as_deref(),
            event: event.name(),
            message,
            phase: None,
            total_bytes: None,
            done_bytes: None,
            kind: None,
            result: None,
            exit_status: None,
            seconds: None,
        };
        match event {
            Event::Phase(phase, total_bytes) => {
                (line.phase, line.total_bytes) = (Some(phase.name()), Some(total_bytes));
            }
            Event::Progress(phase, done_bytes, total_bytes) => {
                (line.phase, line.total_bytes) = (Some(phase.name()), Some(total_bytes));
                line.done_bytes = Some(done_bytes);
            }
            Event::End(ending, status, kind) => {
                line.kind = Some(kind);
                (line.result, line.exit_status) = (Some(ending), Some(status));
                line.seconds = Some(self.seconds());
            }
            Event::Start | Event::Note | Event::Finding | Event::Warning | Event::Job => {}
        }
        // Text and numbers always become JSON.
        escape::json(serde_json::to_string(&line).unwrap_or_default())
    }

    /// How long the operation has taken until now, to the millisecond.
    pub(crate) fn seconds(&self) -> f64 {
        (self.operation.began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
    }
}

/// Whether standard error is the journal. Source: `JOURNAL_STREAM` in systemd.exec(5).
pub(crate) fn stderr_is_journal() -> bool {
    let Some(named) = environment("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(io::stderr())
        .is_ok_and(|stat| named.to_str() == Some(&format!("{}:{}", stat.st_dev, stat.st_ino)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(format: LogFormat, to_journal: bool) -> Style {
        let id = "019ac000-0000-7000-8000-000000000000".parse().unwrap();
        let operation = Operation::begin(id, Some("backup".to_owned()), Some("/a".to_owned()));
        Style { format, to_journal, operation }
    }

    /// A priority is written before the line where the journal reads it, whatever the form. No message has a second
    /// line or a priority of its own.
    #[test]
    fn priorities_are_for_the_journal() {
        let id = "019ac000-0000-7000-8000-000000000000";
        for (format, to_journal, begin) in [
            (LogFormat::Journal, false, format!("<4>{id}: warning: /a\\n<0>b")),
            (LogFormat::Journal, true, format!("<4>{id}: warning: /a\\n<0>b")),
            (LogFormat::Text, true, "<4>20".to_owned()),
            (LogFormat::Text, false, "20".to_owned()),
            (LogFormat::Json, true, "<4>{\"time\":\"20".to_owned()),
            (LogFormat::Json, false, "{\"time\":\"20".to_owned()),
        ] {
            let line =
                style(format, to_journal).line(Severity::Warning, Event::Warning, "/a\n<0>b");
            assert!(line.starts_with(&begin) && !line.contains('\n'), "{line}");
            assert!(line.contains(id), "{line}");
        }
    }

    /// An error about arguments has the form that they ask for.
    #[test]
    fn the_form_is_seen_in_wrong_arguments() {
        for (line, format) in [
            ("backy --log-format json bakcup", Some(LogFormat::Json)),
            ("backy bakcup --log-format=text", Some(LogFormat::Text)),
            ("backy --log-format xml status", None),
            ("backy --log-format", None),
            ("backy drill -- x --log-format json", None),
            ("backy --log-formatjson", None),
        ] {
            let args: Vec<_> = line.split(' ').map(std::ffi::OsString::from).collect();
            assert_eq!(LogFormat::guess(&args), format, "{line}");
        }
    }
}
