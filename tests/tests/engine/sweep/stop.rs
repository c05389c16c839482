//! Every operation is stopped, at each point where it checks for a stop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backy_lib::archive::ArchiveWriter;
use backy_lib::export::{self, ExportOptions};
use backy_lib::progress::{Observer, Silent};
use backy_lib::storage::sim::{Fault, SimStorage, Unsynced};
use backy_lib::storage::{Access, FileName, Storage};
use backy_lib::{
    Archive, BackupOptions, ErrorKind, MaintenanceOptions, Result, ScrubOptions, drill,
};
use backy_tests::memory::{MemorySource, MemoryTarget};
use backy_tests::qemu;
use backy_tests::stop::StopAt;
use backy_tests::world::{self, World};
use jiff::Timestamp;

use super::scenarios;

type Run<'a> = Box<dyn Fn(&SimStorage, &dyn Observer) -> Result<()> + 'a>;

/// Something that can be stopped.
struct Operation<'a> {
    name: &'a str,
    run: Run<'a>,
    /// What it starts from.
    world: World,
    /// Numbers of the revisions that it removes.
    removes: Vec<usize>,
    /// How often it has to check, at least.
    looks: u64,
}

impl Operation<'_> {
    /// Stops it at each check. All committed revisions read right before any repair. Run again, it works, and leaves
    /// nothing behind.
    fn check(&self) {
        let mut looks = 0;
        loop {
            let stop = StopAt::after(looks);
            let mut world = self.world.fork();
            let result = (self.run)(&world.disk, &stop);
            let place = format!("{}, stopped when it looked after {looks} times", self.name);
            if let Err(error) = &result {
                assert_eq!(error.kind(), ErrorKind::Interrupted, "{place}: {error}");
            }
            // Writes are durable in their order: what a power cut leaves right after the stop is as good.
            for mut world in
                [world.fork(), World { disk: world.disk.crash(Unsynced::Lost), ..world.fork() }]
            {
                self.check_state(&mut world, &place);
            }
            let has_stopped = stop.has_said_so();
            if result.is_err() {
                (self.run)(&world.disk, &Silent)
                    .unwrap_or_else(|error| panic!("{place}: again: {error}"));
            }
            self.check_state(&mut world, &format!("{place}, again"));
            world
                .check_tidy()
                .unwrap_or_else(|error| panic!("{place}: after the next run: {error}"));
            if !has_stopped {
                break;
            }
            looks += 1;
        }
        assert!(looks >= self.looks, "{} has only looked {looks} times", self.name);
    }

    fn check_state(&self, world: &mut World, place: &str) {
        let checked = world.check_removing(&self.removes);
        checked.unwrap_or_else(|error| panic!("{place}: {error}"));
    }
}

fn writer(disk: &SimStorage, observer: &dyn Observer) -> Result<ArchiveWriter> {
    ArchiveWriter::open(world::open(disk)?, "a test", observer)
}

/// Four revisions, the newest smaller than the one before.
fn world_of_four(clones: bool) -> World {
    let (_, mut states, new, later) = scenarios().swap_remove(4);
    states.extend([new, later]);
    let world = World::with_backups(clones, &states);
    World { disk: world.disk.crash(Unsynced::Kept), ..world }
}

/// When the image was last changed, if there is one.
pub(super) fn image_time(disk: &SimStorage) -> Option<Timestamp> {
    let image = disk.open(FileName::IMAGE, Access::Read).ok()?;
    Some(image.modified().expect("its time"))
}

