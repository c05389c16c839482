//! Manifests through the life of an archive: the fields of newer programs stay, and no number of bad blocks is too
//! many.

#![expect(clippy::disallowed_methods, reason = "edits manifests behind the program's back")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::drill;
use backy_lib::progress::Silent;
use backy_lib::scrub::{Budget, ScrubOptions};
use backy_lib::status;
use backy_lib::storage::FileName;
use backy_lib::storage::sim::SimStorage;
use backy_lib::units::BlockSize;
use backy_lib::{BackupOptions, MaintenanceOptions, Manifest, Result};
use backy_tests::fuzz::manifest::with_checksum;
use backy_tests::memory::MemorySource;
use backy_tests::world::{self, World, clock};
use serde_json::{Value, json};
use tempfile::TempDir;

const BLOCK: usize = 4096;

/// Marks every object of a manifest, however deep, with a field that no program knows. Returns the marks, with where
/// each is.
fn mark(value: &mut Value, place: &str, marks: &mut Vec<String>) {
    match value {
        Value::Array(values) => {
            for (number, value) in values.iter_mut().enumerate() {
                mark(value, &format!("{place}/{number}"), marks);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                mark(value, &format!("{place}/{name}"), marks);
            }
            let own = format!("mark of {place}/");
            fields.insert(format!("later-{}", marks.len()), json!({"is": [own, 0.3, null]}));
            marks.push(own);
        }
        _ => {}
    }
}

/// An archive whose manifest has everything that a manifest can have, and a mark everywhere.
fn marked() -> (World, Vec<String>) {
    let block = |seed: usize| (0..BLOCK).map(move |at| ((at / 7) ^ seed) as u8 ^ (at % 251) as u8);
    let state = |newer: usize| -> Vec<u8> {
        (0..12).flat_map(|at| block(if at < newer { 100 + at } else { at })).collect()
    };
    let mut lost = World::with_backups(false, &[state(1), state(2), state(3), state(4)]);
    let rot = |disk: &SimStorage, blocks: &[usize]| {
        disk.tamper(FileName::IMAGE, |image| blocks.iter().for_each(|at| image[at * BLOCK] ^= 1));
    };
    // A bad block that moves to a delta, others in the image, a date of verification, a test restore, known damage.
    rot(&lost.disk, &[4]);
    lost.backup(&state(5));
    rot(&lost.disk, &[7, 8]);
    scrub(&lost.disk).expect("a scrub");
    let archive = world::open(&lost.disk).expect("open");
    let report =
        drill::read(&archive, archive.id(1).unwrap(), Some(1), &clock(), &Silent).expect("a drill");
    writer(&lost.disk)
        .and_then(|mut w| w.record_drill(report, &clock(), &Silent))
        .expect("recorded");
    maintain(&lost.disk).expect("confirmed");
    let mut marks = Vec::new();
    lost.disk.tamper(FileName::MANIFEST, |text| {
        let mut value: Value = serde_json::from_slice(text).expect("JSON");
        let newest = value["revisions"][0]["uuid"].clone();
        value["alarms"] = json!([{"revision": newest, "raised": "2026-01-01T00:00:00Z",
            "changed_bytes": 7, "usual_bytes": 1, "confirmed": "2026-01-01T00:00:00Z"}]);
        mark(&mut value, "", &mut marks);
        *text = with_checksum(value_first(&value).as_bytes()).expect("a manifest");
        Manifest::parse(text).expect("a manifest that is read");
    });
    (lost, marks)
}

/// The checksum has to be the first field.
fn value_first(value: &Value) -> String {
    let mut fields = value.as_object().expect("an object").clone();
    let checksum = fields.remove("checksum").expect("a checksum");
    let rest = serde_json::to_string(&fields).expect("JSON");
    format!("{{\"checksum\": {checksum}, {}", &rest[1..])
}

fn writer(disk: &SimStorage) -> Result<ArchiveWriter> {
    ArchiveWriter::open(world::open(disk)?, "a test", &Silent)
}

fn scrub(disk: &SimStorage) -> Result<()> {
    let options = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
    writer(disk)?.scrub(&options, &clock(), &Silent).map(drop)
}

fn maintain(disk: &SimStorage) -> Result<()> {
    let options = MaintenanceOptions { keep: Some(99), confirm: true, threads: Some(1) };
    writer(disk)?.maintain(&options, &clock(), &Silent).map(drop)
}

/// The marks that are no longer in the manifest.
fn gone<'a>(disk: &SimStorage, marks: &'a [String]) -> BTreeSet<&'a str> {
    let mut text = String::new();
    disk.tamper(FileName::MANIFEST, |bytes| {
        text = String::from_utf8(bytes.clone()).expect("UTF-8")
    });
    let value: Value = serde_json::from_str(&text).expect("JSON");
    let mut found = BTreeSet::new();
    collect(&value, &mut found);
    marks.iter().map(String::as_str).filter(|mark| !found.contains(*mark)).collect()
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| collect(value, found)),
        Value::String(text) => drop(found.insert(text.clone())),
        _ => {}
    }
}

