//! A backup that is killed, or whose system calls fail, at every sync and at many writes.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use crate::disks::Disk;
use crate::site::{BLOCK_BYTES, Site, failed, states, words};
use crate::strace::{self, Injected};

pub(crate) const KILL: &str = "signal=SIGKILL";

/// Odd sizes that shrink and grow.
const SIZES: [usize; 4] =
    [24 * BLOCK_BYTES - 100, 20 * BLOCK_BYTES + 5, 27 * BLOCK_BYTES - 512, 25 * BLOCK_BYTES];

/// Numbers that get sparser: every call at first, then every fourth or so.
fn sampled() -> impl Iterator<Item = u32> {
    let next = |n: &u32| Some(n + 1 + n / 3);
    std::iter::successors(Some(1), next)
}

/// An archive, a disturbed backup, and the one after it.
struct Trial<'a> {
    place: &'a Path,
    base: Site,
    disturbed: Vec<u8>,
    next: Vec<u8>,
}

impl<'a> Trial<'a> {
    /// The disturbed backup is number `count`, counted from 0.
    fn new(place: &'a Path, states: &[Vec<u8>], count: usize) -> Self {
        let base = Site::with_backups(place, &states[..count]);
        let (disturbed, next) = (states[count].clone(), states[count + 1].clone());
        Trial { place, base, disturbed, next }
    }

    /// Disturbs a backup at the given calls until there is none so late. At each: every committed revision reads
    /// right before any repair, and the next backup leaves an archive at rest. Returns how many calls there were.
    fn at_each(
        &self,
        call: &str,
        what: &str,
        numbers: impl Iterator<Item = u32>,
        judge: fn(&Injected),
    ) -> u32 {
        let mut tried = 0;
        for number in numbers {
            let place = self.place.join(format!("trial-{number}"));
            fs::create_dir(&place).expect("make a folder");
            let mut site = self.base.copy(&place);
            site.write_source(&self.disturbed);
            // `when=N+` is from then on.
            let (what, on) = what.strip_suffix('+').map_or((what, ""), |what| (what, "+"));
            let what = format!("{what}:when={number}{on}");
            let command = site.backy(&["backup", "--force"]);
            let outcome = strace::inject(&command, call, &what, &place);
            let words = words(&outcome.output);
            if !outcome.happened {
                assert!(outcome.output.status.success(), "undisturbed: {words}");
                site.check(Some(&self.disturbed));
                site.check_at_rest();
                fs::remove_dir_all(&place).expect("remove the trial");
                assert!(tried > 0, "a backup makes no call of {call}");
                return tried;
            }
            tried += 1;
            let told = Told(format!("{call}:{what}: {}: {words}", outcome.output.status));
            judge(&outcome);
            site.check(Some(&self.disturbed));
            site.backup(&self.next);
            site.check_at_rest();
            fs::remove_dir_all(&place).expect("remove the trial");
            drop(told);
        }
        tried
    }
}

/// Prints where it was when the test panics.
pub(crate) struct Told(pub(crate) String);

impl Drop for Told {
    #[expect(clippy::print_stderr, reason = "the test's own report")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("at {}", self.0);
        }
    }
}

pub(crate) fn was_killed(outcome: &Injected) {
    assert_eq!(outcome.output.status.signal(), Some(9), "{}", words(&outcome.output));
}

/// An error is one line and exit status 1. Only the cleanup follows the commit, and may fail silently.
fn has_failed(outcome: &Injected) {
    if !outcome.output.status.success() {
        failed(&outcome.output);
    }
}

fn kill_at_every_sync(place: &Path, states: &[Vec<u8>], count: usize) {
    let trial = Trial::new(place, states, count);
    let syncs = trial.at_each("fdatasync", KILL, 1.., was_killed);
    assert!(syncs >= 8, "a backup has more than {syncs} syncs of files");
    let syncs = trial.at_each("fsync", KILL, 1.., was_killed);
    assert!(syncs >= 3, "a backup has more than {syncs} syncs of the folder");
}

/// A backup in place that is killed at any sync loses nothing, with one revision before it.
#[test]
fn the_second_backup_killed_at_every_sync() {
    if strace::available() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        kill_at_every_sync(temp.path(), &states(1, &SIZES), 1);
    }
}

/// A backup in place that is killed at any sync loses nothing, with a chain before it.
#[test]
fn the_third_backup_killed_at_every_sync() {
    if strace::available() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        kill_at_every_sync(temp.path(), &states(2, &SIZES), 2);
    }
}

/// The first backup that is killed at any sync leaves an archive in which the next one works.
#[test]
fn the_first_backup_killed_at_every_sync() {
    if strace::available() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let trial = Trial::new(temp.path(), &states(3, &SIZES), 0);
        trial.at_each("fdatasync", KILL, 1.., was_killed);
        trial.at_each("fsync", KILL, 1.., was_killed);
        trial.at_each("renameat", KILL, 1.., was_killed);
    }
}

