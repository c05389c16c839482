//! `backy status`

use backy_lib::progress::Silent;
use backy_lib::{Archive, ArchiveWriter, DrillReport, SystemClock};

use super::harness::Scene;

/// The table has the facts of each revision and fits 80 columns. With -v it has all of them and the whole UUID. The
/// verdict follows.
#[test]
fn the_table_and_the_verdict() {
    let (scene, _) = Scene::with_revisions(3);
    let json = || scene.works(&["-b", "a", "status", "--json"]).json();
    // The verdict names an age in seconds: both looks have to be in the same one.
    let (json, run) = loop {
        let (before, run, after) = (json(), scene.works(&["-b", "a", "status"]), json());
        if before["health"]["summary"] == after["health"]["summary"] {
            break (before, run);
        }
    };
    let lines: Vec<&str> = run.text().lines().collect();
    for word in ["source.img", "1.4 MiB", "64 KiB"] {
        assert!(lines[0].contains(word), "{word}: {}", run.text());
    }
    let whole = scene.works(&["-v", "-b", "a", "status"]);
    let whole: Vec<&str> = whole.text().lines().collect();
    for heading in ["#", "started", "revision", "changed", "stored", "tags"] {
        assert!(lines[2].contains(heading) && whole[2].contains(heading), "{heading}");
    }
    assert!(whole[2].contains("size") && whole[2].contains("took"), "{}", whole[2]);
    for number in 0..3 {
        let uuid = json["revisions"][number]["uuid"].as_str().unwrap();
        let line = lines[3 + number];
        assert!(line.starts_with(&number.to_string()) && line.len() <= 80, "{line}");
        let short = line.split_whitespace().nth(3).unwrap();
        let found = scene.works(&["-b", "a", "status", "--json", short]).json();
        assert!(uuid.starts_with(short) && found["revisions"][0]["uuid"] == *uuid, "{line}");
        assert!(whole[3 + number].contains(uuid) && whole[3 + number].contains("1.4 MiB"));
    }
    let started = json["revisions"][0]["started"].as_str().unwrap();
    assert!(lines[3].contains(&started[..16].replace('T', " ")), "{}", lines[3]);
    assert!(lines[5].ends_with("daily, monthly, weekly"), "{}", lines[5]);
    assert_eq!(
        *lines.last().unwrap(),
        format!("OK: {}", json["health"]["summary"].as_str().unwrap())
    );
    assert_eq!(run.stderr, "");
}

/// Revisions of several sizes have a column for the size. Many tags are wrapped, not cut off.
#[test]
fn many_tags_fit_80_columns() {
    // Revisions of the same quarter of a second have longer unique UUIDs, which no schedule makes.
    let apart = || std::thread::sleep(std::time::Duration::from_millis(300));
    let (scene, _) = Scene::with_revisions(1);
    apart();
    scene.works(&["-b", "a", "backup", "-f"]);
    let tags = ["+before-the-upgrade", "+keep-this-one", "+the-last-good-one", "+for-the-auditor"];
    scene.works(&[&["-b", "a", "tag", "1"][..], &tags].concat());
    scene.write("source.img", &vec![5; 5_000_000]);
    apart();
    scene.works(&["-b", "a", "backup", "-f"]);
    let run = scene.works(&["-b", "a", "status"]);
    for line in run.text().lines().skip(2).take_while(|line| !line.is_empty()) {
        assert!(line.len() <= 80, "{line}");
    }
    for word in tags.iter().map(|tag| &tag[1..]).chain(["4.8 MiB", "1.4 MiB"]) {
        assert!(run.text().contains(word), "{word}: {}", run.text());
    }
}

/// Times are in the reader's time zone.
#[test]
fn times_are_local() {
    let (scene, _) = Scene::with_revisions(1);
    let json = scene.works(&["-b", "a", "status", "--json"]).json();
    let started: jiff::Timestamp =
        json["revisions"][0]["started"].as_str().unwrap().parse().unwrap();
    let there = started.in_tz("Asia/Kolkata").unwrap();
    let run =
        scene.command(&["-v", "-b", "a", "status"]).env("TZ", "Asia/Kolkata").output().unwrap();
    let text = String::from_utf8(run.stdout).unwrap();
    let expected = there.strftime("%Y-%m-%d %H:%M:%S IST").to_string();
    assert!(text.contains(&expected), "{expected}: {text}");
}

