//! The file systems of a guest, frozen for the moment of a backup point. No guest runs here: `virsh` says that the
//! guest agent is connected, and writes down what it is asked to do.

use std::fs;
use std::path::{Path, PathBuf};

use super::Scene;
use crate::mounted::until;
use crate::site::{run, text, words};
use crate::stand_ins::{GRANDPARENT, StandIns, kill_at_each, real, with};

const AGENT: &str = "<channel type=\"unix\"><target type=\"virtio\" name=\"org.qemu.guest_agent.0\" \
                     state=\"connected\"/></channel></devices>";

/// A `virsh` with an agent that answers with this script, and the file where it writes down what happens.
fn agent(scene: &Scene, freezing: &str) -> (StandIns, PathBuf) {
    let log = scene.host.path("log");
    let _ = fs::remove_file(&log);
    let script = format!(
        "for word; do case $word in\n\
         dumpxml) {1} \"$@\" | sed 's|</devices>|{AGENT}|'; exit;;\n\
         domfsfreeze) echo freeze >>{0}; {freezing}; exit;;\n\
         domfsthaw) echo thaw >>{0}; exit;;\n\
         backup-begin) echo begin >>{0};;\n\
         esac; done\nexec {1} \"$@\"",
        text(&log),
        text(&real("virsh")),
    );
    (StandIns::new().with("virsh", &script), log)
}

fn logged(log: &Path) -> Vec<String> {
    fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The guest is frozen when the backup begins, and thawed right after it; if freezing fails there is no backup, and it
/// is thawed as well. What `quiesce` says holds.
#[test]
fn a_guest_is_frozen_while_a_backup_begins() {
    let Some(mut scene) = Scene::new("vda") else { return };
    scene.backup();
    let frozen = ["freeze", "begin", "thaw"];
    let broken = "echo 'error: Guest agent is not responding' >&2; exit 1";
    for (quiesce, freezing, code, steps) in [
        ("auto", "true", 0, &frozen[..]),
        ("require", "true", 0, &frozen),
        ("off", "true", 0, &["begin"]),
        // Once more, in case something has ended the shell that thaws.
        ("auto", broken, 1, &["freeze", "thaw", "thaw"]),
    ] {
        let written = format!("[tracking]\nquiesce = \"{quiesce}\"");
        scene.site.configure(|config| config.replace("[tracking]", &written));
        let (stand_ins, log) = agent(&scene, freezing);
        let state = scene.host.disk("vda");
        let backup = scene.backy(&["backup", "--force"]);
        let output = run(&mut with(&[stand_ins.first()], &backup));
        let said = words(&output);
        assert_eq!(output.status.code(), Some(code), "{quiesce}: {said}");
        // The space estimate has begun a point of its own before.
        let steps_found = logged(&log);
        let wanted: Vec<String> = steps.iter().map(|step| (*step).to_owned()).collect();
        assert!(steps_found.ends_with(&wanted), "{quiesce}: {steps_found:?}");
        if code == 1 {
            assert!(said.contains("Guest agent is not responding"), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
        scene.site.reconcile(&[], Some(&state));
        scene.site.configure(|config| config.replace(&written, "[tracking]"));
        scene.host.check_quiet();
    }
    scene
        .site
        .configure(|config| config.replace("[tracking]", "[tracking]\nquiesce = \"require\""));
    let output = run(&mut scene.backy(&["backup", "--force"]));
    let said = words(&output);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("no guest agent is connected"), "{said}");
    scene.host.check_quiet();
    scene.site.check_at_rest();
}

/// Whenever backy is killed, the guest is thawed after the last time that it was frozen.
#[test]
fn a_guest_is_thawed_when_backy_is_killed() {
    let Some(mut scene) = Scene::new("vda") else { return };
    scene.backup();
    let (stand_ins, log) = agent(&scene, "true");
    let agent = stand_ins.only();
    let killed = kill_at_each(&[("timeout", GRANDPARENT)], |moment, settings| {
        let state = scene.host.disk("vda");
        let path = format!("{agent}:{}", settings[0].trim_start_matches("PATH="));
        let backup = with(&[path], &scene.backy(&["backup", "--force"]));
        let output = run(&mut with(settings, &backup));
        until("the guest is thawed", || {
            let steps = logged(&log);
            let last = |what: &str| steps.iter().rposition(|step| step == what);
            last("thaw") >= last("freeze")
        });
        scene.site.reconcile(&[], Some(&state));
        if output.status.success() {
            return true;
        }
        assert_eq!(output.status.code(), None, "{moment}: {}", words(&output));
        scene.backup();
        false
    });
    assert!(killed >= 4, "only {killed} moments");
    scene.site.check_at_rest();
}