/// A backup that is stopped anywhere has been made or not, and the next one works.
#[test]
fn a_backup_can_be_stopped_anywhere() {
    for (clones, update) in world::UPDATES {
        let mut left = 0;
        for (name, before, new, _) in scenarios() {
            let options = BackupOptions { update, ..world::options() };
            let name = format!("backup, {name}, clones {clones}");
            let world = World::with_backups(clones, &before);
            let mut looks = 0;
            loop {
                let stop = StopAt::after(looks);
                let mut stopped = world.fork();
                let done = writer(&stopped.disk, &Silent).and_then(|mut writer| {
                    writer.backup(&MemorySource::new(&new), &options, &world::clock(), &stop)
                });
                let place = format!("{name}, after {looks} looks");
                if let Err(error) = &done {
                    assert_eq!(error.kind(), ErrorKind::Interrupted, "{place}");
                }
                let made = stopped
                    .check_committed(Some(&new))
                    .unwrap_or_else(|error| panic!("{place}: {error}"));
                assert_eq!(made, done.is_ok(), "{place}");
                // Nobody waits for the undoing, which takes no time here at all, where there is anything to undo. A
                // clone never took the image's place.
                let archive = world::open(&stopped.disk).expect("open");
                let is_left = archive.manifest().in_progress.is_some();
                let is_changed = image_time(&stopped.disk) != image_time(&world.disk);
                assert_eq!(is_left, !made && is_changed, "{place}");
                left += u64::from(is_left);
                stopped.backup(&new);
                stopped.assert_tidy(format_args!("{place}: after the next"));
                if !stop.has_said_so() {
                    break;
                }
                looks += 1;
            }
            assert!(looks > 1, "{name} has looked {looks} times");
        }
        assert_eq!(left > 0, !clones, "clones {clones}: {left}");
    }
}

/// The same holds for everything else that changes an archive: a removal, a maintenance, making a revision
/// standalone, a scrub that repairs, the undoing of a killed backup.
#[test]
fn every_writing_verb_can_be_stopped_anywhere() {
    let world = world_of_four(false);
    let maintain = |disk: &SimStorage, observer: &dyn Observer, keep| {
        let options = MaintenanceOptions { keep, confirm: true, threads: Some(1) };
        writer(disk, observer)?.maintain(&options, &world::clock(), observer).map(drop)
    };
    let damaged = world.fork();
    let delta = FileName::Delta(world.expected[2].uuid);
    damaged.disk.tamper(delta, |delta| delta[4096..4104].fill(0));
    let damaged_options = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
    let (_, before, new, _) = scenarios().swap_remove(2);
    let killed = World::with_backups(false, &before);
    let trial = killed.fork();
    world::backup(&trial.disk, &MemorySource::new(&new)).expect("the backup works");
    let at = trial.disk.calls() / 2;
    killed.disk.set_fault(at, Fault::Crash, at);
    world::backup(&killed.disk, &MemorySource::new(&new)).expect_err("a machine that stops");
    let killed = World { disk: killed.disk.crash(Unsynced::Kept), ..killed };
    let operation = |name, world: &World, removes, looks, run| Operation {
        name,
        run,
        world: world.fork(),
        removes,
        looks,
    };
    let all: Vec<Operation<'_>> = vec![
        operation(
            "removal",
            &world,
            vec![1, 2],
            2,
            Box::new(|disk, observer| {
                // What is deleted already is not deleted again.
                let numbers: &[usize] =
                    if world::open(disk)?.revisions().len() == 4 { &[1, 2] } else { &[] };
                let ids = world::ids(&world::open(disk)?, numbers)?;
                writer(disk, observer)?.remove(&ids, &world::clock(), observer).map(drop)
            }),
        ),
        operation(
            "maintenance",
            &world,
            vec![1, 2, 3],
            2,
            Box::new(|disk, observer| maintain(disk, observer, Some(1))),
        ),
        operation(
            "standalone",
            &world,
            vec![],
            2,
            Box::new(|disk, observer| {
                world::configure(disk, "max_chain = 2");
                maintain(disk, observer, None)
            }),
        ),
        operation(
            "scrub",
            &damaged,
            vec![],
            2,
            Box::new(|disk, observer| {
                writer(disk, observer)?.scrub(&damaged_options, &world::clock(), observer).map(drop)
            }),
        ),
        operation(
            "recovery",
            &killed,
            vec![],
            1,
            Box::new(|disk, observer| writer(disk, observer).map(drop)),
        ),
    ];
    for operation in &all {
        operation.check();
    }
}

