//! How to name revisions: by times, with and without -r, and completed by shells.

use std::io::Write;
use std::process::{Command, Stdio};

use backy_lib::Manifest;
use backy_tests::qemu::skipped;
use jiff::{SignedDuration, Timestamp};

use super::harness::{Run, Scene, program};

/// When a revision was made, by number.
fn started(scene: &Scene, number: usize) -> Timestamp {
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    status["revisions"][number]["started"].as_str().expect("a time").parse().expect("a time")
}

/// The file that `find` prints.
fn found(scene: &Scene, args: &[&str]) -> String {
    scene.works(&[&["-b", "a", "find"], args].concat()).text().to_owned()
}

/// Every verb that takes one revision accepts a time, which means the newest that is not younger.
#[test]
fn a_time_names_a_revision_everywhere() {
    let (scene, states) = Scene::with_revisions(2);
    let (newest, oldest) = (started(&scene, 0), started(&scene, 1));
    let exact = oldest.to_string();
    let [image, delta] = ["0", "1"].map(|number| found(&scene, &[number]));
    assert_ne!(image, delta);
    for (time, file) in [
        ("today", &image),
        ("2999-01-01", &image),
        (newest.to_string().as_str(), &image),
        (&exact, &delta),
        ("0 minutes ago", &image),
    ] {
        assert_eq!(&found(&scene, &["-r", time]), file, "{time}");
        assert_eq!(&found(&scene, &[time]), file, "{time}");
    }
    let before = (oldest - SignedDuration::from_hours(48)).strftime("%Y-%m-%d").to_string();
    for args in [
        &["find", "-r", before.as_str()][..],
        &["restore", "-r", &before, "x"],
        &["drill", "-r", &before],
        &["export", "-r", &before, "x.qcow2"],
        &["tag", &before],
    ] {
        let args = [&["-b", "a"], args].concat();
        scene.refuses(&args, &["is as old as", &before, "the oldest was made on"]);
    }
    scene.works(&["-b", "a", "restore", "-r", &exact, "older"]);
    assert!(scene.read("older") == states[1]);
    // Where a verb takes several, a day means all that were made then.
    let two = scene.works(&["-b", "a", "status", "--json", "today..0"]).json();
    assert_eq!(two["revisions"].as_array().map(Vec::len), Some(2));
    scene.refuses(&["-b", "a", "rm", &before], &["no revision was made on"]);
    scene.refuses(&["-b", "a", "rm", "2 hours ago"], &["is a moment"]);
    scene.refuses(&["-b", "a", "find", "2026-02-30"], &["no such day", "--help"]);
}

/// A time of day is in the reader's time zone.
#[test]
fn times_are_local() {
    let (scene, _) = Scene::with_revisions(2);
    let oldest = started(&scene, 1);
    let in_berlin = |time: Timestamp| {
        let offset = jiff::tz::TimeZone::posix("XYZ-5").expect("a zone");
        time.to_zoned(offset).strftime("%Y-%m-%d %H:%M:%S%.f").to_string()
    };
    let find = |zone: &str| {
        let mut command = scene.command(&["-b", "a", "find", &in_berlin(oldest)]);
        Run::from(command.env("TZ", zone).output().expect("run it"))
    };
    let delta = found(&scene, &["1"]);
    assert_eq!(find("XYZ-5").text(), delta);
    // Five hours later, in UTC, there is the newest.
    assert_ne!(find("UTC").text(), delta);
}

/// A text that is a day or a number and also the beginning of a UUID is ambiguous and refused.
#[test]
fn a_name_with_two_meanings_is_an_error_that_lists_them() {
    let (scene, _) = Scene::with_revisions(2);
    let day = started(&scene, 1).strftime("%Y-%m-%d").to_string();
    let digits = day.replace('-', "");
    // A name needs nothing but the manifest.
    let mut manifest = Manifest::parse(&scene.read("a/manifest.json")).expect("a manifest");
    let renamed = format!("{digits}{}", &manifest.revisions[0].uuid.to_string()[8..]);
    manifest.revisions[0].uuid = renamed.parse().expect("a UUID");
    manifest.revisions[1].base = Some(manifest.revisions[0].uuid);
    std::fs::create_dir(scene.path("b")).expect("a folder");
    let write = |manifest: &Manifest| {
        scene.write("b/manifest.json", &manifest.encode().expect("a manifest"));
    };
    write(&manifest);
    scene.write("b/last.raw", b"");
    // The newest of that day is the one with that UUID, so there is only one meaning.
    scene.works(&["-b", "b", "tag", &day]);
    scene.works(&["-b", "b", "tag", &digits]);
    let later: Timestamp = "2999-01-01T00:00:00Z".parse().expect("a time");
    (manifest.revisions[0].started, manifest.revisions[0].finished) = (later, later);
    write(&manifest);
    scene.refuses(
        &["-b", "b", "tag", &day],
        &[
            "ambiguous",
            "revision 1 (the newest not after",
            "revision 0 (its UUID begins with that)",
            "give the number",
        ],
    );
}

