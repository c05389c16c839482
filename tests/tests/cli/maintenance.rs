//! `backy maintenance`

use serde_json::{Value, json};

use super::harness::Scene;

/// The tags of the revisions, newest first.
fn tags(scene: &Scene) -> Vec<Value> {
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    let revisions = status["revisions"].as_array().unwrap();
    revisions.iter().map(|revision| revision["tags"].clone()).collect()
}

/// Sets a schedule that keeps only the two newest with the tag, without an interval to wait for.
fn keep_two(scene: &Scene) {
    let config = scene.read_text("a/backy.toml");
    let end = config.find("[schedule.").unwrap();
    let config = format!("{}[schedule.often]\ninterval = \"1s\"\nkeep = 2\n", &config[..end]);
    scene.write("a/backy.toml", config.as_bytes());
}

/// The plan has a row for each revision with its reason, then the steps and the space. It changes nothing.
#[test]
fn dry_run_prints_what_and_why_and_changes_nothing() {
    let (scene, _) = Scene::with_revisions(4);
    let before = scene.listing();
    let run = scene.works(&["-b", "a", "maintenance", "-n", "-k", "2"]);
    let lines: Vec<&str> = run.text().lines().collect();
    let json =
        scene.works(&["-b", "a", "maintenance", "--dry-run", "--keep", "2", "--json"]).json();
    for (number, reason) in
        ["the newest", "one of the 2 newest", "not one of the 2 newest", "not one of the 2 newest"]
            .into_iter()
            .enumerate()
    {
        let verdict = &json["verdicts"][number];
        assert_eq!((&verdict["number"], &verdict["keep"]), (&json!(number), &json!(number < 2)));
        let line = lines[1 + number];
        assert!(line.starts_with(&number.to_string()), "{line}");
        assert!(
            line.contains(&verdict["uuid"].as_str().unwrap()[..8]) && line.len() <= 80,
            "{line}"
        );
        assert!(line.contains(if number < 2 { " keep " } else { " delete " }), "{line}");
        let said = verdict["reason"].as_str().unwrap();
        assert!(said.starts_with(reason) && line.ends_with(said), "{line}");
    }
    assert_eq!(lines[6], "1. Delete revisions 2, 3: no other revision needs them.");
    assert!(lines[7].starts_with("This frees about "), "{}", lines[7]);
    assert_eq!(json["steps"][0]["step"], "remove");
    assert!(json["frees_bytes"].as_i64().unwrap() > 100_000, "{json}");
    let run = scene.works(&["-b", "a", "maintenance", "-n"]);
    assert!(run.text().ends_with("Nothing to do.\n"), "{}", run.text());
    assert_eq!(scene.listing(), before);
}

/// A successful run prints nothing on a pipe, and one line with -v. What stays is restored right.
#[test]
fn keeping_a_number() {
    let (scene, states) = Scene::with_revisions(5);
    let run = scene.works(&["-b", "a", "maintenance", "-k", "3"]);
    assert_eq!((run.text(), run.stderr.as_str()), ("", ""));
    scene.holds(&states[..3]);
    let run = scene.works(&["-v", "-b", "a", "maintenance", "-k", "2"]);
    assert_eq!((run.text(), run.stderr.lines().count()), ("", 1), "{}", run.stderr);
    assert!(run.stderr.contains("deleted 1 revision in "), "{}", run.stderr);
    assert!(run.stderr.contains(" freed; 2 left"), "{}", run.stderr);
    scene.holds(&states[..2]);
    let run = scene.works(&["-v", "-b", "a", "maintenance", "-k", "2"]);
    assert_eq!(run.stderr, "backy: nothing to delete (2 revisions)\n");
    let report = scene.works(&["-b", "a", "maintenance", "-k", "0", "--json"]).json();
    assert!(report["freed_bytes"].as_i64().unwrap() > 0, "{report}");
    scene.holds(&states[..1]);
}

/// The schedule of backy.toml decides: a tag expires, its revision is deleted, and a pinned one stays with what it
/// reads.
#[test]
fn the_schedule_decides() {
    let scene = Scene::with_archive();
    keep_two(&scene);
    let mut states = Vec::new();
    for number in 0..5 {
        states.insert(0, scene.change_source(number));
        scene.works(&["-b", "a", "backup"]);
        // The tag is due again after its interval, and counts apart.
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    scene.works(&["-b", "a", "tag", "3", "+mine"]);
    let plan = scene.works(&["-b", "a", "maintenance", "-n"]);
    assert!(plan.text().contains("  keep    pinned: mine; expired: often\n"), "{}", plan.text());
    assert!(plan.text().contains("Merge revision 2 into revision 3"), "{}", plan.text());
    scene.works(&["-b", "a", "maintenance"]);
    assert_eq!(tags(&scene), [json!(["often"]), json!(["often"]), json!(["mine"])]);
    scene.holds(&[&states[0], &states[1], &states[3]]);
    // A second run has nothing to do.
    let before = scene.read("a/manifest.json");
    scene.works(&["-b", "a", "maintenance"]);
    assert_eq!(scene.read("a/manifest.json"), before);
}

/// With a config that cannot be read nothing expires.
#[test]
fn maintenance_without_a_config_deletes_nothing() {
    let (scene, _) = Scene::with_revisions(2);
    scene.write("a/backy.toml", b"keep = 1\n");
    scene.refuses(&["-b", "a", "maintenance"], &["backy.toml:1:1: ", "keep"]);
    scene.refuses(&["-b", "a", "maintenance", "-n", "-k", "1"], &["backy.toml:1:1: "]);
    scene.refuses(&["-b", "a", "maintenance", "-k", "-1"], &["'-1'", "--help"]);
}

/// It reports revisions that it made standalone, and does not count them as deleted.
#[test]
fn standalone_revisions_are_reported() {
    let (scene, _) = Scene::with_revisions(4);
    let config = format!("max_chain = 1\n{}", scene.read_text("a/backy.toml"));
    scene.write("a/backy.toml", config.as_bytes());
    let run = scene.works(&["-b", "a", "-v", "maintenance"]);
    assert!(run.stderr.starts_with("backy: made "), "{}", run.stderr);
    assert!(run.stderr.contains(" standalone in ") && run.stderr.contains("; 4 left"));
}
