//! Archives on simulated disks, copied over a simulated line.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use backy_lib::archive::ArchiveWriter;
use backy_lib::origin::LocalOrigin;
use backy_lib::progress::Silent;
use backy_lib::pull::{PullOptions, PullReport};
use backy_lib::storage::sim::{Random, SimStorage};
use backy_tests::link::Traffic;
use backy_tests::world::{self, BLOCK_SIZE, World, changed_state, random_state};

use super::*;

fn origin(sizes: &[usize]) -> World {
    let mut random = Random(5);
    let mut states: Vec<Vec<u8>> = Vec::new();
    for size in sizes {
        states.push(match states.last() {
            None => random_state(&mut random, *size),
            Some(last) => changed_state(&mut random, last, *size),
        });
    }
    World::with_backups(false, &states)
}

fn empty() -> SimStorage {
    let copy = SimStorage::new(false);
    world::init(&copy).expect("init");
    copy
}

/// Pulls over a line that the origin has called over. Returns what both sides say.
fn pull(
    origin: &World,
    copy: &SimStorage,
    link: &Link,
) -> (Result<PullReport>, Result<Outcome>, Traffic) {
    let options = PullOptions { threads: Some(1), ..PullOptions::default() };
    pull_with(origin, copy, link, &options)
}

/// The same with options.
fn pull_with(
    origin: &World,
    copy: &SimStorage,
    link: &Link,
    options: &PullOptions,
) -> (Result<PullReport>, Result<Outcome>, Traffic) {
    let laid = link.lay();
    let disk = origin.disk.clone();
    let open =
        move || -> Result<Box<dyn Origin>> { Ok(Box::new(LocalOrigin::new(world::open(&disk)?))) };
    let far = answering_by(open, BLOCK_SIZE, laid.caller, link.patience);
    let pulled = asking(laid.called, link.patience).and_then(|mut near| {
        let mut writer = ArchiveWriter::open(world::open(copy)?, "a test", &Silent)?;
        let report = writer.pull(&mut near, options, &world::clock(), &Silent)?;
        near.finish()?;
        Ok(report)
    });
    (pulled, far.join().expect("no panic"), laid.traffic)
}

fn copied(origin: &World, copy: &SimStorage) -> World {
    World { disk: copy.clone(), expected: origin.expected.clone() }
}

/// A pull over a line makes the same copy as one without a line, and sends no block twice and none that is not needed.
#[test]
fn a_copy_over_a_line_is_the_same() {
    let mut origin = origin(&[40_000, 40_000, 61_000, 30_001, 45_000]);
    let copy = empty();
    let (report, outcome, _) = pull(&origin, &copy, &Link::default());
    let report = report.expect("a pull");
    assert!(report.is_complete() && report.pulled.len() == 5, "{report:?}");
    assert_eq!(outcome.expect("an end"), Outcome::Done(None));
    copied(&origin, &copy).assert_tidy("the copy");
    // One block more: it is the only one that is asked for.
    let mut state = origin.expected[0].bytes.clone();
    state[20_000] ^= 1;
    origin.backup(&state);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let link = Link::filtered(move |way, _, frame| {
        if way == Way::Back && frame[4] == 8 {
            seen.lock().expect("no panic").push(frame.clone());
        }
        Pass::Bytes(frame)
    });
    let (report, ..) = pull(&origin, &copy, &link);
    assert_eq!(report.expect("a pull").pulled.len(), 1);
    let asked = asked.lock().expect("no panic").clone();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0][28..], [0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1]);
    copied(&origin, &copy).assert_tidy("the copy");
}

