//! `backy import`

use std::fs;
use std::path::Path;

use backy_tests::legacy::{OldArchive, uuid};

use super::harness::{Scene, noise};

fn scene() -> (Scene, OldArchive) {
    let scene = Scene::new();
    let mut state = noise(4, 300_000);
    let mut states = vec![state.clone()];
    state[5000..6000].fill(7);
    states.push(state);
    let old = OldArchive::write(&scene.path("old"), 4096, 0, &states);
    (scene, old)
}

/// It makes the archive with the old source, prints in one line what it imported, and the second time that everything
/// is there.
#[test]
fn import_creates_the_archive_and_prints_what_was_imported() {
    let (scene, old) = scene();
    let run = scene.works(&["-b", "a", "import", "old"]);
    let line = "Imported 2 revisions from old, made 2014-03-31 12:45 to 2014-04-01 12:45.\n";
    assert_eq!((run.text(), run.stderr.as_str()), (line, ""));
    assert!(scene.read_text("a/backy.toml").contains("source = \"/dev/vg0/old\""));
    assert_eq!(scene.read("a/last.raw"), old.revisions[1].1);
    scene.works(&["-b", "a", "restore", "-r", &uuid(0), "out"]);
    assert_eq!(scene.read("out"), old.revisions[0].1);
    let before = scene.state();
    let run = scene.works(&["-b", "a", "import", "old"]);
    assert_eq!(run.text(), "Imported nothing from old; 2 already imported.\n");
    let changed: Vec<_> =
        scene.state().into_iter().filter(|(path, what)| before.get(path) != Some(what)).collect();
    assert!(changed.iter().all(|(path, _)| path.ends_with("lock")), "{changed:?}");
}

/// The caller chooses the block size of a new archive. For an existing one it has to match. An existing config stays.
#[test]
fn the_block_size_and_the_config_of_the_archive() {
    let (scene, _) = scene();
    fs::create_dir(scene.path("a")).unwrap();
    let config = format!("source = \"{}\"\n", scene.text_path("source.img"));
    scene.write("a/backy.toml", config.as_bytes());
    scene.works(&["-q", "-b", "a", "import", "--block-size", "4K", "old"]);
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    assert_eq!(status["block_size"], 4096);
    assert_eq!(scene.read_text("a/backy.toml"), config);
    assert_eq!(status["last_source"]["kind"], "archive of 2014");
    let words = ["4096", "65536", "--block-size"];
    scene.refuses(&["-b", "a", "import", "--block-size", "64K", "old"], &words);
    scene.works(&["-b", "a", "backup"]);
    assert_eq!(scene.read("a/last.raw"), scene.read("source.img"));
}

/// Warnings name what cannot be imported, also with -q, and the exit status is 1. The rest is imported.
#[test]
fn import_lists_what_it_cannot_import() {
    let (scene, old) = scene();
    old.change_data(0, |data| data[10] ^= 1);
    scene.write("old/extra.rev", b"{}");
    let run = scene.run(&["-q", "-b", "a", "import", "old"]);
    assert_eq!((run.status, run.text()), (Some(1), ""));
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("backy: warning: old/") && lines[0].contains("block 1:"));
    assert!(lines[1].starts_with("backy: warning: old/extra.rev: not imported: "), "{lines:?}");
    assert!(lines[2].starts_with("backy: error: old: imported in part"), "{lines:?}");
    let report = scene.run(&["-b", "a", "import", "--json", "old"]);
    assert_eq!(report.status, Some(1));
    let report = report.json();
    assert_eq!(report["skipped"][0]["what"], "extra.rev");
    assert_eq!(report["present"][0]["damaged"], serde_json::json!([{"offset": 4096, "len": 4096}]));
    let run = scene.run(&["-v", "-b", "b", "import", "old"]);
    assert!(run.text().ends_with("; 1 damaged; 1 skipped.\n"), "{run:?}");
    assert!(run.stderr.contains("they never expire"), "{run:?}");
    scene.works(&["-b", "a", "restore", "-r", "0", "out"]);
    assert_eq!(scene.read("out"), old.revisions[1].1);
    let args = ["-b", "a", "restore", "-r", "1", "out2"];
    let run = scene.run(&args);
    assert!(run.status == Some(1) && run.stderr.contains("block 0 "), "{run:?}");
}

/// A folder that is no old archive is refused before anything is made. So is one that the import would write into,
/// and an archive with revisions of its own.
#[test]
fn import_refuses_folders_without_an_old_archive() {
    let (scene, _) = scene();
    fs::create_dir(scene.path("empty")).unwrap();
    scene.refuses(&["-b", "a", "import", "empty"], &["empty", "2014"]);
    scene.refuses(&["-b", "a", "import", "none"], &["none"]);
    scene.refuses(&["-b", "a", "import", "source.img"], &["source.img"]);
    scene.refuses(&["-b", "old", "import", "old"], &["must not contain each other"]);
    scene.refuses(&["-b", "old/new", "import", "old"], &["must not contain each other"]);
    assert!(!Path::new(&scene.text_path("a")).exists());
    scene.works(&["-b", "a", "init", "source.img"]);
    scene.works(&["-b", "a", "backup"]);
    scene.refuses(&["-b", "a", "import", "old"], &["a new archive", "-b"]);
}
