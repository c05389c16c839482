//! What has arrived is not asked for again.

use backy_lib::ErrorKind;
use backy_lib::storage::sim::{Failure, Fault, SimStorage, Unsynced};
use backy_lib::storage::{FileName, Storage};
use backy_tests::world::{self, World};

use super::anywhere::check;
use super::scene::{Between, Scene, in_place, options, pull, pull_with, states};

fn has_spool(copy: &SimStorage) -> bool {
    copy.list().expect("list").contains(&FileName::Spool)
}

/// A pull that breaks off after any number of blocks asks only for the rest the next time: in the first revision of a
/// copy as well as in a later one, with clones and in place.
#[test]
fn a_pull_continues_where_it_broke_off() {
    for clones in [false, true] {
        let options = if clones { options() } else { in_place() };
        let mut scene = Scene::new(clones, &states(11, &[90_000]));
        for round in 0..2 {
            let mut whole = Between::new(&scene);
            pull_with(&scene.copy.fork(), &mut whole, &options).expect("a pull");
            let all = whole.asked_for.len();
            assert!(all > 5, "{all}");
            for at in 2..=whole.calls {
                let copy = scene.copy.fork();
                let mut broken = Between { breaks_at: Some(at), ..Between::new(&scene) };
                pull_with(&copy, &mut broken, &options).expect_err("it breaks off");
                let arrived = broken.arrived as usize;
                assert!(has_spool(&copy) || round == 1 && arrived <= 2, "{at}");
                let mut rest = Between::new(&scene);
                let report = pull_with(&copy, &mut rest, &options).expect("another pull");
                // What came in the same answer as the end of the connection is not looked at.
                let again = rest.asked_for.len() - (all - arrived);
                assert!(
                    again <= 2,
                    "{clones} {round} call {at}: {arrived} of {all}, again {again}"
                );
                assert!(report.pulled[0].reused_bytes > 0 || arrived <= 3, "{report:?}");
                assert!(!has_spool(&copy));
                World { disk: copy, expected: scene.origin.expected.clone() }.assert_tidy(at);
            }
            scene.pull().expect("a pull");
            let next = states(round + 20, &[95_000]);
            scene.origin.backup(&next[0]);
        }
    }
}

/// After a crash, what became durable is used, and any garbage in its place is not.
#[test]
fn a_crash_leaves_what_is_durable() {
    let scene = Scene::new(false, &states(12, &[90_000]));
    let trial = scene.copy.fork();
    pull(&trial, &mut scene.local()).expect("a pull");
    for at in 1..=trial.calls() {
        for unsynced in [Unsynced::Kept, Unsynced::Subset(at), Unsynced::Lost] {
            let broken = scene.copy.fork();
            broken.set_fault(at, Fault::Crash, at);
            let _ = pull(&broken, &mut scene.local());
            let after = broken.crash(unsynced);
            // Any writer recovers.
            drop(world::writer(&after).expect("a writer"));
            after.tamper(FileName::Spool, |spool| {
                spool.iter_mut().step_by(5000).for_each(|byte| *byte ^= 1);
            });
            pull(&after, &mut scene.local()).expect("a pull");
            World { disk: after, expected: scene.origin.expected.clone() }.assert_tidy(at);
        }
    }
}

/// What arrived of one revision helps with another: the origin may have deleted the first meanwhile.
#[test]
fn what_arrived_helps_with_another_revision() {
    let mut scene = Scene::new(false, &states(13, &[90_000, 90_000]));
    let mut broken = Between { breaks_at: Some(14), ..Between::new(&scene) };
    pull(&scene.copy, &mut broken).expect_err("it breaks off");
    scene.origin.remove(&[1]);
    let report = pull(&scene.copy, &mut scene.local()).expect("a pull");
    assert!(report.pulled.len() == 1 && report.pulled[0].reused_bytes > 0, "{report:?}");
    scene.copied().assert_tidy("afterwards");
}

/// A file of that name that backy did not make is neither used nor deleted: the pull ends with an error.
#[test]
fn a_file_of_somebody_else_is_in_the_way() {
    let mut scene = Scene::new(false, &states(14, &[50_000]));
    for _ in 0..2 {
        let copy = scene.copy.fork();
        let file = copy.create(FileName::Spool).expect("a file");
        file.write_at(b"mine", 0).expect("written");
        let error = pull(&copy, &mut scene.local()).expect_err("in the way").to_string();
        assert!(error.contains("pull.spool") && error.contains("move it away"), "{error}");
        assert_eq!(copy.files()[&FileName::Spool], b"mine");
        check(&scene, &copy, "in the way");
        scene.pull().expect("a pull");
        scene.origin.backup(&states(15, &[50_000])[0]);
    }
}

/// Other operations leave what has arrived alone; maintenance deletes it when it is a month old.
#[test]
fn what_arrived_stays_for_a_month() {
    use backy_lib::clock::FixedClock;
    use backy_lib::progress::Silent;
    use backy_lib::{Clock, MaintenanceOptions};
    let mut scene = Scene::new(false, &states(16, &[90_000]));
    scene.pull().expect("a pull");
    scene.origin.backup(&states(17, &[90_000])[0]);
    let mut broken = Between { breaks_at: Some(14), ..Between::new(&scene) };
    pull(&scene.copy, &mut broken).expect_err("it breaks off");
    for (days, stays) in [(29, true), (31, false)] {
        let now = world::clock().now() + jiff::SignedDuration::from_hours(24 * days);
        let options = MaintenanceOptions { threads: Some(1), ..MaintenanceOptions::default() };
        let mut writer = world::writer(&scene.copy).expect("a writer");
        writer.maintain(&options, &FixedClock(now), &Silent).expect("maintenance");
        assert_eq!(has_spool(&scene.copy), stays, "{days}");
    }
    pull(&scene.copy, &mut scene.local()).expect("a pull");
    scene.copied().assert_tidy("afterwards");
}

/// Without space for what is kept for the next attempt, a pull goes on without it.
#[test]
fn without_space_nothing_is_kept() {
    let mut scene = Scene::new(false, &states(18, &[60_000]));
    scene.pull().expect("a pull");
    scene.origin.backup(&states(19, &[60_000])[0]);
    let trial = scene.copy.fork();
    pull_with(&trial, &mut scene.local(), &in_place()).expect("a pull");
    let mut outcomes = [0, 0];
    for at in 1..=trial.calls() {
        let copy = scene.copy.fork();
        copy.set_fault(at, Fault::Once(Failure::NoSpace), at);
        match pull_with(&copy, &mut scene.local(), &in_place()) {
            Ok(_) => outcomes[0] += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "call {at}: {error}");
                outcomes[1] += 1;
            }
        }
        check(&scene, &copy, &format!("call {at}"));
        pull(&copy, &mut scene.local()).expect("a pull");
        World { disk: copy, expected: scene.origin.expected.clone() }.assert_tidy(at);
    }
    assert!(outcomes[0] > 10 && outcomes[1] > 0, "{outcomes:?}");
}
