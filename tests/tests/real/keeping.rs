//! Removals, maintenance, scrubs and imports that are killed at every sync.

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use backy_tests::legacy::OldArchive;

use crate::disks::Disk;
use crate::kill::{KILL, Told, was_killed};
use crate::site::{BLOCK_BYTES, Site, run, states, text, words, works};
use crate::strace;

/// Odd sizes that shrink and grow; the last is for the backup afterwards.
const SIZES: [usize; 6] = [
    9 * BLOCK_BYTES - 100,
    12 * BLOCK_BYTES + 5,
    8 * BLOCK_BYTES - 512,
    11 * BLOCK_BYTES,
    10 * BLOCK_BYTES + 1,
    9 * BLOCK_BYTES + 77,
];

/// An archive of five revisions, a command that is killed, and the state for the backup afterwards.
struct Trial<'a> {
    place: &'a Path,
    base: Site,
    next: Vec<u8>,
    args: Vec<String>,
    /// Numbers of the deleted revisions, all of them in one step.
    goes: &'a [usize],
}

impl<'a> Trial<'a> {
    fn new(place: &'a Path, seed: u64, args: &[&str], goes: &'a [usize]) -> Self {
        let mut states = states(seed, &SIZES);
        let next = states.pop().expect("a state for the next backup");
        let base = Site::with_backups(place, &states);
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Trial { place, base, next, args, goes }
    }

    /// `rm` of the revisions with these numbers, by their names, which stay the same.
    fn removal(place: &'a Path, seed: u64, goes: &'a [usize]) -> Self {
        let mut trial = Trial::new(place, seed, &["rm"], goes);
        let names = goes.iter().map(|&number| trial.base.expected[number].uuid.to_string());
        trial.args.push(names.collect::<Vec<_>>().join(","));
        trial
    }

    /// Kills it at each call of this name until there is none so late. At each: every revision reads right before any
    /// repair, the deleted ones are all there or all gone, and what comes next leaves an archive at rest. Returns how
    /// many calls there were.
    fn killed_at_each(&self, call: &str) -> u32 {
        for number in 1.. {
            let place = self.place.join(format!("{call}-{number}"));
            fs::create_dir(&place).expect("make a folder");
            let mut site = self.base.copy(&place);
            let what = format!("{KILL}:when={number}");
            let outcome = strace::inject(&self.command(&site), call, &what, &place);
            let said = words(&outcome.output);
            let told = Told(format!("{:?} killed at {call} {number}: {said}", self.args));
            if outcome.happened {
                was_killed(&outcome);
                self.look_after(&mut site, number);
            } else {
                assert!(outcome.output.status.success(), "it fails without being disturbed");
                self.forget(&mut site);
                site.check_at_rest();
            }
            fs::remove_dir_all(&place).expect("remove the trial");
            drop(told);
            if !outcome.happened {
                return number - 1;
            }
        }
        unreachable!("a command comes to an end")
    }

