//! Clocks that are wrong and jump, between operations and within them: nothing is lost, nothing is deleted that has
//! to stay, backups continue, and backy reports the problem of the clock.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use backy_lib::archive::ArchiveWriter;
use backy_lib::clock::{Clock, FixedClock};
use backy_lib::health::Level;
use backy_lib::progress::Silent;
use backy_lib::status::{StatusReport, status};
use backy_lib::storage::FileName;
use backy_lib::storage::Storage;
use backy_lib::storage::sim::Random;
use backy_lib::{
    BackupOptions, Budget, MaintenanceOptions, Result, RevisionId, ScrubOptions, drill,
};
use backy_tests::memory::MemorySource;
use backy_tests::world::{self, BLOCK_SIZE, Expected, World, changed_state, random_state};
use jiff::{SignedDuration, Timestamp};

const CONFIG: &str = "source = \"/memory\"\n\
    [schedule.daily]\ninterval = \"1d\"\nkeep = 3\n\
    [schedule.weekly]\ninterval = \"7d\"\nkeep = 2\n";

/// When the clock is right, at first.
const NOW: i64 = 1_800_000_000;

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time in range")
}

/// Shows another time at each call: mostly the right one, which advances, else any time at all.
struct Jumping(Mutex<(Random, i64)>);

impl Jumping {
    fn new(seed: u64) -> Self {
        Jumping(Mutex::new((Random(seed), NOW)))
    }
}

impl Clock for Jumping {
    fn now(&self) -> Timestamp {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (random, now) = &mut *state;
        *now += random.below(30_000) as i64;
        match random.below(12) {
            0 => Timestamp::MIN,
            1 => Timestamp::MAX,
            2 => second(0),
            3 => second(-1),
            // Just before the end of all time stamps, the end of 32 bits, a leap second.
            4 => second(Timestamp::MAX.as_second() - 1),
            5 => second(i64::from(i32::MAX) + 1),
            6 => second(1_483_228_799),
            7 => second(*now - random.below(40 * 86_400) as i64),
            8 => second(*now + random.below(40 * 86_400) as i64),
            _ => second(*now),
        }
    }
}

fn writer(world: &World) -> ArchiveWriter {
    let archive = world::open(&world.disk).expect("open");
    ArchiveWriter::open(archive, "a test", &Silent).expect("the lock")
}

/// Makes a backup if one is due, or by force. Returns whether it made one.
fn backup(world: &mut World, state: &[u8], force: bool, clock: &dyn Clock) -> bool {
    let options = BackupOptions { force, ..world::options() };
    let report = writer(world)
        .backup(&MemorySource::new(state), &options, clock, &Silent)
        .expect("a backup that works");
    let Some(report) = report else { return false };
    world.expected.insert(0, Expected { uuid: report.revision.uuid, bytes: state.to_vec() });
    true
}

/// What must not be deleted, whatever the clock says.
struct Precious {
    newest: Option<RevisionId>,
    pinned: BTreeSet<RevisionId>,
    /// The newest revisions of each tag, as many as the schedule keeps.
    tagged: Vec<RevisionId>,
}

impl Precious {
    fn of(world: &World) -> Self {
        let archive = world::open(&world.disk).expect("open");
        let revisions = archive.revisions();
        let config = archive.config().expect("the config");
        let tagged = config.schedule.iter().flat_map(|(tag, interval)| {
            let with = revisions.iter().filter(|revision| revision.tags.contains(tag));
            with.take(interval.keep as usize).map(|revision| revision.uuid).collect::<Vec<_>>()
        });
        let pinned = revisions.iter().filter(|revision| !revision.pinned_tags.is_empty());
        Precious {
            newest: revisions.first().map(|revision| revision.uuid),
            pinned: pinned.map(|revision| revision.uuid).collect(),
            tagged: tagged.collect(),
        }
    }

    fn check(&self, world: &World) {
        let there = |uuid: &RevisionId| world.expected.iter().any(|e| e.uuid == *uuid);
        assert_eq!(world.expected.first().map(|e| e.uuid), self.newest, "the newest");
        assert!(self.pinned.iter().all(there), "a pinned one has gone");
        assert!(self.tagged.iter().all(there), "one of the newest with a tag has gone");
    }
}

