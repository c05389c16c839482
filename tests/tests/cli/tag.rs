//! `backy tag`

use serde_json::json;

use super::harness::Scene;

/// + adds tags and - takes them away, also when an option stands before the command. Nothing is printed.
#[test]
fn tags_are_added_and_removed() {
    let (scene, states) = Scene::with_revisions(2);
    for (args, left) in [
        (&["-b", "a", "tag", "1", "-weekly"][..], json!(["daily", "monthly"])),
        (&["tag", "-b", "a", "1", "-monthly", "+mine"], json!(["daily", "mine"])),
        (&["tag", "--backupdir=a", "first", "+v1.2", "-daily"], json!(["mine", "v1.2"])),
        (&["-b", "a", "tag", "1", "--", "-v1.2", "-mine"], json!([])),
    ] {
        let run = scene.works(args);
        assert_eq!((run.text(), run.stderr.as_str()), ("", ""), "{args:?}");
        let status = scene.works(&["-b", "a", "status", "--json"]).json();
        assert_eq!(status["revisions"][1]["tags"], left, "{args:?}");
    }
    scene.holds(&states);
}

/// Without changes it prints the tags, one per line. Tags given by hand are pinned, and the output says so.
#[test]
fn tags_are_shown() {
    let (scene, _) = Scene::with_revisions(2);
    scene.works(&["-b", "a", "tag", "1", "+daily", "+mine", "-weekly"]);
    let before = scene.listing();
    let run = scene.works(&["-b", "a", "tag", "1"]);
    assert_eq!(run.text(), "daily (pinned)\nmine (pinned)\nmonthly\n");
    assert_eq!(scene.works(&["-b", "a", "tag", "0"]).text(), "");
    let json = scene.works(&["-b", "a", "tag", "--json", "1"]).json();
    assert_eq!(json["tags"], json!(["daily", "mine", "monthly"]));
    assert_eq!(json["pinned_tags"], json!(["daily", "mine"]));
    assert_eq!(scene.listing(), before);
    let json = scene.works(&["-b", "a", "tag", "--json", "1", "-daily"]).json();
    // The schedule had given it: it just stops being pinned.
    assert_eq!(json["tags"], json!(["daily", "mine", "monthly"]));
    let run = scene.works(&["-v", "-b", "a", "tag", "1", "+mine"]);
    assert!(run.stderr.ends_with(" has now: daily, mine (pinned), monthly\n"), "{}", run.stderr);
    let status = scene.works(&["-v", "-b", "a", "status"]);
    assert!(status.text().contains("daily, mine (pinned), monthly\n"), "{}", status.text());
}

/// A tag that the schedule had given belongs to the schedule again when it is unpinned, also after a backup. One that
/// was only pinned is gone at once.
#[test]
fn an_unpinned_tag_is_what_it_was_before() {
    let (scene, _) = Scene::with_revisions(2);
    let tags = || scene.works(&["-b", "a", "tag", "first"]).text().to_owned();
    let before = tags();
    assert_eq!(before, "daily\nmonthly\nweekly\n");
    scene.works(&["-b", "a", "tag", "first", "+weekly", "+mine"]);
    assert_eq!(tags(), "daily\nmine (pinned)\nmonthly\nweekly (pinned)\n");
    scene.works(&["-b", "a", "backup", "--force"]);
    scene.works(&["-b", "a", "tag", "first", "-weekly", "-mine"]);
    assert_eq!(tags(), before);
    scene.works(&["-b", "a", "tag", "first", "-weekly"]);
    assert_eq!(tags(), "daily\nmonthly\n");
}

/// A schedule of more tags than a revision can hold is a mistake of the config, and the error says where. A dry run
/// says so as the run does. The same holds for tags given by hand, and for names that mean ranges.
#[test]
fn a_dry_run_refuses_the_tags_that_the_run_refuses() {
    let (scene, _) = Scene::with_revisions(1);
    let config = scene.read_text("a/backy.toml");
    let source = config.lines().find(|line| line.starts_with("source = ")).unwrap().to_owned();
    let schedule: String =
        (1..=25).map(|n| format!("[schedule.t{n}]\ninterval = \"{n}d\"\nkeep = 2\n")).collect();
    scene.write("a/backy.toml", format!("{source}\n{schedule}").as_bytes());
    for args in [&["-b", "a", "backup", "--dry-run"][..], &["-b", "a", "backup"]] {
        scene.refuses(args, &["backy.toml", ":74:", "25 tags", "at most 24"]);
    }
    scene.write("a/backy.toml", config.as_bytes());
    let names: Vec<String> = (0..25).map(|n| format!("t{n}")).collect();
    let many: Vec<&str> = names.iter().flat_map(|name| ["-t", name]).collect();
    for tags in [&many[..], &["-t", "a..b"]] {
        for start in [&["-b", "a", "backup", "--dry-run"][..], &["-b", "a", "backup"]] {
            scene.refuses(
                &[start, tags].concat(),
                &[if tags.len() > 2 { "25 tags" } else { "'a..b'" }],
            );
        }
    }
    scene.refuses(&["-b", "a", "tag", "0", "+a..b"], &["'a..b'", "range"]);
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    assert_eq!(status["revision_count"], 1);
}

/// Impossible arguments are refused with what exists, or what to write.
#[test]
fn refusals() {
    let (scene, _) = Scene::with_revisions(2);
    let tag = |args: &[&'static str]| [&["-b", "a", "tag"][..], args].concat();
    scene.refuses(&tag(&["1", "-yearly"]), &["'yearly'", "it has daily, monthly, weekly"]);
    scene.refuses(&tag(&["0", "-daily"]), &["revision 0 (", "'daily'", "it has none"]);
    scene.refuses(&tag(&["1", "-daily", "-yearly"]), &["'yearly'"]);
    scene.refuses(&tag(&["1", "weekly"]), &["+weekly", "-weekly", "backy tag --help"]);
    scene.refuses(&tag(&["1", "+a", "weekly"]), &["+weekly", "-weekly"]);
    scene.refuses(&tag(&["1", "+a", "--json"]), &["'--json'", "before the revision"]);
    scene.refuses(&tag(&["1", "+a", "-a"]), &["'a'", "at once", "omit one"]);
    scene.refuses(&tag(&["1", "+a/b"]), &["'a/b'", "letters"]);
    scene.refuses(&tag(&["7", "+a"]), &["no revision 7"]);
    scene.refuses(&tag(&[]), &["REV", "backy tag --help"]);
    let many: Vec<String> = (0..70).map(|number| format!("+t{number}")).collect();
    let args: Vec<&str> =
        ["-b", "a", "tag", "1"].into_iter().chain(many.iter().map(String::as_str)).collect();
    scene.refuses(&args, &["found 73 tags"]);
}
