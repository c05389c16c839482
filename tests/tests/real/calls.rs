//! Every command with each of its system calls failing in turn: no space at a write, an error of the disk at a
//! read, a write or a sync. Backups have their own tests, in `kill.rs`.
//!
//! The tests try the first calls, and later ones more and more sparsely; `make torture` tries every one.

use std::fs;
use std::path::Path;
use std::process::Command;

use backy_lib::Archive;
use backy_lib::storage::sim::Random;
use backy_tests::legacy::OldArchive;
use backy_tests::world;

use crate::keeping::contents;
use crate::kill::Told;
use crate::site::{BLOCK_BYTES, Site, compare, failed, noise, run, states, text, words, works};
use crate::strace::{self, Injected};
use crate::torture::wanted;

const SIZES: [usize; 5] = [
    5 * BLOCK_BYTES - 100,
    6 * BLOCK_BYTES + 5,
    4 * BLOCK_BYTES - 512,
    6 * BLOCK_BYTES,
    5 * BLOCK_BYTES + 1,
];

/// What a full disk does to the calls that may need space.
const NO_SPACE: [(&str, &str); 4] = [
    ("pwrite64", "error=ENOSPC"),
    ("openat", "error=ENOSPC"),
    ("fallocate", "error=ENOSPC"),
    ("renameat", "error=ENOSPC"),
];

/// What a broken disk does to the others.
const BROKEN: [(&str, &str); 9] = [
    ("pread64", "error=EIO"),
    ("preadv2", "error=EIO"),
    ("pwrite64", "error=EIO"),
    ("fdatasync", "error=EIO"),
    ("fsync", "error=EIO"),
    ("ftruncate", "error=EIO"),
    ("unlinkat", "error=EIO"),
    ("lseek", "error=EIO"),
    ("getdents64", "error=EIO"),
];

/// The numbers of the calls that are tried. The first ones of `openat` are the loader's.
fn numbers(call: &str) -> impl Iterator<Item = u32> {
    let step = |n: &u32| Some(if every_call() { n + 1 } else { n * 2 + 1 });
    let first = if call == "openat" { 4 } else { 1 };
    std::iter::successors(Some(first), step)
}

/// Whether every call is to fail in turn.
fn every_call() -> bool {
    wanted("BACKY_TORTURE_ROUNDS").is_some()
}

/// Whether the program was not even loaded.
fn is_not_loaded(outcome: &Injected) -> bool {
    outcome.output.status.code() == Some(127)
}

/// A command on a copy of an archive.
struct Trial<'a> {
    place: &'a Path,
    base: &'a Site,
    args: &'a [&'a str],
    /// Numbers of revisions that the command may delete.
    may_go: &'a [usize],
}

impl Trial<'_> {
    /// Makes each of the calls fail once, and once from then on. Passes on the archive and the result of the command,
    /// which is success, or exit status 1 and a line that names a file.
    fn at_each(
        &self,
        calls: &[(&str, &str)],
        lasting: bool,
        look: impl Fn(&mut Site, &Injected),
    ) -> u32 {
        let mut tried = 0;
        for &(call, error) in calls {
            for number in numbers(call) {
                let place = self.place.join("trial");
                fs::create_dir(&place).expect("make a folder");
                let mut site = self.base.copy(&place);
                let on = if lasting { "+" } else { "" };
                let what = format!("{error}:when={number}{on}");
                let target = text(&place.join("target")).to_owned();
                let args: Vec<&str> =
                    self.args.iter().map(|&arg| if arg == "{}" { &target } else { arg }).collect();
                let outcome = strace::inject(&site.backy(&args), call, &what, &place);
                let said = words(&outcome.output);
                let told = Told(format!("{args:?} with {call} {what}: {said}"));
                judge(&outcome, &place);
                look(&mut site, &outcome);
                drop(told);
                fs::remove_dir_all(&place).expect("remove the trial");
                if !outcome.happened {
                    break;
                }
                tried += 1;
            }
        }
        tried
    }

    /// The same for a command that changes the archive. After each: every revision that is still there reads right
    /// before any repair, and the same command and a backup work.
    fn loses_nothing(&self, calls: &[(&str, &str)], lasting: bool) -> u32 {
        let next = noise(950, 5 * BLOCK_BYTES + 7);
        self.at_each(calls, lasting, |site, outcome| {
            let before = site.expected.len();
            site.reconcile(self.may_go, None);
            site.check_here();
            let has_gone = before - site.expected.len();
            let all = has_gone == self.may_go.len();
            assert!(all || !outcome.output.status.success(), "told that it worked");
            site.backup(&next);
            site.check_at_rest_here();
        })
    }
}

