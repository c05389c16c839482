//! A pull with each call of the copy, or of the origin, failing in turn.

use backy_lib::storage::sim::{Failure, Fault, SimStorage, Unsynced};
use backy_tests::world;

use super::scene::{Between, Scene, in_place, options, pull, pull_with};

/// The revisions of the copy are the oldest ones of the origin, byte for byte; returns how many.
pub(super) fn check(scene: &Scene, copy: &SimStorage, place: &str) -> usize {
    let archive = world::open(copy).expect(place);
    let count = archive.revisions().len();
    let expected = &scene.origin.expected;
    for (number, expected) in expected[expected.len() - count..].iter().enumerate() {
        assert_eq!(archive.revisions()[number].uuid, expected.uuid, "{place}");
        let found = world::read_revision(&archive, number);
        assert!(found.is_ok_and(|found| found == expected.bytes), "{place}: {number}");
    }
    count
}

fn fails_anywhere(clones: bool) {
    let scene = Scene::small(clones);
    let options = if clones { options() } else { in_place() };
    let trial = scene.copy.fork();
    pull_with(&trial, &mut scene.local(), &options).expect("a pull");
    let faults = [
        Fault::Once(Failure::Io),
        Fault::FromThenOn(Failure::Io),
        Fault::Once(Failure::NoSpace),
        Fault::FromThenOn(Failure::NoSpace),
        Fault::Crash,
    ];
    let mut done = [false; 6];
    for at in 1..=trial.calls() {
        let chosen =
            faults.into_iter().cycle().skip(at as usize).take(if at % 7 == 0 { 5 } else { 2 });
        for fault in chosen {
            let broken = scene.copy.fork();
            broken.set_fault(at, fault, at);
            let result = pull_with(&broken, &mut scene.local(), &options);
            let place = format!("{fault:?} at call {at}");
            let unsynced = [Unsynced::Kept, Unsynced::Subset(at), Unsynced::Lost][at as usize % 3];
            let after = if fault == Fault::Crash { broken.crash(unsynced) } else { broken.fork() };
            let count = check(&scene, &after, &place);
            done[count] = true;
            assert!(count == 5 || result.is_err(), "{place}: reported as pulled");
            pull_with(&after, &mut scene.local(), &options)
                .unwrap_or_else(|error| panic!("{place}: again: {error}"));
            assert_eq!(check(&scene, &after, &place), 5, "{place}");
        }
    }
    assert_eq!(done, [true; 6]);
}

/// A pull may fail at any call of the copy, in any way: what it has pulled is right, and another pull does the rest.
/// In place.
#[test]
fn a_pull_in_place_that_fails_anywhere_continues() {
    fails_anywhere(false);
}

/// The same on clones.
#[test]
fn a_pull_on_clones_that_fails_anywhere_continues() {
    fails_anywhere(true);
}

/// An origin may break off at any of its answers, in the middle of a revision as well: the copy is right, and another
/// pull does the rest.
#[test]
fn an_origin_that_breaks_off_anywhere_costs_nothing() {
    for clones in [false, true] {
        let scene = Scene::small(clones);
        let mut whole = Between::new(&scene);
        pull(&scene.copy.fork(), &mut whole).expect("a pull");
        for at in 1..=whole.calls {
            let copy = scene.copy.fork();
            let mut origin = Between { breaks_at: Some(at), ..Between::new(&scene) };
            let error = pull(&copy, &mut origin).expect_err("it breaks off").to_string();
            assert!(error.contains("the connection is lost"), "call {at}: {error}");
            check(&scene, &copy, &format!("call {at}"));
            pull(&copy, &mut scene.local()).expect("another pull");
            assert_eq!(check(&scene, &copy, &format!("call {at}")), 5);
        }
    }
}
