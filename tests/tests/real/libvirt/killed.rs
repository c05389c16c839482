//! backy, QEMU or libvirtd killed at each command: what is left of the backup is removed by the next one.

use std::fs;

use super::Scene;
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

/// When QEMU or libvirtd is killed, the backup fails with one line unless it does not need them any more. The next one
/// has everything that the guest had written, and the guest can write.
#[test]
fn a_backup_without_libvirt_or_qemu_fails_and_leaves_nothing() {
    let Some(mut scene) = Scene::new("vda") else { return };
    scene.backup();
    for (of, pattern) in [("machine", 1), ("daemon", 101)] {
        let mut killed = 0;
        loop {
            let place = format!("{}M", killed % 15);
            scene.write(&place, "3000", killed + pattern);
            let state = scene.host.disk("vda");
            let process = match of {
                "machine" => scene.host.machine().expect("a machine"),
                _ => scene.host.daemon(),
            };
            // The stand-in kills it instead of backy, before it does its own work.
            let count = scene.host.path("count");
            let _ = fs::remove_file(&count);
            let script = format!(
                "echo x >>{0}\nif [ $(wc -l <{0}) = {1} ]; then kill -9 {2}; fi\nexec {3} \"$@\"",
                text(&count),
                killed + 1,
                process.as_raw_nonzero(),
                text(&real("virsh")),
            );
            let stand_ins = StandIns::new().with("virsh", &script);
            let backup = scene.backy(&["backup", "--force"]);
            let output = run(&mut with(&[stand_ins.first()], &backup));
            let calls = fs::read_to_string(&count).map_or(0, |text| text.lines().count());
            scene.site.reconcile(&[], Some(&state));
            if calls <= usize::from(killed) {
                assert!(output.status.success(), "{}", words(&output));
                break;
            }
            killed += 1;
            let said = words(&output);
            if output.status.code() != Some(0) {
                let found = (output.status.code(), said.lines().count());
                assert_eq!(found, (Some(1), 1), "{of} {killed}: {said}");
            }
            match of {
                "machine" => {
                    let is_off = || scene.host.ask(&["domstate", "mynode"]) == "shut off";
                    until("libvirt notices it", is_off);
                    scene.host.run();
                }
                _ => {
                    until("it has ended", || !scene.host.is_up());
                    scene.host.boot();
                }
            }
            assert!(scene.host.disk("vda") == state, "{of} {killed}: the guest's disk has changed");
            let (hints, _) = scene.backup();
            assert!(of == "machine" || hints["since"].is_string(), "{of} {killed}: {hints}");
            assert_eq!(scene.host.checkpoints().len(), 1, "{of} {killed}");
        }
        assert!(killed >= 10, "{of}: only {killed} moments");
    }
    scene.site.check_at_rest();
}
