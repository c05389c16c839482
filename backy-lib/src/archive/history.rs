//! `history.jsonl`: one line for each operation, with its report. An audit log, never needed for anything else.
//!
//! Bounded: a file that has become too long is renamed over the previous one. The new file begins with the last run
//! of each command that the verdict asks for, so that a failure stays known until the next run, however much is
//! written meanwhile. A reader takes the file as a hint: it skips torn lines and lines that mean nothing.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::canary::{Bug, planted};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::escape;
use crate::base::progress::{Event, Observer};
use crate::base::revision::OperationId;
use crate::policy::config::Config;
use crate::policy::health::{Ahead, LastPull, Movement, PULL, RUN_RESULTS, RUNS, Run};
use crate::storage::{Access, FileName, Storage, StorageFile};

/// A longer file is put aside.
const MAX_BYTES: u64 = 1 << 20;

/// A line that would be longer lacks its report: one line must not hide those before it.
const MAX_LINE_BYTES: usize = 512 << 10;

/// The name of a backup here.
const BACKUP: &str = "backup";

/// Longest reason of a failure that the new file takes over.
const MAX_ERROR_CHARS: usize = 4096;

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a Value,
    operation: &'a str,
    started: Timestamp,
    finished: Timestamp,
    result: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<Value>,
}

/// How much of a file is read at most, from its end. A file is put aside before it is much longer.
const READ_BYTES: u64 = 2 * MAX_BYTES;

/// The result of reading the history.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Recent {
    /// The last run of each of [`RUNS`], in that order.
    pub(crate) runs: Vec<Run>,
    /// Those of them whose last run failed; interrupted runs after it do not count.
    pub(crate) failures: Vec<Run>,
    /// What changed the archive's size since a given time, oldest first.
    pub(crate) movements: Vec<Movement>,
    /// Runs that ended in the future, one of each command. They hide no earlier run; one that failed counts all the
    /// same.
    pub(crate) ahead: Vec<Ahead>,
    /// The last pull that succeeded.
    pub(crate) last_pull: Option<LastPull>,
}

/// Whether an archive has backups or pulls: the history is not searched to its end for the other ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    ByBackups,
    ByPulls,
}

impl Filled {
    pub(crate) fn of(config: &Config) -> Self {
        if config.origin.is_some() { Filled::ByPulls } else { Filled::ByBackups }
    }

    fn other(self) -> &'static str {
        match self {
            Filled::ByBackups => PULL,
            Filled::ByPulls => BACKUP,
        }
    }
}

/// Reads from the end everything that is not older than `since`, and as much more as it takes to know the last runs.
/// A run that ended after `latest` is from the future.
pub(crate) fn recent(
    storage: &dyn Storage,
    filled: Filled,
    since: Timestamp,
    latest: Timestamp,
) -> Result<Recent> {
    let mut last = LastLines { filled: Some(filled), ..LastLines::default() };
    let (mut movements, mut ahead): (_, Vec<Ahead>) = (Vec::new(), Vec::new());
    'files: for name in [FileName::History, FileName::OldHistory] {
        let tail = match tail(storage, name) {
            // Any other error counts: the history may say that the last run failed.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            tail => tail?,
        };
        for line in tail.rsplit(|&byte| byte == b'\n') {
            let Ok(line) = serde_json::from_slice::<ReadLine>(line) else { continue };
            if line.finished < since && last.are_known() {
                break 'files;
            }
            movements.extend(line.movement());
            if let Some(run) = last.add(line, latest)
                && ahead.iter().all(|ahead| ahead.what != run.what)
            {
                ahead.push(run);
            }
        }
    }
    movements.reverse();
    let runs = last.last.into_iter().flatten().map(ReadLine::into_run).collect();
    let failed = last.ended.into_iter().flatten().filter(ReadLine::has_failed);
    let failures = failed.map(ReadLine::into_run).collect();
    let last_pull = last.pulled.map(ReadLine::into_pull);
    Ok(Recent { runs, failures, movements, ahead, last_pull })
}

/// Lines of the last runs of each of [`RUNS`], found from the end.
#[derive(Default)]
struct LastLines {
    last: [Option<ReadLine>; RUNS.len()],
    /// The last run that ended by itself.
    ended: [Option<ReadLine>; RUNS.len()],
    /// The last pull that succeeded.
    pulled: Option<ReadLine>,
    /// `None` if all commands count.
    filled: Option<Filled>,
}

