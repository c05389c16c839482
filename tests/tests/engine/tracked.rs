//! Backups of sources that keep marks: what is believed, what is not, and what is left at the source.

use backy_lib::clock::FixedClock;
use backy_lib::extent::Extent;
use backy_lib::hooks::NoHooks;
use backy_lib::progress::{Event, Observer, Silent};
use backy_lib::storage::sim::{Random, SimStorage};
use backy_lib::{BackupOptions, BackupReport, ErrorKind, Result};
use backy_tests::tracked::TrackedDisk;
use backy_tests::world::{self, Expected, UPDATES, World, changed_state, random_state};
use jiff::{SignedDuration, Timestamp};
use std::sync::Mutex;

const BLOCK: usize = 4096;

/// What a backup reports, as text.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Observer for Told {
    fn event(&self, event: &Event) {
        if let Event::Note(text) | Event::Finding(text) = event {
            self.0.lock().unwrap().push(text.clone());
        }
    }
}

impl Told {
    fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}

/// A day of backups after `day` others.
fn on_day(day: i64) -> FixedClock {
    let begin = Timestamp::from_second(1_800_000_000).unwrap();
    FixedClock(begin + SignedDuration::from_hours(24 * day))
}

pub(crate) fn backup_on(
    disk: &SimStorage,
    source: &TrackedDisk,
    clock: &FixedClock,
    options: &BackupOptions,
    observer: &dyn Observer,
) -> Result<BackupReport> {
    let mut writer = world::writer(disk)?;
    let made = writer.backup_from(|_| Ok(source.open()), &mut NoHooks, options, clock, observer)?;
    Ok(made.expect("a forced backup is made"))
}

/// A backup on some day that has to work, checked against the content of the source.
fn backup(world: &mut World, source: &TrackedDisk, content: &[u8], day: i64) -> BackupReport {
    source.set(content);
    let report = backup_on(&world.disk, source, &on_day(day), &world::options(), &Silent)
        .expect("a backup that works");
    world.expected.insert(0, Expected { uuid: report.revision.uuid, bytes: content.to_vec() });
    report
}

/// The names of the marks at the source are that of the newest revision alone.
fn assert_settled(world: &World, source: &TrackedDisk) {
    let archive = world::open(&world.disk).expect("open");
    let id = archive.manifest().archive.expect("a name of the archive");
    let newest = &world.expected[0];
    assert_eq!(source.marks(), [(format!("backy.{id}.{}", newest.uuid), newest.bytes.clone())]);
}

/// Only what has changed since the mark of the newest revision is read, for any changes and sizes, and each backup
/// leaves one mark. The revisions are those of a backup that reads everything.
#[test]
fn only_what_changed_since_the_mark_is_read() {
    for seed in 0..60 {
        let (clones, update) = UPDATES[seed as usize % 2];
        let mut random = Random(seed);
        let mut state = random_state(&mut random, 40 * BLOCK + 100);
        let source = TrackedDisk::new(&state);
        let mut world = World::with_backups(clones, &[]);
        let options = BackupOptions { update, ..world::options() };
        for round in 0..6 {
            source.set(&state);
            let made = backup_on(&world.disk, &source, &on_day(0), &options, &Silent).unwrap();
            let revision = made.revision;
            world.expected.insert(0, Expected { uuid: revision.uuid, bytes: state.clone() });
            world.assert_tidy(format_args!("seed {seed}, round {round}"));
            assert_settled(&world, &source);
            let hints = revision.hints.expect("hints");
            if round > 0 {
                assert_eq!(hints.since, Some(world.expected[1].uuid));
                assert_eq!((hints.reason, hints.compared_bytes), (None, 0));
                let most = revision.statistics.changed_bytes + 2 * BLOCK as u64;
                assert!(revision.statistics.read_bytes <= most, "seed {seed}, round {round}");
            }
            let size = if random.below(4) == 0 { 20 + random.below(40) } else { 0 };
            let size = if size > 0 { size as usize * BLOCK - 7 } else { state.len() };
            state = changed_state(&mut random, &state, size);
        }
    }
}

