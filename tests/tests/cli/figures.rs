//! Which archive figures belong to: those of one archive never replace those of another, and none end in silence.

use std::fs;
use std::process::Command;

use super::harness::Scene;
use super::monitors::{parse_prometheus, single};

/// A copy of an archive has the same textfile in its config: the figures of the original stay, those of the copy are
/// beside them, and a warning says so. Files of others stay as well.
#[test]
fn a_copied_archive_leaves_the_metrics_of_the_original_alone() {
    let (scene, _) = Scene::with_revisions(1);
    fs::create_dir(scene.path("p")).unwrap();
    let file = scene.path("p/node.prom");
    scene.monitor(&format!("textfile = \"{}\"", file.display()));
    let run = scene.works(&["-b", "a", "tag", "0", "+x"]);
    assert_eq!(run.stderr, "");
    let original = fs::read_to_string(&file).unwrap();
    let status = Command::new("cp").arg("-a").arg(scene.path("a")).arg(scene.path("copy")).status();
    assert!(status.unwrap().success());
    for _ in 0..2 {
        let run = scene.works(&["-b", "copy", "tag", "0", "+y"]);
        assert!(run.stderr.starts_with("backy: warning: ") && run.stderr.contains("is a copy"));
        assert_eq!(run.stderr.matches('\n').count(), 1, "{}", run.stderr);
        assert_eq!(fs::read_to_string(&file).unwrap(), original);
        let files: Vec<_> = fs::read_dir(scene.path("p")).unwrap().flatten().collect();
        assert_eq!(files.len(), 2, "{files:?}");
        let other = files.iter().find(|other| other.file_name() != "node.prom").unwrap();
        let metrics = parse_prometheus(&fs::read_to_string(other.path()).unwrap());
        let labels = metrics["backy_status"].iter().map(|(labels, _)| labels["archive"].clone());
        assert_eq!(labels.collect::<Vec<_>>(), [scene.text_path("copy")]);
    }
    scene.works(&["-b", "a", "tag", "0", "+z"]);
    assert_ne!(fs::read_to_string(&file).unwrap(), original);
    fs::write(&file, "node_load1 0.5\n").unwrap();
    let run = scene.works(&["-b", "a", "tag", "0", "-z"]);
    assert!(run.stderr.contains("backy did not write"), "{}", run.stderr);
    assert_eq!(fs::read_to_string(&file).unwrap(), "node_load1 0.5\n");
}

/// Figures of an archive that cannot be opened say that it is unknown. An empty file would end its series and their
/// alerts.
#[test]
fn metrics_of_an_unreadable_archive_are_unknown() {
    let (scene, _) = Scene::with_revisions(1);
    scene.write("a/manifest.json", b"{}");
    for name in ["a", "nowhere"] {
        let run = scene.run(&["-b", name, "status", "--prometheus"]);
        assert_eq!(run.status, Some(1), "{run:?}");
        assert!(run.stderr.starts_with("backy: error: "), "{run:?}");
        assert_eq!(single(&parse_prometheus(run.text()), "backy_status"), Some(3.0));
    }
}
