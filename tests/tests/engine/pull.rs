//! A copy: revisions of one archive are pulled into another, whatever happens on either side.

mod anywhere;
mod history;
mod lies;
mod moving;
mod resume;
mod scene;

use backy_lib::PullOptions;
use backy_lib::storage::sim::Random;
use backy_tests::world::{self, changed_state, random_state};

use scene::{Between, Scene, in_place, options, pull, pull_with, states};

/// A copy has the revisions of its origin, with their names, times, tags and digests, and is an archive like any other.
#[test]
fn a_copy_has_the_same_revisions() {
    for (clones, options) in [(false, in_place()), (true, options())] {
        let scene = Scene::small(clones);
        let report = pull_with(&scene.copy, &mut scene.local(), &options).expect("a pull");
        assert!(report.is_complete() && report.pulled.len() == 5, "{report:?}");
        scene.copied().assert_tidy("the copy");
        let (theirs, own) = (
            world::open(&scene.origin.disk).expect("open"),
            world::open(&scene.copy).expect("open"),
        );
        for (their, own) in theirs.revisions().iter().zip(own.revisions()) {
            assert_eq!((their.uuid, their.started), (own.uuid, own.started));
            assert_eq!((their.digest, own.table_digest), (own.digest, None));
            assert_eq!((&their.tags, &their.pinned_tags), (&own.tags, &own.pinned_tags));
        }
        let again = scene.pull().expect("another pull");
        assert!(again.pulled.is_empty() && again.present == 5, "{again:?}");
    }
}

/// A pull copies any sequence of states byte for byte, all at once or one by one, and requests only changed blocks.
#[test]
fn any_archive_is_copied_byte_for_byte() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut bytes = random.below(80_000) as usize;
        let mut state = random_state(&mut random, bytes);
        let mut scene = Scene::new(seed % 2 == 0, &[]);
        for _ in 0..1 + random.below(6) {
            scene.origin.backup(&state);
            if random.below(2) == 0 {
                let mut origin = Between::new(&scene);
                pull(&scene.copy, &mut origin).expect("a pull");
                scene.copied().assert_tidy(format!("seed {seed}"));
            }
            if random.below(3) == 0 {
                bytes = random.below(80_000) as usize;
            }
            state = changed_state(&mut random, &state, bytes);
        }
        pull(&scene.copy, &mut scene.local()).expect("a pull");
        scene.copied().assert_tidy(format!("seed {seed}"));
    }
}

/// A pull asks only for blocks that differ from what the copy has, with a common revision and without one.
#[test]
fn only_what_differs_is_asked_for() {
    let mut scene = Scene::new(false, &states(5, &[120_000]));
    scene.pull().expect("a pull");
    let mut state = scene.origin.expected[0].bytes.clone();
    state[50_000] ^= 1;
    scene.origin.backup(&state);
    for is_common in [true, false] {
        if !is_common {
            scene.origin.remove(&[1]);
        }
        let copy = scene.copy.fork();
        let mut origin = Between::new(&scene);
        pull(&copy, &mut origin).expect("a pull");
        let blocks: Vec<u64> = origin.asked_for.iter().map(|(_, block)| block.0).collect();
        assert_eq!(blocks, [12], "common: {is_common}");
        assert_eq!(
            world::read_revision(&world::open(&copy).expect("open"), 0).expect("read"),
            state
        );
    }
}

/// In several threads, with pieces of tables of any length, blocks that the origin has lost, blocks that are bad here,
/// and connections that end, the copy gets the same bytes, and never waits for ever.
#[test]
fn pulls_in_several_threads_come_to_the_same() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let mut state = world::noise(seed, 150_000);
        let mut scene = Scene::new(seed % 2 == 0, &[]);
        let options =
            PullOptions { threads: Some(2 + seed as usize % 3), ..PullOptions::default() };
        for round in 0..3 {
            scene.origin.backup(&state);
            let piece_blocks = Some(1 + random.below(20));
            let breaks_at = (random.below(2) == 0).then(|| 1 + random.below(30));
            let mut broken = Between { piece_blocks, breaks_at, ..Between::new(&scene) };
            let _ = pull_with(&scene.copy, &mut broken, &options);
            let mut origin = Between { piece_blocks, ..Between::new(&scene) };
            pull_with(&scene.copy, &mut origin, &options).expect("a pull");
            scene.copied().assert_tidy(format!("seed {seed}, round {round}"));
            let size = if round == 0 { 150_000 } else { 90_000 + random.below(90_000) as usize };
            state = changed_state(&mut random, &state, size);
            if random.below(3) == 0 {
                state[30_000..70_000].fill(0);
            }
        }
    }
}

