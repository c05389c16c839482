//! Disks of virtual machines that run, backed up through QEMU's monitor: a revision is the disk as it was at one
//! moment, whatever the guest writes meanwhile, and only what may have changed is read. `qemu-storage-daemon` stands
//! for the virtual machine: it has the same disks, jobs and monitor.

mod killed;
mod refused;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use backy_tests::qemu;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::mounted::{fuse_available, until};
use crate::processes::Running;
use crate::site::{Site, backy, run, text, words, works};

const MIB: u64 = 1 << 20;
const BYTES: u64 = 16 * MIB;

/// A virtual machine that does nothing by itself: the test is its guest, by a file that FUSE shows.
pub(crate) struct Machine {
    process: Option<Running>,
    folder: tempfile::TempDir,
    format: &'static str,
}

impl Machine {
    /// `None` without QEMU or FUSE.
    pub(crate) fn start(format: &'static str) -> Option<Self> {
        let daemon = Command::new("qemu-storage-daemon").arg("--version").output().is_ok();
        if !daemon {
            qemu::skipped("qemu-storage-daemon is not installed (package qemu-system-common)");
        }
        if !daemon || !qemu::available() || !fuse_available() {
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut machine = Machine { process: None, folder, format };
        let size = BYTES.to_string();
        works(
            Command::new("qemu-img")
                .args(["create", "-q", "-f", format])
                .arg(machine.image())
                .arg(size),
        );
        machine.boot();
        machine.write(0, &[3; 300_000]);
        machine.write(5 * MIB, &[4; 1 << 20]);
        machine.write(15 * MIB, &[5; 70_000]);
        Some(machine)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn image(&self) -> PathBuf {
        self.path("disk")
    }

    fn monitor(&self) -> PathBuf {
        self.path("mynode.qmp")
    }

    fn guest(&self) -> PathBuf {
        self.path("guest")
    }

    fn boot(&mut self) {
        File::create(self.guest()).expect("make a file");
        let file =
            format!("driver=file,node-name=file,discard=unmap,filename={}", text(&self.image()));
        let disk = format!("driver={},node-name=virtio0,file=file,discard=unmap", self.format);
        let export = format!(
            "type=fuse,id=guest,node-name=virtio0,writable=on,mountpoint={}",
            text(&self.guest())
        );
        let socket = format!("socket,id=c,server=on,wait=off,path={}", text(&self.monitor()));
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--chardev", &socket, "--monitor", "chardev=c"]);
        command.args(["--blockdev", &file, "--blockdev", &disk, "--export", &export]);
        self.process = Some(Running::start(&mut command));
        until("the machine runs", || fs::metadata(self.guest()).is_ok_and(|found| found.len() > 0));
    }

    /// As by pressing its button, and after its mains plug was pulled.
    fn end(&mut self, signal: Signal) {
        let Some(mut process) = self.process.take() else { return };
        let id = i32::try_from(process.0.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(id, signal).expect("end it");
        until("the machine has ended", || !process.is_running());
        let mut umount = Command::new("umount");
        let _ = umount.arg("--lazy").arg(self.guest()).stderr(Stdio::null()).status();
    }

    fn restart(&mut self, signal: Signal) {
        self.end(signal);
        self.boot();
    }

    fn open(&self) -> File {
        File::options().read(true).write(true).open(self.guest()).expect("open the disk")
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        self.open().write_all_at(bytes, offset).expect("write to the disk");
    }

    /// The disk as the guest reads it now.
    pub(crate) fn disk(&self) -> Vec<u8> {
        fs::read(self.guest()).expect("read the disk")
    }

    fn ask(&self, command: &str, arguments: Value) -> Value {
        let mut stream = UnixStream::connect(self.monitor()).expect("connect to the monitor");
        let lines = stream.try_clone().expect("a second handle");
        let mut lines = BufReader::new(lines).lines().map(|line| line.expect("a line"));
        lines.next().expect("a greeting");
        for (command, arguments) in [("qmp_capabilities", json!({})), (command, arguments)] {
            let line = json!({"execute": command, "arguments": arguments}).to_string();
            stream.write_all(format!("{line}\n").as_bytes()).expect("ask");
            loop {
                let answer = lines.next().expect("an answer");
                let answer: Value = serde_json::from_str(&answer).expect("JSON");
                assert!(answer.get("error").is_none(), "{line}: {answer}");
                match answer.get("return") {
                    Some(returned) if command != "qmp_capabilities" => return returned.clone(),
                    Some(_) => break,
                    None => {}
                }
            }
        }
        unreachable!("each command has an answer")
    }

    /// The names of the bitmaps of all nodes.
    fn bitmaps(&self) -> Vec<String> {
        let nodes = self.ask("query-named-block-nodes", json!({}));
        let nodes = nodes.as_array().expect("nodes");
        let all = nodes.iter().filter_map(|node| node["dirty-bitmaps"].as_array()).flatten();
        all.filter_map(|bitmap| Some(bitmap["name"].as_str()?.to_owned())).collect()
    }

    /// The machine has nothing of a backup any more but bitmaps.
    fn check_quiet(&self) {
        assert_eq!(self.ask("query-jobs", json!({})), json!([]));
        let exports = self.ask("query-block-exports", json!({}));
        assert_eq!(exports.as_array().expect("exports").len(), 1, "{exports}");
        let nodes = self.ask("query-named-block-nodes", json!({"flat": true}));
        let mut names: Vec<&str> = nodes
            .as_array()
            .expect("nodes")
            .iter()
            .map(|n| n["node-name"].as_str().expect("a name"))
            .collect();
        // What is below it has names of QEMU's own.
        names.retain(|name| *name != "virtio0" && *name != "file" && !name.starts_with('#'));
        assert_eq!(names, [""; 0]);
        let left: Vec<_> = fs::read_dir(self.path("scratch")).expect("list").collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end(Signal::KILL);
    }
}

/// A machine and an archive of its disk.
struct Scene {
    machine: Machine,
    site: Site,
}

impl Scene {
    fn new(format: &'static str) -> Option<Self> {
        let machine = Machine::start(format)?;
        fs::create_dir(machine.path("scratch")).expect("make a folder");
        let site = archive(&machine, "archive");
        Some(Scene { machine, site })
    }

    /// A backup, which has to be of the disk as it is now; what it says about changes, and how much it read.
    fn backup(&mut self) -> (Value, u64) {
        let state = self.machine.disk();
        let report = self.site.backup_source(&state);
        let image = fs::read(self.site.folder.join("last.raw")).expect("read last.raw");
        assert!(image == state, "last.raw is not the guest's disk");
        self.machine.check_quiet();
        seen(&report)
    }

    /// A backup that reads everything, for this reason; the one after it does not.
    fn doubts(&mut self, why: &str) {
        let (hints, _) = self.backup();
        let reason = hints["reason"].as_str().unwrap_or_else(|| panic!("no reason: {hints}"));
        assert!(reason.contains(why), "{why}: {hints}");
        let (hints, read) = self.backup();
        assert!(hints["since"].is_string() && read == 0, "after '{why}': {hints}");
    }
}

fn archive(machine: &Machine, name: &str) -> Site {
    let folder = machine.path(name);
    let address = format!("qmp:{}/virtio0", text(&machine.monitor()));
    works(&mut backy(&folder, &["init", &address]));
    let site = Site { folder, source: machine.guest(), expected: Vec::new() };
    let scratch = format!("[tracking]\nscratch = {:?}\n", machine.path("scratch"));
    site.configure(|config| config + &scratch);
    site
}

/// What a report says about changes, and how much was read.
fn seen(report: &Value) -> (Value, u64) {
    let revision = &report["revision"];
    let read = revision["statistics"]["read_bytes"].as_u64().expect("a number");
    (revision["hints"].clone(), read)
}

/// Writes, zeros, discards, growing, shrinking and growing back, an orderly end and a new start: each is in the next
/// revision, and little more than it is read. A disk that is not qcow2 is read whole after a start.
#[test]
fn every_way_to_change_a_running_disk_is_noticed() {
    for format in ["qcow2", "raw"] {
        let Some(mut scene) = Scene::new(format) else { return };
        let (hints, read) = scene.backup();
        assert_eq!(hints["reason"], "this is the first backup");
        assert!(read < 3 * MIB, "{read} bytes of holes were read");
        let range = |flags: FallocateFlags, offset: u64, bytes: u64| {
            move |machine: &mut Machine| {
                let flags = flags | FallocateFlags::KEEP_SIZE;
                fallocate(machine.open(), flags, offset, bytes).expect("change a range");
            }
        };
        let resize = |bytes: u64| {
            move |machine: &mut Machine| {
                machine.ask("block_resize", json!({"node-name": "virtio0", "size": bytes}));
            }
        };
        type Change = Box<dyn Fn(&mut Machine)>;
        let changes: [(&str, Change); 9] = [
            ("nothing", Box::new(|_| {})),
            ("a write", Box::new(|machine| machine.write(1_000_000, &[7; 5000]))),
            ("a discard", Box::new(range(FallocateFlags::PUNCH_HOLE, 5 * MIB, 128 << 10))),
            ("zeros", Box::new(range(FallocateFlags::ZERO_RANGE, 5 * MIB + 200_000, 65_000))),
            ("longer", Box::new(resize(20 * MIB))),
            ("data in what is new", Box::new(|machine| machine.write(19 * MIB, &[6; 3000]))),
            ("shorter", Box::new(resize(18 * MIB))),
            (
                "shorter and longer again",
                Box::new(move |machine| {
                    resize(10 * MIB)(machine);
                    resize(18 * MIB)(machine);
                }),
            ),
            (
                "an orderly end and a start",
                Box::new(|machine| {
                    machine.write(3 * MIB, &[8; 4000]);
                    machine.restart(Signal::TERM);
                    machine.write(4 * MIB, &[9; 4000]);
                }),
            ),
        ];
        for (what, change) in changes {
            change(&mut scene.machine);
            let (hints, read) = scene.backup();
            let is_forgotten = format == "raw" && what.contains("start");
            assert_eq!(hints["since"].is_string(), !is_forgotten, "{format}, {what}: {hints}");
            assert!(read <= 256 << 10 || is_forgotten, "{format}, {what}: {read} bytes were read");
            assert_eq!(scene.machine.bitmaps().len(), 1, "{format}, {what}");
        }
        scene.site.check_at_rest();
    }
}

/// A guest that writes all the time, always to the next of some places: a revision has all writes up to some moment,
/// and none after it.
#[test]
fn a_revision_is_a_running_disk_at_one_moment() {
    const PLACES: u64 = 200;
    const APART: u64 = 70_000;
    let Some(mut scene) = Scene::new("qcow2") else { return };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let file = scene.machine.open();
        let stop = &stop;
        scope.spawn(move || {
            let mut count = 1_u64;
            while !stop.load(Ordering::Relaxed) {
                let place = count % PLACES;
                file.write_all_at(&count.to_le_bytes(), place * APART).expect("write to the disk");
                count += 1;
            }
        });
        for round in 0..4 {
            let output = run(&mut scene.site.backy(&["backup", "--force", "--json"]));
            if !output.status.success() {
                stop.store(true, Ordering::Relaxed);
            }
            assert!(output.status.success(), "{}", words(&output));
            let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
            let image = fs::read(scene.site.folder.join("last.raw")).expect("read last.raw");
            let at = |place: u64| {
                let start = (place * APART) as usize;
                u64::from_le_bytes(image[start..start + 8].try_into().expect("eight bytes"))
            };
            // Places that were never written to hold other bytes.
            let counts: Vec<u64> =
                (0..PLACES).map(at).map(|n| if n >> 40 == 0 { n } else { 0 }).collect();
            let newest = counts.iter().copied().max().unwrap_or(0);
            let is_whole = |(place, count): (usize, &u64)| {
                let expected = newest - (newest + PLACES - place as u64) % PLACES;
                *count == expected || newest < PLACES
            };
            let all = counts.iter().enumerate().all(is_whole);
            if !all {
                stop.store(true, Ordering::Relaxed);
            }
            assert!(all, "round {round}: up to {newest}: {counts:?}");
            let (hints, _) = seen(&report);
            assert_eq!(hints["since"].is_string(), round > 0, "{hints}");
            scene.site.push(report["revision"]["uuid"].as_str().expect("a UUID"), &image);
        }
        stop.store(true, Ordering::Relaxed);
    });
    scene.machine.check_quiet();
    scene.backup();
    scene.site.check_at_rest();
}

/// What no bitmap of the disk records makes a doubt, and everything is read: a bitmap that was removed, was disabled,
/// or could not be saved; an overlay; a backing file that has changed.
#[test]
fn what_no_bitmap_of_a_running_disk_records_is_a_doubt() {
    let Some(mut scene) = Scene::new("qcow2") else { return };
    scene.backup();
    let mark = |scene: &Scene| {
        let [mark] = scene.machine.bitmaps().try_into().expect("one bitmap");
        json!({"node": "virtio0", "name": mark})
    };
    scene.machine.ask("block-dirty-bitmap-remove", mark(&scene));
    scene.machine.write(2 * MIB, &[1; 1000]);
    scene.doubts("is missing");
    scene.machine.ask("block-dirty-bitmap-disable", mark(&scene));
    scene.machine.write(2 * MIB, &[2; 1000]);
    scene.doubts("does not record writes");
    scene.machine.write(2 * MIB, &[3; 1000]);
    scene.machine.restart(Signal::KILL);
    scene.doubts("only when it ends in order");
    scene.machine.restart(Signal::TERM);
    scene.machine.write(2 * MIB, &[3; 2000]);
    scene.machine.restart(Signal::KILL);
    scene.doubts("was not saved");

    // The bitmap is in the image below now.
    scene.machine.end(Signal::TERM);
    let below = scene.machine.path("below");
    fs::rename(scene.machine.image(), &below).expect("rename");
    let over = ["create", "-q", "-f", "qcow2", "-b", text(&below), "-F", "qcow2"];
    works(Command::new("qemu-img").args(over).arg(scene.machine.image()));
    scene.machine.boot();
    scene.machine.write(2 * MIB, &[4; 1000]);
    scene.doubts("is missing");
    scene.machine.end(Signal::TERM);
    let write = ["-f", "qcow2", "-c", "write -P 9 7M 1000"];
    works(Command::new("qemu-io").args(write).arg(&below));
    scene.machine.boot();
    scene.doubts("what is below the disk has changed");
    scene.site.check_at_rest();
}

/// Bitmaps of others and of another archive stay; `mode = "off"` removes those of this one, and a revision is the disk
/// at one moment all the same.
#[test]
fn only_bitmaps_of_the_archive_are_removed_from_a_running_disk() {
    let Some(mut scene) = Scene::new("qcow2") else { return };
    let mine = "backy.0190a000-0000-7000-8000-000000000000.x";
    scene.machine.ask("block-dirty-bitmap-add", json!({"node": "virtio0", "name": mine}));
    let other = archive(&scene.machine, "other");
    for round in 0..3 {
        scene.machine.write(MIB, &[round; 1000]);
        works(&mut other.backy(&["backup", "--force"]));
        let (hints, _) = scene.backup();
        assert_eq!(hints["since"].is_string(), round > 0, "{hints}");
        assert_eq!(scene.machine.bitmaps().len(), 3);
    }
    scene.site.configure(|config| config.replace("[tracking]", "[tracking]\nmode = \"off\""));
    let (hints, _) = scene.backup();
    assert!(hints["reason"].as_str().expect("a reason").contains("off"), "{hints}");
    let left = scene.machine.bitmaps();
    assert!(left.len() == 2 && left.contains(&mine.to_owned()), "{left:?}");
    let looked = works(&mut scene.site.backy(&["source"]));
    assert!(String::from_utf8_lossy(&looked).contains("disk of QEMU of 16.0 MiB"));
}

/// Where a file of the archive has to be named by a path.
fn scratch_of(path: &Path) -> String {
    format!("scratch = {path:?}")
}
