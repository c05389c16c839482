//! A command uses the cores that it may use, and no more threads than that.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use crate::site::{BLOCK_BYTES, Site, noise, text, works};
use crate::strace;

/// As `taskset`, `AllowedCPUs=` or `CPUQuota=` say.
#[test]
fn no_more_threads_than_usable_cores() {
    if !strace::available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(temp.path(), &[noise(1, 400 * BLOCK_BYTES)]);
    let target = temp.path().join("target");
    let (log, target) = (temp.path().join("strace.log"), text(&target));
    for cores in 1..=available_parallelism().expect("cores").get().min(4) {
        let backup = ["backup", "--force"];
        let restore = ["restore", "--force", target];
        for arguments in [&backup[..], &restore, &["scrub"]] {
            let command = site.backy(arguments);
            let mut traced = Command::new("strace");
            traced.args(["-f", "-qq", "-e", "trace=clone,clone3", "-o"]).arg(&log);
            traced.args(["taskset", "-c", &format!("0-{}", cores - 1)]);
            works(traced.arg(command.get_program()).args(command.get_args()));
            let log = fs::read_to_string(&log).expect("the log");
            let begun = log.lines().filter(|line| line.contains("CLONE_THREAD")).count();
            assert_eq!(begun + 1, cores, "{arguments:?} on {cores} cores: {log}");
        }
    }
}