/// Wherever the line is cut, in either direction, the copy keeps what is complete, and the next pull finishes it.
#[test]
fn a_pull_over_a_line_that_is_cut_anywhere_is_finished_by_the_next() {
    let origin = origin(&[40_000, 40_000, 61_000, 30_001, 45_000]);
    let (clean, _, traffic) = pull(&origin, &empty(), &Link::default());
    assert!(clean.is_ok());
    for way in [Way::Out, Way::Back] {
        let frames = traffic.frames(way);
        assert!(frames > 10, "{frames}");
        let mut kept = BTreeSet::new();
        for cut in 0..frames {
            let copy = empty();
            let began = Instant::now();
            let (broken, ..) = pull(&origin, &copy, &Link::cut(way, cut));
            assert!(began.elapsed() < Duration::from_secs(10), "{way:?} {cut}");
            let is_end = way == Way::Back && cut + 1 == frames;
            assert!(is_end || broken.is_err(), "{way:?} {cut}: {broken:?}");
            let here = world::open(&copy).expect("open").revisions().len();
            kept.insert(here);
            let (report, ..) = pull(&origin, &copy, &Link::default());
            let report = report.unwrap_or_else(|error| panic!("{way:?} {cut}: {error}"));
            assert_eq!((report.present, report.pulled.len()), (here, 5 - here), "{way:?} {cut}");
            copied(&origin, &copy).assert_tidy(format!("{way:?} {cut}"));
        }
        assert!(kept.len() >= 5, "{way:?}: {kept:?}");
    }
}

/// Any bit that changes on the line, or on the other side, is an error or makes no difference: never another copy.
#[test]
fn a_bit_that_changes_on_the_line_never_spoils_a_copy() {
    let origin = origin(&[40_000, 61_000, 30_001]);
    let (clean, _, traffic) = pull(&origin, &empty(), &Link::default());
    assert!(clean.is_ok());
    let short = Patience { silence: Duration::from_millis(300), ..patience() };
    let mut failed = 0;
    for round in 0..120 {
        let mut random = Random(round);
        let at = 1 + random.below(traffic.frames(Way::Out) - 1);
        let (place, bit) = (random.number() as usize, random.below(8));
        let link = Link::filtered(move |way, number, mut frame| {
            if way == Way::Out && number == at {
                // Lengths would only stop the line of this test.
                let place = 4 + place % (frame.len() - 4);
                frame[place] ^= 1 << bit;
            }
            Pass::Bytes(frame)
        });
        let copy = empty();
        let (broken, ..) = pull(&origin, &copy, &Link { patience: short, ..link });
        failed += usize::from(broken.is_err());
        let archive = world::open(&copy).expect("open");
        let there = archive.revisions().len();
        for (number, expected) in origin.expected[3 - there..].iter().enumerate() {
            let found = world::read_revision(&archive, number).expect("read");
            assert!(found == expected.bytes, "round {round}: revision {number}");
        }
        let (report, ..) = pull(&origin, &copy, &Link::default());
        report.unwrap_or_else(|error| panic!("round {round}: {error}"));
        copied(&origin, &copy).assert_tidy(format!("round {round}"));
    }
    assert!(failed > 60, "{failed}");
}

/// A pull asks for blocks ahead of the engine, which reads a little at a time.
#[test]
fn a_pull_uses_a_line_with_latency_well() {
    let mut random = Random(3);
    let mut state = vec![0; 16 << 20];
    state.fill_with(|| random.number() as u8);
    let origin = World::with_backups(false, &[state]);
    let rate = 16e6;
    let latency = Duration::from_millis(20);
    let link = Link { latency, bytes_per_second: Some(rate), ..Link::default() };
    let copy = empty();
    let began = Instant::now();
    let options = PullOptions { threads: Some(2), ..PullOptions::default() };
    let (report, _, traffic) = pull_with(&origin, &copy, &link, &options);
    let took = began.elapsed().as_secs_f64();
    assert!(report.expect("a pull").is_complete());
    let best = traffic.bytes(Way::Out) as f64 / rate;
    // The engine of these tests reads three blocks at a time: with a wait for each it would take a minute.
    assert!(took < best * 3.0 + 3.0, "{took} s, at best {best} s");
}
