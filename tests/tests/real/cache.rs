//! The page cache belongs to the programs that work with their data: a backup, a scrub or a restore that reads or
//! writes everything leaves it as it was.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use backy_tests::qemu;
use rustix::fs::{Advice, fadvise};
use rustix::io::ReadWriteFlags;

use crate::disks::Disk;
use crate::site::{Site, noise, run, text, works};

const BYTES: usize = 48 << 20;
/// Pages that two threads were using when they should have been dropped, and readahead.
const SLACK_BYTES: u64 = BYTES as u64 / 4;

/// Bytes of a file that are in the page cache.
fn cached_bytes(path: &Path) -> u64 {
    let output = run(Command::new("fincore").args(["-b", "-n", "-o", "RES"]).arg(path));
    let shown = String::from_utf8(output.stdout).expect("fincore prints text");
    shown.trim().parse().expect("fincore prints a number")
}

/// Takes a file out of the page cache.
fn drop_cache(path: &Path) {
    let file = File::open(path).expect("open it");
    file.sync_all().expect("sync it");
    fadvise(&file, 0, None, Advice::DontNeed).expect("drop its pages");
    assert_eq!(cached_bytes(path), 0, "{}", path.display());
}

/// Whether the kernel can read without leaving anything in the cache. Prints `SKIPPED` when not.
fn kernel_can(path: &Path) -> bool {
    let file = File::open(path).expect("open it");
    let mut byte = [0];
    let buffers = &mut [std::io::IoSliceMut::new(&mut byte)];
    let can = rustix::io::preadv2(&file, buffers, 0, ReadWriteFlags::from_bits_retain(0x80));
    if can.is_err() {
        qemu::skipped("this kernel has no RWF_DONTCACHE; it came with Linux 6.14");
    }
    can.is_ok()
}

/// What was not in the cache before is not there afterwards, and what was still is.
#[test]
fn sequential_reading_leaves_the_page_cache_alone() {
    for kind in ["ext4", "xfs"] {
        let Some(disk) = Disk::make(kind, 400 << 20) else { continue };
        let site = Site::with_backups(disk.path(), &[]);
        site.write_source(&noise(7, BYTES));
        let (source, image) = (site.source.clone(), site.folder.join("last.raw"));
        if !kernel_can(&source) {
            return;
        }
        drop_cache(&source);
        works(&mut site.backy(&["backup", "--force"]));
        for path in [&source, &image] {
            let left = cached_bytes(path);
            assert!(left < SLACK_BYTES, "{kind}: {left} bytes of {} are left", path.display());
        }

        let target = disk.path().join("target");
        for command in [&["scrub"][..], &["restore", text(&target)]] {
            drop_cache(&image);
            works(&mut site.backy(command));
            let left = cached_bytes(&image);
            assert!(left < SLACK_BYTES, "{kind}: {command:?} leaves {left} bytes of the image");
        }
        let left = cached_bytes(&target);
        assert!(left < SLACK_BYTES, "{kind}: {left} bytes of the target are left in the cache");
        assert_eq!(fs::read(&target).ok(), fs::read(&source).ok(), "{kind}");

        drop_cache(&source);
        fs::read(&source).expect("read the source");
        works(&mut site.backy(&["backup", "--force"]));
        let kept = cached_bytes(&source);
        assert!(
            kept > BYTES as u64 - SLACK_BYTES,
            "{kind}: of the source only {kept} bytes are left"
        );
    }
}
