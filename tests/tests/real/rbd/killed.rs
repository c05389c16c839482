//! A backup that is killed whenever it runs a program.

use std::fs;

use super::Scene;
use crate::harness::ceph::Cluster;
use crate::mounted::until;
use crate::site::{run, text, words};
use crate::stand_ins::{GRANDPARENT, PARENT, StandIns, real, with};

/// It is killed before a program has done its work and, if that changes snapshots, also after. Then no process of the
/// backup is left, the next backup reads only what has changed, and one snapshot is left.
pub(super) fn no_snapshot_stays_for_long(cluster: &Cluster) {
    let mut scene = Scene::new(cluster, "killed");
    scene.backup();
    let count = scene.path("count");
    let mut killed = 0;
    for (then, counted) in [("exit 1", "*"), ("true", "*\" snap create \"*|*\" snap rm \"*")] {
        let mut programs = StandIns::new();
        for (program, backy) in [("rbd", PARENT), ("ceph", PARENT), ("qemu-nbd", GRANDPARENT)] {
            let script = format!(
                "case \" $* \" in {counted}) echo $$ >>{0}\n\
                 if [ $(grep -nx $$ {0} | cut -d : -f 1) = \"$KILL_AT\" ]; then\n\
                 kill -9 {backy}; {then}; fi;; esac\nexec {1} \"$@\"",
                text(&count),
                text(&real(program)),
            );
            programs = programs.with(program, &script);
        }
        let path = programs.first();
        for at in 1.. {
            scene.io(&[&format!("write -P {at} {}M 1000", at % 15)]);
            fs::write(&count, []).expect("forget the count");
            let settings = [&path, &format!("KILL_AT={at}")];
            let output = run(&mut with(&settings, &scene.site.backy(&["backup", "--force"])));
            until("everything of the backup has ended", || users(&scene) == 0);
            let state = scene.disk();
            scene.site.reconcile(&[], Some(&state));
            if output.status.success() {
                break;
            }
            assert_eq!(output.status.code(), None, "{then} {at}: {}", words(&output));
            killed += 1;
            // The first ones come one upon the other.
            if then == "true" {
                scene.continued();
            }
        }
        scene.continued();
    }
    assert!(killed >= 12, "only {killed} moments");
    scene.site.check_at_rest_here();
}

impl Scene<'_> {
    /// The next backup reads only what has changed, and leaves one snapshot.
    fn continued(&mut self) {
        let (hints, _) = self.backup();
        assert!(hints["since"].is_string(), "{hints}");
        assert_eq!(self.snapshots().len(), 1);
    }
}

/// Processes of a backup of the image.
fn users(scene: &Scene<'_>) -> usize {
    let entries = fs::read_dir("/proc").expect("list the processes");
    let cmdlines = entries.filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    let conf = scene.cluster.conf();
    let is_of = |line: &Vec<u8>| {
        let line = String::from_utf8_lossy(line);
        line.contains(text(&conf)) && line.contains("killed")
    };
    cmdlines.filter(is_of).count()
}