fn maintain(world: &mut World, clock: &dyn Clock) {
    let precious = Precious::of(world);
    let options = MaintenanceOptions { keep: None, confirm: true, threads: Some(1) };
    let report = writer(world).maintain(&options, clock, &Silent).expect("maintenance");
    let mut verdicts = report.plan.verdicts.iter();
    world.expected.retain(|_| verdicts.next().is_some_and(|verdict| verdict.keep));
    precious.check(world);
}

fn health(world: &World, now: Timestamp) -> StatusReport {
    let archive = world::open(&world.disk).expect("open");
    let report = status(&archive, &world::all(&archive), &FixedClock(now)).expect("the status");
    serde_json::to_string(&report).expect("a status in JSON");
    report
}

fn tag(world: &World, number: usize, clock: &dyn Clock) {
    let (add, remove) = (["pinned".parse().expect("a tag")].into(), BTreeSet::new());
    let (add, remove) = if number.is_multiple_of(2) { (add, remove) } else { (remove, add) };
    let mut writer = writer(world);
    let id = writer.archive().id(number).unwrap();
    writer.tag(id, &add, &remove, clock, &Silent).expect("a tag");
}

fn scrub(world: &World, clock: &dyn Clock) {
    let budget = Some(Budget::Share(0.5));
    let options = ScrubOptions { budget, threads: Some(1), ..ScrubOptions::default() };
    let report = writer(world).scrub(&options, clock, &Silent).expect("a scrub");
    assert!(report.is_clean(), "{report:?}");
}

fn drilled(world: &World, number: usize, clock: &dyn Clock) {
    let archive = world::open(&world.disk).expect("open");
    let report = drill::read(&archive, archive.id(number).unwrap(), Some(1), clock, &Silent)
        .expect("a drill");
    assert!(report.passed, "{}", report.message);
    writer(world).record_drill(report, clock, &Silent).expect("a drill that is noted");
}

/// Any operations under a clock that shows anything: everything committed reads right, and what must stay stays.
#[test]
fn nothing_is_lost_whatever_the_clock_shows() {
    let mut made = 0;
    for seed in 0..120 {
        let clock = Jumping::new(seed);
        let mut random = Random(seed + 1000);
        let mut world = World::with_backups(seed % 2 == 1, &[]);
        world::configure(&world.disk, CONFIG);
        let mut state = random_state(&mut random, 5 * BLOCK_SIZE.len() - 7);
        for step in 0..25 {
            let count = world.expected.len();
            let chosen = random.below(count.max(1) as u64) as usize;
            match random.below(9) {
                0..4 => {
                    let size = (3 + random.below(4) as usize) * BLOCK_SIZE.len() + step;
                    state = changed_state(&mut random, &state, size);
                    let force = random.flip();
                    made += usize::from(backup(&mut world, &state, force, &clock));
                }
                4 | 5 => maintain(&mut world, &clock),
                _ if count == 0 => {}
                6 => tag(&world, chosen, &clock),
                7 => scrub(&world, &clock),
                _ => drilled(&world, chosen, &clock),
            }
            drop(health(&world, clock.now()));
            world.assert_tidy(format_args!("seed {seed}, step {step}"));
        }
        lose_the_manifest(seed, &world);
    }
    assert!(made > 500, "only {made} backups");
}

/// A rebuilt manifest has the revisions in their order and with their times, although neither names nor times show
/// that order.
fn lose_the_manifest(seed: u64, world: &World) {
    let before: Vec<_> = described(world).expect("a manifest");
    if before.is_empty() {
        return;
    }
    Storage::remove(&world.disk, FileName::MANIFEST).expect("lose the manifest");
    let storage = std::sync::Arc::new(world.disk.clone());
    ArchiveWriter::rebuild_on(storage, "a test", false, &Silent)
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    assert_eq!(described(world).expect("a manifest"), before, "seed {seed}");
    world.clone().check_committed(None).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
}

fn described(world: &World) -> Result<Vec<(RevisionId, Timestamp, Timestamp)>> {
    let archive = world::open(&world.disk)?;
    let revisions = archive.revisions().iter();
    Ok(revisions.map(|revision| (revision.uuid, revision.started, revision.finished)).collect())
}

