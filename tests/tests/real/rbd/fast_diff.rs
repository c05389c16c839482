//! `fast_diff = true`: the object map says which objects have changed.

use std::fs;

use super::{Scene, create, go_through, io_of, rbd_of, to, write_past_the_map};
use crate::harness::ceph::{Cluster, POOL};
use crate::site::{run, words, works};

const MIB: u64 = 1 << 20;

/// Objects that have changed are read whole, also of a clone and where there is no map. What the map does not know is
/// found out by comparing, and the revision that finds it is right.
pub(super) fn object_maps_are_believed_on_request(cluster: &Cluster) {
    let object = 4 * MIB;
    let mut scene = Scene::new(cluster, "fast");
    scene.configure("[tracking]\nfast_diff = true\n");
    scene.backup();
    go_through(
        &mut scene,
        &[
            ("nothing", 0, Box::new(|_| {})),
            ("a write", object, io_of(&["write -P 17 100000 5000"])),
            ("an object discarded", object, io_of(&["discard 8M 4M"])),
            ("a snapshot of somebody", 0, rbd_of(&["snap", "create", "--no-progress", "%@mine"])),
            ("longer", 0, to("20000001B")),
            ("data in what is new", object, io_of(&["write -P 6 18M 3000"])),
            ("shorter", object, to("10M")),
            ("longer again", 2 * object, to("14M")),
            (
                "back to a snapshot",
                16 * MIB,
                rbd_of(&["snap", "rollback", "--no-progress", "%@mine"]),
            ),
            (
                "without a map",
                16 * MIB,
                rbd_of(&["feature", "disable", "%", "object-map", "fast-diff"]),
            ),
            ("a write without a map", object, io_of(&["write -P 18 1M 1000"])),
        ],
    );
    clones(cluster);
    lies(cluster);
    unknown_objects(cluster);
}

fn clones(cluster: &Cluster) {
    let parent = format!("{POOL}/fast-parent");
    create(cluster, &parent);
    let base = format!("{parent}@base");
    works(&mut cluster.rbd(&["snap", "create", "--no-progress", &base]));
    let child = format!("{POOL}/fast-child");
    works(&mut cluster.rbd(&["clone", "--rbd-default-clone-format=2", &base, &child]));
    let mut scene = Scene::of(cluster, &child);
    scene.configure("[tracking]\nfast_diff = true\n");
    scene.backup();
    go_through(
        &mut scene,
        &[
            ("nothing", 0, Box::new(|_| {})),
            ("a write", 4 * MIB, io_of(&["write -P 17 5200000 5000"])),
            ("a discard", 4 * MIB, io_of(&["discard 0 4M"])),
            (
                "shorter and longer again",
                8 * MIB,
                Box::new(|scene| {
                    scene.resize("9M");
                    scene.resize("16M");
                }),
            ),
            ("flattened", 16 * MIB, rbd_of(&["flatten", "--no-progress", "%"])),
        ],
    );
}

fn lies(cluster: &Cluster) {
    let mut scene = Scene::new(cluster, "fast-lie");
    scene.configure("[tracking]\nfast_diff = true\n");
    scene.backup();
    write_past_the_map(&scene, 1);
    let image = || fs::read(scene.site.folder.join("last.raw")).expect("read last.raw");
    let believed = image();
    assert!(believed != scene.disk(), "nothing was written");
    works(&mut scene.site.backy(&["backup", "--force"]));
    assert!(image() == believed, "the map knows of the write after all");
    scene.site.push_newest(&believed);
    scene.configure("verify_within = \"1s\"\n");
    let state = scene.disk();
    let output = run(&mut scene.site.backy(&["backup", "--force"]));
    assert!(words(&output).contains("the source has not reported a change"), "{}", words(&output));
    scene.site.push_newest(&state);
    scene.site.check_at_rest();
}

/// An object that the map does not know: whoever reads a snapshot gets zeros from Ceph, so a backup does, whatever it
/// believes, until Ceph has checked the map.
fn unknown_objects(cluster: &Cluster) {
    for settings in ["", "fast_diff = true\n"] {
        let mut scene = Scene::new(cluster, &format!("unknown{}", settings.len()));
        scene.configure(&format!("[tracking]\n{settings}"));
        scene.backup();
        write_past_the_map(&scene, 3);
        works(&mut scene.site.backy(&["backup", "--force", "--read-all"]));
        let image = fs::read(scene.site.folder.join("last.raw")).expect("read last.raw");
        let mark = scene.the_mark();
        assert!(image == scene.rbd(&["export", "--no-progress", &mark, "-"]), "{settings}");
        assert!(image != scene.disk(), "Ceph reads the object after all");
        scene.site.push_newest(&image);
        // Its exit status does not say that it has found something.
        run(&mut cluster.rbd(&["object-map", "check", "--no-progress", &scene.image]));
        let state = scene.disk();
        works(&mut scene.site.backy(&["backup", "--force", "--read-all"]));
        scene.site.push_newest(&state);
        scene.site.check_at_rest();
    }
}
