//! The recipes of `doc/hooks.md`, as they stand there but for their paths: freezing and btrfs for real; LVM, ZFS and
//! libvirt with stand-ins that keep records and do with files what those do with devices.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use backy_lib::Config;
use backy_tests::command::checkout;
use tempfile::TempDir;

use crate::disks::Disk;
use crate::site::{Site, fails, noise, run, text, words};

const MIB: usize = 1 << 20;

/// What the stand-ins share: where they write, and whether somebody has a file open, which the real ones refuse to
/// remove.
const COMMON: &str = r#"#!/bin/sh
say() { echo "${0##*/} $*" >> "$BOOK"; }
in_use() { find /proc/[0-9]*/fd -lname "$1" 2>/dev/null | grep -q .; }
"#;

const STAND_INS: [(&str, &str); 5] = [
    (
        "lvs",
        r#"for last; do :; done
[ -e "$last" ] || { echo "Failed to find logical volume" >&2; exit 5; }
case "$*" in *origin*) cat "$last.origin" 2>/dev/null || echo "  " ;; esac
"#,
    ),
    (
        "lvcreate",
        r#"say "$@"
[ -z "${NO_ROOM-}" ] || { echo "insufficient free space" >&2; exit 5; }
for last; do :; done
while [ "$1" != --name ]; do shift; done
snapshot=${last%/*}/$2
[ ! -e "$snapshot" ] || { echo "already exists" >&2; exit 5; }
cp "$last" "$snapshot"
echo "  ${last##*/} " > "$snapshot.origin"
# The machine goes on writing.
printf changed | dd of="$last" conv=notrunc status=none
"#,
    ),
    (
        "lvremove",
        r#"for last; do :; done
say "$last"
if in_use "$last"; then echo "Logical volume $last in use." >&2; exit 5; fi
rm "$last" "$last.origin"
"#,
    ),
    (
        "virsh",
        r#"say "$@"
case $1 in
domfsfreeze) [ ! -e "$BOOK.frozen" ] || exit 1; touch "$BOOK.frozen" ;;
domfsthaw) rm -f "$BOOK.frozen" ;;
esac
"#,
    ),
    (
        "zfs",
        r#"for last; do :; done
device=$VOLUMES/$last
case $1 in
list) [ -e "$device" ] ;;
snapshot)
    say "$@"
    # The device comes a little later.
    (sleep 0.3; cp "${device%@*}" "$device.new"; mv "$device.new" "$device"
     printf changed | dd of="${device%@*}" conv=notrunc status=none) &
    ;;
destroy)
    say "$@"
    case $last in *@*) ;; *) echo "destroyed the volume" >&2; exit 9 ;; esac
    if in_use "$device"; then echo "dataset is busy" >&2; exit 1; fi
    rm "$device"
    ;;
esac
"#,
    ),
];

/// The recipes by their names.
fn recipes() -> BTreeMap<String, String> {
    let text = fs::read_to_string(checkout().join("doc/hooks.md")).expect("doc/hooks.md");
    let blocks = text.split("```toml ").skip(1).map(|block| {
        let (name, rest) = block.split_once('\n').expect("a line");
        let (body, _) = rest.split_once("```").expect("its end");
        (name.to_owned(), body.to_owned())
    });
    blocks.collect()
}

/// A machine with stand-ins, volumes that are files, and an archive.
struct Machine {
    place: TempDir,
    site: Site,
}

impl Machine {
    /// With the recipe `name`, in which each of `paths` is replaced.
    fn make(name: &str, paths: &[(&str, &Path)]) -> Self {
        let place = tempfile::tempdir().expect("a temporary folder");
        let bin = place.path().join("bin");
        fs::create_dir(&bin).expect("make a folder");
        for (program, body) in STAND_INS {
            let path = bin.join(program);
            fs::write(&path, format!("{COMMON}{body}")).expect("write a stand-in");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
        }
        let volumes = place.path().join("dev");
        for folder in ["vg0", "zvol/tank"] {
            fs::create_dir_all(volumes.join(folder)).expect("make a folder");
            fs::write(volumes.join(folder).join("mynode"), noise(3, MIB)).expect("a volume");
        }
        let hooks = checkout().join("dist/hooks").canonicalize().expect("dist/hooks");
        let mut config = recipes().remove(name).expect("a recipe");
        let own = [("/usr/share/backy/hooks", hooks.as_path())];
        for (path, here) in own.iter().chain(paths) {
            config = config.replace(path, text(here));
        }
        let config = config.replace("\"/dev/", &format!("\"{}/", text(&volumes)));
        let source = volumes.join("vg0/mynode");
        let site = Site::init(place.path(), &source);
        fs::write(site.folder.join("backy.toml"), config).expect("write the config");
        Machine { place, site }
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.place.path().join("dev").join(name)
    }

