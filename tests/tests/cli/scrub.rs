//! `backy scrub`

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use backy_lib::progress::{Event, Observer};
use backy_lib::{Archive, ArchiveWriter, ErrorKind, ScrubOptions, SystemClock};
use serde_json::{Value, json};

use super::harness::{Run, Scene};

fn status(scene: &Scene) -> Value {
    scene.works(&["-b", "a", "status", "--json"]).json()
}

/// Flips a bit of a file of the archive. Returns the file as it was.
fn flip(scene: &Scene, name: &str, at: usize) -> Vec<u8> {
    let good = scene.read(name);
    let mut bad = good.clone();
    bad[at] ^= 1;
    scene.write(name, &bad);
    good
}

/// Checks that a scrub found something: exit status 1, the finding on standard output, and one line with the remedy
/// on standard error.
fn finds(scene: &Scene, args: &[&str], words: &[&str]) -> Run {
    let run = scene.run(args);
    assert_eq!(run.status, Some(1), "{run:?}");
    for word in words {
        assert!(run.text().contains(word), "{word:?} is not in: {}", run.text());
    }
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert!(
        run.stderr.starts_with("backy: error: ") && run.stderr.contains("; "),
        "{}",
        run.stderr
    );
    run
}

/// A backup that heals a block that a scrub found bad says so, and the archive is healthy again.
#[test]
fn backup_reports_healed_blocks() {
    for json in [false, true] {
        let (scene, _) = Scene::with_revisions(2);
        flip(&scene, "a/last.raw", 1_000_000);
        finds(&scene, &["-b", "a", "scrub"], &["last.raw"]);
        if json {
            let report = scene.works(&["-b", "a", "backup", "--force", "--json"]).json();
            assert_eq!(report["healed_blocks"], 1);
        } else {
            let run = scene.works(&["-b", "a", "-v", "backup", "--force"]);
            assert!(run.stderr.contains(", 1 bad block repaired"), "{}", run.stderr);
        }
        assert_eq!(scene.works(&["-b", "a", "scrub"]).text(), "");
        let again = scene.works(&["-b", "a", "-v", "backup", "--force"]);
        assert!(!again.stderr.contains("repaired"), "{}", again.stderr);
    }
}

/// 'scrub -n' finds a flipped bit in the image or in a delta and records nothing. 'scrub' finds it and records it.
/// When the right bytes are back, the next scrub finds that all is well.
#[test]
fn a_flipped_bit_is_found_recorded_and_healed() {
    for (suffix, at, damaged) in [("last.raw", 1_000_000, &[0, 1, 2][..]), (".qcow2", 0, &[2])] {
        let (scene, states) = Scene::with_revisions(3);
        let uuid = |number: usize| {
            status(&scene)["revisions"][number]["uuid"].as_str().unwrap().to_owned()
        };
        let name = match suffix {
            ".qcow2" => format!("a/{}.qcow2", uuid(2)),
            name => format!("a/{name}"),
        };
        // Noise does not compress, so the last bytes of a delta are data.
        let at = if at == 0 { scene.read(&name).len() - 70_000 } else { at };
        let good = flip(&scene, &name, at);
        let before = scene.listing();
        let found =
            finds(&scene, &["-b", "a", "scrub", "-n"], &[&name[2..], " is not what was backed up"]);
        for number in 0..3 {
            let line = format!("  revision {number} ({}): bytes ", uuid(number));
            assert_eq!(found.text().contains(&line), damaged.contains(&number), "{}", found.text());
        }
        assert!(found.stderr.contains("1 finding; 'backy scrub' without -n"), "{}", found.stderr);
        assert_eq!(scene.listing(), before);
        // The time of the image shows that it was changed. The damage is not recorded.
        let level = if suffix == "last.raw" { "critical" } else { "ok" };
        assert_eq!(status(&scene)["health"]["level"], level, "{name}");

        let recorded = finds(&scene, &["-b", "a", "scrub"], &[found.text()]);
        let advice = match suffix {
            ".qcow2" => "1 finding; restore the files from a copy",
            _ => "1 finding; the next backup repairs what the source still has",
        };
        assert!(recorded.stderr.contains(advice), "{}", recorded.stderr);
        let json = finds(&scene, &["-b", "a", "scrub", "--json"], &[]).json();
        let affected = json["findings"][0]["affected"].as_array().unwrap();
        let numbers: Vec<Value> = affected.iter().map(|each| each["number"].clone()).collect();
        assert_eq!(json!(numbers), json!(damaged));
        let now = status(&scene);
        assert_eq!(now["health"]["level"], "critical");
        for number in 0..3 {
            let extents = match affected.iter().find(|each| each["number"] == number) {
                Some(each) => each["extents"].clone(),
                None => json!([]),
            };
            assert_eq!(now["revisions"][number]["damaged"], extents, "{number}");
        }
        let shown = scene.works(&["-v", "-b", "a", "status"]);
        let ranges = format!("\nRevision {}: bytes ", damaged[0]);
        assert!(shown.text().contains(&ranges), "{}", shown.text());

        scene.write(&name, &good);
        let run = scene.works(&["-b", "a", "scrub"]);
        assert_eq!((run.text(), run.stderr.as_str()), ("", ""));
        assert_eq!(status(&scene)["health"]["level"], "ok");
        scene.holds(&states);
    }
}

