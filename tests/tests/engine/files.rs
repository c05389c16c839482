//! Who owns a file, and to which moment it belongs: backy overwrites and deletes only what it has made, and does not
//! trust a manifest about files of another time.
#![expect(clippy::disallowed_methods, reason = "plays the operator, and other programs")]

mod folder;
mod moment;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::progress::{Event, Observer, Phase, Silent};
use backy_lib::storage::sim::{Random, SimStorage};
use backy_lib::storage::{DigestsKind, FileName, Published, Storage};
use backy_lib::{
    ErrorKind, ImageUpdate, MaintenanceOptions, ProblemKind, Result, RevisionId, ScrubOptions,
};
use backy_tests::memory::MemorySource;
use backy_tests::world::{self, BLOCK_SIZE, World, changed_state, random_state};

pub(crate) type Files = BTreeMap<FileName, Vec<u8>>;

/// Source states, oldest first.
pub(crate) fn states(count: usize) -> Vec<Vec<u8>> {
    let block = BLOCK_SIZE.len();
    let mut random = Random(77);
    let mut states = vec![random_state(&mut random, 9 * block)];
    while states.len() < count {
        let last = &states[states.len() - 1];
        states.push(changed_state(&mut random, last, 9 * block));
    }
    states
}

/// Everything that writes, by name; `next` is the state of the source.
pub(crate) const WRITERS: [&str; 8] =
    ["backup", "in place", "rm 1", "rm 0", "maintenance", "scrub", "tag", "open"];

pub(crate) fn write(disk: &SimStorage, verb: &str, next: &[u8]) -> Result<()> {
    write_to(world::open(disk)?, verb, next)
}

pub(crate) fn write_to(archive: Archive, verb: &str, next: &[u8]) -> Result<()> {
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent)?;
    let clock = world::clock();
    let backup = |writer: &mut ArchiveWriter, update| {
        let options = backy_lib::BackupOptions { update, ..world::options() };
        writer.backup(&MemorySource::new(next), &options, &clock, &Silent).map(drop)
    };
    match verb {
        "backup" => backup(&mut writer, ImageUpdate::Auto),
        "in place" => backup(&mut writer, ImageUpdate::InPlace),
        "rm 1" => world::remove_by(&mut writer, &[1]).map(drop),
        "rm 0" => world::remove_by(&mut writer, &[0]).map(drop),
        "maintenance" => {
            let options = MaintenanceOptions { keep: Some(2), confirm: true, threads: Some(1) };
            writer.maintain(&options, &clock, &Silent).map(drop)
        }
        "scrub" => writer.scrub(&ScrubOptions::default(), &clock, &Silent).map(drop),
        "tag" => {
            let tags = ["x".parse().expect("a tag")].into();
            writer.tag(writer.archive().id(0)?, &tags, &[].into(), &clock, &Silent).map(drop)
        }
        "open" => Ok(()),
        other => panic!("{other}?"),
    }
}

/// Writes or overwrites a file as another program does.
pub(crate) fn put(disk: &SimStorage, name: FileName, content: &[u8]) {
    disk.remove(name).expect("remove");
    let file = disk.create(name).expect("create");
    file.write_at(content, 0).expect("write");
    file.sync().expect("sync");
    disk.sync_folder().expect("sync");
}

fn foreign_id(number: u8) -> RevisionId {
    format!("0198aaaa-bbbb-7ccc-8ddd-eeeeffff00{number:02}").parse().expect("a UUID")
}

/// Files of somebody else with the names of an archive's.
fn foreign() -> Files {
    let names = [
        FileName::Staged(Published::Manifest),
        FileName::Staged(Published::Readme),
        FileName::Staged(Published::Config),
        FileName::Delta(foreign_id(1)),
        FileName::Digests(foreign_id(2), DigestsKind::Image),
        FileName::Digests(foreign_id(3), DigestsKind::Delta),
    ];
    names.into_iter().map(|name| (name, format!("what {name} has").into_bytes())).collect()
}

