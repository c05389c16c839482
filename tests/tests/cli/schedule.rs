//! Scheduled tags on demand, waiting for the lock, concurrent backups, and a chain that keeps too much.

use std::fs::File;
use std::process::Child;
use std::time::{Duration, Instant};

use super::harness::{Run, Scene, noise};

/// Starts a backup that takes some seconds, and waits until it has begun.
fn slow_backup(scene: &Scene, args: &[&str]) -> Child {
    let all = [&["-b", "a", "backup", "--limit-rate", "700K"], args].concat();
    let child = scene.command(&all).spawn().expect("start a backup");
    scene.await_status(|status| !status["in_progress"].is_null());
    child
}

fn ended(child: Child) -> Run {
    child.wait_with_output().expect("its end").into()
}

/// Locks the archive as a shell script does, until it is dropped.
fn lock(scene: &Scene) -> File {
    let file = File::options().read(true).write(true).open(scene.path("a/lock"));
    let file = file.expect("the lock file");
    file.try_lock().expect("nobody has it");
    file
}

fn kill(mut child: Child) {
    child.kill().expect("kill it");
    child.wait().expect("its end");
}

fn count(scene: &Scene) -> usize {
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    status["revisions"].as_array().expect("revisions").len()
}

/// A backup that is due while another one runs prints nothing and exits with 0. One with --force is an error.
#[test]
fn a_due_backup_during_another_backup_prints_nothing() {
    let scene = Scene::with_archive();
    scene.write("source.img", &noise(5, 4_000_000));
    let first = slow_backup(&scene, &[]);
    let run = scene.works(&["-b", "a", "backup"]);
    assert_eq!((run.text(), run.stderr.as_str()), ("", ""));
    assert!(scene.works(&["-b", "a", "backup", "--json"]).json().is_null());
    let told = scene.works(&["-v", "-b", "a", "backup"]);
    assert!(told.stderr.contains("another backup of this archive is running"), "{told:?}");
    for wanted in [["--force", "-q"], ["--tag", "mine"], ["--as", "daily"]] {
        scene.fails(&[&["-b", "a", "backup"], &wanted[..]].concat(), &["in use by 'backup'"]);
    }
    // Waiting lasts until the end of the first, which has made the due backup.
    let waited = scene.works(&["-v", "-b", "a", "backup", "--wait", "1m"]);
    assert!(waited.stderr.contains("another backup has just finished"), "{waited:?}");
    assert_eq!(ended(first).status, Some(0));
    assert_eq!(count(&scene), 1);
}

/// Anybody else who holds the lock blocks a backup, also where a killed backup has left its note.
#[test]
fn any_other_lock_holder_is_an_error() {
    let scene = Scene::with_archive();
    scene.write("source.img", &noise(5, 4_000_000));
    kill(slow_backup(&scene, &[]));
    assert!(scene.read_text("a/lock").starts_with("'backup' (process "));
    let other = lock(&scene);
    scene.fails(&["-b", "a", "backup"], &["in use by"]);
    drop(other);
    scene.works(&["-b", "a", "backup"]);
    assert_eq!(count(&scene), 1);
}

/// Every command that changes an archive waits for its lock as long as the option says, and no longer.
#[test]
fn commands_wait_for_the_lock() {
    let (scene, _) = Scene::with_revisions(3);
    let verbs: [&[&str]; 7] = [
        &["backup", "--force"],
        &["maintenance"],
        &["scrub"],
        &["tag", "0", "+kept"],
        &["rm", "2"],
        &["drill", "-r", "0"],
        &["backup", "--as", "daily"],
    ];
    for verb in verbs {
        let (name, rest) = verb.split_first().expect("a name");
        let with = |wait: &'static str| [&["-b", "a", *name, "--wait", wait], rest].concat();
        let holder = lock(&scene);
        let began = Instant::now();
        let run = scene.run(&with("1s"));
        assert!(began.elapsed() >= Duration::from_secs(1), "{verb:?}: {run:?}");
        assert!(run.stderr.contains("in use by"), "{verb:?}: {run:?}");
        // A drill that cannot be recorded has still run.
        assert_eq!(run.status, Some(i32::from(*name != "drill")), "{verb:?}: {run:?}");
        let releasing = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(holder);
        });
        let run = scene.works(&with("1m"));
        assert!(!run.stderr.contains("in use"), "{verb:?}: {run:?}");
        releasing.join().expect("the lock is free");
    }
    scene.refuses(&["-b", "a", "backup", "--wait", "soon"], &["wait: found \"soon\""]);
}

