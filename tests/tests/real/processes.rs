//! Several processes at once: readers beside a writer, two writers, a writer that dies.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::site::{Site, fails, noise, run, words, works};
use crate::strace;
use crate::ways::both_ways;

const MIB: usize = 1 << 20;

/// A process that ends with its value.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().expect("start a process"))
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("look after a process").is_none()
    }

    /// Waits until it has ended, which has to be with success and silently.
    pub(crate) fn finish(mut self) {
        let status = self.0.wait().expect("wait for a process");
        let mut said = String::new();
        let mut stderr = self.0.stderr.take().expect("a pipe");
        stderr.read_to_string(&mut said).expect("read what it said");
        assert!(status.success() && said.is_empty(), "{status}: {said}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Where all went well, it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until somebody holds the archive's lock and has recorded who.
pub(crate) fn wait_for_lock(site: &Site, holder: &mut Running) {
    let began = Instant::now();
    let lock = site.folder.join("lock");
    let manifest = site.folder.join("manifest.json");
    loop {
        let said = fs::read(&lock).unwrap_or_default();
        let text = fs::read_to_string(&manifest).unwrap_or_default();
        if !said.is_empty() && text.contains("\"operation\"") {
            return;
        }
        assert!(holder.is_running(), "it ended before anybody saw it");
        assert!(began.elapsed() < Duration::from_secs(30), "nobody takes the lock");
        sleep(Duration::from_millis(5));
    }
}

/// States that each change every block, so that the image is overwritten from end to end.
fn states(seed: u64, bytes: usize, count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|number| noise(seed + number, bytes)).collect()
}

/// Restores each existing revision in a loop while a backup runs. Returns how many restores there were.
fn read_during_backup(site: &mut Site, next: &[u8], backup: &mut Command) -> u32 {
    site.write_source(next);
    let mut backup = Running::start(backup);
    wait_for_lock(site, &mut backup);
    let mut reads = 0;
    while backup.is_running() {
        for revision in &site.expected {
            let uuid = revision.uuid.to_string();
            let bytes = works(&mut site.backy(&["restore", "-r", &uuid, "-"]));
            assert!(bytes == revision.bytes, "read {reads}: wrong bytes of {uuid}");
            reads += 1;
        }
    }
    backup.finish();
    site.check(Some(next));
    reads
}

/// A process that restores a revision while another one makes a backup always gets the bytes of that revision.
fn restore_gets_its_own_bytes_during_a_backup(place: &Path) {
    // Several batches, so that the image is half overwritten for most of the time.
    let states = states(100, 30 * MIB, 4);
    let mut site = Site::with_backups(place, &states[..2]);
    let mut slow = site.backy(&["backup", "--force", "--limit-rate", "15M"]);
    let reads = read_during_backup(&mut site, &states[2], &mut slow);
    assert!(reads >= 4, "only {reads} reads during the backup");
    if strace::available() {
        let backup = site.backy(&["backup", "--force"]);
        let log = place.join("strace.log");
        let mut slow = strace::tracing(&backup, "fdatasync", "delay_exit=150000", &log);
        let reads = read_during_backup(&mut site, &states[3], &mut slow);
        assert!(reads >= 4, "only {reads} reads during the backup");
    }
    site.check_at_rest();
}
both_ways!(restore_gets_its_own_bytes_during_a_backup(place));

/// A restore that pauses while two backups overwrite the image stops neither of them, and continues with the bytes of
/// its revision.
fn paused_restore_gets_its_own_bytes(place: &Path) {
    let states = states(200, 12 * MIB, 4);
    let mut site = Site::with_backups(place, &states[..2]);
    let mut readers: Vec<(Running, Vec<u8>)> = Vec::new();
    for revision in &site.expected {
        let uuid = revision.uuid.to_string();
        let mut reader = Running::start(&mut site.backy(&["restore", "-r", &uuid, "-"]));
        let mut beginning = vec![0; MIB];
        let stdout = reader.0.stdout.as_mut().expect("a pipe");
        stdout.read_exact(&mut beginning).expect("read the beginning");
        readers.push((reader, beginning));
    }
    let expected = site.expected.clone();
    site.backup(&states[2]);
    site.backup(&states[3]);
    for ((mut reader, mut bytes), revision) in readers.into_iter().zip(expected) {
        let stdout = reader.0.stdout.as_mut().expect("a pipe");
        stdout.read_to_end(&mut bytes).expect("read the rest");
        reader.finish();
        assert!(bytes == revision.bytes, "wrong bytes of {}", revision.uuid);
    }
    site.check_at_rest();
}
both_ways!(paused_restore_gets_its_own_bytes(place));

/// A restore whose reader closes the pipe after a while ends with an error, also when all its threads have run ahead
/// and wait.
#[test]
fn a_reader_that_goes_away() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(temp.path(), &states(600, 40 * MIB, 1));
    for _ in 0..5 {
        let mut reader = Running::start(&mut site.backy(&["restore", "-"]));
        let mut beginning = vec![0; 100];
        let mut stdout = reader.0.stdout.take().expect("a pipe");
        stdout.read_exact(&mut beginning).expect("read the beginning");
        sleep(Duration::from_millis(200));
        drop(stdout);
        let began = Instant::now();
        while reader.is_running() {
            assert!(began.elapsed() < Duration::from_secs(20), "it hangs");
            sleep(Duration::from_millis(5));
        }
        let status = reader.0.wait().expect("wait for a process");
        assert_eq!(status.code(), Some(1), "half an image is no success");
    }
}