/// The image is not cloned where the source reports no change. It is wherever a block may differ: also where the source
/// does not report that, and has a hole in its place.
#[test]
fn an_image_of_which_nothing_has_changed_is_not_cloned() {
    let mut random = Random(21);
    let state = random_state(&mut random, 40 * BLOCK + 100);
    let source = TrackedDisk::new(&state);
    let mut world = World::with_backups(true, &[]);
    let mut is_cloned = |source: &TrackedDisk, content: &[u8], day| {
        let made = backup(&mut world, source, content, day);
        world.assert_tidy(format_args!("day {day}"));
        assert!(!made.cloned || made.revision.statistics.changed_bytes > 0, "day {day}");
        made.cloned
    };
    assert!(!is_cloned(&source, &state, 0), "the first image");
    assert!(!is_cloned(&source, &state, 1));
    let next = changed_state(&mut random, &state, state.len());
    assert!(is_cloned(&source, &next, 2));
    assert!(!is_cloned(&source, &next, 3));
    let longer = [next.as_slice(), &[0; BLOCK]].concat();
    assert!(is_cloned(&source, &longer, 4), "it has grown");
    assert!(!is_cloned(&source, &longer, 5));
    let end = next.len() / BLOCK * BLOCK;
    let with_data = (0..end).step_by(BLOCK).find(|&at| longer[at..at + BLOCK] != [0; BLOCK]);
    let at = with_data.expect("a block with data");
    let mut with_hole = longer.clone();
    with_hole[at..at + BLOCK].fill(0);
    source.hide(&[Extent::new(at as u64, BLOCK as u64)]);
    assert!(is_cloned(&source, &with_hole, 6), "a hole");
}

/// Any doubt means that everything is read, that the report, the manifest and the log say why, and that the revision is
/// right. The backup after it relies on the source again.
#[test]
fn any_doubt_means_that_everything_is_read() {
    let mut random = Random(1);
    let (first, second) =
        (random_state(&mut random, 30 * BLOCK), random_state(&mut random, 30 * BLOCK));
    let third = changed_state(&mut random, &second, second.len());
    type Doubt<'a> = (&'a str, &'a dyn Fn(&TrackedDisk, &SimStorage));
    let doubts: [Doubt<'_>; 6] = [
        ("the mark is missing", &|source, _| source.lose_marks()),
        ("the mark was made again", &|source, _| source.make_marks_anew()),
        ("it is another source", &|source, _| source.rename("another")),
        ("was made without a mark", &|_, disk| {
            world::backup_by(disk, b"x", Default::default()).unwrap()
        }),
        ("the mark is missing", &|_, disk| drop(world::remove(disk, &[0]).unwrap())),
        ("mode = \"off\"", &|_, disk| world::configure(disk, "[tracking]\nmode = \"off\"\n")),
    ];
    for (why, doubt) in doubts {
        let source = TrackedDisk::new(&first);
        let mut world = World::with_backups(false, &[]);
        for (day, content) in [&first, &second].into_iter().enumerate() {
            backup(&mut world, &source, content, day as i64);
        }
        doubt(&source, &world.disk);
        source.set(&third);
        source.take_read_bytes();
        let told = Told::default();
        let made = backup_on(&world.disk, &source, &on_day(1), &world::options(), &told).unwrap();
        let read = made.revision.statistics.read_bytes;
        assert_eq!(source.take_read_bytes(), read, "{why}");
        let hints = made.revision.hints.expect("hints");
        assert_eq!((hints.since, hints.skipped_bytes), (None, 0), "{why}");
        let reason = hints.reason.expect("a reason");
        assert!(reason.contains(why), "{reason}");
        let is_off = why.starts_with("mode");
        assert!(is_off || told.text().contains(&format!("everything is read: {reason}")), "{why}");
        assert_eq!(made.revision.bookmark.is_none(), is_off);
        assert_eq!(source.marks().len(), usize::from(!is_off), "{why}");
        assert_eq!(world::read_revision(&world::open(&world.disk).unwrap(), 0).unwrap(), third);
        let again =
            backup_on(&world.disk, &source, &on_day(1), &world::options(), &Silent).unwrap();
        assert_eq!(again.revision.hints.unwrap().since.is_none(), is_off, "{why}");
    }
}

