//! backy, QEMU or libvirtd killed at each command: what is left of the backup is removed by the next one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::process::Pid;
use serde_json::Value;

use super::Scene;
use crate::harness::libvirt::{Libvirt, NODE};
use crate::mounted::until;
use crate::site::{run, text, words};
use crate::stand_ins::{PARENT, StandIns, kill_at_each, real, with};

/// However backy is killed, the next backup reads only what has changed, and then the domain has nothing of the killed
/// one any more.
#[test]
fn a_killed_backup_leaves_a_domain_alone_after_the_next() {
    let Some(mut scene) = Scene::new("vda") else { return };
    for runs in [true, false] {
        if !runs {
            scene.host.stop();
        }
        scene.backup();
        let mut round = 0;
        let killed = kill_at_each(&[("virsh", PARENT)], |moment, settings| {
            round += 1;
            if runs {
                scene.write(&format!("{}M", round % 15), "3000", round);
            }
            let state = scene.host.disk("vda");
            let output = run(&mut with(settings, &scene.backy(&["backup", "--force"])));
            scene.site.reconcile(&[], Some(&state));
            if output.status.success() {
                return true;
            }
            assert_eq!(output.status.code(), None, "{moment}: {}", words(&output));
            let (hints, read) = scene.backup();
            assert!(hints["since"].is_string(), "{moment}: {hints}");
            assert!(read <= 256 << 10, "{moment}: {read} bytes were read");
            assert_eq!(scene.host.checkpoints().len(), 1, "{moment}");
            false
        });
        assert!(killed >= 10, "only {killed} moments");
    }
    scene.site.check_at_rest();
}

/// When QEMU is killed, the backup fails with one line unless it does not need it any more. The next one has everything
/// that the guest had written.
#[test]
fn a_backup_of_a_domain_that_is_killed_fails_and_leaves_nothing() {
    let kill = |host: &mut Libvirt| host.machine().expect("a machine");
    let recover = |host: &mut Libvirt| {
        until("libvirt notices it", || host.ask(&["domstate", NODE]) == "shut off");
        host.run();
    };
    without(kill, recover, |_| true);
}

/// When libvirtd is killed, the same; the guest does not notice, and the next backup reads only what has changed.
#[test]
fn a_backup_without_libvirt_fails_and_leaves_nothing() {
    let kill = |host: &mut Libvirt| host.daemon();
    let recover = |host: &mut Libvirt| {
        until("it has ended", || !host.is_up());
        host.boot();
    };
    without(kill, recover, |hints| hints["since"].is_string());
}

/// A libvirtd that was killed while it ended a job may have left QEMU serving the disk: the next backup ends that.
#[test]
fn what_qemu_still_serves_for_a_backup_is_ended() {
    let Some(mut scene) = Scene::new("vda") else { return };
    scene.backup();
    // The second time, what is in the folder and itself are gone, but not the server.
    for is_gone in [false, true] {
        let folder = serve(&scene);
        if is_gone {
            fs::remove_dir_all(folder).expect("remove the folder");
        }
        scene.write("2M", "1000", if is_gone { 4 } else { 3 });
        let (hints, _) = scene.backup();
        assert!(hints["since"].is_string(), "{hints}");
    }
    scene.site.check_at_rest();
}

/// Has QEMU serve in the folder of a backup that is over.
fn serve(scene: &Scene) -> PathBuf {
    let [mark] = scene.host.checkpoints().try_into().expect("one checkpoint");
    let folder = scene.host.path("scratch").join(mark);
    fs::create_dir(&folder).expect("make a folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("let QEMU in");
    let socket = folder.join("nbd");
    let start = format!(
        r#"{{"execute":"nbd-server-start","arguments":{{"addr":{{"type":"unix","data":{{"path":"{}"}}}}}}}}"#,
        text(&socket)
    );
    scene.host.ask(&["qemu-monitor-command", NODE, &start]);
    assert!(socket.exists(), "QEMU does not serve");
    folder
}

/// Backups, each with a process killed at a call of `virsh`, until there is no such call any more.
fn without(
    process: impl Fn(&mut Libvirt) -> Pid,
    recover: impl Fn(&mut Libvirt),
    is_good: impl Fn(&Value) -> bool,
) {
    let Some(mut scene) = Scene::new("vda") else { return };
    scene.backup();
    let count = scene.host.path("count");
    let mut killed = 0;
    loop {
        scene.write(&format!("{}M", killed % 15), "3000", killed + 1);
        let state = scene.host.disk("vda");
        let _ = fs::remove_file(&count);
        // What stands in for virsh kills it, and then does its own work.
        let script = format!(
            "echo x >>{0}\nif [ $(wc -l <{0}) = {1} ]; then kill -9 {2}; fi\nexec {3} \"$@\"",
            text(&count),
            killed + 1,
            process(&mut scene.host).as_raw_nonzero(),
            text(&real("virsh")),
        );
        let stand_ins = StandIns::new().with("virsh", &script);
        let backup = scene.backy(&["backup", "--force"]);
        let output = run(&mut with(&[stand_ins.first()], &backup));
        let calls = fs::read_to_string(&count).map_or(0, |text| text.lines().count());
        scene.site.reconcile(&[], Some(&state));
        let said = words(&output);
        if calls <= usize::from(killed) {
            assert!(output.status.success(), "{said}");
            break;
        }
        killed += 1;
        if output.status.code() != Some(0) {
            let found = (output.status.code(), said.lines().count());
            assert_eq!(found, (Some(1), 1), "{killed}: {said}");
        }
        recover(&mut scene.host);
        assert!(scene.host.disk("vda") == state, "{killed}: the guest's disk has changed");
        let (hints, _) = scene.backup();
        assert!(is_good(&hints), "{killed}: {hints}");
        assert_eq!(scene.host.checkpoints().len(), 1, "{killed}");
    }
    assert!(killed >= 10, "only {killed} moments");
    scene.site.check_at_rest();
}