/// `--as` makes the revision of a scheduled tag now, without pinning it. Other tags are refused.
#[test]
fn a_scheduled_tag_is_made_now() {
    let scene = Scene::with_archive();
    scene.works(&["-b", "a", "backup"]);
    scene.works(&["-b", "a", "backup", "--as", "daily", "--as", "weekly"]);
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    assert_eq!(status["revisions"][0]["tags"], serde_json::json!(["daily", "weekly"]));
    assert_eq!(status["revisions"][0]["pinned_tags"], serde_json::json!([]));
    let unknown = ["hourly", "expected one of daily, monthly, weekly"];
    scene.refuses(&["-b", "a", "backup", "--as", "hourly"], &unknown);
    scene.refuses(&["-b", "a", "backup", "--as", "daily", "--tag", "daily"], &["daily", "pinned"]);
    let plan = scene.works(&["-b", "a", "backup", "--dry-run", "--as", "daily", "--json"]).json();
    assert_eq!((plan["due"].clone(), plan["tags"].clone()), (true.into(), ["daily"].into()));
}

/// A tag of the schedule that is given by hand pins, and backy says so, also before doing it.
#[test]
fn tagging_by_hand_with_a_scheduled_tag_warns() {
    let scene = Scene::with_archive();
    for args in [&["--dry-run", "--tag", "daily"][..], &["--tag", "daily"]] {
        let run = scene.works(&[&["-b", "a", "backup"], args].concat());
        for word in ["daily is a tag of the schedule", "pinned", "'backy backup --as daily'"] {
            assert!(run.stderr.contains(word), "{args:?}: {}", run.stderr);
        }
    }
    assert_eq!(scene.works(&["-b", "a", "backup", "--tag", "mine"]).stderr, "");
}

/// The status and the plan show when the next backup is due.
#[test]
fn the_next_due_time_is_shown() {
    let scene = Scene::with_archive();
    assert!(!scene.works(&["-b", "a", "status"]).text().contains("next backup"));
    scene.works(&["-b", "a", "backup"]);
    let text = scene.works(&["-b", "a", "status"]);
    assert!(text.text().contains("The next backup is due at 20"), "{}", text.text());
    let plan = scene.works(&["-b", "a", "backup", "--dry-run", "--json"]).json();
    assert_eq!(plan["next_tag"], "daily");
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    assert_eq!(plan["next_due"], status["schedule"][0]["due_at"]);
    let shown = scene.works(&["-b", "a", "backup", "--dry-run"]);
    assert!(shown.text().starts_with("No backup is due; the next is daily at 20"), "{shown:?}");
}

/// Maintenance that keeps far more than the schedule explains why. So does the verdict, except for revisions pinned
/// with tags of one's own.
#[test]
fn maintenance_explains_why_far_more_is_kept() {
    for (tag, level, why) in [
        ("daily", 1, "8 are pinned by hand with a tag of the schedule (daily)"),
        ("mine", 0, "8 are pinned by hand (mine)"),
    ] {
        let scene = Scene::with_archive();
        let config = scene.read_text("a/backy.toml");
        let end = config.find("[schedule.").unwrap();
        let schedule = "[schedule.daily]\ninterval = \"1d\"\nkeep = 1\n";
        scene.write("a/backy.toml", format!("{}{schedule}", &config[..end]).as_bytes());
        for _ in 0..8 {
            scene.works(&["-b", "a", "backup", "--tag", tag]);
        }
        for args in [&["maintenance", "-n"][..], &["maintenance"]] {
            let run = scene.works(&[&["-b", "a"], args].concat());
            let said = format!("8 revisions stay, and the schedule keeps 1: {why}");
            assert!(run.stderr.contains(&said), "{args:?}: {}", run.stderr);
        }
        let check = scene.run(&["-b", "a", "status", "--check"]);
        assert_eq!(check.status, Some(level), "{check:?}");
        assert_eq!(check.text().contains(why), level == 1, "{check:?}");
    }
}
