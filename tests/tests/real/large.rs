//! Images longer than 4 GiB and than 16 TiB: an offset cut to 32 bits, anywhere between the source and the restored
//! data, gives wrong bytes only there. The images are nearly all holes, so this takes seconds.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use backy_tests::legacy::md5_hex;
use backy_tests::qemu;
use rustix::fs::{Advice, fadvise};
use serde_json::Value;

use crate::disks::{Disk, LoopDevice, loops_available};
use crate::mounted::{Mount, Mountpoint};
use crate::site::{Site, noise, run, text, words, works};
use crate::sparse::{Sparse, states};
use crate::torture::wanted;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// An archive with three revisions of a long image.
struct Large {
    site: Site,
    place: PathBuf,
    /// Newest first, with their expected content.
    revisions: Vec<(String, Sparse)>,
    states: Vec<Sparse>,
}

impl Large {
    /// Backs up states that all change around `border`. `clones` says how.
    fn make(place: &Path, border: u64, block: &str, clones: bool) -> Self {
        let block_bytes = backy_lib::units::parse_size(block).expect("a size");
        let states = states(border ^ block_bytes, border, block_bytes);
        let source = place.join("source");
        let site =
            Site { folder: place.join("archive"), source: source.clone(), expected: Vec::new() };
        states[0].write(&source);
        works(&mut site.backy(&["init", "--block-size", block, text(&source)]));
        let mut large =
            Large { site, place: place.to_owned(), revisions: Vec::new(), states: states.clone() };
        for (number, state) in states.iter().enumerate() {
            state.write(&source);
            let report = large.backup(state);
            assert_eq!(report["cloned"], clones && number > 0);
        }
        large
    }

    fn backup(&mut self, state: &Sparse) -> Value {
        let report =
            works(&mut self.site.backy(&["backup", "--force", "--no-space-check", "--json"]));
        let report: Value = serde_json::from_slice(&report).expect("a report");
        let uuid = report["revision"]["uuid"].as_str().expect("a revision").to_owned();
        self.revisions.insert(0, (uuid, state.clone()));
        report
    }

    /// Every revision restored to a new file, the image, and each delta as QEMU reads it.
    fn check(&self, when: &str) {
        for (number, (uuid, state)) in self.revisions.iter().enumerate() {
            let what = format!("{when}: revision {number}");
            let target = self.place.join("restored");
            works(&mut self.site.backy(&["restore", "-r", uuid, text(&target)]));
            state.check(&what, &target);
            let allocated = fs::metadata(&target).expect("look up the target").blocks() * 512;
            assert!(allocated < 64 * MIB, "{what}: the target takes {allocated} bytes");
            if number > 0 {
                self.compare(&what, &self.site.folder.join(format!("{uuid}.qcow2")), &target);
            }
            fs::remove_file(&target).expect("remove the target");
        }
        self.revisions[0].1.check(when, &self.site.folder.join("last.raw"));
    }

    /// Checks that QEMU reads an image like the restored file.
    fn compare(&self, what: &str, qcow2: &Path, restored: &Path) {
        if qemu::available() {
            let sectors = fs::metadata(restored).expect("look up a file").size();
            let file = File::options().write(true).open(restored).expect("open the target");
            file.set_len(sectors.next_multiple_of(512)).expect("pad it");
            let mut command = Command::new("qemu-img");
            command.args(["compare", "-q", "-f", "qcow2", "-F", "raw"]).arg(qcow2).arg(restored);
            let output = run(&mut command);
            assert!(output.status.success(), "{what}: {}", words(&output));
        }
    }

    /// A restore onto a file with other content, and its undoing.
    fn restore_over(&self) {
        let target = self.place.join("over");
        let undo = self.place.join("undo");
        let before = &self.revisions[0].1;
        before.write(&target);
        let (uuid, state) = &self.revisions[1];
        let args = ["restore", "-r", uuid, "--force", "--undo", text(&undo), text(&target)];
        works(&mut self.site.backy(&args));
        state.check("restored onto a file", &target);
        works(&mut crate::site::backy(&undo, &["restore", "--force", text(&target)]));
        before.check("undone", &target);
        fs::remove_file(&target).expect("remove the target");
        fs::remove_dir_all(&undo).expect("remove the undo archive");
    }

