//! `history.jsonl`: one line for each operation, with its report. An audit log, never needed for anything else.
//!
//! Bounded: a file that has become too long takes the name of the one before it.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
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
        report: outcome.ok().and_then(|report| serde_json::to_value(report).ok()),
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
        storage.rename(FileName::History, FileName::OldHistory)?;
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
    text += &json.map_err(|error| Error::io(path, "write a line")(error.into()))?;
    text.push('\n');
    file.write_at(text.as_bytes(), len)
}

fn open(storage: &dyn Storage) -> Result<Box<dyn StorageFile>> {
    match storage.open(FileName::History, Access::Write) {
        Err(error) if error.kind() == ErrorKind::NotFound => storage.create(FileName::History),
        other => other,
    }
}
