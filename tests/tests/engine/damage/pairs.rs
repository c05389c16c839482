//! Two flaws at once, in an archive at rest and in what a killed operation has left: never a wrong byte, and a way
//! out that the table in `doc/disaster.md` names.

use backy_lib::Result;
use backy_lib::format::qcow2::Layout;
use backy_lib::storage::sim::{Fault, Random, SimStorage, Unsynced};
use backy_lib::storage::{DigestsKind, FileName, Storage};
use backy_lib::{BackupOptions, ImageUpdate};
use backy_tests::damage::{Damaged, Verb, four_revisions};
use backy_tests::memory::MemorySource;
use backy_tests::world::{self, BLOCK_SIZE, World, changed_state};

const BLOCK: usize = 4096;

type Flaw = fn(&World);

fn image_digests(world: &World) -> FileName {
    FileName::Digests(world.expected[0].uuid, DigestsKind::Image)
}

fn delta(world: &World, number: usize) -> FileName {
    FileName::Delta(world.expected[number].uuid)
}

fn delta_digests(world: &World, number: usize) -> FileName {
    FileName::Digests(world.expected[number].uuid, DigestsKind::Delta)
}

fn remove(world: &World, name: FileName) {
    Storage::remove(&world.disk, name).expect("remove");
}

fn spoil(world: &World, name: FileName, at: usize) {
    world.disk.tamper(name, |bytes| {
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 0x55;
        }
    });
}

fn clear(world: &World, name: FileName, at: usize, len: usize) {
    world.disk.tamper(name, |bytes| {
        let end = bytes.len().min(at + len);
        if let Some(part) = bytes.get_mut(at.min(end)..end) {
            part.fill(0);
        }
    });
}

/// Where the L2 entry of a block is.
fn entry(world: &World, number: usize, block: usize) -> usize {
    let layout = Layout::new(BLOCK_SIZE, world.expected[number].bytes.len() as u64);
    layout.l2_offset as usize + 8 * block
}

/// What may be damaged in one file.
const FLAWS: [(&str, Flaw); 17] = [
    ("a rotten block of the image", |w| spoil(w, FileName::IMAGE, 3 * BLOCK + 9)),
    ("blocks of the image that have become zero", |w| clear(w, FileName::IMAGE, BLOCK, 4 * BLOCK)),
    ("an image that is cut off", |w| w.disk.tamper(FileName::IMAGE, |i| i.truncate(5 * BLOCK))),
    ("no image", |w| remove(w, FileName::IMAGE)),
    ("an entry of the newest digests", |w| spoil(w, image_digests(w), 4096 + 32 * 3)),
    ("newest digests that have become zero", |w| clear(w, image_digests(w), 4096, 1 << 20)),
    ("the header of the newest digests", |w| clear(w, image_digests(w), 0, 512)),
    ("no newest digests", |w| remove(w, image_digests(w))),
    ("no delta next to the newest", |w| remove(w, delta(w, 1))),
    ("the header of that delta", |w| clear(w, delta(w, 1), 0, 512)),
    ("no digests of that delta", |w| remove(w, delta_digests(w, 1))),
    ("an entry of its digests", |w| clear(w, delta_digests(w, 1), 4096 + 32 * 2, 64)),
    ("no delta in the middle", |w| remove(w, delta(w, 2))),
    ("a table of that delta", |w| spoil(w, delta(w, 2), entry(w, 2, 1))),
    ("a table of that delta that has become zero", |w| clear(w, delta(w, 2), entry(w, 2, 0), 512)),
    ("the data of that delta", |w| clear(w, delta(w, 2), 4 * BLOCK, 1 << 20)),
    ("no oldest delta", |w| remove(w, delta(w, 3))),
];

/// Runs the verbs of the table in `doc/disaster.md`, one after the other, until a backup works.
fn way_out(place: &str, damaged: &mut Damaged, next: &[u8]) -> usize {
    let mut last = None;
    for step in 0..6 {
        match step {
            // What the first one has repaired makes it fail, but not the next one.
            0 | 1 => {}
            2 | 5 => _ = damaged.apply(Verb::Scrub, next),
            3 => remove_lost(damaged, next),
            _ => _ = damaged.apply(Verb::Rebuild(true), next),
        }
        damaged.check(&format!("{place}, step {step}"));
        match damaged.apply(Verb::Backup(true), next) {
            Ok(()) => {
                let archive = world::open(&damaged.world.disk).expect("open");
                damaged.check(&format!("{place}, step {step}, after the backup"));
                match world::read_revision(&archive, 0) {
                    Ok(newest) => {
                        assert!(newest == next, "{place}, step {step}: wrong bytes");
                        return step;
                    }
                    // Only a scrub notices a rotten block that has not changed.
                    Err(error) => last = Some(error),
                }
            }
            Err(error) => last = Some(error),
        }
        damaged.check(&format!("{place}, step {step}, after the backup"));
    }
    panic!("{place}: no way out: {last:?}");
}

