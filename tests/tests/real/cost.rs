//! Costs, apart from correctness: space on the disk, and writes to it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::disks::Disk;
use crate::site::{BLOCK_BYTES, Site, noise, text, works};
use crate::sparse::Sparse;
use crate::strace;
use crate::ways::both_ways;

const MIB: usize = 1 << 20;
/// What a file system may need in addition, for its own tables.
const SLACK_BYTES: u64 = 256 << 10;
/// Far more than that.
const PIECE_BYTES: usize = 20 * BLOCK_BYTES;

fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).blocks() * 512
}

/// Text-like bytes that a better compression makes smaller: words, in random order.
fn prose(seed: u64, len: usize) -> Vec<u8> {
    let words: Vec<Vec<u8>> = (0..300).map(|word| noise(word, 3 + word as usize % 9)).collect();
    let order = noise(seed, len);
    let bytes = order.chunks(2).flat_map(|pair| {
        let at = pair.iter().fold(0, |at, &byte| at * 256 + usize::from(byte));
        words[at % words.len()].iter().copied()
    });
    bytes.take(len).collect()
}

/// A source that is mostly zero, half of that in holes and half written out.
fn mostly_zero() -> Sparse {
    let mut state = Sparse::new(24 * MIB as u64 + 777);
    for place in [0, 5, 7, 17] {
        state.put(place, place * MIB as u64 + 3 * BLOCK_BYTES as u64, PIECE_BYTES);
    }
    state
}

fn write_out(state: &Sparse, path: &Path) {
    state.write(path);
    let file = File::options().write(true).open(path).expect("open the source");
    file.write_all_at(&vec![0; 4 * MIB], 10 * MIB as u64).expect("write zeros");
    file.write_all_at(&vec![0; 4 * MIB], 20 * MIB as u64).expect("write zeros");
    file.sync_all().expect("sync the source");
}

/// Zeros take no space: in the image, in a target that is new or was full, in an export, in a delta.
fn zeros_take_no_space(place: &Path) {
    let state = mostly_zero();
    let most = state.data_bytes() + SLACK_BYTES;
    let source = place.join("source");
    write_out(&state, &source);
    let site = Site::init(place, &source);
    works(&mut site.backy(&["backup"]));
    let image = site.folder.join("last.raw");
    state.check("the image", &image);
    let check = |what: &str, path: &Path, most: u64| {
        let found = allocated(path);
        assert!(found <= most, "{what} takes {found} bytes; expected at most {most}");
    };
    check("the image", &image, most);

    let target = place.join("target");
    works(&mut site.backy(&["restore", text(&target)]));
    state.check("a new target", &target);
    check("a new target", &target, most);

    // Old data that has to become zero is freed.
    fs::write(&target, noise(9, 26 * MIB)).expect("write the target");
    works(&mut site.backy(&["restore", "--force", text(&target)]));
    state.check("an old target", &target);
    check("an old target", &target, most);

    let exported = place.join("exported.qcow2");
    works(&mut site.backy(&["export", text(&exported)]));
    check("an export", &exported, most);

    // Data that became zero leaves the image and is in the delta. What became data was nothing and is no data there.
    let mut next = state.clone();
    next.clear(3 * BLOCK_BYTES as u64);
    next.put(5, 9 * MIB as u64, 2 * BLOCK_BYTES);
    write_out(&next, &source);
    let report = works(&mut site.backy(&["backup", "--force", "--json"]));
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    next.check("the second image", &image);
    check("the second image", &image, next.data_bytes() + SLACK_BYTES);
    let older = report["revision"]["base"].clone();
    assert!(older.is_null(), "the newest has no base: {report}");
    let delta = site.files().into_iter().find(|name| name.ends_with(".qcow2")).expect("a delta");
    check("the delta", &site.folder.join(delta), PIECE_BYTES as u64 + 2 * SLACK_BYTES);
    works(&mut site.backy(&["rm", "0"]));
    state.check("rolled back", &image);
    check("rolled back", &image, most);
}
both_ways!(zeros_take_no_space(place));

/// The same on an ext4, whatever the file system of temporary files is.
#[test]
fn zeros_take_no_space_on_ext4() {
    let Some(disk) = Disk::make("ext4", 200 << 20) else { return };
    zeros_take_no_space(disk.path());
}

/// Old blocks and exports are compressed, at the level of the config or the command: a higher level makes them
/// smaller.
#[test]
fn the_level_of_compression_counts() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let states = [prose(1, 3 * MIB), prose(2, 3 * MIB)];
    let mut stored = Vec::new();
    for level in [1, 19] {
        let place = temp.path().join(level.to_string());
        fs::create_dir(&place).expect("make a folder");
        let mut site = Site::with_backups(&place, &states[..1]);
        site.configure(|config| format!("compression_level = {level}\n{config}"));
        site.backup(&states[1]);
        let delta = site.files().into_iter().find(|name| name.ends_with(".qcow2"));
        let delta = allocated(&site.folder.join(delta.expect("a delta")));
        let export = |name: &str, args: &[&str]| {
            let file = place.join(name);
            works(site.backy(&["export"]).args(args).arg(&file));
            allocated(&file)
        };
        let by_config = export("by-config.qcow2", &[]);
        let least = export("least.qcow2", &["--level", "19"]);
        let fast = export("fast.qcow2", &["--level", "1"]);
        let best = if level == 19 { least } else { fast };
        assert_eq!(by_config, best, "an export does not take the level of the config, {level}");
        assert!(least + 4 * 4096 < fast, "level 19 makes {least}, level 1 {fast}");
        assert!(fast < 3 * MIB as u64 * 9 / 10, "an export takes {fast} bytes");
        stored.push(delta);
    }
    assert!(stored[1] + 4 * 4096 < stored[0], "deltas of level 1 and 19 take {stored:?}");
    assert!(stored[0] < 3 * MIB as u64 * 9 / 10, "a delta takes {} bytes", stored[0]);
}

