//! The verdict on one archive: the tests produce every kind of problem for real, and the exit status, the line for
//! Nagios, the JSON and the figures for Prometheus all report it alike.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use backy_lib::clock::FixedClock;
use backy_lib::format::manifest::{InProgress, Operation};
use backy_lib::progress::Silent;
use backy_lib::{
    Archive, ArchiveWriter, BackupOptions, Clock, DrillReport, Manifest, RevisionId, SystemClock,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::harness::{Scene, noise};
use super::monitors::{Plugin, parse_prometheus, single};

const HOUR: i64 = 3600;

/// So many seconds ago.
pub(crate) fn ago(seconds: i64) -> Timestamp {
    SystemClock.now() - SignedDuration::from_secs(seconds)
}

impl Scene {
    /// Makes a backup with a clock that shows so many seconds ago.
    pub(crate) fn backup_made(&self, seconds_ago: i64, tags: &[&str]) {
        let archive = Archive::open(&self.path("a")).expect("the archive");
        let source = archive.open_source().expect("the source");
        let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
        let tags = tags.iter().map(|tag| tag.parse().expect("a tag")).collect();
        let options = BackupOptions { force: true, tags, ..BackupOptions::default() };
        writer.backup(&source, &options, &FixedClock(ago(seconds_ago)), &Silent).expect("a backup");
    }

    /// Adds settings to the section for monitoring.
    pub(crate) fn monitor(&self, settings: &str) {
        let config = self.read_text("a/backy.toml");
        self.write("a/backy.toml", format!("{config}\n[monitoring]\n{settings}\n").as_bytes());
    }

    /// Changes the manifest behind the program's back.
    pub(crate) fn edit_manifest(&self, edit: impl FnOnce(&mut Manifest)) {
        let mut manifest = Manifest::parse(&self.read("a/manifest.json")).expect("a manifest");
        edit(&mut manifest);
        self.write("a/manifest.json", &manifest.encode().expect("JSON"));
    }

    /// The problems, after checking that all forms agree. Asking changes nothing.
    pub(crate) fn problems(&self) -> Vec<(String, String)> {
        let before = self.listing();
        let check = self.run(&["-b", "a", "status", "--check"]);
        let json = self.works(&["-b", "a", "status", "--json"]).json();
        let prometheus = self.works(&["-b", "a", "status", "--prometheus"]);
        assert_eq!(self.listing(), before);
        let line = Plugin::parse(check.text());
        assert_eq!(check.stderr, "");
        let level = json["health"]["level"].as_str().expect("a level");
        let status = ["ok", "warning", "critical"].iter().position(|word| *word == level);
        assert_eq!(check.status, status.map(|status| status as i32), "{json}");
        assert_eq!(line.word.to_lowercase(), level);
        assert!(words(&line.text).starts_with(&words(json["health"]["summary"].as_str().unwrap())));
        let metrics = parse_prometheus(prometheus.text());
        assert_eq!(single(&metrics, "backy_status"), status.map(|status| status as f64));
        let problems = json["health"]["problems"].as_array().expect("a list");
        for problem in problems {
            assert!(!problem["advice"].as_str().expect("advice").is_empty(), "{problem}");
        }
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let problems: Vec<(String, String)> =
            problems.iter().map(|p| (text(&p["kind"]), text(&p["level"]))).collect();
        for (labels, value) in &metrics["backy_problem"] {
            let told = problems.iter().any(|(kind, _)| *kind == labels["kind"]);
            assert_eq!(told, *value > 0.0, "{labels:?}");
        }
        problems
    }

    /// Checks that this is the only problem.
    pub(crate) fn has(&self, kind: &str, level: &str) {
        assert_eq!(self.problems(), [(kind.to_owned(), level.to_owned())]);
    }
}

/// The first words of a verdict, without figures: the share of free space, for instance, differs a moment later.
fn words(verdict: &str) -> Vec<&str> {
    let is_figure = |word: &&str| word.contains(|c: char| c.is_ascii_digit());
    verdict.split_whitespace().filter(|word| !is_figure(word)).take(3).collect()
}

/// A normal backup is healthy, in every form. The figures are those of the archive.
#[test]
fn healthy_archive_is_ok() {
    let (scene, _) = Scene::with_revisions(3);
    assert_eq!(scene.problems(), []);
    let line = Plugin::parse(scene.works(&["-b", "a", "status", "--check"]).text());
    let json = scene.works(&["-b", "a", "status", "--json"]).json();
    let value = |figure: &str| line.figures[figure].value;
    assert_eq!(value("revisions"), 3.0);
    assert_eq!(value("size"), json["newest"]["size_bytes"].as_f64().unwrap());
    assert_eq!(value("damaged"), 0.0);
    assert_eq!(line.figures["damaged"].critical.as_deref(), Some("0"));
    // A day with its tolerance of a twentieth, and one and a half; the hour of a series is known to five minutes.
    let age = &line.figures["age"];
    for (limit, expected) in [(&age.warning, 90_720), (&age.critical, 129_600)] {
        let limit: i64 = limit.as_deref().expect("a limit").parse().expect("seconds");
        assert!((expected - 300..=expected).contains(&limit), "{limit} of {expected}");
    }
    let used: u64 = fs::read_dir(scene.path("a"))
        .unwrap()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().into_string().unwrap();
            name == "last.raw" || name.ends_with(".qcow2") || name.ends_with(".digests")
        })
        .map(|entry| std::os::unix::fs::MetadataExt::blocks(&entry.metadata().unwrap()) * 512)
        .sum();
    assert_eq!(value("used"), used as f64);
    let metrics = parse_prometheus(scene.works(&["-b", "a", "status", "--prometheus"]).text());
    assert_eq!(single(&metrics, "backy_archive_bytes"), Some(used as f64));
    assert_eq!(single(&metrics, "backy_chain_length"), Some(2.0));
    assert_eq!(metrics["backy_tag_interval_seconds"].len(), 3);
}