/// A scrub repairs a block whose right bytes are elsewhere in the archive. It reports that the block was bad, with
/// exit status 1.
#[test]
fn scrub_repairs_blocks_that_exist_elsewhere() {
    let scene = Scene::new();
    let mut source = scene.read("source.img");
    source.copy_within(0..65536, 655_360);
    scene.write("source.img", &source);
    scene.works(&["-b", "a", "init", "source.img"]);
    scene.works(&["-b", "a", "backup"]);
    let good = flip(&scene, "a/last.raw", 700_000);
    let run = finds(&scene, &["-b", "a", "scrub"], &["last.raw: block 10 ", "; repaired\n"]);
    assert!(run.stderr.contains("1 finding, repaired; "), "{}", run.stderr);
    assert!(scene.read("a/last.raw") == good);
    scene.works(&["-b", "a", "scrub"]);
    let history = scene.read_text("a/history.jsonl");
    let last: Vec<Value> =
        history.lines().rev().take(2).map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(last[0]["report"]["findings"], json!([]));
    assert_eq!(last[1]["report"]["findings"][0]["repaired"], true);
}

/// A clean scrub prints nothing on a pipe. With -v it prints how much it read, how fast, and how much has been
/// checked.
#[test]
fn a_clean_scrub() {
    let (scene, _) = Scene::with_revisions(2);
    let run = scene.works(&["-b", "a", "status"]);
    assert!(run.text().contains("No stored block verified yet.\n"), "{}", run.text());
    let before = scene.listing();
    scene.works(&["-b", "a", "scrub", "-n", "1"]);
    assert_eq!(scene.listing(), before);
    let run = scene.works(&["-v", "-b", "a", "scrub", "0"]);
    assert_eq!((run.text(), run.stderr.lines().count()), ("", 1), "{}", run.stderr);
    assert!(run.stderr.starts_with("backy: read 1.4 MiB in "), "{}", run.stderr);
    assert!(run.stderr.ends_with("; 50 % of the stored blocks verified, the rest never\n"));
    scene.works(&["-b", "a", "scrub", "--budget", "50%"]);
    let run = scene.works(&["-b", "a", "status"]);
    assert!(run.text().contains("\nAll stored blocks verified within the last "), "{}", run.text());
}

