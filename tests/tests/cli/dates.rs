//! Dates from a wrong clock, and a source that has lost its end: neither hides anything.

use std::fs;

use super::harness::{Scene, noise};
use super::verdict::ago;

const HOUR: i64 = 3600;

/// The clock is set back a little over midnight of a long weekend: nothing is overdue because of that.
#[test]
fn a_clock_set_back_a_little_is_no_problem() {
    let scene = Scene::with_archive();
    scene.backup_made(60 * HOUR, &[]);
    scene.backup_made(-90, &[]);
    assert_eq!(scene.problems(), []);
    let scene = Scene::with_archive();
    scene.backup_made(60 * HOUR, &[]);
    scene.backup_made(-400, &[]);
    let problems = scene.problems();
    assert!(problems.contains(&("overdue".to_owned(), "critical".to_owned())), "{problems:?}");
    assert!(problems.contains(&("clock".to_owned(), "warning".to_owned())), "{problems:?}");
}

/// What a clock that was years ahead has confirmed, verified and proved counts as never, and is named.
#[test]
fn events_in_the_future_count_as_never() {
    let (scene, _) = Scene::with_revisions(2);
    scene.write("source.img", &vec![0; 1_500_003]);
    scene.works(&["-b", "a", "backup", "--force"]);
    for args in [&["scrub"][..], &["drill"], &["maintenance", "--confirm"]] {
        scene.works(&[&["-b", "a"], args].concat());
    }
    assert_eq!(scene.problems(), []);
    scene.monitor("drill_within = \"1d\"\nscrub_within = \"1s\"");
    let later = ago(-1000 * 24 * HOUR);
    scene.edit_manifest(|manifest| {
        for range in manifest.revisions.iter_mut().flat_map(|revision| &mut revision.verified) {
            range.at = later;
        }
        manifest.drill.as_mut().unwrap().started = later;
        manifest.alarms.iter_mut().for_each(|alarm| alarm.confirmed = Some(later));
        // Old enough for both limits.
        for revision in &mut manifest.revisions {
            revision.finished = ago(30 * 24 * HOUR);
        }
    });
    let run = scene.run(&["-b", "a", "status"]);
    for named in ["a scrub (", "the last drill (", "a confirmation ("] {
        assert!(run.text().contains(named), "{named}: {}", run.text());
    }
    let kinds: Vec<String> = scene.problems().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["clock", "drill", "scrub", "unusual-change"]);
    // The plan and the run take it into account as well, and confirming again suffices.
    let plan = scene.works(&["-b", "a", "maintenance", "-n", "-k", "1", "--json"]).json();
    assert_eq!(plan["frozen"][0]["kind"], "unusual-change", "{plan}");
    let run = scene.works(&["-b", "a", "maintenance", "-k", "1"]);
    assert!(run.stderr.contains("nothing expires"), "{}", run.stderr);
    for args in [&["maintenance", "--confirm"][..], &["scrub"], &["drill"]] {
        scene.works(&[&["-b", "a"], args].concat());
    }
    let kinds: Vec<String> = scene.problems().into_iter().map(|(kind, _)| kind).collect();
    assert!(!kinds.iter().any(|kind| kind == "clock" || kind == "unusual-change"), "{kinds:?}");
}

/// A source that has become shorter is an alarm, whatever the missing part held.
#[test]
fn a_source_that_shrank_is_an_alarm() {
    let scene = Scene::new();
    let sparse = fs::File::create(scene.path("source.img")).unwrap();
    sparse.set_len(4 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(1, 300_000), 0).unwrap();
    scene.works(&["-b", "a", "init", "source.img"]);
    scene.works(&["-b", "a", "backup"]);
    sparse.set_len((4 << 20) - 100_000).unwrap();
    let run = scene.works(&["-b", "a", "backup", "--force"]);
    assert_eq!((run.stderr.as_str(), scene.problems()), ("", Vec::new()));
    sparse.set_len(2 << 20).unwrap();
    let run = scene.works(&["-b", "a", "backup", "--force"]);
    assert!(run.stderr.contains("shorter than the previous revision: 2.0 MiB instead of 3.9 MiB"));
    scene.has("unusual-change", "warning");
    let json = scene.works(&["-b", "a", "status", "--json"]).json();
    assert_eq!(json["alarms"][0]["shrunk_from_bytes"], (4 << 20) - 100_000);
    scene.works(&["-b", "a", "maintenance", "--confirm"]);
    assert_eq!(scene.problems(), []);
}