/// Success, or exit status 1 with a last line that says which file. A program that the loader cannot start does not
/// matter.
fn judge(outcome: &Injected, place: &Path) {
    let output = &outcome.output;
    if output.status.success() || is_not_loaded(outcome) {
        return;
    }
    let said = words(output);
    assert_eq!(output.status.code(), Some(1), "{}", output.status);
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("backy: error: ") || last.is_empty(), "{said}");
    assert!(last.contains(text(place)) || last.contains("standard"), "no file is named");
}

fn trial(may_go: &'static [usize], args: &[&str], seed: u64) {
    if !strace::available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let base = Site::with_backups(temp.path(), &states(seed, &SIZES));
    let trial = Trial { place: temp.path(), base: &base, args, may_go };
    assert!(trial.loses_nothing(&NO_SPACE, false) > 2, "hardly a call fails");
    assert!(trial.loses_nothing(&BROKEN, false) > 5, "hardly a call fails");
    if every_call() {
        let lasting = [("pwrite64", "error=ENOSPC"), ("fdatasync", "error=EIO")];
        assert!(trial.loses_nothing(&lasting, true) > 2, "hardly a call fails");
    }
}

/// The removal of a revision in the middle, by a merge.
#[test]
fn merge_survives_any_failing_call() {
    trial(&[1], &["rm", "1"], 951);
}

/// The removal of the newest, by rolling back.
#[test]
fn roll_back_survives_any_failing_call() {
    trial(&[0], &["rm", "0"], 952);
}

/// Maintenance that expires several revisions.
#[test]
fn maintenance_survives_any_failing_call() {
    // The source has shrunk, which prevents expiry until somebody has confirmed it.
    trial(&[2, 3, 4], &["maintenance", "-k", "2", "--confirm"], 953);
}

/// A tag is there or not.
#[test]
fn tag_survives_any_failing_call() {
    trial(&[], &["tag", "1", "+x"], 954);
}

/// A scrub with nothing to repair records what it has read, or does not.
#[test]
fn scrub_survives_any_failing_call() {
    trial(&[], &["scrub"], 955);
}

/// Commands that only read: the right result or an error, and the archive stays as it is.
#[test]
fn readers_survive_any_failing_call() {
    if !strace::available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let base = Site::with_backups(temp.path(), &states(956, &SIZES));
    let before = base.contents();
    // The last number is that of a revision whose bytes are written, if any are.
    for (args, number) in [
        (&["restore", "-r", "0", "-"][..], Some(0)),
        (&["restore", "-r", "3", "{}"], Some(3)),
        (&["export", "-r", "2", "{}"], Some(2)),
        (&["scrub", "-n"], None),
        (&["status"], None),
        (&["find", "-r", "1"], None),
    ] {
        let trial = Trial { place: temp.path(), base: &base, args, may_go: &[] };
        let calls: Vec<_> = BROKEN.into_iter().chain(NO_SPACE).collect();
        let tried = trial.at_each(&calls, false, |site, outcome| {
            assert!(site.contents() == before, "the archive has changed");
            let target = site.folder.with_file_name("target");
            let left: Vec<_> = fs::read_dir(target.parent().expect("a folder"))
                .expect("list the folder")
                .map(|entry| entry.expect("an entry").file_name())
                .filter(|name| name != "archive" && name != "strace.log" && name != "target")
                .collect();
            if !outcome.output.status.success() {
                // What could not be deleted is still there.
                assert!(left.is_empty() || words(&outcome.output).contains("unlink"), "{left:?}");
                return;
            }
            let Some(number) = number else { return };
            let expected = &site.expected[number].bytes;
            match args[0] {
                "export" => compare(&target, "qcow2", expected),
                _ if args.contains(&"-") => assert!(outcome.output.stdout == *expected),
                _ => assert!(fs::read(&target).expect("read the target") == *expected),
            }
        });
        assert!(tried > 1, "{args:?}: hardly a call fails");
    }
}

