//! Images of Ceph RBD on a cluster of this machine: each backup is compared byte for byte with what `rbd export` gives,
//! whatever was done to the image.
//!
//! All parts share one cluster, which takes some seconds to start.

mod fast_diff;
mod killed;
mod refused;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::ceph::{Cluster, POOL};
use crate::site::{Site, backy, run, text, words, works};
use crate::sources::follow;

const MIB: u64 = 1 << 20;

/// An archive, and its source in a cluster.
struct Scene<'c> {
    cluster: &'c Cluster,
    site: Site,
    /// `POOL/IMAGE` or `POOL/NAMESPACE/IMAGE`
    image: String,
    folder: TempDir,
}

impl<'c> Scene<'c> {
    /// With a new image of 16 MiB, four objects, with data in three places.
    fn new(cluster: &'c Cluster, name: &str) -> Self {
        let image = format!("{POOL}/{name}");
        create(cluster, &image);
        Scene::of(cluster, &image)
    }

    fn of(cluster: &'c Cluster, image: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = PathBuf::from(address(cluster, image));
        let site = Site::init(folder.path(), &source);
        Scene { cluster, site, image: image.to_owned(), folder }
    }

    /// `rbd ARGS`, in which `%` stands for the image.
    fn rbd(&self, args: &[&str]) -> Vec<u8> {
        let args: Vec<String> = args.iter().map(|arg| arg.replacen('%', &self.image, 1)).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        works(&mut self.cluster.rbd(&args))
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_slice(&self.rbd(args)).expect("JSON")
    }

    fn io(&self, commands: &[&str]) {
        io(self.cluster, &self.image, commands);
    }

    fn resize(&self, size: &str) {
        self.rbd(&["resize", "--no-progress", "--allow-shrink", "--size", size, "%"]);
    }

    /// The image as it is now.
    fn disk(&self) -> Vec<u8> {
        self.rbd(&["export", "--no-progress", "%", "-"])
    }

    /// A backup, which has to be of the image as it is; what it says about changes, and how much it read.
    fn backup(&mut self) -> (Value, u64) {
        let state = self.disk();
        let report = self.site.backup_source(&state);
        let image = fs::read(self.site.folder.join("last.raw")).expect("read last.raw");
        assert!(image == state, "last.raw is not the image");
        let revision = &report["revision"];
        let read = revision["statistics"]["read_bytes"].as_u64().expect("a number");
        (revision["hints"].clone(), read)
    }

    /// A backup that reads everything, for this reason; the one after it does not.
    fn doubts(&mut self, why: &str) {
        let (hints, _) = self.backup();
        assert!(reason(&hints).contains(why), "{why}: {hints}");
        let (hints, read) = self.backup();
        assert!(hints["since"].is_string() && read == 0, "after '{why}': {read}, {hints}");
    }

    /// The names of the snapshots of the image.
    fn snapshots(&self) -> Vec<String> {
        let list = self.json(&["snap", "ls", "--format=json", "%"]);
        let list = list.as_array().expect("a list");
        list.iter().map(|snapshot| snapshot["name"].as_str().expect("a name").to_owned()).collect()
    }

    fn the_snapshot(&self) -> String {
        let [mark] = self.snapshots().try_into().expect("one snapshot");
        format!("{}@{mark}", self.image)
    }

    /// The snapshot that the archive has made.
    fn the_mark(&self) -> String {
        let names = self.snapshots();
        let mark = names.iter().find(|name| name.starts_with("backy.")).expect("a mark");
        format!("{}@{mark}", self.image)
    }

