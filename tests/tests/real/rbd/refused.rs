//! What keeps an image from being backed up: each has its message.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Scene, address, create, reason};
use crate::harness::ceph::{Cluster, POOL};
use crate::site::{backy, fails, run, text, words, works};
use crate::stand_ins::{StandIns, with};

/// Monitors that do not answer: an error after half a minute, which says what to look at.
pub(super) fn no_cluster_is_reported() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let conf = folder.path().join("none.conf");
    fs::write(&conf, "[global]\nmon host = [v2:127.0.0.1:1]\n").expect("write a configuration");
    let archive = folder.path().join("archive");
    works(&mut backy(&archive, &["init"]));
    let config = archive.join("backy.toml");
    let lines = fs::read_to_string(&config).expect("read the config");
    let source = format!("source = \"rbd:rbd/a:conf={}\"\n{lines}", text(&conf));
    fs::write(&config, source).expect("write the config");
    let began = Instant::now();
    let said = fails(&mut backy(&archive, &["backup"]));
    assert!(said.contains("the monitors answer within 30 s"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(began.elapsed() < Duration::from_secs(100), "after {:?}", began.elapsed());
}

/// No such pool, namespace or image, no snapshot allowed, programs that are missing, fail or print anything: one line,
/// no snapshot left, and the archive as it was; or everything is read, and the revision says why.
pub(super) fn bad_images_and_programs_are_refused(cluster: &Cluster) {
    let mut scene = Scene::new(cluster, "refused");
    for (number, (image, part)) in [
        ("nopool/a", "error opening pool 'nopool'"),
        (&*format!("{POOL}/nothing/a"), "namespace 'nothing' does not exist"),
        (&*format!("{POOL}/none"), "error opening image none"),
    ]
    .into_iter()
    .enumerate()
    {
        let archive = scene.path(&format!("bad{number}"));
        let made = run(&mut backy(&archive, &["init", &address(cluster, image)]));
        assert!(made.status.success() && words(&made).contains(part), "{}", words(&made));
        let said = fails(&mut backy(&archive, &["backup"]));
        assert!(said.contains(part) && said.lines().count() == 1, "{said}");
        let looked = run(&mut backy(&archive, &["source"]));
        assert!(words(&looked).contains(part), "{image}: {}", words(&looked));
    }
    let said = fails(&mut backy(&scene.path("bad"), &["init", "rbd:pool"]));
    assert!(said.contains("expected rbd:POOL/IMAGE"), "{said}");

    scene.backup();
    programs_that_keep_it_from_being_read(&scene);
    programs_that_leave_a_doubt(&mut scene);
    scene.rbd(&["snap", "limit", "set", "--limit=1", "%"]);
    let said = fails(&mut scene.site.backy(&["backup", "--force"]));
    assert!(said.contains("no snapshot can be made, and without one it is not read"), "{said}");
    scene.rbd(&["snap", "limit", "clear", "%"]);
    // Without a tracker that can be relied on, as with it, there is no going back to the image.
    let said = fails(&mut scene.site.backy(&["restore"]));
    assert!(said.contains("name a target"), "{said}");

    let empty = format!("{POOL}/empty");
    create(cluster, &empty);
    works(&mut cluster.rbd(&["resize", "--no-progress", "--allow-shrink", "--size=0", &empty]));
    let archive = scene.path("of nothing");
    works(&mut backy(&archive, &["init", &address(cluster, &empty)]));
    let said = fails(&mut backy(&archive, &["backup"]));
    assert!(said.contains("it is empty: found 0 bytes"), "{said}");
    scene.site.check_at_rest();
}

fn programs_that_keep_it_from_being_read(scene: &Scene<'_>) {
    let only = |command: &str, script: &str| {
        format!("case \" $* \" in *\" {command} \"*) {script};; esac\nexec /usr/bin/rbd \"$@\"")
    };
    for (program, script, part) in [
        ("rbd", None, "install the Debian package ceph-common"),
        ("rbd", Some("echo wrong >&2; exit 4".to_owned()), "exit status: 4: wrong"),
        ("rbd", Some(only("info", "echo '{'; exit")), "'rbd info' printed something else"),
        ("rbd", Some(only("snap ls", "echo '[]'; exit")), "is missing after it was made"),
        ("qemu-nbd", Some("exit 127".to_owned()), "install the Debian package qemu-utils"),
        ("qemu-nbd", Some("kill -9 $$".to_owned()), "qemu-nbd"),
        (
            "qemu-nbd",
            Some("echo \"qemu-nbd: Unknown driver 'rbd'\" >&2; exit 1".to_owned()),
            "install the Debian package qemu-block-extra",
        ),
    ] {
        let stand_ins = match &script {
            Some(script) => StandIns::new().with(program, script),
            None => StandIns::new(),
        };
        let path = if script.is_some() { stand_ins.first() } else { stand_ins.only() };
        let output = run(&mut with(&[&path], &scene.site.backy(&["backup", "--force"])));
        let said = words(&output);
        let lines = said.lines().filter(|line| !line.contains("old marks at the source are left"));
        assert_eq!((output.status.code(), lines.count()), (Some(1), 1), "{part}: {said}");
        assert!(said.contains(part), "{part}: {said}");
        scene.site.check_at_rest_here();
    }
}

/// What is not needed to read the image is a doubt if it cannot be had.
fn programs_that_leave_a_doubt(scene: &mut Scene<'_>) {
    let rbd = |condition: &str, script: &str| {
        format!("case \" $* \" in {condition}) {script};; esac\nexec /usr/bin/rbd \"$@\"")
    };
    let changed = "*\" --from-snap=\"*";
    let holes = "*\" --from-snap=\"*) ;; *\" diff \"*";
    let far = r#"echo '[{"offset":16777216,"length":1,"exists":"true"}]'; exit"#;
    for (program, script, part) in [
        ("rbd", rbd(changed, "echo no >&2; exit 3"), "exit status: 3: no"),
        ("rbd", rbd(changed, far), "found 1 bytes at offset 16777216"),
        ("rbd", rbd(changed, "yes; exit"), "'rbd diff' printed something else"),
        ("rbd", rbd(changed, "printf '['; exit"), "EOF"),
        ("rbd", rbd(holes, "echo no >&2; exit 3"), "it is not known where it has data"),
        ("ceph", "echo no >&2; exit 5".to_owned(), "it is not known which image it is"),
        ("ceph", "echo '[]'".to_owned(), "'ceph fsid' printed something else"),
    ] {
        scene.io(&["write -P 31 3M 1000"]);
        let state = scene.disk();
        let stand_ins = StandIns::new().with(program, &script);
        let path = stand_ins.first();
        let backup = scene.site.backy(&["backup", "--force", "--json"]);
        let output = run(&mut with(&[&path], &backup));
        assert!(output.status.success(), "{part}: {}", words(&output));
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        let hints = &report["revision"]["hints"];
        assert!(reason(hints).contains(part), "{part}: {hints}");
        scene.site.push(report["revision"]["uuid"].as_str().expect("a UUID"), &state);
        assert!(scene.snapshots().len() <= 1, "{part}: {:?}", scene.snapshots());
        let image =
            fs::read(Path::new(&scene.site.folder).join("last.raw")).expect("read last.raw");
        assert!(image == state, "{part}: last.raw is not the image");
        if program == "ceph" {
            // Nothing was marked.
            scene.backup();
        }
    }
    let (hints, read) = scene.backup();
    assert!(hints["since"].is_string() && read == 0, "{hints}");
}
