//! Thin volumes of LVM: each backup is compared byte for byte with the volume, whatever was done to it.
//!
//! The programs of LVM and of the device mapper are stand-ins that keep a pool in a folder (`pool.py`). What two
//! snapshots have in common is what the real `thin_delta` finds in metadata that `thin_restore` has made.

mod delta;
mod doubts;
mod killed;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use backy_lib::storage::sim::Random;
use backy_tests::qemu::skipped;
use serde_json::Value;
use tempfile::TempDir;

use crate::site::{Site, backy, fails, run, text, words, works};
use crate::sources::follow;
use crate::stand_ins::{StandIns, with};

const UNIT: u64 = 64 << 10;

/// A size that is no multiple of the pool's unit.
const BYTES: u64 = (4 << 20) + 1024;

const SOURCE: &str = "lvm-thin:vg-0/mynode";

/// What stands in for a program; `thin_delta` reads what that has reserved.
const PROGRAMS: [&str; 6] = ["lvs", "lvcreate", "lvchange", "lvremove", "dmsetup", "thin_delta"];

/// Whether the tools for metadata are here. Prints `SKIPPED` when not.
fn are_tools_here() -> bool {
    let found = ["thin_delta", "thin_restore"]
        .iter()
        .all(|name| Command::new(name).arg("-V").output().is_ok());
    if !found {
        skipped("thin-provisioning-tools are not installed");
    }
    found
}

/// A pool, and an archive of one of its volumes.
struct Scene {
    folder: TempDir,
    site: Site,
    programs: StandIns,
}

impl Scene {
    /// With a volume that has data in three places.
    fn new() -> Option<Self> {
        let scene = Scene::of_nothing()?;
        scene.pool(&["make", "mynode", &BYTES.to_string()]);
        for (offset, length, value) in
            [(0, 300_000, 3), (1 << 20, 500_000, 4), (BYTES - 700, 700, 5)]
        {
            scene.write(offset, length, value);
        }
        Some(scene)
    }

    /// Without the volume.
    fn of_nothing() -> Option<Self> {
        let scene = Scene::with_group("vg-0", "mapper/vg--0-pool_tmeta")?;
        works(&mut scene.command(&["init", SOURCE]));
        Some(scene)
    }

    /// Without the archive, and with the file of the metadata.
    fn with_group(group: &str, metadata: &str) -> Option<Self> {
        if !are_tools_here() {
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("group"), group).expect("name the group");
        for name in ["dev", "mapper"] {
            fs::create_dir(folder.path().join(name)).expect("make a folder");
        }
        fs::write(folder.path().join("pool.py"), include_str!("thin/pool.py"))
            .expect("write the stand-in");
        let metadata = fs::File::create(folder.path().join(metadata));
        metadata.expect("make the metadata").set_len(4 << 20).expect("make the metadata");
        let programs = PROGRAMS.iter().fold(StandIns::new(), |all, name| {
            all.with(name, &format!("exec {}", stand_in(folder.path(), name)))
        });
        let source = PathBuf::from(SOURCE);
        let site = Site { folder: folder.path().join("archive"), source, expected: Vec::new() };
        Some(Scene { folder, site, programs })
    }

    /// Does something to the pool. Returns what it says.
    fn pool(&self, words: &[&str]) -> Vec<u8> {
        works(
            Command::new(python())
                .args(["-I", "-S"])
                .arg(self.folder.path().join("pool.py"))
                .args(words),
        )
    }

    fn write(&self, offset: u64, length: u64, value: u8) {
        let numbers = [offset, length, value.into()].map(|number| number.to_string());
        let [offset, length, value] = &numbers;
        self.pool(&["write", "mynode", offset, length, value]);
    }

    /// `backy ARGS`, with the stand-ins.
    fn command(&self, args: &[&str]) -> Command {
        with(&[self.programs.first()], &self.site.backy(args))
    }

    /// Runs the same with another program in the place of one of them.
    fn run_with(&self, args: &[&str], program: &str, script: &str) -> Output {
        let other = StandIns::new().with(program, script);
        let own = self.programs.first();
        let path = format!("{}:{}", other.only(), own.trim_start_matches("PATH="));
        run(&mut with(&[path], &self.site.backy(args)))
    }