/// A restore onto a file with other content: after an error it can run again, and is right then.
#[test]
fn a_restore_whose_target_fails() {
    if !strace::available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let mut site = Site::with_backups(temp.path(), &states(957, &SIZES));
    let target = temp.path().join("target");
    let wanted = &site.expected[2].bytes;
    let mut errors = 0;
    for (call, error) in [
        ("pwrite64", "error=ENOSPC"),
        ("pwrite64", "error=EIO"),
        ("fsync", "error=EIO"),
        ("fallocate", "error=EIO"),
        ("ftruncate", "error=ENOSPC"),
        ("pread64", "error=EIO"),
    ] {
        for number in numbers(call) {
            fs::write(&target, noise(958, wanted.len() + 100_000)).expect("write the target");
            let restore = site.backy(&["restore", "-r", "2", "--force", text(&target)]);
            let what = format!("{error}:when={number}");
            let outcome = strace::inject(&restore, call, &what, temp.path());
            let told = Told(format!("{call} {what}: {}", words(&outcome.output)));
            let right = || fs::read(&target).expect("read the target") == *wanted;
            if is_not_loaded(&outcome) {
                continue;
            }
            if outcome.output.status.success() {
                assert!(right(), "told that it worked");
            } else {
                failed(&outcome.output);
                errors += 1;
                works(&mut site.backy(&["restore", "-r", "2", "--force", text(&target)]));
                assert!(right(), "it did not work again");
            }
            drop(told);
            if !outcome.happened {
                break;
            }
        }
    }
    assert!(errors > 3, "only {errors} errors");
    site.check_at_rest();
}

/// A new image and a new target are written past the page cache, by calls of their own. When one fails there is no
/// revision, or no target, and the next attempt works. Later ones are made only where the file system supports it.
#[test]
fn first_backup_and_restore_survive_any_failing_write() {
    if !strace::available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let state = noise(960, 3 << 20);
    for (number, error) in [(1, "ENOSPC"), (1, "EIO"), (2, "ENOSPC"), (3, "EIO")] {
        let place = temp.path().join(format!("{number}-{error}"));
        fs::create_dir(&place).expect("make a folder");
        let mut site = Site::with_backups(&place, &[]);
        site.write_source(&state);
        let what = format!("error={error}:when={number}");
        let outcome =
            strace::inject(&site.backy(&["backup", "--force"]), "pwritev2", &what, &place);
        if !outcome.happened && number > 1 {
            continue;
        }
        assert!(outcome.happened, "{what}: the image is written otherwise");
        failed(&outcome.output);
        site.check(None);
        site.backup(&state);

        let target = place.join("target");
        let restore = site.backy(&["restore", text(&target)]);
        let outcome = strace::inject(&restore, "pwritev2", &what, &place);
        assert!(outcome.happened, "{what}: the target is written otherwise");
        failed(&outcome.output);
        assert!(!target.exists(), "{what}: half a target");
        works(&mut site.backy(&["restore", text(&target)]));
        assert!(fs::read(&target).ok().as_ref() == Some(&state), "{what}: wrong bytes");
        site.check_at_rest();
    }
}

/// A source that cannot be read at some place: the error names it and the place, the archive is as it was, and the
/// next backup works.
#[test]
fn a_source_that_cannot_be_read() {
    if !strace::available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let bytes = 9 << 20;
    let mut site = Site::with_backups(temp.path(), &[noise(960, bytes), noise(961, bytes)]);
    site.write_source(&noise(962, bytes));
    let source = text(&site.source).to_owned();
    let named = format!("source {source}: cannot read ");
    let mut places = 0;
    for number in numbers("pread64") {
        // Only the reads of the source: strace counts the calls of each thread separately.
        let log = temp.path().join("strace.log");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-P", &source, "-o"]).arg(&log);
        strace.args(["-e", "trace=pread64,preadv2", "-e"]);
        strace.arg(format!("inject=pread64,preadv2:error=EIO:when={number}"));
        let backup = site.backy(&["backup", "--force"]);
        strace.arg(backup.get_program()).args(backup.get_args());
        let output = run(&mut strace);
        // What only looks for the format of an image, in the first 128 KiB, may fail.
        let is_data = |line: &str| line.contains("(INJECTED)") && !line.contains("131072");
        if !fs::read_to_string(&log).expect("the log").lines().any(is_data) {
            assert!(output.status.success(), "{}", words(&output));
            let uuid = site.committed()[0].clone();
            site.push(&uuid, &noise(962, bytes));
            // On a busy machine one thread may have done nearly everything.
            if number > 8 {
                break;
            }
            continue;
        }
        failed(&output);
        let said = words(&output);
        assert!(said.contains(&named) && said.contains(" bytes at offset "), "{said}");
        assert!(said.contains("Input/output error"), "{said}");
        places += 1;
        site.check_at_rest_here();
    }
    assert!(places >= 1, "no read has failed");
    site.check_at_rest();
}

