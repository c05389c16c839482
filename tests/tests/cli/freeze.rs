//! An alarm, or damage, prevents expiry until somebody confirms it. Deleting by hand still works.

use backy_lib::{Archive, Manifest};

use super::harness::{SOURCE_BYTES, Scene, noise};

/// An archive with seven usual backups and, as the newest, one in which everything had changed.
fn with_alarm() -> Scene {
    let (scene, _) = Scene::with_revisions(7);
    assert_eq!(unusual_backup(&scene, 100), 0);
    scene
}

/// Backs up a source that is all new. Returns how many warnings are missing.
fn unusual_backup(scene: &Scene, seed: u64) -> usize {
    scene.write("source.img", &noise(seed, SOURCE_BYTES));
    let run = scene.works(&["-b", "a", "backup", "--force"]);
    let told = run.stderr.contains("revision 0 is unusual: 100 % changed (1.4 MiB)")
        && run.stderr.contains("maintenance --confirm");
    usize::from(!told)
}

fn count(scene: &Scene) -> usize {
    Archive::open(&scene.path("a")).expect("the archive").revisions().len()
}

fn kinds(scene: &Scene) -> Vec<String> {
    scene.problems().into_iter().map(|(kind, _)| kind).collect()
}

/// Nothing expires, each run says so, and the plan lists what would expire. Confirming allows it, and the next alarm
/// prevents it again.
#[test]
fn an_unusual_backup_freezes_expiry_until_it_is_confirmed() {
    let scene = with_alarm();
    assert_eq!(kinds(&scene), ["unusual-change"]);
    let before = scene.state();
    let run = scene.works(&["-b", "a", "maintenance", "-k", "3"]);
    assert!(run.stderr.starts_with("backy: warning: nothing expires: revision 0 is unusual"));
    assert_eq!(run.stderr.matches('\n').count(), 1, "{}", run.stderr);
    assert_eq!(scene.state(), before);
    let plan = scene.works(&["-b", "a", "maintenance", "-n", "-k", "3", "--json"]).json();
    assert_eq!(plan["frozen"][0]["kind"], "unusual-change");
    assert_eq!(plan["steps"].as_array().map(Vec::len), Some(0));
    let reasons: Vec<&str> = plan["verdicts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|verdict| {
            assert_eq!(verdict["keep"], true);
            verdict["reason"].as_str().unwrap()
        })
        .collect();
    assert_eq!(reasons[2], "one of the 3 newest");
    assert_eq!(reasons[4], "frozen; it would expire: not one of the 3 newest");
    // The next usual backup does not end it.
    scene.change_source(3);
    scene.works(&["-b", "a", "backup", "--force"]);
    assert_eq!(kinds(&scene), ["unusual-change"]);
    let plan =
        scene.works(&["-b", "a", "maintenance", "-n", "-k", "8", "--confirm", "--json"]).json();
    assert_eq!(plan["frozen"].as_array().map(Vec::len), Some(0));
    assert_eq!(kinds(&scene), ["unusual-change"], "a dry run confirms nothing");
    let run = scene.works(&["-b", "a", "maintenance", "-k", "8", "--confirm", "--json"]);
    assert_eq!(run.stderr, "");
    assert_eq!(run.json()["confirmed"][0]["kind"], "unusual-change");
    assert_eq!((count(&scene), kinds(&scene)), (8, Vec::new()));
    assert_eq!(unusual_backup(&scene, 200), 0);
    scene.works(&["-b", "a", "maintenance", "-k", "3"]);
    assert_eq!((count(&scene), kinds(&scene)), (9, vec!["unusual-change".to_owned()]));
}

/// `rm` deletes the named revisions, including the one that the alarm is about, and the alarm with it.
#[test]
fn rm_deletes_revisions_while_expiry_is_frozen() {
    let scene = with_alarm();
    scene.works(&["-b", "a", "rm", "5..6"]);
    assert_eq!((count(&scene), kinds(&scene)), (6, vec!["unusual-change".to_owned()]));
    scene.works(&["-b", "a", "rm", "0"]);
    assert_eq!((count(&scene), kinds(&scene)), (5, Vec::new()));
    let manifest = Manifest::parse(&scene.read("a/manifest.json")).unwrap();
    assert_eq!(manifest.alarms, []);
}

/// Damage freezes expiry until it is confirmed. More damage freezes it again.
#[test]
fn damage_freezes_expiry_until_it_is_confirmed() {
    let (scene, _) = Scene::with_revisions(4);
    let rot = |at: usize| {
        let mut image = scene.read("a/last.raw");
        image[at] ^= 1;
        scene.write("a/last.raw", &image);
        scene.run(&["-b", "a", "scrub"]);
    };
    rot(1_400_000);
    let run = scene.works(&["-b", "a", "maintenance", "-k", "3"]);
    assert!(run.stderr.contains("nothing expires: revision 0 has 1 damaged block (and 3 more)"));
    assert_eq!(count(&scene), 4);
    scene.works(&["-b", "a", "maintenance", "-k", "3", "--confirm"]);
    assert_eq!((count(&scene), kinds(&scene)), (3, vec!["damage".to_owned()]));
    scene.works(&["-b", "a", "maintenance", "-k", "2"]);
    assert_eq!(count(&scene), 2);
    rot(1_200_000);
    scene.works(&["-b", "a", "maintenance", "-k", "1"]);
    assert_eq!(count(&scene), 2);
}

/// With the freeze turned off there is only the alarm.
#[test]
fn freezing_can_be_switched_off() {
    let scene = with_alarm();
    scene.monitor("freeze = false");
    assert_eq!(kinds(&scene), ["unusual-change"]);
    let run = scene.works(&["-b", "a", "maintenance", "-k", "3"]);
    assert_eq!((run.stderr.as_str(), count(&scene)), ("", 3));
}