impl LastLines {
    fn are_known(&self) -> bool {
        let other = self.filled.map(Filled::other);
        let mut counting = RUNS.iter().zip(&self.ended).filter(|(name, _)| Some(**name) != other);
        counting.all(|(_, ended)| ended.is_some()) && (other == Some(PULL) || self.pulled.is_some())
    }

    /// Takes a line that is older than all before. Returns the run if it is from the future: such a run hides no
    /// earlier one, but if it failed, it counts as failed.
    fn add(&mut self, line: ReadLine, latest: Timestamp) -> Option<Ahead> {
        let at = RUNS.iter().position(|operation| *operation == line.operation)?;
        if line.operation == PULL && line.result == RUN_RESULTS[0] && line.finished <= latest {
            self.pulled.get_or_insert_with(|| line.clone());
        }
        let (Some(last), Some(ended @ None)) = (self.last.get_mut(at), self.ended.get_mut(at))
        else {
            return None;
        };
        let ahead = (line.finished > latest)
            .then(|| Ahead::new(format!("a run of {}", line.operation), line.finished));
        if ahead.is_none() || line.has_failed() {
            if line.result != "interrupted" {
                *ended = Some(line.clone());
            }
            last.get_or_insert(line);
        }
        ahead
    }
}

/// When an operation last ended. Reads the newer file alone, which is enough for the last few hours.
pub(crate) fn last(storage: &dyn Storage, operation: &str) -> Result<Option<Timestamp>> {
    let tail = tail(storage, FileName::History)?;
    let mut lines = tail.rsplit(|&byte| byte == b'\n');
    Ok(lines.find_map(|line| {
        let line = serde_json::from_slice::<ReadLine>(line).ok()?;
        (line.operation == operation).then_some(line.finished)
    }))
}

/// The end of a file.
fn tail(storage: &dyn Storage, name: FileName) -> Result<Vec<u8>> {
    let file = storage.open(name, Access::Read)?;
    let from = file.len()?.saturating_sub(READ_BYTES);
    let mut tail = vec![0; (file.len()? - from).min(READ_BYTES) as usize];
    let found = file.read_at(&mut tail, from)?;
    tail.truncate(found);
    Ok(tail)
}

/// A line as it is read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct ReadLine {
    #[serde(default)]
    id: Value,
    operation: String,
    started: Timestamp,
    finished: Timestamp,
    result: String,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    report: Option<ReadReport>,
}

/// The parts of a report that this module needs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct ReadReport {
    #[serde(default)]
    revision: Option<Value>,
    #[serde(default)]
    freed_bytes: Option<i64>,
    #[serde(default)]
    left_out: Option<Vec<Value>>,
    #[serde(default)]
    pulled: Option<Vec<Value>>,
}

impl ReadLine {
    /// By how much it changed the size of the archive.
    fn movement(&self) -> Option<Movement> {
        let report = self.report.as_ref()?;
        let movement = |is_backup, bytes| Movement { at: self.finished, is_backup, bytes };
        match self.operation.as_str() {
            BACKUP => {
                let stored = report.revision.as_ref()?.pointer("/statistics/stored_bytes")?;
                Some(movement(true, stored.as_i64()?))
            }
            PULL => {
                let pulled = report.pulled.as_ref().filter(|pulled| !pulled.is_empty())?;
                let mut stored = pulled.iter().map(|one| one.get("stored_bytes")?.as_i64());
                let stored = stored.try_fold(0_i64, |sum, one| Some(sum.saturating_add(one?)))?;
                Some(movement(true, stored))
            }
            "maintenance" => Some(movement(false, report.freed_bytes?.saturating_neg())),
            _ => None,
        }
    }

    fn has_failed(&self) -> bool {
        self.result == "failed"
    }

    fn into_pull(self) -> LastPull {
        let left_out = self.report.and_then(|report| report.left_out);
        let started = |one: &Value| one.get("started")?.as_str()?.parse().ok();
        let left_out = left_out.map(|left_out| left_out.iter().filter_map(started).collect());
        LastPull { started: self.started, left_out }
    }

    fn into_run(self) -> Run {
        let ReadLine { operation, started, finished, result, error, .. } = self;
        Run { operation, started, finished, result, error }
    }
}