/// With mode = "require" a backup fails rather than read everything, except the first one and one that is asked to. It
/// leaves the archive and the marks as they were.
#[test]
fn a_required_tracker_is_never_replaced_by_reading_everything() {
    let mut random = Random(2);
    let state = random_state(&mut random, 20 * BLOCK);
    let source = TrackedDisk::new(&state);
    let mut world = World::with_backups(false, &[]);
    world::configure(&world.disk, "[tracking]\nmode = \"require\"\n");
    backup(&mut world, &source, &state, 0);
    backup(&mut world, &source, &state, 0);
    source.rename("another");
    let before = source.marks();
    let error = backup_on(&world.disk, &source, &on_day(0), &world::options(), &Silent)
        .expect_err("another source");
    assert_eq!(error.kind(), ErrorKind::Source);
    assert!(error.to_string().contains("mode = \"require\": it is another source"), "{error}");
    assert_eq!(source.marks(), before);
    world.assert_tidy("after the failure");
    let options = BackupOptions { read_all: true, ..world::options() };
    let made = backup_on(&world.disk, &source, &on_day(0), &options, &Silent).unwrap();
    assert!(made.revision.hints.unwrap().since.is_none());
    backup(&mut world, &source, &state, 0);

    let plain = backy_tests::memory::MemorySource::new(&state);
    let error = world::backup(&world.disk, &plain).expect_err("it reports nothing");
    assert!(error.to_string().contains("cannot report what has changed"), "{error}");
}

/// A source that hides any of its changes is found out within `verify_within`: from then on the newest revision is
/// right, everything is read, an alarm keeps revisions, and names the blocks and since when they may be wrong. Backups
/// of one that hides nothing compare their share and raise no alarm.
#[test]
fn a_lying_source_is_found_out_in_time() {
    const DAYS: i64 = 10;
    let mut found_by_compare = 0;
    for seed in 0..80 {
        let mut random = Random(seed);
        let blocks = 25 + random.below(60) as usize;
        let mut state = random_state(&mut random, blocks * BLOCK - 11);
        let source = TrackedDisk::new(&state);
        if seed % 2 == 0 {
            source.be_dense();
        }
        let world = World::with_backups(seed % 3 == 0, &[]);
        world::configure(&world.disk, &format!("[tracking]\nverify_within = \"{DAYS}d\"\n"));
        let hidden = Extent::new(
            random.below(blocks as u64) * BLOCK as u64,
            1 + random.below(3 * BLOCK as u64),
        );
        if seed % 4 != 0 {
            source.hide(&[hidden]);
        }
        let lied_on = 3 + random.below(12) as i64;
        let mut truth: Option<i64> = None;
        for day in 0..lied_on + 3 * DAYS {
            state = changed_state(&mut random, &state, state.len());
            if day < lied_on {
                // Nothing is hidden yet, because nothing changes there.
                let end = (hidden.end() as usize).min(state.len());
                let range = hidden.offset as usize / BLOCK * BLOCK..end.div_ceil(BLOCK) * BLOCK;
                let range = range.start..range.end.min(state.len());
                state[range].fill(7);
            }
            source.set(&state);
            let made =
                backup_on(&world.disk, &source, &on_day(day), &world::options(), &Silent).unwrap();
            let archive = world::open(&world.disk).unwrap();
            let right = world::read_revision(&archive, 0).unwrap() == state;
            let alarm = archive.manifest().alarms.iter().find_map(|alarm| alarm.unreported.clone());
            if let Some(unreported) = alarm {
                assert!(right, "seed {seed}, day {day}: everything was read");
                let hints = made.revision.hints.clone().expect("hints");
                assert!(hints.since.is_none() && made.revision.bookmark.is_none());
                assert!(hints.reason.unwrap().contains("it has changed"));
                let touches = |range: &backy_lib::format::manifest::BlockRange| {
                    let (start, end) = (range.first.0 * BLOCK as u64, range.end().0 * BLOCK as u64);
                    start <= hidden.end() && hidden.offset <= end
                };
                assert!(unreported.blocks.iter().all(touches), "seed {seed}");
                // Every revision that is wrong is newer than the time that the alarm gives.
                assert!(
                    truth.is_none_or(|since| unreported.since <= on_day(since).0),
                    "seed {seed}"
                );
                found_by_compare += 1;
                truth = None;
                break;
            }
            truth = if right { None } else { truth.or(Some(day)) };
            assert!(
                truth.is_none_or(|since| day - since < DAYS),
                "seed {seed}: wrong since day {truth:?}, not found until day {day}"
            );
        }
        assert!(truth.is_none_or(|since| lied_on + 3 * DAYS - since < DAYS), "seed {seed}");
        if seed % 4 == 0 {
            let archive = world::open(&world.disk).unwrap();
            assert!(archive.manifest().alarms.iter().all(|alarm| alarm.unreported.is_none()));
        }
    }
    assert!(found_by_compare > 30, "only {found_by_compare} lies were told");
}

