//! `backy check`: the verdicts of a whole host.

use std::fs;

use super::harness::{Run, Scene};
use super::monitors::{Plugin, parse_prometheus};

/// A host with a good archive, one that is overdue, one that cannot be opened, and a folder that is none.
fn host() -> Scene {
    let (scene, _) = Scene::with_revisions(2);
    fs::create_dir(scene.path("host")).unwrap();
    copy(&scene, "host/good");
    fs::create_dir(scene.path("host/no archive")).unwrap();
    scene.write("host/notes.txt", b"");
    copy(&scene, "host/broken|\"1\"\n");
    scene.write("host/broken|\"1\"\n/manifest.json", b"{}");
    fs::remove_dir_all(scene.path("a")).unwrap();
    scene.works(&["-b", "a", "init", "source.img"]);
    scene.backup_made(40 * 3600, &[]);
    fs::rename(scene.path("a"), scene.path("host/late")).unwrap();
    scene
}

fn copy(scene: &Scene, to: &str) {
    fs::create_dir(scene.path(to)).unwrap();
    for entry in fs::read_dir(scene.path("a")).unwrap().flatten() {
        fs::copy(entry.path(), scene.path(to).join(entry.file_name())).unwrap();
    }
}

fn check(scene: &Scene, args: &[&str]) -> Run {
    let before = scene.listing();
    let args: Vec<&str> = std::iter::once("check").chain(args.iter().copied()).collect();
    let run = scene.run(&args);
    assert_eq!(scene.listing(), before, "it changed something");
    run
}

/// All archives of a folder have their verdict, worst first, however one of them looks; every form says the same.
#[test]
fn a_broken_archive_hides_no_other() {
    let scene = host();
    let run = check(&scene, &["host"]);
    assert_eq!((run.status, run.stderr.as_str()), (Some(2), ""));
    let lines: Vec<&str> = run.text().lines().collect();
    assert!(lines[0].starts_with("verdict") && lines[0].contains("archive"), "{}", run.text());
    for (line, word, name) in
        [(1, "CRITICAL", "/late"), (2, "UNKNOWN", "broken|\"1\"\\n"), (3, "OK", "/good")]
    {
        assert!(lines[line].starts_with(word) && lines[line].contains(name), "{}", run.text());
    }
    assert!(lines[5].contains("/late: CRITICAL: the last backup is overdue"), "{}", run.text());
    assert!(lines[6].contains("UNKNOWN: ") && lines[6].contains("; "), "{}", run.text());
    assert_eq!(lines.len(), 7, "{}", run.text());

    let json = check(&scene, &["host", "--json"]).json();
    let levels: Vec<&str> = json["archives"]
        .as_array()
        .unwrap()
        .iter()
        .map(|archive| archive["health"]["level"].as_str().unwrap())
        .collect();
    assert_eq!((levels, &json["level"]), (vec!["critical", "unknown", "ok"], &"critical".into()));
    assert!(json["archives"][1]["status"].is_null());
    assert_eq!(json["archives"][1]["health"]["problems"][0]["kind"], "unreadable");
    assert_eq!(json["file_systems"][0]["archives"], 2);

    let run = check(&scene, &["host", "--nagios"]);
    assert_eq!(run.status, Some(2));
    let line = Plugin::parse(run.text());
    assert_eq!(line.word, "CRITICAL");
    assert!(line.text.starts_with("3 archives: 1 ok, 1 unknown, 1 critical; "), "{}", line.text);
    let value = |figure: &str| line.figures[figure].value;
    assert_eq!(
        ["archives", "ok", "warning", "critical", "unknown"].map(value),
        [3., 1., 0., 1., 1.]
    );

    let metrics = parse_prometheus(check(&scene, &["host", "--prometheus"]).text());
    let status: Vec<(String, f64)> = metrics["backy_status"]
        .iter()
        .map(|(labels, value)| (labels["archive"].clone(), *value))
        .collect();
    let broken = scene.text_path("host/broken|\"1\"\n");
    assert_eq!(status[1], (broken, 3.0));
    assert_eq!((status[0].1, status[2].1), (2.0, 0.0));
    assert_eq!(metrics["backy_revisions"].len(), 2);
}

/// Archives, folders of archives and patterns may be given, each archive counts once; what is not there is unknown.
#[test]
fn what_is_given_is_found() {
    let scene = host();
    let archives = |args: &[&str]| {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let run = check(&scene, &args);
        let json = run.json();
        let names: Vec<String> = json["archives"]
            .as_array()
            .unwrap()
            .iter()
            .map(|archive| {
                archive["archive"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
            })
            .collect();
        (run.status, names)
    };
    let expect = |status: i32, names: &[&str]| {
        (Some(status), names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(archives(&["host/good"]), expect(0, &["good"]));
    assert_eq!(archives(&["host/good", "host/../host/good", "host/g*"]), expect(0, &["good"]));
    assert_eq!(archives(&["host/[gl]*"]), expect(2, &["late", "good"]));
    assert_eq!(archives(&["host/good", "nowhere"]), expect(3, &["nowhere", "good"]));
    assert_eq!(archives(&["host/good", "x*"]), expect(3, &["x*", "good"]));
    assert_eq!(archives(&["host/no archive"]), expect(3, &["no archive"]));
    let run = check(&scene, &["[", "--nagios"]);
    assert_eq!(run.status, Some(3));
    let run = check(&scene, &[]);
    assert_eq!(run.status, Some(3));
    assert!(Plugin::parse(run.text()).text.contains("DIR"), "{}", run.text());
}

/// Two hundred archives are all in one line.
#[test]
fn many_archives_are_one_line() {
    let (scene, _) = Scene::with_revisions(2);
    fs::create_dir(scene.path("many")).unwrap();
    for number in 0..200 {
        let to = format!("many/{number}");
        fs::create_dir(scene.path(&to)).unwrap();
        for entry in fs::read_dir(scene.path("a")).unwrap().flatten() {
            let (from, to) = (entry.path(), scene.path(&to).join(entry.file_name()));
            // The image is not read; a link saves 300 MB.
            match entry.file_name() == "last.raw" {
                true => fs::hard_link(from, to).unwrap(),
                false => drop(fs::copy(from, to).unwrap()),
            }
        }
    }
    let run = scene.run(&["check", "many", "--nagios"]);
    assert_eq!(run.status, Some(0), "{run:?}");
    assert_eq!(Plugin::parse(run.text()).figures["ok"].value, 200.0);
}
