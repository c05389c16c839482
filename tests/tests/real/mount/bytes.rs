//! Every byte is the right one, in whatever way it is read.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use backy_lib::storage::sim::Random;
use backy_tests::qemu;
use backy_tests::world::Expected;
use rustix::fs::{Advice, SeekFrom, seek};

use crate::disks::Disk;
use crate::mounted::{Mount, forget_pages};
use crate::site::{BLOCK_BYTES, Site, compare, states, works};
use crate::ways::both_ways;

/// Whole blocks, no whole pages, less than before, less than a block.
const SIZES: [usize; 6] = [
    20 * BLOCK_BYTES,
    33 * BLOCK_BYTES + 4099,
    12 * BLOCK_BYTES - 1,
    4095,
    16 * BLOCK_BYTES + 1,
    18 * BLOCK_BYTES + 12345,
];

/// Reads at random places, also past the end, give what the revision has there.
fn read_here_and_there(file: &File, bytes: &[u8], random: &mut Random, count: usize) {
    let mut buffer = vec![0; 300 << 10];
    for _ in 0..count {
        let offset = random.below(bytes.len() as u64 + 5000) as usize;
        let len = (1 + random.below(300 << 10) as usize) >> random.below(9);
        let buffer = &mut buffer[..len.max(1)];
        let found = file.read_at(buffer, offset as u64).expect("read");
        let expected = bytes.get(offset..).unwrap_or_default();
        let expected = &expected[..expected.len().min(buffer.len())];
        assert!(buffer[..found] == *expected, "wrong bytes at {offset}, {} bytes", buffer.len());
    }
}

/// Each revision has its bytes: whole, by `cp` with holes, by QEMU, and at odd offsets in odd lengths.
#[test]
fn every_revision_has_its_bytes() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    all_bytes(temp.path());
}

/// The same where backups are made on clones, and the kernel itself reads what was checked.
#[test]
fn every_revision_has_its_bytes_with_clones() {
    for kind in ["xfs", "btrfs"] {
        let Some(disk) = Disk::make(kind, 320 << 20) else { continue };
        all_bytes(disk.path());
    }
}

fn all_bytes(place: &Path) {
    let site = Site::with_backups(place, &states(410, &SIZES));
    let Some(mount) = Mount::make(&site, &["--cache", "1M"]) else { return };
    let mut random = Random(411);
    for revision in &site.expected {
        let file = mount.file(revision.uuid);
        assert!(fs::read(&file).expect("read a revision") == revision.bytes, "{}", revision.uuid);
        let copy = place.join("copy");
        works(Command::new("cp").arg("--sparse=always").arg(&file).arg(&copy));
        assert!(fs::read(&copy).expect("read the copy") == revision.bytes, "a copy with holes");
        let open = File::open(&file).expect("open a revision");
        for _ in 0..4 {
            forget_pages(&open);
            read_here_and_there(&open, &revision.bytes, &mut random, 25);
        }
        holes_are_zero(&open, &revision.bytes);
        if qemu::available() && revision.bytes.len() % 512 == 0 {
            compare(&file, "raw", &revision.bytes);
        }
    }
    mount.unmount();
}

/// Where a program sees a hole, there are zeros.
fn holes_are_zero(file: &File, bytes: &[u8]) {
    let size = bytes.len() as u64;
    let mut at = 0;
    while at < size {
        // No more data is an error.
        let data = seek(file, SeekFrom::Data(at)).unwrap_or(size);
        let hole = &bytes[at as usize..data as usize];
        assert!(hole.iter().all(|&byte| byte == 0), "data in the hole at {at}");
        at = seek(file, SeekFrom::Hole(data)).unwrap_or(size);
    }
}

/// A copy of an image with a hole is as small as that.
#[test]
fn holes_stay_holes() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let mut state = vec![0; 20 << 20];
    state[..5000].fill(1);
    state[11 << 20..(11 << 20) + 5000].fill(2);
    let site = Site::with_backups(temp.path(), &[state.clone(), state]);
    let Some(mount) = Mount::make(&site, &[]) else { return };
    for revision in &site.expected {
        let copy = temp.path().join("copy");
        works(Command::new("cp").arg(mount.file(revision.uuid)).arg(&copy));
        assert!(fs::read(&copy).expect("read the copy") == revision.bytes);
        let copy = fs::metadata(&copy).expect("look up the copy");
        assert!(copy.blocks() * 512 < 1 << 20, "the copy takes {} sectors", copy.blocks());
    }
    mount.unmount();
}

/// Eight concurrent readers of several revisions get the right bytes from any place while backups and maintenance
/// change the archive.
fn eight_readers_get_their_own_bytes_during_backups(place: &Path) {
    let size = 40 * BLOCK_BYTES + 777;
    let states = states(420, &[size; 14]);
    let mut site = Site::with_backups(place, &states[..4]);
    let kept: Vec<Expected> = site.expected.clone();
    for revision in &kept {
        works(&mut site.backy(&["tag", &revision.uuid.to_string(), "+keep"]));
    }
    let Some(mount) = Mount::make(&site, &["--cache", "2M"]) else { return };
    let done = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (mount, kept, done, reads) = (&mount, &kept, &done, &reads);
            scope.spawn(move || {
                let mut random = Random(421 + number);
                while !done.load(Relaxed) {
                    let revision = &kept[random.below(kept.len() as u64) as usize];
                    let file = File::open(mount.file(revision.uuid)).expect("open a revision");
                    if random.below(2) == 0 {
                        forget_pages(&file);
                    }
                    read_here_and_there(&file, &revision.bytes, &mut random, 20);
                    reads.fetch_add(20, Relaxed);
                }
            });
        }
        let done = Done(&done);
        for state in &states[4..] {
            site.backup(state);
            works(&mut site.backy(&["maintenance", "-k", "1", "--confirm"]));
        }
        drop(done);
    });
    assert!(reads.into_inner() > 1000);
    mount.unmount();
}
both_ways!(eight_readers_get_their_own_bytes_during_backups(place));

/// Sets a flag at its end, also by a panic, for otherwise the others would wait forever.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Reading some of every block of several revisions takes no more memory than the cache may have and some for the
/// threads.
#[test]
fn memory_has_a_limit() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(temp.path(), &states(430, &[48 << 20; 3]));
    let peak_kib = |cache: &str| {
        let mount = Mount::make(&site, &["--cache", cache])?;
        for revision in &site.expected {
            let file = File::open(mount.file(revision.uuid)).expect("open a revision");
            // Some of each block, which is worth keeping then.
            rustix::fs::fadvise(&file, 0, None, Advice::Random).expect("fadvise");
            for offset in (0..revision.bytes.len()).step_by(BLOCK_BYTES) {
                let mut page = [0; 4096];
                file.read_exact_at(&mut page, offset as u64).expect("read");
                assert!(page == revision.bytes[offset..offset + 4096], "wrong bytes at {offset}");
            }
        }
        let process = mount.on.processes()[0];
        let status = fs::read_to_string(format!("/proc/{process}/status")).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
        let peak = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
        mount.unmount();
        Some(peak)
    };
    let (Some(small), Some(large)) = (peak_kib("1M"), peak_kib("256M")) else { return };
    assert!(small < 24 << 10, "{small} KiB with a cache of 1 MiB");
    // Otherwise the first proves nothing.
    assert!(large > 32 << 10, "{large} KiB with a cache of 256 MiB");
}