    fn configure(&self, lines: &str) {
        let path = self.site.folder.join("backy.toml");
        let config = fs::read_to_string(&path).expect("read the config");
        fs::write(&path, config + lines).expect("write the config");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn address(cluster: &Cluster, image: &str) -> String {
    format!("rbd:{image}:conf={}", text(&cluster.conf()))
}

fn create(cluster: &Cluster, image: &str) {
    works(&mut cluster.rbd(&["create", "--size=16M", image]));
    io(cluster, image, &["write -P 3 0 300000", "write -P 4 5M 1M", "write -P 5 11M 70000"]);
}

fn io(cluster: &Cluster, image: &str, commands: &[&str]) {
    let parts: Vec<&str> = image.split('/').collect();
    let (pool, namespace, name) = match *parts {
        [pool, name] => (pool, String::new(), name),
        [pool, namespace, name] => (pool, format!("namespace={namespace},"), name),
        _ => panic!("{image}"),
    };
    let conf = cluster.conf();
    let options = format!(
        "driver=rbd,discard=unmap,pool={pool},{namespace}image={name},conf={}",
        text(&conf)
    );
    let mut command = Command::new("qemu-io");
    for each in commands {
        command.args(["-c", each]);
    }
    let output = run(command.args(["--image-opts", &options]));
    let said = words(&output);
    assert!(output.status.success() && !said.contains("rror"), "{commands:?}: {said}");
}

fn reason(hints: &Value) -> &str {
    hints["reason"].as_str().unwrap_or_else(|| panic!("no reason: {hints}"))
}

/// A revision is the image at one moment, also while it is in use; a backup reads little more than what has changed,
/// whatever that was: writes, zeros, discards, growing, shrinking, going back to a snapshot, clones, namespaces, object
/// maps that are missing, invalid or wrong. A snapshot that is gone or was made again, and another image, are doubts.
/// What cannot be backed up has its message, and a backup that is killed leaves no snapshot for long.
#[test]
fn images_of_a_cluster_are_backed_up() {
    let Some(cluster) = Cluster::with_images() else { return };
    let cluster = &cluster;
    std::thread::scope(|scope| {
        // They mostly wait.
        scope.spawn(refused::no_cluster_is_reported);
        scope.spawn(|| killed::no_snapshot_stays_for_long(cluster));
        scope.spawn(|| {
            refused::bad_images_and_programs_are_refused(cluster);
            a_revision_is_the_image_at_one_moment(cluster);
            only_snapshots_of_the_archive_are_removed(cluster);
            the_recipe_works(cluster);
        });
        scope.spawn(|| {
            what_is_not_the_same_is_a_doubt(cluster);
            no_object_map_is_believed(cluster);
            fast_diff::object_maps_are_believed_on_request(cluster);
        });
        every_way_to_change_an_image_is_noticed(cluster);
        clones_are_read_with_what_is_below(cluster);
    });
}

type Change = Box<dyn Fn(&Scene<'_>)>;

fn io_of(commands: &'static [&'static str]) -> Change {
    Box::new(move |scene| scene.io(commands))
}

fn to(size: &'static str) -> Change {
    Box::new(move |scene| scene.resize(size))
}

fn rbd_of(args: &'static [&'static str]) -> Change {
    Box::new(move |scene| drop(scene.rbd(args)))
}

/// Each change is in the next revision, and at most so many bytes are read for it.
fn go_through(scene: &mut Scene<'_>, changes: &[(&str, u64, Change)]) {
    for (what, most, change) in changes {
        change(scene);
        let kept: Vec<String> =
            scene.snapshots().into_iter().filter(|name| !name.starts_with("backy.")).collect();
        let (hints, read) = scene.backup();
        assert!(hints["since"].is_string(), "{what}: {hints}");
        assert!(read <= *most, "{what}: {read} bytes were read");
        let left = scene.snapshots();
        assert_eq!(left.len(), kept.len() + 1, "{what}: {left:?}");
    }
    scene.site.check_at_rest_here();
}

fn every_way_to_change_an_image_is_noticed(cluster: &Cluster) {
    let mut scene = Scene::new(cluster, "changes");
    let (hints, read) = scene.backup();
    assert_eq!(reason(&hints), "this is the first backup");
    // An object is data up to the last byte that was written to it.
    assert!(read < 7 * MIB, "{read} bytes of holes were read");
    // What lies before it in its object counts as well, if it was not there.
    let (few, some) = (256 << 10, 3 * MIB);
    go_through(
        &mut scene,
        &[
            ("nothing", 0, Box::new(|_| {})),
            ("a write", few, io_of(&["write -P 17 100000 5000"])),
            ("zeros", few, io_of(&["write -z 5M 100k"])),
            ("a discard", few, io_of(&["discard 5500k 128k"])),
            ("an object discarded", few, io_of(&["discard 8M 4M"])),
            ("a snapshot of somebody", 0, rbd_of(&["snap", "create", "--no-progress", "%@mine"])),
            ("longer", 0, to("20000001B")),
            ("data in what is new", some, io_of(&["write -P 6 18M 3000"])),
            ("shorter", some, to("10M")),
            ("data again", some, io_of(&["write -P 7 9M 1000"])),
            (
                "shorter and longer again",
                few,
                Box::new(|scene| {
                    scene.resize("4M");
                    scene.resize("10M");
                }),
            ),
            // What the image was then comes back: 1 MiB, and what is near.
            (
                "back to a snapshot",
                3 * MIB,
                rbd_of(&["snap", "rollback", "--no-progress", "%@mine"]),
            ),
            ("a flood", 8 * MIB, io_of(&["write -P 9 0 6M", "write -P 10 7M 1M"])),
        ],
    );
    let said = works(&mut scene.site.backy(&["source"]));
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("RBD image") && said.contains("backy."), "{said}");
    // Objects of striped images are not one after the other.
    let striped = format!("{POOL}/striped");
    let stripes = ["--stripe-unit=64K", "--stripe-count=4", "--object-size=1M"];
    works(&mut cluster.rbd(&[&["create", "--size=9M"], &stripes[..], &[&striped]].concat()));
    io(cluster, &striped, &["write -P 1 0 200k", "write -P 2 2M 300k", "write -P 3 8M 1M"]);
    let mut scene = Scene::of(cluster, &striped);
    scene.backup();
    go_through(
        &mut scene,
        &[
            ("a write", 2 * MIB, io_of(&["write -P 4 3M 100k"])),
            ("a discard", 2 * MIB, io_of(&["discard 2M 128k"])),
            ("shorter", 0, to("5M")),
        ],
    );
}