/// Problems of the config, and what does not exist yet.
#[test]
fn config_source_and_first_backup() {
    let scene = Scene::with_archive();
    scene.has("no-backup", "warning");
    scene.write("a/backy.toml", b"sauce = 5\n");
    scene.has("config", "critical");
    scene.write("a/backy.toml", b"");
    scene.has("no-source", "critical");
}

/// Each tag has its own age: a dead cron shows although somebody makes backups by hand.
#[test]
fn overdue() {
    for (hours, expected) in [(25, None), (26, Some("warning")), (37, Some("critical"))] {
        let scene = Scene::with_archive();
        scene.backup_made(hours * HOUR, &[]);
        match expected {
            None => assert_eq!(scene.problems(), []),
            Some(level) => scene.has("overdue", level),
        }
    }
    let scene = Scene::with_archive();
    scene.backup_made(37 * HOUR, &[]);
    scene.write(
        "a/backy.toml",
        scene.read_text("a/backy.toml").replace("\"1d\"", "\"400d\"").as_bytes(),
    );
    scene.backup_made(HOUR, &["by-hand"]);
    scene.write(
        "a/backy.toml",
        scene.read_text("a/backy.toml").replace("\"400d\"", "\"1d\"").as_bytes(),
    );
    // The backup by hand was made when daily was not due.
    scene.has("overdue", "critical");
    let scene = Scene::with_archive();
    scene.backup_made(-HOUR, &[]);
    let expected = ["no-backup", "clock"].map(|kind| (kind.to_owned(), "warning".to_owned()));
    assert_eq!(scene.problems(), expected);
}

/// A failed run is reported with its reason, also when it failed before the lock. A successful one ends that.
#[test]
fn the_last_run_failed() {
    let (scene, _) = Scene::with_revisions(1);
    let source = scene.read("source.img");
    fs::remove_file(scene.path("source.img")).unwrap();
    scene.fails(&["-b", "a", "backup", "--force"], &["source.img"]);
    scene.has("failed", "warning");
    let line = Plugin::parse(scene.run(&["-b", "a", "status", "--check"]).text());
    assert!(line.text.contains("the last backup failed") && line.text.contains("source.img"));
    let metrics = parse_prometheus(scene.works(&["-b", "a", "status", "--prometheus"]).text());
    assert_eq!(single(&metrics, "backy_run_success"), Some(0.0));
    // A file that others put there is no reason to stay silent.
    let history = scene.read_text("a/history.jsonl");
    scene.write("a/history.jsonl", format!("{{\"torn\n{history}\u{0}|\n{{\"oper").as_bytes());
    scene.has("failed", "warning");
    scene.write("source.img", &source);
    scene.works(&["-b", "a", "backup", "--force"]);
    assert_eq!(scene.problems(), []);
}

/// An interrupted operation is reported while nobody holds the lock, and no longer when the next one has cleaned up.
#[test]
fn interrupted() {
    let (scene, _) = Scene::with_revisions(2);
    scene.edit_manifest(|manifest| {
        let (operation, started) = (Operation::Backup, ago(60));
        let revision = RevisionId::new(started);
        manifest.in_progress = Some(InProgress { operation, revision, started });
    });
    let archive = Archive::open(&scene.path("a")).unwrap();
    scene.has("interrupted", "warning");
    drop(archive);
    scene.works(&["-b", "a", "tag", "0", "+tidy"]);
    assert_eq!(scene.problems(), []);
}