    /// Exports, as QEMU reads them, and a drill whose command copies its file.
    fn export_and_drill(&self) {
        for (number, (uuid, state)) in self.revisions.iter().enumerate().take(2) {
            let file = self.place.join("exported.qcow2");
            works(&mut self.site.backy(&["export", "-r", uuid, text(&file)]));
            let stored = fs::metadata(&file).expect("look up an export").blocks() * 512;
            assert!(stored < 64 * MIB, "the export of {number} takes {stored} bytes");
            let plain = self.place.join("plain");
            state.write(&plain);
            self.compare(&format!("the export of {number}"), &file, &plain);
            fs::remove_file(&file).expect("remove the export");
            fs::remove_file(&plain).expect("remove what it was compared with");
        }
        let copy = self.place.join("copy");
        let (uuid, state) = &self.revisions[1];
        let args = ["drill", "-r", uuid, "--dir", text(&self.place), "--"];
        let mut drill = self.site.backy(&args);
        works(drill.args(["cp", "--sparse=auto", "{}", text(&copy)]));
        state.check("a drill", &copy);
        fs::remove_file(&copy).expect("remove the copy");
    }

    /// Reads at random offsets through a mount, and writes through a writable one.
    fn mounts(&self) {
        let Some(mount) = Mount::make(&self.site, &[]) else { return };
        for (uuid, state) in &self.revisions {
            let file = File::open(mount.path(uuid)).expect("open a revision");
            assert_eq!(file.metadata().expect("look it up").len(), state.len);
            state.check_places("mounted", |buffer, at| file.read_exact_at(buffer, at));
            // What was right once is read again without its surroundings.
            crate::mounted::forget_pages(&file);
            fadvise(&file, 0, None, Advice::Random).expect("no reading ahead");
            state.check_places("mounted, again", |buffer, at| file.read_exact_at(buffer, at));
        }
        mount.unmount();
        let folder = ["--writable", "--dir", text(&self.place)];
        let Some(mount) = Mount::make(&self.site, &folder) else { return };
        let (uuid, state) = &self.revisions[1];
        let mut written = state.clone();
        let file = File::options().read(true).write(true).open(mount.path(uuid)).expect("open it");
        for (place, len) in state.places() {
            written.put(place, place, len);
            file.write_all_at(&noise(place, len), place).expect("write to a mounted revision");
        }
        file.sync_all().expect("sync");
        crate::mounted::forget_pages(&file);
        written.check_places("written", |buffer, at| file.read_exact_at(buffer, at));
        drop(file);
        mount.unmount();
    }

    /// Rot behind the border is found where it is, and nowhere else.
    fn scrub(&self) {
        works(&mut self.site.backy(&["scrub"]));
        let image = File::options().read(true).write(true).open(self.site.folder.join("last.raw"));
        let image = image.expect("open last.raw");
        let (place, _) = self.revisions[0].1.places().last().expect("a piece");
        let mut byte = [0];
        image.read_exact_at(&mut byte, place).expect("read a byte");
        image.write_all_at(&[byte[0] ^ 1], place).expect("damage a byte");
        let output = run(&mut self.site.backy(&["scrub", "-n", "--json"]));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["findings"].as_array().map(Vec::len), Some(1), "{report}");
        let extent = &report["findings"][0]["affected"][0]["extents"][0];
        let number = |field: &str| extent[field].as_u64().expect("a number");
        let bad = number("offset")..number("offset") + number("len");
        assert!(bad.contains(&place) && bad.start > u64::from(u32::MAX), "at {place}: {report}");
        let target = self.place.join("restored");
        let output = run(&mut self.site.backy(&["restore", text(&target)]));
        assert!(!output.status.success() && words(&output).contains("last.raw"), "{output:?}");
        image.write_all_at(&byte, place).expect("put it right");
        works(&mut self.site.backy(&["scrub", "-n"]));
    }

    /// Merges, also into a delta whose own end is behind the border, a standalone revision, a lost manifest, and
    /// removal of the newest.
    fn keep(&mut self) {
        let delta = |uuid: &str| self.site.folder.join(format!("{uuid}.qcow2"));
        // What the merge appends comes behind 4 GiB.
        let oldest = File::options().write(true).open(delta(&self.revisions[2].0));
        oldest.expect("open a delta").set_len(4 * GIB + 8 * MIB).expect("make it long");
        works(&mut self.site.backy(&["rm", "1"]));
        self.revisions.remove(1);
        self.check("merged");
        let mut state = self.revisions[0].1.clone();
        let last = state.places().last().expect("a piece");
        state.put(5, last.0, last.1);
        state.write(&self.site.source);
        self.backup(&state);
        self.check("one more");
        fs::remove_file(self.site.folder.join("manifest.json")).expect("lose the manifest");
        let output = run(&mut self.site.backy(&["scrub", "--rebuild"]));
        assert!(output.status.success(), "{}", words(&output));
        self.check("rebuilt");
        works(&mut self.site.backy(&["rm", "0"]));
        self.revisions.remove(0);
        self.check("rolled back");
        self.states[0].write(&self.site.source);
        self.backup(&self.states[0].clone());
        self.site.configure(|config| format!("max_chain = 1\n{config}"));
        works(&mut self.site.backy(&["maintenance", "-k", "9"]));
        let manifest = fs::read(self.site.folder.join("manifest.json")).expect("the manifest");
        let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        assert!(manifest["revisions"][1]["base"].is_null(), "nothing is standalone: {manifest}");
        self.check("standalone");
    }
}

