//! backy's reports match what has happened: progress, the plan, the history, alarms and findings. Other tests check
//! the bytes; these check the words and the figures.

mod alarms;
mod history;
mod lost;
mod plans;

use std::sync::{Arc, Mutex};

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::drill;
use backy_lib::export::{ExportOptions, export};
use backy_lib::progress::{Counters, Event, Observer, Phase, Silent};
use backy_lib::restore::Saving;
use backy_lib::storage::sim::SimStorage;
use backy_lib::storage::{FileName, Storage};
use backy_lib::{BackupOptions, MaintenanceOptions, RestoreOptions, ScrubOptions};
use backy_tests::legacy::OldArchive;
use backy_tests::memory::{MemorySource, MemoryTarget};
use backy_tests::qemu;
use backy_tests::world::{self, World, noise};

/// That of the archives here.
pub(crate) const BLOCK: usize = 4096;

/// States with holes at their beginnings, in the middle and at the end, of different lengths that are no whole
/// blocks, and several times as long as one batch.
pub(crate) fn holey(count: u64) -> Vec<Vec<u8>> {
    let state = |number: u64| {
        let mut state = noise(number, (900 + 40 * (number as usize % 3)) * BLOCK + 77);
        state[..3 * BLOCK].fill(0);
        state[300 * BLOCK + 5..700 * BLOCK].fill(0);
        let len = state.len();
        state[len - 5 * BLOCK..].fill(0);
        // Common to all.
        state[20 * BLOCK..250 * BLOCK].copy_from_slice(&noise(99, 230 * BLOCK));
        state
    };
    (0..count).map(state).collect()
}

/// Records the counters of every phase that is announced.
#[derive(Default)]
struct Watching {
    phases: Mutex<Vec<(Phase, Arc<Counters>)>>,
}

impl Observer for Watching {
    fn event(&self, event: &Event) {
        if let Event::Begin { phase, counters } = event {
            let mut phases = self.phases.lock().expect("no panic before");
            if let Some((phase, counters)) = phases.last() {
                ended(*phase, counters);
            }
            phases.push((*phase, Arc::clone(counters)));
        }
    }
}

fn ended(phase: Phase, counters: &Counters) {
    let (done, total) = (counters.done_bytes(), counters.total_bytes());
    assert_eq!(done, total, "{phase:?} ends at {done} of {total} bytes");
}

impl Watching {
    /// Checks that all phases have ended where they should. Returns the names and totals.
    fn finish(self) -> Vec<(Phase, u64)> {
        let phases = self.phases.into_inner().expect("no panic before");
        phases.iter().for_each(|(phase, counters)| ended(*phase, counters));
        phases.iter().map(|(phase, counters)| (*phase, counters.total_bytes())).collect()
    }
}

fn watched(act: impl FnOnce(&Watching)) -> Vec<(Phase, u64)> {
    let watching = Watching::default();
    act(&watching);
    watching.finish()
}

/// Takes the lock.
pub(crate) fn writer(disk: &SimStorage) -> ArchiveWriter {
    let archive = world::open(disk).expect("open");
    ArchiveWriter::open(archive, "a test", &Silent).expect("the lock")
}

/// The progress of each verb that reads rises to the size of its input, and stops there.
#[test]
fn progress_of_reading_verbs_ends_at_its_total() {
    let states = holey(3);
    let world = World::with_backups(false, &states);
    // An export opens the folder itself.
    let temp = tempfile::tempdir().expect("a temporary folder");
    let folder = temp.path().join("archive");
    std::fs::create_dir(&folder).expect("make a folder");
    qemu::write_out(&world.disk, &folder);
    let archive = Archive::open(&folder).expect("open");
    let size = |number: usize| world.expected[number].bytes.len() as u64;
    let options = RestoreOptions::default();
    for number in 0..3 {
        for target in [
            MemoryTarget::absent(),
            MemoryTarget::holding(&vec![7; states[1].len()]),
            MemoryTarget::holding(&world.expected[number].bytes),
        ] {
            let found = watched(|watching| {
                archive
                    .restore_to(archive.id(number).unwrap(), &target, &options, watching)
                    .expect("a restore");
            });
            assert_eq!(found, [(Phase::Restore, size(number))]);
        }
        let found = watched(|watching| {
            let mut stream = Vec::new();
            archive
                .restore_to_stream(archive.id(number).unwrap(), &mut stream, &options, watching)
                .expect("a stream");
            assert_eq!(stream.len() as u64, size(number));
        });
        assert_eq!(found, [(Phase::Restore, size(number))]);
        let found = watched(|watching| {
            let file = temp.path().join(format!("{number}.qcow2"));
            let options = ExportOptions::default();
            export(&archive, archive.id(number).unwrap(), &file, &options, watching)
                .expect("an export");
        });
        assert_eq!(found, [(Phase::Export, size(number))]);
        let found = watched(|watching| {
            let done =
                drill::read(&archive, archive.id(number).unwrap(), None, &world::clock(), watching);
            assert!(done.expect("a drill").passed);
        });
        assert_eq!(found, [(Phase::Drill, size(number))]);
        let found = watched(|watching| {
            let clock = world::clock();
            drill::assemble(
                &archive,
                archive.id(number).unwrap(),
                temp.path(),
                None,
                &clock,
                watching,
            )
            .expect("a drill");
        });
        assert_eq!(found, [(Phase::Restore, size(number))]);
    }
    let found = watched(|watching| {
        archive.check(&ScrubOptions::default(), &world::clock(), watching).expect("a check");
    });
    assert!(found.iter().any(|(phase, total)| *phase == Phase::Scrub && *total > 0), "{found:?}");

    let undo = SimStorage::new(false);
    let target = MemoryTarget::holding(&noise(5, states[0].len()));
    let found = watched(|watching| {
        let chain = archive.open_revision(archive.id(1).unwrap()).expect("a revision");
        let (path, clock) = (std::path::Path::new("/memory"), world::clock());
        let observer: &dyn Observer = watching;
        let saving =
            Saving { chain: &chain, target: &target, path, clock: &clock, threads: None, observer };
        saving.save(&undo).expect("an undo archive");
    });
    assert_eq!(found, [(Phase::SaveTarget, states[0].len() as u64)]);
}