/// In a namespace, on a parent in another pool: what is only in the parent is read, and missing after a shrink that no
/// `rbd diff` reports.
fn clones_are_read_with_what_is_below(cluster: &Cluster) {
    let parent = format!("{POOL}/parent");
    create(cluster, &parent);
    let base = format!("{parent}@base");
    works(&mut cluster.rbd(&["snap", "create", "--no-progress", &base]));
    works(&mut cluster.rbd(&["snap", "protect", &base]));
    works(&mut cluster.rbd(&["namespace", "create", &format!("{POOL}/tenant")]));
    let child = format!("{POOL}/tenant/child");
    works(&mut cluster.rbd(&["clone", "--rbd-default-clone-format=2", &base, &child]));
    let mut scene = Scene::of(cluster, &child);
    let (_, read) = scene.backup();
    assert!((MIB..16 * MIB).contains(&read), "{read} bytes were read");
    let object = 4 * MIB;
    go_through(
        &mut scene,
        &[
            ("nothing", 0, Box::new(|_| {})),
            ("a write", object, io_of(&["write -P 17 5200000 5000"])),
            ("a discard", object, io_of(&["discard 0 4M"])),
            (
                "shorter and longer again",
                object,
                Box::new(|scene| {
                    scene.resize("9M");
                    scene.resize("16M");
                }),
            ),
            ("a snapshot of somebody", 0, rbd_of(&["snap", "create", "--no-progress", "%@mine"])),
            ("a write to what was only below", object, io_of(&["write -P 18 7M 1000"])),
            (
                "back to a snapshot",
                2 * object,
                rbd_of(&["snap", "rollback", "--no-progress", "%@mine"]),
            ),
            ("flattened", 16 * MIB, rbd_of(&["flatten", "--no-progress", "%"])),
            ("a write to a flat one", object, io_of(&["write -P 19 6M 1000"])),
        ],
    );
    // A clone of the mark keeps that from being removed, and nothing else.
    scene.io(&["write -P 20 1M 1000"]);
    let mark = scene.the_mark();
    scene.rbd(&["snap", "protect", &mark]);
    works(&mut cluster.rbd(&["clone", &mark, &format!("{POOL}/tenant/grandchild")]));
    let said = run(&mut scene.site.backy(&["-v", "backup", "--force"]));
    assert!(said.status.success(), "{}", words(&said));
    let name = mark.split_once('@').expect("a snapshot").1;
    let expected = format!("the snapshot {name} cannot be removed");
    assert!(words(&said).contains(&expected), "{}", words(&said));
    assert!(words(&said).contains("is protected from removal"), "{}", words(&said));
    works(&mut cluster.rbd(&["rm", "--no-progress", &format!("{POOL}/tenant/grandchild")]));
    scene.rbd(&["snap", "unprotect", &mark]);
    let state = scene.disk();
    scene.site.push_newest(&state);
    let (hints, _) = scene.backup();
    assert!(hints["since"].is_string(), "{hints}");
    assert_eq!(scene.snapshots().len(), 2);
}