fn everything(place: &Path, border: u64, block: &str, clones: bool) {
    let mut large = Large::make(place, border, block, clones);
    large.check("backed up");
    large.restore_over();
    large.export_and_drill();
    large.mounts();
    large.scrub();
    large.keep();
}

/// Behind 4 GiB, in place and with reads and writes through the page cache: whatever happens to a long image, every
/// revision stays as it was.
#[test]
fn behind_4_gib_in_place() {
    let Some(disk) = memory() else { return };
    everything(&disk.path, 4 * GIB, "64K", false);
}

/// The same with clones, and with reads and writes past the page cache where the kernel supports it.
#[test]
fn behind_4_gib_on_clones() {
    let Some(disk) = Disk::make("xfs", 400 << 20) else { return };
    everything(disk.path(), 4 * GIB, "64K", true);
}

/// A backup, and a restore to a new file and to an existing one, on the disk for temporary files.
#[test]
fn a_restore_behind_4_gib() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let state = states(7, 4 * GIB, 64 << 10).remove(1);
    let (source, target) = (temp.path().join("source"), temp.path().join("target"));
    state.write(&source);
    let site = Site::init(temp.path(), &source);
    works(&mut site.backy(&["backup"]));
    state.check("the image", &site.folder.join("last.raw"));
    works(&mut site.backy(&["restore", text(&target)]));
    state.check("a new target", &target);
    let mut other = state.clone();
    for (place, len) in state.places() {
        other.put(place, place, len);
    }
    other.write(&target);
    works(&mut site.backy(&["restore", "--force", text(&target)]));
    state.check("a target that is there", &target);
}

/// Behind 16 TiB, the limit of a file on ext4: in place.
#[test]
fn behind_16_tib_in_place() {
    let Some(disk) = memory() else { return };
    everything(&disk.path, 16 * TIB, "2M", false);
}

/// Behind 16 TiB, with clones.
#[test]
fn behind_16_tib_on_clones() {
    let Some(disk) = Disk::make("xfs", 400 << 20) else { return };
    let large = Large::make(disk.path(), 16 * TIB, "2M", true);
    large.check("backed up");
    large.restore_over();
    large.mounts();
}

/// A table of digests that is itself longer than 4 GiB.
#[test]
fn a_digest_table_behind_4_gib() {
    let Some(disk) = memory() else { return };
    // 32 bytes for each 4 KiB.
    let large = Large::make(&disk.path, 512 * GIB, "4K", false);
    let (uuid, state) = &large.revisions[1];
    let target = disk.path.join("restored");
    works(&mut large.site.backy(&["restore", "-r", uuid, text(&target)]));
    state.check("restored", &target);
}

/// A file system in memory, in which a file may have any length. Prints `SKIPPED` where none can be mounted.
fn memory() -> Option<Mountpoint> {
    let on = Mountpoint::new();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=1g", "none"]).arg(&on.path).stderr(Stdio::null());
    let mounted = mount.status().is_ok_and(|status| status.success());
    if !mounted {
        qemu::skipped("tmpfs cannot be mounted here");
    }
    mounted.then_some(on)
}