/// The same for the verbs that write.
#[test]
fn progress_of_writing_verbs_ends_at_its_total() {
    let states = holey(4);
    let world = World::with_backups(false, &states[..3]);
    let back_up = |world: &World, state: &[u8]| {
        watched(|watching| {
            let options = BackupOptions { force: true, ..BackupOptions::default() };
            let source = MemorySource::new(state);
            let done = writer(&world.disk).backup(&source, &options, &world::clock(), watching);
            done.expect("a backup").expect("one that was made");
        })
    };
    for state in [&states[3], &states[3], &states[0]] {
        assert_eq!(back_up(&world, state), [(Phase::Backup, state.len() as u64)]);
    }
    let found = watched(|watching| {
        let options = ScrubOptions::default();
        let report = writer(&world.disk).scrub(&options, &world::clock(), watching);
        assert_eq!(report.expect("a scrub").findings, []);
    });
    assert!(found.iter().all(|(phase, _)| *phase == Phase::Scrub) && !found.is_empty());
    let remove = |world: &World, numbers: &[usize]| {
        watched(|watching| {
            let mut writer = writer(&world.disk);
            let ids = world::ids(writer.archive(), numbers).expect("revisions");
            writer.remove(&ids, &world::clock(), watching).expect("a removal");
        })
    };
    let of = |found: &[(Phase, u64)], phase| {
        found.iter().filter(|(found, total)| *found == phase && *total > 0).count()
    };
    let found = remove(&world, &[2]);
    assert_eq!(of(&found, Phase::Merge), 1, "{found:?}");
    let found = remove(&world, &[0]);
    assert_eq!(of(&found, Phase::Recover), 1, "{found:?}");
    world::configure(&world.disk, "max_chain = 1\n");
    let found = watched(|watching| {
        let options = MaintenanceOptions { keep: Some(9), ..MaintenanceOptions::default() };
        writer(&world.disk).maintain(&options, &world::clock(), watching).expect("maintenance");
    });
    assert!(of(&found, Phase::Merge) > 0, "{found:?}");
    let storage: Arc<dyn Storage> = Arc::new(world.disk.clone());
    world.disk.tamper(FileName::MANIFEST, |manifest| manifest.clear());
    let found = watched(|watching| {
        ArchiveWriter::rebuild_on(storage, "a test", false, watching).expect("a rebuild");
    });
    assert!(!found.is_empty(), "a rebuild reads the image");
}

/// An import's progress ends at its total, revision by revision.
#[test]
fn progress_of_an_import_ends_at_its_total() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let states: Vec<Vec<u8>> = (0..3).map(|seed| noise(seed, 90_000 + 7 * seed as usize)).collect();
    let old = OldArchive::write(&temp.path().join("old"), 5000, 0, &states);
    let disk = SimStorage::new(false);
    world::init(&disk).expect("init");
    let found = watched(|watching| {
        let done = writer(&disk).import(&old.folder, None, &world::clock(), watching);
        done.expect("an import");
    });
    let backups = found.iter().filter(|(phase, _)| *phase == Phase::Backup);
    let sizes: Vec<u64> = backups.map(|(_, total)| *total).collect();
    assert_eq!(sizes, states.iter().map(|state| state.len() as u64).collect::<Vec<_>>());
    assert!(found.iter().any(|(phase, _)| *phase == Phase::CheckOldArchive), "{found:?}");
}
