//! Answers of system calls that are allowed and hardly ever happen: they are interrupted, or do only a part of a
//! request. None of that is an error, and no byte is lost or written elsewhere.

use std::fs;
use std::path::Path;

use crate::holeless::HoleLess;
use crate::kill::Told;
use crate::site::{BLOCK_BYTES, Site, noise, states, text, words, works};
use crate::strace;
use crate::ways::both_ways;

const SIZES: [usize; 4] =
    [9 * BLOCK_BYTES - 100, 14 * BLOCK_BYTES + 5, 8 * BLOCK_BYTES - 512, 11 * BLOCK_BYTES + 1];

/// Calls that may be interrupted according to the manual, on some file system or other.
const MAY_BE_INTERRUPTED: [&str; 13] = [
    "pread64",
    "preadv2",
    "pwrite64",
    "pwritev2",
    "write",
    "fdatasync",
    "fsync",
    "ftruncate",
    "fallocate",
    "openat",
    "flock",
    "ioctl",
    "getdents64",
];

/// Runs a command with every third call of a kind interrupted. It has to work.
fn interrupted(site: &Site, args: &[&str], call: &str, place: &Path) -> bool {
    for first in 1..12 {
        let what = format!("error=EINTR:when={first}+3");
        let outcome = strace::inject(&site.backy(args), call, &what, place);
        let status = outcome.output.status;
        if status.code() == Some(127) {
            // The loader's calls are not ours.
            continue;
        }
        let _told = Told(format!("{args:?} with {call} interrupted: {}", words(&outcome.output)));
        assert!(status.success(), "{status}");
        return outcome.happened;
    }
    panic!("{call}: the program is never loaded");
}

/// A signal that interrupts any system call costs nothing.
fn signals_during_any_call_cost_nothing(place: &Path) {
    if !strace::available() {
        return;
    }
    let states = states(970, &SIZES);
    let mut site = Site::with_backups(place, &states[..2]);
    let target = place.join("target");
    let mut happened = 0;
    for (number, call) in MAY_BE_INTERRUPTED.into_iter().enumerate() {
        let state = &states[number % states.len()];
        site.write_source(state);
        happened += u32::from(interrupted(&site, &["backup", "--force"], call, place));
        site.reconcile(&[], Some(state));
        site.check_at_rest_here();
        let args = ["restore", "-r", "1", "--force", text(&target)];
        happened += u32::from(interrupted(&site, &args, call, place));
        let expected = &site.expected[1].bytes;
        assert!(fs::read(&target).expect("read the target") == *expected, "{call}: restored");
        let file = place.join(format!("{call}.qcow2"));
        happened += u32::from(interrupted(&site, &["export", "-r", "1", text(&file)], call, place));
        happened += u32::from(interrupted(&site, &["scrub"], call, place));
        happened += u32::from(interrupted(&site, &["rm", "1"], call, place));
        site.expected.remove(1);
        site.check_at_rest_here();
    }
    site.check_at_rest();
    assert!(happened > 30, "only {happened} commands were interrupted");
}
both_ways!(signals_during_any_call_cost_nothing(place));

/// On a file system whose reads and writes end early, all commands work as elsewhere: archive, source, target and
/// export are there.
#[test]
fn reads_and_writes_may_be_short() {
    if let Some(disk) = HoleLess::make_short() {
        everything_works(disk.path());
    }
}

/// The same where every third call is interrupted, whatever it is for.
#[test]
fn a_file_system_may_be_interrupted() {
    if let Some(disk) = HoleLess::make_interrupted() {
        everything_works(disk.path());
    }
}

fn everything_works(disk: &Path) {
    let source = disk.join("source");
    fs::write(&source, []).expect("make the source");
    let mut site = Site::init(disk, &source);
    for state in &states(972, &SIZES) {
        site.backup(state);
        site.check_at_rest_here();
    }
    let target = disk.join("target");
    for (number, revision) in site.expected.iter().enumerate() {
        let number = number.to_string();
        works(&mut site.backy(&["restore", "--force", "-r", &number, text(&target)]));
        assert!(fs::read(&target).expect("read the target") == revision.bytes, "{number}");
        let streamed = works(&mut site.backy(&["restore", "-r", &number, "-"]));
        assert!(streamed == revision.bytes, "{number}: streamed");
    }
    let undo = disk.join("undo");
    fs::write(&target, noise(973, SIZES[1])).expect("write the target");
    works(&mut site.backy(&["restore", "--force", "--undo", text(&undo), text(&target)]));
    works(&mut crate::site::backy(&undo, &["restore", "--force", text(&target)]));
    assert!(fs::read(&target).expect("read the target") == noise(973, SIZES[1]), "undone");
    let exported = disk.join("exported.qcow2");
    works(&mut site.backy(&["export", "-r", "2", text(&exported)]));
    if backy_tests::qemu::available() {
        // Elsewhere, since this does not test QEMU.
        let temp = tempfile::tempdir().expect("a temporary folder");
        let copy = temp.path().join("copy.qcow2");
        fs::write(&copy, fs::read(&exported).expect("read the export")).expect("copy it");
        crate::site::compare(&copy, "qcow2", &site.expected[2].bytes);
    }
    works(&mut site.backy(&["scrub"]));
    works(&mut site.backy(&["rm", "1"]));
    site.expected.remove(1);
    site.check_at_rest_here();
    works(&mut site.backy(&["rm", "0"]));
    site.expected.remove(0);
    site.check_at_rest_here();
    fs::remove_file(site.folder.join("manifest.json")).expect("lose the manifest");
    works(&mut site.backy(&["scrub", "--rebuild"]));
    site.backup(&noise(974, SIZES[0]));
    site.check_at_rest_here();
}