/// An import whose old archive cannot be read, or whose disk fails: what it has imported is right, nothing else is
/// there, the old archive is as it was, and another import does the rest.
#[test]
fn import_survives_any_failing_call() {
    if !strace::available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let states = states(963, &SIZES[..3]);
    let old = OldArchive::write(&temp.path().join("old"), 4096, 1, &states);
    let before = contents(&old.folder);
    let calls: Vec<_> = BROKEN.into_iter().chain(NO_SPACE).collect();
    let mut tried = 0;
    for (call, error) in calls {
        for number in numbers(call) {
            let place = temp.path().join("trial");
            fs::create_dir(&place).expect("make a folder");
            let folder = place.join("archive");
            let mut site = Site { folder, source: place.join("none"), expected: vec![] };
            let import = site.backy(&["import", text(&old.folder)]);
            let what = format!("{error}:when={number}");
            let outcome = strace::inject(&import, call, &what, &place);
            let told = Told(format!("{call} {what}: {}", words(&outcome.output)));
            judge(&outcome, temp.path());
            if site.folder.join("manifest.json").exists() {
                check_imported(&site, &old, &outcome);
            }
            let again = run(&mut site.backy(&["import", text(&old.folder)]));
            if again.status.success() && !words(&outcome.output).contains("lost for each") {
                old.revisions.iter().for_each(|(uuid, bytes)| site.push(uuid, bytes));
                site.check_at_rest_here();
            }
            // What was left out would have to come before what has been imported.
            assert!(again.status.success() || outcome.happened, "{}", words(&again));
            assert!(contents(&old.folder) == before, "the old archive was changed");
            drop(told);
            fs::remove_dir_all(&place).expect("remove the trial");
            if !outcome.happened {
                break;
            }
            tried += 1;
        }
    }
    assert!(tried > 15, "only {tried} calls have failed");
}

/// What was imported is right, or the import reported that a part of it is lost.
fn check_imported(site: &Site, old: &OldArchive, outcome: &Injected) {
    let archive = Archive::open(&site.folder).expect("open the archive");
    let said = words(&outcome.output);
    for (number, revision) in archive.revisions().iter().enumerate() {
        let known = old.revisions.iter().find(|(uuid, _)| *uuid == revision.uuid.to_string());
        let (uuid, bytes) = known.expect("a revision of the old archive");
        match world::read_revision(&archive, number) {
            Ok(found) => assert!(found == *bytes, "{uuid} has wrong bytes"),
            Err(error) => assert!(said.contains("; lost for each revision"), "{uuid}: {error}"),
        }
    }
    let all = archive.revisions().len() == old.revisions.len();
    assert!(all || !outcome.output.status.success(), "told that it worked");
}

/// A manifest that is rebuilt, or a folder that becomes an archive, while a call fails: the next attempt works.
#[test]
fn rebuild_and_init_survive_any_failing_call() {
    if !strace::available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let base = Site::with_backups(temp.path(), &states(964, &SIZES));
    fs::remove_file(base.folder.join("manifest.json")).expect("lose the manifest");
    let calls: Vec<_> = BROKEN.into_iter().chain(NO_SPACE).collect();
    let args = &["scrub", "--rebuild"];
    let trial = Trial { place: temp.path(), base: &base, args, may_go: &[] };
    let next = noise(965, 5 * BLOCK_BYTES);
    let tried = trial.at_each(&calls, false, |site, outcome| {
        if !site.folder.join("manifest.json").exists() {
            assert!(!outcome.output.status.success(), "told that it worked");
            works(&mut site.backy(&["scrub", "--rebuild"]));
        }
        site.check_here();
        site.backup(&next);
        site.check_at_rest_here();
    });
    assert!(tried > 8, "only {tried} calls have failed");
    let mut random = Random(966);
    for (call, error) in calls {
        let number = 1 + random.below(5);
        let folder = temp.path().join("new");
        let init = crate::site::backy(&folder, &["init", text(&base.source)]);
        let outcome = strace::inject(&init, call, &format!("{error}:when={number}"), temp.path());
        judge(&outcome, temp.path());
        if !outcome.output.status.success() {
            works(&mut crate::site::backy(&folder, &["init", text(&base.source)]));
        }
        let mut site = Site { folder, source: base.source.clone(), expected: vec![] };
        site.backup(&next);
        site.check_at_rest_here();
        fs::remove_dir_all(&site.folder).expect("remove the archive");
    }
}
