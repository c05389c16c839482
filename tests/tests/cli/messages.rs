//! Messages for people: what other tools call things, and what prevents an operation.

use std::fs;

use backy_tests::qemu::skipped;

use super::harness::{Scene, is_root, tool};

/// Undoes something with a program at the end of a test.
struct Undone(&'static str, Vec<String>);

impl Drop for Undone {
    fn drop(&mut self) {
        let args: Vec<&str> = self.1.iter().map(String::as_str).collect();
        let _ = tool(self.0, &args);
    }
}

/// A command of another tool is answered with the one that does the same here.
#[test]
fn words_of_other_tools_get_a_hint() {
    let scene = Scene::new();
    for (word, hint) in [
        ("list", "'backy status'"),
        ("snapshots", "'backy status'"),
        ("forget", "'backy maintenance'"),
        ("prune", "'backy maintenance'"),
        ("verify", "'backy scrub'"),
        ("umount", "'umount MOUNTPOINT'"),
    ] {
        let line = scene.refuses(&[word], &[word, hint, "see 'backy --help'"]);
        assert!(!line.contains("similar"), "{line}");
    }
}

/// Naming the folder above archives, or the archive in the wrong place, is an error that says how to name it.
#[test]
fn an_archive_that_is_named_wrongly_gets_a_hint() {
    let (scene, _) = Scene::with_revisions(1);
    let above = scene.text_path("");
    let above = above.trim_end_matches('/');
    scene.refuses(&["-b", ".", "status"], &["no archive here", &format!("use -b {above}/a")]);
    scene.works(&["-b", "b c", "init"]);
    let words = [&format!("use -b {above}/a, or '{above}/b c'"), "'backy check "];
    scene.refuses(&["-b", above, "backup"], &words.map(|word: &str| word));
    for args in [&["status", "./a"][..], &["backup", "./a"], &["scrub", "./a"], &["rm", "./a"]] {
        scene.refuses(args, &["to name the archive, use -b ./a", "--help"]);
    }
    scene.refuses(&["--repo", "a", "status"], &["-b names the folder of the archive"]);
}

/// An invalid number is reported in words for people.
#[test]
fn invalid_numbers_are_usage_errors() {
    let scene = Scene::with_archive();
    for args in [
        &["maintenance", "-k", "many"][..],
        &["maintenance", "-k", "-1"],
        &["export", "--level", "x", "f"],
    ] {
        let args = [&["-b", "a"], args].concat();
        let line = scene.refuses(&args, &["--help"]);
        assert!(!line.contains("invalid digit") && !line.contains("..="), "{line}");
    }
}

/// A '~' that the shell has not expanded makes no folder of that name.
#[test]
fn a_literal_tilde_creates_no_folder() {
    let scene = Scene::new();
    for args in [
        &["--backupdir=~/a", "init", "source.img"][..],
        &["-b~/a", "init"],
        &["-b", "~/a", "init"],
        &["-b", "a", "restore", "--undo=~/u"],
    ] {
        scene.refuses(args, &["the shell did not expand the '~'", "'./~/"]);
    }
    let probe = scene.run(&["--backupdir=~/a", "status", "--check"]);
    assert_eq!(probe.status, Some(3), "{probe:?}");
    scene.works(&["-b", "./~/a", "init", "source.img"]);
    assert!(scene.path("~/a/manifest.json").exists());
}

/// A config in another encoding, or with a value of the wrong type, is reported with line and column and without
/// jargon.
#[test]
fn a_config_in_another_encoding_is_an_error_with_its_place() {
    let scene = Scene::with_archive();
    let wide: Vec<u8> = "source = \"/x\"\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (config, place, word) in [
        (&b"# good\n# t\xe4glich\n"[..], ":2:4: ", "save the file as UTF-8"),
        (&wide, ":1:1: ", "UTF-16"),
        (b"[schedule]\ndaily = \"1d\"\n", ":2:9: ", "a section such as [schedule.daily]"),
    ] {
        scene.write("a/backy.toml", config);
        let line =
            scene.refuses(&["-b", "a", "backup"], &["backy.toml", place, word, "correct it there"]);
        assert!(!line.contains("scrub"), "{line}");
        let checked = scene.run(&["-b", "a", "status", "--check"]);
        assert!(checked.status == Some(2) && checked.text().contains(place), "{checked:?}");
    }
}

/// The error for a snapshot that a hook did not make blames the hook.
#[test]
fn missing_snapshot_device_names_the_hook() {
    let scene = Scene::with_archive();
    let config = scene.read_text("a/backy.toml");
    let snapshot = scene.text_path("snapshot");
    let hooks = format!("{config}\n[hooks]\nbefore = \"true\"\nsnapshot = {snapshot:?}\n");
    scene.write("a/backy.toml", hooks.as_bytes());
    let words =
        [&snapshot, "No such file", "the hook 'before' of backy.toml must create this snapshot"];
    scene.fails(&["-b", "a", "backup"], &words.map(|word: &str| word));
}

/// On a read-only file system root does not get the advice to become root, and the verdict reports the problem.
#[test]
fn a_read_only_archive_is_reported() {
    let (scene, _) = Scene::with_revisions(1);
    if !is_root() {
        return skipped("mounting needs root");
    }
    fs::create_dir(scene.path("ro")).unwrap();
    let (archive, place) = (scene.text_path("a"), scene.text_path("ro"));
    let mounted =
        tool("mount", &["--bind", &archive, &place]).is_some_and(|run| run.status == Some(0));
    let _undone = Undone("umount", vec![place.clone()]);
    let read_only = tool("mount", &["-o", "remount,bind,ro", &place]);
    if !mounted || read_only.is_none_or(|run| run.status != Some(0)) {
        return skipped("mount is not allowed here");
    }
    for args in [&["backup", "--force"][..], &["tag", "0", "+x"]] {
        let line = scene.refuses(
            &[&["-b", "ro"], args].concat(),
            &["Read-only", "mounted read-only: look for the reason in the kernel log"],
        );
        assert!(!line.contains("such as root"), "{line}");
    }
    let verdict = scene.run(&["-b", "ro", "status", "--check"]);
    assert!(verdict.status == Some(1) && verdict.text().contains("read-only"), "{verdict:?}");
    assert_eq!(scene.run(&["-b", "a", "status", "--check"]).status, Some(0));
}

/// The error names an immutable file as such.
#[test]
fn an_immutable_archive_is_reported() {
    let (scene, _) = Scene::with_revisions(1);
    let path = scene.text_path("a");
    let made = tool("chattr", &["+i", &path]).is_some_and(|run| run.status == Some(0));
    let _undone = Undone("chattr", vec!["-i".to_owned(), path.clone()]);
    if !made {
        return skipped("chattr cannot make a folder immutable here");
    }
    let line =
        scene.refuses(&["-b", "a", "backup", "--force"], &["not permitted", "immutable", "lsattr"]);
    assert!(!line.contains("such as root"), "{line}");
    let status = scene.works(&["-b", "a", "status"]);
    assert!(
        status.text().contains("WARNING: the archive is not writable")
            && status.text().contains("immutable"),
        "{status:?}"
    );
}
