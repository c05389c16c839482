//! `history.jsonl`: one line for each operation, with its report. An audit log, never needed for anything else.
//!
//! Bounded: a file that has become too long takes the name of the one before it. For reading it is a hint: lines that are
//! torn or mean nothing are passed over.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::canary::{Bug, planted};
use crate::error::{Error, ErrorKind, Result};
use crate::escape;
use crate::health::{Movement, Run};
use crate::progress::{Event, Observer};
use crate::revision::OperationId;
use crate::storage::{Access, FileName, Storage, StorageFile};

/// A file that is longer is put aside.
const MAX_BYTES: u64 = 1 << 20;

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    id: OperationId,
    operation: &'a str,
    started: Timestamp,
    finished: Timestamp,
    result: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<Value>,
}

/// What of it is read at most, from its end. A file is put aside before it is much longer.
const READ_BYTES: u64 = 2 * MAX_BYTES;

/// The commands whose last run is asked for.
const RUNS: [&str; 3] = ["backup", "maintenance", "scrub"];

/// What the history says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Recent {
    /// The last run of each of [`RUNS`], in that order.
    pub(crate) runs: Vec<Run>,
    /// What changed the archive's size since a given time, oldest first.
    pub(crate) movements: Vec<Movement>,
}

/// With these there is no history for whoever asks. Any other error is one, since the history may say that the last run failed.
const UNKNOWN: [ErrorKind; 2] = [ErrorKind::NotFound, ErrorKind::Permission];

/// Reads from the end what is not older than `since`, and as much more as it takes to know the last runs.
pub(crate) fn recent(storage: &dyn Storage, since: Timestamp) -> Result<Recent> {
    let mut last: [Option<Run>; RUNS.len()] = Default::default();
    let mut movements = Vec::new();
    'files: for name in [FileName::History, FileName::OldHistory] {
        let tail = match tail(storage, name) {
            Err(error) if UNKNOWN.contains(&error.kind()) => continue,
            tail => tail?,
        };
        for line in tail.rsplit(|&byte| byte == b'\n') {
            let Ok(line) = serde_json::from_slice::<ReadLine>(line) else { continue };
            if line.finished < since && last.iter().all(Option::is_some) {
                break 'files;
            }
            movements.extend(line.movement());
            let known =
                RUNS.iter().zip(&mut last).find(|(operation, _)| **operation == line.operation);
            if let Some((_, run @ None)) = known {
                *run = Some(line.into_run());
            }
        }
    }
    movements.reverse();
    Ok(Recent { runs: last.into_iter().flatten().collect(), movements })
}

/// When an operation last ended; from the newer file alone, which is enough for what was a few hours ago.
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
#[derive(Deserialize)]
struct ReadLine {
    operation: String,
    started: Timestamp,
    finished: Timestamp,
    result: String,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    report: Option<ReadReport>,
}

/// What is wanted of a report.
#[derive(Deserialize)]
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

    fn into_run(self) -> Run {
        let ReadLine { operation, started, finished, result, error, .. } = self;
        Run { operation, started, finished, result, error }
    }
}

/// Adds a line about an operation that has ended, well or not.
///
/// A line that cannot be written is told and otherwise passed over: what was done is done.
pub(crate) fn record<T: Serialize>(
    storage: &dyn Storage,
    operation: &str,
    (started, finished): (Timestamp, Timestamp),
    outcome: std::result::Result<&T, &Error>,
    observer: &dyn Observer,
) {
    let (result, error) = match outcome {
        Ok(_) => ("ok", None),
        // How much stays done differs, and is no error.
        Err(error) if error.kind() == ErrorKind::Interrupted => ("interrupted", None),
        Err(error) => ("failed", Some(error.to_string())),
    };
    let line = Line {
        id: observer.operation().unwrap_or_else(|| OperationId::new(started)),
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
    // After a failure there are more important things to say.
    if let (Err(error), Ok(_)) = (append(storage, &line), outcome) {
        observer.event(&Event::Note(format!("the history lacks this: {error}")));
    }
}

fn append(storage: &dyn Storage, line: &Line<'_>) -> Result<()> {
    let mut file = open(storage)?;
    let mut len = file.len()?;
    if len > MAX_BYTES {
        match planted(Bug::LostHistory) {
            true => storage.remove(FileName::History)?,
            false => storage.rename(FileName::History, FileName::OldHistory)?,
        }
        (file, len) = (open(storage)?, 0);
    }
    let mut text = String::new();
    // A line that was cut short by a crash stays a line of its own.
    let mut last = [b'\n'];
    if len > 0 {
        file.read_exact_at(&mut last, len - 1)?;
    }
    if last != *b"\n" {
        text.push('\n');
    }
    let json = serde_json::to_string(line);
    let path = storage.path(FileName::History);
    let json = json.map_err(|error| Error::io(path, "write a line")(error.into()))?;
    text += &escape::json(json);
    text.push('\n');
    file.write_at(text.as_bytes(), len)
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
        recent(&DirStorage::open(folder.path()).unwrap(), since.parse().unwrap()).unwrap()
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

    /// The file that was put aside is read only as far as it is needed.
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

    /// Torn lines, lines of another kind and bytes that mean nothing are passed over; what is long is read from its end only.
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
}
