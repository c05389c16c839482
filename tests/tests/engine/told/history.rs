//! The history: a line for each operation, and none is lost.

use std::collections::BTreeSet;

use backy_lib::archive::ArchiveWriter;
use backy_lib::drill;
use backy_lib::progress::{Observer, Silent};
use backy_lib::storage::FileName;
use backy_lib::storage::sim::{Failure, Fault, SimStorage};
use backy_lib::{MaintenanceOptions, Result, ScrubOptions, Tag};
use backy_tests::legacy::OldArchive;
use backy_tests::memory::MemorySource;
use backy_tests::stop::StopAt;
use backy_tests::world::{self, World, noise};
use serde_json::Value;

use super::{BLOCK, writer};

/// The lines of the history, the older file first.
fn history(disk: &SimStorage) -> Vec<Value> {
    let files = disk.files();
    let parts = [FileName::OldHistory, FileName::History].into_iter();
    let text: Vec<u8> = parts.filter_map(|name| files.get(&name)).flatten().copied().collect();
    let text = String::from_utf8(text).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("a line in JSON")).collect()
}

/// One verb of a writer.
type Verb = fn(&mut ArchiveWriter, &dyn Observer) -> Result<()>;

const VERBS: [(&str, Verb); 6] = [
    ("backup", |writer, observer| {
        let source = MemorySource::new(&noise(7, 30 * BLOCK));
        writer.backup(&source, &world::options(), &world::clock(), observer).map(drop)
    }),
    ("maintenance", |writer, observer| {
        let options = MaintenanceOptions { keep: Some(2), confirm: true, threads: Some(1) };
        writer.maintain(&options, &world::clock(), observer).map(drop)
    }),
    ("rm", |writer, observer| {
        writer.remove(&[writer.archive().id(1)?], &world::clock(), observer).map(drop)
    }),
    ("scrub", |writer, observer| {
        let options = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
        writer.scrub(&options, &world::clock(), observer).map(drop)
    }),
    ("tag", |writer, observer| {
        let add: BTreeSet<Tag> = ["mine".parse().expect("a tag")].into();
        writer
            .tag(writer.archive().id(0)?, &add, &BTreeSet::new(), &world::clock(), observer)
            .map(drop)
    }),
    ("drill", |writer, observer| {
        let archive = writer.archive();
        let drilled = drill::read(archive, archive.id(0)?, Some(1), &world::clock(), observer)?;
        writer.record_drill(drilled, &world::clock(), observer)
    }),
];

/// Every verb that changes the archive adds one line to the history, with its name and result, also when it fails and
/// when somebody stops it.
#[test]
fn every_verb_has_its_line_in_the_history() {
    let states: Vec<Vec<u8>> = (0..4).map(|seed| noise(seed, 30 * BLOCK)).collect();
    let world = World::with_backups(false, &states);
    for (name, verb) in VERBS {
        let disk = world.disk.fork();
        let before = history(&disk);
        verb(&mut writer(&disk), &Silent).unwrap_or_else(|error| panic!("{name}: {error}"));
        let after = history(&disk);
        assert_eq!(after.len(), before.len() + 1, "{name}");
        assert_eq!(after[..before.len()], before[..], "{name}: an older line has changed");
        let line = &after[before.len()];
        assert_eq!((&line["operation"], &line["result"]), (&name.into(), &"ok".into()), "{line}");
        assert!(line["report"].is_object() && line.get("error").is_none(), "{line}");
        assert!(line["id"].is_string() && line["started"].is_string(), "{line}");
    }
    for (name, verb) in VERBS.into_iter().filter(|(name, _)| !["tag", "drill"].contains(name)) {
        for stopped in [false, true] {
            let disk = world.disk.fork();
            let before = history(&disk);
            let mut writer = writer(&disk);
            if !stopped {
                // Everything that needs space. The history file exists already and has some.
                disk.set_fault(2, Fault::Once(Failure::Io), 1);
            }
            let observer: &dyn Observer = if stopped { &StopAt::after(0) } else { &Silent };
            let error = verb(&mut writer, observer);
            let Err(error) = error else {
                assert!(stopped, "{name}: it did not fail");
                continue;
            };
            let after = history(&disk);
            if after.len() == before.len() {
                // It failed before it became an operation, for example while reading its config.
                assert!(!stopped || name == "maintenance", "{name}: no line: {error}");
                continue;
            }
            let line = &after[before.len()];
            let result = if stopped { "interrupted" } else { "failed" };
            assert_eq!((&line["operation"], &line["result"]), (&name.into(), &result.into()));
            assert_eq!(line.get("error").is_some(), !stopped, "{line}");
            assert!(stopped || line["error"] == error.to_string(), "{line}: {error}");
            assert!(line.get("report").is_none(), "{line}");
        }
    }
}