/// Reading everything checks all that the source reports, and raises the same alarm.
#[test]
fn reading_everything_shows_each_lie() {
    let mut random = Random(5);
    let state = random_state(&mut random, 30 * BLOCK);
    let source = TrackedDisk::new(&state);
    let mut world = World::with_backups(false, &[]);
    backup(&mut world, &source, &state, 0);
    let mut next = state.clone();
    next[3 * BLOCK] ^= 1;
    next[9 * BLOCK + 5] ^= 1;
    source.hide(&[Extent::new(9 * BLOCK as u64, 10)]);
    source.set(&next);
    let options = BackupOptions { read_all: true, ..world::options() };
    let told = Told::default();
    let made = backup_on(&world.disk, &source, &on_day(1), &options, &told).unwrap();
    assert_eq!(made.revision.hints.unwrap().reason.unwrap(), "--read-all asks for it");
    let archive = world::open(&world.disk).unwrap();
    assert_eq!(world::read_revision(&archive, 0).unwrap(), next);
    let alarm = archive.manifest().alarms.first().expect("an alarm");
    let unreported = alarm.unreported.as_ref().expect("what was not reported");
    assert_eq!(unreported.blocks.len(), 1);
    assert_eq!((unreported.blocks[0].first.0, unreported.blocks[0].count), (9, 1));
    assert_eq!(unreported.since, on_day(0).0);
    assert!(
        told.text().contains("has not reported a change of block 9 (1 block)"),
        "{}",
        told.text()
    );
}

/// A backup touches only marks of its own archive, whatever else is at the source.
#[test]
fn marks_of_others_stay() {
    let state = random_state(&mut Random(6), 10 * BLOCK);
    let source = TrackedDisk::new(&state);
    let others = [
        "backy.0190a000-0000-7000-8000-000000000000.0190a000-0000-7000-8000-000000000001",
        "backy.x",
        "daily",
        "backy.0190a000-0000-7000-8000-000000000000.",
    ];
    others.iter().for_each(|name| source.add_mark(name));
    let (mut one, mut two) = (World::with_backups(false, &[]), World::with_backups(false, &[]));
    for day in 0..3 {
        let made = backup(&mut one, &source, &state, day);
        assert_eq!(made.revision.hints.unwrap().since.is_some(), day > 0);
        let made = backup(&mut two, &source, &state, day);
        assert_eq!(made.revision.hints.unwrap().since.is_some(), day > 0);
    }
    let names: Vec<String> = source.marks().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), others.len() + 2, "{names:?}");
    assert!(others.iter().all(|other| names.iter().any(|name| name == other)), "{names:?}");
}

/// A tracker that fails at any call costs no more than the backup that needs it, and what it leaves behind is removed
/// by the next one. Settling is never an error of the backup.
#[test]
fn a_tracker_may_fail_at_any_call() {
    let mut random = Random(8);
    let state = random_state(&mut random, 12 * BLOCK);
    let source = TrackedDisk::new(&state);
    let mut world = World::with_backups(false, &[]);
    backup(&mut world, &source, &state, 0);
    let next = changed_state(&mut random, &state, state.len());
    source.set(&next);
    source.fail_at(None);
    let trial = (world.fork(), source.fork());
    backup_on(&trial.0.disk, &trial.1, &on_day(1), &world::options(), &Silent).unwrap();
    let calls = trial.1.calls();
    assert!(calls >= 3, "{calls}");
    for call in 1..=calls {
        let (mut world, source) = (world.fork(), source.fork());
        source.fail_at(Some(call));
        let told = Told::default();
        let made = backup_on(&world.disk, &source, &on_day(1), &world::options(), &told);
        let committed = world.check_committed(Some(&next)).unwrap();
        assert_eq!(made.is_ok(), committed, "call {call}");
        assert_eq!(made.is_err(), call == 1, "only the mark itself is needed");
        if call > 1 {
            assert!(told.text().contains("left for the next backup"), "{}", told.text());
        }
        source.fail_at(None);
        let made = backup(&mut world, &source, &state, 2);
        assert!(made.revision.hints.unwrap().since.is_some(), "call {call}");
        assert_settled(&world, &source);
        world.assert_tidy(format_args!("call {call}"));
    }
}
