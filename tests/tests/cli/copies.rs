//! A copy of another archive: `[origin]` of `backy.toml`, what `status` and `check` report of it, and `backy run`.

use std::fs;

use serde_json::Value;

use super::harness::{Run, Scene};

/// The archive `a` with revisions, and beside it the copy `c`, which has not been pulled.
fn scene() -> (Scene, Vec<Vec<u8>>) {
    let (scene, states) = Scene::with_revisions(2);
    let created = scene.works(&["-b", "c", "init", "--origin", "a"]);
    assert!(created.text().contains("A copy of "), "{created:?}");
    assert!(created.text().contains("-v pull\n"), "{created:?}");
    (scene, states)
}

fn status(scene: &Scene) -> Value {
    scene.works(&["-b", "c", "status", "--json"]).json()
}

/// The kinds of its problems, and the exit status of the check.
fn verdict(scene: &Scene) -> (Vec<String>, Option<i32>) {
    let status = status(scene);
    let problems = status["health"]["problems"].as_array().expect("problems");
    let kinds = problems.iter().map(|one| one["kind"].as_str().expect("a kind").to_owned());
    (kinds.collect(), scene.run(&["-b", "c", "status", "--check"]).status)
}

/// Replaces the times of all lines of the history by those so many days ago.
fn age_history(scene: &Scene, days: i64) {
    let text = scene.read_text("c/history.jsonl");
    let lines = text.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).expect("a line of the history");
        for key in ["started", "finished"] {
            let time: jiff::Timestamp =
                line[key].as_str().expect("a time").parse().expect("a time");
            let before = time - jiff::SignedDuration::from_hours(24 * days);
            line[key] = before.to_string().into();
        }
        line.to_string() + "\n"
    });
    fs::write(scene.path("c/history.jsonl"), lines.collect::<String>()).unwrap();
}

/// `init --origin` makes a copy, which has no source: `backup` refuses it and names the command to use, `config` shows
/// the origin, and `pull` without arguments takes its revisions.
#[test]
fn a_copy_pulls_from_its_configured_origin() {
    let (scene, states) = scene();
    let origin = scene.text_path("a");
    let config = scene.works(&["-b", "c", "config"]);
    let url = format!("[origin]\nurl = {origin:?}");
    assert!(config.text().contains(&url), "{}", config.text());
    for args in [&["backup"][..], &["backup", "--force"], &["backup", "--dry-run"]] {
        let words = [&format!("is a copy of {origin}")[..], "use 'backy pull'"];
        scene.refuses(&[&["-b", "c"], args].concat(), &words);
    }
    scene.works(&["-b", "c", "pull"]);
    for (number, state) in states.iter().enumerate() {
        let number = number.to_string();
        assert!(scene.works(&["-b", "c", "restore", "-r", &number, "-"]).stdout == *state);
    }
    let text = scene.works(&["-b", "c", "status"]);
    assert!(text.text().contains(&format!("copy of {origin}")), "{text:?}");
    assert!(text.text().contains("Last pull: ") && text.text().contains("the next is due at"));
    scene.refuses(&["-b", "a", "pull"], &["no origin is configured", "[origin]"]);
    // A copy that a pull makes knows its origin as well.
    scene.works(&["-b", "d", "pull", "a"]);
    assert!(scene.read_text("d/backy.toml").contains(&format!("url = {origin:?}")));
    scene.works(&["-b", "d", "pull"]);
    for (args, word) in [
        (&["source.img", "--origin", "a"][..], "cannot be used with"),
        (&["--origin", ""], "absolute path"),
        (&["--origin", "host:/srv/a"], "ssh://HOST/PATH"),
    ] {
        scene.refuses(&[&["-b", "e", "init"], args].concat(), &[word]);
    }
}