/// A budget is a time or a share. Anything else is an error that says so.
#[test]
fn budgets() {
    let (scene, _) = Scene::with_revisions(2);
    for budget in ["30m", "1h", "10%"] {
        scene.works(&["-b", "a", "scrub", "--budget", budget]);
    }
    for bad in ["30", "0%", "200%", "1 h", "soon"] {
        scene.refuses(&["-b", "a", "scrub", "--budget", bad], &[&format!("'{bad}'"), "30m", "10%"]);
    }
}

/// Files that no revision needs, and a missing config, are findings that cost no revision anything.
#[test]
fn unimportant_findings_cost_no_revision() {
    let (scene, states) = Scene::with_revisions(1);
    std::fs::remove_file(scene.path("a/backy.toml")).unwrap();
    let run = finds(&scene, &["-b", "a", "scrub"], &["backy.toml: missing"]);
    assert!(run.stderr.contains("no revision is affected"), "{}", run.stderr);
    scene.holds(&states);
}

/// A lost or damaged manifest is rebuilt. The output names what could not be determined, and the revisions are what
/// they were. A readable manifest is only rebuilt with --force.
#[test]
fn rebuild_recreates_a_lost_manifest() {
    let (scene, states) = Scene::with_revisions(3);
    let before = status(&scene);
    let rebuild = &["-b", "a", "scrub", "--rebuild"][..];
    let words = ["manifest.json: is readable", "--force rebuilds it"];
    scene.refuses(rebuild, &words);
    std::fs::remove_file(scene.path("a/manifest.json")).unwrap();
    scene.refuses(&["-b", "a", "scrub"], &["manifest.json", "backy scrub --rebuild"]);
    for (args, damage) in
        [(&["--json"][..], None), (&["--json"], Some("rot")), (&["--json", "--force"], None)]
    {
        if let Some(damage) = damage {
            scene.write("a/manifest.json", damage.as_bytes());
        }
        let run = scene.works(&[rebuild, args].concat());
        assert!(run.stderr.lines().all(|line| line.starts_with("backy: warning: ")), "{run:?}");
        assert!(run.stderr.contains("tags"), "{run:?}");
        let now = status(&scene);
        let uuids: Vec<Value> = (0..3).map(|n| before["revisions"][n]["uuid"].clone()).collect();
        assert_eq!(run.json()["rebuilt"]["revisions"], json!(uuids));
        assert_eq!(run.json()["findings"], json!([]));
        for number in 0..3 {
            assert_eq!(now["revisions"][number]["digest"], before["revisions"][number]["digest"]);
        }
        scene.holds(&states);
    }
    scene.refuses(&["-b", "a", "scrub", "--force"], &["--rebuild"]);
    scene.refuses(&["-b", "a", "scrub", "-n", "--rebuild"], &["--checkonly"]);
    scene.refuses(&["-b", ".", "scrub", "--rebuild"], &["no archive here"]);
}

/// Asks to stop after so many checks.
struct Stop {
    after: u32,
    asked: AtomicU32,
}

impl Observer for Stop {
    fn event(&self, _event: &Event) {}

    fn cancelled(&self) -> bool {
        self.asked.fetch_add(1, Relaxed) >= self.after
    }
}

/// What an interrupted scrub had read is recorded, and so is what it had found.
#[test]
fn an_interrupted_scrub_records_what_it_has_read() {
    let (scene, _) = Scene::with_revisions(4);
    flip(&scene, "a/last.raw", 100);
    let options = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
    let mut partly = 0;
    for after in 0.. {
        let stop = Stop { after, asked: AtomicU32::new(0) };
        let archive = Archive::open(&scene.path("a")).unwrap();
        let mut writer = ArchiveWriter::open(archive, "a test", &stop).unwrap();
        let done = writer.scrub(&options, &SystemClock, &stop);
        drop(writer);
        let now = status(&scene);
        let share = now["coverage"]["verified_share"].as_f64().unwrap();
        match done {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted),
        }
        if 0.0 < share && share < 1.0 {
            partly += 1;
            assert_eq!(now["health"]["level"], "critical");
        }
    }
    assert!(partly > 0);
}
