//! What is exported for Ceph: right for every pair of revisions, and never a complete stream with wrong bytes.

use backy_lib::export::{RbdDiffOptions, RbdDiffReport, rbd_diff_to_stream};
use backy_lib::progress::Silent;
use backy_lib::storage::sim::Random;
use backy_lib::storage::{DigestsKind, FileName};
use backy_lib::{Archive, Digest, ErrorKind, Result};
use backy_tests::rbd_diff::RbdDiff;
use backy_tests::world::{self, UPDATES, World, changed_state, random_state};

const BLOCK: usize = 4096;

/// The stream as far as it was written, and the report.
fn export(
    archive: &Archive,
    number: usize,
    since: Option<usize>,
) -> (Vec<u8>, Result<RbdDiffReport>) {
    let since = since.map(|since| archive.id(since).expect("a revision"));
    let options = RbdDiffOptions { since, threads: Some(1) };
    let id = archive.id(number).expect("a revision");
    let mut stream = Vec::new();
    let report = rbd_diff_to_stream(archive, id, &mut stream, &options, &Silent);
    (stream, report)
}

/// Checks the streams of all revisions: alone, and since each other one, older or newer.
fn check_all(world: &World, place: &str) {
    let archive = world::open(&world.disk).expect("open");
    let count = world.expected.len();
    for number in 0..count {
        for since in (0..count).map(Some).chain([None]).filter(|since| *since != Some(number)) {
            let place = format!("{place}: {number} since {since:?}");
            let (stream, report) = export(&archive, number, since);
            let report = report.unwrap_or_else(|error| panic!("{place}: {error}"));
            let new = &world.expected[number];
            let old = since.map(|since| &world.expected[since]);
            let diff = RbdDiff::parse(&stream).unwrap_or_else(|error| panic!("{place}: {error}"));
            let bytes = old.map_or(&[][..], |old| &old.bytes);
            let checked = diff.check(bytes, &new.bytes, BLOCK);
            checked.unwrap_or_else(|error| panic!("{place}: {error}"));
            assert_eq!(diff.to, new.uuid.to_string());
            assert_eq!(diff.from, old.map(|old| old.uuid.to_string()));
            assert_eq!((report.revision, report.since), (new.uuid, old.map(|old| old.uuid)));
            assert_eq!(report.stream_bytes, stream.len() as u64);
            assert_eq!(report.sha256, Digest::of(&stream));
            let sum = |zero: bool| -> u64 {
                let of_kind = diff.records.iter().filter(|(_, bytes)| bytes.is_none() == zero);
                of_kind.map(|(range, _)| range.end - range.start).sum()
            };
            assert_eq!((report.data_bytes, report.zero_bytes), (sum(false), sum(true)), "{place}");
        }
    }
}

/// A stream since any other revision turns that one into the wanted one, whatever grew, shrank or became zero between
/// them, and has only blocks that differ; also after revisions between them have been deleted.
#[test]
fn every_revision_comes_from_every_other_one() {
    for seed in 0..40 {
        let (clones, _) = UPDATES[seed as usize % 2];
        let mut random = Random(seed);
        let mut size = || random.below(14 * BLOCK as u64) as usize;
        let sizes: Vec<usize> = (0..4).map(|_| size()).collect();
        let mut states = vec![random_state(&mut random, sizes[0])];
        for &size in &sizes[1..] {
            let last = states.last().expect("a state");
            states.push(changed_state(&mut random, last, size));
        }
        let mut world = World::with_backups(clones, &states);
        check_all(&world, &format!("seed {seed}"));
        world.remove(&[1 + seed as usize % 2]);
        check_all(&world, &format!("seed {seed}, one deleted"));
    }
}

/// A block that does not match its digest ends the export, and the stream is not complete.
#[test]
fn a_damaged_block_leaves_no_complete_stream() {
    let states = [vec![1; 9 * BLOCK], vec![2; 9 * BLOCK]];
    let world = World::with_backups(false, &states);
    for at in 0..9 {
        let world = world.fork();
        world.disk.tamper(FileName::IMAGE, |image| image[at * BLOCK + 7] ^= 1);
        let archive = world::open(&world.disk).expect("open");
        for since in [None, Some(1)] {
            let (stream, report) = export(&archive, 0, since);
            assert_eq!(report.map(drop).unwrap_err().kind(), ErrorKind::Damaged, "block {at}");
            assert!(RbdDiff::parse(&stream).is_err(), "block {at}");
        }
    }
}

/// Digests decide what differs, so those of both revisions are proved before anything is written: a wrong one of the
/// other revision could hide a block that differs.
#[test]
fn wrong_digests_of_either_revision_write_nothing() {
    let states = [vec![1; 6 * BLOCK], vec![2; 6 * BLOCK], vec![3; 6 * BLOCK]];
    let world = World::with_backups(false, &states);
    let delta = FileName::Digests(world.expected[1].uuid, DigestsKind::Delta);
    let table = FileName::Digests(world.expected[0].uuid, DigestsKind::Image);
    // The pair, and the file that is wrong.
    for (number, since, file) in [(0, 1, delta), (1, 0, delta), (1, 0, table), (0, 1, table)] {
        let world = world.fork();
        world.disk.tamper(file, |bytes| {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        });
        let archive = world::open(&world.disk).expect("open");
        let (stream, report) = export(&archive, number, Some(since));
        assert_eq!(report.map(drop).unwrap_err().kind(), ErrorKind::Damaged, "{number} {since}");
        assert!(stream.is_empty(), "{number} since {since}");
    }
}
