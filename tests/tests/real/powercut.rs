//! Power cuts for real: the `backy` command on ext4 and XFS, on a device whose every write and flush is logged. The
//! tests rebuild from the log the disk of any moment, also one on which any subset of the writes since the last flush
//! was lost or torn. They mount it and check what the archive promises: every committed revision by `qemu-img` before
//! any repair, then by backy, then the next backup.
//!
//! Neither the simulated disk of the other tests nor a kill does this: here the file system's own journal, the page
//! cache and the kernel's order of writes take part. `POWERCUT_COUNT` is how many moments are tried on each file
//! system (`make powercut COUNT=200`). `POWERCUT_SEED` decides which states the source has and which moments are
//! chosen. The log itself differs between two runs, since it depends on time. So a moment that failed is kept as the
//! image of its disk.

mod log;
mod moment;
mod recorder;
mod trial;
mod workload;
mod writeback;

use std::time::Instant;

use recorder::{FileSystem, Recorder};
use trial::Trial;

/// Moments tried on each file system by default: one for about every other command.
const COUNT: usize = 12;

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    if text.is_empty() {
        return default;
    }
    text.parse().unwrap_or_else(|_| panic!("{name}: found '{text}', expected a number"))
}

#[expect(clippy::print_stderr, reason = "the test's own report")]
fn cut_the_power(file_system: FileSystem) {
    let seed = number("POWERCUT_SEED", 1);
    let count = number("POWERCUT_COUNT", COUNT as u64) as usize;
    let Some(recorder) = Recorder::start(file_system) else { return };
    let began = Instant::now();
    let steps = workload::run_all(&recorder, seed);
    let recorded = recorder.finish();
    let seconds = began.elapsed().as_secs_f64();
    let mut trial = Trial::new(recorded, steps, seed);
    eprintln!("{}: seed {seed}: {} in {seconds:.1} s", file_system.kind, trial.describe());
    let began = Instant::now();
    let tried = trial.run(count);
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("{}: seed {seed}: {tried} moments in {seconds:.1} s", file_system.kind);
    assert_eq!(tried, count, "moments tried");
}

/// A power cut at any moment of backups in place, removals, maintenance and scrubs on ext4 loses nothing.
#[test]
fn on_ext4_in_place() {
    cut_the_power(FileSystem::EXT4);
}

/// The same on XFS, where backups are made on clones.
#[test]
fn on_xfs_with_clones() {
    cut_the_power(FileSystem::XFS);
}
