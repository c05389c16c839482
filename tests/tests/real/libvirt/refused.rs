//! What keeps a disk of a domain from being backed up: each has its message, and the domain and the archive are as they
//! were.

use std::fs;
use std::io::Read;
use std::thread;
use std::time::Duration;

use super::Scene;
use crate::harness::libvirt::NODE;
use crate::mounted::until;
use crate::processes::Running;
use crate::qcow2::guest;
use crate::site::{backy, run, text, words};
use crate::stand_ins::{StandIns, with};

/// No libvirt, domain or disk, another backup, no space or place for the scratch file, programs that are missing, fail
/// or print something else: one line, status 1.
#[test]
fn what_keeps_a_disk_of_a_domain_from_being_read_is_reported() {
    let Some(mut scene) = Scene::new("vda") else { return };
    scene.backup();
    let before = scene.site.contents();
    let refused = |scene: &Scene, settings: &[String], parts: &[&str]| {
        let settings = [settings, &[scene.host.setting()]].concat();
        let output = run(&mut with(&settings, &scene.site.backy(&["backup", "--force"])));
        let said = words(&output);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        for part in parts {
            assert!(said.contains(part), "expected '{part}': {said}");
        }
        assert_eq!(scene.host.checkpoints().len(), 1, "{parts:?}");
    };
    let scratch = format!("scratch = {:?}", scene.host.path("scratch"));
    let private = scene.host.path("private");
    fs::create_dir(&private).expect("make a folder");
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(&private, closed).expect("close it");
    let private = format!("scratch = {private:?}");
    for (from, to, parts) in [
        (
            "libvirt:mynode",
            "libvirt:other",
            &["libvirt:other/vda", "failed to get domain 'other'"][..],
        ),
        ("/vda\"", "/vdx\"", &["the domain has no disk 'vdx'; it has vda, vdb, vdc"]),
        (&scratch, "scratch = \"/nonexistent\"", &["cannot use /nonexistent for the scratch file"]),
        (&scratch, "scratch = \"/proc\"", &["/proc has too little space", "at least 16.0 MiB"]),
        (&scratch, &private, &["Permission denied"]),
    ] {
        scene.site.configure(|config| config.replace(from, to));
        refused(&scene, &[], parts);
        scene.site.configure(|config| config.replace(to, from));
        scene.host.check_quiet();
    }
    let none = StandIns::new();
    let missing = "virsh is not installed; install the Debian package libvirt-clients";
    refused(&scene, &[none.only()], &[missing]);
    let garbage = StandIns::new().with("virsh", "echo '<a/>'");
    refused(&scene, &[garbage.first()], &["describes no domain"]);
    let failing = StandIns::new().with("virsh", "echo 'error: no such luck' >&2; exit 1");
    refused(&scene, &[failing.first()], &["no such luck"]);
    let away = "LIBVIRT_DEFAULT_URI=qemu+unix:///system?socket=/nonexistent".to_owned();
    let output = run(&mut with(&[away], &scene.site.backy(&["backup", "--force"])));
    assert!(words(&output).contains("failed to connect to the hypervisor"), "{}", words(&output));

    // A backup of somebody else, which stays.
    let (xml, socket) = (scene.host.path("foreign.xml"), scene.host.path("scratch/foreign"));
    let foreign = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{}'/><disks><disk name='vdb' backup='yes' \
         type='file'><scratch file='{}'/></disk></disks></domainbackup>",
        text(&socket),
        text(&scene.host.path("scratch/foreign.qcow2"))
    );
    fs::write(&xml, foreign).expect("write a backup");
    scene.host.ask(&["backup-begin", NODE, text(&xml)]);
    refused(&scene, &[], &["one backup job of a domain at a time", "somebody else", "domjobabort"]);
    assert!(scene.host.ask(&["backup-dumpxml", NODE]).contains("foreign"));
    scene.host.ask(&["domjobabort", NODE]);
    for left in ["scratch/foreign", "scratch/foreign.qcow2"] {
        let _ = fs::remove_file(scene.host.path(left));
    }
    assert!(scene.site.contents() == before, "the archive has changed");
    let (hints, _) = scene.backup();
    assert!(hints["since"].is_string(), "{hints}");
    let output = run(&mut scene.backy(&["restore"]));
    assert!(words(&output).contains("name a target"), "{}", words(&output));
    for wrong in ["libvirt:mynode", "libvirt:/vda"] {
        let output = run(&mut backy(&scene.host.path("wrong"), &["init", wrong]));
        assert!(words(&output).contains("libvirt:mynode/vda"), "{}", words(&output));
    }

    // A domain that does not run, whose image something else writes to.
    scene.host.stop();
    let mut writer = guest(&scene.host.path("vda"), &[]);
    refused(&scene, &[], &["has it open for writing"]);
    assert!(writer.is_running());
}

/// Somebody aborts the job that keeps the disk as it was: what is read from then on is not the disk at one moment, so
/// there is no backup.
#[test]
fn a_backup_job_that_is_aborted_by_others_gives_no_revision() {
    let Some(mut scene) = Scene::new("vda") else { return };
    scene.backup();
    scene.write("2M", "3M", 9);
    let slowly = ["backup", "--force", "--limit-rate", "1M"];
    let mut running = Running::start(&mut scene.backy(&slowly));
    let job =
        |scene: &Scene| run(&mut scene.host.virsh(&["backup-dumpxml", NODE])).status.success();
    until("the backup reads", || job(&scene));
    // The space estimate has a point of its own, for a moment.
    thread::sleep(Duration::from_millis(1500));
    until("the backup reads", || job(&scene));
    scene.host.ask(&["domjobabort", NODE]);
    until("the backup has ended", || !running.is_running());
    let status = running.0.wait().expect("wait for it");
    let mut said = String::new();
    let stderr = running.0.stderr.as_mut().expect("a pipe");
    stderr.read_to_string(&mut said).expect("read what it said");
    assert_eq!((status.code(), said.lines().count()), (Some(1), 1), "{said}");
    scene.host.check_quiet();
    assert_eq!(scene.site.committed().len(), 1);
    scene.backup();
    scene.site.check_at_rest();
}