/// Missing files and scrub findings are critical.
#[test]
fn missing_files_and_damage() {
    let (scene, _) = Scene::with_revisions(2);
    fs::remove_file(scene.path(&scene.file_of_archive(".qcow2"))).unwrap();
    let kinds: Vec<String> = scene.problems().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["missing-file", "damage"]);
    let (scene, _) = Scene::with_revisions(2);
    let mut image = scene.read("a/last.raw");
    image[70_000] ^= 1;
    scene.write("a/last.raw", &image);
    scene.has("replaced-image", "critical");
    scene.run(&["-b", "a", "scrub"]);
    scene.has("damage", "critical");
}

/// A drill that failed, or was too long ago.
#[test]
fn drills() {
    let (scene, _) = Scene::with_revisions(1);
    let drill = |passed: bool, started: Timestamp| {
        let archive = Archive::open(&scene.path("a")).unwrap();
        let report = DrillReport {
            revision: archive.revisions()[0].uuid,
            started,
            seconds: 1.0,
            size_bytes: 1,
            read_bytes: 1,
            bytes_per_second: 1,
            command: None,
            passed,
            message: "block 7 is not right".to_owned(),
            unknown: Default::default(),
        };
        let mut writer = ArchiveWriter::open(archive, "a test", &Silent).unwrap();
        writer.record_drill(report, &SystemClock, &Silent).unwrap();
    };
    drill(false, ago(10));
    scene.has("drill", "critical");
    drill(true, ago(9 * 24 * HOUR));
    assert_eq!(scene.problems(), []);
    scene.monitor("drill_within = \"8d\"");
    scene.has("drill", "warning");
    scene.works(&["-b", "a", "drill"]);
    assert_eq!(scene.problems(), []);
}

/// What has not been verified for too long, until a scrub verifies it. A new archive has its time.
#[test]
fn unchecked() {
    let scene = Scene::with_archive();
    scene.backup_made(20 * HOUR, &[]);
    assert_eq!(scene.problems(), []);
    scene.monitor("scrub_within = \"19h\"");
    scene.has("scrub", "warning");
    scene.works(&["-b", "a", "scrub"]);
    assert_eq!(scene.problems(), []);
    let metrics = parse_prometheus(scene.works(&["-b", "a", "status", "--prometheus"]).text());
    assert_eq!(single(&metrics, "backy_checked_ratio"), Some(1.0));
}

/// A chain that is longer than configured. The default is some more than `max_chain`.
#[test]
fn long_chains() {
    let (scene, _) = Scene::with_revisions(3);
    scene.monitor("long_chain = 2");
    assert_eq!(scene.problems(), []);
    let config = scene.read_text("a/backy.toml").replace("long_chain = 2", "long_chain = 1");
    scene.write("a/backy.toml", config.as_bytes());
    scene.has("chain", "warning");
}

/// Little space now, and too little soon according to the growth in the history.
#[test]
fn room() {
    let (scene, _) = Scene::with_revisions(1);
    let json = scene.works(&["-b", "a", "status", "--json"]).json();
    let free = json["space"]["free_bytes"].as_u64().unwrap();
    let share = free as f64 / json["space"]["size_bytes"].as_f64().unwrap();
    assert!(share > 0.05 && json["space"]["full_at"].is_null(), "{json}");
    // A tenth of what is free, each day.
    let mut history = String::new();
    for day in (0..8).rev() {
        let at = ago(day * 24 * HOUR);
        let stored = free / 10;
        history += &format!(
            "{{\"operation\":\"backup\",\"started\":\"{at}\",\"finished\":\"{at}\",\"result\":\"ok\",\
             \"report\":{{\"revision\":{{\"statistics\":{{\"stored_bytes\":{stored}}}}}}}}}\n"
        );
    }
    scene.write("a/history.jsonl", history.as_bytes());
    scene.has("space", "warning");
    let line = Plugin::parse(scene.run(&["-b", "a", "status", "--check"]).text());
    assert!(line.text.contains("full in 9 days") || line.text.contains("full in 10 days"));
    scene.monitor("full_within = \"60d\"");
    scene.has("space", "critical");
    fs::remove_file(scene.path("a/history.jsonl")).unwrap();
    assert_eq!(scene.problems(), []);
    let config = scene
        .read_text("a/backy.toml")
        .replace("full_within", "min_free_percent = 99\nfull_within");
    scene.write("a/backy.toml", config.as_bytes());
    let level = if share < 0.99 / 5.0 { "critical" } else { "warning" };
    scene.has("space", level);
}

