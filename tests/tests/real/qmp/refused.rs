//! What keeps the disk of a running virtual machine from being backed up: each has its message, and the machine and the
//! archive are as they were.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Scene, scratch_of};
use crate::mounted::until;
use crate::processes::Running;
use crate::site::{backy, run, text, words, works};
use crate::stand_ins::{StandIns, with};

/// No machine, another disk, another program, a server in use, no space or place for the scratch file, a missing
/// program: one line, status 1.
#[test]
fn what_keeps_a_running_disk_from_being_read_is_reported() {
    let Some(mut scene) = Scene::new("qcow2") else { return };
    scene.backup();
    let marks = scene.machine.bitmaps();
    let before = scene.site.contents();
    let refused = |scene: &Scene, settings: &[String], parts: &[&str]| {
        let output = run(&mut with(settings, &scene.site.backy(&["backup", "--force"])));
        let said = words(&output);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        for part in parts {
            assert!(said.contains(part), "expected '{part}': {said}");
        }
        scene.machine.check_quiet();
        assert_eq!(scene.machine.bitmaps(), marks, "{parts:?}");
    };
    let config = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    let monitor = text(&scene.machine.monitor()).to_owned();
    let scratch = scratch_of(&scene.machine.path("scratch"));
    let file = scene.machine.path("file");
    fs::write(&file, "no folder").expect("write a file");
    let long = scene.machine.path(&"x".repeat(60));
    fs::create_dir(&long).expect("make a folder");
    for ((from, to), parts) in [
        (
            config(&monitor, "/nonexistent/qmp"),
            &["No such file", "does the virtual machine run?", "qcow2:"][..],
        ),
        (config("/virtio0\"", "/vdb\""), &["QEMU has no disk 'vdb'; it has virtio0, file"]),
        (
            config(&scratch, "scratch = \"/nonexistent\""),
            &["cannot use /nonexistent for the scratch file"],
        ),
        (config(&scratch, &scratch_of(&file)), &["Not a directory"]),
        (config(&scratch, &scratch_of(&long)), &["expected at most 107", "shorter scratch"]),
        (
            config(&scratch, "scratch = \"/proc\""),
            &["/proc has too little space", "expected at least 16.0 MiB"],
        ),
    ] {
        scene.site.configure(|config| config.replace(&from, &to));
        refused(&scene, &[], parts);
        scene.site.configure(|config| config.replace(&to, &from));
    }
    let none = StandIns::new();
    refused(
        &scene,
        &[none.only()],
        &["qemu-img is not installed; install the Debian package qemu-utils"],
    );
    let socket = scene.machine.path("another");
    let address = json!({"addr": {"type": "unix", "data": {"path": text(&socket)}}});
    scene.machine.ask("nbd-server-start", address);
    refused(&scene, &[], &["NBD server already running", "nbd-server-stop"]);
    scene.machine.ask("nbd-server-stop", json!({}));
    assert!(scene.site.contents() == before, "the archive has changed");
    let (hints, _) = scene.backup();
    assert!(hints["since"].is_string(), "{hints}");
    let output = run(&mut scene.site.backy(&["restore"]));
    assert!(words(&output).contains("name a target"), "{}", words(&output));
    for wrong in ["qmp:run/x/virtio0", "qmp:/x"] {
        let output = run(&mut backy(&scene.machine.path("wrong"), &["init", wrong]));
        assert!(words(&output).contains("qmp:/run/mynode.qmp/virtio0"), "{}", words(&output));
    }
}

/// A program that is no monitor, and one that says nothing.
#[test]
fn what_is_no_monitor_is_refused_in_time() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (other, silent) = (folder.path().join("other"), folder.path().join("silent"));
    let listener = UnixListener::bind(&other).expect("listen");
    thread::spawn(move || {
        for client in listener.incoming() {
            let _ = client.expect("a client").write_all(b"220 mail.example ESMTP\r\n");
        }
    });
    let _silent = UnixListener::bind(&silent).expect("listen");
    for (socket, part) in
        [(other, "no greeting of QEMU"), (silent, "is another program connected?")]
    {
        let archive =
            folder.path().join(format!("of {}", socket.file_name().expect("a name").display()));
        works(&mut backy(&archive, &["init", &format!("qmp:{}/virtio0", text(&socket))]));
        let began = Instant::now();
        let output = run(&mut backy(&archive, &["backup"]));
        let said = words(&output);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains(part), "{said}");
        assert!(began.elapsed() < Duration::from_secs(60), "it waited for {:?}", began.elapsed());
    }
}

/// Somebody cancels the job that keeps the disk as it was: what is read from then on is the live disk, so there is no
/// backup.
#[test]
fn a_backup_point_that_is_ended_by_others_gives_no_revision() {
    let Some(mut scene) = Scene::new("qcow2") else { return };
    scene.backup();
    scene.machine.write(2 << 20, &vec![9; 3 << 20]);
    let slowly = ["backup", "--force", "--limit-rate", "1M"];
    let mut running = Running::start(&mut scene.site.backy(&slowly));
    let jobs = |scene: &Scene| scene.machine.ask("query-jobs", json!({}));
    until("the backup reads", || jobs(&scene).as_array().is_some_and(|jobs| !jobs.is_empty()));
    // The space estimate has a point of its own, for a moment.
    thread::sleep(Duration::from_millis(700));
    let job = jobs(&scene)[0]["id"].clone();
    scene.machine.ask("job-cancel", json!({ "id": job }));
    until("the backup has ended", || !running.is_running());
    let status = running.0.wait().expect("wait for it");
    let mut said = String::new();
    let stderr = running.0.stderr.as_mut().expect("a pipe");
    stderr.read_to_string(&mut said).expect("read what it said");
    assert_eq!((status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("did somebody cancel it?"), "{said}");
    scene.machine.check_quiet();
    assert_eq!(scene.site.committed().len(), 1);
    scene.backup();
    scene.site.check_at_rest();
}