/// Fields of newer programs stay in every object, whatever happens to the archive. An operation that replaces or
/// deletes an object as a whole takes its fields along.
#[test]
fn fields_of_newer_programs_survive_every_verb() {
    let (world, marks) = marked();
    for part in [
        "statistics",
        "findings",
        "bad_blocks/0",
        "verified/0",
        "drill",
        "source",
        "alarms/0",
        "known_damage/0",
    ] {
        assert!(marks.iter().any(|mark| mark.contains(part)), "no {part} in {marks:?}");
    }
    type Verb = fn(&SimStorage) -> Result<()>;
    let tag: Verb = |disk| {
        let tags = BTreeSet::from(["kept".parse().expect("a tag")]);
        let mut writer = writer(disk)?;
        let id = writer.archive().id(0)?;
        writer.tag(id, &tags, &BTreeSet::new(), &clock(), &Silent).map(drop)
    };
    let backup: Verb = |disk| world::backup(disk, &MemorySource::new(&[7; 12 * BLOCK])).map(drop);
    let drill: Verb = |disk| {
        let archive = world::open(disk)?;
        let report = drill::read(&archive, archive.id(0)?, Some(1), &clock(), &Silent)?;
        writer(disk)?.record_drill(report, &clock(), &Silent)
    };
    let remove: Verb = |disk| world::remove(disk, &[2]).map(drop);
    let remove_newest: Verb = |disk| world::remove(disk, &[0]).map(drop);
    let verbs: [(&str, Verb, &[&str]); 7] = [
        ("tag", tag, &[]),
        ("maintain", maintain, &[]),
        ("backup", backup, &["/image_file/"]),
        ("scrub", scrub, &["verified/", "/image_file/"]),
        ("drill", drill, &["/drill/"]),
        ("remove", remove, &["/revisions/2/", "/known_damage/", "/verified/"]),
        (
            "remove the newest",
            remove_newest,
            &["/revisions/0/", "/alarms/", "/known_damage/", "/verified/", "/image_file/"],
        ),
    ];
    for (verb, act, may_go) in verbs {
        let world = world.fork();
        act(&world.disk).unwrap_or_else(|error| panic!("{verb}: {error}"));
        let gone = gone(&world.disk, &marks);
        let wrong: Vec<&&str> =
            gone.iter().filter(|mark| !may_go.iter().any(|part| mark.contains(part))).collect();
        assert!(wrong.is_empty(), "{verb}: {wrong:?} are gone");
    }
}

/// Each verb records, lists and judges a million separate bad blocks within seconds, and every verb still works on
/// the archive.
#[test]
fn every_verb_handles_a_million_bad_blocks_in_seconds() {
    const BLOCKS: u64 = 2_000_000;
    let folder = TempDir::new().expect("a folder");
    let (source, archive) = (folder.path().join("disk"), folder.path().join("a"));
    let disk = fs::File::create_new(&source).expect("a source");
    disk.set_len(BLOCKS * BLOCK as u64).expect("a sparse source");
    Archive::init(&archive, Some(&source), BlockSize::MIN).expect("init");
    for content in [&b"one"[..], b"two"] {
        std::os::unix::fs::FileExt::write_all_at(&disk, content, 0).expect("write");
        backup(&archive);
    }
    list_bad_blocks(&archive.join("manifest.json"), BLOCKS);
    let began = Instant::now();
    let open = || Archive::open(&archive).expect("open");
    let writer = || ArchiveWriter::open(open(), "a test", &Silent).expect("a writer");
    let status = status::status(&open(), &world::all(&open()), &clock()).expect("status");
    assert_eq!(status.damaged_count, 2);
    let options =
        ScrubOptions { budget: Some(Budget::Time(Duration::ZERO)), ..ScrubOptions::default() };
    let report = open().check(&options, &clock(), &Silent).expect("a check");
    assert!((1000..1010).contains(&report.findings.len()), "{}", report.findings.len());
    let more = report.findings.last().expect("findings");
    assert!(more.message.starts_with("999000 more blocks in 999000 places"), "{}", more.message);
    assert_eq!(more.affected.len(), 2, "also the revision that reads through to them");
    let tags = BTreeSet::from(["kept".parse().expect("a tag")]);
    let id = open().id(1).unwrap();
    writer().tag(id, &tags, &BTreeSet::new(), &clock(), &Silent).expect("tag");
    let report = writer().scrub(&options, &clock(), &Silent).expect("a scrub");
    assert!(report.findings.iter().any(|finding| finding.repaired), "zero blocks are known");
    backup(&archive);
    let count = open().revisions()[0].findings.bad_block_count();
    assert_eq!(count, 0, "the source has what is right");
    // With a pass over all of them for each of them it would take hours.
    assert!(began.elapsed() < Duration::from_secs(300), "{:?}", began.elapsed());
}

fn backup(archive: &Path) {
    let archive = Archive::open(archive).expect("open");
    let source = archive.open_source().expect("the source");
    let options = BackupOptions { force: true, ..BackupOptions::default() };
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("a writer");
    writer.backup(&source, &options, &clock(), &Silent).expect("a backup");
}

/// Every second block of the image.
fn list_bad_blocks(manifest: &Path, blocks: u64) {
    let mut value: Value =
        serde_json::from_slice(&fs::read(manifest).expect("read")).expect("JSON");
    let ranges = (1..blocks).step_by(2).map(|first| json!({"first": first, "count": 1}));
    value["revisions"][0]["findings"]["bad_blocks"] = ranges.collect();
    let text = with_checksum(value_first(&value).as_bytes()).expect("a manifest");
    fs::write(manifest, text).expect("write");
}