    /// The volume as it is now.
    fn disk(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("dev/mynode")).expect("read the volume")
    }

    fn state(&self) -> Value {
        let text = fs::read(self.folder.path().join("state.json")).expect("read the state");
        serde_json::from_slice(&text).expect("a state")
    }

    /// A backup, which has to be of the volume as it is; what it says about changes, and how much it read.
    fn backup(&mut self) -> (Value, u64) {
        let output = run(&mut self.command(&["backup", "--force", "--json"]));
        let report = self.taken(&output);
        (report["hints"].clone(), report["statistics"]["read_bytes"].as_u64().expect("a number"))
    }

    /// What a backup that has worked has made.
    fn taken(&mut self, output: &Output) -> Value {
        assert!(output.status.success(), "{}", words(output));
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        let state = self.disk();
        let revision = report["revision"].clone();
        self.site.push(revision["uuid"].as_str().expect("a UUID"), &state);
        let image = fs::read(self.site.folder.join("last.raw")).expect("read last.raw");
        assert!(image == state, "last.raw is not the volume");
        self.is_tidy();
        revision
    }

    /// Nothing is reserved, and no snapshot is active.
    fn is_tidy(&self) {
        let state = self.state();
        assert_eq!((&state["held"], &state["tags"]), (&Value::Null, &Value::Array(Vec::new())));
        for (name, volume) in state["volumes"].as_object().expect("volumes") {
            let is_snapshot = name.starts_with("backy.");
            assert!(!is_snapshot || volume["active"] == false, "{name} is active");
        }
    }

    /// A backup that reads everything but holes, for this reason; the one after it does not.
    fn doubts(&mut self, why: &str) {
        let (hints, _) = self.backup();
        assert!(reason(&hints).contains(why), "{why}: {hints}");
        let (hints, read) = self.backup();
        assert!(hints["since"].is_string() && read == 0, "after '{why}': {read}, {hints}");
    }

    /// The names of the snapshots that an archive has made.
    fn snapshots(&self) -> Vec<String> {
        let state = self.state();
        let volumes = state["volumes"].as_object().expect("volumes");
        volumes.keys().filter(|name| name.starts_with("backy.")).cloned().collect()
    }

    fn the_snapshot(&self) -> String {
        let [mark] = self.snapshots().try_into().expect("one snapshot");
        mark
    }
}

/// The interpreter itself: what is found by `PATH` may be a script that looks for it, and takes longer than it runs.
fn python() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let print = "import sys; print(sys.executable, end='')";
        let path = works(Command::new("python3").args(["-c", print]));
        String::from_utf8(path).expect("a path")
    })
}

/// What stands in for a program, for a shell.
fn stand_in(folder: &Path, program: &str) -> String {
    format!("{} -I -S {} {program} \"$@\"", python(), text(&folder.join("pool.py")))
}

fn reason(hints: &Value) -> &str {
    hints["reason"].as_str().unwrap_or_else(|| panic!("no reason: {hints}"))
}

/// Each change is in the next revision, and little more is read than what has changed: writes, writes to what was
/// shared, discards, growing, shrinking, both between two backups, and going back to a snapshot.
#[test]
fn every_change_of_a_volume_is_noticed() {
    let Some(mut scene) = Scene::new() else { return };
    let (hints, read) = scene.backup();
    assert_eq!(reason(&hints), "this is the first backup");
    assert!(read < BYTES / 2, "{read} bytes of holes were read");
    let resize =
        |scene: &Scene, size: u64| drop(scene.pool(&["resize", "mynode", &size.to_string()]));
    type Change<'a> = Box<dyn Fn(&Scene) + 'a>;
    let changes: Vec<(&str, u64, Change<'_>)> = vec![
        ("nothing", 0, Box::new(|_| {})),
        ("a write", 1, Box::new(|scene| scene.write(100_000, 10, 17))),
        ("a write across units", 2, Box::new(|scene| scene.write(2 * UNIT - 5, 10, 18))),
        ("a write to a hole", 1, Box::new(|scene| scene.write(3 << 20, 4096, 19))),
        ("a write to the end", 1, Box::new(|scene| scene.write(BYTES - 10, 10, 20))),
        ("a discard", 0, Box::new(|scene| drop(scene.pool(&["discard", "mynode", "0", "2"])))),
        ("the same again", 2, Box::new(|scene| scene.write(0, 2 * UNIT, 3))),
        ("longer", 1, Box::new(|scene| resize(scene, BYTES + 5 * UNIT))),
        ("data in what is new", 2, Box::new(|scene| scene.write(BYTES + 2 * UNIT, 512, 21))),
        ("shorter", 1, Box::new(|scene| resize(scene, 3 << 20))),
        (
            "shorter and longer again",
            20,
            Box::new(|scene| {
                scene.write(2 << 20, 1 << 20, 22);
                scene.pool(&["discard", "mynode", "32", "16"]);
                resize(scene, 2 << 20);
                resize(scene, 3 << 20);
            }),
        ),
        ("a flood", 48, Box::new(|scene| scene.write(0, 3 << 20, 9))),
        (
            "back to the snapshot",
            1,
            Box::new(|scene| {
                scene.write(0, 1 << 20, 10);
                let mark = scene.the_snapshot();
                scene.pool(&[
                    "lvcreate",
                    "--snapshot",
                    "--setactivationskip=y",
                    "--permission=r",
                    "--addtag=x",
                    "--name=mine",
                    &format!("vg-0/{mark}"),
                ]);
                scene.pool(&["merge", "mynode", "mine"]);
            }),
        ),
    ];
    for (what, most, change) in changes {
        change(&scene);
        let (hints, read) = scene.backup();
        assert!(hints["since"].is_string(), "{what}: {hints}");
        assert!(read <= most * UNIT, "{what}: {read} bytes were read");
        assert_eq!(scene.snapshots().len(), 1, "{what}");
    }
    let said = works(&mut scene.command(&["source"]));
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("LVM thin volume") && said.contains("backy."), "{said}");
    scene.site.check_at_rest();
}