/// Never pulled is as never backed up, a pull that is overdue as a backup that is, a failed one as a failed backup.
#[test]
fn a_copy_is_judged_by_its_pulls() {
    let (scene, _) = scene();
    assert_eq!(verdict(&scene), (vec!["no-backup".to_owned()], Some(1)));
    assert_eq!(status(&scene)["origin"]["last_pull"], Value::Null);
    scene.works(&["-b", "c", "pull"]);
    assert_eq!(verdict(&scene), (vec![], Some(0)));
    let origin = status(&scene)["origin"].clone();
    assert_eq!((&origin["url"], &origin["level"]), (&scene.text_path("a").into(), &"ok".into()));
    assert_eq!((&origin["interval_seconds"], &origin["left_out"]), (&86400.into(), &0.into()));
    assert!(origin["behind_seconds"].as_i64() < Some(600), "{origin}");
    for figures in ["backy_last_pull_timestamp_seconds{archive=", "backy_pull_interval_seconds{"] {
        assert!(scene.works(&["-b", "c", "status", "--prometheus"]).text().contains(figures));
    }
    let line = scene.run(&["-b", "c", "status", "--check"]);
    assert!(line.text().contains("pulled ") && line.text().contains(" 'pulled'="), "{line:?}");
    age_history(&scene, 1);
    assert_eq!(verdict(&scene), (vec![], Some(0)));
    age_history(&scene, 1);
    assert_eq!(verdict(&scene), (vec!["overdue".to_owned()], Some(2)));
    let line = scene.run(&["-b", "c", "status", "--check"]);
    assert!(line.text().contains("the last pull is overdue: it began 2 days ago"), "{line:?}");
    // The origin cannot be reached: that is recorded, and reported until a pull succeeds.
    fs::rename(scene.path("a"), scene.path("away")).unwrap();
    scene.fails(&["-b", "c", "pull"], &["no archive here"]);
    let (kinds, _) = verdict(&scene);
    assert_eq!(kinds, ["overdue", "failed"]);
    let advice = status(&scene)["health"]["problems"][1]["advice"].clone();
    assert_eq!(advice, "correct that, then run 'backy pull'");
    fs::rename(scene.path("away"), scene.path("a")).unwrap();
    scene.works(&["-b", "c", "pull"]);
    assert_eq!(verdict(&scene), (vec![], Some(0)));
    scene.works(&["report", "c", "-o", "page.html"]);
    assert!(scene.read_text("page.html").contains("copy of "));
}

/// The jobs of a plan, each with its operation and its reason.
fn plan(scene: &Scene, args: &[&str]) -> Vec<(String, String)> {
    let plan: Run = scene.works(&[&["run", "--dry-run", "--json"], args].concat());
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let jobs = plan.json()["jobs"].as_array().expect("jobs").clone();
    jobs.iter().map(|job| (text(&job["operation"]), text(&job["why"]))).collect()
}

/// `backy run` pulls a copy when that is due, and only then.
#[test]
fn a_run_pulls_copies_that_are_due() {
    let (scene, states) = scene();
    let job = |operation: &str, why: &str| (operation.to_owned(), why.to_owned());
    assert_eq!(plan(&scene, &["c"]), [job("pull", "nothing has been pulled yet")]);
    let report = scene.works(&["run", "--json", "c"]).json();
    assert_eq!(report["jobs"][0]["operation"], "pull");
    assert_eq!(report["jobs"][0]["result"], "ok");
    let newest = status(&scene)["newest"]["uuid"].clone();
    assert_eq!(report["jobs"][0]["revision"], newest);
    assert!(report["jobs"][0]["read_bytes"].as_u64() > Some(states[0].len() as u64 / 2));
    assert_eq!(plan(&scene, &["c"]), []);
    let idle = scene.works(&["run", "--dry-run", "--json", "c"]).json()["idle"][0].clone();
    assert_eq!(idle["why"], "no pull is due");
    assert!(idle["next_due"].is_string(), "{idle}");
    // A run that comes second finds nothing to do.
    let second = scene.works(&["-b", "c", "pull", "--when-due", "--json"]);
    assert_eq!(second.json(), Value::Null);
    age_history(&scene, 1);
    assert_eq!(plan(&scene, &["c"]), [job("pull", "a pull is due")]);
    let quiet = scene.works(&["run", "c"]);
    assert_eq!((quiet.text(), quiet.stderr.as_str()), ("", ""));
    assert_eq!(plan(&scene, &["c"]), []);
}

/// `fleet.toml` declares copies: a run makes and pulls them, and a check is critical for one of something else.
#[test]
fn a_declared_copy_is_made_and_pulled() {
    let (scene, _) = Scene::with_revisions(1);
    let (copy, origin) = (scene.text_path("c"), scene.text_path("a"));
    let fleet = format!("[[archive]]\npath = {copy:?}\norigin = {origin:?}\n");
    scene.write("fleet.toml", fleet.as_bytes());
    scene.works(&["run", "--fleet", "fleet.toml"]);
    assert_eq!(verdict(&scene), (vec![], Some(0)));
    scene.works(&["check", "--fleet", "fleet.toml"]);
    let other = scene.text_path("b");
    let config = scene.read_text("c/backy.toml").replace(&origin, &other);
    scene.write("c/backy.toml", config.as_bytes());
    let check = scene.run(&["check", "--fleet", "fleet.toml"]);
    assert_eq!(check.status, Some(2));
    let words = format!("is a copy of {other}; fleet.toml declares the origin {origin}");
    assert!(check.text().contains(&words), "{check:?}");
}