/// The table of a revision since another one names exactly the blocks with another content or another length, and
/// without another one all of them.
#[test]
fn tables_name_exactly_what_differs() {
    use backy_lib::digest::TableEntry;
    use backy_lib::origin::{Entries, Origin};
    use backy_lib::units::BlockIndex;
    for seed in 0..20 {
        let mut random = Random(seed);
        let sizes: Vec<usize> = (0..4).map(|_| random.below(90_000) as usize).collect();
        let scene = Scene::new(false, &states(seed, &sizes));
        let expected = &scene.origin.expected;
        let block = |number: usize, at: usize| expected[number].bytes.chunks(4096).nth(at);
        let mut origin = scene.local();
        for (new, old) in (0..4).flat_map(|new| (0..4).map(move |old| (new, old))) {
            let since = (new != old).then(|| expected[old].uuid);
            let end = BlockIndex(expected[new].bytes.len().div_ceil(4096) as u64);
            let mut named = std::collections::BTreeMap::new();
            let mut next = BlockIndex(0);
            while next < end {
                let piece = origin.table(expected[new].uuid, since, next).expect("a piece");
                for run in piece.runs {
                    let entries = match run.entries {
                        Entries::Zero(count) => vec![TableEntry::ZERO_BLOCK; count as usize],
                        Entries::Each(entries) => entries,
                    };
                    named.extend(entries.into_iter().zip(run.first.0..).map(|(e, at)| (at, e)));
                }
                next = piece.next;
            }
            for at in 0..end.0 as usize {
                let bytes = block(new, at).expect("a block");
                let is_same = since.is_some() && block(old, at) == Some(bytes);
                let entry = named.remove(&(at as u64));
                let expected = (!is_same).then(|| TableEntry::of_block(bytes));
                assert_eq!(entry, expected, "seed {seed}: block {at} of {new} since {old}");
            }
            assert!(named.is_empty());
        }
    }
}

/// A revision from the future stops no pull, and expires nothing: newer ones of the origin are pulled after it.
#[test]
fn a_time_from_the_future_stops_no_pull() {
    let mut scene = Scene::small(false);
    world::configure(&scene.copy, "[schedule.daily]\ninterval = \"1d\"\nkeep = 3\n");
    let mut origin = Between::new(&scene);
    origin.twist_listing = Some(Box::new(|listing| {
        listing.revisions[0].started = "2100-01-01T00:00:00Z".parse().expect("a time");
        Ok(())
    }));
    pull(&scene.copy, &mut origin).expect("a pull");
    let before = world::open(&scene.copy).expect("open").revisions().len();
    scene.origin.remove(&[0]);
    scene.origin.backup(&states(77, &[20_000])[0]);
    let report = scene.pull().expect("another pull");
    assert_eq!(report.pulled.len(), 1, "{report:?}");
    let archive = world::open(&scene.copy).expect("open");
    assert_eq!(archive.revisions().len(), before + 1);
    assert_eq!(archive.revisions()[0].uuid, scene.origin.expected[0].uuid);
}

/// An origin whose newest revision is older than that of the copy was set back, or is another one: the report says so.
#[test]
fn an_origin_that_was_set_back_is_reported() {
    let mut scene = Scene::small(false);
    let report = scene.pull().expect("a pull");
    assert!(report.notes.is_empty(), "{report:?}");
    scene.origin.remove(&[0]);
    let report = scene.pull().expect("another pull");
    assert!(report.pulled.is_empty() && report.notes[0].contains("set back"), "{report:?}");
}