/// Deletes what cannot be read, the oldest first.
fn remove_lost(damaged: &mut Damaged, next: &[u8]) {
    let Ok(archive) = world::open(&damaged.world.disk) else { return };
    for number in (1..archive.revisions().len()).rev() {
        if world::read_revision(&archive, number).is_err() {
            let _ = damaged.apply(Verb::Remove(number as u8), next);
        }
    }
}

/// Everything that cannot be read can be deleted. Then the archive is healthy, and so is the next backup.
fn tidy_up(place: &str, damaged: &mut Damaged, next: &[u8]) {
    let _ = damaged.apply(Verb::Scrub, next);
    loop {
        let archive = world::open(&damaged.world.disk).expect("open");
        let mut numbers = (1..archive.revisions().len()).rev();
        let lost = numbers.find(|&number| world::read_revision(&archive, number).is_err());
        let Some(number) = lost else { break };
        let mut removed = damaged.apply(Verb::Remove(number as u8), next);
        // Somebody has to confirm that what might still be recovered may be given up.
        if matches!(&removed, Err(error) if error.to_string().contains("maintenance --confirm")) {
            let _ = damaged.apply(Verb::Maintain(0), next);
            removed = damaged.apply(Verb::Remove(number as u8), next);
        }
        removed
            .unwrap_or_else(|error| panic!("{place}: removing {number}, which is lost: {error}"));
        damaged.check(&format!("{place}, {number} removed"));
    }
    damaged.apply(Verb::Scrub, next).unwrap_or_else(|error| panic!("{place}: scrub: {error}"));
    damaged.apply(Verb::Backup(false), next).unwrap_or_else(|error| panic!("{place}: {error}"));
    let archive = world::open(&damaged.world.disk).expect("open");
    assert_eq!(damaged.check(place), archive.revisions().len(), "{place}: all are whole");
}

/// Any two flaws of an archive at rest.
#[test]
fn two_flaws_at_rest() {
    let (world, states) = four_revisions(false);
    let next = changed_state(&mut Random(5), &states[3], states[3].len());
    let mut steps = [0; 6];
    for (at, (first, one)) in FLAWS.iter().enumerate() {
        for (second, other) in &FLAWS[at..] {
            let place = format!("{first} and {second}");
            let mut damaged = Damaged::new(world.fork());
            one(&damaged.world);
            other(&damaged.world);
            damaged.check(&place);
            steps[way_out(&place, &mut damaged, &next)] += 1;
            tidy_up(&place, &mut damaged, &next);
        }
    }
    assert!(steps[0] > 30 && steps[1] > 10 && steps[2] > 10, "steps of the way out: {steps:?}");
}

/// An operation that was killed anywhere, and a flaw besides.
#[test]
fn a_killed_operation_and_a_flaw() {
    let (world, states) = four_revisions(false);
    let next = changed_state(&mut Random(5), &states[3], states[3].len());
    let source = MemorySource::new(&next);
    let in_place = BackupOptions { update: ImageUpdate::InPlace, ..world::options() };
    let backup = |disk: &SimStorage| world::backup_with(disk, &source, &in_place).map(drop);
    let roll_back = |disk: &SimStorage| world::remove(disk, &[0]).map(drop);
    let merge = |disk: &SimStorage| world::remove(disk, &[1, 2]).map(drop);
    type Operation<'a> = &'a dyn Fn(&SimStorage) -> Result<()>;
    let operations: [(&str, Operation<'_>); 3] =
        [("a backup", &backup), ("the removal of the newest", &roll_back), ("a merge", &merge)];
    for (what, operation) in operations {
        let trial = world.fork();
        operation(&trial.disk).expect("it works on a working disk");
        let calls = trial.disk.calls();
        for part in 1..5 {
            let at = calls * part / 5;
            let broken = world.fork();
            broken.disk.set_fault(at, Fault::Crash, at);
            let _ = operation(&broken.disk);
            let crashed = broken.disk.crash(Unsynced::Subset(at));
            for (flaw, spoil) in FLAWS {
                let place = format!("{what} killed at call {at}, {flaw}");
                let disk = crashed.fork();
                let expected = world.expected.clone();
                let mut damaged = Damaged::new(World { disk, expected });
                damaged.strangers.push(next.clone());
                spoil(&damaged.world);
                damaged.check(&place);
                way_out(&place, &mut damaged, &next);
                tidy_up(&place, &mut damaged, &next);
            }
        }
    }
}
