//! qcow2 images that are backed up through `qemu-nbd`: a revision is the disk that a guest would see, whatever was done
//! to the image, and only what may have changed is read.

mod refused;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

use backy_tests::qemu;
use serde_json::Value;

use crate::mounted::until;
use crate::processes::Running;
use crate::site::{Site, backy, noise, run, text, words, works};
use crate::stand_ins::{GRANDPARENT, PARENT, kill_at_each, with};

const MIB: u64 = 1 << 20;
const BYTES: u64 = 12 * MIB;

/// An archive of an image.
struct Scene {
    site: Site,
    folder: tempfile::TempDir,
}

impl Scene {
    /// With some data in the image. `None` without QEMU.
    fn new() -> Option<Self> {
        Self::made(|image| create(image, &["-o", "compat=1.1"], BYTES))
    }

    /// With an image that `make` has made.
    fn made(make: impl FnOnce(&Path)) -> Option<Self> {
        if !qemu::available() {
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = folder.path().join("vm,1.qcow2");
        make(&source);
        let archive = folder.path().join("archive");
        works(&mut backy(&archive, &["init", &address(&source)]));
        Some(Scene { site: Site { folder: archive, source, expected: Vec::new() }, folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn io(&self, commands: &[&str]) {
        io(&self.site.source, commands);
    }

    /// The disk as `qemu-img` reads it.
    fn disk(&self) -> Vec<u8> {
        disk(&self.site.source, self.folder.path())
    }

    /// A backup, which has to be of the disk; what it says about changes, and how much it read.
    fn backup(&mut self) -> (Value, u64) {
        let state = self.disk();
        self.backup_of(&state)
    }

    fn backup_of(&mut self, state: &[u8]) -> (Value, u64) {
        let report = self.site.backup_source(state);
        let image = fs::read(self.site.folder.join("last.raw")).expect("read last.raw");
        assert!(image == state, "last.raw is not the guest's disk");
        let revision = &report["revision"];
        let read = revision["statistics"]["read_bytes"].as_u64().expect("a number");
        (revision["hints"].clone(), read)
    }

    /// A backup that reads everything, for this reason; the one after it does not.
    fn doubts(&mut self, why: &str) {
        let state = self.disk();
        self.doubts_of(&state, why);
    }

    fn doubts_of(&mut self, state: &[u8], why: &str) {
        let (hints, _) = self.backup_of(state);
        assert!(reason(&hints).contains(why), "{why}: {hints}");
        let (hints, read) = self.backup_of(state);
        assert!(hints["since"].is_string() && read == 0, "after '{why}': {hints}");
    }

    /// The names of the bitmaps in the image.
    fn bitmaps(&self) -> Vec<String> {
        bitmaps(&self.site.source)
    }
}

fn address(image: &Path) -> String {
    format!("qcow2:{}", text(image))
}

/// An image with data in three places.
fn create(image: &Path, options: &[&str], bytes: u64) {
    let size = bytes.to_string();
    works(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .args(options)
            .arg(image)
            .arg(size),
    );
    io(image, &["write -P 3 0 300000", "write -P 4 5M 1M", "write -P 5 11M 70000"]);
}

fn io(image: &Path, commands: &[&str]) {
    let mut command = Command::new("qemu-io");
    for each in commands {
        command.args(["-c", each]);
    }
    let output = run(command.args(["-f", "qcow2"]).arg(image));
    assert!(output.status.success() && output.stderr.is_empty(), "{}", words(&output));
}

fn disk(image: &Path, folder: &Path) -> Vec<u8> {
    let raw = folder.join("disk.raw");
    works(
        Command::new("qemu-img").args(["convert", "-f", "qcow2", "-O", "raw"]).arg(image).arg(&raw),
    );
    fs::read(raw).expect("read the disk")
}

fn bitmaps(image: &Path) -> Vec<String> {
    let printed = works(Command::new("qemu-img").args(["info", "-U", "--output=json"]).arg(image));
    let info: Value = serde_json::from_slice(&printed).expect("JSON");
    let list = info["format-specific"]["data"]["bitmaps"].as_array().cloned().unwrap_or_default();
    list.iter().map(|bitmap| bitmap["name"].as_str().expect("a name").to_owned()).collect()
}

fn qemu_img(args: &[&str], image: &Path) {
    works(Command::new("qemu-img").args(args).arg(image));
}

fn reason(hints: &Value) -> &str {
    hints["reason"].as_str().unwrap_or_else(|| panic!("no reason: {hints}"))
}

/// Processes that have this file among their arguments.
fn users(image: &Path) -> usize {
    let entries = fs::read_dir("/proc").expect("list the processes");
    let cmdlines = entries.filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    let escaped = text(image).replace(',', ",,");
    cmdlines.filter(|line| String::from_utf8_lossy(line).contains(&escaped)).count()
}

/// A program that writes to the image and keeps it open, as a virtual machine does.
pub(crate) fn guest(image: &Path, commands: &[&str]) -> Running {
    let mut command = Command::new("stdbuf");
    command.args(["-oL", "qemu-io"]);
    for each in commands.iter().chain(&["length", "sleep 600000"]) {
        command.args(["-c", each]);
    }
    let mut guest = Running::start(command.args(["-f", "qcow2"]).arg(image));
    // Nobody looks at the image before: that would keep it from being opened.
    let mut said = BufReader::new(guest.0.stdout.take().expect("a pipe")).lines();
    let is_size = |line: std::io::Result<String>| line.expect("a line").ends_with("MiB");
    assert!(said.any(is_size), "the guest does not run");
    guest
}

/// Writes, zeros, discards, growing, shrinking and growing back, snapshots, commits of an overlay: each is in the next
/// revision, and little more than it is read.
#[test]
fn every_way_to_change_an_image_is_noticed() {
    let Some(mut scene) = Scene::new() else { return };
    let (hints, read) = scene.backup();
    assert_eq!(reason(&hints), "this is the first backup");
    assert!(read < 3 * MIB, "{read} bytes of holes were read");
    let image = scene.site.source.clone();
    let resize = |args: &'static [&'static str], size: &'static str| {
        move |scene: &Scene| {
            works(
                Command::new("qemu-img")
                    .args(["resize", "-q", "-f", "qcow2"])
                    .args(args)
                    .arg(&scene.site.source)
                    .arg(size),
            );
        }
    };
    let io = |commands: &'static [&'static str]| move |scene: &Scene| scene.io(commands);
    type Change = Box<dyn Fn(&Scene)>;
    let changes: [(&str, Change); 12] = [
        ("nothing", Box::new(|_| {})),
        ("a write", Box::new(io(&["write -P 17 1000000 5000"]))),
        ("zeros", Box::new(io(&["write -z 5M 100k"]))),
        ("a discard", Box::new(io(&["discard 5500k 128k"]))),
        ("compressed data", Box::new(io(&["write -c -P 9 8M 64k"]))),
        ("longer", Box::new(resize(&[], "20M"))),
        ("data in what is new", Box::new(io(&["write -P 6 19M 3000"]))),
        ("shorter", Box::new(resize(&["--shrink"], "18M"))),
        (
            "shorter and longer again",
            Box::new(move |scene| {
                resize(&["--shrink"], "10M")(scene);
                resize(&[], "18M")(scene);
            }),
        ),
        ("a snapshot", Box::new(|scene| qemu_img(&["snapshot", "-c", "one"], &scene.site.source))),
        (
            "a commit",
            Box::new(|scene| {
                let overlay = scene.path("overlay");
                let base = text(&scene.site.source);
                qemu_img(&["create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2"], &overlay);
                self::io(&overlay, &["write -P 77 3M 9000", "discard 0 64k"]);
                qemu_img(&["commit", "-q"], &overlay);
            }),
        ),
        (
            "a copy in its place",
            Box::new(|scene| {
                let copy = scene.path("copy");
                fs::copy(&scene.site.source, &copy).expect("copy");
                fs::rename(copy, &scene.site.source).expect("rename");
                scene.io(&["write -P 78 4M 9000"]);
            }),
        ),
    ];
    for (what, change) in changes {
        change(&scene);
        let (hints, read) = scene.backup();
        assert!(hints["since"].is_string(), "{what}: {hints}");
        assert!(read <= 256 << 10, "{what}: {read} bytes were read");
        assert_eq!(scene.bitmaps().len(), 1, "{what}");
    }
    scene.site.check_at_rest();
    assert_eq!(users(&image), 0, "something still serves the image");
}

/// What no bitmap of the image records makes a doubt, and everything is read: another chain of backing files, one that
/// has changed, an overlay over the image that had the bitmap, a bitmap that was removed or not saved.
#[test]
fn what_no_bitmap_records_is_a_doubt() {
    let made = |image: &Path| {
        let base = image.with_file_name("base.raw");
        fs::write(&base, noise(4, BYTES as usize)).expect("write the base");
        let middle = image.with_file_name("middle.qcow2");
        for (backing, format, image) in
            [(&base, "raw", &middle), (&middle, "qcow2", &image.to_owned())]
        {
            let over = ["create", "-q", "-f", "qcow2", "-b", text(backing), "-F", format];
            qemu_img(&over, image);
            io(image, &["write -P 1 1M 1M"]);
        }
    };
    let Some(mut scene) = Scene::made(made) else { return };
    scene.backup();
    let (hints, read) = scene.backup();
    assert!(hints["since"].is_string() && read == 0, "{hints}");

    let mut base = fs::read(scene.path("base.raw")).expect("read the base");
    base[9_000_000] ^= 1;
    fs::write(scene.path("base.raw"), &base).expect("write the base");
    scene.doubts("what is below the image has changed");
    io(&scene.path("middle.qcow2"), &["write -P 7 7M 1000"]);
    scene.doubts("what is below the image has changed");
    let base = scene.path("base.raw");
    let rebase = ["rebase", "-u", "-f", "qcow2", "-b", text(&base), "-F", "raw"];
    qemu_img(&rebase, &scene.site.source);
    scene.doubts("what is below the image has changed");

    // The bitmap is in the image below now.
    let below = scene.path("below.qcow2");
    fs::rename(&scene.site.source, &below).expect("rename");
    let over = ["create", "-q", "-f", "qcow2", "-b", text(&below), "-F", "qcow2"];
    qemu_img(&over, &scene.site.source);
    scene.io(&["write -P 8 2M 1000"]);
    scene.doubts("what is below the image has changed");

    let [mark] = scene.bitmaps().try_into().expect("one bitmap");
    works(
        Command::new("qemu-img")
            .args(["bitmap", "--remove", "-f", "qcow2"])
            .arg(&scene.site.source)
            .arg(&mark),
    );
    scene.doubts("is missing");
    let [mark] = scene.bitmaps().try_into().expect("one bitmap");
    works(
        Command::new("qemu-img")
            .args(["bitmap", "--disable", "-f", "qcow2"])
            .arg(&scene.site.source)
            .arg(&mark),
    );
    scene.doubts("does not record writes");
    guest(&scene.site.source, &["write -P 12 3M 1000", "flush"]);
    // `Running` kills it.
    until("the guest has gone", || users(&scene.site.source) == 0);
    scene.doubts("was not saved");
    scene.site.check_at_rest();
}

/// A backup is killed at each program of QEMU that it runs, before that has done its work or after. Then no process of
/// the backup is left, the next backup reads only what has changed, and one bitmap is left.
#[test]
fn a_killed_backup_leaves_no_bitmap_for_long() {
    let Some(mut scene) = Scene::new() else { return };
    scene.backup();
    let mut round = 0;
    let killed =
        kill_at_each(&[("qemu-img", PARENT), ("qemu-nbd", GRANDPARENT)], |at, settings| {
            round += 1;
            scene.io(&[&format!("write -P {round} {}M 1000", round % 11)]);
            let output = run(&mut with(settings, &scene.site.backy(&["backup", "--force"])));
            let image = &scene.site.source;
            until("everything of the backup has ended", || users(image) == 0);
            let state = scene.disk();
            scene.site.reconcile(&[], Some(&state));
            if output.status.success() {
                return true;
            }
            assert_eq!(output.status.code(), None, "{at}: {}", words(&output));
            let output = run(&mut scene.site.backy(&["backup", "--force", "--json"]));
            assert!(output.status.success(), "{at}: {}", words(&output));
            let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
            scene.site.push(report["revision"]["uuid"].as_str().expect("a UUID"), &state);
            let hints = &report["revision"]["hints"];
            assert!(hints["since"].is_string(), "{at}: {hints}");
            assert_eq!(scene.bitmaps().len(), 1, "{at}");
            false
        });
    assert!(killed >= 12, "only {killed} moments");
    scene.site.check_at_rest();
}

/// Bitmaps of others and of another archive stay, and `mode = "off"` removes those of this one.
#[test]
fn only_bitmaps_of_the_archive_are_removed() {
    let Some(mut scene) = Scene::new() else { return };
    let add = ["bitmap", "--add", "-f", "qcow2"];
    let mine = "backy.0190a000-0000-7000-8000-000000000000.x";
    works(Command::new("qemu-img").args(add).args([text(&scene.site.source), mine]));
    let other = scene.path("other");
    works(&mut backy(&other, &["init", &address(&scene.site.source)]));
    for round in 0..3 {
        scene.io(&[&format!("write -P {round} 1M 1000")]);
        works(&mut backy(&other, &["backup", "--force"]));
        let (hints, _) = scene.backup();
        assert_eq!(hints["since"].is_string(), round > 0, "{hints}");
        assert_eq!(scene.bitmaps().len(), 3);
    }
    scene.site.configure(|config| config + "[tracking]\nmode = \"off\"\n");
    scene.backup();
    let left = scene.bitmaps();
    assert!(left.len() == 2 && left.contains(&mine.to_owned()), "{left:?}");
}
