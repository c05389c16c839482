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
use crate::policy::health::{Ahead, Movement, RUN_RESULTS, RUNS, Run};
use crate::storage::{Access, FileName, Storage, StorageFile};

/// A longer file is put aside.
const MAX_BYTES: u64 = 1 << 20;

/// A line that would be longer lacks its report: one line must not hide those before it.
const MAX_LINE_BYTES: usize = 512 << 10;

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
}

/// Reads from the end everything that is not older than `since`, and as much more as it takes to know the last runs.
/// A run that ended after `latest` is from the future.
pub(crate) fn recent(storage: &dyn Storage, since: Timestamp, latest: Timestamp) -> Result<Recent> {
    let mut last = LastLines::default();
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
    Ok(Recent { runs, failures: failed.map(ReadLine::into_run).collect(), movements, ahead })
}

/// Lines of the last runs of each of [`RUNS`], found from the end.
#[derive(Default)]
struct LastLines {
    last: [Option<ReadLine>; RUNS.len()],
    /// The last run that ended by itself.
    ended: [Option<ReadLine>; RUNS.len()],
}

impl LastLines {
    fn are_known(&self) -> bool {
        self.ended.iter().all(Option::is_some)
    }

    /// Takes a line that is older than all before. Returns the run if it is from the future: such a run hides no
    /// earlier one, but if it failed, it counts as failed.
    fn add(&mut self, line: ReadLine, latest: Timestamp) -> Option<Ahead> {
        let at = RUNS.iter().position(|operation| *operation == line.operation)?;
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
}

impl ReadLine {
    /// By how much it changed the size of the archive.
    fn movement(&self) -> Option<Movement> {
        let report = self.report.as_ref()?;
        let movement = |is_backup, bytes| Movement { at: self.finished, is_backup, bytes };
        match self.operation.as_str() {
            "backup" => {
                let stored = report.revision.as_ref()?.pointer("/statistics/stored_bytes")?;
                Some(movement(true, stored.as_i64()?))
            }
            "maintenance" => Some(movement(false, report.freed_bytes?.saturating_neg())),
            _ => None,
        }
    }

