//! An archive that other users can write to: told by the status and by every command that changes something.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use backy_tests::qemu::skipped;

use super::harness::{Scene, is_root, tool};

fn set_mode(scene: &Scene, name: &str, mode: u32) {
    fs::set_permissions(scene.path(name), PermissionsExt::from_mode(mode)).unwrap();
}

/// What the status has to say of it, if anything.
fn warnings(scene: &Scene) -> Vec<String> {
    let status = scene.works(&["-b", "a", "status"]);
    let lines = status.text().lines().filter(|line| line.starts_with("WARNING: "));
    lines.map(str::to_owned).collect()
}

/// Who may write to the folder can replace any file in it; who may write to the config decides what is read. Both are told with
/// what to do, and the command does its work all the same.
#[test]
fn it_is_told_and_no_error() {
    let (scene, states) = Scene::with_revisions(2);
    assert_eq!(warnings(&scene), Vec::<String>::new());
    for (name, mode, good) in
        [("a", 0o702, 0o700), ("a", 0o1777, 0o755), ("a/backy.toml", 0o606, 0o600)]
    {
        set_mode(&scene, name, mode);
        let path = scene.text_path(name);
        let told = |text: &str| {
            let words = [path.as_str(), ": every user may write to it", "; ", "chmod go-w"];
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        };
        let warnings = warnings(&scene);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        told(&warnings[0]);
        for args in [
            &["backup", "--force"][..],
            &["-q", "backup", "--force"],
            &["tag", "0", "+x"],
            &["scrub"],
            &["rm", "--force", "0,1"],
            &["maintenance"],
        ] {
            let args: Vec<&str> = ["-b", "a"].iter().chain(args).copied().collect();
            let run = scene.works(&args);
            assert!(run.stderr.starts_with("backy: warning: "), "{args:?}: {run:?}");
            assert_eq!(run.stderr.lines().count(), 1, "{args:?}: {run:?}");
            told(&run.stderr);
        }
        set_mode(&scene, name, good);
        assert_eq!(self::warnings(&scene), Vec::<String>::new(), "{good:o}");
        assert_eq!(scene.works(&["-b", "a", "tag", "0", "+y"]).stderr, "");
    }
    scene.holds(&states);
}

/// A group counts as well, unless it is that of root.
#[test]
fn groups_count() {
    if !is_root() || tool("chgrp", &["--version"]).is_none() {
        return skipped("only root can give a folder to another group");
    }
    let (scene, _) = Scene::with_revisions(1);
    set_mode(&scene, "a", 0o770);
    assert_eq!(warnings(&scene), Vec::<String>::new());
    tool("chgrp", &["65534", &scene.text_path("a")]).unwrap();
    let warnings = warnings(&scene);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("a: group 65534 may write to it"), "{warnings:?}");
    // Reading it is no matter.
    set_mode(&scene, "a", 0o755);
    assert_eq!(self::warnings(&scene), Vec::<String>::new());
}
