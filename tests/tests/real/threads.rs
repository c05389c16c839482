//! A command uses the cores that it may use, and no more threads than that.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use backy_tests::qemu::skipped;

use crate::site::{BLOCK_BYTES, Site, backy, noise, text, works};
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

/// Of jobs that run at a time, each has its share of the cores; one that runs alone has all.
#[test]
fn jobs_of_a_run_share_the_cores() {
    let cores = available_parallelism().expect("cores").get();
    if !strace::available() {
        return;
    }
    if cores < 2 {
        skipped("there is only one core");
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(temp.path(), &[noise(1, 400 * BLOCK_BYTES)]);
    let all = temp.path().join("all");
    let log = temp.path().join("strace.log");
    let threads_of_the_first = |jobs: usize| {
        let _ = fs::remove_dir_all(&all);
        for number in 0..cores {
            let folder = all.join(number.to_string());
            fs::create_dir_all(&all).expect("make a folder");
            works(&mut backy(&folder, &["init", text(&site.source)]));
        }
        let command = site.backy(&[]);
        let mut traced = Command::new("strace");
        traced.args(["-f", "-qq", "-s", "200", "-e", "trace=clone,clone3,execve", "-o"]).arg(&log);
        traced.arg(command.get_program()).args(["run", "--jobs", &jobs.to_string()]);
        works(traced.arg(&all));
        let log = fs::read_to_string(&log).expect("the log");
        let is_job = |line: &&str| line.contains("execve(") && line.contains("--fleet-job");
        let job = log.lines().find(is_job).expect("a job").split(' ').next().expect("a process");
        let of_job = log.lines().filter(|line| line.split(' ').next() == Some(job));
        of_job.filter(|line| line.contains("CLONE_THREAD")).count()
    };
    // Besides these, one that reports progress.
    assert_eq!(threads_of_the_first(1), threads_of_the_first(cores) + cores - 1);
}