    /// The requests to the stand-ins.
    fn book(&self) -> String {
        let book = fs::read_to_string(self.place.path().join("book")).unwrap_or_default();
        book.replace(text(self.place.path()), "")
    }

    fn backy(&self, args: &[&str]) -> Command {
        let plain = self.site.backy(args);
        let bin = self.place.path().join("bin");
        let mut command = Command::new("env");
        command
            .arg(format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", text(&bin)))
            .arg(format!("BOOK={}", text(&self.place.path().join("book"))))
            .arg(format!("VOLUMES={}", text(&self.volume("zvol"))))
            .arg(plain.get_program())
            .args(plain.get_args());
        command
    }

    /// A backup that works silently. Returns the bytes of the revision.
    fn backup(&self) -> Vec<u8> {
        let output = run(&mut self.backy(&["backup", "--force"]));
        assert!(output.status.success() && words(&output).is_empty(), "{}", words(&output));
        fs::read(self.site.folder.join("last.raw")).expect("read last.raw")
    }
}

/// Every recipe is a config, and names scripts that exist and run.
#[test]
fn every_recipe_is_a_config() {
    let recipes = recipes();
    assert_eq!(recipes.len(), 5, "{:?}", recipes.keys());
    for (name, recipe) in recipes {
        let config = Config::parse(&recipe, Path::new(&name)).expect("a config");
        for hook in [config.hooks.before, config.hooks.after] {
            let hook = hook.expect("a hook");
            let programs =
                hook.words().iter().filter_map(|word| word.strip_prefix("/usr/share/backy/hooks/"));
            for program in programs {
                let script = checkout().join("dist/hooks").join(program);
                let mode = fs::metadata(&script).expect(program).permissions().mode();
                assert!(mode & 0o111 == 0o111, "{program} cannot be run");
                // Its own example is the recipe.
                let script = fs::read_to_string(&script).expect(program);
                let example: String =
                    script.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
                let lines: String = recipe.lines().collect();
                assert!(name == "qemu" || example == lines, "{program}: {example}");
            }
        }
    }
}

/// LVM: the backup reads the snapshot and not the volume, a leftover one is removed first, and nothing is left. What
/// only has the name of a snapshot is left alone.
#[test]
fn lvm() {
    let machine = Machine::make("lvm", &[]);
    let before = fs::read(machine.volume("vg0/mynode")).expect("read the volume");
    assert!(machine.backup() == before, "it is not the snapshot that was read");
    let made = "lvcreate --quiet --snapshot --permission r --extents 10%ORIGIN --name mynode-backy /dev/vg0/mynode\n";
    let gone = "lvremove /dev/vg0/mynode-backy\n";
    assert_eq!(machine.book(), format!("{made}{gone}"));
    // Left over.
    fs::write(machine.volume("vg0/mynode-backy"), b"old").expect("a snapshot");
    fs::write(machine.volume("vg0/mynode-backy.origin"), b" mynode ").expect("a snapshot");
    let now = fs::read(machine.volume("vg0/mynode")).expect("read the volume");
    assert!(machine.backup() == now, "the old snapshot was read");
    assert_eq!(machine.book(), format!("{made}{gone}{gone}{made}{gone}"));
    // Somebody's.
    fs::write(machine.volume("vg0/mynode-backy"), b"mine").expect("a volume");
    let message = fails(&mut machine.backy(&["backup", "--force"]));
    assert!(message.contains("it is left alone; no backup was made"), "{message}");
    assert_eq!(fs::read(machine.volume("vg0/mynode-backy")).expect("it is there"), b"mine");
}

/// The QEMU guest agent: the guest is frozen for the moment of the snapshot, and is thawed when no snapshot is
/// possible.
#[test]
fn qemu() {
    let machine = Machine::make("qemu", &[]);
    let before = fs::read(machine.volume("vg0/mynode")).expect("read the volume");
    assert!(machine.backup() == before, "it is not the snapshot that was read");
    let made = "lvcreate --quiet --snapshot --permission r --extents 10%ORIGIN --name mynode-backy /dev/vg0/mynode\n";
    let (freeze, thaw) = ("virsh domfsfreeze mynode\n", "virsh domfsthaw mynode\n");
    let gone = "lvremove /dev/vg0/mynode-backy\n";
    let all = format!("{freeze}{made}{thaw}{thaw}{gone}");
    assert_eq!(machine.book(), all);
    let now = fs::read(machine.volume("vg0/mynode")).expect("read the volume");
    assert!(now != before && machine.backup() == now, "the second one is not the second snapshot");
    let all = format!("{all}{all}");
    assert_eq!(machine.book(), all);
    let plain = machine.backy(&["backup", "--force"]);
    let mut failing = Command::new("env");
    failing.arg("NO_ROOM=1").arg(plain.get_program()).args(plain.get_args());
    let message = fails(&mut failing);
    assert!(message.contains("insufficient free space"), "{message}");
    assert_eq!(machine.book(), format!("{all}{freeze}{made}{thaw}{thaw}"));
    assert!(!machine.place.path().join("book.frozen").exists(), "the guest is still frozen");
}

/// ZFS: the hooks wait for the snapshot's device, read it, and remove it. Without a snapshot's name nothing is
/// destroyed.
#[test]
fn zfs() {
    let machine = Machine::make("zfs", &[]);
    let before = fs::read(machine.volume("zvol/tank/mynode")).expect("read the volume");
    assert!(machine.backup() == before, "it is not the snapshot that was read");
    let once = "zfs snapshot tank/mynode@backy\nzfs destroy tank/mynode@backy\n";
    assert_eq!(machine.book(), once);
    let now = fs::read(machine.volume("zvol/tank/mynode")).expect("read the volume");
    assert!(now != before && machine.backup() == now, "the second one is not the second snapshot");
    assert_eq!(machine.book(), format!("{once}{once}"));
    machine.site.configure(|config| config.replace("mynode@backy", "mynode"));
    let message = fails(&mut machine.backy(&["backup", "--force"]));
    assert!(message.contains("has no @ and name"), "{message}");
    assert!(machine.volume("zvol/tank/mynode").exists(), "the volume was destroyed");
}

/// btrfs, for real: the snapshot is read while the file is written to, and is gone afterwards.
#[test]
fn btrfs() {
    let Some(disk) = Disk::make("btrfs", 300 << 20) else { return };
    let machine = Machine::make("btrfs", &[("/srv/vm", disk.path())]);
    let image = disk.path().join("mynode.img");
    // What is written after the snapshot was made is not in the revision.
    let config = machine.site.folder.join("backy.toml");
    let settings = fs::read_to_string(&config).expect("read the config");
    let script = checkout().join("dist/hooks/btrfs-snapshot").canonicalize().expect("the script");
    let line = format!(
        "before = '''{} {mnt} {mnt}/.backy && echo more >> {mnt}/mynode.img'''",
        text(&script),
        mnt = text(disk.path())
    );
    for seed in [8, 9] {
        let state = noise(seed, MIB);
        fs::write(&image, &state).expect("write the image");
        let old = settings.lines().find(|line| line.starts_with("before")).expect("a hook");
        fs::write(&config, settings.replace(old, &line)).expect("write the config");
        assert!(machine.backup() == state, "it is not the snapshot that was read");
        assert!(fs::metadata(&image).expect("the image").len() > state.len() as u64);
        assert!(!disk.path().join(".backy").exists(), "the snapshot is still there");
    }
    // As it stands there.
    fs::write(&config, &settings).expect("write the config");
    assert!(machine.backup() == fs::read(&image).expect("read the image"));
    fs::create_dir(disk.path().join(".backy")).expect("a folder");
    let message = fails(&mut machine.backy(&["backup", "--force"]));
    assert!(message.contains("it is left alone") || message.contains("ERROR"), "{message}");
    assert!(disk.path().join(".backy").exists(), "a folder of somebody else was removed");
}

/// Freezing, for real, as it stands there.
#[test]
fn fsfreeze() {
    let Some(disk) = Disk::make("ext4", 24 << 20) else { return };
    let paths = [("/srv/mynode", disk.path()), ("/dev/vdb", disk.device.path.as_path())];
    let machine = Machine::make("fsfreeze", &paths);
    let config = machine.site.folder.join("backy.toml");
    let settings = fs::read_to_string(&config).expect("read the config");
    let device = format!("source = {:?}", disk.device.path);
    let line = settings.lines().next().expect("the source").to_owned();
    fs::write(&config, settings.replace(&line, &device)).expect("write the config");
    // Each backup has what the file system had on the device then, and not what an earlier one has left in memory.
    for seed in [1, 2, 3] {
        let state = noise(seed, 2 * MIB);
        let path = disk.path().join("file");
        let file = fs::File::options().create(true).truncate(false).write(true).open(path);
        let file = file.expect("open a file");
        std::os::unix::fs::FileExt::write_all_at(&file, &state, 0).expect("write to it");
        let image = machine.backup();
        assert_eq!(image.len(), 24 << 20);
        let has = |sector: &[u8]| image.chunks(512).any(|found| found == sector);
        assert!(state.chunks(512).all(has), "backup {seed} lacks what was written before it");
        let before = noise(seed - 1, 2 * MIB);
        assert!(
            seed == 1 || !before.chunks(512).any(has),
            "backup {seed} has what was overwritten"
        );
    }
}
