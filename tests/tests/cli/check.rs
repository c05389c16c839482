//! `backy check`: the verdicts of a whole host.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::harness::{Run, Scene, is_root};
use super::monitors::{Plugin, parse_prometheus};

/// A host with a good archive, one that is overdue, one that cannot be opened, and a folder that is no archive.
fn host() -> Scene {
    let (scene, _) = Scene::with_revisions(2);
    fs::create_dir(scene.path("host")).unwrap();
    copy(&scene, "host/good");
    fs::create_dir(scene.path("host/no archive")).unwrap();
    scene.write("host/no archive/of others", b"");
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
        let copy = scene.path(to).join(entry.file_name());
        fs::copy(entry.path(), &copy).unwrap();
        // Without its time the image would count as one that somebody else has written.
        let modified = entry.metadata().unwrap().modified().unwrap();
        fs::File::options().write(true).open(copy).unwrap().set_modified(modified).unwrap();
    }
}

fn check(scene: &Scene, args: &[&str]) -> Run {
    let before = scene.listing();
    let args: Vec<&str> = std::iter::once("check").chain(args.iter().copied()).collect();
    let run = scene.run(&args);
    assert_eq!(scene.listing(), before, "it changed something");
    run
}

/// All archives of a folder have their verdict, worst first, whatever state one of them is in. Every form says the
/// same.
#[test]
fn check_reports_the_others_beside_a_broken_archive() {
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
    assert!(line.text.contains("also unknown: ") && line.text.contains("broken"), "{}", line.text);
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

/// Archives, folders of archives and patterns are accepted, and each archive counts once. A missing one is unknown.
#[test]
fn check_finds_archives_by_path_and_pattern() {
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
    assert_eq!(archives(&["nowhere", "./nowhere/", "nowhere"]), expect(3, &["nowhere"]));
    std::os::unix::fs::symlink("good", scene.path("host/link")).unwrap();
    assert_eq!(archives(&["host/link", "host/good/", "./host/good"]), expect(0, &["good"]));
    fs::remove_file(scene.path("host/link")).unwrap();
    let run = check(&scene, &["[", "--nagios"]);
    assert_eq!(run.status, Some(3));
    let run = check(&scene, &[]);
    assert_eq!(run.status, Some(3));
    assert!(Plugin::parse(run.text()).text.contains("DIR"), "{}", run.text());
}

/// The verdicts of two hundred archives fit in one line.
#[test]
fn check_of_many_archives_prints_one_line() {
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

/// Everything that cannot be opened is listed, whether named directly, by a folder or by a pattern. Each has its
/// reason, its series and its place on the page.
#[test]
fn archives_that_cannot_be_opened_are_unknown_and_named() {
    let (scene, _) = Scene::with_revisions(1);
    let folder = |name: &str| fs::create_dir_all(scene.path(name)).unwrap();
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, scene.path(name)).unwrap();
    folder("host/not mounted");
    folder("host/lost+found");
    folder("host/of others");
    scene.write("host/of others/file", b"");
    scene.write("host/file", b"");
    link("/nowhere/at/all", "host/dangling");
    link("circle", "host/circle");
    link("file", "host/to a file");
    folder("host/remains");
    let delta = "host/remains/01a22379-21af-721f-a602-b451bfe23e31.qcow2";
    scene.write(delta, b"");
    copy(&scene, "host/good");
    let reasons = [
        ("circle", "Too many levels of symbolic links"),
        ("dangling", "No such file"),
        ("not mounted", "is empty"),
        ("remains", "no archive here"),
    ];
    for given in [&["host"][..], &["host/", "host"]] {
        let run = check(&scene, &[given, &["--json"]].concat());
        assert_eq!(run.status, Some(3));
        let json = run.json();
        let archives = json["archives"].as_array().unwrap();
        assert_eq!(archives.len(), reasons.len() + 1, "{json}");
        for (archive, (name, reason)) in archives.iter().zip(reasons) {
            assert_eq!(archive["archive"], scene.text_path(&format!("host/{name}")));
            assert_eq!(archive["health"]["level"], "unknown");
            let problem = &archive["health"]["problems"][0];
            assert_eq!(problem["kind"], "unreadable");
            assert!(problem["message"].as_str().unwrap().contains(reason), "{problem}");
        }
    }
    let metrics = parse_prometheus(check(&scene, &["host", "--prometheus"]).text());
    let unknown = metrics["backy_status"].iter().filter(|(_, value)| *value == 3.0);
    assert_eq!(unknown.count(), reasons.len());
    scene.works(&["report", "-o", "page.html", "host"]);
    let page = scene.read_text("page.html");
    for (name, reason) in reasons {
        assert!(page.contains(name) && page.contains(reason), "{name}");
    }
    // A pattern: each matching folder counts as named, and so does one that only looks like no archive.
    let names = |pattern: &str| -> Vec<String> {
        let json = check(&scene, &[pattern, "--json"]).json();
        let archives = json["archives"].as_array().unwrap().iter();
        archives
            .map(|a| a["archive"].as_str().unwrap().rsplit('/').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names("host/*"),
        ["circle", "dangling", "not mounted", "of others", "remains", "good"]
    );
    assert_eq!(names("*/g[o]od"), ["good"]);
    assert_eq!(names("host/d*"), ["dangling"]);
    assert_eq!(names("no*/x"), ["x"]);
    assert_eq!(names("**/good"), ["good"]);
}

/// A folder that may not be listed is unknown, also behind a pattern. Nothing says that there is no archive.
#[test]
fn a_folder_without_permission_is_unknown() {
    if !is_root() {
        return;
    }
    let (scene, _) = Scene::with_revisions(1);
    fs::create_dir_all(scene.path("host/closed/backup")).unwrap();
    fs::rename(scene.path("a"), scene.path("host/closed/backup/a")).unwrap();
    let mode = |name: &str, mode| {
        fs::set_permissions(scene.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("", 0o755);
    mode("host/closed", 0o700);
    for (given, named) in [
        ("host", "host/closed"),
        ("host/closed", "host/closed"),
        ("host/closed/backup", "host/closed/backup"),
        ("host/*/backup", "host/closed/backup"),
        ("host/*/b*", "host/closed"),
    ] {
        let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let mut command = scene.command_under(&as_nobody, &["check", given, "--json"]);
        let run: Run = command.output().unwrap().into();
        assert_eq!(run.status, Some(3), "{given}: {run:?}");
        let json = run.json();
        assert_eq!(json["archives"].as_array().unwrap().len(), 1, "{given}: {json}");
        assert_eq!(json["archives"][0]["archive"], scene.text_path(named), "{given}");
        let said = json["archives"][0]["health"]["summary"].as_str().unwrap();
        assert!(said.contains("Permission denied"), "{given}: {said}");
    }
}

/// However an archive is named, its label is its folder without links.
#[test]
fn the_label_of_an_archive_is_its_real_folder() {
    let (scene, _) = Scene::with_revisions(1);
    std::os::unix::fs::symlink("a", scene.path("link")).unwrap();
    fs::create_dir(scene.path("p")).unwrap();
    scene.monitor(&format!("textfile = \"{}\"", scene.path("p/a.prom").display()));
    let label = scene.text_path("a");
    for name in ["a", "a/", "./a", "a/../a", "link", "link/.", &label] {
        let json = scene.works(&["-b", name, "status", "--json"]).json();
        assert_eq!(json["archive"], label.as_str(), "{name}");
        let metrics = parse_prometheus(scene.works(&["-b", name, "status", "--prometheus"]).text());
        assert!(metrics["backy_status"].iter().all(|(labels, _)| labels["archive"] == label));
        scene.works(&["-b", name, "tag", "0", "+x"]);
        let written = parse_prometheus(&scene.read_text("p/a.prom"));
        assert!(written["backy_status"].iter().all(|(labels, _)| labels["archive"] == label));
        let run = check(&scene, &[name, "--json"]);
        assert_eq!(run.json()["archives"][0]["archive"], label.as_str(), "{name}");
    }
}

/// The history may say that the last run failed: whoever may not read it learns that, and does not read that all is
/// well.
#[test]
fn an_unreadable_history_is_unknown() {
    if !is_root() {
        return;
    }
    let (scene, _) = Scene::with_revisions(1);
    let mode = |path: std::path::PathBuf, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(scene.path(""), 0o755);
    mode(scene.path("a"), 0o755);
    for entry in fs::read_dir(scene.path("a")).unwrap().flatten() {
        mode(entry.path(), 0o644);
    }
    let as_nobody = || {
        let starter = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let mut command = scene.command_under(&starter, &["-b", "a", "status", "--check"]);
        Run::from(command.output().unwrap())
    };
    let run = as_nobody();
    assert_eq!(run.status, Some(0), "{run:?}");
    mode(scene.path("a/history.jsonl"), 0o600);
    let run = as_nobody();
    assert_eq!(run.status, Some(3), "{run:?}");
    assert!(run.text().contains("history.jsonl"), "{run:?}");
}