/// An import has its line, too.
#[test]
fn an_import_has_its_line_in_the_history() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let old = OldArchive::write(&temp.path().join("old"), 5000, 0, &[noise(1, 20_000)]);
    let disk = SimStorage::new(false);
    world::init(&disk).expect("init");
    let clock = world::clock();
    writer(&disk).import(&old.folder, None, &clock, &Silent).expect("an import");
    let lines = history(&disk);
    assert_eq!(lines.last().expect("a line")["operation"], "import");
    writer(&disk).import(temp.path(), None, &clock, &Silent).expect_err("no old archive");
    let lines = history(&disk);
    let line = lines.last().expect("a line");
    assert_eq!((&line["operation"], &line["result"]), (&"import".into(), &"failed".into()));
}

/// A history longer than 1 MiB continues in a new file: no line is lost, the older file is replaced as a whole, and
/// the new one begins with the last runs, without their reports.
#[test]
fn a_long_history_continues_in_a_new_file() {
    let world = World::with_backups(false, &[noise(1, 3 * BLOCK), noise(2, 3 * BLOCK)]);
    let disk = &world.disk;
    let (_, scrub) = VERBS[3];
    let (_, tag) = VERBS[4];
    scrub(&mut writer(disk), &Silent).expect("a scrub");
    let first = history(disk);
    // Lines of tags, up to just below and above the limit.
    let mut number = 0;
    let mut grow = |to: usize| {
        disk.tamper(FileName::History, |text| {
            let line = String::from_utf8(text.clone()).expect("text");
            let mut line: Value =
                serde_json::from_str(line.lines().last().expect("a line")).expect("JSON");
            line["operation"] = "tag".into();
            while text.len() < to {
                line["number"] = number.into();
                text.extend(format!("{line}\n").as_bytes());
                number += 1;
            }
        });
        number
    };
    let filled = grow(1 << 20);
    tag(&mut writer(disk), &Silent).expect("a tag");
    let files = disk.files();
    assert!(files[&FileName::OldHistory].len() >= 1 << 20, "the file was not put aside");
    let text = String::from_utf8(files[&FileName::History].clone()).expect("text");
    assert_eq!(text.lines().count(), 3, "the last backup and scrub, and the new line");
    let all = history(disk);
    assert_eq!(all.len(), first.len() + filled + 3, "lines are lost");
    assert_eq!(all[..first.len()], first[..]);
    let last = |operation: &str| {
        let line = first.iter().rfind(|line| line["operation"] == operation);
        let mut line = line.expect("a line").clone();
        line.as_object_mut().expect("an object").remove("report");
        line
    };
    assert_eq!(all[all.len() - 3..all.len() - 1], [last("backup"), last("scrub")]);
    let status = |disk: &SimStorage| {
        let archive = world::open(disk).expect("open");
        let report = backy_lib::status::status(&archive, &[], &world::clock()).expect("a status");
        report.last_runs.iter().map(|run| run.operation.clone()).collect::<Vec<_>>()
    };
    assert_eq!(status(disk), ["backup", "scrub"]);
    // A line that does not exceed the limit stays in the file.
    tag(&mut writer(disk), &Silent).expect("a tag");
    let text = String::from_utf8(disk.files()[&FileName::History].clone()).expect("text");
    assert_eq!(text.lines().count(), 4);
    // Once more: this deletes the file that was moved aside first.
    grow(1 << 20);
    scrub(&mut writer(disk), &Silent).expect("a scrub");
    let text = String::from_utf8(disk.files()[&FileName::History].clone()).expect("text");
    assert_eq!(text.lines().count(), 3);
    assert_eq!(status(disk), ["backup", "scrub"]);
}
