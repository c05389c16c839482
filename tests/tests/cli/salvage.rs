//! `backy restore --dry-run`, `--keep-going` and `--undo`

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::harness::{SOURCE_BYTES, Scene, noise};

const BLOCK: usize = 65536;

/// A dry run prints what the restore would write, and refuses what that would refuse, without a trace.
#[test]
fn a_dry_run_writes_nothing() {
    let (scene, states) = Scene::with_revisions(2);
    let dry = |args: &[&str]| {
        let before = scene.listing();
        let args: Vec<&str> =
            ["-b", "a", "restore", "--dry-run", "--json"].iter().chain(args).copied().collect();
        let report = scene.works(&args).json();
        assert_eq!(scene.listing(), before, "{args:?}");
        report
    };
    let report = dry(&["-r", "1"]);
    assert_eq!(report["target_kind"], "file");
    assert_eq!((&report["dry_run"], &report["written_extents"]), (&true.into(), &1.into()));
    let real = scene.works(&["-b", "a", "restore", "-r", "1", "--json"]).json();
    assert!(scene.read("source.img") == states[1]);
    assert_eq!(real["dry_run"], false);
    for field in ["written_bytes", "written_extents", "size_bytes", "target_kind"] {
        assert_eq!(report[field], real[field], "{field}");
    }
    assert_eq!(dry(&["-r", "1"])["written_bytes"], 0);
    let report = dry(&["new"]);
    assert_eq!(
        (&report["target_kind"], &report["written_bytes"]),
        (&"new-file".into(), &SOURCE_BYTES.into())
    );
    scene.write("other", &noise(9, 5));
    dry(&["--force", "other"]);
    let run = scene.works(&["-b", "a", "restore", "--dry-run"]);
    assert!(
        run.text().contains("to the file ") && run.text().contains("1 stretch"),
        "{}",
        run.text()
    );
    scene.refuses(&["-b", "a", "restore", "--dry-run", "other"], &["other", "exists", "--force"]);
    scene.refuses(&["-b", "a", "restore", "--dry-run", "a/x"], &["in the archive"]);
    scene.refuses(&["-b", "a", "restore", "--dry-run", "gone/x"], &["gone", "No such file"]);
    scene.refuses(&["-b", "a", "restore", "--dry-run", "-"], &["--dry-run", "omit"]);
}

/// Damage ends a restore. With --keep-going it costs its block, which is named, with exit status 1.
#[test]
fn keep_going_names_what_is_lost() {
    let (scene, states) = Scene::with_revisions(2);
    let mut image = scene.read("a/last.raw");
    image[3 * BLOCK + 1] ^= 1;
    image[SOURCE_BYTES - 1] ^= 1;
    scene.write("a/last.raw", &image);
    let mut salvaged = states[0].clone();
    salvaged[3 * BLOCK..4 * BLOCK].fill(0);
    let last = SOURCE_BYTES / BLOCK * BLOCK;
    salvaged[last..].fill(0);
    scene.refuses(&["-b", "a", "restore", "x"], &["block 3"]);
    for target in ["x", "-"] {
        let run = scene.run(&["-b", "a", "restore", "--keep-going", target]);
        assert_eq!(run.status, Some(1), "{run:?}");
        for line in ["bytes 196608-262143 ", &format!("bytes {last}-{} ", SOURCE_BYTES - 1)] {
            assert!(run.stderr.contains(line), "{line}: {}", run.stderr);
        }
        assert_eq!(run.stderr.lines().count(), 3, "{}", run.stderr);
        let found = if target == "-" { run.stdout } else { scene.read("x") };
        assert!(found == salvaged, "{target}");
    }
    let run = scene.run(&["-b", "a", "restore", "--keep-going", "--force", "--json", "x"]);
    let unreadable = run.json()["unreadable"].clone();
    assert_eq!(unreadable[0], serde_json::json!({ "offset": 3 * BLOCK, "len": BLOCK }));
    assert_eq!(unreadable.as_array().map(Vec::len), Some(2));
    assert_eq!(run.json()["digests_checked"], true);
}

/// A missing delta costs what has to be read through it: the oldest revision keeps its own blocks.
#[test]
fn keep_going_without_a_delta() {
    let (scene, states) = Scene::with_revisions(3);
    let path = scene.works(&["-b", "a", "find", "-r", "1"]);
    scene.damages_the_archive();
    fs::remove_file(path.text().trim_end()).unwrap();
    scene.refuses(&["-b", "a", "restore", "-r", "2", "x"], &["qcow2", "copy of the archive"]);
    let run = scene.run(&["-b", "a", "restore", "-r", "2", "--keep-going", "--json", "x"]);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(run.stderr.contains(path.text().trim_end()), "{}", run.stderr);
    let found = scene.read("x");
    let mut right = 0;
    for (found, expected) in found.chunks(BLOCK).zip(states[2].chunks(BLOCK)) {
        assert!(found == expected || found.iter().all(|&byte| byte == 0));
        right += usize::from(found == expected);
    }
    assert!(right >= 2, "{right}");
}