/// A rebuild that is stopped leaves the archive without a manifest, as it was. The next rebuild makes it.
#[test]
fn a_rebuild_can_be_stopped_anywhere() {
    let world = world_of_four(false);
    world.disk.tamper(FileName::MANIFEST, |manifest| manifest.truncate(100));
    let rebuild = |disk: &SimStorage, observer: &dyn Observer| {
        ArchiveWriter::rebuild_on(Arc::new(disk.clone()), "a test", false, observer).map(drop)
    };
    let mut looks = 0;
    loop {
        let (stop, mut stopped) = (StopAt::after(looks), world.fork());
        let result = rebuild(&stopped.disk, &stop);
        let place = format!("rebuild, after {looks} looks");
        assert_eq!(result.is_err(), stop.has_said_so(), "{place}: {result:?}");
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::Interrupted, "{place}");
            rebuild(&stopped.disk, &Silent).unwrap_or_else(|error| panic!("{place}: {error}"));
        }
        stopped.assert_tidy(&place);
        if !stop.has_said_so() {
            break;
        }
        looks += 1;
    }
    assert!(looks > 1, "it has looked {looks} times");
}

/// What only reads stops as well, and leaves the archive and its output alone.
#[test]
fn every_reading_verb_can_be_stopped_anywhere() {
    let world = world_of_four(false);
    let (on, folder) =
        (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    qemu::write_out(&world.disk, on.path());
    let files = || -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = on.path().read_dir().expect("a folder").flatten();
        entries.map(|entry| (entry.path(), std::fs::read(entry.path()).expect("a file"))).collect()
    };
    let before = files();
    let file = folder.path().join("file");
    let clock = world::clock();
    let open = || Archive::open(on.path()).expect("open");
    let id = open().id(2).unwrap();
    type Reads<'a> = &'a dyn Fn(&dyn Observer) -> Result<()>;
    let restore = |observer: &dyn Observer| {
        let target = MemoryTarget::absent();
        open().restore_to(id, &target, &world::restore_options(), observer).map(drop)
    };
    let stream = |observer: &dyn Observer| {
        let options = world::restore_options();
        open().restore_to_stream(id, &mut Vec::new(), &options, observer).map(drop)
    };
    let scrub = |observer: &dyn Observer| {
        let options = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
        open().check(&options, &clock, observer).map(drop)
    };
    let export = |observer: &dyn Observer| {
        let options = ExportOptions::default();
        export::export(&open(), id, &file, &options, observer).map(drop)
    };
    let drill =
        |observer: &dyn Observer| drill::read(&open(), id, Some(1), &clock, observer).map(drop);
    let assemble = |observer: &dyn Observer| {
        drill::assemble(&open(), id, folder.path(), Some(1), &clock, observer).map(drop)
    };
    let all: [(&str, Reads<'_>); 6] = [
        ("restore", &restore),
        ("restore to a stream", &stream),
        ("scrub -n", &scrub),
        ("export", &export),
        ("drill", &drill),
        ("drill with a command", &assemble),
    ];
    for (name, run) in all {
        let mut looks = 0;
        loop {
            let stop = StopAt::after(looks);
            let result = run(&stop);
            let place = format!("{name}, after {looks} looks");
            assert!(files() == before, "{place}: the archive has changed");
            assert_eq!(result.is_err(), stop.has_said_so(), "{place}: {result:?}");
            let left = || folder.path().read_dir().expect("a folder").flatten().count();
            match result {
                Ok(()) => break,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted, "{place}"),
            }
            assert_eq!(left(), 0, "{place}: something is left");
            looks += 1;
        }
        assert!(looks > 1, "{name} has looked {looks} times");
        remove_if_there(&file);
    }
}

fn remove_if_there(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
        _ => {}
    }
}