/// A second backup fails at once, names the one at work, and leaves everything alone. The first one does not notice.
#[test]
fn two_backups_at_once() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let states = states(300, 4 * MIB, 2);
    let mut site = Site::with_backups(temp.path(), &states[..1]);
    site.write_source(&states[1]);
    let mut first = Running::start(&mut site.backy(&["backup", "--force", "--limit-rate", "1M"]));
    wait_for_lock(&site, &mut first);
    // The first one reads for seconds before it writes anything. Until then its files do not change.
    sleep(Duration::from_millis(300));
    let before = site.contents();
    for _ in 0..5 {
        let began = Instant::now();
        let message = fails(&mut site.backy(&["backup", "--force"]));
        let holder = format!("in use by 'backup' (process {} on ", first.0.id());
        assert!(message.contains(&holder), "{message}");
        assert!(began.elapsed() < Duration::from_secs(2), "it did not fail at once");
    }
    assert!(first.is_running(), "too late to compare");
    assert!(site.contents() == before, "the second backup changed something");
    first.finish();
    site.check(Some(&states[1]));
    site.check_at_rest();
}

/// The lock of a killed backup is free at once, and the next one undoes what it left and works.
#[test]
fn the_lock_of_a_killed_backup_is_free() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let states = states(400, 4 * MIB, 3);
    let mut site = Site::with_backups(temp.path(), &states[..1]);
    site.write_source(&states[1]);
    let mut first = Running::start(&mut site.backy(&["backup", "--force", "--limit-rate", "1M"]));
    wait_for_lock(&site, &mut first);
    first.0.kill().expect("kill -9");
    first.0.wait().expect("wait for the killed one");
    drop(first);
    site.check(None);
    site.backup(&states[2]);
    site.check_at_rest();
}

/// Of many backups that start at the same time, each works or finds the archive in use, and each that worked has made
/// a revision.
#[test]
fn many_backups_at_once() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let state = noise(500, MIB);
    let mut site = Site::with_backups(temp.path(), std::slice::from_ref(&state));
    let outputs: Vec<_> = std::thread::scope(|scope| {
        let start = || run(&mut site.backy(&["backup", "--force"]));
        let threads: Vec<_> = (0..12).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let mut worked = 0;
    for output in outputs {
        if output.status.success() {
            worked += 1;
        } else {
            crate::site::failed(&output);
            assert!(words(&output).contains("in use by"), "{}", words(&output));
        }
    }
    let committed = site.committed();
    assert!(worked > 0 && committed.len() == 1 + worked, "{worked} worked: {committed:?}");
    for uuid in committed[..worked].iter().rev() {
        site.push(uuid, &state);
    }
    site.check_at_rest();
}