/// After the clock was wrong once, in either direction and by any amount, and is right again, there is a backup a day.
#[test]
fn backups_go_on_when_the_clock_is_right_again() {
    let wrong = [
        Timestamp::MIN,
        second(0),
        second(NOW - 30 * 86_400),
        second(NOW + 12 * 3600),
        second(NOW + 30 * 86_400),
        second(Timestamp::MAX.as_second() - 3600),
        Timestamp::MAX,
    ];
    let day = SignedDuration::from_hours(24);
    for wrong in wrong {
        let mut random = Random(7);
        let mut world = World::with_backups(false, &[]);
        world::configure(&world.disk, CONFIG);
        let mut state = random_state(&mut random, 4 * BLOCK_SIZE.len());
        let mut now = second(NOW);
        let mut days = Vec::new();
        for number in 0..12 {
            now += day;
            if number == 3 {
                state = changed_state(&mut random, &state, state.len());
                backup(&mut world, &state, true, &FixedClock(wrong));
                maintain(&mut world, &FixedClock(wrong));
            }
            state = changed_state(&mut random, &state, state.len());
            days.push(backup(&mut world, &state, false, &FixedClock(now)));
            maintain(&mut world, &FixedClock(now));
            assert!(!backup(&mut world, &state, false, &FixedClock(now)), "{wrong}: two a day");
        }
        // Half a day before or after, the wrong time is as good as the right one, for one day.
        let missed = days.iter().filter(|&&made| !made).count();
        let near = wrong.duration_since(now).abs() < SignedDuration::from_hours(24 * 40);
        assert!(missed <= usize::from(near), "{wrong}: {days:?}");
        assert!(days[5..].iter().all(|&made| made), "{wrong}: {days:?}");
        world.check_committed(None).unwrap_or_else(|error| panic!("{wrong}: {error}"));
    }
}

/// Asking every quarter of an hour shifts nothing: each backup is made at the hour of the first, since backy notes
/// each request. After maintenance has expired the first ones, the manifest records when that was. Manual backups
/// change nothing.
#[test]
fn asking_often_does_not_move_the_schedule() {
    let mut world = World::with_backups(false, &[]);
    world::configure(&world.disk, CONFIG);
    let first = 1_800_000_000 - 1_800_000_000 % 86_400 + 2 * 3600;
    let mut made = Vec::new();
    for quarter in 0..16 * 96 {
        let clock = FixedClock(second(first + quarter * 900));
        let archive = world::open(&world.disk).expect("open");
        let options = BackupOptions { force: false, ..world::options() };
        let plan = archive.plan_backup(&options, &clock).expect("a plan");
        if !plan.due {
            archive.note_asked("a test", &clock);
        } else {
            let state = vec![made.len() as u8; 9000];
            assert!(backup(&mut world, &state, false, &clock));
            made.push(quarter);
            maintain(&mut world, &clock);
        }
        if quarter == 50 {
            backup(&mut world, &[7; 9000], true, &clock);
        }
    }
    let expected: Vec<i64> = (0..16).map(|day| day * 96).collect();
    assert_eq!(made, expected);
    let archive = world::open(&world.disk).expect("open");
    assert!(archive.revisions().iter().all(|r| r.started > second(first)), "the first has expired");
    let series = &archive.manifest().series;
    assert_eq!(series.len(), 2);
    assert!(series.iter().all(|series| series.began == second(first)), "{series:?}");
    let history = world.disk.files().remove(&FileName::History).expect("a history");
    let history = String::from_utf8(history).expect("text");
    // Once before each backup but the first, and before the next one.
    let count = history.matches("\"operation\":\"asked\"").count();
    assert_eq!(count, made.len(), "{history}");
}

/// backy reports a newest revision from the future: otherwise it would never count as overdue.
#[test]
fn a_revision_from_the_future_is_reported() {
    let mut world = World::with_backups(false, &[]);
    world::configure(&world.disk, CONFIG);
    let state = vec![1; 9000];
    backup(&mut world, &state, true, &FixedClock(second(NOW + 400 * 86_400)));
    let report = health(&world, second(NOW));
    assert_eq!(report.health.level, Level::Warning, "{:?}", report.health);
    assert!(report.health.summary.contains("from the future"), "{:?}", report.health);
    // The next backup, which is due at once, corrects it.
    assert!(backup(&mut world, &state, false, &FixedClock(second(NOW))));
    let report = health(&world, second(NOW + 60));
    assert_eq!(report.health.level, Level::Ok, "{:?}", report.health);
    // A clock that was set back a little does not matter.
    let report = health(&world, second(NOW - 60));
    assert_eq!(report.health.level, Level::Ok, "{:?}", report.health);
}
