//! `backy backup`

use serde_json::Value;

use super::harness::Scene;

/// A backup that worked prints nothing on a pipe, nor does one that is not due; both exit with 0.
#[test]
fn successful_backup_prints_nothing() {
    let scene = Scene::with_archive();
    for revisions in [1, 1] {
        let run = scene.works(&["-b", "a", "backup"]);
        assert_eq!((run.text(), run.stderr.as_str()), ("", ""));
        let status = scene.works(&["-b", "a", "status", "--json"]).json();
        assert_eq!(status["revisions"].as_array().unwrap().len(), revisions);
    }
}

/// With -v it prints in one line what it made, or when the next one is due.
#[test]
fn verbose_prints_one_line() {
    let scene = Scene::with_archive();
    let made = scene.works(&["-v", "-b", "a", "backup"]);
    assert_eq!(made.text(), "");
    assert_eq!(made.stderr.lines().count(), 1, "{}", made.stderr);
    for word in ["backy: made revision", "daily, monthly, weekly", "1.4 MiB"] {
        assert!(made.stderr.contains(word), "{word}: {}", made.stderr);
    }
    let not_due = scene.works(&["-v", "-b", "a", "backup"]);
    assert_eq!(not_due.stderr.lines().count(), 1, "{}", not_due.stderr);
    assert!(not_due.stderr.contains("next is daily at 20"), "{}", not_due.stderr);
}

/// --force and --tag make a revision whatever the schedule says, with these tags.
#[test]
fn force_and_tags() {
    let scene = Scene::with_archive();
    scene.works(&["-b", "a", "backup"]);
    scene.works(&["-b", "a", "backup", "-f"]);
    scene.works(&["-b", "a", "backup", "-t", "before-upgrade", "--tag", "manual"]);
    let revisions = scene.works(&["-b", "a", "status", "--json"]).json()["revisions"].clone();
    assert_eq!(revisions[0]["tags"], serde_json::json!(["before-upgrade", "manual"]));
    assert_eq!(revisions[0]["pinned_tags"], revisions[0]["tags"]);
    assert_eq!(revisions[1]["tags"], serde_json::json!([]));
    assert_eq!(revisions[2]["tags"], serde_json::json!(["daily", "monthly", "weekly"]));
    scene.refuses(&["-b", "a", "backup", "--tag", "a b"], &["'a b'", "--tag", "--help"]);
}

/// Without a schedule a backup is always due.
#[test]
fn backup_without_a_schedule_is_always_due() {
    let scene = Scene::with_archive();
    let config = scene.read_text("a/backy.toml");
    let end = config.find("[schedule.").unwrap();
    scene.write("a/backy.toml", &config.as_bytes()[..end]);
    for count in 1..=2 {
        scene.works(&["-b", "a", "backup"]);
        let status = scene.works(&["-b", "a", "status", "--json"]).json();
        assert_eq!(status["revisions"].as_array().unwrap().len(), count);
    }
}

/// --dry-run prints what a backup would do and does nothing.
#[test]
fn a_dry_run_changes_nothing() {
    let scene = Scene::with_archive();
    let before = scene.listing();
    let run = scene.works(&["-b", "a", "backup", "--dry-run"]);
    assert!(run.text().contains("daily, monthly, weekly"), "{}", run.text());
    let plan = scene.works(&["-b", "a", "backup", "--dry-run", "--json"]).json();
    assert_eq!(plan["due"], true);
    assert_eq!(scene.listing(), before);
    scene.works(&["-b", "a", "backup"]);
    let run = scene.works(&["-b", "a", "backup", "--dry-run"]);
    assert!(run.text().starts_with("No backup is due; the next is daily"), "{}", run.text());
}

/// --json is the revision that was made, or null.
#[test]
fn json_is_the_report_or_null() {
    let scene = Scene::with_archive();
    let report = scene.works(&["-b", "a", "backup", "--json"]).json();
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    assert_eq!(report["revision"]["uuid"], status["revisions"][0]["uuid"]);
    assert_eq!(scene.works(&["-b", "a", "backup", "--json"]).json(), Value::Null);
}

/// A limited rate takes its time.
#[test]
fn the_rate_is_limited() {
    let scene = Scene::with_archive();
    let started = std::time::Instant::now();
    scene.works(&["-b", "a", "backup", "--limit-rate", "1M"]);
    assert!(started.elapsed().as_millis() > 300, "{:?}", started.elapsed());
    scene.refuses(&["-b", "a", "backup", "--limit-rate", "0"], &["--limit-rate", "--help"]);
}

/// A backup reports rotten blocks even with -q. The backup itself works.
#[test]
fn rot_is_reported_even_when_quiet() {
    let (scene, _) = Scene::with_revisions(1);
    let mut image = scene.read("a/last.raw");
    image[100_000] ^= 1;
    scene.write("a/last.raw", &image);
    scene.change_source(0);
    let mut state = scene.read("source.img");
    state[65536..131_072].fill(7);
    scene.write("source.img", &state);
    let run = scene.works(&["-q", "-b", "a", "backup", "--force"]);
    assert!(run.stderr.starts_with("backy: warning: "), "{}", run.stderr);
    assert!(run.stderr.contains("last.raw: block 1 "), "{}", run.stderr);
    assert_eq!(scene.read("a/last.raw"), state);
}
