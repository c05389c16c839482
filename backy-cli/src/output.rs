//! What people see: lines on standard error, results on standard output, tables, sizes, times.
//!
//! Colours and bars are for terminals only, and not when `NO_COLOR` is set or the terminal is a dumb one. If a log is
//! requested instead, standard error has only lines of that form.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::panic::PanicHookInfo;
use std::sync::{Arc, Mutex, PoisonError};

use backy_lib::escape;
use backy_lib::progress::Phase;
use backy_lib::units::display_size;
use backy_lib::{ErrorKind, Level, Problem};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::errors::Failure;
use crate::log::{Ending, Event, LogFormat, Severity, Style};

/// Where output is written, and what those places can show.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    stdout: Stream,
    stderr: Stream,
    /// How to write lines on standard error, where they are for a log.
    log: Option<Arc<Style>>,
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    is_terminal: bool,
    has_colours: bool,
    is_dumb: bool,
}

/// A longer answer means no.
const MAX_ANSWER_BYTES: u64 = 1024;

/// A colour of the terminal's own palette, so that it suits its background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Red,
    Green,
    Yellow,
    Bold,
}

impl Output {
    /// Looks at the two streams and the environment.
    pub(crate) fn detect() -> Self {
        let no_colour = environment("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = environment("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let stream = |is_terminal: bool| Stream {
            is_terminal,
            has_colours: is_terminal && !no_colour && !is_dumb,
            is_dumb,
        };
        Output {
            stdout: stream(io::stdout().is_terminal()),
            stderr: stream(io::stderr().is_terminal()),
            log: None,
        }
    }

    /// The same with a log on standard error.
    pub(crate) fn logging(self, style: Option<Arc<Style>>) -> Self {
        Output { log: style, ..self }
    }

    /// Whether standard error has a log.
    pub(crate) fn is_logging(&self) -> bool {
        self.log.is_some()
    }

    /// Whether standard error is, or looks like, the journal.
    pub(crate) fn is_journal(&self) -> bool {
        let is_journal = |style: &Style| style.to_journal || style.format == LogFormat::Journal;
        self.log.as_deref().is_some_and(is_journal)
    }

    pub(crate) fn stdout_is_terminal(&self) -> bool {
        self.stdout.is_terminal
    }

    pub(crate) fn stderr_is_terminal(&self) -> bool {
        self.stderr.is_terminal
    }

    /// Whether a person can be asked: standard input and standard error are terminals, and no log is written there.
    pub(crate) fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && self.stderr.is_terminal && self.log.is_none()
    }

    /// Asks a person. Returns whether the answer is yes. An empty one, and the end of the input, mean no.
    pub(crate) fn ask(&self, question: &str) -> Result<bool, Failure> {
        let asked = format!("{} [y/N] ", escape::line(question));
        io::stderr().lock().write_all(asked.as_bytes()).map_err(Failure::Output)?;
        let mut answer = String::new();
        let failed =
            |error| Failure::message(format!("cannot read the answer: {error}; use --yes"));
        let found =
            io::stdin().lock().take(MAX_ANSWER_BYTES).read_line(&mut answer).map_err(failed)?;
        if found == 0 {
            // Nobody has ended the line.
            write_line(String::new());
        }
        Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
    }

    /// Whether a progress bar can be drawn on standard error.
    pub(crate) fn can_draw(&self) -> bool {
        self.stderr.is_terminal && !self.stderr.is_dumb && self.log.is_none()
    }

    /// Text for standard output in a colour, if that has colours.
    pub(crate) fn paint(&self, colour: Colour, text: &str) -> String {
        paint(self.stdout, colour, text)
    }

