//! A backup that is killed whenever it runs a program.

use std::fs;

use super::{PROGRAMS, Scene, stand_in};
use crate::mounted::until;
use crate::site::{run, text, words};
use crate::stand_ins::{PARENT, kill_at_each_of, with};

/// It is killed before a program has done its work, or after. The next backup reads only what has changed, leaves one
/// snapshot, and nothing stays reserved.
#[test]
fn a_killed_backup_of_a_volume_leaves_nothing_for_long() {
    let Some(mut scene) = Scene::new() else { return };
    scene.backup();
    let folder = scene.folder.path().to_owned();
    let programs = |names: &[&str]| -> Vec<(String, String, String)> {
        let program =
            |name: &&str| ((*name).to_owned(), PARENT.to_owned(), stand_in(&folder, name));
        names.iter().map(program).collect()
    };
    let mut round = 0;
    let mut trial = |moment: &str, settings: &[String]| {
        round += 1;
        scene.write(round % 60 * 65536, 1000, (round % 200) as u8 + 1);
        // Those that do not kill are found behind those that do.
        let mut settings = settings.to_vec();
        let own = scene.programs.only().replacen("PATH=", ":", 1);
        settings[0] = settings[0].replacen(':', &format!("{own}:"), 1);
        let output = run(&mut with(&settings, &scene.site.backy(&["backup", "--force"])));
        until("every program has ended", || !is_used(text(&folder)));
        let state = scene.disk();
        scene.site.reconcile(&[], Some(&state));
        if output.status.success() {
            return true;
        }
        assert_eq!(output.status.code(), None, "{moment}: {}", words(&output));
        // Where nothing was done any more, several may come one upon the other.
        if moment.ends_with("exit 1") && round % 4 > 0 {
            return false;
        }
        let (hints, read) = scene.backup();
        assert!(hints["since"].is_string() && read <= 4 * 65536, "{moment}: {read}, {hints}");
        assert_eq!(scene.snapshots().len(), 1, "{moment}");
        false
    };
    let mut killed = kill_at_each_of(&programs(&PROGRAMS), &["exit 1"], &mut trial);
    // Those that change anything.
    let changing = ["lvcreate", "lvchange", "lvremove", "dmsetup"];
    killed += kill_at_each_of(&programs(&changing), &["true"], &mut trial);
    assert!(killed >= 24, "only {killed} moments");
    scene.site.check_at_rest_here();
}

/// Whether a process has this in its command line.
fn is_used(folder: &str) -> bool {
    let entries = fs::read_dir("/proc").expect("list the processes");
    let mut lines = entries.filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    lines.any(|line| {
        let line = String::from_utf8_lossy(&line);
        line.contains(folder) && line.contains("pool.py")
    })
}