/// Only the requested revisions are shown.
#[test]
fn revisions_are_selected() {
    let (scene, _) = Scene::with_revisions(3);
    for (spec, numbers) in
        [("1", vec![1]), ("0..1", vec![0, 1]), ("tag:daily", vec![2]), ("first,latest", vec![0, 2])]
    {
        let json = scene.works(&["-b", "a", "status", "--json", spec]).json();
        let found: Vec<u64> = json["revisions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|revision| revision["number"].as_u64().unwrap())
            .collect();
        assert_eq!(found, numbers, "{spec}");
        assert_eq!(json["schema"], 1);
    }
}

/// Pinned tags and standalone revisions are marked, and the last drill is shown.
#[test]
fn marks_and_drills() {
    let (scene, _) = Scene::with_revisions(3);
    scene.works(&["-b", "a", "tag", "0", "+mine"]);
    let config = scene.read_text("a/backy.toml");
    scene.write("a/backy.toml", format!("max_chain = 1\n{config}").as_bytes());
    scene.works(&["-b", "a", "maintenance"]);
    let uuid = scene.works(&["-b", "a", "status", "--json"]).json()["revisions"][1]["uuid"].clone();
    let drill = |passed: bool| {
        let started = "2026-11-22T04:05:06Z".parse().unwrap();
        let message = "block 7 is not right".to_owned();
        let archive = Archive::open(&scene.path("a")).unwrap();
        let drill = DrillReport {
            revision: uuid.as_str().unwrap().parse().unwrap(),
            started,
            seconds: 12.0,
            size_bytes: 60 << 20,
            read_bytes: 60 << 20,
            bytes_per_second: 5 << 20,
            command: None,
            passed,
            message,
            unknown: Default::default(),
        };
        let mut writer = ArchiveWriter::open(archive, "a test", &Silent).unwrap();
        writer.record_drill(drill, &SystemClock, &Silent).unwrap();
        scene.works(&["-b", "a", "status"])
    };
    let run = drill(true);
    let lines: Vec<&str> = run.text().lines().collect();
    assert!(lines[3].ends_with("  mine (pinned)"), "{}", run.text());
    assert!(lines[4].ends_with("  [standalone]"), "{}", run.text());
    assert!(lines[5].ends_with("  daily, monthly, weekly"), "{}", run.text());
    let line = format!(
        "Last drill: 2026-11-22 04:05, revision {}: passed, 12 s at 5.0 MiB/s",
        uuid.as_str().unwrap()
    );
    assert!(lines.contains(&line.as_str()), "{}", run.text());
    let run = drill(false);
    assert!(run.text().contains(": FAILED, 12 s"), "{}", run.text());
    assert!(run.text().contains("CRITICAL: the last drill failed: block 7"), "{}", run.text());
}

/// Each problem is shown with its remedy. The exit status stays 0, since the command did its work.
#[test]
fn problems_come_with_advice() {
    let scene = Scene::with_archive();
    let run = scene.works(&["-b", "a", "status"]);
    assert!(run.text().contains("no revisions yet"), "{}", run.text());
    assert!(run.text().contains("WARNING: there is no backup yet; "), "{}", run.text());
    let (scene, _) = Scene::with_revisions(2);
    let delta = scene.file_of_archive(".qcow2");
    std::fs::remove_file(scene.path(&delta)).unwrap();
    scene.write("a/backy.toml", b"sauce = 5\n");
    let run = scene.works(&["-b", "a", "status"]);
    let problems: Vec<&str> =
        run.text().lines().filter(|line| line.starts_with("CRITICAL: ")).collect();
    assert_eq!(problems.len(), 3, "{}", run.text());
    assert!(problems.iter().any(|line| line.contains("backy.toml:1:1: ")), "{}", run.text());
    assert!(problems.iter().any(|line| line.contains(&delta) && line.contains("; bring it back")));
    assert!(problems.iter().any(|line| line.contains("1 of 2 revisions have damaged blocks; run")));
    assert!(problems.iter().all(|line| line.contains("; ")), "{}", run.text());
}

/// A reader who closes the output early is no error.
#[test]
fn a_closed_pipe_is_quiet() {
    let (scene, _) = Scene::with_revisions(1);
    for args in [
        &["-b", "a", "status"][..],
        &["-b", "a", "find"],
        &["man"],
        &["--help"],
        &["completions", "bash"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let run = scene.command(args).stdout(writer).output().unwrap();
        assert_eq!(String::from_utf8(run.stderr).unwrap(), "", "{args:?}");
        assert_eq!(run.status.code(), Some(0), "{args:?}");
    }
}