/// Bytes that a command writes to each of these files, by its system calls.
fn written_to<const N: usize>(command: &Command, names: [&str; N], place: &Path) -> [u64; N] {
    let log = traced(command, "trace=write,pwrite64,pwritev,pwritev2,copy_file_range", place);
    names.map(|name| {
        let named = format!("{name}>");
        let of_file = log.lines().filter(|line| line.contains(&named));
        of_file.filter_map(|line| line.rsplit_once(" = ")?.1.trim().parse::<u64>().ok()).sum()
    })
}

/// What strace says about these calls of a command, with the files.
fn traced(command: &Command, calls: &str, place: &Path) -> String {
    let log = place.join("strace.log");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-y", "-e", calls, "-o"]).arg(&log);
    works(strace.arg(command.get_program()).args(command.get_args()));
    fs::read_to_string(&log).expect("read the log of strace")
}

/// The file system is asked once where a stretch of digests ends, however many holes of the source lie beside it: the
/// kernel may have to look through thousands of extents each time.
#[test]
fn the_end_of_a_stretch_of_digests_is_asked_once() {
    if !strace::available() {
        return;
    }
    let Some(disk) = Disk::make("ext4", 400 << 20) else { return };
    let (pieces, stride) = (300, 2 * BLOCK_BYTES as u64);
    let mut state = Sparse::new(pieces * stride);
    (0..pieces).for_each(|piece| state.put(piece, piece * stride, BLOCK_BYTES));
    let source = disk.path().join("source");
    state.write(&source);
    let site = Site::init(disk.path(), &source);
    works(&mut site.backy(&["backup"]));
    let log = traced(&site.backy(&["backup", "--force"]), "trace=lseek", disk.path());
    let asked = log.lines().filter(|line| line.contains(".image.digests>")).count();
    assert!(0 < asked && asked < 20, "{asked} times");
}

/// The digests of zeros take no space either, also where the file system allocates ahead in a file that grows.
#[test]
fn digests_of_zeros_take_no_space() {
    for kind in ["ext4", "xfs"] {
        let Some(disk) = Disk::make(kind, 400 << 20) else { continue };
        let pieces = 64;
        let mut state = Sparse::new(pieces << 29);
        (0..pieces).for_each(|piece| state.put(piece, piece << 29, BLOCK_BYTES));
        let source = disk.path().join("source");
        state.write(&source);
        let site = Site::init(disk.path(), &source);
        works(&mut site.backy(&["backup"]));
        let table = site.files().into_iter().find(|name| name.ends_with(".image.digests"));
        let found = allocated(&site.folder.join(table.expect("a digest file")));
        // A page for each, and one for the header.
        let most = (pieces + 1) * 4096 + SLACK_BYTES;
        assert!(found <= most, "{kind}: it takes {found} bytes; expected at most {most}");
    }
}

/// Only blocks that differ are written: to the image, in place and on a clone, and to an existing target. On a clone,
/// also only the digests that differ.
#[test]
fn restore_and_backup_write_only_what_differs() {
    if !strace::available() {
        return;
    }
    for (kind, image) in [("ext4", "last.raw"), ("xfs", "last.raw.new")] {
        let Some(disk) = Disk::make(kind, 400 << 20) else { continue };
        let mut state = noise(1, 12 * MIB);
        let site = Site::with_backups(disk.path(), std::slice::from_ref(&state));
        let target = disk.path().join("target");
        works(&mut site.backy(&["restore", text(&target)]));
        for at in [0, 40, 41, 191] {
            state[at * BLOCK_BYTES..][..100].copy_from_slice(&noise(at as u64, 100));
        }
        site.write_source(&state);
        let before = disk.free_bytes();
        let backup = site.backy(&["backup", "--force"]);
        let [written, entered] = written_to(&backup, [image, ".image.digests"], disk.path());
        assert_eq!(written, 4 * BLOCK_BYTES as u64, "{kind}: written to {image}");
        let entries = if kind == "xfs" { 4 } else { 192 };
        assert_eq!(entered, 4096 + entries * 32, "{kind}: written to the digest file");
        let taken = before.saturating_sub(disk.free_bytes());
        assert!(taken < 2 * MIB as u64, "{kind}: a backup of four blocks takes {taken} bytes");
        let restore = site.backy(&["restore", "--force", text(&target)]);
        let [written] = written_to(&restore, ["target"], disk.path());
        assert_eq!(written, 4 * BLOCK_BYTES as u64, "{kind}: written to the target");
        let again = written_to(&restore, ["target"], disk.path());
        assert_eq!(again, [0], "{kind}: written once more");
        assert!(fs::read(&target).expect("read the target") == state);
    }
}