    /// Writes a result.
    pub(crate) fn result(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::Output)
    }

    /// Writes a report as JSON for programs.
    pub(crate) fn json(&self, report: &impl serde::Serialize) -> Result<(), Failure> {
        let mut text = serde_json::to_string_pretty(report)
            .map_err(|error| Failure::message(format!("cannot write this as JSON: {error}")))?;
        text.push('\n');
        self.result(escape::json(text).as_bytes())
    }

    /// One line on standard error about what was or is done.
    pub(crate) fn note(&self, text: &str) {
        self.say(Severity::Info, Event::Note, text);
    }

    /// One line on standard error about a problem that does not stop the operation.
    pub(crate) fn warning(&self, text: &str) {
        self.say(Severity::Warning, Event::Warning, text);
    }

    /// One line on standard error about damaged data.
    pub(crate) fn finding(&self, text: &str) {
        self.say(Severity::Warning, Event::Finding, text);
    }

    /// One line on standard error: why the command failed.
    pub(crate) fn error(&self, text: &str, ending: Ending, status: u8, kind: Option<ErrorKind>) {
        self.say(Severity::Error, Event::End(ending, status, kind), text);
    }

    /// One line on standard error about one of many things that failed.
    pub(crate) fn failure(&self, text: &str) {
        self.say(Severity::Error, Event::Job, text);
    }

    /// One line on standard error about one of many things that were done.
    pub(crate) fn done(&self, text: &str) {
        self.say(Severity::Info, Event::Job, text);
    }

    /// How far a phase is, for the run that started this job. Does not wait for a frozen file system: the run reads
    /// this from a pipe.
    pub(crate) fn progress(&self, phase: Phase, done_bytes: u64, total_bytes: u64) {
        if let Some(style) = &self.log {
            let event = Event::Progress(phase, done_bytes, total_bytes);
            let line = style.line(Severity::Info, event, "");
            // The run may have ended; then this process is about to hear of it.
            let _ = io::stderr().lock().write_all((line + "\n").as_bytes());
        }
    }

    /// How far the operation is, for a log that has everything.
    pub(crate) fn log(&self, event: Event, text: &str) {
        if self.log.is_some() {
            self.say(Severity::Info, event, text);
        }
    }

    fn say(&self, severity: Severity, event: Event, text: &str) {
        let line = match &self.log {
            Some(style) => style.line(severity, event, text),
            None => {
                let word = match severity {
                    Severity::Error => paint(self.stderr, Colour::Red, "error:") + " ",
                    Severity::Warning => paint(self.stderr, Colour::Yellow, "warning:") + " ",
                    Severity::Info => String::new(),
                };
                format!("backy: {word}{}", escape::line(text))
            }
        };
        write_line(line);
    }
}

/// Lines for standard error that wait because it may be on a file system that a hook has frozen.
struct HeldBack {
    lines: Vec<String>,
    left_out: usize,
}

/// Of this process, which has one standard error; `None` when nothing has to wait.
static HELD_BACK: Mutex<Option<HeldBack>> = Mutex::new(None);

/// The most lines that are kept; more than anybody reads.
const MOST_HELD_BACK: usize = 10_000;

/// Holds back standard error from now on. With `false` it writes what was held back, and stops.
pub(crate) fn hold_back(held: bool) {
    let mut waiting = HELD_BACK.lock().unwrap_or_else(PoisonError::into_inner);
    if held {
        waiting.get_or_insert(HeldBack { lines: Vec::new(), left_out: 0 });
        return;
    }
    let Some(HeldBack { mut lines, left_out }) = waiting.take() else { return };
    drop(waiting);
    if left_out > 0 {
        lines.push(format!("backy: {left_out} more lines are left out"));
    }
    lines.into_iter().for_each(write_line);
}

fn write_line(line: String) {
    if let Some(waiting) = &mut *HELD_BACK.lock().unwrap_or_else(PoisonError::into_inner) {
        match waiting.lines.len() < MOST_HELD_BACK {
            true => waiting.lines.push(line),
            false => waiting.left_out += 1,
        }
        return;
    }
    // In one piece, so that lines of several processes do not mix. A closed standard error cannot be reported.
    let _ = io::stderr().lock().write_all((line + "\n").as_bytes());
}