fn what_is_not_the_same_is_a_doubt(cluster: &Cluster) {
    let mut scene = Scene::new(cluster, "doubts");
    scene.backup();
    let mark = scene.the_snapshot();
    scene.rbd(&["snap", "rm", "--no-progress", &mark]);
    scene.io(&["write -P 1 1M 1000"]);
    scene.doubts("is missing");
    // The same name, but what is written before is in neither difference.
    scene.io(&["write -P 2 2M 1000"]);
    let mark = scene.the_snapshot();
    scene.rbd(&["snap", "rm", "--no-progress", &mark]);
    scene.rbd(&["snap", "create", "--no-progress", &mark]);
    scene.doubts("was made again");
    // Another image under the name, with a snapshot of the same name and number as a stranger would hardly make it.
    let mark = scene.the_snapshot();
    scene.rbd(&["rename", "%", &format!("{POOL}/renamed")]);
    scene.rbd(&["deep", "cp", "--no-progress", &format!("{POOL}/renamed"), "%"]);
    scene.io(&["write -P 3 3M 1000"]);
    let looked = works(&mut scene.site.backy(&["source"]));
    let looked = String::from_utf8_lossy(&looked);
    assert!(looked.contains("it is another image") || looked.contains("made again"), "{looked}");
    let (hints, _) = scene.backup();
    let why = reason(&hints);
    assert!(why.contains("it is another image") || why.contains("made again"), "{mark}: {hints}");
    scene.site.check_at_rest();
}

/// A map that is switched off, on, invalid, or that does not know of a write: what has changed is found all the same.
fn no_object_map_is_believed(cluster: &Cluster) {
    let mut scene = Scene::new(cluster, "map");
    scene.backup();
    let (few, some) = (256 << 10, MIB);
    let features: &[&str] = &["object-map", "fast-diff"];
    let feature = |what: &'static str| {
        move |scene: &Scene<'_>| {
            scene.rbd(&[&["feature", what, "%"], features].concat());
            scene.io(&["write -P 21 6M 1000"]);
        }
    };
    go_through(
        &mut scene,
        &[
            ("without a map", few, Box::new(feature("disable"))),
            ("with a map that is not valid", few, Box::new(feature("enable"))),
            ("more of that", some, io_of(&["write -P 22 1M 1000"])),
        ],
    );
    let info = scene.json(&["info", "--format=json", "%"]);
    assert!(info["flags"].to_string().contains("object map invalid"), "{info}");
    let mut scene = Scene::new(cluster, "lie");
    scene.backup();
    write_past_the_map(&scene, 1);
    let before = scene.the_snapshot();
    scene.rbd(&["snap", "create", "--no-progress", "%@lie"]);
    let since = before.split_once('@').expect("a snapshot").1;
    let lie = ["diff", "--format=json", "--whole-object", "--from-snap", since, "%@lie"];
    assert_eq!(
        scene.json(&lie).as_array().map(Vec::len),
        Some(0),
        "the map knows of the write after all"
    );
    let (hints, read) = scene.backup();
    assert!(hints["since"].is_string() && (1..=few).contains(&read), "{read}: {hints}");
    scene.site.check_at_rest();
}