/// A backup on a clone that is killed at any sync or rename loses nothing.
#[test]
fn a_backup_on_a_clone_killed_at_every_sync() {
    let Some(disk) = Disk::make("xfs", 320 << 20) else { return };
    if strace::available() {
        let states = states(4, &SIZES);
        let trial = Trial::new(disk.path(), &states, 2);
        trial.at_each("fdatasync", KILL, 1.., was_killed);
        trial.at_each("fsync", KILL, 1.., was_killed);
        let renames = trial.at_each("renameat", KILL, 1.., was_killed);
        assert!(renames >= 3, "the manifest twice and the clone, found {renames}");
        trial.at_each("pwrite64", KILL, sampled(), was_killed);
    }
}

/// A backup of more than one batch, so that the image is half overwritten when it is killed, loses nothing.
#[test]
fn a_backup_of_several_batches_killed_at_every_sync_and_many_writes() {
    if strace::available() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let bytes = 20 << 20;
        let states: Vec<Vec<u8>> = (0..4).map(|n| crate::site::noise(50 + n, bytes)).collect();
        let trial = Trial::new(temp.path(), &states, 2);
        let syncs = trial.at_each("fdatasync", KILL, 1.., was_killed);
        assert!(syncs >= 12, "found {syncs} syncs, which is not several batches");
        let far = std::iter::successors(Some(2), |n: &u32| Some(n * 2 + 1));
        trial.at_each("pwrite64", KILL, far, was_killed);
    }
}

/// A backup in place that is killed at a write, a rename, a removal or a change of length loses nothing.
#[test]
fn a_backup_killed_between_syncs() {
    if strace::available() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let trial = Trial::new(temp.path(), &states(5, &SIZES), 2);
        trial.at_each("pwrite64", KILL, sampled(), was_killed);
        let renames = trial.at_each("renameat", KILL, 1.., was_killed);
        assert!(renames >= 2, "the manifest twice, found {renames}");
        trial.at_each("unlinkat", KILL, 1.., was_killed);
        trial.at_each("ftruncate", KILL, 1.., was_killed);
        trial.at_each("fallocate", KILL, 1.., was_killed);
    }
}

/// A sync, a write, a rename, a removal or a change of length that fails once is exit status 1 and one line, and the
/// archive is as it was.
#[test]
fn a_backup_in_which_one_call_fails() {
    if strace::available() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let trial = Trial::new(temp.path(), &states(6, &SIZES), 2);
        trial.at_each("fdatasync", "error=EIO", 1.., has_failed);
        trial.at_each("fsync", "error=EIO", 1.., has_failed);
        trial.at_each("pwrite64", "error=ENOSPC", sampled(), has_failed);
        trial.at_each("renameat", "error=EIO", 1.., has_failed);
        trial.at_each("ftruncate", "error=EIO", 1.., has_failed);
        trial.at_each("fallocate", "error=EIO", 1.., has_failed);
    }
}

/// A slow disk that fails after a while ends the backup with an error, also when all threads have run ahead and wait.
#[test]
fn a_backup_in_which_a_slow_call_fails() {
    if strace::available() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let bytes = 40 << 20;
        let states: Vec<Vec<u8>> = (0..3).map(|n| crate::site::noise(60 + n, bytes)).collect();
        let trial = Trial::new(temp.path(), &states, 1);
        let slow = temp.path().join("slow");
        fs::create_dir(&slow).expect("make a folder");
        // The syncs of the first batches, in the middle of the reading.
        for number in 4..=7 {
            let mut site = trial.base.copy(&slow);
            site.write_source(&trial.disturbed);
            let command = site.backy(&["backup", "--force"]);
            let what = format!("error=EIO:delay_enter=500000:when={number}");
            let outcome = strace::inject(&command, "fdatasync", &what, temp.path());
            assert!(outcome.happened, "no sync number {number}");
            failed(&outcome.output);
            site.check_at_rest();
            fs::remove_dir_all(&site.folder).expect("remove the trial");
        }
    }
}

/// When all calls fail from some call on, so that not even the undoing works, nothing is lost.
#[test]
fn a_backup_in_which_from_then_on_all_calls_fail() {
    if strace::available() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let trial = Trial::new(temp.path(), &states(7, &SIZES), 2);
        trial.at_each("fdatasync", "error=EIO+", 1.., has_failed);
        trial.at_each("pwrite64", "error=ENOSPC+", sampled(), has_failed);
        trial.at_each("unlinkat", "error=EIO+", 1.., has_failed);
    }
}

/// The undoing after a kill can itself be killed anywhere, and again nothing is lost.
#[test]
fn the_undoing_of_a_killed_backup_killed_too() {
    if !strace::available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let states = states(8, &SIZES);
    let mut trial = Trial::new(temp.path(), &states, 2);
    // A kill that leaves most to undo: the first `fallocate` comes when the image has been overwritten.
    let place = temp.path().join("killed");
    fs::create_dir(&place).expect("make a folder");
    let killed = trial.base.copy(&place);
    killed.write_source(&trial.disturbed);
    let command = killed.backy(&["backup", "--force"]);
    let outcome = strace::inject(&command, "fallocate", &format!("{KILL}:when=1"), &place);
    was_killed(&outcome);
    trial.base = killed;
    for call in ["fdatasync", "fsync", "renameat", "fallocate", "ftruncate", "unlinkat"] {
        trial.at_each(call, KILL, 1.., was_killed);
    }
    trial.at_each("pwrite64", KILL, sampled(), was_killed);
}