/// Reports in one line where a thread has panicked. Its message becomes an error, if the operation can still end with
/// one.
pub(crate) fn tell_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(|at| format!(" at {at}")).unwrap_or_default();
    let payload = panic.payload();
    let literal = payload.downcast_ref::<&str>().copied();
    let message = literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("no message");
    write_line(format!("backy: a bug{place}: {}", escape::line(message)));
}

#[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
pub(crate) fn environment(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

fn paint(stream: Stream, colour: Colour, text: &str) -> String {
    let code = match colour {
        Colour::Red => "1;31",
        Colour::Green => "1;32",
        Colour::Yellow => "1;33",
        Colour::Bold => "1",
    };
    if stream.has_colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// `CRITICAL: text`, with the word in its colour.
pub(crate) fn verdict(level: Level, text: &str, output: &Output) -> String {
    let word = format!("{}:", level_word(level));
    format!("{} {}", output.paint(level_colour(level), &word), escape::line(text))
}

/// A problem, and what to do about it.
pub(crate) fn problem_line(problem: &Problem, output: &Output) -> String {
    verdict(problem.level, &format!("{}; {}", problem.message, problem.advice), output)
}

pub(crate) fn level_word(level: Level) -> &'static str {
    match level {
        Level::Ok => "OK",
        Level::Warning => "WARNING",
        Level::Critical => "CRITICAL",
        Level::Unknown => "UNKNOWN",
    }
}

pub(crate) fn level_colour(level: Level) -> Colour {
    match level {
        Level::Ok => Colour::Green,
        Level::Warning | Level::Unknown => Colour::Yellow,
        Level::Critical => Colour::Red,
    }
}

/// A size for a column: like [`display_size`], and without the decimal where it says little.
pub(crate) fn size(bytes: u64) -> String {
    let text = display_size(bytes);
    match text.split_once('.') {
        Some((whole, rest)) if whole.len() > 2 => {
            format!("{whole}{}", rest.get(1..).unwrap_or_default())
        }
        _ => text,
    }
}

/// A size that may be negative.
pub(crate) fn signed_size(bytes: i64) -> String {
    let sign = if bytes < 0 { "-" } else { "" };
    format!("{sign}{}", size(bytes.unsigned_abs()))
}

/// How long something took: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{:.1} s", seconds.max(0.0)),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A length of time in the largest unit that divides it: `1 day`, `36 h`, `90 min`.
pub(crate) fn interval(seconds: i64) -> String {
    let units = [(86400, "days"), (3600, "h"), (60, "min"), (1, "s")];
    let (unit, name) = units.into_iter().find(|(unit, _)| seconds % unit == 0).unwrap_or((1, "s"));
    match (seconds / unit, name) {
        (1, "days") => "1 day".to_owned(),
        (count, name) => format!("{count} {name}"),
    }
}

/// Date and time of day where the reader is, to the minute.
pub(crate) fn local_minute(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
}

/// Date and time of day where the reader is, with the zone.
pub(crate) fn local_second(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (99 << 20, "99.0 MiB"),
            (256 << 20, "256 MiB"),
            ((1 << 30) - 1, "1.0 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(signed_size(-1536), "-1.5 KiB");
    }

    #[test]
    fn lengths_of_time_are_as_people_say_them() {
        for (seconds, text) in [
            (0.0, "0.0 s"),
            (9.94, "9.9 s"),
            (9.96, "10 s"),
            (59.4, "59 s"),
            (59.6, "1 min 0 s"),
            (7500.0, "2 h 5 min"),
            (f64::NAN, "0 s"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        for (seconds, text) in [
            (86400, "1 day"),
            (7 * 86400, "7 days"),
            (129_600, "36 h"),
            (5400, "90 min"),
            (1, "1 s"),
        ] {
            assert_eq!(interval(seconds), text);
        }
    }
}
