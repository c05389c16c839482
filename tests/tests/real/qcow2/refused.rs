//! What keeps an image from being backed up, or from keeping a bitmap: each has its message.

use std::fs;
use std::path::Path;
use std::process::Command;

use backy_tests::qemu;
use serde_json::Value;

use super::{BYTES, Scene, address, create, guest, reason, users};
use crate::mounted::until;
use crate::site::{Site, backy, noise, run, text, words, works};
use crate::stand_ins::{StandIns, real, with};

/// A virtual machine that has the image open: no backup, advice, and nothing is left at the image or in the archive.
#[test]
fn an_image_in_use_is_refused() {
    let Some(mut scene) = Scene::new() else { return };
    scene.backup();
    let marks = scene.bitmaps();
    let guest = guest(&scene.site.source, &[]);
    let before = scene.site.contents();
    let output = run(&mut scene.site.backy(&["backup", "--force"]));
    let said = words(&output);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("has it open for writing; shut that down"), "{said}");
    assert!(scene.site.contents() == before, "the archive has changed");
    assert_eq!(scene.bitmaps(), marks);
    let looked = run(&mut scene.site.backy(&["source"]));
    assert!(words(&looked).contains("has it open"), "{}", words(&looked));
    let other = scene.path("other");
    let said = run(&mut backy(&other, &["init", &address(&scene.site.source)]));
    assert!(said.status.success() && words(&said).contains("has it open"), "{}", words(&said));
    drop(guest);
    until("the guest has gone", || users(&scene.site.source) == 0);
    // It has written nothing, but QEMU does not know that.
    scene.doubts("was not saved");
}

/// An encrypted image, and a plain one over it: the revision is the decrypted disk. Without the right passphrase there
/// is no backup, and the message says what to do.
#[test]
fn encrypted_images_are_read_decrypted() {
    if !qemu::available() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let secret = folder.path().join("pass,phrase");
    fs::write(&secret, b"correct horse").expect("write the passphrase");
    let object = format!("secret,id=s,file={}", text(&secret).replace(',', ",,"));
    let image = folder.path().join("encrypted.qcow2");
    let luks = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    works(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "--object", &object, "-o", luks])
            .args([text(&image), "8M"]),
    );
    let options = format!("driver=qcow2,encrypt.key-secret=s,file.filename={}", text(&image));
    let write = ["-c", "write -P 9 1M 100000"];
    works(
        Command::new("qemu-io").args(["--object", &object, "--image-opts", &options]).args(write),
    );
    let mut bytes = vec![0; 8 << 20];
    bytes[1 << 20..(1 << 20) + 100_000].fill(9);

    let archive = folder.path().join("archive");
    works(&mut backy(&archive, &["init", &address(&image)]));
    let site = Site { folder: archive, source: image.clone(), expected: Vec::new() };
    let mut scene = Scene { site, folder };
    let refused = |scene: &Scene, part: &str| {
        let output = run(&mut scene.site.backy(&["backup", "--force"]));
        let said = words(&output);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains(part), "{said}");
        assert_eq!(scene.site.committed().len(), 0);
    };
    refused(&scene, "it is encrypted; set secret_file");
    let wrong = scene.path("wrong");
    fs::write(&wrong, b"correct horse\n").expect("write a passphrase");
    let wrong_one = format!("secret_file = \"{}\"\n", text(&wrong));
    scene.site.configure(|config| wrong_one + &config);
    refused(&scene, "Invalid password");
    scene.site.configure(|config| config.replace(text(&wrong), text(&secret)));
    scene.backup_of(&bytes);
    works(Command::new("qemu-io").args([
        "--object",
        &object,
        "--image-opts",
        &options,
        "-c",
        "write -P 8 3M 1000",
    ]));
    bytes[3 << 20..(3 << 20) + 1000].fill(8);
    let (hints, read) = scene.backup_of(&bytes);
    assert!(hints["since"].is_string() && read <= 64 << 10, "{hints}");

    let below = scene.path("below.qcow2");
    fs::rename(&image, &below).expect("rename");
    let over = ["create", "-q", "-u", "-f", "qcow2", "-b", text(&below), "-F", "qcow2"];
    works(Command::new("qemu-img").args(over).arg(&image).arg("8M"));
    io_with(&object, &image, "write -P 7 4M 1000");
    bytes[4 << 20..(4 << 20) + 1000].fill(7);
    scene.doubts_of(&bytes, "what is below the image has changed");
    scene.site.check_at_rest();
}

/// Writes to a plain image whose backing file is encrypted.
fn io_with(object: &str, image: &Path, command: &str) {
    let options =
        format!("driver=qcow2,backing.encrypt.key-secret=s,file.filename={}", text(image));
    works(Command::new("qemu-io").args([
        "--object",
        object,
        "--image-opts",
        &options,
        "-c",
        command,
    ]));
}