/// Without a verdict the status is 3, with a line on standard output: no archive, damage, a wrong argument.
#[test]
fn unknown() {
    let (scene, _) = Scene::with_revisions(1);
    let unknown = |args: &[&str], word: &str| {
        let run = scene.run(args);
        assert_eq!(run.status, Some(3), "{run:?}");
        let line = Plugin::parse(run.text());
        assert!(line.word == "UNKNOWN" && line.text.contains(word), "{}", run.text());
        assert_eq!(run.stderr, "");
    };
    unknown(&["-b", "nowhere", "status", "--check"], "no archive here");
    unknown(&["-b", "a", "status", "--check", "--forse"], "--forse");
    unknown(&["-b", "a", "status", "--check", "--json"], "--json");
    unknown(&["-b", "a", "status", "--check", "99"], "99");
    scene.write("a/manifest.json", b"{}");
    unknown(&["-b", "a", "status", "--check"], "damaged");
    // Without --check it is an error like any other.
    scene.fails(&["-b", "a", "status"], &["damaged"]);
}

/// The verdict is available while somebody holds the lock, and a running operation does not count as interrupted.
#[test]
fn while_the_archive_is_locked() {
    let (scene, _) = Scene::with_revisions(1);
    let archive = Archive::open(&scene.path("a")).unwrap();
    let writer = ArchiveWriter::open(archive, "a test", &Silent).unwrap();
    scene.edit_manifest(|manifest| {
        let (operation, started) = (Operation::Backup, ago(60));
        let revision = RevisionId::new(started);
        manifest.in_progress = Some(InProgress { operation, revision, started });
    });
    assert_eq!(scene.problems(), []);
    let metrics = parse_prometheus(scene.works(&["-b", "a", "status", "--prometheus"]).text());
    assert_eq!(single(&metrics, "backy_locked"), Some(1.0));
    drop(writer);
}

/// The textfile is written after each command that may change the archive, also when nothing was due and when it
/// failed. Everybody can read it, and nothing else is left beside it.
#[test]
fn every_command_updates_the_textfile() {
    let (scene, _) = Scene::with_revisions(2);
    fs::create_dir(scene.path("textfiles")).unwrap();
    let file = scene.path("textfiles/node.prom");
    scene.monitor(&format!("textfile = \"{}\"", file.display()));
    let written = |args: &[&str], status: i32| {
        let _ = fs::remove_file(&file);
        let run = scene.run(args);
        assert_eq!(run.status, Some(status), "{args:?}: {run:?}");
        let text = fs::read_to_string(&file).ok();
        let entries = fs::read_dir(scene.path("textfiles")).unwrap().count();
        assert_eq!(entries, usize::from(text.is_some()), "{args:?}");
        text.map(|text| {
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o644, "{args:?}");
            parse_prometheus(&text)
        })
    };
    for args in [
        &["-b", "a", "backup"][..],
        &["-b", "a", "backup", "--force"],
        &["-b", "a", "maintenance"],
        &["-b", "a", "scrub"],
        &["-b", "a", "tag", "0", "+x"],
        &["-b", "a", "rm", "1"],
        &["-b", "a", "drill"],
    ] {
        let metrics = written(args, 0).unwrap_or_else(|| panic!("{args:?} wrote none"));
        assert_eq!(single(&metrics, "backy_status"), Some(0.0), "{args:?}");
    }
    for args in [
        &["-b", "a", "backup", "--dry-run"][..],
        &["-b", "a", "maintenance", "-n"],
        &["-b", "a", "scrub", "-n"],
        &["-b", "a", "status"],
    ] {
        assert!(written(args, 0).is_none(), "{args:?}");
    }
    fs::remove_file(scene.path("source.img")).unwrap();
    let metrics = written(&["-b", "a", "backup", "--force"], 1).expect("also after a failure");
    assert_eq!(single(&metrics, "backy_status"), Some(1.0));
    scene.write("source.img", &noise(1, 1000));
    scene.write("a/manifest.json", b"{}");
    let metrics = written(&["-b", "a", "backup"], 1).expect("also of what cannot be opened");
    assert_eq!(single(&metrics, "backy_status"), Some(3.0));
    assert_eq!(single(&metrics, "backy_revisions"), None);
}

/// A textfile that cannot be written is reported and changes no exit status.
#[test]
fn an_unwritable_textfile_is_reported() {
    let (scene, _) = Scene::with_revisions(1);
    scene.monitor(&format!("textfile = \"{}\"", scene.path("none/x.prom").display()));
    let run = scene.works(&["-b", "a", "backup"]);
    assert!(run.stderr.starts_with("backy: warning: ") && run.stderr.contains("none/x.prom"));
    assert_eq!(run.stderr.matches('\n').count(), 1, "{}", run.stderr);
}