    fn command(&self, site: &Site) -> std::process::Command {
        site.backy(&self.args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn look_after(&self, site: &mut Site, number: u32) {
        let is_done = site.committed().len() < site.expected.len();
        if is_done {
            self.forget(site);
        }
        site.check(None);
        // In turn: maintenance or the same command again before the next backup, or the backup first.
        if number.is_multiple_of(2) {
            if is_done {
                works(&mut site.backy(&["maintenance"]));
            } else {
                works(&mut self.command(site));
                self.forget(site);
            }
            site.check_at_rest();
        }
        site.backup(&self.next);
        site.check_at_rest();
        works(&mut site.backy(&["scrub", "-n"]));
    }

    fn forget(&self, site: &mut Site) {
        let mut numbers = 0..;
        site.expected.retain(|_| numbers.next().is_some_and(|n: usize| !self.goes.contains(&n)));
    }

    fn killed_at_every_sync(&self) {
        let syncs = self.killed_at_each("fdatasync");
        assert!(syncs >= 1, "no sync of a file");
        let syncs = self.killed_at_each("fsync");
        assert!(syncs >= 1, "no sync of the folder");
    }
}

/// Runs a trial where there is strace, in a temporary folder.
fn in_place(trial: impl FnOnce(&Path)) {
    if strace::available() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        trial(temp.path());
    }
}

/// The removal of two neighbours in the middle, which are merged into the next older revision, loses nothing.
#[test]
fn a_merge_killed_at_every_sync() {
    in_place(|place| {
        let trial = Trial::removal(place, 31, &[1, 2]);
        let syncs = trial.killed_at_each("fdatasync");
        assert!(syncs >= 6, "a merge has more than {syncs} syncs of files");
        trial.killed_at_each("fsync");
        trial.killed_at_each("unlinkat");
    });
}

/// The removal of the newest revision either has not begun or completes by itself, and loses no other.
#[test]
fn a_roll_back_killed_at_every_sync() {
    in_place(|place| {
        let trial = Trial::removal(place, 32, &[0]);
        trial.killed_at_every_sync();
        trial.killed_at_each("ftruncate");
    });
}

/// The same where backups are made on clones, and with a revision that is merged.
#[test]
fn removals_with_clones_killed_at_every_sync() {
    let Some(disk) = Disk::make("xfs", 320 << 20) else { return };
    if strace::available() {
        let trial = |name: &str, seed, goes| {
            let place = disk.path().join(name);
            fs::create_dir(&place).expect("make a folder");
            Trial::removal(&place, seed, goes).killed_at_each("fdatasync");
        };
        trial("newest", 33, &[0]);
        trial("middle", 34, &[2]);
    }
}

/// Maintenance that expires the older revisions loses none of those that stay.
#[test]
fn maintenance_killed_at_every_sync() {
    in_place(|place| {
        // The source has shrunk, which prevents expiry until somebody has confirmed it.
        let trial = Trial::new(place, 35, &["maintenance", "-k", "2", "--confirm"], &[2, 3, 4]);
        trial.killed_at_every_sync();
        trial.killed_at_each("unlinkat");
    });
}

/// Making a revision independent of the others loses nothing.
#[test]
fn making_a_revision_standalone_killed_at_every_sync() {
    in_place(|place| {
        let trial = Trial::new(place, 36, &["maintenance"], &[]);
        // Above the tables, which do not include it.
        trial.base.configure(|config| format!("max_chain = 1\n{config}"));
        let syncs = trial.killed_at_each("fdatasync");
        assert!(syncs >= 6, "making a revision standalone has more than {syncs} syncs of files");
        trial.killed_at_each("fsync");
    });
}

/// A scrub that repairs a lost header loses nothing, and the next one repairs it.
#[test]
fn a_repairing_scrub_killed_at_every_sync() {
    in_place(|place| {
        let trial = Trial::new(place, 37, &["scrub"], &[]);
        let header = format!("{}.qcow2", trial.base.expected[2].uuid);
        let header = trial.base.folder.join(header);
        let file = File::options().write(true).open(header).expect("open a delta");
        file.write_all_at(&[0; 512], 0).expect("zero its header");
        for call in ["fdatasync", "fsync"] {
            for number in 1.. {
                let place = place.join(format!("{call}-{number}"));
                fs::create_dir(&place).expect("make a folder");
                let mut site = trial.base.copy(&place);
                let what = format!("{KILL}:when={number}");
                let outcome = strace::inject(&trial.command(&site), call, &what, &place);
                let told = Told(format!("scrub killed at {call} {number}"));
                check_readable(&site);
                if outcome.happened {
                    was_killed(&outcome);
                    // It reports what it finds and repairs, unless that was done before.
                    let again = run(&mut trial.command(&site));
                    assert!(again.status.code().is_some_and(|code| code <= 1), "{again:?}");
                }
                works(&mut site.backy(&["scrub"]));
                site.check_at_rest();
                site.backup(&trial.next);
                site.check_at_rest();
                fs::remove_dir_all(&place).expect("remove the trial");
                drop(told);
                if !outcome.happened {
                    assert!(number > 1, "a scrub that mends makes no call of {call}");
                    break;
                }
            }
        }
    });
}

/// Checks that revisions newer than the damaged one read right, and the others right or not at all.
fn check_readable(site: &Site) {
    for (number, revision) in site.expected.iter().enumerate() {
        let output = run(&mut site.backy(&["restore", "-r", &revision.uuid.to_string(), "-"]));
        if output.status.success() {
            assert!(output.stdout == revision.bytes, "revision {number}: wrong bytes");
        } else {
            assert!(number >= 2, "revision {number}: {}", words(&output));
        }
    }
}

/// An import of an archive of 2014 that is killed keeps the revisions that it has made, and the next one continues
/// from there. The old archive stays as it is.
#[test]
fn an_import_killed_in_the_middle() {
    in_place(|place| {
        let states = states(38, &SIZES[..4]);
        let old = OldArchive::write(&place.join("old"), 4096, 1, &states);
        let before = contents(&old.folder);
        let sampled = std::iter::successors(Some(1), |n: &u32| Some(n + 1 + n / 4));
        let mut imported = [false; 5];
        for number in sampled {
            let place = place.join(number.to_string());
            fs::create_dir(&place).expect("make a folder");
            let mut site = Site {
                folder: place.join("archive"),
                source: place.join("none"),
                expected: vec![],
            };
            let import = site.backy(&["import", text(&old.folder)]);
            let what = format!("{KILL}:when={number}");
            let outcome = strace::inject(&import, "fdatasync", &what, &place);
            let told = Told(format!("import killed at sync {number}: {}", words(&outcome.output)));
            let made = match site.folder.join("manifest.json").exists() {
                true => site.committed().len(),
                false => 0,
            };
            imported[made] = true;
            expect_oldest(&mut site, &old, made);
            if made > 0 {
                site.check(None);
            }
            works(&mut site.backy(&["import", text(&old.folder)]));
            site.expected.clear();
            expect_oldest(&mut site, &old, states.len());
            site.check_at_rest();
            assert!(contents(&old.folder) == before, "the old archive was changed");
            drop(told);
            if !outcome.happened {
                break;
            }
        }
        assert!(imported.iter().filter(|&&seen| seen).count() >= 4, "{imported:?}");
    });
}

fn expect_oldest(site: &mut Site, old: &OldArchive, count: usize) {
    for (name, bytes) in &old.revisions[..count] {
        site.push(name, bytes);
    }
}

/// Names and bytes of the files in a folder.
pub(crate) fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).expect("list a folder").map(|e| e.expect("an entry").path());
    let mut paths: Vec<_> = entries.collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(&path).expect("read a file"))).collect()
}