/// No verb deletes or changes a file that only has the name of one of ours, also when it undoes what was interrupted.
/// `status` warns of it, and a scrub names it without failing.
#[test]
fn every_verb_keeps_foreign_files() {
    let states = states(5);
    for clones in [false, true] {
        let world = World::with_backups(clones, &states[..4]);
        for (name, content) in foreign() {
            put(&world.disk, name, &content);
        }
        let check = |place: &str, disk: &SimStorage| {
            let files = disk.files();
            for (name, content) in foreign() {
                assert!(files.get(&name) == Some(&content), "{place}: {name} is not what it was");
            }
        };
        for verb in WRITERS {
            let trial = world.fork();
            write(&trial.disk, verb, &states[4]).unwrap_or_else(|e| panic!("{verb}: {e}"));
            check(verb, &trial.disk);
            let calls = trial.disk.calls();
            for at in (1..calls).step_by(7) {
                let broken = world.fork();
                let fault = backy_lib::storage::sim::Fault::Crash;
                broken.disk.set_fault(at, fault, at);
                let _ = write(&broken.disk, verb, &states[4]);
                let crashed = broken.disk.crash(backy_lib::storage::sim::Unsynced::Subset(at));
                write(&crashed, "in place", &states[3]).expect("the next backup");
                check(&format!("{verb}, cut short at call {at}"), &crashed);
            }
        }
        let report =
            backy_lib::status::status(&world::open(&world.disk).unwrap(), &[], &world::clock());
        let problems = report.expect("a status").health.problems;
        assert!(problems.iter().any(|p| p.kind == ProblemKind::UnknownFile), "{problems:?}");
        let archive = world::open(&world.disk).expect("open");
        let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
        let scrub =
            writer.scrub(&ScrubOptions::default(), &world::clock(), &Silent).expect("a scrub");
        assert!(scrub.is_clean() && scrub.unknown_files.len() == foreign().len(), "{scrub:?}");
        drop(writer);
        let trial = world.fork();
        ArchiveWriter::rebuild_on(Arc::new(trial.disk.clone()), "a test", true, &Silent)
            .expect("a rebuild");
        write(&trial.disk, "backup", &states[4]).expect("a backup");
        check("a rebuild", &trial.disk);
    }
}

/// A file of somebody else whose name is needed stops the operation before any change, and the error names it.
#[test]
fn a_file_in_the_way_is_named_and_kept() {
    let states = states(3);
    let world = World::with_backups(true, &states[..2]);
    put(&world.disk, FileName::STAGED_IMAGE, b"somebody's");
    let before = world.disk.files();
    let error = write(&world.disk, "backup", &states[2]).expect_err("a name that is taken");
    assert!(error.to_string().contains("last.raw.new"), "{error}");
    let mut after = world.disk.files();
    after.retain(|name, _| !world::UNNAMED.contains(name));
    assert!(before.iter().filter(|(n, _)| !world::UNNAMED.contains(n)).eq(after.iter()));
    write(&world.disk, "rm 1", &states[2]).expect("a removal needs no such name");
    assert_eq!(world.disk.files()[&FileName::STAGED_IMAGE], b"somebody's");
}

/// Replaces the manifest as soon as an operation begins to read.
struct Rival {
    disk: SimStorage,
    manifest: Vec<u8>,
    phase: Phase,
    files: Mutex<Option<Files>>,
}

impl Observer for Rival {
    fn event(&self, event: &Event) {
        if let Event::Begin { phase, .. } = event
            && *phase == self.phase
        {
            self.disk.tamper(FileName::MANIFEST, |bytes| bytes.clone_from(&self.manifest));
            *self.files.lock().unwrap() = Some(self.disk.files());
        }
    }
}

/// Where the lock does not keep two writers apart, the one that finds the other's manifest stops: it commits, undoes
/// and deletes nothing.
#[test]
fn a_writer_stops_when_the_manifest_has_changed() {
    let states = states(5);
    for clones in [false, true] {
        let world = World::with_backups(clones, &states[..4]);
        let other = world.fork();
        write(&other.disk, "tag", &states[4]).expect("a tag");
        let manifest = other.disk.files()[&FileName::MANIFEST].clone();
        for (verb, phase) in [("backup", Phase::Backup), ("rm 2", Phase::Merge)] {
            let trial = world.fork();
            let (disk, files) = (trial.disk.clone(), Mutex::new(None));
            let rival = Rival { disk, manifest: manifest.clone(), phase, files };
            let archive = world::open(&trial.disk).expect("open");
            let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
            let clock = world::clock();
            let done = match verb {
                "backup" => {
                    let source = MemorySource::new(&states[4]);
                    writer.backup(&source, &world::options(), &clock, &rival).map(drop)
                }
                _ => {
                    let id = writer.archive().id(2).unwrap();
                    writer.remove(&[id], &clock, &rival).map(drop)
                }
            };
            let error = done.expect_err("another writer's manifest");
            assert!(error.to_string().contains("another writer"), "{verb}: {error}");
            assert_eq!(error.kind(), ErrorKind::Locked, "{verb}");
            drop(writer);
            let after = trial.disk.files();
            assert!(after[&FileName::MANIFEST] == manifest, "{verb}: the manifest was replaced");
            let before = rival.files.lock().unwrap().take().expect("the phase began");
            let gone: Vec<_> = before.keys().filter(|name| !after.contains_key(name)).collect();
            assert!(gone.is_empty(), "{verb}: {gone:?} are gone");
        }
    }
}
