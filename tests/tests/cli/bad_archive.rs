//! Problems of the archive: each is one line that names the file and the remedy, with exit status 1, and nothing
//! changes.

use std::fs;

use backy_lib::Digest;

use super::harness::Scene;

/// Rewrites the manifest with a change, as an editor would who also updates the checksum.
fn rewrite_manifest(scene: &Scene, change: impl Fn(String) -> String) {
    let text = scene.read_text("a/manifest.json");
    let key = "\"checksum\": \"";
    let at = text.find(key).unwrap() + key.len();
    let zeros = "0".repeat(64);
    let blank = change(format!("{}{zeros}{}", &text[..at], &text[at + 64..]));
    let checksum = Digest::of(blank.as_bytes()).to_string();
    scene.write("a/manifest.json", blank.replacen(&zeros, &checksum, 1).as_bytes());
}

/// Every command refuses with these words.
fn all_refuse(scene: &Scene, words: &[&str]) {
    for command in [
        &["backup", "-f"][..],
        &["backup"],
        &["status"],
        &["status", "--json"],
        &["find"],
        &["restore", "x"],
        &["restore"],
        &["restore", "-"],
    ] {
        let args: Vec<&str> = ["-b", "a"].iter().chain(command).copied().collect();
        scene.refuses(&args, words);
    }
}

/// A damaged manifest is never used: edited, torn, empty, not text, huge numbers.
#[test]
fn damaged_manifest() {
    let (scene, _) = Scene::with_revisions(2);
    let path = scene.text_path("a/manifest.json");
    let good = scene.read("a/manifest.json");
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for bad in [&flipped[..], &good[..good.len() / 2], b"", b"{}", b"\xff\xfe", b"[1e999]"] {
        scene.write("a/manifest.json", bad);
        all_refuse(&scene, &[&path, "copy of the archive"]);
    }
}

/// A missing manifest beside an image is damage, not a place for a new archive.
#[test]
fn missing_manifest() {
    let (scene, _) = Scene::with_revisions(2);
    fs::remove_file(scene.path("a/manifest.json")).unwrap();
    all_refuse(&scene, &[&scene.text_path("a/manifest.json"), "copy of the archive"]);
}

/// Unknown features and formats of the manifest are named and refused.
#[test]
fn unknown_features_of_the_manifest() {
    let (scene, _) = Scene::with_revisions(2);
    let path = scene.text_path("a/manifest.json");
    rewrite_manifest(&scene, |text| {
        text.replace("\"incompatible\": []", "\"incompatible\": [\"time-travel\"]")
    });
    all_refuse(&scene, &[&path, "time-travel", "version of backy"]);
    rewrite_manifest(&scene, |text| text.replace("\"format\": 1", "\"format\": 2"));
    all_refuse(&scene, &[&path, "format 2", "version of backy"]);
}

/// A manifest that points out of the archive is refused.
#[test]
fn manifest_with_paths_outside_the_archive_is_refused() {
    let (scene, _) = Scene::with_revisions(2);
    rewrite_manifest(&scene, |text| {
        text.replace("\"image\": \"last.raw\"", "\"image\": \"/etc/passwd\"")
    });
    all_refuse(&scene, &[&scene.text_path("a/manifest.json"), "/etc/passwd", "last.raw"]);
}

/// Changes bytes of a file of the archive.
fn patch(scene: &Scene, name: &str, offset: usize, bytes: &[u8]) {
    let mut content = scene.read(name);
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
    scene.write(name, &content);
}

/// A revision whose delta is missing, truncated, or not a qcow2 file is not restored. Newer ones are.
#[test]
fn damaged_delta() {
    let (scene, states) = Scene::with_revisions(2);
    let name = scene.file_of_archive(".qcow2");
    let path = scene.text_path(&name);
    let good = scene.read(&name);
    let check = |words: &[&str]| {
        let words: Vec<&str> = [path.as_str()].iter().chain(words).copied().collect();
        for target in ["x", "source.img", "-"] {
            scene.refuses(&["-b", "a", "restore", "-r", "1", target], &words);
        }
        assert!(scene.works(&["-b", "a", "restore", "-"]).stdout == states[0]);
    };
    scene.write(&name, &good[..100]);
    check(&["copy of the archive"]);
    scene.write(&name, b"");
    check(&["copy of the archive"]);
    scene.write(&name, &good);
    patch(&scene, &name, 0, b"RUBB");
    check(&["magic number", "copy of the archive"]);
    fs::remove_file(scene.path(&name)).unwrap();
    check(&["No such file", "copy of the archive"]);
    fs::create_dir(scene.path(&name)).unwrap();
    check(&["regular file"]);
    fs::remove_dir(scene.path(&name)).unwrap();
    scene.write(&name, &good);
    assert!(scene.works(&["-b", "a", "restore", "-r", "1", "-"]).stdout == states[1]);
}