/// Images that keep no bitmaps, or whose data can be changed without QEMU, are read whole each time, and the report
/// says why. With `mode = "require"` there is no backup.
#[test]
fn images_without_bitmaps_are_read_whole() {
    let old = |image: &Path| create(image, &["-o", "compat=0.10"], BYTES);
    let raw = |image: &Path| {
        let data = format!("data_file={},data_file_raw=on", text(&image.with_file_name("d.raw")));
        create(image, &["-o", &data], BYTES);
    };
    for (make, why) in
        [(&old as &dyn Fn(&Path), "compat=1.1"), (&raw, "its data are in another file")]
    {
        let Some(mut scene) = Scene::made(make) else { return };
        for round in 0..3 {
            scene.io(&[&format!("write -P {round} 2M 1000")]);
            let (hints, _) = scene.backup();
            assert_eq!(reason(&hints).contains(why), round > 0, "{hints}");
            assert_eq!(scene.bitmaps().len(), 0);
        }
        let looked = works(&mut scene.site.backy(&["source"]));
        assert!(String::from_utf8_lossy(&looked).contains(why), "{why}");
        scene.site.configure(|config| config + "[tracking]\nmode = \"require\"\n");
        let output = run(&mut scene.site.backy(&["backup", "--force"]));
        assert!(words(&output).contains(why), "{}", words(&output));
        assert_eq!(output.status.code(), Some(1));
        scene.site.check_at_rest();
    }
}

/// What is no qcow2 image, programs that are missing, fail or print something else: one line, status 1, no mark left,
/// and the archive as it was.
#[test]
fn bad_images_and_programs_are_refused() {
    let Some(mut scene) = Scene::new() else { return };
    let empty = scene.path("empty");
    works(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", text(&empty), "0"]));
    let archive = scene.path("of nothing");
    works(&mut backy(&archive, &["init", &address(&empty)]));
    let output = run(&mut backy(&archive, &["backup"]));
    assert!(words(&output).contains("it is empty: found 0 bytes"), "{}", words(&output));
    for (name, part) in [("raw", "not in qcow2 format"), ("none", "does not exist yet")] {
        let file = scene.path(name);
        if name == "raw" {
            fs::write(&file, noise(1, 1 << 20)).expect("write a file");
        }
        let said = run(&mut backy(&scene.path("another"), &["init", &address(&file)]));
        assert!(words(&said).contains(part), "{}", words(&said));
        assert_eq!(said.status.success(), name == "none");
    }
    scene.backup();
    let marks = scene.bitmaps();
    let before = scene.site.contents();
    for (program, script, part) in [
        ("qemu-img", None, "install the Debian package qemu-utils"),
        ("qemu-img", Some("echo '[]'"), "describes no qcow2 image"),
        ("qemu-img", Some("echo x; echo wrong >&2; exit 4"), "exit status: 4: wrong"),
        ("qemu-img", Some("echo '{'"), "printed something else"),
        ("qemu-nbd", Some("exit 127"), "install the Debian package qemu-utils"),
        ("qemu-nbd", Some("echo 'no such thing' >&2; exit 1"), "no such thing"),
        ("qemu-nbd", Some("exit 0"), "qemu-nbd"),
        ("qemu-nbd", Some("kill -9 $$"), "qemu-nbd"),
    ] {
        let stand_ins = match script {
            Some(script) => StandIns::new().with(program, script),
            None => StandIns::new(),
        };
        let path = if script.is_some() { stand_ins.first() } else { stand_ins.only() };
        let output = run(&mut with(&[&path], &scene.site.backy(&["backup", "--force"])));
        let said = words(&output);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{part}: {said}");
        assert!(said.contains(part), "{part}: {said}");
        assert!(scene.site.contents() == before, "{part}: the archive has changed");
        // What cannot be removed now is removed by the next backup.
        assert!(scene.bitmaps().contains(&marks[0]), "{part}");
    }
    let (hints, _) = scene.backup();
    assert!(hints["since"].is_string(), "{hints}");
    assert_eq!(scene.bitmaps().len(), 1);
    // A server that does not know the bitmap is no reason to have no backup.
    let script = format!(
        "case \"$*\" in *--bitmap*) echo 'no such bitmap' >&2; exit 1;; esac\nexec {} \"$@\"",
        text(&real("qemu-nbd"))
    );
    let stand_ins = StandIns::new().with("qemu-nbd", &script);
    let path = stand_ins.first();
    let output = run(&mut with(&[&path], &scene.site.backy(&["backup", "--force", "--json"])));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let hints = &report["revision"]["hints"];
    assert!(reason(hints).ends_with("no such bitmap"), "{hints}");
    let state = scene.disk();
    scene.site.push(report["revision"]["uuid"].as_str().expect("a UUID"), &state);
    scene.site.check_at_rest();
    let output = run(&mut scene.site.backy(&["restore"]));
    assert!(words(&output).contains("name a target"), "{}", words(&output));
}