/// With --undo DIR one command undoes the restore. DIR is as large as what was overwritten.
#[test]
fn undo_restores_the_former_target() {
    let (scene, states) = Scene::with_revisions(3);
    let former = scene.change_source(7);
    let run = scene.works(&["-b", "a", "restore", "-r", "2", "--undo", "u", "--json"]);
    assert!(scene.read("source.img") == states[2]);
    let undo = run.json()["undo"].clone();
    assert_eq!(undo["archive"], scene.text_path("u"));
    let allocated = fs::metadata(scene.path("u/last.raw")).unwrap().blocks() * 512;
    let written = run.json()["written_bytes"].as_u64().unwrap();
    assert!(allocated <= written + 2 * BLOCK as u64, "{allocated} for {written}");
    assert!(undo["saved_bytes"].as_u64().unwrap() <= written);
    for file in ["u/backy.toml", "u/README"] {
        let text = scene.read_text(file);
        for word in ["undo archive", &scene.text_path("source.img"), "only what"] {
            assert!(text.contains(word), "{file}: {text}");
        }
    }
    let status = scene.works(&["-b", "u", "status", "--json"]).json();
    assert_eq!(status["revisions"][0]["tags"], serde_json::json!(["undo"]));
    // What it does not hold is no damage.
    assert_eq!(status["revisions"][0]["damaged"], serde_json::json!([]));
    assert_eq!(status["health"]["level"], "ok");
    scene.works(&["-b", "u", "scrub"]);
    scene.refuses(&["-b", "u", "backup", "--force"], &["undo archive", "restore"]);
    scene.works(&["-b", "u", "restore"]);
    assert!(scene.read("source.img") == former);
}

/// What was changed between a restore and its undoing stays, and is named. The exit status is 0, since all that was
/// saved is restored.
#[test]
fn undo_lists_what_changed_since_the_restore() {
    let (scene, states) = Scene::with_revisions(2);
    let former = scene.read("source.img");
    scene.works(&["-b", "a", "restore", "-r", "1", "--undo", "u"]);
    let mut now = states[1].clone();
    assert_eq!(former[SOURCE_BYTES - 9..], now[SOURCE_BYTES - 9..], "not overwritten");
    now[SOURCE_BYTES - 9..].copy_from_slice(&noise(3, 9));
    scene.write("source.img", &now);
    let run = scene.works(&["-b", "u", "restore", "--json"]);
    assert_eq!(run.json()["changed_since"].as_array().map(Vec::len), Some(1));
    assert!(run.stderr.contains("changed after the restore"), "{}", run.stderr);
    let mut expected = former;
    expected[SOURCE_BYTES - 9..].copy_from_slice(&now[SOURCE_BYTES - 9..]);
    assert!(scene.read("source.img") == expected);
}

/// A longer file, which the restore truncates, comes back in full.
#[test]
fn undo_of_a_file_that_is_cut_off() {
    let (scene, states) = Scene::with_revisions(1);
    let former = noise(5, SOURCE_BYTES + 3 * BLOCK);
    scene.write("longer", &former);
    scene.works(&["-b", "a", "restore", "--force", "--undo", "u", "longer"]);
    assert!(scene.read("longer") == states[0]);
    scene.works(&["-b", "u", "restore"]);
    assert!(scene.read("longer") == former);
}

/// Folders that cannot hold an undo archive, and targets that need none, are refused.
#[test]
fn undo_archives_in_unsuitable_folders_are_refused() {
    let (scene, _) = Scene::with_revisions(2);
    fs::create_dir(scene.path("with")).unwrap();
    scene.write("with/disk", &noise(1, 100));
    fs::create_dir(scene.path("read")).unwrap();
    scene.write("read/README", b"mine");
    for (target, undo, word) in [
        ("source.img", "a", "in the archive"),
        ("source.img", "a/u", "in the archive"),
        ("source.img", "source.img", "expected a folder"),
        ("source.img", "read", "README"),
        ("with/disk", "with", "is in that folder"),
        ("new.img", "u", "does not exist"),
    ] {
        for dry_run in [&[][..], &["--dry-run"]] {
            let args: Vec<&str> = ["-b", "a", "restore", "--force", "--undo", undo, target]
                .iter()
                .chain(dry_run)
                .copied()
                .collect();
            scene.refuses(&args, &[word, "--undo"]);
        }
    }
    scene.refuses(&["-b", "a", "restore", "--undo", "u", "-"], &["--undo", "omit"]);
    scene.works(&["-b", "a", "restore", "-r", "1", "--undo", "u"]);
    scene.refuses(&["-b", "a", "restore", "--undo", "u"], &["already holds an archive", "--undo"]);
}