/// Rot in the data of a delta or of the image is never restored, and no new target appears.
#[test]
fn rotten_data() {
    let (scene, _) = Scene::with_revisions(2);
    let name = scene.file_of_archive(".qcow2");
    let delta = scene.read(&name);
    // The old content of the changed blocks is noise, which is stored as it is: find and flip it.
    let image = scene.read("a/last.raw");
    for at in (0..delta.len()).rev().step_by(4096).take(64) {
        patch(&scene, &name, at, &[delta[at] ^ 0xff]);
    }
    let path = scene.text_path(&name);
    scene.refuses(&["-b", "a", "restore", "-r", "1", "x"], &[&path, "damaged"]);
    scene.write(&name, &delta);
    patch(&scene, "a/last.raw", 1_000_000, &[image[1_000_000] ^ 1]);
    let path = scene.text_path("a/last.raw");
    for revision in ["0", "1"] {
        scene
            .refuses(&["-b", "a", "restore", "-r", revision, "x"], &[&path, "damaged", "block 15"]);
    }
}

/// A delta whose backing file is outside the archive is not opened.
#[test]
fn backing_file_outside_the_archive() {
    let (scene, _) = Scene::with_revisions(2);
    let name = scene.file_of_archive(".qcow2");
    let content = scene.read(&name);
    let at = content.windows(8).position(|bytes| bytes == b"last.raw").unwrap();
    for backing in [b"/dev/sda", b"../x.raw", b"./x/../y"] {
        patch(&scene, &name, at, backing);
        let found = std::str::from_utf8(backing).unwrap();
        let words = [scene.text_path(&name), found.to_owned(), "last.raw".to_owned()];
        let words = words.each_ref().map(String::as_str);
        scene.refuses(&["-b", "a", "restore", "-r", "1", "x"], &words);
    }
}

/// Unknown feature bits of a qcow2 header are refused by number.
#[test]
fn unknown_features_of_a_delta() {
    let (scene, _) = Scene::with_revisions(2);
    let name = scene.file_of_archive(".qcow2");
    patch(&scene, &name, 72, &(1u64 << 40 | 1 << 3).to_be_bytes());
    let path = scene.text_path(&name);
    scene.refuses(&["-b", "a", "restore", "-r", "1", "x"], &[&path, "0x10000000000", "features"]);
}

/// Missing, truncated or changed digest files are named, and nothing is restored unchecked.
#[test]
fn damaged_digests() {
    for suffix in [".image.digests", ".delta.digests"] {
        let (scene, _) = Scene::with_revisions(2);
        let name = scene.file_of_archive(suffix);
        let path = scene.text_path(&name);
        let good = scene.read(&name);
        let check = |words: &[&str]| {
            let words: Vec<&str> = [path.as_str()].iter().chain(words).copied().collect();
            scene.refuses(&["-b", "a", "restore", "-r", "1", "x"], &words);
        };
        scene.write(&name, &good[..1000]);
        check(&["copy of the archive"]);
        scene.write(&name, &good[..good.len() - 32]);
        check(&["copy of the archive"]);
        scene.write(&name, &good);
        patch(&scene, &name, 0, b"X");
        check(&["BACKYDIG", "copy of the archive"]);
        fs::remove_file(scene.path(&name)).unwrap();
        check(&["No such file", "copy of the archive"]);
    }
}

/// A digest that was changed alone is noticed before anything is written.
#[test]
fn a_changed_digest() {
    let (scene, _) = Scene::with_revisions(1);
    let name = scene.file_of_archive(".image.digests");
    let content = scene.read(&name);
    patch(&scene, &name, 4096 + 5 * 32, &[content[4096 + 5 * 32] ^ 1]);
    scene.write("x", b"precious");
    let args = ["-b", "a", "restore", "--force", "x"];
    scene.refuses(&args, &["digest", "copy of the archive"]);
}

/// A backup onto a damaged archive is refused and leaves everything as it was.
#[test]
fn backup_refuses_a_damaged_archive() {
    for suffix in [".image.digests", ".qcow2", "last.raw"] {
        let (scene, _) = Scene::with_revisions(2);
        scene.change_source(7);
        let name = scene.file_of_archive(suffix);
        let good = scene.read(&name);
        let path = scene.text_path(&name);
        fs::remove_file(scene.path(&name)).unwrap();
        if suffix == ".image.digests" {
            // The image proves them. The backup repairs them and does nothing else. Then the next backup works.
            for content in [None, Some(&good[..100])] {
                content.into_iter().for_each(|content| scene.write(&name, content));
                let words = [&path, "; repaired: ", "no backup was made; run it again"];
                scene.fails(&["-b", "a", "backup", "-f"], &words);
                assert!(scene.read(&name) == good, "the digests are not what they were");
            }
        } else if suffix == ".qcow2" {
            // An older revision is lost with or without the backup.
            let run = scene.run(&["-b", "a", "backup", "-f"]);
            assert!(run.stderr.contains("warning") && run.stderr.contains(&path), "{}", run.stderr);
            assert_eq!(run.status, Some(0), "{}", run.stderr);
        } else {
            scene.refuses(&["-b", "a", "backup", "-f"], &[&path, "found none"]);
            scene.write(&name, &good[..100]);
            scene.refuses(&["-b", "a", "backup", "-f"], &[&path]);
        }
        // With the file back, the next backup works.
        scene.write(&name, &good);
        scene.works(&["-b", "a", "backup", "-f"]);
        assert!(scene.works(&["-b", "a", "restore", "-"]).stdout == scene.read("source.img"));
    }
}