/// Random writes and discards of several volumes of a pool, with snapshots of others in between.
#[test]
fn random_changes_of_a_volume_are_noticed() {
    for seed in 0..2 {
        let Some(mut scene) = Scene::new() else { return };
        let mut random = Random(seed);
        scene.pool(&["make", "other", &BYTES.to_string()]);
        scene.backup();
        for round in 0..5 {
            for _ in 0..random.below(6) {
                let volume = ["mynode", "other"][usize::from(random.below(4) == 0)];
                let offset = random.below(BYTES - 1);
                let length = 1 + random.below((BYTES - offset).min(5 * UNIT));
                match random.below(3) {
                    0 => {
                        let (begin, count) =
                            ((offset / UNIT).to_string(), (1 + length / UNIT).to_string());
                        let count = if offset / UNIT + 1 + length / UNIT > BYTES / UNIT {
                            "1"
                        } else {
                            &count
                        };
                        scene.pool(&["discard", volume, &begin, count]);
                    }
                    _ => {
                        let numbers = [offset, length, 1 + random.below(250)]
                            .map(|number| number.to_string());
                        scene.pool(&["write", volume, &numbers[0], &numbers[1], &numbers[2]]);
                    }
                }
            }
            let (hints, _) = scene.backup();
            assert!(hints["since"].is_string(), "seed {seed}, round {round}: {hints}");
        }
        scene.site.check_at_rest_here();
    }
}

/// The section about thin volumes is right, command by command.
#[test]
fn the_recipe_for_a_thin_volume_works() {
    let Some(scene) = Scene::with_group("vg0", "mapper/vg0-pool_tmeta") else { return };
    scene.pool(&["make", "mynode", &BYTES.to_string()]);
    scene.write(0, 1 << 20, 3);
    let place = tempfile::tempdir().expect("a temporary folder");
    let bin = place.path().join("bin");
    let path = format!("{}:{}", scene.programs.first(), text(&bin));
    let change = |_: &Path| scene.write(1 << 20, 1000, 4);
    let second =
        follow("A thin volume of LVM", (place.path(), &[path]), &|_| scene.disk(), &change);
    assert!(second["hints"]["since"].is_string(), "{second}");
    assert_eq!(second["read_bytes"], UNIT, "{second}");
}

/// With `mode = "off"` the snapshot lives as long as the backup, and holes are not read. `init` and `source` say what
/// is wrong with a volume; there is no going back to it without a target.
#[test]
fn a_volume_is_configured_and_looked_at() {
    let Some(mut scene) = Scene::of_nothing() else { return };
    let looked = run(&mut scene.command(&["source"]));
    assert!(words(&looked).contains("does not list the volume 'mynode'"), "{}", words(&looked));
    let said = fails(&mut scene.command(&["backup"]));
    assert!(said.contains("does not list the volume 'mynode'"), "{said}");
    let other = scene.folder.path().join("other");
    let made =
        run(&mut with(&[scene.programs.first()], &backy(&other, &["init", "lvm-thin:vg-0/root"])));
    let said = words(&made);
    assert!(made.status.success() && said.contains("a volume of type 'linear'"), "{said}");
    let said = fails(&mut backy(&scene.folder.path().join("bad"), &["init", "lvm-thin:vg-0"]));
    assert!(said.contains("expected lvm-thin:VG/LV"), "{said}");

    scene.pool(&["make", "mynode", &BYTES.to_string()]);
    scene.write(70_000, 5, 3);
    scene.backup();
    scene.site.configure(|config| config + "[tracking]\nmode = \"off\"\n");
    scene.write(1 << 20, 5, 3);
    let (hints, read) = scene.backup();
    assert!(reason(&hints).contains("mode = \"off\"") && read == 2 * UNIT, "{read}, {hints}");
    assert!(scene.snapshots().is_empty(), "{:?}", scene.snapshots());
    let said = fails(&mut scene.command(&["restore"]));
    assert!(said.contains("name a target"), "{said}");
    scene.site.check_at_rest();
}
