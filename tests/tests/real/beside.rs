//! Readers beside removals and maintenance, and two maintainers at once.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::processes::{Running, wait_for_lock};
use crate::site::{Site, fails, noise, works};
use crate::strace;
use crate::ways::both_ways;

const MIB: usize = 1 << 20;

/// States that each change three quarters of the blocks, not always the same ones.
fn states(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut state = noise(seed, 4 * MIB);
    let mut change = |number: usize| {
        let kept = (number % 4) * MIB..(number % 4 + 1) * MIB;
        let mut next = noise(seed + 1 + number as u64, 4 * MIB);
        next[kept.clone()].copy_from_slice(&state[kept]);
        state = next;
        state.clone()
    };
    (0..count).map(&mut change).collect()
}

/// A command, with every sync of a file slow where there is strace.
fn slowed(command: Command, log: &Path) -> Command {
    match strace::available() {
        true => strace::tracing(&command, "fdatasync", "delay_exit=20000", log),
        false => command,
    }
}

/// Runs `look` again and again until `done`. Returns how often.
fn until(done: &AtomicBool, mut look: impl FnMut()) -> u32 {
    let mut count = 0;
    while !done.load(Relaxed) {
        look();
        count += 1;
    }
    count
}

/// Sets a flag at its end, also by a panic, for otherwise the others would wait forever.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Backups, removals and maintenance that spare pinned revisions but not their neighbours.
fn keep_busy(site: &mut Site, states: &[Vec<u8>], log: &Path) {
    for pair in states.chunks(2) {
        for state in pair {
            site.backup(state);
        }
        works(&mut slowed(site.backy(&["rm", "1"]), log));
        site.expected.remove(1);
        works(&mut slowed(site.backy(&["maintenance", "-k", "1"]), log));
        // The newest and the pinned ones.
        let pinned = site.expected.len() - 2;
        site.expected.drain(1..pinned);
    }
}

/// A restore gets the bytes of its revision while others around it are made, merged away and deleted. A scrub that
/// changes nothing finds nothing, and the status is available at any time.
fn restore_gets_its_own_bytes_during_maintenance(place: &Path) {
    let states = states(200, 14);
    let mut site = Site::with_backups(place, &states[..6]);
    let kept = [site.expected[3].clone(), site.expected[5].clone()];
    for revision in &kept {
        works(&mut site.backy(&["tag", &revision.uuid.to_string(), "+keep"]));
    }
    // In this order the last two stay. It matters at the end only, when those between are deleted.
    site.expected.swap(4, 3);
    let folder = site.folder.clone();
    let reader = |args: &[&str]| works(&mut crate::site::backy(&folder, args));
    let done = AtomicBool::new(false);
    let log = place.join("strace.log");
    let (reads, checks, looks) = std::thread::scope(|scope| {
        let reads = scope.spawn(|| {
            until(&done, || {
                for revision in &kept {
                    let bytes = reader(&["restore", "-r", &revision.uuid.to_string(), "-"]);
                    assert!(bytes == revision.bytes, "wrong bytes of {}", revision.uuid);
                }
            })
        });
        // Exit status 0: nothing was found.
        let checks = scope.spawn(|| until(&done, || drop(reader(&["scrub", "-n"]))));
        let looks = scope.spawn(|| until(&done, || drop(reader(&["status"]))));
        let busy = Done(&done);
        keep_busy(&mut site, &states[6..], &log);
        drop(busy);
        let count =
            |thread: std::thread::ScopedJoinHandle<'_, u32>| thread.join().expect("a count");
        (count(reads), count(checks), count(looks))
    });
    assert!(
        reads.min(checks).min(looks) >= 3,
        "only {reads} reads, {checks} checks, {looks} looks"
    );
    site.check_at_rest();
}
both_ways!(restore_gets_its_own_bytes_during_maintenance(place));

/// A second maintainer, a removal and a scrub fail at once and name the one at work, who does not notice.
#[test]
fn two_maintainers_at_once() {
    if !strace::available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let mut site = Site::with_backups(temp.path(), &states(300, 5));
    let log = temp.path().join("strace.log");
    let first = site.backy(&["rm", "1"]);
    let mut slow = strace::tracing(&first, "fdatasync", "delay_exit=400000", &log);
    let mut first = Running::start(&mut slow);
    wait_for_lock(&site, &mut first);
    for args in
        [&["maintenance", "-k", "1"][..], &["rm", "first"], &["scrub"], &["backup", "--force"]]
    {
        let message = fails(&mut site.backy(args));
        assert!(message.contains("in use by 'rm' (process "), "{args:?}: {message}");
    }
    assert!(first.is_running(), "too late to compare");
    first.finish();
    site.expected.remove(1);
    site.check_at_rest();
}