/// A target that reads as a revision most likely is one. It is still possible to write a file of that name.
#[test]
fn a_target_that_reads_as_a_revision_is_refused() {
    let (scene, states) = Scene::with_revisions(2);
    let uuid = scene.works(&["-b", "a", "status", "--json"]).json()["revisions"][1]["uuid"].clone();
    for target in
        ["1", "7", "latest", "tag:daily", "yesterday", "2026-11-28", "0193", uuid.as_str().unwrap()]
    {
        let word = format!("for revision {target} use -r {target}; for a file use ./{target}");
        scene.refuses(&["-b", "a", "restore", target], &[&word]);
        scene.refuses(&["-b", "a", "restore", "-r", "1", target], &[&word]);
        scene.refuses(&["-b", "a", "export", target], &[&word]);
        scene.refuses(&["-b", "a", "export", "0", target], &[&word]);
        scene.refuses(
            &["-b", "a", "mount", target],
            &["reads as a revision", "by-number", &format!("./{target}")],
        );
    }
    scene.refuses(&["-b", "a", "restore", "2026-11-28 02:00"], &["use -r '2026-11-28 02:00'"]);
    scene.works(&["-b", "a", "restore", "-r", "1", "./1"]);
    assert!(scene.read("1") == states[1]);
    scene.works(&["-b", "a", "restore", "onefile"]);
}

/// A revision is written as -r REV, or in its place.
#[test]
fn a_revision_is_named_with_and_without_r() {
    let (scene, _) = Scene::with_revisions(2);
    assert_eq!(found(&scene, &["1"]), found(&scene, &["-r", "1"]));
    for (args, file) in [
        (&["0", "x.qcow2"][..], "x.qcow2"),
        (&["-r", "1", "y.qcow2"], "y.qcow2"),
        (&["z.qcow2"], "z.qcow2"),
    ] {
        scene.works(&[&["-b", "a", "export"], args].concat());
        assert!(scene.path(file).exists());
    }
    let drilled = |args: &[&str]| {
        scene.works(&[&["-b", "a", "drill", "--json"], args].concat()).json()["revision"].clone()
    };
    assert_eq!(drilled(&["1"]), drilled(&["-r", "1"]));
    assert_eq!(drilled(&["1", "--", "true"]), drilled(&["-r", "1"]));
    scene.works(&["-b", "a", "tag", "-r", "1", "+mine"]);
    scene.works(&["-b", "a", "tag", "1", "+yours"]);
    let tags = scene.works(&["-b", "a", "tag", "-r", "1"]).text().to_owned();
    assert_eq!(tags, scene.works(&["-b", "a", "tag", "1"]).text());
    assert!(tags.contains("mine") && tags.contains("yours"), "{tags}");
    scene.works(&["-b", "a", "tag", "-r", "1", "--", "-mine", "-yours"]);
    assert!(!scene.works(&["-b", "a", "tag", "1"]).text().contains("pinned"));
    for args in [
        &["find", "-r", "0", "1"][..],
        &["export", "-r", "0", "1", "w.qcow2"],
        &["drill", "-r", "0", "1"],
    ] {
        scene.refuses(&[&["-b", "a"], args].concat(), &["cannot be used with", "--help"]);
    }
    scene.refuses(&["-b", "a", "tag", "-r", "0", "1"], &["write +1 to add the tag", "--help"]);
    scene.refuses(&["-b", "a", "tag"], &["REV", "--help"]);
}

/// What a shell asks for when somebody presses Tab: names of revisions with a description, and nothing where there is
/// no archive.
#[test]
fn revisions_are_completed() {
    let (scene, _) = Scene::with_revisions(2);
    let run = scene.works(&["complete", "--", "backy", "-b", "a", "restore", "-r"]);
    let names: Vec<&str> = run.text().lines().filter_map(|line| line.split('\t').next()).collect();
    for name in ["0", "1", "tag:daily", "latest", "first"] {
        assert!(names.contains(&name), "{name}: {}", run.text());
        found(&scene, &["-r", name]);
    }
    let none = scene.works(&["complete", "--", "backy", "-b", "nowhere", "restore", "-r"]);
    assert_eq!((none.text(), none.stderr.as_str()), ("", ""));
    let help = scene.works(&["--help"]);
    assert!(!help.text().contains("complete "), "{}", help.text());
}

/// The script for bash completes revisions after -r and where a verb takes one in its place, and everything else as
/// before.
#[test]
fn bash_completes_revisions() {
    let (scene, _) = Scene::with_revisions(2);
    let completions = scene.works(&["completions", "bash"]).text().to_owned();
    let complete = |line: &str| {
        let script = format!(
            "{completions}\nCOMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             _backy_with_revisions \"${{COMP_WORDS[0]}}\" \"${{COMP_WORDS[COMP_CWORD]}}\" \
             \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
             echo \"${{COMPREPLY[@]}}\"\n"
        );
        let mut command = Command::new("bash");
        let folder = scene.path("");
        command.args(["--norc", "-s"]).current_dir(folder).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().ok()?;
        child.stdin.take()?.write_all(script.as_bytes()).ok()?;
        let run = Run::from(child.wait_with_output().ok()?);
        Some(run.text().trim().to_owned())
    };
    let backy = program();
    let Some(all) = complete(&format!("{backy} -b a restore -r \"\"")) else {
        return skipped("bash is not installed");
    };
    assert!(all.starts_with("0 1 tag:daily "), "{all}");
    for (line, expected) in [
        ("-b a restore --revision fi", "first"),
        ("--backupdir=a find la", "latest"),
        ("-b a tag 1", "1"),
        ("-b a restore --dry", "--dry-run"),
        ("-b a find --rev", "--revision"),
        ("-b nowhere restore -r \"\"", ""),
        ("compl", "completions"),
    ] {
        assert_eq!(complete(&format!("{backy} {line}")).as_deref(), Some(expected), "{line}");
    }
}