    fn has_failed(&self) -> bool {
        self.result == "failed"
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
    for (ended, last) in last.ended.iter().zip(&last.last) {
        let last = last.as_ref().filter(|last| Some(*last) != ended.as_ref());
        for line in ended.iter().chain(last) {
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
mod tests {
    use std::fs;

    use super::*;
    use crate::storage::dir::DirStorage;

    #[expect(clippy::disallowed_methods, reason = "what others may have written")]
    fn read(current: &[u8], old: &[u8], since: &str) -> Recent {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("history.jsonl", current), ("history.jsonl.1", old)] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let latest = "2026-11-30T00:00:00Z".parse().unwrap();
        recent(&DirStorage::open(folder.path()).unwrap(), since.parse().unwrap(), latest).unwrap()
    }

    fn line(operation: &str, day: u32, rest: &str) -> String {
        format!(
            "{{\"operation\":\"{operation}\",\"started\":\"2026-11-{day:02}T02:00:00Z\",\
             \"finished\":\"2026-11-{day:02}T03:00:00Z\",{rest}}}\n"
        )
    }

    const BACKUP: &str =
        r#""result":"ok","report":{"revision":{"statistics":{"stored_bytes":7}},"cloned":false}"#;
    const FREED: &str = r#""result":"ok","report":{"verdicts":[],"freed_bytes":5}"#;
    const FAILED: &str = r#""result":"failed","error":"why""#;

    #[test]
    fn the_last_runs_and_what_changed_the_size_are_read() {
        let text = [
            line("backup", 1, BACKUP),
            line("maintenance", 1, FREED),
            line("backup", 2, BACKUP),
            line("tag", 2, r#""result":"ok","report":{"revision":"x","tags":[]}"#),
            line("rm", 2, FREED),
            line("backup", 3, FAILED),
        ]
        .concat();
        let found = read(text.as_bytes(), b"", "2026-01-01T00:00:00Z");
        let runs: Vec<_> =
            found.runs.iter().map(|r| (r.operation.as_str(), r.error.as_deref())).collect();
        assert_eq!(runs, [("backup", Some("why")), ("maintenance", None)]);
        let bytes: Vec<_> = found.movements.iter().map(|m| (m.is_backup, m.bytes)).collect();
        assert_eq!(bytes, [(true, 7), (false, -5), (true, 7)]);
    }

    /// Reads the file that was put aside only as far as necessary.
    #[test]
    fn the_older_file_goes_on_where_the_newer_one_begins() {
        let old = [line("scrub", 1, FAILED), line("backup", 2, BACKUP)].concat();
        let new = [line("backup", 3, BACKUP), line("maintenance", 3, FREED)].concat();
        let found = read(new.as_bytes(), old.as_bytes(), "2026-11-03T00:00:00Z");
        assert_eq!(found.runs.len(), 3);
        assert_eq!(found.movements.len(), 3);
        let scrubbed = [new.as_str(), &line("scrub", 3, FAILED)].concat();
        let found = read(scrubbed.as_bytes(), old.as_bytes(), "2026-11-03T00:00:00Z");
        assert_eq!(found.movements.len(), 2);
    }

    /// Skips torn lines, lines of another kind and bytes that mean nothing; reads only the end of a long file.
    #[test]
    fn a_hostile_history_costs_only_itself() {
        let good = line("backup", 3, FAILED);
        let deep = "[".repeat(100_000);
        for (before, after) in [
            ("{\"operation\":\"backup\",\"sta", ""),
            ("\0\u{feff}null\n[]\n{}\n7\n\n", "{\"operation\":\"backup\",\"started\":\"202"),
            (deep.as_str(), "{\"operation\": [1], \"result\": null}\n"),
        ] {
            let text = format!("{before}\n{good}{after}");
            let found = read(text.as_bytes(), b"\xff\xfe", "2026-01-01T00:00:00Z");
            assert_eq!(found.runs.len(), 1, "{before:.20}");
            assert_eq!(found.runs[0].error.as_deref(), Some("why"));
        }
        let mut long = vec![b'x'; 3 * READ_BYTES as usize];
        long.push(b'\n');
        long.extend(good.as_bytes());
        assert_eq!(read(&long, b"", "2026-01-01T00:00:00Z").runs.len(), 1);
        assert_eq!(read(&vec![b'x'; 3 << 20], b"", "2026-01-01T00:00:00Z"), Recent::default());
    }

    /// A run from the future hides no earlier one and is reported; one that failed counts as failed, whatever its
    /// date.
    #[test]
    fn a_run_from_the_future_hides_no_failure() {
        let future = |rest: &str| line("backup", 3, rest).replace("2026-11-03", "2036-11-03");
        let text = [line("backup", 1, FAILED), future(BACKUP), future(BACKUP)].concat();
        let found = read(text.as_bytes(), b"", "2026-01-01T00:00:00Z");
        assert_eq!(found.runs[0].error.as_deref(), Some("why"));
        assert_eq!(found.ahead.len(), 1, "{:?}", found.ahead);
        let text = [line("backup", 1, BACKUP), future(FAILED)].concat();
        let found = read(text.as_bytes(), b"", "2026-01-01T00:00:00Z");
        assert_eq!((found.runs[0].error.as_deref(), found.ahead.len()), (Some("why"), 1));
    }

    /// However often the file is put aside, the last run of each command is known. A report that is too long is left
    /// out, because it would hide the lines before it.
    #[test]
    fn a_failed_backup_is_known_until_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let storage = DirStorage::open(folder.path()).unwrap();
        let time = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        let add = |operation: &str, second: i64, outcome: std::result::Result<&Value, &Error>| {
            let times = (time(second), time(second));
            record(&storage, operation, times, outcome, &crate::base::progress::Silent);
        };
        let failed = Error::Specification { message: "the source is gone".to_owned() };
        add("backup", 0, Err(&failed));
        let report = |bytes: usize| serde_json::json!({ "x": "x".repeat(bytes) });
        let long = report(300_000);
        for number in 1..20 {
            add("tag", number, Ok(&long));
        }
        add("scrub", 20, Ok(&report(9 << 20)));
        let found = recent(&storage, time(0), time(100)).unwrap();
        let runs: Vec<_> =
            found.runs.iter().map(|run| (run.operation.as_str(), run.result.as_str())).collect();
        assert_eq!(runs, [("backup", "failed"), ("scrub", "ok")]);
        assert!(found.runs[0].error.as_ref().unwrap().contains("the source is gone"));
        assert_eq!(found.runs[0].started, time(0));
        add("backup", 21, Err(&Error::Interrupted));
        for number in 22..30 {
            add("tag", number, Ok(&long));
        }
        let found = recent(&storage, time(0), time(100)).unwrap();
        assert_eq!((found.runs[0].result.as_str(), found.failures.len()), ("interrupted", 1));
        add("backup", 30, Ok(&long));
        assert_eq!(recent(&storage, time(0), time(100)).unwrap().failures, []);
        assert_eq!(recent(&storage, time(0), time(100)).unwrap().runs[0].result, "ok");
    }
}
