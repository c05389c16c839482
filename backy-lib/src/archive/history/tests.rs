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
    let storage = DirStorage::open(folder.path()).unwrap();
    recent(&storage, Filled::ByBackups, since.parse().unwrap(), latest).unwrap()
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
    let found = recent(&storage, Filled::ByBackups, time(0), time(100)).unwrap();
    let runs: Vec<_> =
        found.runs.iter().map(|run| (run.operation.as_str(), run.result.as_str())).collect();
    assert_eq!(runs, [("backup", "failed"), ("scrub", "ok")]);
    assert!(found.runs[0].error.as_ref().unwrap().contains("the source is gone"));
    assert_eq!(found.runs[0].started, time(0));
    add("backup", 21, Err(&Error::Interrupted));
    for number in 22..30 {
        add("tag", number, Ok(&long));
    }
    let found = recent(&storage, Filled::ByBackups, time(0), time(100)).unwrap();
    assert_eq!((found.runs[0].result.as_str(), found.failures.len()), ("interrupted", 1));
    add("backup", 30, Ok(&long));
    assert_eq!(recent(&storage, Filled::ByBackups, time(0), time(100)).unwrap().failures, []);
    assert_eq!(
        recent(&storage, Filled::ByBackups, time(0), time(100)).unwrap().runs[0].result,
        "ok"
    );
}

/// The last pull that succeeded is known, however many failed after it and however often the file is put aside. Its
/// report then lacks what it left out. What it stored counts as the growth of the archive.
#[test]
fn the_last_successful_pull_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let storage = DirStorage::open(folder.path()).unwrap();
    let time = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
    let add = |operation: &str, second: i64, outcome: std::result::Result<&Value, &Error>| {
        let times = (time(second), time(second));
        record(&storage, operation, times, outcome, &crate::base::progress::Silent);
    };
    let recent = || recent(&storage, Filled::ByPulls, time(0), time(100)).unwrap();
    let pulled = serde_json::json!({
        "pulled": [{ "stored_bytes": 7 }, { "stored_bytes": -2 }], "left_out": [{ "started": time(50).to_string() }, {}]
    });
    add("pull", 1, Ok(&pulled));
    let failed = Error::Specification { message: "no answer".to_owned() };
    add("pull", 2, Err(&failed));
    add("pull", 3, Err(&Error::Interrupted));
    let found = recent();
    assert_eq!(
        found.last_pull,
        Some(LastPull { started: time(1), left_out: Some(vec![time(50)]) })
    );
    assert_eq!(found.failures.len(), 1);
    assert_eq!(found.movements, [Movement { at: time(1), is_backup: true, bytes: 5 }]);
    for number in 4..30 {
        add("tag", number, Ok(&serde_json::json!({ "x": "x".repeat(300_000) })));
    }
    let found = recent();
    assert_eq!(found.last_pull, Some(LastPull { started: time(1), left_out: None }));
    assert_eq!((found.runs[0].result.as_str(), found.failures.len()), ("interrupted", 1));
}