/// A stream has every byte, from the first to the last.
#[test]
fn a_stream_behind_4_gib() {
    let Some(disk) = memory() else { return };
    let large = Large::make(&disk.path, 4 * GIB, "64K", false);
    let (uuid, state) = &large.revisions[1];
    let mut command = large.site.backy(&["restore", "-r", uuid, "-"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("start backy");
    let mut stdout = child.stdout.take().expect("a pipe");
    let zeros = vec![0; MIB as usize];
    let mut buffer = zeros.clone();
    let mut at = 0;
    while at < state.len {
        let part = &mut buffer[..(state.len - at).min(MIB) as usize];
        stdout.read_exact(part).expect("read the stream");
        let expected = state.bytes(at, part.len());
        assert!(*part == expected, "wrong bytes in the stream at {at}");
        at += part.len() as u64;
    }
    assert_eq!(stdout.read(&mut buffer).expect("read its end"), 0, "there is more");
    assert!(child.wait().expect("wait for backy").success());
}

/// A block device, as a source and as a target, blank and not blank.
#[test]
fn a_block_device_behind_4_gib() {
    if !loops_available() {
        return;
    }
    let Some(disk) = memory() else { return };
    let device = |name: &str, len: u64| {
        let path = disk.path.join(name);
        File::create(&path).and_then(|file| file.set_len(len)).expect("make a file");
        let device = LoopDevice::attach(&path, &[]);
        (device, path)
    };
    let mut state = Sparse::new(4 * GIB + 3 * MIB);
    for (seed, place) in [(1, MIB), (2, 4 * GIB - 5000), (3, 4 * GIB + MIB)] {
        state.put(seed, place, 70_000);
    }
    let (source, file) = device("disk", state.len);
    state.write_over(&File::options().write(true).open(&source.path).expect("open the device"));
    let site = Site::init(&disk.path, &source.path);
    works(&mut site.backy(&["backup"]));
    state.check("the image", &site.folder.join("last.raw"));
    let (target, below) = device("target", state.len);
    works(&mut site.backy(&["restore", text(&target.path)]));
    sync(&target);
    state.check("restored", &below);
    let junk = File::options().write(true).open(&target.path).expect("open the device");
    junk.write_all_at(&noise(9, 200_000), 4 * GIB + MIB + 4096).expect("write junk");
    junk.sync_all().expect("sync junk");
    drop(junk);
    works(&mut site.backy(&["restore", "--force", text(&target.path)]));
    sync(&target);
    state.check("restored once more", &below);
    drop((source, file));
}

fn sync(device: &LoopDevice) {
    File::open(&device.path).and_then(|device| device.sync_all()).expect("sync a device");
}

/// An archive of 2014 whose image is longer than 4 GiB is imported as it is. Only with `make torture`: three MD5s of
/// all of it take half a minute of a core.
#[test]
fn an_import_behind_4_gib() {
    if wanted("BACKY_TORTURE_ROUNDS").is_none() {
        return;
    }
    let Some(disk) = memory() else { return };
    const OLD_BLOCK: u64 = 4 << 20;
    let mut state = Sparse::new(4 * GIB + 2 * OLD_BLOCK);
    for (seed, place) in [(1, 0), (2, OLD_BLOCK), (3, 4 * GIB - 900), (4, 4 * GIB + OLD_BLOCK)] {
        state.put(seed, place, 2000);
    }
    let old = disk.path.join("old");
    fs::create_dir(&old).expect("make a folder");
    let uuid = backy_tests::legacy::uuid(1);
    state.write(&old.join(&uuid));
    let zero = md5_hex(&vec![0; OLD_BLOCK as usize]);
    let blocks = state.len / OLD_BLOCK;
    let sum = |block: u64| {
        let touched = state.places().any(|(place, len)| {
            place < (block + 1) * OLD_BLOCK && place + len as u64 > block * OLD_BLOCK
        });
        match touched {
            true => md5_hex(&state.bytes(block * OLD_BLOCK, OLD_BLOCK as usize)),
            false => zero.clone(),
        }
    };
    let sums: serde_json::Map<String, Value> =
        (0..blocks).map(|block| (block.to_string(), sum(block).into())).collect();
    // Without an MD5 of the whole, those of the blocks prove it.
    let rev = serde_json::json!({
        "uuid": uuid, "timestamp": 1_396_269_933.25, "checksum": null, "parent": null,
        "blocksums": sums, "blocks": blocks, "type": "full",
    });
    fs::write(old.join(format!("{uuid}.rev")), rev.to_string()).expect("write a .rev");
    let config = serde_json::json!({"source": "/dev/vg0/old", "chunksize": OLD_BLOCK});
    fs::write(old.join("config"), config.to_string()).expect("write the config");
    let folder = disk.path.join("archive");
    // Several MD5s of 4 GiB take longer on a busy machine than `works` waits.
    let imported = crate::site::backy(&folder, &["import", text(&old)]).output();
    let imported = imported.expect("run backy");
    assert!(imported.status.success(), "{}", words(&imported));
    state.check("imported", &folder.join("last.raw"));
    let target = disk.path.join("restored");
    works(&mut crate::site::backy(&folder, &["restore", text(&target)]));
    state.check("restored", &target);
}