/// A write to one of the objects of the image, with the right snapshots.
fn write_past_the_map(scene: &Scene<'_>, object: u64) {
    let info = scene.json(&["info", "--format=json", "%"]);
    let list = scene.json(&["snap", "ls", "--format=json", "%"]);
    let id = &list[0]["id"];
    let object = format!("{}.{object:016x}", info["block_name_prefix"].as_str().expect("a name"));
    let script = "import rados, sys\n\
        cluster = rados.Rados(conffile=sys.argv[1]); cluster.connect()\n\
        pool = cluster.open_ioctx(sys.argv[2])\n\
        pool.set_self_managed_snap_write([int(sys.argv[3])])\n\
        pool.write(sys.argv[4], b'past the map', 2000000)\n";
    let conf = scene.cluster.conf();
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", script, text(&conf), POOL, &id.to_string(), &object]);
    works(&mut python);
}

/// What is written while a backup reads is not in its revision, with and without a mark.
fn a_revision_is_the_image_at_one_moment(cluster: &Cluster) {
    let mut scene = Scene::new(cluster, "moment");
    for mode in ["auto", "off"] {
        if mode == "off" {
            scene.configure("[tracking]\nmode = \"off\"\n");
        }
        let state = scene.disk();
        let snapshots = scene.snapshots().len();
        let mut slow = scene.site.backy(&["backup", "--force", "--read-all", "--limit-rate", "2M"]);
        let backup = crate::processes::Running::start(&mut slow);
        crate::mounted::until("there is a snapshot", || scene.snapshots().len() > snapshots);
        scene.io(&["write -P 30 0 100k", "write -P 30 11M 70000", "discard 5M 1M"]);
        backup.finish();
        scene.site.push_newest(&state);
        scene.io(&["write -P 4 5M 1M"]);
    }
    assert_eq!(scene.snapshots(), Vec::<String>::new());
    let (hints, _) = scene.backup();
    assert!(reason(&hints).contains("mode = \"off\""), "{hints}");
    assert_eq!(scene.snapshots(), Vec::<String>::new());
    scene.site.check_at_rest();
}

/// Those of others and of another archive stay.
fn only_snapshots_of_the_archive_are_removed(cluster: &Cluster) {
    let mut scene = Scene::new(cluster, "two");
    let mine = "backy.0190a000-0000-7000-8000-000000000000.x";
    scene.rbd(&["snap", "create", "--no-progress", &format!("%@{mine}")]);
    let other = scene.path("other");
    works(&mut backy(&other, &["init", &address(cluster, &scene.image)]));
    for round in 0..3 {
        scene.io(&[&format!("write -P {round} 1M 1000")]);
        works(&mut backy(&other, &["backup", "--force"]));
        let (hints, _) = scene.backup();
        assert_eq!(hints["since"].is_string(), round > 0, "{hints}");
        assert_eq!(scene.snapshots().len(), 3);
    }
    scene.configure("[tracking]\nmode = \"off\"\n");
    scene.backup();
    let left = scene.snapshots();
    assert!(left.len() == 2 && left.contains(&mine.to_owned()), "{left:?}");
}

/// That of `doc/sources.md`, as it stands there. The second backup reads only what has changed.
fn the_recipe_works(cluster: &Cluster) {
    works(&mut cluster.ceph(&["osd", "pool", "create", "vms", "8", "8"]));
    works(&mut cluster.rbd(&["pool", "init", "vms"]));
    let image = "vms/mynode";
    create(cluster, image);
    let disk = |_: &Path| works(&mut cluster.rbd(&["export", "--no-progress", image, "-"]));
    let change = |_: &Path| io(cluster, image, &["write -P 9 2M 5000"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let environment = [format!("CEPH_CONF={}", text(&cluster.conf()))];
    let heading = "An image of Ceph RBD";
    let second = follow(heading, (folder.path(), &environment), &disk, &change);
    assert!(second["hints"]["since"].is_string(), "{second}");
    let restored = works(&mut cluster.rbd(&["export", "--no-progress", "vms/restored", "-"]));
    assert!(restored == disk(folder.path()), "the restored image has other bytes");
}