/// Adds a line about an operation that has ended, successfully or not.
///
/// If the line cannot be written, warns and returns no error: the operation itself is done.
pub(crate) fn record<T: Serialize>(
    storage: &dyn Storage,
    operation: &str,
    (started, finished): (Timestamp, Timestamp),
    outcome: std::result::Result<&T, &Error>,
    observer: &dyn Observer,
) {
    let [ok, failed, interrupted] = RUN_RESULTS;
    let (result, error) = match outcome {
        Ok(_) => (ok, None),
        // How much stays done differs, and that is no error.
        Err(error) if error.kind() == ErrorKind::Interrupted => (interrupted, None),
        Err(error) => (failed, Some(error.to_string())),
    };
    let id = observer.operation().unwrap_or_else(|| OperationId::new(started));
    let line = Line {
        id: &Value::String(id.to_string()),
        operation,
        started,
        finished,
        result,
        error,
        report: outcome
            .ok()
            .and_then(|report| serde_json::to_value(report).ok())
            .filter(|report| !report.is_null()),
    };
    // After a failure there are more important things to report.
    if let (Err(error), Ok(_)) = (append(storage, &line), outcome) {
        observer.event(&Event::Note(format!("cannot record this in the history: {error}")));
    }
}

fn append(storage: &dyn Storage, line: &Line<'_>) -> Result<()> {
    let mut file = open(storage)?;
    let mut len = file.len()?;
    let mut text = String::new();
    if len > MAX_BYTES {
        text = carried_over(storage)?;
        match planted(Bug::LostHistory) {
            true => storage.remove(FileName::History)?,
            false => storage.rename(FileName::History, FileName::OldHistory)?,
        }
        (file, len) = (open(storage)?, 0);
    }
    // A line that a crash cut short stays a line of its own.
    let mut last = [b'\n'];
    if len > 0 {
        file.read_exact_at(&mut last, len - 1)?;
    }
    if last != *b"\n" {
        text.push('\n');
    }
    text += &written(storage, line)?;
    file.write_at(text.as_bytes(), len)
}

/// A line as it is written, with its end.
fn written(storage: &dyn Storage, line: &Line<'_>) -> Result<String> {
    let written = |line: &Line<'_>| {
        let json = serde_json::to_string(line);
        let path = storage.path(FileName::History);
        json.map_err(|error| Error::io(path, "write a line")(error.into()))
    };
    let mut json = written(line)?;
    if json.len() > MAX_LINE_BYTES {
        json = written(&Line { report: None, error: line.error.clone(), ..*line })?;
    }
    Ok(escape::json(json) + "\n")
}

/// The lines that a new file begins with: those of the last runs of each command, without their reports, which would
/// count twice.
fn carried_over(storage: &dyn Storage) -> Result<String> {
    let mut last = LastLines::default();
    for name in [FileName::History, FileName::OldHistory] {
        let tail = match tail(storage, name) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            tail => tail?,
        };
        for line in tail.rsplit(|&byte| byte == b'\n') {
            if last.are_known() {
                break;
            }
            if let Ok(line) = serde_json::from_slice::<ReadLine>(line) {
                last.add(line, Timestamp::MAX);
            }
        }
    }
    let mut text = String::new();
    let pulled = last.pulled.as_ref();
    for (ended, last) in last.ended.iter().zip(&last.last) {
        let last = last.as_ref().filter(|last| Some(*last) != ended.as_ref());
        let is_pull = ended.as_ref().is_some_and(|ended| ended.operation == PULL);
        let pulled = pulled.filter(|pulled| is_pull && Some(*pulled) != ended.as_ref());
        for line in pulled.into_iter().chain(ended).chain(last) {
            let error = line.error.as_ref().map(|why| why.chars().take(MAX_ERROR_CHARS).collect());
            let (started, finished) = (line.started, line.finished);
            let id = &line.id;
            let (operation, result) = (line.operation.as_str(), line.result.as_str());
            let line = Line { id, operation, started, finished, result, error, report: None };
            text += &written(storage, &line)?;
        }
    }
    Ok(text)
}

fn open(storage: &dyn Storage) -> Result<Box<dyn StorageFile>> {
    match storage.open(FileName::History, Access::Write) {
        Err(error) if error.kind() == ErrorKind::NotFound => storage.create(FileName::History),
        other => other,
    }
}

#[cfg(test)]
mod tests;
